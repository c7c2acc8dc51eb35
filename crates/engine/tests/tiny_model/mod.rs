//! GGUF files of a few thousand random 32-bit weights, with a token for each byte.

use std::io::Write;
use std::path::Path;

const N_EMBD: u64 = 32;
const N_HEAD: u32 = 4;
const N_HEAD_KV: u32 = 2;
const HEAD_DIM: u64 = 8;
const N_FF: u64 = 64;
/// `<unk>`, `<s>`, `</s>`, then the bytes.
const N_VOCAB: u64 = 3 + 256;
const ALIGNMENT: usize = 32;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Architecture {
    Llama,
    /// Five layers with a sliding window of [`WINDOW`] tokens, then one without.
    Gemma3,
}

/// What the metadata say a model is for; `None` leaves a key out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Purpose {
    pub(crate) pooling_type: Option<u32>,
    pub(crate) is_causal: Option<bool>,
}

pub(crate) const WINDOW: u32 = 24;

#[derive(Debug)]
pub(crate) struct TinyModel {
    file: tempfile::NamedTempFile,
}

impl TinyModel {
    pub(crate) fn write(architecture: Architecture) -> Self {
        Self::write_for(architecture, Purpose::default())
    }

    pub(crate) fn write_for(architecture: Architecture, purpose: Purpose) -> Self {
        let mut file = tempfile::Builder::new()
            .suffix(".gguf")
            .tempfile()
            .expect("a temporary file");
        let bytes = Gguf::new(architecture, purpose).into_bytes();
        file.write_all(&bytes).expect("room for a small file");
        Self { file }
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
}

#[derive(Debug, Default)]
struct Gguf {
    n_pairs: u64,
    pairs: Vec<u8>,
    n_tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
    random: u64,
}

impl Gguf {
    fn new(architecture: Architecture, purpose: Purpose) -> Self {
        let mut gguf = Self::default();
        gguf.hyperparameters(architecture, purpose);
        gguf.tokenizer();
        gguf.tensors(architecture);
        gguf
    }

    fn hyperparameters(&mut self, architecture: Architecture, purpose: Purpose) {
        let (name, n_layer) = match architecture {
            Architecture::Llama => ("llama", 3),
            Architecture::Gemma3 => ("gemma3", 6),
        };
        self.string("general.architecture", name);
        let key = |last: &str| format!("{name}.{last}");
        self.u32(&key("context_length"), 1024);
        self.u32(&key("embedding_length"), N_EMBD as u32);
        self.u32(&key("block_count"), n_layer);
        self.u32(&key("feed_forward_length"), N_FF as u32);
        self.u32(&key("attention.head_count"), N_HEAD);
        self.u32(&key("attention.head_count_kv"), N_HEAD_KV);
        self.u32(&key("attention.key_length"), HEAD_DIM as u32);
        self.u32(&key("attention.value_length"), HEAD_DIM as u32);
        self.f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
        self.f32(&key("rope.freq_base"), 10_000.0);
        if matches!(architecture, Architecture::Gemma3) {
            self.u32(&key("attention.sliding_window"), WINDOW);
        }
        if let Some(pooling_type) = purpose.pooling_type {
            self.u32(&key("pooling_type"), pooling_type);
        }
        if let Some(is_causal) = purpose.is_causal {
            self.bool(&key("attention.causal"), is_causal);
        }
    }

    fn tokenizer(&mut self) {
        const UNKNOWN: i32 = 2;
        const CONTROL: i32 = 3;
        const BYTE: i32 = 6;
        self.string("tokenizer.ggml.model", "llama");
        let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
        self.key("tokenizer.ggml.tokens", 9);
        self.pairs.extend(8u32.to_le_bytes());
        self.pairs.extend(N_VOCAB.to_le_bytes());
        for token in special.into_iter().chain(bytes) {
            write_string(&mut self.pairs, &token);
        }
        self.key("tokenizer.ggml.scores", 9);
        self.pairs.extend(6u32.to_le_bytes());
        self.pairs.extend(N_VOCAB.to_le_bytes());
        self.pairs.extend(vec![0; 4 * N_VOCAB as usize]);
        self.key("tokenizer.ggml.token_type", 9);
        self.pairs.extend(5u32.to_le_bytes());
        self.pairs.extend(N_VOCAB.to_le_bytes());
        let types = [UNKNOWN, CONTROL, CONTROL].into_iter().chain([BYTE; 256]);
        self.pairs.extend(types.flat_map(i32::to_le_bytes));
    }

