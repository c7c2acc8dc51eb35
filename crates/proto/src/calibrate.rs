//! What a calibration of the KV cache asks of a worker process, and its answer.

use serde::{Deserialize, Serialize};

use crate::{DivergenceFacts, LoadSpec};

/// A text by which plans are made for budgets of bytes, and judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrateRequest {
    /// The model, and how it is computed; its types are those that come out.
    pub spec: LoadSpec,
    /// As `kv::calibrate::Budget` reads them.
    pub budgets: Vec<String>,
    pub text: String,
    pub piece_tokens: u32,
    /// Most pieces, from the start of the text.
    pub pieces_max: u32,
    /// Whether plans that should be worse are judged, too.
    pub with_controls: bool,
}

/// How much of the text was read for something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFacts {
    pub pieces: u32,
    /// Judged positions.
    pub positions: u64,
}

/// What layers lose, and plans that follow from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrateReport {
    /// What sensitivities were measured on.
    pub measured: TextFacts,
    /// What plans were judged by: other pieces of the text.
    pub held_out: TextFacts,
    /// What a token takes in 16 bits.
    pub f16_bytes: u64,
    pub tensors: Vec<TensorFacts>,
    /// In the order of the request.
    pub budgets: Vec<BudgetFacts>,
    pub measure_seconds: f64,
    pub verify_seconds: f64,
}

/// Keys or values of one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorFacts {
    pub layer: u32,
    /// `k` or `v`.
    pub side: String,
    /// The mean divergence that a change of last bits makes here, nats.
    pub floor: f64,
    /// And that of rounding to 4 bits with errors twice as large.
    pub probe: f64,
    pub types: Vec<TypeFacts>,
}

/// What a type takes and adds in one tensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TypeFacts {
    pub cache_type: String,
    /// Of a token.
    pub bytes: u64,
    /// Of the mean divergence above the floor, nats; not less than 0.
    pub excess: f64,
    /// One standard error of that, over pieces.
    pub error: Option<f64>,
}

/// What a budget gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BudgetFacts {
    /// As it was asked for.
    pub budget: String,
    /// Of a token.
    pub bytes: u64,
    /// What to set `kv_plan` to.
    pub plan: String,
    /// Whether that is the calibrated plan; else it was not shown to be better than a pair.
    pub is_calibrated: bool,
    /// The pair of types that is best here; `None` where none fits.
    pub uniform: Option<String>,
    /// How much nearer to f16 the calibrated plan is than that pair.
    pub gain: Option<GainFacts>,
    /// What was judged: the floor, the calibrated plan, pairs, then controls.
    pub rows: Vec<VerifyRow>,
}

/// How much less the mean divergence is, over the same positions; nats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct GainFacts {
    pub mean: f64,
    /// The 95 % interval over pieces.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyKind {
    /// f16 with the last bit of half of its values changed.
    Floor,
    #[default]
    Calibrated,
    /// One pair of types for all layers.
    Uniform,
    /// The first layers in 8 bits, the others in 4.
    FirstLayers,
    /// Sensitivities by chance.
    Random,
    Inverted,
}

/// One plan on text that it was not made by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyRow {
    pub kind: VerifyKind,
    pub plan: String,
    pub token_bytes: u64,
    /// What it should add to the mean divergence by the table of tensors; nats.
    pub predicted: Option<f64>,
    pub divergence: DivergenceFacts,
    /// The mean divergence of each piece.
    pub piece_klds: Vec<f64>,
}
