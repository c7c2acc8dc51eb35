//! Which engine and which settings for so many users.
//!
//! [`room`] says whether all of them fit, with which settings, and how many would; [`share`] how
//! fast it is for each of them; [`judge`] which engine makes sense there, each reason with how it
//! is known: measured here, predicted, published ([`FACTS`]), or a rule of ours. Nothing here does
//! input or output.

mod facts;
mod judge;
mod room;
mod shared;
#[cfg(test)]
mod tests;

pub use facts::{FACTS, Fact, fact_named};
pub use judge::{Judged, MANY_USERS, Reason, Verdict, judge};
pub use room::{Choosable, Chosen, Room, room};
pub use shared::{LowEnd, Shared, share};

use crate::device::Vendor;
use crate::roofline::{Band, Class};

/// What is asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// That are answered at the same time.
    pub users: u32,
    /// Tokens that each of them may have, prompt and answer together.
    pub context: u32,
    /// Tokens of a prompt that is read anew.
    pub prompt: u32,
    /// The longest time to the first token that somebody should wait.
    pub ttft_seconds_max: Option<f64>,
    /// Tokens a second that each of them should see.
    pub tokens_s_min: Option<f64>,
}

/// The machine that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    pub class: Class,
    pub vendor: Vendor,
    /// Whether Sextant can use the GPU there; of no matter where there is none.
    pub embedded_gpu: EmbeddedGpu,
}

/// Whether the embedded engine computes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddedGpu {
    Usable,
    /// It would be, in a build with a back end for it.
    OtherBuild,
}

/// Engines that a load may be given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Embedded,
    LlamaServer,
    Vllm,
    Sglang,
    Ollama,
}

impl Engine {
    pub const ALL: [Self; 5] = [
        Self::Embedded,
        Self::LlamaServer,
        Self::Vllm,
        Self::Sglang,
        Self::Ollama,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::LlamaServer => "llama-server",
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::Ollama => "Ollama",
        }
    }
}

/// How something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// On this machine.
    Measured,
    /// By the planner.
    Predicted,
    /// By others, elsewhere.
    Published,
    /// It is a rule of ours, or how Sextant is made.
    Rule,
}

impl Known {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Predicted => "predicted",
            Self::Published => "published",
            Self::Rule => "rule",
        }
    }
}

/// Whether what was asked for is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    Yes,
    /// At one end of the band and not at the other.
    Perhaps,
    No,
    /// Nobody knows the figure.
    Unknown,
}

impl Met {
    /// Whether a figure is at least so large.
    #[must_use]
    pub fn at_least(band: Band, least: f64) -> Self {
        if band.low >= least {
            Self::Yes
        } else if band.high < least {
            Self::No
        } else {
            Self::Perhaps
        }
    }

    /// Whether a figure is at most so large.
    #[must_use]
    pub fn at_most(band: Option<Band>, most: f64) -> Self {
        match band {
            None => Self::Unknown,
            Some(band) if band.high <= most => Self::Yes,
            Some(band) if band.low > most => Self::No,
            Some(_) => Self::Perhaps,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Perhaps => "perhaps",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}
