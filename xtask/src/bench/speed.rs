//! `sextant bench speed` against stock `llama-bench`: `cargo xtask bench speed`.
//!
//! Both compute with ggml's kernels, on the same threads and with the same settings, so what they
//! measure should be the same. Each figure is a process of its own; within a round the two take
//! turns. Writes `docs/benchmarks/bench-speed.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::peer::{self, BUILD};
use crate::shell::{self, program, root, sextant};
use ::bench::speeds::{Confidence, Factor, paired};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PROMPT: u32 = 512;
const ANSWER: u32 = 128;
/// What the two may differ by.
const DIFFERENCE_MAX: f64 = 0.05;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

/// Tokens a second.
#[derive(Clone, Copy)]
struct Speeds {
    prefill: f64,
    decode: f64,
}

struct Row {
    model: &'static str,
    ours: Vec<Speeds>,
    peer: Vec<Speeds>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let bench = peer::ensure()?.bench;
    let load = machine::load_average();
    let mut rows = Vec::new();
    for model in [&SMOLLM2, &GEMMA3] {
        rows.push(row(model, &bench, arguments)?);
    }
    let page = page(&rows, arguments, &load)?;
    fs::write(root().join("docs/benchmarks/bench-speed.md"), &page)?;
    println!("{page}");
    for row in &rows {
        for (name, of) in KINDS {
            let factor = row.factor(of)?;
            ensure!(
                (factor.middle - 1.0).abs() <= DIFFERENCE_MAX,
                "{} {name}: {:.3} of llama-bench's",
                row.model,
                factor.middle
            );
        }
    }
    Ok(())
}

/// One of the two.
type Of = fn(&Speeds) -> f64;

const KINDS: [(&str, Of); 2] = [
    ("prefill", |speeds| speeds.prefill),
    ("decode", |speeds| speeds.decode),
];

fn row(model: &'static TestModel, bench: &Path, arguments: &Arguments) -> Result<Row> {
    let path = models::ensure(model)?;
    let mut row = Row {
        model: model.file,
        ours: Vec::new(),
        peer: Vec::new(),
    };
    for round in 0..arguments.rounds {
        if round % 2 == 0 {
            row.ours.push(ours(&path, arguments.threads)?);
            row.peer.push(peers(bench, &path, arguments.threads)?);
        } else {
            row.peer.push(peers(bench, &path, arguments.threads)?);
            row.ours.push(ours(&path, arguments.threads)?);
        }
        let (ours, peer) = (row.ours[round], row.peer[round]);
        eprintln!(
            "{} round {}: prefill {:.0} and {:.0}, decode {:.1} and {:.1}",
            model.file,
            round + 1,
            ours.prefill,
            peer.prefill,
            ours.decode,
            peer.decode
        );
    }
    Ok(row)
}

fn ours(model: &Path, threads: u32) -> Result<Speeds> {
    let mut command = program(sextant(), &["bench", "speed"]);
    command.arg(model).args(["--json", "--rounds", "1"]);
    let threads = threads.to_string();
    for (flag, value) in [
        ("--prompt", PROMPT.to_string()),
        // The first is the prompt's.
        ("--answer", (ANSWER + 1).to_string()),
        ("--threads", threads.clone()),
        ("--threads-batch", threads),
        ("--kernels", "ggml".to_owned()),
        ("--flash-attention", "on".to_owned()),
        ("--kv-type-k", "f16".to_owned()),
        ("--kv-type-v", "f16".to_owned()),
        ("--batch", "512".to_owned()),
        ("--ubatch", "512".to_owned()),
        ("--speculation", "off".to_owned()),
        ("--tuned", "false".to_owned()),
    ] {
        command.arg(format!("{flag}={value}"));
    }
    let results: Value = serde_json::from_str(&shell::output(&mut command)?)?;
    let speed = |name: &str| {
        let value = results["results"][0][name]["middle"].as_f64();
        value.with_context(|| format!("no {name}: {}", results["remarks"]))
    };
    Ok(Speeds {
        prefill: speed("prefill_tokens_s")?,
        decode: speed("decode_tokens_s")?,
    })
}

/// Both halves by themselves, since llama-bench begins an answer with an empty context unless it
/// is told how deep it is.
fn peers(bench: &Path, model: &Path, threads: u32) -> Result<Speeds> {
    let speed = |prompt: u32, answer: u32, depth: u32| -> Result<f64> {
        let mut command = program(bench, &["-o", "json", "-r", "1", "-fa", "1", "-m"]);
        command.arg(model);
        for (flag, value) in [
            ("-p", prompt),
            ("-n", answer),
            ("-d", depth),
            ("-t", threads),
            ("-b", 512),
            ("-ub", 512),
        ] {
            command.args([flag, &value.to_string()]);
        }
        let runs: Value = serde_json::from_str(&shell::output(&mut command)?)?;
        runs[0]["avg_ts"].as_f64().context("no speed")
    };
    Ok(Speeds {
        prefill: speed(PROMPT, 0, 0)?,
        decode: speed(0, ANSWER, PROMPT)?,
    })
}

impl Row {
    /// Ours by llama-bench's.
    fn factor(&self, of: Of) -> Result<Factor> {
        let pairs = self.ours.iter().zip(&self.peer);
        let logs: Vec<f64> = pairs
            .map(|(ours, peer)| (of(ours) / of(peer)).ln())
            .collect();
        paired(&logs, Confidence::Percent95).context("three rounds are the least")
    }

    fn line(&self, name: &str, of: Of) -> Result<String> {
        let middle = |speeds: &[Speeds]| tuner::median(&speeds.iter().map(of).collect::<Vec<_>>());
        let factor = self.factor(of)?;
        Ok(format!(
            "| {} | {name} | {:.1} | {:.1} | {:.3} ({:.3} to {:.3}) |\n",
            self.model,
            middle(&self.ours),
            middle(&self.peer),
            factor.middle,
            factor.interval.low,
            factor.interval.high
        ))
    }
}

fn page(rows: &[Row], arguments: &Arguments, load: &str) -> Result<String> {
    let mut text = format!(
        "# `sextant bench speed` against `llama-bench`\n\n\
         Written by `cargo xtask bench speed`. Both compute with ggml's kernels on {} threads, with \
         flash attention, a\ncache of f16 and batches of 512; they read {PROMPT} tokens, and say \
         {ANSWER} after them. Each figure is a process of\nits own, the two take turns in {} \
         rounds. Tokens a second, medians; ratios are middles over the rounds (Hodges\nand Lehmann) \
         with an interval of 95 %. Ours samples with a temperature, llama-bench takes any token.\n\n\
         | model | | `bench speed` | `llama-bench` | ours by its |\n|---|---|---:|---:|---:|\n",
        arguments.threads, arguments.rounds
    );
    for row in rows {
        for (name, of) in KINDS {
            text.push_str(&row.line(name, of)?);
        }
    }
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n| fact | value |\n|---|---|\n| CPU | {} |\n| load average before | {load} |\n\
         | llama.cpp | {BUILD}, native build |\n| Sextant | {} |\n",
        machine::cpu(),
        env!("CARGO_PKG_VERSION")
    );
    Ok(text)
}
