//! Performs what the state machine decides: tasks, connections, time.
//!
//! Every event (a caller's request, a frame from a worker, a deadline) goes
//! through [`Inner::apply`], which steps the machine under a lock and performs the
//! actions; none of them blocks. A token thus takes one hop from the worker's
//! connection to the job's channel, and a caller that does not read holds up
//! nobody but itself.

mod backlog;
mod link;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use proto::{
    Event, FailureKind, Job, JobFailure, JobId, LoadFailure, LoadFailureKind, LoadSpec, ModelFacts,
    Placement, ToWorker, WorkerState,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::backlog::{Backlog, BacklogLimits, weight_bytes};
use self::link::WorkerLink;
use crate::core::{Action, Input, Limits, RequestId, State, WorkerId, step};
use crate::shelf::{self, Shelf};
use crate::{
    Company, Estimate, FleetConfig, Keep, Launcher, Listing, ModelPhase, ModelStatus, Observe,
    PressureState, Seen, drift,
};

/// Handle to all workers; cheap to clone. When the last handle and the last
/// [`JobStream`] are dropped, the workers are killed; [`Fleet::shutdown`] is the
/// orderly way.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// What to load, and how much it matters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOrder {
    pub spec: LoadSpec,
    /// Whether it is to stay in memory whatever else is asked for; left as it is where
    /// nothing is said.
    pub pin: Option<bool>,
    /// Load it even where it is expected not to fit.
    pub force: bool,
}

impl From<LoadSpec> for LoadOrder {
    fn from(spec: LoadSpec) -> Self {
        Self {
            spec,
            ..Self::default()
        }
    }
}

/// The events of one job. Dropping it before the last event cancels the job.
///
/// Events wait in memory until they are read. A caller that leaves more than
/// 262,144 events or 32 MiB unread loses its job: what was queued is still read,
/// then `Event::Failed` with `FailureKind::Cancelled` follows.
pub struct JobStream {
    id: JobId,
    inner: Arc<Inner>,
    events: mpsc::UnboundedReceiver<Event>,
    backlog: Arc<Backlog>,
    over: bool,
}

impl JobStream {
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The next event; `None` after the last one. A worker that dies after the first
    /// gives `Event::Failed` with `FailureKind::WorkerLost`. Dropping the future
    /// loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = self.events.recv().await;
        match &event {
            Some(event) => {
                self.backlog.remove(weight_bytes(event));
                self.over = event.is_last();
            }
            None => self.over = true,
        }
        event
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        if !self.over {
            self.inner.apply(shelf::Event::Cancel { id: self.id });
        }
    }
}

