//! Predicted speed against measured: `cargo xtask speed-check`.
//!
//! In every round the machine is measured anew (`sextant hw --measure`), each model's speed is
//! predicted from that (`sextant plan`) and then measured on a server of its own. What a shared
//! machine gives changes from minute to minute, and so do both. Writes
//! `docs/benchmarks/speed.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2};
use crate::server::{Server, Setting};
use crate::shell::{root, sextant, target_dir};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::sized::{Llama, WeightKind};

/// Tokens of the prompt that is predicted for.
const PROMPT: u64 = planner::PROMPT;
const ANSWER_TOKENS: u64 = 100;
/// Requests a round; the first is not counted.
const REQUESTS: u64 = 4;
const CONTEXT: u32 = 4096;
/// What the real models' predictions may be off by.
const DECODE_ERROR_MAX: f64 = 0.20;
const PREFILL_ERROR_MAX: f64 = 0.35;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// The two real models only; nothing is written.
    #[arg(long)]
    quick: bool,
}

/// What a model is to the constants of the prediction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A real model, never looked at for them.
    Real,
    /// Random weights, never looked at.
    HeldOut,
    /// Random weights that they were fitted to.
    Fitted,
}

struct Subject {
    name: String,
    path: PathBuf,
    standing: Standing,
    rounds: Vec<Round>,
}

/// Tokens a second, predicted and measured.
#[derive(Clone, Copy)]
struct Round {
    decode: [f64; 2],
    prefill: [f64; 2],
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut subjects = subjects(arguments.quick)?;
    let load = machine::load_average();
    for round in 0..arguments.rounds {
        sextant_json(&["hw", "--measure"])?;
        for subject in &mut subjects {
            let done = subject.round()?;
            eprintln!("round {}: {}", round + 1, line(&subject.name, &[done]));
            subject.rounds.push(done);
        }
    }
    let report = report(&subjects, arguments.rounds, &load);
    println!("{report}");
    if !arguments.quick {
        fs::write(root().join("docs/benchmarks/speed.md"), &report)?;
    }
    let real = |subject: &&Subject| subject.standing == Standing::Real;
    for subject in subjects.iter().filter(real) {
        let (decode, prefill) = (
            error(&subject.rounds, |it| it.decode),
            error(&subject.rounds, |it| it.prefill),
        );
        ensure!(
            decode.abs() <= DECODE_ERROR_MAX && prefill.abs() <= PREFILL_ERROR_MAX,
            "{}: decode is off by {:.0} %, prefill by {:.0} %",
            subject.name,
            100.0 * decode,
            100.0 * prefill
        );
    }
    Ok(())
}

fn subjects(is_quick: bool) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for model in [&SMOLLM2, &GEMMA3] {
        subjects.push(Subject {
            name: model.file.trim_end_matches(".gguf").to_owned(),
            path: models::ensure(model)?,
            standing: Standing::Real,
            rounds: Vec::new(),
        });
    }
    if is_quick {
        return Ok(subjects);
    }
    let narrow = |n_layers, n_embd, n_ff, n_head, n_head_kv, weights| Llama {
        n_layers,
        n_embd,
        n_ff,
        n_head,
        n_head_kv,
        n_vocab: 32_000,
        weights,
        more_bits: None,
    };
    for (standing, llama) in [
        (Standing::HeldOut, Llama::of_1b(WeightKind::Q4_K)),
        (
            Standing::HeldOut,
            narrow(24, 896, 4864, 14, 2, WeightKind::Q8_0),
        ),
        (
            Standing::Fitted,
            narrow(32, 256, 768, 4, 4, WeightKind::Q8_0),
        ),
        (
            Standing::Fitted,
            narrow(30, 576, 1536, 9, 3, WeightKind::Q4_1),
        ),
        (
            Standing::Fitted,
            narrow(16, 1024, 2816, 16, 4, WeightKind::Q4_K),
        ),
        (
            Standing::Fitted,
            narrow(8, 2048, 8192, 32, 8, WeightKind::Q4_0),
        ),
    ] {
        let name = format!(
            "llama {} x {} {:?}",
            llama.n_layers, llama.n_embd, llama.weights
        );
        subjects.push(Subject {
            path: models::random(&llama, &name)?,
            name,
            standing,
            rounds: Vec::new(),
        });
    }
    Ok(subjects)
}

