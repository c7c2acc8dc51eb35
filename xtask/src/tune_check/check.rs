//! One model: its measurements, what is missing of them, and how to make it.

use super::judge::{Judgement, ROUNDS_MAX, ROUNDS_MIN, Rounds, Run, passes_wanted, ranking};
use crate::bench::machine;
use crate::models::{self, TestModel};
use crate::shell::{self, sextant};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Axes of the grid, by their names in `sextant tune`.
pub(super) const AXES: [&str; 7] = [
    "decode cores",
    "prefill cores",
    "flash attention",
    "KV types",
    "ubatch",
    "huge pages",
    "speculation",
];
/// Tokens of every run's prompt and answer.
pub(super) const RUN_TOKENS: &str = "192:32";
/// The first of a sweep meet in rounds of their own: the least of many noisy figures is partly
/// luck.
pub(super) const CONTENDERS: usize = 4;
/// What the tuner is given of the sweep's time; the rest is for starting and ending it.
pub(super) const BUDGET_SHARE: f64 = 0.095;
/// Points and seconds a run as they were on two cores of a virtual machine: what is expected
/// before the first one is made.
const POINTS_USUAL: usize = 216;
const RUN_SECONDS_USUAL: f64 = 0.7;
/// To load the model and warm up.
const START_SECONDS: f64 = 4.0;

/// One model, and where its measurements are.
pub(super) struct Check {
    pub(super) model: &'static TestModel,
    pub(super) path: PathBuf,
    pub(super) folder: PathBuf,
    axes: Vec<String>,
    pub(super) tunings: usize,
}

/// A step of the check.
enum Part {
    Sweep { pass: usize, from: usize },
    RunOff { contenders: Vec<usize>, next: usize },
    Tuning { number: usize, budget: f64 },
    Rounds { number: usize, meeting: Meeting },
}

/// Who meets after a tuning.
pub(super) struct Meeting {
    pub(super) chosen: usize,
    pub(super) best: usize,
    pub(super) runs: Vec<Run>,
}

