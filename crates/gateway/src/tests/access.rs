//! Keys, what they may do, how much of it, and what is written down.

mod bounds;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use proto::FinishReason;
use router::Reach;
use serde_json::{Value, json};
use stdx::{Cost, Priority, Secret};
use store::{AuditFilter, AuditRow, KeyLimits, NewKey, Scope, Scopes, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::scripted::{
    Reply, Scripted, Step, config, done, finished, hello, request, routed, send, started, text,
};
use super::server::eventually;
use super::upstream::{Fate, Upstream};
use crate::access::{Clock, Moment, Time};
use crate::{
    Control, ControlOptions, GatewayConfig, LibraryFailureKind, Price, Prices, RoutedProvider,
    Routing, RoutingSource, serve,
};

const CHAT: &str = "/v1/chat/completions";
/// 2023-11-14, 22:13:20.
const START_MS: u64 = 1_700_000_000_000;

/// A database in a folder of its own, and a clock to turn.
struct Desk {
    folder: TempDir,
    clock: Arc<Mutex<Moment>>,
    options: ControlOptions,
}

impl Desk {
    fn new() -> Self {
        let start = Moment {
            elapsed: Duration::ZERO,
            unix_ms: START_MS,
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(Mutex::new(start)),
            options: ControlOptions::default(),
        }
    }

    /// As somebody sets the clock of the machine.
    fn set_back(&self, time: Duration) {
        let mut clock = self.clock.lock().unwrap();
        clock.unix_ms -= u64::try_from(time.as_millis()).unwrap();
    }

    fn pass(&self, time: Duration) {
        let mut now = self.clock.lock().unwrap();
        now.elapsed += time;
        now.unix_ms += u64::try_from(time.as_millis()).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn store(&self) -> Store {
        Store::open(self.path()).unwrap()
    }

    fn add(&self, key: NewKey) -> Secret {
        self.store().connect().unwrap().add_key(&key).unwrap().0
    }

    /// As a process that starts.
    fn control(&self) -> Control {
        let clock = Clock::new(Time::Manual(Arc::clone(&self.clock)));
        Control::with_clock(self.store(), self.options, clock).unwrap()
    }

    /// The rows of the audit log, once all is written.
    fn rows(&self, control: &Control) -> Vec<AuditRow> {
        control.flush();
        let mut rows = Vec::new();
        let session = self.store().connect().unwrap();
        let taken = session.audit(&AuditFilter::default(), |row| {
            rows.push(row);
            Ok::<_, ()>(())
        });
        taken.unwrap().unwrap();
        rows
    }

    /// Whether the database's files hold these bytes.
    fn holds(&self, needle: &str) -> bool {
        let files = std::fs::read_dir(self.path()).unwrap();
        files.into_iter().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let mut windows = bytes.windows(needle.len());
            windows.any(|window| window == needle.as_bytes())
        })
    }
}

fn key(name: &str) -> NewKey {
    NewKey {
        name: name.into(),
        scopes: [Scope::Chat, Scope::Embeddings, Scope::Models]
            .into_iter()
            .collect(),
        ..NewKey::default()
    }
}

fn limited(limits: KeyLimits) -> NewKey {
    NewKey {
        limits,
        ..key("phone")
    }
}

fn with(control: &Control) -> GatewayConfig {
    GatewayConfig {
        control: Some(control.clone()),
        ..config()
    }
}

fn app(backend: &Arc<Scripted>, control: &Control, providers: Vec<RoutedProvider>) -> Router {
    let routing = Routing {
        providers,
        ..Routing::default()
    };
    routed(backend, with(control), routing)
}

fn chat(model: &str, text: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }] })
}

fn keyed(method: Method, path: &str, key: &Secret, body: impl Into<Body>) -> Request<Body> {
    let mut request = request(method, path, body);
    let bearer = format!("Bearer {}", key.expose()).parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    request
}

async fn post(app: &Router, path: &str, key: &Secret, body: &Value) -> Reply {
    send(
        app.clone(),
        keyed(Method::POST, path, key, body.to_string()),
    )
    .await
}

