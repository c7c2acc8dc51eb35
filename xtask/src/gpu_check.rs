//! Layers on a GPU, planned against what the engine reports: `cargo xtask gpu-check`.
//!
//! Every row is a server started afresh, with all layers on the GPU, with as many as fit into
//! a little of its memory, or with as many as are set. It answers a prompt of several passes,
//! and what its worker says of its buffers is compared with the planner's ledger. Then loads
//! that must be refused are. Skips where the binary has no back end for GPUs, or finds none.
//! Writes `docs/benchmarks/gpu.md`.

use crate::models::{self, SMOLLM2};
use crate::server::{Server, data_dir, free_port};
use crate::shell::{root, sextant};
use ::models::Gguf;
use anyhow::{Context, Result, bail};
use kv::Plan;
use planner::{Kind, Ledger, Model, Others, Place, Setup};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// llama.cpp leaves out Vulkan devices that compute on the processor, unless this names one.
const VISIBLE: &str = "GGML_VK_VISIBLE_DEVICES";
/// What the bytes on the GPU may differ by.
const ERROR_MAX: f64 = 0.05;
const MIB: f64 = 1024.0 * 1024.0;
/// A server whose load is refused ends at once.
const REFUSED_TIME_MAX: Duration = Duration::from_secs(10);
const CONTEXTS: [u32; 2] = [2048, 8192];
const ASKS: [Ask; 4] = [Ask::All, Ask::UpTo(130), Ask::Set(20), Ask::Set(1)];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One model and one context only; nothing is written.
    #[arg(long)]
    quick: bool,
}

/// What a server is asked for.
#[derive(Clone, Copy)]
enum Ask {
    All,
    /// As many as fit into so many MiB of the GPU.
    UpTo(u64),
    /// So many by hand.
    Set(u32),
}

struct Row {
    context: u32,
    ask: Ask,
    layers: u32,
    /// Planned and reported, MiB.
    weights: [f64; 2],
    caches: [f64; 2],
    compute: [f64; 2],
    answer: String,
}

impl Row {
    fn total(&self) -> [f64; 2] {
        [0, 1].map(|side| self.weights[side] + self.caches[side] + self.compute[side])
    }

