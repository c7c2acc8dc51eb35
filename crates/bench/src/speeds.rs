//! Speeds and times: their middle, how sure it is, and whether two of them differ.
//!
//! Nothing here supposes a normal distribution: machines that are shared have long tails. All
//! is by ranks of logarithms, so a result says by which factor something differs, and is the
//! same for times and for speeds.

use serde::Serialize;

use crate::random::Random;
use crate::rates::Interval;

/// Samples drawn for an interval.
const DRAWS: usize = 2000;
/// Fewer figures have no interval.
const FIGURES_MIN: usize = 3;
/// Up to so many figures (of one side) the distribution of ranks is counted out, beyond it is
/// normal to three digits.
const EXACT_MAX: usize = 25;
const Z_95: f64 = 1.959_964;
/// What counts as a difference.
const SIGNIFICANT: f64 = 0.05;

/// Some figures in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub n: usize,
    pub median: f64,
    /// Of the median, 95 %; `None` of too few figures.
    pub interval: Option<Interval>,
    pub min: f64,
    pub max: f64,
    /// Places of figures farther from the quartiles than 1.5 times their distance (Tukey). They
    /// are shown, and counted like all others.
    pub outliers: Vec<usize>,
}

/// A share of sorted figures, between two of them by their distance; 0 of none.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a list"
)]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * part
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// `None` of no figures.
#[must_use]
pub fn summary(figures: &[f64]) -> Option<Summary> {
    let ordered = sorted(figures);
    let (min, max) = (*ordered.first()?, *ordered.last()?);
    let (low, high) = (quantile(&ordered, 0.25), quantile(&ordered, 0.75));
    let reach = 1.5 * (high - low);
    let is_out = |figure: f64| figure < low - reach || figure > high + reach;
    let outliers = figures.iter().enumerate();
    Some(Summary {
        n: figures.len(),
        median: quantile(&ordered, 0.5),
        interval: (figures.len() >= FIGURES_MIN).then(|| median_interval(figures)),
        min,
        max,
        outliers: outliers
            .filter(|(_, figure)| is_out(**figure))
            .map(|(place, _)| place)
            .collect(),
    })
}

/// By drawing from the figures again and again (Efron, 1979), the same draws every time.
fn median_interval(figures: &[f64]) -> Interval {
    let mut random = Random::seeded(figures.len() as u64);
    let medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<f64> = figures
                .iter()
                .map(|_| figures[random.below(figures.len())])
                .collect();
            quantile(&sorted(&drawn), 0.5)
        })
        .collect();
    let medians = sorted(&medians);
    Interval {
        low: quantile(&medians, 0.025),
        high: quantile(&medians, 0.975),
    }
}

/// By which factor the second of two lists is above the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Factor {
    /// Figures of the shorter list.
    pub n: usize,
    pub middle: f64,
    /// 95 %
    pub interval: Interval,
    /// How likely so much comes of noise alone.
    pub p_value: f64,
}

impl Factor {
    #[must_use]
    pub fn is_difference(&self) -> bool {
        self.p_value < SIGNIFICANT && !self.interval.holds(1.0)
    }
}

/// Compares figures that belong together, round by round: Wilcoxon's signed ranks (1945), and
/// the middle of Hodges and Lehmann (1963) with the interval that goes with it. `None` of fewer
/// than three rounds, or of figures that are not above 0.
#[must_use]
pub fn paired(first: &[f64], second: &[f64]) -> Option<Factor> {
    let n = first.len().min(second.len());
    let logs = first.iter().zip(second);
    let logs: Option<Vec<f64>> = logs.map(|(a, b)| log_ratio(*a, *b)).collect();
    let logs = logs.filter(|logs| logs.len() >= FIGURES_MIN)?;
    let mut means = Vec::with_capacity(n * (n + 1) / 2);
    for (place, one) in logs.iter().enumerate() {
        means.extend(
            logs[place..]
                .iter()
                .map(|other| f64::midpoint(*one, *other)),
        );
    }
    let means = sorted(&means);
    let ranks = match n {
        ..=EXACT_MAX => Ranks::exact(&signed_rank_ways(n)),
        _ => {
            let n = real(n);
            Ranks::normal(n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0)
        }
    };
    Some(factor(n, &means, &ranks))
}

