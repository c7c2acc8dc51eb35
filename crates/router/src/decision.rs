//! A decision and its reasons, as data and in words.

use std::fmt;
use std::time::Duration;

use crate::{Capability, Limit, Reach, Task};

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub provider: String,
    pub model: String,
}

impl Target {
    /// As it is displayed. A text in one piece, which costs a fraction of a formatter's.
    #[must_use]
    pub fn name(&self) -> String {
        [&self.provider, ":", &self.model].concat()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.provider, self.model)
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub route: Route,
    pub limit: Limit,
    /// In the order in which they are tried.
    pub candidates: Vec<Candidate>,
    pub excluded: Vec<Excluded>,
}

impl Decision {
    /// Takes out the candidates for which there is a reason. Those that stay keep their
    /// order, and why each comes before the next.
    pub fn exclude(&mut self, reason: impl Fn(&Candidate) -> Option<Exclusion>) {
        let mut kept: Vec<Candidate> = Vec::with_capacity(self.candidates.len());
        for candidate in self.candidates.drain(..) {
            let Some(reason) = reason(&candidate) else {
                kept.push(candidate);
                continue;
            };
            // Candidates are in the order of their advantages, so what first tells two apart
            // is the first of what tells apart those between them.
            if let Some(before) = kept.last_mut() {
                before.ahead = before.ahead.min(candidate.ahead);
            }
            self.excluded.push(Excluded {
                provider: candidate.target.provider,
                model: Some(candidate.target.model),
                reason,
            });
        }
        if let Some(last) = kept.last_mut() {
            last.ahead = None;
        }
        self.candidates = kept;
    }
}

/// How the `model` of the request was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `PROVIDER:MODEL`: there or nowhere.
    Explicit,
    Alias(String),
    Task(Task),
    /// The name of a model, wherever it is.
    Name(String),
    Auto,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit => f.write_str("the provider was named"),
            Self::Alias(name) => write!(f, "the alias `{name}`"),
            Self::Task(task) => write!(f, "the route for `{}`", task.word()),
            Self::Name(name) => write!(f, "the model `{name}`"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// A target that may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub target: Target,
    pub reach: Reach,
    /// How far the request may travel from there, with the label of this model.
    pub reach_max: Reach,
    /// The place in the route's list that brought it here, from 0: primary, then backups.
    pub rank: usize,
    /// Why it comes before the next candidate; `None` for the last.
    pub ahead: Option<Advantage>,
}

/// What puts a candidate before another, the first that tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advantage {
    Rank,
    Priority,
    Room,
    Home,
    Weight,
    Certainty,
    Loaded,
    Idleness,
    Latency,
    Order,
}

impl Advantage {
    /// In the order in which they are looked at.
    pub const ALL: [Self; 10] = [
        Self::Rank,
        Self::Priority,
        Self::Room,
        Self::Home,
        Self::Weight,
        Self::Certainty,
        Self::Loaded,
        Self::Idleness,
        Self::Latency,
        Self::Order,
    ];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rank => "rank",
            Self::Priority => "priority",
            Self::Room => "room",
            Self::Home => "home",
            Self::Weight => "weight",
            Self::Certainty => "certainty",
            Self::Loaded => "loaded",
            Self::Idleness => "idleness",
            Self::Latency => "latency",
            Self::Order => "order",
        }
    }

    /// In a sentence about the candidate.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Rank => "it stands earlier in the route's list",
            Self::Priority => "its provider has the smaller priority number",
            Self::Room => "its provider has a place free",
            Self::Home => "it answered this conversation before and holds its KV cache",
            Self::Weight => "it was drawn by weight",
            Self::Certainty => "more is known of its health and of what it can do",
            Self::Loaded => "the model is loaded already",
            Self::Idleness => "its provider is less busy",
            Self::Latency => "its first token came sooner lately",
            Self::Order => "its provider comes first in the configuration",
        }
    }
}

/// A target, or a whole provider, that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    pub provider: String,
    /// The model that was looked for.
    pub model: Option<String>,
    pub reason: Exclusion,
}

/// Why something was left out; the first reason that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    TooFar {
        reach: Reach,
        limit: Limit,
    },
    LacksModel,
    NoDefaultModel,
    LacksCapability(Capability),
    /// Not knowing it is not enough for this one.
    UnknownCapability(Capability),
    ContextTooSmall {
        context: u32,
        tokens: u32,
    },
    Down {
        cause: String,
    },
    Broken {
        cause: String,
        pause: Duration,
    },
    Cooling {
        pause: Duration,
    },
    Drained,
    NotAllowed {
        key: String,
    },
    OverBudget {
        key: String,
    },
}

impl Exclusion {
    /// The words of all reasons, in the order in which they are looked at.
    pub const WORDS: [&'static str; 12] = [
        "too_far",
        "lacks_model",
        "no_default_model",
        "lacks_capability",
        "unknown_capability",
        "context_too_small",
        "down",
        "broken",
        "cooling",
        "drained",
        "not_allowed",
        "over_budget",
    ];

    #[must_use]
    pub const fn word(&self) -> &'static str {
        let index = match self {
            Self::TooFar { .. } => 0,
            Self::LacksModel => 1,
            Self::NoDefaultModel => 2,
            Self::LacksCapability(_) => 3,
            Self::UnknownCapability(_) => 4,
            Self::ContextTooSmall { .. } => 5,
            Self::Down { .. } => 6,
            Self::Broken { .. } => 7,
            Self::Cooling { .. } => 8,
            Self::Drained => 9,
            Self::NotAllowed { .. } => 10,
            Self::OverBudget { .. } => 11,
        };
        Self::WORDS[index]
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFar { reach, limit } => write!(
                f,
                "it is {}, and {} says `{}`",
                match reach {
                    Reach::Device => "on this machine",
                    Reach::Lan => "on the local network",
                    Reach::Cloud => "in the cloud",
                },
                limit.bound,
                limit.reach.label()
            ),
            Self::LacksModel => f.write_str("it has no such model"),
            Self::NoDefaultModel => f.write_str("no model was named and it has no `default_model`"),
            Self::LacksCapability(capability) => {
                write!(f, "the model cannot do `{}`", capability.word())
            }
            Self::UnknownCapability(capability) => {
                write!(f, "the model is not known to do `{}`", capability.word())
            }
            Self::ContextTooSmall { context, tokens } => write!(
                f,
                "the request takes at least {tokens} tokens and the context has {context}"
            ),
            Self::Down { cause } => write!(f, "it is down: {cause}"),
            Self::Broken { cause, pause } => write!(
                f,
                "it failed too often and is asked again in {} s: {cause}",
                seconds(*pause)
            ),
            Self::Cooling { pause } => write!(
                f,
                "it asked to be left alone for another {} s",
                seconds(*pause)
            ),
            Self::Drained => f.write_str("its weight is 0, and it does not hold this conversation"),
            Self::NotAllowed { key } => write!(f, "the key `{key}` may not use this model"),
            Self::OverBudget { key } => {
                write!(f, "it costs more than the key `{key}` has left this month")
            }
        }
    }
}

/// Whole seconds, rounded up: a pause of half a second is not over in 0 s.
fn seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() > 0)
}
