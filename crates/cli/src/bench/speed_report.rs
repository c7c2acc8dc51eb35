//! What runs of `bench speed` come to, as a table and as JSON.

use bench::rates::Interval;
use bench::speeds::{Factor, quantile};
use bench::sweep::{self, DRIFT_MAX, Figure, Placed};
use serde_json::{Value, json};
use tuner::STOLEN_PERCENT_MAX;

use super::report::interval;
use super::speed::{Figures, Heading, Run};
use crate::outcome::Outcome;
use crate::output;

/// A figure of a run that has a middle and an interval.
pub(super) type Of = fn(&Figures) -> f64;

const PREFILL: Of = |figures| figures.prefill_tokens_s;
const DECODE: Of = |figures| figures.decode_tokens_s;
/// Joules of a token; 0 where nobody counts.
const ENERGY_READ: Of = |figures| {
    let joules = figures.joules_read.unwrap_or(0.0);
    joules / f64::from(figures.n_read.max(1))
};
/// The first token is that of the prompt.
const ENERGY_SAID: Of = |figures| {
    let joules = figures.joules_said.unwrap_or(0.0);
    joules / f64::from(figures.n_said.saturating_sub(1).max(1))
};

/// One combination's.
pub(super) struct Row {
    pub(super) label: String,
    values: Vec<String>,
    n_failed: usize,
    pub(super) prefill: Option<Figure>,
    pub(super) decode: Option<Figure>,
    both: Option<Figure>,
    ttft: Option<Figure>,
    start: Option<Figure>,
    resident: Option<Figure>,
    proportional: Option<Figure>,
    /// Joules of a token, where anybody counts.
    energy_read: Option<Figure>,
    energy_said: Option<Figure>,
    /// Of all rounds together, sorted.
    gaps: Vec<f64>,
    weights_bytes: u64,
    kv_bytes: u64,
    /// By the first combination.
    prefill_by_first: Option<Factor>,
    decode_by_first: Option<Factor>,
}

/// All that is shown.
pub(super) struct Results<'a> {
    heading: &'a Heading,
    pub(super) rows: Vec<Row>,
    pub(super) remarks: Vec<String>,
}

/// A point in a few words.
pub(super) fn label(heading: &Heading, point: &[String]) -> String {
    let axes = heading.axes.iter().zip(point);
    let parts: Vec<String> = axes
        .map(|((name, _), value)| format!("{name}={value}"))
        .collect();
    match parts.is_empty() {
        true => "as it is".to_owned(),
        false => parts.join(" "),
    }
}

impl<'a> Results<'a> {
    pub(super) fn new(heading: &'a Heading, points: &[Vec<String>], runs: &[Run]) -> Self {
        let placed = |of: Of| -> Vec<Placed> {
            let good = runs.iter().filter(|run| run.failed.is_none());
            let place = |run: &Run| points.iter().position(|point| *point == run.point);
            good.filter_map(|run| Some((place(run)?, run.round, of(&run.figures))))
                .collect()
        };
        let (prefill, decode) = (placed(PREFILL), placed(DECODE));
        let places = points.iter().enumerate();
        let rows = places.map(|(place, point)| {
            let own: Vec<&Run> = runs.iter().filter(|run| run.point == *point).collect();
            let by_first = |all: &[Placed]| match place {
                0 => None,
                _ => sweep::compared(all, (place, 0)),
            };
            Row {
                prefill_by_first: by_first(&prefill),
                decode_by_first: by_first(&decode),
                ..Row::of(label(heading, point), point, &own)
            }
        });
        let rows: Vec<Row> = rows.collect();
        let remarks = remarks(heading, &rows, runs, &sweep::drift(&decode));
        Self {
            heading,
            rows,
            remarks,
        }
    }

    /// What was done, and where.
    pub(super) fn told(&self) -> String {
        let Heading {
            prompt,
            answer,
            depth,
            hardware,
            ..
        } = self.heading;
        let deep = match depth {
            0 => String::new(),
            depth => format!(" after {depth} others"),
        };
        format!("{prompt} tokens read{deep} and {answer} said in one run; {hardware}")
    }

