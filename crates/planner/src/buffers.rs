//! Buffers of the computation, and what the process takes besides.
//!
//! llama.cpp reserves one buffer for the largest pass. Its size comes out of an allocator
//! that reuses memory from operation to operation, so there is no closed formula; the terms
//! here are those that dominate, with factors fitted to what it reported for many shapes
//! (`docs/planner.md` has the table of errors).

use kv::Plan;

use crate::model::Model;
use crate::setup::{Compute, Setup};

/// Bytes of a number of the computation.
const FLOAT: u64 = 4;
/// Rows of the widest streams that are alive at once in a layer: what comes in, its norm,
/// and what goes out.
const STREAM_ROWS: u64 = 3;
/// A gate, what it gates, and their product.
const FEED_FORWARD_ROWS: u64 = 2;

/// Bytes of the process without a model: the binary's pages, its threads and allocator.
const PROCESS: u64 = 40 << 20;
/// Bytes of a token of the vocabulary: its text in the tables of llama.cpp and of the trie.
const TOKEN: u64 = 200;
/// Bytes that llama.cpp keeps of a cell of the cache besides its contents: position, shift
/// and the set of its sequences.
const CELL: u64 = 64;

/// Buffers of one context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Logits of the rows that ask for them.
    pub output: u64,
    /// The same, when drafts ask for more of them than there are sequences.
    pub output_max: u64,
    pub compute: u64,
    pub vocabulary: u64,
    pub cells: u64,
    pub process: u64,
}

impl Buffers {
    /// The buffers of a context on a model.
    #[must_use]
    pub fn of(model: &Model, setup: &Setup, plan: &Plan) -> Self {
        let sequences = setup.sequences(model);
        let rows = u64::from(kv::output_rows(sequences, setup.batch));
        let logits = |rows: u64| rows.saturating_mul(model.n_vocab).saturating_mul(FLOAT);
        let all_cells = plan.caches.iter().map(|cache| cache.cells * cache.streams);
        Self {
            output: logits(u64::from(sequences)),
            output_max: logits(rows),
            compute: compute(model, setup, plan, rows),
            vocabulary: model.n_vocab.saturating_mul(TOKEN),
            cells: all_cells.sum::<u64>().saturating_mul(CELL),
            process: PROCESS,
        }
    }
}

fn compute(model: &Model, setup: &Setup, plan: &Plan, output_rows: u64) -> u64 {
    let tokens = plan.ubatch;
    let heads = model.shape.first_head;
    let queries = model.n_head.saturating_mul(heads.key_width);
    let stream = model.n_embd.max(queries);
    let layer = STREAM_ROWS * stream + FEED_FORWARD_ROWS * model.n_ff.max(queries);
    let layer = layer.saturating_mul(tokens).saturating_mul(FLOAT);
    let rows = output_rows.min(tokens);
    let logits = rows
        .saturating_mul(model.n_vocab + model.n_embd)
        .saturating_mul(FLOAT)
        + model.n_embd * tokens * FLOAT;
    let masks = plan
        .caches
        .iter()
        .filter(|cache| cache.part != kv::Part::States);
    let mask_bytes = if setup.has_flash_attention { 2 } else { FLOAT };
    let masks = masks
        .map(|cache| cache.cells * tokens * mask_bytes)
        .sum::<u64>();
    // Without flash attention all scores of a layer are there at once.
    let scores = match setup.has_flash_attention {
        true => 0,
        false => plan.context_per_sequence * tokens * model.n_head * FLOAT,
    };
    let scratch = match setup.compute {
        Compute::Own => 0,
        Compute::Ggml => 0,
    };
    masks + logits.max(layer + scores) + scratch
}
