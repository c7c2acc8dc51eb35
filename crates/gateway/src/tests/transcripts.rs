//! Whole answers and whole streams, byte for byte.

use std::time::Duration;

use proto::{Delta, Event, FailureKind, FinishReason, JobFailure, TokenLogprob, TopLogprob};
use serde_json::json;

use super::scripted::{
    Scripted, Step, config, delta, done, failed, finished, hello, post, request, router, send,
    started, text,
};

const CHAT: &str = "/v1/chat/completions";

fn chat(extra: serde_json::Value) -> String {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    body.to_string()
}

fn streamed() -> String {
    chat(json!({ "stream": true }))
}

pub(super) fn thinking_and_calling() -> Vec<Event> {
    let start = |index, id: &str, name: &str| {
        delta(Delta::ToolCallStart {
            index,
            id: id.into(),
            name: name.into(),
        })
    };
    let part = |index, text: &str| {
        delta(Delta::ToolCallArguments {
            index,
            text: text.into(),
        })
    };
    vec![
        started(),
        delta(Delta::Reasoning {
            text: "Two ".into(),
        }),
        delta(Delta::Reasoning {
            text: "cities.".into(),
        }),
        text(0, "Looking up."),
        start(0, "call_a", "weather"),
        part(0, "{\"city\":"),
        part(0, "\"Bern\"}"),
        start(1, "call_b", "weather"),
        part(1, "{}"),
        finished(0, FinishReason::ToolCalls),
        done(),
    ]
}

fn token(text: &str, logprob: f32) -> TokenLogprob {
    TokenLogprob {
        token: text.into(),
        bytes: text.as_bytes().to_vec(),
        logprob: Some(logprob),
        top: vec![
            TopLogprob {
                token: text.into(),
                bytes: text.as_bytes().to_vec(),
                logprob,
            },
            TopLogprob {
                token: "é".into(),
                bytes: "é".as_bytes().to_vec(),
                logprob: f32::NEG_INFINITY,
            },
        ],
    }
}

pub(crate) fn with_logprobs() -> Vec<Event> {
    let piece = |text: &str, tokens: Vec<TokenLogprob>| Event::Delta {
        choice: 0,
        delta: Delta::Text { text: text.into() },
        logprobs: tokens,
    };
    vec![
        started(),
        piece("Hé", vec![token("Hé", -0.25)]),
        piece("llo", vec![token("l", -0.5), token("lo", 0.0)]),
        finished(0, FinishReason::Length),
        done(),
    ]
}

