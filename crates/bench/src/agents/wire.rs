//! What an agent and an endpoint say to one another, in the dialects that agents speak: how many
//! tokens, which calls, and whose fault it is that an answer is none.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Calls;
use crate::quality::{Call, Fault, is_name, of_error};

/// In which words an agent asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's `/v1/responses`.
    Responses,
    /// Anthropic's `/v1/messages`.
    Messages,
}

impl Dialect {
    /// That of a path; `None` where no model is asked.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        match path.trim_end_matches('/') {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Messages),
            _ => None,
        }
    }

    /// The schema of a tool's arguments, where the request offers the tool. One that takes text
    /// has none.
    fn schema(self, request: &Value, name: &str) -> Option<Value> {
        let tools = request["tools"].as_array()?.iter();
        let of = |tool: &Value| match self {
            Self::Chat => tool["function"].clone(),
            Self::Responses | Self::Messages => tool.clone(),
        };
        let tool = tools.map(of).find(|tool| tool["name"] == name)?;
        let schema = match self {
            Self::Messages => &tool["input_schema"],
            Self::Chat | Self::Responses => &tool["parameters"],
        };
        Some(match schema {
            Value::Object(_) => schema.clone(),
            _ => json!({}),
        })
    }
}

/// By these the last event of a stream is known: an agent may leave once it has read it.
const ENDS: [&str; 3] = ["[DONE]", "message_stop", "response.completed"];

/// How an answer ended, as it was seen on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Whole,
    /// The endpoint's connection broke.
    Broken,
    /// The agent did not wait for the rest.
    Left,
}

/// A request of an agent, and what came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exchange {
    /// What the pipeline did wrong.
    pub fault: Option<Fault>,
    /// In the endpoint's words.
    pub error: Option<String>,
    pub n_prompt: Option<u64>,
    pub n_answer: Option<u64>,
    pub calls: Calls,
    /// The agent did not wait for the end.
    pub was_left: bool,
}

impl Exchange {
    /// One for which there was no connection.
    #[must_use]
    pub fn unreachable(error: String) -> Self {
        Self {
            fault: Some(Fault::Unreachable),
            error: Some(error),
            ..Self::default()
        }
    }

    /// Reads an answer, whole or in events.
    #[must_use]
    pub fn of(dialect: Dialect, request: &Value, status: u16, body: &[u8], way: Way) -> Self {
        let text = String::from_utf8_lossy(body);
        let events = events(&text);
        if !(200..300).contains(&status) {
            let error = events.first().and_then(error_of);
            let error = error.unwrap_or_else(|| text.chars().take(400).collect());
            return Self {
                fault: Some(of_error(status, &error)),
                error: Some(format!("HTTP {status}: {error}")),
                ..Self::default()
            };
        }
        let said = match dialect {
            Dialect::Chat => chat(&events),
            Dialect::Responses => responses(&events),
            Dialect::Messages => messages(&events),
        };
        let error = said.error.or_else(|| events.iter().find_map(error_of));
        let asked = request["model"].as_str().unwrap_or_default();
        let fault = match (&error, way) {
            (Some(error), _) => Some(of_error(status, error)),
            (None, Way::Broken) => Some(Fault::Unreachable),
            _ if !is_name(&said.model, asked) => Some(Fault::Intercepted),
            _ => None,
        };
        let mut calls = Calls::default();
        for call in said.calls {
            calls += worth(&call, dialect.schema(request, &call.name).as_ref());
        }
        Self {
            fault,
            error,
            n_prompt: said.n_prompt,
            n_answer: said.n_answer,
            calls,
            was_left: way == Way::Left && !ENDS.iter().any(|end| text.contains(end)),
        }
    }
}

fn worth(call: &Call, schema: Option<&Value>) -> Calls {
    let takes_text = schema.is_some_and(|schema| *schema == json!({}));
    match (takes_text, &call.arguments) {
        (true, Value::String(_)) => Calls {
            right: 1,
            ..Calls::default()
        },
        _ => Calls::of(call, schema),
    }
}

