//! Names, lists, descriptions and embeddings.

use std::time::Duration;

use axum::http::Method;
use proto::{Event, FailureKind, FinishReason, ModelFacts};
use serde_json::{Value, json};
use supervisor::{Keep, ModelPhase};

use super::{CHAT, chat};
use crate::tests::scripted::{
    Scripted, Step, config, done, facts, failed, finished, get, hello, post, ready_model, request,
    router, send, started, status, text,
};

fn known() -> ModelFacts {
    ModelFacts {
        architecture: "llama".into(),
        n_params: 134_515_008,
        weights_bytes: 90_000_000,
        kv_bytes: 10_000_000,
        n_layer: 30,
        gpu_layers: 15,
        n_vocab: 49_152,
        can_reason: true,
        chat_template: Some("{{ messages }}".into()),
        ..facts("tiny")
    }
}

fn three() -> std::sync::Arc<Scripted> {
    Scripted::with_models(vec![
        status("tiny", ModelPhase::Ready(known().into())),
        ready_model("org/tiny:Q4_1"),
        status("big", ModelPhase::Loading { fraction: 0.25 }),
    ])
}

#[tokio::test]
async fn the_version_is_one_that_clients_can_compare() {
    let reply = get(&Scripted::idle(), "/api/version").await.json();
    let parts = reply["version"].as_str().unwrap().split('.');
    let numbers: Vec<u32> = parts.map(|part| part.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 3);
}

#[tokio::test]
async fn all_models_are_listed_with_a_tag() {
    let reply = get(&three(), "/api/tags").await;
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn the_ready_ones_are_running() {
    let reply = get(&three(), "/api/ps").await;
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn a_model_is_described() {
    let reply = post(&three(), "/api/show", r#"{"model": "tiny:latest"}"#).await;
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn a_listed_name_finds_its_model_in_every_dialect() {
    let backend = Scripted::new(vec![hello(), hello(), hello()]);
    let listed = get(&backend, "/api/tags").await.json()["models"][0]["model"].clone();
    assert_eq!(listed, "tiny:latest");
    let body = chat(json!({ "model": listed, "stream": false }));
    let answer = post(&backend, CHAT, body.clone()).await.json();
    assert_eq!(
        answer["model"], listed,
        "the name is repeated as it was asked for"
    );
    let answer = post(&backend, "/v1/chat/completions", body).await.json();
    assert_eq!(answer["model"], "tiny");
    let one = get(&backend, "/v1/models/tiny:latest").await.json();
    assert_eq!(one["id"], "tiny");
    // Without a name it is the first, and its own name.
    let body = chat(json!({ "model": "", "stream": false }));
    let answer = post(&backend, CHAT, body).await.json();
    assert_eq!(answer["model"], "tiny");
}

#[tokio::test]
async fn who_has_the_tag_in_its_name_goes_first() {
    let backend = Scripted::with_models(vec![ready_model("a"), ready_model("a:latest")]);
    for name in ["a", "a:latest"] {
        post(&backend, CHAT, chat(json!({ "model": name }))).await;
        let jobs = backend.jobs.lock().unwrap();
        assert_eq!(jobs.last().unwrap().0, name);
    }
}

#[tokio::test]
async fn a_model_that_is_loading_is_waited_for() {
    let loading = || status("tiny", ModelPhase::Loading { fraction: 0.5 });
    let empty = r#"{"model": "tiny", "stream": false}"#;
    let ready = Event::Tokens {
        tokens: Vec::new(),
        pieces: None,
    };
    let backend = Scripted::playing(vec![loading()], vec![vec![ready]]);
    let reply = post(&backend, "/api/generate", empty).await;
    assert_eq!(reply.json()["done_reason"], "load");
    let broken = failed(FailureKind::ModelUnavailable, "No GGUF.");
    let backend = Scripted::playing(vec![loading()], vec![vec![broken]]);
    let reply = post(&backend, "/api/generate", empty).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()),
        (503, json!({ "error": "No GGUF." }))
    );
}

fn vectors() -> Vec<Event> {
    vec![Event::Embeddings {
        vectors: vec![vec![0.6, 0.8, 0.0], vec![0.0, 0.0, 1.0]],
        prompt_tokens: 7,
    }]
}

#[tokio::test(start_paused = true)]
async fn embeddings_in_both_forms() {
    let backend = Scripted::new(vec![vectors(), vectors()]);
    let body = r#"{"model": "tiny", "input": ["a", "b"], "dimensions": 3}"#;
    let reply = post(&backend, "/api/embed", body).await;
    insta::assert_snapshot!("embed", reply.body);
    let body = r#"{"model": "tiny", "prompt": "a", "keep_alive": 60}"#;
    let reply = post(&backend, "/api/embeddings", body).await;
    assert_eq!(reply.header("x-sextant-warning"), None);
    let minute = Keep::For(Duration::from_secs(60));
    assert_eq!(
        *backend.keeps.lock().unwrap(),
        [("tiny".to_owned(), minute)]
    );
    insta::assert_snapshot!("embeddings", reply.body);
    let empty = post(&backend, "/api/embeddings", r#"{"model": "tiny"}"#).await;
    assert_eq!(empty.json(), json!({ "embedding": [] }));
}

#[tokio::test(start_paused = true)]
async fn a_wish_comes_true_at_the_end_of_its_own_request() {
    let slow = |seconds| Step::Wait(Duration::from_secs(seconds));
    let mut wishing: Vec<Step> = vec![started().into(), text(0, "a").into(), slow(10)];
    wishing.extend([finished(0, FinishReason::Stop).into(), done().into()]);
    let plain: Vec<Step> = hello().into_iter().map(Step::from).collect();
    let abandoned: Vec<Step> = vec![started().into(), slow(3600)];
    let backend = Scripted::new(vec![wishing, plain, abandoned]);
    let ask = |keep_alive: Value| {
        let body = json!({ "model": "tiny", "prompt": "a", "keep_alive": keep_alive });
        let request = request(Method::POST, "/api/generate", body.to_string());
        send(router(&backend, config()), request)
    };
    let keeps = || std::mem::take(&mut *backend.keeps.lock().unwrap());
    let mut wishes = Box::pin(ask(json!(0)));
    assert!(futures_util::poll!(wishes.as_mut()).is_pending());
    // Another request of that model ends meanwhile.
    assert_eq!(ask(Value::Null).await.status, 200);
    assert_eq!(keeps(), []);
    assert_eq!(wishes.await.status, 200);
    assert_eq!(keeps(), [("tiny".to_owned(), Keep::For(Duration::ZERO))]);
    // Who leaves is over too.
    let mut leaves = Box::pin(ask(json!(-1)));
    assert!(futures_util::poll!(leaves.as_mut()).is_pending());
    assert_eq!(keeps(), []);
    drop(leaves);
    assert_eq!(keeps(), [("tiny".to_owned(), Keep::Forever)]);
}
