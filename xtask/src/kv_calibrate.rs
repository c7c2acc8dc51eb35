//! Whether calibrated plans for the KV cache are better: `cargo xtask kv-calibrate`.
//!
//! `sextant kv calibrate --controls` makes plans for two budgets of each model, and judges them on
//! text that they were not made by, beside the pairs of types of as many bytes, the rule of thumb
//! that the first layers matter most, and plans of a table that is shuffled or turned round.
//! Writes `docs/benchmarks/kv-calibrate.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::shell::{self, program, root, sextant};
use crate::wiki;
use ::models::Gguf;
use anyhow::{Context, Result};
use planner::Model;
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Pairs and rules whose bytes are the budgets: that of the rule of thumb as it is passed on, and one
/// that is little more than 4 bits.
const BUDGETS: [&str; 2] = ["first-third", "q5_0/q4_0"];
/// The goal: the rule of thumb adds at least this many times as much.
const TIMES_MIN: f64 = 3.0;
const RESAMPLES: usize = 10_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The text to measure and to judge by, in place of excerpts of Wikipedia; nothing is written
    /// then.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Most tokens of the text.
    #[arg(long, default_value_t = 16_384)]
    tokens: u32,
    #[arg(long, default_value_t = 512)]
    piece_tokens: u32,
    /// Only the model whose file's name has this in it; nothing is written then.
    #[arg(long)]
    model: Option<String>,
}

/// Those parts of the report that the page tells.
#[derive(Deserialize)]
struct Report {
    measured: Text,
    held_out: Text,
    budgets: Vec<Budget>,
    measure_seconds: f64,
    verify_seconds: f64,
}

#[derive(Deserialize)]
struct Text {
    pieces: u32,
    positions: u64,
}

