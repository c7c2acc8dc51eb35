//! The fields that chat and completion requests share, checked and translated.

use proto::{Generation, SamplingOverrides, Speculation};
use serde::Deserialize;
use serde_json::{Number, Value};
use stdx::Priority;

use super::request::{GenerationFields, SpeculationRequest};
use super::shapes::{OneOrMany, shown};
use crate::error::ApiError;
use crate::limits::{self, float, integer};

/// `max_tokens` may be 0 where the prompt itself is echoed and scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeastTokens {
    Zero,
    One,
}

pub(crate) fn generation(
    fields: &mut GenerationFields,
    least: LeastTokens,
    logprobs: Option<u8>,
) -> Result<Generation, ApiError> {
    Ok(Generation {
        n: choices(fields.n)?,
        max_tokens: max_tokens(fields, least)?,
        stop: stop_strings("stop", texts(fields.stop.take()))?,
        sampling: sampling(fields)?,
        logprobs,
        speculation: speculation(fields.speculation.as_ref())?,
        cache_prompt: fields.cache_prompt,
        attention_sinks: attention_sinks(fields)?,
        ignore_eos: fields.ignore_eos.unwrap_or(false),
        priority: Priority::Normal,
    })
}

/// As `u32`; the caller has checked that it is not negative.
pub(crate) fn unsigned(value: Option<i64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

/// As `i32`; the caller has checked the range.
pub(crate) fn signed(value: Option<i64>) -> Option<i32> {
    value.and_then(|value| i32::try_from(value).ok())
}

fn attention_sinks(fields: &GenerationFields) -> Result<Option<u32>, ApiError> {
    let most = limits::ATTENTION_SINKS_MAX;
    let sinks = integer("attention_sinks", fields.attention_sinks, 0, most)?;
    Ok(unsigned(sinks))
}

fn choices(n: Option<i64>) -> Result<u32, ApiError> {
    Ok(unsigned(integer("n", n, 1, limits::CHOICES_MAX)?).unwrap_or(1))
}

fn max_tokens(fields: &GenerationFields, least: LeastTokens) -> Result<Option<u32>, ApiError> {
    let spellings = [
        ("max_completion_tokens", fields.max_completion_tokens),
        ("max_tokens", fields.max_tokens),
        ("n_predict", fields.n_predict),
    ];
    let low = i64::from(least == LeastTokens::One);
    let mut found: Option<(&str, i64)> = None;
    for (param, value) in spellings {
        let Some(value) = value else { continue };
        if value != -1 {
            integer(param, Some(value), low, limits::TOKENS_MAX)?;
        }
        match found {
            Some((first, other)) if other != value => {
                let detail = format!("one is {other}, the other {value}");
                return Err(ApiError::conflict(param, first, &detail));
            }
            _ => found = Some((param, value)),
        }
    }
    Ok(unsigned(found.map(|(_, value)| value)))
}

/// One text or several, or none.
pub(crate) fn texts(given: Option<OneOrMany>) -> Vec<String> {
    given.map(OneOrMany::into_vec).unwrap_or_default()
}

/// Stop strings, within the limits.
pub(crate) fn stop_strings(param: &str, stops: Vec<String>) -> Result<Vec<String>, ApiError> {
    limits::count(param, stops.len(), limits::STOPS_MAX, "strings")?;
    for (index, text) in stops.iter().enumerate() {
        let param = format!("{param}[{index}]");
        if text.is_empty() {
            return Err(ApiError::invalid(&param, "empty", "at least 1 character"));
        }
        limits::count(&param, text.len(), limits::STOP_BYTES_MAX, "bytes")?;
    }
    Ok(stops)
}

fn sampling(fields: &mut GenerationFields) -> Result<SamplingOverrides, ApiError> {
    let tokens = limits::TOKENS_MAX;
    let top_k = integer("top_k", fields.top_k, -1, tokens)?.map(|k| k.max(0));
    let last_n = integer("repeat_last_n", fields.repeat_last_n, -1, tokens)?;
    let dry_length = integer("dry_allowed_length", fields.dry_allowed_length, 0, tokens)?;
    let dry_last_n = integer("dry_penalty_last_n", fields.dry_penalty_last_n, -1, tokens)?;
    Ok(SamplingOverrides {
        temperature: float("temperature", fields.temperature, 0.0, 2.0)?,
        top_k: unsigned(top_k),
        top_p: float("top_p", fields.top_p, 0.0, 1.0)?,
        min_p: float("min_p", fields.min_p, 0.0, 1.0)?,
        typical_p: float("typical_p", fields.typical_p, 0.0, 1.0)?,
        repeat_penalty: float("repeat_penalty", fields.repeat_penalty, 0.01, 10.0)?,
        repeat_last_n: signed(last_n),
        presence_penalty: float("presence_penalty", fields.presence_penalty, -2.0, 2.0)?,
        frequency_penalty: float("frequency_penalty", fields.frequency_penalty, -2.0, 2.0)?,
        dry_multiplier: float("dry_multiplier", fields.dry_multiplier, 0.0, 10.0)?,
        dry_base: float("dry_base", fields.dry_base, 1.0, 10.0)?,
        dry_allowed_length: unsigned(dry_length),
        dry_penalty_last_n: signed(dry_last_n),
        dry_sequence_breakers: dry_breakers(fields)?,
        seed: seed(fields.seed.as_ref())?,
        logit_bias: logit_bias(fields)?,
    })
}

fn dry_breakers(fields: &mut GenerationFields) -> Result<Option<Vec<String>>, ApiError> {
    let param = "dry_sequence_breakers";
    let breakers = fields.dry_sequence_breakers.take();
    for (index, text) in breakers.iter().flatten().enumerate() {
        limits::count(
            param,
            index + 1,
            limits::DRY_BREAKERS_MAX,
            "or more strings",
        )?;
        let item = format!("{param}[{index}]");
        limits::count(&item, text.len(), limits::DRY_BREAKER_BYTES_MAX, "bytes")?;
    }
    Ok(breakers)
}

/// -1 asks for a random seed, as in llama.cpp. Other negative seeds are legal in
/// OpenAI's range; each maps to a seed of its own.
fn seed(seed: Option<&Number>) -> Result<Option<u64>, ApiError> {
    let Some(seed) = seed else { return Ok(None) };
    match (seed.as_u64(), seed.as_i64()) {
        (Some(seed), _) => Ok(Some(seed)),
        (None, Some(-1)) => Ok(None),
        (None, Some(seed)) => Ok(Some(seed.cast_unsigned())),
        (None, None) => {
            let rule = "a whole number from -9223372036854775808 to 18446744073709551615";
            Err(ApiError::invalid("seed", &seed.to_string(), rule))
        }
    }
}

fn logit_bias(fields: &mut GenerationFields) -> Result<Vec<(i32, f32)>, ApiError> {
    let biases = fields.logit_bias.take().unwrap_or_default();
    limits::count(
        "logit_bias",
        biases.len(),
        limits::LOGIT_BIAS_MAX,
        "entries",
    )?;
    let mut out = Vec::with_capacity(biases.len());
    for (key, bias) in biases {
        let token = key.parse::<i32>().ok().filter(|token| *token >= 0);
        let Some(token) = token else {
            let rule = "an object whose keys are token ids";
            return Err(ApiError::invalid("logit_bias", &limits::quoted(&key), rule));
        };
        let param = format!("logit_bias.{token}");
        if let Some(bias) = float(&param, Some(bias), -100.0, 100.0)? {
            out.push((token, bias));
        }
    }
    Ok(out)
}

fn speculation(given: Option<&Value>) -> Result<Option<Speculation>, ApiError> {
    let off = Speculation {
        draft_tokens_max: 0,
        ngram: 1,
    };
    match given {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(false)) => Ok(Some(off)),
        Some(value @ Value::Object(_)) => {
            let fields =
                SpeculationRequest::deserialize(value).map_err(|_| bad_speculation(value))?;
            let draft = fields
                .draft_tokens_max
                .ok_or_else(|| ApiError::missing("speculation.draft_tokens_max", "from 0 to 64"))?;
            let param = "speculation.draft_tokens_max";
            integer(param, Some(draft), 0, limits::DRAFT_TOKENS_MAX)?;
            let ngram = fields.ngram.unwrap_or(DEFAULT_NGRAM);
            integer("speculation.ngram", Some(ngram), 1, limits::DRAFT_NGRAM_MAX)?;
            Ok(Some(Speculation {
                draft_tokens_max: unsigned(Some(draft)).unwrap_or(0),
                ngram: unsigned(Some(ngram)).unwrap_or(1),
            }))
        }
        Some(value) => Err(bad_speculation(value)),
    }
}

/// Length of the n-gram where a request names only the draft's length.
const DEFAULT_NGRAM: i64 = 3;

fn bad_speculation(value: &Value) -> ApiError {
    let rule = "false or an object of whole numbers draft_tokens_max and ngram";
    ApiError::invalid("speculation", &shown(value), rule)
}
