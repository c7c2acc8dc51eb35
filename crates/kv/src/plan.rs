//! The caches that llama.cpp allocates for a context, and their bytes.

use thiserror::Error;

use crate::cache_type::CacheType;
use crate::shape::{KeysValues, Layer, Shape};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Tokens over all sequences.
    pub context: u64,
    /// Sequences that may be alive at once, kept prefixes included.
    pub sequences: u64,
    /// Tokens of one call, and of one pass through the model.
    pub batch: u64,
    pub ubatch: u64,
    pub types: Types,
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
        check(shape, request)?;
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
            streams,
        };
        let mut caches = Vec::new();
        let is_windowed = |layer: &Layer| shape.window.is_some() && layer.is_windowed;
        if !shape.is_encoder && shape.layers.iter().any(|layer| layer.keys_values.is_some()) {
            caches.push(builder.keys_values(Part::Tokens, cells, |layer| !is_windowed(layer)));
            if shape.window.is_some() {
                caches.push(builder.keys_values(Part::Window, window_cells, is_windowed));
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
    streams: u64,
}

impl Builder<'_> {
    fn keys_values(&self, part: Part, cells: u64, takes: impl Fn(&Layer) -> bool) -> Cache {
        let layers = self.shape.layers.iter().filter(|layer| takes(layer));
        let mut cache = self.empty(part, cells);
        for layer in layers.filter_map(|layer| layer.keys_values) {
            cache.layers += 1;
            let keys = layer.heads.saturating_mul(layer.key_width);
            let keys = self.tensor(self.request.types.keys, keys, cells);
            cache.keys_bytes = cache.keys_bytes.saturating_add(keys);
            if !self.shape.is_latent {
                let values = self.value_row(layer);
                let values = self.tensor(self.request.types.values, values, cells);
                cache.values_bytes = cache.values_bytes.saturating_add(values);
            }
        }
        cache
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
        for width in self
            .shape
            .layers
            .iter()
            .filter_map(|layer| layer.index_width)
        {
            cache.layers += 1;
            let keys = self.tensor(self.request.types.keys, width, cells);
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

fn check(shape: &Shape, request: &Request) -> Result<(), PlanError> {
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
    let Types { keys, values } = request.types;
    if shape.is_latent && keys != values {
        return Err(PlanError::LatentTypes { keys, values });
    }
    if values.is_quantised() && shape.architecture == "grok" {
        return Err(PlanError::NoFlash {
            architecture: shape.architecture.clone(),
            values,
        });
    }
    if values.is_quantised() && !request.has_flash_attention {
        return Err(PlanError::NeedsFlash { values });
    }
    if request.has_flash_attention {
        widths(shape, "key", keys, |layer| layer.key_width)?;
        widths(shape, "value", values, |layer| layer.value_width)?;
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
