//! Runs worker processes: spawns, loads, watches, restarts and drains them, and
//! carries jobs to them.
//!
//! [`Fleet`] is the handle the rest of the endpoint holds. What to do next is
//! decided by a pure state machine (`core`); processes, sockets and clocks live in
//! the driver around it. How a worker comes to life is a [`Launcher`]: a child
//! process in production, a task in tests.

mod core;
mod drift;
mod driver;
mod exit;
mod launch;
pub mod pressure;
mod shelf;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::{LoadFailure, LoadSpec, ModelFacts, Timings, Usage};

pub use crate::driver::{Fleet, JobStream, LoadOrder};
pub use crate::launch::{
    BoxFuture, Connection, ENGINE_LOG, InProcessLauncher, LaunchError, LaunchRequest, Launched,
    Launcher, Process, ProcessLauncher,
};
pub use process::{LogTail, ProcessEnd};

/// Jobs of one model that wait for it, to be loaded or to become ready.
const WAITING_MAX: u32 = 256;
/// How long each of them waits before it fails.
const WAIT_MAX: Duration = Duration::from_secs(300);

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
    /// Bytes that all models together may take; `None` sets no limit.
    pub memory_max: Option<u64>,
    /// Bytes of a GPU that all models together may take; `None` sets no limit.
    pub device_memory_max: Option<u64>,
    /// How long a request waits before busy models make room for its model.
    pub swap_wait_max: Duration,
    /// How long a listed model stays in memory without a request; `None` is for ever.
    pub keep_alive: Option<Duration>,
    /// Says what a model that nobody has listed will cost.
    pub estimate: Option<Estimate>,
    /// Says what memory there is left; without it nobody watches.
    pub pressure: Option<PressureSource>,
    /// Is told of every answer that ended well.
    pub observe: Option<Observe>,
}

/// What an answer took. It is called under the fleet's lock, so it must be quick and must
/// not call back.
#[derive(Clone)]
pub struct Observe(pub Arc<dyn Fn(&Seen<'_>) + Send + Sync>);

impl fmt::Debug for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observe")
    }
}

/// An answer that ended well.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<'a> {
    /// As the model was loaded.
    pub spec: &'a LoadSpec,
    pub company: Company,
    pub usage: Usage,
    pub timings: Timings,
}

/// Whether other jobs were there, of any model: they share its passes or its cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Alone,
    Others,
}

/// Reads what each pool of memory has left. Runs where it may block, twice a second.
#[derive(Clone)]
pub struct PressureSource(pub Arc<dyn Fn() -> pressure::Reading + Send + Sync>);

impl fmt::Debug for PressureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PressureSource")
    }
}

/// How short memory is, and what was given up for it since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PressureState {
    pub level: pressure::Level,
    /// Times that idle models gave their caches back.
    pub shrinks: u64,
    /// Models that were unloaded.
    pub unloads: u64,
}

/// From what is to be loaded to how it will be loaded, and what it will cost so. It may choose
/// what nobody has set. May read the file, so it runs where it may block.
#[derive(Clone)]
pub struct Estimate(pub Arc<dyn Fn(LoadSpec) -> (LoadSpec, MemoryCost) + Send + Sync>);

impl fmt::Debug for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Estimate")
    }
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            restarts_max: 3,
            restart_window: Duration::from_secs(600),
            memory_max: None,
            device_memory_max: None,
            swap_wait_max: Duration::from_secs(10),
            keep_alive: None,
            estimate: None,
            pressure: None,
            observe: None,
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
    /// What the shelf says of it.
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ModelPhase {
    /// Not in memory; a request for it loads it.
    Unloaded,
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
            Self::Unloaded => "unloaded",
            Self::Starting => "starting",
            Self::Loading { .. } => "loading",
            Self::Ready(_) => "ready",
            Self::Restarting { .. } => "restarting",
            Self::Draining => "draining",
            Self::Failed(_) => "failed",
        }
    }
}

/// A model that may be loaded on demand, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    pub spec: LoadSpec,
    /// What it will cost, by its file.
    pub cost: MemoryCost,
    pub traits: ModelTraits,
    /// Once in memory it stays there.
    pub pin: bool,
    /// `None`: as the fleet's configuration says.
    pub keep_alive: Option<Keep>,
    /// The model that this one is for; it is never taken out of memory for this one.
    pub helps: Option<String>,
    /// Why it cannot be loaded, where that is known: requests are told so, and it is not tried
    /// before it is listed anew or loaded by hand.
    pub fault: Option<LoadFailure>,
}

/// How long an idle model stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until memory is needed for another.
    Forever,
    /// Zero: only as long as it has something to do.
    For(Duration),
}

/// Bytes that a model takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryCost {
    /// Wherever they are.
    pub weights_bytes: u64,
    pub kv_bytes: u64,
    /// Buffers of the computation and the process itself.
    pub other_bytes: u64,
    /// Those of all the above that are on a GPU.
    pub device_bytes: u64,
    pub device_memory: DeviceMemory,
    /// The context that `kv_bytes` is for, tokens.
    pub context: u32,
    /// What its process is expected to show as resident once it is loaded, before the first
    /// pass, pages of the file included; 0 where nobody knows.
    pub resident_bytes: u64,
    /// The longest context with which the model would fit into all that models may take, where
    /// it does not at `context` and somebody has worked it out, tokens.
    pub context_max: Option<u32>,
    /// What it takes with fewer layers on the GPU, from the most to none; empty where there is
    /// no GPU. Where nobody has set `gpu_layers`, the ledger takes the first that has room.
    pub placements: Arc<[Placement]>,
}

