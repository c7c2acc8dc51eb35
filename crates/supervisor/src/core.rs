//! What happens to a model and its jobs, as a pure state machine.
//!
//! [`step`] takes what happened and the time and gives what to do. It knows no
//! process, socket or clock, so every path is tested as a script. The driver
//! performs the actions in order and promises two things: each [`Action::Spawn`]
//! is answered by exactly one [`Input::Exited`], and [`Input::Tick`] comes at or
//! after [`State::next_deadline`].
//!
//! ```text
//! Starting -> Loading -> Ready -> Ending(Gone) -> gone
//!     \          \         \
//!      \          \         +-- crash --> Restarting -> Starting
//!       +----------+-- first load fails --> Failed
//! ```
//!
//! A crash before the model was ever ready is final: the caller of `load` waits,
//! and what kills a worker at its first load kills it again. Later crashes are
//! answered by restarts with exponential backoff.

mod model;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use proto::{
    Event, FailureKind, FromWorker, Job, JobFailure, JobId, LoadFailure, LoadFailureKind, LoadSpec,
    ModelFacts, Placement, ToWorker, WorkerState,
};

use self::model::Model;
use crate::exit::Exit;
use crate::{FleetConfig, ModelPhase, ModelStatus, WAIT_MAX, WAITING_MAX};

/// One incarnation of a worker; a restart gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId(pub(crate) u64);

/// Someone who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// Every number the machine decides by.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) hello_timeout_ms: u64,
    pub(crate) drain_timeout_ms: u64,
    pub(crate) restarts_max: u32,
    pub(crate) restart_window_ms: u64,
    /// The first restart waits this long, each further one within the window twice as long.
    pub(crate) backoff_first_ms: u64,
    pub(crate) backoff_max_ms: u64,
    /// Jobs of one model that wait for it to become ready.
    pub(crate) pending_max: u32,
    /// How long each of them waits before it fails.
    pub(crate) pending_wait_ms: u64,
    /// Workers that may die with a job they have not begun before it fails.
    pub(crate) workers_per_job_max: u32,
    pub(crate) inspect_timeout_ms: u64,
    /// Models that could not be loaded and are still listed with the reason.
    pub(crate) failed_max: u32,
    /// How long a worker that said its last word may take to exit.
    pub(crate) exit_grace_ms: u64,
}

impl Limits {
    pub(crate) fn new(config: &FleetConfig) -> Self {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            hello_timeout_ms: ms(config.hello_timeout),
            drain_timeout_ms: ms(config.drain_timeout),
            restarts_max: config.restarts_max,
            restart_window_ms: ms(config.restart_window),
            backoff_first_ms: 250,
            backoff_max_ms: 30_000,
            pending_max: WAITING_MAX,
            pending_wait_ms: ms(WAIT_MAX),
            workers_per_job_max: 2,
            inspect_timeout_ms: 5_000,
            failed_max: 16,
            exit_grace_ms: 2_000,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Load {
        request: RequestId,
        spec: LoadSpec,
    },
    Unload {
        request: RequestId,
        model: String,
    },
    Shutdown {
        request: RequestId,
    },
    Submit {
        id: JobId,
        model: String,
        job: Job,
    },
    /// The job's caller is gone.
    Cancel {
        id: JobId,
    },
    /// The job's caller reads too slowly; `detail` names the limit.
    Overflow {
        id: JobId,
        detail: String,
    },
    /// The job could not be written to the worker.
    Unsendable {
        id: JobId,
        detail: String,
    },
    Inspect {
        request: RequestId,
        model: String,
    },
    /// Memory is short: what a model holds only for speed is to be given back.
    GiveBack {
        model: String,
    },
    /// Compute on other cores from now on; forgotten where the worker is started anew.
    Place {
        model: String,
        placement: Placement,
    },
    /// The worker's process runs and its connection is open.
    Connected {
        worker: WorkerId,
    },
    Message {
        worker: WorkerId,
        message: FromWorker,
    },
    /// The process is gone, or never came to be.
    Exited {
        worker: WorkerId,
        exit: Exit,
    },
    Tick,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Spawn {
        worker: WorkerId,
        spec: Arc<LoadSpec>,
    },
    Send {
        worker: WorkerId,
        message: ToWorker,
    },
    Kill {
        worker: WorkerId,
    },
    /// Close the connection of a worker that has said its last word.
    Close {
        worker: WorkerId,
    },
    /// An event for the job's caller. After one that is the last, none follows.
    Emit {
        id: JobId,
        event: Event,
    },
    AnswerLoad {
        request: RequestId,
        result: Result<Arc<ModelFacts>, LoadFailure>,
    },
    AnswerUnload {
        request: RequestId,
        found: bool,
    },
    AnswerInspect {
        request: RequestId,
        state: Option<WorkerState>,
    },
    AnswerShutdown {
        request: RequestId,
    },
    /// The statuses changed; `phase` is `None` when the model is gone.
    Changed {
        model: String,
        pid: Option<u32>,
        phase: Option<ModelPhase>,
        /// Why the last worker died.
        last_crash: Option<String>,
    },
}

/// All models and their jobs.
#[derive(Debug)]
pub(crate) struct State {
    limits: Limits,
    /// In the order they were loaded.
    models: Vec<Model>,
    /// Loads that wait for the end of a model of the same name.
    deferred: Vec<(RequestId, LoadSpec)>,
    shutdowns: Vec<RequestId>,
    closing: bool,
    next_worker: u64,
}

/// What one step has to hand: the limits, the time and the actions so far.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) now: u64,
    pub(crate) next_worker: &'a mut u64,
    pub(crate) actions: Vec<Action>,
}

