//! What a request may ask of the sampler, and the ranges it may ask in.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::{DryBreakers, TokenId};

/// Most entries of `logit_bias`.
pub const LOGIT_BIAS_ENTRIES_MAX: usize = 1024;

/// Sampling values in force for one request. Names and meanings are llama.cpp's.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `top_k` likeliest tokens; 0 is off.
    pub top_k: u32,
    /// Keep the likeliest tokens that hold this much probability; 1 is off.
    pub top_p: f32,
    /// Drop tokens below this share of the likeliest one's probability; 0 is off.
    pub min_p: f32,
    /// Keep the tokens closest to the expected surprise that hold this much
    /// probability (Meister et al., arXiv:2202.00666); 1 is off.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// How many of the last tokens the three penalties see; -1 is all, 0 is off.
    pub repeat_last_n: i32,
    /// Taken from the logit of every recent token, once.
    pub presence_penalty: f32,
    /// Taken from the logit of every recent token, once an occurrence.
    pub frequency_penalty: f32,
    /// Strength of the penalty on continuing a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// Growth of that penalty with each repeated token.
    pub dry_base: f32,
    /// Longest repetition that is free.
    pub dry_allowed_length: u32,
    /// How many of the last tokens are searched for repetitions; -1 is all, 0 is off.
    pub dry_penalty_last_n: i32,
    /// Tokens that end a repetition.
    pub dry_breakers: Arc<DryBreakers>,
    pub seed: u64,
    /// Added to the raw logits before anything else.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tokens that are never sampled, for example end-of-generation tokens under
    /// `ignore_eos`.
    pub banned: Vec<TokenId>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_breakers: Arc::default(),
            seed: 0,
            logit_bias: Vec::new(),
            banned: Vec::new(),
        }
    }
}

/// A value outside its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{field}` is {value}; allowed is {allowed}")]
pub struct ParamError {
    /// The request field, in OpenAI's spelling where OpenAI has one.
    pub field: &'static str,
    pub value: String,
    pub allowed: String,
}

impl Params {
    /// Checks every value; `n_vocab` bounds the token ids. NaN and infinities are refused.
    pub fn validate(&self, n_vocab: usize) -> Result<(), ParamError> {
        // The endpoint's ranges, which are OpenAI's where OpenAI has the value.
        let ranges: [(&'static str, f32, f32, f32); 9] = [
            ("temperature", self.temperature, 0.0, 2.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 10.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("dry_multiplier", self.dry_multiplier, 0.0, 10.0),
            ("dry_base", self.dry_base, 1.0, 10.0),
        ];
        for (field, value, low, high) in ranges {
            in_range(field, value, low, high)?;
        }
        for (field, value) in [
            ("repeat_last_n", self.repeat_last_n),
            ("dry_penalty_last_n", self.dry_penalty_last_n),
        ] {
            if value < -1 {
                return Err(error(field, value, "-1 (all tokens) or more"));
            }
        }
        self.validate_tokens(n_vocab)
    }

    fn validate_tokens(&self, n_vocab: usize) -> Result<(), ParamError> {
        if self.logit_bias.len() > LOGIT_BIAS_ENTRIES_MAX {
            return Err(error(
                "logit_bias",
                format_args!("{} entries", self.logit_bias.len()),
                format_args!("at most {LOGIT_BIAS_ENTRIES_MAX} entries"),
            ));
        }
        for &(token, bias) in &self.logit_bias {
            token_in_vocabulary(token, n_vocab)?;
            in_range("logit_bias", bias, -100.0, 100.0)?;
        }
        self.banned
            .iter()
            .try_for_each(|token| token_in_vocabulary(*token, n_vocab))
    }
}

fn in_range(field: &'static str, value: f32, low: f32, high: f32) -> Result<(), ParamError> {
    // NaN is in no range.
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(error(field, value, format_args!("{low} to {high}")))
    }
}

fn token_in_vocabulary(token: TokenId, n_vocab: usize) -> Result<(), ParamError> {
    if usize::try_from(token).is_ok_and(|index| index < n_vocab) {
        Ok(())
    } else {
        Err(error(
            "logit_bias",
            format_args!("token {token}"),
            format_args!("tokens 0 to {}", n_vocab.saturating_sub(1)),
        ))
    }
}

fn error(field: &'static str, value: impl fmt::Display, allowed: impl fmt::Display) -> ParamError {
    ParamError {
        field,
        value: value.to_string(),
        allowed: allowed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Params::default().validate(10), Ok(()));
    }

    #[test]
    fn each_value_has_a_range() {
        type Set = fn(&mut Params);
        let table: [(Set, &str); 16] = [
            (
                |p| p.temperature = -0.1,
                "`temperature` is -0.1; allowed is 0 to 2",
            ),
            (
                |p| p.temperature = f32::NAN,
                "`temperature` is NaN; allowed is 0 to 2",
            ),
            (
                |p| p.temperature = f32::INFINITY,
                "`temperature` is inf; allowed is 0 to 2",
            ),
            (|p| p.top_p = 1.5, "`top_p` is 1.5; allowed is 0 to 1"),
            (|p| p.min_p = -1.0, "`min_p` is -1; allowed is 0 to 1"),
            (|p| p.typical_p = 2.0, "`typical_p` is 2; allowed is 0 to 1"),
            (
                |p| p.repeat_penalty = 0.0,
                "`repeat_penalty` is 0; allowed is 0.01 to 10",
            ),
            (
                |p| p.presence_penalty = 2.1,
                "`presence_penalty` is 2.1; allowed is -2 to 2",
            ),
            (
                |p| p.frequency_penalty = -3.0,
                "`frequency_penalty` is -3; allowed is -2 to 2",
            ),
            (
                |p| p.dry_multiplier = -1.0,
                "`dry_multiplier` is -1; allowed is 0 to 10",
            ),
            (
                |p| p.dry_base = 0.5,
                "`dry_base` is 0.5; allowed is 1 to 10",
            ),
            (
                |p| p.repeat_last_n = -2,
                "`repeat_last_n` is -2; allowed is -1 (all tokens) or more",
            ),
            (
                |p| p.logit_bias = vec![(10, 1.0)],
                "`logit_bias` is token 10; allowed is tokens 0 to 9",
            ),
            (
                |p| p.logit_bias = vec![(1, 101.0)],
                "`logit_bias` is 101; allowed is -100 to 100",
            ),
            (
                |p| p.logit_bias = vec![(1, 1.0); 1025],
                "`logit_bias` is 1025 entries; allowed is at most 1024 entries",
            ),
            (
                |p| p.banned = vec![-1],
                "`logit_bias` is token -1; allowed is tokens 0 to 9",
            ),
        ];
        for (set, message) in table {
            let mut params = Params::default();
            set(&mut params);
            assert_eq!(params.validate(10).unwrap_err().to_string(), message);
        }
    }
}
