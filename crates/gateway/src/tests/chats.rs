//! The workbench's chats over HTTP: what is kept, who sees it, and answers that go on without
//! anybody.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use proto::{FailureKind, FinishReason, Job, Role};
use router::Reach;
use serde_json::{Value, json};
use store::{KeyLimits, NewKey, Scope, Store};
use tempfile::TempDir;

use super::scripted::{
    Reply, Scripted, Step, config, delta, done, failed, finished, hello, send, started, text,
};
use super::upstream::{Fate, Upstream};
use crate::{AppState, Control, ControlOptions, GatewayConfig, RoutedProvider, Routing, app};

const LONG: Duration = Duration::from_secs(60);

/// A router over a database in a folder of its own.
struct Desk {
    folder: TempDir,
    control: Control,
    router: Router,
}

impl Desk {
    fn new(backend: &Arc<Scripted>) -> Self {
        Self::in_folder(backend, tempfile::tempdir().unwrap(), Vec::new())
    }

    fn in_folder(backend: &Arc<Scripted>, folder: TempDir, providers: Vec<RoutedProvider>) -> Self {
        let store = Store::open(folder.path()).unwrap();
        let control = Control::open(store, ControlOptions::default()).unwrap();
        let config = GatewayConfig {
            control: Some(control.clone()),
            ..config()
        };
        let routing = Routing {
            providers,
            ..Routing::default()
        };
        let state = AppState::routed(Arc::clone(backend) as _, config, routing);
        Self {
            folder,
            control,
            router: app(state),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Value,
        fields: &[(&str, &str)],
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        send(self.router.clone(), request.body(body).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let reply = self.send(Method::POST, path, body, &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    async fn get(&self, path: &str) -> Value {
        let reply = self.send(Method::GET, path, Value::Null, &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// A new chat in which this was said; its id and the answer's.
    async fn say(&self, text: &str) -> (String, String) {
        let chat = string(&self.post("/api/chats", json!({})).await["id"]);
        let turn = self.turn(&chat, json!({"text": text})).await;
        (chat, string(&turn["answer"]["id"]))
    }

    async fn turn(&self, chat: &str, body: Value) -> Value {
        self.post(&format!("/api/chats/{chat}/messages"), body)
            .await
    }

    /// The message once it is as it is to be.
    async fn when(&self, chat: &str, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let found = self.message(chat, id).await;
            if is_so(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{}", self.message(chat, id).await);
    }

    async fn ended(&self, chat: &str, id: &str) -> Value {
        self.when(chat, id, |message| message["state"] != "open")
            .await
    }

    async fn message(&self, chat: &str, id: &str) -> Value {
        let whole = self.get(&format!("/api/chats/{chat}")).await;
        let messages = whole["messages"].as_array().unwrap();
        let found = messages.iter().find(|message| message["id"] == id);
        found.unwrap().clone()
    }

    async fn follow(&self, chat: &str, id: &str, last: Option<&str>) -> Vec<Value> {
        let path = format!("/api/chats/{chat}/messages/{id}/events");
        let fields: Vec<_> = last
            .map(|last| ("last-event-id", last))
            .into_iter()
            .collect();
        let reply = self.send(Method::GET, &path, Value::Null, &fields).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.events()
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn texts(events: &[Value]) -> String {
    events
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect()
}

fn slow_hello() -> Vec<Step> {
    vec![
        started().into(),
        text(0, "Hello").into(),
        Step::Wait(Duration::from_millis(300)),
        text(0, " world").into(),
        finished(0, FinishReason::Stop).into(),
        done().into(),
    ]
}

#[tokio::test]
async fn a_chat_is_kept_with_the_figures_of_the_engine_and_found_again() {
    let thinking = proto::Delta::Reasoning { text: "hm".into() };
    let mut script = hello();
    script.insert(1, delta(thinking));
    let backend = Scripted::new(vec![script]);
    let desk = Desk::new(&backend);
    let (chat, answer) = desk.say("  What <b>is</b> it,\nthen? ").await;
    let ended = desk.ended(&chat, &answer).await;
    assert_eq!(
        (&ended["state"], &ended["text"]),
        (&json!("done"), &json!("Hello world"))
    );
    assert_eq!(ended["reasoning"], "hm");
    let detail = &ended["detail"];
    assert_eq!(detail["served_by"], "embedded:tiny");
    let figures = [
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "prefill_ms",
        "decode_ms",
    ];
    let figures: Vec<_> = figures
        .iter()
        .map(|name| detail[*name].as_f64().unwrap())
        .collect();
    assert_eq!(figures, [12.0, 4.0, 5.0, 40.0, 80.0]);
    assert_eq!(detail["engine"]["kv_type_k"], "f16");
    assert!(detail["ttft_ms"].as_f64().is_some());
    // A title of the first words, the text itself as it was said.
    let list = desk.get("/api/chats?search=world").await;
    assert_eq!(list["chats"][0]["title"], "What <b>is</b> it, then?");
    assert_eq!(list["chats"][0]["excerpt"], "Hello world");
    assert_eq!(
        desk.get("/api/chats?search=nothing").await["chats"],
        json!([])
    );
    // A new process finds the same.
    let before = desk.get(&format!("/api/chats/{chat}")).await;
    let Desk {
        folder,
        control,
        router,
    } = desk;
    drop((control, router));
    let desk = Desk::in_folder(&backend, folder, Vec::new());
    assert_eq!(desk.get(&format!("/api/chats/{chat}")).await, before);
    assert_eq!(
        before["messages"][0]["text"],
        "  What <b>is</b> it,\nthen? "
    );
    desk.send(
        Method::DELETE,
        &format!("/api/chats/{chat}"),
        Value::Null,
        &[],
    )
    .await;
    let gone = desk
        .send(Method::GET, &format!("/api/chats/{chat}"), Value::Null, &[])
        .await;
    assert_eq!(gone.json()["error"]["code"], "chat_not_found");
}

#[tokio::test]
async fn an_answer_goes_on_without_its_client_and_is_followed_from_anywhere() {
    let backend = Scripted::new(vec![slow_hello()]);
    let desk = Desk::new(&backend);
    let (chat, answer) = desk.say("Hi").await;
    desk.when(&chat, &answer, |message| message["text"] == "Hello")
        .await;
    // Two that begin anew, and one that has the first word.
    let (one, two, three) = tokio::join!(
        desk.follow(&chat, &answer, None),
        desk.follow(&chat, &answer, Some("nonsense")),
        desk.follow(&chat, &answer, Some("5.0")),
    );
    assert_eq!(texts(&one), "Hello world");
    assert_eq!(texts(&two), "Hello world");
    assert_eq!(texts(&three), " world");
    for events in [&one, &two, &three] {
        let end = events.last().unwrap();
        assert_eq!(
            (&end["type"], &end["message"]["state"]),
            (&json!("end"), &json!("done"))
        );
    }
    // What is beyond its end is another's mark, so it begins anew; ended it is told at once.
    let late = desk.follow(&chat, &answer, Some("5.0")).await;
    assert_eq!((late.len(), &late[0]["type"]), (1, &json!("end")));
    assert_eq!(backend.n_cancelled(), 0);
}

#[tokio::test]
async fn a_mark_that_is_not_of_the_answer_gets_all_of_it_anew() {
    let mut script = slow_hello();
    script[1] = text(0, "éé").into();
    let desk = Desk::new(&Scripted::new(vec![script]));
    let (chat, answer) = desk.say("Hi").await;
    desk.when(&chat, &answer, |message| message["text"] == "éé")
        .await;
    // In the middle of a character, and behind the end.
    for mark in ["1.0", "99.0"] {
        let events = desk.follow(&chat, &answer, Some(mark)).await;
        let Some(first) = events.iter().find(|event| event["type"] == "more") else {
            continue;
        };
        assert_eq!(first["restart"], true);
        assert!(first["text"].as_str().unwrap().starts_with("éé"));
    }
}

#[tokio::test]
async fn what_is_stopped_keeps_what_it_has() {
    let script = vec![started().into(), text(0, "Hel").into(), Step::Wait(LONG)];
    let backend = Scripted::new(vec![script]);
    let desk = Desk::new(&backend);
    let (chat, answer) = desk.say("Hi").await;
    desk.when(&chat, &answer, |message| message["text"] == "Hel")
        .await;
    let busy = desk
        .send(
            Method::POST,
            &format!("/api/chats/{chat}/messages"),
            json!({"parent": answer, "text": "more"}),
            &[],
        )
        .await;
    assert_eq!(busy.json()["error"]["code"], "conflicting_fields");
    let told = desk
        .post(&format!("/api/chats/{chat}/stop"), json!({}))
        .await;
    assert_eq!(told["stopped"], 1);
    let ended = desk.ended(&chat, &answer).await;
    assert_eq!(
        (&ended["state"], &ended["text"]),
        (&json!("stopped"), &json!("Hel"))
    );
    assert_eq!(backend.n_cancelled(), 1);
    let told = desk
        .post(&format!("/api/chats/{chat}/stop"), json!({}))
        .await;
    assert_eq!(told["stopped"], 0);
}

#[tokio::test]
async fn an_answer_that_was_stopped_goes_on_in_another_version() {
    let cut = vec![started().into(), text(0, "Hel").into(), Step::Wait(LONG)];
    let rest = vec![
        started().into(),
        text(0, "lo").into(),
        Step::Wait(Duration::from_millis(300)),
        finished(0, FinishReason::Stop).into(),
        done().into(),
    ];
    let backend = Scripted::new(vec![cut, rest]);
    let desk = Desk::new(&backend);
    let (chat, first) = desk.say("Hi").await;
    desk.when(&chat, &first, |message| message["text"] == "Hel")
        .await;
    let path = format!("/api/chats/{chat}/messages");
    let early = desk
        .send(Method::POST, &path, json!({"continues": first}), &[])
        .await;
    assert_eq!(early.json()["error"]["code"], "conflicting_fields");
    desk.post(&format!("/api/chats/{chat}/stop"), json!({}))
        .await;
    let stopped = desk.ended(&chat, &first).await;
    for (body, code) in [
        (
            json!({"continues": first, "text": "x"}),
            "conflicting_fields",
        ),
        (
            json!({"continues": first, "parent": first}),
            "conflicting_fields",
        ),
        (json!({"continues": stopped["parent"]}), "invalid_value"),
        (json!({"continues": "msg_none"}), "chat_not_found"),
    ] {
        let reply = desk.send(Method::POST, &path, body.clone(), &[]).await;
        assert_eq!(reply.json()["error"]["code"], code, "{body}");
    }
    let turn = desk.turn(&chat, json!({"continues": first})).await;
    assert_eq!(turn["answer"]["text"], "Hel");
    let second = string(&turn["answer"]["id"]);
    assert_eq!(texts(&desk.follow(&chat, &second, None).await), "Hello");
    let ended = desk.ended(&chat, &second).await;
    assert_eq!(
        (&ended["text"], &ended["parent"]),
        (&json!("Hello"), &stopped["parent"])
    );
    assert_eq!(ended["detail"]["continues"], json!(first));
    assert_eq!(desk.message(&chat, &first).await["text"], "Hel");
    let jobs = backend.jobs.lock().unwrap();
    let Job::Chat(job) = &jobs[1].1 else { panic!() };
    assert!(job.continues);
    let last = job.messages.last().unwrap();
    assert_eq!(
        (last.role, last.content.as_deref()),
        (Role::Assistant, Some("Hel"))
    );
}

#[tokio::test]
async fn a_crash_is_told_with_its_code_and_another_version_stands_beside_it() {
    let lost = FailureKind::WorkerLost {
        cause: "signal 9".into(),
    };
    let crash = vec![
        started(),
        text(0, "Hel"),
        failed(lost, "The worker died: signal 9."),
    ];
    let backend = Scripted::new(vec![crash, hello(), hello()]);
    let desk = Desk::new(&backend);
    let (chat, first) = desk.say("Hi").await;
    let broken = desk.ended(&chat, &first).await;
    assert_eq!(
        (&broken["state"], &broken["text"]),
        (&json!("failed"), &json!("Hel"))
    );
    assert_eq!(broken["detail"]["error"]["code"], "worker_lost");
    assert!(broken["detail"]["error"]["hint"].is_string());
    let said = string(&broken["parent"]);
    let again = desk
        .turn(&chat, json!({"parent": said, "model": "tiny"}))
        .await;
    assert_eq!(again["message"], Value::Null);
    let second = string(&again["answer"]["id"]);
    assert_eq!(desk.ended(&chat, &second).await["text"], "Hello world");
    // What follows a version is asked with that version alone.
    let next = desk
        .turn(
            &chat,
            json!({"parent": second, "text": "And?", "temperature": 0.0}),
        )
        .await;
    desk.ended(&chat, &string(&next["answer"]["id"])).await;
    {
        let jobs = backend.jobs.lock().unwrap();
        let Job::Chat(job) = &jobs[2].1 else { panic!() };
        let asked: Vec<_> = job
            .messages
            .iter()
            .map(|one| (one.role, one.content.clone().unwrap()))
            .collect();
        let expected = [
            (Role::User, "Hi"),
            (Role::Assistant, "Hello world"),
            (Role::User, "And?"),
        ];
        assert_eq!(asked, expected.map(|(role, text)| (role, text.to_owned())));
        assert_eq!(job.generation.sampling.temperature, Some(0.0));
    }
    let whole = desk.get(&format!("/api/chats/{chat}")).await;
    assert_eq!(whole["leaf"], next["answer"]["id"]);
    let looked = desk
        .post(
            &format!("/api/chats/{chat}"),
            json!({"leaf": first, "title": " A  b "}),
        )
        .await;
    assert_eq!(
        (&looked["leaf"], &looked["title"]),
        (&json!(first), &json!("A b"))
    );
}

#[tokio::test]
async fn a_panic_ends_the_answer_and_nothing_else() {
    let script = vec![started().into(), text(0, "Hel").into(), Step::Panic];
    let backend = Scripted::new(vec![script, hello().into_iter().map(Step::from).collect()]);
    let desk = Desk::new(&backend);
    let (chat, answer) = desk.say("Hi").await;
    let ended = desk.ended(&chat, &answer).await;
    assert_eq!(ended["detail"]["error"]["code"], "internal_error");
    let (other, answer) = desk.say("Hi").await;
    assert_eq!(desk.ended(&other, &answer).await["state"], "done");
}

fn key(name: &str, scopes: &[Scope]) -> NewKey {
    NewKey {
        name: name.into(),
        scopes: scopes.iter().copied().collect(),
        ..NewKey::default()
    }
}

#[tokio::test]
async fn chats_are_their_keys_own_and_an_answer_holds_its_keys_place_to_its_end() {
    let slow = vec![started().into(), text(0, "Hel").into(), Step::Wait(LONG)];
    let backend = Scripted::new(vec![slow]);
    let desk = Desk::new(&backend);
    let mut session = Store::open(desk.folder.path()).unwrap().connect().unwrap();
    let one = NewKey {
        limits: KeyLimits {
            concurrency: Some(1),
            ..KeyLimits::default()
        },
        ..key("one", &[Scope::Chat])
    };
    let mut bearer = |key: &NewKey| format!("Bearer {}", session.add_key(key).unwrap().0.expose());
    let (one, two) = (bearer(&one), bearer(&key("two", &[Scope::Chat])));
    let other = bearer(&key("other", &[Scope::Models]));
    desk.control.look();
    let as_key = |key: &str| [("authorization", key.to_owned())];
    let call = async |key: &str, method: Method, path: String, body: Value| {
        let fields = as_key(key);
        let fields = [(fields[0].0, fields[0].1.as_str())];
        desk.send(method, &path, body, &fields).await
    };
    let chat = call(&one, Method::POST, "/api/chats".into(), json!({})).await;
    let chat = string(&chat.json()["id"]);
    let messages = format!("/api/chats/{chat}/messages");
    let turn = call(&one, Method::POST, messages.clone(), json!({"text": "Hi"})).await;
    let answer = string(&turn.json()["answer"]["id"]);
    let events = format!("/api/chats/{chat}/messages/{answer}/events");
    for (method, path) in [
        (Method::GET, format!("/api/chats/{chat}")),
        (Method::POST, format!("/api/chats/{chat}")),
        (Method::DELETE, format!("/api/chats/{chat}")),
        (Method::POST, format!("/api/chats/{chat}/stop")),
        (Method::POST, messages.clone()),
        (Method::GET, events.clone()),
    ] {
        let body = if method == Method::POST {
            json!({})
        } else {
            Value::Null
        };
        let foreign = call(&two, method.clone(), path.clone(), body.clone()).await;
        assert_eq!(
            foreign.json()["error"]["code"],
            "chat_not_found",
            "{method} {path}"
        );
        let without = call(&other, method.clone(), path.clone(), body).await;
        assert_eq!(
            without.json()["error"]["code"],
            "forbidden",
            "{method} {path}"
        );
        let nobody = desk.send(method, &path, Value::Null, &[]).await;
        assert_eq!(nobody.status, 401);
    }
    assert_eq!(
        call(&two, Method::GET, "/api/chats".into(), Value::Null)
            .await
            .json()["chats"],
        json!([])
    );
    // The request was answered long ago, its answer still runs.
    let more = call(&one, Method::POST, messages, json!({"text": "more"})).await;
    assert_eq!(more.status, 429, "{}", more.body);
    let stop = call(
        &one,
        Method::POST,
        format!("/api/chats/{chat}/stop"),
        json!({}),
    )
    .await;
    assert_eq!(stop.json()["stopped"], 1);
    let end = call(&one, Method::GET, events, Value::Null).await;
    assert_eq!(end.events().last().unwrap()["message"]["state"], "stopped");
}

#[tokio::test]
async fn what_was_said_under_a_label_never_leaves_by_a_later_turn() {
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let backend = Scripted::new(vec![hello()]);
    let provider = cloud.provider("cloud", Reach::Cloud, 1);
    let desk = Desk::in_folder(&backend, tempfile::tempdir().unwrap(), vec![provider]);
    let chat = string(&desk.post("/api/chats", json!({})).await["id"]);
    let path = format!("/api/chats/{chat}/messages");
    let body = json!({"text": "My secret", "model": "tiny"});
    let label = [("x-routing-privacy", "local_only")];
    let turn = desk.send(Method::POST, &path, body, &label).await;
    let answer = string(&turn.json()["answer"]["id"]);
    assert_eq!(desk.ended(&chat, &answer).await["privacy"], "local_only");
    let later = json!({"parent": answer, "text": "And?", "model": "cloud:m"});
    let refused = desk.send(Method::POST, &path, later, &[]).await;
    assert_eq!(
        refused.json()["error"]["code"],
        "privacy_refused",
        "{}",
        refused.body
    );
    assert!(cloud.seen().is_empty());
}

#[tokio::test]
async fn without_a_database_there_are_no_chats_and_the_error_says_so() {
    let backend = Scripted::idle();
    let reply = super::scripted::get(&backend, "/api/chats").await;
    assert_eq!(reply.status, 501);
    assert_eq!(reply.json()["error"]["code"], "no_database");
}

#[tokio::test]
async fn bad_turns_are_refused_and_leave_nothing() {
    let backend = Scripted::idle();
    let desk = Desk::new(&backend);
    let chat = string(
        &desk
            .post("/api/chats", json!({"system": "Be brief."}))
            .await["id"],
    );
    let path = format!("/api/chats/{chat}/messages");
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({"text": "  "}), "missing_field"),
        (json!({"text": "x", "parent": "msg_none"}), "chat_not_found"),
        (json!({"text": "x", "model": "none"}), "model_not_found"),
        (json!({"text": "x", "temperature": 9.0}), "invalid_value"),
        (json!({"text": "x", "temprature": 1.0}), "invalid_type"),
        (json!({"text": "x", "max_tokens": 0}), "invalid_value"),
    ] {
        let reply = desk.send(Method::POST, &path, body.clone(), &[]).await;
        assert_eq!(reply.json()["error"]["code"], code, "{body}");
    }
    let whole = desk.get(&format!("/api/chats/{chat}")).await;
    let messages = whole["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "the system's alone: {messages:?}");
    assert_eq!(messages[0]["role"], "system");
}
