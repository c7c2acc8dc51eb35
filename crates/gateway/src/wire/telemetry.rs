//! The history of the endpoint's figures on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::{Figure, HistoryPage, Mark, Sample, Shown, Spread};
use utoipa::ToSchema;

use crate::history::ENDPOINT;

/// Digits of a figure: more would be noise, and bytes.
const DIGITS: i32 = 5;

/// A stretch of the history, by columns: each array has an element for each element of `at_s`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TelemetryPage {
    /// Seconds of each point.
    step_s: u64,
    /// How far the history goes back.
    days: u32,
    /// When each point begins, seconds since 1970. A time that is not there is a gap: nothing was
    /// recorded then.
    at_s: Vec<u64>,
    /// By name. One that nobody could read in all that time is not there.
    figures: BTreeMap<&'static str, TelemetryLine>,
    /// Time to the first token: null where nobody waited.
    ttft: TtftLines,
    /// Cores in each cell of `cores`.
    cores_each: u8,
    /// Percent of each cell; empty where nothing is known.
    cores: Vec<Vec<u8>>,
    /// Bytes in memory of each process, by the name of its model.
    processes: BTreeMap<String, Vec<Option<f64>>>,
    /// The name in `processes` that is this endpoint itself.
    endpoint: &'static str,
    /// The oldest first, at most 1000.
    marks: Vec<TelemetryMark>,
    /// Why there may be less than was recorded.
    trouble: Option<String>,
}

/// A figure over time; null where nobody could read it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct TelemetryLine {
    mean: Vec<Option<f64>>,
    /// Of figures whose most matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    high: Option<Vec<Option<f64>>>,
    /// Of figures whose least matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    low: Option<Vec<Option<f64>>>,
}

/// Quantiles of the time to the first token, in milliseconds, to 2.5 %.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct TtftLines {
    p50_ms: Vec<Option<f64>>,
    p95_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
    /// Requests.
    count: Vec<u64>,
}

/// The latest ten seconds of the history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TelemetryPoint {
    /// When it begins, seconds since 1970.
    at_s: u64,
    /// Its seconds.
    step_s: u64,
    /// By name; one that nobody could read is not there.
    figures: BTreeMap<&'static str, f64>,
    ttft: Option<TtftPoint>,
    cores_each: u8,
    cores: Vec<u8>,
    /// Bytes in memory of each process.
    processes: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TtftPoint {
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    count: u64,
}

/// Counts the changes of the marks.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct MarksState {
    pub(crate) changes: u64,
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TelemetryMark {
    /// Null until it is in the file.
    id: Option<i64>,
    /// Milliseconds since 1970.
    at_ms: u64,
    /// `start`, `stop`, `load`, `unload`, `crash`, `failed`, `setting`, `tuned`, `clock` or
    /// `note`; newer programs may have others.
    kind: &'static str,
    model: Option<String>,
    /// May be empty.
    text: String,
}

/// A note to be kept.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NewNote {
    /// At most 500 bytes.
    pub(crate) text: String,
    /// The moment that it is about, milliseconds since 1970; absent: now.
    pub(crate) at_ms: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NoteDeleted {
    pub(crate) id: i64,
    pub(crate) deleted: bool,
}

impl TelemetryPage {
    pub(crate) fn new(page: &HistoryPage, days: u32) -> Self {
        let points = &page.points;
        let lines = Figure::ALL.iter().filter_map(|figure| {
            let line = TelemetryLine::of(*figure, points)?;
            Some((figure.word(), line))
        });
        let mut processes = BTreeMap::<String, Vec<Option<f64>>>::new();
        for (at, point) in points.iter().enumerate() {
            for (name, spread) in point.processes() {
                let line = processes.entry(name.to_owned());
                let line = line.or_insert_with(|| vec![None; points.len()]);
                line[at] = Some(short(spread.mean));
            }
        }
        let last = points.iter().rfind(|point| !point.cores.percent.is_empty());
        Self {
            step_s: page.step_s,
            days,
            at_s: points.iter().map(|point| point.at_s).collect(),
            figures: lines.collect(),
            ttft: TtftLines::of(points),
            cores_each: last.map_or(1, |point| point.cores.each),
            cores: points
                .iter()
                .map(|point| point.cores.percent.clone())
                .collect(),
            processes,
            endpoint: ENDPOINT,
            marks: page.marks.iter().map(TelemetryMark::of).collect(),
            trouble: page.trouble.as_ref().map(ToString::to_string),
        }
    }
}

