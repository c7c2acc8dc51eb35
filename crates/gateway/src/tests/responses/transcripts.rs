//! Whole responses and whole streams, byte for byte.

use std::time::Duration;

use proto::{Delta, Event, FailureKind, FinishReason, TokenLogprob, TopLogprob};
use serde_json::{Value, json};

use super::super::scripted::{
    Reply, Scripted, Step, delta, done, failed, finished, hello, post, started, text,
};
use super::{PATH, checked_events, request};

fn start(index: u32, id: &str, name: &str) -> Event {
    delta(Delta::ToolCallStart {
        index,
        id: id.into(),
        name: name.into(),
    })
}

fn arguments(index: u32, text: &str) -> Event {
    delta(Delta::ToolCallArguments {
        index,
        text: text.into(),
    })
}

fn thinking_and_calling() -> Vec<Event> {
    let thought = |text: &str| delta(Delta::Reasoning { text: text.into() });
    vec![
        started(),
        thought("Two "),
        thought("cities."),
        text(0, "Looking up."),
        start(0, "call_a", "weather"),
        arguments(0, "{\"city\":"),
        arguments(0, "\"Bern\"}"),
        start(1, "call_b", "geo__find"),
        arguments(1, "{}"),
        finished(0, FinishReason::ToolCalls),
        done(),
    ]
}

fn with_tools(stream: bool) -> String {
    let find = json!({ "type": "function", "name": "find" });
    request(json!({
        "stream": stream,
        "instructions": "Be brief.",
        "tools": [
            { "type": "function", "name": "weather", "parameters": { "type": "object" }, "strict": true },
            { "type": "namespace", "name": "geo", "description": "Places", "tools": [find] },
            { "type": "web_search" },
        ],
        "metadata": { "run": "7" },
        "reasoning": { "effort": "low", "summary": "auto" },
        "max_output_tokens": 50,
    }))
}

async fn reply<S: Into<Step>>(script: Vec<S>, body: String) -> Reply {
    post(&Scripted::new(vec![script]), PATH, body).await
}

fn streamed() -> String {
    request(json!({ "stream": true }))
}