impl Meeting {
    /// The tuner's choice, the sweep's and the defaults, each once.
    pub(super) fn places(&self) -> Vec<usize> {
        let mut places = vec![self.chosen];
        for place in [self.best, 0] {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    pub(super) fn rounds(&self) -> Rounds<'_> {
        Rounds::of(&self.runs, &self.places())
    }

    pub(super) fn judgement(&self) -> Judgement {
        Judgement::of(&self.rounds(), (self.chosen, self.best))
    }

    /// Also where tuner and sweep chose alike, the gain over the defaults takes some rounds.
    fn is_open(&self) -> bool {
        let has_few = self.places().len() > 1 && self.rounds().n_made() < ROUNDS_MIN;
        has_few || self.judgement() == Judgement::Open
    }
}

impl Check {
    pub(super) fn new(
        model: &'static TestModel,
        folder: &Path,
        (axes, tunings): (Vec<String>, usize),
    ) -> Result<Self> {
        Ok(Self {
            axes,
            model,
            path: models::ensure(model)?,
            folder: folder.to_owned(),
            tunings,
        })
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.model.file))
    }

    pub(super) fn sweep(&self) -> Result<Vec<Run>> {
        runs(&self.file("sweep"))
    }

    /// The tuner on this grid; what it keeps stays in the folder.
    fn tuner(&self) -> Command {
        let mut command = Command::new(sextant());
        command.arg("tune").arg(&self.path).arg("--json");
        command.args(["--run-tokens", RUN_TOKENS]);
        command.env("XDG_CACHE_HOME", self.folder.join("cache"));
        for axis in &self.axes {
            command.args(["--axes", axis]);
        }
        command
    }

    /// What is missing next; `None` if nothing is.
    fn next(&self) -> Result<Option<Part>> {
        let sweep = self.sweep()?;
        let of = sweep.first().map_or(usize::MAX, |run| run.of);
        let (pass, from) = (sweep.len() / of, sweep.len() % of);
        if pass < passes_wanted(&sweep[..sweep.len() - from]) {
            return Ok(Some(Part::Sweep { pass, from }));
        }
        let contenders = contenders(&sweep);
        let run_off = runs(&self.file("runoff"))?;
        let rounds = Rounds::of(&run_off, &contenders);
        if rounds.n_made() < ROUNDS_MIN {
            let next = rounds.next;
            return Ok(Some(Part::RunOff { contenders, next }));
        }
        for number in 0..self.tunings {
            match self.meeting(number)? {
                None => {
                    let budget = BUDGET_SHARE * seconds(&sweep);
                    let budget = budget.floor().max(5.0);
                    return Ok(Some(Part::Tuning { number, budget }));
                }
                Some(meeting) if meeting.is_open() => {
                    return Ok(Some(Part::Rounds { number, meeting }));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// Makes what is missing as long as there is time; whether nothing is missing any more.
    pub(super) fn make(&self, clock: &mut Clock) -> Result<bool> {
        while let Some(part) = self.next()? {
            let left = clock.left();
            let needed = match part {
                // It stops at any point, and goes on there.
                Part::Sweep { .. } => START_SECONDS,
                _ => self.takes(&part)?,
            };
            if left <= 0.0 || clock.has_made && left < needed {
                return Ok(false);
            }
            clock.has_made = true;
            self.make_part(&part, left)?;
            eprintln!("{}: {}", self.model.file, self.told()?);
        }
        Ok(true)
    }

    fn make_part(&self, part: &Part, left: f64) -> Result<()> {
        match part {
            Part::Sweep { pass, from } => {
                let seconds = left.ceil();
                let asked = format!("{pass}:{from}:{seconds}");
                let mut command = self.tuner();
                stream(command.args(["--sweep", &asked]), &self.file("sweep"))
            }
            Part::RunOff { contenders, next } => {
                self.make_rounds(contenders, *next, &self.file("runoff"))
            }
            Part::Tuning { number, budget } => self.tune(*number, *budget),
            Part::Rounds { number, meeting } => {
                let next = meeting.rounds().next;
                self.make_rounds(&meeting.places(), next, &self.rounds_file(*number))
            }
        }
    }

    fn rounds_file(&self, number: usize) -> PathBuf {
        self.file(&format!("rounds.{number}"))
    }

    fn tuning_file(&self, number: usize) -> PathBuf {
        self.file(&format!("tuning.{number}"))
    }

    /// Some fresh rounds.
    fn make_rounds(&self, places: &[usize], first: usize, file: &Path) -> Result<()> {
        let asked: Vec<String> = places.iter().map(usize::to_string).collect();
        let asked = format!("{first}:{ROUNDS_MIN}:{}", asked.join(":"));
        stream(self.tuner().args(["--rounds", &asked]), file)
    }

    fn tune(&self, number: usize, budget: f64) -> Result<()> {
        let before = machine::Ticks::read();
        let started = Instant::now();
        let budget = budget.to_string();
        let text = shell::output(self.tuner().args(["--budget", &budget]))?;
        let tuned: Value = serde_json::from_str(&text)?;
        let told = serde_json::json!({
            "seconds": started.elapsed().as_secs_f64(),
            "tuned": tuned,
            "stolen": machine::Ticks::read().stolen_percent_since(&before),
        });
        Ok(fs::write(self.tuning_file(number), told.to_string())?)
    }

    /// What a tuning said, once it was made.
    pub(super) fn tuned(&self, number: usize) -> Result<Option<Value>> {
        let file = self.tuning_file(number);
        if !file.exists() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&fs::read_to_string(&file)?)?))
    }

    /// Who meets after a tuning; `None` before it and before the sweep has a best point.
    pub(super) fn meeting(&self, number: usize) -> Result<Option<Meeting>> {
        let Some(tuned) = self.tuned(number)? else {
            return Ok(None);
        };
        let chosen = tuned["tuned"]["point"].as_u64().context("no point")?;
        Ok(Some(Meeting {
            chosen: usize::try_from(chosen)?,
            best: self.best()?.context("a tuning before the sweep")?,
            runs: runs(&self.rounds_file(number))?,
        }))
    }

    /// The sweep's best point: of those that it has first, the fastest in rounds of their own.
    pub(super) fn best(&self) -> Result<Option<usize>> {
        let contenders = contenders(&self.sweep()?);
        let run_off = runs(&self.file("runoff"))?;
        let rounds = Rounds::of(&run_off, &contenders);
        Ok((rounds.n_made() > 0)
            .then(|| rounds.fastest(&contenders))
            .flatten())
    }

    /// Seconds of a run, and points of a pass, as far as one can tell.
    fn pace(&self) -> Result<(f64, usize)> {
        let sweep = self.sweep()?;
        Ok(match sweep.first() {
            Some(run) => (seconds(&sweep) / sweep.len() as f64, run.of),
            None => (RUN_SECONDS_USUAL, POINTS_USUAL),
        })
    }

    fn takes(&self, part: &Part) -> Result<f64> {
        let (run_seconds, _) = self.pace()?;
        let rounds = |n_places: usize| {
            let runs = (ROUNDS_MIN + 1) * n_places;
            START_SECONDS + runs as f64 * run_seconds
        };
        Ok(match part {
            Part::Sweep { .. } => START_SECONDS,
            Part::RunOff { contenders, .. } => rounds(contenders.len()),
            Part::Tuning { budget, .. } => START_SECONDS + budget,
            Part::Rounds { meeting, .. } => rounds(meeting.places().len()),
        })
    }

    /// How much there is to measure, in words.
    pub(super) fn told(&self) -> Result<String> {
        let (run_seconds, n_points) = self.pace()?;
        let sweep = self.sweep()?;
        let n_made = sweep.len();
        let n_all = n_points * passes_wanted(&sweep[..n_made - n_made % n_points]);
        // More passes may show that fewer would have done.
        let n_all = n_all.max(n_made);
        let all = n_all as f64 * run_seconds;
        let sweep = all - n_made as f64 * run_seconds;
        let run_off = match self.best()? {
            Some(_) => 0.0,
            None => (CONTENDERS * ROUNDS_MIN) as f64 * run_seconds,
        };
        let (mut tunings, mut least, mut most, mut n_open) = (0.0, 0.0, 0.0, 0);
        for number in 0..self.tunings {
            let meeting = self.meeting(number)?;
            if meeting.as_ref().is_some_and(|meeting| !meeting.is_open()) {
                continue;
            }
            n_open += 1;
            if meeting.is_none() {
                tunings += BUDGET_SHARE * all + START_SECONDS;
            }
            let n_rounds = meeting.map_or(0, |meeting| meeting.rounds().n_made());
            let rounds = |n: usize| (n.saturating_sub(n_rounds) * 3) as f64 * run_seconds;
            least += rounds(ROUNDS_MIN) + START_SECONDS;
            most += rounds(ROUNDS_MAX) + START_SECONDS;
        }
        Ok(format!(
            "{n_made} of {n_all} runs of the sweep are made, {n_open} of {} tunings are open; about {:.0} \
             to {:.0} s to go (sweep {sweep:.0}, run-off {run_off:.0}, tunings {tunings:.0}, \
             rounds {least:.0} to {most:.0})",
            self.tunings,
            sweep + run_off + tunings + least,
            sweep + run_off + tunings + most,
        ))
    }
}