/// What is the same in all dialects.
#[derive(Debug, Default)]
struct Said {
    model: String,
    n_prompt: Option<u64>,
    n_answer: Option<u64>,
    calls: Vec<Call>,
    error: Option<String>,
}

/// The events of a stream, or the whole body as the only one.
fn events(text: &str) -> Vec<Value> {
    if let Ok(whole) = serde_json::from_str(text) {
        return vec![whole];
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|line| serde_json::from_str(line.trim()).ok())
        .collect()
}

fn error_of(event: &Value) -> Option<String> {
    match &event["error"] {
        Value::String(text) => Some(text.clone()),
        Value::Object(error) => {
            let word = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            Some(format!("{} {}", word("code"), word("message")))
        }
        _ => None,
    }
}

fn parsed(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| arguments.into())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn chat(events: &[Value]) -> Said {
    let mut said = Said::default();
    let mut calls: BTreeMap<u64, (String, String)> = BTreeMap::new();
    for event in events {
        if said.model.is_empty() {
            text(&event["model"]).clone_into(&mut said.model);
        }
        let usage = &event["usage"];
        said.n_prompt = usage["prompt_tokens"].as_u64().or(said.n_prompt);
        said.n_answer = usage["completion_tokens"].as_u64().or(said.n_answer);
        let choice = &event["choices"][0];
        let message = match choice["message"].is_object() {
            true => &choice["message"],
            false => &choice["delta"],
        };
        let parts = message["tool_calls"].as_array().into_iter().flatten();
        for (place, part) in (0..).zip(parts) {
            let index = part["index"].as_u64().unwrap_or(place);
            let (name, arguments) = calls.entry(index).or_default();
            name.push_str(text(&part["function"]["name"]));
            arguments.push_str(text(&part["function"]["arguments"]));
        }
    }
    let calls = calls.into_values().map(|(name, arguments)| Call {
        name,
        arguments: parsed(&arguments),
    });
    said.calls = calls.collect();
    said
}

fn messages(events: &[Value]) -> Said {
    let mut said = Said::default();
    let mut calls: BTreeMap<u64, (Call, String)> = BTreeMap::new();
    for event in events {
        let message = match text(&event["type"]) {
            "message_start" => &event["message"],
            _ => event,
        };
        if said.model.is_empty() {
            text(&message["model"]).clone_into(&mut said.model);
        }
        count(&message["usage"], &mut said);
        let block = &event["content_block"];
        let whole = event["content"].as_array().into_iter().flatten();
        let index = event["index"].as_u64();
        let blocks = (0..).zip(whole).chain(index.map(|index| (index, block)));
        for (index, block) in blocks.filter(|(_, block)| block["type"] == "tool_use") {
            let call = Call {
                name: text(&block["name"]).to_owned(),
                arguments: block["input"].clone(),
            };
            calls.insert(index, (call, String::new()));
        }
        if let Some((_, parts)) = index.and_then(|index| calls.get_mut(&index)) {
            parts.push_str(text(&event["delta"]["partial_json"]));
        }
    }
    let calls = calls
        .into_values()
        .map(|(call, parts)| match parts.as_str() {
            // The start of a block has the input of a call that takes none.
            "" => call,
            parts => Call {
                arguments: parsed(parts),
                ..call
            },
        });
    said.calls = calls.collect();
    said
}