async fn get(app: &Router, path: &str, key: &Secret) -> Reply {
    send(app.clone(), keyed(Method::GET, path, key, "")).await
}

fn code(reply: &Reply) -> Value {
    reply.json()["error"]["code"].clone()
}

/// No models of its own.
fn empty() -> Arc<Scripted> {
    Scripted::with_models(Vec::new())
}

/// The status of a request over a socket.
async fn status(address: std::net::SocketAddr, headers: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn keys_come_and_go_while_the_server_runs() {
    let desk = Desk::new();
    let control = desk.control();
    let config = with(&control);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = routed(&Scripted::idle(), config.clone(), Routing::default());
    let task = tokio::spawn(async move {
        serve(vec![listener], app, &config, std::future::pending())
            .await
            .unwrap();
    });
    // Nobody has made a key yet.
    assert_eq!(status(address, "").await, "200");
    let phone = desk.add(NewKey {
        expires_s: Some(START_MS / 1000 + 3600),
        ..key("phone")
    });
    // Seen by the server itself.
    eventually(|| control.asks_for_a_key()).await;
    let bearer = format!("authorization: Bearer {}\r\n", phone.expose());
    assert_eq!(status(address, "").await, "401");
    assert_eq!(
        status(address, "authorization: Bearer sx-wrong\r\n").await,
        "401"
    );
    assert_eq!(status(address, &bearer).await, "200");
    let header = format!("x-api-key: {}\r\n", phone.expose());
    assert_eq!(status(address, &header).await, "200");

    let laptop = desk.add(key("laptop"));
    control.look();
    let other = format!("authorization: Bearer {}\r\n", laptop.expose());
    assert_eq!(status(address, &other).await, "200");
    desk.store()
        .connect()
        .unwrap()
        .revoke_key("laptop")
        .unwrap();
    control.look();
    assert_eq!(status(address, &other).await, "401");
    assert_eq!(status(address, &bearer).await, "200");

    desk.pass(Duration::from_secs(3599));
    assert_eq!(status(address, &bearer).await, "200");
    desk.pass(Duration::from_secs(1));
    assert_eq!(status(address, &bearer).await, "401");
    // Not even a clock that is set back brings it to life again.
    desk.set_back(Duration::from_secs(3600));
    assert_eq!(status(address, &bearer).await, "401");
    // The endpoint does not open because its last key is gone.
    desk.store().connect().unwrap().revoke_key("phone").unwrap();
    control.look();
    assert_eq!(status(address, "").await, "401");
    task.abort();
}

#[tokio::test]
async fn the_operators_key_stands_beside_the_others() {
    let desk = Desk::new();
    let phone = desk.add(key("phone"));
    let control = desk.control();
    let operator = Secret::new("operators own");
    let config = GatewayConfig {
        api_key: Some(operator.clone()),
        ..with(&control)
    };
    let app = routed(&Scripted::idle(), config, Routing::default());
    for (key, path, expected) in [
        (&operator, "/admin/models", 200),
        (&operator, "/metrics", 200),
        (&phone, "/v1/models", 200),
        (&phone, "/admin/models", 403),
        (&phone, "/metrics", 403),
        (&phone, "/ready", 200),
        (&phone, "/nowhere", 404),
        (&Secret::new("wrong"), "/nowhere", 401),
        (&Secret::new("wrong"), "/health", 200),
    ] {
        assert_eq!(get(&app, path, key).await.status, expected, "{path}");
    }
}

#[tokio::test]
async fn a_key_without_the_scope_is_told_which_it_lacks() {
    let desk = Desk::new();
    let reader = desk.add(NewKey {
        scopes: [Scope::Models, Scope::Metrics].into_iter().collect(),
        ..key("reader")
    });
    let chatter = desk.add(key("chatter"));
    let control = desk.control();
    let backend = Scripted::new(vec![hello()]);
    let app = app(&backend, &control, Vec::new());
    let reply = post(&app, CHAT, &reader, &chat("tiny", "Hi")).await;
    assert_eq!(
        (reply.status.as_u16(), code(&reply)),
        (403, "forbidden".into())
    );
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let message = reply.json()["error"]["message"].to_string();
    assert!(
        message.contains("`chat`") && message.contains("models,metrics"),
        "{message}"
    );
    assert!(backend.jobs.lock().unwrap().is_empty());
    // Ollama's way of unloading a model is a matter of the operator.
    let unload = json!({ "model": "tiny", "keep_alive": 0 });
    let reply = post(&app, "/api/generate", &chatter, &unload).await;
    assert_eq!(reply.status, 403, "{}", reply.body);
    assert_eq!(
        post(&app, CHAT, &chatter, &chat("tiny", "Hi")).await.status,
        200
    );
    let rows = desk.rows(&control);
    let outcomes: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.key_name.as_deref().unwrap(),
                row.status,
                row.error.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            ("reader", 403, Some("forbidden")),
            ("chatter", 403, Some("forbidden")),
            ("chatter", 200, None),
        ]
    );
    assert!(rows[0].decision.is_none() && rows[2].decision.is_some());
}

