//! The Ollama dialect: chat, generate, embed and the lists of models.

use serde_json::{Value, json};

use crate::error::ApiError;

/// The `{"error": ...}` object, whole or as the last line of a broken stream.
pub(crate) fn error_body(error: &ApiError) -> Value {
    json!({ "error": error.text() })
}
