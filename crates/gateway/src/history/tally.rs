//! What requests leave behind for the history, without waiting for anybody: a few counters that
//! each sample takes and sets back to nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use proto::{Timings, Usage};
use store::{WAIT_STEPS, Waits};

/// Shorter work says nothing of speed.
const WORK_MIN: Duration = Duration::from_millis(5);

/// Counters since the last sample.
#[derive(Debug)]
pub(crate) struct Tally {
    waits: [AtomicU32; WAIT_STEPS],
    answered: AtomicU64,
    failed: AtomicU64,
    prefill: Work,
    decode: Work,
}

/// Tokens, and the time that they took.
#[derive(Debug, Default)]
struct Work {
    tokens: AtomicU64,
    us: AtomicU64,
}

/// What a sample has taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Taken {
    /// For the first token.
    pub(crate) waits: Waits,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Tokens and seconds.
    pub(crate) prefill: (u64, f64),
    pub(crate) decode: (u64, f64),
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            waits: [const { AtomicU32::new(0) }; WAIT_STEPS],
            answered: AtomicU64::default(),
            failed: AtomicU64::default(),
            prefill: Work::default(),
            decode: Work::default(),
        }
    }
}

impl Tally {
    /// A request had its first token after so long.
    pub(crate) fn first_token(&self, seconds: f64) {
        self.waits[Waits::step_of(seconds)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, usage: &Usage, timings: &Timings) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        self.prefill.add(computed, timings.prefill_ms);
        self.decode.add(usage.completion_tokens, timings.decode_ms);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes all of it.
    pub(crate) fn take(&self) -> Taken {
        let mut waits = Waits::default();
        for (step, count) in self.waits.iter().enumerate() {
            // Most are 0, and a swap would take the line from whoever counts.
            if count.load(Ordering::Relaxed) > 0 {
                waits.add(step, count.swap(0, Ordering::Relaxed));
            }
        }
        Taken {
            waits,
            answered: self.answered.swap(0, Ordering::Relaxed),
            failed: self.failed.swap(0, Ordering::Relaxed),
            prefill: self.prefill.take(),
            decode: self.decode.take(),
        }
    }
}

impl Work {
    fn add(&self, tokens: u32, ms: f64) {
        if tokens == 0 || ms.is_nan() || ms < WORK_MIN.as_secs_f64() * 1000.0 {
            return;
        }
        self.tokens.fetch_add(u64::from(tokens), Ordering::Relaxed);
        self.us.fetch_add((ms * 1000.0) as u64, Ordering::Relaxed);
    }

    fn take(&self) -> (u64, f64) {
        let us = self.us.swap(0, Ordering::Relaxed);
        (self.tokens.swap(0, Ordering::Relaxed), us as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_once_and_cached_tokens_are_no_work() {
        let tally = Tally::default();
        tally.first_token(0.2);
        tally.failed();
        let usage = Usage {
            prompt_tokens: 100,
            cached_tokens: 40,
            completion_tokens: 20,
            ..Usage::default()
        };
        let timings = Timings {
            queue_ms: 0.0,
            prefill_ms: 500.0,
            decode_ms: 2000.0,
        };
        tally.answered(&usage, &timings);
        // All of it came from the cache: no time that could be a speed.
        let cached = Usage {
            cached_tokens: 100,
            ..usage
        };
        let none = Timings {
            decode_ms: f64::NAN,
            ..timings
        };
        tally.answered(&cached, &none);
        let taken = tally.take();
        assert_eq!((taken.answered, taken.failed), (2, 1));
        assert_eq!((taken.prefill, taken.decode), ((60, 0.5), (20, 2.0)));
        assert_eq!(taken.waits.count(), 1);
        assert_eq!(tally.take(), Taken::default());
    }
}
