//! How far what one says of a text is from what another says: the divergence of their
//! probabilities, position by position.
//!
//! Positions of one piece of text hang together, so errors of means are taken over pieces.

use crate::speeds::quantile;

/// One of the two, at one position: the logarithm of each token's probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    log_probabilities: Vec<f32>,
    /// The most likely token; the first of several.
    top: usize,
}

/// What a position says of another prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Kullback-Leibler divergence from the base, nats.
    pub kld: f64,
    /// Both think the same token most likely.
    pub is_same_top: bool,
    /// How much less likely it thinks the token that came, nats.
    pub loss: f64,
}

/// A mean, and by how much another text of this length would change it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    pub value: f64,
    /// One standard error; `None` of fewer than two pieces.
    pub error: Option<f64>,
}

/// How far one is from the base over a whole text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    pub n_positions: usize,
    /// Of the Kullback-Leibler divergence, nats.
    pub mean: Mean,
    pub median: f64,
    pub p99: f64,
    pub p999: f64,
    pub most: f64,
    /// Share of positions of which both think the same token most likely.
    pub agreement: Mean,
    /// Perplexity to that of the base.
    pub perplexity_ratio: Mean,
}

impl Mean {
    /// Between which values the mean over endlessly many such pieces lies, with 95 % certainty
    /// (Student's t); `None` of fewer than two pieces.
    #[must_use]
    pub fn bounds(&self, n_pieces: usize) -> Option<(f64, f64)> {
        let reach = self.error? * student(n_pieces.checked_sub(1)?)?;
        Some((self.value - reach, self.value + reach))
    }
}

/// How many standard errors of that many degrees of freedom hold 95 %.
fn student(freedom: usize) -> Option<f64> {
    const FEW: [f64; 10] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    ];
    let at = freedom.checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "pieces are far fewer than 2^52")]
    let freedom = freedom as f64;
    // The expansion of Cornish and Fisher is 0.1 % short of the table from ten on.
    let many = 1.960 + 2.372 / freedom + 2.823 / freedom.powi(2);
    Some(FEW.get(at).copied().unwrap_or(many))
}

/// How much farther one is from the base than another, over the same positions of the same
/// pieces; `None` where there are none.
#[must_use]
pub fn difference(one: &[Vec<Position>], other: &[Vec<Position>]) -> Option<Mean> {
    let pieces = one.iter().zip(other).map(|(one, other)| {
        let pairs = one.iter().zip(other);
        pairs.map(|(one, other)| one.kld - other.kld).collect()
    });
    let pieces: Vec<Vec<f64>> = pieces.collect();
    let is_empty = pieces.iter().all(Vec::is_empty);
    (!is_empty).then(|| mean(&pieces, |of| *of))
}

impl Prediction {
    /// Of a row of logits; `None` where one of them is no number.
    #[must_use]
    pub fn new(logits: &[f32]) -> Option<Self> {
        let (top, most) =
            logits
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (at, value)| {
                    if *value > best.1 { (at, *value) } else { best }
                });
        // Sums of a hundred thousand terms lose digits in 32 bits.
        let sum: f64 = logits
            .iter()
            .map(|value| f64::from((value - most).exp()))
            .sum();
        let log_sum = most + sum.ln() as f32;
        log_sum.is_finite().then(|| Self {
            log_probabilities: logits.iter().map(|value| value - log_sum).collect(),
            top,
        })
    }

    /// The most likely token.
    #[must_use]
    pub const fn top(&self) -> usize {
        self.top
    }

    /// How far `other` is from this one, where `next` is the token that came.
    #[must_use]
    pub fn compare(&self, other: &Self, next: usize) -> Position {
        let pairs = self.log_probabilities.iter().zip(&other.log_probabilities);
        // What the base thinks impossible adds nothing, whatever the other thinks.
        let terms = pairs.map(|(base, other)| match base.exp() {
            0.0 => 0.0,
            probability => f64::from(probability) * f64::from(base - other),
        });
        let log = |of: &Self| {
            of.log_probabilities
                .get(next)
                .copied()
                .map_or(0.0, f64::from)
        };
        Position {
            // Rounding may take it below 0.
            kld: terms.sum::<f64>().max(0.0),
            is_same_top: self.top == other.top,
            loss: log(self) - log(other),
        }
    }
}

impl Divergence {
    /// Of the positions of each piece of a text; `None` where there are none.
    #[must_use]
    pub fn of(pieces: &[Vec<Position>]) -> Option<Self> {
        let all = || pieces.iter().flatten();
        let n_positions = all().count();
        if n_positions == 0 {
            return None;
        }
        let mut sorted: Vec<f64> = all().map(|one| one.kld).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let loss = mean(pieces, |one| one.loss);
        let ratio = loss.value.exp();
        Some(Self {
            n_positions,
            mean: mean(pieces, |one| one.kld),
            median: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
            p999: quantile(&sorted, 0.999),
            most: quantile(&sorted, 1.0),
            agreement: mean(pieces, |one| f64::from(u8::from(one.is_same_top))),
            perplexity_ratio: Mean {
                value: ratio,
                error: loss.error.map(|error| error * ratio),
            },
        })
    }
}

