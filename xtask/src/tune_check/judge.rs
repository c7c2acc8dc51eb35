//! What the figures say: the best of a sweep, and how two points compare over rounds.

use bench::speeds::{Confidence, paired};
use serde::Deserialize;
use std::collections::BTreeMap;
use tuner::STOLEN_PERCENT_MAX;

/// The requests that are to be fast: as `--for chat`.
pub(super) const WORKLOAD: [f64; 2] = [256.0, 256.0];
/// What is asked of the tuner.
pub(super) const SLOWER_MAX: f64 = 0.05;
/// Fewer rounds are no comparison.
pub(super) const ROUNDS_MIN: usize = 12;
/// A sweep makes at least so many passes over all points.
pub(super) const PASSES_MIN: usize = 3;
/// And no more than so many, however noisy the machine is.
pub(super) const PASSES_MAX: usize = 12;
/// To tell points apart that differ by [`SLOWER_MAX`], each must be known better than that.
pub(super) const POINT_ERROR: f64 = 0.04;
/// The standard error of a median by that of a mean, for a normal distribution.
const OF_MEDIAN: f64 = 1.2533;
/// After so many that count it stays as it is.
pub(super) const ROUNDS_MAX: usize = 60;
/// And after so many with those that do not count.
pub(super) const ROUNDS_MADE_MAX: usize = 90;

/// A run, as `sextant tune --sweep` and `--rounds` print it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Run {
    pub(super) point: usize,
    /// Seconds a token.
    pub(super) prefill: f64,
    pub(super) decode: f64,
    /// With a load, without attempts that do not count.
    pub(super) seconds: f64,
    /// What the host took of what the run wanted, percent.
    pub(super) stolen: Option<f64>,
    pub(super) attempts: usize,
    /// Of a sweep.
    #[serde(default)]
    pub(super) pass: usize,
    /// Points of the sweep.
    #[serde(default)]
    pub(super) of: usize,
    #[serde(default)]
    pub(super) levels: Vec<String>,
    /// Of rounds.
    #[serde(default)]
    pub(super) round: usize,
}

impl Run {
    /// What a request of [`WORKLOAD`] takes at these speeds.
    pub(super) fn request_seconds(&self) -> f64 {
        WORKLOAD[0] * self.prefill + WORKLOAD[1] * self.decode
    }

    pub(super) fn is_disturbed(&self) -> bool {
        self.stolen
            .is_some_and(|stolen| stolen > STOLEN_PERCENT_MAX)
    }
}

/// The points of a sweep with their median times over its passes, the fastest first.
pub(super) fn ranking(sweep: &[Run]) -> Vec<(usize, f64)> {
    let mut times: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for run in sweep {
        let of_point = times.entry(run.point).or_default();
        of_point.push(run.request_seconds());
    }
    let medians = times.into_iter();
    let mut ranking: Vec<_> = medians
        .map(|(point, times)| (point, tuner::median(&times)))
        .collect();
    ranking.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    ranking
}

/// By how much runs of one point differ from pass to pass, as a standard deviation of the
/// logarithm, without what a whole pass was slower than the others.
pub(super) fn scatter(sweep: &[Run]) -> f64 {
    let points: BTreeMap<usize, f64> = ranking(sweep).into_iter().collect();
    let off = |run: &Run| (run.request_seconds() / points[&run.point]).ln();
    let mut passes: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for run in sweep {
        passes.entry(run.pass).or_default().push(off(run));
    }
    let n = passes.len() as f64;
    let deviations = passes.values().flat_map(|offs| {
        let middle = tuner::median(offs);
        offs.iter().map(move |off| (off - middle).abs())
    });
    // A median of n figures has one of them at 0, so the others are all that scatter.
    let deviations: Vec<f64> = deviations.filter(|off| *off > 0.0).collect();
    1.4826 * tuner::median(&deviations) * (n / (n - 1.0).max(1.0)).sqrt()
}

/// Passes that a sweep wants, by the whole ones that it has: enough that a point's median is known
/// to [`POINT_ERROR`]. Of a noisier machine both sides get more time.
pub(super) fn passes_wanted(whole: &[Run]) -> usize {
    let passes = whole.last().map_or(0, |run| run.pass + 1);
    if passes < PASSES_MIN {
        return PASSES_MIN;
    }
    let wanted = (OF_MEDIAN * scatter(whole) / POINT_ERROR).powi(2).ceil() as usize;
    wanted.clamp(PASSES_MIN, PASSES_MAX)
}

/// Rounds in which every one of some points ran once.
pub(super) struct Rounds<'a> {
    /// By their numbers.
    rounds: BTreeMap<usize, Vec<&'a Run>>,
    /// The number that the next one has: that of one which was stopped is not used again.
    pub(super) next: usize,
}

/// Which rounds count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// Those in which the host has disturbed no run, of either side.
    Undisturbed,
    All,
}

