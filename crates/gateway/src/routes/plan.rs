//! `POST /api/plan`: what a model would take, before it is loaded.

use axum::extract::State;
use axum::response::Response;

use super::{find, ok};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::error::{ApiError, ErrorCode};
use crate::library::LibraryFailureKind;
use crate::limits;
use crate::wire::plan::{PlanReport, PlanRequest};

/// Plans a model of this machine against its memory; loads nothing.
#[utoipa::path(
    post,
    path = "/api/plan",
    operation_id = "plan",
    tag = "operation",
    request_body = PlanRequest,
    responses(
        (status = 200, description = "The ledger, and what follows from it", body = PlanReport),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn plan(
    State(state): State<AppState>,
    head: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut request: PlanRequest = parse(&body)?;
    let model = request.model.take().filter(|model| !model.is_empty());
    let model = model.ok_or_else(|| ApiError::missing("model", "the name of a model"))?;
    limits::count(
        "beside",
        request.beside.len(),
        limits::PLAN_BESIDE_MAX,
        "models",
    )?;
    let library = state.config().library.as_ref().ok_or_else(|| {
        let message = "This endpoint has no store of models.";
        ApiError::message(ErrorCode::NoLibrary, message)
    })?;
    let shelf = state.backend().models();
    let known = find(&shelf, &model).filter(|known| head.sees_own(&known.name));
    let path = known.map(|known| known.spec.path.display().to_string());
    let mut ask = request.into_ask(model);
    let planned = match (library.plan(ask.clone()).await, path) {
        // A model that was loaded by its path is in no store.
        (Err(failure), Some(path)) if failure.kind == LibraryFailureKind::NotFound => {
            ask.model = path;
            library.plan(ask).await?
        }
        (planned, _) => planned?,
    };
    Ok(ok(&PlanReport::new(&planned)))
}
