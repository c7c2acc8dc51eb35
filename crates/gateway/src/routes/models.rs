//! `GET /v1/models`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use super::{find, ok};
use crate::AppState;
use crate::access::Head;
use crate::dispatch::{RoutedModel, not_loaded};
use crate::error::ApiError;
use crate::wire::openai::models::{ModelEntry, ModelList};

/// Lists the models.
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "All models that the key may use, the default first",
        body = ModelList)))]
pub(crate) async fn list(State(state): State<AppState>, head: Head) -> Response {
    let mut models = state.backend().models();
    models.retain(|model| head.sees_own(&model.name));
    let mut routed = state.dispatch().routed_models();
    routed.retain(|model| head.sees(&model.id, &model.targets));
    let mut list = ModelList::new(&models, state.started());
    list.add_routed(&routed, state.started());
    ok(&list)
}

/// Describes one model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "openai",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The model", body = ModelEntry),
        (status = 404, description = "No such model", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn one(
    State(state): State<AppState>,
    head: Head,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let mut models = state.backend().models();
    models.retain(|model| head.sees_own(&model.name));
    let Ok(Path(id)) = id else {
        return Err(not_loaded("(a name that is not UTF-8)", &models));
    };
    if let Some(model) = find(&models, &id) {
        return Ok(ok(&ModelEntry::new(model, state.started())));
    }
    let routed = state.dispatch().routed_models();
    let sees = |model: &&RoutedModel| head.sees(&model.id, &model.targets);
    match routed.iter().find(|model| model.id == id).filter(sees) {
        Some(model) => Ok(ok(&ModelEntry::routed(model, state.started()))),
        None => Err(not_loaded(&id, &models)),
    }
}
