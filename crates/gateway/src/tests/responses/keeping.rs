//! Responses that are kept, read, continued and forgotten.

use axum::Router;
use axum::http::Method;
use proto::{Delta, Event, FinishReason, Job, Message, Role};
use serde_json::{Value, json};
use std::sync::Arc;

use super::super::scripted::{
    self, Reply, Scripted, config, delta, done, finished, hello, send, started,
};
use super::{PATH, checked_events, request};
use crate::{AppState, Backend, app};

/// One server over one backend, with an id of its own for each response.
struct Server {
    backend: Arc<Scripted>,
    router: Router,
}

impl Server {
    fn new(scripts: Vec<Vec<Event>>) -> Self {
        let backend = Scripted::new(scripts);
        let seam: Arc<dyn Backend> = backend.clone();
        Self {
            router: app(AppState::new(seam, config())),
            backend,
        }
    }

    async fn create(&self, extra: Value) -> Reply {
        self.ask(Method::POST, PATH, request(extra)).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Reply {
        send(self.router.clone(), scripted::request(method, path, body)).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, String::new()).await
    }

    /// The messages of the last job.
    fn last_messages(&self) -> Vec<Message> {
        match self.backend.jobs.lock().unwrap().last() {
            Some((_, Job::Chat(job) | Job::Render(job))) => job.messages.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn calling() -> Vec<Event> {
    vec![
        started(),
        delta(Delta::Reasoning { text: "Hm".into() }),
        delta(Delta::ToolCallStart {
            index: 0,
            id: "call_a".into(),
            name: "f".into(),
        }),
        delta(Delta::ToolCallArguments {
            index: 0,
            text: "{}".into(),
        }),
        finished(0, FinishReason::ToolCalls),
        done(),
    ]
}

fn id(response: &Value) -> String {
    response["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_kept_response_reads_as_it_was_answered() {
    let server = Server::new(vec![hello(), calling()]);
    let whole = server.create(json!({})).await.json();
    let read = server.get(&format!("{PATH}/{}", id(&whole))).await;
    assert_eq!(read.json(), whole);
    let stream = server.create(json!({ "stream": true })).await;
    let last = checked_events(&stream).pop().unwrap()["response"].clone();
    let read = server.get(&format!("{PATH}/{}", id(&last))).await;
    assert_eq!(read.json(), last);
    assert_ne!(last["id"], whole["id"]);
}

#[tokio::test]
async fn a_continued_response_answers_the_whole_conversation() {
    let server = Server::new(vec![calling(), hello(), hello()]);
    let tools = json!([{ "type": "function", "name": "f" }]);
    let first = json!({ "input": "Call f", "instructions": "First.", "tools": tools });
    let first = server.create(first).await.json();
    let output = json!([{ "type": "function_call_output", "call_id": "call_a", "output": "42" }]);
    let second = json!({
        "previous_response_id": first["id"], "input": output, "instructions": "Second.", "stream": true,
    });
    let second = checked_events(&server.create(second).await).pop().unwrap()["response"].clone();
    assert_eq!(second["previous_response_id"], first["id"]);
    let third = json!({ "previous_response_id": second["id"], "input": "More" });
    let third = server.create(third).await;
    assert_eq!(third.status, 200, "{}", third.body);
    // Instructions are of one response alone.
    let messages = server.last_messages();
    let roles: Vec<_> = messages.iter().map(|message| message.role).collect();
    let expected = [
        Role::User,
        Role::Assistant,
        Role::Tool,
        Role::Assistant,
        Role::User,
    ];
    assert_eq!(roles, expected);
    assert_eq!(messages[1].reasoning_content.as_deref(), Some("Hm"));
    assert_eq!(messages[1].tool_calls[0].id, "call_a");
    assert_eq!(messages[2].tool_call_id.as_deref(), Some("call_a"));
    assert_eq!(messages[3].content.as_deref(), Some("Hello world"));
}

#[tokio::test]
async fn what_is_unknown_or_forgotten_is_not_continued() {
    let server = Server::new(vec![hello(), hello()]);
    let unkept = server.create(json!({ "store": false })).await.json();
    assert_eq!(unkept["store"], false);
    let kept = server.create(json!({})).await.json();
    let path = format!("{PATH}/{}", id(&kept));
    let gone = server
        .ask(Method::DELETE, &path, String::new())
        .await
        .json();
    let expected = json!({ "id": kept["id"], "object": "response", "deleted": true });
    assert_eq!(gone, expected);
    for unknown in ["resp_nope", &id(&unkept), &id(&kept)] {
        let reply = server
            .create(json!({ "previous_response_id": unknown }))
            .await;
        assert_eq!(reply.status, 400);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "previous_response_not_found");
        assert_eq!(error["param"], "previous_response_id");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        for (method, path) in [
            (Method::GET, format!("{PATH}/{unknown}")),
            (Method::DELETE, format!("{PATH}/{unknown}")),
            (Method::GET, format!("{PATH}/{unknown}/input_items")),
        ] {
            let reply = server.ask(method, &path, String::new()).await;
            assert_eq!(reply.status, 404, "{path}");
            assert_eq!(reply.json()["error"]["code"], "response_not_found");
        }
    }
    let broken = server.get(&format!("{PATH}/%ff")).await;
    assert_eq!(broken.status, 404);
}

#[tokio::test]
async fn a_failed_response_is_kept_and_a_refused_one_is_not() {
    let broken = vec![started(), scripted::text(0, "Hel")];
    let server = Server::new(vec![broken]);
    let events = checked_events(&server.create(json!({ "stream": true })).await);
    let failed = &events.last().unwrap()["response"];
    let read = server.get(&format!("{PATH}/{}", id(failed))).await.json();
    assert_eq!(read["status"], "failed");
    assert_eq!(read["error"]["code"], "server_error");
}

#[tokio::test]
async fn items_of_kept_responses_can_be_referred_to() {
    let server = Server::new(vec![calling(), hello()]);
    let first = server.create(json!({})).await.json();
    let [thought, call] = first["output"].as_array().unwrap().as_slice() else {
        panic!("{first}");
    };
    let input = json!([
        { "role": "user", "content": "Hi" },
        { "type": "item_reference", "id": thought["id"] },
        { "id": call["id"] },
        { "type": "function_call_output", "call_id": "call_a", "output": "42" },
    ]);
    let second = server.create(json!({ "input": input })).await;
    let messages = server.last_messages();
    assert_eq!(messages[1].reasoning_content.as_deref(), Some("Hm"));
    assert_eq!(messages[1].tool_calls[0].name, "f");
    let path = format!("{PATH}/{}/input_items?order=asc", id(&second.json()));
    let listed = server.get(&path).await.json();
    assert_eq!(listed["data"][1], *thought);
}

#[tokio::test]
async fn input_items_are_listed_in_pages() {
    let server = Server::new(vec![hello()]);
    let input = json!([
        { "role": "user", "content": "a" },
        { "role": "assistant", "content": "b" },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "d" },
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "e" }] },
    ]);
    let response = server.create(json!({ "input": input })).await.json();
    let path = format!("{PATH}/{}/input_items", id(&response));
    let all = server.get(&format!("{path}?order=asc&limit=100")).await;
    let stem = id(&response).replace("resp_", "");
    let all = all.body.replace(&stem, "STEM");
    insta::assert_json_snapshot!(serde_json::from_str::<Value>(&all).unwrap());
    let page = server.get(&format!("{path}?limit=2")).await.json();
    assert_eq!(page["data"][0]["content"][0]["text"], "e");
    assert_eq!(
        (&page["has_more"], page["data"].as_array().unwrap().len()),
        (&json!(true), 2)
    );
    let after = page["last_id"].as_str().unwrap();
    let rest = server.get(&format!("{path}?after={after}")).await.json();
    assert_eq!(rest["data"].as_array().unwrap().len(), 3);
    assert_eq!(rest["has_more"], false);
    for query in ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_x"] {
        let reply = server.get(&format!("{path}?{query}")).await;
        assert_eq!(reply.status, 400, "{query}");
    }
    let streamed = server
        .get(&format!("{PATH}/{}?stream=true", id(&response)))
        .await;
    assert_eq!(streamed.json()["error"]["param"], "stream");
}

#[tokio::test]
async fn the_tokens_of_an_input_are_counted() {
    let rendered = vec![Event::Rendered {
        prompt: "<s>Hi".into(),
        n_tokens: 3,
    }];
    let server = Server::new(vec![rendered]);
    let path = format!("{PATH}/input_tokens");
    let body = request(json!({ "instructions": "Be brief." }));
    let counted = server.ask(Method::POST, &path, body).await.json();
    let expected = json!({ "object": "response.input_tokens", "input_tokens": 3 });
    assert_eq!(counted, expected);
    assert_eq!(server.last_messages().len(), 2);
}
