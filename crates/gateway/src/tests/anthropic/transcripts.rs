//! Whole answers and whole streams, byte for byte.

use std::time::Duration;

use axum::http::Method;
use proto::{Delta, Event, FailureKind, FinishReason};
use serde_json::json;

use super::{COUNT, MESSAGES, body};
use crate::tests::scripted::{
    Scripted, Step, config, delta, done, failed, finished, hello, post, request, router, send,
    started, text,
};
use crate::tests::transcripts::thinking_and_calling;

async fn whole(script: Vec<Event>) -> String {
    answered(script, body(json!({}))).await
}

async fn streamed(script: Vec<Event>) -> String {
    answered(script, body(json!({ "stream": true }))).await
}

async fn answered(script: Vec<Event>, body: String) -> String {
    let reply = post(&Scripted::new(vec![script]), MESSAGES, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

fn stopped() -> Vec<Event> {
    let end = Event::Finished {
        choice: 0,
        reason: FinishReason::Stop,
        stop: Some("END".into()),
    };
    vec![started(), text(0, "One."), end, done()]
}

/// Cut off inside the arguments of a call.
fn cut_off() -> Vec<Event> {
    vec![
        started(),
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

fn too_long() -> Vec<Event> {
    let kind = FailureKind::ContextExceeded {
        prompt_tokens: 9000,
        context: 4096,
    };
    vec![failed(kind, "")]
}

#[tokio::test]
async fn text_whole() {
    insta::assert_snapshot!(whole(hello()).await);
}

#[tokio::test]
async fn text_stream() {
    insta::assert_snapshot!(streamed(hello()).await);
}

#[tokio::test]
async fn thinking_and_tools_whole() {
    insta::assert_snapshot!(whole(thinking_and_calling()).await);
}

#[tokio::test]
async fn thinking_and_tools_stream() {
    insta::assert_snapshot!(streamed(thinking_and_calling()).await);
}

#[tokio::test]
async fn a_stop_sequence_whole() {
    insta::assert_snapshot!(whole(stopped()).await);
}

#[tokio::test]
async fn a_stop_sequence_stream() {
    insta::assert_snapshot!(streamed(stopped()).await);
}

#[tokio::test]
async fn arguments_that_are_no_object_whole() {
    insta::assert_snapshot!(whole(cut_off()).await);
}

#[tokio::test]
async fn arguments_that_are_no_object_stream() {
    insta::assert_snapshot!(streamed(cut_off()).await);
}

#[tokio::test]
async fn an_answer_without_a_word() {
    let script = || vec![started(), finished(0, FinishReason::Stop), done()];
    let answer: serde_json::Value = serde_json::from_str(&whole(script()).await).unwrap();
    assert_eq!(answer["content"], json!([]));
    assert_eq!(answer["stop_reason"], "end_turn");
    let stream = streamed(script()).await;
    assert!(!stream.contains("content_block"), "{stream}");
    assert!(stream.contains("event: message_stop"), "{stream}");
}

#[tokio::test]
async fn an_error_before_the_answer_is_a_status() {
    let cases = [
        (FailureKind::QueueFull { limit: 3 }, 429, "rate_limit_error"),
        (FailureKind::TemplateFailed, 400, "invalid_request_error"),
        (FailureKind::Draining, 503, "overloaded_error"),
        (FailureKind::Internal, 500, "api_error"),
    ];
    for (kind, status, word) in cases {
        for stream in [false, true] {
            let backend = Scripted::new(vec![vec![failed(kind.clone(), "Because.")]]);
            let reply = post(&backend, MESSAGES, body(json!({ "stream": stream }))).await;
            assert_eq!(reply.status, status, "{kind:?}");
            let answer = reply.json();
            assert_eq!(answer["type"], "error");
            assert_eq!(answer["error"]["type"], word);
        }
    }
}

#[tokio::test]
async fn an_error_inside_a_stream() {
    let lost = FailureKind::WorkerLost {
        cause: "signal 6".into(),
    };
    let script = vec![started(), text(0, "Hel"), failed(lost, "The worker died.")];
    insta::assert_snapshot!(streamed(script).await);
}

/// Also where the worker dies after the answer's last word.
#[tokio::test]
async fn a_broken_stream_has_no_end() {
    let scripts = [
        vec![started()],
        vec![started(), text(0, "Hel")],
        vec![started(), text(0, "Hello"), finished(0, FinishReason::Stop)],
    ];
    for script in scripts {
        let stream = streamed(script).await;
        assert!(!stream.contains("message_delta"), "{stream}");
        assert!(!stream.contains("message_stop"), "{stream}");
        let last = stream.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with("event: error\n"), "{stream}");
    }
}

#[tokio::test]
async fn a_prompt_over_the_context_is_said_as_claude_code_wants_it() {
    for (path, stream) in [(MESSAGES, false), (MESSAGES, true), (COUNT, false)] {
        let backend = Scripted::new(vec![too_long()]);
        let reply = post(&backend, path, body(json!({ "stream": stream }))).await;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        insta::assert_snapshot!("a_prompt_over_the_context", reply.body);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_pings() {
    let mut script = vec![Step::Wait(Duration::from_secs(16)), started().into()];
    script.push(Step::Wait(Duration::from_secs(16)));
    script.extend(hello().into_iter().skip(1).map(Step::from));
    let backend = Scripted::new(vec![script]);
    let reply = post(&backend, MESSAGES, body(json!({ "stream": true }))).await;
    insta::assert_snapshot!(reply.body);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_commits_and_then_fails_inside() {
    let mut script = vec![Step::Wait(Duration::from_secs(6))];
    script.extend(too_long().into_iter().map(Step::from));
    let backend = Scripted::new(vec![script]);
    let reply = post(&backend, MESSAGES, body(json!({ "stream": true }))).await;
    assert_eq!(reply.status, 200);
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn headers_and_queries_of_the_sdks_are_taken() {
    let path = format!("{MESSAGES}?beta=true");
    let mut request = request(Method::POST, &path, body(json!({})));
    for (name, value) in [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "interleaved-thinking-2025-05-14"),
        ("x-api-key", "any"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let backend = Scripted::new(vec![hello()]);
    let reply = send(router(&backend, config()), request).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.header("request-id"), Some("req-0"));
    let refused = post(&backend, MESSAGES, "{}").await;
    assert_eq!(refused.header("request-id"), Some("req-0"));
    let other = post(&backend, "/tokenize", "{}").await;
    assert_eq!(other.header("request-id"), None);
}
