//! Stream and whole answer say the same; no request makes the translation panic.

use proptest::prelude::*;
use proto::Event;
use serde_json::{Value, json};

use super::{MESSAGES, body};
use crate::body::parse;
use crate::tests::properties::{any_json, script_of};
use crate::tests::scripted::{Scripted, post};
use crate::wire::anthropic::{MessagesRequest, count_plan, messages_plan};

/// Folds events as a client does, knowing nothing of this crate.
fn client_fold(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut over = false;
    for event in events {
        assert!(!over, "nothing follows message_stop");
        let index = event["index"].as_u64().map_or(0, |index| index as usize);
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!(index, content.len(), "indices are dense");
                content.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let block = &mut message["content"][index];
                let delta = event["delta"].as_object().unwrap();
                for (name, piece) in delta.iter().filter(|(name, _)| *name != "type") {
                    let before = block[name].as_str().unwrap_or_default();
                    block[name] = json!(format!("{before}{}", piece.as_str().unwrap()));
                }
            }
            "content_block_stop" => message["content"][index]["stopped"] = json!(true),
            "message_delta" => {
                let ending = event["delta"].as_object().unwrap().clone();
                message.as_object_mut().unwrap().extend(ending);
                message["usage"] = event["usage"].clone();
                message["sextant"] = event["sextant"].clone();
            }
            "message_stop" => over = true,
            other => panic!("{other}"),
        }
    }
    assert!(over, "the last event is message_stop");
    message
}

/// Texts, thoughts and calls, each in order: a whole answer sorts its blocks.
fn sorted(message: &Value) -> Value {
    let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
    for block in message["content"].as_array().unwrap() {
        match block["type"].as_str().unwrap() {
            "text" => text += block["text"].as_str().unwrap(),
            "thinking" => thinking += block["thinking"].as_str().unwrap(),
            "tool_use" => {
                let streamed = block["partial_json"].as_str();
                let input = streamed.map_or_else(|| block["input"].clone(), input);
                calls.push(json!({ "id": block["id"], "name": block["name"], "input": input }));
            }
            other => panic!("{other}"),
        }
    }
    let mut message = message.clone();
    message["content"] = json!({ "text": text, "thinking": thinking, "calls": calls });
    message
}

fn input(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(input @ Value::Object(_)) => input,
        _ if text.trim().is_empty() => json!({}),
        _ => json!({ "INVALID_JSON": text }),
    }
}

async fn both(script: Vec<Event>) {
    let backend = Scripted::new(vec![script.clone(), script]);
    let whole = post(&backend, MESSAGES, body(json!({}))).await.json();
    let stream = post(&backend, MESSAGES, body(json!({ "stream": true }))).await;
    let events = stream.events();
    let folded = client_fold(&events);
    for block in folded["content"].as_array().unwrap() {
        assert_eq!(block["stopped"], true, "each block is closed");
    }
    assert_eq!(sorted(&folded), sorted(&whole));
    let names: Vec<_> = stream
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str()).collect();
    let types: Vec<_> = types.into_iter().flatten().collect();
    assert_eq!(names, types, "each event is named as its type");
}

const FIELDS: [&str; 15] = [
    "max_tokens",
    "system",
    "messages",
    "stream",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "container",
    "mcp_servers",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stream_and_whole_say_the_same(script in script_of(1)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(both(script));
    }

    #[test]
    fn any_request_is_translated_or_refused(
        fields in prop::collection::vec((prop::sample::select(FIELDS.as_slice()), any_json()), 0..6)
    ) {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        let text = body(Value::Object(fields.collect()));
        if let Ok(plan) = parse::<MessagesRequest>(text.as_bytes()).and_then(messages_plan) {
            prop_assert!(!plan.job.messages.is_empty());
            prop_assert!(plan.job.generation.max_tokens.is_some());
            let temperature = plan.job.generation.sampling.temperature;
            prop_assert!(temperature.is_none_or(|t| (0.0..=1.0).contains(&t)));
            prop_assert!(count_plan(parse(text.as_bytes()).unwrap()).is_ok());
        }
    }
}
