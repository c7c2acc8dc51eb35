//! What nobody gets round.

use supervisor::ModelStatus;

use super::super::ollama::library::{Step as Pull, pulling};
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

/// Reads nothing new.
#[derive(Debug)]
struct Unchanged;

impl RoutingSource for Unchanged {
    fn read(&self) -> Result<Routing, String> {
        Ok(Routing::default())
    }
}

#[tokio::test]
async fn every_act_of_an_administrator_leaves_a_row() {
    let desk = Desk::new();
    let admin = desk.add(NewKey {
        scopes: Scopes::ALL,
        ..key("admin")
    });
    let control = desk.control();
    let library = pulling(vec![
        vec![Pull::File("a.gguf", 1)],
        vec![
            Pull::File("a.gguf", 1),
            Pull::Wait(Duration::from_millis(1)),
            Pull::Fail(LibraryFailureKind::Failed),
        ],
    ]);
    let config = GatewayConfig {
        library: Some(library),
        routing_source: Some(Arc::new(Unchanged)),
        ..with(&control)
    };
    let backend = Scripted::with_models(vec![ready_model("one")]);
    let app = routed(&backend, config, Routing::default());
    let pull = json!({ "model": "smollm2" });
    let acts = [
        (
            Method::POST,
            "/admin/models/load",
            json!({ "path": "/two.gguf" }),
        ),
        (Method::POST, "/admin/models/load", json!({ "path": 5 })),
        (
            Method::POST,
            "/admin/models/unload",
            json!({ "model": "one" }),
        ),
        (
            Method::POST,
            "/admin/models/unload",
            json!({ "model": "one" }),
        ),
        (Method::POST, "/api/pull", pull.clone()),
        (Method::POST, "/api/pull", pull),
        (Method::DELETE, "/api/delete", json!({ "model": "nobody" })),
        (Method::POST, "/admin/reload", json!({})),
        // To look is no act.
        (Method::GET, "/admin/models", json!({})),
    ];
    for (method, path, body) in acts {
        send(app.clone(), keyed(method, path, &admin, body.to_string())).await;
    }
    let rows = desk.rows(&control);
    let by_admin = |row: &AuditRow| row.key_name.as_deref() == Some("admin");
    assert!(rows.iter().all(by_admin) && rows.iter().all(|row| row.at_ms == START_MS));
    let told = rows.iter().map(|row| {
        let error = row.error.as_deref();
        (&*row.route, row.model.as_deref(), row.status, error)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("/admin/models/load", Some("two"), 200, None),
            ("/admin/models/load", None, 400, Some("invalid_type")),
            ("/admin/models/unload", Some("one"), 200, None),
            (
                "/admin/models/unload",
                Some("one"),
                404,
                Some("model_not_found")
            ),
            ("/api/pull", Some("smollm2"), 200, None),
            ("/api/pull", Some("smollm2"), 200, Some("library_failed")),
            ("/api/delete", Some("nobody"), 404, Some("model_unknown")),
            ("/admin/reload", None, 200, None),
        ]
    );
}

#[tokio::test]
async fn keep_alive_of_a_key_without_admin_takes_no_model_away() {
    let stays = |mut model: ModelStatus| {
        model.place.stay_ms = Some(300_000);
        model
    };
    let desk = Desk::new();
    let phone = desk.add(key("phone"));
    let admin = desk.add(NewKey {
        scopes: Scopes::ALL,
        ..key("admin")
    });
    let control = desk.control();
    let models = vec![stays(ready_model("tiny"))];
    let backend = Scripted::playing(models, (0..6).map(|_| hello()).collect());
    let app = app(&backend, &control, Vec::new());
    let seconds = |n| supervisor::Keep::For(Duration::from_secs(n));
    for (key, given, kept, told) in [
        (&phone, json!("1ns"), None, true),
        (&phone, json!(0), None, true),
        (&phone, json!("5m"), Some(seconds(300)), false),
        (&phone, json!("1h"), Some(seconds(300)), true),
        (&phone, json!(-1), Some(seconds(300)), true),
        (&admin, json!(0), Some(seconds(0)), false),
    ] {
        let body = json!({ "model": "tiny", "prompt": "a", "stream": false, "keep_alive": given });
        let reply = post(&app, "/api/generate", key, &body).await;
        assert_eq!(reply.status, 200, "{given}: {}", reply.body);
        let warning = reply.header("x-sextant-warning");
        let expected = "keep_alive is not followed: `tiny` stays for 300 s after its last \
             request, and only a key with the scope `admin` changes that.";
        assert_eq!(warning, told.then_some(expected), "{given}");
        let keeps = std::mem::take(&mut *backend.keeps.lock().unwrap());
        let expected: Vec<_> = kept
            .into_iter()
            .map(|keep| ("tiny".to_owned(), keep))
            .collect();
        assert_eq!(keeps, expected, "{given}");
    }
}

/// Sends a request and leaves once that much was used: tokens of prompts and of answers.
async fn abandoned(app: &Router, control: &Control, request: Request<Body>, used: (u64, u64)) {
    let answer = tower::ServiceExt::oneshot(app.clone(), request);
    let mut answer = std::pin::pin!(answer);
    let is_used = || control.visit().is_some_and(|visit| visit.tokens() == used);
    tokio::select! {
        answer = &mut answer => panic!("answered: {}", answer.unwrap().status()),
        () = eventually(is_used) => {}
    }
}