/// Tokens that were in a cache are counted apart, and were read all the same.
fn count(usage: &Value, said: &mut Said) {
    let read = [
        "input_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ];
    let read: Vec<u64> = read
        .iter()
        .filter_map(|name| usage[name].as_u64())
        .collect();
    if read.iter().any(|n| *n > 0) {
        said.n_prompt = Some(read.iter().sum());
    }
    said.n_answer = usage["output_tokens"].as_u64().or(said.n_answer);
}

fn responses(events: &[Value]) -> Said {
    let mut last = events.iter().rev().map(|event| match &event["response"] {
        Value::Object(_) => &event["response"],
        _ => event,
    });
    let Some(whole) = last.find(|one| one["output"].is_array()) else {
        return Said::default();
    };
    let output = whole["output"].as_array().into_iter().flatten();
    let calls = output.filter_map(|item| {
        let arguments = match text(&item["type"]) {
            "function_call" => parsed(text(&item["arguments"])),
            "custom_tool_call" => item["input"].clone(),
            _ => return None,
        };
        let name = text(&item["name"]).to_owned();
        Some(Call { name, arguments })
    });
    Said {
        model: text(&whole["model"]).to_owned(),
        n_prompt: whole["usage"]["input_tokens"].as_u64(),
        n_answer: whole["usage"]["output_tokens"].as_u64(),
        calls: calls.collect(),
        error: error_of(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str =
        r#"{"type":"object","required":["path"],"properties":{"path":{"type":"string"}}}"#;

    fn read(dialect: Dialect, body: &str) -> Exchange {
        let schema: Value = serde_json::from_str(PATH).unwrap();
        let tools = match dialect {
            Dialect::Chat => json!([{ "function": { "name": "read", "parameters": schema } }]),
            Dialect::Messages => json!([{ "name": "read", "input_schema": schema }]),
            Dialect::Responses => {
                json!([{ "name": "read", "parameters": schema }, { "name": "patch" }])
            }
        };
        let request = json!({ "model": "m", "tools": tools });
        Exchange::of(dialect, &request, 200, body.as_bytes(), Way::Whole)
    }

    fn stream(events: &[Value]) -> String {
        let events = events
            .iter()
            .map(|event| format!("event: x\ndata: {event}\n\n"));
        events.chain(["data: [DONE]\n\n".to_owned()]).collect()
    }

    #[track_caller]
    fn assert_read(exchange: &Exchange, calls: [usize; 3]) {
        let got = exchange.calls;
        assert_eq!([got.right, got.wrong, got.malformed], calls);
        assert_eq!((exchange.n_prompt, exchange.n_answer), (Some(70), Some(9)));
        assert_eq!((exchange.fault, &exchange.error), (None, &None));
    }

    #[test]
    fn chat_completions_whole_and_in_pieces() {
        let call = |name: &str, arguments: &str| json!({ "function": { "name": name, "arguments": arguments } });
        let usage = json!({ "prompt_tokens": 70, "completion_tokens": 9 });
        let calls = json!([
            call("read", "{\"path\": \"a\"}"),
            call("read", "{}"),
            call("write", "{}"),
            call("read", "{\"path\": "),
        ]);
        let whole = json!({ "model": "m", "usage": usage,
            "choices": [{ "message": { "content": null, "tool_calls": calls } }] });
        assert_read(&read(Dialect::Chat, &whole.to_string()), [1, 2, 1]);
        let piece = |index: u64, name: &str, arguments: &str| {
            let function = json!({ "name": name, "arguments": arguments });
            json!({ "model": "m", "choices": [{ "delta": { "tool_calls": [{ "index": index, "function": function }] } }] })
        };
        let pieces = [
            piece(0, "read", ""),
            piece(0, "", "{\"pa"),
            piece(1, "read", "{\"path\": 7}"),
            piece(0, "", "th\": \"a\"}"),
            json!({ "model": "m", "choices": [], "usage": usage }),
        ];
        assert_read(&read(Dialect::Chat, &stream(&pieces)), [1, 1, 0]);
    }

    #[test]
    fn messages_whole_and_in_pieces() {
        let usage =
            json!({ "input_tokens": 10, "cache_read_input_tokens": 60, "output_tokens": 9 });
        let block =
            |name: &str, input: Value| json!({ "type": "tool_use", "name": name, "input": input });
        let whole = json!({ "type": "message", "model": "m", "usage": usage,
            "content": [{ "type": "text", "text": "Hm" }, block("read", json!({ "path": "a" }))] });
        assert_read(&read(Dialect::Messages, &whole.to_string()), [1, 0, 0]);
        let delta = |index: u64, json: &str| {
            json!({ "type": "content_block_delta", "index": index,
                "delta": { "type": "input_json_delta", "partial_json": json } })
        };
        let start = |index: u64, block: Value| json!({ "type": "content_block_start", "index": index, "content_block": block });
        let pieces = [
            json!({ "type": "message_start", "message": { "model": "m", "content": [],
                "usage": { "input_tokens": 70, "output_tokens": 1 } } }),
            start(0, json!({ "type": "text", "text": "" })),
            start(1, block("read", json!({}))),
            delta(1, "{\"path\""),
            delta(1, ": \"a\"}"),
            start(2, block("read", json!({}))),
            start(3, block("read", json!({}))),
            delta(3, "{\"path"),
            json!({ "type": "message_delta", "usage": { "output_tokens": 9 } }),
        ];
        assert_read(&read(Dialect::Messages, &stream(&pieces)), [1, 1, 1]);
    }

    #[test]
    fn responses_whole_and_in_pieces() {
        let whole = json!({ "model": "m", "usage": { "input_tokens": 70, "output_tokens": 9 },
            "error": null,
            "output": [
                { "type": "message" },
                { "type": "function_call", "name": "read", "arguments": "{\"path\": \"a\"}" },
                { "type": "function_call", "name": "read", "arguments": "a" },
                { "type": "custom_tool_call", "name": "patch", "input": "*** Begin" },
                { "type": "custom_tool_call", "name": "other", "input": "*** Begin" },
            ] });
        assert_read(&read(Dialect::Responses, &whole.to_string()), [2, 0, 2]);
        let pieces = [
            json!({ "type": "response.created", "response": { "model": "m", "output": [] } }),
            json!({ "type": "response.output_text.delta", "delta": "x" }),
            json!({ "type": "response.completed", "response": whole }),
        ];
        assert_read(&read(Dialect::Responses, &stream(&pieces)), [2, 0, 2]);
    }

    #[test]
    fn faults_are_told_whatever_the_dialect() {
        let of = |status, body: &str, way| {
            let request = json!({ "model": "m" });
            Exchange::of(Dialect::Chat, &request, status, body.as_bytes(), way).fault
        };
        let error = |message: &str| json!({ "error": { "message": message } }).to_string();
        let half = "data: {\"model\": \"m\", \"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\n";
        let whole = Way::Whole;
        for (found, fault) in [
            (of(503, &error("Loading model"), whole), Some(Fault::Busy)),
            (of(500, "<html>", whole), Some(Fault::Refused)),
            (
                of(400, &error("tools are not supported"), whole),
                Some(Fault::ToolsRefused),
            ),
            (
                of(400, &error("exceeds the context size"), whole),
                Some(Fault::ContextTooSmall),
            ),
            (
                of(200, &format!("data: {}\n\n", error("gone")), whole),
                Some(Fault::Refused),
            ),
            (
                of(200, "{\"model\": \"router\"}", whole),
                Some(Fault::Intercepted),
            ),
            (of(200, half, Way::Broken), Some(Fault::Unreachable)),
            (of(200, half, Way::Left), None),
            (of(200, half, whole), None),
        ] {
            assert_eq!(found, fault);
        }
        let was_left = |body: &str, way| {
            let request = json!({ "model": "m" });
            Exchange::of(Dialect::Chat, &request, 200, body.as_bytes(), way).was_left
        };
        assert!(was_left(half, Way::Left) && !was_left(half, whole));
        assert!(!was_left(&format!("{half}data: [DONE]\n\n"), Way::Left));
        for (path, dialect) in [
            ("/v1/responses", Some(Dialect::Responses)),
            ("/v1/messages", Some(Dialect::Messages)),
            ("/v1/messages/count_tokens", None),
            ("/v1/models", None),
        ] {
            assert_eq!(Dialect::of_path(path), dialect);
        }
    }
}
