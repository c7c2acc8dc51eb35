//! The caches that llama.cpp allocates for a context, and their bytes.

use std::fmt;

use thiserror::Error;

use crate::cache_type::CacheType;
use crate::loss::Side;
use crate::shape::{KeysValues, Layer, Shape};
use crate::type_plan::TypePlan;

/// Cells are allocated in groups of this many (`llama_context`, `llama_kv_cache_iswa`).
const CELLS_STEP: u64 = 256;
/// llama.cpp's own bound on sequences of one context.
const SEQUENCES_MAX: u64 = 256;
/// A state is kept in 32 bits, whatever the types of keys and values.
const STATE_BYTES: u64 = 4;
/// Bound on a context: llama.cpp counts cells in 32 bits.
const CONTEXT_MAX: u64 = 1 << 31;
/// Bound on all caches together: no process has more addresses.
const BYTES_MAX: u64 = 1 << 56;

/// The types of keys and of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types {
    pub keys: CacheType,
    pub values: CacheType,
}

impl Types {
    pub(crate) const fn side(self, side: Side) -> CacheType {
        match side {
            Side::Keys => self.keys,
            Side::Values => self.values,
        }
    }

    pub(crate) const fn side_mut(&mut self, side: Side) -> &mut CacheType {
        match side {
            Side::Keys => &mut self.keys,
            Side::Values => &mut self.values,
        }
    }
}

impl Default for Types {
    /// What the worker takes where nothing is set.
    fn default() -> Self {
        Self {
            keys: CacheType::F16,
            values: CacheType::F16,
        }
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keys, self.values)
    }
}

/// Whether sequences share the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// One pool for all: any sequence may fill it (`kv_unified`).
    Shared,
    /// Each sequence has an equal part of its own.
    Split,
}

/// How many cells layers with a sliding window get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowCells {
    /// The window of every sequence, and one batch.
    Window,
    /// As many as the other layers (`swa_full`).
    Full,
}

/// A context as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Tokens over all sequences.
    pub context: u64,
    /// Sequences that may be alive at once, kept prefixes included.
    pub sequences: u64,
    /// Tokens of one call, and of one pass through the model.
    pub batch: u64,
    pub ubatch: u64,
    pub types: TypePlan,
    pub pool: Pool,
    pub window: WindowCells,
    /// Whether attention is one fused operation; without it values are stored transposed.
    pub has_flash_attention: bool,
    /// Bytes that every tensor is padded to: 32 in ggml's memory, 64 in ours.
    pub alignment: u64,
}

/// What a cache is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every token of the context.
    Tokens,
    /// The tokens of the sliding window.
    Window,
    /// Index keys of sparse attention.
    Index,
    /// States of fixed size.
    States,
}

/// One cache, as llama.cpp reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    pub part: Part,
    /// Cells of each stream; for states the sequences.
    pub cells: u64,
    /// Parts that share no cells: 1, or one a sequence.
    pub streams: u64,
    pub layers: u64,
    /// Bytes of keys; for states those of the shift.
    pub keys_bytes: u64,
    /// Bytes of values; for states those of the sum.
    pub values_bytes: u64,
}

impl Cache {
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.keys_bytes.saturating_add(self.values_bytes)
    }
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCache {
    pub layer: u32,
    /// [`Part::Tokens`] or [`Part::Window`].
    pub part: Part,
    pub types: Types,
    pub keys_bytes: u64,
    /// 0 where the model is latent.
    pub values_bytes: u64,
}

impl LayerCache {
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.keys_bytes.saturating_add(self.values_bytes)
    }
}

/// All caches of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The cells in force: the context, rounded up.
    pub cells: u64,
    /// Tokens that one sequence may have.
    pub context_per_sequence: u64,
    /// Tokens of one pass in force.
    pub ubatch: u64,
    pub caches: Vec<Cache>,
    /// Those that keep keys, in the order in which llama.cpp makes their tensors: of all tokens
    /// before those of a window.
    pub layers: Vec<LayerCache>,
}

