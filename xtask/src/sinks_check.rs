//! What is left of a model that goes on past its context: `cargo xtask sinks-check`.
//!
//! `sextant kv stream` reads a text twenty times as long as the context, with the first tokens
//! kept and without. Writes `docs/benchmarks/long-answers.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::shell::{program, root, sextant};
use crate::wiki;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const CONTEXT: u32 = 1024;
const TOKENS: u32 = 20_000;
const SINKS: [u32; 4] = [0, 1, 4, 16];
/// What the goal is about.
const SINKS_USUAL: u32 = 4;
/// The goal: the perplexity by that in context, at most.
const RATIO_MAX: f64 = 1.3;

/// A model, and the flags with which its positions can be moved.
struct Case {
    model: &'static TestModel,
    flags: &'static [&'static str],
}

/// Gemma's windows have as many cells as the other layers in so short a context, with and without
/// the flag; other contexts need it.
const CASES: [Case; 3] = [
    Case {
        model: &SMOLLM2,
        flags: &[],
    },
    Case {
        model: &SMOLLM2,
        flags: &["--kv-type-k=q8_0", "--kv-type-v=q8_0"],
    },
    Case {
        model: &GEMMA3,
        flags: &["--swa-full=true"],
    },
];

#[derive(Deserialize)]
struct Report {
    tokens: u32,
    positions: u64,
    in_context: f64,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    sinks: u32,
    perplexity: f64,
    shifts: u32,
    parts: Vec<f64>,
}

pub(crate) fn run() -> Result<()> {
    let text = wiki::long()?;
    let mut page = format!(
        "# Past the context\n\nWritten by `cargo xtask sinks-check`, with `sextant kv stream --window \
         {CONTEXT} --tokens {TOKENS}` over long articles of the English\nWikipedia. The older half \
         of the context is dropped each time it is full. Ratios are of the perplexity, to that\nof the \
         same positions read in contexts where nothing was ever dropped, each with half a context to a \
         whole one before\nit. The goal is a ratio of at most {RATIO_MAX} with {SINKS_USUAL} first tokens \
         kept.\n"
    );
    let mut missed = Vec::new();
    for case in &CASES {
        of_case(case, &text, (&mut page, &mut missed))?;
    }
    page += &machine::facts()?;
    println!("{page}");
    fs::write(root().join("docs/benchmarks/long-answers.md"), &page)?;
    ensure!(
        missed.is_empty(),
        "the goal is missed: {}",
        missed.join(", ")
    );
    Ok(())
}

fn of_case(
    case: &Case,
    text: &Path,
    (page, missed): (&mut String, &mut Vec<String>),
) -> Result<()> {
    let path = models::ensure(case.model)?;
    let name = [&[case.model.file.trim_end_matches(".gguf")], case.flags].concat();
    let name = name.join(" ");
    let mut command = program(sextant(), &["kv", "stream", "--json"]);
    command.arg(&path).arg("--text").arg(text).args(case.flags);
    command.args(["--window", &CONTEXT.to_string()]);
    command.args(["--tokens", &TOKENS.to_string()]);
    for sinks in SINKS {
        command.args(["--sinks", &sinks.to_string()]);
    }
    let _ = write!(page, "\n## {name}\n\n");
    let output = command.output().context("cannot run sextant")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let refusal = told.lines().last().unwrap_or_default().trim();
        ensure!(refusal.contains("swa_full"), "{name}: {refusal}");
        let _ = writeln!(page, "Refused: {refusal}");
        return Ok(());
    }
    let report: Report = serde_json::from_slice(&output.stdout)?;
    let _ = write!(
        page,
        "{} of {} tokens are judged. In context the perplexity is {:.2}.\n\n| first tokens kept | \
         perplexity | ratio | times dropped | ratio by eighths of the text |\n|---:|---:|---:|---:|---|\n",
        report.positions, report.tokens, report.in_context
    );
    for row in &report.rows {
        let ratio = row.perplexity / report.in_context;
        let parts = row.parts.iter().map(|part| format!("{part:.2}"));
        let parts = parts.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            page,
            "| {} | {:.2} | {ratio:.3} | {} | {parts} |",
            row.sinks, row.perplexity, row.shifts
        );
        if row.sinks == SINKS_USUAL && ratio > RATIO_MAX {
            missed.push(format!("{name} is at {ratio:.3}"));
        }
    }
    Ok(())
}
