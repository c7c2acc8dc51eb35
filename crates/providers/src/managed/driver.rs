//! The process of a managed engine: does what the machine says and tells it what happens.

use std::io;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use process::{LineSplitter, ProcessEnd};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::machine::{Action, Event, Stage};
use super::{Running, Shared};
use crate::Remote;

/// The first pause between two looks whether it is ready; each further one doubles it.
const LOOK_AFTER: Duration = Duration::from_millis(20);
const LOOK_AFTER_MAX: Duration = Duration::from_millis(500);
/// One look; an engine that loads may be slow to answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long its last words may take once it is gone; somebody else may hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the engine until it is not wanted any more.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut driver = Driver {
        shared: Arc::clone(&shared),
        engine: None,
        probe: None,
        stage: Stage::Stopped,
    };
    shared.step(Event::Begin);
    loop {
        while let Some(action) = driver.next_action() {
            driver.act(action).await;
        }
        driver.tell();
        if driver.shared.state().machine.is_over() {
            break;
        }
        driver.wait().await;
    }
    shared.over.send_replace(true);
}

struct Driver {
    shared: Arc<Shared>,
    engine: Option<Engine>,
    /// Returns when it is ready.
    probe: Option<BoxFuture<'static, ()>>,
    /// What was told last.
    stage: Stage,
}

impl Driver {
    fn next_action(&self) -> Option<Action> {
        self.shared.state().actions.pop_front()
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Spawn => {
                if let Err(cause) = self.spawn().await {
                    self.shared.step(Event::Exited(cause));
                }
            }
            Action::Terminate => self.signal(Signal::TERM),
            Action::Kill => self.signal(Signal::KILL),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(engine) = &self.engine {
            engine.signal(signal);
        }
    }

    async fn spawn(&mut self) -> Result<(), String> {
        let (config, command) = (&self.shared.config, &self.shared.command);
        let port = free_port(command.host(), command.port())?;
        let mut remote = config.remote.clone();
        remote.url = command.url(port);
        let remote = Remote::new(remote).map_err(|error| error.detail)?;
        let program = command.program();
        let child = in_nursery(self.command(port)).await;
        let child = child.map_err(|error| format!("`{program}` could not be started: {error}"))?;
        let engine = Engine::new(child, &self.shared);
        self.shared.state().process = Some(Running {
            pid: engine
                .pid
                .map(|pid| pid.as_raw_nonzero().get().unsigned_abs()),
            port,
            remote: Arc::new(remote),
        });
        self.engine = Some(engine);
        self.probe = Some(ready(command.health(port)).boxed());
        Ok(())
    }

