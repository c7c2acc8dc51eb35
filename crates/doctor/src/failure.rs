//! What a failed load says of itself: the last words of a worker or of Rockchip's runtime.
//!
//! These programs give no codes, only lines; the ones that are known are read here.

use hardware::npu::NEWER_DRIVER;
use models::rkllm::RkllmFacts;

use crate::{Code, Finding};

/// A part of a line, and what it means.
struct Line {
    part: &'static str,
    code: Code,
    fix: &'static str,
}

const GGUF_INSTEAD: &str =
    "get the file again for this runtime's version, or the GGUF of this model";

const LINES: &[Line] = &[
    Line {
        part: "SIGILL",
        code: Code::IllegalInstruction,
        fix: "build it on this machine: `make build`",
    },
    Line {
        part: "SIGKILL",
        code: Code::KilledForMemory,
        fix: "`sudo dmesg | grep -i oom` tells; set a smaller `context`, or take a smaller model",
    },
    Line {
        part: "unknown model architecture",
        code: Code::ArchitectureUnknown,
        fix: "update this program",
    },
    Line {
        part: "unknown pre-tokenizer type",
        code: Code::TokenizerUnknown,
        fix: "update this program, or get another conversion of this model",
    },
    Line {
        part: "rknpu driver version is too low",
        code: Code::NpuDriverOld,
        fix: NEWER_DRIVER,
    },
    Line {
        part: "matmul(w8a8) run failed",
        code: Code::NpuDriverOld,
        fix: NEWER_DRIVER,
    },
    Line {
        part: "number of enabled CPUs must be greater",
        code: Code::NpuCores,
        fix: "enable as many CPUs as the file uses cores of the NPU",
    },
    Line {
        part: "failed to malloc npu memory",
        code: Code::NpuMemory,
        fix: "end what else uses the NPU, or take a smaller file",
    },
    Line {
        part: "failed to allocate handle",
        code: Code::NpuMemory,
        fix: "end what else uses the NPU, or take a smaller file",
    },
    Line {
        part: "Platform error: must be either",
        code: Code::NpuUnsupported,
        fix: "run the GGUF of this model",
    },
    Line {
        part: "invalid rkllm model",
        code: Code::Damaged,
        fix: GGUF_INSTEAD,
    },
    Line {
        part: "invalid rknn llm model magic",
        code: Code::Damaged,
        fix: GGUF_INSTEAD,
    },
    Line {
        part: "invalid magic characters",
        code: Code::FormatUnknown,
        fix: GGUF_INSTEAD,
    },
];

/// What the message of a failed load, of one or more lines, is known to mean.
#[must_use]
pub fn of_failure(message: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for line in message.lines() {
        let known = LINES.iter().filter(|known| line.contains(known.part));
        findings.extend(known.map(|known| {
            Finding::new(
                known.code,
                format!("{}: \"{}\"", known.code.row().what, line.trim()),
                known.fix,
            )
        }));
        findings.extend(context_of_rkllm(line));
    }
    findings
}

/// `max_context[16384] must be less than the model's max_context_limit[4096]`.
fn context_of_rkllm(line: &str) -> Option<Finding> {
    let (_, behind) = line.split_once("max_context[")?;
    let asked = behind.split_once(']')?.0;
    let max = RkllmFacts::of_text(line).context_max?;
    Some(Finding::new(
        Code::RkllmContext,
        format!("`context` is {asked} tokens, and the file was converted for {max}"),
        format!("set `context = {max}` or less; only a new conversion raises the limit"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_lines_are_read() {
        let cases = [
            (
                "while loading, the worker was ended by SIGILL (an instruction this CPU does not have)",
                "illegal_instruction",
            ),
            (
                "it was ended by SIGKILL (possibly ...)",
                "killed_for_memory",
            ),
            (
                "error loading model architecture: unknown model architecture: 'x'",
                "architecture_unknown",
            ),
            (
                "W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7",
                "npu_driver_old",
            ),
            (
                "E rkllm: max_context[16384] must be less than the model's max_context_limit[4096]",
                "rkllm_context",
            ),
            (
                "E rkllm: The number of enabled CPUs must be greater than or equal to the number of NPU cores.",
                "npu_cores",
            ),
            (
                "failed to malloc npu memory, size: 5, flags: 0x2",
                "npu_memory",
            ),
            (
                "Platform error: must be either RK3588, RK3576, RV1126B, or RK3562. Your platform is lite.",
                "npu_unsupported",
            ),
            ("invalid rkllm model!", "damaged"),
        ];
        for (line, code) in cases {
            let findings = of_failure(&format!("loading\n{line}\n"));
            let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
            assert_eq!(codes, [code], "{line}");
        }
        assert_eq!(of_failure("all is well"), []);
        let context = &of_failure(cases[4].0)[0];
        assert!(context.what.contains("16384") && context.what.contains("4096"));
    }
}