impl Turn<'_> {
    fn new_worker(&mut self) -> WorkerId {
        *self.next_worker += 1;
        WorkerId(*self.next_worker)
    }

    fn emit(&mut self, id: JobId, event: Event) {
        self.actions.push(Action::Emit { id, event });
    }

    fn fail(&mut self, id: JobId, kind: FailureKind, message: impl Into<String>) {
        let failure = JobFailure {
            kind,
            message: message.into(),
            param: None,
        };
        self.emit(id, Event::Failed(failure));
    }

    fn send(&mut self, worker: WorkerId, message: ToWorker) {
        self.actions.push(Action::Send { worker, message });
    }
}

/// Takes in what happened at `now` (milliseconds, never going back) and gives what to do.
pub(crate) fn step(state: &mut State, input: Input, now: u64) -> Vec<Action> {
    let State {
        limits,
        models,
        deferred,
        shutdowns,
        closing,
        next_worker,
    } = state;
    let mut turn = Turn {
        limits,
        now,
        next_worker,
        actions: Vec::new(),
    };
    match input {
        Input::Load { request, spec } => deferred.push((request, spec)),
        Input::Shutdown { request } => {
            *closing = true;
            shutdowns.push(request);
            for model in models.iter_mut() {
                model.unload(None, &mut turn);
            }
        }
        Input::Submit { id, .. } if *closing => {
            turn.fail(id, FailureKind::Draining, "the endpoint is shutting down");
        }
        input => pass_on(models, input, &mut turn),
    }
    forget_failed(models, limits.failed_max);
    sweep(models, &mut turn);
    start_deferred(models, deferred, *closing, &mut turn);
    if *closing && models.is_empty() {
        turn.actions.extend(
            shutdowns
                .drain(..)
                .map(|request| Action::AnswerShutdown { request }),
        );
    }
    turn.actions
}

impl State {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            models: Vec::new(),
            deferred: Vec::new(),
            shutdowns: Vec::new(),
            closing: false,
            next_worker: 0,
        }
    }

    /// When [`Input::Tick`] is due; `None` while nothing waits on time.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.models.iter().filter_map(Model::next_deadline).min()
    }

    /// What is known of each model at `now`.
    pub(crate) fn statuses(&self, now: u64) -> Vec<ModelStatus> {
        self.models.iter().map(|model| model.status(now)).collect()
    }
}

fn find<'a>(models: &'a mut [Model], name: &str) -> Option<&'a mut Model> {
    models.iter_mut().find(|model| model.name() == name)
}

fn find_worker(models: &mut [Model], worker: WorkerId) -> Option<&mut Model> {
    models
        .iter_mut()
        .find(|model| model.worker() == Some(worker))
}

