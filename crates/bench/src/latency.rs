//! What the one who waits for a stream feels: from the times of its events.
//!
//! Tools do not agree on these words, so here is what they mean. Time starts right before the
//! request is written; in an open loop at the moment it was scheduled to be, since the wait for a
//! late client is the server's queue. TTFR is until the first event, TTFT until the first with
//! any text, reasoning or call in it, and TTFO until the first text that is no reasoning. TPOT is
//! the rest of the time by the rest of the tokens. Gaps are between events with text, and are
//! called inter-token latency only where each event is one token.

/// What an event of a stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    /// A role, or nothing.
    Nothing,
    Reasoning,
    /// Text of the answer, or a part of a call.
    Output,
}

/// A whole stream. Seconds from its start, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stream {
    pub events: Vec<(f64, Brought)>,
    /// When its last byte was there.
    pub end: f64,
    /// Tokens of the answer as the server counts them.
    pub n_tokens: usize,
}

/// Its times, seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    pub ttfr: Option<f64>,
    pub ttft: Option<f64>,
    pub ttfo: Option<f64>,
    /// 0 of an answer of one token; `None` of one without text.
    pub tpot: Option<f64>,
    /// Between events with text.
    pub gaps: Vec<f64>,
    pub end_to_end: f64,
}

impl Latency {
    #[must_use]
    pub fn of(stream: &Stream) -> Self {
        let first = |wanted: &dyn Fn(Brought) -> bool| {
            let mut events = stream.events.iter();
            events
                .find(|(_, brought)| wanted(*brought))
                .map(|(at, _)| *at)
        };
        let with_text: Vec<f64> = stream
            .events
            .iter()
            .filter(|(_, brought)| *brought != Brought::Nothing)
            .map(|(at, _)| *at)
            .collect();
        let ttft = with_text.first().copied();
        Self {
            ttfr: first(&|_| true),
            ttft,
            ttfo: first(&|brought| brought == Brought::Output),
            tpot: ttft.map(|ttft| match stream.n_tokens.saturating_sub(1) {
                0 => 0.0,
                rest => (stream.end - ttft) / real(rest),
            }),
            gaps: with_text.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            end_to_end: stream.end,
        }
    }
}

/// What is promised, seconds; an absent one is not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Objective {
    pub ttft_max: Option<f64>,
    pub tpot_max: Option<f64>,
    pub end_to_end_max: Option<f64>,
}

impl Objective {
    /// Whether an answer keeps every promise. One without text keeps none that is about text.
    #[must_use]
    pub fn is_kept(&self, latency: &Latency) -> bool {
        let within = |value: Option<f64>, max: Option<f64>| match (value, max) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(value), Some(max)) => value <= max,
        };
        within(latency.ttft, self.ttft_max)
            && within(latency.tpot, self.tpot_max)
            && within(Some(latency.end_to_end), self.end_to_end_max)
    }
}

/// Answers a second that keep every promise. A request that failed or ran out of time is one
/// that keeps none, so it is in `seconds` and not in `answers`.
#[must_use]
pub fn goodput(answers: &[Latency], objective: &Objective, seconds: f64) -> f64 {
    let kept = answers.iter().filter(|answer| objective.is_kept(answer));
    match seconds > 0.0 {
        true => real(kept.count()) / seconds,
        false => 0.0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
const fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        use Brought::{Nothing, Output, Reasoning};
        Stream {
            events: vec![
                (0.10, Nothing),
                (0.20, Reasoning),
                (0.25, Reasoning),
                (0.35, Output),
                (0.36, Nothing),
                (0.40, Output),
            ],
            end: 0.5,
            n_tokens: 4,
        }
    }

    #[test]
    fn every_time_is_what_its_name_says() {
        let latency = Latency::of(&stream());
        assert_eq!(
            (latency.ttfr, latency.ttft, latency.ttfo),
            (Some(0.10), Some(0.20), Some(0.35))
        );
        assert!((latency.tpot.unwrap() - 0.1).abs() < 1e-9);
        for (gap, known) in latency.gaps.iter().zip([0.05, 0.10, 0.05]) {
            assert!((gap - known).abs() < 1e-9);
        }
        assert_eq!(latency.gaps.len(), 3);
    }

    #[test]
    fn an_answer_without_text_keeps_no_promise_about_text() {
        let empty = Latency::of(&Stream {
            events: vec![(0.1, Brought::Nothing)],
            end: 0.2,
            n_tokens: 0,
        });
        assert_eq!((empty.ttft, empty.tpot), (None, None));
        let objective = Objective {
            ttft_max: Some(1.0),
            ..Objective::default()
        };
        assert!(!objective.is_kept(&empty));
        assert!(Objective::default().is_kept(&empty));
    }

    #[test]
    fn goodput_counts_those_that_keep_all() {
        let latency = Latency::of(&stream());
        let objective = Objective {
            ttft_max: Some(0.2),
            tpot_max: Some(0.11),
            end_to_end_max: Some(0.5),
        };
        let answers = [latency.clone(), latency];
        assert!((goodput(&answers, &objective, 4.0) - 0.5).abs() < 1e-9);
        let strict = Objective {
            tpot_max: Some(0.09),
            ..objective
        };
        assert!(goodput(&answers, &strict, 4.0).abs() < 1e-9);
        assert!(goodput(&answers, &objective, 0.0).abs() < 1e-9);
    }
}
