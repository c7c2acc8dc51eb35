//! Log-probabilities as the OpenAI API reports them.

use crate::{TokenId, math, select};

/// Stands for "practically impossible", as in OpenAI's answers; JSON has no infinity.
pub const LOGPROB_FLOOR: f32 = -9999.0;

/// Natural logarithms of probabilities; none is below [`LOGPROB_FLOOR`].
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    pub token: TokenId,
    pub logprob: f32,
    /// The likeliest tokens, likeliest first, equals by id.
    pub top: Vec<(TokenId, f32)>,
}

/// The log softmax of the raw logits at `token` and at the `n_top` likeliest tokens.
///
/// NaN counts as minus infinity. `top` is shorter when fewer tokens have a
/// probability above zero; a token outside the row is at the floor.
#[must_use]
pub fn logprobs(logits: &[f32], token: TokenId, n_top: usize) -> TokenLogprobs {
    let max = math::max(logits).min(f32::MAX);
    let log_total = math::sum_exp(logits, max).ln();
    let at = |logit: f32| {
        let logprob = (f64::from(logit.min(f32::MAX)) - f64::from(max) - log_total) as f32;
        // Not a number only in a row where nothing is possible.
        if logprob > LOGPROB_FLOOR {
            logprob.min(0.0)
        } else {
            LOGPROB_FLOOR
        }
    };
    let mut best = Vec::new();
    select::top_k(logits, n_top, &mut best);
    let own = usize::try_from(token)
        .ok()
        .and_then(|index| logits.get(index))
        .filter(|logit| !logit.is_nan());
    TokenLogprobs {
        token,
        logprob: own.map_or(LOGPROB_FLOOR, |logit| at(*logit)),
        top: best.iter().map(|c| (c.token, at(c.logit))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-5
    }

    #[test]
    fn equals_the_log_of_the_softmax() {
        let logits = [1.0, 2.0, 3.0, 2.0];
        let total: f32 = logits.iter().map(|x: &f32| x.exp()).sum();
        let got = logprobs(&logits, 1, 3);
        assert!(close(got.logprob, (2.0_f32.exp() / total).ln()));
        let ids: Vec<TokenId> = got.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [2, 1, 3]);
        assert!(close(got.top[0].1, (3.0_f32.exp() / total).ln()));
        assert_eq!(got.top[1].1, got.logprob);
    }

    #[test]
    fn probabilities_of_a_large_row_sum_to_one() {
        let logits: Vec<f32> = (0..262_144)
            .map(|i| ((i * 2_654_435_761_u64) % 4001) as f32 / 200.0)
            .collect();
        let got = logprobs(&logits, 0, logits.len());
        let sum: f64 = got.top.iter().map(|t| f64::from(t.1).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn impossible_tokens_are_at_the_floor_and_never_on_top() {
        let inf = f32::INFINITY;
        let got = logprobs(&[-inf, 0.0, f32::NAN], 0, 5);
        assert_eq!((got.logprob, got.top), (LOGPROB_FLOOR, vec![(1, 0.0)]));
        assert_eq!(logprobs(&[0.0, f32::NAN], 1, 0).logprob, LOGPROB_FLOOR);
        assert_eq!(logprobs(&[0.0], 7, 0).logprob, LOGPROB_FLOOR);
        let dead = logprobs(&[-inf, f32::NAN], 0, 2);
        assert_eq!((dead.logprob, dead.top.len()), (LOGPROB_FLOOR, 0));
        let hot = logprobs(&[inf, 1.0], 0, 2);
        assert_eq!(hot.top, [(0, 0.0), (1, LOGPROB_FLOOR)]);
    }
}
