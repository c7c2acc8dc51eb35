use proto::{
    ChatJob, Constraint, Delta, Event, FailureKind, FinishReason, Generation, Image, Job, Message,
    Role, SamplingOverrides, Timings, ToolCall, ToolChoice, ToolDefinition, UpstreamFault,
};
use router::Reach;
use serde_json::{Value, json};
use stdx::Priority;

use super::answer::Reader;
use super::call_ids::CallIds;
use super::request::{AnswerKind, Request, request};
use crate::Order;
use crate::kind::Kind;

fn written(kind: Kind, job: ChatJob) -> Request {
    request(kind, true, order(job)).unwrap()
}

fn order(job: ChatJob) -> Order {
    Order {
        model: "m".into(),
        job: Job::Chat(Box::new(job)),
        reach_max: Reach::Lan,
        hops: 1,
        priority: Priority::Normal,
        is_whole: false,
        trace_parent: None,
    }
}

/// As the engine reads it.
fn read_body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn user(text: &str) -> Message {
    Message {
        role: Role::User,
        content: Some(text.into()),
        ..Message::default()
    }
}

#[test]
fn images_are_written_where_they_stand() {
    let image = |url: &str, at| Image {
        url: url.into(),
        detail: (at == 0).then(|| "low".into()),
        at,
    };
    let inline = "data:image/png;base64,AAAA";
    let job = |images| ChatJob {
        messages: vec![Message {
            images,
            ..user("Onetwo")
        }],
        ..ChatJob::default()
    };
    let both = || job(vec![image(inline, 0), image("https://a/b", 3)]);
    for kind in [Kind::Vllm, Kind::LlamaServer, Kind::OpenAi, Kind::Sextant] {
        let expected = json!([
            { "type": "image_url", "image_url": { "url": inline, "detail": "low" } },
            { "type": "text", "text": "One" },
            { "type": "image_url", "image_url": { "url": "https://a/b" } },
            { "type": "text", "text": "two" },
        ]);
        let body = read_body(&written(kind, both()));
        assert_eq!(body["messages"][0]["content"], expected);
    }
    // Engines that take no addresses.
    for kind in [Kind::Ollama, Kind::LmStudio] {
        let body = read_body(&written(kind, job(vec![image(inline, 6)])));
        assert_eq!(body["messages"][0]["content"].as_array().unwrap().len(), 2);
        let refused = request(kind, true, order(both())).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unsupported);
    }
}

#[test]
fn a_conversation_with_tools_is_written() {
    let job = ChatJob {
        messages: vec![
            user("Weather?"),
            Message {
                role: Role::Assistant,
                tool_calls: vec![ToolCall {
                    id: "call_1".into(),
                    name: "weather".into(),
                    arguments: "{\"city\":\"Bern\"}".into(),
                }],
                ..Message::default()
            },
            Message {
                role: Role::Tool,
                content: Some("Sun".into()),
                tool_call_id: Some("call_1".into()),
                ..Message::default()
            },
        ],
        tools: vec![ToolDefinition {
            name: "weather".into(),
            strict: Some(true),
            ..ToolDefinition::default()
        }],
        tool_choice: ToolChoice::Named("weather".into()),
        parallel_tool_calls: Some(false),
        constraint: Some(Constraint::JsonSchema {
            schema: json!({ "type": "object" }),
        }),
        generation: Generation {
            max_tokens: Some(8),
            stop: vec!["END".into()],
            logprobs: Some(2),
            sampling: SamplingOverrides {
                temperature: Some(0.7),
                seed: Some(3),
                ..SamplingOverrides::default()
            },
            ..Generation::default()
        },
        ..ChatJob::default()
    };
    let request = written(Kind::OpenAi, job);
    assert_eq!(request.warnings, Vec::<String>::new());
    assert_eq!(
        read_body(&request),
        json!({
            "model": "m",
            "stream": true,
            "stream_options": { "include_usage": true },
            "messages": [
                { "role": "user", "content": "Weather?" },
                {
                    "role": "assistant",
                    "content": null,
                    "tool_calls": [{
                        "id": "call_1",
                        "type": "function",
                        "function": { "name": "weather", "arguments": "{\"city\":\"Bern\"}" },
                    }],
                },
                { "role": "tool", "content": "Sun", "tool_call_id": "call_1" },
            ],
            "tools": [{
                "type": "function",
                "function": {
                    "name": "weather",
                    "parameters": { "type": "object", "properties": {} },
                    "strict": true,
                },
            }],
            "tool_choice": { "type": "function", "function": { "name": "weather" } },
            "parallel_tool_calls": false,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "answer", "schema": { "type": "object" }, "strict": true,
                },
            },
            "max_tokens": 8,
            "stop": ["END"],
            "temperature": 0.7,
            "seed": 3,
            "logprobs": true,
            "top_logprobs": 2,
        })
    );
}

