//! Which models are in memory, as a pure state machine over a ledger in bytes.
//!
//! The shelf is the set of models that this machine may load. A job for one that is not
//! in memory waits while [`step`] makes room: it takes idle models out, those first whose
//! loss costs least, and where only busy models stand in the way it lets them work until a
//! job has waited for [`Limits::swap_wait_max_ms`]. Then the busy ones are closed: they
//! finish what they have, take nothing new, and go. What comes for a closed model waits
//! and is answered in one go when it is back, so that interleaved requests for two models
//! cost a swap a batch and not a swap a request.
//!
//! A model that has just become idle is left alone for a moment where its clients use to
//! come back at once (anticipatory scheduling: Iyer and Druschel, SOSP 2001), because a
//! swap costs far more than the wait.
//!
//! The processes themselves belong to `core`; this machine stands in front of it. The
//! driver performs the actions in order, tells every change of phase ([`Event::Phase`])
//! and the end of every job it was told to submit ([`Event::Ended`]), and sends
//! [`Event::Tick`] at or after [`Shelf::next_deadline`].

mod entry;
mod room;
mod space;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{FailureKind, Job, JobFailure, JobId, LoadFailure, LoadFailureKind, LoadSpec};

use self::entry::{Entry, Phase, Waiter, Waiting};
use self::space::Space;
use crate::core::RequestId;
use crate::drift::Held;
use crate::{FleetConfig, Keep, Listing, MemoryCost, ModelPhase, Place, WAIT_MAX, WAITING_MAX};

/// The request of loads and unloads that nobody asked for by name.
pub(crate) const NOBODY: RequestId = RequestId(0);

/// Every number the shelf decides by.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes that all models together may take.
    pub(crate) memory_max: u64,
    /// And of a GPU.
    pub(crate) device_memory_max: u64,
    /// How long a job waits before busy models make room for it.
    pub(crate) swap_wait_max_ms: u64,
    /// How long an idle model stays that says nothing of it; `None` is for ever.
    pub(crate) keep_alive_ms: Option<u64>,
    /// Jobs of one model that wait for it to be loaded.
    pub(crate) waiting_max: u32,
    /// How long each of them waits before it fails.
    pub(crate) wait_max_ms: u64,
    /// A model that could not be loaded is left alone this long, then twice as long.
    pub(crate) cooldown_first_ms: u64,
    pub(crate) cooldown_max_ms: u64,
}

