//! A llama of any size.

use std::io::{self, Write};

use crate::weights::WeightKind;
use crate::writer::Writer;

/// The sizes of a llama. Widths are whole blocks of the weights' type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Llama {
    pub n_layers: u64,
    pub n_embd: u64,
    pub n_ff: u64,
    pub n_head: u64,
    pub n_head_kv: u64,
    /// At least 259: bytes and three that control.
    pub n_vocab: u64,
    /// Of all matrices, the table and the output among them.
    pub weights: WeightKind,
    /// What the `_M` mixtures of llama.cpp give the output, and the values and `ffn_down` of
    /// about half of the layers, in its place.
    pub more_bits: Option<WeightKind>,
}

impl Llama {
    /// The shape of Llama 3.2 1B, with a smaller vocabulary.
    #[must_use]
    pub const fn of_1b(weights: WeightKind) -> Self {
        Self {
            n_layers: 16,
            n_embd: 2048,
            n_ff: 8192,
            n_head: 32,
            n_head_kv: 8,
            n_vocab: 32_000,
            weights,
            more_bits: None,
        }
    }

    /// As a mixture: see [`Self::more_bits`].
    #[must_use]
    pub const fn with(self, more_bits: WeightKind) -> Self {
        Self {
            more_bits: Some(more_bits),
            ..self
        }
    }

    /// Of the matrix of that name in a layer.
    fn weights_of(&self, layer: u64, part: &str) -> WeightKind {
        let eighth = self.n_layers / 8;
        // The first and the last eighth of the layers, and each third one between them.
        let is_favoured =
            layer < eighth || layer >= self.n_layers - eighth || (layer - eighth) % 3 == 2;
        match self.more_bits {
            Some(more) if is_favoured && matches!(part, "attn_v" | "ffn_down") => more,
            _ => self.weights,
        }
    }

    /// The shape of Llama 3.2 3B, with a smaller vocabulary.
    #[must_use]
    pub const fn of_3b(weights: WeightKind) -> Self {
        Self {
            n_layers: 28,
            n_embd: 3072,
            n_ff: 8192,
            n_head: 24,
            n_head_kv: 8,
            n_vocab: 32_000,
            weights,
            more_bits: None,
        }
    }
}

/// Writes such a model with random weights: its text means nothing, its speed and its memory
/// are those of a real one.
///
/// # Errors
/// Those of the target.
pub fn write(llama: &Llama, to: &mut impl Write) -> io::Result<()> {
    let mut writer = Writer::new("llama");
    writer.matrices_of(llama.weights);
    let head = llama.n_embd / llama.n_head;
    for (key, value) in [
        ("context_length", 1 << 17),
        ("embedding_length", llama.n_embd),
        ("block_count", llama.n_layers),
        ("feed_forward_length", llama.n_ff),
        ("attention.head_count", llama.n_head),
        ("attention.head_count_kv", llama.n_head_kv),
    ] {
        writer.u32(key, value);
    }
    writer.f32("attention.layer_norm_rms_epsilon", 1e-5);
    writer.f32("rope.freq_base", 500_000.0);
    writer.tokenizer(llama.n_vocab);
    let (wide, narrow) = (llama.n_embd, head * llama.n_head_kv);
    writer.matrix("token_embd.weight", &[wide, llama.n_vocab]);
    writer.norm("output_norm.weight", wide);
    writer.matrices_of(llama.more_bits.unwrap_or(llama.weights));
    writer.matrix("output.weight", &[wide, llama.n_vocab]);
    for layer in 0..llama.n_layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer.norm(&name("attn_norm"), wide);
        writer.norm(&name("ffn_norm"), wide);
        for (part, shape) in [
            ("attn_q", [wide, wide]),
            ("attn_k", [wide, narrow]),
            ("attn_v", [wide, narrow]),
            ("attn_output", [wide, wide]),
            ("ffn_gate", [wide, llama.n_ff]),
            ("ffn_up", [wide, llama.n_ff]),
            ("ffn_down", [llama.n_ff, wide]),
        ] {
            writer.matrices_of(llama.weights_of(layer, part));
            writer.matrix(&name(part), &shape);
        }
    }
    writer.write_to(to)
}
