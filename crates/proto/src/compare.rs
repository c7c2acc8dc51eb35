//! What a comparison of plans for the KV cache asks of a worker process, and its answer.

use serde::{Deserialize, Serialize};

use crate::LoadSpec;

/// A text that is read under several plans.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompareRequest {
    /// The model, and how it is computed; its types are those of the plans.
    pub spec: LoadSpec,
    /// As `kv::TypePlan` reads them, or `parked:LEVEL` and `turboquant:BITS`: an f16 cache of which all
    /// was put away and restored. Each is compared with f16.
    pub plans: Vec<String>,
    pub text: String,
    /// Tokens of a piece of the text, of which the second half is judged.
    pub piece_tokens: u32,
    /// Most pieces, from the start of the text.
    pub pieces_max: u32,
    /// Tokens that each piece is continued by.
    pub answer_tokens: u32,
}

/// How far each plan is from f16.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompareReport {
    pub pieces: u32,
    /// Judged positions.
    pub positions: u64,
    /// In the order of the request, behind f16 and what its rounding alone does.
    pub rows: Vec<CompareRow>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareKind {
    /// What all others are compared with.
    Base,
    /// The base with the last bit of half of its keys and values changed.
    Floor,
    #[default]
    Plan,
}

/// One plan, or what is compared with them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompareRow {
    pub kind: CompareKind,
    /// In full.
    pub plan: String,
    /// Keys and values of a token in all layers that keep them.
    pub token_bytes: u64,
    /// `None` for the base.
    pub divergence: Option<DivergenceFacts>,
    /// Tokens a second while pieces were read, and while they were continued.
    pub prefill_tps: Option<f64>,
    pub decode_tps: Option<f64>,
    /// Tokens a second that were put away and restored, where that is what was tried.
    #[serde(default)]
    pub save_tps: Option<f64>,
    #[serde(default)]
    pub load_tps: Option<f64>,
}

/// How far probabilities are from those of the base. Divergences are in nats; errors are one
/// standard error, over pieces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DivergenceFacts {
    pub kld_mean: f64,
    pub kld_mean_error: Option<f64>,
    pub kld_median: f64,
    pub kld_p99: f64,
    pub kld_p999: f64,
    pub kld_max: f64,
    /// Share of positions with the same most likely token.
    pub top1: f64,
    pub top1_error: Option<f64>,
    pub perplexity_ratio: f64,
    pub perplexity_ratio_error: Option<f64>,
    /// For each piece the first token of its greedy continuation that differs; `None`: none does.
    pub first_differences: Vec<Option<u32>>,
}
