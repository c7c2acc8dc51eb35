//! `GET /api/events`: everything that changes, in one stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout;

use crate::AppState;
use crate::access::Head;
use crate::bus::Reader;
use crate::error::ApiError;
use crate::stream::streamed;
use crate::wire::encode::json;
use crate::wire::events::BusEvent;

/// Silence after which a sign of life is sent, whatever other streams do: a page that hears
/// nothing for longer takes the endpoint for gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Changes that come closer together are sent in one piece.
const GATHER: Duration = Duration::from_millis(50);

/// Streams the state of the endpoint: all of it once, then what changes. A heartbeat comes after
/// 15 s of silence.
#[utoipa::path(get, path = "/api/events", operation_id = "events", tag = "workbench",
    params(("last-event-id" = Option<String>, Header, description = "Where to go on")),
    responses(
        (status = 200, description = "Its events", content((BusEvent = "text/event-stream"))),
        (status = 429, description = "Too many read", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn events(
    State(state): State<AppState>,
    head: Head,
) -> Result<Response, ApiError> {
    let last = head.get("last-event-id").and_then(|id| id.to_str().ok());
    let last = last.map(str::to_owned);
    let reader = state.bus().read(head, last.as_deref())?;
    state.bus().watch(&state).await;
    let pieces = stream::unfold((reader, true), |(mut reader, is_first)| async move {
        let piece = next(&mut reader, is_first).await;
        Some((Ok::<_, Infallible>(piece), (reader, false)))
    });
    Ok(streamed(
        Body::from_stream(pieces),
        "text/event-stream; charset=utf-8",
    ))
}

async fn next(reader: &mut Reader, is_first: bool) -> Bytes {
    if !is_first {
        match timeout(HEARTBEAT, reader.changed()).await {
            Ok(()) => tokio::time::sleep(GATHER).await,
            Err(_) => return heartbeat(),
        }
    }
    let mut out = Vec::new();
    for (id, event) in reader.take() {
        out.extend_from_slice(format!("id: {id}\ndata: ").as_bytes());
        out.extend_from_slice(&json(&event));
        out.extend_from_slice(b"\n\n");
    }
    match out.is_empty() {
        // What has changed is not for this reader, or it has all of it.
        true => heartbeat(),
        false => out.into(),
    }
}

fn heartbeat() -> Bytes {
    Bytes::from_static(b": alive\n\n")
}