    fn tensors(&mut self, architecture: Architecture) {
        /// What each branch of a layer adds, beside 1 of the stream it adds to: with
        /// more, rounding grows from layer to layer.
        const BRANCH: f32 = 0.3;
        let (n_layer, is_gemma) = match architecture {
            Architecture::Llama => (3, false),
            Architecture::Gemma3 => (6, true),
        };
        let n_q = HEAD_DIM * u64::from(N_HEAD);
        let n_kv = HEAD_DIM * u64::from(N_HEAD_KV);
        self.matrix("token_embd.weight", N_EMBD, N_VOCAB);
        self.vector("output_norm.weight", N_EMBD, 1.0);
        self.matrix("output.weight", N_EMBD, N_VOCAB);
        for layer in 0..n_layer {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            self.vector(&name("attn_norm"), N_EMBD, 1.0);
            self.matrix(&name("attn_q"), N_EMBD, n_q);
            self.matrix(&name("attn_k"), N_EMBD, n_kv);
            self.matrix(&name("attn_v"), N_EMBD, n_kv);
            self.matrix(&name("attn_output"), n_q, N_EMBD);
            self.vector(&name("ffn_norm"), N_EMBD, 1.0);
            self.matrix(&name("ffn_gate"), N_EMBD, N_FF);
            self.matrix(&name("ffn_up"), N_EMBD, N_FF);
            self.matrix(&name("ffn_down"), N_FF, N_EMBD);
            if is_gemma {
                self.vector(&name("attn_q_norm"), HEAD_DIM, 1.0);
                self.vector(&name("attn_k_norm"), HEAD_DIM, 1.0);
                self.vector(&name("post_attention_norm"), N_EMBD, BRANCH);
                self.vector(&name("post_ffw_norm"), N_EMBD, BRANCH);
            }
        }
    }

    /// Weights that neither blow up nor scramble what passes through: larger ones make
    /// the model so sensitive that rounding shows.
    fn matrix(&mut self, name: &str, n_in: u64, n_out: u64) {
        let scale = 1.0 / (n_in as f32).sqrt();
        self.tensor(name, &[n_in, n_out], 0.0, scale);
    }

    fn vector(&mut self, name: &str, n: u64, mean: f32) {
        self.tensor(name, &[n], mean, 0.1);
    }

    fn tensor(&mut self, name: &str, shape: &[u64], mean: f32, scale: f32) {
        const F32: u32 = 0;
        self.n_tensors += 1;
        write_string(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        self.infos
            .extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        self.infos.extend(F32.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        for _ in 0..shape.iter().product() {
            let value = mean + scale * self.uniform();
            self.data.extend(value.to_le_bytes());
        }
        let padded = self.data.len().next_multiple_of(ALIGNMENT);
        self.data.resize(padded, 0);
    }

    /// From -1 to 1 (SplitMix64, Steele, Lea and Flood 2014).
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.n_pairs += 1;
        write_string(&mut self.pairs, key);
        self.pairs.extend(kind.to_le_bytes());
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.pairs.extend(value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.pairs.extend(value.to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.pairs.push(u8::from(value));
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        write_string(&mut self.pairs, value);
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(self.n_tensors.to_le_bytes());
        bytes.extend(self.n_pairs.to_le_bytes());
        bytes.extend(self.pairs);
        bytes.extend(self.infos);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(self.data);
        bytes
    }
}

fn write_string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.bytes());
}

/// How the tests open a tiny model: in 32 bits throughout, on one thread.
pub(crate) fn options(model: &TinyModel, context: u32, slots: u32) -> engine::OpenOptions {
    engine::OpenOptions {
        path: model.path().to_owned(),
        context: Some(context),
        context_max: context,
        slots,
        sequences: None,
        batch: 64,
        ubatch: 16,
        threads: 1,
        threads_batch: 1,
        type_k: llama::CacheType::F32,
        type_v: llama::CacheType::F32,
        flash_attention: llama::FlashAttention::Off,
        gpu_layers: Some(0),
        mmap: false,
        swa_full: false,
    }
}
