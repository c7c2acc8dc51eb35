//! A llama-server that we run: started when it is needed, asked like any other, stopped when
//! it is not.
//!
//! When it starts and stops says `machine`, which is pure; `driver` has the process.
//! [`Managed`] stands between them and the requests: each of them is counted, and waits until
//! the engine is up. Nothing is started before the first survey or request, so that a
//! configuration can be checked without consequences. Dropping a [`Managed`] stops its engine
//! when the last request is done.

mod command;
mod driver;
mod machine;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use process::LogTail;
use proto::{JobFailure, UpstreamFault};
use router::Model;
use stdx::Secret;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use self::command::Command;
use self::machine::{Action, Event, Machine, Phase, Plan, Stage};
use crate::failure::failure;
use crate::kind::Kind;
use crate::survey;
use crate::{
    AddressError, EventStream, Order, ProcessStatus, Provider, Remote, RemoteConfig, Survey,
};

pub use self::machine::Start;

/// What is started, and how it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ManagedConfig {
    /// How it is asked. Its kind, its address and its reach follow from the command.
    pub remote: RemoteConfig,
    /// The program and its arguments. `--host`, `--port` and `--alias` are added where they
    /// are missing.
    pub command: Vec<Secret>,
    /// Further variables of its environment.
    pub env: BTreeMap<String, Secret>,
    /// Goes before the command: a program that runs what follows it in its own place, and
    /// sees to it that this ends when we do. Empty: nothing.
    pub tether: Vec<OsString>,
    pub start: Start,
    /// It stops after so long without a request; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// From its start until it can answer.
    pub start_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// A llama-server that we run.
#[derive(Debug)]
pub struct Managed {
    shared: Arc<Shared>,
    /// Filled when the driver runs.
    driven: OnceLock<()>,
}

/// How it looks to the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is there, but not loaded.
    Asleep,
    Up,
    Down,
}

impl From<Stage> for Look {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Stopped | Stage::Starting | Stage::Stopping => Self::Asleep,
            Stage::Up => Self::Up,
            Stage::Backoff | Stage::Failed => Self::Down,
        }
    }
}

/// What requests and the driver share.
#[derive(Debug)]
struct Shared {
    config: ManagedConfig,
    command: Command,
    state: Mutex<State>,
    /// There is something for the driver to do.
    wake: Notify,
    stages: watch::Sender<Stage>,
    /// What the last survey saw.
    surveyed: Mutex<Look>,
    /// Becomes true when the driver has ended.
    over: watch::Sender<bool>,
    log: LogTail,
    /// The machine's clock begins here.
    epoch: Instant,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    /// A step gives one action at most, and the driver takes them at once.
    actions: VecDeque<Action>,
    process: Option<Running>,
    /// What it listed when it was last asked.
    models: Vec<Model>,
}

/// The process as requests see it.
#[derive(Debug)]
struct Running {
    pid: Option<u32>,
    port: u16,
    remote: Arc<Remote>,
}

impl Managed {
    /// # Errors
    /// [`AddressError`] says what to change.
    pub fn new(mut config: ManagedConfig) -> Result<Self, AddressError> {
        let refuse = |detail: String| AddressError {
            provider: config.remote.name.clone(),
            detail,
        };
        let (words, env) = (config.command.clone(), config.env.clone());
        let command = Command::new(words, env, config.remote.key.clone()).map_err(refuse)?;
        config.remote.kind = Kind::LlamaServer;
        config.remote.reach.get_or_insert(Command::reach());
        config.remote.key.clone_from(&command.key);
        config.remote.url = command.url(command.port().unwrap_or(1));
        // What is wrong with the rest is told now and not at the first start.
        Remote::new(config.remote.clone())?;
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let plan = Plan {
            start: config.start,
            idle_ms: config.idle_timeout.map(ms),
            start_ms: ms(config.start_timeout),
            grace_ms: ms(config.grace),
        };
        let state = State {
            machine: Machine::new(plan),
            actions: VecDeque::new(),
            process: None,
            models: Vec::new(),
        };
        let shared = Shared {
            config,
            command,
            state: Mutex::new(state),
            wake: Notify::new(),
            stages: watch::Sender::new(Stage::Stopped),
            surveyed: Mutex::new(Look::Asleep),
            over: watch::Sender::new(false),
            log: LogTail::default(),
            epoch: Instant::now(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            driven: OnceLock::new(),
        })
    }

