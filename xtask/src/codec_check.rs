//! What it saves and loses to keep states in fewer bytes: `cargo xtask codec-check`.
//!
//! `sextant kv compare` tells what is lost, with live types beside it; servers whose cache keeps
//! prompts at several levels tell what a prompt costs after a restart; and what is kept as it is
//! goes through zstd.

use crate::bench::machine;
use crate::bench::prompt::Prompts;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::prefix_check::{ask, kill, median, setting, settle, start};
use crate::shell::{self, program, root, sextant};
use anyhow::{Context, Result, ensure};
use prefix::record::HEADER_BYTES;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Live types, levels of the codec, and the published quantiser.
const PLANS: [&str; 12] = [
    "q8_0",
    "q5_0",
    "q4_0",
    "parked:lossless",
    "parked:8bit",
    "parked:6bit",
    "parked:5bit",
    "parked:4bit",
    "parked:3bit",
    "turboquant:4",
    "turboquant:3",
    "turboquant:2",
];
/// As `kv compare` calls it.
const LIVE: &str = "k=q4_0,v=q4_0";
const SERVED: [&str; 5] = ["none", "lossless", "6bit", "5bit", "4bit"];
const PREFIX_TOKENS: usize = 4000;
/// Of so many blocks one goes through zstd: its highest levels take seconds for a megabyte.
const SAMPLE: usize = 8;
const ZSTD_LEVELS: [i32; 2] = [3, 19];
/// What a level must come to, of f16, to lose no more than live types of 4 bits.
const SHARE_MAX: f64 = 0.25;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 2)]
    threads: u32,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 64)]
    pieces: u32,
    /// Only models whose file name contains this text; nothing is written then.
    #[arg(long)]
    only: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut page = format!(
        "# Keeping states in fewer bytes\n\nWritten by `cargo xtask codec-check`, with {} threads; \
         {}. KLD is the divergence from f16 in nats, over the\nsecond half of pieces of 512 tokens \
         of the text of `sextant kv compare`, with one standard error over pieces;\nthe floor is f16 \
         with the last bit of half of its numbers changed. Of levels and of TurboQuant all that is\n\
         looked back at was encoded and decoded, in blocks of 32 tokens; a live type rounds what it is \
         given. Saving\nand loading are times of one thread, as shares of the time that reading the \
         same tokens takes with all threads.\n",
        arguments.threads,
        machine::cpu(),
    );
    let mut faults = Vec::new();
    let wanted = |model: &&TestModel| match &arguments.only {
        Some(part) => model.file.contains(part),
        None => true,
    };
    for model in [&SMOLLM2, &GEMMA3].into_iter().filter(wanted) {
        let _ = writeln!(page, "\n## {}", model.file.trim_end_matches(".gguf"));
        let served = served(model, arguments, &mut faults)?;
        lost(model, arguments, (&served, &mut page, &mut faults))?;
        restarts(&served, &mut page);
    }
    println!("{page}");
    if arguments.only.is_none() {
        let file = root().join("docs/benchmarks/codec.md");
        fs::write(&file, page)?;
        println!("written: {}", file.display());
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// What a server with a level did.
struct Served {
    level: &'static str,
    cold_ms: Vec<f64>,
    warm_ms: Vec<f64>,
    /// On disk, after one prompt.
    bytes: u64,
    /// Of what is kept as it is: the share that each of [`ZSTD_LEVELS`] leaves.
    zstd: Vec<f64>,
}

fn served(
    model: &TestModel,
    arguments: &Arguments,
    faults: &mut Vec<String>,
) -> Result<Vec<Served>> {
    let file = models::ensure(model)?;
    let mut all = Vec::new();
    for level in SERVED {
        let mut of_level = Served {
            level,
            cold_ms: Vec::new(),
            warm_ms: Vec::new(),
            bytes: 0,
            zstd: Vec::new(),
        };
        for round in 0..arguments.rounds {
            let folder = tempfile::tempdir()?;
            let mut setting = setting(&file, arguments.threads, folder.path())?;
            let flags = ["--prompt-cache-codec", level];
            setting.our_flags.extend(flags.map(str::to_owned));
            let server = start(&setting)?;
            let prompts = Prompts::new(server.client.clone());
            let prompt = prompts.text(PREFIX_TOKENS, 9000 + round)?.into();
            let cold = ask(&server, &prompt)?;
            settle(&server)?;
            let kept = kept(&folder.path().join("prompts"))?;
            kill(server.pid())?;
            drop(server);
            let server = start(&setting)?;
            let warm = ask(&server, &prompt)?;
            if warm.restored == 0 {
                faults.push(format!("{}: {level}: nothing was restored", model.file));
            }
            if ["none", "lossless"].contains(&level) && warm.text != cold.text {
                faults.push(format!("{}: {level}: another answer", model.file));
            }
            of_level.cold_ms.push(cold.first_ms);
            of_level.warm_ms.push(warm.first_ms);
            of_level.bytes = kept.iter().map(|(_, bytes)| bytes).sum();
            if level == "none" && round == 0 {
                of_level.zstd = zstd_shares(&kept)?;
            }
        }
        all.push(of_level);
    }
    Ok(all)
}

/// The files of all entries, and their bytes behind the header.
fn kept(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for model in fs::read_dir(folder)? {
        let model = model?.path();
        if !model.is_dir() {
            continue;
        }
        for file in fs::read_dir(model)? {
            let file = file?;
            let bytes = file.metadata()?.len().saturating_sub(HEADER_BYTES as u64);
            files.push((file.path(), bytes));
        }
    }
    files.sort();
    Ok(files)
}

fn zstd_shares(kept: &[(PathBuf, u64)]) -> Result<Vec<f64>> {
    let contents: std::io::Result<Vec<Vec<u8>>> = kept
        .iter()
        .step_by(SAMPLE)
        .map(|(path, _)| fs::read(path))
        .collect();
    let contents = contents?;
    let contents: Vec<&[u8]> = contents
        .iter()
        .filter_map(|file| file.get(HEADER_BYTES..))
        .collect();
    let all: usize = contents.iter().map(|content| content.len()).sum();
    let share = |level: i32| {
        let compressed = contents
            .iter()
            .map(|content| Ok(zstd::bulk::compress(content, level)?.len()));
        let left: Result<usize> = compressed.sum();
        Ok(left? as f64 / all.max(1) as f64)
    };
    ZSTD_LEVELS.into_iter().map(share).collect()
}

/// The table of what is lost.
fn lost(
    model: &TestModel,
    arguments: &Arguments,
    (served, page, faults): (&[Served], &mut String, &mut Vec<String>),
) -> Result<()> {
    let path = models::ensure(model)?;
    let mut command = program(sextant(), &["kv", "compare", "--json"]);
    command.arg(&path);
    command.args(["--threads", &arguments.threads.to_string()]);
    command.args(["--pieces", &arguments.pieces.to_string()]);
    for plan in PLANS {
        command.args(["--plan", plan]);
    }
    let report: Value = serde_json::from_str(&shell::output(&mut command)?)?;
    let rows = report["rows"].as_array().context("no rows")?;
    let of = |row: &Value, name: &str| row[name].as_f64();
    let base = rows.first().context("no base")?;
    let whole = of(base, "token_bytes").context("no bytes of f16")?;
    let pace = of(base, "prefill_tps").context("no speed of f16")?;
    let floor = rows.iter().find(|row| row["kind"] == "floor");
    let floor = floor.and_then(|row| row["divergence"]["kld_mean"].as_f64());
    let _ = write!(
        page,
        "\n{} positions in {} pieces; f16 takes {whole} bytes a token.\n\n| kept as | bytes a token | \
         of f16 | saving | loading | mean KLD | above floor | 99.9 % | same first token \
         |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        report["positions"], report["pieces"],
    );
    for row in &rows[1..] {
        let share = |name: &str| {
            let share = of(row, name).map(|tps| format!("{:.1} %", 100.0 * pace / tps));
            share.unwrap_or_else(|| "-".into())
        };
        let lost = |name: &str| row["divergence"][name].as_f64().unwrap_or(f64::NAN);
        let is_floor = row["kind"] == "floor";
        let name = if is_floor {
            "floor"
        } else {
            row["plan"].as_str().unwrap_or("")
        };
        let bytes = of(row, "token_bytes").unwrap_or(f64::NAN);
        let _ = writeln!(
            page,
            "| {name} | {bytes:.0} | {:.3} | {} | {} | {:.5} ± {:.5} | {:.5} | {:.3} | {:.2} % |",
            bytes / whole,
            share("save_tps"),
            share("load_tps"),
            lost("kld_mean"),
            lost("kld_mean_error"),
            lost("kld_mean") - floor.unwrap_or(f64::NAN),
            lost("kld_p999"),
            100.0 * lost("top1"),
        );
    }
    let zstd = served.iter().flat_map(|of| &of.zstd);
    for (level, share) in ZSTD_LEVELS.iter().zip(zstd.clone()) {
        let _ = writeln!(
            page,
            "| f16, zstd -{level} | {:.0} | {share:.3} | - | - | 0 | - | 0 | 100 % |",
            share * whole
        );
    }
    goals(model, (rows, whole), (zstd.copied(), faults));
    Ok(())
}

/// A quarter of f16 at no more than live types of 4 bits lose, and smaller than zstd without a loss.
fn goals(
    model: &TestModel,
    (rows, whole): (&[Value], f64),
    (zstd, faults): (impl Iterator<Item = f64>, &mut Vec<String>),
) {
    let row = |name: &str| rows.iter().find(|row| row["plan"] == name);
    let number =
        |row: Option<&Value>, of: fn(&Value) -> Option<f64>| row.and_then(of).unwrap_or(f64::NAN);
    let kld = |row: &Value| row["divergence"]["kld_mean"].as_f64();
    let bytes = |row: &Value| row["token_bytes"].as_f64();
    let live = number(row(LIVE), kld);
    let is_good = |row: &Value| {
        let is_level = row["plan"]
            .as_str()
            .is_some_and(|plan| plan.starts_with("parked:"));
        let share = number(Some(row), bytes) / whole;
        is_level && share <= SHARE_MAX && number(Some(row), kld) <= live
    };
    if !rows.iter().any(is_good) {
        faults.push(format!(
            "{}: no level takes a quarter of f16 and loses no more than {LIVE}",
            model.file
        ));
    }
    let lossless = row("parked:lossless");
    if number(lossless, kld) != 0.0 {
        faults.push(format!("{}: lossless loses something", model.file));
    }
    let share = number(lossless, bytes) / whole;
    let best = zstd.fold(f64::INFINITY, f64::min);
    // Not below, or not known.
    if share.partial_cmp(&best) != Some(std::cmp::Ordering::Less) {
        faults.push(format!(
            "{}: lossless takes {share:.3} of f16, zstd {best:.3}",
            model.file
        ));
    }
}

fn restarts(served: &[Served], page: &mut String) {
    let _ = write!(
        page,
        "\nTime to the first token of a prompt of {PREFIX_TOKENS} tokens, before and after the server \
         was killed and started again; median of the\nrounds; what `prompt_cache_codec` was set to, \
         and the bytes of all entries on disk.\n\n| codec | cold, ms | after a restart, ms | share | \
         bytes on disk |\n|---|---:|---:|---:|---:|\n"
    );
    for of in served {
        let (cold, warm) = (median(&of.cold_ms), median(&of.warm_ms));
        let _ = writeln!(
            page,
            "| {} | {cold:.0} | {warm:.0} | {:.1} % | {} |",
            of.level,
            100.0 * warm / cold,
            of.bytes,
        );
    }
}
