//! What a choice costs besides bytes.

use std::fmt;

use crate::cache_type::CacheType;
use crate::plan::{Part, Plan, Request, Types, WindowCells};
use crate::shape::{KeysValues, Layer, Shape};

/// Heads are rotated in blocks of at least this many values (`llama_kv_cache`).
pub(crate) const ROTATION_MIN: u64 = 64;

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
    /// Some keys are quantised and the others are rotated with them, which llama.cpp forgets
    /// when it moves those.
    MixedKeys,
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
    /// `gpu_layers` asks for this many, and the program has no back end for a GPU.
    NoGpu {
        gpu_layers: u32,
    },
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
    /// There is a GPU, and the types of layers differ.
    MixedStaysOnHost,
}

/// What is lost by a choice, most important first.
#[must_use]
pub fn losses(shape: &Shape, request: &Request, plan: &Plan, attention: Attention) -> Vec<Loss> {
    let mut losses = Vec::new();
    losses.extend(slow_attention(plan, attention));
    let sides = [
        (Side::Keys, shape.first_head.key_width),
        (Side::Values, shape.first_head.value_width),
    ];
    for (side, head_width) in sides {
        let has_cache = !(shape.is_latent && side == Side::Values);
        let quantised = first_quantised(plan, side).filter(|_| has_cache);
        if let Some(cache_type) = quantised.filter(|_| !is_rotated(shape, side)) {
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
    losses.extend(no_shift(shape, plan).map(Loss::CannotShift));
    losses
}

fn first_quantised(plan: &Plan, side: Side) -> Option<CacheType> {
    let mut types = plan.layers.iter().map(|layer| layer.types.side(side));
    types.find(|of| of.is_quantised())
}

/// Whether llama.cpp rotates that side where it is quantised: the first layer's heads of whole
/// blocks, and all layers of a cache alike. Layers with a window have a cache, and so a width, of
/// their own. What is not quantised is rotated with the rest.
pub(crate) fn is_rotated(shape: &Shape, side: Side) -> bool {
    let width = |head: KeysValues| match side {
        Side::Keys => head.key_width,
        Side::Values => head.value_width,
    };
    let is_alike = |is_windowed: bool| {
        let has_cache_here =
            |layer: &&Layer| shape.window.is_none() || layer.is_windowed == is_windowed;
        let here = shape.layers.iter().filter(has_cache_here);
        let mut widths = here.filter_map(|layer| layer.keys_values).map(width);
        let first = widths.next();
        widths.all(|width| Some(width) == first)
    };
    width(shape.first_head).is_multiple_of(ROTATION_MIN) && is_alike(false) && is_alike(true)
}

fn no_shift(shape: &Shape, plan: &Plan) -> Option<NoShift> {
    let cells = |part| {
        let of_part = plan.caches.iter().find(|cache| cache.part == part);
        of_part.map(|cache| cache.cells)
    };
    let is_quantised = first_quantised(plan, Side::Keys).is_some();
    let are_all = plan.layers.iter().all(|it| it.types.keys.is_quantised());
    if plan.layers.is_empty() {
        return None;
    }
    if shape.has_many_positions {
        Some(NoShift::ManyPositions)
    } else if shape.architecture == "step35" {
        Some(NoShift::LayerPositions)
    } else if cells(Part::Window).is_some_and(|window| Some(window) != cells(Part::Tokens)) {
        Some(NoShift::WindowCells)
    } else if is_quantised && shape.is_latent {
        Some(NoShift::LatentKeys)
    } else if is_quantised && !is_rotated(shape, Side::Keys) {
        Some(NoShift::UnrotatedKeys)
    } else if is_quantised && !are_all {
        Some(NoShift::MixedKeys)
    } else {
        None
    }
}

/// ggml's fast paths take keys and values of one type that is f16 or f32; ours are measured in
/// `docs/internals/kernels.md`. Told once for each pair of types.
fn slow_attention(plan: &Plan, attention: Attention) -> Vec<Loss> {
    let mut slow = Vec::new();
    if attention != Attention::Ggml {
        return slow;
    }
    let is_fast = |cache: CacheType| matches!(cache, CacheType::F16 | CacheType::F32);
    for layer in &plan.layers {
        let Types { keys, values } = layer.types;
        let loss = Loss::SlowAttention { keys, values };
        if (keys != values || !is_fast(keys)) && !slow.contains(&loss) {
            slow.push(loss);
        }
    }
    slow
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
            Self::MixedKeys => {
                "keys of some layers are quantised and those of others are not, and llama.cpp would move the latter wrongly"
            }
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGpu { gpu_layers } => write!(
                f,
                "gpu_layers is {gpu_layers} and is ignored: this program has no back end for a GPU or finds none, the processor has all layers"
            ),
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
                    "{side} in {cache_type} are not rotated before rounding (heads of {head_width} values, it takes a multiple of {ROTATION_MIN}): expect more error"
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
            Self::MixedStaysOnHost => f.write_str(
                "no layer goes to the GPU: the KV plan has several types, and layers there take one pair for all",
            ),
            Self::NoWindowSaving => f.write_str(
                "layers with a sliding window hold as many tokens as the others: their saving is not used",
            ),
        }
    }
}