/// Where a GPU's memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceMemory {
    /// On the card.
    #[default]
    Own,
    /// A part of the host's: bytes there count on the host, too.
    Unified,
}

/// A number of layers on a GPU, and what a model takes so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placement {
    pub gpu_layers: u32,
    /// On the host, without those of the GPU.
    pub host_bytes: u64,
    pub device_bytes: u64,
    /// As [`MemoryCost::resident_bytes`].
    pub resident_bytes: u64,
}

/// Contexts are told in whole steps of this, and none shorter than two.
const CONTEXT_STEP: u64 = 256;

impl MemoryCost {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.other_bytes)
    }

    /// Those that the host's memory must have.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        match self.device_memory {
            DeviceMemory::Own => self.total().saturating_sub(self.device_bytes),
            DeviceMemory::Unified => self.total(),
        }
    }

    /// With so many layers on the GPU.
    #[must_use]
    pub fn placed(&self, placement: &Placement) -> Self {
        let all = placement.host_bytes.saturating_add(placement.device_bytes);
        let named = self.weights_bytes.saturating_add(self.kv_bytes);
        Self {
            other_bytes: all.saturating_sub(named),
            device_bytes: placement.device_bytes,
            resident_bytes: placement.resident_bytes,
            ..self.clone()
        }
    }

    /// The most layers on the GPU with which it takes at most `room` bytes there.
    #[must_use]
    pub fn placement_that_fits(&self, room: u64) -> Option<&Placement> {
        let mut placements = self.placements.iter();
        placements.find(|placement| placement.device_bytes <= room)
    }

    /// The longest context with which it would take at most `room` bytes of the host; `None`
    /// where no context worth having does, or a GPU has a part of it.
    #[must_use]
    pub fn context_that_fits(&self, room: u64) -> Option<u32> {
        if self.device_bytes > 0 {
            return None;
        }
        let fixed = self.weights_bytes.saturating_add(self.other_bytes);
        let spare = u128::from(room.checked_sub(fixed)?);
        let tokens = (spare * u128::from(self.context)).checked_div(u128::from(self.kv_bytes))?;
        let tokens = u64::try_from(tokens).ok()? / CONTEXT_STEP * CONTEXT_STEP;
        let is_worth_having = tokens >= 2 * CONTEXT_STEP && tokens < u64::from(self.context);
        u32::try_from(tokens).ok().filter(|_| is_worth_having)
    }
}

/// What is known of a model whether it is in memory or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelTraits {
    pub architecture: Option<String>,
    pub quant: Option<String>,
    pub n_params: u64,
    pub weights_bytes: u64,
    /// What it was trained for, tokens.
    pub context_train: Option<u32>,
    /// The context that it will have, tokens.
    pub context: Option<u32>,
    pub can_chat: bool,
    pub can_call_tools: bool,
    pub can_complete: bool,
    pub can_embed: bool,
}

impl ModelTraits {
    /// Those of a model that has been loaded.
    #[must_use]
    pub fn of(facts: &ModelFacts) -> Self {
        let own_chat = facts.can_chat && facts.own_template;
        Self {
            architecture: Some(facts.architecture.clone()).filter(|name| !name.is_empty()),
            quant: None,
            n_params: facts.n_params,
            weights_bytes: facts.weights_bytes,
            context_train: Some(facts.context_train),
            context: Some(facts.context),
            can_chat: facts.can_chat,
            can_call_tools: own_chat && !facts.tool_format.is_empty(),
            can_complete: facts.can_complete,
            can_embed: facts.can_embed,
        }
    }
}

/// A model's place on the shelf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub residence: Residence,
    /// A request for it loads it, however it left.
    pub is_listed: bool,
    pub pinned: bool,
    /// What the ledger counts for it, the GPU's among them.
    pub bytes: u64,
    /// On the GPU.
    pub device_bytes: u64,
    /// From its process, and not from its file alone.
    pub is_measured: bool,
    pub running: u32,
    /// Requests that wait for it to be loaded.
    pub waiting: u32,
    /// How long its configuration lets it stay idle; `None`: until memory is needed.
    pub stay_ms: Option<u64>,
    /// When it goes if nobody asks for it; `None`: it does not.
    pub expires_in_ms: Option<u64>,
    /// It takes nothing new, because this model needs its memory.
    pub closed_for: Option<String>,
    /// It was unloaded because memory was short, and has not been loaded since.
    pub was_shed: bool,
    /// Until then it is not loaded again, because that failed.
    pub retry_in_ms: Option<u64>,
    pub helps: Option<String>,
    pub traits: ModelTraits,
}

/// Where a model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Residence {
    #[default]
    Out,
    Coming,
    In,
    Leaving,
}
