//! How far requests travel.

use std::fmt;

/// How far from this machine a provider is; also how far a request may travel. The nearer
/// is the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// This machine.
    Device,
    /// The networks of this house.
    Lan,
    /// Everywhere else.
    Cloud,
}

impl Reach {
    pub const ALL: [Self; 3] = [Self::Device, Self::Lan, Self::Cloud];

    /// The privacy label that lets a request travel this far.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Device => "local_only",
            Self::Lan => "lan_only",
            Self::Cloud => "any",
        }
    }

    /// The reach of a privacy label.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reach| reach.label() == label)
    }

    /// What the configuration calls a provider at this distance.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Lan => "lan",
            Self::Cloud => "cloud",
        }
    }
}

/// Who set a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// Nobody: this is what holds without any.
    Default,
    /// The request's own header.
    Header,
    /// The API key.
    Key(String),
    /// The model that was asked for.
    Model(String),
    /// Kept responses that the request continues.
    Kept,
    /// A rule that found something in the text.
    Rule(String),
    /// Images, which no rule can look into.
    Images,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::Header => f.write_str("the request's header"),
            Self::Key(name) => write!(f, "the key `{name}`"),
            Self::Model(name) => write!(f, "the model `{name}`"),
            Self::Kept => f.write_str("the conversation that it continues"),
            Self::Rule(name) => write!(f, "the rule `{name}`"),
            Self::Images => f.write_str("the label of images"),
        }
    }
}

/// How far a request may travel, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub reach: Reach,
    pub bound: Bound,
}

impl Limit {
    /// The strictest of the limits; of equals the first. Without any, `default`.
    #[must_use]
    pub fn strictest(limits: impl IntoIterator<Item = Self>, default: Reach) -> Self {
        let start = Self {
            reach: default,
            bound: Bound::Default,
        };
        limits.into_iter().fold(start, |strictest, limit| {
            // A limit as wide as the default is still somebody's choice.
            let is_chosen = limit.reach == strictest.reach && strictest.bound == Bound::Default;
            if limit.reach < strictest.reach || is_chosen {
                limit
            } else {
                strictest
            }
        })
    }
}
