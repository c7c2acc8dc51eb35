//! How a provider has done so far.

use std::time::{Duration, Instant};

use crate::{Availability, Breaker};

/// How long a provider rests that limits its rate and does not say for how long.
pub const COOLING_DEFAULT: Duration = Duration::from_secs(10);
/// The longest rest a provider can ask for.
pub const COOLING_MAX: Duration = Duration::from_secs(60 * 60);

/// Weight of the newest time to a first token in the running mean.
const TTFT_SHARE: f64 = 0.2;

/// What is remembered of one provider.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    health: Health,
    breaker: Breaker,
    cooling_until: Option<Instant>,
    ttft_s: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Unknown,
    Up,
    Down(String),
}

/// How a request to a provider went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answered well.
    Answered,
    /// It was reached and failed: an error of its own, silence, nonsense, a cut.
    Failed { cause: String },
    /// Nobody was there.
    Unreachable { cause: String },
    /// It wants fewer requests.
    RateLimited { retry_after: Option<Duration> },
    /// The request says nothing of the provider: it was wrong itself, or its client left.
    Nothing,
}

impl Standing {
    /// What a picture of the fleet says of it.
    #[must_use]
    pub fn availability(&self, now: Instant) -> Availability {
        if let Health::Down(cause) = &self.health {
            return Availability::Down {
                cause: cause.clone(),
            };
        }
        if let Some((cause, pause)) = self.breaker.refusal(now) {
            return Availability::Broken {
                cause: cause.to_owned(),
                pause,
            };
        }
        if let Some(until) = self.cooling_until.filter(|until| *until > now) {
            return Availability::Cooling { pause: until - now };
        }
        match self.health {
            Health::Up => Availability::Up,
            _ => Availability::Unknown,
        }
    }

    /// The running mean of times to the first token.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.ttft_s.map(Duration::from_secs_f64)
    }

    /// Somebody looked whether it is there; the cause if it is not.
    pub fn looked_at(&mut self, result: Result<(), String>) {
        self.health = match result {
            Ok(()) => Health::Up,
            Err(cause) => Health::Down(cause),
        };
    }

    /// A request is sent to it.
    pub fn sent(&mut self, now: Instant) {
        self.breaker.sent(now);
    }

    /// Its first token came.
    pub fn began(&mut self, ttft: Duration) {
        self.breaker.succeeded();
        let new = ttft.as_secs_f64();
        let mean = self.ttft_s.map(|old| old + TTFT_SHARE * (new - old));
        self.ttft_s = Some(mean.unwrap_or(new));
    }

    /// A request to it has ended.
    pub fn ended(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Outcome::Answered => {
                self.health = Health::Up;
                self.breaker.succeeded();
            }
            Outcome::Failed { cause } => self.breaker.failed(cause, now),
            Outcome::Unreachable { cause } => {
                self.breaker.abandoned();
                self.health = Health::Down(cause.clone());
            }
            Outcome::RateLimited { retry_after } => {
                self.breaker.abandoned();
                let pause = retry_after.unwrap_or(COOLING_DEFAULT).min(COOLING_MAX);
                let until = self.cooling_until.map_or(now, |until| until.max(now));
                self.cooling_until = Some(until.max(now + pause));
            }
            Outcome::Nothing => self.breaker.abandoned(),
        }
    }
}
