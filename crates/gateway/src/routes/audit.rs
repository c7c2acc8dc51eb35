//! `GET /v1/audit`: the audit log as lines of JSON.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;
use store::{AuditFilter, AuditLines, AuditPage, StoreError};
use utoipa::IntoParams;

use super::{MaybeQuery, given};
use crate::AppState;
use crate::access::Control;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{self, AUDIT_BYTES_MAX, AUDIT_ROWS_MAX};

/// Rows where the request does not say.
const ROWS_DEFAULT: i64 = 1000;
/// On an answer that ran out of bytes: the `before` that asks for the rows before it.
const BEFORE: HeaderName = HeaderName::from_static("x-sextant-audit-before");

#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct AuditQuery {
    /// How far back: a number and `s`, `m`, `h` or `d`; left out: as far as it goes.
    since: Option<String>,
    /// The latest so many rows, 1 to 10000; 1000 by default.
    limit: Option<i64>,
    /// Only those of the key with this name.
    key: Option<String>,
    /// Only rows before this one: the `x-sextant-audit-before` of an answer that ended at its
    /// limit of bytes.
    before: Option<u64>,
}

/// Gives the latest rows of the audit log, the oldest of them first.
#[utoipa::path(get, path = "/v1/audit", tag = "operation", params(AuditQuery),
    responses(
        (status = 200, description = "A JSON object a line", body = String,
         content_type = "application/x-ndjson"),
        (status = 501, description = "Nothing is written down here",
         body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn audit(
    State(state): State<AppState>,
    query: MaybeQuery<AuditQuery>,
) -> Result<Response, ApiError> {
    let query = given(query)?;
    let control = state.control().cloned();
    let control = control.ok_or_else(|| {
        let message = "This endpoint runs without a database, so it has no audit log.";
        ApiError::message(ErrorCode::NoDatabase, message)
    })?;
    let limit = limits::integer("limit", query.limit, 1, AUDIT_ROWS_MAX)?;
    let now_ms = control.now().unix_ms;
    let since_ms = match query.since.as_deref() {
        None => 0,
        Some(text) => {
            let span = store::span(text).ok_or_else(|| {
                let rule = "a number and `s`, `m`, `h` or `d`, such as 90m";
                ApiError::invalid("since", &limits::quoted(text), rule)
            })?;
            now_ms.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
        }
    };
    let filter = AuditFilter {
        since_ms,
        key_name: query.key,
    };
    let page = AuditPage {
        rows_max: u32::try_from(limit.unwrap_or(ROWS_DEFAULT)).unwrap_or(1),
        bytes_max: AUDIT_BYTES_MAX,
        before: query.before,
    };
    // Reading waits for the disk.
    let lines = tokio::task::spawn_blocking(move || lines(&control, &filter, page)).await;
    let internal = |detail: String| ApiError::message(ErrorCode::Internal, &detail);
    let lines = lines.map_err(|error| internal(format!("The audit log was not read: {error}.")))?;
    let lines = lines.map_err(|error| internal(format!("The audit log was not read: {error}.")))?;
    let mut response = Response::new(Body::from(lines.lines.concat()));
    let media_type = HeaderValue::from_static("application/x-ndjson");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    if let Some(before) = lines.before {
        response
            .headers_mut()
            .insert(BEFORE, HeaderValue::from(before));
    }
    Ok(response)
}

fn lines(
    control: &Control,
    filter: &AuditFilter,
    page: AuditPage,
) -> Result<AuditLines, StoreError> {
    // What has just happened is there too.
    control.writer().flush();
    control.store().connect()?.audit_page(filter, page)
}