/// A context that llama.cpp would refuse, or that has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("{what} is {value}, it must be between {min} and {max}")]
    Range {
        what: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
    #[error(
        "the {side} cache is {cache_type}, whose blocks of {block} values do not divide a head of {width}; use f16 for it"
    )]
    Width {
        side: &'static str,
        cache_type: CacheType,
        block: u64,
        width: u64,
    },
    #[error(
        "keys are {keys} and values {values}: this model keeps both in one vector, so their types must be the same"
    )]
    LatentTypes { keys: CacheType, values: CacheType },
    #[error(
        "values are {values} and flash attention is off: a quantised value cache needs it; turn it on or use f16 values"
    )]
    NeedsFlash { values: CacheType },
    #[error("the KV plan names layer {layer}, this model has layers 0 to {last}")]
    NoSuchLayer { layer: u32, last: usize },
    #[error(
        "the KV plan names layer {layer}, which keeps no keys and values; those that do are {with}"
    )]
    LayerWithoutKeys { layer: u32, with: String },
    /// The engine has one type for the whole cache there.
    #[error(
        "the KV plan has several types, and this model keeps keys and values in one vector (MLA), \
         of which all layers have the same type; use one type for all, such as `q8_0`"
    )]
    LatentMixed,
    /// Which pairs a GPU's attention takes depends on how it was compiled.
    #[error(
        "the KV plan has several types and gpu_layers is {gpu_layers}: layers on a GPU take one \
         pair of types for all; set gpu_layers to 0, or use one pair, such as `q8_0/q8_0`"
    )]
    MixedOnDevice { gpu_layers: u32 },
    #[error(
        "the caches would take more than {max} bytes, which no memory has: ask for less context, or get another conversion if the file's figures are wrong"
    )]
    Bytes { max: u64 },
    #[error("{architecture} has no flash attention, which {values} values need; use f16 values")]
    NoFlash {
        architecture: String,
        values: CacheType,
    },
}

impl Plan {
    /// The caches of a context on a model of this shape.
    ///
    /// # Errors
    /// [`PlanError`]: what llama.cpp refuses, with the limit and the value.
    pub fn new(shape: &Shape, request: &Request) -> Result<Self, PlanError> {
        let types = request.types.of(shape)?;
        check(shape, request, &types)?;
        let padded = request.context.next_multiple_of(CELLS_STEP);
        let (streams, cells) = match request.pool {
            Pool::Shared => (1, padded),
            Pool::Split => {
                let part = (padded / request.sequences).next_multiple_of(CELLS_STEP);
                (request.sequences, part)
            }
        };
        // The batch is bounded by the context as it was asked for.
        let batch = request.batch.min(request.context);
        let ubatch = if request.ubatch == 0 {
            batch
        } else {
            request.ubatch.min(batch)
        };
        let window_cells = window_cells(shape, request, cells, ubatch);
        let builder = Builder {
            shape,
            request,
            types: &types,
            streams,
        };
        let mut caches = Vec::new();
        let mut layers = Vec::new();
        if !shape.is_encoder && shape.layers_with_keys() > 0 {
            layers = builder.layers(Part::Tokens, cells);
            caches.push(builder.keys_values(Part::Tokens, cells, &layers));
            if shape.window.is_some() {
                let windowed = builder.layers(Part::Window, window_cells);
                caches.push(builder.keys_values(Part::Window, window_cells, &windowed));
                layers.extend(windowed);
            }
            if shape.layers.iter().any(|layer| layer.index_width.is_some()) {
                caches.push(builder.index(cells));
            }
        }
        if shape.has_state() {
            caches.push(builder.states());
        }
        let plan = Self {
            cells: cells.saturating_mul(streams),
            context_per_sequence: cells,
            ubatch,
            caches,
            layers,
        };
        // Sums stop at the largest number, so that they cannot come out small.
        match plan.bytes() {
            0..=BYTES_MAX => Ok(plan),
            _ => Err(PlanError::Bytes { max: BYTES_MAX }),
        }
    }

