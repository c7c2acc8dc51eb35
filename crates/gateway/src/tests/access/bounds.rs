//! What nobody gets round.

use supervisor::ModelStatus;

use super::super::scripted::{failed, ready_model, shelved, status};
use super::*;

fn may_use(name: &str, models: &[&str]) -> NewKey {
    NewKey {
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        ..key(name)
    }
}

fn one_and_two() -> Vec<ModelStatus> {
    vec![ready_model("one"), shelved("two")]
}

/// What a model answers that was waited for.
fn ready() -> Vec<proto::Event> {
    vec![proto::Event::Tokens {
        tokens: Vec::new(),
        pieces: None,
    }]
}

#[tokio::test]
async fn a_model_is_loaded_only_by_a_key_that_may_use_it() {
    let desk = Desk::new();
    let limited = desk.add(may_use("one-only", &["one"]));
    let free = desk.add(key("free"));
    let control = desk.control();
    let backend = Scripted::playing(one_and_two(), vec![ready(), ready()]);
    let app = app(&backend, &control, Vec::new());
    let load = json!({ "model": "two", "keep_alive": "5m" });
    let routes = [
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
    ];
    for path in routes {
        let reply = post(&app, path, &limited, &load).await;
        assert_eq!(reply.status, 403, "{path}: {}", reply.body);
        assert!(reply.body.contains("one-only"), "{path}: {}", reply.body);
    }
    assert!(backend.jobs.lock().unwrap().is_empty());
    assert!(backend.keeps.lock().unwrap().is_empty());
    // The first model in memory is one that it may use.
    for body in [json!({ "model": "one" }), json!({})] {
        let reply = post(&app, "/api/generate", &limited, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let named = json!({ "model": "two:latest" });
    assert_eq!(post(&app, "/api/generate", &free, &named).await.status, 200);
    let by_tag = desk.add(may_use("by-tag", &["two:*"]));
    control.look();
    assert_eq!(post(&app, "/api/embed", &by_tag, &named).await.status, 200);
    let jobs = backend.jobs.lock().unwrap().clone();
    assert_eq!(
        jobs.iter().map(|job| &*job.0).collect::<Vec<_>>(),
        ["two"; 2]
    );

    let rows = desk.rows(&control);
    let noted = rows.iter().map(|row| {
        let error = row.error.as_deref();
        (&*row.route, row.model.as_deref(), row.status, error)
    });
    let mut expected: Vec<_> = routes
        .map(|path| (path, Some("two"), 403, Some("model_forbidden")))
        .into();
    expected.extend([
        ("/api/generate", Some("one"), 200, None),
        ("/api/generate", None, 200, None),
        ("/api/generate", Some("two:latest"), 200, None),
        ("/api/embed", Some("two:latest"), 200, None),
    ]);
    assert_eq!(noted.collect::<Vec<_>>(), expected);
    assert_eq!(rows[6].served_by.as_deref(), Some("embedded:two"));
}

#[tokio::test]
async fn to_show_a_model_brings_back_none_that_the_key_may_not_use() {
    let failure = proto::LoadFailure {
        kind: proto::LoadFailureKind::Resources,
        message: "no memory".into(),
    };
    let broken = ModelStatus {
        phase: supervisor::ModelPhase::Failed(failure),
        ..shelved("two")
    };
    let desk = Desk::new();
    let limited = desk.add(may_use("one-only", &["one"]));
    let free = desk.add(key("free"));
    let control = desk.control();
    let still = failed(proto::FailureKind::ModelUnavailable, "no memory");
    let backend = Scripted::playing(vec![broken], vec![vec![still]]);
    let app = app(&backend, &control, Vec::new());
    let show = json!({ "model": "two" });
    let reply = post(&app, "/api/show", &limited, &show).await;
    assert_eq!(reply.status, 403, "{}", reply.body);
    assert!(backend.jobs.lock().unwrap().is_empty());
    assert_eq!(post(&app, "/api/show", &free, &show).await.status, 503);
    assert_eq!(backend.jobs.lock().unwrap().len(), 1);
    assert_eq!(desk.rows(&control).len(), 2);
}

#[tokio::test]
async fn an_administrators_key_manages_the_models_that_it_may_use() {
    let desk = Desk::new();
    let limited = desk.add(NewKey {
        scopes: Scopes::ALL,
        ..may_use("one-only", &["one"])
    });
    let control = desk.control();
    let models = vec![ready_model("one"), status("two", ready_model("two").phase)];
    let backend = Scripted::with_models(models);
    let app = app(&backend, &control, Vec::new());
    for (path, body) in [
        (
            "/admin/models/load",
            json!({ "model": "two", "path": "/two.gguf" }),
        ),
        ("/admin/models/unload", json!({ "model": "two" })),
        ("/api/generate", json!({ "model": "two", "keep_alive": 0 })),
    ] {
        let reply = post(&app, path, &limited, &body).await;
        assert_eq!(reply.status, 403, "{path}: {}", reply.body);
        assert!(reply.body.contains("`two`"), "{}", reply.body);
    }
    assert!(backend.orders.lock().unwrap().is_empty());
    let load = json!({ "model": "one", "path": "/one.gguf" });
    let reply = post(&app, "/admin/models/load", &limited, &load).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let unload = json!({ "model": "one", "keep_alive": 0 });
    let reply = post(&app, "/api/generate", &limited, &unload).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let rows = desk.rows(&control);
    let noted = rows
        .iter()
        .map(|row| (row.model.as_deref().unwrap(), row.status));
    assert_eq!(
        noted.collect::<Vec<_>>(),
        [
            ("two", 403),
            ("two", 403),
            ("two", 403),
            ("one", 200),
            ("one", 200)
        ]
    );
}
