//! Requests that must be refused, with the field at fault and the rule in words.

use axum::http::Method;
use serde_json::{Value, json};

use super::{CHAT, GENERATE, chat, generate};
use crate::tests::scripted::{Scripted, config, request, router, send};

const EMBED: &str = "/api/embed";

/// Path, body, words of the message; the first is the field's name.
type Case = (&'static str, String, &'static [&'static str]);

fn option(name: &str, value: Value, says: &'static [&'static str]) -> Case {
    (CHAT, chat(json!({ "options": { name: value } })), says)
}

fn field(name: &str, value: Value, says: &'static [&'static str]) -> Case {
    (CHAT, chat(json!({ name: value })), says)
}

fn message(message: Value, says: &'static [&'static str]) -> Case {
    field("messages", json!([message]), says)
}

fn prompt(name: &str, value: Value, says: &'static [&'static str]) -> Case {
    (GENERATE, generate(json!({ name: value })), says)
}

fn other(path: &'static str, body: Value, says: &'static [&'static str]) -> Case {
    (path, body.to_string(), says)
}

fn options() -> Vec<Case> {
    vec![
        option(
            "temperature",
            json!(2.5),
            &["options.temperature", "2.5", "from 0 to 2"],
        ),
        option("temperature", json!("hot"), &["options.temperature", "hot"]),
        option(
            "top_p",
            json!(1.5),
            &["options.top_p", "1.5", "from 0 to 1"],
        ),
        option("min_p", json!(-1), &["options.min_p", "-1", "from 0 to 1"]),
        option("typical_p", json!(3), &["options.typical_p", "3"]),
        option("top_k", json!(-2), &["options.top_k", "-2", "from -1"]),
        option(
            "top_k",
            json!(1.5),
            &["options.top_k", "1.5 is no whole number"],
        ),
        option(
            "repeat_penalty",
            json!(0),
            &["options.repeat_penalty", "0.01"],
        ),
        option("repeat_last_n", json!(-2), &["options.repeat_last_n", "-2"]),
        option(
            "presence_penalty",
            json!(3),
            &["options.presence_penalty", "from -2 to 2"],
        ),
        option(
            "frequency_penalty",
            json!(-3),
            &["options.frequency_penalty", "from -2"],
        ),
        option(
            "num_predict",
            json!(0),
            &["options.num_predict", "0", "-1 or -2 for no limit"],
        ),
        option("num_predict", json!(-3), &["options.num_predict", "-3"]),
        option(
            "num_predict",
            json!(1_u64 << 40),
            &["options.num_predict", "2147483647"],
        ),
        option("num_ctx", json!("4k"), &["options.num_ctx", "whole number"]),
        option("seed", json!(true), &["options.seed", "whole number"]),
        option("stop", json!(5), &["options.stop", "array of strings"]),
        option("stop", json!([""]), &["options.stop[0]", "empty"]),
        option(
            "stop",
            json!(vec!["x"; 17]),
            &["options.stop", "17 strings", "16"],
        ),
        option("temprature", json!(1), &["temprature", "`temperature`"]),
        field("options", json!([1]), &["options"]),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        field("stream", json!("yes"), &["stream"]),
        field("format", json!("yaml"), &["format", "`yaml`", "`json`"]),
        field("format", json!(5), &["format", "5", "JSON Schema object"]),
        field("format", json!([{}]), &["format", "JSON Schema object"]),
        field(
            "think",
            json!("hard"),
            &["think", "`hard`", "low, medium or high"],
        ),
        field("think", json!(1), &["think", "1", "true, false"]),
        field("keep_alive", json!("soon"), &["keep_alive", "soon", "5m"]),
        field("keep_alive", json!("300"), &["keep_alive", "300", "5m"]),
        field("keep_alive", json!(true), &["keep_alive", "true"]),
        field("logprobs", json!(3), &["logprobs"]),
        field(
            "top_logprobs",
            json!(3),
            &["top_logprobs", "unless logprobs is true"],
        ),
        field("messages", json!({}), &["messages"]),
        other(CHAT, json!({ "mesages": [] }), &["mesages", "`messages`"]),
        field("tools", json!({}), &["tools"]),
        field(
            "tools",
            json!([{ "type": "function" }]),
            &["tools[0].function", "missing"],
        ),
        field("model", json!(5), &["model"]),
        field("model", json!("nope"), &["nope", "tiny"]),
        prompt("suffix", json!("b"), &["suffix", "not supported"]),
        prompt(
            "template",
            json!("{{ .Prompt }}"),
            &["template", "not supported"],
        ),
        prompt("context", json!([1, 2]), &["context", "/api/chat"]),
        prompt("images", json!(["aGk="]), &["images[0]", "PNG"]),
        (
            GENERATE,
            generate(json!({ "raw": true, "images": ["iVBORw0KGgo="] })),
            &["images", "raw"],
        ),
        prompt("prompt", json!(["a"]), &["prompt"]),
        (
            GENERATE,
            generate(json!({ "raw": true, "system": "x" })),
            &["system", "raw"],
        ),
    ]
}

fn messages() -> Vec<Case> {
    let call =
        |function: Value| json!({ "role": "assistant", "tool_calls": [{ "function": function }] });
    vec![
        message(json!({ "content": "a" }), &["messages[0].role", "missing"]),
        message(
            json!({ "role": "wizard", "content": "a" }),
            &["messages[0].role", "`wizard`", "assistant"],
        ),
        message(
            json!({ "role": "user" }),
            &["messages[0].content", "missing"],
        ),
        message(
            json!({ "role": "user", "content": [] }),
            &["messages[0].content"],
        ),
        message(
            json!({ "role": "user", "content": "a", "images": ["aGk="] }),
            &["messages[0].images[0]", "PNG"],
        ),
        message(
            json!({ "role": "system", "content": "a", "images": ["iVBORw0KGgo="] }),
            &["messages[0].images", "messages of the user"],
        ),
        message(
            json!({ "role": "user", "content": "a", "tool_calls": [{ "function": { "name": "f" } }] }),
            &["messages[0].tool_calls", "assistant"],
        ),
        message(
            call(json!({})),
            &["messages[0].tool_calls[0].function.name", "missing"],
        ),
        message(
            call(json!({ "name": "f", "arguments": "{}" })),
            &["messages[0].tool_calls[0].function.arguments", "map"],
        ),
        message(
            json!({ "role": "assistant", "tool_calls": [{}] }),
            &["messages[0].tool_calls[0].function", "missing"],
        ),
    ]
}

fn others() -> Vec<Case> {
    vec![
        other(EMBED, json!({ "input": 5 }), &["input", "array of strings"]),
        other(EMBED, json!({ "input": ["a", ""] }), &["input[1]", "empty"]),
        other(
            EMBED,
            json!({ "input": "a", "dimensions": 2 }),
            &["dimensions", "2", "3"],
        ),
        other(
            EMBED,
            json!({ "input": vec!["a"; 2049] }),
            &["input", "2049", "2048"],
        ),
        other("/api/embeddings", json!({ "prompt": ["a"] }), &["prompt"]),
        other("/api/show", json!({}), &["model", "missing"]),
        other("/api/show", json!({ "name": "x" }), &["`x`", "tiny"]),
        other(
            "/api/show",
            json!({ "model": "x".repeat(257) }),
            &["model", "257", "256"],
        ),
        other("/api/pull", json!({ "model": "" }), &["model", "missing"]),
        other(
            "/api/pull",
            json!({ "model": "a", "insecure": true }),
            &["insecure"],
        ),
        other(
            "/api/pull",
            json!({ "model": "https://h.example/a.gguf" }),
            &["model", "h.example", "hf.co/"],
        ),
        other("/api/delete", json!({ "model": 5 }), &["model"]),
        other(
            CHAT,
            json!({ "messages": [], "keep_alive": 0 }),
            &["model", "missing", "unload"],
        ),
    ]
}

#[tokio::test]
async fn each_names_the_field_in_ollamas_shape() {
    let cases: Vec<_> = [options(), fields(), messages(), others()].concat();
    assert!(cases.len() >= 60);
    for (path, body, says) in cases {
        let shown = &body[..body.len().min(120)];
        let backend = Scripted::idle();
        let method = match path {
            "/api/delete" => Method::DELETE,
            _ => Method::POST,
        };
        let asked = request(method, path, body.clone());
        let reply = send(router(&backend, config()), asked).await;
        let status = reply.status;
        assert!(status.is_client_error(), "{path} {shown}: {status}");
        let answer = reply.json();
        assert_eq!(
            answer.as_object().unwrap().len(),
            1,
            "{path} {shown}: {answer}"
        );
        let message = answer["error"].as_str().unwrap();
        for words in says {
            assert!(
                message.contains(words),
                "{path} {shown}: no `{words}` in: {message}"
            );
        }
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert!(backend.jobs.lock().unwrap().is_empty(), "{shown} was run");
    }
}
