//! Stream and whole answer say the same; no request makes the translation panic.

use proptest::prelude::*;
use proto::{Delta, Event, FinishReason, TokenLogprob};
use serde_json::{Value, json};

use super::scripted::{Scripted, done, post, started};
use crate::wire::openai::{ChatRequest, CompletionRequest, chat_plan, completion_plan};

/// What a choice may be made of; tool calls are opened in order.
#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Reasoning(String),
    Call(String),
    Arguments(String),
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        ".{1,6}".prop_map(Piece::Text),
        ".{1,6}".prop_map(Piece::Reasoning),
        "[a-z]{1,4}".prop_map(Piece::Call),
        ".{1,6}".prop_map(Piece::Arguments),
    ]
}

pub(crate) fn reason() -> impl Strategy<Value = FinishReason> {
    prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::ToolCalls),
    ]
}

/// Events of up to three choices, interleaved.
fn script() -> impl Strategy<Value = (usize, Vec<Event>)> {
    (1..=3_usize).prop_flat_map(|n| (Just(n), script_of(n)))
}

/// Events of `n` choices, interleaved.
pub(super) fn script_of(n: usize) -> impl Strategy<Value = Vec<Event>> {
    let pieces = prop::collection::vec((0..n, piece()), 0..24);
    let reasons = prop::collection::vec(reason(), n);
    (pieces, reasons).prop_map(move |(pieces, reasons)| events(n, pieces, reasons))
}

fn events(n: usize, pieces: Vec<(usize, Piece)>, reasons: Vec<FinishReason>) -> Vec<Event> {
    let mut calls = vec![0_u32; n];
    let mut events = vec![started()];
    for (choice, piece) in pieces {
        let mut logprobs = Vec::new();
        let delta = match piece {
            Piece::Text(text) => {
                logprobs.push(TokenLogprob {
                    token: text.clone(),
                    bytes: text.as_bytes().to_vec(),
                    logprob: Some(-1.0),
                    top: Vec::new(),
                });
                Delta::Text { text }
            }
            Piece::Reasoning(text) => Delta::Reasoning { text },
            Piece::Call(name) => {
                let index = calls[choice];
                calls[choice] += 1;
                let id = format!("call_{choice}_{index}");
                Delta::ToolCallStart { index, id, name }
            }
            Piece::Arguments(text) => match calls[choice].checked_sub(1) {
                Some(index) => Delta::ToolCallArguments { index, text },
                None => continue,
            },
        };
        events.push(Event::Delta {
            choice: u32::try_from(choice).unwrap(),
            delta,
            logprobs,
        });
    }
    for (choice, reason) in reasons.into_iter().enumerate() {
        events.push(Event::Finished {
            choice: u32::try_from(choice).unwrap(),
            reason,
            stop: None,
        });
    }
    events.push(done());
    events
}