#[tokio::test]
async fn nothing_of_a_key_goes_over_its_ceiling() {
    let near = Upstream::start(|_| Fate::Status(500)).await;
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    let phone = desk.add(NewKey {
        privacy: Some(Reach::Lan),
        ..key("phone")
    });
    let free = desk.add(key("free"));
    let control = desk.control();
    let providers = vec![
        cloud.provider("cloud", Reach::Cloud, 1),
        near.provider("near", Reach::Lan, 2),
    ];
    let app = app(&empty(), &control, providers);
    for model in ["m", "cloud:m", "auto", ""] {
        let body = chat(model, "Hi").to_string();
        let mut request = keyed(Method::POST, CHAT, &phone, body);
        // The header can only narrow.
        request
            .headers_mut()
            .insert("x-routing-privacy", "any".parse().unwrap());
        let reply = send(app.clone(), request).await;
        assert!(!reply.status.is_success(), "{model}: {}", reply.body);
    }
    assert!(!near.seen().is_empty() && cloud.seen().is_empty());
    let reply = post(&app, "/v1/route", &phone, &chat("cloud:m", "Hi")).await;
    let decision = reply.json();
    assert_eq!(decision["privacy"]["label"], "lan_only");
    assert_eq!(decision["privacy"]["because"], "the key `phone`");
    assert_eq!(decision["excluded"][0]["reason"], "too_far");
    assert_eq!(post(&app, CHAT, &free, &chat("m", "Hi")).await.status, 200);
    let row = desk.rows(&control).pop().unwrap();
    assert_eq!(row.privacy.as_deref(), Some("any"));
    assert_eq!(row.served_by.as_deref(), Some("cloud:m"));
}

