//! What stands between an agent of others and the endpoint: it passes requests on, puts the
//! endpoint's key in place of its own, and reads along what is answered.
//!
//! It listens on the loopback alone and wants a key that only the agent was given, since others
//! on this machine may not use the endpoint in our name. The agent never sees the endpoint's key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, anyhow};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bench::agents::wire::{Dialect, Exchange, Way};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use crate::http::Server;
use crate::outcome::Outcome;

/// Of a request.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Of an answer that is read along; more of it is passed on and not counted.
const READ_BYTES_MAX: usize = 16 << 20;
const KEY_BYTES: usize = 16;

/// A request of the agent, what came of it, and in how many seconds.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) exchange: Exchange,
    pub(super) seconds: f64,
}

/// A relay that runs as long as the runtime that it was started on.
pub(super) struct Relay {
    pub(super) url: String,
    pub(super) key: String,
    log: Log,
}

type Log = Arc<Mutex<Vec<Asked>>>;

struct Passing {
    server: Server,
    key: String,
    log: Log,
}

impl Relay {
    pub(super) async fn start(server: Server) -> Outcome<Self> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
        let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let log = Log::default();
        let passing = Passing {
            server,
            key: key.clone(),
            log: Arc::clone(&log),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .context("no port is free on the loopback")?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(pass).with_state(Arc::new(passing));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, key, log })
    }

    /// All requests for a model's answer, in the order in which they were answered.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let body = json!({ "error": { "message": message } }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn is_known(headers: &HeaderMap, key: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    bearer == Some(key) || text("x-api-key") == Some(key)
}

async fn pass(State(passing): State<Arc<Passing>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !is_known(&parts.headers, &passing.key) {
        return refusal(
            StatusCode::UNAUTHORIZED,
            "this is not the key of this relay",
        );
    }
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        let message = format!("a request may have {BODY_BYTES_MAX} bytes at most");
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, &message);
    };
    let dialect = Dialect::of_path(parts.uri.path());
    let mut tap = Tap {
        log: Arc::clone(&passing.log),
        dialect,
        request: serde_json::from_slice(&body).unwrap_or_default(),
        started: Instant::now(),
        status: 0,
        read: Vec::new(),
        way: Way::Left,
        unreachable: None,
    };
    let path = parts.uri.to_string();
    let what = (parts.method, path.as_str());
    let sent = passing.server.forward(what, parts.headers, body);
    let response = match sent.await {
        Ok(response) => response,
        Err(error) => {
            let why = crate::http::root_cause(&error);
            tap.unreachable = Some(why.clone());
            return refusal(StatusCode::BAD_GATEWAY, &why);
        }
    };
    tap.status = response.status().as_u16();
    let mut answer = Response::builder().status(response.status());
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            answer = answer.header(name, value);
        }
    }
    let body = Body::from_stream(tapped(response.bytes_stream(), tap));
    answer
        .body(body)
        .unwrap_or_else(|error| refusal(StatusCode::BAD_GATEWAY, &error.to_string()))
}

/// Reads an answer along. What was read is logged when it is dropped, at whatever end.
struct Tap {
    log: Log,
    dialect: Option<Dialect>,
    request: Value,
    started: Instant,
    status: u16,
    read: Vec<u8>,
    way: Way,
    unreachable: Option<String>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(dialect) = self.dialect else {
            return;
        };
        let exchange = match self.unreachable.take() {
            Some(error) => Exchange::unreachable(error),
            // The agent has gone before anything came.
            None if self.status == 0 => return,
            None => Exchange::of(dialect, &self.request, self.status, &self.read, self.way),
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(Asked { exchange, seconds });
    }
}

type Piece = reqwest::Result<Bytes>;

fn tapped(
    pieces: impl Stream<Item = Piece> + Send + 'static,
    tap: Tap,
) -> impl Stream<Item = Piece> + Send + 'static {
    let state = (Box::pin(pieces), tap);
    stream::unfold(state, |(mut pieces, mut tap)| async move {
        let piece = pieces.next().await;
        match &piece {
            Some(Ok(bytes)) => {
                let room = READ_BYTES_MAX - tap.read.len().min(READ_BYTES_MAX);
                tap.read.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Some(Err(_)) => tap.way = Way::Broken,
            None if tap.way == Way::Left => tap.way = Way::Whole,
            None => {}
        }
        piece.map(|piece| (piece, (pieces, tap)))
    })
}
