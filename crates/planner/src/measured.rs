//! How fast it will be, from kernels that were timed on this very machine.
//!
//! A token's time is the sum of its parts. *Decode*: each matrix at the measured rate of its
//! type with one column; tensors of other types, and caches, at the memory's rate, or for
//! attention at its share of the rate of 32-bit floats if that is slower; for each layer what
//! its barriers and small operations cost. *Prefill*, a prompt of [`PROMPT`] tokens: each
//! matrix of a layer at its type's rate with many columns, attention, and what is done with
//! each value besides.
//!
//! The constants were fitted to four llamas with random weights, 256 to 2,048 wide, on two cores
//! of a Zen 5 with AVX-512 (`testkit::sized`), and scale with the rate of 32-bit floats. That
//! barriers cost more on more cores is not in them.

use kv::{Part, Plan};

use crate::model::{Model, Role, Tensor};
use crate::roofline::{Band, Speed};
use crate::setup::{Compute, Setup};

/// Tokens of the prompt that a prefill is predicted for.
pub const PROMPT: u64 = 512;

/// What a layer of a token costs besides matrices and attention, in operations that one core
/// could do meanwhile: by itself, and for each value of the model's width.
const DECODE_LAYER_OPS: f64 = 3.2e6;
const DECODE_WIDTH_OPS: f64 = 5.6e3;
/// For each token of the vocabulary: choosing one of them.
const DECODE_VOCABULARY_OPS: f64 = 280.0;
/// Share of the rate of 32-bit floats that attention reaches: with one token, with many.
const ATTENTION_DECODE_SHARE: f64 = 0.15;
const ATTENTION_PREFILL_SHARE: f64 = 0.8;
/// What a token of a prompt costs for each value of the model's width and layer besides, in
/// operations of all cores.
const PREFILL_WIDTH_OPS: f64 = 2000.0;
/// What the result may be off by: decode, prefill.
const DECODE_ERROR: f64 = 0.20;
const PREFILL_ERROR: f64 = 0.35;
/// Part of the weights whose type must have been timed.
const KNOWN_SHARE_MIN: f64 = 0.95;

/// How fast the kernels for one type of weights are, on all cores together.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelRate {
    /// The type's name, for example `Q4_K`.
    pub kind: String,
    /// Operations a second with one column, weights coming from memory.
    pub decode_ops_s: f64,
    /// Operations a second with a pass's worth of columns.
    pub prefill_ops_s: f64,
}

/// What was timed on a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    pub kernels: Vec<KernelRate>,
    /// Reading, by all cores.
    pub bandwidth_bytes_s: f64,
    /// Attention of a prompt in 32-bit floats: by one core, by all.
    pub f32_core_ops_s: f64,
    pub f32_ops_s: f64,
}

/// Predicts the speed of a setup that computes with the kernels that were timed; `None` for any
/// other.
#[must_use]
pub fn predict_measured(model: &Model, setup: &Setup, plan: &Plan, rates: &Rates) -> Option<Speed> {
    if setup.compute != Compute::Own || setup.gpu_layers > 0 {
        return None;
    }
    let parts = Parts::of(model, rates);
    if parts.known_share < KNOWN_SHARE_MIN {
        return None;
    }
    let layers = model.n_layers as f64;
    let width = model.n_embd as f64;
    let states = plan.bytes_of(Part::States) as f64 / f64::from(setup.sequences(model));
    let fixed = layers * (DECODE_LAYER_OPS + DECODE_WIDTH_OPS * width)
        + model.n_vocab as f64 * DECODE_VOCABULARY_OPS;
    let token = parts.decode_seconds
        + (parts.other_bytes + states) / rates.bandwidth_bytes_s
        + fixed / rates.f32_core_ops_s;
    let attention =
        |cells: u64, share: f64| attention_ops(model, cells) / (rates.f32_ops_s * share);
    let full = plan.context_per_sequence;
    let cells_bytes = cache_bytes(model, plan, full);
    let cache =
        (cells_bytes / rates.bandwidth_bytes_s).max(attention(full, ATTENTION_DECODE_SHARE));
    let prefill = parts.prefill_seconds
        // A token of a prompt sees half of it on average.
        + attention(PROMPT / 2, ATTENTION_PREFILL_SHARE)
        + layers * width * PREFILL_WIDTH_OPS / rates.f32_ops_s;
    Some(Speed {
        decode: about(1.0 / token, DECODE_ERROR),
        decode_full: about(1.0 / (token + cache), DECODE_ERROR),
        prefill: Some(about(1.0 / prefill, PREFILL_ERROR)),
    })
}

fn about(value: f64, error: f64) -> Band {
    Band {
        low: value * (1.0 - error),
        high: value * (1.0 + error),
    }
}

/// What the tensors of a token come to.
struct Parts {
    decode_seconds: f64,
    prefill_seconds: f64,
    /// Of tensors whose type was not timed.
    other_bytes: f64,
    /// Part of the weights whose type was.
    known_share: f64,
}