/// Compares figures that do not belong together: the ranks of Mann and Whitney (1947), and the
/// middle of all ratios. `None` where a list has fewer than three figures, or one that is not
/// above 0.
#[must_use]
pub fn unpaired(first: &[f64], second: &[f64]) -> Option<Factor> {
    let (n, m) = (first.len(), second.len());
    if n.min(m) < FIGURES_MIN {
        return None;
    }
    let pairs = first
        .iter()
        .flat_map(|a| second.iter().map(move |b| (*a, *b)));
    let logs: Option<Vec<f64>> = pairs.map(|(a, b)| log_ratio(a, b)).collect();
    let logs = sorted(&logs?);
    let ranks = if n.max(m) <= EXACT_MAX {
        Ranks::exact(&rank_sum_ways(n, m))
    } else {
        let (n, m) = (real(n), real(m));
        Ranks::normal(n * m / 2.0, n * m * (n + m + 1.0) / 12.0)
    };
    Some(factor(n.min(m), &logs, &ranks))
}

fn log_ratio(first: f64, second: f64) -> Option<f64> {
    let is_fit = |figure: f64| figure.is_finite() && figure > 0.0;
    (is_fit(first) && is_fit(second)).then(|| (second / first).ln())
}

/// What a statistic, the number of entries above 0, is by chance.
struct Ranks {
    /// So many entries from either end are outside of the interval.
    outside: usize,
    /// How likely the statistic is at most so far from its end, from one side.
    tail: Box<dyn Fn(usize) -> f64>,
}

impl Ranks {
    /// `ways[k]`: in how many ways the statistic is `k`.
    fn exact(ways: &[f64]) -> Self {
        let total: f64 = ways.iter().sum();
        let mut sum = 0.0;
        let tails: Vec<f64> = ways
            .iter()
            .map(|ways| {
                sum += ways;
                sum / total
            })
            .collect();
        let outside = tails.iter().take_while(|tail| **tail <= SIGNIFICANT / 2.0);
        Self {
            outside: outside.count(),
            tail: Box::new(move |k| tails.get(k).copied().unwrap_or(1.0)),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank, which is small and not below 0"
    )]
    fn normal(mean: f64, variance: f64) -> Self {
        let deviation = variance.sqrt();
        Self {
            outside: (mean - Z_95 * deviation).max(0.0).floor() as usize,
            tail: Box::new(move |k| below((real(k) + 0.5 - mean) / deviation)),
        }
    }
}

/// `entries`: sorted logarithms, half of them to be on each side of 0 if nothing differs.
fn factor(n: usize, entries: &[f64], ranks: &Ranks) -> Factor {
    let above = entries.iter().filter(|entry| **entry > 0.0).count();
    let at = entries.iter().filter(|entry| **entry == 0.0).count();
    // Entries at 0 say nothing: half of them to each side.
    let above = above + at / 2;
    let tail = (ranks.tail)(above.min(entries.len() - above));
    let last = entries.len() - 1;
    let outside = ranks.outside.min(last / 2);
    Factor {
        n,
        middle: quantile(entries, 0.5).exp(),
        interval: match ranks.outside {
            // So few figures that no interval leaves anything out.
            0 => Interval {
                low: 0.0,
                high: f64::INFINITY,
            },
            _ => Interval {
                low: entries[outside].exp(),
                high: entries[last - outside].exp(),
            },
        },
        p_value: (2.0 * tail).min(1.0),
    }
}

/// In how many ways the ranks 1 to `n` with a sign each have so much above 0 in all.
fn signed_rank_ways(n: usize) -> Vec<f64> {
    let mut ways = vec![1.0];
    for rank in 1..=n {
        let mut next = vec![0.0; ways.len() + rank];
        for (sum, count) in ways.iter().enumerate() {
            next[sum] += count;
            next[sum + rank] += count;
        }
        ways = next;
    }
    ways
}