impl fmt::Debug for JobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobStream")
            .field("id", &self.id)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("models", &self.models())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet without models. Must be called within a Tokio runtime, which then
    /// carries its tasks.
    #[must_use]
    pub fn new(config: FleetConfig, launcher: Arc<dyn Launcher>) -> Self {
        let limits = (Limits::new(&config), shelf::Limits::new(&config));
        let hooks = (config.estimate, config.observe);
        let fleet = Self::with_limits(limits, Backlog::limits(), hooks, launcher);
        if let Some(source) = config.pressure {
            let watching = memory::watch(Arc::downgrade(&fleet.inner), source);
            fleet.inner.runtime.spawn(watching);
        }
        fleet
    }

    fn with_limits(
        (limits, shelf): (Limits, shelf::Limits),
        backlog: BacklogLimits,
        (estimate, observe): (Option<Estimate>, Option<Observe>),
        launcher: Arc<dyn Launcher>,
    ) -> Self {
        let inner = Arc::new_cyclic(|me| Inner {
            me: Weak::clone(me),
            launcher,
            runtime: Handle::current(),
            started: Instant::now(),
            backlog,
            estimate,
            observe,
            wake: Arc::new(Notify::new()),
            statuses: watch::Sender::new(Arc::default()),
            shared: Mutex::new(Shared {
                state: State::new(limits),
                shelf: Shelf::new(shelf),
                deadline: None,
                workers: HashMap::new(),
                jobs: HashMap::new(),
                answers: HashMap::new(),
                last_id: 0,
                pressure: PressureState::default(),
            }),
        });
        let timer = keep_time(Arc::downgrade(&inner), Arc::clone(&inner.wake));
        inner.runtime.spawn(timer);
        Self { inner }
    }

    /// Starts a worker and waits until the model is ready or has failed.
    ///
    /// A model that is already loaded with the same settings is waited for; with
    /// others it is an error. One that is just being unloaded is loaded again once
    /// it is gone, and one that failed is tried anew. Dropping the future does not
    /// stop the load.
    ///
    /// Where a limit of memory is set, room is made as for a request, and what cannot fit
    /// is an error with the figures.
    pub async fn load(&self, spec: LoadSpec) -> Result<Arc<ModelFacts>, LoadFailure> {
        self.load_by(spec.into()).await
    }

    /// As [`Fleet::load`], with a word on its place in memory.
    pub async fn load_by(&self, order: LoadOrder) -> Result<Arc<ModelFacts>, LoadFailure> {
        let LoadOrder { spec, pin, force } = order;
        let (spec, cost) = self.estimated(spec).await;
        let order = shelf::Order {
            spec,
            cost,
            pin,
            force,
        };
        let answer = self.inner.ask(Answer::Load, |request| {
            let order = Box::new(order);
            Feed::Shelf(shelf::Event::Load { request, order })
        });
        answer.await.unwrap_or_else(|_| {
            Err(LoadFailure {
                kind: LoadFailureKind::Resources,
                message: "the endpoint is shutting down".into(),
            })
        })
    }

    /// Drains and ends a model's worker; `false` if no such model is known. One that is
    /// listed stays on the shelf.
    pub async fn unload(&self, name: &str) -> bool {
        let model = name.to_owned();
        let answer = self.inner.ask(Answer::Unload, |request| {
            Feed::Shelf(shelf::Event::Unload { request, model })
        });
        answer.await.unwrap_or(false)
    }

    /// Makes these the models that are loaded on demand, in this order. One that is in
    /// memory and no longer among them stays until it is unloaded.
    pub fn shelve(&self, listings: Vec<Listing>) {
        self.inner.apply(shelf::Event::Shelve(listings));
    }

    /// Makes models known that are about to be loaded, so that requests for them wait.
    pub async fn expect(&self, specs: impl IntoIterator<Item = LoadSpec>) {
        for spec in specs {
            let (spec, cost) = self.estimated(spec).await;
            let spec = Box::new(spec);
            self.inner.apply(shelf::Event::Expect { spec, cost });
        }
    }

    /// Keeps a model in memory whatever else is asked for, or no longer does.
    pub fn pin(&self, name: &str, pin: bool) {
        let model = name.to_owned();
        self.inner.apply(shelf::Event::Pin { model, pin });
    }

    /// Says how long a model that is in memory stays there from now on when it has nothing to
    /// do. Whoever wishes that of one request says so when the request is over.
    pub fn keep(&self, name: &str, keep: Keep) {
        let model = name.to_owned();
        self.inner.apply(shelf::Event::Keep { model, keep });
    }

    /// All models: those of the shelf in its order, then others in the order they were
    /// loaded.
    #[must_use]
    pub fn models(&self) -> Vec<ModelStatus> {
        self.inner.lock().statuses(self.inner.now_ms())
    }

    /// The statuses whenever they change, load progress included: what
    /// [`Fleet::models`] gave at the time of the change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<[ModelStatus]>> {
        self.inner.statuses.subscribe()
    }

    /// Hands a job to the model's worker. Waits while the model is loading or
    /// restarting, for at most five minutes and with at most 256 jobs a model. A job
    /// that its worker had not begun when it died goes to the next worker, once.
    /// Dropping the future cancels the job.
    pub async fn submit(&self, model: &str, job: Job) -> Result<JobStream, JobFailure> {
        let (mut stream, accepted) = self.inner.submit(model, job);
        match accepted.await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(failure)) => {
                stream.over = true;
                Err(failure)
            }
            Err(_) => Err(JobFailure {
                kind: FailureKind::Internal,
                message: "the supervisor dropped the job".into(),
                param: None,
            }),
        }
    }

    /// A look at one worker; `None` if the model is not ready or does not answer
    /// within five seconds.
    pub async fn inspect(&self, model: &str) -> Option<WorkerState> {
        let model = model.to_owned();
        let answer = self.inner.ask(Answer::Inspect, |request| {
            Input::Inspect { request, model }.into()
        });
        answer.await.ok().flatten()
    }

    /// Lets a model that is ready compute on other cores from its next pass on. Jobs that
    /// are submitted afterwards see it; a worker that is started again does not.
    pub fn place(&self, model: &str, placement: Placement) {
        let model = model.to_owned();
        self.inner.apply(Input::Place { model, placement });
    }

    /// Drains every worker; returns when all have ended. No model can be loaded
    /// and no job submitted afterwards.
    pub async fn shutdown(&self) {
        self.inner.apply(shelf::Event::Close);
        let answer = self.inner.ask(Answer::Shutdown, |request| {
            Input::Shutdown { request }.into()
        });
        let _ = answer.await;
    }
}