/// Folds chunks as a client does, knowing nothing of this crate.
pub(super) fn client_fold(chunks: &[Value], n: usize) -> Vec<Value> {
    let mut choices = vec![json!({ "text": "", "reasoning": "", "calls": [], "logprobs": [] }); n];
    for choice in chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
    {
        let into = &mut choices[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()];
        let delta = &choice["delta"];
        append(&mut into["text"], &delta["content"]);
        append(&mut into["reasoning"], &delta["reasoning_content"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let calls = into["calls"].as_array_mut().unwrap();
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            if call.get("id").is_some() {
                assert_eq!(index, calls.len(), "indices are dense");
                calls.push(
                    json!({ "id": call["id"], "name": call["function"]["name"], "arguments": "" }),
                );
            }
            append(
                &mut calls[index]["arguments"],
                &call["function"]["arguments"],
            );
        }
        for token in choice["logprobs"]["content"]
            .as_array()
            .into_iter()
            .flatten()
        {
            into["logprobs"].as_array_mut().unwrap().push(token.clone());
        }
        if choice["finish_reason"].is_string() {
            assert!(into.get("finish").is_none(), "one end a choice");
            into["finish"] = choice["finish_reason"].clone();
        }
    }
    choices
}

fn append(to: &mut Value, text: &Value) {
    if let Some(text) = text.as_str() {
        *to = json!(format!("{}{text}", to.as_str().unwrap()));
    }
}

pub(super) fn whole_choices(answer: &Value) -> Vec<Value> {
    let choices = answer["choices"].as_array().unwrap().iter();
    let text = |value: &Value| json!(value.as_str().unwrap_or_default());
    let choice = |choice: &Value| {
        let message = &choice["message"];
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        let calls: Vec<_> = calls
            .map(|call| {
                let function = &call["function"];
                json!({ "id": call["id"], "name": function["name"], "arguments": function["arguments"] })
            })
            .collect();
        let logprobs = choice["logprobs"]["content"].as_array();
        json!({
            "text": text(&message["content"]),
            "reasoning": text(&message["reasoning_content"]),
            "calls": calls,
            "logprobs": logprobs.cloned().unwrap_or_default(),
            "finish": choice["finish_reason"],
        })
    };
    choices.map(choice).collect()
}

async fn both(n: usize, script: Vec<Event>) {
    let backend = Scripted::new(vec![script.clone(), script]);
    let mut body = json!({
        "messages": [{ "role": "user", "content": "x" }],
        "n": n, "logprobs": true, "stream_options": { "include_usage": true },
    });
    let whole = post(&backend, "/v1/chat/completions", body.to_string())
        .await
        .json();
    body["stream"] = json!(true);
    let stream = post(&backend, "/v1/chat/completions", body.to_string()).await;
    let chunks = stream.events();
    assert_eq!(client_fold(&chunks, n), whole_choices(&whole));
    let last = chunks.last().unwrap();
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(last["sextant"], whole["sextant"]);
    for chunk in &chunks {
        for field in ["id", "created", "model", "system_fingerprint"] {
            assert_eq!(chunk[field], whole[field]);
        }
        for choice in chunk["choices"].as_array().unwrap() {
            assert_ne!(choice["delta"]["content"], "");
            assert_ne!(choice["delta"]["reasoning_content"], "");
        }
    }
    let roles = chunks
        .iter()
        .filter(|chunk| chunk["choices"][0]["delta"]["role"].is_string());
    assert_eq!(roles.count(), n, "one role a choice");
    assert!(stream.body.ends_with("data: [DONE]\n\n"));
}

/// Any JSON value, not too deep.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop_oneof![
            Just("type"),
            Just("function"),
            Just("name"),
            Just("role"),
            Just("content"),
            Just("tools")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|fields| {
                Value::Object(
                    fields
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}

const FIELDS: [&str; 24] = [
    "messages",
    "tools",
    "tool_choice",
    "stop",
    "seed",
    "temperature",
    "top_p",
    "logit_bias",
    "n",
    "max_tokens",
    "logprobs",
    "top_logprobs",
    "response_format",
    "grammar",
    "json_schema",
    "reasoning",
    "reasoning_effort",
    "speculation",
    "stream",
    "prompt",
    "echo",
    "best_of",
    "chat_template_kwargs",
    "modalities",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stream_and_whole_say_the_same((n, script) in script()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(both(n, script));
    }

    #[test]
    fn any_request_is_translated_or_refused(
        fields in prop::collection::vec((prop::sample::select(FIELDS.as_slice()), any_json()), 0..6)
    ) {
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }], "prompt": "x" });
        for (name, value) in fields {
            body[name] = value;
        }
        let text = body.to_string();
        if let Ok(plan) = crate::body::parse::<ChatRequest>(text.as_bytes()).and_then(chat_plan) {
            prop_assert!((1..=16).contains(&plan.job.generation.n));
            prop_assert!(plan.job.generation.sampling.temperature.is_none_or(|t| (0.0..=2.0).contains(&t)));
            prop_assert!(!plan.job.messages.is_empty());
        }
        if let Ok(plan) = crate::body::parse::<CompletionRequest>(text.as_bytes()).and_then(completion_plan) {
            prop_assert!(!plan.jobs.is_empty());
        }
    }

    #[test]
    fn numbers_in_range_come_through(
        temperature in 0.0..=2.0_f64, top_p in 0.0..=1.0_f64, seed in any::<u64>(),
        n in 1..=16_u32, max_tokens in 1..=i32::MAX, bias in -100.0..=100.0_f64,
    ) {
        let body = json!({
            "messages": [{ "role": "user", "content": "x" }], "temperature": temperature,
            "top_p": top_p, "seed": seed, "n": n, "max_tokens": max_tokens,
            "logit_bias": { "7": bias },
        });
        let request: ChatRequest = crate::body::parse(body.to_string().as_bytes()).unwrap();
        let generation = chat_plan(request).unwrap().job.generation;
        prop_assert_eq!(generation.sampling.temperature, Some(temperature as f32));
        prop_assert_eq!(generation.sampling.top_p, Some(top_p as f32));
        prop_assert_eq!(generation.sampling.seed, Some(seed));
        prop_assert_eq!(generation.n, n);
        prop_assert_eq!(generation.max_tokens, u32::try_from(max_tokens).ok());
        prop_assert_eq!(generation.sampling.logit_bias, vec![(7, bias as f32)]);
    }
}
