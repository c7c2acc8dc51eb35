//! Speeds and times: their middle, and whether two of them differ.
//!
//! Nothing here supposes a normal distribution: machines that are shared have long tails. All
//! is by ranks of logarithms, so a result says by which factor something differs, and is the
//! same for times and for speeds.

use crate::rates::Interval;

/// Fewer figures are not compared.
const FIGURES_MIN: usize = 3;
/// Up to so many figures the distribution of ranks is counted out, beyond it is normal to three
/// digits.
const EXACT_MAX: usize = 25;

/// How sure an interval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    Percent95,
    Percent99,
}

impl Confidence {
    /// How likely the truth is outside.
    const fn outside(self) -> f64 {
        match self {
            Self::Percent95 => 0.05,
            Self::Percent99 => 0.01,
        }
    }

    /// The normal deviate of a two-sided interval.
    const fn deviate(self) -> f64 {
        match self {
            Self::Percent95 => 1.959_964,
            Self::Percent99 => 2.575_829,
        }
    }
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

/// By which factor the second of two lists is above the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor {
    /// Pairs, or figures of the shorter list.
    pub n: usize,
    pub middle: f64,
    pub interval: Interval,
    /// How likely so much comes of noise alone.
    pub p_value: f64,
}

impl Factor {
    /// At 5 %, whatever the interval's confidence.
    #[must_use]
    pub fn is_difference(&self) -> bool {
        self.p_value < Confidence::Percent95.outside() && !self.interval.holds(1.0)
    }
}

/// Compares figures that belong together, round by round, by the logarithms of their ratios:
/// Wilcoxon's signed ranks (1945), and the middle of Hodges and Lehmann (1963) with the interval
/// that goes with it. It asks for two thirds of the rounds that a median would need. `None` of
/// fewer than three rounds, or of what is no number.
#[must_use]
pub fn paired(log_ratios: &[f64], confidence: Confidence) -> Option<Factor> {
    let n = log_ratios.len();
    if n < FIGURES_MIN || !log_ratios.iter().all(|ratio| ratio.is_finite()) {
        return None;
    }
    let mut means = Vec::with_capacity(n * (n + 1) / 2);
    for (place, one) in log_ratios.iter().enumerate() {
        let others = log_ratios[place..].iter();
        means.extend(others.map(|other| f64::midpoint(*one, *other)));
    }
    means.sort_by(f64::total_cmp);
    let ranks = match n {
        ..=EXACT_MAX => Ranks::exact(&signed_rank_ways(n), confidence),
        _ => {
            let n = real(n);
            let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0;
            Ranks::normal((n * (n + 1.0) / 4.0, variance), confidence)
        }
    };
    Some(factor(n, &means, &ranks))
}

