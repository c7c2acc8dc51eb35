//! One challenger against one incumbent.

use crate::noise::{Noise, middle};

/// Standard errors by which a race of the search is decided.
const ERRORS_SEARCH: f64 = 2.7;
/// The last comparison is looked at after every pair, at a margin that makes up for the many
/// looks, and once in the end at that of a single one, with a twentieth of chance on one side
/// (Haybittle and Peto).
const ERRORS_FINAL: f64 = 3.2;
const ERRORS_LAST_LOOK: f64 = 1.65;
const FINAL_PAIRS_MIN: usize = 6;
/// Fewer show nothing, however clear they are.
const LAST_LOOK_PAIRS_MIN: usize = 4;
/// Less than this, of a whole request, is not worth the pairs that would prove it.
const WORTH: f64 = 0.01;
/// Where a part is a small share of a request, this of the part is not worth it either.
const WORTH_OF_PART_MAX: f64 = 0.04;
/// Slower by less than this is as fast, of levels that take less from others.
const AS_FAST: f64 = 0.04;
/// A first pair that is so far off decides: a run that is disturbed takes up to twice as
/// long, and this is 2.2 times.
const HOPELESS: f64 = 0.8;
/// Unless pairs scatter so much that this many spreads are more.
const HOPELESS_SPREADS: f64 = 4.0;

/// Natural logarithms of ratios of times, challenger by incumbent: below 0 it is faster.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Race {
    pub(crate) pairs: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Search,
    Final,
    /// The final, when there is no time or patience for another pair.
    LastLook,
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
    /// `share` is what the compared part takes of a request's time.
    pub(crate) fn standing(&self, noise: &Noise, stage: Stage, share: f64) -> Standing {
        let n = self.pairs.len();
        let middle = self.middle();
        let hopeless = HOPELESS.max(HOPELESS_SPREADS * noise.spread(&[]));
        if n == 1 && middle > hopeless {
            return Standing::Slower;
        }
        let (errors, n_min) = match stage {
            Stage::Search => (ERRORS_SEARCH, 2),
            Stage::Final => (ERRORS_FINAL, FINAL_PAIRS_MIN),
            Stage::LastLook => (ERRORS_LAST_LOOK, LAST_LOOK_PAIRS_MIN),
        };
        if n < n_min {
            return Standing::Open;
        }
        let worth = (WORTH / share.max(1e-9)).clamp(WORTH, WORTH_OF_PART_MAX);
        let reach = errors * noise.error(&self.pairs);
        // Two pairs are enough where they are far apart from even; else a third must agree.
        let is_clear = n > 2 || middle.abs() > 2.0 * reach;
        if middle + reach < 0.0 && is_clear && middle < -WORTH {
            Standing::Faster
        } else if middle - reach > WORTH && is_clear {
            Standing::Slower
        } else if middle - reach > -worth && is_clear {
            Standing::NotWorth
        } else {
            Standing::Open
        }
    }

    /// Whether it is ahead by more than it may be off, and by enough to matter; it takes more
    /// to be sure.
    pub(crate) fn leads(&self, noise: &Noise) -> bool {
        let middle = self.middle();
        self.pairs.len() >= 2 && middle < -WORTH && middle + noise.error(&self.pairs) < 0.0
    }

    /// Whether it is at most a little slower, as far as one can tell by a single look.
    pub(crate) fn is_as_fast(&self, noise: &Noise) -> bool {
        let reach = ERRORS_LAST_LOOK * noise.error(&self.pairs);
        self.pairs.len() >= 2 && self.middle() + reach < AS_FAST
    }

    /// Whether it is slower, by a single look.
    pub(crate) fn trails(&self, noise: &Noise) -> bool {
        self.middle() - ERRORS_LAST_LOOK * noise.error(&self.pairs) > WORTH
    }

    /// The most that it may be ahead, as far as one can tell.
    pub(crate) fn promise(&self, noise: &Noise) -> f64 {
        ERRORS_SEARCH.mul_add(noise.error(&self.pairs), -self.middle())
    }

    /// The middle; of two the one that says less, since one of them may be disturbed.
    pub(crate) fn middle(&self) -> f64 {
        match *self.pairs.as_slice() {
            [one, other] if one * other <= 0.0 => 0.0,
            [one, other] if one.abs() < other.abs() => one,
            [_, other] => other,
            _ => middle(&self.pairs),
        }
    }

    /// With the interval of a single look; `None` before the first pair.
    pub(crate) fn estimate(&self, noise: &Noise) -> Option<Estimate> {
        if self.pairs.is_empty() {
            return None;
        }
        let middle = self.middle();
        let reach = ERRORS_LAST_LOOK * noise.error(&self.pairs);
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
            race.standing(&noise, stage, 1.0)
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
        assert_eq!(standing(&[-0.7; 5], Stage::Final), Standing::Open);
        assert_eq!(standing(&[-0.7; 6], Stage::Final), Standing::Faster);
        assert_eq!(standing(&[-0.7; 3], Stage::LastLook), Standing::Open);
        assert_eq!(standing(&[-0.7; 4], Stage::LastLook), Standing::Faster);
    }
}
