//! What a worker process is asked of a model that reads on past its context, and its answer.

use serde::{Deserialize, Serialize};

use crate::LoadSpec;

/// A text that is longer than a context.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamRequest {
    /// The model, and how it is computed.
    pub spec: LoadSpec,
    pub text: String,
    /// Tokens that are held at once.
    pub context: u32,
    /// Most tokens of the text.
    pub tokens_max: u32,
    /// Tokens at the beginning that stay; 0: nothing but a window. Each is tried.
    pub sinks: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    pub tokens: u32,
    /// Judged positions: those that no context from the beginning holds.
    pub positions: u64,
    /// Perplexity where each position is read with half a context to a whole one before it, and
    /// nothing was ever dropped.
    pub in_context: f64,
    pub rows: Vec<StreamRow>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamRow {
    pub sinks: u32,
    pub perplexity: f64,
    /// How often half of the context was dropped.
    pub shifts: u32,
    /// The perplexity by that in context, in each of equal parts of the text.
    pub parts: Vec<f64>,
}