/// The mean over all positions, and its error over pieces (the ratio estimator of a cluster
/// sample, Cochran 1977, 6.3): pieces may differ in length.
#[expect(
    clippy::cast_precision_loss,
    reason = "positions are far fewer than 2^52"
)]
fn mean<T>(pieces: &[Vec<T>], of: impl Fn(&T) -> f64) -> Mean {
    let sums = pieces.iter().filter(|piece| !piece.is_empty());
    let sums = sums.map(|piece| (piece.iter().map(&of).sum::<f64>(), piece.len() as f64));
    let sums: Vec<(f64, f64)> = sums.collect();
    let (total, n): (f64, f64) = sums
        .iter()
        .fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    let (value, count) = (total / n, sums.len() as f64);
    let residuals = sums.iter().map(|(sum, len)| (sum - value * len).powi(2));
    let square = residuals.sum::<f64>() * count / (count - 1.0).max(1.0);
    Mean {
        value,
        error: (sums.len() > 1).then(|| square.sqrt() / n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(probabilities: &[f32]) -> Prediction {
        let logits: Vec<f32> = probabilities.iter().map(|one| one.ln() + 3.0).collect();
        Prediction::new(&logits).unwrap()
    }

    /// Against the definition, by hand.
    #[test]
    fn a_divergence_is_that_of_the_definition() {
        let base = prediction(&[0.5, 0.25, 0.25]);
        let other = prediction(&[0.25, 0.5, 0.25]);
        let position = base.compare(&other, 1);
        let expected = 0.5 * 2.0_f64.ln() - 0.25 * 2.0_f64.ln();
        assert!((position.kld - expected).abs() < 1e-6, "{position:?}");
        assert!(!position.is_same_top);
        // The other thinks it twice as likely.
        assert!((position.loss + 2.0_f64.ln()).abs() < 1e-6);
        let same = base.compare(&base, 0);
        assert_eq!((same.kld, same.is_same_top, same.loss), (0.0, true, 0.0));
    }

    #[test]
    fn what_is_no_number_is_no_prediction() {
        assert_eq!(Prediction::new(&[0.0, f32::NAN]), None);
        assert_eq!(Prediction::new(&[0.0, f32::INFINITY]), None);
        assert_eq!(Prediction::new(&[]), None);
        // A token that is impossible to both is none to the divergence.
        let base = Prediction::new(&[0.0, f32::NEG_INFINITY]).unwrap();
        assert_eq!(base.compare(&base, 0).kld, 0.0);
    }

    fn position(kld: f64) -> Position {
        Position {
            kld,
            is_same_top: kld < 2.5,
            loss: kld / 10.0,
        }
    }

    /// Pieces whose positions are all alike are as many figures as there are pieces.
    #[test]
    fn errors_are_taken_over_pieces() {
        let pieces: Vec<Vec<Position>> = [1.0, 2.0, 3.0].map(|kld| vec![position(kld); 100]).into();
        let of = Divergence::of(&pieces).unwrap();
        assert_eq!((of.n_positions, of.median, of.most), (300, 2.0, 3.0));
        assert!((of.mean.value - 2.0).abs() < 1e-12);
        // One standard deviation of 1, 2 and 3, over the root of three.
        let error = 1.0 / 3.0_f64.sqrt();
        assert!((of.mean.error.unwrap() - error).abs() < 1e-12);
        assert!((of.agreement.value - 2.0 / 3.0).abs() < 1e-12);
        assert!((of.perplexity_ratio.value - 0.2_f64.exp()).abs() < 1e-12);
        let one = Divergence::of(&pieces[..1]).unwrap();
        assert_eq!(one.mean.error, None);
        assert_eq!(Divergence::of(&[Vec::new()]), None);
    }

    /// Pieces differ more from one another than two readings of one do.
    #[test]
    fn differences_are_taken_position_by_position() {
        let pieces = |more: [f64; 3]| {
            let each = [1.0, 5.0, 9.0].into_iter().zip(more);
            let pieces = each.map(|(kld, more)| vec![position(kld), position(kld + 2.0 * more)]);
            pieces.collect::<Vec<_>>()
        };
        let (one, other) = (pieces([0.1, 0.2, 0.3]), pieces([0.0; 3]));
        let found = difference(&one, &other).unwrap();
        assert!((found.value - 0.2).abs() < 1e-12, "{found:?}");
        let error = 0.1 / 3.0_f64.sqrt();
        assert!((found.error.unwrap() - error).abs() < 1e-12, "{found:?}");
        let (low, high) = found.bounds(3).unwrap();
        assert!((low - (0.2 - 4.303 * error)).abs() < 1e-9, "{low}");
        assert!((high - (0.2 + 4.303 * error)).abs() < 1e-9, "{high}");
        assert_eq!(difference(&one[..1], &other).unwrap().bounds(1), None);
        assert_eq!(difference(&[Vec::new()], &other), None);
    }

    /// Against tables.
    #[test]
    fn few_pieces_have_wide_bounds() {
        assert_eq!(student(0), None);
        for (freedom, expected) in [
            (1, 12.706),
            (10, 2.228),
            (11, 2.201),
            (30, 2.042),
            (120, 1.980),
        ] {
            let found = student(freedom).unwrap();
            assert!((found / expected - 1.0).abs() < 0.002, "{freedom}: {found}");
        }
    }

    #[test]
    fn tails_are_those_of_all_positions() {
        let each = (0..1001).map(|at| position(f64::from(at)));
        let of = Divergence::of(&[each.collect()]).unwrap();
        assert_eq!(
            (of.median, of.p99, of.p999, of.most),
            (500.0, 990.0, 999.0, 1000.0)
        );
    }
}
