//! `sextant tune` against an exhaustive sweep: `cargo xtask tune-check`.
//!
//! Every point of a grid is measured with the tuner's own runs. Then the tuner looks for the
//! best one, several times, each time in a tenth of what the sweep took; right after it its
//! choice, the sweep's and the defaults meet in fresh rounds, and only these decide: the
//! greatest of many noisy figures is greater than what it stands for. A call makes the next
//! part, and a sweep goes on where it was: so a machine that is quiet only for minutes at a
//! time will do. Writes `docs/benchmarks/tune.md` once all of a model is there.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::shell::{self, program, root, sextant, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

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
/// Fresh rounds, so many at a time, until their interval is on one side of what is asked for.
const ROUNDS: usize = 12;
const ROUNDS_MAX: usize = 60;
/// One minus the confidence of an interval.
const DOUBT: f64 = 0.01;
/// How often the tuner is let loose.
const TUNINGS: usize = 3;
/// What is asked of the tuner.
const SLOWER_MAX: f64 = 0.05;
const TIME_SHARE_MAX: f64 = 0.1;
/// What the tuner is given of the sweep's time; the rest is for starting and ending it.
const BUDGET_SHARE: f64 = 0.09;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure for at most so long in this call.
    #[arg(long, default_value_t = 200)]
    seconds: u32,
    /// Throw away what earlier calls have measured.
    #[arg(long)]
    fresh: bool,
    /// Tune with a core kept busy and without, and check that the tuner leaves it out.
    #[arg(long)]
    busy_core: bool,
    /// Only models whose file names begin so.
    #[arg(long, default_value = "")]
    only: String,
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
    let models = [&SMOLLM2, &GEMMA3].into_iter();
    let models: Vec<_> = models
        .filter(|model| model.file.starts_with(&arguments.only))
        .collect();
    if models.is_empty() {
        bail!(
            "`--only` is `{}`; no model's file begins so",
            arguments.only
        );
    }
    for model in &models {
        let check = Check::new(model, &folder)?;
        if let Some(done) = check.next_part(arguments.seconds)? {
            println!("{}: {done}", model.file);
            return Ok(());
        }
    }
    let results = models
        .iter()
        .map(|model| Check::new(model, &folder)?.result());
    let results = results.collect::<Result<Vec<_>>>()?;
    let page = page(&results, &busy_results(&folder)?);
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
        let started = Instant::now();
        for number in 0..TUNINGS {
            let file = self.file(&format!("tune.{number}"));
            let told = format!("tuning {} of {TUNINGS}", number + 1);
            if !file.exists() {
                fs::write(&file, self.tune(&sweep)?.to_string())?;
            }
            let mut run: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
            let mut has_more = false;
            while let Some(places) = open_places(&run, best(&sweep)?)? {
                if started.elapsed().as_secs() > u64::from(seconds) {
                    return Ok(Some(format!("{told}, some rounds")));
                }
                self.rounds(&mut run, &places)?;
                fs::write(&file, run.to_string())?;
                has_more = true;
            }
            if has_more {
                return Ok(Some(told));
            }
        }
        Ok(None)
    }

    fn tune(&self, sweep: &[Value]) -> Result<Value> {
        let budget = (BUDGET_SHARE * sweep_seconds(sweep)).floor().max(5.0);
        let before = machine::Ticks::read();
        let started = Instant::now();
        let budget = budget.to_string();
        let text = shell::output(self.tuner().args(["--budget", &budget]))?;
        let tuned: Value = serde_json::from_str(&text)?;
        Ok(serde_json::json!({
            "seconds": started.elapsed().as_secs_f64(),
            "tuned": tuned,
            "stolen": machine::Ticks::read().stolen_percent_since(&before),
            "rounds": [],
        }))
    }

    /// Some more fresh rounds.
    fn rounds(&self, run: &mut Value, places: &[usize]) -> Result<()> {
        let asked: Vec<String> = places.iter().map(usize::to_string).collect();
        let asked = format!("{ROUNDS}:{}", asked.join(":"));
        let text = shell::output(self.tuner().args(["--rounds", &asked]))?;
        let more: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let rounds = run["rounds"].as_array_mut().context("no rounds")?;
        rounds.extend(more?);
        Ok(())
    }

    fn result(&self) -> Result<Outcome> {
        let sweep = lines(&self.file("sweep"))?;
        let best = best(&sweep)?;
        let labels = |place: usize| {
            let levels = sweep[place]["levels"].as_array().into_iter().flatten();
            let levels: Vec<_> = levels.filter_map(Value::as_str).collect();
            levels.join("; ")
        };
        let tunings = (0..TUNINGS).map(|number| {
            let text = fs::read_to_string(self.file(&format!("tune.{number}")))?;
            let run: Value = serde_json::from_str(&text)?;
            let chosen = run["tuned"]["point"].as_u64().context("no point")?;
            let chosen = usize::try_from(chosen)?;
            let rounds = run["rounds"].as_array().cloned().unwrap_or_default();
            let number = |value: &Value| value.as_f64().context("no number");
            Ok(Tuning {
                seconds: number(&run["seconds"])?,
                noise: number(&run["tuned"]["noise"])?,
                stolen: number(&run["stolen"])?,
                verdict: verdict(&run["tuned"]),
                chosen: labels(chosen),
                against_best: ratios(&rounds, chosen, best)?,
                against_defaults: ratios(&rounds, chosen, 0)?,
            })
        });
        Ok(Outcome {
            model: self.model.file,
            n_points: sweep.len(),
            sweep_seconds: sweep_seconds(&sweep),
            best: labels(best),
            tunings: tunings.collect::<Result<_>>()?,
        })
    }
}