impl<'a> Rounds<'a> {
    /// A round that was stopped is none.
    pub(super) fn of(runs: &'a [Run], places: &[usize]) -> Self {
        let mut rounds: BTreeMap<usize, Vec<&Run>> = BTreeMap::new();
        for run in runs {
            rounds.entry(run.round).or_default().push(run);
        }
        let next = rounds.keys().next_back().map_or(0, |last| last + 1);
        let has = |runs: &[&Run], place: usize| runs.iter().any(|run| run.point == place);
        rounds.retain(|_, runs| places.iter().all(|place| has(runs, *place)));
        Self { rounds, next }
    }

    pub(super) fn n_made(&self) -> usize {
        self.rounds.len()
    }

    fn counted(&self, counted: Counted) -> impl Iterator<Item = &Vec<&'a Run>> {
        let counts = move |runs: &&Vec<&Run>| {
            counted == Counted::All || !runs.iter().any(|run| run.is_disturbed())
        };
        self.rounds.values().filter(counts)
    }

    pub(super) fn n_disturbed(&self) -> usize {
        self.n_made() - self.counted(Counted::Undisturbed).count()
    }

    /// Ratios of the speeds of a point by those of another. A point is as fast as it is.
    pub(super) fn ratios(&self, (point, other): (usize, usize), counted: Counted) -> Ratios {
        if point == other {
            return Ratios {
                n: 0,
                middle: 1.0,
                low: 1.0,
                high: 1.0,
            };
        }
        let time = |runs: &[&Run], place: usize| {
            let run = runs.iter().find(|run| run.point == place);
            run.map(|run| run.request_seconds().ln())
        };
        let pairs = self.counted(counted);
        let logs = pairs.filter_map(|runs| Some(time(runs, other)? - time(runs, point)?));
        Ratios::of(&logs.collect::<Vec<f64>>())
    }

    /// Of some points the one with the least median time, each round by itself.
    pub(super) fn fastest(&self, places: &[usize]) -> Option<usize> {
        let off = |place: usize| {
            let offs = self.counted(Counted::All).filter_map(|runs| {
                let times = runs.iter().map(|run| run.request_seconds().ln());
                let mean = times.sum::<f64>() / runs.len() as f64;
                let run = runs.iter().find(|run| run.point == place)?;
                Some(run.request_seconds().ln() - mean)
            });
            tuner::median(&offs.collect::<Vec<f64>>())
        };
        let places = places.iter().copied();
        places.min_by(|a, b| off(*a).total_cmp(&off(*b)))
    }
}

/// Ratios of speeds of two points over rounds: their middle, and an interval that has it with
/// a confidence of 99 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratios {
    pub(super) n: usize,
    pub(super) middle: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Ratios {
    /// Of too few rounds nothing is known.
    fn of(logs: &[f64]) -> Self {
        let n = logs.len();
        let factor = paired(logs, Confidence::Percent99);
        factor.map_or(
            Self {
                n,
                middle: f64::NAN,
                low: 0.0,
                high: f64::INFINITY,
            },
            |factor| Self {
                n,
                middle: factor.middle,
                low: factor.interval.low,
                high: factor.interval.high,
            },
        )
    }
}

/// What a comparison says of "within 5 %".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The interval is on the right side.
    Shown,
    /// It is on the wrong side.
    Slower,
    /// It is on neither, after as many rounds as may be: no difference was found either way,
    /// and the middle is within 5 %.
    WithinNoise,
    /// The same, and the middle is not.
    NotShown,
    /// More rounds may tell.
    Open,
}

impl Judgement {
    /// Of the tuner's choice against the sweep's, by the rounds that count.
    pub(super) fn of(rounds: &Rounds<'_>, pair: (usize, usize)) -> Self {
        let ratios = rounds.ratios(pair, Counted::Undisturbed);
        let asked = 1.0 - SLOWER_MAX;
        if pair.0 == pair.1 {
            return Self::Shown;
        }
        let is_over = ratios.n >= ROUNDS_MAX || rounds.n_made() >= ROUNDS_MADE_MAX;
        match ratios {
            Ratios { n, .. } if n < ROUNDS_MIN && !is_over => Self::Open,
            Ratios { low, .. } if low >= asked => Self::Shown,
            Ratios { high, .. } if high < asked => Self::Slower,
            _ if !is_over => Self::Open,
            Ratios { low, high, .. } if low > 1.0 || high < 1.0 => Self::NotShown,
            Ratios { middle, .. } if middle >= asked => Self::WithinNoise,
            _ => Self::NotShown,
        }
    }

