//! A circuit breaker: who fails again and again is left alone for a while, then one request
//! tries.
//!
//! After M. Nygard, "Release It!", chapter on stability patterns: closed, open, half open.

use std::time::{Duration, Instant};

/// Failures in a row that open the breaker.
pub const FAILURES_MAX: u32 = 3;
/// The first pause; each failed try doubles it.
pub const BREAKER_PAUSE: Duration = Duration::from_secs(5);
pub const BREAKER_PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    until: Instant,
    pause: Duration,
    cause: String,
    /// The request that tries is under way.
    trying: bool,
}

impl Breaker {
    /// The cause and the rest of the pause while nothing may be sent.
    #[must_use]
    pub fn refusal(&self, now: Instant) -> Option<(&str, Duration)> {
        let open = self.open.as_ref()?;
        let rest = open.until.saturating_duration_since(now);
        (open.trying || !rest.is_zero()).then_some((&*open.cause, rest))
    }

    /// A request is sent.
    pub fn sent(&mut self, now: Instant) {
        if let Some(open) = &mut self.open
            && now >= open.until
        {
            open.trying = true;
        }
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn failed(&mut self, cause: &str, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = match &self.open {
            // Requests from before it opened say nothing new.
            Some(open) if !open.trying => return,
            Some(open) => (open.pause * 2).min(BREAKER_PAUSE_MAX),
            None if self.failures >= FAILURES_MAX => BREAKER_PAUSE,
            None => return,
        };
        self.open = Some(Open {
            until: now + pause,
            pause,
            cause: cause.to_owned(),
            trying: false,
        });
    }

    /// A request ended without telling anything: the next one may try.
    pub fn abandoned(&mut self) {
        if let Some(open) = &mut self.open {
            open.trying = false;
        }
    }
}