    /// Bytes of all caches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let each = self.caches.iter().map(Cache::bytes);
        each.fold(0, u64::saturating_add)
    }

    /// Bytes of the caches of one kind.
    #[must_use]
    pub fn bytes_of(&self, part: Part) -> u64 {
        let of_part = self.caches.iter().filter(|cache| cache.part == part);
        of_part.map(Cache::bytes).fold(0, u64::saturating_add)
    }

    /// The pair of types that all layers have; `None` where they differ, or there are none.
    #[must_use]
    pub fn uniform_types(&self) -> Option<Types> {
        let first = self.layers.first()?.types;
        let is_alike = self.layers.iter().all(|layer| layer.types == first);
        is_alike.then_some(first)
    }

    /// Whether layers differ in their types.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        !self.layers.is_empty() && self.uniform_types().is_none()
    }
}

fn window_cells(shape: &Shape, request: &Request, cells: u64, ubatch: u64) -> u64 {
    let Some(window) = shape.window else {
        return 0;
    };
    if request.window == WindowCells::Full {
        return cells;
    }
    let sequences = match request.pool {
        Pool::Shared => request.sequences,
        Pool::Split => 1,
    };
    let wanted = window
        .tokens
        .saturating_mul(sequences)
        .saturating_add(ubatch);
    cells.min(wanted).next_multiple_of(CELLS_STEP)
}

struct Builder<'a> {
    shape: &'a Shape,
    request: &'a Request,
    /// Of each layer of the shape.
    types: &'a [Types],
    streams: u64,
}

impl Builder<'_> {
    fn layers(&self, part: Part, cells: u64) -> Vec<LayerCache> {
        let is_windowed = |layer: &Layer| self.shape.window.is_some() && layer.is_windowed;
        let each = self.shape.layers.iter().zip(self.types).zip(0_u32..);
        let here = each.filter(|((layer, _), _)| is_windowed(layer) == (part == Part::Window));
        let caches = here.filter_map(|((layer, types), at)| {
            let of = layer.keys_values?;
            let keys = of.heads.saturating_mul(of.key_width);
            let values = match self.shape.is_latent {
                true => 0,
                false => self.tensor(types.values, self.value_row(of), cells),
            };
            Some(LayerCache {
                layer: at,
                part,
                types: *types,
                keys_bytes: self.tensor(types.keys, keys, cells),
                values_bytes: values,
            })
        });
        caches.collect()
    }

    fn keys_values(&self, part: Part, cells: u64, layers: &[LayerCache]) -> Cache {
        let sum = |bytes: fn(&LayerCache) -> u64| {
            let each = layers.iter().map(bytes);
            each.fold(0, u64::saturating_add)
        };
        Cache {
            layers: layers.len() as u64,
            keys_bytes: sum(|layer| layer.keys_bytes),
            values_bytes: sum(|layer| layer.values_bytes),
            ..self.empty(part, cells)
        }
    }

    /// Values of a row; transposed rows are all as wide as the widest.
    fn value_row(&self, layer: KeysValues) -> u64 {
        if self.request.has_flash_attention {
            layer.heads.saturating_mul(layer.value_width)
        } else {
            self.shape.value_row_max
        }
    }

    fn index(&self, cells: u64) -> Cache {
        let mut cache = self.empty(Part::Index, cells);
        let layers = self.shape.layers.iter().zip(self.types);
        let widths = layers.filter_map(|(layer, types)| Some((layer.index_width?, types)));
        for (width, types) in widths {
            cache.layers += 1;
            let keys = self.tensor(types.keys, width, cells);
            cache.keys_bytes = cache.keys_bytes.saturating_add(keys);
        }
        cache
    }

    fn states(&self) -> Cache {
        let sequences = self.request.sequences;
        let tensor = |values: u64| self.padded(values.saturating_mul(sequences * STATE_BYTES));
        let layers = self.shape.layers.iter().filter(|layer| layer.has_state);
        let layers = layers.count() as u64;
        Cache {
            streams: 1,
            layers,
            keys_bytes: layers.saturating_mul(tensor(self.shape.state.shift_values)),
            values_bytes: layers.saturating_mul(tensor(self.shape.state.sum_values)),
            ..self.empty(Part::States, sequences)
        }
    }

    fn empty(&self, part: Part, cells: u64) -> Cache {
        Cache {
            part,
            cells,
            streams: self.streams,
            layers: 0,
            keys_bytes: 0,
            values_bytes: 0,
        }
    }

    fn tensor(&self, cache_type: CacheType, width: u64, cells: u64) -> u64 {
        let row = cache_type.row_bytes(width);
        self.padded(row.saturating_mul(cells).saturating_mul(self.streams))
    }

    fn padded(&self, bytes: u64) -> u64 {
        let alignment = self.request.alignment.max(1);
        bytes
            .checked_next_multiple_of(alignment)
            .unwrap_or(u64::MAX)
    }
}

