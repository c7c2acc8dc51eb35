//! llama.cpp's own test of back ends, `test-backend-ops`, against ours: ggml with back ends
//! in libraries loads `ggml-plugin` as any llama.cpp would, and compares each operation
//! that the plugin takes with the reference of ggml's CPU back end.

use crate::cache;
use crate::peer::BUILD;
use crate::shell::program;
use crate::stock;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The device's name in the plugin.
const DEVICE: &str = "Sextant";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these operations, by ggml's names and separated by commas.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Only cases whose parameters match this regular expression.
    #[arg(long, value_name = "REGEX")]
    cases: Option<String>,
    /// The instruction set of the kernels: scalar, avx2 or avx512-vnni; on Arm neon,
    /// neon-dotprod or neon-i8mm.
    #[arg(long, value_name = "LEVEL")]
    isa: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let test = ensure()?;
    let mut command = program(&test, &["test", "-b", DEVICE]);
    command.env("GGML_BACKEND_PATH", stock::plugin()?);
    // The tests' tensors have no names of weights.
    command.env("GGML_SEXTANT_PACK", "all");
    if let Some(op) = &arguments.op {
        command.args(["-o", op]);
    }
    if let Some(cases) = &arguments.cases {
        command.args(["-p", cases]);
    }
    if let Some(isa) = &arguments.isa {
        command.env("GGML_SEXTANT_ISA", isa);
    }
    report(&read(&mut command)?)
}

/// The test program, built on the first call.
fn ensure() -> Result<PathBuf> {
    let folder = cache::folder()?
        .join("peer")
        .join(BUILD)
        .join("backend-ops");
    let test = folder.join("test-backend-ops");
    if !test.is_file() {
        eprintln!("building test-backend-ops {BUILD}, once; this takes minutes");
        build(&folder)
            .with_context(|| format!("cannot build test-backend-ops in {}", folder.display()))?;
    }
    Ok(test)
}

fn build(folder: &Path) -> Result<()> {
    stock::build_in_libraries(folder, |llama_cpp, configure, build| {
        configure.args(["-S", "xtask/src/backend_ops"]);
        configure.arg(format!("-DLLAMA_CPP={}", llama_cpp.display()));
        build.args(["--target", "test-backend-ops", "ggml-cpu"]);
    })
}

/// What became of the cases.
#[derive(Default)]
struct Outcome {
    by_op: BTreeMap<String, Counts>,
    /// Whether the program itself ended as it does when all is well.
    ended_well: bool,
    found_device: bool,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: usize,
    declined: usize,
    failed: usize,
}

/// Runs the test. Failures are shown as they come.
fn read(command: &mut Command) -> Result<Outcome> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start test-backend-ops")?;
    let mut outcome = Outcome::default();
    let lines = child.stdout.take().context("a pipe was asked for")?;
    for line in BufReader::new(lines).lines() {
        let line = plain(&line?);
        outcome.found_device |= line.starts_with(&format!("  Backend {DEVICE}"));
        let Some((op, verdict)) = case(&line) else {
            continue;
        };
        let counts = outcome.by_op.entry(op.to_owned()).or_default();
        match verdict {
            Verdict::Passed => counts.passed += 1,
            Verdict::Declined => counts.declined += 1,
            Verdict::Failed => {
                counts.failed += 1;
                eprintln!("{line}");
            }
        }
    }
    outcome.ended_well = child.wait()?.success();
    Ok(outcome)
}

/// Prints the table, one row for each operation that the back end takes.
fn report(outcome: &Outcome) -> Result<()> {
    if !outcome.found_device {
        bail!("test-backend-ops did not find the device {DEVICE}");
    }
    println!(
        "{:<24} {:>7} {:>9} {:>7}",
        "operation", "passed", "declined", "failed"
    );
    let mut total = Counts::default();
    let row = |op: &str, counts: &Counts| {
        let Counts {
            passed,
            declined,
            failed,
        } = counts;
        println!("{op:<24} {passed:>7} {declined:>9} {failed:>7}");
    };
    for (op, counts) in &outcome.by_op {
        total.passed += counts.passed;
        total.declined += counts.declined;
        total.failed += counts.failed;
        if counts.passed + counts.failed > 0 {
            row(op, counts);
        }
    }
    row("all", &total);
    if total.failed > 0 {
        bail!("{} cases failed", total.failed);
    }
    if !outcome.ended_well {
        bail!("test-backend-ops did not end well");
    }
    if total.passed == 0 {
        bail!("no case was run");
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Declined,
    Failed,
}

/// The operation and the verdict of a line about a case. What went wrong stands before the
/// operation, on the same line.
fn case(line: &str) -> Option<(&str, Verdict)> {
    let (case, verdict) = line.trim_end().rsplit_once("): ")?;
    let verdict = match verdict {
        "OK" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        _ if verdict.starts_with("not supported") => Verdict::Declined,
        _ => return None,
    };
    let (_, case) = case.rsplit_once("  ")?;
    let (op, _) = case.split_once('(')?;
    Some((op, verdict))
}

/// The line without colours.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_test_are_read() {
        let read = |line: &str| case(&plain(line)).map(|(op, verdict)| (op.to_owned(), verdict));
        let is = |op: &str, verdict| Some((op.to_owned(), verdict));
        assert_eq!(
            read("  ADD(type=f32,ne=[1,1,8,1]): \x1b[1;32mOK\x1b[0m"),
            is("ADD", Verdict::Passed)
        );
        assert_eq!(
            read("  CPY(type_src=f16,ne=[1,2]): not supported [Sextant] "),
            is("CPY", Verdict::Declined)
        );
        assert_eq!(
            read(
                "[ROPE] NaN at index 0 (Sextant=nan CPU=0.1)   ROPE(type=f32): \x1b[1;31mFAIL\x1b[0m"
            ),
            is("ROPE", Verdict::Failed)
        );
        assert_eq!(read("  Backend Sextant: \x1b[1;32mOK\x1b[0m"), None);
        assert_eq!(read("  652/652 tests passed"), None);
    }
}
