//! What the prompt cache saves after a worker's death, the server's, and a model that was
//! unloaded; what it stores of prompts that share a beginning; llama-server beside it.

use crate::bench::machine;
use crate::bench::prompt::Prompts;
use crate::models::{self, GEMMA3, SMOLLM2};
use crate::peer::{self, Peer};
use crate::server::{Server, Setting, data_dir, free_port};
use crate::shell::{program, root, sextant};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use testkit::tiny::Family;

/// What our server calls the model.
const NAME: &str = "model";
const PREFIX_TOKENS: usize = 4000;
/// Gated delta nets, with attention in each fourth layer.
const HYBRID_FAMILY: Family = Family::Qwen35;
const HYBRID: &str = "a tiny hybrid of random weights (qwen35)";
/// Tokens of a tiny model that stand for bytes; those that are no control characters.
const BYTES_FROM: usize = 35;
const BYTES: usize = 90;
const ANSWER_TOKENS: u32 = 16;
const CONTEXT: u32 = 8192;
/// The most that a restored prompt may take of a cold one.
const SHARE_MAX: f64 = 0.10;

const CONVERSATIONS: usize = 16;
const SYSTEM_TOKENS: usize = 2000;
const TAIL_TOKENS: usize = 100;
/// The most that may be stored, of one copy and all tails.
const STORED_MAX: f64 = 1.15;

const SETTLED: Duration = Duration::from_millis(400);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 2)]
    threads: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only models whose file name contains this text; nothing is written then.
    #[arg(long)]
    only: Option<String>,
}

/// One answer: when its first text came, and the text.
pub(crate) struct Answer {
    pub(crate) first_ms: f64,
    pub(crate) text: String,
    pub(crate) restored: u64,
}