    fn error(&self) -> f64 {
        let [planned, reported] = self.total();
        planned / reported - 1.0
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some((gpu, visible)) = gpu()? else {
        println!(
            "skipped: {} has no back end for GPUs (`make build FEATURES=vulkan`), or no GPU is \
             there (`mesa-vulkan-drivers` has one that computes on the processor)",
            sextant().display()
        );
        return Ok(());
    };
    let mut rows = Vec::new();
    let path = models::ensure(&SMOLLM2)?;
    let contexts: &[u32] = match arguments.quick {
        true => &CONTEXTS[..1],
        false => &CONTEXTS,
    };
    for context in contexts {
        for ask in ASKS {
            let row = measure(&path, (*context, ask), visible.as_deref())?;
            eprintln!("{}", line(&row));
            rows.push(row);
        }
    }
    let refusals = refusals(&path, visible.as_deref())?;
    let report = report(&gpu, &rows, &refusals);
    if !arguments.quick {
        fs::write(root().join("docs/benchmarks/gpu.md"), &report)?;
    }
    println!("{report}");
    let bad = |row: &&Row| row.error().abs() > ERROR_MAX;
    if let Some(row) = rows.iter().find(bad) {
        bail!("memory of the GPU differs by more than 5 %: {}", line(row));
    }
    Ok(())
}

/// The device, and the setting that makes it visible.
fn gpu() -> Result<Option<(String, Option<String>)>> {
    let given = std::env::var(VISIBLE).ok();
    for visible in [given, Some("0".to_owned())] {
        let mut command = Command::new(sextant());
        command.args(["worker", "--devices"]);
        if let Some(visible) = &visible {
            command.env(VISIBLE, visible);
        }
        let output = command.output()?;
        let devices: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let gpus = devices.iter().filter(|device| is_gpu(device));
        let names: Vec<&str> = gpus.filter_map(|gpu| gpu["description"].as_str()).collect();
        if let Some(name) = names.first() {
            return Ok(Some(((*name).to_owned(), visible)));
        }
    }
    Ok(None)
}

fn is_gpu(device: &Value) -> bool {
    matches!(device["kind"].as_str(), Some("gpu" | "integrated_gpu"))
}

fn server(
    path: &Path,
    (context, flags): (u32, &[String]),
    visible: Option<&str>,
) -> Result<Server> {
    let port = free_port()?;
    let mut command = Command::new(sextant());
    command.arg("serve").arg(path);
    command.env("SEXTANT_DATA_DIR", data_dir());
    if let Some(visible) = visible {
        command.env(VISIBLE, visible);
    }
    command.arg("--discovery=false");
    for (flag, value) in [
        ("--listen", format!("127.0.0.1:{port}")),
        ("--slots", "4".to_owned()),
        ("--context", context.to_string()),
        ("--log-level", "info".to_owned()),
    ] {
        command.arg(flag).arg(value);
    }
    command.args(flags);
    Server::start("sextant-gpu", command, port, "/ready")
}

fn flags(ask: Ask) -> Vec<String> {
    match ask {
        Ask::All => Vec::new(),
        Ask::UpTo(mib) => vec!["--gpu-memory-max".to_owned(), format!("{mib}MiB")],
        Ask::Set(layers) => vec!["--gpu-layers".to_owned(), layers.to_string()],
    }
}

fn measure(path: &Path, (context, ask): (u32, Ask), visible: Option<&str>) -> Result<Row> {
    let server = server(path, (context, &flags(ask)), visible)?;
    let body = json!({
        "prompt": "The capital of France is", "max_tokens": 2, "temperature": 0,
    });
    let answer = server.client.post("/v1/completions", &body)?;
    let answer = answer["choices"][0]["text"].as_str().unwrap_or_default();
    let list = server.client.get("/admin/models")?;
    let facts = &list["models"][0]["facts"];
    let devices = facts["devices"].as_array().context("no devices are told")?;
    let gpu = devices
        .iter()
        .find(|device| is_gpu(device))
        .context("no GPU is told")?;
    let number = |name: &str| gpu[name].as_u64().unwrap_or(0);
    let layers = u32::try_from(number("layers"))?;
    if facts["gpu_layers"].as_u64() != Some(u64::from(layers)) {
        bail!("the facts contradict each other: {facts}");
    }
    let ledger = ledger(path, context, layers)?;
    let planned = |kind: Kind| {
        let terms = ledger.terms.iter();
        let there = terms.filter(|term| term.kind == kind && term.place == Place::Device);
        there.map(|term| term.bytes.0).sum::<u64>() as f64 / MIB
    };
    let reported = |name: &str| number(name) as f64 / MIB;
    Ok(Row {
        context,
        ask,
        layers,
        weights: [planned(Kind::Weights), reported("weights_bytes")],
        caches: [planned(Kind::Caches), reported("kv_bytes")],
        compute: [planned(Kind::Buffers), reported("compute_bytes")],
        answer: answer.to_owned(),
    })
}

fn ledger(path: &Path, context: u32, gpu_layers: u32) -> Result<Ledger> {
    let model = Model::read(&[Gguf::open(path)?])?;
    let setup = Setup {
        slots: 4,
        gpu_layers,
        ..Setup::usual(context)
    };
    let plan = Plan::new(&model.shape, &setup.request(&model))?;
    Ok(Ledger::of(&model, &setup, &plan, &Others::default()))
}

/// More layers than fit are refused with the number that would, and that number is loaded.
fn refusals(path: &Path, visible: Option<&str>) -> Result<String> {
    let with = |layers: &str| {
        let flags = ["--gpu-layers", layers, "--gpu-memory-max", "200MiB"];
        server(path, (8192, &flags.map(str::to_owned)), visible)
    };
    let refused = match with("99") {
        // It may have answered in the moment before the load was refused.
        Ok(mut server) => {
            let since = Instant::now();
            while server.ended().is_none() {
                if since.elapsed() > REFUSED_TIME_MAX {
                    bail!("more layers than fit were loaded");
                }
                sleep(Duration::from_millis(50));
            }
            server.log()?
        }
        Err(error) => error.to_string(),
    };
    let told = refused
        .lines()
        .find(|line| line.contains("of the GPU's memory"))
        .with_context(|| format!("the refusal does not tell of the GPU: {refused}"))?;
    let number = told
        .split_once("set `gpu_layers` to ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .context("the refusal names no number")?;
    drop(with(number)?);
    Ok(told.to_owned())
}

fn words(ask: Ask) -> String {
    match ask {
        Ask::All => "nothing set".to_owned(),
        Ask::UpTo(mib) => format!("gpu_memory_max {mib} MiB"),
        Ask::Set(layers) => format!("gpu_layers {layers}"),
    }
}

fn line(row: &Row) -> String {
    let pair = |[planned, reported]: [f64; 2]| format!("{planned:.1} / {reported:.1}");
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {:+.1} % | `{}` |",
        row.context,
        words(row.ask),
        row.layers,
        pair(row.weights),
        pair(row.caches),
        pair(row.compute),
        pair(row.total()),
        100.0 * row.error(),
        row.answer.trim().replace('\n', " "),
    )
}

fn report(gpu: &str, rows: &[Row], refusal: &str) -> String {
    let worst = rows.iter().map(|row| row.error().abs()).fold(0.0, f64::max);
    let mut text = format!(
        "# Layers on a GPU: what the planner says, and what is there\n\n\
         Written by `cargo xtask gpu-check` on `{gpu}`. Each row is a server started afresh \
         with\nSmolLM2-135M-Instruct Q4_1, which has 31 layers with its output, 4 slots and \
         16-bit caches. Planned / as the engine reports it, MiB of the GPU. \
         The answer goes on from\n\"The capital of France is\". The largest error is {:.1} %.\n\n\
         | context | asked for | layers there | weights | KV | computation | all | error | answer \
         |\n|---:|---|---:|---:|---:|---:|---:|---:|---|\n",
        100.0 * worst
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line(row));
    }
    let _ = write!(
        text,
        "\nWith `gpu_layers = 99` and `gpu_memory_max = 200MiB`, where the number that it names \
         was then loaded:\n\n> {refusal}\n"
    );
    text
}
