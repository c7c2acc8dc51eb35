//! `/admin/models`: what `sextant ps`, `load` and `unload` talk to.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::Response;
use proto::{CacheType, FlashAttention, Kernels, LoadSpec, ModelFacts, WorkerState};
use serde::{Deserialize, Serialize};
use supervisor::{ModelPhase, ModelStatus};
use utoipa::ToSchema;

use super::health::{inspected, why_not};
use super::ok;
use crate::AppState;
use crate::body::{RawBody, parse};
use crate::dispatch::not_loaded;
use crate::error::ApiError;
use crate::limits;
use crate::wire::openai::models::facts;

/// What to load; absent settings are the worker's to choose.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LoadRequest {
    /// The name clients use; absent: the name of the file.
    #[serde(alias = "name")]
    model: Option<String>,
    /// A GGUF file on the server's machine; for a split model its first part.
    #[schema(value_type = Option<String>)]
    path: Option<PathBuf>,
    context: Option<u32>,
    slots: Option<u32>,
    queue_max: Option<u32>,
    batch: Option<u32>,
    ubatch: Option<u32>,
    threads: Option<u32>,
    threads_batch: Option<u32>,
    /// For example `f16` or `q8_0`.
    #[schema(value_type = Option<String>)]
    kv_type_k: Option<CacheType>,
    #[schema(value_type = Option<String>)]
    kv_type_v: Option<CacheType>,
    /// `auto`, `on` or `off`
    #[schema(value_type = Option<String>)]
    flash_attention: Option<FlashAttention>,
    /// `own` or `ggml`
    #[schema(value_type = Option<String>)]
    kernels: Option<Kernels>,
    gpu_layers: Option<u32>,
    mmap: Option<bool>,
    swa_full: Option<bool>,
    /// Replaces the model's own chat template.
    chat_template: Option<String>,
    /// `draft_tokens_max` and `ngram`
    #[schema(value_type = Option<crate::wire::openai::request::SpeculationRequest>)]
    speculation: Option<proto::Speculation>,
}

impl LoadRequest {
    fn into_spec(self) -> Result<LoadSpec, ApiError> {
        let path = self
            .path
            .filter(|path| !path.as_os_str().is_empty())
            .ok_or_else(|| ApiError::missing("path", "the path of a GGUF file"))?;
        let name = self.model.filter(|name| !name.is_empty());
        let file = || {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        };
        let name = name
            .or_else(file)
            .ok_or_else(|| ApiError::missing("model", "a name"))?;
        check_name(&name)?;
        Ok(LoadSpec {
            name,
            path,
            context: self.context,
            slots: self.slots,
            queue_max: self.queue_max,
            batch: self.batch,
            ubatch: self.ubatch,
            threads: self.threads,
            threads_batch: self.threads_batch,
            kv_type_k: self.kv_type_k,
            kv_type_v: self.kv_type_v,
            flash_attention: self.flash_attention,
            kernels: self.kernels,
            gpu_layers: self.gpu_layers,
            mmap: self.mmap,
            swa_full: self.swa_full,
            chat_template: self.chat_template,
            speculation: self.speculation,
        })
    }
}

/// Names stand in tables, labels and log lines.
fn check_name(name: &str) -> Result<(), ApiError> {
    limits::count("model", name.len(), limits::MODEL_NAME_BYTES_MAX, "bytes")?;
    if name.trim() != name || name.chars().any(char::is_control) {
        let rule = "a name without control characters and without spaces around it";
        return Err(ApiError::invalid("model", &limits::quoted(name), rule));
    }
    Ok(())
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminList {
    models: Vec<AdminModel>,
}

/// All that is known of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminModel {
    name: String,
    #[schema(value_type = String)]
    path: PathBuf,
    /// `starting`, `loading`, `ready`, `restarting`, `draining` or `failed`
    state: &'static str,
    /// 0 to 1 while loading.
    load_fraction: Option<f32>,
    /// Why it is not ready, where it is not.
    why: Option<String>,
    pid: Option<u32>,
    restarts: u32,
    last_crash: Option<String>,
    /// Values in force, from the engine; null until loaded.
    #[schema(value_type = Option<Object>)]
    facts: Option<ModelFacts>,
    /// What the worker is doing; null if it is not ready.
    #[schema(value_type = Option<Object>)]
    worker: Option<WorkerState>,
}

impl AdminModel {
    fn new(model: ModelStatus, worker: Option<WorkerState>) -> Self {
        let load_fraction = match model.phase {
            ModelPhase::Loading { fraction } => Some(fraction),
            _ => None,
        };
        Self {
            path: model.spec.path.clone(),
            state: model.phase.word(),
            load_fraction,
            why: why_not(&model),
            pid: model.pid,
            restarts: model.restarts,
            facts: facts(&model).cloned(),
            worker,
            last_crash: model.last_crash,
            name: model.name,
        }
    }
}

/// Lists the models with everything that is known of them.
#[utoipa::path(get, path = "/admin/models", tag = "operation",
    responses((status = 200, description = "All models", body = AdminList)))]
pub(crate) async fn list(State(state): State<AppState>) -> Response {
    let models = inspected(&state).await.into_iter();
    ok(&AdminList {
        models: models
            .map(|(model, worker)| AdminModel::new(model, worker))
            .collect(),
    })
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoadAnswer {
    model: String,
    /// Values in force, from the engine.
    #[schema(value_type = Object)]
    facts: ModelFacts,
}

/// Loads a model; answers when it is ready or has failed.
#[utoipa::path(post, path = "/admin/models/load", tag = "operation", request_body = LoadRequest,
    responses(
        (status = 200, description = "Ready", body = LoadAnswer),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn load(
    State(state): State<AppState>,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: LoadRequest = parse(&body)?;
    let spec = request.into_spec()?;
    let model = spec.name.clone();
    let facts = state.backend().load(spec).await?;
    Ok(ok(&LoadAnswer {
        model,
        facts: (*facts).clone(),
    }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UnloadRequest {
    /// The model's name.
    #[serde(alias = "name")]
    model: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnloadAnswer {
    model: String,
    unloaded: bool,
}

/// Lets a model finish its jobs and ends its worker.
#[utoipa::path(post, path = "/admin/models/unload", tag = "operation",
    request_body = UnloadRequest,
    responses(
        (status = 200, description = "Gone", body = UnloadAnswer),
        (status = 404, description = "No such model", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn unload(
    State(state): State<AppState>,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: UnloadRequest = parse(&body)?;
    let model = request
        .model
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::missing("model", "the name of a loaded model"))?;
    if !state.backend().unload(&model).await {
        return Err(not_loaded(&model, &state.backend().models()));
    }
    Ok(ok(&UnloadAnswer {
        model,
        unloaded: true,
    }))
}
