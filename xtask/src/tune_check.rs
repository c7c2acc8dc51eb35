//! `sextant tune` against an exhaustive sweep: `cargo xtask tune-check`.
//!
//! Every point of a grid is measured with the tuner's own runs, then the tuner looks for the
//! best one, and in the end its choice, the sweep's and the defaults meet in fresh pairs. A
//! call makes the next part, and a sweep goes on where it was: so a machine that is quiet
//! only for minutes at a time will do. Writes `docs/benchmarks/tune.md` once all is there.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::shell::{self, program, root, sextant, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Axes of the grid, by their names in `sextant tune`.
const AXES: [&str; 7] = [
    "decode cores",
    "prefill cores",
    "flash attention",
    "KV types",
    "ubatch",
    "huge pages",
    "speculation",
];
/// Tokens of every run's prompt and answer.
const RUN_TOKENS: &str = "192:32";
/// The requests that are to be fast: as `--for chat`.
const WORKLOAD: [f64; 2] = [256.0, 256.0];
const PAIRS: usize = 12;
/// What is asked of the tuner.
const SLOWER_MAX: f64 = 0.05;
const TIME_SHARE_MAX: f64 = 0.1;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure for at most so long in this call.
    #[arg(long, default_value_t = 200)]
    seconds: u32,
    /// Throw away what earlier calls have measured.
    #[arg(long)]
    fresh: bool,
    /// Keep a core busy meanwhile, and check that the tuner leaves it out; nothing is written.
    #[arg(long)]
    busy_core: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = target_dir().join("tune-check");
    if arguments.fresh && folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    if arguments.busy_core {
        return busy_core(&folder);
    }
    for model in [&SMOLLM2, &GEMMA3] {
        let check = Check::new(model, &folder)?;
        if let Some(done) = check.next_part(arguments.seconds)? {
            println!("{}: {done}", model.file);
            return Ok(());
        }
    }
    let results = [&SMOLLM2, &GEMMA3].map(|model| Check::new(model, &folder)?.result());
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    let page = page(&results);
    fs::write(root().join("docs/benchmarks/tune.md"), &page)?;
    println!("{page}");
    for result in &results {
        result.check()?;
    }
    Ok(())
}

/// One model, and where its measurements are.
struct Check {
    model: &'static TestModel,
    path: PathBuf,
    folder: PathBuf,
}

impl Check {
    fn new(model: &'static TestModel, folder: &Path) -> Result<Self> {
        Ok(Self {
            model,
            path: models::ensure(model)?,
            folder: folder.to_owned(),
        })
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.model.file))
    }

    /// The tuner on this grid; what it keeps stays in the folder.
    fn tuner(&self) -> Command {
        let mut command = Command::new(sextant());
        command.arg("tune").arg(&self.path).arg("--json");
        command.args(["--run-tokens", RUN_TOKENS]);
        command.env("XDG_CACHE_HOME", self.folder.join("cache"));
        for axis in AXES {
            command.args(["--axes", axis]);
        }
        command
    }

    /// Makes what is missing next and says what it was; `None` if nothing is.
    fn next_part(&self, seconds: u32) -> Result<Option<String>> {
        let sweep = lines(&self.file("sweep"))?;
        let n_points = sweep.first().and_then(|point| point["of"].as_u64());
        let from = sweep.len();
        if n_points.is_none_or(|n_points| (from as u64) < n_points) {
            let asked = format!("{from}:{seconds}");
            let text = shell::output(self.tuner().args(["--sweep", &asked]))?;
            append(&self.file("sweep"), &text)?;
            let n_now = lines(&self.file("sweep"))?.len();
            return Ok(Some(format!("{n_now} points of the sweep are measured")));
        }
        if !self.file("tune").exists() {
            let text = shell::output(&mut self.tuner())?;
            fs::write(self.file("tune"), text)?;
            return Ok(Some("tuned".to_owned()));
        }
        for (kind, places) in self.duels()? {
            if !self.file(kind).exists() {
                let asked = format!("{}:{}:{PAIRS}", places[0], places[1]);
                let text = shell::output(self.tuner().args(["--duel", &asked]))?;
                fs::write(self.file(kind), text)?;
                return Ok(Some(format!("compared: {kind}")));
            }
        }
        Ok(None)
    }

    /// The tuner's choice against the sweep's, and against the defaults.
    fn duels(&self) -> Result<[(&'static str, [usize; 2]); 2]> {
        let chosen = self.tuned()?["point"]
            .as_u64()
            .context("no point was chosen")?;
        let chosen = usize::try_from(chosen)?;
        let best = best(&lines(&self.file("sweep"))?)?;
        Ok([("best", [chosen, best]), ("defaults", [chosen, 0])])
    }

    fn tuned(&self) -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(
            self.file("tune"),
        )?)?)
    }

    fn result(&self) -> Result<Outcome> {
        let sweep = lines(&self.file("sweep"))?;
        let tuned = self.tuned()?;
        let [(_, [chosen, best]), _] = self.duels()?;
        let seconds = sweep.iter().filter_map(|point| point["seconds"].as_f64());
        let labels = |place: usize| {
            let levels = sweep[place]["levels"].as_array().into_iter().flatten();
            let levels: Vec<_> = levels.filter_map(Value::as_str).collect();
            levels.join("; ")
        };
        Ok(Outcome {
            model: self.model.file,
            n_points: sweep.len(),
            sweep_seconds: seconds.sum(),
            tune_seconds: tuned["spent_seconds"].as_f64().context("no time")?,
            verdict: verdict(&tuned),
            best: labels(best),
            chosen: labels(chosen),
            against_best: ratios(&lines(&self.file("best"))?)?,
            against_defaults: ratios(&lines(&self.file("defaults"))?)?,
        })
    }
}

