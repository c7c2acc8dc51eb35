//! Whether this program and this processor go together.
//!
//! llama.cpp picks its kernels when it is compiled, by the processor that cargo is told to
//! build for (`target-cpu=native` in `.cargo/config.toml`: that of the machine it is built
//! on). Carried to another machine, such a program may lack instructions there, or leave
//! some unused.

use hardware::Processor;

use crate::{Code, Finding};

/// Instructions by the compiler's name and the kernel's.
macro_rules! features {
    ($($compiler:literal = $kernel:literal),* $(,)?) => {
        /// What this program was compiled for, by the names of `/proc/cpuinfo`.
        #[must_use]
        pub fn compiled_features() -> Vec<&'static str> {
            let all = [$(($kernel, cfg!(target_feature = $compiler))),*];
            all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
        }
    };
}

#[cfg(not(target_arch = "aarch64"))]
features! {
    "avx" = "avx",
    "avx2" = "avx2",
    "fma" = "fma",
    "f16c" = "f16c",
    "avxvnni" = "avx_vnni",
    "avx512f" = "avx512f",
    "avx512bw" = "avx512bw",
    "avx512dq" = "avx512dq",
    "avx512vl" = "avx512vl",
    "avx512vnni" = "avx512_vnni",
    "avx512bf16" = "avx512_bf16",
}

#[cfg(target_arch = "aarch64")]
features! {
    "dotprod" = "asimddp",
    "fp16" = "asimdhp",
    "i8mm" = "i8mm",
    "bf16" = "bf16",
    "sve" = "sve",
    "sve2" = "sve2",
}

/// Those for which llama.cpp has kernels of its own.
const FASTER: &[&str] = &[
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "asimddp",
    "i8mm",
];

/// Compares what the program was compiled for with what the processor has. A processor of
/// which no instructions are known is not judged.
#[must_use]
pub fn of_program(compiled: &[&str], processor: &Processor) -> Vec<Finding> {
    let has = &processor.features;
    if has.is_empty() {
        return Vec::new();
    }
    let missing: Vec<&str> = compiled
        .iter()
        .copied()
        .filter(|name| !has.contains(name))
        .collect();
    if !missing.is_empty() {
        return vec![Finding::new(
            Code::CpuFeaturesMissing,
            format!(
                "this program was built for a processor with {}, which {} does not have, so it \
                 may end by SIGILL",
                missing.join(", "),
                processor.name()
            ),
            "build it on this machine: `make build`",
        )];
    }
    let unused = FASTER.iter().copied();
    let unused: Vec<&str> = unused
        .filter(|name| has.contains(name) && !compiled.contains(name))
        .collect();
    if unused.is_empty() {
        return Vec::new();
    }
    vec![Finding::new(
        Code::CpuFeaturesUnused,
        format!(
            "{} has {}, for which this program was not built, so llama.cpp computes by slower \
             means",
            processor.name(),
            unused.join(", ")
        ),
        "build it on this machine: `make build`",
    )]
}
