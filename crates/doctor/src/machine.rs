//! The machine as it is: `hardware` knows what stands in the way, and it is classed here.

use hardware::Machine;
use hardware::warning::{self, Context, Warning};

use crate::{Class, Code, Finding, Severity};

/// What `hardware` warns of, and NPUs without a driver.
#[must_use]
pub fn of_machine(machine: &Machine, context: &Context) -> Vec<Finding> {
    let warnings = warning::warnings(machine, context);
    let mut findings: Vec<Finding> = warnings.iter().map(of_warning).collect();
    let chip = hardware::npu::rockchip_chip(&machine.surroundings);
    if let Some(chip) = chip.filter(|chip| chip.has_rkllm && machine.npus.is_empty()) {
        findings.push(Finding::new(
            Code::NpuDriverMissing,
            format!(
                "this machine has an {} with an NPU, and no driver for it is loaded",
                chip.name.to_uppercase()
            ),
            "boot the vendor's kernel (5.10 or 6.1) if RKLLM is wanted; llama.cpp does without",
        ));
    }
    findings
}

fn of_warning(warning: &Warning) -> Finding {
    Finding {
        code: warning.code(),
        severity: match warning.severity() {
            warning::Severity::Note => Severity::Note,
            warning::Severity::Warning => Severity::Warning,
        },
        class: match warning {
            Warning::LittleCoresUsed { .. } | Warning::SlowStorage { .. } => Class::Configuration,
            _ => Class::Runtime,
        },
        what: warning.message(),
        fix: warning.fix(),
    }
}