/// Milliseconds of each round.
#[derive(Default)]
struct Samples {
    cold: Vec<f64>,
    live: Vec<f64>,
    worker: Vec<f64>,
    server: Vec<f64>,
    unloaded: Vec<f64>,
    peer_cold: Vec<f64>,
    peer_saved: Vec<f64>,
    /// Answers that differ from the one before the interruption.
    differing: Vec<&'static str>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let peer = peer::ensure()?;
    let mut page = format!(
        "# What a prompt costs the second time\n\nWritten by `cargo xtask prefix-check`. Time to \
         the first token of a prompt of {PREFIX_TOKENS} tokens at temperature 0, in\nmilliseconds, \
         median of {} rounds, each with a text of its own; {} threads, f16 caches; {}. Peer:\n{}.\n",
        arguments.rounds,
        arguments.threads,
        machine::cpu(),
        peer.version()?,
    );
    let mut faults = Vec::new();
    let is_wanted = |name: &str| {
        let only = arguments.only.as_ref();
        only.is_none_or(|part| name.contains(part))
    };
    for model in [&SMOLLM2, &GEMMA3] {
        if !is_wanted(model.file) {
            continue;
        }
        let file = models::ensure(model)?;
        let samples = interruptions((&file, &text), &peer, arguments)?;
        page += &table(model.file, &samples, &mut faults);
        page += &shared((model.file, &file), &peer, arguments, &mut faults)?;
    }
    if is_wanted(HYBRID) {
        let file = models::tiny(HYBRID_FAMILY)?;
        let samples = interruptions((&file, &numbers), &peer, arguments)?;
        page += &table(HYBRID, &samples, &mut faults);
    }
    println!("{page}");
    if arguments.only.is_none() {
        let file = root().join("docs/benchmarks/prefix.md");
        fs::write(&file, page)?;
        println!("written: {}", file.display());
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// The prompt of a round.
type Prompt<'a> = &'a dyn Fn(&Server, usize) -> Result<Value>;

fn text(server: &Server, round: usize) -> Result<Value> {
    let prompts = Prompts::new(server.client.clone());
    Ok(prompts.text(PREFIX_TOKENS, 7000 + round)?.into())
}

/// Of a model that was never taught words.
fn numbers(_server: &Server, round: usize) -> Result<Value> {
    let token = |at: usize| BYTES_FROM + (at * at + at / 7 + 31 * round) % BYTES;
    let tokens: Vec<usize> = (0..PREFIX_TOKENS).map(token).collect();
    Ok(json!(tokens))
}

/// A server with a prompt cache in the folder.
pub(crate) fn setting(model: &Path, threads: u32, folder: &Path) -> Result<Setting> {
    let config = folder.join("config.toml");
    let path = model.display();
    fs::write(
        &config,
        format!("[[models]]\nname = '{NAME}'\nmodel = '{path}'\n"),
    )?;
    let flags = [
        "--config".to_owned(),
        config.display().to_string(),
        "--prompt-cache-disk-max".to_owned(),
        "2GiB".to_owned(),
        "--prompt-cache-dir".to_owned(),
        folder.join("prompts").display().to_string(),
    ];
    fs::create_dir_all(folder.join("slots"))?;
    Ok(Setting {
        model: model.to_owned(),
        threads,
        slots: 1,
        context_per_slot: CONTEXT,
        our_flags: flags.to_vec(),
        peer_flags: vec![
            "--slot-save-path".into(),
            folder.join("slots").display().to_string(),
        ],
    })
}

fn interruptions(
    (model, prompt): (&Path, Prompt<'_>),
    peer: &Peer,
    arguments: &Arguments,
) -> Result<Samples> {
    let folder = tempfile::tempdir()?;
    let setting = setting(model, arguments.threads, folder.path())?;
    let mut samples = Samples::default();
    for round in 0..arguments.rounds {
        ours(&setting, (prompt, round), &mut samples)?;
        theirs(peer, &setting, (prompt, round), &mut samples)?;
    }
    Ok(samples)
}

fn ours(
    setting: &Setting,
    (prompt, round): (Prompt<'_>, usize),
    samples: &mut Samples,
) -> Result<()> {
    let server = start(setting)?;
    let prompt = prompt(&server, round)?;
    // The first prompt of its server, as it is after an interruption: tokens in other cells
    // are added up in another order.
    let cold = ask(&server, &prompt)?;
    ensure!(cold.restored == 0, "the prompt of round {round} is known");
    samples.cold.push(cold.first_ms);
    samples.live.push(ask(&server, &prompt)?.first_ms);
    settle(&server)?;

    let worker = worker_of(&server)?;
    kill(worker)?;
    while worker_of(&server).is_ok_and(|pid| pid == worker) || worker_of(&server).is_err() {
        sleep(Duration::from_millis(10));
    }
    until_ready(&server)?;
    let again = ask(&server, &prompt)?;
    compare("worker", &cold, &again, samples);
    samples.worker.push(again.first_ms);

    for path in ["/admin/models/unload", "/admin/models/load"] {
        server.client.post(path, &json!({ "model": NAME }))?;
    }
    until_ready(&server)?;
    let again = ask(&server, &prompt)?;
    compare("unloading", &cold, &again, samples);
    samples.unloaded.push(again.first_ms);

    kill(server.pid())?;
    drop(server);
    let server = start(setting)?;
    let again = ask(&server, &prompt)?;
    compare("server", &cold, &again, samples);
    samples.server.push(again.first_ms);
    Ok(())
}

/// A server with the model on its shelf, so that it can be taken out of memory and come back.
pub(crate) fn start(setting: &Setting) -> Result<Server> {
    let port = free_port()?;
    let mut command = Command::new(sextant());
    command.args(["serve", "--discovery=false", "--listen"]);
    command.arg(format!("127.0.0.1:{port}"));
    command.arg("--threads").arg(setting.threads.to_string());
    command.arg("--slots").arg(setting.slots.to_string());
    command
        .arg("--context")
        .arg(setting.context_per_slot.to_string());
    command
        .args(&setting.our_flags)
        .env("SEXTANT_DATA_DIR", data_dir());
    let server = Server::start("sextant", command, port, "/health")?;
    server
        .client
        .post("/admin/models/load", &json!({ "model": NAME }))?;
    until_ready(&server)?;
    Ok(server)
}

fn theirs(
    peer: &Peer,
    setting: &Setting,
    (prompt, round): (Prompt<'_>, usize),
    samples: &mut Samples,
) -> Result<()> {
    let server = Server::peer(peer, setting)?;
    let prompt = prompt(&server, round)?;
    samples.peer_cold.push(ask(&server, &prompt)?.first_ms);
    let file = json!({ "filename": "slot.bin" });
    server.client.post("/slots/0?action=save", &file)?;
    kill(server.pid())?;
    drop(server);
    let server = Server::peer(peer, setting)?;
    let start = Instant::now();
    server.client.post("/slots/0?action=restore", &file)?;
    let restored_ms = 1e3 * start.elapsed().as_secs_f64();
    samples
        .peer_saved
        .push(restored_ms + ask(&server, &prompt)?.first_ms);
    Ok(())
}

fn compare(what: &'static str, cold: &Answer, again: &Answer, samples: &mut Samples) {
    if cold.text != again.text || again.restored == 0 {
        samples.differing.push(what);
    }
}

/// Asks for a few words after a prompt, which is a text or tokens.
pub(crate) fn ask(server: &Server, prompt: &Value) -> Result<Answer> {
    let body = json!({
        "model": model_id(server)?,
        "prompt": prompt,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": true,
        "cache_prompt": true,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let events = server.client.stream("/v1/completions", &body)?;
    let text_of = |data: &Value| data["choices"][0]["text"].as_str().unwrap_or("").to_owned();
    let first = events.iter().find(|event| !text_of(&event.data).is_empty());
    let first = first.context("no event carries text")?;
    let restored = events
        .iter()
        .filter_map(|event| event.data["sextant"]["restored_tokens"].as_u64());
    Ok(Answer {
        first_ms: 1e3 * first.at.as_secs_f64(),
        text: events.iter().map(|event| text_of(&event.data)).collect(),
        restored: restored.max().unwrap_or(0),
    })
}

fn model_id(server: &Server) -> Result<String> {
    let models = server.client.get("/v1/models")?;
    let id = models["data"][0]["id"].as_str();
    Ok(id.context("no model is listed")?.to_owned())
}

/// Waits until what was put away is on disk.
pub(crate) fn settle(server: &Server) -> Result<()> {
    let start = Instant::now();
    let mut last = (String::new(), Instant::now());
    while last.1.elapsed() < SETTLED {
        ensure!(
            start.elapsed() < SETTLE_TIMEOUT,
            "the prompt cache does not settle"
        );
        let text = server.client.text("/metrics")?;
        let is_of_cache = |line: &&str| line.contains("prompt_cache");
        let lines: Vec<&str> = text.lines().filter(is_of_cache).collect();
        let is_pending = |line: &&str| {
            line.starts_with("sextant_worker_prompt_cache_pending_bytes") && !line.ends_with(" 0")
        };
        let now = lines.join("\n");
        if now != last.0 || lines.iter().any(is_pending) {
            last = (now, Instant::now());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn kill(pid: u32) -> Result<()> {
    let status = program("kill", &["-KILL", &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot kill {pid}");
    Ok(())
}

fn worker_of(server: &Server) -> Result<u32> {
    let family = machine::family(server.pid())
        .into_iter()
        .map(|(pid, _)| pid);
    let is_worker = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command
            .split(|byte| *byte == 0)
            .any(|word| word == b"worker")
    };
    family
        .into_iter()
        .find(is_worker)
        .context("there is no worker")
}

fn until_ready(server: &Server) -> Result<()> {
    let start = Instant::now();
    while server.client.status("/ready") != Some(200) {
        if start.elapsed() > SETTLE_TIMEOUT {
            bail!("the worker does not come back: {}", server.log_tail());
        }
        sleep(Duration::from_millis(10));
    }
    // What a load leaves to do is no part of what is measured.
    sleep(SETTLED);
    Ok(())
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(model: &str, samples: &Samples, faults: &mut Vec<String>) -> String {
    let (cold, peer_cold) = (median(&samples.cold), median(&samples.peer_cold));
    let mut table = format!(
        "\n## {}\n\n| when | ms | share of cold | rounds, ms |\n|---|---:|---:|---|\n",
        model
    );
    let mut row = |name: &str, values: &[f64], cold: f64| {
        let share = median(values) / cold;
        let each: Vec<String> = values.iter().map(|value| format!("{value:.0}")).collect();
        let _ = writeln!(
            table,
            "| {name} | {:.0} | {:.1} % | {} |",
            median(values),
            100.0 * share,
            each.join(", ")
        );
        share
    };
    row("cold", &samples.cold, cold);
    row("again, nothing happened", &samples.live, cold);
    for (name, values) in [
        ("after `kill -9` of the worker", &samples.worker),
        ("after the model was unloaded and loaded", &samples.unloaded),
        (
            "after `kill -9` of the server, and a restart",
            &samples.server,
        ),
    ] {
        let share = row(name, values, cold);
        if share > SHARE_MAX {
            faults.push(format!("{}: {name}: {:.1} %", model, 100.0 * share));
        }
    }
    row("llama-server, cold", &samples.peer_cold, peer_cold);
    row(
        "llama-server, saved slot restored after a restart",
        &samples.peer_saved,
        peer_cold,
    );
    let n = samples.differing.len();
    let of = samples.worker.len() + samples.unloaded.len() + samples.server.len();
    let _ = writeln!(
        table,
        "\n{} of {of} answers were the uninterrupted one's.",
        of - n
    );
    if n > 0 {
        faults.push(format!(
            "{}: other answers after {:?}",
            model, samples.differing
        ));
    }
    table
}

/// Conversations with one system prompt: bytes stored, against one copy of it and the tails.
fn shared(
    (name, model): (&str, &Path),
    peer: &Peer,
    arguments: &Arguments,
    faults: &mut Vec<String>,
) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let setting = setting(model, arguments.threads, folder.path())?;
    let cache = folder.path().join("prompts");
    let server = start(&setting)?;
    let prompts = Prompts::new(server.client.clone());
    let system = prompts.text(SYSTEM_TOKENS, 9000)?;
    let tail = |at: usize| -> Result<Value> {
        let tail = prompts.text(TAIL_TOKENS, 9100 + at)?;
        Ok(format!("{system}\n{tail}").into())
    };
    let texts: Vec<Value> = (0..CONVERSATIONS).map(tail).collect::<Result<_>>()?;
    ask(&server, &system.as_str().into())?;
    settle(&server)?;
    let alone = bytes_in(&cache)?;
    for text in &texts {
        ask(&server, text)?;
    }
    settle(&server)?;
    let stored = bytes_in(&cache)?;
    drop(server);
    // What a token takes, from one prompt alone.
    let per_token = alone as f64 / SYSTEM_TOKENS as f64;
    let tails = (CONVERSATIONS * TAIL_TOKENS) as f64 * per_token;
    let ideal = alone as f64 + tails;
    let share = stored as f64 / ideal;
    if share > STORED_MAX {
        faults.push(format!("{}: {share:.2} times one copy is stored", name));
    }
    let theirs = peer_ram(peer, &setting, &texts)?;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    Ok(format!(
        "\n{CONVERSATIONS} conversations with one system prompt of {SYSTEM_TOKENS} tokens and \
         {TAIL_TOKENS} tokens of their own each:\n\n| stored | MiB | times one copy and the tails \
         |\n|---|---:|---:|\n| one copy and the tails | {:.1} | 1.00 |\n| Sextant, on disk | {:.1} \
         | {share:.2} |\n| llama-server, in memory | {} | {} |\n",
        mib(ideal),
        mib(stored as f64),
        theirs.map_or("not told".into(), |theirs| format!("{theirs:.1}")),
        theirs.map_or("".into(), |theirs| format!("{:.2}", theirs / mib(ideal))),
    ))
}

/// MiB that llama-server's cache in memory says it holds after the same conversations.
fn peer_ram(peer: &Peer, setting: &Setting, texts: &[Value]) -> Result<Option<f64>> {
    let server = Server::peer(peer, setting)?;
    for text in texts {
        ask(&server, text)?;
        // Something else in between, as other users' requests are.
        let other = "A few words of no importance, so that the slot is used by another prompt.";
        ask(&server, &other.into())?;
    }
    let log = server.log()?;
    let said = log.lines().rev().find(|line| line.contains("cache state:"));
    let held = said.and_then(|line| {
        let before = line.split(" MiB").next()?;
        before.split([' ', ',']).next_back()?.parse().ok()
    });
    Ok(held)
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for model in fs::read_dir(folder)?.flatten() {
        if model.file_type()?.is_dir() {
            for file in fs::read_dir(model.path())?.flatten() {
                bytes += file.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}