#[tokio::test]
async fn a_key_uses_the_models_it_may() {
    let cheap = Upstream::start(|_| Fate::Answer).await;
    let dear = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    let with_models = |name: &str, models: &[&str]| {
        desk.add(NewKey {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..key(name)
        })
    };
    let (cheap_only, by_alias) = (
        with_models("cheap", &["cheap:*"]),
        with_models("alias", &["best"]),
    );
    let control = desk.control();
    let mut routing = Routing {
        providers: vec![
            dear.provider("dear", Reach::Cloud, 1),
            cheap.provider("cheap", Reach::Cloud, 2),
        ],
        ..Routing::default()
    };
    let best = ("best".to_owned(), vec!["dear:m".to_owned()]);
    routing.policy.aliases.extend([best]);
    let app = routed(&empty(), with(&control), routing);
    // Whoever may not use the first choice gets the second.
    let reply = post(&app, CHAT, &cheap_only, &chat("m", "Hi")).await;
    assert_eq!(reply.header("x-sextant-served-by"), Some("cheap:m"));
    let reply = post(&app, CHAT, &cheap_only, &chat("dear:m", "Hi")).await;
    assert_eq!(
        (reply.status.as_u16(), code(&reply)),
        (403, "model_forbidden".into())
    );
    let reply = post(&app, CHAT, &cheap_only, &chat("best", "Hi")).await;
    let message = reply.json()["error"]["message"].to_string();
    assert!(
        message.contains("`best`") && message.contains("the key `cheap`"),
        "{message}"
    );
    assert!(dear.seen().is_empty());
    let reply = post(&app, CHAT, &by_alias, &chat("best", "Hi")).await;
    assert_eq!(reply.header("x-sextant-served-by"), Some("dear:m"));
    let reply = post(&app, "/v1/route", &cheap_only, &chat("m", "Hi")).await;
    assert_eq!(reply.json()["excluded"][1]["reason"], "not_allowed");
    // And sees no other.
    for (secret, seen) in [(&cheap_only, "cheap:m"), (&by_alias, "best")] {
        let list = get(&app, "/v1/models", secret).await.json();
        let ids: Vec<_> = list["data"].as_array().unwrap().iter().collect();
        assert_eq!(ids.len(), 1, "{list}");
        assert_eq!(ids[0]["id"], seen);
        let other = get(&app, "/v1/models/dear:m", secret).await;
        assert_eq!(other.status, 404);
    }
}

#[tokio::test]
async fn requests_a_minute_are_limited_and_told() {
    let desk = Desk::new();
    let phone = desk.add(limited(KeyLimits {
        requests_per_minute: Some(2),
        ..KeyLimits::default()
    }));
    let control = desk.control();
    let backend = Scripted::new(vec![hello(), hello(), hello()]);
    let app = app(&backend, &control, Vec::new());
    let body = chat("tiny", "Hi");
    let first = post(&app, CHAT, &phone, &body).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(first.header("x-ratelimit-reset-requests"), Some("30s"));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), None);
    assert_eq!(post(&app, CHAT, &phone, &body).await.status, 200);
    let refused = post(&app, CHAT, &phone, &body).await;
    assert_eq!(
        (refused.status.as_u16(), code(&refused)),
        (429, "rate_limited".into())
    );
    assert_eq!(refused.header("retry-after"), Some("31"));
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(refused.header("x-should-retry"), None);
    // Looking at the models is not metered.
    assert_eq!(get(&app, "/v1/models", &phone).await.status, 200);
    desk.pass(Duration::from_secs(31));
    assert_eq!(post(&app, CHAT, &phone, &body).await.status, 200);
    assert_eq!(backend.jobs.lock().unwrap().len(), 3);
    let rows = desk.rows(&control);
    let errors: Vec<_> = rows.iter().map(|row| row.error.as_deref()).collect();
    assert_eq!(errors, [None, None, Some("rate_limited"), None]);
}

#[tokio::test]
async fn tokens_are_estimated_and_then_settled() {
    let desk = Desk::new();
    let phone = desk.add(limited(KeyLimits {
        tokens_per_minute: Some(100),
        ..KeyLimits::default()
    }));
    let control = desk.control();
    let app = app(&Scripted::new(vec![hello(), hello()]), &control, Vec::new());
    let mut body = chat("tiny", "Hi there");
    body["max_tokens"] = 90.into();
    let first = post(&app, CHAT, &phone, &body).await;
    assert_eq!(first.status, 200);
    // 2 tokens of text and 90 were set aside; the script says 12 and 5.
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), Some("8"));
    body["max_tokens"] = 82.into();
    let refused = post(&app, CHAT, &phone, &body).await;
    assert_eq!(
        (refused.status.as_u16(), code(&refused)),
        (429, "rate_limited".into())
    );
    assert_eq!(refused.header("x-ratelimit-remaining-tokens"), Some("83"));
    let message = refused.json()["error"]["message"].to_string();
    assert!(
        message.contains("100 tokens a minute") && message.contains("84"),
        "{message}"
    );
    body["max_tokens"] = 81.into();
    assert_eq!(post(&app, CHAT, &phone, &body).await.status, 200);
}

