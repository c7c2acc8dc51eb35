//! When memory runs short, and what to give up for it, as a pure state machine.
//!
//! A [`Watch`] is fed with what each pool of memory has left ([`Reading`]) and says what to
//! do ([`Step`]): first what is held only for speed goes, then idle models, and after that
//! nothing grows until there is room again. Pressure is told by two signs: less is left than
//! half of what the budget of models leaves free, or much of the time is lost to waiting for
//! memory. It counts when it lasts, or at once where the end is near. Between the mark where
//! it begins and the one where it ends nothing is done, so that a model is not unloaded and
//! loaded again and again.

/// What one pool has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolReading {
    pub left_bytes: u64,
    pub limit_bytes: u64,
    /// What models must leave free of it.
    pub margin_bytes: u64,
    /// Microseconds since some fixed time in which everything waited for memory.
    pub stalled_us: Option<u64>,
    /// Processes killed for want of memory since some fixed time.
    pub kills: u64,
}

/// All pools at one time; always the same ones in the same order.
pub type Reading = Vec<PoolReading>;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Give back what is held only for speed.
    Shrink,
    /// Unload idle models that hold so many bytes.
    Unload { bytes: u64 },
    /// Models may take so many bytes more than they hold.
    Room { bytes: u64 },
}

/// How short memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    #[default]
    Calm,
    /// What is held for speed was given back.
    Short,
    /// Idle models were unloaded.
    Critical,
}

impl Level {
    /// One lower-case word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Short => "short",
            Self::Critical => "critical",
        }
    }
}

/// Pressure begins below this part of the margin, and is acted on at once below the second.
const LOW_DIVISOR: u64 = 2;
const URGENT_DIVISOR: u64 = 4;
/// It ends above three quarters of the margin.
const CLEAR_NUMERATOR: u64 = 3;
const CLEAR_DIVISOR: u64 = 4;
/// Lost time of this share is pressure, where it is not only the file cache of a pool with
/// plenty of memory: a quarter of it may be left at most.
const STALLED_SHARE_MAX: f64 = 0.10;
const STALLED_LEFT_DIVISOR: u64 = 4;
/// How long pressure lasts before something is given up.
const SUSTAINED_MS: u64 = 1_000;
/// How long lost time is summed up.
const STALL_SPAN_MS: u64 = 2_000;
/// How long what was given up takes to show.
const SETTLE_MS: u64 = 1_500;
const SETTLE_URGENT_MS: u64 = 300;
/// How long it must be calm before models may grow again.
const CALM_MS: u64 = 10_000;
/// Time between readings: far from the end, and near it.
const INTERVAL_MS: u64 = 500;
const INTERVAL_NEAR_MS: u64 = 100;

/// How a pool is at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Clear,
    /// Neither short nor clear of it.
    Between,
    Short,
    Urgent,
}

/// Follows the pools.
#[derive(Debug, Default)]
pub struct Watch {
    level: Level,
    /// Since when it is short without a break.
    short_since: Option<u64>,
    clear_since: Option<u64>,
    acted_at: u64,
    /// Since the last calm something was given up, so that growth is watched.
    is_capped: bool,
    /// Lost time of each pool at the start of the span, and its share of the last one.
    stalls: Vec<Stall>,
    kills: Vec<u64>,
    is_near: bool,
}

#[derive(Debug, Clone, Copy)]
struct Stall {
    from_ms: u64,
    from_us: u64,
    share: f64,
}

impl Watch {
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Milliseconds until the next reading.
    #[must_use]
    pub fn interval_ms(&self) -> u64 {
        if self.is_near {
            INTERVAL_NEAR_MS
        } else {
            INTERVAL_MS
        }
    }

    /// Takes in a reading of `now` (milliseconds, never going back).
    pub fn step(&mut self, reading: &[PoolReading], now: u64) -> Option<Step> {
        self.stalls.resize_with(reading.len(), || Stall {
            from_ms: now,
            from_us: 0,
            share: f64::NAN,
        });
        let killed = self.count_kills(reading);
        let states = reading.iter().enumerate();
        let states: Vec<State> = states.map(|(at, pool)| self.state(at, pool, now)).collect();
        let worst = states.iter().copied().max().unwrap_or(State::Clear);
        let worst = if killed { State::Urgent } else { worst };
        let is_near = |pool: &PoolReading| pool.left_bytes < pool.margin_bytes.saturating_mul(2);
        self.is_near = worst > State::Clear || reading.iter().any(is_near);
        match worst {
            State::Short | State::Urgent => {
                self.clear_since = None;
                self.pressed(reading, worst, now)
            }
            State::Between => {
                self.short_since = None;
                self.clear_since = None;
                None
            }
            State::Clear => {
                self.short_since = None;
                self.clear(reading, now)
            }
        }
    }