struct JobLink {
    model: Arc<str>,
    /// Whether no other job was there while this one was.
    company: Company,
    events: mpsc::UnboundedSender<Event>,
    backlog: Arc<Backlog>,
    /// Present until the job is handed to a worker or refused.
    accepted: Option<oneshot::Sender<Result<(), JobFailure>>>,
}

enum Answer {
    Load(oneshot::Sender<Result<Arc<ModelFacts>, LoadFailure>>),
    Unload(oneshot::Sender<bool>),
    Inspect(oneshot::Sender<Option<WorkerState>>),
    Shutdown(oneshot::Sender<()>),
    /// A look at a model's process for the ledger.
    Measure(String),
}

/// Something that happened, and the machine it is for.
enum Feed {
    Core(Box<Input>),
    Shelf(shelf::Event),
}

impl From<Input> for Feed {
    fn from(input: Input) -> Self {
        Self::Core(Box::new(input))
    }
}

impl From<shelf::Event> for Feed {
    fn from(event: shelf::Event) -> Self {
        Self::Shelf(event)
    }
}

struct Shared {
    state: State,
    shelf: Shelf,
    /// What the timer was last told.
    deadline: Option<u64>,
    workers: HashMap<WorkerId, WorkerLink>,
    jobs: HashMap<JobId, JobLink>,
    answers: HashMap<RequestId, Answer>,
    last_id: u64,
    pressure: PressureState,
}

impl Shared {
    fn statuses(&self, now: u64) -> Vec<ModelStatus> {
        let mut in_books = self.state.statuses(now);
        let mut statuses = Vec::with_capacity(in_books.len());
        for name in self.shelf.names() {
            let Some((place, failure)) = self.shelf.place(name, now) else {
                continue;
            };
            let index = in_books.iter().position(|status| status.name == name);
            let mut status = match (index.map(|index| in_books.remove(index)), &failure) {
                // A failure that is forgiven is no state any more.
                (Some(status), failure)
                    if failure.is_some() || !matches!(status.phase, ModelPhase::Failed(_)) =>
                {
                    status
                }
                (_, failure) => ModelStatus {
                    name: name.to_owned(),
                    spec: self.shelf.spec(name).cloned().unwrap_or_default(),
                    phase: match failure {
                        Some(failure) => ModelPhase::Failed(failure.clone()),
                        None => ModelPhase::Unloaded,
                    },
                    pid: None,
                    restarts: 0,
                    last_crash: None,
                    place: crate::Place::default(),
                },
            };
            status.place = place;
            statuses.push(status);
        }
        statuses.extend(in_books);
        statuses
    }
}

struct Inner {
    me: Weak<Inner>,
    launcher: Arc<dyn Launcher>,
    runtime: Handle,
    started: Instant,
    backlog: BacklogLimits,
    estimate: Option<Estimate>,
    observe: Option<Observe>,
    wake: Arc<Notify>,
    statuses: watch::Sender<Arc<[ModelStatus]>>,
    shared: Mutex<Shared>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn apply(&self, feed: impl Into<Feed>) {
        self.apply_locked(&mut self.lock(), feed.into());
    }

