//! Whole answers and whole streams, byte for byte.

use std::time::Duration;

use axum::http::{HeaderValue, Method};
use proto::{Delta, Event, FailureKind, FinishReason, JobFailure};
use serde_json::{Value, json};

use super::{CHAT, GENERATE, chat, generate, lines};
use crate::tests::scripted::{
    Scripted, Step, config, delta, done, failed, finished, hello, post, request, router, send,
    started, text,
};
use crate::tests::transcripts::{thinking_and_calling, with_logprobs};

const LINES: &str = "application/x-ndjson";

async fn transcript(script: Vec<Event>, path: &str, body: String) -> String {
    let reply = post(&Scripted::new(vec![script]), path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

fn whole() -> Value {
    json!({ "stream": false })
}

#[tokio::test]
async fn chat_is_a_stream_unless_it_is_told_not_to_be() {
    let backend = Scripted::new(vec![hello(), hello()]);
    let stream = post(&backend, CHAT, chat(json!({}))).await;
    assert_eq!(stream.header("content-type"), Some(LINES));
    insta::assert_snapshot!("chat_stream", stream.body);
    let whole = post(&backend, CHAT, chat(whole())).await;
    assert_eq!(whole.header("content-type"), Some("application/json"));
    insta::assert_snapshot!("chat_whole", whole.body);
}

#[tokio::test]
async fn generate_is_a_stream_unless_it_is_told_not_to_be() {
    let backend = Scripted::new(vec![hello(), hello()]);
    let stream = post(&backend, GENERATE, generate(json!({}))).await;
    assert_eq!(stream.header("content-type"), Some(LINES));
    insta::assert_snapshot!("generate_stream", stream.body);
    let whole = post(&backend, GENERATE, generate(whole())).await;
    assert_eq!(whole.header("content-type"), Some("application/json"));
    insta::assert_snapshot!("generate_whole", whole.body);
}

#[tokio::test]
async fn tools_and_thinking_stream() {
    let body = transcript(thinking_and_calling(), CHAT, chat(json!({}))).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn tools_and_thinking_whole() {
    let body = transcript(thinking_and_calling(), CHAT, chat(whole())).await;
    insta::assert_snapshot!(body);
}

fn thinking() -> Vec<Event> {
    vec![
        started(),
        delta(Delta::Reasoning { text: "Hm.".into() }),
        text(0, "Yes."),
        finished(0, FinishReason::Length),
        done(),
    ]
}

#[tokio::test]
async fn generate_with_thinking() {
    let stream = transcript(thinking(), GENERATE, generate(json!({ "think": true }))).await;
    insta::assert_snapshot!("generate_thinking_stream", stream);
    let whole = transcript(thinking(), GENERATE, generate(whole())).await;
    insta::assert_snapshot!("generate_thinking_whole", whole);
}

#[tokio::test]
async fn logprobs_are_sent_when_they_are_asked_for() {
    let asked = json!({ "logprobs": true, "top_logprobs": 2 });
    let body = transcript(with_logprobs(), CHAT, chat(asked)).await;
    insta::assert_snapshot!(body);
    let body = transcript(with_logprobs(), CHAT, chat(json!({}))).await;
    assert!(!body.contains("logprobs"), "{body}");
}

/// A call that the token limit cut.
fn cut_call() -> Vec<Event> {
    vec![
        started(),
        text(0, "Looking up."),
        delta(Delta::ToolCallStart {
            index: 0,
            id: "call_a".into(),
            name: "weather".into(),
        }),
        delta(Delta::ToolCallArguments {
            index: 0,
            text: "{\"city\": \"Be".into(),
        }),
        finished(0, FinishReason::Length),
        done(),
    ]
}

#[tokio::test]
async fn arguments_that_are_no_object_are_sent_as_text() {
    let stream = transcript(cut_call(), CHAT, chat(json!({}))).await;
    insta::assert_snapshot!("cut_call_stream", stream);
    let whole = transcript(cut_call(), CHAT, chat(whole())).await;
    insta::assert_snapshot!("cut_call_whole", whole);
}

#[tokio::test]
async fn an_error_inside_a_stream_is_its_last_line() {
    let lost = || FailureKind::WorkerLost {
        cause: "signal 6".into(),
    };
    let begun = vec![started(), text(0, "Hel")];
    let fail = || failed(lost(), "The worker died.");
    let plain = [begun.clone(), vec![fail()]].concat();
    let body = transcript(plain, CHAT, chat(json!({}))).await;
    insta::assert_snapshot!(body);
    // The choice was finished already, or a call was being written, when it broke.
    let finish = finished(0, FinishReason::Stop);
    let finished = [begun.clone(), vec![finish, fail()]].concat();
    let mut calling = cut_call();
    calling.truncate(4);
    calling.push(fail());
    for script in [finished, calling, begun] {
        for (path, body) in [(CHAT, chat(json!({}))), (GENERATE, generate(json!({})))] {
            let body = transcript(script.clone(), path, body).await;
            let lines = lines(&body);
            let (last, before) = lines.split_last().unwrap();
            assert!(last["error"].is_string(), "{body}");
            assert!(before.iter().all(|line| line["done"] == false), "{body}");
        }
    }
}

#[tokio::test]
async fn an_error_before_the_first_token_is_a_status() {
    let cases = [
        (
            FailureKind::ContextExceeded {
                prompt_tokens: 9000,
                context: 4096,
            },
            400,
            "9000 tokens",
        ),
        (FailureKind::QueueFull { limit: 3 }, 429, "3 jobs"),
        (FailureKind::TemplateFailed, 400, "Because."),
        (FailureKind::ModelUnavailable, 503, "Because."),
    ];
    for (kind, status, says) in cases {
        for stream in [false, true] {
            let failure = JobFailure {
                kind: kind.clone(),
                message: "Because.".into(),
                param: None,
            };
            let backend = Scripted::refusing(failure);
            let reply = post(&backend, CHAT, chat(json!({ "stream": stream }))).await;
            assert_eq!(reply.status, status, "{kind:?}");
            let error = reply.json();
            assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
            assert!(error["error"].as_str().unwrap().contains(says), "{error}");
        }
    }
}

#[tokio::test]
async fn an_unknown_model_and_an_unknown_route_are_told_in_ollamas_shape() {
    let body = chat(json!({ "model": "nope" }));
    let reply = post(&Scripted::idle(), CHAT, body).await;
    assert_eq!(reply.status, 404);
    insta::assert_snapshot!("unknown_model", reply.body);
    let reply = post(&Scripted::idle(), "/api/push", "{}").await;
    assert_eq!(reply.status, 404);
    insta::assert_snapshot!("unknown_route", reply.body);
}

#[tokio::test]
async fn a_request_without_text_is_about_the_model() {
    for (path, empty) in [
        (CHAT, json!({ "model": "tiny:latest", "messages": [] })),
        (GENERATE, json!({ "model": "tiny:latest", "prompt": "" })),
    ] {
        let about = |extra: Value| super::with(empty.clone(), extra);
        let backend = Scripted::idle();
        let name = |what: &str| format!("{what}{}", path.replace('/', "_"));
        let load = post(&backend, path, about(json!({ "keep_alive": -1 }))).await;
        insta::assert_snapshot!(name("load"), load.body);
        assert_eq!(load.header("content-type"), Some(LINES));
        let loaded = post(&backend, path, about(whole())).await;
        assert_eq!(loaded.json()["done_reason"], "load");
        assert_eq!(loaded.header("content-type"), Some("application/json"));
        assert!(backend.jobs.lock().unwrap().is_empty());
        let unload = about(json!({ "keep_alive": 0, "stream": false }));
        let unload = post(&backend, path, unload).await;
        assert_eq!(unload.header("x-sextant-warning"), None);
        insta::assert_snapshot!(name("unload"), unload.body);
        assert!(crate::Backend::models(&*backend).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_white_space() {
    let mut script = vec![
        Step::from(started()),
        Event::Prefill {
            done: 512,
            total: 2048,
        }
        .into(),
        Step::Wait(Duration::from_secs(25)),
    ];
    script.extend(hello().into_iter().skip(1).map(Step::from));
    let reply = post(&Scripted::new(vec![script.clone()]), CHAT, chat(json!({}))).await;
    assert!(reply.body.starts_with("  {\"model\""), "{}", reply.body);
    assert_eq!(lines(&reply.body).len(), 3);
    let mut quiet = request(Method::POST, CHAT, chat(json!({})));
    let off = HeaderValue::from_static("off");
    quiet.headers_mut().insert("x-sextant-keep-alive", off);
    let reply = send(router(&Scripted::new(vec![script]), config()), quiet).await;
    assert!(reply.body.starts_with('{'), "{}", reply.body);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_commits_and_then_fails_inside() {
    let script = vec![
        Step::Wait(Duration::from_secs(6)),
        failed(FailureKind::QueueFull { limit: 1 }, "").into(),
    ];
    let reply = post(&Scripted::new(vec![script]), CHAT, chat(json!({}))).await;
    assert_eq!(reply.status, 200);
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn what_is_not_done_is_in_a_header() {
    let backend = Scripted::new(vec![hello()]);
    let body = chat(json!({
        "keep_alive": "5m", "temperature": 0, "stream": false,
        "options": { "num_ctx": 8192, "mirostat": 1, "num_gpu": 99 },
    }));
    let reply = post(&backend, CHAT, body).await;
    let told = reply.json()["sextant"]["warnings"].clone();
    insta::assert_json_snapshot!(told);
    let told: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect();
    assert_eq!(reply.header("x-sextant-warning"), Some(&*told.join(" ")));
}