    fn pressed(&mut self, reading: &[PoolReading], state: State, now: u64) -> Option<Step> {
        let since = *self.short_since.get_or_insert(now);
        let is_urgent = state == State::Urgent;
        if !is_urgent && now.saturating_sub(since) < SUSTAINED_MS {
            return None;
        }
        let settle_ms = if is_urgent {
            SETTLE_URGENT_MS
        } else {
            SETTLE_MS
        };
        if self.level != Level::Calm && now.saturating_sub(self.acted_at) < settle_ms {
            return None;
        }
        self.acted_at = now;
        self.is_capped = true;
        if self.level == Level::Calm {
            self.level = Level::Short;
            return Some(Step::Shrink);
        }
        self.level = Level::Critical;
        let missing = |pool: &PoolReading| clear_bytes(pool).saturating_sub(pool.left_bytes);
        let bytes = reading.iter().map(missing).max().unwrap_or(0);
        // Where time is lost although something is left, one model is a beginning.
        Some(Step::Unload {
            bytes: bytes.max(1),
        })
    }

    fn clear(&mut self, reading: &[PoolReading], now: u64) -> Option<Step> {
        let since = *self.clear_since.get_or_insert(now);
        if now.saturating_sub(since) < CALM_MS {
            return None;
        }
        self.level = Level::Calm;
        if !self.is_capped {
            return None;
        }
        let room = |pool: &PoolReading| pool.left_bytes.saturating_sub(pool.margin_bytes);
        let bytes = reading.iter().map(room).min().unwrap_or(0);
        Some(Step::Room { bytes })
    }

    /// Models may take again what they might before: growth is watched no longer.
    pub fn lifted(&mut self) {
        self.is_capped = false;
    }

    fn state(&mut self, at: usize, pool: &PoolReading, now: u64) -> State {
        let is_stalled = self.is_stalled(at, pool, now);
        let left = pool.left_bytes;
        if left < pool.margin_bytes / URGENT_DIVISOR {
            State::Urgent
        } else if left < pool.margin_bytes / LOW_DIVISOR || is_stalled {
            State::Short
        } else if left < clear_bytes(pool) {
            State::Between
        } else {
            State::Clear
        }
    }

    fn is_stalled(&mut self, at: usize, pool: &PoolReading, now: u64) -> bool {
        let (Some(stalled_us), Some(stall)) = (pool.stalled_us, self.stalls.get_mut(at)) else {
            return false;
        };
        let span_ms = now.saturating_sub(stall.from_ms);
        if stall.share.is_nan() || span_ms >= STALL_SPAN_MS {
            let lost_ms = stalled_us.saturating_sub(stall.from_us) as f64 / 1e3;
            stall.share = if stall.share.is_nan() || span_ms == 0 {
                0.0
            } else {
                lost_ms / span_ms as f64
            };
            stall.from_ms = now;
            stall.from_us = stalled_us;
        }
        stall.share >= STALLED_SHARE_MAX
            && pool.left_bytes < pool.limit_bytes / STALLED_LEFT_DIVISOR
    }

    /// Whether a process was killed since the last reading.
    fn count_kills(&mut self, reading: &[PoolReading]) -> bool {
        let kills: Vec<u64> = reading.iter().map(|pool| pool.kills).collect();
        let before = std::mem::replace(&mut self.kills, kills);
        let pairs = self.kills.iter().zip(&before);
        before.len() == self.kills.len() && pairs.into_iter().any(|(now, then)| now > then)
    }
}

