//! The Anthropic dialect.

mod bad_inputs;
mod properties;
mod transcripts;
mod translation;

use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

/// A short request with fields added or replaced.
fn body(changes: Value) -> String {
    let mut body = json!({
        "max_tokens": 16,
        "messages": [{ "role": "user", "content": "Hi" }],
    });
    body.as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    body.to_string()
}
