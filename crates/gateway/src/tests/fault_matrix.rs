//! What clients are known to choke on is never said by us, whatever the engine behind us says.
//!
//! Each case is a way in which engines were seen to answer; each is asked for in every dialect,
//! as a stream, and the answer is held to the rules of that dialect. Agents loop for ever on a
//! stream without a finish reason, fail on a call without an id, and take half an answer that
//! ends like a whole one for whole.

use std::collections::BTreeSet;

use axum::http::Method;
use router::Reach;
use serde_json::{Value, json};

use super::scripted::{Reply, Scripted, config, request, routed, send};
use super::upstream::{Fate, Upstream};
use crate::Routing;

/// How a stream has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Text,
    Calls(usize),
    /// With an error of this code.
    Broken(&'static str),
}

struct Case {
    name: &'static str,
    fate: Fate,
    end: End,
}

const HELLO: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}"#;
const STOP: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const DONE: &str = "data: [DONE]";
const CALLED: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#;

/// The matrix. The names are those of the faults.
const CASES: &[Case] = &[
    Case {
        name: "no role, no usage, an empty text first",
        fate: Fate::Says(&[
            r#"data: {"choices":[{"index":0,"delta":{"content":""}}]}"#,
            HELLO,
            STOP,
            DONE,
        ]),
        end: End::Text,
    },
    Case {
        name: "no [DONE]",
        fate: Fate::Says(&[HELLO, STOP]),
        end: End::Text,
    },
    Case {
        name: "comments, and fields of events that nobody needs",
        fate: Fate::Says(&[
            ": ping",
            ":",
            "event: message\nid: 7",
            HELLO,
            ":",
            STOP,
            DONE,
        ]),
        end: End::Text,
    },
    Case {
        name: "the last chunk twice",
        fate: Fate::Says(&[HELLO, STOP, STOP, DONE]),
        end: End::Text,
    },
    Case {
        name: "no id, no index, no type, whole arguments, content null, reason `stop`",
        fate: Fate::Says(&[
            r#"data: {"choices":[{"delta":{"content":null,"tool_calls":[{"function":{"name":"look","arguments":"{\"at\":1}"}}]}}]}"#,
            STOP,
        ]),
        end: End::Calls(1),
    },
    Case {
        name: "two calls with one number and the ids of earlier calls",
        fate: Fate::Says(&[
            r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_0","function":{"name":"look","arguments":"{}"}}]}}]}"#,
            r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"look","arguments":"{}"}}]}}]}"#,
            CALLED,
            DONE,
        ]),
        end: End::Calls(2),
    },
    Case {
        name: "arguments as an object, numbers with a gap",
        fate: Fate::Says(&[
            r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":2,"id":"","function":{"name":"look","arguments":{"at":1}}}]}}]}"#,
            r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":5,"function":{"name":"look"}}]}}]}"#,
            CALLED,
            DONE,
        ]),
        end: End::Calls(2),
    },
    Case {
        name: "no finish reason, though [DONE]",
        fate: Fate::Says(&[HELLO, DONE]),
        end: End::Broken("upstream_failed"),
    },
    Case {
        name: "no finish reason after half a call",
        fate: Fate::Says(&[
            r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"look","arguments":"{\"at"}}]}}]}"#,
        ]),
        end: End::Broken("upstream_failed"),
    },
    Case {
        name: "an error inside the stream",
        fate: Fate::Says(&[
            HELLO,
            r#"data: {"error":{"message":"out of memory","code":500}}"#,
        ]),
        end: End::Broken("upstream_failed"),
    },
    Case {
        name: "a chunk that cannot be read",
        fate: Fate::Says(&[HELLO, r#"data: {"choices":[{"#]),
        end: End::Broken("upstream_failed"),
    },
    Case {
        name: "silence after some text",
        fate: Fate::Stalls(&[HELLO]),
        end: End::Broken("upstream_timeout"),
    },
    Case {
        name: "a torn connection",
        fate: Fate::Cut,
        end: End::Broken("upstream_failed"),
    },
];

/// An earlier call of the conversation, whose ids must not come again.
const EARLIER: [&str; 2] = ["call_0", "call_1"];

/// Asks as the dialect does, as a stream, with a tool and a call that was made before.
fn question(path: &str) -> String {
    let schema = json!({ "type": "object", "properties": { "at": { "type": "integer" } } });
    let function = json!({ "name": "look", "parameters": schema });
    let tools = json!([{ "type": "function", "function": function }]);
    let asked = json!({ "role": "user", "content": "Look." });
    let [first, second] = EARLIER;
    let call = |id| json!({ "id": id, "type": "function", "function": { "name": "look", "arguments": "{}" } });
    let uses = |id| json!({ "type": "tool_use", "id": id, "name": "look", "input": {} });
    let result = |id| json!({ "type": "tool_result", "tool_use_id": id, "content": "Nothing." });
    let items = |id| {
        let called =
            json!({ "type": "function_call", "call_id": id, "name": "look", "arguments": "{}" });
        [
            called,
            json!({ "type": "function_call_output", "call_id": id, "output": "Nothing." }),
        ]
    };
    let told = |id| json!({ "role": "tool", "tool_call_id": id, "content": "Nothing." });
    let body = match path {
        "/v1/messages" => json!({
            "model": "m", "stream": true, "max_tokens": 64,
            "tools": [{ "name": "look", "input_schema": schema }],
            "messages": [
                asked,
                { "role": "assistant", "content": [uses(first), uses(second)] },
                { "role": "user", "content": [result(first), result(second)] },
            ],
        }),
        "/v1/responses" => {
            let [a, b] = items(first);
            let [c, d] = items(second);
            json!({
                "model": "m", "stream": true,
                "tools": [{ "type": "function", "name": "look", "parameters": schema }],
                "input": [asked, a, b, c, d],
            })
        }
        "/api/chat" => json!({ "model": "m", "tools": tools, "messages": [asked] }),
        _ => json!({
            "model": "m", "stream": true, "stream_options": { "include_usage": true },
            "tools": tools,
            "messages": [
                asked,
                { "role": "assistant", "content": null, "tool_calls": [call(first), call(second)] },
                told(first),
                told(second),
            ],
        }),
    };
    body.to_string()
}

async fn ask(fate: Fate, path: &str) -> Reply {
    let upstream = Upstream::with(fate).await;
    let routing = Routing {
        providers: vec![upstream.hasty("box", Reach::Lan, 1)],
        ..Routing::default()
    };
    let app = routed(&Scripted::with_models(Vec::new()), config(), routing);
    send(app, request(Method::POST, path, question(path))).await
}

/// Calls of a dialect's stream, and the code of the error it ends with.
type Told = (usize, Option<String>);

async fn hold_to_the_matrix(path: &str, read: fn(&Reply) -> Told) {
    for case in CASES {
        let reply = ask(case.fate, path).await;
        assert_eq!(reply.status, 200, "{}: {}", case.name, reply.body);
        let (n_calls, error) = read(&reply);
        match case.end {
            End::Text => assert_eq!((n_calls, error), (0, None), "{}", case.name),
            End::Calls(n) => assert_eq!((n_calls, error), (n, None), "{}", case.name),
            End::Broken(code) => assert_eq!(error.as_deref(), Some(code), "{}", case.name),
        }
    }
}

/// Ids that were given are there, new, and each is one call's.
fn check_ids(ids: &[&str]) {
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
    for id in ids {
        assert!(!id.is_empty() && !EARLIER.contains(id), "{ids:?}");
    }
}

#[tokio::test]
async fn chat_completions() {
    hold_to_the_matrix("/v1/chat/completions", |reply| {
        let chunks = reply.events();
        let error = chunks.iter().find_map(|chunk| chunk.get("error"));
        let choices: Vec<_> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"].get(0))
            .collect();
        assert_eq!(choices[0]["delta"]["role"], "assistant");
        for chunk in chunks.iter().filter(|chunk| chunk.get("error").is_none()) {
            for field in ["id", "created", "model", "object"] {
                assert_eq!(chunk[field], chunks[0][field]);
            }
        }
        let finishes: Vec<_> = choices
            .iter()
            .filter_map(|choice| choice["finish_reason"].as_str())
            .collect();
        assert_eq!(
            finishes.len(),
            1,
            "a stream without an end is asked for again for ever"
        );
        let calls: Vec<&Value> = choices
            .iter()
            .filter_map(|choice| choice["delta"]["tool_calls"].as_array())
            .flatten()
            .collect();
        let starts: Vec<_> = calls
            .iter()
            .filter(|call| call.get("id").is_some())
            .collect();
        let ids: Vec<_> = starts
            .iter()
            .map(|call| call["id"].as_str().unwrap())
            .collect();
        check_ids(&ids);
        for (index, start) in starts.iter().enumerate() {
            assert_eq!(
                (&start["index"], &start["type"]),
                (&json!(index), &json!("function"))
            );
            assert_eq!(start["function"]["name"], "look");
            assert_eq!(start["function"]["arguments"], "");
        }
        for call in &calls {
            assert!(call["function"]["arguments"].is_string(), "{call}");
            assert!(call["index"].as_u64().unwrap() < starts.len() as u64);
        }
        assert_eq!(reply.body.ends_with("data: [DONE]\n\n"), error.is_none());
        if error.is_none() {
            let expected = if starts.is_empty() {
                "stop"
            } else {
                "tool_calls"
            };
            assert_eq!(finishes, [expected]);
            assert!(chunks.last().unwrap()["usage"]["total_tokens"].is_u64());
        }
        (starts.len(), error.map(code_of))
    })
    .await;
}

fn code_of(error: &Value) -> String {
    assert!(error["message"].is_string(), "{error}");
    error["code"].as_str().unwrap().to_owned()
}

/// Of a dialect that has no codes of its own.
fn code_in_words(message: &Value) -> String {
    let said = message.as_str().unwrap();
    assert!(said.contains("`box`"), "{said}");
    let is_late = said.contains("silent") || said.contains("did not begin");
    let code = if is_late {
        "upstream_timeout"
    } else {
        "upstream_failed"
    };
    code.to_owned()
}

#[tokio::test]
async fn messages() {
    hold_to_the_matrix("/v1/messages", |reply| {
        let events = reply.events();
        let kinds: Vec<_> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds[0], "message_start");
        let last = *kinds.last().unwrap();
        assert_eq!(
            kinds
                .iter()
                .filter(|kind| **kind == "message_start")
                .count(),
            1
        );
        let ends = kinds
            .iter()
            .filter(|kind| matches!(**kind, "message_stop" | "error"));
        assert_eq!(ends.count(), 1, "{kinds:?}");
        // Blocks follow one another and are counted from 0.
        let mut open = None;
        let mut n_blocks = 0;
        for event in &events {
            match event["type"].as_str().unwrap() {
                "content_block_start" => {
                    assert_eq!((open, &event["index"]), (None, &json!(n_blocks)));
                    open = Some(n_blocks);
                    n_blocks += 1;
                }
                "content_block_delta" => assert_eq!(event["index"], json!(open.unwrap())),
                "content_block_stop" => assert_eq!(event["index"], json!(open.take().unwrap())),
                _ => {}
            }
        }
        let blocks = events.iter().map(|event| &event["content_block"]);
        let calls: Vec<_> = blocks.filter(|block| block["type"] == "tool_use").collect();
        let ids: Vec<_> = calls
            .iter()
            .map(|call| call["id"].as_str().unwrap())
            .collect();
        check_ids(&ids);
        if last == "error" {
            assert!(!kinds.contains(&"message_delta"), "{kinds:?}");
            let error = events.last().unwrap();
            return (calls.len(), Some(code_in_words(&error["error"]["message"])));
        }
        assert_eq!((open, last), (None, "message_stop"));
        let end = events
            .iter()
            .find(|event| event["type"] == "message_delta")
            .unwrap();
        let expected = if calls.is_empty() {
            "end_turn"
        } else {
            "tool_use"
        };
        assert_eq!(end["delta"]["stop_reason"], expected);
        assert!(end["usage"]["output_tokens"].is_u64());
        (calls.len(), None)
    })
    .await;
}

