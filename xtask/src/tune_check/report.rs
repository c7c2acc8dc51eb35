//! The page.

use super::check::{AXES, BUDGET_SHARE, CONTENDERS, Check, RUN_TOKENS, seconds};
use super::judge::{
    Counted, Judgement, PASSES_MAX, PASSES_MIN, POINT_ERROR, ROUNDS_MAX, ROUNDS_MIN, Ratios, Run,
    SLOWER_MAX, WORKLOAD, ranking, scatter,
};
use crate::bench::machine;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use tuner::STOLEN_PERCENT_MAX;

const TIME_SHARE_MAX: f64 = 0.1;

pub(super) struct Outcome {
    model: &'static str,
    n_points: usize,
    sweep_seconds: f64,
    notes: Vec<String>,
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
    judgement: Judgement,
    against_best: Ratios,
    /// With the rounds that the host has disturbed.
    with_all: Ratios,
    n_disturbed: usize,
    against_defaults: Ratios,
}

impl Outcome {
    /// What is known of a model; `None` before its first tuning was judged.
    pub(super) fn of(check: &Check) -> Result<Option<Self>> {
        let sweep = check.sweep()?;
        let mut tunings = Vec::new();
        for number in 0..check.tunings {
            let Some(tuned) = check.tuned(number)? else {
                continue;
            };
            let meeting = check.meeting(number)?.context("no meeting")?;
            let judgement = meeting.judgement();
            if judgement == Judgement::Open {
                continue;
            }
            let rounds = meeting.rounds();
            let pair = (meeting.chosen, meeting.best);
            let number = |value: &Value| value.as_f64().context("no number");
            tunings.push(Tuning {
                seconds: number(&tuned["seconds"])?,
                noise: number(&tuned["tuned"]["noise"])?,
                stolen: number(&tuned["stolen"])?,
                verdict: verdict(&tuned["tuned"]),
                chosen: labels(&sweep, meeting.chosen),
                judgement,
                against_best: rounds.ratios(pair, Counted::Undisturbed),
                with_all: rounds.ratios(pair, Counted::All),
                n_disturbed: rounds.n_disturbed(),
                against_defaults: rounds.ratios((meeting.chosen, 0), Counted::Undisturbed),
            });
        }
        if tunings.is_empty() {
            return Ok(None);
        }
        let best = check.best()?.context("no best point")?;
        Ok(Some(Self {
            model: check.model.file,
            n_points: sweep.first().map_or(0, |run| run.of),
            sweep_seconds: seconds(&sweep),
            notes: notes(&sweep, best),
            tunings,
        }))
    }

