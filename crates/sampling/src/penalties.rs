//! Repeat, presence and frequency penalties over a window of recent tokens.

use std::collections::{HashMap, VecDeque};

use crate::{Params, TokenId};

/// Occurrence counts of the tokens in the window, kept as tokens come and go.
#[derive(Debug, Clone)]
pub(crate) struct Penalties {
    repeat: f32,
    presence: f32,
    frequency: f32,
    /// `None` is the whole history, which needs no queue.
    window: Option<Window>,
    counts: HashMap<TokenId, u32>,
}

#[derive(Debug, Clone)]
struct Window {
    len_max: usize,
    tokens: VecDeque<TokenId>,
}

impl Penalties {
    /// `None` when the values change nothing.
    pub(crate) fn new(params: &Params) -> Option<Self> {
        let neutral = params.repeat_penalty == 1.0
            && params.presence_penalty == 0.0
            && params.frequency_penalty == 0.0;
        if neutral || params.repeat_last_n == 0 {
            return None;
        }
        Some(Self {
            repeat: params.repeat_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            window: usize::try_from(params.repeat_last_n)
                .ok()
                .map(|len_max| Window {
                    len_max,
                    tokens: VecDeque::new(),
                }),
            counts: HashMap::new(),
        })
    }

    pub(crate) fn accept(&mut self, token: TokenId) {
        *self.counts.entry(token).or_insert(0) += 1;
        let Some(window) = &mut self.window else {
            return;
        };
        window.tokens.push_back(token);
        if window.tokens.len() <= window.len_max {
            return;
        }
        if let Some(oldest) = window.tokens.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.counts.is_empty()
    }

    /// As llama.cpp: a negative logit is multiplied, because dividing it would
    /// make the token likelier.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (&token, &count) in &self.counts {
            let Some(logit) = usize::try_from(token).ok().and_then(|i| logits.get_mut(i)) else {
                continue;
            };
            if *logit <= 0.0 {
                *logit *= self.repeat;
            } else {
                *logit /= self.repeat;
            }
            *logit -= count as f32 * self.frequency + self.presence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalised(params: &Params, history: &[TokenId], mut logits: Vec<f32>) -> Vec<f32> {
        let mut penalties = Penalties::new(params).unwrap();
        for &token in history {
            penalties.accept(token);
        }
        penalties.apply(&mut logits);
        logits
    }

    #[test]
    fn neutral_values_need_no_state() {
        assert!(Penalties::new(&Params::default()).is_none());
        let no_window = Params {
            repeat_penalty: 2.0,
            repeat_last_n: 0,
            ..Params::default()
        };
        assert!(Penalties::new(&no_window).is_none());
    }

    #[test]
    fn each_penalty_touches_only_the_window() {
        let base = Params::default();
        let table = [
            (
                Params {
                    repeat_penalty: 2.0,
                    ..base.clone()
                },
                vec![2.0, -8.0, 4.0],
            ),
            (
                Params {
                    presence_penalty: 0.5,
                    ..base.clone()
                },
                vec![3.5, -4.5, 4.0],
            ),
            (
                Params {
                    frequency_penalty: 0.5,
                    ..base.clone()
                },
                vec![3.0, -4.5, 4.0],
            ),
            (
                Params {
                    frequency_penalty: 0.5,
                    repeat_last_n: 2,
                    ..base.clone()
                },
                vec![3.5, -4.5, 4.0],
            ),
            (
                Params {
                    frequency_penalty: 0.5,
                    repeat_last_n: -1,
                    ..base
                },
                vec![3.0, -4.5, 4.0],
            ),
        ];
        for (params, expected) in table {
            let got = penalised(&params, &[0, 0, 1, 99, -7][..3], vec![4.0, -4.0, 4.0]);
            assert_eq!(got, expected, "{params:?}");
        }
    }

    #[test]
    fn counts_leave_with_their_tokens() {
        let params = Params {
            presence_penalty: 1.0,
            repeat_last_n: 3,
            ..Params::default()
        };
        let history: Vec<TokenId> = (0..1000).map(|i| i % 7).collect();
        let mut penalties = Penalties::new(&params).unwrap();
        for &token in &history {
            penalties.accept(token);
        }
        assert_eq!(penalties.counts.values().sum::<u32>(), 3);
        assert_eq!(penalties.counts.len(), 3);
    }
}
