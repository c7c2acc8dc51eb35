//! `GET /api/logs`: the last lines of the log, and what is known of them.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{MaybeQuery, given, ok};
use crate::AppState;
use crate::error::ApiError;
use crate::limits;
use crate::logs::LOG_LINES_MAX;
use crate::wire::logs::LogPage;

/// Lines where the request does not say.
const LINES_DEFAULT: i64 = 1000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogQuery {
    /// Only lines after that number, such as the `next` of an earlier answer.
    after: Option<u64>,
    /// The latest so many, 1 to 4096; 1000 by default.
    limit: Option<i64>,
}

/// Gives the last lines of the log, of the endpoint and of its engines, and what is known to be
/// the cause of those that tell of trouble. `/api/events` says when there are more.
#[utoipa::path(get, path = "/api/logs", operation_id = "logs", tag = "workbench",
    params(LogQuery),
    responses(
        (status = 200, description = "The lines", body = LogPage),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn logs(
    State(state): State<AppState>,
    query: MaybeQuery<LogQuery>,
) -> Result<Response, ApiError> {
    let query = given(query)?;
    let most = i64::try_from(LOG_LINES_MAX).unwrap_or(i64::MAX);
    let limit = limits::integer("limit", query.limit, 1, most)?.unwrap_or(LINES_DEFAULT);
    let limit = usize::try_from(limit).unwrap_or(1);
    let after = query.after.unwrap_or(0);
    let all = state.config().logs.after(0, LOG_LINES_MAX);
    // What comes while this is written is in the next answer.
    let next = all.last().map_or(after, |last| last.number);
    let wanted = all.iter().filter(|one| one.number > after).count();
    let first = all.len() - wanted.min(limit);
    Ok(ok(&LogPage::new(all, first, next)))
}