#[tokio::test]
async fn text_whole() {
    let reply = reply(hello(), request(json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn text_stream() {
    let reply = reply(hello(), streamed()).await;
    checked_events(&reply);
    assert!(!reply.body.contains("[DONE]"));
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn reasoning_and_tools_whole() {
    let reply = reply(thinking_and_calling(), with_tools(false)).await;
    assert!(
        reply
            .header("x-sextant-warning")
            .unwrap()
            .contains("web_search")
    );
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn reasoning_and_tools_stream() {
    let reply = reply(thinking_and_calling(), with_tools(true)).await;
    checked_events(&reply);
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn what_is_cut_off_is_incomplete() {
    let script = vec![
        started(),
        text(0, "Looking up."),
        start(0, "call_a", "weather"),
        arguments(0, "{\"city\":"),
        finished(0, FinishReason::Length),
        done(),
    ];
    let reply = reply(script, streamed()).await;
    let events = checked_events(&reply);
    let response = &events.last().unwrap()["response"];
    let reason = &response["incomplete_details"]["reason"];
    assert_eq!(reason, "max_output_tokens");
    assert_eq!(response["output"][0]["status"], "completed");
    assert_eq!(response["output"][1]["status"], "incomplete");
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn a_failure_inside_a_stream_is_an_error_and_then_a_failed_response() {
    let lost = FailureKind::WorkerLost {
        cause: "signal 6".into(),
    };
    let script = vec![started(), text(0, "Hel"), failed(lost, "The worker died.")];
    let reply = reply(script, streamed()).await;
    checked_events(&reply);
    insta::assert_snapshot!(reply.body);
}

#[tokio::test]
async fn a_call_that_a_failure_cut_off_is_never_done() {
    let script = vec![
        started(),
        start(0, "call_a", "f"),
        arguments(0, "{}"),
        failed(FailureKind::Internal, "Because."),
    ];
    let events = checked_events(&reply(script, streamed()).await);
    let done = |event: &&Value| event["type"].as_str().unwrap().ends_with(".done");
    assert_eq!(events.iter().filter(done).count(), 0);
    let call = &events.last().unwrap()["response"]["output"][0];
    assert_eq!(
        (&call["arguments"], &call["status"]),
        (&json!("{}"), &json!("incomplete"))
    );
}

#[tokio::test]
async fn a_stream_that_just_ends_has_failed() {
    let finished_only = vec![started(), text(0, "Hel"), finished(0, FinishReason::Stop)];
    for script in [Vec::new(), vec![started()], finished_only] {
        let reply = reply(script.clone(), streamed()).await;
        if script.is_empty() {
            assert_eq!(reply.status, 500);
            continue;
        }
        let events = checked_events(&reply);
        let kinds: Vec<_> = events.iter().map(|event| &event["type"]).collect();
        assert_eq!(kinds[kinds.len() - 2..], ["error", "response.failed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_a_slow_start_is_told_in_openais_words() {
    let cases = [
        (
            FailureKind::ContextExceeded {
                prompt_tokens: 9000,
                context: 4096,
            },
            "context_length_exceeded",
        ),
        (FailureKind::QueueFull { limit: 1 }, "rate_limit_exceeded"),
        (FailureKind::TemplateFailed, "invalid_prompt"),
        (FailureKind::Draining, "server_error"),
    ];
    for (kind, code) in cases {
        let script = vec![
            Step::Wait(Duration::from_secs(6)),
            failed(kind, "Because.").into(),
        ];
        let reply = reply(script, streamed()).await;
        assert!(reply.body.starts_with(": keep-alive\n\n"));
        let events = checked_events(&reply);
        assert_eq!(events.last().unwrap()["response"]["error"]["code"], code);
    }
}

#[tokio::test]
async fn a_failure_before_the_start_is_a_status() {
    for stream in [false, true] {
        let kind = FailureKind::QueueFull { limit: 3 };
        let script = vec![failed(kind, "")];
        let reply = reply(script, request(json!({ "stream": stream }))).await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.json()["error"]["code"], "queue_full");
    }
}

#[tokio::test]
async fn log_probabilities_are_given_where_asked_for() {
    let token = |text: &str| TokenLogprob {
        token: text.into(),
        bytes: text.as_bytes().to_vec(),
        logprob: Some(-0.5),
        top: vec![TopLogprob {
            token: text.into(),
            bytes: text.as_bytes().to_vec(),
            logprob: -0.5,
        }],
    };
    let piece = |text: &str| Event::Delta {
        choice: 0,
        delta: Delta::Text { text: text.into() },
        logprobs: vec![token(text)],
    };
    let script = vec![
        started(),
        piece("Hé"),
        piece("llo"),
        finished(0, FinishReason::Stop),
        done(),
    ];
    let include = json!([
        "message.output_text.logprobs",
        "reasoning.encrypted_content"
    ]);
    let asked = request(json!({ "stream": true, "include": include, "top_logprobs": 1 }));
    let events = checked_events(&reply(script.clone(), asked).await);
    let delta = |event: &&Value| event["type"] == "response.output_text.delta";
    let first = events.iter().find(delta).unwrap();
    let expected = json!([{
        "token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169],
        "top_logprobs": [{ "token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169] }],
    }]);
    assert_eq!(first["logprobs"], expected);
    let part = &events.last().unwrap()["response"]["output"][0]["content"][0];
    assert_eq!(part["logprobs"].as_array().unwrap().len(), 2);
    let unasked = checked_events(&reply(script, streamed()).await);
    let first = unasked.iter().find(delta).unwrap();
    assert_eq!(first["logprobs"], json!([]));
}

#[tokio::test]
async fn text_after_a_call_is_an_item_of_its_own() {
    let script = vec![
        started(),
        text(0, "a"),
        start(0, "call_a", "f"),
        arguments(0, "{}"),
        text(0, "b"),
        finished(0, FinishReason::ToolCalls),
        done(),
    ];
    let whole = reply(script, request(json!({}))).await.json();
    let output = whole["output"].as_array().unwrap();
    let kinds: Vec<_> = output.iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["message", "function_call", "message"]);
    let ids: Vec<_> = output.iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, ["msg_0_0", "fc_0_1", "msg_0_2"]);
    assert_eq!(output[2]["content"][0]["text"], "b");
}

#[tokio::test]
async fn nothing_said_is_a_response_without_items() {
    let script = vec![started(), finished(0, FinishReason::Stop), done()];
    let events = checked_events(&reply(script, streamed()).await);
    assert_eq!(events.len(), 3);
}
