//! A small model with a cache as fat as a large one's.

use crate::writer::{N_VOCAB, Writer};

/// Width of the stream between the layers.
const N_EMBD: u64 = 64;
const N_FF: u64 = 128;

/// What a cell of the cache holds: keys and values of each layer.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub layers: u64,
    /// Heads, each with keys and values of its own.
    pub heads: u64,
    /// Values of a head.
    pub head_width: u64,
    /// Tokens that it was "trained" for.
    pub context: u64,
}

/// The bytes of a model of llama's kind with random weights; the same each time.
///
/// A cell takes 4 x `layers` x `heads` x `head_width` bytes in 16 bits, the file about
/// 1 KiB for each value of a cell's heads and layer.
#[must_use]
pub fn gguf(sizes: &Sizes) -> Vec<u8> {
    let width = sizes.heads * sizes.head_width;
    let mut writer = Writer::new("llama");
    writer.u32("context_length", sizes.context);
    writer.u32("embedding_length", N_EMBD);
    writer.f32("attention.layer_norm_rms_epsilon", 1e-5);
    writer.f32("rope.freq_base", 10_000.0);
    writer.u32("block_count", sizes.layers);
    writer.u32("feed_forward_length", N_FF);
    writer.u32("attention.head_count", sizes.heads);
    writer.u32("attention.head_count_kv", sizes.heads);
    writer.u32("attention.key_length", sizes.head_width);
    writer.u32("attention.value_length", sizes.head_width);
    writer.tokenizer(N_VOCAB);
    writer.matrix("token_embd.weight", &[N_EMBD, N_VOCAB]);
    writer.norm("output_norm.weight", N_EMBD);
    writer.matrix("output.weight", &[N_EMBD, N_VOCAB]);
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer.norm(&name("attn_norm"), N_EMBD);
        for part in ["attn_q", "attn_k", "attn_v"] {
            writer.matrix(&name(part), &[N_EMBD, width]);
        }
        writer.matrix(&name("attn_output"), &[width, N_EMBD]);
        writer.norm(&name("ffn_norm"), N_EMBD);
        writer.matrix(&name("ffn_gate"), &[N_EMBD, N_FF]);
        writer.matrix(&name("ffn_up"), &[N_EMBD, N_FF]);
        writer.matrix(&name("ffn_down"), &[N_FF, N_EMBD]);
    }
    writer.into_bytes()
}
