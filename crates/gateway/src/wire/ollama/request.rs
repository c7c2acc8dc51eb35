//! Requests as Ollama's clients send them. Every field is optional here and checked later,
//! so that errors can name the field, the value and the limit. Go clients send `""` for
//! what they leave out, so empty texts count as absent.

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::body;
use crate::error::ApiError;
use crate::limits;
use crate::names;
use crate::wire::openai::request::RequestTool;
use crate::wire::openai::shapes::{OneOrMany, shown};

/// Body of `POST /api/chat`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaChat {
    /// A loaded model's name, with or without `:latest`; absent or empty: the first model.
    pub(crate) model: Option<String>,
    /// The conversation so far; empty: load the model, or unload it with `keep_alive` 0.
    pub(crate) messages: Option<Vec<OllamaMessage>>,
    /// Functions the model may call.
    pub(crate) tools: Option<Vec<RequestTool>>,
    /// Answer line by line; absent: yes.
    pub(crate) stream: Option<bool>,
    /// `json`, or a JSON Schema that the answer must obey.
    #[schema(value_type = Option<Object>)]
    pub(crate) format: Option<Value>,
    /// Sampling and lengths.
    pub(crate) options: Option<OllamaOptions>,
    /// `true`, `false`, `low`, `medium` or `high`; absent: as the template does by itself.
    #[schema(value_type = Option<Object>)]
    pub(crate) think: Option<Value>,
    /// Seconds, or a duration such as `5m`; below 0: for ever.
    #[schema(value_type = Option<Object>)]
    pub(crate) keep_alive: Option<Value>,
    /// Report the log-probability of each token.
    pub(crate) logprobs: Option<bool>,
    /// Alternatives to report for each token, 0 to 20.
    pub(crate) top_logprobs: Option<i64>,
}

/// Body of `POST /api/generate`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaGenerate {
    /// A loaded model's name, with or without `:latest`; absent or empty: the first model.
    pub(crate) model: Option<String>,
    /// What to answer; empty: load the model, or unload it with `keep_alive` 0.
    pub(crate) prompt: Option<String>,
    /// A system message in front of it.
    pub(crate) system: Option<String>,
    /// Continue the prompt as it is, without a chat template.
    pub(crate) raw: Option<bool>,
    /// Answer line by line; absent: yes.
    pub(crate) stream: Option<bool>,
    /// `json`, or a JSON Schema that the answer must obey.
    #[schema(value_type = Option<Object>)]
    pub(crate) format: Option<Value>,
    /// Sampling and lengths.
    pub(crate) options: Option<OllamaOptions>,
    /// `true`, `false`, `low`, `medium` or `high`; absent: as the template does by itself.
    #[schema(value_type = Option<Object>)]
    pub(crate) think: Option<Value>,
    /// Seconds, or a duration such as `5m`; below 0: for ever.
    #[schema(value_type = Option<Object>)]
    pub(crate) keep_alive: Option<Value>,
    /// Report the log-probability of each token.
    pub(crate) logprobs: Option<bool>,
    /// Alternatives to report for each token, 0 to 20.
    pub(crate) top_logprobs: Option<i64>,
    /// Filling in the middle is not supported.
    pub(crate) suffix: Option<String>,
    /// Templates in Go's language are not supported.
    pub(crate) template: Option<String>,
    /// Conversations are carried on by `/api/chat`.
    #[schema(value_type = Option<Vec<i32>>)]
    pub(crate) context: Option<Vec<Value>>,
    /// In base64; for models that see.
    pub(crate) images: Option<Vec<String>>,
}

/// Body of `POST /api/embed`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaEmbed {
    /// A loaded model's name, with or without `:latest`; absent or empty: the first model.
    pub(crate) model: Option<String>,
    /// One text or several; empty: load the model.
    pub(crate) input: Option<OneOrMany>,
    /// Texts are never cut: one that is too long is an error.
    pub(crate) truncate: Option<bool>,
    /// Only the model's own size.
    pub(crate) dimensions: Option<i64>,
    /// Only `num_ctx` says anything here.
    pub(crate) options: Option<OllamaOptions>,
    /// Seconds, or a duration such as `5m`; below 0: for ever.
    #[schema(value_type = Option<Object>)]
    pub(crate) keep_alive: Option<Value>,
}