#[test]
fn what_an_engine_does_not_know_is_left_out_with_a_warning() {
    let job = || ChatJob {
        messages: vec![user("Hi")],
        generation: Generation {
            sampling: SamplingOverrides {
                top_k: Some(40),
                repeat_penalty: Some(1.1),
                dry_multiplier: Some(0.8),
                ..SamplingOverrides::default()
            },
            ..Generation::default()
        },
        ..ChatJob::default()
    };
    let ours = written(Kind::Sextant, job());
    assert_eq!(read_body(&ours)["top_k"], 40);
    assert_eq!(read_body(&ours)["dry_multiplier"], 0.8);
    // What may not go farther is told to who could send it farther.
    assert_eq!(
        ours.headers,
        [
            ("x-routing-privacy", "lan_only".to_owned()),
            ("x-sextant-hops", "2".to_owned()),
            ("x-sextant-priority", "normal".to_owned()),
        ]
    );
    let vllm = written(Kind::Vllm, job());
    assert_eq!(read_body(&vllm)["repetition_penalty"], 1.1);
    assert_eq!(vllm.warnings.len(), 1);
    let service = written(Kind::OpenAi, job());
    assert!(read_body(&service).get("top_k").is_none());
    assert_eq!(service.warnings.len(), 3);
}

#[test]
fn a_constraint_is_never_dropped() {
    let job = |constraint| ChatJob {
        messages: vec![user("Hi")],
        constraint: Some(constraint),
        ..ChatJob::default()
    };
    let regex = || Constraint::Regex {
        pattern: "a+".into(),
    };
    let ours = written(Kind::Sextant, job(regex()));
    assert_eq!(read_body(&ours)["response_format"]["pattern"], "a+");
    for kind in Kind::ALL {
        let order = Order {
            model: "m".into(),
            job: Job::Chat(Box::new(job(regex()))),
            reach_max: Reach::Cloud,
            hops: 0,
            priority: Priority::Normal,
            is_whole: false,
            trace_parent: None,
        };
        let failed = request(kind, true, order).is_err();
        assert_eq!(failed, kind != Kind::Sextant, "{}", kind.word());
    }
}

/// The events of a stream, without usage and timings.
fn read(n: u32, chunks: &[Value], ending: &str) -> Vec<Event> {
    let mut reader = Reader::new(
        "box",
        AnswerKind::Chat { n },
        CallIds::default(),
        vec!["careful".into()],
    );
    let mut events = Vec::new();
    for chunk in chunks {
        reader.data(
            chunk.to_string().as_bytes(),
            Timings::default(),
            &mut events,
        );
    }
    if !ending.is_empty() {
        reader.data(ending.as_bytes(), Timings::default(), &mut events);
    }
    reader.end(Timings::default(), &mut events);
    events
}

fn chunk(delta: Value, finish: Value) -> Value {
    json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
}

