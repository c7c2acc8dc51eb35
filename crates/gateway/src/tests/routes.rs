//! The routes beside generation.

use proto::{Event, FailureKind, Job, LoadFailure, LoadFailureKind, ModelFacts};
use supervisor::ModelPhase;

use super::scripted::{Scripted, facts, failed, get, hello, post, ready_model, status};

#[tokio::test]
async fn models_are_listed_for_openai_and_codex() {
    let backend = Scripted::with_models(vec![
        ready_model("tiny"),
        status("org/big", ModelPhase::Loading { fraction: 0.25 }),
    ]);
    let reply = get(&backend, "/v1/models").await;
    insta::assert_json_snapshot!(reply.json());
    let one = get(&backend, "/v1/models/org/big").await.json();
    assert_eq!(one["id"], "org/big");
    assert_eq!(one["state"], "loading");
    let no_utf8 = get(&backend, "/v1/models/%ff").await;
    assert_eq!(no_utf8.json()["error"]["code"], "model_not_found");
    let none = get(&backend, "/v1/models/nope").await;
    assert_eq!(none.status, 404);
    assert_eq!(
        none.json()["error"]["loaded"],
        serde_json::json!(["tiny", "org/big"])
    );
}

#[tokio::test]
async fn a_model_without_a_template_is_not_called_a_chat_model() {
    let base = ModelFacts {
        own_template: false,
        ..facts("base")
    };
    let backend = Scripted::with_models(vec![status("base", ModelPhase::Ready(base.into()))]);
    let list = get(&backend, "/v1/models").await.json();
    let capabilities = &list["data"][0]["capabilities"];
    assert_eq!(
        *capabilities,
        serde_json::json!(["completion", "embedding"])
    );
    assert_eq!(list["models"][0]["supports_parallel_tool_calls"], false);
}

#[tokio::test]
async fn a_misspelt_field_is_refused_and_a_foreign_one_warned_of() {
    let backend = Scripted::new(vec![hello()]);
    let slip = post(
        &backend,
        "/v1/completions",
        r#"{"prompt": "x", "max_token": 5}"#,
    )
    .await;
    assert_eq!(slip.status, 400);
    let error = &slip.json()["error"];
    assert_eq!(
        (&error["code"], &error["param"]),
        (&"unknown_field".into(), &"max_token".into())
    );
    let foreign = r#"{"prompt": "x", "max_new_tokens": 5, "store": true}"#;
    let answer = post(&backend, "/v1/completions", foreign).await;
    let warning = "`max_new_tokens` is not read here: use `max_tokens`.";
    assert_eq!(
        answer.json()["sextant"]["warnings"],
        serde_json::json!([warning])
    );
    assert_eq!(answer.headers["x-sextant-warning"], warning);
}