#[tokio::test]
async fn responses() {
    const ENDS: [&str; 3] = [
        "response.completed",
        "response.incomplete",
        "response.failed",
    ];
    hold_to_the_matrix("/v1/responses", |reply| {
        let events = reply.events();
        assert!(!reply.body.contains("[DONE]"));
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], json!(number), "{event}");
        }
        let ends: Vec<_> = events
            .iter()
            .filter(|event| ENDS.contains(&event["type"].as_str().unwrap()))
            .collect();
        assert_eq!(
            ends.len(),
            1,
            "without its end a client asks for all of it again"
        );
        let last = events.last().unwrap();
        assert_eq!(last["type"], ends[0]["type"], "nothing follows the end");
        let of = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
        let calls: Vec<_> = of("response.output_item.added")
            .map(|event| &event["item"])
            .filter(|item| item["type"] == "function_call")
            .collect();
        let ids: Vec<_> = calls
            .iter()
            .map(|call| call["call_id"].as_str().unwrap())
            .collect();
        check_ids(&ids);
        if last["type"] == "response.failed" {
            let error = of("error").next().unwrap();
            return (calls.len(), Some(code_of(error)));
        }
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["status"], "completed");
        assert_eq!(
            of("response.function_call_arguments.done").count(),
            calls.len()
        );
        let n_added = of("response.output_item.added").count();
        assert_eq!(of("response.output_item.done").count(), n_added);
        assert_eq!(
            last["response"]["output"].as_array().unwrap().len(),
            n_added
        );
        (calls.len(), None)
    })
    .await;
}

