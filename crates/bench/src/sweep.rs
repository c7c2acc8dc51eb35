//! Combinations of settings, measured round by round: which run comes when, and what the runs
//! come to.
//!
//! A round has every combination once, in an order of its own, so that what a moment did to the
//! machine is not one combination's. Figures are middles of the rounds (Hodges and Lehmann, 1963,
//! of logarithms) with an interval of 95 %; figures that are far off are told and stay in.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::rates::Interval;
use crate::speeds::{Confidence, Factor, paired, quantile};

/// Combinations of a sweep at most.
pub const POINTS_MAX: usize = 4096;
/// From the median absolute deviation to a standard deviation, for a normal distribution.
const OF_DEVIATION: f64 = 1.4826;
/// Deviations from the median beyond which a figure is told of.
const FAR: f64 = 3.5;
/// Less than this, however little the others scatter, is not far.
const FAR_MIN: f64 = 0.05;
/// A round that is so much slower or faster than the others has another machine under it.
pub const DRIFT_MAX: f64 = 0.1;

/// One thing that varies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    pub name: String,
    pub values: Vec<String>,
}

impl Axis {
    /// `NAME=VALUE,VALUE`; a value with commas in it stands in `[]`. Brackets that do not enclose
    /// the whole of a value belong to it. Names may have `-` for `_`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}`: write NAME=VALUE,VALUE, such as threads=1,2");
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let values = split(values).map_err(|why| format!("`{text}`: {why}"))?;
        if name.is_empty() || values.iter().any(String::is_empty) {
            return Err(form());
        }
        let distinct: BTreeSet<&String> = values.iter().collect();
        match distinct.len() == values.len() {
            true => Ok(Self {
                name: name.replace('-', "_"),
                values,
            }),
            false => Err(format!("`{text}`: a value stands there twice")),
        }
    }
}

/// Parts between commas that are in no brackets.
fn split(values: &str) -> Result<Vec<String>, &'static str> {
    let commas = outer_commas(values)?;
    let starts = std::iter::once(0).chain(commas.iter().map(|at| at + 1));
    let ends = commas.iter().copied().chain([values.len()]);
    let parts = starts.zip(ends).map(|(start, end)| &values[start..end]);
    Ok(parts.map(|part| bare(part).to_owned()).collect())
}

/// Without the brackets that enclose all of it, if there are such.
fn bare(part: &str) -> &str {
    let inner = part
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    // In `[1]..[2]` the first bracket is not closed by the last.
    inner
        .filter(|inner| outer_commas(inner).is_ok())
        .unwrap_or(part)
}

/// Where the commas are that are in no brackets.
fn outer_commas(text: &str) -> Result<Vec<usize>, &'static str> {
    let mut commas = Vec::new();
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.checked_sub(1).ok_or("a `]` has no `[` before it")?,
            ',' if depth == 0 => commas.push(at),
            _ => {}
        }
    }
    match depth {
        0 => Ok(commas),
        _ => Err("a `[` has no `]` after it"),
    }
}

/// All combinations, the last axis changing fastest; one, of nothing, where nothing varies.
///
/// # Errors
/// They are more than [`POINTS_MAX`].
pub fn points(axes: &[Axis]) -> Result<Vec<Vec<String>>, String> {
    let n = axes.iter().try_fold(1_usize, |n, axis| {
        n.checked_mul(axis.values.len())
            .filter(|n| *n <= POINTS_MAX)
    });
    if n.is_none() {
        return Err(format!(
            "these are more than {POINTS_MAX} combinations; vary less"
        ));
    }
    let mut points: Vec<Vec<String>> = vec![Vec::new()];
    for axis in axes {
        let with = |point: &Vec<String>| {
            let values = axis.values.iter();
            let each = values.map(|value| point.iter().chain([value]).cloned().collect());
            each.collect::<Vec<Vec<String>>>()
        };
        points = points.iter().flat_map(with).collect();
    }
    Ok(points)
}

