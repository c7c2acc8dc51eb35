//! The families: which metadata and which tensors each of them must have.

use crate::weights::WeightKind;
use crate::writer::{N_VOCAB, Writer};

const N_EMBD: u64 = 64;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
/// A multiple of 32, so that every type of cache can hold a head.
const HEAD: u64 = 32;
const N_FF: u64 = 96;
const N_EXPERTS: u64 = 4;
const CONTEXT: u64 = 1 << 20;

/// A kind of model, as llama.cpp tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Plain attention in 3 layers.
    Llama,
    /// With norms of queries and keys.
    Qwen3,
    /// A mixture of experts.
    Qwen3Moe,
    /// Heads of 64 values with a window of 24 tokens in 5 of 6 layers.
    Gemma3,
    /// Two widths of heads, a window, and two layers that read the cache of others.
    Gemma4,
    /// Keys and values in one latent vector.
    DeepSeek2,
    /// Gated delta nets with attention in each fourth layer, and an appended draft block.
    Qwen35,
    /// Short convolutions with attention in between.
    Lfm2,
    /// States alone.
    Mamba,
    /// States of Mamba 2, and attention in one layer of three.
    GraniteHybrid,
    /// States of the first Mamba, and attention in one layer of three.
    Jamba,
    /// States and attention in every layer.
    FalconH1,
    /// States with a token shift.
    Rwkv6,
    /// Several passes through the same blocks, each with a cache of its own.
    Nanbeige,
}

impl Family {
    pub const ALL: [Self; 14] = [
        Self::Llama,
        Self::Qwen3,
        Self::Qwen3Moe,
        Self::Gemma3,
        Self::Gemma4,
        Self::DeepSeek2,
        Self::Qwen35,
        Self::Lfm2,
        Self::Mamba,
        Self::GraniteHybrid,
        Self::Jamba,
        Self::FalconH1,
        Self::Rwkv6,
        Self::Nanbeige,
    ];

    /// `general.architecture`.
    #[must_use]
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Gemma3 => "gemma3",
            Self::Gemma4 => "gemma4",
            Self::DeepSeek2 => "deepseek2",
            Self::Qwen35 => "qwen35",
            Self::Lfm2 => "lfm2",
            Self::Mamba => "mamba",
            Self::GraniteHybrid => "granitehybrid",
            Self::Jamba => "jamba",
            Self::FalconH1 => "falcon-h1",
            Self::Rwkv6 => "rwkv6",
            Self::Nanbeige => "nanbeige",
        }
    }
}

/// What a file says the model was made for; `None` leaves a key out. And how it is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Purpose {
    pub pooling_type: Option<u32>,
    pub is_causal: Option<bool>,
    /// By how much positions scale attention.
    pub attention_factor: Option<f32>,
    /// The type of the weights of experts.
    pub experts: WeightKind,
}

/// The bytes of a small model of that family; the same each time.
#[must_use]
pub fn gguf(family: Family) -> Vec<u8> {
    gguf_for(family, Purpose::default())
}

/// The same, made for a purpose.
#[must_use]
pub fn gguf_for(family: Family, purpose: Purpose) -> Vec<u8> {
    let mut tiny = Tiny(Writer::new(family.architecture()), purpose.experts);
    if let Some(pooling_type) = purpose.pooling_type {
        tiny.0.u32("pooling_type", u64::from(pooling_type));
    }
    if let Some(is_causal) = purpose.is_causal {
        tiny.0.bool("attention.causal", is_causal);
    }
    if let Some(factor) = purpose.attention_factor {
        tiny.0.f32("rope.scaling.attn_factor", factor);
    }
    tiny.0.u32("context_length", CONTEXT);
    tiny.0.u32("embedding_length", N_EMBD);
    tiny.0.f32("attention.layer_norm_rms_epsilon", 1e-5);
    tiny.0.f32("rope.freq_base", 10_000.0);
    tiny.0.tokenizer(N_VOCAB);
    tiny.0.matrix("token_embd.weight", &[N_EMBD, N_VOCAB]);
    match family {
        Family::Llama => tiny.llama(),
        Family::Nanbeige => {
            tiny.0.u32("num_loops", 2);
            tiny.llama();
        }
        Family::Qwen3 => tiny.qwen3(),
        Family::Qwen3Moe => tiny.qwen3_moe(),
        Family::Gemma3 => tiny.gemma3(),
        Family::Gemma4 => tiny.gemma4(),
        Family::DeepSeek2 => tiny.deepseek2(),
        Family::Qwen35 => tiny.qwen35(),
        Family::Lfm2 => tiny.lfm2(),
        Family::Mamba => tiny.mamba(),
        Family::GraniteHybrid => tiny.granite_hybrid(),
        Family::Jamba => tiny.jamba(),
        Family::FalconH1 => tiny.falcon_h1(),
        Family::Rwkv6 => tiny.rwkv6(),
    }
    tiny.0.into_bytes()
}