/// The points that must meet in more rounds before a tuning can be judged.
fn open_places(run: &Value, best: usize) -> Result<Option<Vec<usize>>> {
    let chosen = run["tuned"]["point"].as_u64().context("no point")?;
    let chosen = usize::try_from(chosen)?;
    let mut places = vec![chosen];
    for place in [best, 0] {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let rounds = run["rounds"].as_array().context("no rounds")?;
    let n = rounds.len() / places.len();
    let is_open = match n {
        _ if places.len() == 1 => false,
        0 => true,
        n => {
            let of = ratios(rounds, chosen, best)?;
            let asked = 1.0 - SLOWER_MAX;
            n < ROUNDS_MAX && of.low < asked && asked <= of.high
        }
    };
    Ok(is_open.then_some(places))
}

fn sweep_seconds(sweep: &[Value]) -> f64 {
    sweep
        .iter()
        .filter_map(|point| point["seconds"].as_f64())
        .sum()
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

/// Ratios of speeds of two points over rounds: the median, and an interval that has it with
/// a confidence of 99 %, by order statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ratios {
    n: usize,
    middle: f64,
    low: f64,
    high: f64,
}

/// Ratios of the speeds of a point by those of another. A point is as fast as it is.
fn ratios(rounds: &[Value], point: usize, other: usize) -> Result<Ratios> {
    let times = |place: usize| -> Vec<f64> {
        let lines = rounds.iter().filter(|line| line["point"] == place);
        let times = lines.filter_map(|line| {
            let number = |name: &str| line[name].as_f64();
            Some(request_seconds(number("prefill")?, number("decode")?))
        });
        times.collect()
    };
    if point == other {
        return Ok(Ratios {
            n: 0,
            middle: 1.0,
            low: 1.0,
            high: 1.0,
        });
    }
    let (ours, theirs) = (times(point), times(other));
    let pairs = ours.iter().zip(&theirs);
    let mut ratios: Vec<f64> = pairs.map(|(ours, theirs)| theirs / ours).collect();
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    if ours.len() != theirs.len() || n < ROUNDS {
        bail!("{n} rounds of {point} and {other} are too few");
    }
    let rank = rank(n);
    Ok(Ratios {
        n,
        middle: f64::midpoint(ratios[(n - 1) / 2], ratios[n / 2]),
        low: ratios[rank],
        high: ratios[n - 1 - rank],
    })
}

/// How many figures may be left out at each end of `n` so that the rest still has the median
/// between them: as many as heads in `n` throws of a coin that are too few to be believed.
fn rank(n: usize) -> usize {
    let mut chance = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    for heads in 0..n {
        sum += chance;
        if 2.0 * sum > DOUBT {
            return heads.saturating_sub(1);
        }
        chance *= (n - heads) as f64 / (heads + 1) as f64;
    }
    0
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
    best: String,
    tunings: Vec<Tuning>,
}

struct Tuning {
    seconds: f64,
    /// By how much a single pair scattered.
    noise: f64,
    /// What a host took of the cores meanwhile, percent.
    stolen: f64,
    verdict: String,
    chosen: String,
    against_best: Ratios,
    against_defaults: Ratios,
}

impl Tuning {
    /// Whether the rounds show that it is within what is asked for.
    fn is_shown(&self) -> bool {
        self.against_best.low >= 1.0 - SLOWER_MAX
    }
}

impl Outcome {
    fn check(&self) -> Result<()> {
        for tuning in &self.tunings {
            let Ratios { low, high, .. } = tuning.against_best;
            if !tuning.is_shown() {
                bail!(
                    "{}: not shown to be within 5 % of the sweep's best: {low:.3} to {high:.3}",
                    self.model
                );
            }
            if tuning.seconds > TIME_SHARE_MAX * self.sweep_seconds {
                bail!(
                    "{}: the tuner took more than a tenth of the sweep",
                    self.model
                );
            }
        }
        Ok(())
    }
}

fn page(results: &[Outcome], busy: &[Value]) -> String {
    let mut text = head();
    let told = |of: Ratios| match of.n {
        0 => "the same".to_owned(),
        n => format!("{:.3} ({:.3} to {:.3}, {n})", of.middle, of.low, of.high),
    };
    for one in results {
        for (number, tuning) in one.tunings.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {} | {:.0} | {:.1} % | {} | {} | {} | {:.0} % | {:.1} % |",
                one.model,
                one.n_points,
                one.sweep_seconds,
                number + 1,
                tuning.seconds,
                100.0 * tuning.seconds / one.sweep_seconds,
                told(tuning.against_best),
                match tuning.is_shown() {
                    true => "shown",
                    false => "**not shown**",
                },
                told(tuning.against_defaults),
                100.0 * tuning.noise,
                tuning.stolen,
            );
        }
    }
    for one in results {
        let _ = writeln!(
            text,
            "\n## {}\n\n- the sweep's best: {}",
            one.model, one.best
        );
        for (number, tuning) in one.tunings.iter().enumerate() {
            let (n, chosen, verdict) = (number + 1, &tuning.chosen, &tuning.verdict);
            let _ = writeln!(text, "- tuning {n}: {chosen}; {verdict}");
        }
    }
    if !busy.is_empty() {
        text.push_str(
            "\n## A busy core\n\n`cargo xtask tune-check --busy-core`: tuned with a core that \
             another process computes on all the time, and without.\n\n\
             | busy core | decode | prefill | verdict |\n|---|---|---|---|\n",
        );
    }
    for one in busy {
        let place = |threads: &str, cpus: &str| match &one["settings"][cpus] {
            Value::String(cpus) => format!("{} on {cpus}", one["settings"][threads]),
            _ => "the default: every core".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            one["busy"].as_str().unwrap_or("none"),
            place("threads", "cpus"),
            place("threads_batch", "cpus_batch"),
            one["verdict"].as_str().unwrap_or("?"),
        );
    }
    text
}

