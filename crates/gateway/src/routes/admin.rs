//! `/admin/models`: what `sextant ps`, `load` and `unload` talk to.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::Response;
use proto::{CacheType, FlashAttention, Kernels, LoadFailure, LoadSpec, ModelFacts, WorkerState};
use serde::{Deserialize, Serialize};
use supervisor::{LoadOrder, ModelPhase, ModelStatus};
use utoipa::ToSchema;

use super::health::{inspected, why_not};
use super::{find, ok};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::dispatch::not_loaded;
use crate::error::ApiError;
use crate::limits;
use crate::wire::doctor::findings;
use crate::wire::openai::models::facts;

/// What to load; absent settings are the worker's to choose.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LoadRequest {
    /// The name clients use; absent: the name of the file.
    #[serde(alias = "name")]
    model: Option<String>,
    /// A GGUF file on the server's machine; for a split model its first part. Absent: that
    /// of the model on demand which has this name, with its settings where none is given.
    #[schema(value_type = Option<String>)]
    path: Option<PathBuf>,
    context: Option<u32>,
    slots: Option<u32>,
    queue_max: Option<u32>,
    batch: Option<u32>,
    ubatch: Option<u32>,
    threads: Option<u32>,
    threads_batch: Option<u32>,
    /// For example `4-7`.
    cpus: Option<String>,
    cpus_batch: Option<String>,
    /// For example `f16` or `q8_0`.
    #[schema(value_type = Option<String>)]
    kv_type_k: Option<CacheType>,
    #[schema(value_type = Option<String>)]
    kv_type_v: Option<CacheType>,
    /// Types by layer, such as `k=q8_0,v=q4_0;k[18,20-23]=f16`. It stands before the two above,
    /// which say what it leaves open.
    kv_plan: Option<String>,
    /// `auto`, `on` or `off`
    #[schema(value_type = Option<String>)]
    flash_attention: Option<FlashAttention>,
    sequences: Option<u32>,
    /// `own` or `ggml`
    #[schema(value_type = Option<String>)]
    kernels: Option<Kernels>,
    gpu_layers: Option<u32>,
    mmap: Option<bool>,
    mlock: Option<bool>,
    huge_pages: Option<bool>,
    swa_full: Option<bool>,
    /// Replaces the model's own chat template.
    chat_template: Option<String>,
    /// Tokens of a thought, for requests that do not say; 0: no thinking unless asked for.
    reasoning_budget: Option<u32>,
    /// Tokens that stay when a context is full, for requests that do not say; 0: the answer ends
    /// there.
    attention_sinks: Option<u32>,
    /// `draft_tokens_max` and `ngram`
    #[schema(value_type = Option<crate::wire::openai::request::SpeculationRequest>)]
    speculation: Option<proto::Speculation>,
    /// Those of the settings above that `sextant tune` has measured.
    tuned: Vec<String>,
    /// Keep it in memory whatever else is asked for, or no longer do so.
    pin: Option<bool>,
    /// Load it even where it is expected not to fit.
    force: bool,
}