    pub(super) const fn passes(self) -> bool {
        matches!(self, Self::Shown | Self::WithinNoise)
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Slower => "**slower**",
            Self::WithinNoise => "within noise",
            Self::NotShown => "**not shown**",
            Self::Open => "**open**",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(point: usize, seconds: f64) -> Run {
        Run {
            point,
            prefill: 0.0,
            decode: seconds / WORKLOAD[1],
            seconds,
            stolen: Some(0.0),
            attempts: 1,
            pass: 0,
            of: 3,
            levels: Vec::new(),
            round: 0,
        }
    }

    /// Rounds of the points 7 and 3; of each round the time of 7 by that of 3.
    fn rounds(times: &[f64]) -> Vec<Run> {
        let rounds = times.iter().enumerate().flat_map(|(round, time)| {
            let of = |point, seconds| Run {
                round,
                ..run(point, seconds)
            };
            let mut both = [of(7, *time), of(3, 1.0)];
            if round % 2 == 1 {
                both.reverse();
            }
            both
        });
        rounds.collect()
    }

    #[test]
    fn the_best_point_has_the_least_median_over_the_passes() {
        let times = [[3.0, 1.0, 3.0], [2.0, 9.0, 2.2], [4.0, 4.0, 4.0]];
        let sweep: Vec<Run> = (0..3)
            .flat_map(|pass| {
                let of = move |point: usize| Run {
                    pass,
                    ..run(point, times[point][pass])
                };
                (0..3).map(of)
            })
            .collect();
        let order: Vec<usize> = ranking(&sweep).iter().map(|(point, _)| *point).collect();
        assert_eq!(order, [1, 0, 2]);
    }

    #[test]
    fn a_slow_pass_is_no_scatter() {
        let of = |pass: usize, point: usize| {
            let slow = [1.0, 2.0, 1.0][pass];
            let own = [0.99, 1.0, 1.01][(pass + point) % 3];
            Run {
                pass,
                ..run(point, slow * own * (1.0 + point as f64))
            }
        };
        let sweep: Vec<Run> = (0..3)
            .flat_map(|pass| (0..30).map(move |point| of(pass, point)))
            .collect();
        let scatter = scatter(&sweep);
        assert!((0.003..0.03).contains(&scatter), "{scatter}");
    }

    #[test]
    fn a_noisy_sweep_wants_more_passes() {
        let sweep = |passes: usize, noise: f64| {
            let of = move |pass: usize, point: usize| Run {
                pass,
                ..run(
                    point,
                    f64::exp(noise * [-1.0, 0.0, 1.0][(pass + point) % 3]),
                )
            };
            let all = (0..passes).flat_map(|pass| (0..30).map(move |point| of(pass, point)));
            all.collect::<Vec<Run>>()
        };
        assert_eq!(passes_wanted(&[]), PASSES_MIN);
        assert_eq!(
            passes_wanted(&sweep(1, 0.5)),
            PASSES_MIN,
            "one pass says nothing"
        );
        assert_eq!(passes_wanted(&sweep(3, 0.01)), PASSES_MIN);
        assert!((5..10).contains(&passes_wanted(&sweep(3, POINT_ERROR))));
        assert_eq!(passes_wanted(&sweep(3, 0.5)), PASSES_MAX);
    }

    #[test]
    fn ratios_are_of_speeds() {
        let runs = rounds(&[2.0; 12]);
        let rounds = Rounds::of(&runs, &[3, 7]);
        let three = rounds.ratios((3, 7), Counted::All);
        assert!((three.middle - 2.0).abs() < 1e-9, "it takes less");
        assert!((three.low - 2.0).abs() < 1e-9);
        assert!((rounds.ratios((3, 3), Counted::All).low - 1.0).abs() < 1e-9);
        assert_eq!(rounds.ratios((3, 5), Counted::All).n, 0, "never measured");
        assert_eq!(rounds.fastest(&[7, 3]), Some(3));
    }

    #[test]
    fn a_round_counts_if_the_host_left_all_of_it_alone() {
        let mut runs = rounds(&[1.0; 14]);
        runs[5].stolen = Some(STOLEN_PERCENT_MAX + 1.0);
        runs[6].stolen = None;
        runs.pop();
        let rounds = Rounds::of(&runs, &[3, 7]);
        assert_eq!((rounds.n_made(), rounds.n_disturbed()), (13, 1));
        assert_eq!(rounds.ratios((3, 7), Counted::Undisturbed).n, 12);
        assert_eq!(rounds.ratios((3, 7), Counted::All).n, 13);
        assert_eq!(rounds.next, 14, "the one that was stopped keeps its number");
    }

    #[test]
    fn what_is_not_shown_does_not_pass() {
        // What 7 takes by what 3 takes is the ratio of 3's speed to 7's.
        let of = |middle: f64, scatter: f64, n: usize| {
            let times = (0..n).map(|round| {
                let off = [-scatter, 0.0, scatter][round % 3];
                middle * f64::exp(off)
            });
            let runs = rounds(&times.collect::<Vec<f64>>());
            Judgement::of(&Rounds::of(&runs, &[3, 7]), (3, 7))
        };
        assert_eq!(of(1.0, 0.01, 11), Judgement::Open, "too few");
        assert_eq!(of(1.0, 0.01, 12), Judgement::Shown);
        assert_eq!(of(0.9, 0.01, 12), Judgement::Slower);
        assert_eq!(of(1.0, 0.4, 24), Judgement::Open);
        assert_eq!(of(1.0, 0.6, ROUNDS_MAX), Judgement::WithinNoise);
        assert_eq!(of(0.93, 0.3, ROUNDS_MAX), Judgement::NotShown);
        let passing = [Judgement::Shown, Judgement::WithinNoise];
        assert!(passing.iter().all(|judgement| judgement.passes()));
        let failing = [Judgement::Slower, Judgement::NotShown, Judgement::Open];
        assert!(!failing.iter().any(|judgement| judgement.passes()));
    }
}