/// Body of `POST /api/embeddings`, the older form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaEmbeddings {
    /// A loaded model's name, with or without `:latest`; absent or empty: the first model.
    pub(crate) model: Option<String>,
    /// The text; empty: load the model.
    pub(crate) prompt: Option<String>,
    /// Only `num_ctx` says anything here.
    pub(crate) options: Option<OllamaOptions>,
    /// Seconds, or a duration such as `5m`; below 0: for ever.
    #[schema(value_type = Option<Object>)]
    pub(crate) keep_alive: Option<Value>,
}

/// Body of `POST /api/show` and `DELETE /api/delete`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaModelName {
    /// The model's name.
    pub(crate) model: Option<String>,
    /// The older spelling of `model`.
    pub(crate) name: Option<String>,
}

/// Body of `POST /api/pull`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaPull {
    /// `NAME[:TAG]` of Ollama's registry, `hf.co/OWNER/REPO[:QUANT]`, or with a scheme:
    /// `ollama:`, `hf:` or `pypi:`.
    pub(crate) model: Option<String>,
    /// The older spelling of `model`.
    pub(crate) name: Option<String>,
    /// Answer line by line; absent: yes.
    pub(crate) stream: Option<bool>,
    /// Only `false`.
    pub(crate) insecure: Option<bool>,
}

impl OllamaModelName {
    /// The name, which must be there.
    pub(crate) fn given(self) -> Result<String, ApiError> {
        model_name(self.model, self.name)
    }
}

/// A model's name in either spelling.
pub(crate) fn model_name(model: Option<String>, name: Option<String>) -> Result<String, ApiError> {
    let mut given = [model, name].into_iter().flatten();
    let name = given.find(|name| !name.is_empty());
    let name = name.ok_or_else(|| ApiError::missing("model", "the name of a model"))?;
    limits::count("model", name.len(), limits::MODEL_NAME_BYTES_MAX, "bytes")?;
    Ok(name)
}

/// One message of a chat.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub(crate) role: Option<String>,
    pub(crate) content: Option<String>,
    /// An assistant's thinking in an earlier turn.
    pub(crate) thinking: Option<String>,
    /// Calls an assistant made.
    pub(crate) tool_calls: Option<Vec<OllamaCall>>,
    /// For role `tool`: the name of the function this is the result of.
    #[serde(alias = "name")]
    pub(crate) tool_name: Option<String>,
    /// For role `tool`: the call this is the result of.
    pub(crate) tool_call_id: Option<String>,
    /// In base64; for models that see.
    pub(crate) images: Option<Vec<String>>,
}

/// A call in an assistant message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaCall {
    /// Unique within the conversation; may be left out.
    pub(crate) id: Option<String>,
    pub(crate) function: Option<OllamaCalledFunction>,
}

/// The function of a call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaCalledFunction {
    pub(crate) name: Option<String>,
    /// An object, not JSON text.
    #[schema(value_type = Option<Object>)]
    pub(crate) arguments: Option<Map<String, Value>>,
}

/// `options`: sampling and lengths. Those of Ollama that set how a model is loaded
/// (`num_gpu`, `num_batch`, `use_mmap` and the like) are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct OllamaOptions {
    /// Most tokens of the answer; -1, -2 or absent: until the context is full.
    pub(crate) num_predict: Option<Whole>,
    /// 0 to 2; 0 is greedy.
    pub(crate) temperature: Option<f64>,
    /// Keep this many likeliest tokens; 0 or -1: all.
    pub(crate) top_k: Option<Whole>,
    /// 0 to 1.
    pub(crate) top_p: Option<f64>,
    /// 0 to 1.
    pub(crate) min_p: Option<f64>,
    /// 0 to 1.
    pub(crate) typical_p: Option<f64>,
    /// Above 0, up to 10; 1 is off.
    pub(crate) repeat_penalty: Option<f64>,
    /// Tokens the penalties look at; -1: the whole context.
    pub(crate) repeat_last_n: Option<Whole>,
    /// -2 to 2.
    pub(crate) presence_penalty: Option<f64>,
    /// -2 to 2.
    pub(crate) frequency_penalty: Option<f64>,
    /// Seed of the sampler; -1 or absent: a random one.
    pub(crate) seed: Option<Whole>,
    /// Up to 16 strings that end the answer; they are not part of it.
    pub(crate) stop: Option<OneOrMany>,
    /// The context is set when the model is loaded; another figure is answered with a
    /// warning.
    pub(crate) num_ctx: Option<Whole>,
}

