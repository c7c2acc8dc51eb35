//! One challenger against one incumbent.

use crate::noise::{Noise, median};

/// Standard errors by which a race of the search is decided, and the last one.
const ERRORS_SEARCH: f64 = 2.4;
const ERRORS_FINAL: f64 = 2.6;
/// Less than this is not worth the pairs that would prove it.
const WORTH: f64 = 0.01;
/// A first pair that is so far off decides: a run that is disturbed takes up to twice as
/// long, and this is 2.2 times.
const HOPELESS: f64 = 0.8;

/// Natural logarithms of ratios of times, challenger by incumbent: below 0 it is faster.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Race {
    pub(crate) pairs: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Search,
    Final,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Open,
    Faster,
    Slower,
    /// At most a little faster.
    NotWorth,
}

/// What is known of a ratio of times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Race {
    pub(crate) fn standing(&self, noise: &Noise, stage: Stage) -> Standing {
        let n = self.pairs.len();
        let middle = self.middle();
        if n == 1 && middle > HOPELESS {
            return Standing::Slower;
        }
        let (errors, n_min) = match stage {
            Stage::Search => (ERRORS_SEARCH, 2),
            Stage::Final => (ERRORS_FINAL, 4),
        };
        if n < n_min {
            return Standing::Open;
        }
        let reach = errors * noise.error(&self.pairs);
        // Two pairs are enough where they are far apart from even; else a third must agree.
        let is_clear = n > 2 || middle.abs() > 2.0 * reach;
        if middle + reach < 0.0 && is_clear && middle < -WORTH {
            Standing::Faster
        } else if middle - reach > WORTH && is_clear {
            Standing::Slower
        } else if middle - reach > -WORTH && is_clear {
            Standing::NotWorth
        } else {
            Standing::Open
        }
    }

    /// The median; of two the one that says less, since one of them may be disturbed.
    fn middle(&self) -> f64 {
        match *self.pairs.as_slice() {
            [one, other] if one * other <= 0.0 => 0.0,
            [one, other] if one.abs() < other.abs() => one,
            [_, other] => other,
            _ => median(&self.pairs),
        }
    }

    /// With the interval that the final's decision uses; `None` before the first pair.
    pub(crate) fn estimate(&self, noise: &Noise) -> Option<Estimate> {
        if self.pairs.is_empty() {
            return None;
        }
        let middle = self.middle();
        let reach = ERRORS_FINAL * noise.error(&self.pairs);
        Some(Estimate {
            ratio: middle.exp(),
            low: (middle - reach).exp(),
            high: (middle + reach).exp(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_races_are_short_and_even_ones_stay_open() {
        let noise = Noise::default();
        let standing = |pairs: &[f64], stage| {
            let race = Race {
                pairs: pairs.to_vec(),
            };
            race.standing(&noise, stage)
        };
        let cases: [(&[f64], Standing); 9] = [
            (&[], Standing::Open),
            (&[0.9], Standing::Slower),
            (&[0.5], Standing::Open),
            (&[-0.7], Standing::Open),
            (&[-0.7, -0.6], Standing::Faster),
            (&[0.1, 0.12], Standing::Slower),
            (&[0.0, 0.4], Standing::Open),
            (&[0.0, 0.002, -0.002, 0.0], Standing::NotWorth),
            (&[-0.2, 0.2, -0.2, 0.2], Standing::Open),
        ];
        for (pairs, want) in cases {
            assert_eq!(standing(pairs, Stage::Search), want, "{pairs:?}");
        }
        assert_eq!(standing(&[-0.7, -0.6, -0.7], Stage::Final), Standing::Open);
        assert_eq!(standing(&[-0.7; 4], Stage::Final), Standing::Faster);
    }
}
