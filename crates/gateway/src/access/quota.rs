//! How much of its limits a key has used. Pure: time comes from the caller.
//!
//! The limits by the minute are token buckets: each holds what one minute allows and fills
//! steadily, so a burst of a minute's worth passes and then the rate holds. Tokens and cost
//! are reserved by an estimate before a request runs and settled by what it really took. The
//! day and the month are those of UTC.

use std::time::Duration;

use stdx::Cost;
use store::{KeyLimits, Spent, Usage, day_of, days_of_month};

const MINUTE: Duration = Duration::from_secs(60);
const DAY_SECS: u64 = 86_400;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Since some start; never goes back.
    pub(crate) elapsed: Duration,
    /// Since 1970.
    pub(crate) unix_ms: u64,
}

impl Moment {
    pub(crate) const fn unix_s(self) -> u64 {
        self.unix_ms / 1000
    }
}

/// Tokens of a request and what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) tokens: u64,
    pub(crate) cost: Cost,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    RequestsPerMinute {
        limit: u32,
        wait: Duration,
    },
    TokensPerMinute {
        limit: u32,
        asked: u64,
        wait: Duration,
    },
    Concurrency {
        limit: u32,
    },
    TokensPerDay {
        limit: u64,
        asked: u64,
        left: u64,
        wait: Duration,
    },
    CostPerMonth {
        limit: Cost,
        left: Cost,
        wait: Duration,
    },
}

/// What is left of a limit by the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Until all of it is there again.
    pub(crate) reset: Duration,
}

/// The use of one key.
#[derive(Debug)]
pub(crate) struct Quota {
    limits: KeyLimits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    running: u32,
    day: u64,
    tokens_today: u64,
    cost_month: Cost,
    reserved: Amount,
    /// Used and not written down yet, by the day; the latest day comes last.
    unsaved: Vec<(u64, Amount)>,
}

impl Quota {
    pub(crate) fn new(limits: KeyLimits, spent: Spent, now: Moment) -> Self {
        let bucket = |limit: u32| Bucket::new(limit, now.elapsed);
        Self {
            limits,
            requests: limits.requests_per_minute.map(bucket),
            tokens: limits.tokens_per_minute.map(bucket),
            running: 0,
            day: day_of(now.unix_s()),
            tokens_today: spent.tokens_today,
            cost_month: spent.cost_month,
            reserved: Amount::default(),
            unsaved: Vec::new(),
        }
    }

    /// Whether anything needs to be known of a request's tokens before it runs.
    pub(crate) const fn counts_tokens(&self) -> bool {
        let limits = &self.limits;
        limits.tokens_per_minute.is_some()
            || limits.tokens_per_day.is_some()
            || limits.cost_per_month.is_some()
    }

    /// Lets a request in, which [`Self::leave`] ends.
    pub(crate) fn enter(&mut self, now: Moment) -> Result<(), Refusal> {
        if let Some(limit) = self
            .limits
            .concurrency
            .filter(|limit| self.running >= *limit)
        {
            return Err(Refusal::Concurrency { limit });
        }
        if let Some(bucket) = &mut self.requests {
            bucket
                .take(1, now.elapsed)
                .map_err(|wait| Refusal::RequestsPerMinute {
                    limit: bucket.limit,
                    wait,
                })?;
        }
        self.running += 1;
        Ok(())
    }

    pub(crate) fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// What is left to spend this month; `None`: there is no limit.
    pub(crate) fn cost_left(&mut self, now: Moment) -> Option<Cost> {
        self.turn(now);
        let limit = self.limits.cost_per_month?;
        Some(limit.saturating_sub(self.cost_month + self.reserved.cost))
    }

