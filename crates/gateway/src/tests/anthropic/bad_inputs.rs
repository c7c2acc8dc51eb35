//! Requests that must be refused, with the field at fault and the limit in words.

use serde_json::{Value, json};

use super::{COUNT, MESSAGES, body};
use crate::tests::scripted::{Scripted, post};

/// Changes of a good request, and what the message must say.
type Case = (Value, &'static [&'static str]);

fn turn(role: &str, content: Value) -> Value {
    json!({ "messages": [{ "role": role, "content": content }] })
}

/// A message of the user with one block.
fn block(block: Value) -> Value {
    turn("user", json!([block]))
}

/// A block of the assistant, with a message of the user behind it.
fn assistant(block: Value) -> Value {
    json!({ "messages": [
        { "role": "assistant", "content": [block] }, { "role": "user", "content": "x" },
    ] })
}

fn tool(changes: Value) -> Value {
    let mut tool = json!({ "name": "f", "input_schema": { "type": "object" } });
    tool.as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    json!({ "tools": [tool] })
}

fn numbers() -> Vec<Case> {
    vec![
        (
            json!({ "max_tokens": null }),
            &["max_tokens", "missing", "from 1"],
        ),
        (json!({ "max_tokens": 0 }), &["max_tokens", "0", "from 1"]),
        (
            json!({ "max_tokens": "5" }),
            &["max_tokens", "\"5\"", "i64"],
        ),
        (
            json!({ "temperature": 1.5 }),
            &["temperature", "1.5", "from 0 to 1"],
        ),
        (
            json!({ "temperature": -1 }),
            &["temperature", "-1", "from 0 to 1"],
        ),
        (json!({ "top_p": 2 }), &["top_p", "2", "from 0 to 1"]),
        (json!({ "top_k": -1 }), &["top_k", "-1", "from 0"]),
        (json!({ "stream": "yes" }), &["stream", "\"yes\"", "bool"]),
        (
            json!({ "thinking": { "type": "enabled", "budget_tokens": 16 } }),
            &["thinking.budget_tokens", "16", "below max_tokens"],
        ),
        (
            json!({ "thinking": { "type": "enabled", "budget_tokens": 0 } }),
            &["thinking.budget_tokens", "0", "from 1"],
        ),
    ]
}

fn words() -> Vec<Case> {
    vec![
        (
            json!({ "thinking": { "type": "deep" } }),
            &["thinking.type", "`deep`", "adaptive"],
        ),
        (json!({ "thinking": {} }), &["thinking.type", "missing"]),
        (json!({ "thinking": true }), &["thinking", "true"]),
        (
            json!({ "output_config": { "effort": "extreme" } }),
            &["output_config.effort", "`extreme`", "xhigh"],
        ),
        (
            json!({ "output_config": { "format": { "type": "regex" } } }),
            &["output_config.format.type", "`regex`", "`json_schema`"],
        ),
        (
            json!({ "output_format": { "type": "json_schema" } }),
            &["output_format.schema", "missing"],
        ),
        (
            json!({ "output_format": { "type": "json_schema", "schema": [] } }),
            &["output_format.schema", "[]", "object"],
        ),
        (
            json!({ "output_format": {}, "output_config": { "format": {} } }),
            &["output_format", "output_config.format"],
        ),
        (
            json!({ "stop_sequences": ["a", ""] }),
            &["stop_sequences[1]", "empty"],
        ),
        (
            json!({ "stop_sequences": vec!["a"; 17] }),
            &["stop_sequences", "17 strings", "16"],
        ),
        (
            json!({ "stop_sequences": "a" }),
            &["stop_sequences", "\"a\""],
        ),
        (
            json!({ "max_token": 5, "max_tokens": null }),
            &["`max_token`", "`max_tokens`"],
        ),
        (json!({ "model": "claude" }), &["`claude`", "tiny"]),
    ]
}