/// Sizes of a layer of states.
#[derive(Debug, Clone, Copy)]
struct States {
    conv: u64,
    inner: u64,
    size: u64,
    rank: u64,
    groups: u64,
}

/// With the type of the weights of experts.
struct Tiny(Writer, WeightKind);

impl Tiny {
    fn common(&mut self, layers: u64, head: u64) {
        self.0.u32("block_count", layers);
        self.0.u32("feed_forward_length", N_FF);
        self.0.u32("attention.head_count", N_HEAD);
        self.0.u32("attention.key_length", head);
        self.0.u32("attention.value_length", head);
    }

    fn ends(&mut self) {
        self.0.norm("output_norm.weight", N_EMBD);
        self.0.matrix("output.weight", &[N_EMBD, N_VOCAB]);
    }

    fn norm(&mut self, layer: u64, part: &str, n: u64) {
        self.0.norm(&format!("blk.{layer}.{part}.weight"), n);
    }

    /// What a branch adds, beside 1 of the stream that it adds to: with more, rounding grows
    /// from layer to layer.
    fn branch_norm(&mut self, layer: u64, part: &str) {
        let name = format!("blk.{layer}.{part}.weight");
        self.0.norm_about(&name, N_EMBD, 0.3);
    }

    fn matrix(&mut self, layer: u64, part: &str, shape: &[u64]) {
        self.0.matrix(&format!("blk.{layer}.{part}.weight"), shape);
    }

    /// A tensor whose name ends differently.
    fn other(&mut self, layer: u64, name: &str, shape: &[u64]) {
        self.0.matrix(&format!("blk.{layer}.{name}"), shape);
    }

    fn attention(&mut self, layer: u64, head: u64, heads_kv: u64) {
        self.matrix(layer, "attn_q", &[N_EMBD, N_HEAD * head]);
        self.matrix(layer, "attn_k", &[N_EMBD, heads_kv * head]);
        self.matrix(layer, "attn_v", &[N_EMBD, heads_kv * head]);
        self.matrix(layer, "attn_output", &[N_HEAD * head, N_EMBD]);
    }

    fn head_norms(&mut self, layer: u64, head: u64) {
        self.norm(layer, "attn_q_norm", head);
        self.norm(layer, "attn_k_norm", head);
    }

    fn feed_forward(&mut self, layer: u64) {
        self.matrix(layer, "ffn_gate", &[N_EMBD, N_FF]);
        self.matrix(layer, "ffn_up", &[N_EMBD, N_FF]);
        self.matrix(layer, "ffn_down", &[N_FF, N_EMBD]);
    }

    fn experts(&mut self, layer: u64) {
        self.matrix(layer, "ffn_gate_inp", &[N_EMBD, N_EXPERTS]);
        self.0.matrices_of(self.1);
        self.matrix(layer, "ffn_gate_exps", &[N_EMBD, N_FF, N_EXPERTS]);
        self.matrix(layer, "ffn_up_exps", &[N_EMBD, N_FF, N_EXPERTS]);
        self.matrix(layer, "ffn_down_exps", &[N_FF, N_EMBD, N_EXPERTS]);
        self.0.matrices_of(WeightKind::F32);
    }

