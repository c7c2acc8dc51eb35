//! The stream of everything that changes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request};
use futures_util::StreamExt;
use serde_json::{Value, json};
use store::{NewKey, Scope, Store};
use tower::ServiceExt;

use super::scripted::{Scripted, config, ready_model, request, router, send};
use crate::limits::BUS_READERS_MAX;
use crate::{AppState, Control, ControlOptions, GatewayConfig, PageFile, Pages, Routing, app};

/// A stream that is read, with what was left of its last piece.
struct Reading {
    body: BodyDataStream,
    rest: String,
}

impl Reading {
    async fn begin(router: &Router, fields: &[(&str, &str)]) -> Self {
        let mut request = Request::builder().uri("/api/events");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body().into_data_stream(),
            rest: String::new(),
        }
    }

    /// The id and the data of the next event.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                let Some((id, data)) = event.split_once('\n') else {
                    continue;
                };
                let id = id.strip_prefix("id: ").unwrap().to_owned();
                let data = data.strip_prefix("data: ").unwrap();
                return (id, serde_json::from_str(data).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next());
            let piece = piece.await.unwrap().unwrap().unwrap();
            self.rest.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

fn keys(snapshot: &Value) -> Vec<&str> {
    let entries = snapshot["entries"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["key"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn all_there_is_comes_once_and_then_what_changes_from_where_a_reader_was() {
    let backend = Scripted::with_models(vec![ready_model("tiny"), ready_model("big")]);
    let router = router(&backend, config());
    let mut reading = Reading::begin(&router, &[]).await;
    let (first_id, snapshot) = reading.next().await;
    assert_eq!(snapshot["type"], "snapshot");
    assert_eq!(
        keys(&snapshot),
        ["log", "memory", "model/big", "model/tiny", "server"]
    );
    let tiny = &snapshot["entries"][3]["state"];
    assert_eq!(
        (&tiny["kind"], &tiny["phase"]),
        (&json!("model"), &json!("ready"))
    );
    assert_eq!(tiny["facts"]["kv_type_k"], "f16");
    assert_eq!(tiny["worker"]["slots"][0]["phase"], "decode");
    assert_eq!(snapshot["entries"][1]["state"]["memory_bytes_max"], 1000);
    // No path of the server's disk is in it.
    assert!(!snapshot.to_string().contains("/models/"));

    let unload = request(Method::POST, "/admin/models/unload", r#"{"model": "big"}"#);
    send(router.clone(), unload).await;
    let (second_id, change) = reading.next().await;
    assert_eq!(change, json!({"type": "remove", "key": "model/big"}));
    // One that comes back gets what it has missed, and nothing else.
    let mut again = Reading::begin(&router, &[("last-event-id", &first_id)]).await;
    assert_eq!(again.next().await, (second_id.clone(), change));
    // A place that nobody knows is the beginning.
    for unknown in ["other.1", "nonsense", "", ".", &format!("{second_id}9")] {
        let mut anew = Reading::begin(&router, &[("last-event-id", unknown)]).await;
        let (_, event) = anew.next().await;
        assert_eq!(
            keys(&event),
            ["log", "memory", "model/tiny", "server"],
            "{unknown}"
        );
    }
}

#[tokio::test]
async fn readers_are_bounded_and_a_place_is_free_when_one_leaves() {
    let router = router(&Scripted::idle(), config());
    let mut readers = Vec::new();
    for _ in 0..BUS_READERS_MAX {
        readers.push(Reading::begin(&router, &[]).await);
    }
    let more = || request(Method::GET, "/api/events", "");
    let refused = send(router.clone(), more()).await;
    assert_eq!(refused.json()["error"]["code"], "too_many_requests");
    readers.pop();
    Reading::begin(&router, &[]).await;
}

#[tokio::test]
async fn a_key_hears_only_of_what_it_may_use() {
    let backend = Scripted::with_models(vec![ready_model("tiny"), ready_model("big")]);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut session = store.connect().unwrap();
    let mut bearer = |name: &str, scopes: &[Scope], models: &[&str]| {
        let key = NewKey {
            name: name.into(),
            scopes: scopes.iter().copied().collect(),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..NewKey::default()
        };
        format!("Bearer {}", session.add_key(&key).unwrap().0.expose())
    };
    let some = bearer("some", &[Scope::Models, Scope::Chat], &["tiny"]);
    let all = bearer("all", &[Scope::Models, Scope::Admin], &[]);
    let none = bearer("none", &[Scope::Chat], &[]);
    let control = Control::open(store, ControlOptions::default()).unwrap();
    let config = GatewayConfig {
        control: Some(control),
        ..config()
    };
    let state = AppState::routed(Arc::clone(&backend) as _, config, Routing::default());
    let router = app(state);
    let mut reading = Reading::begin(&router, &[("authorization", &some)]).await;
    let (_, snapshot) = reading.next().await;
    assert_eq!(keys(&snapshot), ["memory", "model/tiny", "server"]);
    assert_eq!(snapshot["entries"][2]["state"]["may_manage"], false);
    let mut reading = Reading::begin(&router, &[("authorization", &all)]).await;
    let (_, snapshot) = reading.next().await;
    assert_eq!(
        keys(&snapshot),
        ["log", "memory", "model/big", "model/tiny", "server"]
    );
    assert_eq!(snapshot["entries"][4]["state"]["may_manage"], true);
    let mut refused = request(Method::GET, "/api/events", "");
    refused
        .headers_mut()
        .insert("authorization", none.parse().unwrap());
    assert_eq!(send(router.clone(), refused).await.status, 403);
    assert_eq!(
        send(router, request(Method::GET, "/api/events", ""))
            .await
            .status,
        401
    );
}

fn pages() -> Pages {
    let index = Pages::default().index;
    let script = PageFile {
        path: "assets/x.js",
        media_type: "text/javascript; charset=utf-8",
        plain: b"let x",
        ..index
    };
    Pages {
        index,
        files: [script].into(),
    }
}

#[tokio::test]
async fn the_page_needs_no_key_and_lets_nothing_in_from_elsewhere() {
    let config = GatewayConfig {
        api_key: Some(stdx::Secret::new("k")),
        pages: pages(),
        ..config()
    };
    let router = router(&Scripted::idle(), config);
    let page = send(router.clone(), request(Method::GET, "/", "")).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    let script = send(router.clone(), request(Method::GET, "/assets/x.js", "")).await;
    assert_eq!(script.body, "let x");
    assert!(
        script
            .header("cache-control")
            .unwrap()
            .contains("immutable")
    );
    let policy = script.header("content-security-policy").unwrap();
    assert!(!policy.contains("unsafe"), "{policy}");
    for path in [
        "/assets/none.js",
        "/assets/../Cargo.toml",
        "/assets/%2e%2e/x",
    ] {
        let none = send(router.clone(), request(Method::GET, path, "")).await;
        assert_eq!(none.status, 404, "{path}");
    }
    // What the page asks is asked for a key all the same, and other hosts get nothing at all.
    let models = send(router.clone(), request(Method::GET, "/api/chats", "")).await;
    assert_eq!(models.status, 401);
    let mut rebound = request(Method::GET, "/", "");
    rebound
        .headers_mut()
        .insert("host", "evil.example".parse().unwrap());
    assert_eq!(send(router, rebound).await.status, 403);
}
