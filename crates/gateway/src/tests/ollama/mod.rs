//! The Ollama dialect.

mod bad_inputs;
pub(super) mod library;
mod models;
mod properties;
mod transcripts;
mod translation;

use serde_json::{Value, json};

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

/// A chat request with fields added or replaced.
fn chat(extra: Value) -> String {
    with(
        json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] }),
        extra,
    )
}

/// A generate request with fields added or replaced.
fn generate(extra: Value) -> String {
    with(json!({ "model": "tiny", "prompt": "Hi" }), extra)
}

fn with(mut body: Value, extra: Value) -> String {
    let Value::Object(extra) = extra else {
        panic!("no object: {extra}")
    };
    body.as_object_mut().unwrap().extend(extra);
    body.to_string()
}

/// The objects of a body, line by line. White space in front of one is a sign of life.
fn lines(body: &str) -> Vec<Value> {
    let lines = body.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}