#[tokio::test]
async fn a_whole_answer_that_is_abandoned_costs_what_was_done() {
    let says = &["data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"12345678\"}}]}"];
    let slow = Upstream::with(Fate::Stalls(says)).await;
    let other = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    let phone = desk.add(limited(KeyLimits {
        cost_per_month: Some(Cost(1_000_000)),
        ..KeyLimits::default()
    }));
    let control = desk.control();
    let providers = vec![
        priced(slow.provider("slow", Reach::Cloud, 1)),
        other.provider("other", Reach::Cloud, 2),
    ];
    let app = app(&empty(), &control, providers);
    let body = chat("m", "123456789012").to_string();
    let request = keyed(Method::POST, CHAT, &phone, body);
    abandoned(&app, &control, request, (3, 2)).await;
    let row = desk.rows(&control).pop().unwrap();
    assert_eq!((row.prompt_tokens, row.completion_tokens), (3, 2));
    assert_eq!(row.cost, Cost(7_000));
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn each_prompt_of_a_request_counts_by_itself() {
    let desk = Desk::new();
    let phone = desk.add(limited(KeyLimits {
        tokens_per_day: Some(1_000_000),
        ..KeyLimits::default()
    }));
    let control = desk.control();
    let open = vec![
        Step::from(started()),
        text(0, "12345678").into(),
        Step::Wait(Duration::from_secs(3600)),
    ];
    // The second prompt's answer ends after the first one has said something.
    let mut late = vec![Step::Wait(Duration::from_millis(50))];
    late.extend(hello().into_iter().map(Step::from));
    let backend = Scripted::new(vec![open, late]);
    let app = app(&backend, &control, Vec::new());
    let prompts = ["123456789012", "1234"];
    let body = json!({ "model": "tiny", "prompt": prompts }).to_string();
    let request = keyed(Method::POST, "/v1/completions", &phone, body);
    abandoned(&app, &control, request, (15, 7)).await;
    let row = desk.rows(&control).pop().unwrap();
    // Told of the second: 12 and 5. By estimate of the first: 3 and 2.
    assert_eq!((row.prompt_tokens, row.completion_tokens), (15, 7));
}

#[tokio::test]
async fn what_a_revoked_key_still_uses_is_written_down() {
    let desk = Desk::new();
    let phone = desk.add(key("phone"));
    let control = desk.control();
    let moment = control.now();
    let holder = control.find(phone.expose()).unwrap();
    let mut session = desk.store().connect().unwrap();
    session.revoke_key("phone").unwrap();
    control.look();
    desk.add(key("second"));
    control.look();
    let used = crate::access::Amount {
        tokens: 5,
        cost: Cost(7),
    };
    holder.settle(crate::access::Amount::default(), used, moment);
    let id = holder.key.id.clone();
    // And a third time when nobody runs any more, and nothing is written yet.
    drop(holder);
    desk.add(key("third"));
    control.look();
    control.flush();
    let spent = session.spent(store::day_of(moment.unix_s())).unwrap();
    assert_eq!(spent[&id].tokens_today, 5);
}

#[tokio::test]
async fn an_endpoint_whose_keys_are_revoked_stays_closed_until_they_are_forgotten() {
    let desk = Desk::new();
    assert!(!desk.control().asks_for_a_key());
    desk.add(key("phone"));
    let mut session = desk.store().connect().unwrap();
    let in_use = session.forget_keys().unwrap_err().to_string();
    assert!(in_use.contains("sextant key revoke"), "{in_use}");
    session.revoke_key("phone").unwrap();
    let control = desk.control();
    assert!(control.asks_for_a_key());
    let app = app(&Scripted::idle(), &control, Vec::new());
    let reply = send(app, request(Method::GET, "/admin/models", "")).await;
    assert_eq!(reply.status, 401);
    assert_eq!(session.forget_keys().unwrap(), 1);
    control.look();
    assert!(control.asks_for_a_key(), "not while it runs");
    assert!(!desk.control().asks_for_a_key());
}

#[tokio::test]
async fn hops_that_cannot_be_read_are_refused() {
    let upstream = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    let app = app(
        &empty(),
        &desk.control(),
        vec![upstream.provider("box", Reach::Lan, 1)],
    );
    for hops in ["many", "", "-1", "1, 1", "99999999999"] {
        let mut request = request(Method::POST, CHAT, chat("m", "Hi").to_string());
        request
            .headers_mut()
            .insert("x-sextant-hops", hops.parse().unwrap());
        let reply = send(app.clone(), request).await;
        assert_eq!(reply.status, 400, "{hops}: {}", reply.body);
        assert!(reply.body.contains("x-sextant-hops"), "{}", reply.body);
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn what_did_not_come_through_the_door_is_not_answered() {
    use axum::extract::FromRequestParts;
    let backend: Arc<dyn crate::Backend> = Scripted::idle();
    let state = crate::AppState::new(backend, config());
    let (mut parts, _) = request(Method::POST, CHAT, "").into_parts();
    let stray = crate::access::Head::from_request_parts(&mut parts, &state).await;
    assert_eq!(stray.unwrap_err().row().code, "internal_error");
}
