//! An engine on a socket of its own that answers, or fails, as it is told.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use providers::{Kind, Remote, RemoteConfig, Streams, Timeouts};
use router::Reach;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::{Prices, RoutedProvider};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Answer,
    /// An answer after a pause.
    Slow(Duration),
    Status(u16),
    RateLimited,
    /// Nothing, for long.
    Hang,
    /// A connection that closes at once.
    Kill,
    /// A stream that begins and closes.
    Cut,
    /// A stream whose first event cannot be read.
    Corrupt,
    /// A stream without anything in it.
    Empty,
    /// A stream of these lines, with an empty one after each; then it closes.
    Says(&'static [&'static str]),
    /// The same, but then it is silent.
    Stalls(&'static [&'static str]),
    /// A status and its body.
    Refuses(u16, &'static str),
}

/// Decides what becomes of the n-th request.
pub(crate) type Fates = fn(usize) -> Fate;

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Value>>>,
    trace_parents: Arc<Mutex<Vec<Option<String>>>>,
    task: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Value>>>,
    trace_parents: Arc<Mutex<Vec<Option<String>>>>,
    fates: Arc<dyn Fn(usize) -> Fate + Send + Sync>,
    count: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) async fn start(fates: Fates) -> Self {
        Self::fated(Arc::new(fates)).await
    }

    /// One with which the same becomes of every request.
    pub(crate) async fn with(fate: Fate) -> Self {
        Self::fated(Arc::new(move |_| fate)).await
    }

    async fn fated(fates: Arc<dyn Fn(usize) -> Fate + Send + Sync>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared {
            seen: Arc::default(),
            trace_parents: Arc::default(),
            fates,
            count: Arc::default(),
        };
        let seen = Arc::clone(&shared.seen);
        let trace_parents = Arc::clone(&shared.trace_parents);
        let app = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat))
            .with_state(shared);
        let serve = async move { axum::serve(listener, app).await.unwrap() };
        Self {
            url,
            seen,
            trace_parents,
            task: tokio::spawn(serve).abort_handle(),
        }
    }

    /// The bodies of all chats so far.
    pub(crate) fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    /// What each chat said of its trace.
    pub(crate) fn trace_parents(&self) -> Vec<Option<String>> {
        self.trace_parents.lock().unwrap().clone()
    }

    /// As a provider of the model `m`.
    pub(crate) fn provider(&self, name: &str, reach: Reach, priority: u32) -> RoutedProvider {
        self.routed(self.config(name, reach), priority)
    }

    /// As a provider whose model sees.
    pub(crate) fn seeing(&self, name: &str, reach: Reach, priority: u32) -> RoutedProvider {
        let config = RemoteConfig {
            vision: vec!["m".into()],
            ..self.config(name, reach)
        };
        self.routed(config, priority)
    }

    /// As a provider that is given up soon; for one that may hang.
    pub(crate) fn hasty(&self, name: &str, reach: Reach, priority: u32) -> RoutedProvider {
        let patience = Duration::from_millis(500);
        let mut config = self.config(name, reach);
        config.timeouts.first_token = patience;
        config.timeouts.silence = patience;
        self.routed(config, priority)
    }

    fn config(&self, name: &str, reach: Reach) -> RemoteConfig {
        let patience = Duration::from_secs(60);
        RemoteConfig {
            name: name.into(),
            // One that goes on with begun answers.
            kind: Kind::Vllm,
            url: self.url.clone(),
            key: None,
            headers: Vec::new(),
            reach: Some(reach),
            timeouts: Timeouts {
                connect: Duration::from_secs(10),
                first_token: patience,
                silence: patience,
            },
            models: Vec::new(),
            vision: Vec::new(),
            streams: Streams::Always,
        }
    }

    fn routed(&self, config: RemoteConfig, priority: u32) -> RoutedProvider {
        let name = config.name.clone();
        let remote = Remote::new(config).unwrap();
        RoutedProvider {
            name,
            reach: remote.reach(),
            provider: Arc::new(remote),
            priority,
            weight: 100,
            requests_max: 64,
            default_model: None,
            prices: Prices::default(),
        }
    }
}

