//! `GET /props`, `/slots` and `/openapi.json`.

use axum::extract::{Query, State};
use axum::response::Response;
use proto::{SamplingValues, SlotPhase};
use serde::{Deserialize, Serialize};
use supervisor::ModelStatus;
use utoipa::{IntoParams, ToSchema};

use super::health::INSPECT_TIMEOUT;
use super::{MaybeQuery, ok, own_model};
use crate::AppState;
use crate::error::{ApiError, ErrorCode};
use crate::wire::openai::models::facts;

#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct ModelQuery {
    /// A loaded model's name; absent or empty: the first model.
    model: Option<String>,
}

fn model(state: &AppState, query: MaybeQuery<ModelQuery>) -> Result<ModelStatus, ApiError> {
    let Query(query) = query.map_err(|error| {
        ApiError::invalid("model", "unreadable", &format!("given once ({error})"))
    })?;
    own_model(state, query.model.as_deref())
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Props {
    model_alias: String,
    model_path: String,
    total_slots: u32,
    default_generation_settings: GenerationSettings,
    chat_template: Option<String>,
    bos_token: Option<String>,
    eos_token: Option<String>,
    modalities: Modalities,
    build_info: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GenerationSettings {
    n_ctx: u32,
    /// Sampling values of a request that sets none.
    #[schema(value_type = Object)]
    params: SamplingValues,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Modalities {
    vision: bool,
    audio: bool,
}

/// Describes a model as llama.cpp's server does.
#[utoipa::path(get, path = "/props", tag = "llama.cpp", params(ModelQuery),
    responses((status = 200, description = "Its properties", body = Props)))]
pub(crate) async fn props(
    State(state): State<AppState>,
    query: MaybeQuery<ModelQuery>,
) -> Result<Response, ApiError> {
    let model = model(&state, query)?;
    let facts = facts(&model).ok_or_else(|| not_ready(&model))?;
    Ok(ok(&Props {
        model_alias: model.name.clone(),
        model_path: facts.path.display().to_string(),
        total_slots: facts.slots,
        default_generation_settings: GenerationSettings {
            n_ctx: facts.context,
            params: facts.sampling.clone(),
        },
        chat_template: facts.chat_template.clone(),
        bos_token: facts.bos.clone(),
        eos_token: facts.eos.clone(),
        modalities: Modalities {
            vision: false,
            audio: false,
        },
        build_info: format!(
            "sextant {} (llama.cpp {})",
            env!("CARGO_PKG_VERSION"),
            facts.llama_version
        ),
    }))
}

fn not_ready(model: &ModelStatus) -> ApiError {
    let message = format!("The model `{}` is not ready.", model.name);
    ApiError::message(ErrorCode::ModelUnavailable, &message)
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Slot {
    id: u32,
    is_processing: bool,
    /// `idle`, `prefill` or `decode`
    phase: &'static str,
    n_prompt_tokens: u32,
    n_prompt_tokens_processed: u32,
    n_decoded: u32,
}

/// Shows what the slots of a model are doing.
#[utoipa::path(get, path = "/slots", tag = "llama.cpp", params(ModelQuery),
    responses((status = 200, description = "Its slots", body = Vec<Slot>)))]
pub(crate) async fn slots(
    State(state): State<AppState>,
    query: MaybeQuery<ModelQuery>,
) -> Result<Response, ApiError> {
    let model = model(&state, query)?;
    let inspection = state.backend().inspect(&model.name);
    let timely = tokio::time::timeout(INSPECT_TIMEOUT, inspection).await;
    let worker = timely.ok().flatten().ok_or_else(|| not_ready(&model))?;
    let slots = worker.slots.iter().map(|slot| Slot {
        id: slot.slot,
        is_processing: slot.job.is_some(),
        phase: match slot.phase {
            SlotPhase::Idle => "idle",
            SlotPhase::Prefill => "prefill",
            SlotPhase::Decode => "decode",
        },
        n_prompt_tokens: slot.prompt_tokens,
        n_prompt_tokens_processed: slot.prompt_done,
        n_decoded: slot.generated_tokens,
    });
    Ok(ok(&slots.collect::<Vec<_>>()))
}

/// The description of this API that you are reading.
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(crate) async fn openapi() -> Response {
    super::json_response(crate::openapi_json().into_bytes())
}
