//! Moved positions. A model of one layer keeps of a token what depends on the token and its
//! position alone, so what was moved must be what is computed at the new place.

#![expect(clippy::unwrap_used, reason = "a test")]

use llama::{
    Batch, CacheType, CacheTypes, Context, ContextParams, FlashAttention, Kernels, LoadMode, Model,
    ModelParams, Placement, Types,
};
use std::io::Write;
use testkit::sized::{Llama, WeightKind, write};

const TOKENS: usize = 96;
/// Kept at the beginning, and dropped behind them.
const KEPT: usize = 4;
const DROPPED: usize = 46;

fn model() -> Model {
    let llama = Llama {
        n_layers: 1,
        n_embd: 128,
        n_ff: 128,
        n_head: 2,
        n_head_kv: 1,
        n_vocab: 300,
        weights: WeightKind::F32,
        more_bits: None,
    };
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    write(&llama, &mut file).unwrap();
    file.flush().unwrap();
    let params = ModelParams {
        load_mode: LoadMode::Read,
        offload: None,
    };
    Model::load(file.path(), params, |_| true).unwrap()
}

fn context(model: &Model, keys: CacheType) -> Context {
    let params = ContextParams {
        cells: 128,
        batch: 128,
        ubatch: 32,
        sequences: 1,
        outputs: 1,
        placement: Placement {
            threads: 1,
            threads_batch: 1,
            ..Placement::default()
        },
        types: CacheTypes::Uniform(Types {
            keys,
            values: CacheType::F32,
        }),
        flash_attention: FlashAttention::Off,
        swa_full: false,
        embeddings: None,
    };
    Context::new(model, &params).unwrap()
}

/// What comes behind these tokens, which go on from position `from`.
fn read(context: &mut Context, tokens: &[i32], from: usize) -> Vec<f32> {
    let mut batch = Batch::default();
    for (at, token) in tokens.iter().enumerate() {
        let position = i32::try_from(from + at).unwrap();
        batch.push(*token, position, 0, at + 1 == tokens.len());
    }
    context.decode(&mut batch).unwrap();
    context.logits(tokens.len() - 1).unwrap().to_vec()
}

fn distance(one: &[f32], other: &[f32]) -> f32 {
    let each = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f32::max)
}

#[test]
fn what_was_moved_is_what_would_have_been_computed_there() {
    llama::init(|_, _| {}, Kernels::Own);
    let model = model();
    let tokens: Vec<i32> = (0..=TOKENS).map(|at| 3 + (at * 37 % 250) as i32).collect();
    let kept = [&tokens[..KEPT], &tokens[KEPT + DROPPED..]].concat();
    // Keys in few bits are rounded once more when they are moved.
    for (keys, share) in [(CacheType::F32, 1e-3), (CacheType::Q8_0, 0.1)] {
        let fresh = read(&mut context(&model, keys), &kept, 0);
        let whole = read(&mut context(&model, keys), &tokens, 0);
        let mut moved = context(&model, keys);
        assert!(moved.can_shift());
        read(&mut moved, &tokens[..TOKENS], 0);
        assert!(moved.shift(0, KEPT as i32, DROPPED as i32));
        let n = TOKENS - DROPPED;
        assert_eq!(moved.positions(0), Some((0, n as i32 - 1)));
        let moved = read(&mut moved, &tokens[TOKENS..], n);
        let (off, apart) = (distance(&moved, &fresh), distance(&whole, &fresh));
        assert!(off < share * apart, "{keys:?}: {off} of {apart}");
    }
}
