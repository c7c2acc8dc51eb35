//! One figure: a process of `llama-bench`.

use super::cases::{Case, Crowd, Work};
use crate::shell::program;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A program, and what it computes with.
pub(super) struct Side {
    pub(super) what: &'static str,
    pub(super) program: PathBuf,
    /// Ours, where it is to be loaded.
    pub(super) plugin: Option<PathBuf>,
    pub(super) isa: Option<String>,
}

/// What one process showed.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(super) struct Sample {
    pub(super) tokens_s: f64,
    /// From the start of the process to its end.
    pub(super) seconds: f64,
    /// The median of what was resident in the second half of its life, with the model loaded.
    pub(super) resident_bytes: u64,
}

/// Of several processes at once the speeds and the memory are added up.
pub(super) fn take(side: &Side, model: &Path, case: &Case, threads: u32) -> Result<Sample> {
    let threads = case.crowd.threads(threads);
    let is_over = AtomicBool::new(false);
    let samples = std::thread::scope(|scope| {
        if case.crowd == Crowd::Busy {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::black_box(0);
                }
            });
        }
        let take = |_| scope.spawn(move || take_one(side, model, case, threads));
        let running: Vec<_> = (0..case.crowd.processes()).map(take).collect();
        let joined = running.into_iter().map(|process| {
            let sample = process.join();
            sample.unwrap_or_else(|_| bail!("a thread of the bench panicked"))
        });
        let samples = joined.collect::<Result<Vec<_>>>();
        is_over.store(true, Ordering::Relaxed);
        samples
    })?;
    Ok(Sample {
        tokens_s: samples.iter().map(|sample| sample.tokens_s).sum(),
        seconds: samples
            .iter()
            .fold(0.0, |most, sample| sample.seconds.max(most)),
        resident_bytes: samples.iter().map(|sample| sample.resident_bytes).sum(),
    })
}

fn take_one(side: &Side, model: &Path, case: &Case, threads: u32) -> Result<Sample> {
    let (prompt, answer) = match case.work {
        Work::Load => (1, 0),
        Work::Prefill(tokens) => (tokens, 0),
        Work::Decode(tokens) => (0, tokens),
    };
    let cache = match side.plugin {
        Some(_) => case.cache,
        None => ["f16", "f16"],
    };
    let mut command = program(&side.program, &["-o", "json", "-m"]);
    command.arg(model);
    match case.work {
        Work::Load => command.args(["-r", "1", "--no-warmup"]),
        Work::Prefill(_) | Work::Decode(_) => command.args(["-r", "2"]),
    };
    for (flag, value) in [
        ("-p", prompt),
        ("-n", answer),
        ("-d", case.depth),
        ("-t", threads),
    ] {
        command.args([flag, &value.to_string()]);
    }
    command.args(["-ctk", cache[0], "-ctv", cache[1]]);
    if let Some(plugin) = &side.plugin {
        command.env("GGML_BACKEND_PATH", plugin);
    }
    if let Some(isa) = &side.isa {
        command.env("GGML_SEXTANT_ISA", isa);
    }
    let start = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", side.program.display()))?;
    let (printed, resident_bytes) = watch(child)?;
    let seconds = start.elapsed().as_secs_f64();
    let runs: Value = serde_json::from_str(&printed)
        .with_context(|| format!("{} printed {printed:?}", side.program.display()))?;
    let run = &runs[0];
    let has_ours = run["backends"]
        .as_str()
        .unwrap_or_default()
        .contains("Sextant");
    ensure!(
        has_ours == side.plugin.is_some(),
        "{} computed with {}",
        side.program.display(),
        run["backends"]
    );
    Ok(Sample {
        tokens_s: run["avg_ts"].as_f64().context("no speed")?,
        seconds,
        resident_bytes,
    })
}

/// What the program printed, and the memory that it had once it had loaded.
fn watch(mut child: Child) -> Result<(String, u64)> {
    const GLANCE: Duration = Duration::from_millis(20);
    const MAX: Duration = Duration::from_secs(600);
    let (start, mut glances) = (Instant::now(), Vec::new());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > MAX {
            child.kill()?;
            bail!("llama-bench took more than {} s", MAX.as_secs());
        }
        glances.push(resident_bytes(child.id()));
        std::thread::sleep(GLANCE);
    };
    let printed = std::io::read_to_string(child.stdout.take().context("no output")?)?;
    ensure!(
        status.success(),
        "llama-bench ended with {status}: {printed}"
    );
    let mut late = glances.split_off(glances.len() / 2);
    late.sort_unstable();
    Ok((printed, late.get(late.len() / 2).copied().unwrap_or(0)))
}

/// What the process has resident; 0 where it is gone.
fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