impl Limits {
    pub(crate) fn new(config: &FleetConfig) -> Self {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            memory_max: config.memory_max.unwrap_or(u64::MAX),
            device_memory_max: config.device_memory_max.unwrap_or(u64::MAX),
            swap_wait_max_ms: ms(config.swap_wait_max),
            keep_alive_ms: config.keep_alive.map(ms),
            waiting_max: WAITING_MAX,
            wait_max_ms: ms(WAIT_MAX),
            cooldown_first_ms: 10_000,
            cooldown_max_ms: 300_000,
        }
    }

    /// What all models together may take.
    const fn space(&self) -> Space {
        Space {
            host: self.memory_max,
            device: self.device_memory_max,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// These are the models that may be loaded on demand; those of before no longer are.
    Shelve(Vec<Listing>),
    /// Somebody will want this model in memory in a moment.
    Expect {
        spec: Box<LoadSpec>,
        cost: MemoryCost,
    },
    /// Somebody wants this model in memory.
    Load {
        request: RequestId,
        order: Box<Order>,
    },
    Unload {
        request: RequestId,
        model: String,
    },
    Pin {
        model: String,
        pin: bool,
    },
    Keep {
        model: String,
        keep: Keep,
    },
    Arrive {
        id: JobId,
        model: String,
        job: Job,
    },
    /// The job's caller is gone.
    Cancel {
        id: JobId,
    },
    /// A job that was submitted has had its last event.
    Ended {
        id: JobId,
    },
    /// The model's worker is in another phase; `None`: it is gone.
    Phase {
        model: String,
        phase: Option<ModelPhase>,
    },
    /// What the model's process holds.
    Measured {
        model: String,
        bytes: u64,
    },
    /// The endpoint ends: nothing waits any longer.
    Close,
    /// Memory runs short: idle models give back what they hold only for speed.
    Shrink,
    /// So many bytes of idle models must go.
    Shed {
        bytes: u64,
    },
    /// Models may take so many bytes more than they hold.
    Room {
        bytes: u64,
    },
    Tick,
}

/// A load by name.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) spec: LoadSpec,
    pub(crate) cost: MemoryCost,
    /// Left as it is where nothing is said.
    pub(crate) pin: Option<bool>,
    /// Load it even where the ledger says that it does not fit.
    pub(crate) force: bool,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Load {
        request: RequestId,
        spec: LoadSpec,
    },
    Unload {
        request: RequestId,
        model: String,
    },
    Submit {
        id: JobId,
        model: String,
        job: Job,
    },
    Cancel {
        id: JobId,
    },
    Refuse {
        id: JobId,
        failure: JobFailure,
    },
    AnswerLoad {
        request: RequestId,
        failure: LoadFailure,
    },
    AnswerUnload {
        request: RequestId,
    },
    /// Have the model's worker give back what it holds only for speed.
    GiveBack {
        model: String,
    },
    /// Say that a model is unloaded because memory is short.
    TellShed {
        model: String,
        bytes: u64,
    },
    /// Find out what the model's process holds.
    Measure {
        model: String,
    },
    /// Say what a model takes, next to what was expected.
    Compare {
        model: String,
        planned: MemoryCost,
        held: Held,
    },
}

/// All models that may be loaded.
#[derive(Debug)]
pub(crate) struct Shelf {
    limits: Limits,
    /// What the configuration lets models take; less is in `limits` while memory is short.
    memory_max: u64,
    entries: Vec<Entry>,
    /// The model of each job that runs.
    running: BTreeMap<JobId, Arc<str>>,
    closing: bool,
}

/// What one step has to hand.
#[derive(Debug)]
struct Turn<'a> {
    limits: &'a Limits,
    now: u64,
    /// Memory is short, or was a moment ago: models may take less than they are configured to.
    is_short: bool,
    actions: Vec<Action>,
}

impl<'a> Turn<'a> {
    fn new(limits: &'a Limits, is_short: bool, now: u64) -> Self {
        Self {
            limits,
            now,
            is_short,
            actions: Vec::new(),
        }
    }

    fn refuse(&mut self, id: JobId, kind: FailureKind, message: impl Into<String>) {
        let failure = JobFailure {
            kind,
            message: message.into(),
            param: None,
        };
        self.actions.push(Action::Refuse { id, failure });
    }

    fn refuse_waiter(&mut self, waiter: Waiter, kind: FailureKind, message: &str) {
        match waiter {
            Waiter::Job { id, .. } => self.refuse(id, kind, message),
            Waiter::Load { request, .. } => {
                let failure = LoadFailure {
                    kind: LoadFailureKind::Resources,
                    message: message.to_owned(),
                };
                self.actions.push(Action::AnswerLoad { request, failure });
            }
        }
    }
}