    /// The command line without its secrets.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.shared.command.shown(self.shared.command.port())
    }

    /// How far away it is.
    #[must_use]
    pub fn reach(&self) -> router::Reach {
        self.shared.config.remote.reach.unwrap_or(Command::reach())
    }

    fn drive(&self) {
        self.driven.get_or_init(|| {
            tokio::spawn(driver::run(Arc::clone(&self.shared)));
        });
    }

    async fn look(&self) -> Result<Survey, String> {
        self.drive();
        let stage = *self.shared.stages.borrow();
        *self.shared.surveyed() = stage.into();
        let remote = match self.shared.now() {
            Now::Up(remote) => remote,
            Now::Soon => return Ok(self.asleep()),
            Now::No(cause) => return Err(cause),
        };
        let survey = remote.survey().await?;
        self.shared.state().models.clone_from(&survey.models);
        Ok(survey)
    }

    /// What it would have if it were up.
    fn asleep(&self) -> Survey {
        let mut models = self.shared.state().models.clone();
        if models.is_empty() {
            let names = match self.shared.config.remote.models.as_slice() {
                [] => self.shared.command.model.as_slice(),
                names => names,
            };
            let named = names
                .iter()
                .map(|name| survey::named(Kind::LlamaServer, name));
            models = named.collect();
        }
        for model in &mut models {
            model.is_loaded = false;
        }
        Survey { models }
    }

    /// Waits until it is up; it stays up for as long as the [`Stay`] is there.
    async fn ready(&self) -> Result<(Arc<Remote>, Stay), JobFailure> {
        self.drive();
        let mut stages = self.shared.stages.subscribe();
        let stay = Stay::new(&self.shared);
        let name = &self.shared.config.remote.name;
        let unreachable = |cause: String| {
            let message = format!("`{name}` cannot be reached: {cause}.");
            failure(UpstreamFault::Unreachable, message)
        };
        let up = async {
            loop {
                stages.mark_unchanged();
                match self.shared.now() {
                    Now::Up(remote) => return Ok(remote),
                    Now::No(cause) => return Err(unreachable(cause)),
                    // The sender lives as long as we do.
                    Now::Soon => drop(stages.changed().await),
                }
            }
        };
        // One that is just being stopped has to go first.
        let config = &self.shared.config;
        let limit = config.start_timeout.saturating_add(config.grace);
        match timeout(limit, up).await {
            Ok(remote) => Ok((remote?, stay)),
            Err(_) => {
                let limit = limit.as_secs();
                Err(unreachable(format!("it was not up within {limit} s")))
            }
        }
    }

    async fn ask(&self, order: Order) -> Result<EventStream, JobFailure> {
        let (remote, stay) = self.ready().await?;
        let events = remote.submit(order).await?;
        let events = events.map(move |event| {
            // It stays up for as long as the stream is there.
            let _held = &stay;
            event
        });
        Ok(events.boxed())
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.shared.step(Event::Retire);
    }
}

impl Provider for Managed {
    fn survey(&self) -> BoxFuture<'_, Result<Survey, String>> {
        self.look().boxed()
    }

    fn submit(&self, order: Order) -> BoxFuture<'_, Result<EventStream, JobFailure>> {
        self.ask(order).boxed()
    }

    fn is_same(&self, other: &dyn Provider) -> bool {
        let other = (other as &dyn Any).downcast_ref::<Self>();
        other.is_some_and(|other| other.shared.config == self.shared.config)
    }

    fn process(&self) -> Option<ProcessStatus> {
        let state = self.shared.state();
        let process = state.process.as_ref();
        let port = process.map(|process| process.port);
        Some(ProcessStatus {
            phase: state.machine.stage().word(),
            pid: process.and_then(|process| process.pid),
            restarts: state.machine.restarts(),
            command: self
                .shared
                .command
                .shown(port.or(self.shared.command.port())),
            last_error: state.machine.last_error().map(str::to_owned),
            log: self.shared.log.lines(),
        })
    }

    fn url(&self) -> Option<String> {
        let port = self.shared.state().process.as_ref().map(|one| one.port);
        let port = port.or(self.shared.command.port())?;
        Some(self.shared.command.url(port))
    }

    fn changed(&self) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.shared);
        async move {
            let mut stages = shared.stages.subscribe();
            let seen = *shared.surveyed();
            // The sender lives as long as we do.
            let _ = stages.wait_for(|stage| Look::from(*stage) != seen).await;
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.step(Event::Close);
            if self.driven.get().is_some() {
                let mut over = self.shared.over.subscribe();
                let _ = over.wait_for(|over| *over).await;
            }
        }
        .boxed()
    }
}

/// What a request finds.
enum Now {
    Up(Arc<Remote>),
    /// It is being started, or will be.
    Soon,
    /// Why it cannot be asked.
    No(String),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn surveyed(&self) -> MutexGuard<'_, Look> {
        self.surveyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells the machine, and everybody what became of it.
    fn step(&self, event: Event) {
        let now = self.now_ms();
        let stage = {
            let mut state = self.state();
            let action = state.machine.step(event, now);
            state.actions.extend(action);
            state.machine.stage()
        };
        self.stages.send_if_modified(|known| {
            let differs = *known != stage;
            *known = stage;
            differs
        });
        self.wake.notify_one();
    }

    fn now(&self) -> Now {
        let state = self.state();
        let last_error = || {
            state
                .machine
                .last_error()
                .unwrap_or("it crashed")
                .to_owned()
        };
        match (state.machine.phase(), &state.process) {
            (Phase::Up { .. }, Some(process)) => Now::Up(Arc::clone(&process.remote)),
            (Phase::Backoff { until }, _) => {
                let wait = until.saturating_sub(self.now_ms()).div_ceil(1000);
                Now::No(format!("{}; it is started again in {wait} s", last_error()))
            }
            (Phase::Failed { rested }, _) => {
                let wait = rested.saturating_sub(self.now_ms()).div_ceil(1000);
                let n = machine::CRASHES_MAX;
                let cause = last_error();
                Now::No(format!(
                    "{cause}; it crashed {n} times and may be tried again in {wait} s"
                ))
            }
            (Phase::Stopped | Phase::Stopping { .. }, _) if state.machine.is_leaving() => {
                Now::No("it has been stopped for good".into())
            }
            _ => Now::Soon,
        }
    }
}

/// A request that waits for the engine or is with it.
#[derive(Debug)]
struct Stay(Arc<Shared>);

impl Stay {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.step(Event::Came);
        Self(Arc::clone(shared))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.step(Event::Left);
    }
}
