//! Middles of figures, and how far they may be off.

/// Differences that are smaller are not believed, however few pairs happen to agree.
const SPREAD_MIN: f64 = 0.003;
/// From the median absolute deviation to a standard deviation, for a normal distribution.
const OF_DEVIATION: f64 = 1.4826;
/// The standard error of a [`middle`] by that of a mean, for a normal distribution: the root of
/// pi / 3.
const OF_MIDDLE: f64 = 1.0233;
/// And that of a median.
const OF_MEDIAN: f64 = 1.2533;
/// Of fewer figures one that is off would move a [`middle`] as far as it moves a mean.
const FEW: usize = 5;
/// A race's own spread says something from this many pairs on.
const OWN_MIN: usize = 4;

/// The middle of some figures; 0 of none.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The median of the means of all pairs of figures and of each with itself (Hodges and
/// Lehmann, 1963); 0 of none. More than a quarter of the figures must be off to move it far; of
/// a few figures it is their median, which bears more.
pub(crate) fn middle(figures: &[f64]) -> f64 {
    if figures.len() < FEW {
        return median(figures);
    }
    let indexed = figures.iter().enumerate();
    let means = indexed.flat_map(|(index, one)| {
        let others = figures[index..].iter();
        others.map(|other| f64::midpoint(*one, *other))
    });
    median(&means.collect::<Vec<f64>>())
}

/// Distances from the median.
fn deviations(figures: &[f64]) -> Vec<f64> {
    let middle = median(figures);
    figures
        .iter()
        .map(|figure| (figure - middle).abs())
        .collect()
}

/// How far single pairs scatter, as learned from all that were seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noise {
    deviations: Vec<f64>,
}

impl Noise {
    /// Learns from pairs that had the same two sides.
    pub(crate) fn learn(&mut self, pairs: &[f64]) {
        // Of two, the median lies between them, and half a distance is no deviation.
        if pairs.len() >= 3 {
            self.deviations.extend(deviations(pairs));
        }
    }

    /// The spread of a pair of a race, as a standard deviation of the logarithm.
    pub(crate) fn spread(&self, pairs: &[f64]) -> f64 {
        let pooled = median(&self.deviations) * OF_DEVIATION;
        let own = match pairs.len() {
            OWN_MIN.. => median(&deviations(pairs)) * OF_DEVIATION,
            _ => 0.0,
        };
        pooled.max(own).max(SPREAD_MIN)
    }

    /// The standard error of the middle of these pairs.
    pub(crate) fn error(&self, pairs: &[f64]) -> f64 {
        let of_mean = match pairs.len() {
            FEW.. => OF_MIDDLE,
            _ => OF_MEDIAN,
        };
        of_mean * self.spread(pairs) / (pairs.len().max(1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_errors() {
        assert!(median(&[]).abs() < 1e-12);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(middle(&[]).abs() < 1e-12);
        assert!((middle(&[1.0, 2.0, 100.0]) - 2.0).abs() < 1e-12);
        assert!((middle(&[1.0, 2.0, 3.0, 4.0, 100.0]) - 3.0).abs() < 1e-12);
        let mut noise = Noise::default();
        assert!((noise.spread(&[]) - SPREAD_MIN).abs() < 1e-12);
        noise.learn(&[0.0, 0.1]);
        assert!(
            (noise.spread(&[]) - SPREAD_MIN).abs() < 1e-12,
            "two say nothing"
        );
        noise.learn(&[-0.02, 0.0, 0.01, 0.02, -0.01, 5.0, 0.0]);
        assert!((noise.spread(&[]) - 0.01 * OF_DEVIATION).abs() < 1e-9);
        // One pair in seven that is far off changes nothing; a noisy race has its own say.
        let own = noise.error(&[-0.3, 0.3, -0.3, 0.3]);
        assert!((own - OF_MEDIAN * 0.3 * OF_DEVIATION / 2.0).abs() < 1e-9);
    }
}
