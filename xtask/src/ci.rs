//! The whole of CI: the same steps on a laptop and on a server.

use crate::shell::{self, cargo, root};
use crate::{arm, codegen, fuzz, sdk, tidy, tools, ui};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds each fuzz target runs.
    #[arg(long, default_value_t = 15)]
    fuzz_seconds: u32,
}

struct Step<'a> {
    name: &'a str,
    /// What to type to run this step alone.
    repeat: &'a str,
    action: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Step<'a> {
    fn new(name: &'a str, repeat: &'a str, action: impl Fn() -> Result<()> + 'a) -> Self {
        Self {
            name,
            repeat,
            action: Box::new(action),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let seconds = arguments.fuzz_seconds;
    let steps = [
        Step::new("format", "cargo xtask fmt", fmt),
        Step::new("tidy", "cargo xtask tidy", tidy::run),
        Step::new("generated files", "cargo xtask codegen --check", || {
            codegen::run(&codegen::Arguments { check: true })
        }),
        Step::new("dependencies", "cargo xtask deny", tools::deny),
        Step::new("web page", "sh scripts/ui.sh", ui::build),
        Step::new("clippy", "cargo xtask clippy", clippy),
        Step::new("build", "make build", build),
        Step::new("tests", "cargo xtask test", test),
        Step::new("kernels on Arm", "cargo xtask arm", || {
            arm::run(&arm::Arguments::if_possible())
        }),
        Step::new("SDK suites", "cargo xtask sdk", || {
            sdk::run(&sdk::Arguments::default())
        }),
        Step::new("web page in use", "cargo xtask ui", || {
            ui::run(&ui::Arguments::if_possible())
        }),
        Step::new("fuzzing", "cargo xtask fuzz", move || {
            fuzz::run(&fuzz::Arguments::with_seconds(seconds))
        }),
    ];
    let mut done = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        eprintln!("\n== {}/{} {}", index + 1, steps.len(), step.name);
        let start = Instant::now();
        let outcome = (step.action)();
        let took = start.elapsed();
        done.push((step.name, took, outcome.is_ok()));
        if outcome.is_err() {
            summary(&done);
            return outcome.with_context(|| {
                format!(
                    "step '{}' failed; repeat it with: {}",
                    step.name, step.repeat
                )
            });
        }
        eprintln!("== {} took {}", step.name, seconds_of(took));
    }
    summary(&done);
    Ok(())
}

pub(crate) fn fmt() -> Result<()> {
    shell::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    // The fuzz targets are a package of their own.
    let mut fuzz = cargo(&["fmt", "--check", "--manifest-path"]);
    shell::run(fuzz.arg(root().join("fuzz/Cargo.toml")))
}

/// Release, so that lints and tests share one compiled llama.cpp.
pub(crate) fn clippy() -> Result<()> {
    shell::run(&mut cargo(&[
        "clippy",
        "--release",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn build() -> Result<()> {
    shell::run(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "--workspace",
    ]))
}

pub(crate) fn test() -> Result<()> {
    let mut command = if let Some(mut nextest) = tools::nextest() {
        nextest.arg("run");
        nextest
    } else {
        eprintln!("using cargo test instead");
        cargo(&["test"])
    };
    shell::run(command.args(["--release", "--locked", "--workspace"]))
}

fn summary(done: &[(&str, Duration, bool)]) {
    eprintln!("\nstep               seconds  result");
    for (name, took, passed) in done {
        let result = if *passed { "passed" } else { "FAILED" };
        eprintln!("{name:<18} {:>7.1}  {result}", took.as_secs_f64());
    }
    let total: Duration = done.iter().map(|(_, took, _)| *took).sum();
    eprintln!("{:<18} {:>7.1}", "total", total.as_secs_f64());
}

fn seconds_of(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
