//! Models that are loaded on demand, as each dialect shows them.

use std::time::Duration;

use proto::{LoadFailure, LoadFailureKind};
use serde_json::{Value, json};
use supervisor::{Keep, ModelPhase, ModelStatus, Place};

use super::scripted::{Scripted, get, hello, post, ready_model, shelved, status};

fn two() -> std::sync::Arc<Scripted> {
    let models = vec![shelved("cold"), ready_model("tiny")];
    Scripted::playing(models, vec![hello(), hello(), hello()])
}

fn placed(model: ModelStatus, place: Place) -> ModelStatus {
    ModelStatus { place, ..model }
}

#[tokio::test]
async fn models_on_demand_are_listed_with_what_their_files_say() {
    let list = get(&two(), "/v1/models").await.json();
    let cold = &list["data"][0];
    assert_eq!(
        (&cold["id"], &cold["state"], &cold["loaded"]),
        (&json!("cold"), &json!("unloaded"), &json!(false))
    );
    assert_eq!(cold["context_length"], Value::Null);
    assert_eq!(cold["context_train"], 8192);
    assert_eq!(cold["capabilities"], json!(["chat", "completion", "tools"]));
    assert_eq!(list["data"][1]["loaded"], true);
    let tags = get(&two(), "/api/tags").await.json();
    assert_eq!(tags["models"][0]["name"], "cold:latest");
    let running = get(&two(), "/api/ps").await.json();
    assert_eq!(running["models"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn to_show_a_model_does_not_load_it() {
    let backend = two();
    let shown = post(&backend, "/api/show", r#"{"model": "cold"}"#)
        .await
        .json();
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    assert_eq!(shown["details"]["family"], "llama");
    assert_eq!(shown["details"]["parameter_size"], "134.52M");
    assert_eq!(shown["model_info"]["llama.context_length"], 4096);
    assert!(backend.jobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn requests_go_to_models_on_demand_and_without_a_name_to_what_is_in_memory() {
    let chat = |model: &str| {
        format!(r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "Hi"}}]}}"#)
    };
    for (asked, answers) in [("cold", "cold"), ("cold:latest", "cold"), ("", "tiny")] {
        let backend = two();
        let reply = post(&backend, "/v1/chat/completions", chat(asked)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(backend.jobs.lock().unwrap()[0].0, answers);
    }
    let backend = Scripted::playing(vec![shelved("cold")], vec![hello()]);
    post(&backend, "/v1/chat/completions", chat("auto")).await;
    assert_eq!(backend.jobs.lock().unwrap()[0].0, "cold");
    let route = post(&backend, "/v1/route", chat("cold")).await.json();
    assert_eq!(route["candidates"][0]["model"], "cold", "{route}");
}

#[tokio::test]
async fn a_machine_with_models_on_demand_is_ready() {
    let cold = Scripted::with_models(vec![shelved("cold")]);
    let reply = get(&cold, "/ready").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json()["models"][0]["why"],
        "it is not in memory; a request for it loads it"
    );
}

#[tokio::test]
async fn the_administrator_sees_the_ledger() {
    let failure = LoadFailure {
        kind: LoadFailureKind::Resources,
        message: "no memory".into(),
    };
    let models = vec![
        placed(
            ready_model("tiny"),
            Place {
                pinned: true,
                bytes: 100,
                is_measured: true,
                running: 2,
                closed_for: Some("cold".into()),
                ..Place::default()
            },
        ),
        placed(
            shelved("cold"),
            Place {
                waiting: 3,
                ..shelved("cold").place
            },
        ),
        placed(
            status("bad", ModelPhase::Failed(failure)),
            Place {
                retry_in_ms: Some(4_000),
                ..Place::default()
            },
        ),
    ];
    let list = get(&Scripted::with_models(models), "/admin/models")
        .await
        .json();
    assert_eq!(
        (&list["memory_bytes"], &list["memory_bytes_max"]),
        (&json!(100), &json!(1_000))
    );
    let [tiny, cold, bad] = list["models"].as_array().unwrap().as_slice() else {
        panic!("{list}");
    };
    assert_eq!(
        tiny["why"],
        "it takes nothing new and makes room for `cold`"
    );
    assert_eq!(
        [
            &tiny["pinned"],
            &tiny["memory_bytes"],
            &tiny["requests_running"]
        ],
        [&json!(true), &json!(100), &json!(2)]
    );
    assert_eq!(cold["why"], "it is not in memory; 3 requests wait for room");
    assert_eq!(
        [
            &cold["on_demand"],
            &cold["memory_bytes"],
            &cold["memory_measured"]
        ],
        [&json!(true), &json!(5_000), &json!(false)]
    );
    assert_eq!(
        bad["why"],
        "no memory; tried again in 4000 ms at the earliest"
    );
}

#[tokio::test]
async fn a_model_on_demand_is_loaded_by_its_name() {
    let backend = two();
    let body = r#"{"model": "cold:latest", "context": 512, "pin": true}"#;
    let reply = post(&backend, "/admin/models/load", body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let order = backend.orders.lock().unwrap()[0].clone();
    assert_eq!((order.pin, order.force), (Some(true), false));
    assert_eq!(order.spec.name, "cold");
    assert_eq!(order.spec.path, shelved("cold").spec.path);
    assert_eq!(order.spec.context, Some(512));
    let force = r#"{"path": "/x.gguf", "force": true}"#;
    post(&backend, "/admin/models/load", force).await;
    let order = backend.orders.lock().unwrap()[1].clone();
    assert_eq!((order.pin, order.force), (None, true));
    assert_eq!(order.spec.name, "x");
    let unknown = post(&backend, "/admin/models/load", r#"{"model": "none"}"#).await;
    assert_eq!(unknown.status, 400);
    assert!(unknown.body.contains("path"), "{}", unknown.body);
}

#[tokio::test]
async fn keep_alive_is_kept() {
    let chat = |keep: Value| {
        let body = json!({
            "model": "tiny", "stream": false, "keep_alive": keep,
            "messages": [{ "role": "user", "content": "Hi" }],
        });
        body.to_string()
    };
    let keeps = [
        (json!(0), Keep::For(Duration::ZERO)),
        (json!("5m"), Keep::For(Duration::from_secs(300))),
        (json!(-1), Keep::Forever),
    ];
    for (given, keep) in keeps {
        let backend = two();
        let reply = post(&backend, "/api/chat", chat(given)).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-sextant-warning"), None);
        assert_eq!(*backend.keeps.lock().unwrap(), [("tiny".to_owned(), keep)]);
    }
    let pinned = Place {
        pinned: true,
        ..Place::default()
    };
    let models = vec![placed(ready_model("tiny"), pinned)];
    let backend = Scripted::playing(models, vec![hello()]);
    let reply = post(&backend, "/api/chat", chat(json!(0))).await;
    assert_eq!(
        reply.header("x-sextant-warning"),
        Some("keep_alive has no effect: `tiny` is pinned and stays in memory.")
    );
    assert!(backend.keeps.lock().unwrap().is_empty());
}

#[tokio::test]
async fn it_is_told_when_a_model_goes() {
    let goes = Place {
        expires_in_ms: Some(90_500),
        ..Place::default()
    };
    let models = vec![placed(ready_model("a"), goes), ready_model("b")];
    let reply = get(&Scripted::with_models(models), "/api/ps").await.json();
    let times: Vec<&str> = reply["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["expires_at"].as_str().unwrap())
        .collect();
    // The clock of the tests stands still.
    let now = get(&two(), "/v1/models").await.json()["data"][0]["created"].clone();
    let expected = stdx::rfc3339(now.as_u64().unwrap() + 91);
    assert_eq!(times, [expected.as_str(), "2200-01-01T00:00:00Z"]);
}