#[tokio::test]
async fn a_model_is_found_by_name_or_is_the_first_that_can_answer() {
    let broken = LoadFailure {
        kind: LoadFailureKind::Artifact,
        message: "no GGUF".into(),
    };
    let models = vec![
        status("bad", ModelPhase::Failed(broken)),
        ready_model("a"),
        ready_model("b"),
    ];
    for (field, name) in [
        ("", "a"),
        (r#""model": "","#, "a"),
        (r#""model": "b","#, "b"),
    ] {
        let backend = Scripted::with_models(models.clone());
        let body = format!(r#"{{{field} "prompt": "x"}}"#);
        post(&backend, "/v1/completions", body).await;
        assert_eq!(backend.jobs.lock().unwrap()[0].0, name);
    }
    let none = Scripted::with_models(Vec::new());
    let reply = post(&none, "/v1/completions", r#"{"prompt": "x"}"#).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["code"], "no_model_loaded");
    let reply = post(&none, "/v1/completions", r#"{"prompt": "x", "model": "m"}"#).await;
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("There are: none."));
}

fn vectors() -> Vec<Event> {
    vec![Event::Embeddings {
        vectors: vec![vec![1.0, 0.0, -0.5], vec![0.25, 0.0, 0.0]],
        prompt_tokens: 6,
    }]
}

#[tokio::test]
async fn embeddings_as_numbers_and_as_base64() {
    let backend = Scripted::new(vec![vectors(), vectors()]);
    let body = r#"{"input": ["a", "b"], "dimensions": 3}"#;
    let floats = post(&backend, "/v1/embeddings", body).await;
    insta::assert_json_snapshot!(floats.json());
    let body = r#"{"input": [[1], [2]], "encoding_format": "base64"}"#;
    let packed = post(&backend, "/v1/embeddings", body).await.json();
    // 1.0, 0.0, -0.5 as little-endian 32-bit floats.
    assert_eq!(packed["data"][0]["embedding"], "AACAPwAAAAAAAAC/");
    assert_eq!(packed["data"][1]["index"], 1);
    assert_eq!(packed["usage"]["total_tokens"], 6);
}

#[tokio::test]
async fn tokens_there_and_back() {
    let tokens = |pieces| {
        vec![Event::Tokens {
            tokens: vec![5, 6],
            pieces,
        }]
    };
    let backend = Scripted::new(vec![
        tokens(None),
        tokens(Some(vec!["a".into(), "b".into()])),
        vec![Event::Text { text: "ab".into() }],
        vec![Event::Rendered {
            prompt: "<s>Hi".into(),
            n_tokens: 3,
        }],
    ]);
    let body = r#"{"content": "ab"}"#;
    assert_eq!(
        post(&backend, "/tokenize", body).await.body,
        r#"{"tokens":[5,6]}"#
    );
    let body = r#"{"content": "ab", "with_pieces": true, "add_special": true}"#;
    assert_eq!(
        post(&backend, "/tokenize", body).await.body,
        r#"{"tokens":[{"id":5,"piece":"a"},{"id":6,"piece":"b"}]}"#
    );
    let body = r#"{"tokens": [5, 6]}"#;
    assert_eq!(
        post(&backend, "/detokenize", body).await.body,
        r#"{"content":"ab"}"#
    );
    let body = r#"{"messages": [{"role": "user", "content": "Hi"}]}"#;
    let rendered = post(&backend, "/apply-template", body).await.body;
    assert_eq!(rendered, r#"{"prompt":"<s>Hi","n_tokens":3}"#);
    let jobs = backend.jobs.lock().unwrap();
    assert!(matches!(
        jobs[1].1,
        Job::Tokenize {
            add_special: true,
            parse_special: true,
            with_pieces: true,
            ..
        }
    ));
}

#[tokio::test]
async fn an_answer_of_another_kind_is_an_error_not_a_panic() {
    for path in ["/tokenize", "/v1/embeddings", "/v1/completions"] {
        let backend = Scripted::new(vec![vec![Event::Rendered {
            prompt: String::new(),
            n_tokens: 0,
        }]]);
        let body = r#"{"content": "a", "input": "a", "prompt": "a"}"#;
        let reply = post(&backend, path, body).await;
        assert_eq!(reply.status, 500, "{path}");
    }
}

#[tokio::test]
async fn health_is_about_the_process_and_ready_about_models() {
    let none = Scripted::with_models(Vec::new());
    assert_eq!(get(&none, "/health").await.status, 200);
    assert_eq!(get(&none, "/ready").await.status, 503);
    assert_eq!(get(&Scripted::idle(), "/ready").await.status, 200);
    let failure = LoadFailure {
        kind: LoadFailureKind::Resources,
        message: "Out of memory.".into(),
    };
    let waiting = Scripted::with_models(vec![
        status("a", ModelPhase::Loading { fraction: 0.5 }),
        status("b", ModelPhase::Failed(failure)),
        status("c", ModelPhase::Restarting { in_ms: 250 }),
    ]);
    let reply = get(&waiting, "/ready").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn props_and_slots() {
    let backend = Scripted::idle();
    insta::assert_json_snapshot!("props", get(&backend, "/props").await.json());
    insta::assert_json_snapshot!("slots", get(&backend, "/slots?model=tiny").await.json());
    assert_eq!(get(&backend, "/slots?model=x").await.status, 404);
    assert_eq!(get(&backend, "/slots?model=a&model=b").await.status, 400);
    let loading = Scripted::with_models(vec![status("a", ModelPhase::Starting)]);
    assert_eq!(get(&loading, "/props").await.status, 503);
    assert_eq!(get(&loading, "/slots").await.status, 503);
}

#[tokio::test]
async fn models_are_loaded_and_unloaded() {
    let backend = Scripted::idle();
    let listed = get(&backend, "/admin/models").await.json();
    assert_eq!(listed["models"][0]["name"], "tiny");
    assert_eq!(listed["models"][0]["state"], "ready");
    assert_eq!(listed["models"][0]["facts"]["context"], 4096);
    assert_eq!(listed["models"][0]["worker"]["queued"], 2);
    let body = r#"{"path": "/m/new.gguf", "context": 2048, "kv_type_k": "q8_0"}"#;
    let reply = post(&backend, "/admin/models/load", body).await;
    assert_eq!(reply.json()["model"], "new");
    let body = r#"{"model": "n", "path": "missing.gguf"}"#;
    let reply = post(&backend, "/admin/models/load", body).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["code"], "model_file_not_found");
    let specs = std::mem::take(&mut *backend.specs.lock().unwrap());
    assert_eq!(specs[0].context, Some(2048));
    assert_eq!(specs[0].kv_type_k, Some(proto::CacheType::Q8_0));
    assert_eq!(specs[1].name, "n");
    let reply = post(&backend, "/admin/models/unload", r#"{"model": "tiny"}"#).await;
    assert_eq!(reply.json()["unloaded"], true);
    let reply = post(&backend, "/admin/models/unload", r#"{"model": "tiny"}"#).await;
    assert_eq!(reply.status, 404);
}

/// Types of all layers that are asked for later stand before a plan that was set earlier.
#[tokio::test]
async fn a_plan_is_loaded_until_somebody_asks_for_types_of_all_layers() {
    let plan = "k=q8_0,v=q4_0;k[1]=f16";
    let mut known = status("tiny", ModelPhase::Starting);
    known.spec.path = "/m/tiny.gguf".into();
    known.spec.kv_plan = Some(plan.into());
    let backend = Scripted::with_models(vec![known]);
    for body in [
        r#"{"model": "tiny"}"#,
        r#"{"model": "tiny", "kv_type_k": "q5_0"}"#,
        r#"{"model": "tiny", "kv_type_k": "q5_0", "kv_plan": "v=q4_0"}"#,
    ] {
        post(&backend, "/admin/models/load", body).await;
    }
    let specs = std::mem::take(&mut *backend.specs.lock().unwrap());
    let plans: Vec<_> = specs.iter().map(|spec| spec.kv_plan.as_deref()).collect();
    assert_eq!(plans, [Some(plan), None, Some("v=q4_0")]);
}

#[tokio::test]
async fn metrics_count_requests_tokens_and_workers() {
    let backend = Scripted::new(vec![
        hello(),
        vec![failed(FailureKind::QueueFull { limit: 1 }, "")],
    ]);
    let router = super::scripted::router(&backend, super::scripted::config());
    let body = r#"{"messages": [{"role": "user", "content": "x"}], "stream": true}"#;
    for _ in 0..2 {
        let request =
            super::scripted::request(axum::http::Method::POST, "/v1/chat/completions", body);
        super::scripted::send(router.clone(), request).await;
    }
    let request = super::scripted::request(axum::http::Method::GET, "/metrics", "");
    let text = super::scripted::send(router, request).await.body;
    let route = "route=\"/v1/chat/completions\"";
    let lines = [
        &format!("sextant_http_requests_total{{{route},method=\"POST\",status=\"200\"}} 1"),
        &format!("sextant_http_requests_total{{{route},method=\"POST\",status=\"429\"}} 1"),
        &format!("sextant_http_request_duration_seconds_count{{{route}}} 2"),
        "sextant_time_to_first_token_seconds_count{model=\"tiny\"} 1",
        "sextant_prompt_tokens_total{model=\"tiny\"} 12",
        "sextant_completion_tokens_total{model=\"tiny\"} 5",
        "sextant_job_failures_total{model=\"tiny\",code=\"queue_full\"} 1",
        "sextant_http_requests_in_flight 1",
        "sextant_worker_queued{model=\"tiny\"} 2",
        "sextant_worker_prompt_tokens_total{model=\"tiny\"} 100",
        "sextant_worker_prefill_seconds_total{model=\"tiny\"} 1.5",
        "sextant_worker_restarts_total{model=\"tiny\"} 1",
        "sextant_worker_ready{model=\"tiny\"} 1",
        "sextant_worker_state{model=\"tiny\",state=\"ready\"} 1",
        "# EOF",
    ];
    for line in lines {
        assert!(
            text.lines().any(|found| found == line),
            "no `{line}` in:\n{text}"
        );
    }
}

#[tokio::test]
async fn the_description_has_every_route() {
    let document = get(&Scripted::idle(), "/openapi.json").await.json();
    let mut routes: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    routes.sort();
    insta::assert_snapshot!(routes.join("\n"));
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
    let chat = &document["components"]["schemas"]["ChatRequest"]["properties"];
    for field in [
        "temperature",
        "response_format",
        "dry_base",
        "reasoning_effort",
    ] {
        assert!(chat[field].is_object(), "{field}");
    }
}
