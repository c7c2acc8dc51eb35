//! One model: its phase, its worker and its jobs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::{
    FailureKind, FromWorker, Job, JobId, LoadFailure, LoadFailureKind, LoadSpec, ModelFacts,
    ToWorker,
};

use super::{Action, RequestId, Turn, WorkerId};
use crate::exit::{Exit, append_log};
use crate::{ModelPhase, ModelStatus, ProcessEnd};

#[derive(Debug)]
pub(crate) struct Model {
    spec: Arc<LoadSpec>,
    phase: Phase,
    pid: Option<u32>,
    was_ready: bool,
    restarts: u32,
    /// When it crashed, within the restart window.
    crashes: VecDeque<u64>,
    last_crash: Option<String>,
    loads: Vec<RequestId>,
    unloads: Vec<RequestId>,
    /// Jobs that wait for the model to become ready and to take them, oldest first.
    pending: VecDeque<Pending>,
    /// Jobs the worker has and has not finished.
    handed: BTreeMap<JobId, Handed>,
    /// Looks that were asked for, with the time each is given up.
    inspections: BTreeMap<RequestId, u64>,
}

#[derive(Debug)]
struct Pending {
    id: JobId,
    job: Job,
    until: u64,
    /// Workers that were given it and died before they began with it.
    lost_workers: u32,
}

#[derive(Debug)]
struct Handed {
    /// Kept until the first event: a job that has not begun can go to another worker.
    job: Option<Job>,
    lost_workers: u32,
}

#[derive(Debug)]
enum Phase {
    /// The process was started; its `Hello` is due by `until`.
    Starting {
        worker: WorkerId,
        until: u64,
    },
    Loading {
        worker: WorkerId,
        fraction: f32,
    },
    Ready {
        worker: WorkerId,
        facts: Arc<ModelFacts>,
    },
    /// The process is on its way out and is killed at `until`.
    Ending {
        worker: WorkerId,
        until: Option<u64>,
        then: Then,
    },
    Restarting {
        at: u64,
    },
    Failed(LoadFailure),
    /// To be dropped at the end of the step.
    Gone,
}

/// What an ending worker leaves behind.
#[derive(Debug)]
enum Then {
    Gone,
    Failed(LoadFailure),
    /// Treated as a crash for this reason.
    Crashed(String),
}

impl Pending {
    fn new(id: JobId, job: Job, turn: &Turn<'_>) -> Self {
        Self {
            id,
            job,
            until: turn.now.saturating_add(turn.limits.pending_wait_ms),
            lost_workers: 0,
        }
    }
}

