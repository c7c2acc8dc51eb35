//! `options`, checked and translated.

use proto::{Generation, SamplingOverrides};

use super::request::{OllamaOptions, Whole};
use crate::error::ApiError;
use crate::limits::{self, TOKENS_MAX, float};
use crate::wire::openai::generation::{signed, stop_strings, texts, unsigned};

pub(crate) fn generation(
    options: OllamaOptions,
    logprobs: Option<u8>,
) -> Result<Generation, ApiError> {
    Ok(Generation {
        n: 1,
        max_tokens: num_predict(options.num_predict)?,
        sampling: sampling(&options)?,
        stop: stop_strings("options.stop", texts(options.stop))?,
        logprobs,
        ..Generation::default()
    })
}

/// -1 is without a limit and -2 until the context is full, which is the same here.
fn num_predict(given: Option<Whole>) -> Result<Option<u32>, ApiError> {
    match given {
        None | Some(Whole(-1 | -2)) => Ok(None),
        Some(Whole(tokens)) if (1..=TOKENS_MAX).contains(&tokens) => Ok(unsigned(Some(tokens))),
        Some(Whole(tokens)) => {
            let rule = format!("from 1 to {TOKENS_MAX}, or -1 or -2 for no limit");
            let param = "options.num_predict";
            Err(ApiError::invalid(param, &tokens.to_string(), &rule))
        }
    }
}

fn sampling(options: &OllamaOptions) -> Result<SamplingOverrides, ApiError> {
    let top_k = integer("options.top_k", options.top_k)?.map(|k| k.max(0));
    let last_n = integer("options.repeat_last_n", options.repeat_last_n)?;
    let chance = |param, given| float(param, given, 0.0, 1.0);
    let penalty = |param, given| float(param, given, -2.0, 2.0);
    Ok(SamplingOverrides {
        temperature: float("options.temperature", options.temperature, 0.0, 2.0)?,
        top_k: unsigned(top_k),
        top_p: chance("options.top_p", options.top_p)?,
        min_p: chance("options.min_p", options.min_p)?,
        typical_p: chance("options.typical_p", options.typical_p)?,
        repeat_penalty: float("options.repeat_penalty", options.repeat_penalty, 0.01, 10.0)?,
        repeat_last_n: signed(last_n),
        presence_penalty: penalty("options.presence_penalty", options.presence_penalty)?,
        frequency_penalty: penalty("options.frequency_penalty", options.frequency_penalty)?,
        seed: options.seed.and_then(seed),
        ..SamplingOverrides::default()
    })
}

/// From -1 up.
fn integer(param: &str, given: Option<Whole>) -> Result<Option<i64>, ApiError> {
    limits::integer(param, given.map(|whole| whole.0), -1, TOKENS_MAX)
}

/// -1 asks for a random seed; each other number is one of its own.
fn seed(given: Whole) -> Option<u64> {
    (given.0 != -1).then(|| given.0.cast_unsigned())
}
