//! Stock llama.cpp with its back ends in libraries: the programs that load our plugin when
//! `GGML_BACKEND_PATH` names it, and know nothing of it otherwise.

use crate::cache;
use crate::peer::{self, BUILD};
use crate::shell::{self, cargo, program, target_dir};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// ggml has no native build of back ends in libraries.
const IN_LIBRARIES: &[&str] = &[
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    // The folder is moved after the build.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
];

/// Nothing that is not measured.
const PROGRAMS_ALONE: &[&str] = &[
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_BUILD_MTMD=OFF",
];

const PROGRAMS: [&str; 3] = ["llama-bench", "llama-perplexity", "llama-quantize"];

/// Whose instructions the CPU back end of a build uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// All that this machine has and ggml knows.
    Machine,
    /// AVX2 and what came with it, on machines that have more.
    Avx2,
}

/// A folder with the programs and their libraries.
pub(crate) struct Stock {
    folder: PathBuf,
}

impl Stock {
    /// Built on the first call.
    pub(crate) fn ensure(instructions: Instructions) -> Result<Self> {
        let name = match instructions {
            Instructions::Machine => "stock",
            Instructions::Avx2 => "stock-avx2",
        };
        let folder = cache::folder()?.join("peer").join(BUILD).join(name);
        if !PROGRAMS.iter().all(|name| folder.join(name).is_file()) {
            eprintln!(
                "building llama.cpp {BUILD} with back ends in libraries, once; this takes minutes"
            );
            build(&folder, instructions)
                .with_context(|| format!("cannot build llama.cpp in {}", folder.display()))?;
        }
        Ok(Self { folder })
    }

    /// Where one of [`PROGRAMS`] is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds the plugin; returns the library that `GGML_BACKEND_PATH` is to name.
pub(crate) fn plugin() -> Result<PathBuf> {
    shell::run(&mut cargo(&["build", "--release", "-p", "ggml-plugin"]))?;
    let library = format!(
        "{}ggml_plugin{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    Ok(target_dir().join("release").join(library))
}

fn build(folder: &Path, instructions: Instructions) -> Result<()> {
    build_in_libraries(folder, |llama_cpp, configure, build| {
        configure.arg("-S").arg(llama_cpp);
        configure.args(PROGRAMS_ALONE).args(cpu_flags(instructions));
        // Nothing links a back end in a library: it is a target of its own.
        build.arg("--target").args(PROGRAMS).arg("ggml-cpu");
    })
}

/// Builds something of llama.cpp with its back ends in libraries and leaves it in the folder.
/// `complete` is given where llama.cpp is, and adds to the commands that configure and build.
pub(crate) fn build_in_libraries(
    folder: &Path,
    complete: impl FnOnce(&Path, &mut Command, &mut Command),
) -> Result<()> {
    let work = folder.with_extension("build");
    let source = peer::unpack(&work)?;
    let objects = work.join("objects");
    let mut configure = program("cmake", &["-B"]);
    configure.arg(&objects).args(IN_LIBRARIES);
    peer::with_generator(&mut configure);
    let mut build = program("cmake", &["--build"]);
    build
        .arg(&objects)
        .args(["--config", "Release", "--parallel"])
        .arg(std::thread::available_parallelism()?.to_string());
    complete(&source, &mut configure, &mut build);
    shell::run(&mut configure)?;
    shell::run(&mut build)?;
    // Programs find their libraries, and ggml the CPU back end, in their own folder.
    fs::rename(objects.join("bin"), folder)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// The instructions of this machine, as ggml's build options name them.
fn cpu_flags(instructions: Instructions) -> Vec<&'static str> {
    let mut flags = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! options {
            ($($feature:tt => $option:literal),* $(,)?) => {
                [$((is_x86_feature_detected!($feature), concat!("-DGGML_", $option, "=ON"))),*]
            };
        }
        let avx2 = options!("avx" => "AVX", "avx2" => "AVX2", "fma" => "FMA", "f16c" => "F16C",
            "bmi2" => "BMI2", "sse4.2" => "SSE42");
        let avx512 = options!("avx512f" => "AVX512", "avx512vbmi" => "AVX512_VBMI",
            "avx512vnni" => "AVX512_VNNI", "avx512bf16" => "AVX512_BF16");
        let here = |options: &[(bool, &'static str)]| -> Vec<&'static str> {
            let here = options.iter().filter(|(is_here, _)| *is_here);
            here.map(|(_, option)| *option).collect()
        };
        flags.extend(here(&avx2));
        if instructions == Instructions::Machine {
            flags.extend(here(&avx512));
        }
    }
    // Elsewhere ggml's own choice: its ARM builds have no such options.
    let _ = instructions;
    flags
}