/// Takes in what happened at `now` (milliseconds, never going back) and gives what to do.
pub(crate) fn step(shelf: &mut Shelf, event: Event, now: u64) -> Vec<Action> {
    let is_short = shelf.squeeze(&event);
    let Shelf {
        limits,
        entries,
        running,
        closing,
        ..
    } = shelf;
    let mut turn = Turn::new(limits, is_short, now);
    match event {
        Event::Shelve(listings) => shelve(entries, listings),
        Event::Expect { spec, cost } => expect(entries, *spec, cost),
        Event::Load { request, order } => load(entries, (request, *order), *closing, &mut turn),
        Event::Unload { request, model } => unload(entries, (request, model), &mut turn),
        Event::Pin { model, pin } => {
            if let Some(entry) = find(entries, &model) {
                entry.pin = pin;
                entry.idle_since = now;
            }
        }
        Event::Keep { model, keep } => {
            if let Some(entry) = find(entries, &model) {
                entry.keep(keep, now);
            }
        }
        Event::Arrive { id, model, job } if *closing => {
            turn.actions.push(Action::Submit { id, model, job });
        }
        Event::Arrive { id, model, job } => arrive(entries, (id, model, job), &mut turn),
        Event::Cancel { id } => cancel(entries, id, &mut turn),
        Event::Ended { id } => {
            if let Some(model) = running.remove(&id)
                && let Some(entry) = find(entries, &model)
            {
                entry.ended(now);
            }
        }
        Event::Phase { model, phase } => {
            if let Some(entry) = find(entries, &model) {
                entry.take_phase(phase, &mut turn);
            }
        }
        Event::Measured { model, bytes } => {
            if let Some(entry) = find(entries, &model) {
                entry.measured(bytes, &mut turn);
            }
        }
        Event::Close => {
            *closing = true;
            let (kind, message) = (FailureKind::Draining, "the endpoint is shutting down");
            for entry in entries.iter_mut() {
                entry.refuse_all(&kind, message, &mut turn);
            }
        }
        Event::Shrink => shrink(entries, &mut turn),
        Event::Shed { .. } | Event::Room { .. } | Event::Tick => {}
    }
    if !*closing {
        expire(entries, &mut turn);
        room::make(entries, &mut turn);
        expire_idle(entries, &mut turn);
    }
    entries.retain(|entry| !entry.is_over());
    running.extend(turn.actions.iter().filter_map(submitted));
    turn.actions
}

fn submitted(action: &Action) -> Option<(JobId, Arc<str>)> {
    match action {
        Action::Submit { id, model, .. } => Some((*id, model.as_str().into())),
        _ => None,
    }
}

impl Shelf {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            memory_max: limits.memory_max,
            limits,
            entries: Vec::new(),
            running: BTreeMap::new(),
            closing: false,
        }
    }

    /// Whether models may take less than they are configured to.
    pub(crate) fn is_capped(&self) -> bool {
        self.limits.memory_max < self.memory_max
    }

    /// Sets what models may take after the event; tells whether that is less than usual.
    fn squeeze(&mut self, event: &Event) -> bool {
        if let Some(memory_max) = self.memory_max_after(event) {
            self.limits.memory_max = memory_max.min(self.memory_max);
        }
        self.is_capped()
    }

    /// What models may take from now on, where the event says so. While memory is short they
    /// may take no more than they hold.
    fn memory_max_after(&self, event: &Event) -> Option<u64> {
        let stays = self
            .entries
            .iter()
            .filter(|entry| entry.phase != Phase::Leaving);
        let held = stays.map(Entry::held).sum::<Space>().host;
        match event {
            Event::Shrink => Some(held.min(self.limits.memory_max)),
            Event::Shed { bytes } => Some(held.saturating_sub(*bytes)),
            Event::Room { bytes } => Some(held.saturating_add(*bytes)),
            _ => None,
        }
    }

    /// When [`Event::Tick`] is due; `None` while nothing waits on time.
    pub(crate) fn next_deadline(&self, now: u64) -> Option<u64> {
        if self.closing {
            return None;
        }
        let somebody_waits = self.entries.iter().any(|entry| !entry.waiting.is_empty());
        let deadlines = self.entries.iter().flat_map(|entry| {
            let swap = entry.waits_since().map(|since| {
                let due = since.saturating_add(self.limits.swap_wait_max_ms);
                (due > now).then_some(due)
            });
            let linger = somebody_waits
                .then(|| entry.lingers_until())
                .flatten()
                .filter(|until| *until > now);
            [
                swap.flatten(),
                linger,
                entry.waiting.iter().map(|waiting| waiting.until).min(),
                entry.expires_at(&self.limits).map(|at| at.max(now)),
            ]
        });
        deadlines.flatten().min()
    }

    /// The names of all models that may be loaded, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(Entry::name)
    }

    /// How a model is to be loaded.
    pub(crate) fn listed(&self, model: &str) -> Option<(&LoadSpec, MemoryCost)> {
        let entry = self.entries.iter().find(|entry| entry.name() == model)?;
        Some((&entry.spec, entry.cost.clone()))
    }

    /// What the shelf says of a model at `now`, and why it cannot be loaded, where that is so.
    pub(crate) fn place(&self, model: &str, now: u64) -> Option<(Place, Option<LoadFailure>)> {
        let entry = self.entries.iter().find(|entry| entry.name() == model)?;
        let cooling = entry.cooling(now).map(|(failure, _)| failure);
        let failure = entry.fault().or(cooling).cloned();
        Some((entry.place(&self.limits, now), failure))
    }

    pub(crate) fn spec(&self, model: &str) -> Option<&LoadSpec> {
        let entry = self.entries.iter().find(|entry| entry.name() == model)?;
        Some(&entry.spec)
    }

    /// Bytes of all models in memory, and how many there may be.
    pub(crate) fn memory(&self) -> (u64, u64) {
        (self.held().host, self.limits.memory_max)
    }

    /// The same of the GPU.
    pub(crate) fn device_memory(&self) -> (u64, u64) {
        (self.held().device, self.limits.device_memory_max)
    }

    fn held(&self) -> Space {
        self.entries.iter().map(Entry::held).sum()
    }
}

