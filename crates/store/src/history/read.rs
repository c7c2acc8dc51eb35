//! Which rows answer a question, and how they become as many points as were asked for.

use std::collections::BTreeMap;

use super::file::{TIERS, Tier};
use super::{HistoryAsk, Sample};

/// Lengths of a point that divide days and hours, in seconds.
const BINS_S: [u64; 16] = [
    10, 20, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
];

/// The rows that answer a question, and the length of its points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tier: Tier,
    pub(super) bin_s: u64,
}

impl Plan {
    /// The finest rows that reach back so far, and the shortest points that are not too many; rows
    /// as coarse as these points allow are the fewest to be read.
    pub(super) fn new(ask: &HistoryAsk, now_s: u64, days: u32) -> Self {
        let [fine, .., coarsest] = TIERS;
        let age_s = now_s.saturating_sub(ask.from_s);
        let reaches = |tier: &&Tier| tier.reach_s(days) >= age_s;
        let finest = *TIERS.iter().find(reaches).unwrap_or(&coarsest);
        let span_s = ask.to_s.saturating_sub(ask.from_s);
        // One less, as the first point may begin before the time that was asked for.
        let n_points = u64::from(ask.points.max(2)) - 1;
        let least_s = span_s.div_ceil(n_points).max(finest.step_s);
        let fits = |bin: &&u64| **bin >= least_s && bin.is_multiple_of(finest.step_s);
        let day_s = BINS_S[BINS_S.len() - 1];
        let whole_days = least_s.div_ceil(day_s) * day_s;
        let bin_s = BINS_S.iter().find(fits).copied().unwrap_or(whole_days);
        let divides = |tier: &&Tier| tier.step_s >= finest.step_s && bin_s % tier.step_s == 0;
        Self {
            tier: *TIERS.iter().rfind(divides).unwrap_or(&fine),
            bin_s,
        }
    }

    /// The time of the points, from the beginning of the first to the end of the last.
    pub(super) fn span(&self, ask: &HistoryAsk) -> (u64, u64) {
        let from_s = ask.from_s - ask.from_s % self.bin_s;
        (from_s, ask.to_s.max(from_s + 1))
    }
}

/// Samples as points; where there was none there is no point.
#[derive(Debug)]
pub(super) struct Bins {
    bin_s: u64,
    points: BTreeMap<u64, Sample>,
}

impl Bins {
    pub(super) fn new(bin_s: u64) -> Self {
        Self {
            bin_s,
            points: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, sample: &Sample) {
        let at_s = sample.at_s - sample.at_s % self.bin_s;
        let point = self.points.entry(at_s).or_insert_with(|| Sample::at(at_s));
        point.merge(sample);
    }

    pub(super) fn into_points(self) -> Vec<Sample> {
        self.points.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn plan(ago_s: u64, span_s: u64, points: u32) -> (&'static str, u64) {
        let ask = HistoryAsk {
            from_s: NOW - ago_s,
            to_s: NOW - ago_s + span_s,
            points,
        };
        let plan = Plan::new(&ask, NOW, 90);
        let (from_s, to_s) = plan.span(&ask);
        let n_points = (to_s - from_s).div_ceil(plan.bin_s);
        assert!(n_points <= u64::from(points.max(2)), "{n_points} {points}");
        assert_eq!(plan.bin_s % plan.tier.step_s, 0);
        (plan.tier.table, plan.bin_s)
    }

    #[test]
    fn the_finest_rows_that_reach_so_far_are_read_in_no_more_points_than_asked_for() {
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        assert_eq!(plan(900, 900, 300), ("fine", 10));
        assert_eq!(plan(HOUR, HOUR, 361), ("fine", 10));
        assert_eq!(plan(DAY, DAY, 300), ("minutes", 300));
        assert_eq!(plan(7 * DAY, 7 * DAY, 400), ("quarters", 1800));
        assert_eq!(plan(90 * DAY, 90 * DAY, 400), ("quarters", 21_600));
        // An hour of three days ago has minutes, and one of last month quarters.
        assert_eq!(plan(3 * DAY, HOUR, 1000), ("minutes", 60));
        assert_eq!(plan(30 * DAY, HOUR, 1000), ("quarters", 900));
        // Older than all that is kept, longer than all that is kept, and odd.
        assert_eq!(plan(400 * DAY, 400 * DAY, 10), ("quarters", 45 * DAY));
        assert_eq!(plan(DAY, 1, 2), ("fine", 10));
        for points in 2..200 {
            plan(12_345, 12_345, points);
        }
    }
}