async fn transcript(script: Vec<Event>, path: &str, body: String) -> String {
    let reply = post(&Scripted::new(vec![script]), path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

#[tokio::test]
async fn chat_whole() {
    let body = transcript(hello(), CHAT, chat(json!({}))).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn chat_stream() {
    let body = transcript(hello(), CHAT, streamed()).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn chat_stream_with_usage() {
    let request = chat(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let body = transcript(hello(), CHAT, request).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn tools_and_reasoning_whole() {
    let body = transcript(thinking_and_calling(), CHAT, chat(json!({}))).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn tools_and_reasoning_stream() {
    let body = transcript(thinking_and_calling(), CHAT, streamed()).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn two_choices_stream() {
    let script = vec![
        started(),
        text(0, "a"),
        text(1, "b"),
        finished(1, FinishReason::Length),
        text(0, "c"),
        Event::Finished {
            choice: 0,
            reason: FinishReason::Stop,
            stop: Some("END".into()),
        },
        done(),
    ];
    let body = transcript(script, CHAT, chat(json!({ "stream": true, "n": 2 }))).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn logprobs_stream() {
    let request = chat(json!({ "stream": true, "logprobs": true, "top_logprobs": 2 }));
    let body = transcript(with_logprobs(), CHAT, request).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn error_inside_a_stream() {
    let lost = FailureKind::WorkerLost {
        cause: "signal 6".into(),
    };
    let script = vec![started(), text(0, "Hel"), failed(lost, "The worker died.")];
    let body = transcript(script, CHAT, streamed()).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn a_stream_that_just_ends_is_an_error() {
    let body = transcript(vec![started(), text(0, "Hel")], CHAT, streamed()).await;
    assert!(body.contains("internal_error"), "{body}");
    assert!(body.contains("\"finish_reason\":\"length\""), "{body}");
    assert!(!body.contains("[DONE]"), "{body}");
}

#[tokio::test]
async fn a_forgotten_finish_is_made_up_for() {
    let body = transcript(vec![started(), text(0, "x"), done()], CHAT, streamed()).await;
    assert!(body.contains("\"finish_reason\":\"stop\""), "{body}");
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
}

#[tokio::test]
async fn completion_whole_for_two_prompts() {
    let backend = Scripted::new(vec![hello(), with_logprobs()]);
    let body = r#"{"prompt": ["a", "b"], "logprobs": 2}"#;
    let reply = post(&backend, "/v1/completions", body).await;
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn completion_stream() {
    let body = r#"{"prompt": [1, 2], "stream": true, "logprobs": 2}"#.to_owned();
    let body = transcript(with_logprobs(), "/v1/completions", body).await;
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn a_failure_before_the_first_token_is_a_status() {
    let cases = [
        (
            FailureKind::ContextExceeded {
                prompt_tokens: 9000,
                context: 4096,
            },
            400,
        ),
        (FailureKind::QueueFull { limit: 3 }, 429),
        (FailureKind::TemplateFailed, 400),
        (FailureKind::Draining, 503),
        (FailureKind::ModelUnavailable, 503),
        (FailureKind::Internal, 500),
        (FailureKind::Unsupported, 400),
        (FailureKind::InvalidRequest, 400),
    ];
    for (kind, status) in cases {
        for stream in [false, true] {
            let failure = JobFailure {
                kind: kind.clone(),
                message: "Because.".into(),
                param: Some("messages".into()),
            };
            let refused = Scripted::refusing(failure.clone());
            let begun = Scripted::new(vec![vec![Event::Failed(failure)]]);
            for backend in [refused, begun] {
                let reply = post(&backend, CHAT, chat(json!({ "stream": stream }))).await;
                assert_eq!(reply.status, status, "{kind:?}");
                let error = &reply.json()["error"];
                assert_eq!(error["param"], "messages");
                let again = reply.header("x-should-retry") != Some("false");
                assert_eq!(
                    again,
                    matches!(status, 429 | 500) || kind == FailureKind::Draining
                );
                let waits = reply.header("retry-after").is_some();
                assert_eq!(waits, matches!(status, 429 | 503), "{kind:?}");
            }
        }
    }
}

#[tokio::test]
async fn context_numbers_are_in_the_error() {
    let kind = FailureKind::ContextExceeded {
        prompt_tokens: 9000,
        context: 4096,
    };
    let backend = Scripted::new(vec![vec![failed(kind, "")]]);
    let reply = post(&backend, CHAT, streamed()).await;
    insta::assert_snapshot!(reply.body);
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_comments() {
    let mut script: Vec<Step> = vec![
        started().into(),
        Event::Prefill {
            done: 512,
            total: 2048,
        }
        .into(),
        Step::Wait(Duration::from_secs(25)),
    ];
    script.extend(hello().into_iter().skip(1).map(Step::from));
    let reply = post(&Scripted::new(vec![script]), CHAT, streamed()).await;
    assert_eq!(reply.body.matches(": prefill 512/2048\n\n").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_commits_and_then_fails_inside() {
    let script = vec![
        Step::Wait(Duration::from_secs(6)),
        failed(FailureKind::QueueFull { limit: 1 }, "").into(),
    ];
    let reply = post(&Scripted::new(vec![script]), CHAT, streamed()).await;
    assert_eq!(reply.status, 200);
    insta::assert_snapshot!(reply.body);
}

#[tokio::test(start_paused = true)]
async fn a_client_may_turn_comments_off() {
    let mut script = vec![Step::Wait(Duration::from_secs(60))];
    script.extend(hello().into_iter().map(Step::from));
    let mut request = request(axum::http::Method::POST, CHAT, streamed());
    let off = axum::http::HeaderValue::from_static("off");
    request.headers_mut().insert("x-sextant-keep-alive", off);
    let reply = send(router(&Scripted::new(vec![script]), config()), request).await;
    assert!(reply.body.starts_with("data: "), "{}", reply.body);
}
