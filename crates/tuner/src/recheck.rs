//! Whether a choice is still as fast as when it was made, from the answers that are given
//! anyway.

use std::collections::VecDeque;

use crate::noise::median;

/// Below this share of the measured speed a choice is stale. Wide, since requests differ in
/// their depth and their drafts, and a choice that is dropped wrongly costs a new tuning.
const STALE_BELOW: f64 = 0.7;
/// Answers that decide.
const ANSWERS: usize = 16;
/// Fewer tokens say more of the overhead than of the speed.
const PREFILL_TOKENS_MIN: u32 = 64;
const DECODE_TOKENS_MIN: u32 = 16;
/// An answer is comparable up to this many times the depth of the measurement: attention
/// slows down both with depth, and shallower ones may only be faster.
const DEPTH_TIMES: u32 = 2;
/// Up to here attention takes little of any answer, however short the measurement was.
const DEPTH_ALWAYS: u32 = 512;

/// Tokens a second, at a depth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speeds {
    pub prefill_tokens_s: f64,
    pub decode_tokens_s: f64,
    /// Tokens of the prompt with which they were measured.
    pub depth: u32,
}

/// An answer of a model that had the machine for itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    pub prefill_ms: f64,
    pub decode_ms: f64,
}

/// What is no longer as it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stale {
    pub phase: &'static str,
    pub measured_tokens_s: f64,
    pub seen_tokens_s: f64,
}

/// Remembers the last answers of a model.
#[derive(Debug, Clone)]
pub struct Recheck {
    measured: Speeds,
    prefill: VecDeque<f64>,
    decode: VecDeque<f64>,
    is_stale: bool,
}

impl Recheck {
    #[must_use]
    pub fn new(measured: Speeds) -> Self {
        Self {
            measured,
            prefill: VecDeque::new(),
            decode: VecDeque::new(),
            is_stale: false,
        }
    }

    /// Takes an answer in; once, when the last of them are clearly slower than what was
    /// measured, it says so.
    pub fn see(&mut self, answer: &Answer) -> Option<Stale> {
        let depth = answer
            .prompt_tokens
            .saturating_add(answer.completion_tokens);
        let depth_max = self.measured.depth.saturating_mul(DEPTH_TIMES);
        let is_comparable = depth <= depth_max.max(DEPTH_ALWAYS);
        if self.is_stale || !is_comparable {
            return None;
        }
        let read = answer.prompt_tokens.saturating_sub(answer.cached_tokens);
        if read >= PREFILL_TOKENS_MIN {
            push(&mut self.prefill, per_second(read, answer.prefill_ms));
        }
        if answer.completion_tokens >= DECODE_TOKENS_MIN {
            let tokens = answer.completion_tokens - 1;
            push(&mut self.decode, per_second(tokens, answer.decode_ms));
        }
        let phases = [
            ("prefill", &self.prefill, self.measured.prefill_tokens_s),
            ("decode", &self.decode, self.measured.decode_tokens_s),
        ];
        let stale = phases.into_iter().find_map(|(phase, seen, measured)| {
            let seen = middle(seen)?;
            (seen < measured * STALE_BELOW).then_some(Stale {
                phase,
                measured_tokens_s: measured,
                seen_tokens_s: seen,
            })
        });
        self.is_stale = stale.is_some();
        stale
    }
}

fn per_second(tokens: u32, ms: f64) -> f64 {
    f64::from(tokens) * 1e3 / ms.max(1e-3)
}

fn push(ring: &mut VecDeque<f64>, figure: f64) {
    if ring.len() == ANSWERS {
        ring.pop_front();
    }
    ring.push_back(figure);
}

/// The median once there are enough.
fn middle(ring: &VecDeque<f64>) -> Option<f64> {
    let figures: Vec<f64> = ring.iter().copied().collect();
    (figures.len() == ANSWERS).then(|| median(&figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(decode_tokens_s: f64) -> Answer {
        Answer {
            prompt_tokens: 100,
            cached_tokens: 90,
            completion_tokens: 51,
            prefill_ms: 1e6,
            decode_ms: 50.0 * 1e3 / decode_tokens_s,
        }
    }

    fn recheck() -> Recheck {
        Recheck::new(Speeds {
            prefill_tokens_s: 300.0,
            decode_tokens_s: 100.0,
            depth: 256,
        })
    }

    #[test]
    fn a_clear_fall_is_told_once_and_a_few_slow_answers_are_not() {
        let mut recheck = recheck();
        for _ in 0..100 {
            assert_eq!(recheck.see(&answer(75.0)), None);
        }
        let told: Vec<_> = (0..100)
            .filter_map(|_| recheck.see(&answer(60.0)))
            .collect();
        let [stale] = told.as_slice() else {
            panic!("told {} times", told.len());
        };
        assert_eq!(stale.phase, "decode");
        assert!((stale.seen_tokens_s - 60.0).abs() < 8.0, "{stale:?}");
    }

    #[test]
    fn what_cannot_be_compared_does_not_count() {
        let mut recheck = recheck();
        for _ in 0..100 {
            let deep = Answer {
                prompt_tokens: 5000,
                ..answer(1.0)
            };
            let short = Answer {
                completion_tokens: 15,
                ..answer(1.0)
            };
            assert_eq!(recheck.see(&deep), None);
            assert_eq!(recheck.see(&short), None);
        }
        let slow_prompt = Answer {
            cached_tokens: 0,
            ..answer(100.0)
        };
        let told: Vec<_> = (0..100).filter_map(|_| recheck.see(&slow_prompt)).collect();
        assert_eq!(told[0].phase, "prefill");
    }
}
