//! Embeddings: request to job, vectors to answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::{EmbeddingInput, EmbeddingJob, Prompt};
use serde::Serialize;
use utoipa::ToSchema;

use super::completion::inputs;
use super::request::EmbeddingRequest;
use crate::error::ApiError;
use crate::limits;

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Float,
    Base64,
}

/// What an embedding request asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct EmbeddingPlan {
    pub(crate) job: EmbeddingJob,
    pub(crate) encoding: Encoding,
    pub(crate) dimensions: Option<i64>,
}

pub(crate) fn embedding_plan(request: EmbeddingRequest) -> Result<EmbeddingPlan, ApiError> {
    let rule = "a string or an array of strings, token ids or arrays of token ids";
    let input = request
        .input
        .ok_or_else(|| ApiError::missing("input", rule))?;
    let inputs = inputs("input", input, limits::EMBEDDING_INPUTS_MAX)?;
    let single = inputs.len() == 1;
    for (index, input) in inputs.iter().enumerate() {
        if matches!(input, Prompt::Text(text) if text.is_empty()) {
            let param = match single {
                true => "input".to_owned(),
                false => format!("input[{index}]"),
            };
            return Err(ApiError::invalid(&param, "empty", "at least 1 character"));
        }
    }
    let format = request.encoding_format.as_deref().unwrap_or("float");
    let encoding = match limits::word("encoding_format", format, &["float", "base64"])? {
        "base64" => Encoding::Base64,
        _ => Encoding::Float,
    };
    let inputs = inputs.into_iter().map(|input| match input {
        Prompt::Text(text) => EmbeddingInput::Text(text),
        Prompt::Tokens(tokens) => EmbeddingInput::Tokens(tokens),
    });
    Ok(EmbeddingPlan {
        job: EmbeddingJob {
            inputs: inputs.collect(),
        },
        encoding,
        dimensions: request.dimensions,
    })
}

/// Refuses any size but the model's own.
pub(crate) fn check_dimensions(wanted: Option<i64>, actual: usize) -> Result<(), ApiError> {
    match wanted {
        Some(wanted) if usize::try_from(wanted) != Ok(actual) => {
            let rule = format!("{actual}, the size of this model's vectors, or left out");
            Err(ApiError::invalid("dimensions", &wanted.to_string(), &rule))
        }
        _ => Ok(()),
    }
}

/// Answer of `POST /v1/embeddings`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    /// `list`
    object: &'static str,
    data: Vec<EmbeddingItem>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingItem {
    /// `embedding`
    object: &'static str,
    index: usize,
    embedding: WireVector,
}

/// A vector as numbers, or as base64 of little-endian 32-bit floats.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum WireVector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl EmbeddingList {
    pub(crate) fn new(
        model: String,
        vectors: Vec<Vec<f32>>,
        encoding: Encoding,
        prompt_tokens: u32,
    ) -> Self {
        let items = vectors.into_iter().enumerate();
        Self {
            object: "list",
            data: items
                .map(|(index, vector)| EmbeddingItem {
                    object: "embedding",
                    index,
                    embedding: encode(vector, encoding),
                })
                .collect(),
            model,
            usage: EmbeddingUsage {
                prompt_tokens,
                total_tokens: prompt_tokens,
            },
        }
    }
}

fn encode(vector: Vec<f32>, encoding: Encoding) -> WireVector {
    match encoding {
        Encoding::Float => WireVector::Float(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            WireVector::Base64(STANDARD.encode(bytes))
        }
    }
}
