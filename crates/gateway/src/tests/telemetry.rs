//! `/api/telemetry`, over a history that a test writes.

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use serde_json::{Value, json};
use store::{Cores, Figure, History, Mark, MarkKind, NewKey, Sample, Scope, Spread, Store, Waits};
use tempfile::TempDir;

use super::scripted::{Reply, Scripted, config, request, router, send};
use crate::history::tests::Warm;
use crate::{AppState, Control, ControlOptions, GatewayConfig, HistoryKeeper, Routing, app};

/// A moment within the last hour, so that each ten seconds of it are told; a multiple of all steps.
fn moment() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    now / 900 * 900 - 900
}

struct Kept {
    _folder: TempDir,
    history: History,
    router: Router,
}

fn kept() -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let history = History::new(folder.path(), 30);
    let config = GatewayConfig {
        history: Some(HistoryKeeper::new(history.clone(), Arc::new(Warm))),
        ..config()
    };
    Kept {
        router: router(&Scripted::idle(), config),
        history,
        _folder: folder,
    }
}

impl Kept {
    async fn ask(&self, method: Method, path: &str, body: &str) -> Reply {
        let body = body.to_owned();
        send(self.router.clone(), request(method, path, body)).await
    }

    async fn get(&self, query: &str) -> Value {
        let path = format!("/api/telemetry{query}");
        self.ask(Method::GET, &path, "").await.json()
    }
}

fn sample(at_s: u64, said: f64) -> Sample {
    let mut sample = Sample::at(at_s);
    sample.add(Figure::SaidTps, Spread::of(said));
    sample
}

#[tokio::test]
async fn a_stretch_comes_in_columns_and_a_gap_is_no_point() {
    let (kept, at) = (kept(), moment());
    let mut first = sample(at, 10.0);
    first.waits.add(Waits::step_of(0.25), 3);
    first.cores = Cores::of(&[0.5, 1.0]);
    first.add_process("tiny", Spread::of(5e8));
    kept.history.record(first);
    let mut last = sample(at + 40, 30.0);
    last.add(Figure::Celsius, Spread::of(51.5));
    kept.history.record(last);
    let crash = Mark::new(at * 1000 + 5, MarkKind::Crash, "<b>why</b>");
    kept.history.mark(crash.of_model("tiny"));
    let page = kept
        .get(&format!("?from={at}&to={}&points=100", at + 60))
        .await;
    assert_eq!(page["at_s"], json!([at, at + 40]));
    assert_eq!((&page["step_s"], &page["days"]), (&json!(10), &json!(30)));
    let said = json!({"mean": [10.0, 30.0], "high": [10.0, 30.0]});
    assert_eq!(page["figures"]["said_tps"], said);
    assert_eq!(page["figures"]["celsius"]["mean"], json!([null, 51.5]));
    assert_eq!(
        page["figures"].as_object().unwrap().len(),
        2,
        "what nobody read is absent"
    );
    assert_eq!(page["ttft"]["count"], json!([3, 0]));
    let p95 = page["ttft"]["p95_ms"][0].as_f64().unwrap();
    assert!((p95 / 250.0 - 1.0).abs() < 0.03, "{p95}");
    assert_eq!(page["ttft"]["p95_ms"][1], Value::Null);
    assert_eq!(page["cores"], json!([[50, 100], []]));
    assert_eq!(page["processes"], json!({"tiny": [5e8, null]}));
    let mark = json!({"id": null, "at_ms": at * 1000 + 5, "kind": "crash", "model": "tiny", "text": "<b>why</b>"});
    assert_eq!(page["marks"], json!([mark]));
    assert_eq!(page["trouble"], Value::Null);
    // In fewer points the two are one, with what was between them.
    let coarse = kept
        .get(&format!("?from={at}&to={}&points=2", at + 60))
        .await;
    let said = json!({"mean": [20.0], "high": [30.0]});
    assert_eq!(
        (&coarse["figures"]["said_tps"], &coarse["step_s"]),
        (&said, &json!(60))
    );
}