    pub(super) fn check(&self) -> Result<()> {
        for tuning in &self.tunings {
            let Ratios { low, high, .. } = tuning.against_best;
            if !tuning.judgement.passes() {
                bail!(
                    "{}: {} to be within 5 % of the sweep's best: {low:.3} to {high:.3}",
                    self.model,
                    tuning.judgement.word(),
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

/// What a point is made of. Which cores are the fastest is seen anew at each start.
fn labels(sweep: &[Run], point: usize) -> String {
    let mut all: Vec<String> = Vec::new();
    for run in sweep.iter().filter(|run| run.point == point) {
        let labels = run.levels.join("; ");
        if !all.contains(&labels) {
            all.push(labels);
        }
    }
    all.join(", or ")
}

/// How the sweep went, and how far its first points are apart.
fn notes(sweep: &[Run], best: usize) -> Vec<String> {
    let ranking = ranking(sweep);
    let rank = |point: usize| {
        1 + ranking
            .iter()
            .take_while(|(other, _)| *other != point)
            .count()
    };
    let by_pass = |point: usize| {
        let runs = sweep.iter().filter(|run| run.point == point);
        let times = runs.map(|run| format!("{:.2}", run.request_seconds()));
        times.collect::<Vec<_>>().join(", ")
    };
    let time = |rank: usize| ranking.get(rank).map_or(f64::NAN, |(_, time)| *time);
    let n_again = sweep.iter().filter(|run| run.attempts > 1).count();
    let n_disturbed = sweep.iter().filter(|run| run.is_disturbed()).count();
    vec![
        format!("the sweep's best: {}", labels(sweep, best)),
        format!(
            "seconds of a request by pass: the best {}; the defaults {}",
            by_pass(best),
            by_pass(0)
        ),
        format!(
            "by medians over the passes the best is number {}, the defaults number {}; number 2 is \
             {:.1} % behind the first, number 10 {:.1} %; a run scatters by {:.1} %",
            rank(best),
            rank(0),
            100.0 * (time(1) / time(0) - 1.0),
            100.0 * (time(9) / time(0) - 1.0),
            100.0 * scatter(sweep),
        ),
        format!(
            "{} passes; of {} runs {n_again} were made again, and {n_disturbed} count although they were \
             disturbed",
            sweep.last().map_or(0, |run| run.pass + 1),
            sweep.len()
        ),
    ]
}

pub(super) fn verdict(tuned: &Value) -> String {
    let gain = &tuned["gain"];
    match (tuned["keeps_defaults"].as_bool(), gain["ratio"].as_f64()) {
        (Some(false), Some(ratio)) => format!("{:+.1} % over the defaults", 100.0 * (ratio - 1.0)),
        (_, Some(_)) => "the defaults stay, the best other is within noise".to_owned(),
        _ => "the defaults stay, nothing was faster".to_owned(),
    }
}

pub(super) fn page(outcomes: &[Outcome], busy: &[Value]) -> String {
    let mut text = head();
    for one in outcomes {
        for (number, tuning) in one.tunings.iter().enumerate() {
            text.push_str(&row(one, number, tuning));
        }
    }
    for one in outcomes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n## {}\n", one.model);
        for note in &one.notes {
            let _ = writeln!(text, "- {note}");
        }
        for (number, tuning) in one.tunings.iter().enumerate() {
            let (n, chosen, verdict) = (number + 1, &tuning.chosen, &tuning.verdict);
            let _ = write!(text, "- tuning {n}: {chosen}; {verdict}");
            if tuning.n_disturbed > 0 && tuning.with_all.n > 0 {
                let _ = write!(
                    text,
                    "; with {} disturbed rounds the ratio is {}",
                    tuning.n_disturbed,
                    ratios(tuning.with_all)
                );
            }
            text.push('\n');
        }
    }
    text.push_str(&busy_core(busy));
    text
}

fn ratios(of: Ratios) -> String {
    match of.n {
        0 => "the same".to_owned(),
        n => format!("{:.3} ({:.3} to {:.3}, {n})", of.middle, of.low, of.high),
    }
}

fn row(outcome: &Outcome, number: usize, tuning: &Tuning) -> String {
    format!(
        "| {} | {} | {:.0} | {} | {:.0} | {:.1} % | {} | {} | {} | {:.0} % | {:.1} % |\n",
        outcome.model,
        outcome.n_points,
        outcome.sweep_seconds,
        number + 1,
        tuning.seconds,
        100.0 * tuning.seconds / outcome.sweep_seconds,
        ratios(tuning.against_best),
        tuning.judgement.word(),
        ratios(tuning.against_defaults),
        100.0 * tuning.noise,
        tuning.stolen,
    )
}

fn busy_core(busy: &[Value]) -> String {
    let mut text = String::new();
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
         Runs read {prompt} tokens and generate {answer} (`--run-tokens`), weighed as requests of \
         {} and {}. Axes:\n{}.\n\n\
         - **The sweep** goes over all points {PASSES_MIN} to {PASSES_MAX} times, as often as it takes \
         until the standard error of\n  a point's figure, its median, is {:.0} %; each time in \
         another order (points that share a process stay\n  together). The first {CONTENDERS} meet \
         in {ROUNDS_MIN} rounds of their own, and the fastest of them is the sweep's\n  best: the \
         least of many noisy figures is partly luck.\n\
         - **`sextant tune`** has {:.1} % of the sweep's time as its `--budget`, default settings \
         otherwise.\n\
         - **The meeting** comes right after each tuning: its choice, the sweep's best and the \
         defaults in fresh rounds,\n  every other one in the opposite order, {ROUNDS_MIN} at a \
         time until the interval is on one side of {:.2}, {ROUNDS_MAX} at most.\n  Ratios are of \
         speeds, above 1 the tuner's choice is faster: the middle (Hodges and Lehmann), the \
         interval\n  with a confidence of 99 % (Wilcoxon), and the rounds.\n\
         - **Disturbed** is a run in which the host took more than {STOLEN_PERCENT_MAX} % of the \
         time that it wanted (`/proc/stat`). In\n  sweep, tuning and rounds alike it is made \
         again, twice at most, and no more than a quarter of all runs are; of\n  the attempts the \
         least disturbed counts. A round with a run that is disturbed even so does not count, \
         whichever\n  side it is of.\n\
         - **Shown**: all of the interval is above {:.2}. **Within noise**: after all rounds it \
         has both {:.2} and 1 in it, so no\n  difference was found either way, and the middle is \
         above {:.2}. Nothing else passes.\n\n\
         The scatter is that of a pair of runs while tuning; stolen is what the host took of the \
         cores meanwhile.\n\n\
         | model | points | sweep, s | tuning | s | share | against the sweep's best | within 5 % | \
         against the defaults | scatter | stolen |\n|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|\n",
        machine::cpu(),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        WORKLOAD[0],
        WORKLOAD[1],
        AXES.join(", "),
        100.0 * POINT_ERROR,
        100.0 * BUDGET_SHARE,
        1.0 - SLOWER_MAX,
        1.0 - SLOWER_MAX,
        1.0 - SLOWER_MAX,
        1.0 - SLOWER_MAX,
    )
}