fn messages() -> Vec<Case> {
    vec![
        (json!({ "messages": null }), &["messages", "missing"]),
        (json!({ "messages": [] }), &["messages", "empty"]),
        (json!({ "messages": "Hi" }), &["messages", "\"Hi\""]),
        (
            json!({ "messages": [{ "content": "x" }] }),
            &["messages[0].role", "missing"],
        ),
        (
            turn("wizard", json!("x")),
            &["messages[0].role", "`wizard`", "assistant"],
        ),
        (
            json!({ "messages": [{ "role": "user" }] }),
            &["messages[0].content", "missing"],
        ),
        (turn("user", json!(5)), &["messages[0].content", "5"]),
        (
            block(json!({ "text": "x" })),
            &["messages[0].content[0].type", "missing"],
        ),
        (
            block(json!({ "type": "text" })),
            &["messages[0].content[0].text", "missing"],
        ),
        (
            block(json!({ "type": "image", "source": { "type": "base64", "data": "" } })),
            &["messages[0].content[0].source.media_type", "missing"],
        ),
        (
            block(
                json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "a b" } }),
            ),
            &["messages[0].content[0].source", "base64"],
        ),
        (
            block(json!({ "type": "image", "source": { "type": "url", "url": "ftp://a" } })),
            &["messages[0].content[0].source", "`ftp://a`", "http(s)"],
        ),
        (
            block(json!({ "type": "image", "source": { "type": "file", "file_id": "a" } })),
            &["messages[0].content[0].source", "`file`", "`base64`"],
        ),
        (
            assistant(json!({ "type": "image", "source": { "type": "url", "url": "https://a" } })),
            &["messages[0].content[0]", "messages of the user"],
        ),
        (
            block(json!({ "type": "document", "source": { "type": "base64", "data": "" } })),
            &["messages[0].content[0].source", "`base64`", "`text`"],
        ),
        (
            block(json!({ "type": "document", "source": { "type": "text" } })),
            &["messages[0].content[0].source.data", "missing"],
        ),
        (
            block(json!({ "type": "tool_use", "id": "a", "name": "f", "input": {} })),
            &["messages[0].content[0]", "`tool_use`"],
        ),
        (
            block(json!({ "type": "tool_result", "content": "x" })),
            &["messages[0].content[0].tool_use_id", "missing"],
        ),
        (
            block(
                json!({ "type": "tool_result", "tool_use_id": "a", "content": [{ "type": "image" }] }),
            ),
            &["messages[0].content[0].content[0].source", "missing"],
        ),
        (
            assistant(json!({ "type": "tool_use", "name": "f", "input": {} })),
            &["messages[0].content[0].id", "missing"],
        ),
        (
            assistant(json!({ "type": "tool_use", "id": "a", "input": {} })),
            &["messages[0].content[0].name", "missing"],
        ),
        (
            assistant(json!({ "type": "tool_use", "id": "a", "name": "f", "input": "{}" })),
            &["messages[0].content[0].input", "\"{}\"", "an object"],
        ),
        (
            assistant(json!({ "type": "thinking" })),
            &["messages[0].content[0].thinking", "missing"],
        ),
        (
            assistant(json!({ "type": "server_tool_use", "id": "a" })),
            &["messages[0].content[0]", "`server_tool_use`"],
        ),
        (
            json!({ "system": [{ "type": "image" }] }),
            &["system[0]", "image"],
        ),
        (
            turn(
                "user",
                json!(vec![json!({ "type": "text", "text": "" }); 1025]),
            ),
            &["messages[0].content", "1025 blocks", "1024"],
        ),
    ]
}

fn tools() -> Vec<Case> {
    let choice = |choice: Value| {
        let mut request = tool(json!({}));
        request["tool_choice"] = choice;
        request
    };
    vec![
        (tool(json!({ "name": null })), &["tools[0].name", "missing"]),
        (
            tool(json!({ "name": "two words" })),
            &["tools[0].name", "`two words`"],
        ),
        (
            tool(json!({ "input_schema": null })),
            &["tools[0].input_schema", "missing"],
        ),
        (
            tool(json!({ "input_schema": 7 })),
            &["tools[0].input_schema", "7", "object"],
        ),
        (
            json!({ "tools": [
                { "name": "f", "input_schema": {} }, { "name": "f", "input_schema": {} },
            ] }),
            &["tools[1].name", "`f`", "unique"],
        ),
        (
            json!({ "tool_choice": { "type": "any" } }),
            &["tool_choice.type", "`any`", "no tools"],
        ),
        (
            choice(json!({ "type": "required" })),
            &["tool_choice.type", "`required`", "any"],
        ),
        (
            choice(json!({ "name": "f" })),
            &["tool_choice.type", "missing"],
        ),
        (
            choice(json!({ "type": "tool" })),
            &["tool_choice.name", "missing"],
        ),
        (
            choice(json!({ "type": "tool", "name": "g" })),
            &["tool_choice.name", "`g`", "f"],
        ),
        (choice(json!("any")), &["tool_choice", "\"any\""]),
    ]
}

#[tokio::test]
async fn each_names_field_value_and_limit() {
    let cases: Vec<_> = [numbers(), words(), messages(), tools()].concat();
    assert!(cases.len() >= 50);
    for (changes, says) in cases {
        let shown = changes.to_string();
        let shown = &shown[..shown.len().min(120)];
        let backend = Scripted::idle();
        let reply = post(&backend, MESSAGES, body(changes.clone())).await;
        assert!(reply.status.is_client_error(), "{shown}: {}", reply.status);
        let answer = reply.json();
        assert_eq!(answer["type"], "error", "{shown}: {answer}");
        let kind = match reply.status.as_u16() {
            404 => "not_found_error",
            _ => "invalid_request_error",
        };
        assert_eq!(answer["error"]["type"], kind, "{shown}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        for words in says {
            assert!(
                message.contains(words),
                "{shown}: no `{words}` in: {message}"
            );
        }
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert!(
            backend.jobs.lock().unwrap().is_empty(),
            "{shown} reached the backend"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_answered_cannot_be_counted_either() {
    for (changes, says) in messages() {
        // A message of the assistant at the end has tokens, too.
        if says.contains(&"end with") {
            continue;
        }
        let reply = post(&Scripted::idle(), COUNT, body(changes.clone())).await;
        assert_eq!(reply.status, 400, "{changes}");
        assert_eq!(reply.json()["type"], "error", "{changes}");
    }
}

#[tokio::test]
async fn what_is_no_request_at_all_is_said_in_the_dialect() {
    let cases = [
        (MESSAGES, "", 400, "line 1 column 0"),
        (MESSAGES, "[1]", 400, "no object"),
        ("/v1/messages/batches", "{}", 404, "/v1/messages/batches"),
    ];
    for (path, body, status, says) in cases {
        let reply = post(&Scripted::idle(), path, body).await;
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.json()["type"], "error");
        assert!(reply.body.contains(says), "{}", reply.body);
    }
}
