//! The Anthropic dialect: messages.

use serde_json::{Value, json};

use crate::error::ApiError;

/// The `{"type": "error"}` object, whole or as the event of a broken stream.
pub(crate) fn error_body(error: &ApiError) -> Value {
    let kind = match error.row().status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 => "overloaded_error",
        _ => "api_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": error.text() } })
}
