//! Embeddings: request to job, vectors to answer.

use proto::{EmbeddingInput, EmbeddingJob};
use serde::Serialize;
use supervisor::Keep;
use utoipa::ToSchema;

use super::keep_alive;
use super::request::{OllamaEmbed, OllamaEmbeddings};
use crate::error::ApiError;
use crate::limits;
use crate::wire::openai::shapes::OneOrMany;

/// What an embedding request asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct EmbedPlan {
    /// `None`: there is no text, and the model is only to be ready.
    pub(crate) job: Option<EmbeddingJob>,
    pub(crate) dimensions: Option<i64>,
    /// The context that the client believes in, in tokens.
    pub(crate) num_ctx: Option<i64>,
    /// How long the model is to stay when it has nothing to do.
    pub(crate) keep: Option<Keep>,
    pub(crate) warnings: Vec<String>,
}

pub(crate) fn embed_plan(request: OllamaEmbed) -> Result<EmbedPlan, ApiError> {
    let keep = keep_alive::keep_alive(request.keep_alive.as_ref())?;
    let mut warnings = Vec::new();
    if request.truncate == Some(true) {
        let text = "truncate is true, and texts are never cut: one that is too long is an error.";
        warnings.push(text.to_owned());
    }
    let num_ctx = request.options.and_then(|options| options.num_ctx);
    Ok(EmbedPlan {
        job: job(request.input)?,
        dimensions: request.dimensions,
        num_ctx: num_ctx.map(|whole| whole.0),
        keep,
        warnings,
    })
}

/// The older form asks for one vector.
pub(crate) fn embeddings_plan(request: OllamaEmbeddings) -> Result<EmbedPlan, ApiError> {
    embed_plan(OllamaEmbed {
        model: request.model,
        input: request.prompt.map(OneOrMany::One),
        options: request.options,
        keep_alive: request.keep_alive,
        ..OllamaEmbed::default()
    })
}

fn job(input: Option<OneOrMany>) -> Result<Option<EmbeddingJob>, ApiError> {
    let texts = match input {
        None => return Ok(None),
        Some(OneOrMany::One(text)) if text.is_empty() => return Ok(None),
        Some(input) => input.into_vec(),
    };
    limits::count("input", texts.len(), limits::EMBEDDING_INPUTS_MAX, "inputs")?;
    if let Some(index) = texts.iter().position(String::is_empty) {
        let param = format!("input[{index}]");
        return Err(ApiError::invalid(&param, "empty", "at least 1 character"));
    }
    let inputs = texts.into_iter().map(EmbeddingInput::Text).collect();
    Ok(Some(EmbeddingJob { inputs }).filter(|job: &EmbeddingJob| !job.inputs.is_empty()))
}

/// Answer of `POST /api/embed`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaVectors {
    pub(crate) model: String,
    /// One unit-length vector an input, in order.
    pub(crate) embeddings: Vec<Vec<f32>>,
    /// In nanoseconds, like all durations.
    pub(crate) total_duration: u64,
    pub(crate) load_duration: u64,
    pub(crate) prompt_eval_count: u32,
}

/// Answer of `POST /api/embeddings`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaVector {
    /// Of unit length; empty where there was no text.
    pub(crate) embedding: Vec<f32>,
}