    /// Sets aside what a request may take, which [`Self::settle`] ends.
    pub(crate) fn reserve(&mut self, asked: Amount, now: Moment) -> Result<(), Refusal> {
        let to_midnight = || Duration::from_secs(DAY_SECS - now.unix_s() % DAY_SECS);
        if let Some(left) = self.cost_left(now)
            && asked.cost > left
        {
            let days = days_of_month(self.day).end() - self.day;
            return Err(Refusal::CostPerMonth {
                limit: self.limits.cost_per_month.unwrap_or_default(),
                left,
                wait: to_midnight() + Duration::from_secs(days * DAY_SECS),
            });
        }
        if let Some(limit) = self.limits.tokens_per_day {
            let left = limit.saturating_sub(self.tokens_today + self.reserved.tokens);
            if asked.tokens > left {
                return Err(Refusal::TokensPerDay {
                    limit,
                    asked: asked.tokens,
                    left,
                    wait: to_midnight(),
                });
            }
        }
        if let Some(bucket) = &mut self.tokens {
            bucket
                .take(asked.tokens, now.elapsed)
                .map_err(|wait| Refusal::TokensPerMinute {
                    limit: bucket.limit,
                    asked: asked.tokens,
                    wait,
                })?;
        }
        self.reserved.tokens += asked.tokens;
        self.reserved.cost += asked.cost;
        Ok(())
    }

    /// Replaces what was reserved by what was used.
    pub(crate) fn settle(&mut self, reserved: Amount, used: Amount, now: Moment) {
        self.turn(now);
        self.reserved.tokens = self.reserved.tokens.saturating_sub(reserved.tokens);
        self.reserved.cost = self.reserved.cost.saturating_sub(reserved.cost);
        if let Some(bucket) = &mut self.tokens {
            bucket.correct(reserved.tokens, used.tokens, now.elapsed);
        }
        self.tokens_today = self.tokens_today.saturating_add(used.tokens);
        self.cost_month += used.cost;
        if used != Amount::default() {
            self.note(self.day, used);
        }
    }

    fn note(&mut self, day: u64, used: Amount) {
        match self.unsaved.last_mut() {
            Some((last, sum)) if *last == day => {
                sum.tokens = sum.tokens.saturating_add(used.tokens);
                sum.cost += used.cost;
            }
            _ => self.unsaved.push((day, used)),
        }
    }

    /// Begins a new day and a new month where they have begun.
    fn turn(&mut self, now: Moment) {
        let day = day_of(now.unix_s());
        // A clock that is set back gives nothing back.
        if day <= self.day {
            return;
        }
        if !days_of_month(self.day).contains(&day) {
            self.cost_month = Cost::default();
        }
        self.day = day;
        self.tokens_today = 0;
    }

    pub(crate) fn requests_left(&mut self, now: Moment) -> Option<Level> {
        Some(self.requests.as_mut()?.measured(now.elapsed))
    }

    pub(crate) fn tokens_left(&mut self, now: Moment) -> Option<Level> {
        Some(self.tokens.as_mut()?.measured(now.elapsed))
    }

    pub(crate) const fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Gives what was used since the last time to `save`; what that does not take is given
    /// again.
    pub(crate) fn save(&mut self, key_id: &str, mut save: impl FnMut(Usage) -> bool) {
        self.unsaved.retain(|(day, used)| {
            !save(Usage {
                key_id: key_id.to_owned(),
                day: *day,
                tokens: used.tokens,
                cost: used.cost,
            })
        });
    }
}

/// Holds what one minute allows.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: u32,
    /// Below zero where more was used than was reserved.
    level: f64,
    at: Duration,
}