/// In how many ways `n` figures among `n + m` are above so many of the others.
fn rank_sum_ways(n: usize, m: usize) -> Vec<f64> {
    // The Gaussian binomial coefficient: multiply by 1 - q^(m + i), divide by 1 - q^i.
    let mut ways = vec![0.0; n * m + 1];
    ways[0] = 1.0;
    for i in 1..=n {
        for sum in (m + i..ways.len()).rev() {
            ways[sum] -= ways[sum - m - i];
        }
        for sum in i..ways.len() {
            ways[sum] += ways[sum - i];
        }
    }
    ways
}

/// The normal distribution's share below a deviate, to seven digits (Abramowitz and Stegun,
/// 26.2.17).
fn below(deviate: f64) -> f64 {
    const TERMS: [f64; 5] = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let far = deviate.abs();
    let t = 1.0 / (1.0 + 0.231_641_9 * far);
    let series = TERMS.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    let density = (-far * far / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    match deviate > 0.0 {
        true => 1.0 - density * series,
        false => density * series,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of runs are small")]
const fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times with the long tail of a shared machine.
    fn times(random: &mut Random, n: usize, factor: f64) -> Vec<f64> {
        let one = |random: &mut Random| {
            let noise = 0.03 * (random.unit() + random.unit() + random.unit() - 1.5);
            let stall = if random.unit() < 0.1 { 0.4 } else { 0.0 };
            factor * (1.0 + noise + stall)
        };
        (0..n).map(|_| one(random)).collect()
    }

    #[test]
    fn a_summary_shows_its_outliers_and_keeps_them() {
        let short = summary(&[1.0, 1.1, 0.9, 1.0, 9.0]).unwrap();
        assert_eq!((short.n, short.outliers), (5, vec![4]));
        assert!((short.median - 1.0).abs() < 1e-9);
        assert!(short.interval.unwrap().holds(1.0));
        assert!((short.max - 9.0).abs() < 1e-9);
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[2.0]).unwrap().interval, None);
    }

    #[test]
    fn ways_are_the_known_ones() {
        // Of 3 ranks: 0, 1, 2, 3 twice, 4, 5, 6.
        assert_eq!(signed_rank_ways(3), [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0]);
        // Of 2 among 4: 1, 1, 2, 1, 1.
        assert_eq!(rank_sum_ways(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert!((rank_sum_ways(5, 7).iter().sum::<f64>() - 792.0).abs() < 1e-6);
        assert!((below(1.959_964) - 0.975).abs() < 1e-6);
    }

    #[test]
    fn noise_is_not_called_a_difference() {
        let mut random = Random::seeded(1);
        for pairing in [paired, unpaired] {
            for n in [6, 12, 40] {
                let called = (0..1000).filter(|_| {
                    let first = times(&mut random, n, 1.0);
                    let second = times(&mut random, n, 1.0);
                    pairing(&first, &second).unwrap().is_difference()
                });
                let called = called.count();
                // 5 % and what a thousand trials scatter.
                assert!(called <= 65, "{called} of 1000 with {n}");
            }
        }
    }

    #[test]
    fn a_drift_of_a_tenth_is_found() {
        let mut random = Random::seeded(2);
        for pairing in [paired, unpaired] {
            let found = (0..200).filter(|_| {
                let first = times(&mut random, 40, 1.0);
                let second = times(&mut random, 40, 1.1);
                let factor = pairing(&first, &second).unwrap();
                factor.is_difference() && factor.interval.holds(1.1)
            });
            let found = found.count();
            assert!(found >= 180, "{found} of 200");
        }
    }

    #[test]
    fn too_few_figures_or_ones_that_are_no_times_are_not_compared() {
        assert_eq!(paired(&[1.0, 1.0], &[1.0, 1.0]), None);
        assert_eq!(unpaired(&[1.0; 9], &[1.0, 0.0, 1.0]), None);
        // Three rounds cannot show anything at 5 %.
        let factor = paired(&[1.0; 3], &[9.0; 3]).unwrap();
        assert!(!factor.is_difference());
        assert!((factor.middle - 9.0).abs() < 1e-9);
        let same = paired(&[1.0; 9], &[1.0; 9]).unwrap();
        assert!(!same.is_difference());
    }
}
