//! `sextant tune` against an exhaustive sweep: `cargo xtask tune-check`.
//!
//! Every point of a grid is measured with the tuner's own runs, several times, each time in
//! another order; the best few then meet in rounds of their own, so that the sweep's best is no
//! accident of one moment. Then the tuner looks for the best point, several times, each time in
//! a tenth of what the sweep took; right after it its choice, the sweep's and the defaults meet
//! in fresh rounds, and only these decide.
//!
//! A call measures for `--seconds` and goes on where the last one was stopped, so a machine that
//! is quiet only for minutes at a time will do; how much there is to measure is said before.
//! Writes `docs/benchmarks/tune.md` once all of a model is there.

mod check;
mod judge;
mod report;

use self::check::{AXES, Check, Clock};
use self::report::Outcome;
use crate::models::{GEMMA3, SMOLLM2};
use crate::shell::{self, program, root, sextant, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure for at most about so long in this call; 0 only says how much there is to do.
    #[arg(long, default_value_t = 200)]
    seconds: u32,
    /// Throw away what earlier calls have measured.
    #[arg(long)]
    fresh: bool,
    /// Tune with a core kept busy and without, and check that the tuner leaves it out.
    #[arg(long)]
    busy_core: bool,
    /// Only models whose file names begin so, in small or large letters: `smollm2`, `gemma`.
    #[arg(long, default_value = "")]
    model: String,
    /// How often the tuner is let loose on each model.
    #[arg(long, default_value_t = 3)]
    tunings: usize,
    /// Only these axes, to try the check itself: the page is shown and not written.
    #[arg(long)]
    axis: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = target_dir().join(match arguments.axis.is_empty() {
        true => "tune-check",
        false => "tune-check-trial",
    });
    if arguments.fresh && folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    if arguments.busy_core {
        return busy_core(&folder);
    }
    let wanted = arguments.model.to_lowercase();
    let axes = match arguments.axis.as_slice() {
        [] => AXES.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    let check = |model| Check::new(model, &folder, (axes.clone(), arguments.tunings));
    let all = [&SMOLLM2, &GEMMA3].map(check);
    let all = all.into_iter().collect::<Result<Vec<_>>>()?;
    let is_wanted = |check: &&Check| check.model.file.to_lowercase().starts_with(&wanted);
    let chosen: Vec<&Check> = all.iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        bail!("`--model` is `{wanted}`; it must be the beginning of `smollm2` or `gemma`");
    }
    for check in &chosen {
        println!("{}: {}", check.model.file, check.told()?);
    }
    let mut clock = Clock::new(arguments.seconds);
    let mut is_done = true;
    for check in &chosen {
        is_done = check.make(&mut clock)?;
        if !is_done {
            break;
        }
    }
    show_page(&all, &folder, arguments.axis.is_empty())?;
    if !is_done {
        println!("the same command goes on where this one has stopped");
        return Ok(());
    }
    for check in &chosen {
        let outcome = Outcome::of(check)?.context("nothing was judged")?;
        outcome.check()?;
    }
    Ok(())
}

/// The page of all that was judged so far; written where all axes were tried.
fn show_page(all: &[Check], folder: &Path, is_whole: bool) -> Result<()> {
    let outcomes = all.iter().map(Outcome::of);
    let outcomes: Vec<Option<Outcome>> = outcomes.collect::<Result<_>>()?;
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    if outcomes.is_empty() {
        return Ok(());
    }
    let page = report::page(&outcomes, &busy_results(folder)?);
    if is_whole {
        fs::write(root().join("docs/benchmarks/tune.md"), &page)?;
    }
    println!("{page}");
    Ok(())
}

/// A process that keeps a core busy; dropping it ends it.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `--busy-core` has kept.
fn busy_results(folder: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(folder.join("busy")).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().context("`busy` is broken")
}

fn busy_core(folder: &Path) -> Result<()> {
    let check = Check::new(&SMOLLM2, folder, (Vec::new(), 0))?;
    let last = std::thread::available_parallelism()?.get() - 1;
    let core = last.to_string();
    let quiet = tune_cores(&check, None)?;
    let busy = tune_cores(&check, Some(&core))?;
    fs::write(folder.join("busy"), format!("{quiet}\n{busy}\n"))?;
    let settings = &busy["settings"];
    for name in ["cpus", "cpus_batch"] {
        let cpus = settings[name].as_str().unwrap_or("anywhere");
        let uses = cpus.split(',').any(|part| match part.split_once('-') {
            Some((_, end)) => end == core,
            None => part == core,
        });
        if uses || cpus == "anywhere" {
            bail!("{name} is {cpus}, and core {core} is busy");
        }
    }
    println!("without: {}", quiet["settings"]);
    println!("core {core} was busy, and is left out: {settings}");
    Ok(())
}

/// Tunes the cores alone, with one of them kept busy meanwhile.
fn tune_cores(check: &Check, busy: Option<&str>) -> Result<Value> {
    let keep_busy = |core: &str| {
        let script = "while :; do :; done";
        let mut command = program("taskset", &["-c", core, "sh", "-c", script]);
        let child = command.stdout(Stdio::null()).spawn();
        child.map(Busy).context("cannot start taskset")
    };
    let _busy = busy.map(keep_busy).transpose()?;
    let mut tuner = Command::new(sextant());
    tuner
        .arg("tune")
        .arg(&check.path)
        .args(["--json", "--keep"]);
    tuner.args(["--axes", AXES[0], "--axes", AXES[1]]);
    tuner.env("XDG_CACHE_HOME", check.folder.join("busy-cache"));
    let tuned: Value = serde_json::from_str(&shell::output(&mut tuner)?)?;
    Ok(serde_json::json!({
        "busy": busy,
        "settings": tuned["settings"],
        "verdict": report::verdict(&tuned),
    }))
}