fn check(shape: &Shape, request: &Request, types: &[Types]) -> Result<(), PlanError> {
    let ranges = [
        ("the context", request.context, 1, CONTEXT_MAX),
        (
            "the number of sequences",
            request.sequences,
            1,
            SEQUENCES_MAX,
        ),
        ("batch", request.batch, 1, CONTEXT_MAX),
        ("ubatch", request.ubatch, 0, CONTEXT_MAX),
    ];
    for (what, value, min, max) in ranges {
        if !(min..=max).contains(&value) {
            return Err(PlanError::Range {
                what,
                value,
                min,
                max,
            });
        }
    }
    check_types(shape, request, types)
}

fn check_types(shape: &Shape, request: &Request, types: &[Types]) -> Result<(), PlanError> {
    let kept = shape.key_layers().filter_map(|at| types.get(at as usize));
    let mut kept: Vec<Types> = kept.copied().collect();
    if kept.is_empty() {
        // Of a model without keys llama.cpp checks the types all the same.
        kept.extend(types.first());
    }
    let Some(first) = kept.first().copied() else {
        return Ok(());
    };
    if shape.is_latent {
        let Types { keys, values } = first;
        if kept.iter().any(|types| *types != first) {
            return Err(PlanError::LatentMixed);
        }
        if keys != values {
            return Err(PlanError::LatentTypes { keys, values });
        }
    }
    let quantised = |side| {
        let mut types = kept.iter().map(|types| types.side(side));
        types.find(|of| of.is_quantised())
    };
    if let Some(values) = quantised(Side::Values) {
        if shape.architecture == "grok" {
            return Err(PlanError::NoFlash {
                architecture: shape.architecture.clone(),
                values,
            });
        }
        if !request.has_flash_attention {
            return Err(PlanError::NeedsFlash { values });
        }
    }
    // llama.cpp checks all layers by the one type that it is told for a side.
    if request.has_flash_attention {
        if let Some(keys) = quantised(Side::Keys) {
            widths(shape, "key", keys, |layer| layer.key_width)?;
        }
        if let Some(values) = quantised(Side::Values) {
            widths(shape, "value", values, |layer| layer.value_width)?;
        }
    }
    Ok(())
}

/// Blocks must divide heads.
fn widths(
    shape: &Shape,
    side: &'static str,
    cache_type: CacheType,
    width: impl Fn(KeysValues) -> u64,
) -> Result<(), PlanError> {
    let block = cache_type.block_values();
    let layers = shape.layers.iter().filter_map(|layer| layer.keys_values);
    for width in layers.chain([shape.first_head]).map(width) {
        if !width.is_multiple_of(block) {
            return Err(PlanError::Width {
                side,
                cache_type,
                block,
                width,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
