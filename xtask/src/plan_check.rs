//! The planner against running servers: `cargo xtask plan-check`.
//!
//! Every combination starts a server afresh, lets it answer a prompt of several passes, and
//! compares what its worker really holds with what the planner says. Bytes of the cache come
//! from llama.cpp's log, those of the process from the kernel. Writes
//! `docs/benchmarks/planner.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::server::{Server, Setting};
use crate::shell::root;
use ::models::Gguf;
use anyhow::{Context, Result, bail};
use kv::Plan;
use planner::{Ledger, Model, Others, Setup};
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const CONTEXTS: [u32; 3] = [2048, 4096, 8192];
const SLOTS: [u32; 2] = [1, 4];
const PLANS: [&str; 5] = [
    "f16",
    "q8_0",
    "q8_0/q4_0",
    "q4_0",
    "k=q8_0,v=q4_0;k[first-third]=f16",
];
/// Words of the prompt: two passes of 512 tokens, and room in the smallest context.
const WORDS: usize = 900;
/// What the resident set may differ by.
const RESIDENT_ERROR_MAX: f64 = 0.05;
/// llama.cpp prints MiB with two decimals for each cache; the rest is what binary fractions add.
const PRINTED_STEP_MIB: f64 = 0.005_001;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One context and one slot only; nothing is written.
    #[arg(long)]
    quick: bool,
}

struct Row {
    model: &'static str,
    setup: Setup,
    kv_mib: [f64; 2],
    resident_mib: [f64; 2],
}

impl Row {
    fn resident_error(&self) -> f64 {
        self.resident_mib[0] / self.resident_mib[1] - 1.0
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut rows = Vec::new();
    for model in [&SMOLLM2, &GEMMA3] {
        let path = models::ensure(model)?;
        for setup in setups(arguments.quick)? {
            let row = measure(model, &path, setup)?;
            eprintln!("{}", line(&row));
            rows.push(row);
        }
    }
    let report = report(&rows);
    if !arguments.quick {
        fs::write(root().join("docs/benchmarks/planner.md"), &report)?;
    }
    println!("{report}");
    let bad = |row: &&Row| row.resident_error().abs() > RESIDENT_ERROR_MAX;
    if let Some(row) = rows.iter().find(bad) {
        bail!("the resident set differs by more than 5 %: {}", line(row));
    }
    Ok(())
}

fn setups(is_quick: bool) -> Result<Vec<Setup>> {
    let mut all = Vec::new();
    for context in CONTEXTS {
        for plan in PLANS {
            for slots in SLOTS {
                all.push(Setup {
                    slots,
                    types: plan.parse()?,
                    ..Setup::usual(context)
                });
            }
        }
    }
    if is_quick {
        all.retain(|setup| setup.context == CONTEXTS[0] && setup.slots == SLOTS[0]);
    }
    Ok(all)
}

fn measure(of: &TestModel, path: &Path, setup: Setup) -> Result<Row> {
    let header = Gguf::open(path)?;
    let model = Model::read(&[header])?;
    let plan = Plan::new(&model.shape, &setup.request(&model))?;
    let ledger = Ledger::of(&model, &setup, &plan, &Others::default());
    let server = Server::ours(&Setting {
        model: path.to_owned(),
        threads: 1,
        slots: setup.slots,
        context_per_slot: setup.context,
        our_flags: [
            ("--kv-plan", setup.types.to_string().as_str()),
            ("--kernels", "own"),
            ("--log-level", "debug"),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
        .collect(),
        peer_flags: Vec::new(),
    })?;
    let prompt = "word ".repeat(WORDS.min(setup.context as usize / 2));
    let body = json!({ "prompt": prompt, "max_tokens": 4, "temperature": 0 });
    server.client.post("/v1/completions", &body)?;
    let (caches, reported) = reported_kv_mib(&server.log()?);
    let planned = plan.bytes() as f64 / MIB;
    if (planned - reported).abs() > PRINTED_STEP_MIB * caches as f64 {
        bail!(
            "{}: {planned} MiB of KV were planned, {reported} are there",
            of.file
        );
    }
    Ok(Row {
        model: of.file,
        setup,
        kv_mib: [planned, reported],
        resident_mib: [
            ledger.resident() as f64 / MIB,
            worker_resident_bytes(&server)? as f64 / MIB,
        ],
    })
}

const MIB: f64 = 1024.0 * 1024.0;

/// How many caches llama.cpp told of, and their sum.
fn reported_kv_mib(log: &str) -> (usize, f64) {
    let size = |line: &str| -> Option<f64> {
        let (_, rest) = line.split_once("KV buffer size =")?;
        rest.trim_start().split(' ').next()?.parse().ok()
    };
    let sizes: Vec<f64> = log.lines().filter_map(size).collect();
    (sizes.len(), sizes.iter().sum())
}

/// What the kernel counts for the server's one worker.
fn worker_resident_bytes(server: &Server) -> Result<u64> {
    let is_worker = |id: u32| {
        let text = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        text.split(|byte| *byte == 0).any(|word| word == b"worker")
    };
    let family = machine::family(server.pid());
    let worker = family.iter().map(|(id, _)| *id).find(|id| is_worker(*id));
    let worker = worker.context("the server has no worker")?;
    Ok(machine::resident_bytes(worker))
}

fn line(row: &Row) -> String {
    let types = match row.setup.types.as_uniform() {
        Some(pair) => pair.to_string(),
        None => row.setup.types.to_string(),
    };
    format!(
        "| {} | {} | {types} | {} | {:.2} | {:.2} | {:.1} | {:.1} | {:+.1} % |",
        row.model.split('.').next().unwrap_or(row.model),
        row.setup.context,
        row.setup.slots,
        row.kv_mib[0],
        row.kv_mib[1],
        row.resident_mib[0],
        row.resident_mib[1],
        100.0 * row.resident_error(),
    )
}

fn report(rows: &[Row]) -> String {
    let worst = rows
        .iter()
        .map(|row| row.resident_error().abs())
        .fold(0.0, f64::max);
    let mut text = format!(
        "# What the planner says, and what is there\n\n\
         Written by `cargo xtask plan-check`. Each row is a server started afresh, with one \
         thread and our own kernels,\nthat answered a prompt of {WORDS} words. The cache is as \
         llama.cpp's log tells it, to its last digit;\nthe resident set is the worker's, as the \
         kernel counts it, pages of the model's file included. MiB.\n\nThe largest error of the \
         resident set is {:.1} %; caches have none.\n\n\
         | model | context | KV | slots | KV planned | KV reported | resident planned | resident \
         measured | error |\n|---|---:|---|---:|---:|---:|---:|---:|---:|\n",
        100.0 * worst
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_summed_from_the_log() {
        let log = "x kv_cache:    Sextant KV buffer size =    24.00 MiB model=a\n\
                   CPU compute buffer size = 9.00 MiB\n\
                   kv_cache:    Sextant KV buffer size =   120.50 MiB";
        assert_eq!(reported_kv_mib(log), (2, 144.5));
    }
}
