//! Reranking, in the shape that Jina, Cohere, vLLM and llama.cpp share.
//!
//! A score is the cosine of the angle between two embeddings, the query's and the
//! document's, which any embedding model has. It is not the score of a cross-encoder,
//! which reads both together: scores order the documents of one request and mean little
//! by themselves. Every answer says so in `scoring`.

use proto::{EmbeddingInput, EmbeddingJob};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::limits;
use crate::wire::openai::shapes::shown;

/// Body of `POST /v1/rerank`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct RerankRequest {
    /// A loaded model's name; absent or empty: the first model.
    pub(crate) model: Option<String>,
    /// What is looked for.
    pub(crate) query: Option<String>,
    /// Strings, or objects with a `text`; up to 1024.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) documents: Option<Vec<Value>>,
    /// Give only this many, the best; absent: all.
    pub(crate) top_n: Option<i64>,
    /// Repeat each document beside its score; false by default.
    pub(crate) return_documents: Option<bool>,
}

/// What a rerank request asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct RerankPlan {
    /// The query comes first.
    pub(crate) job: EmbeddingJob,
    pub(crate) wanted: WantedRanking,
}

/// What the answer has to be.
#[derive(Debug, PartialEq)]
pub(crate) struct WantedRanking {
    n_documents: usize,
    top_n: usize,
    /// Empty unless the documents are to be repeated.
    repeated: Vec<String>,
}

pub(crate) fn rerank_plan(request: RerankRequest) -> Result<RerankPlan, ApiError> {
    let query = request.query;
    let query = query.ok_or_else(|| ApiError::missing("query", "a string"))?;
    check_text("query", &query)?;
    let rule = "an array of at least 1 string or object with a text";
    let documents = request.documents;
    let documents = documents.ok_or_else(|| ApiError::missing("documents", rule))?;
    if documents.is_empty() {
        return Err(ApiError::invalid("documents", "empty", rule));
    }
    let n_documents = documents.len();
    let limit = limits::RERANK_DOCUMENTS_MAX;
    limits::count("documents", n_documents, limit, "documents")?;
    let indexed = documents.into_iter().enumerate();
    let texts: Vec<String> = indexed
        .map(|(index, document)| text(&format!("documents[{index}]"), document))
        .collect::<Result<_, _>>()?;
    let top_n = limits::integer("top_n", request.top_n, 1, limits::TOKENS_MAX)?;
    let repeated = match request.return_documents {
        Some(true) => texts.clone(),
        _ => Vec::new(),
    };
    let inputs = std::iter::once(query).chain(texts);
    Ok(RerankPlan {
        job: EmbeddingJob {
            inputs: inputs.map(EmbeddingInput::Text).collect(),
        },
        wanted: WantedRanking {
            n_documents,
            top_n: top_n
                .and_then(|top_n| usize::try_from(top_n).ok())
                .unwrap_or(n_documents),
            repeated,
        },
    })
}

fn text(path: &str, document: Value) -> Result<String, ApiError> {
    let (param, value) = match document {
        Value::Object(mut fields) => {
            let param = format!("{path}.text");
            match fields.remove("text") {
                Some(text) => (param, text),
                None => return Err(ApiError::missing(&param, "a string")),
            }
        }
        other => (path.to_owned(), other),
    };
    match value {
        Value::String(text) => {
            check_text(&param, &text)?;
            Ok(text)
        }
        other => {
            let rule = "a string or an object with a text";
            Err(ApiError::invalid(&param, &shown(&other), rule))
        }
    }
}

fn check_text(param: &str, text: &str) -> Result<(), ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid(param, "empty", "at least 1 character"));
    }
    limits::count(param, text.len(), limits::RERANK_TEXT_BYTES_MAX, "bytes")
}

/// Answer of `POST /v1/rerank`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ranking {
    /// `list`
    object: &'static str,
    model: String,
    /// The best first.
    results: Vec<RankedDocument>,
    usage: RerankUsage,
    /// `embedding_cosine`, an extension: how scores come about.
    scoring: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RankedDocument {
    /// Its place in the request.
    index: usize,
    /// -1 to 1.
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<RepeatedDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RepeatedDocument {
    text: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RerankUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl Ranking {
    /// Ranks by unit-length vectors, the query's first. `None` if there are not as many as
    /// were asked for.
    pub(crate) fn new(
        model: String,
        wanted: WantedRanking,
        vectors: &[Vec<f32>],
        prompt_tokens: u32,
    ) -> Option<Self> {
        let (query, documents) = vectors.split_first()?;
        if documents.len() != wanted.n_documents {
            return None;
        }
        let scores = documents.iter().map(|document| cosine(query, document));
        let mut ranked: Vec<_> = scores.enumerate().collect();
        // Stable: equal documents stay in the order of the request.
        ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        ranked.truncate(wanted.top_n);
        let mut repeated = wanted.repeated;
        let results = ranked.into_iter().map(|(index, relevance_score)| {
            let text = repeated.get_mut(index).map(std::mem::take);
            RankedDocument {
                index,
                relevance_score,
                document: text.map(|text| RepeatedDocument { text }),
            }
        });
        Some(Self {
            object: "list",
            model,
            results: results.collect(),
            usage: RerankUsage {
                prompt_tokens,
                total_tokens: prompt_tokens,
            },
            scoring: "embedding_cosine",
        })
    }
}

/// The cosine of the angle between two vectors of unit length, which rounding may make
/// longer than that.
fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let products = one
        .iter()
        .zip(other)
        .map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum::<f64>().clamp(-1.0, 1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_stay_in_range_and_keep_their_sign() {
        assert_eq!(cosine(&[1.0, 0.0], &[1.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-1.0, 0.0]), -1.0);
        let rounded = [0.577_350_3_f32; 3];
        assert!(cosine(&rounded, &rounded) <= 1.0);
    }
}