/// The places of `n` points in a round's order, the same each time.
#[must_use]
pub fn order(n: usize, round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    // Every other round is the one before it backwards: what drifts evenly is then in all alike.
    Rng::with_seed(round / 2).shuffle(&mut order);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// What the rounds of a point say of one figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub n: usize,
    pub middle: f64,
    /// Of 95 %; `None` of fewer rounds than six, which cannot show so much.
    pub interval: Option<Interval>,
    /// Those that are far off the others.
    pub far: Vec<f64>,
}

impl Figure {
    /// Of figures above 0, such as speeds or times; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|one| *one > 0.0).collect();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            return None;
        }
        let logs: Vec<f64> = sorted.iter().map(|one| one.ln()).collect();
        let factor = paired(&logs, Confidence::Percent95);
        let median = quantile(&logs, 0.5);
        let mut offs: Vec<f64> = logs.iter().map(|log| (log - median).abs()).collect();
        offs.sort_by(f64::total_cmp);
        let limit = (FAR * OF_DEVIATION * quantile(&offs, 0.5)).max(FAR_MIN);
        let is_far = |one: &f64| (one.ln() - median).abs() > limit;
        Some(Self {
            n: sorted.len(),
            middle: factor.map_or(median.exp(), |factor| factor.middle),
            interval: factor
                .map(|factor| factor.interval)
                .filter(|interval| interval.high.is_finite()),
            far: match sorted.len() {
                0..3 => Vec::new(),
                _ => sorted.iter().copied().filter(is_far).collect(),
            },
        })
    }
}

/// A figure of a run: the place of its point, its round, and the figure.
pub type Placed = (usize, u64, f64);

/// By which factor each round is off the others, over the points that all rounds have.
#[must_use]
pub fn drift(runs: &[Placed]) -> Vec<(u64, f64)> {
    let places: BTreeSet<usize> = runs.iter().map(|(place, _, _)| *place).collect();
    let rounds: BTreeSet<u64> = runs.iter().map(|(_, round, _)| *round).collect();
    let find = |place: usize, round: u64| {
        let mut runs = runs.iter();
        let run = runs.find(|run| run.0 == place && run.1 == round && run.2 > 0.0);
        run.map(|run| run.2.ln())
    };
    let logs_of = |place: usize| {
        let all: Option<Vec<f64>> = rounds.iter().map(|round| find(place, *round)).collect();
        all
    };
    let median = |mut logs: Vec<f64>| {
        logs.sort_by(f64::total_cmp);
        quantile(&logs, 0.5)
    };
    let whole = places.into_iter().filter_map(logs_of);
    let offs: Vec<Vec<f64>> = whole
        .map(|logs| {
            let middle = median(logs.clone());
            logs.iter().map(|log| log - middle).collect()
        })
        .collect();
    let of_round = |place: usize| median(offs.iter().map(|logs| logs[place]).collect());
    let rounds = rounds.into_iter().enumerate();
    match offs.is_empty() {
        true => Vec::new(),
        false => rounds
            .map(|(place, round)| (round, of_round(place).exp()))
            .collect(),
    }
}