#[tokio::test]
async fn questions_have_limits_and_an_endpoint_without_a_history_says_so() {
    let kept = kept();
    for query in [
        "?points=1",
        "?points=2001",
        "?from=20&to=20",
        "?from=-5",
        "?to=999999999999999",
        "?from=x",
        "?range=1h",
    ] {
        let error = &kept.get(query).await["error"];
        assert_eq!(error["code"], "invalid_value", "{query}");
    }
    assert_eq!(kept.get("").await["at_s"], json!([]));
    let none = router(&Scripted::idle(), config());
    for (method, path) in [
        (Method::GET, "/api/telemetry"),
        (Method::POST, "/api/telemetry/notes"),
        (Method::DELETE, "/api/telemetry/notes/1"),
    ] {
        let reply = send(none.clone(), request(method, path, r#"{"text": "x"}"#)).await;
        assert_eq!(reply.status, 501, "{path}");
        assert_eq!(reply.json()["error"]["code"], "no_history");
    }
}

#[tokio::test]
async fn notes_are_kept_within_limits_and_forgotten_once() {
    let (kept, at) = (kept(), moment());
    let path = "/api/telemetry/notes";
    let note = |text: &str, at_ms: Option<u64>| json!({"text": text, "at_ms": at_ms}).to_string();
    let said = note(" a new\n\tfan\u{7} ", Some(at * 1000));
    let reply = kept.ask(Method::POST, path, &said).await.json();
    assert_eq!(
        (&reply["kind"], &reply["text"]),
        (&json!("note"), &json!("a new fan"))
    );
    let query = format!("?from={at}&to={}", at + 60);
    assert_eq!(kept.get(&query).await["marks"], json!([reply]));
    for (body, code) in [
        (note(&"é".repeat(251), None), "limit_exceeded"),
        (note(" \n ", None), "missing_field"),
        ("{}".to_owned(), "missing_field"),
        (note("later", Some(u64::MAX)), "invalid_value"),
        (
            json!({"text": "x", "color": 1}).to_string(),
            "unknown_field",
        ),
        ("[]".to_owned(), "invalid_json"),
    ] {
        let error = kept.ask(Method::POST, path, &body).await.json();
        assert!(error["error"]["code"].is_string(), "{body}: {error}");
        assert_ne!(error["error"]["code"], "internal_error", "{body}");
        if code != "unknown_field" {
            assert_eq!(error["error"]["code"], code, "{body}");
        }
    }
    let id = &reply["id"];
    let deleted = kept.ask(Method::DELETE, &format!("{path}/{id}"), "").await;
    assert_eq!(deleted.json(), json!({"id": id, "deleted": true}));
    for gone in [
        id.to_string(),
        "x".to_owned(),
        "99999999999999999999".to_owned(),
    ] {
        let reply = kept
            .ask(Method::DELETE, &format!("{path}/{gone}"), "")
            .await;
        assert_eq!(reply.status, 404, "{gone}");
        assert_eq!(reply.json()["error"]["code"], "note_not_found");
    }
    assert_eq!(kept.get(&query).await["marks"], json!([]));
}

#[tokio::test]
async fn a_key_reads_figures_with_metrics_and_writes_notes_with_admin() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut session = store.connect().unwrap();
    let mut bearer = |name: &str, scopes: &[Scope]| {
        let key = NewKey {
            name: name.into(),
            scopes: scopes.iter().copied().collect(),
            ..NewKey::default()
        };
        format!("Bearer {}", session.add_key(&key).unwrap().0.expose())
    };
    let plain = bearer("plain", &[Scope::Models, Scope::Chat]);
    let metrics = bearer("metrics", &[Scope::Metrics]);
    let admin = bearer("admin", &[Scope::Admin]);
    let history = History::new(folder.path(), 90);
    let config = GatewayConfig {
        control: Some(Control::open(store, ControlOptions::default()).unwrap()),
        history: Some(HistoryKeeper::new(history, Arc::new(Warm))),
        ..config()
    };
    let state = AppState::routed(Scripted::idle() as _, config, Routing::default());
    let router = app(state);
    let status = |method: Method, path: &'static str, key: String| {
        let router = router.clone();
        async move {
            let mut asked = request(method, path, r#"{"text": "x"}"#);
            let key = key.parse().unwrap();
            asked.headers_mut().insert("authorization", key);
            send(router, asked).await.status.as_u16()
        }
    };
    let (page, notes) = ("/api/telemetry", "/api/telemetry/notes");
    for (key, expected) in [(&plain, [403, 403]), (&metrics, [200, 403])] {
        let seen = status(Method::GET, page, key.clone()).await;
        let written = status(Method::POST, notes, key.clone()).await;
        assert_eq!([seen, written], expected);
    }
    assert_eq!(status(Method::POST, notes, admin).await, 200);
}
