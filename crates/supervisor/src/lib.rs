//! Runs worker processes: spawns, loads, watches, restarts and drains them, and
//! carries jobs to them.
//!
//! [`Fleet`] is the handle the rest of the endpoint holds. What to do next is
//! decided by a pure state machine (`core`); processes, sockets and clocks live in
//! the driver around it.

use std::sync::Arc;
use std::time::Duration;

use proto::{Event, Job, JobFailure, JobId, LoadFailure, LoadSpec, ModelFacts, WorkerState};

/// Handle to all workers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet {
    _inner: Arc<()>,
}

/// Limits of the supervisor itself.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Longest wait for a worker's `Hello` after its process was started.
    pub hello_timeout: Duration,
    /// Longest wait for running jobs at a drain; then the process is killed.
    pub drain_timeout: Duration,
    /// Restarts after crashes within `restart_window` before a model is given up.
    pub restarts_max: u32,
    pub restart_window: Duration,
}

/// What is known of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelStatus {
    pub name: String,
    pub spec: LoadSpec,
    pub phase: ModelPhase,
    pub pid: Option<u32>,
    /// Times its worker was started again after a crash.
    pub restarts: u32,
    /// Why the last worker died, with its last log lines.
    pub last_crash: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ModelPhase {
    Starting,
    Loading {
        fraction: f32,
    },
    Ready(Arc<ModelFacts>),
    /// Waiting to be started again after a crash.
    Restarting {
        in_ms: u64,
    },
    Draining,
    Failed(LoadFailure),
}

/// The events of one job. Dropping it before the last event cancels the job.
#[derive(Debug)]
pub struct JobStream {
    id: JobId,
}

impl JobStream {
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The next event; `None` after the last one. A worker that dies in between
    /// gives `Event::Failed` with `FailureKind::WorkerLost`.
    pub async fn next(&mut self) -> Option<Event> {
        None
    }
}

impl Fleet {
    /// Starts a worker and waits until the model is ready or has failed.
    pub async fn load(&self, spec: LoadSpec) -> Result<Arc<ModelFacts>, LoadFailure> {
        let _ = spec;
        Err(LoadFailure {
            kind: proto::LoadFailureKind::Setting,
            message: String::new(),
        })
    }

    /// Drains and ends a model's worker; `false` if no such model is loaded.
    pub async fn unload(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// All models, in the order they were loaded.
    #[must_use]
    pub fn models(&self) -> Vec<ModelStatus> {
        Vec::new()
    }

    /// Hands a job to the model's worker. Waits while the model is loading or restarting.
    pub async fn submit(&self, model: &str, job: Job) -> Result<JobStream, JobFailure> {
        let _ = (model, job);
        Ok(JobStream { id: JobId(0) })
    }

    /// A look at one worker; `None` if the model is not ready.
    pub async fn inspect(&self, model: &str) -> Option<WorkerState> {
        let _ = model;
        None
    }

    /// Drains every worker; returns when all have ended.
    pub async fn shutdown(&self) {}
}
