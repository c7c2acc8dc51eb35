//! `GET /api/machine` and `/api/library`: what this machine is, and the models on its disk.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::ok;
use crate::access::Head;
use crate::error::{ApiError, ErrorCode};
use crate::{AppState, MachineSketch, StoredModel};

/// A machine in short.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Machine {
    /// The board or the computer, where it has a name.
    name: Option<String>,
    processor: String,
    cores: usize,
    /// Threads that a model computes with.
    threads: u32,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    /// What models may take of it.
    memory_for_models_bytes: Option<u64>,
    gpus: Vec<String>,
    npus: Vec<String>,
    models_folder: Option<String>,
    /// Memory bandwidth as measured; null: nobody has measured yet (`sextant hw`).
    gb_per_second: Option<f64>,
}

impl From<MachineSketch> for Machine {
    fn from(sketch: MachineSketch) -> Self {
        Self {
            name: sketch.name,
            processor: sketch.processor,
            cores: sketch.cores,
            threads: sketch.threads,
            memory_bytes: sketch.memory_bytes,
            memory_available_bytes: sketch.memory_available_bytes,
            memory_for_models_bytes: sketch.memory_for_models_bytes,
            gpus: sketch.gpus,
            npus: sketch.npus,
            models_folder: sketch.models_folder,
            gb_per_second: sketch.gb_per_second,
        }
    }
}

/// Says what this machine is, in short.
#[utoipa::path(get, path = "/api/machine", operation_id = "machine", tag = "workbench",
    responses(
        (status = 200, description = "The machine", body = Machine),
        (status = 501, description = "Nobody looks here", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn machine(State(state): State<AppState>) -> Result<Response, ApiError> {
    let none = || {
        let message = "This endpoint has nobody who looks at its machine.";
        ApiError::message(ErrorCode::NoDoctor, message)
    };
    let doctor = state.config().doctor.clone().ok_or_else(none)?;
    let sketch = doctor.sketch().await.ok_or_else(none)?;
    Ok(ok(&Machine::from(sketch)))
}

/// A model on disk.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LibraryModel {
    id: String,
    /// The program whose store it is in; null: our own.
    owner: Option<String>,
    /// The file's name alone; its path is for the scope `admin`.
    file: String,
    path: Option<String>,
    /// The model of the shelf that is this file; null: a load by its path brings it there.
    model: Option<String>,
    bytes: u64,
    sha256: Option<String>,
    /// Seconds since 1970, where it is known.
    pulled_s: Option<u64>,
    source: Option<String>,
    architecture: Option<String>,
    quant: Option<String>,
    n_params: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LibraryList {
    models: Vec<LibraryModel>,
}

/// Lists the models on this machine's disk, in the stores of all programs.
#[utoipa::path(get, path = "/api/library", operation_id = "library", tag = "workbench",
    responses((status = 200, description = "All of them", body = LibraryList)))]
pub(crate) async fn library(State(state): State<AppState>, head: Head) -> Response {
    let stored = match &state.config().library {
        Some(library) => library.list().await,
        None => Vec::new(),
    };
    let shelf = state.backend().models();
    let may_manage = head.has(store::Scope::Admin);
    let models = stored.into_iter().filter_map(|one| {
        let on_shelf = shelf.iter().find(|model| model.spec.path == one.path);
        let name = on_shelf.map(|model| model.name.clone());
        let sees = match &name {
            Some(name) => head.sees_own(name),
            None => may_manage,
        };
        sees.then(|| library_model(one, name, may_manage))
    });
    ok(&LibraryList {
        models: models.collect(),
    })
}

fn library_model(stored: StoredModel, model: Option<String>, may_manage: bool) -> LibraryModel {
    let file = stored.path.file_name();
    LibraryModel {
        file: file.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        path: may_manage.then(|| stored.path.display().to_string()),
        id: stored.id,
        owner: stored.owner,
        model,
        bytes: stored.bytes,
        sha256: stored.sha256,
        pulled_s: stored.pulled_unix_s,
        source: stored.source,
        architecture: stored.architecture,
        quant: stored.quant,
        n_params: stored.n_parameters,
    }
}