/// The time of a call.
pub(super) struct Clock {
    started: Instant,
    seconds: f64,
    has_made: bool,
}

impl Clock {
    pub(super) fn new(seconds: u32) -> Self {
        Self {
            started: Instant::now(),
            seconds: f64::from(seconds),
            has_made: false,
        }
    }

    fn left(&self) -> f64 {
        self.seconds - self.started.elapsed().as_secs_f64()
    }
}

/// The points that the sweep has first.
pub(super) fn contenders(sweep: &[Run]) -> Vec<usize> {
    let first = ranking(sweep).into_iter().take(CONTENDERS);
    first.map(|(point, _)| point).collect()
}

/// What a sweep took, without runs that were made again.
pub(super) fn seconds(sweep: &[Run]) -> f64 {
    sweep.iter().map(|run| run.seconds).sum()
}

/// The runs of a file; one that does not end with its line was stopped, and is none.
fn runs(file: &Path) -> Result<Vec<Run>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is broken", file.display()))
}

/// Runs a command with its lines going to the end of a file as they come.
fn stream(command: &mut Command, file: &Path) -> Result<()> {
    // What was stopped in the middle of a line goes first.
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        fs::write(file, &text[..whole])?;
    }
    let lines = OpenOptions::new().create(true).append(true).open(file)?;
    shell::run(command.stdout(Stdio::from(lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_stopped_is_no_run() {
        let folder = std::env::temp_dir().join(format!("tune-check-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("sweep");
        assert!(runs(&file).unwrap().is_empty());
        let line =
            r#"{"point":1,"prefill":1.0,"decode":2.0,"seconds":3.0,"stolen":null,"attempts":1}"#;
        fs::write(&file, format!("{line}\n{}", &line[..20])).unwrap();
        assert_eq!(runs(&file).unwrap().len(), 1);
        stream(Command::new("echo").arg(line), &file).unwrap();
        assert_eq!(runs(&file).unwrap().len(), 2);
        fs::write(&file, "no\n").unwrap();
        assert!(runs(&file).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
