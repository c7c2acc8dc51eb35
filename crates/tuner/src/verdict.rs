//! What won, and why.

use crate::{Choice, Point};

/// The end of a tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What to use: the defaults, or what beat them in the end.
    pub winner: Point,
    pub defaults: Point,
    /// The winner of the search against the defaults, in pairs of their own; `None` where
    /// the search found nothing better.
    pub gain: Option<Gain>,
    /// Every comparison, in order.
    pub rows: Vec<Row>,
    /// By how much a single pair scatters, as a share: one standard deviation.
    pub noise: f64,
    pub spent_seconds: f64,
    /// Levels were left out for want of time.
    pub is_cut: bool,
    /// Why there is nothing to choose from: the defaults themselves failed.
    pub failure: Option<String>,
}

impl Verdict {
    #[must_use]
    pub fn keeps_defaults(&self) -> bool {
        self.winner == self.defaults
    }
}

/// The last comparison. Ratios are of speeds: above 1 the winner of the search is faster.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// The winner of the search, whether it stood or not.
    pub candidate: Point,
    pub judgement: Judgement,
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    pub n_pairs: usize,
}

/// One level against the incumbent of its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub choice: Choice,
    /// The level that it was held against.
    pub against: Choice,
    /// What had to change with it.
    pub also: Option<Choice>,
    pub n_pairs: usize,
    /// Of speeds, above 1 the level is faster; `None` without a pair.
    pub ratio: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub judgement: Judgement,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Faster,
    Slower,
    /// Not slower, and it takes less from others on the machine.
    AsFast,
    /// Ahead, by less than it takes to be sure. It takes part in the last comparison.
    Leads,
    /// No difference that these runs could show.
    WithinNoise,
    /// Not faster by a percent or more.
    NotWorth,
    /// The time was over before it was decided, or begun.
    OutOfTime,
    /// It cannot be with what the incumbent has on another axis.
    Excluded(Choice),
    Failed(String),
}

impl Judgement {
    /// In a word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::AsFast => "as fast with less",
            Self::Leads => "leads within noise",
            Self::WithinNoise => "within noise",
            Self::NotWorth => "no gain",
            Self::OutOfTime => "out of time",
            Self::Excluded(_) => "excluded",
            Self::Failed(_) => "failed",
        }
    }
}