#[tokio::test]
async fn places_are_given_back_when_the_client_leaves() {
    let desk = Desk::new();
    let phone = desk.add(limited(KeyLimits {
        concurrency: Some(1),
        ..KeyLimits::default()
    }));
    let control = desk.control();
    let endless = vec![
        Step::from(started()),
        text(0, "a").into(),
        Step::Wait(Duration::from_secs(3600)),
    ];
    let steps = |events: Vec<proto::Event>| events.into_iter().map(Step::from).collect();
    let backend = Scripted::new(vec![endless, steps(hello())]);
    let app = app(&backend, &control, Vec::new());
    let mut body = chat("tiny", "Hi");
    body["stream"] = true.into();
    let running = tower::ServiceExt::oneshot(
        app.clone(),
        keyed(Method::POST, CHAT, &phone, body.to_string()),
    );
    let running = running.await.unwrap();
    let refused = post(&app, CHAT, &phone, &body).await;
    assert_eq!(
        (refused.status.as_u16(), code(&refused)),
        (429, "rate_limited".into())
    );
    drop(running);
    assert_eq!(post(&app, CHAT, &phone, &body).await.status, 200);
}

#[tokio::test]
async fn low_priority_leaves_places_to_others() {
    let desk = Desk::new();
    let with_priority = |name: &str, priority| {
        desk.add(NewKey {
            priority,
            ..key(name)
        })
    };
    let low = with_priority("low", Priority::Low);
    let high = with_priority("high", Priority::High);
    let control = desk.control();
    let endless = || {
        vec![
            Step::from(started()),
            text(0, "a").into(),
            Step::Wait(Duration::from_secs(3600)),
        ]
    };
    let backend = Scripted::new(vec![endless(), endless()]);
    let config = GatewayConfig {
        requests_max: 2,
        ..with(&control)
    };
    let app = routed(&backend, config, Routing::default());
    let mut body = chat("tiny", "Hi");
    body["stream"] = true.into();
    let start = |key: &Secret| {
        let request = keyed(Method::POST, CHAT, key, body.to_string());
        tower::ServiceExt::oneshot(app.clone(), request)
    };
    let first = start(&low).await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(start(&low).await.unwrap().status(), 429);
    let second = start(&high).await.unwrap();
    assert_eq!(second.status(), 200);
    assert_eq!(start(&high).await.unwrap().status(), 429);
}

fn priced(mut provider: RoutedProvider) -> RoutedProvider {
    // A token of the prompt costs 1000, one of the answer 2000.
    provider.prices = Prices {
        other: Price {
            prompt: Cost(1_000_000_000),
            completion: Cost(2_000_000_000),
        },
        ..Prices::default()
    };
    provider
}

