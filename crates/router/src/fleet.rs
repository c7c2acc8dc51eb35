//! A picture of all providers at one moment.

use std::sync::Arc;
use std::time::Duration;

use crate::Reach;

/// All providers, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    pub providers: Vec<Provider>,
}

impl Fleet {
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }
}

/// Something that answers requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    pub name: String,
    pub reach: Reach,
    /// The smaller is tried first.
    pub priority: u32,
    /// Its share among providers of the same priority; 0 takes no new conversations.
    pub weight: u32,
    pub availability: Availability,
    pub load: Load,
    /// Recent time to the first token.
    pub ttft: Option<Duration>,
    /// What answers where no model is named.
    pub default_model: Option<String>,
    pub models: Arc<[Model]>,
}

/// Whether a provider can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    Up,
    /// Nothing is known yet.
    Unknown,
    /// It did not answer when it was last looked at.
    Down {
        cause: String,
    },
    /// It failed too often; asked again after a pause.
    Broken {
        cause: String,
        pause: Duration,
    },
    /// It asked to be left alone for a while.
    Cooling {
        pause: Duration,
    },
}

/// Requests at a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub running: u32,
    /// Requests it is given at once; further ones wait.
    pub running_max: u32,
}

impl Load {
    #[must_use]
    pub fn is_full(self) -> bool {
        self.running >= self.running_max
    }
}

/// Ollama's tag for models without one.
pub const LATEST: &str = ":latest";

/// Whether two spellings mean one model: they are the same but for `:latest`.
#[must_use]
pub fn same_name(one: &str, other: &str) -> bool {
    untagged(one) == untagged(other)
}

/// Without the tag that says nothing.
#[must_use]
pub fn untagged(name: &str) -> &str {
    name.strip_suffix(LATEST).unwrap_or(name)
}

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub name: String,
    pub is_loaded: bool,
    /// Tokens; `None` where it is not known.
    pub context: Option<u32>,
    /// What is known of its capabilities; all others are unknown.
    pub capabilities: Vec<(Capability, Knowledge)>,
}

impl Model {
    /// Whether the model has the capability; `None` where nobody knows.
    #[must_use]
    pub fn knowledge(&self, capability: Capability) -> Option<Knowledge> {
        let known = self.capabilities.iter();
        known
            .copied()
            .find(|(known, _)| *known == capability)
            .map(|(_, knowledge)| knowledge)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    Has,
    Lacks,
}

/// What a request may need of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    Chat,
    Completion,
    Embeddings,
    Tools,
    /// Answers held to a JSON Schema.
    JsonSchema,
    /// Answers held to a regular expression or another grammar.
    Grammar,
    Logprobs,
    Vision,
    /// Going on with an answer of which the beginning is given.
    Continuation,
    /// Tokenising, token ids as prompts, rendering of templates: what only the engine
    /// itself can do.
    Tokens,
}

impl Capability {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embeddings => "embeddings",
            Self::Tools => "tools",
            Self::JsonSchema => "json_schema",
            Self::Grammar => "grammar",
            Self::Logprobs => "logprobs",
            Self::Vision => "vision",
            Self::Continuation => "continuation",
            Self::Tokens => "tokens",
        }
    }
}
