//! Wire dialects: each translates its requests to [`proto::Job`] and writes the parts of
//! an answer, which [`fold`] makes from [`proto::Event`]s. The types here are the only
//! ones that know how a client spells things.

pub mod anthropic;
pub(crate) mod chats;
pub mod doctor;
pub(crate) mod encode;
pub(crate) mod events;
pub(crate) mod fold;
pub(crate) mod images;
pub(crate) mod logs;
pub(crate) mod ollama;
pub mod openai;
pub mod plan;
pub(crate) mod prefix;
pub(crate) mod rerank;
pub(crate) mod responses;
pub(crate) mod routing;
pub(crate) mod telemetry;

use crate::error::ApiError;

/// Routes below `/api` that are not Ollama's, and whose errors say more than its do.
pub(crate) const OUR_API: [&str; 5] = [
    "/api/chats",
    "/api/events",
    "/api/logs",
    "/api/machine",
    "/api/telemetry",
];

/// How a client of a path spells its requests and expects its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    /// The dialect that is spoken below a path.
    pub(crate) fn of(path: &str) -> Self {
        let is_below = |root: &str| {
            let rest = path.strip_prefix(root);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_below("/v1/messages") {
            Self::Anthropic
        } else if is_below("/api") && !OUR_API.iter().any(|root| is_below(root)) {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }

    /// The body of an error.
    pub(crate) fn error(self, error: &ApiError) -> Vec<u8> {
        encode::json(&match self {
            Self::OpenAi => error.body(),
            Self::Anthropic => anthropic::error_body(error),
            Self::Ollama => ollama::error_body(error),
        })
    }
}