fn lines(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is broken", file.display()))
}

fn append(file: &Path, text: &str) -> Result<()> {
    let mut all = fs::read_to_string(file).unwrap_or_default();
    all.push_str(text);
    Ok(fs::write(file, all)?)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn request_seconds(prefill: f64, decode: f64) -> f64 {
    WORKLOAD[0] * prefill + WORKLOAD[1] * decode
}

/// The place of the point with the least median time of a request.
fn best(sweep: &[Value]) -> Result<usize> {
    let time = |point: &Value| {
        let samples = point["samples"].as_array().into_iter().flatten();
        let times = samples
            .filter_map(|sample| Some(request_seconds(sample[0].as_f64()?, sample[1].as_f64()?)));
        median(times.collect())
    };
    let places = sweep.iter().enumerate();
    let best = places.min_by(|(_, a), (_, b)| time(a).total_cmp(&time(b)));
    Ok(best.context("the sweep is empty")?.0)
}

/// Ratios of speeds of a duel's pairs, the first side's by the other's: the median, and the
/// second least and greatest, between which the median lies with a confidence of 99 %.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ratios {
    middle: f64,
    low: f64,
    high: f64,
}

fn ratios(duel: &[Value]) -> Result<Ratios> {
    let mut ratios = Vec::new();
    for pair in duel.chunks(2) {
        let time = |side: u64| -> Result<f64> {
            let line = pair.iter().find(|line| line["side"] == side);
            let line = line.context("half a pair")?;
            let number = |name: &str| line[name].as_f64().context("no time");
            Ok(request_seconds(number("prefill")?, number("decode")?))
        };
        ratios.push(time(1)? / time(0)?);
    }
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    if n < 4 {
        bail!("{n} pairs are too few");
    }
    Ok(Ratios {
        middle: f64::midpoint(ratios[(n - 1) / 2], ratios[n / 2]),
        low: ratios[1],
        high: ratios[n - 2],
    })
}

fn verdict(tuned: &Value) -> String {
    let gain = &tuned["gain"];
    match (tuned["keeps_defaults"].as_bool(), gain["ratio"].as_f64()) {
        (Some(false), Some(ratio)) => format!("{:+.1} % over the defaults", 100.0 * (ratio - 1.0)),
        (_, Some(_)) => "the defaults stay, the best other is within noise".to_owned(),
        _ => "the defaults stay, nothing was faster".to_owned(),
    }
}

