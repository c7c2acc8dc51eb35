//! The kernels' aarch64 variants, tested without such a machine: built across and run by
//! `qemu-user` as three processors, so that detection and every level of NEON are tested.

use crate::shell::{self, cargo, program, target_dir};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// These take the place of `target-cpu=native` in `.cargo/config.toml`, which would name the
/// processor of the machine that builds: without them a build is for any aarch64. Static, so
/// that qemu needs no aarch64 libraries.
const RUSTFLAGS: &str = "-C target-feature=+crt-static";

const EMULATOR: &str = "qemu-aarch64";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// What the target's static C library is installed as.
const C_LIBRARY: &str = "/usr/aarch64-linux-gnu/lib/libc.a";

/// A processor of qemu's, and the instruction sets that have to be found on it.
struct Processor {
    name: &'static str,
    isas: &'static str,
}

const PROCESSORS: &[Processor] = &[
    // A Raspberry Pi 4: no dot product.
    Processor {
        name: "cortex-a72",
        isas: "scalar,neon",
    },
    // The RK3588's large cores and a Raspberry Pi 5: no matrix product.
    Processor {
        name: "cortex-a76",
        isas: "scalar,neon,neon-dotprod",
    },
    Processor {
        name: "max",
        isas: "scalar,neon,neon-dotprod,neon-i8mm",
    },
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose names contain this.
    #[arg(value_name = "TEST")]
    filter: Option<String>,
    /// Where the tools cannot be installed, says so and does nothing: machines without a
    /// network, and a Rust that rustup does not manage.
    #[arg(long)]
    if_possible: bool,
}

impl Arguments {
    /// What `make test` does.
    pub(crate) fn if_possible() -> Self {
        Self {
            filter: None,
            if_possible: true,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: qemu runs a program for another processor on Linux only");
        return Ok(());
    }
    if let Err(error) = install() {
        if arguments.if_possible {
            eprintln!("SKIPPED: the kernels are not tested for {TARGET}: {error:#}");
            return Ok(());
        }
        return Err(error);
    }
    let mut clippy = across("clippy");
    clippy.args(["-p", "ggml-plugin", "--all-targets", "--", "-D", "warnings"]);
    shell::run(&mut clippy)?;
    for processor in PROCESSORS {
        let mut test = across("test");
        let runner = format!("{EMULATOR} -cpu {}", processor.name);
        test.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner)
            .env("KERNELS_EXPECTED_ISAS", processor.isas);
        if let Some(filter) = &arguments.filter {
            test.arg(filter);
        }
        eprintln!("== {}: {}", processor.name, processor.isas);
        shell::run(&mut test).with_context(|| format!("on {}", processor.name))?;
    }
    Ok(())
}

/// Cargo, about the kernels and for aarch64. Its folder is apart: the flags differ, and
/// build scripts would be built anew each time.
fn across(verb: &str) -> Command {
    let mut command = cargo(&[verb, "--release", "--locked", "-p", "kernels"]);
    command
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_dir().join("arm"))
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    command
}

/// Puts in place what is missing of the emulator, the linker and the standard library.
fn install() -> Result<()> {
    let mut packages = Vec::new();
    if !shell::works(&mut program(EMULATOR, &["--version"])) {
        packages.push("qemu-user");
    }
    if !shell::works(&mut program(LINKER, &["--version"])) {
        packages.push("gcc-aarch64-linux-gnu");
    }
    if !Path::new(C_LIBRARY).exists() {
        packages.push("libc6-dev-arm64-cross");
    }
    if !packages.is_empty() {
        let packages = packages.join(" ");
        eprintln!("installing the Debian packages {packages}");
        let as_root = if is_root()? { "" } else { "sudo " };
        let script = format!(
            "{as_root}apt-get update -q && \
             {as_root}apt-get install -q -y --no-install-recommends {packages}"
        );
        shell::run(&mut program("sh", &["-c", &script])).with_context(|| {
            format!("aarch64 tests need the counterparts of these Debian packages: {packages}")
        })?;
    }
    let library = shell::output(&mut program(
        "rustc",
        &["--print", "target-libdir", "--target", TARGET],
    ))?;
    if Path::new(library.trim()).exists() {
        return Ok(());
    }
    eprintln!("installing the Rust standard library for {TARGET}");
    shell::run(&mut program("rustup", &["target", "add", TARGET]))
        .with_context(|| format!("aarch64 tests need Rust's standard library for {TARGET}"))
}

fn is_root() -> Result<bool> {
    let user = shell::output(&mut program("id", &["-u"]))?;
    if user.trim() == "0" {
        return Ok(true);
    }
    if !shell::works(&mut program("sudo", &["--version"])) {
        bail!("installing packages needs root, and there is no sudo");
    }
    Ok(false)
}
