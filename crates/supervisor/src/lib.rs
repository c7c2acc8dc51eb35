//! Runs worker processes: spawns, loads, watches, restarts and drains them, and
//! carries jobs to them.
//!
//! [`Fleet`] is the handle the rest of the endpoint holds. What to do next is
//! decided by a pure state machine (`core`); processes, sockets and clocks live in
//! the driver around it. How a worker comes to life is a [`Launcher`]: a child
//! process in production, a task in tests.

mod core;
mod driver;
mod exit;
mod launch;

use std::sync::Arc;
use std::time::Duration;

use proto::{LoadFailure, LoadSpec, ModelFacts};

pub use crate::driver::{Fleet, JobStream};
pub use crate::exit::{LogTail, ProcessEnd};
pub use crate::launch::{
    BoxFuture, Connection, InProcessLauncher, LaunchError, LaunchRequest, Launched, Launcher,
    Process, ProcessLauncher,
};

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

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            restarts_max: 3,
            restart_window: Duration::from_secs(600),
        }
    }
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

impl ModelPhase {
    /// One lower-case word, for logs and tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Loading { .. } => "loading",
            Self::Ready(_) => "ready",
            Self::Restarting { .. } => "restarting",
            Self::Draining => "draining",
            Self::Failed(_) => "failed",
        }
    }
}