#[derive(Deserialize)]
struct Budget {
    bytes: u64,
    plan: String,
    is_calibrated: bool,
    uniform: Option<String>,
    gain: Option<Gain>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Gain {
    mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(Deserialize)]
struct Row {
    kind: String,
    plan: String,
    token_bytes: u64,
    predicted: Option<f64>,
    divergence: Divergence,
    piece_klds: Vec<f64>,
}

#[derive(Deserialize)]
struct Divergence {
    kld_mean: f64,
    kld_p99: f64,
    top1: f64,
    perplexity_ratio: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = match &arguments.text {
        Some(path) => path.clone(),
        None => wiki::ensure()?,
    };
    let mut page = head(arguments);
    for model in [&SMOLLM2, &GEMMA3] {
        let is_asked = |name: &String| model.file.contains(name.as_str());
        if arguments.model.as_ref().is_none_or(is_asked) {
            of_model(arguments, model, (&text, &mut page))?;
        }
    }
    page += &machine::facts()?;
    println!("{page}");
    if arguments.text.is_none() && arguments.model.is_none() {
        fs::write(root().join("docs/benchmarks/kv-calibrate.md"), &page)?;
    }
    Ok(())
}

fn head(arguments: &Arguments) -> String {
    format!(
        "# Calibrated plans of the KV cache\n\nWritten by `cargo xtask kv-calibrate`, with `sextant \
         kv calibrate --controls --tokens {} --piece-tokens {}` over\nexcerpts of articles of the \
         English Wikipedia. Some pieces measure what each layer's keys and values lose; plans are\n\
         judged on the others, all at once. KLD is the divergence from f16 in nats over the second \
         half of each piece;\nexcess is what of it is above the floor, with the 95 % interval over \
         pieces (bootstrap). Times says how many\ntimes as much a plan adds as the calibrated one. \
         First layers is the rule of thumb, with as many layers in 8 bits\nas the budget allows; \
         random and inverted are made as the calibrated plan is, of a table whose sensitivities are\n\
         shuffled or turned round. A plan is only kept where it is nearer to f16 than the best pair \
         beyond chance.\n",
        arguments.tokens, arguments.piece_tokens
    )
}

fn of_model(
    arguments: &Arguments,
    model: &TestModel,
    (text, page): (&Path, &mut String),
) -> Result<()> {
    let path = models::ensure(model)?;
    let shape = Model::read(&[Gguf::open(&path)?])?.shape;
    let mut command = program(sextant(), &["kv", "calibrate", "--json", "--controls"]);
    command.arg(&path).arg("--text").arg(text);
    command.args(["--tokens", &arguments.tokens.to_string()]);
    command.args(["--piece-tokens", &arguments.piece_tokens.to_string()]);
    for budget in BUDGETS {
        let bytes = budget.parse::<kv::TypePlan>()?.token_bytes(&shape)?;
        command.args(["--budget", &bytes.to_string()]);
    }
    let report: Report = serde_json::from_str(&shell::output(&mut command)?)?;
    let _ = write!(
        page,
        "\n## {}\n\nMeasured on {} positions in {} pieces in {:.0} s, judged on {} in {} others in \
         {:.0} s.\n",
        model.file.trim_end_matches(".gguf"),
        report.measured.positions,
        report.measured.pieces,
        report.measure_seconds,
        report.held_out.positions,
        report.held_out.pieces,
        report.verify_seconds,
    );
    for (budget, name) in report.budgets.iter().zip(BUDGETS) {
        of_budget(budget, name, page)?;
    }
    Ok(())
}

fn of_budget(budget: &Budget, name: &str, page: &mut String) -> Result<()> {
    let of_kind = |kind: &str| budget.rows.iter().find(|row| row.kind == kind);
    let floor = of_kind("floor").context("the floor was not measured")?;
    let calibrated = of_kind("calibrated").context("no calibrated plan was judged")?;
    let _ = write!(
        page,
        "\n### {} bytes a token: those of `{name}`\n\n| plan | bytes a token | predicted excess | mean \
         KLD | excess | times | 99 % | same first token | perplexity to f16's \
         |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        budget.bytes
    );
    for row in &budget.rows {
        line(page, row, (floor, calibrated));
    }
    let _ = write!(page, "\n{}\n", verdict(budget, (floor, calibrated)));
    for row in budget.rows.iter().filter(|row| row.kind == "calibrated") {
        let _ = write!(page, "\nThe calibrated plan is `{}`.\n", row.plan);
    }
    Ok(())
}

fn line(page: &mut String, row: &Row, (floor, calibrated): (&Row, &Row)) {
    let name = match row.kind.as_str() {
        "uniform" => format!("`{}`", row.plan),
        kind => kind.replace('_', " "),
    };
    let is_floor = row.kind == "floor";
    let excess = difference(row, floor);
    let bounds = bounds(excess.len(), |picks| mean(&excess, picks));
    let (excess, times) = match is_floor {
        true => ("-".to_owned(), "-".to_owned()),
        false => (
            format!("{:.5} ({:.5} to {:.5})", whole(&excess), bounds.0, bounds.1),
            match row.kind == "calibrated" {
                true => "1".to_owned(),
                false => format!("{:.2}", times(row, (floor, calibrated)).value),
            },
        ),
    };
    let of = &row.divergence;
    let predicted = row.predicted.map(|excess| format!("{excess:.5}"));
    let _ = writeln!(
        page,
        "| {name} | {} | {} | {:.5} | {excess} | {times} | {:.4} | {:.2} % | {:.4} |",
        row.token_bytes,
        predicted.as_deref().unwrap_or("-"),
        of.kld_mean,
        of.kld_p99,
        100.0 * of.top1,
        of.perplexity_ratio,
    );
}

/// What was to be reached, and whether it was.
fn verdict(budget: &Budget, (floor, calibrated): (&Row, &Row)) -> String {
    let mut text = String::new();
    let first = budget.rows.iter().find(|row| row.kind == "first_layers");
    if let Some(first) = first {
        let Times { value, low, high } = times(first, (floor, calibrated));
        let word = match value >= TIMES_MIN {
            true => "reached",
            false => "missed",
        };
        let _ = write!(
            text,
            "The rule of thumb adds {value:.2} times as much (95 %: {low:.2} to {high:.2}); the goal \
             of {TIMES_MIN:.0} is {word}."
        );
    }
    let gain = budget.gain.as_ref().zip(budget.uniform.as_deref());
    if let Some((gain, uniform)) = gain {
        let interval = match (gain.low, gain.high) {
            (Some(low), Some(high)) => format!(" (95 %: {low:.5} to {high:.5})"),
            _ => String::new(),
        };
        let _ = write!(
            text,
            " The calibrated plan is {:.5} nats{interval} nearer to f16 than the best pair, \
             `{uniform}`",
            gain.mean
        );
        text.push_str(match budget.is_calibrated {
            true => ", and is kept.",
            false => ", which is not shown to be a gain: the pair is what is proposed",
        });
    }
    if !budget.is_calibrated {
        let _ = write!(text, ", `{}`.", budget.plan);
    }
    text
}

/// How many times as much a plan adds as the calibrated one.
struct Times {
    value: f64,
    low: f64,
    high: f64,
}

fn times(row: &Row, (floor, calibrated): (&Row, &Row)) -> Times {
    let (one, other) = (difference(row, floor), difference(calibrated, floor));
    let ratio = |picks: &[usize]| mean(&one, picks) / mean(&other, picks);
    let n = one.len().min(other.len());
    let (low, high) = bounds(n, ratio);
    Times {
        value: ratio(&(0..n).collect::<Vec<_>>()),
        low,
        high,
    }
}

/// Piece by piece what is above the floor.
fn difference(row: &Row, floor: &Row) -> Vec<f64> {
    let pairs = row.piece_klds.iter().zip(&floor.piece_klds);
    pairs.map(|(one, floor)| one - floor).collect()
}

fn whole(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn mean(values: &[f64], picks: &[usize]) -> f64 {
    let picked: Vec<f64> = picks
        .iter()
        .filter_map(|at| values.get(*at).copied())
        .collect();
    whole(&picked)
}

/// Between what a figure lies in 95 % of samples of as many pieces, drawn from them with
/// replacement: the same every time.
fn bounds(n: usize, figure: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut chance = fastrand::Rng::with_seed(1);
    let samples = (0..RESAMPLES).map(|_| {
        let picks: Vec<usize> = (0..n).map(|_| chance.usize(..n)).collect();
        figure(&picks)
    });
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[(share * (RESAMPLES - 1) as f64) as usize];
    (at(0.025), at(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, piece_klds: &[f64]) -> Row {
        Row {
            kind: kind.to_owned(),
            plan: "k=q4_0,v=q4_0".to_owned(),
            token_bytes: 6480,
            predicted: None,
            divergence: Divergence {
                kld_mean: whole(piece_klds),
                kld_p99: 0.0,
                top1: 1.0,
                perplexity_ratio: 1.0,
            },
            piece_klds: piece_klds.to_vec(),
        }
    }

    #[test]
    fn times_are_those_above_the_floor() {
        let floor = row("floor", &[1.0, 1.0, 2.0, 1.0]);
        let calibrated = row("calibrated", &[1.5, 1.5, 2.5, 1.5]);
        let first = row("first_layers", &[2.5, 3.5, 4.5, 2.5]);
        let times = times(&first, (&floor, &calibrated));
        // 1.5, 2.5, 2.5 and 1.5 to four halves.
        assert!((times.value - 4.0).abs() < 1e-12, "{}", times.value);
        assert!((3.0..4.0).contains(&times.low) && (4.0..=5.0).contains(&times.high));
        let mut page = String::new();
        line(&mut page, &first, (&floor, &calibrated));
        assert!(
            page.starts_with("| first layers | 6480 | - | 3.25000 | 2.00000 ("),
            "{page}"
        );
        assert!(page.contains("| 4.00 |"), "{page}");
    }

    #[test]
    fn a_goal_that_is_missed_is_said_to_be() {
        let floor = row("floor", &[0.0, 0.0]);
        let calibrated = row("calibrated", &[1.0, 1.0]);
        let budget = Budget {
            bytes: 7200,
            plan: "q5_0/q4_0".to_owned(),
            is_calibrated: false,
            uniform: Some("q5_0/q4_0".to_owned()),
            gain: Some(Gain {
                mean: 0.1,
                low: Some(-0.1),
                high: Some(0.3),
            }),
            rows: vec![row("first_layers", &[2.0, 2.0])],
        };
        let told = verdict(&budget, (&floor, &calibrated));
        assert!(
            told.contains("2.00 times") && told.contains("is missed"),
            "{told}"
        );
        assert!(
            told.contains("not shown") && told.ends_with("`q5_0/q4_0`."),
            "{told}"
        );
    }
}
