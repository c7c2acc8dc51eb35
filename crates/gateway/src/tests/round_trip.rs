//! What one endpoint of ours asks of another is what it was asked, and what the other answers
//! is what its client gets: every request and every answer goes through both translations.

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use proptest::prelude::*;
use proto::{Delta, Event, FinishReason, Job};
use providers::{Kind, Remote, RemoteConfig, Streams, Timeouts};
use router::Reach;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::properties::{client_fold, script_of, whole_choices};
use super::scripted::{Scripted, config, request, routed, router, send};
use crate::wire::openai::{ChatRequest, chat_plan};
use crate::{RoutedProvider, Routing};

const CHAT: &str = "/v1/chat/completions";

/// Another endpoint, with the model `tiny`.
fn peer(url: String, streams: Streams) -> RoutedProvider {
    let day = std::time::Duration::from_secs(86_400);
    let remote = Remote::new(RemoteConfig {
        name: "peer".into(),
        kind: Kind::Sextant,
        url,
        key: None,
        headers: Vec::new(),
        reach: Some(Reach::Lan),
        timeouts: Timeouts {
            connect: day,
            first_token: day,
            silence: day,
        },
        models: Vec::new(),
        vision: Vec::new(),
        streams,
    });
    RoutedProvider {
        name: "peer".into(),
        provider: Arc::new(remote.unwrap()),
        reach: Reach::Lan,
        priority: 1,
        weight: 100,
        requests_max: 64,
        default_model: None,
        prices: crate::Prices::default(),
    }
}

/// The two endpoints; the first passes everything on to the second.
async fn pair(backend: &Arc<Scripted>, streams: Streams) -> Router {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let second = router(backend, config());
    tokio::spawn(async move { axum::serve(listener, second).await.unwrap() });
    let routing = Routing {
        providers: vec![peer(url, streams)],
        ..Routing::default()
    };
    routed(&Scripted::with_models(Vec::new()), config(), routing)
}

/// A word that no template, parser or rule knows.
const WORD: &str = "[a-zA-Z éß\u{4f60}\"\\\\\n]{1,12}";

fn message() -> impl Strategy<Value = Value> {
    let call = (WORD, "[a-z]{1,6}").prop_map(|(text, name)| {
        json!({ "role": "assistant", "content": null, "tool_calls": [{
            "id": "call_1", "type": "function",
            "function": { "name": name, "arguments": json!({ "a": text }).to_string() },
        }] })
    });
    let result =
        WORD.prop_map(|text| json!({ "role": "tool", "tool_call_id": "call_1", "content": text }));
    let roles = prop::sample::select(vec!["user", "assistant", "system", "developer"]);
    let plain = (roles, WORD).prop_map(|(role, text)| json!({ "role": role, "content": text }));
    prop_oneof![4 => plain, 1 => call, 1 => result]
}

/// A field with a value that it may have.
fn field() -> impl Strategy<Value = (&'static str, Value)> {
    let number =
        |name, low: f64, high: f64| (low..=high).prop_map(move |value| (name, json!(value as f32)));
    let whole =
        |name, low: i64, high: i64| (low..=high).prop_map(move |value| (name, json!(value)));
    let tool = json!({ "type": "function", "function": {
        "name": "weather", "description": "Of today.", "strict": true,
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } } },
    } });
    let choices = vec![
        json!("auto"),
        json!("none"),
        json!("required"),
        json!({ "type": "function", "function": { "name": "weather" } }),
    ];
    let choice = prop::sample::select(choices);
    let formats = vec![
        json!({ "type": "json_object" }),
        json!({ "type": "regex", "pattern": "a+" }),
        json!({ "type": "json_schema", "json_schema": {
            "name": "x", "schema": { "type": "object", "properties": { "a": { "enum": [1] } } },
        } }),
    ];
    prop_oneof![
        number("temperature", 0.0, 2.0),
        number("top_p", 0.0, 1.0),
        number("min_p", 0.0, 1.0),
        number("presence_penalty", -2.0, 2.0),
        number("frequency_penalty", -2.0, 2.0),
        number("repeat_penalty", 0.5, 2.0),
        number("dry_multiplier", 0.0, 2.0),
        whole("top_k", 0, 100),
        whole("repeat_last_n", -1, 100),
        whole("dry_penalty_last_n", -1, 100),
        whole("max_tokens", 1, 1000),
        any::<u64>().prop_map(|seed| ("seed", json!(seed))),
        prop::collection::vec(WORD, 1..4).prop_map(|stop| ("stop", json!(stop))),
        (-100.0..=100.0_f64).prop_map(|bias| ("logit_bias", json!({ "7": bias as f32 }))),
        choice.prop_map(move |choice| ("tools", json!([tool, choice]))),
        any::<bool>().prop_map(|parallel| ("parallel_tool_calls", json!(parallel))),
        prop::sample::select(formats).prop_map(|format| ("response_format", format)),
        prop::sample::select(vec!["none", "low", "high"])
            .prop_map(|effort| ("reasoning_effort", json!(effort))),
        (0..1000_u32).prop_map(|budget| ("reasoning", json!({ "budget_tokens": budget }))),
        any::<bool>().prop_map(|cache| ("cache_prompt", json!(cache))),
        WORD.prop_map(|text| ("chat_template_kwargs", json!({ "a": text, "b": [1, null] }))),
        any::<bool>().prop_map(|begun| ("continue_final_message", json!(begun))),
    ]
}