    fn apply_locked(&self, shared: &mut Shared, feed: Feed) {
        // One time for all: what becomes due between two readings would be seen by neither the
        // steps nor the deadline.
        let now = self.now_ms();
        let mut feeds = VecDeque::from([feed]);
        while let Some(feed) = feeds.pop_front() {
            match feed {
                Feed::Core(input) => self.step_core(shared, (*input, now), &mut feeds),
                Feed::Shelf(event) => self.step_shelf(shared, (event, now), &mut feeds),
            }
        }
        let deadlines = [
            shared.state.next_deadline(),
            shared.shelf.next_deadline(now),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        if shared.deadline != deadline {
            shared.deadline = deadline;
            self.wake.notify_one();
        }
    }

    fn step_core(
        &self,
        shared: &mut Shared,
        (input, now): (Input, u64),
        feeds: &mut VecDeque<Feed>,
    ) {
        let mut changed = false;
        if let Input::Exited { worker, .. } = &input {
            shared.workers.remove(worker);
        }
        for action in step(&mut shared.state, input, now) {
            changed |= matches!(action, Action::Changed { .. });
            self.perform(shared, action, feeds);
        }
        if changed {
            self.publish(shared);
        }
    }

    fn step_shelf(
        &self,
        shared: &mut Shared,
        (event, now): (shelf::Event, u64),
        feeds: &mut VecDeque<Feed>,
    ) {
        let tells_nothing = matches!(
            event,
            shelf::Event::Arrive { .. }
                | shelf::Event::Ended { .. }
                | shelf::Event::Room { .. }
                | shelf::Event::Tick
        );
        let actions = shelf::step(&mut shared.shelf, event, now);
        for action in actions {
            self.perform_for_shelf(shared, action, feeds);
        }
        if !tells_nothing {
            self.publish(shared);
        }
    }

    fn publish(&self, shared: &Shared) {
        let statuses = shared.statuses(self.now_ms());
        self.statuses.send_replace(statuses.into());
    }

    fn perform_for_shelf(
        &self,
        shared: &mut Shared,
        action: shelf::Action,
        feeds: &mut VecDeque<Feed>,
    ) {
        let input = match action {
            shelf::Action::Load { request, spec } => Input::Load { request, spec },
            shelf::Action::Unload { request, model } => Input::Unload { request, model },
            shelf::Action::Submit { id, model, job } => Input::Submit { id, model, job },
            shelf::Action::Cancel { id } => Input::Cancel { id },
            shelf::Action::Refuse { id, failure } => {
                return self.emit(shared, (id, Event::Failed(failure)), feeds);
            }
            shelf::Action::AnswerLoad { request, failure } => {
                if let Some(Answer::Load(answer)) = shared.answers.remove(&request) {
                    let _ = answer.send(Err(failure));
                }
                return;
            }
            shelf::Action::AnswerUnload { request } => {
                if let Some(Answer::Unload(answer)) = shared.answers.remove(&request) {
                    let _ = answer.send(true);
                }
                return;
            }
            shelf::Action::Compare {
                model,
                planned,
                held,
            } => return drift::log(&model, &planned, held),
            shelf::Action::GiveBack { model } => Input::GiveBack { model },
            shelf::Action::TellShed { model, bytes } => {
                shared.pressure.unloads += 1;
                return tracing::warn!(
                    model,
                    bytes = %stdx::Bytes(bytes),
                    "unloaded, because memory is short"
                );
            }
            shelf::Action::Measure { model } => {
                shared.last_id += 1;
                let request = RequestId(shared.last_id);
                shared
                    .answers
                    .insert(request, Answer::Measure(model.clone()));
                Input::Inspect { request, model }
            }
        };
        feeds.push_back(input.into());
    }

    fn perform(&self, shared: &mut Shared, action: Action, feeds: &mut VecDeque<Feed>) {
        match action {
            Action::Spawn { worker, spec } => {
                let link = WorkerLink::start(self, worker, spec.name.clone());
                shared.workers.insert(worker, link);
            }
            Action::Send { worker, message } => {
                if let ToWorker::Submit { id, .. } = &message
                    && let Some(job) = shared.jobs.get_mut(id)
                    && let Some(accepted) = job.accepted.take()
                {
                    let _ = accepted.send(Ok(()));
                }
                if let Some(link) = shared.workers.get(&worker) {
                    link.send(message);
                }
            }
            Action::Kill { worker } => {
                if let Some(link) = shared.workers.get(&worker) {
                    link.kill();
                }
            }
            Action::Close { worker } => {
                if let Some(link) = shared.workers.get_mut(&worker) {
                    link.close();
                }
            }
            Action::Emit { id, event } => self.emit(shared, (id, event), feeds),
            Action::AnswerLoad { request, result } => {
                if let Some(Answer::Load(answer)) = shared.answers.remove(&request) {
                    let _ = answer.send(result);
                }
            }
            Action::AnswerUnload { request, found } => {
                if let Some(Answer::Unload(answer)) = shared.answers.remove(&request) {
                    let _ = answer.send(found);
                }
            }
            Action::AnswerInspect { request, state } => match shared.answers.remove(&request) {
                Some(Answer::Inspect(answer)) => {
                    let _ = answer.send(state);
                }
                Some(Answer::Measure(model)) => {
                    let bytes = state.map_or(0, |state| state.resident_bytes);
                    feeds.push_back(shelf::Event::Measured { model, bytes }.into());
                }
                _ => {}
            },
            Action::AnswerShutdown { request } => {
                if let Some(Answer::Shutdown(answer)) = shared.answers.remove(&request) {
                    let _ = answer.send(());
                }
            }
            Action::Changed {
                model,
                pid,
                phase,
                last_crash,
            } => {
                let cause = last_crash.unwrap_or_default();
                log_change(&model, pid, phase.as_ref(), &cause);
                if is_settled(phase.as_ref(), pid) {
                    feeds.push_back(shelf::Event::Phase { model, phase }.into());
                }
            }
        }
    }

    fn emit(&self, shared: &mut Shared, (id, event): (JobId, Event), feeds: &mut VecDeque<Feed>) {
        let Some(job) = shared.jobs.get_mut(&id) else {
            return;
        };
        let is_last = event.is_last();
        if let (Some(Observe(observe)), Event::Done { usage, timings }) = (&self.observe, &event)
            && let Some(spec) = shared.shelf.spec(&job.model)
        {
            observe(&Seen {
                spec,
                company: job.company,
                usage: *usage,
                timings: *timings,
            });
        }
        match (job.accepted.take(), event) {
            (Some(accepted), Event::Failed(failure)) => {
                let _ = accepted.send(Err(failure));
            }
            (_, event) => {
                let over = job.backlog.add(weight_bytes(&event), self.backlog);
                let _ = job.events.send(event);
                if let Some(detail) = over.filter(|_| !is_last) {
                    feeds.push_back(Input::Overflow { id, detail }.into());
                }
            }
        }
        if is_last {
            shared.jobs.remove(&id);
            feeds.push_back(shelf::Event::Ended { id }.into());
        }
    }

    /// Applies a request whose answer comes later.
    fn ask<T>(
        &self,
        answer: impl FnOnce(oneshot::Sender<T>) -> Answer,
        feed: impl FnOnce(RequestId) -> Feed,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut shared = self.lock();
        shared.last_id += 1;
        let request = RequestId(shared.last_id);
        shared.answers.insert(request, answer(sender));
        self.apply_locked(&mut shared, feed(request));
        receiver
    }

    fn submit(
        self: &Arc<Self>,
        model: &str,
        job: Job,
    ) -> (JobStream, oneshot::Receiver<Result<(), JobFailure>>) {
        let (sender, events) = mpsc::unbounded_channel();
        let (accepted_sender, accepted) = oneshot::channel();
        let backlog = Arc::new(Backlog::default());
        let mut shared = self.lock();
        shared.last_id += 1;
        let id = JobId(shared.last_id);
        let company = match shared.jobs.is_empty() {
            true => Company::Alone,
            false => Company::Others,
        };
        if shared.jobs.len() == 1 {
            // It was alone until now.
            let others = shared.jobs.values_mut();
            others.for_each(|job| job.company = Company::Others);
        }
        let link = JobLink {
            model: model.into(),
            company,
            events: sender,
            backlog: Arc::clone(&backlog),
            accepted: Some(accepted_sender),
        };
        shared.jobs.insert(id, link);
        let model = model.to_owned();
        let arrival = shelf::Event::Arrive { id, model, job };
        self.apply_locked(&mut shared, arrival.into());
        drop(shared);
        let stream = JobStream {
            id,
            inner: Arc::clone(self),
            events,
            backlog,
            over: false,
        };
        (stream, accepted)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The timer sees that the fleet is gone.
        self.wake.notify_one();
    }
}

/// Whether the shelf is to hear of a phase. A failed load holds its memory until its process
/// is gone.
fn is_settled(phase: Option<&ModelPhase>, pid: Option<u32>) -> bool {
    match phase {
        Some(ModelPhase::Failed(_)) => pid.is_none(),
        Some(ModelPhase::Loading { .. }) => false,
        _ => true,
    }
}

fn log_change(model: &str, pid: Option<u32>, phase: Option<&ModelPhase>, cause: &str) {
    match phase {
        None => tracing::info!(model, "gone"),
        Some(ModelPhase::Loading { fraction }) if *fraction > 0.0 => {
            tracing::trace!(model, pid, fraction, "loading");
        }
        Some(ModelPhase::Failed(failure)) => {
            tracing::error!(model, kind = ?failure.kind, "failed: {}", failure.message);
        }
        Some(ModelPhase::Restarting { in_ms }) => {
            tracing::warn!(model, in_ms, "will be started again: {cause}");
        }
        Some(phase) => tracing::info!(model, pid, "{}", phase.word()),
    }
}

/// Ticks the machine whenever a deadline of it is due.
async fn keep_time(fleet: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let due = match fleet.upgrade() {
            None => return,
            Some(inner) => {
                let deadline = inner.lock().deadline;
                deadline.map(|ms| inner.started + Duration::from_millis(ms))
            }
        };
        let timeout = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timeout => {
                if let Some(inner) = fleet.upgrade() {
                    inner.apply(Input::Tick);
                    inner.apply(shelf::Event::Tick);
                }
            }
            () = wake.notified() => {}
        }
    }
}
