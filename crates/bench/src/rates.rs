//! Rates of right answers: how sure they are, and whether two of them differ.

/// The normal deviate of a two-sided 95 % interval.
const Z_95: f64 = 1.959_964;

/// Where a rate may truly be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// Wilson's interval (1927) of 95 % for a rate: of few trials it is still sound, and never
/// leaves 0 to 1. Of no trials: anything.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of trials are small")]
pub fn wilson(right: usize, trials: usize) -> Interval {
    if trials == 0 {
        return Interval {
            low: 0.0,
            high: 1.0,
        };
    }
    let (n, rate) = (trials as f64, right as f64 / trials as f64);
    let square = Z_95 * Z_95;
    let scale = 1.0 + square / n;
    let middle = (rate + square / (2.0 * n)) / scale;
    let half = Z_95 / scale * (rate * (1.0 - rate) / n + square / (4.0 * n * n)).sqrt();
    Interval {
        low: (middle - half).max(0.0),
        high: (middle + half).min(1.0),
    }
}

/// McNemar's exact test: of the items that exactly one of two got right, `only_first` and
/// `only_second` of them, how likely is a split at least as uneven if neither is better?
/// Items that both or neither got right say nothing.
#[must_use]
pub fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let n = only_first + only_second;
    let fewer = only_first.min(only_second);
    let mut log_ways = 0.0; // of n over k, from k = 0 on
    let mut tail = 0.0;
    for k in 0..=fewer {
        if k > 0 {
            log_ways += real(n - k + 1).ln() - real(k).ln();
        }
        tail += (log_ways - real(n) * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
}

/// Holm's step-down correction (1979): for each of several p-values the one that accounts for
/// all of them having been looked at, in the same order.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut corrected = vec![1.0; p_values.len()];
    let mut floor: f64 = 0.0;
    for (rank, place) in order.iter().enumerate() {
        floor = floor.max(p_values[*place] * real(p_values.len() - rank));
        corrected[*place] = floor.min(1.0);
    }
    corrected
}

/// The smallest difference of two rates that so many shared items would show, eight times in
/// ten at 5 %, if a third of them are ones on which the two disagree: printed before a run, so
/// that nobody waits for what it cannot tell.
#[must_use]
pub fn detectable_difference(items: usize) -> f64 {
    const DEVIATES: f64 = Z_95 + 0.841_621;
    const DISAGREEING: f64 = 1.0 / 3.0;
    if items == 0 {
        return 1.0;
    }
    (DEVIATES * (DISAGREEING / real(items)).sqrt()).min(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of trials are small")]
const fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn wilsons_intervals_are_the_known_ones() {
        let near = |got: Interval, low: f64, high: f64| {
            assert!((got.low - low).abs() < 0.005, "{got:?}");
            assert!((got.high - high).abs() < 0.005, "{got:?}");
        };
        near(wilson(11, 14), 0.52, 0.92);
        near(wilson(13, 14), 0.69, 0.99);
        near(wilson(0, 2), 0.0, 0.66);
        near(wilson(0, 0), 0.0, 1.0);
    }

    #[test]
    fn mcnemars_test_is_the_binomial_one() {
        let near = |got: f64, known: f64| assert!((got - known).abs() < 1e-9, "{got}, {known}");
        near(mcnemar(0, 0), 1.0);
        near(mcnemar(0, 5), 2.0 / 32.0);
        near(mcnemar(1, 9), 2.0 * 11.0 / 1024.0);
        near(mcnemar(9, 1), 2.0 * 11.0 / 1024.0);
        near(mcnemar(5, 5), 1.0);
        assert!(mcnemar(0, 5000) < 1e-300);
    }

    #[test]
    fn two_runs_of_one_model_seldom_differ() {
        let mut random = Rng::with_seed(7);
        let differences = (0..2000)
            .filter(|_| {
                let (mut only_first, mut only_second) = (0, 0);
                for _ in 0..60 {
                    match (random.f64() < 0.6, random.f64() < 0.6) {
                        (true, false) => only_first += 1,
                        (false, true) => only_second += 1,
                        _ => {}
                    }
                }
                mcnemar(only_first, only_second) < 0.05
            })
            .count();
        assert!(differences <= 100, "{differences} of 2000");
    }

    #[test]
    fn holm_multiplies_by_what_is_left_and_never_falls() {
        let corrected = holm(&[0.01, 0.04, 0.03]);
        for (got, known) in corrected.iter().zip([0.03, 0.06, 0.06]) {
            assert!((got - known).abs() < 1e-9, "{corrected:?}");
        }
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn more_items_show_smaller_differences() {
        assert!(detectable_difference(14) > 0.4);
        assert!(detectable_difference(500) < 0.08);
        assert!((detectable_difference(0) - 1.0).abs() < 1e-9);
    }
}