impl Bucket {
    pub(super) fn new(limit: u32, at: Duration) -> Self {
        Self {
            limit,
            level: f64::from(limit),
            at,
        }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.limit) / MINUTE.as_secs_f64()
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        let filled = self.level + passed.as_secs_f64() * self.per_second();
        self.level = filled.min(f64::from(self.limit));
        self.at = self.at.max(now);
    }

    /// Takes `n`, or says how long to wait for them. More than it ever holds is let through
    /// when it is full, and what comes later waits for that.
    pub(super) fn take(&mut self, n: u64, now: Duration) -> Result<(), Duration> {
        self.fill(now);
        let n = n as f64;
        let lacking = n.min(f64::from(self.limit)) - self.level;
        if lacking <= 0.0 {
            self.level -= n;
            return Ok(());
        }
        // A limit of 0 never fills.
        let wait = lacking / self.per_second();
        // Rounded up, so that after the wait it is surely there.
        Err(
            Duration::try_from_secs_f64(wait).map_or(Duration::MAX, |wait| {
                wait.saturating_add(Duration::from_millis(1))
            }),
        )
    }

    /// Gives back what was taken and takes what was used.
    fn correct(&mut self, taken: u64, used: u64, now: Duration) {
        self.fill(now);
        self.level = (self.level + taken as f64 - used as f64).min(f64::from(self.limit));
    }

    fn measured(&mut self, now: Duration) -> Level {
        self.fill(now);
        let missing = f64::from(self.limit) - self.level;
        Level {
            limit: self.limit,
            // A cast of a float stops at the bounds of the integer.
            remaining: self.level as u32,
            reset: Duration::try_from_secs_f64(missing / self.per_second()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2023-11-14, 22:13:20.
    const START_MS: u64 = 1_700_000_000_000;

    fn after(ms: u64) -> Moment {
        Moment {
            elapsed: Duration::from_millis(ms),
            unix_ms: START_MS + ms,
        }
    }

    fn tokens(tokens: u64) -> Amount {
        Amount {
            tokens,
            cost: Cost(0),
        }
    }

    fn quota(limits: KeyLimits) -> Quota {
        Quota::new(limits, Spent::default(), after(0))
    }

    #[test]
    fn a_burst_of_a_minute_passes_and_then_the_rate_holds() {
        let mut quota = quota(KeyLimits {
            requests_per_minute: Some(60),
            ..KeyLimits::default()
        });
        for _ in 0..60 {
            quota.enter(after(0)).unwrap();
        }
        let level = quota.requests_left(after(0)).unwrap();
        assert_eq!((level.remaining, level.reset), (0, MINUTE));
        let wait = Duration::from_millis(1001);
        let refused = Refusal::RequestsPerMinute { limit: 60, wait };
        assert_eq!(quota.enter(after(0)), Err(refused));
        quota.enter(after(1001)).unwrap();
        assert!(quota.enter(after(1002)).is_err());
    }

    #[test]
    fn places_are_given_back() {
        let mut quota = quota(KeyLimits {
            concurrency: Some(1),
            ..KeyLimits::default()
        });
        quota.enter(after(0)).unwrap();
        assert_eq!(
            quota.enter(after(0)),
            Err(Refusal::Concurrency { limit: 1 })
        );
        quota.leave();
        quota.enter(after(0)).unwrap();
    }

    #[test]
    fn an_estimate_is_settled_by_what_was_used() {
        let mut quota = quota(KeyLimits {
            tokens_per_minute: Some(600),
            ..KeyLimits::default()
        });
        quota.reserve(tokens(500), after(0)).unwrap();
        assert!(quota.reserve(tokens(200), after(0)).is_err());
        quota.settle(tokens(500), tokens(100), after(0));
        assert_eq!(quota.tokens_left(after(0)).unwrap().remaining, 500);
        quota.reserve(tokens(10), after(0)).unwrap();
        quota.settle(tokens(10), tokens(800), after(0));
        let level = quota.tokens_left(after(0)).unwrap();
        assert_eq!((level.remaining, level.reset.as_secs()), (0, 90));
        // Larger than the limit: only when nothing else was used for a minute.
        assert!(quota.reserve(tokens(10_000), after(80_000)).is_err());
        quota.reserve(tokens(10_000), after(90_000)).unwrap();
    }

    #[test]
    fn days_and_months_begin_anew_and_say_when() {
        let mut quota = quota(KeyLimits {
            tokens_per_day: Some(100),
            cost_per_month: Some(Cost(50)),
            ..KeyLimits::default()
        });
        let asked = Amount {
            tokens: 60,
            cost: Cost(30),
        };
        quota.reserve(asked, after(0)).unwrap();
        // Reserved counts as used.
        assert!(quota.reserve(asked, after(0)).is_err());
        quota.settle(asked, asked, after(0));
        let to_midnight = Duration::from_secs(6400);
        let refused = quota.reserve(tokens(60), after(0));
        let (limit, asked, left, wait) = (100, 60, 40, to_midnight);
        assert_eq!(
            refused,
            Err(Refusal::TokensPerDay {
                limit,
                asked,
                left,
                wait
            })
        );
        let next_day = after(6_400_000);
        quota.reserve(tokens(60), next_day).unwrap();
        quota.settle(tokens(60), Amount::default(), next_day);
        let cost = Amount {
            tokens: 0,
            cost: Cost(21),
        };
        let refused = quota.reserve(cost, next_day);
        let (limit, left) = (Cost(50), Cost(20));
        let wait = Duration::from_secs(16 * DAY_SECS);
        assert_eq!(refused, Err(Refusal::CostPerMonth { limit, left, wait }));
        // What costs nothing still passes.
        quota.reserve(tokens(1), next_day).unwrap();
        quota.settle(tokens(1), tokens(1), next_day);
        quota
            .reserve(cost, after(6_400_000 + 16 * DAY_SECS * 1000))
            .unwrap();
    }

    #[test]
    fn what_is_not_saved_is_given_again() {
        let mut quota = quota(KeyLimits::default());
        quota.settle(Amount::default(), tokens(5), after(0));
        quota.settle(Amount::default(), tokens(6), after(0));
        quota.settle(Amount::default(), tokens(7), after(DAY_SECS * 1000));
        quota.save("k", |_| false);
        let mut saved = Vec::new();
        quota.save("k", |usage| {
            saved.push(usage.tokens);
            true
        });
        assert_eq!(saved, [11, 7]);
        quota.save("k", |_| panic!("nothing is left"));
    }

    proptest! {
        /// In no span of time do more requests pass than a burst and the rate allow, and
        /// whoever waits as long as was said is let in.
        #[test]
        fn the_rate_holds_in_every_span(
            limit in 1..120_u32,
            pauses in prop::collection::vec(0..5_000_u64, 1..200),
        ) {
            let mut quota = quota(KeyLimits {
                requests_per_minute: Some(limit),
                ..KeyLimits::default()
            });
            let (mut now, mut passed) = (0, Vec::new());
            for pause in pauses {
                now += pause;
                match quota.enter(after(now)) {
                    Ok(()) => passed.push(now),
                    Err(Refusal::RequestsPerMinute { wait, .. }) => {
                        now += u64::try_from(wait.as_micros().div_ceil(1000)).unwrap();
                        prop_assert_eq!(quota.enter(after(now)), Ok(()));
                        passed.push(now);
                    }
                    Err(other) => prop_assert!(false, "{:?}", other),
                }
            }
            for (first, start) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first) {
                    let allowed = f64::from(limit) * (1.0 + (end - start) as f64 / 60_000.0);
                    prop_assert!((last - first + 1) as f64 <= allowed + 1e-6);
                }
            }
        }

        /// Whatever is asked, used and waited for: with honest estimates no budget is
        /// exceeded, all that was used is saved, and nothing stays reserved.
        #[test]
        fn budgets_hold_and_nothing_is_lost(
            steps in prop::collection::vec((1..400_u64, 0..100_u64, 0..40_000_000_u64), 1..80),
        ) {
            let limits = KeyLimits {
                tokens_per_day: Some(1000),
                cost_per_month: Some(Cost(2000)),
                ..KeyLimits::default()
            };
            let mut quota = quota(limits);
            let (mut now, mut running, mut saved) = (0, Vec::new(), Vec::new());
            let mut used_in_all = 0;
            for (asked, share, pause) in steps {
                now += pause;
                let asked = Amount { tokens: asked, cost: Cost(asked) };
                if quota.reserve(asked, after(now)).is_ok() {
                    let used = asked.tokens * share / 100;
                    running.push((asked, Amount { tokens: used, cost: Cost(used) }));
                }
                if running.len() > 3 {
                    let (asked, used) = running.remove(0);
                    used_in_all += used.tokens;
                    quota.settle(asked, used, after(now));
                }
            }
            for (asked, used) in running {
                used_in_all += used.tokens;
                quota.settle(asked, used, after(now));
            }
            prop_assert_eq!(quota.reserved, Amount::default());
            quota.save("k", |usage| {
                saved.push(usage);
                true
            });
            prop_assert_eq!(saved.iter().map(|usage| usage.tokens).sum::<u64>(), used_in_all);
            for usage in &saved {
                let month = days_of_month(usage.day);
                let of_month = saved.iter().filter(|other| month.contains(&other.day));
                let spent: u64 = of_month.map(|usage| usage.cost.0).sum();
                // A request that runs over midnight counts for the day on which it ends, so
                // up to three that began the day before may come on top.
                prop_assert!(usage.tokens <= 1000 + 4 * 400);
                prop_assert!(spent <= 2000 + 4 * 400);
            }
        }
    }
}
