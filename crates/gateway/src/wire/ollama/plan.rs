//! What a chat or generate request asks for, and the fields that both have.

use std::time::Duration;

use proto::{Constraint, Generation, Image, Job, Reasoning};
use serde_json::Value;
use supervisor::Keep;

use super::keep_alive;
use super::options;
use super::request::OllamaOptions;
use crate::error::ApiError;
use crate::limits::{self, quoted};
use crate::wire::images;
use crate::wire::openai::chat::logprobs;
use crate::wire::openai::constraint::json_schema;
use crate::wire::openai::shapes::shown;

/// A request, checked and translated.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) work: Work,
    pub(crate) stream: bool,
    /// The context that the client believes in, in tokens.
    pub(crate) num_ctx: Option<i64>,
    /// Whether log-probabilities were asked for.
    pub(crate) logprobs: bool,
    /// How long the model is to stay when it has nothing to do.
    pub(crate) keep: Option<Keep>,
    /// What was left out of the request, in words.
    pub(crate) warnings: Vec<String>,
}

/// What is to be done. A request without text is about the model itself.
#[derive(Debug, PartialEq)]
pub(crate) enum Work {
    Answer(Job),
    /// Wait until the model is ready.
    Load,
    /// Let the model finish its jobs and go.
    Unload,
}

/// The fields that chat and generate requests share.
#[derive(Debug, Default)]
pub(crate) struct SharedFields {
    pub(crate) stream: Option<bool>,
    pub(crate) format: Option<Value>,
    pub(crate) options: Option<OllamaOptions>,
    pub(crate) think: Option<Value>,
    pub(crate) keep_alive: Option<Value>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<i64>,
}

/// The shared fields, checked and translated.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) generation: Generation,
    pub(crate) constraint: Option<Constraint>,
    pub(crate) reasoning: Reasoning,
    stream: bool,
    num_ctx: Option<i64>,
    keep: Option<Keep>,
}

impl SharedFields {
    pub(crate) fn check(self) -> Result<Shared, ApiError> {
        let keep = keep_alive::keep_alive(self.keep_alive.as_ref())?;
        let logprobs = logprobs(self.logprobs, self.top_logprobs)?;
        let options = self.options.unwrap_or_default();
        Ok(Shared {
            num_ctx: options.num_ctx.map(|whole| whole.0),
            generation: options::generation(options, logprobs)?,
            constraint: format(self.format)?,
            reasoning: think(self.think.as_ref())?,
            stream: self.stream.unwrap_or(true),
            keep,
        })
    }
}

impl Shared {
    /// The plan of a request that has a text to answer.
    pub(crate) fn answer(
        self,
        warnings: Vec<String>,
        job: impl FnOnce(Generation, Option<Constraint>, Reasoning) -> Job,
    ) -> Plan {
        Plan {
            keep: self.keep,
            stream: self.stream,
            num_ctx: self.num_ctx,
            logprobs: self.generation.logprobs.is_some(),
            work: Work::Answer(job(self.generation, self.constraint, self.reasoning)),
            warnings,
        }
    }

    /// The plan of a request without text.
    pub(crate) fn no_text(self, warnings: Vec<String>) -> Plan {
        let work = match self.keep {
            Some(Keep::For(Duration::ZERO)) => Work::Unload,
            _ => Work::Load,
        };
        Plan {
            work,
            keep: self.keep,
            stream: self.stream,
            num_ctx: self.num_ctx,
            logprobs: false,
            warnings,
        }
    }
}

/// Images, which stand before the text.
pub(crate) fn images(param: &str, given: Option<Vec<String>>) -> Result<Vec<Image>, ApiError> {
    let given = given.unwrap_or_default();
    limits::count(param, given.len(), limits::CONTENT_PARTS_MAX, "images")?;
    let given = given.into_iter().enumerate();
    given
        .map(|(index, data)| images::of_base64(&format!("{param}[{index}]"), None, &data))
        .collect()
}

/// `format`: any JSON object, or one that a schema describes.
fn format(given: Option<Value>) -> Result<Option<Constraint>, ApiError> {
    match given {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "" => Ok(None),
            "json" => Ok(Some(Constraint::JsonObject)),
            _ => Err(bad_format(&quoted(&word))),
        },
        Some(schema @ Value::Object(_)) => json_schema("format", schema).map(Some),
        Some(other) => Err(bad_format(&shown(&other))),
    }
}

fn bad_format(value: &str) -> ApiError {
    ApiError::invalid("format", value, "`json` or a JSON Schema object")
}

/// `think`: whether, or how much. Asking for an effort asks for thinking.
fn think(given: Option<&Value>) -> Result<Reasoning, ApiError> {
    let (enabled, effort) = match given {
        None | Some(Value::Null) => (None, None),
        Some(Value::Bool(enabled)) => (Some(*enabled), None),
        Some(Value::String(word)) => match word.as_str() {
            "" => (None, None),
            "low" | "medium" | "high" => (Some(true), Some(word.clone())),
            _ => return Err(bad_think(&quoted(word))),
        },
        Some(other) => return Err(bad_think(&shown(other))),
    };
    Ok(Reasoning {
        enabled,
        budget_tokens: None,
        effort,
    })
}

fn bad_think(value: &str) -> ApiError {
    ApiError::invalid("think", value, "true, false, low, medium or high")
}
