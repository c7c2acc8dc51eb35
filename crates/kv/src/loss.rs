//! What a choice costs besides bytes.

use std::fmt;

use crate::cache_type::CacheType;
use crate::plan::{Part, Plan, Request, WindowCells};
use crate::shape::{KeysValues, Shape};

/// Heads are rotated in blocks of at least this many values (`llama_kv_cache`).
const ROTATION_MIN: u64 = 64;

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Keys,
    Values,
}

/// Why tokens cannot be moved to other positions, which a context needs to go on past its end
/// and a prefix to be reused at another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoShift {
    /// A position is several numbers.
    ManyPositions,
    /// Layers with a window have fewer cells than the others.
    WindowCells,
    /// Positions differ from layer to layer.
    LayerPositions,
    /// Quantised keys without a rotation: llama.cpp ends the process on it.
    UnrotatedKeys,
    /// Quantised latent keys: positions would be wrong.
    LatentKeys,
}

/// Who computes attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Our kernels on the CPU.
    Own,
    /// ggml's on the CPU.
    Ggml,
    /// A GPU.
    Device,
}

/// Something that a choice loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    CannotShift(NoShift),
    /// Quantised without the rotation that spreads outliers: more error for the same bytes.
    NoRotation {
        side: Side,
        cache_type: CacheType,
        head_width: u64,
    },
    /// Attention leaves the fast path of the CPU.
    SlowAttention {
        keys: CacheType,
        values: CacheType,
    },
    /// A prefix is reused only where it ends: states cannot be cut back.
    NoRewind,
    /// A prefix is reused only while its window is still held.
    WindowReuse {
        tokens: u64,
    },
    /// Layers with a window hold as much as the others.
    NoWindowSaving,
    /// Longer than what the model was trained for.
    BeyondTraining {
        context: u64,
        trained: u64,
    },
}

/// What is lost by a choice, most important first.
#[must_use]
pub fn losses(shape: &Shape, request: &Request, plan: &Plan, attention: Attention) -> Vec<Loss> {
    let mut losses = Vec::new();
    if plan.context_per_sequence > shape.context_train.next_multiple_of(256) {
        losses.push(Loss::BeyondTraining {
            context: plan.context_per_sequence,
            trained: shape.context_train,
        });
    }
    losses.extend(slow_attention(request, attention));
    let rotations = [
        (
            Side::Keys,
            request.types.keys,
            is_rotated(shape, request.types.keys, |head| head.key_width),
            shape.first_head.key_width,
        ),
        (
            Side::Values,
            request.types.values,
            is_rotated(shape, request.types.values, |head| head.value_width),
            shape.first_head.value_width,
        ),
    ];
    for (side, cache_type, rotated, head_width) in rotations {
        let has_cache = shape.layers_with_keys() > 0 && !(shape.is_latent && side == Side::Values);
        if has_cache && cache_type.is_quantised() && !rotated {
            losses.push(Loss::NoRotation {
                side,
                cache_type,
                head_width,
            });
        }
    }
    if shape.has_state() {
        losses.push(Loss::NoRewind);
    }
    if let Some(window) = shape.window {
        let cells = |part| {
            plan.caches
                .iter()
                .find(|cache| cache.part == part)
                .map(|cache| cache.cells)
        };
        let full = cells(Part::Window) == cells(Part::Tokens);
        losses.push(match (full, request.window) {
            (true, _) => Loss::NoWindowSaving,
            (false, WindowCells::Window | WindowCells::Full) => Loss::WindowReuse {
                tokens: window.tokens,
            },
        });
    }
    losses.extend(no_shift(shape, request, plan).map(Loss::CannotShift));
    losses
}

/// Whether llama.cpp rotates that side: quantised, all layers alike, heads of whole blocks.
fn is_rotated(shape: &Shape, cache_type: CacheType, width: impl Fn(KeysValues) -> u64) -> bool {
    let mut widths = shape.layers.iter().filter_map(|layer| layer.keys_values);
    let first = width(shape.first_head);
    cache_type.is_quantised()
        && first.is_multiple_of(ROTATION_MIN)
        && widths.all(|head| width(head) == first)
}

fn no_shift(shape: &Shape, request: &Request, plan: &Plan) -> Option<NoShift> {
    let cells = |part| {
        let of_part = plan.caches.iter().find(|cache| cache.part == part);
        of_part.map(|cache| cache.cells)
    };
    let keys = request.types.keys;
    if shape.layers_with_keys() == 0 {
        return None;
    }
    if shape.has_many_positions {
        Some(NoShift::ManyPositions)
    } else if shape.architecture == "step35" {
        Some(NoShift::LayerPositions)
    } else if cells(Part::Window).is_some_and(|window| Some(window) != cells(Part::Tokens)) {
        Some(NoShift::WindowCells)
    } else if keys.is_quantised() && shape.is_latent {
        Some(NoShift::LatentKeys)
    } else if keys.is_quantised() && !is_rotated(shape, keys, |head| head.key_width) {
        Some(NoShift::UnrotatedKeys)
    } else {
        None
    }
}

/// ggml's fast paths take keys and values of one type that is f16 or f32; ours are measured in
/// `docs/internals/kernels.md`.
fn slow_attention(request: &Request, attention: Attention) -> Option<Loss> {
    let (keys, values) = (request.types.keys, request.types.values);
    let is_fast = |cache: CacheType| matches!(cache, CacheType::F16 | CacheType::F32);
    let leaves = keys != values || !is_fast(keys);
    let slow = match attention {
        Attention::Ggml => leaves,
        Attention::Own | Attention::Device => false,
    };
    slow.then_some(Loss::SlowAttention { keys, values })
}

impl fmt::Display for NoShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ManyPositions => "a position of this model is several numbers (M-RoPE)",
            Self::WindowCells => "layers with a sliding window hold fewer tokens than the others",
            Self::LayerPositions => "its layers count positions differently",
            Self::UnrotatedKeys => {
                "quantised keys are not rotated here, and llama.cpp fails on moving those"
            }
            Self::LatentKeys => "quantised latent keys would be moved wrongly",
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotShift(why) => write!(
                f,
                "the context cannot be shifted on when it is full, nor a prefix be reused at another place: {why}"
            ),
            Self::NoRotation {
                side,
                cache_type,
                head_width,
            } => {
                let side = match side {
                    Side::Keys => "keys",
                    Side::Values => "values",
                };
                write!(
                    f,
                    "{side} in {cache_type} are not rotated before rounding (heads of {head_width} values, it takes a multiple of {ROTATION_MIN}, alike in all layers): expect more error"
                )
            }
            Self::SlowAttention { keys, values } => write!(
                f,
                "attention over {keys} keys and {values} values leaves ggml's fast path on the CPU: prefill of long prompts is slower"
            ),
            Self::NoRewind => f.write_str(
                "a kept prefix is reused only whole: a state of fixed size cannot be cut back",
            ),
            Self::WindowReuse { tokens } => write!(
                f,
                "a kept prefix is reused only while its last {tokens} tokens are still held by the layers with a sliding window"
            ),
            Self::NoWindowSaving => f.write_str(
                "layers with a sliding window hold as many tokens as the others: their saving is not used",
            ),
            Self::BeyondTraining { context, trained } => write!(
                f,
                "{context} tokens for one sequence, and the model was trained for {trained}: answers may get worse beyond that"
            ),
        }
    }
}
