//! Stream and whole response say the same; no request makes the translation panic.

use proptest::prelude::*;
use proto::{Delta, Event, FinishReason, TokenLogprob};
use serde_json::{Value, json};

use super::super::scripted::{Scripted, done, finished, post, started};
use super::{PATH, checked_events, request};
use crate::kept::{Bounds, Responses};
use crate::wire::responses::plan::response_plan;
use crate::wire::responses::request::ResponsesRequest;

/// What an answer is made of; a call comes with all its arguments.
#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Reasoning(String),
    Call(String, Vec<String>),
}

fn piece() -> impl Strategy<Value = Piece> {
    let arguments = prop::collection::vec(".{0,6}", 0..3);
    prop_oneof![
        ".{0,6}".prop_map(Piece::Text),
        ".{0,6}".prop_map(Piece::Reasoning),
        ("[a-z]{1,4}", arguments).prop_map(|(name, parts)| Piece::Call(name, parts)),
    ]
}

fn reason() -> impl Strategy<Value = FinishReason> {
    prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::ToolCalls),
    ]
}

fn events(pieces: Vec<Piece>, reason: FinishReason) -> Vec<Event> {
    let plain = |delta| Event::Delta {
        choice: 0,
        delta,
        logprobs: Vec::new(),
    };
    let mut events = vec![started()];
    let mut n_calls = 0;
    for piece in pieces {
        match piece {
            Piece::Text(text) => events.push(Event::Delta {
                choice: 0,
                logprobs: vec![TokenLogprob {
                    token: text.clone(),
                    bytes: text.as_bytes().to_vec(),
                    logprob: Some(-1.0),
                    top: Vec::new(),
                }],
                delta: Delta::Text { text },
            }),
            Piece::Reasoning(text) => events.push(plain(Delta::Reasoning { text })),
            Piece::Call(name, parts) => {
                let index = n_calls;
                n_calls += 1;
                let id = format!("call_{index}");
                events.push(plain(Delta::ToolCallStart { index, id, name }));
                for text in parts {
                    events.push(plain(Delta::ToolCallArguments { index, text }));
                }
            }
        }
    }
    events.push(finished(0, reason));
    events.push(done());
    events
}

async fn both(script: Vec<Event>, include: Value) {
    let backend = Scripted::new(vec![script.clone(), script]);
    let whole = request(json!({ "include": include }));
    let whole = post(&backend, PATH, whole).await.json();
    let stream = request(json!({ "include": include, "stream": true }));
    let stream = post(&backend, PATH, stream).await;
    let events = checked_events(&stream);
    assert_eq!(events.last().unwrap()["response"], whole);
}

/// Any JSON value, not too deep, in the words of the dialect.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        "item_reference",
        "function",
        "namespace",
        "allowed_tools",
        "assistant",
        "user",
        "input_text",
        "json_schema",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    let keys = [
        "type",
        "id",
        "role",
        "content",
        "name",
        "tools",
        "call_id",
        "output",
        "arguments",
        "text",
        "summary",
        "format",
        "mode",
        "schema",
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let key = prop::sample::select(keys.to_vec());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|fields| {
                let fields = fields.into_iter();
                Value::Object(fields.map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

const FIELDS: [&str; 20] = [
    "input",
    "instructions",
    "previous_response_id",
    "store",
    "include",
    "tools",
    "tool_choice",
    "max_output_tokens",
    "temperature",
    "top_logprobs",
    "text",
    "reasoning",
    "metadata",
    "truncation",
    "background",
    "conversation",
    "stop",
    "seed",
    "top_k",
    "messages",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_last_event_holds_the_whole_response(
        pieces in prop::collection::vec(piece(), 0..16), reason in reason(), logprobs in any::<bool>()
    ) {
        let include = match logprobs {
            true => json!(["message.output_text.logprobs"]),
            false => json!([]),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(both(events(pieces, reason), include));
    }

    #[test]
    fn any_request_is_translated_or_refused(
        fields in prop::collection::vec((prop::sample::select(FIELDS.as_slice()), any_json()), 0..5)
    ) {
        let mut body = json!({ "input": "Hi" });
        for (name, value) in fields {
            body[name] = value;
        }
        let store = Responses::in_memory(Bounds::default());
        let request = crate::body::parse::<ResponsesRequest>(body.to_string().as_bytes());
        if let Ok(plan) = request.and_then(|request| response_plan(request, &store)) {
            prop_assert!(!plan.job.messages.is_empty());
            prop_assert_eq!(plan.job.generation.n, 1);
            prop_assert!(plan.job.generation.sampling.temperature.is_none_or(|t| (0.0..=2.0).contains(&t)));
        }
    }
}
