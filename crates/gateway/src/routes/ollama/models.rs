//! `/api/version`, `/api/tags`, `/api/ps` and `/api/show`.

use axum::extract::State;
use axum::response::Response;
use supervisor::ModelPhase;

use super::{ready_facts, stored, stored_at};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::error::ApiError;
use crate::routes::{ok, own_model};
use crate::wire::ollama::VERSION;
use crate::wire::ollama::models::{
    OllamaProcess, OllamaRunning, OllamaShow, OllamaTag, OllamaTags, OllamaVersion,
};
use crate::wire::ollama::request::OllamaModelName;
use crate::wire::openai::models::facts;

/// Says which release of Ollama this dialect follows.
#[utoipa::path(get, path = "/api/version", operation_id = "ollama_version", tag = "ollama",
    responses((status = 200, description = "Both versions", body = OllamaVersion)))]
pub(crate) async fn version() -> Response {
    ok(&OllamaVersion {
        version: VERSION,
        sextant: env!("CARGO_PKG_VERSION"),
    })
}

/// Lists the models, in memory or not.
#[utoipa::path(get, path = "/api/tags", operation_id = "ollama_tags", tag = "ollama",
    responses((status = 200, description = "All models, the default first", body = OllamaTags)))]
pub(crate) async fn tags(State(state): State<AppState>, head: Head) -> Response {
    let on_disk = stored(&state).await;
    let mut models = state.backend().models();
    models.retain(|model| head.sees_own(&model.name));
    let models = models.iter().map(|model| {
        let stored = stored_at(&on_disk, &model.spec.path);
        OllamaTag::new(model, stored, state.started())
    });
    ok(&OllamaTags {
        models: models.collect(),
    })
}

/// Lists the models that are ready.
#[utoipa::path(get, path = "/api/ps", operation_id = "ollama_ps", tag = "ollama",
    responses((status = 200, description = "Those in memory", body = OllamaRunning)))]
pub(crate) async fn ps(State(state): State<AppState>, head: Head) -> Response {
    let on_disk = stored(&state).await;
    let mut models = state.backend().models();
    models.retain(|model| head.sees_own(&model.name));
    let now = state.stamps().now();
    let models = models.iter().filter_map(|model| {
        let stored = stored_at(&on_disk, &model.spec.path);
        Some(OllamaProcess::new(model, facts(model)?, stored, now))
    });
    ok(&OllamaRunning {
        models: models.collect(),
    })
}

/// Describes a model; waits while it is loading, and does not load it.
#[utoipa::path(
    post,
    path = "/api/show",
    operation_id = "ollama_show",
    tag = "ollama",
    request_body = OllamaModelName,
    responses(
        (status = 200, description = "What is in force", body = OllamaShow),
        (status = 404, description = "No such model", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let name = parse::<OllamaModelName>(&body)?.given()?;
    let model = own_model(&state, Some(&name))?;
    if model.phase == ModelPhase::Unloaded {
        let on_disk = stored(&state).await;
        let stored = stored_at(&on_disk, &model.spec.path);
        return Ok(ok(&OllamaShow::unloaded(&model, stored, state.started())));
    }
    let facts = ready_facts(&state, &headers, &name, &model).await?;
    let on_disk = stored(&state).await;
    let stored = stored_at(&on_disk, &model.spec.path);
    Ok(ok(&OllamaShow::new(&facts, stored, state.started())))
}