impl TelemetryLine {
    /// `None` where the figure is in no point.
    fn of(figure: Figure, points: &[Sample]) -> Option<Self> {
        points.iter().find_map(|point| point.get(figure))?;
        let line = |read: fn(&Spread) -> f32| {
            let values = points.iter().map(|point| point.get(figure));
            values
                .map(|spread| spread.map(|spread| short(read(&spread))))
                .collect()
        };
        let (high, low) = match figure.shown() {
            Shown::Mean => (false, false),
            Shown::High => (true, false),
            Shown::Low => (false, true),
            Shown::Both => (true, true),
        };
        Some(Self {
            mean: line(|spread| spread.mean),
            high: high.then(|| line(|spread| spread.max)),
            low: low.then(|| line(|spread| spread.min)),
        })
    }
}

impl TtftLines {
    fn of(points: &[Sample]) -> Self {
        let line = |q: f64| {
            let waits = points.iter().map(|point| point.waits.quantile(q));
            waits.map(|seconds| seconds.map(milli)).collect()
        };
        Self {
            p50_ms: line(0.5),
            p95_ms: line(0.95),
            p99_ms: line(0.99),
            count: points.iter().map(|point| point.waits.count()).collect(),
        }
    }
}

impl TelemetryPoint {
    pub(crate) fn new(sample: &Sample, step_s: u64) -> Self {
        let figures = Figure::ALL.iter().filter_map(|figure| {
            let spread = sample.get(*figure)?;
            Some((figure.word(), short(spread.mean)))
        });
        let wait = |q: f64| sample.waits.quantile(q).map(milli);
        let ttft = wait(0.5).zip(wait(0.95)).zip(wait(0.99));
        let processes = sample.processes().into_iter();
        Self {
            at_s: sample.at_s,
            step_s,
            figures: figures.collect(),
            ttft: ttft.map(|((p50_ms, p95_ms), p99_ms)| TtftPoint {
                p50_ms,
                p95_ms,
                p99_ms,
                count: sample.waits.count(),
            }),
            cores_each: sample.cores.each.max(1),
            cores: sample.cores.percent.clone(),
            processes: processes
                .map(|(name, spread)| (name.to_owned(), short(spread.mean)))
                .collect(),
        }
    }
}

impl TelemetryMark {
    pub(crate) fn of(mark: &Mark) -> Self {
        Self {
            id: mark.id,
            at_ms: mark.at_ms,
            kind: mark.kind.word(),
            model: mark.model.clone(),
            text: mark.text.clone(),
        }
    }
}

fn milli(seconds: f64) -> f64 {
    short((seconds * 1000.0) as f32)
}

/// To as many digits as are worth it.
fn short(value: f32) -> f64 {
    let value = f64::from(value);
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(DIGITS - 1 - value.abs().log10().floor() as i32);
    let rounded = (value * scale).round() / scale;
    // Bytes and the like have no fractions.
    match value.abs() >= 1e5 {
        true => rounded.round(),
        false => rounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_right() {
        for (value, expected) in [
            (0.0, "0.0"),
            (0.123_456_78, "0.12346"),
            (41.237_89, "41.238"),
            (2_147_483_648.0, "2147500000.0"),
            (-3.0, "-3.0"),
            (f32::NAN, "0.0"),
        ] {
            assert_eq!(serde_json::to_string(&short(value)).unwrap(), expected);
        }
    }
}