/// Takes an input to the model it is about.
fn pass_on(models: &mut [Model], input: Input, turn: &mut Turn<'_>) {
    match input {
        Input::Unload { request, model } => match find(models, &model) {
            Some(model) => model.unload(Some(request), turn),
            None => turn.actions.push(Action::AnswerUnload {
                request,
                found: false,
            }),
        },
        Input::Submit { id, model, job } => submit(models, (id, job), &model, turn),
        Input::Cancel { id } => {
            end_job(
                models,
                id,
                FailureKind::Cancelled,
                "the caller is gone",
                turn,
            );
        }
        Input::Overflow { id, detail } => {
            end_job(models, id, FailureKind::Cancelled, &detail, turn);
        }
        Input::Unsendable { id, detail } => {
            end_job(models, id, FailureKind::InvalidRequest, &detail, turn);
        }
        Input::Inspect { request, model } => match find(models, &model) {
            Some(model) => model.inspect(request, turn),
            None => turn.actions.push(Action::AnswerInspect {
                request,
                state: None,
            }),
        },
        Input::GiveBack { model } => {
            if let Some(model) = find(models, &model) {
                model.give_back(turn);
            }
        }
        Input::Place { model, placement } => {
            if let Some(worker) = find(models, &model).and_then(|model| model.ready_worker()) {
                turn.send(worker, ToWorker::Place(placement));
            }
        }
        Input::Connected { worker } => {
            if let Some(model) = find_worker(models, worker) {
                model.connected(turn);
            }
        }
        Input::Message { worker, message } => {
            if let Some(model) = find_worker(models, worker) {
                model.message(message, turn);
            }
        }
        Input::Exited { worker, exit } => {
            if let Some(model) = find_worker(models, worker) {
                model.exited(&exit, turn);
            }
        }
        Input::Tick => {
            for model in models.iter_mut() {
                model.tick(turn);
            }
        }
        // About the whole fleet; handled by `step`.
        Input::Load { .. } | Input::Shutdown { .. } => {}
    }
}

fn submit(models: &mut [Model], (id, job): (JobId, Job), name: &str, turn: &mut Turn<'_>) {
    if let Some(model) = find(models, name) {
        model.submit(id, job, turn);
        return;
    }
    let loaded: Vec<_> = models.iter().map(Model::name).collect();
    let message = match loaded.as_slice() {
        [] => format!("model `{name}` is not loaded; no model is"),
        loaded => format!(
            "model `{name}` is not loaded; loaded models: {}",
            loaded.join(", ")
        ),
    };
    turn.fail(id, FailureKind::ModelUnavailable, message);
}

/// Ends a job from this side: tells its worker where it has one, and its caller.
fn end_job(models: &mut [Model], id: JobId, kind: FailureKind, message: &str, turn: &mut Turn<'_>) {
    if models.iter_mut().any(|model| model.forget_job(id, turn)) {
        turn.fail(id, kind, message);
    }
}

/// Forgets the oldest of too many that could not be loaded: any number of names can be
/// tried.
fn forget_failed(models: &mut [Model], failed_max: u32) {
    let n_failed = models.iter().filter(|model| model.is_failed()).count();
    let n_over = n_failed.saturating_sub(failed_max as usize);
    let failed = models.iter_mut().filter(|model| model.is_failed());
    failed.take(n_over).for_each(Model::forget);
}

/// Drops the models that are gone.
fn sweep(models: &mut Vec<Model>, turn: &mut Turn<'_>) {
    models.retain(|model| {
        if model.is_gone() {
            turn.actions.push(Action::Changed {
                model: model.name().to_owned(),
                pid: None,
                phase: None,
                last_crash: None,
            });
        }
        !model.is_gone()
    });
}

/// Starts the loads that nothing stands in the way of any more.
fn start_deferred(
    models: &mut Vec<Model>,
    deferred: &mut Vec<(RequestId, LoadSpec)>,
    closing: bool,
    turn: &mut Turn<'_>,
) {
    let mut waiting = Vec::new();
    for (request, spec) in deferred.drain(..) {
        if closing {
            let result = Err(LoadFailure {
                kind: LoadFailureKind::Resources,
                message: "the endpoint is shutting down".into(),
            });
            turn.actions.push(Action::AnswerLoad { request, result });
            continue;
        }
        match find(models, &spec.name) {
            Some(model) if model.is_ending() => waiting.push((request, spec)),
            Some(model) => model.load_again(request, spec, turn),
            None => models.push(Model::start(request, spec, turn)),
        }
    }
    *deferred = waiting;
}