impl LoadRequest {
    /// The settings in it that a measurement might have chosen otherwise.
    fn given(&self) -> Vec<&'static str> {
        let given = [
            ("batch", self.batch.is_some()),
            ("ubatch", self.ubatch.is_some()),
            ("threads", self.threads.is_some()),
            ("threads_batch", self.threads_batch.is_some()),
            ("cpus", self.cpus.is_some()),
            ("cpus_batch", self.cpus_batch.is_some()),
            ("kv_type_k", self.kv_type_k.is_some()),
            ("kv_type_v", self.kv_type_v.is_some()),
            ("kv_plan", self.kv_plan.is_some()),
            ("flash_attention", self.flash_attention.is_some()),
            ("kernels", self.kernels.is_some()),
            ("mmap", self.mmap.is_some()),
            ("mlock", self.mlock.is_some()),
            ("huge_pages", self.huge_pages.is_some()),
            ("speculation", self.speculation.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        given.map(|(name, _)| name).collect()
    }

    /// `models` are those that may be loaded by their name alone.
    fn into_order(self, models: &[ModelStatus]) -> Result<LoadOrder, ApiError> {
        let given = self.given();
        let path = self.path.filter(|path| !path.as_os_str().is_empty());
        let name = self.model.filter(|name| !name.is_empty());
        let known = match (&path, &name) {
            (None, Some(name)) => find(models, name),
            _ => None,
        };
        let known = known.map(|model| model.spec.clone()).unwrap_or_default();
        let name = match known.name.is_empty() {
            true => name,
            false => Some(known.name),
        };
        let path = path
            .or_else(|| Some(known.path).filter(|path| !path.as_os_str().is_empty()))
            .ok_or_else(|| ApiError::missing("path", "the path of a GGUF file"))?;
        let file = || {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        };
        let name = name
            .or_else(file)
            .ok_or_else(|| ApiError::missing("model", "a name"))?;
        check_name(&name)?;
        // What is asked for now is nobody's measurement.
        let tuned = known.tuned.into_iter();
        let tuned = tuned.filter(|name| !given.contains(&name.as_str()));
        let tuned = self.tuned.into_iter().chain(tuned).collect();
        let spec = LoadSpec {
            name,
            path,
            context: self.context.or(known.context),
            slots: self.slots.or(known.slots),
            queue_max: self.queue_max.or(known.queue_max),
            batch: self.batch.or(known.batch),
            ubatch: self.ubatch.or(known.ubatch),
            threads: self.threads.or(known.threads),
            threads_batch: self.threads_batch.or(known.threads_batch),
            cpus: self.cpus.or(known.cpus),
            cpus_batch: self.cpus_batch.or(known.cpus_batch),
            kv_type_k: self.kv_type_k.or(known.kv_type_k),
            kv_type_v: self.kv_type_v.or(known.kv_type_v),
            kv_plan: self.kv_plan.or(earlier_plan(known.kv_plan, &given)),
            flash_attention: self.flash_attention.or(known.flash_attention),
            sequences: self.sequences.or(known.sequences),
            kernels: self.kernels.or(known.kernels),
            gpu_layers: self.gpu_layers.or(known.gpu_layers),
            // The ledger decides anew, for these settings.
            gpu: None,
            mmap: self.mmap.or(known.mmap),
            mlock: self.mlock.or(known.mlock),
            huge_pages: self.huge_pages.or(known.huge_pages),
            swa_full: self.swa_full.or(known.swa_full),
            // One setting for all models: what another one was told holds for a stranger, too.
            prefixes: known.prefixes.or_else(|| {
                let mut told = models.iter().map(|model| model.spec.prefixes.clone());
                told.find_map(|prefixes| prefixes)
            }),
            chat_template: self.chat_template.or(known.chat_template),
            reasoning_budget: self.reasoning_budget.or(known.reasoning_budget),
            attention_sinks: self.attention_sinks.or(known.attention_sinks),
            speculation: self.speculation.or(known.speculation),
            tuned,
        };
        Ok(LoadOrder {
            spec,
            pin: self.pin,
            force: self.force,
        })
    }
}

/// Who asks for types of all layers does not mean the plan that was set before.
fn earlier_plan(known: Option<String>, given: &[&str]) -> Option<String> {
    let has_types = given.contains(&"kv_type_k") || given.contains(&"kv_type_v");
    known.filter(|_| !has_types)
}

fn check_plan(plan: Option<&str>) -> Result<(), ApiError> {
    let Some(text) = plan else { return Ok(()) };
    match text.parse::<kv::TypePlan>() {
        Ok(_) => Ok(()),
        Err(error) => {
            let rule = format!("a KV plan: {error}");
            Err(ApiError::invalid("kv_plan", &limits::quoted(text), &rule))
        }
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
    /// Bytes that the models in memory take, as far as is known.
    memory_bytes: u64,
    /// Bytes that they may take; null without a limit.
    memory_bytes_max: Option<u64>,
    /// The same of the GPU's memory.
    gpu_memory_bytes: u64,
    /// Null where this server uses no GPU.
    gpu_memory_bytes_max: Option<u64>,
}

/// All that is known of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminModel {
    name: String,
    #[schema(value_type = String)]
    path: PathBuf,
    /// `unloaded`, `starting`, `loading`, `ready`, `restarting`, `draining` or `failed`
    state: &'static str,
    /// 0 to 1 while loading.
    load_fraction: Option<f32>,
    /// Why it is not ready, where it is not.
    why: Option<String>,
    pid: Option<u32>,
    restarts: u32,
    last_crash: Option<String>,
    /// It stays on the shelf when it goes from memory.
    on_demand: bool,
    /// It stays in memory whatever else is asked for.
    pinned: bool,
    /// What it takes or will take, and whether that was seen or is an estimate.
    memory_bytes: u64,
    memory_measured: bool,
    /// What of that is on the GPU.
    gpu_memory_bytes: u64,
    /// When it goes if nobody asks for it; null: not before memory is needed.
    expires_in_ms: Option<u64>,
    /// The model that this one is for.
    helps: Option<String>,
    requests_running: u32,
    /// Requests that wait for it to be loaded.
    requests_waiting: u32,
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
            on_demand: model.place.is_listed,
            pinned: model.place.pinned,
            memory_bytes: model.place.bytes,
            gpu_memory_bytes: model.place.device_bytes,
            memory_measured: model.place.is_measured,
            expires_in_ms: model.place.expires_in_ms,
            requests_running: model.place.running,
            requests_waiting: model.place.waiting,
            facts: facts(&model).cloned(),
            worker,
            last_crash: model.last_crash,
            helps: model.place.helps,
            name: model.name,
        }
    }
}