/// Runs a command of the binary with a cache folder of its own.
pub(crate) fn sextant_json(arguments: &[&str]) -> Result<Value> {
    let output = Command::new(sextant())
        .args(arguments)
        .arg("--json")
        .env("XDG_CACHE_HOME", target_dir().join("speed-check"))
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {errors}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Subject {
    fn round(&self) -> Result<Round> {
        let path = self.path.to_string_lossy();
        let context = CONTEXT.to_string();
        let plan = sextant_json(&["plan", &path, "--context", &context, "--slots", "1"])?;
        let speed = &plan["speed"];
        let source = speed["source"].as_str().unwrap_or_default();
        if !source.contains("measured") {
            bail!("the measurement was not kept: the machine is busy; try again");
        }
        let middle = |band: &Value| -> Result<f64> {
            let end = |name: &str| band[name].as_f64().context("no band");
            Ok(f64::midpoint(end("low")?, end("high")?))
        };
        let measured = measure(&self.path)?;
        Ok(Round {
            decode: [middle(&speed["decode"])?, measured.decode],
            prefill: [middle(&speed["prefill"])?, measured.prefill],
        })
    }
}

struct Measured {
    decode: f64,
    prefill: f64,
}

fn measure(model: &Path) -> Result<Measured> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let server = Server::ours(&Setting {
        model: model.to_owned(),
        threads: u32::try_from(threads)?,
        slots: 1,
        context_per_slot: CONTEXT,
        our_flags: Vec::new(),
        peer_flags: Vec::new(),
    })?;
    let (mut decode, mut prefill) = (Vec::new(), Vec::new());
    for request in 0..REQUESTS {
        let timings = ask(&server, request, PROMPT, 1)?;
        prefill.push(rate(PROMPT as f64, &timings["prefill_ms"])?);
        let timings = ask(&server, request, 8, ANSWER_TOKENS)?;
        decode.push(rate((ANSWER_TOKENS - 1) as f64, &timings["decode_ms"])?);
    }
    Ok(Measured {
        decode: median(decode.split_off(1)),
        prefill: median(prefill.split_off(1)),
    })
}

/// Tokens that no earlier request had, and the timings of the answer.
fn ask(server: &Server, request: u64, prompt: u64, answer: u64) -> Result<Value> {
    const PRIME: u64 = 7919;
    let ids = (0..prompt).map(|index| 300 + ((request * 1013 + index + 1) * PRIME) % 3700);
    let body = json!({
        "prompt": ids.collect::<Vec<_>>(),
        "max_tokens": answer,
        "temperature": 0,
        "ignore_eos": true,
        "sextant": { "speculation": "off" },
    });
    let answer = server.client.post("/v1/completions", &body)?;
    Ok(answer["sextant"]["timings"].clone())
}

fn rate(tokens: f64, milliseconds: &Value) -> Result<f64> {
    Ok(tokens * 1000.0 / milliseconds.as_f64().context("no timing")?)
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// The medians of what was predicted and measured.
fn medians(rounds: &[Round], of: impl Fn(&Round) -> [f64; 2]) -> [f64; 2] {
    [0, 1].map(|which| median(rounds.iter().map(|round| of(round)[which]).collect()))
}

fn error(rounds: &[Round], of: impl Fn(&Round) -> [f64; 2]) -> f64 {
    let [predicted, measured] = medians(rounds, of);
    predicted / measured - 1.0
}

fn line(name: &str, rounds: &[Round]) -> String {
    let (decode, prefill) = (
        medians(rounds, |it| it.decode),
        medians(rounds, |it| it.prefill),
    );
    format!(
        "| {name} | {:.0} | {:.0} | {:+.0} % | {:.0} | {:.0} | {:+.0} % |",
        decode[0],
        decode[1],
        100.0 * (decode[0] / decode[1] - 1.0),
        prefill[0],
        prefill[1],
        100.0 * (prefill[0] / prefill[1] - 1.0),
    )
}

fn report(subjects: &[Subject], rounds: u32, load: &str) -> String {
    let mut text = format!(
        "# Predicted speed, and measured\n\n\
         Written by `cargo xtask speed-check`. In each of {rounds} rounds `sextant hw --measure` \
         measures the\nmachine, `sextant plan` predicts and a server of its own answers {REQUESTS} \
         times, of which the first is\nnot counted: {ANSWER_TOKENS} tokens after a short prompt, \
         and a prompt of {PROMPT} tokens. Tokens a second, medians\nof the rounds; speculation \
         off. [The planner](../planner.md) has the method.\n"
    );
    let sections = [
        (Standing::Real, "Real models"),
        (Standing::HeldOut, "Random weights, not used to fit"),
        (
            Standing::Fitted,
            "Random weights that the constants were fitted to",
        ),
    ];
    for (standing, title) in sections {
        let of_section = subjects
            .iter()
            .filter(|subject| subject.standing == standing);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n## {title}\n\n| model | decode predicted | measured | error | prefill predicted | \
             measured | error |\n|---|---:|---:|---:|---:|---:|---:|\n"
        );
        for subject in of_section {
            let _ = writeln!(text, "{}", line(&subject.name, &subject.rounds));
        }
    }
    let _ = write!(
        text,
        "\n| fact | value |\n|---|---|\n| CPU | {} |\n| load average before | {load} |\n\
         | version | sextant {} |\n",
        machine::cpu(),
        env!("CARGO_PKG_VERSION")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_of_the_medians() {
        let round = |predicted, measured| Round {
            decode: [predicted, measured],
            prefill: [1.0, 1.0],
        };
        let rounds = [round(90.0, 100.0), round(110.0, 50.0), round(400.0, 100.0)];
        assert!((error(&rounds, |it| it.decode) - 0.1).abs() < 1e-9);
        assert!(line("x", &rounds).contains("| 110 | 100 | +10 % |"));
    }
}