    /// Of [`Self::cells`].
    pub(super) fn head(&self) -> Vec<String> {
        let names = self
            .heading
            .axes
            .iter()
            .map(|(name, _)| name.to_uppercase());
        let mut head: Vec<String> = names.collect();
        let figures = [
            "READ T/S",
            "SAY T/S",
            "BOTH T/S",
            "TTFT MS",
            "GAP P50 MS",
            "P99",
            "START S",
            "RSS MIB",
            "PSS MIB",
        ];
        head.extend(figures.map(str::to_owned));
        if self.has_energy() {
            head.extend(["READ J/TOKEN", "SAY J/TOKEN"].map(str::to_owned));
        }
        if self.rows.len() > 1 {
            head.extend(["READ BY FIRST", "SAY BY FIRST"].map(str::to_owned));
        }
        head
    }

    fn has_energy(&self) -> bool {
        self.rows.iter().any(Row::has_energy)
    }

    /// The rows under [`Self::head`].
    pub(super) fn cells(&self) -> Vec<Vec<String>> {
        let has_energy = self.has_energy();
        self.rows.iter().map(|row| row.cells(has_energy)).collect()
    }

    pub(super) fn write(&self) -> Outcome {
        output::line(&self.told())?;
        let head = self.head();
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        output::table(&head, &self.cells())?;
        for remark in &self.remarks {
            output::line(remark)?;
        }
        Ok(())
    }

    pub(super) fn as_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| row.as_json(self.heading));
        json!({
            "heading": self.heading,
            "results": rows.collect::<Vec<Value>>(),
            "remarks": self.remarks,
        })
    }
}

impl Row {
    fn of(label: String, point: &[String], runs: &[&Run]) -> Self {
        let good: Vec<&Figures> = runs
            .iter()
            .filter(|run| run.failed.is_none())
            .map(|run| &run.figures)
            .collect();
        let figure = |of: Of| {
            let values: Vec<f64> = good.iter().map(|figures| of(figures)).collect();
            Figure::of(&values)
        };
        let mut gaps: Vec<f64> = good
            .iter()
            .flat_map(|figures| figures.gaps_seconds.iter().copied())
            .collect();
        gaps.sort_by(f64::total_cmp);
        let most = |of: fn(&Figures) -> u64| good.iter().map(|figures| of(figures)).max();
        Self {
            label,
            values: point.to_vec(),
            n_failed: runs.len() - good.len(),
            prefill: figure(PREFILL),
            decode: figure(DECODE),
            both: figure(|figures| figures.both_tokens_s),
            ttft: figure(|figures| figures.ttft_seconds),
            start: figure(|figures| figures.start_seconds),
            resident: figure(|figures| bytes(figures.resident_bytes)),
            proportional: figure(|figures| bytes(figures.proportional_bytes)),
            energy_read: figure(ENERGY_READ),
            energy_said: figure(ENERGY_SAID),
            gaps,
            weights_bytes: most(|figures| figures.weights_bytes).unwrap_or(0),
            kv_bytes: most(|figures| figures.kv_bytes).unwrap_or(0),
            prefill_by_first: None,
            decode_by_first: None,
        }
    }

    const fn has_energy(&self) -> bool {
        self.energy_read.is_some() || self.energy_said.is_some()
    }

    /// In the order of the table's head.
    fn cells(&self, with_energy: bool) -> Vec<String> {
        let middle = |of: &Option<Figure>, scale: f64, digits: usize| match of {
            Some(figure) => format!("{:.digits$}", figure.middle * scale),
            None => "-".to_owned(),
        };
        let speed = |of: &Option<Figure>| {
            let Some(figure) = of else {
                return "-".to_owned();
            };
            match figure.interval {
                Some(Interval { low, high }) => {
                    format!("{} ({}-{})", short(figure.middle), short(low), short(high))
                }
                None => short(figure.middle),
            }
        };
        let gap = |share: f64| format!("{:.1}", 1e3 * quantile(&self.gaps, share));
        let mib = 1.0 / f64::from(1 << 20);
        let mut cells = self.values.clone();
        cells.extend([
            speed(&self.prefill),
            speed(&self.decode),
            speed(&self.both),
            middle(&self.ttft, 1e3, 0),
            gap(0.5),
            gap(0.99),
            middle(&self.start, 1.0, 2),
            middle(&self.resident, mib, 0),
            middle(&self.proportional, mib, 0),
        ]);
        if with_energy {
            cells.extend([
                middle(&self.energy_read, 1.0, 4),
                middle(&self.energy_said, 1.0, 4),
            ]);
        }
        if self.prefill_by_first.is_some() || self.decode_by_first.is_some() {
            cells.extend([
                by_first(self.prefill_by_first),
                by_first(self.decode_by_first),
            ]);
        }
        cells
    }

