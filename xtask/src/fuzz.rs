//! libFuzzer on stable Rust: the compiler's own coverage pass, switched on by
//! code generation flags, instead of a nightly toolchain.

use crate::shell::{self, cargo, program, root, target_dir};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const TARGETS: &[&str] = &[
    "chat_template",
    "gguf_header",
    "proto_frame",
    "wire_request",
];

/// Edge coverage counters and traced comparisons, as libFuzzer reads them. One
/// code generation unit, because counters of several would not be merged.
const RUSTFLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

const MEMORY_MB_MAX: u32 = 1024;
/// One input may take this long.
const INPUT_SECONDS_MAX: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds each target runs.
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
}

impl Arguments {
    pub(crate) fn with_seconds(seconds: u32) -> Self {
        Self {
            seconds,
            target: None,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wanted = |name: &str| arguments.target.as_ref().is_none_or(|only| only == name);
    if !TARGETS.iter().any(|name| wanted(name)) {
        bail!("no such target; there are: {}", TARGETS.join(", "));
    }
    let binaries = build()?;
    for name in TARGETS.iter().filter(|name| wanted(name)) {
        one_target(name, &binaries.join(name), arguments.seconds)
            .with_context(|| format!("fuzz target {name}"))?;
    }
    Ok(())
}

/// Builds all targets; returns the folder they are in. Naming the host as the
/// target keeps the flags away from build scripts and procedural macros.
fn build() -> Result<PathBuf> {
    let version = shell::output(&mut program("rustc", &["-vV"]))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not name its host")?;
    let folder = target_dir().join("fuzz");
    let mut command = cargo(&["build", "--release", "--bins", "--target", host]);
    command
        .arg("--manifest-path")
        .arg(root().join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTFLAGS", RUSTFLAGS.join(" "));
    shell::run(&mut command)?;
    Ok(folder.join(host).join("release"))
}

fn one_target(name: &str, binary: &Path, seconds: u32) -> Result<()> {
    let folder = target_dir().join("fuzz");
    // What is found goes here; the seeds in the repository are only read.
    let corpus = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut child = program(binary, &[])
        .arg(&corpus)
        .arg(root().join("fuzz/corpus").join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take().context("no standard error")?;
    let mut progress = Progress::default();
    let mut lines = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        progress.read(&line);
        lines.push(line);
    }
    let status = child.wait()?;
    if !status.success() {
        let end = &lines[lines.len().saturating_sub(40)..];
        bail!("ended with {status}:\n{}", end.join("\n"));
    }
    if progress.counters == 0 || progress.last_coverage == 0 {
        bail!("ran without coverage; this toolchain ignores the flags");
    }
    println!(
        "fuzz {name}: {} inputs in {seconds} s, {} of {} edges covered ({} by the seeds)",
        progress.inputs, progress.last_coverage, progress.counters, progress.seed_coverage
    );
    Ok(())
}

/// What libFuzzer says of its progress.
#[derive(Default)]
struct Progress {
    counters: u64,
    seed_coverage: u64,
    last_coverage: u64,
    inputs: u64,
}

impl Progress {
    fn read(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("modules   (") {
            self.counters = leading_number(rest);
        }
        if let Some((_, rest)) = line.split_once(" cov: ") {
            self.last_coverage = leading_number(rest);
            self.inputs = leading_number(line.trim_start_matches('#'));
            if line.contains("INITED") {
                self.seed_coverage = self.last_coverage;
            }
        }
    }
}

fn leading_number(text: &str) -> u64 {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_are_read() {
        let mut progress = Progress::default();
        for line in [
            "INFO: Loaded 1 modules   (4711 inline 8-bit counters): 4711 [0x1, 0x2),",
            "#3\tINITED cov: 25 ft: 26 corp: 2/3b exec/s: 0 rss: 30Mb",
            "#900\tNEW    cov: 99 ft: 260 corp: 20/3b lim: 4 exec/s: 0 rss: 30Mb",
        ] {
            progress.read(line);
        }
        assert_eq!(progress.counters, 4711);
        assert_eq!(progress.seed_coverage, 25);
        assert_eq!((progress.last_coverage, progress.inputs), (99, 900));
    }
}
