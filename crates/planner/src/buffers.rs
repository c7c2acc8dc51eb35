//! Buffers of the computation, and what the process takes besides.
//!
//! llama.cpp reserves a buffer for the largest pass, out of an allocator that reuses memory
//! from operation to operation. The terms here are those that dominate; which of them there
//! are and with which factors was found by measuring (`docs/planner.md`, with the errors). A
//! reserved page takes no memory before it is written, so what an ordinary pass writes is
//! told apart from what only a full context or many outputs will.

use kv::{CacheType, Part, Plan};

use crate::model::Model;
use crate::setup::{Compute, Purpose, Setup};

/// Bytes of a number of the computation.
const FLOAT: u64 = 4;
/// Rows of the stream that are alive at once around the output: what comes in, its norm and
/// the rows that ask for output.
const OUTPUT_STREAMS: u64 = 3;
/// Rows of the stream that are alive at once in a layer, and of what the feed-forward part
/// computes: a gate, and what it gates.
const LAYER_STREAMS: u64 = 3;
const FEED_FORWARD_STREAMS: u64 = 2;
/// The table's rows and their copy for the device that has the layers.
const INPUT_STREAMS: u64 = 2;

/// Bytes of the process: threads, allocator, the socket, the trie's nodes that every
/// vocabulary has.
const PROCESS: u64 = 22 << 20;
/// Pages of the binary that are resident.
const BINARY: u64 = 14 << 20;
/// Rows of the stream that are alive at once on each side of a GPU: what goes over to it and
/// what comes back.
const EXCHANGE_STREAMS: u64 = 4;
/// Rows of a layer's feed-forward part on a GPU, where nothing is computed in place.
const DEVICE_WIDE_STREAMS: u64 = 3;
/// Rows that ask for output, around the output of a model whose first layers are elsewhere.
const OUTPUT_ROW_STREAMS: u64 = 2;

/// What a GPU's driver takes of the host: its code, its compiler and compiled shaders. Measured
/// with Mesa's `lavapipe` and shaders that it had compiled before; of other drivers nobody has.
const DRIVER: u64 = 120 << 20;
/// Bytes of a token of the vocabulary: its text and its place in llama.cpp's and our tables.
const TOKEN: u64 = 133;
/// Bytes that llama.cpp keeps of a cell of the cache besides its contents: position, shift
/// and the set of its sequences.
const CELL: u64 = 56;

/// Buffers of one context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Logits of one row a sequence.
    pub output: u64,
    /// More of them, when drafts ask.
    pub output_more: u64,
    /// What an ordinary pass writes.
    pub compute: u64,
    /// What only a full context and many outputs write.
    pub compute_more: u64,
    pub vocabulary: u64,
    pub cells: u64,
    pub process: u64,
    pub binary: u64,
    /// Of a GPU, where one has layers.
    pub driver: u64,
    /// On the GPU, all that is reserved.
    pub device: u64,
}

impl Buffers {
    /// The buffers of a context on a model.
    #[must_use]
    pub fn of(model: &Model, setup: &Setup, plan: &Plan) -> Self {
        let sequences = setup.sequences(model);
        let rows = output_rows(setup, sequences);
        let logits = |rows: u64| rows.saturating_mul(model.n_vocab).saturating_mul(FLOAT);
        let streams = |count: u64, width: u64| {
            count
                .saturating_mul(width)
                .saturating_mul(plan.ubatch)
                .saturating_mul(FLOAT)
        };
        let queries = model
            .n_head
            .saturating_mul(model.shape.first_head.key_width);
        let wide = model.n_ff.max(queries);
        let layer = streams(LAYER_STREAMS, model.n_embd.max(queries))
            .saturating_add(streams(FEED_FORWARD_STREAMS, wide))
            .saturating_add(scores(model, setup, plan));
        // An encoder has no output matrix to compute them with.
        let computed = if model.shape.is_encoder { 0 } else { rows };
        let computed = computed.min(plan.ubatch);
        let outputs = logits(computed).saturating_add(streams(OUTPUT_STREAMS, model.n_embd));
        let input = streams(INPUT_STREAMS, model.n_embd);
        let attention = match leaves_device(setup, plan) {
            true => streams(1, queries),
            false => 0,
        };
        let masks = masks(setup, plan);
        let reserved = masks
            .saturating_add(layer.max(outputs))
            .saturating_add(input)
            .saturating_add(attention);
        let exchange = streams(EXCHANGE_STREAMS, model.n_embd);
        let usual = layer.saturating_add(attention).min(reserved);
        let on_device = OnDevice {
            masks,
            layer: streams(LAYER_STREAMS, model.n_embd.max(queries))
                .saturating_add(streams(DEVICE_WIDE_STREAMS, wide))
                .saturating_add(scores(model, setup, plan)),
            logits: logits(computed),
            exchange,
            output_rows: computed
                .saturating_mul(model.n_embd)
                .saturating_mul(OUTPUT_ROW_STREAMS * FLOAT),
        };
        let (compute, compute_more) = match Share::of(model, setup) {
            Share::None => (usual, reserved - usual),
            Share::Part => (masks.saturating_add(exchange).saturating_add(usual), 0),
            Share::All => (masks.saturating_add(exchange), 0),
        };
        let caches = plan.caches.iter();
        let cells = caches.filter(|cache| cache.part != Part::States);
        Self {
            output: logits(u64::from(sequences)),
            output_more: logits(rows)
                .saturating_sub(logits(u64::from(sequences)))
                .saturating_add(vectors(model, setup)),
            compute,
            compute_more,
            device: on_device.bytes(model, setup),
            vocabulary: model.n_vocab.saturating_mul(TOKEN),
            cells: cells.map(|cache| cache.cells * cache.streams).sum::<u64>() * CELL,
            process: PROCESS,
            binary: BINARY,
            driver: match setup.gpu_layers {
                0 => 0,
                _ => DRIVER,
            },
        }
    }
}