/// Compares figures of two runs that do not belong together, by their logarithms: the ranks of
/// Mann and Whitney (1947), and the middle of all ratios, second by first. `None` where a list
/// has fewer than three figures, or one that is no number.
#[must_use]
pub fn unpaired(first: &[f64], second: &[f64], confidence: Confidence) -> Option<Factor> {
    let (n, m) = (first.len(), second.len());
    if n.min(m) < FIGURES_MIN || !first.iter().chain(second).all(|log| log.is_finite()) {
        return None;
    }
    let ratios = first.iter().flat_map(|a| second.iter().map(move |b| b - a));
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let ranks = if n.max(m) <= EXACT_MAX {
        Ranks::exact(&rank_sum_ways(n, m), confidence)
    } else {
        let (n, m) = (real(n), real(m));
        let variance = n * m * (n + m + 1.0) / 12.0;
        Ranks::normal((n * m / 2.0, variance), confidence)
    };
    Some(factor(n.min(m), &ratios, &ranks))
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
    fn exact(ways: &[f64], confidence: Confidence) -> Self {
        let total: f64 = ways.iter().sum();
        let mut sum = 0.0;
        let tails: Vec<f64> = ways
            .iter()
            .map(|ways| {
                sum += ways;
                sum / total
            })
            .collect();
        let side = confidence.outside() / 2.0;
        let outside = tails.iter().take_while(|tail| **tail <= side);
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
    fn normal((mean, variance): (f64, f64), confidence: Confidence) -> Self {
        let deviation = variance.sqrt();
        Self {
            outside: (mean - confidence.deviate() * deviation).max(0.0).floor() as usize,
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

/// In how many ways `n` figures among `n + m` are below so many of the others.
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
    use fastrand::Rng;

    /// Times with the long tail of a shared machine.
    fn times(random: &mut Rng, n: usize, factor: f64) -> Vec<f64> {
        let one = |random: &mut Rng| {
            let noise = 0.03 * (random.f64() + random.f64() + random.f64() - 1.5);
            let stall = if random.f64() < 0.1 { 0.4 } else { 0.0 };
            factor * (1.0 + noise + stall)
        };
        (0..n).map(|_| one(random)).collect()
    }

    /// By both comparisons.
    fn compared(random: &mut Rng, n: usize, factor: f64) -> [Factor; 2] {
        let logs = |times: Vec<f64>| times.iter().map(|time| time.ln()).collect::<Vec<f64>>();
        let (first, second) = (times(random, n, 1.0), times(random, n, factor));
        let (first, second) = (logs(first), logs(second));
        let ratios: Vec<f64> = first.iter().zip(&second).map(|(a, b)| b - a).collect();
        let confidence = Confidence::Percent95;
        [
            paired(&ratios, confidence).unwrap(),
            unpaired(&first, &second, confidence).unwrap(),
        ]
    }

    #[test]
    fn ways_are_the_known_ones() {
        // Of 3 ranks: 0, 1, 2, 3 twice, 4, 5, 6.
        assert_eq!(signed_rank_ways(3), [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0]);
        assert_eq!(rank_sum_ways(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert!((rank_sum_ways(5, 7).iter().sum::<f64>() - 792.0).abs() < 1e-6);
        assert!((below(1.959_964) - 0.975).abs() < 1e-6);
    }

    #[test]
    fn intervals_leave_out_as_many_as_tables_allow() {
        // Wilcoxon's signed ranks, 1 % on both sides: 7 and 61; six cannot show it.
        let outside = |n| Ranks::exact(&signed_rank_ways(n), Confidence::Percent99).outside;
        assert_eq!([6, 12, 24].map(outside), [0, 8, 62]);
    }

    #[test]
    fn noise_is_not_called_a_difference() {
        let mut random = Rng::with_seed(1);
        for n in [6, 12, 40] {
            let mut called = [0; 2];
            for _ in 0..1000 {
                let factors = compared(&mut random, n, 1.0);
                for (called, factor) in called.iter_mut().zip(factors) {
                    *called += usize::from(factor.is_difference());
                }
            }
            // 5 % and what a thousand trials scatter.
            assert!(
                called.iter().all(|n| *n <= 65),
                "{called:?} of 1000 with {n}"
            );
        }
    }

    #[test]
    fn a_drift_of_a_tenth_is_found() {
        let mut random = Rng::with_seed(2);
        let mut found = [0; 2];
        for _ in 0..200 {
            let factors = compared(&mut random, 40, 1.1);
            for (found, factor) in found.iter_mut().zip(factors) {
                let is_found = factor.is_difference() && factor.interval.holds(1.1);
                *found += usize::from(is_found);
            }
        }
        assert!(found.iter().all(|n| *n >= 180), "{found:?} of 200");
    }

    #[test]
    fn more_confidence_is_a_wider_interval() {
        let logs: Vec<f64> = (0..30).map(|one| 0.01 * f64::from(one) - 0.1).collect();
        for n in [12, 30] {
            let interval = |confidence| paired(&logs[..n], confidence).unwrap().interval;
            let (less, more) = (
                interval(Confidence::Percent95),
                interval(Confidence::Percent99),
            );
            assert!(more.low < less.low && less.high < more.high, "{n}");
        }
    }

    #[test]
    fn too_few_figures_or_ones_that_are_no_numbers_are_not_compared() {
        assert_eq!(unpaired(&[0.0; 9], &[0.0; 2], Confidence::Percent95), None);
        let paired = |logs: &[f64]| paired(logs, Confidence::Percent95);
        assert_eq!(paired(&[0.0, 0.0]), None);
        assert_eq!(paired(&[0.0, f64::NEG_INFINITY, 0.0]), None);
        // Three rounds cannot show anything at 5 %.
        let factor = paired(&[2.0; 3]).unwrap();
        assert!(!factor.is_difference());
        assert!((factor.middle - 2.0_f64.exp()).abs() < 1e-9);
        assert!(!paired(&[0.0; 9]).unwrap().is_difference());
    }
}