    /// The command behind its tether, in a process group of its own: what a terminal sends to
    /// ours is not meant for it.
    fn command(&self, port: u16) -> Command {
        let (config, ours) = (&self.shared.config, &self.shared.command);
        let arguments = ours.arguments(port);
        let mut command = match config.tether.split_first() {
            Some((tether, arguments)) => {
                let mut command = Command::new(tether);
                command.args(arguments).arg(ours.program());
                command
            }
            None => Command::new(ours.program()),
        };
        command
            .args(arguments.iter().map(stdx::Secret::expose))
            .envs(ours.env.iter().map(|(name, value)| (name, value.expose())))
            // It is ours alone.
            .env_remove("SEXTANT_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Waits for whatever happens next.
    async fn wait(&mut self) {
        let shared = &self.shared;
        let wake = shared.state().machine.wake();
        let tick = async {
            match wake {
                Some(wake) => sleep_until(shared.epoch + Duration::from_millis(wake)).await,
                None => std::future::pending().await,
            }
        };
        let engine = &mut self.engine;
        let exit = async {
            match engine {
                Some(engine) => engine.wait().await,
                None => std::future::pending().await,
            }
        };
        let probe = &mut self.probe;
        let is_ready = async {
            match probe {
                Some(probe) => probe.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            () = tick => shared.step(Event::Tick),
            end = exit => self.ended(&end),
            () = is_ready => {
                self.probe = None;
                shared.step(Event::Ready);
            }
        }
    }

    fn ended(&mut self, end: &ProcessEnd) {
        (self.engine, self.probe) = (None, None);
        self.shared.state().process = None;
        let said = self.shared.log.lines().pop();
        let cause = match said {
            Some(line) => format!("it {end}; it said last: {line}"),
            None => format!("it {end}"),
        };
        self.shared.step(Event::Exited(cause));
    }

    /// Says in the log what has changed.
    fn tell(&mut self) {
        let state = self.shared.state();
        let stage = state.machine.stage();
        if std::mem::replace(&mut self.stage, stage) == stage {
            return;
        }
        let provider = &self.shared.config.remote.name;
        let process = state.process.as_ref();
        let pid = process.and_then(|process| process.pid).unwrap_or_default();
        let cause = state.machine.last_error().unwrap_or_default();
        match stage {
            Stage::Starting => {
                let port = process.map(|process| process.port);
                let command = self.shared.command.shown(port);
                tracing::info!(%provider, pid, command, "an engine is started");
            }
            Stage::Up => tracing::info!(%provider, pid, "an engine is up"),
            Stage::Stopping => tracing::info!(%provider, pid, "an engine is stopped"),
            Stage::Stopped => tracing::info!(%provider, "an engine is gone"),
            Stage::Backoff => tracing::warn!(%provider, cause, "an engine crashed"),
            Stage::Failed => tracing::error!(%provider, cause, "an engine is given up for now"),
        }
    }
}

/// The port that is wanted, if it is free, or else any that is.
fn free_port(host: &str, wanted: Option<u16>) -> Result<u16, String> {
    // Somebody else may take it before the engine does, which then ends and is started again.
    let listener = TcpListener::bind((host, wanted.unwrap_or(0)));
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(|error| match wanted {
            Some(port) => format!("it cannot listen on port {port} of {host}: {error}"),
            None => format!("there is no free port on {host}: {error}"),
        })
}

/// Returns when the engine answers that it is ready; until then it refuses connections or
/// answers 503.
async fn ready(url: String) {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(LOOK_TIMEOUT)
        .build();
    let Ok(client) = client else {
        tracing::error!("there is no client to look whether an engine is ready");
        return std::future::pending().await;
    };
    let mut pause = LOOK_AFTER;
    loop {
        let answer = client.get(&url).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_AFTER_MAX);
    }
}

/// A process and what it says. Dropping it kills it and all that it has started.
#[derive(Debug)]
struct Engine {
    child: Child,
    pid: Option<Pid>,
    log: Option<JoinHandle<()>>,
}

impl Engine {
    fn new(mut child: Child, shared: &Arc<Shared>) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let stderr = child.stderr.take();
        Self {
            pid: pid.and_then(Pid::from_raw),
            log: stderr.map(|stderr| tokio::spawn(follow(stderr, Arc::clone(shared)))),
            child,
        }
    }

    fn signal(&self, signal: Signal) {
        // The group is gone where there is nobody left in it.
        if let Some(pid) = self.pid {
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits for its end; may be called again after its future was dropped.
    async fn wait(&mut self) -> ProcessEnd {
        let end = match self.child.wait().await {
            Ok(status) => status.into(),
            Err(error) => ProcessEnd::Other(format!("could not be waited for: {error}")),
        };
        // What it has started goes with it.
        self.signal(Signal::KILL);
        if let Some(log) = &mut self.log {
            let _ = timeout(LAST_WORDS, log).await;
            self.log = None;
        }
        end
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

async fn follow(mut stderr: ChildStderr, shared: Arc<Shared>) {
    let provider = &shared.config.remote.name;
    let mut splitter = LineSplitter::default();
    let mut buffer = vec![0; 4096];
    let each = |line: &str| {
        let line = shared.command.scrubbed(line);
        tracing::debug!(%provider, "{line}");
        shared.log.push(&line);
    };
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        splitter.feed(&buffer[..n], each);
    }
    splitter.finish(each);
}

type Birth = Box<dyn FnOnce() + Send>;

/// Starts a process in a thread that never ends. A tether listens for the end of the thread
/// that a process was started in, and the threads of a runtime come and go.
async fn in_nursery(mut command: Command) -> io::Result<Child> {
    static NURSERY: OnceLock<Option<mpsc::Sender<Birth>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (sender, births) = mpsc::channel::<Birth>();
        let work = move || births.into_iter().for_each(|birth| birth());
        let thread = std::thread::Builder::new().name("engines".into());
        thread.spawn(work).ok().map(|_| sender)
    });
    let gone = || io::Error::other("the thread that starts engines is gone");
    let (answer, born) = oneshot::channel();
    let runtime = Handle::current();
    let birth: Birth = Box::new(move || {
        let _entered = runtime.enter();
        // A child that nobody takes is killed by its drop.
        let _ = answer.send(command.spawn());
    });
    let nursery = nursery.as_ref().ok_or_else(gone)?;
    nursery.send(birth).map_err(|_| gone())?;
    born.await.map_err(|_| gone())?
}