struct Outcome {
    model: &'static str,
    n_points: usize,
    sweep_seconds: f64,
    tune_seconds: f64,
    verdict: String,
    best: String,
    chosen: String,
    against_best: Ratios,
    against_defaults: Ratios,
}

impl Outcome {
    fn time_share(&self) -> f64 {
        self.tune_seconds / self.sweep_seconds
    }

    fn check(&self) -> Result<()> {
        if self.against_best.middle < 1.0 - SLOWER_MAX {
            bail!("{}: the sweep found more than 5 % better", self.model);
        }
        if self.time_share() > TIME_SHARE_MAX {
            bail!(
                "{}: the tuner took more than a tenth of the sweep",
                self.model
            );
        }
        Ok(())
    }
}

fn page(results: &[Outcome]) -> String {
    let mut text = format!(
        "# The tuner against an exhaustive sweep\n\n\
         Written by `cargo xtask tune-check` on {}. Sextant {}.\nRuns read {} tokens and \
         generate {} (`N:M`), weighed as requests of {} and {}; the sweep makes three of each \
         point,\n`sextant tune` has its usual 60 seconds, default settings otherwise. Axes: \
         {}.\nThe two choices then met in {PAIRS} fresh pairs, in turn (A B B A): ratio of \
         speeds, with the interval that has the median with a\nconfidence of 99 %. Above 1 the \
         tuner's choice is faster.\n\n\
         | model | points | sweep, s | tune, s | share | against the sweep's best | against \
         the defaults |\n|---|---:|---:|---:|---:|---:|---:|\n",
        machine::cpu(),
        env!("CARGO_PKG_VERSION"),
        RUN_TOKENS.split(':').next().unwrap_or_default(),
        RUN_TOKENS.split(':').nth(1).unwrap_or_default(),
        WORKLOAD[0],
        WORKLOAD[1],
        AXES.join(", "),
    );
    let told = |of: Ratios| format!("{:.3} ({:.3} to {:.3})", of.middle, of.low, of.high);
    for one in results {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.1} % | {} | {} |",
            one.model,
            one.n_points,
            one.sweep_seconds,
            one.tune_seconds,
            100.0 * one.time_share(),
            told(one.against_best),
            told(one.against_defaults)
        );
    }
    for one in results {
        let _ = writeln!(
            text,
            "\n{}: {}.\n\n- the sweep's best: {}\n- the tuner's choice: {}",
            one.model, one.verdict, one.best, one.chosen
        );
    }
    text
}

/// A process that keeps a core busy; dropping it ends it.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn busy_core(folder: &Path) -> Result<()> {
    let check = Check::new(&SMOLLM2, folder)?;
    let last = std::thread::available_parallelism()?.get() - 1;
    let core = last.to_string();
    let mut command = program("taskset", &["-c", &core, "sh", "-c", "while :; do :; done"]);
    let _busy = Busy(
        command
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start taskset")?,
    );
    let mut tuner = Command::new(sextant());
    tuner
        .arg("tune")
        .arg(&check.path)
        .args(["--json", "--keep"]);
    tuner.args(["--axes", AXES[0], "--axes", AXES[1]]);
    tuner.env("XDG_CACHE_HOME", folder.join("busy-cache"));
    let tuned: Value = serde_json::from_str(&shell::output(&mut tuner)?)?;
    println!("{tuned:#}");
    let settings = &tuned["settings"];
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
    println!("core {core} was busy, and is left out: {settings}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_best_point_has_the_least_median() {
        let point = |times: [f64; 3]| json!({ "samples": times.map(|time| [time, time]) });
        let sweep = [
            point([3.0, 1.0, 3.0]),
            point([2.0, 9.0, 2.0]),
            point([4.0; 3]),
        ];
        assert_eq!(best(&sweep).unwrap(), 1);
    }

    #[test]
    fn ratios_are_of_speeds() {
        let duel: Vec<Value> = (0..12)
            .flat_map(|pair| {
                let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
                order.map(|side| json!({ "side": side, "prefill": 0, "decode": 1 + side }))
            })
            .collect();
        let ratios = ratios(&duel).unwrap();
        assert!(
            (ratios.middle - 2.0).abs() < 1e-9,
            "the first takes half as long"
        );
    }
}