/// By which factor a point is above another, round by round; `None` of fewer than three rounds
/// that have both.
#[must_use]
pub fn compared(runs: &[Placed], (point, other): (usize, usize)) -> Option<Factor> {
    let of = |wanted: usize| {
        runs.iter()
            .filter(move |run| run.0 == wanted && run.2 > 0.0)
    };
    let logs: Vec<f64> = of(point)
        .filter_map(|run| {
            let beside = of(other).find(|beside| beside.1 == run.1)?;
            Some((run.2 / beside.2).ln())
        })
        .collect();
    paired(&logs, Confidence::Percent95)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> Axis {
        Axis::parse(text).unwrap()
    }

    #[test]
    fn axes_are_read_and_wrong_ones_refused() {
        let threads = axis("threads-batch=1,2");
        assert_eq!(threads.name, "threads_batch");
        assert_eq!(threads.values, ["1", "2"]);
        assert_eq!(axis("cpus=[0,1],2").values, ["0,1", "2"]);
        let nested = axis("kv-plan=[k=q8_0,v=q4_0;k[1]=f16],q8_0");
        assert_eq!(nested.values, ["k=q8_0,v=q4_0;k[1]=f16", "q8_0"]);
        let own = axis("kv-plan=q8_0,k[18,20-23]=f16,[0]-[1]");
        assert_eq!(own.values, ["q8_0", "k[18,20-23]=f16", "[0]-[1]"]);
        for wrong in [
            "threads",
            "=1",
            "threads=",
            "threads=1,,2",
            "threads=1,1",
            "a=[1",
            "a=1]",
            "a=[]",
        ] {
            assert!(Axis::parse(wrong).is_err(), "{wrong}");
        }
        for (wrong, missing) in [
            ("a=[1", "no `]`"),
            ("a=[1,[2]", "no `]`"),
            ("a=1]", "no `[`"),
            ("a=[1]],2", "no `[`"),
            ("a=]1[", "no `[`"),
        ] {
            let why = Axis::parse(wrong).unwrap_err();
            assert!(why.contains(missing), "{wrong}: {why}");
        }
    }

    #[test]
    fn points_are_all_combinations() {
        let points = points(&[axis("a=1,2"), axis("b=x,y,z")]).unwrap();
        let joined: Vec<String> = points.iter().map(|point| point.concat()).collect();
        assert_eq!(joined, ["1x", "1y", "1z", "2x", "2y", "2z"]);
        assert_eq!(super::points(&[]).unwrap(), [Vec::<String>::new()]);
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let wide = |name: &str| axis(&format!("{name}={}", many.join(",")));
        assert!(super::points(&[wide("a"), wide("b")]).is_err());
    }

    #[test]
    fn rounds_have_every_point_once_in_an_order_of_their_own() {
        let orders: Vec<Vec<usize>> = (0..4).map(|round| order(20, round)).collect();
        for one in &orders {
            let places: BTreeSet<usize> = one.iter().copied().collect();
            assert_eq!(places, (0..20).collect());
        }
        let backwards: Vec<usize> = orders[0].iter().rev().copied().collect();
        assert_eq!(orders[1], backwards);
        assert_ne!(orders[0], orders[2]);
        assert_eq!(orders[2], order(20, 2), "a run that goes on has the same");
    }

    #[test]
    fn a_figure_tells_what_is_far_off_and_keeps_it() {
        let figure = Figure::of(&[100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 60.0]).unwrap();
        assert_eq!((figure.n, figure.far.as_slice()), (7, [60.0].as_slice()));
        assert!((figure.middle - 100.0).abs() < 1.0, "{figure:?}");
        assert!(figure.interval.unwrap().holds(100.0));
        assert_eq!(Figure::of(&[5.0, 5.0]).unwrap().interval, None);
        assert_eq!(Figure::of(&[0.0]), None);
    }

    #[test]
    fn a_round_that_is_slower_for_all_is_found() {
        let runs: Vec<Placed> = (0..6_u64)
            .flat_map(|round| {
                (0..5_usize).map(move |place| {
                    let own = 50.0
                        * (place as f64 + 1.0)
                        * (1.0 + 0.01 * ((place + round as usize) % 3) as f64);
                    let slow = if round == 4 { 0.9 } else { 1.0 };
                    (place, round, own * slow)
                })
            })
            .collect();
        let drift = drift(&runs);
        let slowest = drift.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert_eq!(slowest.0, 4);
        assert!((slowest.1 - 0.9).abs() < 0.02, "{drift:?}");
        assert!(
            drift
                .iter()
                .filter(|one| one.0 != 4)
                .all(|one| (one.1 - 1.0).abs() < 0.02)
        );
    }

    #[test]
    fn points_are_compared_within_rounds() {
        let runs: Vec<Placed> = (0..8_u64)
            .flat_map(|round| {
                // A machine that gets slower and slower, and a point that is a tenth faster.
                let pace = 0.9_f64.powi(i32::try_from(round).unwrap());
                [(0, round, 100.0 * pace), (1, round, 110.0 * pace)]
            })
            .collect();
        let factor = compared(&runs, (1, 0)).unwrap();
        assert!(factor.is_difference() && (factor.middle - 1.1).abs() < 1e-9);
        assert_eq!(compared(&runs, (2, 0)), None);
    }
}
