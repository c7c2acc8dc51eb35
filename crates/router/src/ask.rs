//! What a request asks of the router.

use crate::{Capability, Limit, Target};

/// The facts of a request that decide where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub wanted: Wanted,
    /// How far it may travel.
    pub limit: Limit,
    pub needs: Needs,
    /// Who answered the conversation so far and still holds its KV cache.
    pub home: Option<Target>,
    /// Decides between weights; the same ticket draws the same.
    pub ticket: u64,
}

/// What a request needs of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    pub capabilities: Vec<Capability>,
    /// Tokens that the prompt and the answer surely take; an estimate from below.
    pub tokens: Option<u32>,
}

/// The `model` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `auto`, or nothing.
    Auto,
    /// `auto:TASK`.
    Task(Task),
    /// An alias, `PROVIDER:MODEL`, or the name of a model.
    Named(String),
}

impl Wanted {
    /// Reads the `model` of a request. `None` for an `auto:` whose task does not exist.
    #[must_use]
    pub fn parse(model: Option<&str>) -> Option<Self> {
        match model {
            None | Some("" | "auto") => Some(Self::Auto),
            Some(name) => match name.strip_prefix("auto:") {
                Some(task) => Task::from_word(task).map(Self::Task),
                None => Some(Self::Named(name.to_owned())),
            },
        }
    }
}

/// What a conversation is about; each has a route of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    FastChat,
    Reasoning,
    Code,
    Tools,
    Factual,
    Deep,
}

impl Task {
    pub const ALL: [Self; 6] = [
        Self::FastChat,
        Self::Reasoning,
        Self::Code,
        Self::Tools,
        Self::Factual,
        Self::Deep,
    ];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::FastChat => "fast_chat",
            Self::Reasoning => "reasoning",
            Self::Code => "code",
            Self::Tools => "tools",
            Self::Factual => "factual",
            Self::Deep => "deep",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.word() == word)
    }
}
