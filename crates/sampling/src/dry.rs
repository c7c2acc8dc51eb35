//! DRY: a penalty on tokens that would continue a repetition.
//!
//! By p-e-w, <https://github.com/oobabooga/text-generation-webui/pull/5677>; the
//! details (breakers, the linear search, the exponent's clamp) are llama.cpp's.
//! A token that would extend a repeated run of `n >= allowed_length` tokens loses
//! `multiplier * base^(n - allowed_length)`.

use std::collections::HashMap;

use crate::{Params, TokenId};

/// Longest breaker, in bytes; the caller refuses longer ones.
pub const BREAKER_BYTES_MAX: usize = 64;

/// The penalty is cut here, so that a logit stays finite.
const PENALTY_MAX: f64 = 1e30;

/// Token sequences that end a repetition, by their first token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DryBreakers {
    tails: HashMap<TokenId, Vec<Vec<TokenId>>>,
}

impl DryBreakers {
    /// Breakers given as tokens. Empty sequences are left out.
    #[must_use]
    pub fn from_sequences(sequences: &[Vec<TokenId>]) -> Self {
        let mut breakers = Self::default();
        for sequence in sequences {
            if let Some((&head, tail)) = sequence.split_first() {
                breakers.insert(head, tail.to_vec());
            }
        }
        breakers
    }

    /// Breakers given as text. A token that contains the text is a breaker by
    /// itself; a token that ends in the text's beginning is one when the tokens of
    /// the rest follow it.
    ///
    /// `pieces` yields every token with its bytes; `tokenize` splits the rest.
    pub fn from_strings<'a>(
        strings: &[String],
        pieces: impl Iterator<Item = (TokenId, &'a [u8])> + Clone,
        tokenize: impl Fn(&[u8]) -> Vec<TokenId>,
    ) -> Self {
        let mut breakers = Self::default();
        for string in strings.iter().filter(|s| !s.is_empty()) {
            let text = string.as_bytes();
            for (token, piece) in pieces.clone() {
                if piece.windows(text.len()).any(|window| window == text) {
                    breakers.insert(token, Vec::new());
                    continue;
                }
                for overlap in 1..text.len().min(piece.len() + 1) {
                    if piece.ends_with(&text[..overlap]) {
                        breakers.insert(token, tokenize(&text[overlap..]));
                    }
                }
            }
        }
        breakers
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }

    fn insert(&mut self, head: TokenId, tail: Vec<TokenId>) {
        let tails = self.tails.entry(head).or_default();
        if !tails.contains(&tail) {
            tails.push(tail);
        }
    }

    fn is_single(&self, token: TokenId) -> bool {
        self.tails
            .get(&token)
            .is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }

    /// How many tokens follow the last breaker; all of them without one.
    fn tokens_since(&self, window: &[TokenId]) -> usize {
        if self.tails.is_empty() {
            return window.len();
        }
        for (index, token) in window.iter().enumerate().rev() {
            let after = &window[index + 1..];
            let longest = self.tails.get(token).and_then(|tails| {
                tails
                    .iter()
                    .filter(|tail| after.starts_with(tail))
                    .map(Vec::len)
                    .max()
            });
            if let Some(tail_len) = longest {
                return after.len() - tail_len;
            }
        }
        window.len()
    }
}

/// The history and scratch space of one choice.
#[derive(Debug, Clone)]
pub(crate) struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    /// `None` is the whole history.
    window_max: Option<usize>,
    breakers: std::sync::Arc<DryBreakers>,
    history: Vec<TokenId>,
    /// Z-values of the reversed window.
    matches: Vec<u32>,
    longest: HashMap<TokenId, usize>,
}

impl Dry {
    /// `None` when the values change nothing.
    pub(crate) fn new(params: &Params) -> Option<Self> {
        if params.dry_multiplier == 0.0 || params.dry_base < 1.0 || params.dry_penalty_last_n == 0 {
            return None;
        }
        Some(Self {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed_length: params.dry_allowed_length as usize,
            window_max: usize::try_from(params.dry_penalty_last_n).ok(),
            breakers: params.dry_breakers.clone(),
            history: Vec::new(),
            matches: Vec::new(),
            longest: HashMap::new(),
        })
    }