fn fault(events: &[Event]) -> Option<UpstreamFault> {
    match events.last() {
        Some(Event::Failed(failure)) => match failure.kind {
            FailureKind::Upstream { fault, .. } => Some(fault),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn text_thoughts_and_usage_are_read() {
    let events = read(
        1,
        &[
            chunk(json!({ "role": "assistant", "content": null }), json!(null)),
            chunk(json!({ "reasoning": "Hm." }), json!(null)),
            chunk(json!({ "content": "Hel" }), json!(null)),
            chunk(json!({ "content": "lo" }), json!(null)),
            chunk(json!({}), json!("stop")),
            json!({ "choices": [], "usage": {
                "prompt_tokens": 9, "completion_tokens": 3,
                "prompt_tokens_details": { "cached_tokens": 4 },
            } }),
        ],
        "[DONE]",
    );
    let [
        Event::Started { warnings, .. },
        Event::Delta {
            delta: Delta::Reasoning { text: thought },
            ..
        },
        Event::Delta { .. },
        Event::Delta {
            delta: Delta::Text { text },
            ..
        },
        Event::Finished {
            reason: FinishReason::Stop,
            ..
        },
        Event::Done { usage, .. },
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!((thought.as_str(), text.as_str()), ("Hm.", "lo"));
    assert_eq!(warnings, &["careful"]);
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (9, 4));
}

#[test]
fn calls_get_ids_and_dense_indices() {
    let call = |index: Value, id: Value, name: Value, arguments: Value| {
        json!({ "tool_calls": [{
            "index": index, "id": id, "function": { "name": name, "arguments": arguments },
        }] })
    };
    let events = read(
        1,
        &[
            chunk(
                call(json!(3), json!(null), json!("a"), json!("")),
                json!(null),
            ),
            chunk(
                call(json!(3), json!(null), json!(null), json!("{}")),
                json!(null),
            ),
            chunk(
                call(json!(5), json!("x"), json!("b"), json!({ "c": 1 })),
                json!(null),
            ),
            chunk(json!({}), json!("stop")),
        ],
        "[DONE]",
    );
    let deltas: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Delta { delta, .. } => Some(delta.clone()),
            _ => None,
        })
        .collect();
    let start = |index, id: &str, name: &str| Delta::ToolCallStart {
        index,
        id: id.into(),
        name: name.into(),
    };
    let arguments = |index, text: &str| Delta::ToolCallArguments {
        index,
        text: text.into(),
    };
    assert_eq!(
        deltas,
        [
            start(0, "call_000000000000000000000000", "a"),
            arguments(0, "{}"),
            start(1, "x", "b"),
            arguments(1, "{\"c\":1}"),
        ]
    );
    assert!(events.contains(&Event::Finished {
        choice: 0,
        reason: FinishReason::ToolCalls,
        stop: None,
    }));
}

#[test]
fn calls_that_all_have_the_same_number_stay_apart() {
    let call = |id: &str, name: &str| {
        json!({ "tool_calls": [{
            "index": 0, "id": id, "function": { "name": name, "arguments": "{}" },
        }] })
    };
    let events = read(
        1,
        &[
            chunk(call("a", "one"), json!(null)),
            chunk(call("b", "two"), json!(null)),
            chunk(json!({}), json!("tool_calls")),
        ],
        "[DONE]",
    );
    let starts = events.iter().filter_map(|event| match event {
        Event::Delta {
            delta: Delta::ToolCallStart { index, name, .. },
            ..
        } => Some((*index, name.as_str())),
        _ => None,
    });
    assert_eq!(starts.collect::<Vec<_>>(), [(0, "one"), (1, "two")]);
}

#[test]
fn a_broken_stream_never_ends_well() {
    let hello = || chunk(json!({ "content": "Hello" }), json!(null));
    let finished = || chunk(json!({}), json!("stop"));
    assert_eq!(fault(&read(1, &[hello()], "")), Some(UpstreamFault::CutOff));
    assert_eq!(fault(&read(1, &[], "")), Some(UpstreamFault::CutOff));
    assert_eq!(fault(&read(1, &[], "[DONE]")), Some(UpstreamFault::CutOff));
    // Neither a told end nor a word that says so makes half an answer whole.
    let told = read(1, &[hello()], "[DONE]");
    assert_eq!(fault(&told), Some(UpstreamFault::CutOff));
    let aborted = read(1, &[hello(), chunk(json!({}), json!("abort"))], "[DONE]");
    assert_eq!(fault(&aborted), Some(UpstreamFault::CutOff));
    let cut = read(1, &[hello()], "{\"choi");
    assert_eq!(fault(&cut), Some(UpstreamFault::Malformed));
    let error = json!({ "error": { "message": "out of memory", "code": 503 } });
    let events = read(1, &[hello(), error], "");
    let Some(Event::Failed(failure)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(
        failure.message,
        "`box` answered with status 503: out of memory"
    );
    // Without `[DONE]` all choices must have been finished.
    assert!(matches!(
        read(1, &[hello(), finished()], "").last(),
        Some(Event::Done { .. })
    ));
    let one_of_two = read(2, &[hello(), finished()], "[DONE]");
    assert_eq!(fault(&one_of_two), Some(UpstreamFault::CutOff));
    let other = json!({ "choices": [{ "index": 7, "delta": { "content": "?" } }] });
    assert_eq!(
        fault(&read(1, &[other], "")),
        Some(UpstreamFault::Malformed)
    );
}

#[test]
fn whole_answers_and_vectors_are_read() {
    let mut reader = Reader::new(
        "box",
        AnswerKind::Chat { n: 1 },
        CallIds::default(),
        Vec::new(),
    );
    let mut events = Vec::new();
    let body = json!({
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": "Hello" },
            "finish_reason": "length",
        }],
        "usage": { "prompt_tokens": 2, "completion_tokens": 1 },
    });
    reader.whole(body.to_string().as_bytes(), Timings::default(), &mut events);
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(matches!(
        events[0],
        Event::Started {
            prompt_tokens: 2,
            ..
        }
    ));

    let mut reader = Reader::new(
        "box",
        AnswerKind::Embeddings { n: 2 },
        CallIds::default(),
        Vec::new(),
    );
    let mut events = Vec::new();
    let body = json!({ "data": [
        { "index": 1, "embedding": [0.0, 2.0] },
        { "index": 0, "embedding": [3.0, 4.0] },
    ] });
    reader.whole(body.to_string().as_bytes(), Timings::default(), &mut events);
    let [Event::Embeddings { vectors, .. }] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(vectors, &[vec![0.6, 0.8], vec![0.0, 1.0]]);
}
