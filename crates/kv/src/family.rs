//! What sets the architectures apart, as `load_arch_hparams` of each and
//! `llama_model::create_memory` have it.

/// What a layer holds between passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Nothing: encoders and diffusion models.
    None,
    /// Keys and values in every layer.
    Attention,
    /// A state of fixed size in every layer.
    State,
    Hybrid(Split),
    /// Caches that are measured, not derived: several sizes in one, kept by rules of their own.
    Underived,
}

/// Which layers of a hybrid hold a state instead of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Those without heads of keys.
    NoHeads,
    /// Those with neither heads of keys nor a feed-forward part; those with one hold nothing.
    NoHeadsNoFeedForward,
    /// All but each n-th, unless the metadata list them.
    AllBut { every: u64 },
    /// Every layer holds both.
    Both,
}

/// Where the tokens of a sliding window come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowTokens {
    /// Without the key, or with 0, there is no window.
    Key,
    /// The key, or this.
    KeyOr(u64),
    /// This, where the key is there and not 0.
    Fixed(u64),
    /// This, unless the key is 0.
    FixedUnlessZero(u64),
}

/// Which layers have a window, where the metadata do not list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowLayers {
    /// All but the last of each group of that many.
    Period(u64),
    /// All but the first of each group of that many.
    PeriodDenseFirst(u64),
    /// The metadata always list them.
    Listed,
    /// All that attend.
    Attending,
}

/// A sliding window that an architecture may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowRule {
    pub(crate) tokens: WindowTokens,
    pub(crate) layers: WindowLayers,
}

/// Every architecture that the pinned llama.cpp knows and that makes a context of its own.
pub const ARCHITECTURES: &[&str] = &[
    "afmoe",
    "apertus",
    "arcee",
    "arctic",
    "arwkv7",
    "baichuan",
    "bailingmoe",
    "bailingmoe2",
    "bailingmoe3",
    "bert",
    "bitnet",
    "bloom",
    "chameleon",
    "chatglm",
    "clef",
    "codeshell",
    "cogvlm",
    "cohere2",
    "cohere2moe",
    "command-r",
    "dbrx",
    "deci",
    "deepseek",
    "deepseek2",
    "deepseek2-ocr",
    "deepseek32",
    "deepseek4",
    "dots1",
    "dots3note",
    "dream",
    "ernie4_5",
    "ernie4_5-moe",
    "eurobert",
    "exaone",
    "exaone-moe",
    "exaone4",
    "falcon",
    "falcon-h1",
    "gemma",
    "gemma-embedding",
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "glm-dsa",
    "glm4",
    "glm4moe",
    "glm5-next",
    "gpt-oss",
    "gpt2",
    "gptneox",
    "granite",
    "granite_swa",
    "granitehybrid",
    "granitemoe",
    "graniteswitch",
    "grok",
    "grovemoe",
    "hrm_text",
    "hunyuan-dense",
    "hunyuan-moe",
    "hunyuan_vl",
    "hy_v3",
    "hy_v4",
    "internlm2",
    "jais",
    "jais2",
    "jamba",
    "jina-bert-v2",
    "jina-bert-v3",
    "kimi-k3",
    "kimi-linear",
    "laguna",
    "lfm2",
    "lfm2moe",
    "llada",
    "llada-moe",
    "llama",
    "llama-embed",
    "llama4",
    "maincoder",
    "mamba",
    "mamba2",
    "maple",
    "mellum",
    "mimo2",
    "minicpm",
    "minicpm3",
    "minimax-01",
    "minimax-m2",
    "minimax-m3",
    "mistral3",
    "mistral4",
    "modern-bert",
    "mpt",
    "muse-glimmer",
    "nanbeige",
    "nemotron",
    "nemotron_h",
    "nemotron_h_moe",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "olmo",
    "olmo2",
    "olmoe",
    "openelm",
    "orion",
    "paddleocr",
    "pangu-embedded",
    "phi2",
    "phi3",
    "phimoe",
    "plamo",
    "plamo2",
    "plamo3",
    "plm",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen35",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
    "qwen3tts",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen4exp",
    "refact",
    "rnd1",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "seed_oss",
    "smallthinker",
    "smollm3",
    "spark2_5",
    "stablelm",
    "starcoder",
    "starcoder2",
    "step35",
    "t5",
    "t5encoder",
    "talkie",
    "wavtokenizer-dec",
    "xverse",
];

