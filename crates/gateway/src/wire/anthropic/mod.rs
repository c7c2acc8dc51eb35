//! The Anthropic dialect: messages.

pub(crate) mod messages;
pub(crate) mod plan;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod tools;

use serde_json::{Value, json};
use utoipa::ToSchema;

pub use plan::{MessagesPlan, count_plan, messages_plan};
pub use request::MessagesRequest;

use crate::error::{ApiError, ErrorCode};

/// The `{"type": "error"}` object, whole or as the event of a broken stream.
pub(crate) fn error_body(error: &ApiError) -> Value {
    let kind = match error.row().status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 => "overloaded_error",
        _ => "api_error",
    };
    let message = too_long(error).unwrap_or_else(|| error.text().to_owned());
    json!({ "type": "error", "error": { "type": kind, "message": message } })
}

/// Claude Code knows by these words that it has to compact the conversation.
fn too_long(error: &ApiError) -> Option<String> {
    if error.row().id != ErrorCode::ContextExceeded {
        return None;
    }
    let (tokens, limit) = (error.fact("n_prompt_tokens")?, error.fact("n_ctx")?);
    Some(format!(
        "prompt is too long: {tokens} tokens > {limit} maximum"
    ))
}

/// Every error below `/v1/messages`.
#[derive(Debug, ToSchema)]
#[schema(as = anthropic::ErrorBody)]
#[expect(
    dead_code,
    reason = "only its schema is used; bodies come from the error table"
)]
pub(crate) struct ErrorBody {
    /// `error`
    r#type: String,
    error: ErrorObject,
}

#[derive(Debug, ToSchema)]
#[schema(as = anthropic::Error)]
#[expect(
    dead_code,
    reason = "only its schema is used; bodies come from the error table"
)]
pub(crate) struct ErrorObject {
    /// For example `invalid_request_error`.
    r#type: String,
    /// What is wrong, with the value given and the limit.
    message: String,
}
