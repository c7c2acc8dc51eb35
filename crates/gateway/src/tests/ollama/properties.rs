//! Stream and whole answer say the same; no request makes the translation panic.

use proptest::prelude::*;
use proto::{Delta, Event, FinishReason};
use serde_json::{Value, json};

use super::{CHAT, GENERATE, chat, generate, lines};
use crate::tests::properties::{any_json, reason};
use crate::tests::scripted::{Scripted, delta, done, finished, post, started};
use crate::wire::ollama::chat::chat_plan;
use crate::wire::ollama::embedding::embed_plan;
use crate::wire::ollama::generate::generate_plan;
use crate::wire::ollama::plan::Work;
use crate::wire::ollama::request::{OllamaChat, OllamaEmbed, OllamaGenerate, parse};

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Thinking(String),
    Call(String),
    Arguments(String),
}

fn piece() -> impl Strategy<Value = Piece> {
    // Some calls become whole, some never.
    let arguments = prop_oneof![
        Just("{}".to_owned()),
        Just("{\"a\": [1".to_owned()),
        Just(", \"\u{2028}é\"]}".to_owned()),
        ".{1,6}",
    ];
    prop_oneof![
        ".{1,6}".prop_map(Piece::Text),
        ".{1,6}".prop_map(Piece::Thinking),
        "[a-z]{1,4}".prop_map(Piece::Call),
        arguments.prop_map(Piece::Arguments),
    ]
}

fn script(pieces: Vec<Piece>, reason: FinishReason) -> Vec<Event> {
    let mut n_calls = 0_u32;
    let mut events = vec![started()];
    for piece in pieces {
        events.push(delta(match piece {
            Piece::Text(text) => Delta::Text { text },
            Piece::Thinking(text) => Delta::Reasoning { text },
            Piece::Call(name) => {
                n_calls += 1;
                Delta::ToolCallStart {
                    index: n_calls - 1,
                    id: format!("call_{n_calls}"),
                    name,
                }
            }
            Piece::Arguments(text) => match n_calls.checked_sub(1) {
                Some(index) => Delta::ToolCallArguments { index, text },
                None => continue,
            },
        }));
    }
    events.extend([finished(0, reason), done()]);
    events
}

/// Folds lines as a client does, knowing nothing of this crate.
fn client_fold(lines: &[Value]) -> Value {
    let mut sum = lines.last().unwrap().clone();
    let pieces = |pointer: &str| -> String {
        let texts = lines
            .iter()
            .filter_map(|line| line.pointer(pointer)?.as_str());
        texts.collect()
    };
    let calls: Vec<_> = lines
        .iter()
        .filter_map(|line| line["message"]["tool_calls"].as_array())
        .flatten()
        .cloned()
        .collect();
    if sum["message"].is_object() {
        let message = json!({ "role": "assistant", "content": pieces("/message/content") });
        sum["message"] = message;
        if !pieces("/message/thinking").is_empty() {
            sum["message"]["thinking"] = json!(pieces("/message/thinking"));
        }
        if !calls.is_empty() {
            sum["message"]["tool_calls"] = json!(calls);
        }
    } else {
        sum["response"] = json!(pieces("/response"));
        if !pieces("/thinking").is_empty() {
            sum["thinking"] = json!(pieces("/thinking"));
        }
    }
    sum
}

async fn both(path: &str, request: impl Fn(Value) -> String, script: Vec<Event>) {
    let backend = Scripted::new(vec![script.clone(), script]);
    let whole = post(&backend, path, request(json!({ "stream": false }))).await;
    let stream = post(&backend, path, request(json!({}))).await;
    let lines = lines(&stream.body);
    assert_eq!(client_fold(&lines), whole.json());
    let (last, before) = lines.split_last().unwrap();
    assert_eq!(last["done"], true);
    assert!(before.iter().all(|line| line["done"] == false));
    assert_eq!(stream.body.lines().count(), lines.len());
}

const FIELDS: [&str; 16] = [
    "messages",
    "tools",
    "format",
    "options",
    "think",
    "keep_alive",
    "logprobs",
    "top_logprobs",
    "stream",
    "prompt",
    "system",
    "raw",
    "images",
    "input",
    "truncate",
    "dimensions",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stream_and_whole_say_the_same(
        pieces in prop::collection::vec(piece(), 0..24), reason in reason()
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = script(pieces.clone(), reason);
        runtime.block_on(both(CHAT, chat, script));
        let no_calls = |piece: &Piece| matches!(piece, Piece::Text(_) | Piece::Thinking(_));
        let script = self::script(pieces.into_iter().filter(no_calls).collect(), reason);
        runtime.block_on(both(GENERATE, generate, script));
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
        if let Ok(plan) = parse::<OllamaChat>(text.as_bytes()).and_then(|(it, _)| chat_plan(it)) {
            let empty = body["messages"].as_array().is_none_or(Vec::is_empty);
            prop_assert_eq!(matches!(plan.work, Work::Answer(_)), !empty);
        }
        if let Ok(plan) = parse::<OllamaGenerate>(text.as_bytes()).and_then(|(it, _)| generate_plan(it)) {
            let empty = body["prompt"].as_str().is_none_or(str::is_empty)
                && body["images"].as_array().is_none_or(Vec::is_empty);
            prop_assert_eq!(matches!(plan.work, Work::Answer(_)), !empty);
        }
        if let Ok(plan) = parse::<OllamaEmbed>(text.as_bytes()).and_then(|(it, _)| embed_plan(it)) {
            prop_assert!(plan.job.is_none_or(|job| !job.inputs.is_empty()));
        }
    }
}