    fn as_json(&self, heading: &Heading) -> Value {
        let figure = |of: &Option<Figure>| {
            of.as_ref().map(|figure| {
                json!({
                    "n": figure.n,
                    "middle": figure.middle,
                    "interval": figure.interval.map(interval),
                    "far": figure.far,
                })
            })
        };
        let factor = |of: Option<Factor>| {
            of.map(|factor| {
                json!({
                    "n": factor.n,
                    "factor": factor.middle,
                    "interval": interval(factor.interval),
                    "differs": factor.is_difference(),
                })
            })
        };
        let axes = heading.axes.iter().zip(&self.values);
        let point = axes.map(|((name, _), value)| (name.clone(), json!(value)));
        json!({
            "point": point.collect::<serde_json::Map<String, Value>>(),
            "n_failed": self.n_failed,
            "prefill_tokens_s": figure(&self.prefill),
            "decode_tokens_s": figure(&self.decode),
            "both_tokens_s": figure(&self.both),
            "ttft_seconds": figure(&self.ttft),
            "start_seconds": figure(&self.start),
            "gap_seconds": {
                "p50": quantile(&self.gaps, 0.5),
                "p90": quantile(&self.gaps, 0.9),
                "p99": quantile(&self.gaps, 0.99),
            },
            "resident_bytes": figure(&self.resident),
            "proportional_bytes": figure(&self.proportional),
            "joules_per_token_read": figure(&self.energy_read),
            "joules_per_token_said": figure(&self.energy_said),
            "weights_bytes": self.weights_bytes,
            "kv_bytes": self.kv_bytes,
            "prefill_by_first": factor(self.prefill_by_first),
            "decode_by_first": factor(self.decode_by_first),
        })
    }
}

/// A speed with as many digits as say something.
fn short(speed: f64) -> String {
    match speed {
        100.0.. => format!("{speed:.0}"),
        10.0.. => format!("{speed:.1}"),
        _ => format!("{speed:.2}"),
    }
}

fn by_first(factor: Option<Factor>) -> String {
    let Some(factor) = factor else {
        return "-".to_owned();
    };
    let Interval { low, high } = factor.interval;
    match (factor.is_difference(), high.is_finite()) {
        (true, _) => format!("{:.2} ({low:.2}-{high:.2})", factor.middle),
        (false, true) => format!("within noise ({low:.2}-{high:.2})"),
        (false, false) => format!("{:.2}, too few rounds", factor.middle),
    }
}

/// What must be known to believe the table.
fn remarks(heading: &Heading, rows: &[Row], runs: &[Run], drift: &[(u64, f64)]) -> Vec<String> {
    let mut remarks = Vec::new();
    for run in runs {
        if let Some(why) = &run.failed {
            let label = label(heading, &run.point);
            remarks.push(format!("failed: {label}, round {}: {why}", run.round + 1));
        }
    }
    for row in rows {
        for (name, figure) in [("reading", &row.prefill), ("saying", &row.decode)] {
            let far = figure.iter().flat_map(|figure| figure.far.iter());
            remarks.extend(far.map(|far| {
                let far = short(*far);
                format!(
                    "far off the others, and counted: {} {name} {far} tokens/s",
                    row.label
                )
            }));
        }
    }
    for (round, factor) in drift {
        if (factor - 1.0).abs() > DRIFT_MAX {
            let percent = 100.0 * (factor - 1.0);
            let round = round + 1;
            remarks.push(format!(
                "round {round} was {percent:+.0} % off the others in all combinations: the machine \
                 has changed meanwhile"
            ));
        }
    }
    let mut meters: Vec<&str> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.figures.energy_of) {
        if !meters.contains(&name.as_str()) {
            meters.push(name);
        }
    }
    if !meters.is_empty() {
        remarks.push(format!(
            "joules are those of the whole machine, as far as it counts them ({}): what else ran, and \
             what was idle, is in them",
            meters.join(", ")
        ));
    }
    let disturbed = runs
        .iter()
        .filter(|run| run.stolen.is_some_and(|stolen| stolen > STOLEN_PERCENT_MAX));
    match disturbed.count() {
        0 => {}
        n => remarks.push(format!(
            "in {n} of {} runs a host took more than {STOLEN_PERCENT_MAX} % of the cores",
            runs.len()
        )),
    }
    remarks
}

#[expect(
    clippy::cast_precision_loss,
    reason = "bytes of memory, to be shown in MiB"
)]
const fn bytes(bytes: u64) -> f64 {
    bytes as f64
}