pub(crate) fn memory(architecture: &str) -> Memory {
    match architecture {
        "bert" | "jina-bert-v2" | "jina-bert-v3" | "nomic-bert" | "nomic-bert-moe" | "neo-bert"
        | "eurobert" | "wavtokenizer-dec" | "modern-bert" | "gemma-embedding" | "dream"
        | "llada" | "llada-moe" | "rnd1" | "clef" | "t5encoder" => Memory::None,
        "mamba" | "mamba2" | "rwkv6" | "rwkv6qwen2" | "rwkv7" | "arwkv7" => Memory::State,
        "jamba" | "plamo2" | "granitehybrid" | "lfm2" | "lfm2moe" | "kimi-linear" | "kimi-k3"
        | "bailingmoe3" => Memory::Hybrid(Split::NoHeads),
        "nemotron_h" | "nemotron_h_moe" => Memory::Hybrid(Split::NoHeadsNoFeedForward),
        "qwen3next" | "qwen35" | "qwen35moe" => Memory::Hybrid(Split::AllBut { every: 4 }),
        "minimax-01" => Memory::Hybrid(Split::AllBut { every: 8 }),
        "falcon-h1" => Memory::Hybrid(Split::Both),
        "deepseek4" | "dots3note" | "glm-dsa" | "glm5-next" | "hy_v4" | "minimax-m3"
        | "qwen4exp" | "hrm_text" | "graniteswitch" | "t5" => Memory::Underived,
        _ => Memory::Attention,
    }
}

pub(crate) fn window(architecture: &str, n_layers: u64) -> Option<WindowRule> {
    use WindowLayers::{Attending, Listed, Period, PeriodDenseFirst};
    use WindowTokens::{Fixed, FixedUnlessZero, Key, KeyOr};
    let (tokens, layers) = match architecture {
        "afmoe" | "cohere2" | "exaone-moe" | "mellum" | "muse-glimmer" | "olmo2" => {
            (Key, Period(4))
        }
        "exaone4" if n_layers == 64 => (KeyOr(4096), Period(4)),
        "cohere2moe" | "laguna" => (Key, PeriodDenseFirst(4)),
        "gemma2" => (KeyOr(4096), Period(2)),
        "gemma3" => (Key, Period(6)),
        "gemma3n" => (Key, Period(5)),
        "gpt-oss" => (Key, Period(2)),
        "plamo3" => (Key, Period(8)),
        "smallthinker" => (Fixed(4096), PeriodDenseFirst(4)),
        "llama4" => (FixedUnlessZero(8192), Period(4)),
        "gemma4" | "granite_swa" | "maple" | "mimo2" | "spark2_5" | "step35" => (Key, Listed),
        "lfm2" => (Key, Attending),
        _ => return None,
    };
    Some(WindowRule { tokens, layers })
}

/// Whether keys and values may be kept as one latent vector (MLA).
pub(crate) fn may_be_latent(architecture: &str) -> bool {
    matches!(
        architecture,
        "deepseek2" | "deepseek32" | "mistral4" | "bailingmoe3" | "kimi-linear" | "kimi-k3"
    )
}

/// Whether the state has groups of its own (`ssm.group_count`).
pub(crate) fn has_state_groups(architecture: &str) -> bool {
    matches!(
        architecture,
        "mamba2"
            | "granitehybrid"
            | "falcon-h1"
            | "nemotron_h"
            | "nemotron_h_moe"
            | "plamo2"
            | "qwen3next"
            | "qwen35"
            | "qwen35moe"
    )
}

/// How positions are counted: with several numbers a token, keys cannot be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Positions {
    One,
    Several,
    /// Several where `rope.dimension_sections` says so.
    BySections,
}

pub(crate) fn positions(architecture: &str) -> Positions {
    match architecture {
        "qwen2vl" | "paddleocr" | "qwen3vl" | "qwen3vlmoe" | "qwen35" | "qwen35moe" | "clef"
        | "qwen4exp" | "qwen3tts" => Positions::Several,
        "glm4" | "glm4moe" | "hunyuan_vl" => Positions::BySections,
        _ => Positions::One,
    }
}
