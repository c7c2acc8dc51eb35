//! Load on an endpoint: when requests come, what they ask, and what came of all of them.
//!
//! In a closed loop each of so many clients asks again as soon as it is answered, which is how
//! agents behave, and which a slow server slows down. In an open loop requests come when they
//! come, which is how people behave; their times start when they were due, so that a server
//! that falls behind cannot hide it.

use fastrand::Rng;

use crate::latency::{Latency, Objective, goodput};
use crate::speeds::quantile;

/// When requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// So many clients, each with one request at a time.
    Closed { clients: usize },
    /// By chance, so many a second on the average (a Poisson process).
    Poisson { per_second: f64 },
    /// In even steps.
    Even { per_second: f64 },
}

impl Arrivals {
    /// When each of `n` requests is due, seconds from the start; `None` in a closed loop.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
    pub fn due(&self, n: usize, seed: u64) -> Option<Vec<f64>> {
        match *self {
            Self::Closed { .. } => None,
            Self::Even { per_second } => Some((0..n).map(|one| one as f64 / per_second).collect()),
            Self::Poisson { per_second } => {
                let mut random = Rng::with_seed(seed);
                let mut at = 0.0;
                let next = |_| {
                    // The waits of such a process are exponential.
                    at -= (1.0 - random.f64()).ln() / per_second;
                    at
                };
                Some((0..n).map(next).collect())
            }
        }
    }
}

/// Common words; each is a token in nearly every vocabulary.
const WORDS: [&str; 32] = [
    "the", "house", "of", "river", "and", "stone", "to", "light", "in", "garden", "is", "water",
    "on", "winter", "for", "morning", "with", "road", "at", "paper", "from", "music", "by",
    "window", "as", "letter", "or", "forest", "but", "table", "not", "summer",
];

/// What requests ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    /// Words of each prompt, the shared ones among them.
    pub words: usize,
    /// Words that all prompts begin with, like a system prompt.
    pub shared: usize,
    pub seed: u64,
}

impl Prompts {
    /// The prompt of one request: the same for the same seed, and unlike all others after the
    /// shared part.
    #[must_use]
    pub fn text(&self, request: usize) -> String {
        let shared = self.shared.min(self.words);
        let mut common = Rng::with_seed(self.seed);
        let mut own = Rng::with_seed(self.seed ^ (request as u64 + 1).rotate_left(32));
        let mut words = Vec::with_capacity(self.words);
        for place in 0..self.words {
            let random = if place < shared {
                &mut common
            } else {
                &mut own
            };
            words.push(WORDS[random.usize(..WORDS.len())]);
        }
        words.join(" ")
    }
}

/// What came of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Why it failed, where it did.
    pub latency: Result<Latency, String>,
    pub n_prompt: usize,
    /// Of those, taken from a cache.
    pub n_cached: usize,
    pub n_answer: usize,
}

/// Of some times, seconds: the middle, and what one in ten and one in a hundred wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

impl Percentiles {
    /// All 0 of no times.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = f64>) -> Self {
        let mut times: Vec<f64> = times.into_iter().collect();
        times.sort_by(f64::total_cmp);
        Self {
            p50: quantile(&times, 0.5),
            p90: quantile(&times, 0.9),
            p99: quantile(&times, 0.99),
        }
    }
}

/// What came of all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub n: usize,
    pub n_failed: usize,
    /// From the first request to the last answer.
    pub seconds: f64,
    pub answers_per_second: f64,
    /// Of answers, over all clients.
    pub tokens_per_second: f64,
    pub ttft: Percentiles,
    pub tpot: Percentiles,
    /// Between two pieces of text, pooled over all answers.
    pub gap: Percentiles,
    pub end_to_end: Percentiles,
    pub n_prompt: usize,
    pub n_cached: usize,
    pub n_answer: usize,
    /// Answers a second that keep every promise, if any was made.
    pub goodput: f64,
}

/// Sums up. `seconds` is how long the whole took.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
pub fn report(served: &[Served], objective: &Objective, seconds: f64) -> Report {
    let answers: Vec<Latency> = served
        .iter()
        .filter_map(|one| one.latency.as_ref().ok().cloned())
        .collect();
    let sum = |of: fn(&Served) -> usize| served.iter().map(of).sum::<usize>();
    let rate = |n: usize| {
        if seconds > 0.0 {
            n as f64 / seconds
        } else {
            0.0
        }
    };
    Report {
        n: served.len(),
        n_failed: served.len() - answers.len(),
        seconds,
        answers_per_second: rate(answers.len()),
        tokens_per_second: rate(sum(|one| one.n_answer)),
        ttft: Percentiles::of(answers.iter().filter_map(|one| one.ttft)),
        tpot: Percentiles::of(answers.iter().filter_map(|one| one.tpot)),
        gap: Percentiles::of(answers.iter().flat_map(|one| one.gaps.iter().copied())),
        end_to_end: Percentiles::of(answers.iter().map(|one| one.end_to_end)),
        n_prompt: sum(|one| one.n_prompt),
        n_cached: sum(|one| one.n_cached),
        n_answer: sum(|one| one.n_answer),
        goodput: goodput(&answers, objective, seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{Brought, Stream};

    #[test]
    fn arrivals_have_the_rate_they_are_asked_for() {
        let poisson = Arrivals::Poisson { per_second: 8.0 };
        let due = poisson.due(4000, 3).unwrap();
        assert!(due.windows(2).all(|pair| pair[0] <= pair[1]));
        let rate = 4000.0 / due.last().unwrap();
        assert!((rate / 8.0 - 1.0).abs() < 0.05, "{rate}");
        assert_eq!(poisson.due(4000, 3), Some(due));
        let even = Arrivals::Even { per_second: 4.0 };
        assert_eq!(even.due(3, 0), Some(vec![0.0, 0.25, 0.5]));
        assert_eq!(Arrivals::Closed { clients: 2 }.due(3, 0), None);
    }

    #[test]
    fn prompts_share_what_they_are_to_share_and_nothing_else() {
        let prompts = Prompts {
            words: 40,
            shared: 20,
            seed: 1,
        };
        let words = |request| {
            let text = prompts.text(request);
            text.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let (first, second) = (words(0), words(1));
        assert_eq!((first.len(), second.len()), (40, 40));
        assert_eq!(first[..20], second[..20]);
        assert_ne!(first[20..], second[20..]);
        assert_eq!(first, words(0));
    }

    #[test]
    fn what_failed_is_counted_and_keeps_no_promise() {
        let stream = Stream {
            events: vec![(0.1, Brought::Output), (0.2, Brought::Output)],
            end: 0.2,
            n_tokens: 2,
        };
        let right = Served {
            latency: Ok(Latency::of(&stream)),
            n_prompt: 10,
            n_cached: 4,
            n_answer: 2,
        };
        let wrong = Served {
            latency: Err("refused".into()),
            n_prompt: 0,
            n_cached: 0,
            n_answer: 0,
        };
        let objective = Objective {
            ttft_max: Some(1.0),
            ..Objective::default()
        };
        let report = report(&[right.clone(), wrong, right], &objective, 2.0);
        assert_eq!((report.n, report.n_failed), (3, 1));
        assert!((report.answers_per_second - 1.0).abs() < 1e-9);
        assert!((report.tokens_per_second - 2.0).abs() < 1e-9);
        assert!((report.goodput - 1.0).abs() < 1e-9);
        assert!((report.ttft.p99 - 0.1).abs() < 1e-9);
        assert_eq!((report.n_prompt, report.n_cached), (20, 8));
    }
}
