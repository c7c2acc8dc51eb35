//! Types of the KV cache by layer, with real models: `cargo xtask kv-check`.
//!
//! Servers with a plan are started with our kernels and with ggml's: layers must have the types and
//! the cache the bytes that were planned, and the model must still answer. Then `sextant kv compare`
//! measures what plans lose, into `docs/benchmarks/kv-plans.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::server::{Server, Setting};
use crate::shell::{self, program, root, sextant};
use ::models::Gguf;
use anyhow::{Context, Result, ensure};
use kv::Plan;
use planner::{Model, Setup};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PLAN: &str = "k=q8_0,v=q4_0;k[18,20,23]=f16";
const CONTEXT: u32 = 2048;
/// What small models know of a question, and so what a broken cache forgets.
const QUESTION: (&str, &str) = (
    "What is the capital of France? Answer in one word.",
    "Paris",
);
/// Of two sizes, each with the pair of about that size, the rule of thumb and its mirror image.
const PLANS: [&str; 9] = [
    "q8_0",
    "q8_0/q4_0",
    "q5_1",
    "q5_0",
    "q4_0",
    "first-third",
    "kv=q4_0;kv[last-third]=q8_0",
    "k=q5_0,v=q4_0",
    "k=q8_0,v=q4_0;k[first-third]=f16",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The text to compare over, in place of the built-in one; nothing is written then.
    #[arg(long)]
    text: Option<String>,
    #[arg(long, default_value_t = 512)]
    piece_tokens: u32,
    /// Only servers with a plan; nothing is compared.
    #[arg(long)]
    servers: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = models::ensure(&SMOLLM2)?;
    for kernels in ["own", "ggml"] {
        serve(&path, kernels)?;
    }
    if arguments.servers {
        return Ok(());
    }
    let mut page = String::from(
        "# What types of the KV cache lose\n\nWritten by `cargo xtask kv-check`, with `sextant kv \
         compare` over its built-in text. KLD is the divergence from\nf16 in nats, over the second \
         half of each piece, with one standard error over pieces. The floor is f16 with the\nlast \
         bit of half of its keys and values changed: quantised weights enlarge what rounding does, \
         and what is not above\nthe floor is that. A first difference is the token of a greedy \
         continuation that f16 would not have chosen.\n",
    );
    for model in [&SMOLLM2, &GEMMA3] {
        compare(arguments, model, &mut page)?;
    }
    let _ = write!(
        page,
        "\n| fact | value |\n|---|---|\n| CPU | {} |\n",
        machine::cpu()
    );
    println!("{page}");
    if arguments.text.is_none() {
        fs::write(root().join("docs/benchmarks/kv-plans.md"), &page)?;
    }
    Ok(())
}

fn server(path: &Path, kernels: &str, plan: &str) -> Result<Server> {
    let flags = [
        "--kv-plan",
        plan,
        "--kernels",
        kernels,
        "--log-level",
        "debug",
    ];
    Server::ours(&Setting {
        model: path.to_owned(),
        threads: 2,
        slots: 1,
        context_per_slot: CONTEXT,
        our_flags: flags.map(str::to_owned).to_vec(),
        peer_flags: Vec::new(),
    })
}

/// Types, bytes and an answer of a server with the plan.
fn serve(path: &Path, kernels: &str) -> Result<()> {
    let model = Model::read(&[Gguf::open(path)?])?;
    let setup = Setup {
        types: PLAN.parse()?,
        ..Setup::usual(CONTEXT)
    };
    let planned = Plan::new(&model.shape, &setup.request(&model))?;
    let served = server(path, kernels, PLAN)?;
    let facts = served.client.get("/admin/models")?["models"][0]["facts"].clone();
    let layers = facts["kv_layers"]
        .as_array()
        .context("no layers are told")?;
    for (told, wanted) in layers.iter().zip(&planned.layers) {
        let is_so = told["layer"] == wanted.layer
            && told["keys"] == wanted.types.keys.name()
            && told["values"] == wanted.types.values.name();
        ensure!(is_so, "{kernels}: {told}, but {wanted:?} was planned");
    }
    ensure!(
        layers.len() == planned.layers.len(),
        "{kernels}: {} layers",
        layers.len()
    );
    // llama.cpp's log has MiB with two decimals.
    let told = facts["kv_bytes"].as_u64().unwrap_or(0);
    ensure!(
        told.abs_diff(planned.bytes()) < 10_486,
        "{kernels}: llama.cpp tells of {told} bytes, {} were planned",
        planned.bytes()
    );
    let body = json!({
        "messages": [{ "role": "user", "content": QUESTION.0 }], "max_tokens": 24, "temperature": 0,
    });
    let answer = served.client.post("/v1/chat/completions", &body)?;
    let text = answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        text.contains(QUESTION.1),
        "{kernels}: the answer is {text:?}"
    );
    eprintln!(
        "{kernels}: {told} bytes in {} layers, {text:?}",
        layers.len()
    );
    Ok(())
}

fn compare(arguments: &Arguments, model: &TestModel, page: &mut String) -> Result<()> {
    let path = models::ensure(model)?;
    let mut command = program(sextant(), &["kv", "compare", "--json"]);
    command.arg(&path);
    command.args(["--piece-tokens", &arguments.piece_tokens.to_string()]);
    for plan in PLANS {
        command.args(["--plan", plan]);
    }
    if let Some(text) = &arguments.text {
        command.args(["--text", text]);
    }
    let report: Value = serde_json::from_str(&shell::output(&mut command)?)?;
    let rows = report["rows"].as_array().context("no rows")?;
    let _ = write!(
        page,
        "\n## {}\n\n{} positions in {} pieces of {} tokens.\n\n| plan | bytes a token | mean KLD | \
         median | 99 % | 99.9 % | same first token | perplexity to f16's | first difference \
         |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        model.file.trim_end_matches(".gguf"),
        report["positions"],
        report["pieces"],
        arguments.piece_tokens,
    );
    for row in rows.iter().filter(|row| row["kind"] != "base") {
        line(page, row)?;
    }
    Ok(())
}

fn line(page: &mut String, row: &Value) -> Result<()> {
    let of = &row["divergence"];
    let number = |name: &str| {
        of[name]
            .as_f64()
            .with_context(|| format!("no {name} in {row}"))
    };
    let name = match row["kind"].as_str() {
        Some("floor") => "floor",
        _ => row["plan"].as_str().unwrap_or_default(),
    };
    let places = of["first_differences"]
        .as_array()
        .context("no first differences")?;
    let mut places: Vec<_> = places
        .iter()
        .map(|one| one.as_u64().unwrap_or(u64::MAX))
        .collect();
    places.sort_unstable();
    let first = match places.get(places.len() / 2).copied() {
        None | Some(u64::MAX) => "later".to_owned(),
        Some(place) => format!("token {place}"),
    };
    let _ = writeln!(
        page,
        "| {name} | {} | {:.5} ± {:.5} | {:.5} | {:.4} | {:.3} | {:.2} ± {:.2} % | {:.4} ± {:.4} | \
         {first} |",
        row["token_bytes"],
        number("kld_mean")?,
        number("kld_mean_error")?,
        number("kld_median")?,
        number("kld_p99")?,
        number("kld_p999")?,
        100.0 * number("top1")?,
        100.0 * number("top1_error")?,
        number("perplexity_ratio")?,
        number("perplexity_ratio_error")?,
    );
    Ok(())
}