fn body(n: usize, messages: &[Value], fields: Vec<(&'static str, Value)>) -> Value {
    let mut body = json!({ "model": "tiny", "messages": messages, "n": n });
    for (name, value) in fields {
        match name {
            "tools" => {
                body["tools"] = json!([value[0]]);
                body["tool_choice"] = value[1].clone();
            }
            "continue_final_message" if value == true => {
                let begun = json!({ "role": "assistant", "content": "One" });
                body["messages"].as_array_mut().unwrap().push(begun);
                body[name] = value;
            }
            name => body[name] = value,
        }
    }
    if body.get("tools").is_none() {
        // Without tools it says nothing, and is not said again.
        body.as_object_mut().unwrap().remove("parallel_tool_calls");
    }
    body
}

/// An engine's own events: whoever calls something ends with that, and nobody else does.
fn sound(mut script: Vec<Event>) -> Vec<Event> {
    let mut callers = Vec::new();
    for event in &mut script {
        match event {
            Event::Delta {
                choice,
                delta: Delta::ToolCallStart { .. },
                ..
            } => callers.push(*choice),
            Event::Finished { choice, reason, .. } => match callers.contains(choice) {
                true => *reason = FinishReason::ToolCalls,
                false if *reason == FinishReason::ToolCalls => *reason = FinishReason::Stop,
                false => {}
            },
            _ => {}
        }
    }
    script
}

/// Asks both endpoints the same and compares what the last one is asked and what is answered.
async fn same(body: Value, n: usize, script: Vec<Event>, streams: Streams) {
    let Ok(plan) =
        crate::body::parse::<ChatRequest>(body.to_string().as_bytes()).and_then(chat_plan)
    else {
        return;
    };
    let backend = Scripted::new(vec![script.clone(), script.clone(), script]);
    let app = pair(&backend, streams).await;
    let direct = router(&backend, config());
    let post = |app: &Router, body: &Value| {
        send(app.clone(), request(Method::POST, CHAT, body.to_string()))
    };
    let expected = post(&direct, &body).await;
    let through = post(&app, &body).await;
    assert_eq!(through.status, 200, "{}", through.body);
    let (expected, through) = (expected.json(), through.json());
    assert_eq!(whole_choices(&through), whole_choices(&expected));
    assert_eq!(through["usage"], expected["usage"]);
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let chunks = post(&app, &streamed).await.events();
    assert_eq!(client_fold(&chunks, n), whole_choices(&expected));
    for (_, job) in backend.jobs.lock().unwrap().iter() {
        assert_eq!(*job, Job::Chat(Box::new(plan.job.clone())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_and_answers_survive_two_translations(
        (n, script) in (1..=2_usize).prop_flat_map(|n| (Just(n), script_of(n))),
        messages in prop::collection::vec(message(), 1..5),
        fields in prop::collection::vec(field(), 0..6),
        streams in prop::sample::select(vec![Streams::Always, Streams::AsShown]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(same(body(n, &messages, fields), n, sound(script), streams));
    }
}
