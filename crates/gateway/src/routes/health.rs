//! `GET /health`, `/ready` and `/metrics`.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use proto::WorkerState;
use serde::Serialize;
use supervisor::{ModelPhase, ModelStatus};
use utoipa::ToSchema;

use super::ok;
use crate::AppState;
use crate::metrics::CONTENT_TYPE;

/// A worker that does not answer in this time is shown without its state.
pub(crate) const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`
    status: &'static str,
}

/// Tells that the process is up.
#[utoipa::path(get, path = "/health", tag = "operation",
    responses((status = 200, description = "Up", body = Health)))]
pub(crate) async fn health() -> Response {
    ok(&Health { status: "ok" })
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    ready: bool,
    models: Vec<ModelReadiness>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelReadiness {
    name: String,
    state: &'static str,
    /// Why it is not ready, where it is not.
    why: Option<String>,
}

/// Tells whether at least one model can answer, here or at another provider.
#[utoipa::path(get, path = "/ready", tag = "operation",
    responses(
        (status = 200, description = "At least one model can answer", body = Readiness),
        (status = 503, description = "None is; the body says why", body = Readiness),
    ))]
pub(crate) async fn ready(State(state): State<AppState>) -> Response {
    let models = state.backend().models();
    // One that a request loads can answer too.
    let is_ready =
        |model: &ModelStatus| matches!(model.phase, ModelPhase::Ready(_) | ModelPhase::Unloaded);
    let ready = models.iter().any(is_ready) || state.dispatch().has_others_up();
    let models = models.iter().map(|model| ModelReadiness {
        name: model.name.clone(),
        state: model.phase.word(),
        why: why_not(model),
    });
    let mut response = ok(&Readiness {
        ready,
        models: models.collect(),
    });
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Why a model cannot answer now; `None` if it can.
pub(crate) fn why_not(model: &ModelStatus) -> Option<String> {
    match &model.phase {
        ModelPhase::Ready(_) => {
            let other = model.place.closed_for.as_ref()?;
            Some(format!("it takes nothing new and makes room for `{other}`"))
        }
        ModelPhase::Unloaded => Some(match model.place.waiting {
            0 if model.place.was_shed => {
                "it was unloaded because memory was short; a request for it loads it".into()
            }
            0 => "it is not in memory; a request for it loads it".into(),
            n => format!("it is not in memory; {n} requests wait for room"),
        }),
        ModelPhase::Starting => Some("its worker is starting".into()),
        ModelPhase::Loading { fraction } => Some(format!("{:.0} % loaded", fraction * 100.0)),
        ModelPhase::Restarting { in_ms } => {
            let crash = model.last_crash.as_deref().unwrap_or("its worker ended");
            Some(format!("starts again in {in_ms} ms; {crash}"))
        }
        ModelPhase::Draining => Some("it is being unloaded".into()),
        ModelPhase::Failed(failure) => Some(match model.place.retry_in_ms {
            None => failure.message.clone(),
            Some(ms) => format!(
                "{}; tried again in {ms} ms at the earliest",
                failure.message
            ),
        }),
    }
}

/// All models with what their workers say of themselves.
pub(crate) async fn inspected(state: &AppState) -> Vec<(ModelStatus, Option<WorkerState>)> {
    let models = state.backend().models();
    let states = models.iter().map(|model| async {
        let inspection = state.backend().inspect(&model.name);
        let timely = tokio::time::timeout(INSPECT_TIMEOUT, inspection).await;
        timely.ok().flatten()
    });
    let states = join_all(states).await;
    models.into_iter().zip(states).collect()
}

/// Counters and histograms as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "OpenMetrics text", body = String,
        content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(state): State<AppState>) -> Response {
    let models = inspected(&state).await;
    let text = state
        .metrics()
        .text(&models, state.backend().pressure(), state.control());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
