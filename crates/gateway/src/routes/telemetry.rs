//! `/api/telemetry`: what the endpoint's figures were, and notes about it.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use store::HistoryAsk;
use utoipa::IntoParams;

use super::{MaybeQuery, given, ok};
use crate::AppState;
use crate::body::{RawBody, parse};
use crate::chats::now_ms;
use crate::error::{ApiError, ErrorCode};
use crate::history::failed;
use crate::limits::{self, NOTE_BYTES_MAX, TELEMETRY_POINTS_MAX, TELEMETRY_TIME_MAX_S};
use crate::wire::telemetry::{NewNote, NoteDeleted, TelemetryMark, TelemetryPage};

/// Points and seconds where the request does not say.
const POINTS_DEFAULT: i64 = 300;
const SPAN_DEFAULT_S: i64 = 3600;
/// How far ahead of this machine's clock that of a page may be.
const AHEAD_MAX_MS: u64 = 60_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetryQuery {
    /// Seconds since 1970; an hour before `to` by default.
    from: Option<i64>,
    /// Seconds since 1970; now by default.
    to: Option<i64>,
    /// At most so many points, 2 to 2000; 300 by default.
    points: Option<i64>,
}

/// Gives a stretch of the history: rates, waits, queues, caches, memory, cores and heat, in at most
/// as many points as were asked for, and what happened in that time. Ten seconds a point are kept
/// for a day, a minute for a week, a quarter of an hour for 90 days. `/api/events` has each new
/// point, under `telemetry`, and says when there are new marks.
#[utoipa::path(get, path = "/api/telemetry", operation_id = "telemetry", tag = "workbench",
    params(TelemetryQuery),
    responses(
        (status = 200, description = "The figures", body = TelemetryPage),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = 501, description = "None is kept", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn telemetry(
    State(state): State<AppState>,
    query: MaybeQuery<TelemetryQuery>,
) -> Result<Response, ApiError> {
    let query = given(query)?;
    let history = state.history()?.history.clone();
    let now_s = now_ms() / 1000;
    let ask = asked(&query, now_s)?;
    let days = history.days();
    // Reading waits for the disk.
    let read = tokio::task::spawn_blocking(move || history.read(&ask, now_s)).await;
    let page = read.map_err(|error| {
        let message = format!("The history was not read: {error}.");
        ApiError::message(ErrorCode::Internal, &message)
    })?;
    Ok(ok(&TelemetryPage::new(&page, days)))
}

fn asked(query: &TelemetryQuery, now_s: u64) -> Result<HistoryAsk, ApiError> {
    let now = i64::try_from(now_s).unwrap_or(TELEMETRY_TIME_MAX_S);
    let points = limits::integer("points", query.points, 2, TELEMETRY_POINTS_MAX)?;
    let to = limits::integer("to", query.to, 1, TELEMETRY_TIME_MAX_S)?;
    let to = to.unwrap_or(now.clamp(1, TELEMETRY_TIME_MAX_S));
    let from = limits::integer("from", query.from, 0, TELEMETRY_TIME_MAX_S)?;
    let from = from.unwrap_or((to - SPAN_DEFAULT_S).max(0));
    if from >= to {
        let rule = format!("before `to`, which is {to}");
        return Err(ApiError::invalid("from", &from.to_string(), &rule));
    }
    Ok(HistoryAsk {
        from_s: from.unsigned_abs(),
        to_s: to.unsigned_abs(),
        points: u32::try_from(points.unwrap_or(POINTS_DEFAULT)).unwrap_or(2),
    })
}

/// Keeps a note about a moment.
#[utoipa::path(post, path = "/api/telemetry/notes", operation_id = "telemetry_note",
    tag = "workbench", request_body = NewNote,
    responses(
        (status = 200, description = "It is kept", body = TelemetryMark),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = 501, description = "No history is kept", body = crate::openapi::ErrorBody),
        (status = 503, description = "The file cannot be written",
         body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn note(
    State(state): State<AppState>,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: NewNote = parse(&body)?;
    let history = state.history()?.history.clone();
    limits::count("text", request.text.len(), NOTE_BYTES_MAX, "bytes")?;
    // A note is one line, whatever was pasted.
    let words: Vec<_> = request.text.split_whitespace().collect();
    let text: String = words.join(" ");
    let text: String = text.chars().filter(|one| !one.is_control()).collect();
    if text.is_empty() {
        return Err(ApiError::missing("text", "what there is to say"));
    }
    let now_ms = now_ms();
    let at_ms = request.at_ms.unwrap_or(now_ms);
    if at_ms > now_ms.saturating_add(AHEAD_MAX_MS) {
        let rule = format!("no later than now, which is {now_ms}");
        return Err(ApiError::invalid("at_ms", &at_ms.to_string(), &rule));
    }
    let kept = tokio::task::spawn_blocking(move || history.add_note(at_ms, &text)).await;
    let kept = kept.map_err(|error| panicked(&error))?;
    let note = kept.map_err(|error| failed(&error))?;
    state.marks_changed();
    Ok(ok(&TelemetryMark::of(&note)))
}

/// Forgets a note.
#[utoipa::path(delete, path = "/api/telemetry/notes/{id}", operation_id = "telemetry_forget",
    tag = "workbench", params(("id" = i64, Path, description = "The note's `id`")),
    responses(
        (status = 200, description = "It is gone", body = NoteDeleted),
        (status = 404, description = "There is no such note", body = crate::openapi::ErrorBody),
        (status = 501, description = "No history is kept", body = crate::openapi::ErrorBody),
        (status = 503, description = "The file cannot be written",
         body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn forget(
    State(state): State<AppState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let history = state.history()?.history.clone();
    let given = path.map_or_else(|_| String::new(), |Path(given)| given);
    let none = || {
        let value = limits::quoted(&given);
        ApiError::new(ErrorCode::NoteNotFound, &[("value", value.as_str())])
    };
    let id: i64 = given.parse().map_err(|_| none())?;
    let removed = tokio::task::spawn_blocking(move || history.remove_note(id)).await;
    let removed = removed.map_err(|error| panicked(&error))?;
    if !removed.map_err(|error| failed(&error))? {
        return Err(none());
    }
    state.marks_changed();
    Ok(ok(&NoteDeleted { id, deleted: true }))
}

fn panicked(error: &tokio::task::JoinError) -> ApiError {
    ApiError::message(
        ErrorCode::Internal,
        &format!("The note was not kept: {error}."),
    )
}