    pub(crate) fn accept(&mut self, token: TokenId) {
        self.history.push(token);
        // Dropping half at a time keeps the window contiguous at a constant cost a token.
        if let Some(max) = self.window_max
            && self.history.len() > max.saturating_mul(2)
        {
            self.history.drain(..self.history.len() - max);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.history.len() <= self.allowed_length
    }

    /// Takes the penalties off `logits`.
    pub(crate) fn apply(&mut self, logits: &mut [f32]) {
        self.find_repetitions();
        for (&token, &length) in &self.longest {
            if self.breakers.is_single(token) {
                continue;
            }
            if let Some(logit) = usize::try_from(token).ok().and_then(|i| logits.get_mut(i)) {
                let exponent = i32::try_from(length - self.allowed_length).unwrap_or(i32::MAX);
                let penalty = f64::from(self.multiplier) * f64::from(self.base).powi(exponent);
                *logit -= penalty.min(PENALTY_MAX) as f32;
            }
        }
    }

    /// Fills `longest`: for each token that followed an earlier occurrence of the
    /// window's end, the length of the longest such occurrence.
    fn find_repetitions(&mut self) {
        self.longest.clear();
        let start = self
            .window_max
            .map_or(0, |max| self.history.len() - max.min(self.history.len()));
        let window = &self.history[start..];
        if window.len() <= self.allowed_length {
            return;
        }
        let limit = self.breakers.tokens_since(window);
        if limit < self.allowed_length {
            return;
        }
        z_of_reversed(window, &mut self.matches);
        for (back, &length) in self.matches.iter().enumerate().skip(1) {
            let length = (length as usize).min(limit);
            if length >= self.allowed_length {
                let next = window[window.len() - back];
                let longest = self.longest.entry(next).or_insert(length);
                *longest = (*longest).max(length);
            }
        }
    }
}

/// `z[k]` is how many tokens before the last `k` equal the window's end: the
/// Z-algorithm (Gusfield, "Algorithms on Strings, Trees, and Sequences", 1.4) on
/// the reversed window. Linear in the window.
fn z_of_reversed(window: &[TokenId], z: &mut Vec<u32>) {
    let n = window.len();
    let at = |i: usize| window[n - 1 - i];
    z.clear();
    z.resize(n, 0);
    // [left, right) is the match seen so far that reaches furthest.
    let (mut left, mut right) = (0, 0);
    for k in 1..n {
        let mut length = if k < right {
            (right - k).min(z[k - left] as usize)
        } else {
            0
        };
        while k + length < n && at(length) == at(k + length) {
            length += 1;
        }
        z[k] = length as u32;
        if k + length > right {
            (left, right) = (k, k + length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn params(breakers: &[Vec<TokenId>]) -> Params {
        Params {
            dry_multiplier: 1.0,
            dry_base: 2.0,
            dry_allowed_length: 2,
            dry_breakers: Arc::new(DryBreakers::from_sequences(breakers)),
            ..Params::default()
        }
    }

    fn penalised(params: &Params, history: &[TokenId]) -> Vec<f32> {
        let mut dry = Dry::new(params).unwrap();
        for &token in history {
            dry.accept(token);
        }
        let mut logits = vec![0.0; 10];
        dry.apply(&mut logits);
        logits
    }

    #[test]
    fn penalties_follow_the_length_of_the_repetition() {
        type Case<'a> = (&'a [TokenId], &'a [(usize, f32)]);
        // Token 3 followed `1 2` before; with base 2 each further token doubles it.
        let table: [Case; 5] = [
            (&[1, 2, 3, 1, 2], &[(3, -1.0)]),
            (&[5, 1, 2, 3, 5, 1, 2], &[(3, -2.0)]),
            (&[4, 5, 1, 2, 3, 4, 5, 1, 2], &[(3, -4.0)]),
            (&[1, 2, 3, 9, 2], &[]),
            // llama.cpp's own example: `a b c` before gives c (3), `b c` gives y (2).
            (&[1, 2, 3, 3, 2, 3, 7, 1, 2, 3], &[(3, -2.0), (7, -1.0)]),
        ];
        for (history, expected) in table {
            let got = penalised(&params(&[]), history);
            for (token, logit) in got.iter().enumerate() {
                let want = expected.iter().find(|e| e.0 == token).map_or(0.0, |e| e.1);
                assert_eq!(*logit, want, "token {token} after {history:?}");
            }
        }
    }

    #[test]
    fn a_breaker_ends_the_repetition() {
        let history = [4, 5, 1, 2, 3, 4, 5, 1, 2];
        let table: [(&[Vec<TokenId>], f32); 6] = [
            (&[vec![4]], -2.0),
            (&[vec![5]], -1.0),
            (&[vec![1]], 0.0),
            (&[vec![5, 1]], 0.0),
            (&[vec![4, 5]], -1.0),
            // A token that is a breaker itself is never penalised.
            (&[vec![3]], 0.0),
        ];
        for (breakers, expected) in table {
            assert_eq!(
                penalised(&params(breakers), &history)[3],
                expected,
                "{breakers:?}"
            );
        }
    }

    #[test]
    fn the_window_bounds_what_is_seen() {
        let near = Params {
            dry_penalty_last_n: 5,
            ..params(&[])
        };
        let far = Params {
            dry_penalty_last_n: 4,
            ..params(&[])
        };
        let mut history: Vec<TokenId> = (0..100).map(|i| i % 2 + 8).collect();
        history.extend([1, 2, 3, 1, 2]);
        assert_eq!(penalised(&near, &history)[3], -1.0);
        assert_eq!(penalised(&far, &history)[3], 0.0);
    }

    #[test]
    fn a_long_loop_keeps_logits_finite() {
        let logits = penalised(&params(&[]), &[1; 5000]);
        assert!(logits[1] < -1e29 && logits[1].is_finite());
    }

    #[test]
    fn breakers_from_text_match_tokens_that_contain_or_overlap_it() {
        let pieces: [&[u8]; 5] = [b"a\n\n", b"x\n", b"y", b"\n", b"\nz"];
        let tokens = pieces.iter().enumerate().map(|(i, p)| (i as TokenId, *p));
        let text = ["\n\n".to_string(), String::new()];
        let breakers = DryBreakers::from_strings(&text, tokens, |rest| {
            assert_eq!(rest, b"\n");
            vec![3]
        });
        let expected = DryBreakers::from_sequences(&[vec![0], vec![1, 3], vec![3, 3]]);
        assert_eq!(breakers, expected);
    }

    proptest! {
        #[test]
        fn z_values_equal_the_naive_ones(window in prop::collection::vec(0_i32..3, 0..200)) {
            let mut z = Vec::new();
            z_of_reversed(&window, &mut z);
            let reversed: Vec<_> = window.iter().rev().collect();
            for k in 1..window.len() {
                let naive = reversed.iter().zip(&reversed[k..]).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(z[k] as usize, naive);
            }
        }
    }
}