/// A whole number, which some clients write as `40.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(value_type = i64)]
pub(crate) struct Whole(pub(crate) i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Whole, E> {
        Ok(Whole(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
        i64::try_from(value)
            .map(Whole)
            .map_err(|_| E::custom(format!("{value} is too large")))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Whole, E> {
        // Every whole number below 2^53 is exact; nothing here counts that far.
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            return Ok(Whole(value as i64));
        }
        Err(E::custom(format!("{value} is no whole number")))
    }
}

/// Reads a request of this dialect, with warnings about fields that are read elsewhere.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
) -> Result<(T, Vec<String>), ApiError> {
    let (request, mut warnings) = body::parse_with(bytes, &ELSEWHERE)?;
    // What was read above is JSON; a body without options has none to check.
    let options = serde_json::from_slice::<OptionsOf>(bytes).ok();
    if let Some(options) = options.and_then(|of| of.options) {
        // serde would read a list as the fields in their order.
        if !options.is_object() {
            return Err(ApiError::invalid("options", &shown(&options), "an object"));
        }
        let text = options.to_string();
        warnings.extend(names::check::<OllamaOptions>(&text, &ELSEWHERE_IN_OPTIONS)?);
    }
    Ok((request, warnings))
}

/// The options alone, with the fields that [`OllamaOptions`] has not.
#[derive(Deserialize)]
struct OptionsOf {
    options: Option<Value>,
}

const IN_OPTIONS: &str = "it belongs into `options`";
const NUM_PREDICT: &str = "use `num_predict` in `options`";
const NO_COUNTERPART: &str = "this endpoint has nothing like it";

/// Fields of other dialects that change an answer, and those of `options` in the wrong
/// place.
const ELSEWHERE: [(&str, &str); 18] = [
    ("frequency_penalty", IN_OPTIONS),
    ("max_completion_tokens", NUM_PREDICT),
    ("max_tokens", NUM_PREDICT),
    ("min_p", IN_OPTIONS),
    ("num_ctx", IN_OPTIONS),
    ("num_predict", IN_OPTIONS),
    ("presence_penalty", IN_OPTIONS),
    ("reasoning_effort", "use `think`"),
    ("repeat_last_n", IN_OPTIONS),
    ("repeat_penalty", IN_OPTIONS),
    ("response_format", "use `format`"),
    ("seed", IN_OPTIONS),
    ("stop", IN_OPTIONS),
    ("temperature", IN_OPTIONS),
    ("tool_choice", NO_COUNTERPART),
    ("top_k", IN_OPTIONS),
    ("top_p", IN_OPTIONS),
    ("typical_p", IN_OPTIONS),
];

/// Options that change an answer and are not done here.
const ELSEWHERE_IN_OPTIONS: [(&str, &str); 7] = [
    ("max_tokens", "use `num_predict`"),
    ("mirostat", NO_COUNTERPART),
    ("mirostat_eta", NO_COUNTERPART),
    ("mirostat_tau", NO_COUNTERPART),
    ("n_predict", "use `num_predict`"),
    ("penalize_newline", NO_COUNTERPART),
    ("tfs_z", NO_COUNTERPART),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_be_written_with_a_point() {
        let read =
            |text: &str| serde_json::from_str::<OllamaOptions>(text).map(|options| options.num_ctx);
        assert_eq!(read(r#"{"num_ctx": 4096}"#).unwrap(), Some(Whole(4096)));
        assert_eq!(read(r#"{"num_ctx": 4096.0}"#).unwrap(), Some(Whole(4096)));
        assert_eq!(read(r#"{"num_ctx": null}"#).unwrap(), None);
        for wrong in ["0.5", "1e300", "\"4096\"", "18446744073709551615"] {
            assert!(
                read(&format!(r#"{{"num_ctx": {wrong}}}"#)).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_in_the_wrong_place_is_told() {
        let body = br#"{"temperature": 1, "options": {"mirostat": 2, "num_gpu": 1}}"#;
        let (_, warnings) = parse::<OllamaChat>(body).unwrap();
        assert_eq!(
            warnings,
            [
                "`temperature` is not read here: it belongs into `options`.",
                "`mirostat` is not read here: this endpoint has nothing like it.",
            ]
        );
        let slip = parse::<OllamaChat>(br#"{"options": {"num_predct": 5}}"#).unwrap_err();
        assert!(slip.text().contains("`num_predict`"), "{}", slip.text());
    }
}
