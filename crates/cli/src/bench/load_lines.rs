//! The lines of a run of `bench load`: what was asked, a line for each request, and how long all of
//! them took. Requests under load are one measurement, so they are written when all have ended.

use bench::latency::{Latency, Objective};
use bench::load::{Arrivals, Report, Served, report};
use serde::{Deserialize, Serialize};

use super::attempts_file::Lines;
use crate::outcome::{Code, Outcome, fault};

pub(super) const VERSION: u32 = 1;

/// The first line: what must be the same for a run to be the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heading {
    /// Of this form.
    pub(super) version: u32,
    pub(super) server: String,
    pub(super) model: String,
    pub(super) requests: u64,
    /// In a closed loop.
    pub(super) clients: Option<u64>,
    /// In an open one.
    pub(super) requests_per_second: Option<f64>,
    pub(super) is_even: bool,
    pub(super) prompt_words: u64,
    pub(super) shared_words: u64,
    pub(super) tokens_max: u64,
    pub(super) seconds_max: u64,
    pub(super) seed: u64,
}

impl Heading {
    pub(super) fn arrivals(&self) -> Arrivals {
        match (self.requests_per_second, self.is_even) {
            (None, _) => Arrivals::Closed {
                clients: usize::try_from(self.clients.unwrap_or(1)).unwrap_or(usize::MAX),
            },
            (Some(per_second), false) => Arrivals::Poisson { per_second },
            (Some(per_second), true) => Arrivals::Even { per_second },
        }
    }
}

/// What came of one request. Seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Why it failed, where it did; then there are no times.
    failed: Option<String>,
    ttfr_seconds: Option<f64>,
    ttft_seconds: Option<f64>,
    ttfo_seconds: Option<f64>,
    tpot_seconds: Option<f64>,
    end_to_end_seconds: f64,
    gaps_seconds: Vec<f64>,
    n_prompt: usize,
    n_cached: usize,
    n_answer: usize,
}

impl Request {
    pub(super) fn of(served: &Served) -> Self {
        let latency = served.latency.as_ref().ok();
        Self {
            failed: served.latency.as_ref().err().cloned(),
            ttfr_seconds: latency.and_then(|latency| latency.ttfr),
            ttft_seconds: latency.and_then(|latency| latency.ttft),
            ttfo_seconds: latency.and_then(|latency| latency.ttfo),
            tpot_seconds: latency.and_then(|latency| latency.tpot),
            end_to_end_seconds: latency.map_or(0.0, |latency| latency.end_to_end),
            gaps_seconds: latency.map_or_else(Vec::new, |latency| latency.gaps.clone()),
            n_prompt: served.n_prompt,
            n_cached: served.n_cached,
            n_answer: served.n_answer,
        }
    }

    fn served(self) -> Served {
        Served {
            latency: match self.failed {
                Some(why) => Err(why),
                None => Ok(Latency {
                    ttfr: self.ttfr_seconds,
                    ttft: self.ttft_seconds,
                    ttfo: self.ttfo_seconds,
                    tpot: self.tpot_seconds,
                    gaps: self.gaps_seconds,
                    end_to_end: self.end_to_end_seconds,
                }),
            },
            n_prompt: self.n_prompt,
            n_cached: self.n_cached,
            n_answer: self.n_answer,
        }
    }
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    pub(super) ended: Ended,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// From the first request to the last answer.
    pub(super) seconds: f64,
    /// What was promised, seconds.
    ttft_max: Option<f64>,
    tpot_max: Option<f64>,
    end_to_end_max: Option<f64>,
}

impl Ended {
    pub(super) fn new(seconds: f64, objective: &Objective) -> Self {
        Self {
            seconds,
            ttft_max: objective.ttft_max,
            tpot_max: objective.tpot_max,
            end_to_end_max: objective.end_to_end_max,
        }
    }

    pub(super) fn objective(&self) -> Objective {
        Objective {
            ttft_max: self.ttft_max,
            tpot_max: self.tpot_max,
            end_to_end_max: self.end_to_end_max,
        }
    }
}

/// A run that has ended.
pub(super) struct Run {
    pub(super) served: Vec<Served>,
    pub(super) ended: Ended,
}

impl Run {
    /// Of the lines after the heading; `None` where they do not come to an end.
    pub(super) fn of(requests: Vec<Request>, last: Vec<Last>) -> Option<Self> {
        Some(Self {
            served: requests.into_iter().map(Request::served).collect(),
            ended: last.into_iter().next_back()?.ended,
        })
    }

    /// That of a file, or of a run that is kept.
    pub(super) fn read(lines: &Lines) -> Outcome<(Heading, Self)> {
        let run = Self::of(lines.attempts(), lines.attempts());
        let run = run.ok_or_else(|| {
            let message = format!(
                "`{}` has no end: that run was stopped; the same `bench load` with `--out` makes it \
                 again",
                lines.name.display()
            );
            fault(Code::Usage, message)
        })?;
        Ok((lines.heading()?, run))
    }

    pub(super) fn report(&self) -> Report {
        report(&self.served, &self.ended.objective(), self.ended.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_served_is_read_as_it_was_written() {
        let latency = Latency {
            ttfr: Some(0.1),
            ttft: Some(0.2),
            ttfo: None,
            tpot: Some(0.05),
            gaps: vec![0.04, 0.06],
            end_to_end: 0.5,
        };
        for latency in [Ok(latency), Err("it broke".to_owned())] {
            let served = Served {
                latency,
                n_prompt: 9,
                n_cached: 4,
                n_answer: 3,
            };
            let text = serde_json::to_string(&Request::of(&served)).unwrap();
            let read: Request = serde_json::from_str(&text).unwrap();
            assert_eq!(read.served(), served);
        }
    }
}
