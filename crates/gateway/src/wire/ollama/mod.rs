//! The Ollama dialect: chat, generate, embed, the lists of models, and pulling them.

pub(crate) mod chat;
pub(crate) mod embedding;
pub(crate) mod generate;
pub(crate) mod keep_alive;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod time;

use serde_json::{Value, json};

use crate::error::ApiError;

/// The release of Ollama whose API this dialect follows. Clients compare it with the oldest
/// that they work with, so it cannot be a version of ours.
pub(crate) const VERSION: &str = "0.14.2";

/// The `{"error": ...}` object, whole or as the last line of a broken stream.
pub(crate) fn error_body(error: &ApiError) -> Value {
    json!({ "error": error.text() })
}