impl Model {
    pub(crate) fn start(request: RequestId, spec: LoadSpec, turn: &mut Turn<'_>) -> Self {
        let mut model = Self {
            spec: Arc::new(spec),
            phase: Phase::Gone,
            pid: None,
            was_ready: false,
            restarts: 0,
            crashes: VecDeque::new(),
            last_crash: None,
            loads: vec![request],
            unloads: Vec::new(),
            pending: VecDeque::new(),
            handed: BTreeMap::new(),
            inspections: BTreeMap::new(),
        };
        model.spawn(turn);
        model
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn worker(&self) -> Option<WorkerId> {
        match self.phase {
            Phase::Starting { worker, .. }
            | Phase::Loading { worker, .. }
            | Phase::Ready { worker, .. }
            | Phase::Ending { worker, .. } => Some(worker),
            Phase::Restarting { .. } | Phase::Failed(_) | Phase::Gone => None,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    /// Drops a model that failed from the books.
    pub(crate) fn forget(&mut self) {
        self.phase = Phase::Gone;
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    pub(crate) fn status(&self, now: u64) -> ModelStatus {
        ModelStatus {
            name: self.spec.name.clone(),
            spec: LoadSpec::clone(&self.spec),
            phase: self.public_phase(now),
            pid: self.pid,
            restarts: self.restarts,
            last_crash: self.last_crash.clone(),
            place: crate::Place::default(),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Starting { until, .. } => Some(until),
            Phase::Ending { until, .. } => until,
            Phase::Restarting { at } => Some(at),
            _ => None,
        };
        let pending = self.pending.iter().map(|pending| pending.until).min();
        // All looks wait equally long; the one asked for first has the smallest id.
        let inspection = self.inspections.values().next().copied();
        [phase, pending, inspection].into_iter().flatten().min()
    }

    /// A load of a name that exists and is not ending.
    pub(crate) fn load_again(&mut self, request: RequestId, spec: LoadSpec, turn: &mut Turn<'_>) {
        if let Phase::Failed(_) = self.phase {
            *self = Self::start(request, spec, turn);
            return;
        }
        let result = if *self.spec != spec {
            let message = format!(
                "model `{}` is already loaded with other settings; unload it first",
                spec.name
            );
            Err(failure(LoadFailureKind::Setting, message))
        } else if let Phase::Ready { facts, .. } = &self.phase {
            Ok(Arc::clone(facts))
        } else {
            self.loads.push(request);
            return;
        };
        turn.actions.push(Action::AnswerLoad { request, result });
    }

    pub(crate) fn unload(&mut self, request: Option<RequestId>, turn: &mut Turn<'_>) {
        self.unloads.extend(request);
        let message = format!("model `{}` is being unloaded", self.spec.name);
        self.fail_pending(&FailureKind::Draining, &message, turn);
        self.answer_loads(Err(failure(LoadFailureKind::Resources, message)), turn);
        match &mut self.phase {
            Phase::Ready { worker, .. } => {
                let worker = *worker;
                turn.send(worker, ToWorker::Drain);
                let until = turn.now.saturating_add(turn.limits.drain_timeout_ms);
                self.end(worker, Some(until), Then::Gone, turn);
            }
            Phase::Starting { worker, .. } | Phase::Loading { worker, .. } => {
                let worker = *worker;
                turn.actions.push(Action::Kill { worker });
                self.end(worker, None, Then::Gone, turn);
            }
            Phase::Ending { then, .. } => {
                *then = Then::Gone;
                self.changed(turn);
            }
            Phase::Restarting { .. } | Phase::Failed(_) | Phase::Gone => self.gone(turn),
        }
    }

    pub(crate) fn submit(&mut self, id: JobId, job: Job, turn: &mut Turn<'_>) {
        let name = &self.spec.name;
        match &self.phase {
            Phase::Ready { worker, facts } => {
                let limit = capacity(facts);
                if self.handed.len() >= limit as usize {
                    let message = format!(
                        "model `{name}` already has {limit} unfinished requests (slots + queue_max)"
                    );
                    turn.fail(id, FailureKind::QueueFull { limit }, message);
                    return;
                }
                let worker = *worker;
                self.hand(worker, Pending::new(id, job, turn), turn);
            }
            Phase::Ending {
                then: Then::Failed(failure),
                ..
            }
            | Phase::Failed(failure) => {
                let message = format!("model `{name}` could not be loaded: {}", failure.message);
                turn.fail(id, FailureKind::ModelUnavailable, message);
            }
            Phase::Ending {
                then: Then::Gone, ..
            }
            | Phase::Gone => {
                let message = format!("model `{name}` is being unloaded");
                turn.fail(id, FailureKind::Draining, message);
            }
            Phase::Starting { .. }
            | Phase::Loading { .. }
            | Phase::Restarting { .. }
            | Phase::Ending {
                then: Then::Crashed(_),
                ..
            } => {
                let limit = turn.limits.pending_max;
                if self.pending.len() >= limit as usize {
                    let message =
                        format!("{limit} requests already wait for model `{name}` to be ready");
                    turn.fail(id, FailureKind::QueueFull { limit }, message);
                    return;
                }
                self.pending.push_back(Pending::new(id, job, turn));
            }
        }
    }

    /// Drops a job from the books and tells the worker; whether it was there.
    pub(crate) fn forget_job(&mut self, id: JobId, turn: &mut Turn<'_>) -> bool {
        if self.handed.remove(&id).is_some() {
            if let Some(worker) = self.worker() {
                turn.send(worker, ToWorker::Cancel { id });
            }
            self.hand_over(turn);
            return true;
        }
        let n_before = self.pending.len();
        self.pending.retain(|pending| pending.id != id);
        self.pending.len() < n_before
    }

    /// Only a worker that is ready holds anything for speed.
    pub(crate) fn give_back(&mut self, turn: &mut Turn<'_>) {
        if let Phase::Ready { worker, .. } = self.phase {
            turn.send(worker, ToWorker::GiveBack);
        }
    }

    /// The worker that takes jobs now.
    pub(crate) fn ready_worker(&self) -> Option<WorkerId> {
        match self.phase {
            Phase::Ready { worker, .. } => Some(worker),
            _ => None,
        }
    }

    pub(crate) fn inspect(&mut self, request: RequestId, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Ready { worker, .. } => {
                let until = turn.now.saturating_add(turn.limits.inspect_timeout_ms);
                self.inspections.insert(request, until);
                turn.send(worker, ToWorker::Inspect { ticket: request.0 });
            }
            _ => turn.actions.push(Action::AnswerInspect {
                request,
                state: None,
            }),
        }
    }

    pub(crate) fn connected(&mut self, turn: &mut Turn<'_>) {
        if let Phase::Starting { worker, .. } = self.phase {
            let version = proto::VERSION;
            turn.send(worker, ToWorker::Hello { version });
        }
    }

    pub(crate) fn message(&mut self, message: FromWorker, turn: &mut Turn<'_>) {
        match message {
            FromWorker::Hello { version, pid } => self.hello(version, pid, turn),
            FromWorker::LoadProgress { fraction: new } => {
                if let Phase::Loading { fraction, .. } = &mut self.phase {
                    *fraction = new.clamp(0.0, 1.0);
                    self.changed(turn);
                }
            }
            FromWorker::Loaded(facts) => self.loaded(*facts, turn),
            FromWorker::LoadFailed(failure) => self.load_failed(failure, turn),
            FromWorker::Event { id, event } => {
                let known = if event.is_last() {
                    self.handed.remove(&id).is_some()
                } else {
                    let handed = self.handed.get_mut(&id);
                    handed.map(|handed| handed.job = None).is_some()
                };
                if known {
                    turn.emit(id, event);
                    self.hand_over(turn);
                }
            }
            FromWorker::State { ticket, state } => {
                let request = RequestId(ticket);
                if self.inspections.remove(&request).is_some() {
                    turn.actions.push(Action::AnswerInspect {
                        request,
                        state: Some(state),
                    });
                }
            }
            FromWorker::Drained => {
                let soon = turn.now.saturating_add(turn.limits.exit_grace_ms);
                if let Phase::Ending {
                    worker,
                    until: Some(until),
                    ..
                } = &mut self.phase
                {
                    *until = (*until).min(soon);
                    let worker = *worker;
                    turn.actions.push(Action::Close { worker });
                }
            }
        }
    }

    pub(crate) fn exited(&mut self, exit: &Exit, turn: &mut Turn<'_>) {
        self.pid = None;
        let mut cause = exit.cause();
        match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Ending {
                then: Then::Gone,
                until,
                ..
            } => {
                // Without a time left it was us who ended it.
                match until {
                    None => self.cut_off(turn),
                    Some(_) => self.lose_jobs(&cause, turn),
                }
                self.gone(turn);
            }
            Phase::Ending {
                then: Then::Failed(failure),
                ..
            } => {
                self.lose_jobs(&cause, turn);
                self.fail(failure, turn);
            }
            Phase::Ending {
                then: Then::Crashed(mut reason),
                ..
            } => {
                append_log(&mut reason, &exit.log);
                self.keep_unbegun(turn);
                self.lose_jobs(&reason, turn);
                self.crashed(reason, turn);
            }
            Phase::Loading { .. } | Phase::Starting { .. } => {
                cause.insert_str(0, "while loading, ");
                // What the kernel does where memory runs out.
                let kind = match exit.end {
                    ProcessEnd::Signal(9) => LoadFailureKind::Resources,
                    _ => LoadFailureKind::Crashed,
                };
                self.crashed_by(kind, cause, turn);
            }
            _ => {
                self.keep_unbegun(turn);
                self.lose_jobs(&cause, turn);
                self.crashed(cause, turn);
            }
        }
    }

    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        self.expire_waits(turn);
        match &mut self.phase {
            Phase::Starting { worker, until } if *until <= turn.now => {
                let worker = *worker;
                let reason = format!(
                    "the worker did not say hello within {} ms",
                    turn.limits.hello_timeout_ms
                );
                turn.actions.push(Action::Kill { worker });
                self.end(worker, None, Then::Crashed(reason), turn);
            }
            Phase::Ending { worker, until, .. } if until.is_some_and(|at| at <= turn.now) => {
                *until = None;
                let worker = *worker;
                turn.actions.push(Action::Kill { worker });
            }
            Phase::Restarting { at } if *at <= turn.now => {
                self.restarts += 1;
                self.spawn(turn);
            }
            _ => {}
        }
    }

    fn hello(&mut self, version: u32, pid: u32, turn: &mut Turn<'_>) {
        let Phase::Starting { worker, .. } = self.phase else {
            return;
        };
        self.pid = Some(pid);
        if version != proto::VERSION {
            let message = format!(
                "the worker speaks protocol version {version}, this endpoint version {}; \
                 both must come from the same build",
                proto::VERSION
            );
            turn.actions.push(Action::Kill { worker });
            let failure = failure(LoadFailureKind::Crashed, message);
            self.end(worker, None, Then::Failed(failure), turn);
            return;
        }
        let spec = LoadSpec::clone(&self.spec);
        turn.send(worker, ToWorker::Load(Box::new(spec)));
        self.phase = Phase::Loading {
            worker,
            fraction: 0.0,
        };
        self.changed(turn);
    }

    fn loaded(&mut self, facts: ModelFacts, turn: &mut Turn<'_>) {
        let Phase::Loading { worker, .. } = self.phase else {
            return;
        };
        let facts = Arc::new(facts);
        self.phase = Phase::Ready {
            worker,
            facts: Arc::clone(&facts),
        };
        self.was_ready = true;
        self.changed(turn);
        self.answer_loads(Ok(facts), turn);
        self.hand_over(turn);
    }

    /// Gives a worker that is ready as many of the jobs that wait as it takes.
    fn hand_over(&mut self, turn: &mut Turn<'_>) {
        let Phase::Ready { worker, facts } = &self.phase else {
            return;
        };
        let worker = *worker;
        let n_free = (capacity(facts) as usize).saturating_sub(self.handed.len());
        for _ in 0..n_free {
            let Some(pending) = self.pending.pop_front() else {
                return;
            };
            self.hand(worker, pending, turn);
        }
    }

    fn hand(&mut self, worker: WorkerId, pending: Pending, turn: &mut Turn<'_>) {
        let Pending {
            id,
            job,
            lost_workers,
            ..
        } = pending;
        let handed = Handed {
            job: Some(job.clone()),
            lost_workers,
        };
        self.handed.insert(id, handed);
        turn.send(worker, ToWorker::Submit { id, job });
    }

    fn load_failed(&mut self, failure: LoadFailure, turn: &mut Turn<'_>) {
        let Phase::Loading { worker, .. } = self.phase else {
            return;
        };
        // Memory that was there before may be there again; a file does not mend itself.
        let then = if self.was_ready && failure.kind == LoadFailureKind::Resources {
            Then::Crashed(failure.message)
        } else {
            Then::Failed(failure)
        };
        let until = turn.now.saturating_add(turn.limits.exit_grace_ms);
        self.end(worker, Some(until), then, turn);
    }

    fn spawn(&mut self, turn: &mut Turn<'_>) {
        let worker = turn.new_worker();
        let until = turn.now.saturating_add(turn.limits.hello_timeout_ms);
        self.phase = Phase::Starting { worker, until };
        let spec = Arc::clone(&self.spec);
        turn.actions.push(Action::Spawn { worker, spec });
        self.changed(turn);
    }

    fn end(&mut self, worker: WorkerId, until: Option<u64>, then: Then, turn: &mut Turn<'_>) {
        self.answer_inspections(turn);
        self.phase = Phase::Ending {
            worker,
            until,
            then,
        };
        self.changed(turn);
    }

    fn crashed(&mut self, cause: String, turn: &mut Turn<'_>) {
        self.crashed_by(LoadFailureKind::Crashed, cause, turn);
    }

    fn crashed_by(&mut self, kind: LoadFailureKind, cause: String, turn: &mut Turn<'_>) {
        self.last_crash = Some(cause.clone());
        if !self.was_ready {
            self.fail(failure(kind, cause), turn);
            return;
        }
        let window_start = turn.now.saturating_sub(turn.limits.restart_window_ms);
        self.crashes.retain(|at| *at >= window_start);
        let n_crashes = u32::try_from(self.crashes.len()).unwrap_or(u32::MAX);
        if n_crashes >= turn.limits.restarts_max {
            let message = format!(
                "gave up after {n_crashes} restarts within {} s; at last {cause}",
                turn.limits.restart_window_ms / 1000
            );
            self.fail(failure(LoadFailureKind::Crashed, message), turn);
            return;
        }
        self.crashes.push_back(turn.now);
        let factor = 1u64.checked_shl(n_crashes).unwrap_or(u64::MAX);
        let wait_ms = turn.limits.backoff_first_ms.saturating_mul(factor);
        let at = turn.now + wait_ms.min(turn.limits.backoff_max_ms);
        self.phase = Phase::Restarting { at };
        self.changed(turn);
    }

    fn fail(&mut self, failure: LoadFailure, turn: &mut Turn<'_>) {
        let message = format!(
            "model `{}` could not be loaded: {}",
            self.spec.name, failure.message
        );
        self.phase = Phase::Failed(failure.clone());
        self.changed(turn);
        self.fail_pending(&FailureKind::ModelUnavailable, &message, turn);
        self.answer_loads(Err(failure), turn);
    }

    fn gone(&mut self, turn: &mut Turn<'_>) {
        self.phase = Phase::Gone;
        for request in self.unloads.drain(..) {
            turn.actions.push(Action::AnswerUnload {
                request,
                found: true,
            });
        }
    }

    /// Puts the jobs that a dead worker had not begun in front of those that wait. One
    /// whose preparation kills workers would do so for ever, so the times are bounded.
    fn keep_unbegun(&mut self, turn: &Turn<'_>) {
        let until = turn.now.saturating_add(turn.limits.pending_wait_ms);
        for (id, handed) in std::mem::take(&mut self.handed).into_iter().rev() {
            let lost_workers = handed.lost_workers + 1;
            match handed.job {
                Some(job) if lost_workers < turn.limits.workers_per_job_max => {
                    self.pending.push_front(Pending {
                        id,
                        job,
                        until,
                        lost_workers,
                    });
                }
                job => {
                    let handed = Handed { job, lost_workers };
                    self.handed.insert(id, handed);
                }
            }
        }
    }

    /// Fails the jobs that the worker had.
    fn lose_jobs(&mut self, cause: &str, turn: &mut Turn<'_>) {
        self.answer_inspections(turn);
        let name = &self.spec.name;
        for id in std::mem::take(&mut self.handed).into_keys() {
            let kind = FailureKind::WorkerLost {
                cause: cause.to_owned(),
            };
            turn.fail(id, kind, format!("the worker of model `{name}` died"));
        }
    }

    /// Fails the jobs that did not end in the time that a drain gives.
    fn cut_off(&mut self, turn: &mut Turn<'_>) {
        self.answer_inspections(turn);
        let message = format!(
            "model `{}` is being unloaded, and the request did not end within {} ms, the limit",
            self.spec.name, turn.limits.drain_timeout_ms
        );
        for id in std::mem::take(&mut self.handed).into_keys() {
            turn.fail(id, FailureKind::Draining, &*message);
        }
    }

    fn fail_pending(&mut self, kind: &FailureKind, message: &str, turn: &mut Turn<'_>) {
        for Pending { id, .. } in std::mem::take(&mut self.pending) {
            turn.fail(id, kind.clone(), message);
        }
    }

    fn answer_loads(&mut self, result: Result<Arc<ModelFacts>, LoadFailure>, turn: &mut Turn<'_>) {
        for request in self.loads.drain(..) {
            turn.actions.push(Action::AnswerLoad {
                request,
                result: result.clone(),
            });
        }
    }

    fn answer_inspections(&mut self, turn: &mut Turn<'_>) {
        for (request, _) in std::mem::take(&mut self.inspections) {
            turn.actions.push(Action::AnswerInspect {
                request,
                state: None,
            });
        }
    }

    fn expire_waits(&mut self, turn: &mut Turn<'_>) {
        let message = format!(
            "waited {} ms for model `{}` to take the request, the limit",
            turn.limits.pending_wait_ms, self.spec.name
        );
        self.pending.retain(|pending| {
            let due = pending.until <= turn.now;
            if due {
                turn.fail(pending.id, FailureKind::ModelUnavailable, &*message);
            }
            !due
        });
        self.inspections.retain(|request, until| {
            let due = *until <= turn.now;
            if due {
                turn.actions.push(Action::AnswerInspect {
                    request: *request,
                    state: None,
                });
            }
            !due
        });
    }

    fn changed(&self, turn: &mut Turn<'_>) {
        turn.actions.push(Action::Changed {
            model: self.spec.name.clone(),
            pid: self.pid,
            phase: Some(self.public_phase(turn.now)),
            last_crash: self.last_crash.clone(),
        });
    }

    fn public_phase(&self, now: u64) -> ModelPhase {
        match &self.phase {
            Phase::Starting { .. } => ModelPhase::Starting,
            Phase::Loading { fraction, .. } => ModelPhase::Loading {
                fraction: *fraction,
            },
            Phase::Ready { facts, .. } => ModelPhase::Ready(Arc::clone(facts)),
            Phase::Restarting { at } => ModelPhase::Restarting {
                in_ms: at.saturating_sub(now),
            },
            Phase::Ending { then, .. } => match then {
                Then::Gone => ModelPhase::Draining,
                Then::Failed(failure) => ModelPhase::Failed(failure.clone()),
                Then::Crashed(_) => ModelPhase::Restarting { in_ms: 0 },
            },
            Phase::Gone => ModelPhase::Draining,
            Phase::Failed(failure) => ModelPhase::Failed(failure.clone()),
        }
    }
}

/// Most jobs a worker has at a time, running and waiting.
fn capacity(facts: &ModelFacts) -> u32 {
    facts.slots.saturating_add(facts.queue_max).max(1)
}

fn failure(kind: LoadFailureKind, message: impl Into<String>) -> LoadFailure {
    LoadFailure {
        kind,
        message: message.into(),
    }
}