/// How much of a model is on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    None,
    Part,
    All,
}

impl Share {
    fn of(model: &Model, setup: &Setup) -> Self {
        match u64::from(setup.gpu_layers) {
            0 => Self::None,
            layers if layers <= model.n_layers => Self::Part,
            _ => Self::All,
        }
    }
}

/// What there is at once on a GPU, at one time or another.
struct OnDevice {
    masks: u64,
    layer: u64,
    logits: u64,
    exchange: u64,
    output_rows: u64,
}

impl OnDevice {
    /// Measured on Vulkan (`docs/benchmarks/gpu.md`). With all layers there masks stay to the
    /// end; where the first ones are elsewhere they come as copies, and go before the output.
    fn bytes(&self, model: &Model, setup: &Setup) -> u64 {
        let layers = self.masks.saturating_add(self.layer);
        let all = self.logits.saturating_add(self.exchange);
        let part = layers.max(self.logits.saturating_add(self.output_rows));
        match Share::of(model, setup) {
            Share::None => 0,
            Share::All => layers.max(self.masks.saturating_add(all)),
            Share::Part if setup.compute == Compute::Own => part,
            // Prompts of layers elsewhere are computed here too, on copies of their weights, at
            // some contexts and not at others: at most so much.
            Share::Part => {
                let matrices = model.tensors.iter().filter(|tensor| tensor.layer.is_none());
                let largest = matrices.map(|tensor| tensor.bytes).max().unwrap_or(0);
                part.saturating_add(largest)
            }
        }
    }
}

/// Most rows of a pass that llama.cpp keeps logits of.
fn output_rows(setup: &Setup, sequences: u32) -> u64 {
    match setup.purpose {
        Purpose::Generate => u64::from(kv::output_rows(sequences, setup.batch)),
        // It pools over all tokens, and keeps logits of each whether anybody reads them or not
        // (`llama_context::output_reserve`).
        Purpose::Embed => u64::from(setup.context),
    }
}

/// Vectors of all tokens of a text, out of which one is pooled.
const fn vectors(model: &Model, setup: &Setup) -> u64 {
    match setup.purpose {
        Purpose::Generate => 0,
        Purpose::Embed => model
            .n_embd
            .saturating_mul(setup.context as u64)
            .saturating_mul(FLOAT),
    }
}

/// Who may see whom: one mask for each kind of cache, of 16 bits with flash attention.
fn masks(setup: &Setup, plan: &Plan) -> u64 {
    let bytes = if setup.has_flash_attention { 2 } else { FLOAT };
    let caches = plan.caches.iter();
    let masked = caches.filter(|cache| matches!(cache.part, Part::Tokens | Part::Window));
    let cells = masked.map(|cache| cache.cells).sum::<u64>();
    cells.saturating_mul(plan.ubatch).saturating_mul(bytes)
}

/// Without flash attention all scores of a layer are there at once.
fn scores(model: &Model, setup: &Setup, plan: &Plan) -> u64 {
    if setup.has_flash_attention {
        return 0;
    }
    let rows = plan.ubatch.saturating_mul(model.n_head);
    plan.context_per_sequence
        .saturating_mul(rows)
        .saturating_mul(FLOAT)
}

/// Whether ggml computes attention between operations of ours, which costs copies.
fn leaves_device(setup: &Setup, plan: &Plan) -> bool {
    let is_ours = |of: CacheType| matches!(of, CacheType::F32 | CacheType::F16 | CacheType::Bf16);
    let types = || plan.layers.iter().map(|layer| layer.types);
    let are_ours = types().all(|types| is_ours(types.keys) && is_ours(types.values));
    matches!(setup.compute, Compute::Own) && !are_ours
}