fn find<'a>(entries: &'a mut [Entry], name: &str) -> Option<&'a mut Entry> {
    entries.iter_mut().find(|entry| entry.name() == name)
}

fn shelve(entries: &mut Vec<Entry>, listings: Vec<Listing>) {
    for entry in entries.iter_mut() {
        entry.listing = None;
    }
    for listing in listings {
        match find(entries, &listing.spec.name) {
            Some(entry) => entry.list(listing),
            None => entries.push(Entry::listed(listing)),
        }
    }
    // What is in memory stays until it goes by itself.
    entries.retain(|entry| entry.listing.is_some() || entry.is_used());
}

fn expect(entries: &mut Vec<Entry>, spec: LoadSpec, cost: MemoryCost) {
    if find(entries, &spec.name).is_none() {
        entries.push(Entry::guest(spec, cost));
    }
}

fn load(
    entries: &mut Vec<Entry>,
    (request, order): (RequestId, Order),
    closing: bool,
    turn: &mut Turn<'_>,
) {
    let Order {
        spec,
        cost,
        pin,
        force,
    } = order;
    if closing {
        return turn.actions.push(Action::Load { request, spec });
    }
    if find(entries, &spec.name).is_none() {
        entries.push(Entry::guest(spec.clone(), cost.clone()));
    }
    let Some(entry) = find(entries, &spec.name) else {
        return;
    };
    entry.pin = pin.unwrap_or(entry.pin);
    match entry.phase {
        // It says itself whether it is what is wanted.
        Phase::Loading { .. } | Phase::Ready => {
            let spec = entry.as_placed(spec);
            turn.actions.push(Action::Load { request, spec });
        }
        Phase::Off | Phase::Leaving => {
            entry.set_spec(spec, cost);
            entry.welcome();
            let until = turn.now.saturating_add(turn.limits.wait_max_ms);
            entry.waiting.push_back(Waiting {
                waiter: Waiter::Load { request, force },
                since: turn.now,
                until,
            });
        }
    }
}