#[tokio::test]
async fn budgets_hold_across_a_restart_and_what_is_free_goes_on() {
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let near = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    // An answer of the scripted engine takes 3 and 5 tokens: 13,000.
    let phone = desk.add(limited(KeyLimits {
        cost_per_month: Some(Cost(20_000)),
        tokens_per_day: Some(30),
        ..KeyLimits::default()
    }));
    let providers = || {
        vec![
            priced(cloud.provider("cloud", Reach::Cloud, 1)),
            near.provider("near", Reach::Lan, 2),
        ]
    };
    {
        let control = desk.control();
        let app = app(&empty(), &control, providers());
        let reply = post(&app, CHAT, &phone, &chat("m", "12345678")).await;
        assert_eq!(reply.header("x-sextant-served-by"), Some("cloud:m"));
        let row = desk.rows(&control).pop().unwrap();
        assert_eq!((row.prompt_tokens, row.completion_tokens), (3, 5));
        assert_eq!(row.cost, Cost(13_000));
    }
    let control = desk.control();
    let app = app(&empty(), &control, providers());
    // 7,000 are left: too little for 8 tokens at 1,000, so the free one answers.
    let long = "12345678901234567890123456789012";
    let reply = post(&app, CHAT, &phone, &chat("m", long)).await;
    assert_eq!(
        reply.header("x-sextant-served-by"),
        Some("near:m"),
        "{}",
        reply.body
    );
    let reply = post(&app, CHAT, &phone, &chat("cloud:m", long)).await;
    assert_eq!(
        (reply.status.as_u16(), code(&reply)),
        (402, "budget_exhausted".into())
    );
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(cloud.seen().len(), 1);
    // 16 tokens were used today; 15 more are one too many.
    let mut body = chat("near:m", "1234");
    body["max_tokens"] = 14.into();
    let reply = post(&app, CHAT, &phone, &body).await;
    assert_eq!(
        (reply.status.as_u16(), code(&reply)),
        (402, "budget_exhausted".into())
    );
    assert_eq!(reply.header("retry-after"), Some("6400"));
    desk.pass(Duration::from_secs(6400));
    assert_eq!(post(&app, CHAT, &phone, &body).await.status, 200);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_counted_by_estimate() {
    let desk = Desk::new();
    let phone = desk.add(limited(KeyLimits {
        tokens_per_minute: Some(100),
        ..KeyLimits::default()
    }));
    let control = desk.control();
    let script = vec![
        Step::from(started()),
        text(0, "12345678").into(),
        Step::Wait(Duration::from_secs(3600)),
    ];
    let app = app(&Scripted::new(vec![script]), &control, Vec::new());
    let mut body = chat("tiny", "123456789012");
    body["stream"] = true.into();
    let request = keyed(Method::POST, CHAT, &phone, body.to_string());
    let mut answer = tower::ServiceExt::oneshot(app, request)
        .await
        .unwrap()
        .into_body();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("12345678") {
        let frame = std::future::poll_fn(|context| {
            hyper::body::Body::poll_frame(std::pin::Pin::new(&mut answer), context)
        });
        seen.extend(frame.await.unwrap().unwrap().into_data().unwrap());
    }
    drop(answer);
    let row = desk.rows(&control).pop().unwrap();
    assert_eq!((row.prompt_tokens, row.completion_tokens), (3, 2));
    assert_eq!(row.status, 200);
}

#[tokio::test]
async fn rows_tell_what_became_of_requests_and_hold_no_texts() {
    let ill = Upstream::start(|_| Fate::Status(500)).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    let phone = desk.add(NewKey {
        scopes: Scopes::ALL,
        ..key("phone")
    });
    let control = desk.control();
    let providers = vec![
        ill.provider("ill", Reach::Lan, 1),
        well.provider("well", Reach::Lan, 2),
    ];
    let app = app(&empty(), &control, providers);
    let canary = "the canary sings at dawn";
    assert_eq!(
        post(&app, CHAT, &phone, &chat("m", canary)).await.status,
        200
    );
    let mut body = chat("m", canary);
    body["stream"] = true.into();
    assert_eq!(post(&app, CHAT, &phone, &body).await.status, 200);
    let nowhere = post(&app, CHAT, &phone, &chat("unknown", canary)).await;
    assert_eq!(nowhere.status, 404);
    let wrong = Secret::new("sx-wrong-and-never-written-down");
    assert_eq!(
        post(&app, CHAT, &wrong, &chat("m", canary)).await.status,
        401
    );
    // Neither polls nor lists of models are worth a row.
    assert_eq!(get(&app, "/v1/models", &phone).await.status, 200);

    let rows = desk.rows(&control);
    assert_eq!(rows.len(), 4);
    let failed_over = &rows[0];
    assert_eq!(failed_over.key_name.as_deref(), Some("phone"));
    assert_eq!(failed_over.route, CHAT);
    assert_eq!(failed_over.model.as_deref(), Some("m"));
    assert_eq!(failed_over.served_by.as_deref(), Some("well:m"));
    assert_eq!(failed_over.attempts, 2);
    assert_eq!(failed_over.trail.as_deref(), Some("ill:m=upstream_failed"));
    assert_eq!(
        (failed_over.status, failed_over.error.as_deref()),
        (200, None)
    );
    assert_eq!(
        (failed_over.prompt_tokens, failed_over.completion_tokens),
        (3, 5)
    );
    assert_eq!(failed_over.at_ms, START_MS);
    let line: Value = serde_json::from_str(&failed_over.line()).unwrap();
    assert_eq!(line["decision"]["candidates"][0]["provider"], "ill");
    assert_eq!(line["decision"]["candidates"][0]["ahead"], "priority");
    assert!(rows[1].ttft_ms.is_some());
    let lost = &rows[2];
    assert_eq!(
        (lost.status, lost.error.as_deref()),
        (404, Some("model_not_found"))
    );
    let line: Value = serde_json::from_str(&lost.line()).unwrap();
    assert_eq!(line["decision"]["excluded"][0]["reason"], "lacks_model");
    let refused = &rows[3];
    assert_eq!(
        (refused.status, refused.error.as_deref()),
        (401, Some("invalid_api_key"))
    );
    assert!(refused.key_name.is_none() && refused.decision.is_none());

    // The log as an operator reads it.
    let log = get(&app, "/v1/audit?since=1h&limit=2", &phone).await;
    assert_eq!(log.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = log
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["error"], "model_not_found");
    assert_eq!(lines[1]["error"], "invalid_api_key");
    for query in ["since=yesterday", "limit=0", "limit=10001", "limit=x"] {
        let reply = get(&app, &format!("/v1/audit?{query}"), &phone).await;
        assert_eq!(reply.status, 400, "{query}: {}", reply.body);
    }
    desk.pass(Duration::from_secs(7200));
    assert_eq!(get(&app, "/v1/audit?since=1h", &phone).await.body, "");

    assert!(desk.holds("ill:m=upstream_failed"));
    assert!(!desk.holds(canary) && !desk.holds("You said") && !desk.holds(wrong.expose()));
    assert!(!desk.holds(phone.expose()));
}

#[tokio::test]
async fn texts_are_kept_only_when_asked_for_and_only_their_beginning() {
    let mut desk = Desk::new();
    desk.options.audit_texts = true;
    let control = desk.control();
    let limit = crate::limits::AUDIT_TEXT_BYTES_MAX;
    let long = "é".repeat(limit);
    let script = vec![
        started(),
        text(0, &long),
        text(0, "more"),
        finished(0, FinishReason::Stop),
        done(),
    ];
    let app = app(&Scripted::new(vec![script]), &control, Vec::new());
    let prompt = format!("canary {long}");
    let body = chat("tiny", &prompt).to_string();
    let reply = send(app, request(Method::POST, CHAT, body)).await;
    assert_eq!(reply.status, 200);
    let row = desk.rows(&control).pop().unwrap();
    let kept = row.prompt.unwrap();
    assert!(kept.starts_with("canary é") && prompt.starts_with(&kept));
    assert_eq!(kept.len(), limit - 1);
    assert_eq!(row.answer.unwrap().len(), limit);
    assert!(desk.holds("canary"));
}

#[tokio::test]
async fn an_answer_of_the_audit_log_has_a_limit_of_bytes_and_says_how_to_go_on() {
    let desk = Desk::new();
    let operator = desk.add(NewKey {
        scopes: Scopes::ALL,
        ..key("operator")
    });
    let control = desk.control();
    let app = app(&Scripted::new(vec![hello()]), &control, Vec::new());
    let limit = crate::limits::AUDIT_BYTES_MAX;
    let n_rows = 5;
    for number in 0..n_rows {
        // Three of them are more than an answer holds.
        let row = AuditRow {
            at_ms: START_MS + number,
            prompt: Some("x".repeat(limit * 2 / 5)),
            ..AuditRow::default()
        };
        assert!(control.writer().audit(limit, row));
    }
    let times = |body: &str| -> Vec<u64> {
        let lines = body.lines().map(serde_json::from_str::<Value>);
        lines
            .map(|line| line.unwrap()["at_ms"].as_u64().unwrap() - START_MS)
            .collect()
    };
    let mut path = "/v1/audit".to_owned();
    for (expected, goes_on) in [(vec![3, 4], true), (vec![1, 2], true), (vec![0], false)] {
        let reply = get(&app, &path, &operator).await;
        assert!(reply.body.len() <= limit);
        assert_eq!(times(&reply.body), expected);
        let before = reply.header("x-sextant-audit-before");
        assert_eq!(before.is_some(), goes_on);
        path = format!("/v1/audit?before={}", before.unwrap_or_default());
    }
}

#[tokio::test]
async fn strangers_do_not_bury_the_others() {
    let desk = Desk::new();
    let phone = desk.add(key("phone"));
    let control = desk.control();
    let app = app(&Scripted::new(vec![hello()]), &control, Vec::new());
    let wrong = Secret::new("sx-wrong");
    let limit = crate::access::STRANGERS_NOTED_PER_MINUTE as usize;
    for _ in 0..limit + 20 {
        assert_eq!(get(&app, "/v1/models", &wrong).await.status, 401);
    }
    let reply = post(&app, CHAT, &phone, &chat("tiny", "Hi")).await;
    assert_eq!(reply.status, 200);
    let rows = desk.rows(&control);
    assert_eq!(rows.len(), limit + 1);
    assert_eq!(rows[limit].key_name.as_deref(), Some("phone"));
}

#[tokio::test]
async fn no_rows_are_kept_where_nobody_wants_them() {
    let mut desk = Desk::new();
    desk.options.audit = false;
    let control = desk.control();
    let app = app(&Scripted::new(vec![hello()]), &control, Vec::new());
    let body = chat("tiny", "Hi").to_string();
    assert_eq!(
        send(app, request(Method::POST, CHAT, body)).await.status,
        200
    );
    assert!(desk.rows(&control).is_empty());
}

#[tokio::test]
async fn a_conversation_goes_on_after_a_restart_for_whoever_began_it() {
    let near = Upstream::start(|_| Fate::Answer).await;
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let desk = Desk::new();
    let (anna, ben) = (desk.add(key("anna")), desk.add(key("ben")));
    let providers = || {
        vec![
            near.provider("near", Reach::Device, 1),
            cloud.provider("cloud", Reach::Cloud, 2),
        ]
    };
    let body = |previous: Option<&Value>| {
        json!({
            "model": "m",
            "input": "Hi",
            "store": previous.is_none(),
            "previous_response_id": previous,
        })
    };
    let id = {
        let control = desk.control();
        let app = app(&empty(), &control, providers());
        let mut request = keyed(Method::POST, "/v1/responses", &anna, body(None).to_string());
        let label = "local_only".parse().unwrap();
        request.headers_mut().insert("x-routing-privacy", label);
        let first = send(app, request).await;
        assert_eq!(first.status, 200, "{}", first.body);
        control.flush();
        first.json()["id"].clone()
    };
    let control = desk.control();
    let app = app(&empty(), &control, providers());
    let path = format!("/v1/responses/{}", id.as_str().unwrap());
    assert_eq!(get(&app, &path, &anna).await.status, 200);
    assert_eq!(get(&app, &path, &ben).await.status, 404);
    let delete = keyed(Method::DELETE, &path, &ben, "");
    assert_eq!(send(app.clone(), delete).await.status, 404);
    let theirs = post(&app, "/v1/responses", &ben, &body(Some(&id))).await;
    assert_eq!(code(&theirs), "previous_response_not_found");
    let second = post(&app, "/v1/responses", &anna, &body(Some(&id))).await;
    assert_eq!(second.status, 200, "{}", second.body);
    let messages = near.seen().last().unwrap()["messages"].clone();
    assert_eq!(messages.as_array().unwrap().len(), 3, "{messages}");
    // How far it may travel was kept as well.
    let away = json!({ "model": "cloud:m", "input": "Hi", "previous_response_id": id });
    let refused = post(&app, "/v1/responses", &anna, &away).await;
    assert_eq!(code(&refused), "privacy_refused");
    assert!(cloud.seen().is_empty());
}