#[tokio::test]
async fn ollama() {
    hold_to_the_matrix("/api/chat", |reply| {
        let lines: Vec<Value> = reply
            .body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let calls: Vec<&Value> = lines
            .iter()
            .filter_map(|line| line["message"]["tool_calls"].as_array())
            .flatten()
            .collect();
        for call in &calls {
            assert!(call["function"]["arguments"].is_object(), "{call}");
        }
        let n_done = lines.iter().filter(|line| line["done"] == true).count();
        let last = lines.last().unwrap();
        if let Some(error) = last.get("error") {
            assert_eq!(n_done, 0);
            return (calls.len(), Some(code_in_words(error)));
        }
        assert_eq!((n_done, &last["done"]), (1, &json!(true)));
        assert!(last["done_reason"].is_string());
        (calls.len(), None)
    })
    .await;
}

const PATHS: [&str; 4] = [
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/api/chat",
];

/// An engine that still loads its model is told as such, with a time to ask again: clients
/// that get a bare 503 ask thirty times in half a minute.
#[tokio::test]
async fn an_engine_that_is_loading_is_a_503_with_a_wait() {
    const LOADING: &str =
        r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
    for path in PATHS {
        let reply = ask(Fate::Refuses(503, LOADING), path).await;
        assert_eq!(reply.status, 503, "{path}: {}", reply.body);
        assert_eq!(reply.header("retry-after"), Some("1"), "{path}");
        assert!(reply.body.contains("Loading model"), "{}", reply.body);
    }
}

/// A prompt that does not fit is the caller's to change, with the figures: never asked again.
#[tokio::test]
async fn a_prompt_too_long_for_an_engine_is_told_with_its_figures() {
    const TOO_LONG: &str = r#"{"error":{"code":400,"message":"too long",
        "type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}"#;
    for path in PATHS {
        let reply = ask(Fate::Refuses(400, TOO_LONG), path).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        assert_eq!(reply.header("x-should-retry"), Some("false"), "{path}");
        assert!(reply.body.contains("9000") && reply.body.contains("4096"));
    }
}