async fn models() -> Json<Value> {
    Json(json!({ "object": "list", "data": [{ "id": "m", "object": "model" }] }))
}

/// What a healthy engine answers.
pub(crate) fn reply_to(prompt: &str) -> String {
    format!("You said: {prompt}")
}

/// The text of the first message.
fn said(body: &Value) -> String {
    match &body["messages"][0]["content"] {
        Value::String(text) => text.clone(),
        parts => {
            let parts = parts.as_array().unwrap().iter();
            let word = |part: &Value| part["text"].as_str().unwrap_or("[image]").to_owned();
            parts.map(word).collect()
        }
    }
}

async fn chat(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let parent = headers.get("traceparent");
    let parent = parent.map(|value| value.to_str().unwrap().to_owned());
    shared.trace_parents.lock().unwrap().push(parent);
    let fate = (shared.fates)(shared.count.fetch_add(1, Ordering::SeqCst));
    shared.seen.lock().unwrap().push(body.clone());
    match fate {
        Fate::Answer => answer(&body),
        Fate::Slow(pause) => {
            tokio::time::sleep(pause).await;
            answer(&body)
        }
        Fate::Status(status) => error(status),
        Fate::RateLimited => ([("retry-after", "1")], error(429)).into_response(),
        Fate::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            error(500)
        }
        Fate::Kill => broken(Vec::new()),
        Fate::Cut => broken(chunks(&body)[..2].to_vec()),
        Fate::Corrupt => events(vec!["data: {\"choices\": [{\"del\n\n".into()]),
        Fate::Empty => events(Vec::new()),
        Fate::Says(lines) => events(framed(lines)),
        Fate::Stalls(lines) => {
            let said = stream::iter(framed(lines)).map(|line| Ok::<_, Infallible>(line.into()));
            streamed(Body::from_stream(
                said.chain(stream::pending::<Result<Bytes, Infallible>>()),
            ))
        }
        Fate::Refuses(status, body) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
    }
}

fn framed(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| format!("{line}\n\n")).collect()
}

fn error(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, Json(json!({ "error": { "message": "scripted" } }))).into_response()
}

fn answer(body: &Value) -> Response {
    if body["stream"] == true {
        return events(chunks(body));
    }
    let text = reply_to(&said(body));
    Json(json!({
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": "stop",
        }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 5 },
    }))
    .into_response()
}

fn chunks(body: &Value) -> Vec<String> {
    let text = reply_to(&said(body));
    let begun = match body["continue_final_message"] == true {
        true => body["messages"][1]["content"].as_str().unwrap(),
        false => "",
    };
    let rest = text.strip_prefix(begun).unwrap();
    let (one, two) = rest.split_at(rest.len().min(4));
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        format!("data: {}\n\n", json!({ "choices": [choice] }))
    };
    vec![
        chunk(json!({ "role": "assistant" }), Value::Null),
        chunk(json!({ "content": one }), Value::Null),
        chunk(json!({ "content": two }), Value::Null),
        chunk(json!({}), "stop".into()),
        format!(
            "data: {}\n\n",
            json!({ "choices": [], "usage": { "prompt_tokens": 3, "completion_tokens": 5 } })
        ),
        "data: [DONE]\n\n".into(),
    ]
}

fn events(chunks: Vec<String>) -> Response {
    let chunks = stream::iter(chunks).map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
    streamed(Body::from_stream(chunks))
}

/// The pieces, and then a connection that is torn down.
fn broken(chunks: Vec<String>) -> Response {
    let chunks = stream::iter(chunks).map(|chunk| Ok(Bytes::from(chunk)));
    let torn = stream::once(async {
        // The pieces leave before the tear.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err(std::io::Error::other("torn"))
    });
    streamed(Body::from_stream(chunks.chain(torn)))
}

fn streamed(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