fn clear_bytes(pool: &PoolReading) -> u64 {
    pool.margin_bytes / CLEAR_DIVISOR * CLEAR_NUMERATOR
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pool(left_mib: u64) -> PoolReading {
        PoolReading {
            left_bytes: left_mib * MIB,
            limit_bytes: 1024 * MIB,
            margin_bytes: 100 * MIB,
            stalled_us: Some(0),
            kills: 0,
        }
    }

    /// Steps with their times, of a trace of what is left every 100 ms.
    fn steps(watch: &mut Watch, from_ms: u64, lefts_mib: &[u64]) -> Vec<(u64, Step)> {
        let at = |index: usize| from_ms + 100 * index as u64;
        let trace = lefts_mib.iter().enumerate();
        trace
            .filter_map(|(index, left)| Some((at(index), watch.step(&[pool(*left)], at(index))?)))
            .collect()
    }

    #[test]
    fn plenty_is_no_pressure_and_is_read_seldom() {
        let mut watch = Watch::default();
        assert_eq!(steps(&mut watch, 0, &[900; 200]), []);
        assert_eq!(watch.interval_ms(), INTERVAL_MS);
        assert_eq!(steps(&mut watch, 20_000, &[150]), []);
        assert_eq!(watch.interval_ms(), INTERVAL_NEAR_MS);
    }

    #[test]
    fn a_dip_is_no_pressure() {
        let mut watch = Watch::default();
        for start in 0..20 {
            let dip = [&[40; 8][..], &[80; 4][..]].concat();
            assert_eq!(steps(&mut watch, 2_000 * start, &dip), []);
        }
        assert_eq!(watch.level(), Level::Calm);
    }

    #[test]
    fn what_lasts_takes_the_cache_first_and_then_models() {
        let mut watch = Watch::default();
        let seen = steps(&mut watch, 0, &[40; 45]);
        let unload = Step::Unload { bytes: 35 * MIB };
        assert_eq!(
            seen,
            [(1_000, Step::Shrink), (2_500, unload), (4_000, unload)]
        );
        assert_eq!(watch.level(), Level::Critical);
    }

    #[test]
    fn near_the_end_nothing_is_waited_for() {
        let mut watch = Watch::default();
        let seen = steps(&mut watch, 0, &[300, 150, 24, 20, 16, 12, 8]);
        let unload = Step::Unload { bytes: 63 * MIB };
        assert_eq!(seen, [(200, Step::Shrink), (500, unload)]);
    }

    #[test]
    fn it_takes_a_while_of_calm_until_models_may_grow() {
        let mut watch = Watch::default();
        assert_eq!(steps(&mut watch, 0, &[40; 11]).len(), 1);
        // Between the marks nothing is done, however long.
        assert_eq!(steps(&mut watch, 1_100, &[60; 300]), []);
        assert_eq!(watch.level(), Level::Short);
        let seen = steps(&mut watch, 40_000, &[400; 102]);
        let room = Step::Room { bytes: 300 * MIB };
        assert_eq!(seen, [(50_000, room), (50_100, room)]);
        assert_eq!(watch.level(), Level::Calm);
        watch.lifted();
        assert_eq!(steps(&mut watch, 60_000, &[400; 200]), []);
    }

    #[test]
    fn a_break_in_the_calm_begins_it_anew() {
        let mut watch = Watch::default();
        assert_eq!(steps(&mut watch, 0, &[40; 11]).len(), 1);
        for start in 0..10 {
            let trace = [&[400; 90][..], &[60; 2][..]].concat();
            assert_eq!(steps(&mut watch, 2_000 + 9_200 * start, &trace), []);
        }
    }

    #[test]
    fn lost_time_counts_where_little_is_left() {
        let stalled = |left_mib: u64| {
            let mut watch = Watch::default();
            let seen = (0..60).filter_map(|index| {
                let stalled_us = Some(index * 30_000);
                let pool = PoolReading {
                    stalled_us,
                    ..pool(left_mib)
                };
                watch.step(&[pool], index * 100)
            });
            seen.collect::<Vec<_>>()
        };
        assert_eq!(stalled(600), []);
        assert_eq!(stalled(200), [Step::Shrink, Step::Unload { bytes: 1 }]);
    }

    #[test]
    fn a_kill_is_acted_on_at_once() {
        let mut watch = Watch::default();
        assert_eq!(watch.step(&[pool(500)], 0), None);
        let killed = PoolReading {
            kills: 1,
            ..pool(500)
        };
        assert_eq!(watch.step(&[killed], 100), Some(Step::Shrink));
        assert_eq!(watch.step(&[killed], 500), None);
    }

    #[test]
    fn the_tightest_pool_counts() {
        let mut watch = Watch::default();
        let roomy = pool(900);
        for at in 0..10 {
            assert_eq!(watch.step(&[roomy, pool(40)], at * 100), None);
        }
        let first = watch.step(&[roomy, pool(40)], 1_000);
        assert_eq!(first, Some(Step::Shrink));
    }
}