fn head() -> String {
    let (prompt, answer) = RUN_TOKENS.split_once(':').unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "# The tuner against an exhaustive sweep\n\n\
         Written by `cargo xtask tune-check` on {}, Linux {}. Sextant {}.\n\n\
         Runs read {prompt} tokens and generate {answer} (`--run-tokens`), weighed as requests \
         of {} and {}; the sweep makes three of\neach point, and `sextant tune` has {:.0} % of \
         the sweep's time as its `--budget`, default settings otherwise. Axes:\n{}.\n\n\
         Right after each tuning its choice, the sweep's and the defaults met in fresh rounds, \
         every other one in the\nopposite order, {ROUNDS} at a time until the interval is on \
         one side of {:.2}, {ROUNDS_MAX} at most. The ratios are of speeds,\nabove 1 the tuner's \
         choice is faster: the median, the interval that has it with a confidence of 99 %, and \
         the rounds.\nThe scatter is that of a pair of runs while tuning; stolen is what the \
         host took of the cores meanwhile.\n\n\
         | model | points | sweep, s | tuning | s | share | against the sweep's best | within 5 % | \
         against the defaults | scatter | stolen |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        machine::cpu(),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        WORKLOAD[0],
        WORKLOAD[1],
        100.0 * BUDGET_SHARE,
        AXES.join(", "),
        1.0 - SLOWER_MAX,
    )
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
    lines(&folder.join("busy"))
}

fn busy_core(folder: &Path) -> Result<()> {
    let check = Check::new(&SMOLLM2, folder)?;
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
        "verdict": verdict(&tuned),
    }))
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
        let rounds: Vec<Value> = (0..12)
            .flat_map(|round| {
                let order = if round % 2 == 0 { [7, 3] } else { [3, 7] };
                order.map(|place| json!({ "point": place, "prefill": 0, "decode": place }))
            })
            .collect();
        let three = ratios(&rounds, 3, 7).unwrap();
        assert!((three.middle - 7.0 / 3.0).abs() < 1e-9, "it takes less");
        assert!((ratios(&rounds, 3, 3).unwrap().low - 1.0).abs() < 1e-9);
        assert!(ratios(&rounds[..20], 3, 7).is_err(), "too few");
        assert!(ratios(&rounds, 3, 5).is_err(), "never measured");
    }

    #[test]
    fn intervals_leave_out_as_many_as_their_confidence_allows() {
        // Tables of the sign test, 1 % on both sides.
        assert_eq!([12, 24, 36, 60].map(rank), [1, 5, 9, 19]);
    }

    #[test]
    fn what_is_not_shown_does_not_pass() {
        let tuning = |low: f64, seconds: f64| Tuning {
            seconds,
            noise: 0.08,
            stolen: 0.0,
            verdict: String::new(),
            chosen: String::new(),
            against_best: Ratios {
                n: 12,
                middle: 1.0,
                low,
                high: 1.1,
            },
            against_defaults: Ratios {
                n: 12,
                middle: 1.0,
                low,
                high: 1.1,
            },
        };
        let outcome = |tunings| Outcome {
            model: "m",
            n_points: 2,
            sweep_seconds: 300.0,
            best: String::new(),
            tunings,
        };
        assert!(outcome(vec![tuning(0.96, 29.0)]).check().is_ok());
        assert!(
            outcome(vec![tuning(0.96, 29.0), tuning(0.94, 29.0)])
                .check()
                .is_err()
        );
        assert!(outcome(vec![tuning(0.96, 31.0)]).check().is_err());
    }
}