fn unload(entries: &mut [Entry], (request, model): (RequestId, String), turn: &mut Turn<'_>) {
    let Some(entry) = find(entries, &model) else {
        return turn.actions.push(Action::Unload { request, model });
    };
    entry.unlist_guest(turn);
    match entry.phase {
        Phase::Off => {
            // The books may still say that it failed.
            entry.forgive();
            turn.actions.push(Action::Unload {
                request: NOBODY,
                model,
            });
            turn.actions.push(Action::AnswerUnload { request });
        }
        Phase::Loading { .. } | Phase::Ready | Phase::Leaving => {
            entry.phase = Phase::Leaving;
            turn.actions.push(Action::Unload { request, model });
        }
    }
}

fn arrive(entries: &mut [Entry], (id, model, job): (JobId, String, Job), turn: &mut Turn<'_>) {
    let Some(entry) = find(entries, &model) else {
        return turn.actions.push(Action::Submit { id, model, job });
    };
    entry.asked(turn.now);
    let is_open = match entry.phase {
        Phase::Loading { .. } => true,
        Phase::Ready => entry.closed_for.is_none(),
        // Taken off the shelf, it will not come back: whoever has the books says so.
        Phase::Off | Phase::Leaving => entry.is_to_be_dropped(),
    };
    if is_open {
        entry.submit((id, job), turn);
        return;
    }
    if let Some(fault) = entry.fault() {
        let message = format!("model `{model}` cannot be loaded: {}", fault.message);
        return turn.refuse(id, FailureKind::ModelUnavailable, message);
    }
    if let Some((failure, in_ms)) = entry.cooling(turn.now) {
        let message = format!(
            "model `{model}` could not be loaded: {}; it is tried again in {} s at the earliest",
            failure.message.trim_end_matches('.'),
            in_ms.div_ceil(1000),
        );
        return turn.refuse(id, FailureKind::ModelUnavailable, message);
    }
    let limit = turn.limits.waiting_max;
    if entry.waiting.len() >= limit as usize {
        let message = format!("{limit} requests, the limit, already wait for model `{model}`");
        return turn.refuse(id, FailureKind::QueueFull { limit }, message);
    }
    let until = turn.now.saturating_add(turn.limits.wait_max_ms);
    entry.waiting.push_back(Waiting {
        waiter: Waiter::Job { id, job },
        since: turn.now,
        until,
    });
}

fn cancel(entries: &mut [Entry], id: JobId, turn: &mut Turn<'_>) {
    let is_it =
        |waiting: &Waiting| matches!(waiting.waiter, Waiter::Job { id: job, .. } if job == id);
    for entry in entries {
        let before = entry.waiting.len();
        entry.waiting.retain(|waiting| !is_it(waiting));
        if entry.waiting.len() < before {
            return turn.refuse(id, FailureKind::Cancelled, "the caller is gone");
        }
    }
    turn.actions.push(Action::Cancel { id });
}

/// Has idle models give back what they hold only for speed.
fn shrink(entries: &[Entry], turn: &mut Turn<'_>) {
    for entry in entries.iter().filter(|entry| entry.is_idle()) {
        let model = entry.name().to_owned();
        turn.actions.push(Action::GiveBack { model });
    }
}

/// Fails those that have waited too long.
fn expire(entries: &mut [Entry], turn: &mut Turn<'_>) {
    for entry in entries {
        let message = format!(
            "waited {} ms for model `{}` to be loaded, the limit",
            turn.limits.wait_max_ms,
            entry.name()
        );
        for waiting in entry.take_waiting(|waiting| waiting.until <= turn.now) {
            turn.refuse_waiter(waiting.waiter, FailureKind::ModelUnavailable, &message);
        }
    }
}

/// Takes out the models that nobody has asked for in their time.
fn expire_idle(entries: &mut [Entry], turn: &mut Turn<'_>) {
    for entry in entries {
        let expires_at = entry.expires_at(turn.limits);
        if expires_at.is_some_and(|at| at <= turn.now) {
            entry.leave(turn);
        }
    }
}