/// Lists the models with everything that is known of them.
#[utoipa::path(get, path = "/admin/models", tag = "operation",
    responses((status = 200, description = "All models", body = AdminList)))]
pub(crate) async fn list(State(state): State<AppState>) -> Response {
    let models = inspected(&state).await.into_iter();
    let (memory_bytes, memory_bytes_max) = state.backend().memory();
    let (gpu_memory_bytes, gpu_memory_bytes_max) = state.backend().device_memory();
    ok(&AdminList {
        memory_bytes,
        memory_bytes_max,
        gpu_memory_bytes,
        gpu_memory_bytes_max,
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
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: LoadRequest = parse(&body)?;
    check_plan(request.kv_plan.as_deref())?;
    let order = request.into_order(&state.backend().models())?;
    let model = order.spec.name.clone();
    headers.manages(&model)?;
    let spec = order.spec.clone();
    let loaded = state.backend().load(order).await;
    let facts = match loaded {
        Ok(facts) => facts,
        Err(failure) => return Err(explained(&state, spec, failure).await),
    };
    Ok(ok(&LoadAnswer {
        model,
        facts: (*facts).clone(),
    }))
}

/// The error of a failed load, with what the doctor finds: `error.findings` as in the answer of
/// `/api/doctor`.
async fn explained(state: &AppState, spec: LoadSpec, failure: LoadFailure) -> ApiError {
    let Some(doctor) = state.config().doctor.clone() else {
        return failure.into();
    };
    let found = doctor.of_failed_load(spec, failure.message.clone()).await;
    let error = ApiError::from(failure);
    match serde_json::to_value(findings(&found)) {
        Ok(found_now) if !found.is_empty() => error.with("findings", found_now),
        _ => error,
    }
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
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: UnloadRequest = parse(&body)?;
    let model = request
        .model
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::missing("model", "the name of a loaded model"))?;
    headers.manages(&model)?;
    if !state.backend().unload(&model).await {
        return Err(not_loaded(&model, &state.backend().models()));
    }
    Ok(ok(&UnloadAnswer {
        model,
        unloaded: true,
    }))
}