impl Parts {
    fn of(model: &Model, rates: &Rates) -> Self {
        let mut parts = Self {
            decode_seconds: 0.0,
            prefill_seconds: 0.0,
            other_bytes: 0.0,
            known_share: 1.0,
        };
        let mut known = 0.0;
        let mut add = |tensor: &Tensor, ops: f64| {
            let mut kernels = rates.kernels.iter();
            match kernels.find(|rate| rate.kind == tensor.kind) {
                Some(rate) => {
                    known += ops;
                    parts.decode_seconds += ops / rate.decode_ops_s;
                    // Only the last token of a prompt meets the output.
                    if tensor.layer.is_some() {
                        parts.prefill_seconds += ops / rate.prefill_ops_s;
                    }
                }
                None => parts.other_bytes += model.active(tensor, tensor.bytes) as f64,
            }
        };
        let matrices = model.tensors.iter().filter(|tensor| tensor.is_matrix);
        for tensor in matrices {
            add(
                tensor,
                2.0 * model.active(tensor, tensor.row.saturating_mul(tensor.rows)) as f64,
            );
        }
        if let Some(table) = model.table().filter(|_| model.is_tied) {
            add(table, 2.0 * table.row.saturating_mul(table.rows) as f64);
        }
        let small = model
            .tensors
            .iter()
            .filter(|tensor| !tensor.is_matrix && tensor.role != Role::Table);
        parts.other_bytes += small.map(|tensor| tensor.bytes as f64).sum::<f64>();
        parts.known_share = known / (2.0 * model.active_weights() as f64).max(1.0);
        parts
    }
}

/// Cells that a layer's newest token sees of so many.
fn visible(model: &Model, is_windowed: bool, cells: u64) -> u64 {
    let window = model.shape.window.filter(|_| is_windowed);
    window.map_or(cells, |window| window.tokens.min(cells))
}

/// Operations of one token's attention to so many cells: a multiplication and an addition for
/// each value of a key and of a value, for each head.
fn attention_ops(model: &Model, cells: u64) -> f64 {
    let layers = model.shape.layers.iter();
    let each = layers.filter_map(|layer| Some((layer, layer.keys_values?)));
    let each = each.map(|(layer, widths)| {
        let width = widths.key_width.saturating_add(widths.value_width) as f64;
        let heads = model.n_head.max(widths.heads) as f64;
        2.0 * heads * width * visible(model, layer.is_windowed, cells) as f64
    });
    each.sum()
}

/// Bytes of the caches that one token reads when so many cells are taken.
fn cache_bytes(model: &Model, plan: &Plan, cells: u64) -> f64 {
    let each = plan.caches.iter().map(|cache| {
        let seen = match cache.part {
            Part::States => 0,
            Part::Window => visible(model, true, cells),
            Part::Tokens | Part::Index => cells,
        };
        cache.bytes() as f64 / cache.streams.max(1) as f64 * seen as f64 / cache.cells.max(1) as f64
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::Gguf;
    use std::io::Write;
    use testkit::sized::{Llama, WeightKind, write};

    const LLAMA: Llama = Llama {
        n_layers: 4,
        n_embd: 512,
        n_ff: 1024,
        n_head: 8,
        n_head_kv: 2,
        n_vocab: 1000,
        weights: WeightKind::Q4_K,
        more_bits: None,
    };

    fn model(llama: &Llama) -> Model {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write(llama, &mut file).unwrap();
        file.flush().unwrap();
        Model::read(&[Gguf::open(file.path()).unwrap()]).unwrap()
    }

    fn setup(context: u32) -> Setup {
        Setup {
            batch: 512,
            ..Setup::usual(context)
        }
    }

    fn rates() -> Rates {
        Rates {
            kernels: vec![KernelRate {
                kind: "Q4_K".into(),
                decode_ops_s: 100e9,
                prefill_ops_s: 1000e9,
            }],
            bandwidth_bytes_s: 30e9,
            f32_core_ops_s: 140e9,
            f32_ops_s: 280e9,
        }
    }

    fn speed(llama: &Llama, context: u32, rates: &Rates) -> Option<Speed> {
        let (model, setup) = (model(llama), setup(context));
        let plan = Plan::new(&model.shape, &setup.request(&model)).unwrap();
        predict_measured(&model, &setup, &plan, rates)
    }

    /// The sum by hand, with the constants as they are in the docs.
    #[test]
    fn a_tokens_time_is_the_sum_of_its_parts() {
        let speed = speed(&LLAMA, 1024, &rates()).unwrap();
        let layer = 512.0 * 512.0 * 2.0 + 512.0 * 128.0 * 2.0 + 512.0 * 1024.0 * 3.0;
        let decode = 2.0 * (4.0 * layer + 512.0 * 1000.0) / 100e9
            // Nine norms, 32-bit floats.
            + 9.0 * 512.0 * 4.0 / 30e9
            + (4.0 * (3.2e6 + 5.6e3 * 512.0) + 280.0 * 1000.0) / 140e9;
        assert!((speed.decode.low * decode / 0.8 - 1.0).abs() < 1e-9);
        assert!((speed.decode.high * decode / 1.2 - 1.0).abs() < 1e-9);
        // Two rows of keys and values of 128 values in each layer, against attention of 512.
        let bytes: f64 = 4.0 * 2.0 * 128.0 * 2.0 * 1024.0 / 30e9;
        let attention = 4.0 * 2.0 * 1024.0 * 1024.0 / (280e9 * 0.15);
        let full = decode + bytes.max(attention);
        assert!((speed.decode_full.low * full / 0.8 - 1.0).abs() < 1e-9);
        let prefill = 2.0 * 4.0 * layer / 1000e9
            + 4.0 * 2.0 * 1024.0 * 256.0 / (280e9 * 0.8)
            + 4.0 * 512.0 * 2000.0 / 280e9;
        assert!((speed.prefill.unwrap().low * prefill / 0.65 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_timed_is_not_predicted() {
        let other = Llama {
            weights: WeightKind::Q8_0,
            ..LLAMA
        };
        assert_eq!(speed(&other, 1024, &rates()), None);
        let model = model(&LLAMA);
        for other in [
            Setup {
                compute: Compute::Ggml,
                ..setup(1024)
            },
            Setup {
                gpu_layers: 1,
                ..setup(1024)
            },
        ] {
            let plan = Plan::new(&model.shape, &other.request(&model)).unwrap();
            assert_eq!(predict_measured(&model, &other, &plan, &rates()), None);
        }
    }
}
