//! Kinds of engines and how they differ.

use crate::Streams;

/// What kind of engine a provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Another endpoint of ours.
    Sextant,
    /// llama.cpp's server.
    LlamaServer,
    Ollama,
    Vllm,
    LmStudio,
    /// Anything else that speaks OpenAI's dialect.
    OpenAi,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Sextant,
        Self::LlamaServer,
        Self::Ollama,
        Self::Vllm,
        Self::LmStudio,
        Self::OpenAi,
    ];

    /// What the configuration calls it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sextant => "sextant",
            Self::LlamaServer => "llama-server",
            Self::Ollama => "ollama",
            Self::Vllm => "vllm",
            Self::LmStudio => "lm-studio",
            Self::OpenAi => "openai",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Services on the internet look after themselves; silence of an engine of one's own may
    /// be a hang.
    #[must_use]
    pub const fn streams(self) -> Streams {
        match self {
            Self::OpenAi => Streams::AsShown,
            _ => Streams::Always,
        }
    }

    /// How it spells a sampling value that OpenAI's dialect does not have; `None` where it
    /// has none like it.
    pub(crate) fn spelling(self, field: Extra) -> Option<&'static str> {
        match (self, field) {
            (Self::Ollama | Self::OpenAi, _) => None,
            (_, Extra::TopK) => Some("top_k"),
            (_, Extra::MinP) => Some("min_p"),
            (Self::Vllm, Extra::RepeatPenalty) => Some("repetition_penalty"),
            (_, Extra::RepeatPenalty) => Some("repeat_penalty"),
            (Self::LlamaServer, Extra::AttentionSinks) => None,
            (Self::Sextant | Self::LlamaServer, field) => Some(field.name()),
            (Self::Vllm, Extra::IgnoreEos) => Some("ignore_eos"),
            (Self::Vllm, Extra::TemplateKwargs) => Some("chat_template_kwargs"),
            _ => None,
        }
    }
}

/// Fields beyond OpenAI's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    TopK,
    MinP,
    TypicalP,
    RepeatPenalty,
    RepeatLastN,
    DryMultiplier,
    DryBase,
    DryAllowedLength,
    DryPenaltyLastN,
    DrySequenceBreakers,
    CachePrompt,
    AttentionSinks,
    IgnoreEos,
    TemplateKwargs,
}

impl Extra {
    /// llama.cpp's name, which is ours too.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TopK => "top_k",
            Self::MinP => "min_p",
            Self::TypicalP => "typical_p",
            Self::RepeatPenalty => "repeat_penalty",
            Self::RepeatLastN => "repeat_last_n",
            Self::DryMultiplier => "dry_multiplier",
            Self::DryBase => "dry_base",
            Self::DryAllowedLength => "dry_allowed_length",
            Self::DryPenaltyLastN => "dry_penalty_last_n",
            Self::DrySequenceBreakers => "dry_sequence_breakers",
            Self::CachePrompt => "cache_prompt",
            Self::AttentionSinks => "attention_sinks",
            Self::IgnoreEos => "ignore_eos",
            Self::TemplateKwargs => "chat_template_kwargs",
        }
    }
}