    fn llama(&mut self) {
        self.common(3, HEAD);
        self.0.u32("attention.head_count_kv", N_HEAD_KV);
        self.ends();
        for layer in 0..3 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.attention(layer, HEAD, N_HEAD_KV);
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
        }
    }

    fn qwen3(&mut self) {
        self.common(3, HEAD);
        self.0.u32("attention.head_count_kv", N_HEAD_KV);
        self.ends();
        for layer in 0..3 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.attention(layer, HEAD, N_HEAD_KV);
            self.head_norms(layer, HEAD);
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
        }
    }

    fn qwen3_moe(&mut self) {
        self.common(3, HEAD);
        self.0.u32("attention.head_count_kv", N_HEAD_KV);
        self.0.u32("expert_count", N_EXPERTS);
        self.0.u32("expert_used_count", 2);
        self.0.u32("expert_feed_forward_length", N_FF);
        self.ends();
        for layer in 0..3 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.attention(layer, HEAD, N_HEAD_KV);
            self.head_norms(layer, HEAD);
            self.norm(layer, "ffn_norm", N_EMBD);
            self.experts(layer);
        }
    }

    fn gemma3(&mut self) {
        const HEAD: u64 = 64;
        self.common(6, HEAD);
        self.0.u32("attention.head_count_kv", N_HEAD_KV);
        self.0.u32("attention.sliding_window", 24);
        self.ends();
        for layer in 0..6 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.attention(layer, HEAD, N_HEAD_KV);
            self.head_norms(layer, HEAD);
            self.branch_norm(layer, "post_attention_norm");
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
            self.branch_norm(layer, "post_ffw_norm");
        }
    }

    fn gemma4(&mut self) {
        /// Layers with and without a window have heads of these widths.
        const WIDTHS: [u64; 2] = [64, 128];
        const LAYERS: u64 = 6;
        /// Layers that read the cache of others.
        const SHARED: u64 = 2;
        self.common(LAYERS, WIDTHS[1]);
        self.0.u32("attention.key_length_swa", WIDTHS[0]);
        self.0.u32("attention.value_length_swa", WIDTHS[0]);
        self.0.u32("rope.dimension_count_swa", WIDTHS[0]);
        self.0.u32("attention.sliding_window", 24);
        self.0.u32("attention.shared_kv_layers", SHARED);
        self.0.u32("embedding_length_per_layer_input", 0);
        // The last two of its own must be one of each: the shared ones read those.
        let has_window = |layer: u64| layer.is_multiple_of(2);
        let heads_kv = |layer: u64| if has_window(layer) { 2 } else { 1 };
        let windows: Vec<bool> = (0..LAYERS).map(has_window).collect();
        let heads: Vec<u64> = (0..LAYERS).map(heads_kv).collect();
        self.0.bools("attention.sliding_window_pattern", &windows);
        self.0.u32s("attention.head_count_kv", &heads);
        self.ends();
        self.0.norm("rope_freqs.weight", WIDTHS[1] / 2);
        for layer in 0..LAYERS {
            let head = WIDTHS[usize::from(!has_window(layer))];
            self.norm(layer, "attn_norm", N_EMBD);
            self.attention(layer, head, heads_kv(layer));
            self.head_norms(layer, head);
            self.branch_norm(layer, "post_attention_norm");
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
            self.branch_norm(layer, "post_ffw_norm");
        }
    }

    fn deepseek2(&mut self) {
        const RANK: u64 = 64;
        const ROPE: u64 = 32;
        const KEY: u64 = 64;
        const VALUE: u64 = 32;
        self.0.u32("block_count", 2);
        self.0.u32("feed_forward_length", N_FF);
        self.0.u32("attention.head_count", N_HEAD);
        self.0.u32("attention.head_count_kv", 1);
        self.0.u32("attention.key_length", RANK + ROPE);
        self.0.u32("attention.value_length", RANK);
        self.0.u32("attention.key_length_mla", KEY);
        self.0.u32("attention.value_length_mla", VALUE);
        self.0.u32("attention.kv_lora_rank", RANK);
        self.0.u32("attention.q_lora_rank", RANK);
        self.0.u32("rope.dimension_count", ROPE);
        self.0.u32("leading_dense_block_count", 1);
        self.0.u32("expert_count", N_EXPERTS);
        self.0.u32("expert_used_count", 2);
        self.0.u32("expert_shared_count", 1);
        self.0.u32("expert_feed_forward_length", N_FF);
        self.ends();
        for layer in 0..2 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.norm(layer, "attn_q_a_norm", RANK);
            self.norm(layer, "attn_kv_a_norm", RANK);
            self.matrix(layer, "attn_q_a", &[N_EMBD, RANK]);
            self.matrix(layer, "attn_q_b", &[RANK, N_HEAD * KEY]);
            self.matrix(layer, "attn_kv_a_mqa", &[N_EMBD, RANK + ROPE]);
            self.matrix(layer, "attn_k_b", &[KEY - ROPE, RANK, N_HEAD]);
            self.matrix(layer, "attn_v_b", &[RANK, VALUE, N_HEAD]);
            self.matrix(layer, "attn_output", &[N_HEAD * VALUE, N_EMBD]);
            self.norm(layer, "ffn_norm", N_EMBD);
            if layer == 0 {
                self.feed_forward(layer);
                continue;
            }
            self.experts(layer);
            self.matrix(layer, "ffn_gate_shexp", &[N_EMBD, N_FF]);
            self.matrix(layer, "ffn_up_shexp", &[N_EMBD, N_FF]);
            self.matrix(layer, "ffn_down_shexp", &[N_FF, N_EMBD]);
        }
    }

    fn state_sizes(&mut self, states: States) {
        self.0.u32("ssm.conv_kernel", states.conv);
        self.0.u32("ssm.inner_size", states.inner);
        self.0.u32("ssm.state_size", states.size);
        self.0.u32("ssm.time_step_rank", states.rank);
        if states.groups > 0 {
            self.0.u32("ssm.group_count", states.groups);
        }
    }

    fn qwen35(&mut self) {
        const TRUNK: u64 = 4;
        let states = States {
            conv: 4,
            inner: 4 * 32,
            size: 32,
            rank: 4,
            groups: 2,
        };
        self.common(TRUNK + 1, HEAD);
        self.0.u32("nextn_predict_layers", 1);
        self.0.u32("attention.head_count_kv", N_HEAD_KV);
        self.0.u32s("rope.dimension_sections", &[6, 5, 5, 0]);
        self.state_sizes(states);
        self.ends();
        let (keys, values) = (states.size * states.groups, states.size * states.rank);
        for layer in 0..=TRUNK {
            self.norm(layer, "attn_norm", N_EMBD);
            self.branch_norm(layer, "post_attention_norm");
            if layer % 4 == 3 || layer == TRUNK {
                self.matrix(layer, "attn_q", &[N_EMBD, 2 * N_HEAD * HEAD]);
                self.matrix(layer, "attn_k", &[N_EMBD, N_HEAD_KV * HEAD]);
                self.matrix(layer, "attn_v", &[N_EMBD, N_HEAD_KV * HEAD]);
                self.matrix(layer, "attn_output", &[N_HEAD * HEAD, N_EMBD]);
                self.head_norms(layer, HEAD);
            } else {
                self.matrix(layer, "attn_qkv", &[N_EMBD, 2 * keys + values]);
                self.matrix(layer, "attn_gate", &[N_EMBD, values]);
                self.matrix(layer, "ssm_conv1d", &[states.conv, 2 * keys + values]);
                self.other(layer, "ssm_dt.bias", &[states.rank]);
                self.other(layer, "ssm_a", &[states.rank]);
                self.matrix(layer, "ssm_beta", &[N_EMBD, states.rank]);
                self.matrix(layer, "ssm_alpha", &[N_EMBD, states.rank]);
                self.norm(layer, "ssm_norm", states.size);
                self.matrix(layer, "ssm_out", &[values, N_EMBD]);
            }
            self.feed_forward(layer);
        }
        self.matrix(TRUNK, "nextn.eh_proj", &[2 * N_EMBD, N_EMBD]);
        self.norm(TRUNK, "nextn.enorm", N_EMBD);
        self.norm(TRUNK, "nextn.hnorm", N_EMBD);
    }

    fn lfm2(&mut self) {
        const HEAD: u64 = N_EMBD / N_HEAD * 2;
        const N_HEAD_HERE: u64 = N_EMBD / HEAD;
        const TAPS: u64 = 3;
        self.0.u32("block_count", 4);
        self.0.u32("feed_forward_length", N_FF);
        self.0.u32("attention.head_count", N_HEAD_HERE);
        self.0.u32s("attention.head_count_kv", &[0, 0, 1, 0]);
        self.0.u32("shortconv.l_cache", TAPS);
        self.0.norm("token_embd_norm.weight", N_EMBD);
        for layer in 0..4 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
            if layer == 2 {
                self.matrix(layer, "attn_q", &[N_EMBD, N_EMBD]);
                self.matrix(layer, "attn_k", &[N_EMBD, HEAD]);
                self.matrix(layer, "attn_v", &[N_EMBD, HEAD]);
                self.matrix(layer, "attn_output", &[N_EMBD, N_EMBD]);
                self.head_norms(layer, HEAD);
            } else {
                self.matrix(layer, "shortconv.conv", &[TAPS, N_EMBD]);
                self.matrix(layer, "shortconv.in_proj", &[N_EMBD, 3 * N_EMBD]);
                self.matrix(layer, "shortconv.out_proj", &[N_EMBD, N_EMBD]);
            }
        }
    }

    /// A layer of the first Mamba.
    fn mamba_layer(&mut self, layer: u64, states: States) {
        let States {
            conv,
            inner,
            size,
            rank,
            ..
        } = states;
        self.matrix(layer, "ssm_in", &[N_EMBD, 2 * inner]);
        self.matrix(layer, "ssm_conv1d", &[conv, inner]);
        self.other(layer, "ssm_conv1d.bias", &[inner]);
        self.matrix(layer, "ssm_x", &[inner, rank + 2 * size]);
        self.matrix(layer, "ssm_dt", &[rank, inner]);
        self.other(layer, "ssm_dt.bias", &[inner]);
        self.other(layer, "ssm_a", &[size, inner]);
        self.other(layer, "ssm_d", &[inner]);
        self.matrix(layer, "ssm_out", &[inner, N_EMBD]);
    }

    fn mamba(&mut self) {
        let states = States {
            conv: 4,
            inner: 2 * N_EMBD,
            size: 16,
            rank: 4,
            groups: 0,
        };
        self.0.u32("block_count", 3);
        self.0.u32("feed_forward_length", 0);
        self.0.u32("attention.head_count", 0);
        self.state_sizes(states);
        self.ends();
        for layer in 0..3 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.mamba_layer(layer, states);
        }
    }

    fn jamba(&mut self) {
        const HEAD: u64 = 32;
        let states = States {
            conv: 4,
            inner: 2 * N_EMBD,
            size: 16,
            rank: 4,
            groups: 0,
        };
        self.0.u32("block_count", 3);
        self.0.u32("feed_forward_length", N_FF);
        self.0.u32("attention.head_count", N_EMBD / HEAD);
        self.0.u32s("attention.head_count_kv", &[0, 1, 0]);
        self.state_sizes(states);
        self.ends();
        for layer in 0..3 {
            self.norm(layer, "attn_norm", N_EMBD);
            if layer == 1 {
                self.matrix(layer, "attn_q", &[N_EMBD, N_EMBD]);
                self.matrix(layer, "attn_k", &[N_EMBD, HEAD]);
                self.matrix(layer, "attn_v", &[N_EMBD, HEAD]);
                self.matrix(layer, "attn_output", &[N_EMBD, N_EMBD]);
            } else {
                self.mamba_layer(layer, states);
                self.norm(layer, "ssm_dt_norm", states.rank);
                self.norm(layer, "ssm_b_norm", states.size);
                self.norm(layer, "ssm_c_norm", states.size);
            }
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
        }
    }

    /// A layer of Mamba 2.
    fn mamba2_layer(&mut self, layer: u64, states: States) {
        let States {
            conv,
            inner,
            size,
            rank,
            groups,
        } = states;
        let width = inner + 2 * groups * size;
        self.matrix(layer, "ssm_in", &[N_EMBD, inner + width + rank]);
        self.matrix(layer, "ssm_conv1d", &[conv, width]);
        self.other(layer, "ssm_conv1d.bias", &[width]);
        self.other(layer, "ssm_dt.bias", &[rank]);
        self.other(layer, "ssm_a", &[1, rank]);
        self.other(layer, "ssm_d", &[1, rank]);
        self.matrix(layer, "ssm_norm", &[inner / groups, groups]);
        self.matrix(layer, "ssm_out", &[inner, N_EMBD]);
    }

    const MAMBA2: States = States {
        conv: 4,
        inner: 2 * N_EMBD,
        size: 16,
        rank: 4,
        groups: 1,
    };

    fn granite_hybrid(&mut self) {
        self.common(3, HEAD);
        self.0.u32s("attention.head_count_kv", &[0, N_HEAD_KV, 0]);
        self.state_sizes(Self::MAMBA2);
        for (key, value) in [
            ("logit_scale", 1.0),
            ("residual_scale", 1.0),
            ("embedding_scale", 1.0),
            ("attention.scale", 0.1),
        ] {
            self.0.f32(key, value);
        }
        self.ends();
        for layer in 0..3 {
            self.norm(layer, "attn_norm", N_EMBD);
            if layer == 1 {
                self.attention(layer, HEAD, N_HEAD_KV);
            } else {
                self.mamba2_layer(layer, Self::MAMBA2);
            }
            self.norm(layer, "ffn_norm", N_EMBD);
            self.feed_forward(layer);
        }
    }

    fn falcon_h1(&mut self) {
        self.common(2, HEAD);
        self.0.u32("attention.head_count_kv", N_HEAD_KV);
        self.state_sizes(Self::MAMBA2);
        self.ends();
        for layer in 0..2 {
            self.norm(layer, "attn_norm", N_EMBD);
            self.mamba2_layer(layer, Self::MAMBA2);
            self.attention(layer, HEAD, N_HEAD_KV);
            // Its name has no ending in this family.
            self.0.norm(&format!("blk.{layer}.ffn_norm"), N_EMBD);
            self.feed_forward(layer);
        }
    }

    fn rwkv6(&mut self) {
        const HEAD: u64 = 32;
        const EXTRA: u64 = 8;
        self.0.u32("block_count", 2);
        self.0.u32("feed_forward_length", N_FF);
        self.0.u32("attention.head_count", 0);
        self.0.u32("wkv.head_size", HEAD);
        self.0.u32("time_mix_extra_dim", EXTRA);
        self.0.u32("time_decay_extra_dim", EXTRA);
        self.0.f32("attention.layer_norm_epsilon", 1e-5);
        self.ends();
        self.0.matrix("output_norm.bias", &[N_EMBD]);
        self.0.norm("token_embd_norm.weight", N_EMBD);
        self.0.matrix("token_embd_norm.bias", &[N_EMBD]);
        for layer in 0..2 {
            for norm in ["attn_norm", "attn_norm_2", "time_mix_ln"] {
                self.norm(layer, norm, N_EMBD);
                self.other(layer, &format!("{norm}.bias"), &[N_EMBD]);
            }
            for part in ["x", "w", "k", "v", "r", "g"] {
                self.matrix(layer, &format!("time_mix_lerp_{part}"), &[N_EMBD, 1, 1]);
            }
            self.matrix(layer, "time_mix_w1", &[N_EMBD, 5 * EXTRA]);
            self.matrix(layer, "time_mix_w2", &[EXTRA, N_EMBD, 5]);
            self.matrix(layer, "time_mix_first", &[HEAD, N_EMBD / HEAD]);
            self.matrix(layer, "time_mix_decay", &[N_EMBD]);
            self.matrix(layer, "time_mix_decay_w1", &[N_EMBD, EXTRA]);
            self.matrix(layer, "time_mix_decay_w2", &[EXTRA, N_EMBD]);
            for part in ["key", "value", "receptance", "gate", "output"] {
                self.matrix(layer, &format!("time_mix_{part}"), &[N_EMBD, N_EMBD]);
            }
            self.matrix(layer, "channel_mix_lerp_k", &[N_EMBD, 1, 1]);
            self.matrix(layer, "channel_mix_lerp_r", &[N_EMBD, 1, 1]);
            self.matrix(layer, "channel_mix_key", &[N_EMBD, N_FF]);
            self.matrix(layer, "channel_mix_value", &[N_FF, N_EMBD]);
            self.matrix(layer, "channel_mix_receptance", &[N_EMBD, N_EMBD]);
        }
    }
}
