use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::{Delta, Timings, Usage};

use super::*;
use crate::ProcessEnd;

fn limits() -> Limits {
    Limits {
        hello_timeout_ms: 1_000,
        drain_timeout_ms: 5_000,
        restarts_max: 2,
        restart_window_ms: 60_000,
        backoff_first_ms: 100,
        backoff_max_ms: 1_000,
        pending_max: 2,
        pending_wait_ms: 10_000,
        workers_per_job_max: 2,
        inspect_timeout_ms: 500,
        failed_max: 2,
        exit_grace_ms: 200,
    }
}

fn spec(name: &str) -> LoadSpec {
    LoadSpec {
        name: name.into(),
        ..LoadSpec::default()
    }
}

fn job() -> Job {
    Job::Detokenize { tokens: vec![] }
}

fn text() -> Event {
    Event::Delta {
        choice: 0,
        delta: Delta::Text { text: "t".into() },
        logprobs: vec![],
    }
}

fn done() -> Event {
    Event::Done {
        usage: Usage::default(),
        timings: Timings::default(),
    }
}

fn crash() -> Exit {
    Exit {
        end: ProcessEnd::Signal(11),
        fault: None,
        log: vec!["boom".into()],
    }
}

fn clean() -> Exit {
    Exit {
        end: ProcessEnd::Code(0),
        fault: None,
        log: vec![],
    }
}

/// One line an action, so that a script reads like a transcript.
fn line(action: &Action) -> String {
    match action {
        Action::Spawn { worker, spec } => format!("spawn {} for {}", worker.0, spec.name),
        Action::Send { worker, message } => {
            let message = match message {
                ToWorker::Hello { version } => format!("hello {version}"),
                ToWorker::Load(spec) => format!("load {}", spec.name),
                ToWorker::Submit { id, .. } => format!("submit j{}", id.0),
                ToWorker::Cancel { id } => format!("cancel j{}", id.0),
                ToWorker::Inspect { ticket } => format!("inspect {ticket}"),
                ToWorker::GiveBack => "give back".into(),
                ToWorker::Place(_) => "place".into(),
                ToWorker::Drain => "drain".into(),
            };
            format!("to {}: {message}", worker.0)
        }
        Action::Kill { worker } => format!("kill {}", worker.0),
        Action::Close { worker } => format!("close {}", worker.0),
        Action::Emit { id, event } => match event {
            Event::Failed(failure) => {
                let kind = match &failure.kind {
                    FailureKind::WorkerLost { cause } => format!("WorkerLost({cause})"),
                    kind => format!("{kind:?}"),
                };
                format!("j{} failed {kind}: {}", id.0, failure.message)
            }
            Event::Done { .. } => format!("j{} done", id.0),
            _ => format!("j{} event", id.0),
        },
        Action::AnswerLoad { request, result } => match result {
            Ok(_) => format!("r{} loaded", request.0),
            Err(failure) => format!(
                "r{} load failed {:?}: {}",
                request.0, failure.kind, failure.message
            ),
        },
        Action::AnswerUnload { request, found } => format!("r{} unloaded {found}", request.0),
        Action::AnswerInspect { request, state } => {
            format!("r{} state {}", request.0, state.is_some())
        }
        Action::AnswerShutdown { request } => format!("r{} shut down", request.0),
        Action::Changed { model, phase, .. } => {
            let word = phase.as_ref().map_or("gone", ModelPhase::word);
            format!("{model} is {word}")
        }
    }
}

struct Script {
    state: State,
    now: u64,
}

impl Script {
    fn new() -> Self {
        Self {
            state: State::new(limits()),
            now: 0,
        }
    }

    #[track_caller]
    fn then(&mut self, input: Input, want: &[&str]) {
        let got: Vec<_> = step(&mut self.state, input, self.now)
            .iter()
            .map(line)
            .collect();
        assert_eq!(got, want, "at {} ms", self.now);
    }

    fn quietly(&mut self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            step(&mut self.state, input, self.now);
        }
    }

    /// A model `m` on worker 1 that is ready; its load was request 1.
    fn ready() -> Self {
        let mut script = Self::new();
        script.quietly([load(1, "m")]);
        script.quietly(comes_up(1));
        script
    }

    #[track_caller]
    fn tick_at_deadline(&mut self, want_deadline: u64, want: &[&str]) {
        assert_eq!(self.state.next_deadline(), Some(want_deadline));
        self.now = want_deadline;
        self.then(Input::Tick, want);
    }
}

fn load(request: u64, name: &str) -> Input {
    Input::Load {
        request: RequestId(request),
        spec: spec(name),
    }
}

fn unload(request: u64, name: &str) -> Input {
    Input::Unload {
        request: RequestId(request),
        model: name.into(),
    }
}

fn submit_to(name: &str, id: u64) -> Input {
    Input::Submit {
        id: JobId(id),
        model: name.into(),
        job: job(),
    }
}

fn from(worker: u64, message: FromWorker) -> Input {
    Input::Message {
        worker: WorkerId(worker),
        message,
    }
}

fn hello(worker: u64) -> Input {
    let version = proto::VERSION;
    from(worker, FromWorker::Hello { version, pid: 7 })
}

fn loaded(worker: u64) -> Input {
    let facts = ModelFacts {
        slots: 2,
        queue_max: 1,
        ..ModelFacts::default()
    };
    from(worker, FromWorker::Loaded(Box::new(facts)))
}

fn event(worker: u64, id: u64, event: Event) -> Input {
    from(
        worker,
        FromWorker::Event {
            id: JobId(id),
            event,
        },
    )
}

fn exited(worker: u64, exit: Exit) -> Input {
    Input::Exited {
        worker: WorkerId(worker),
        exit,
    }
}

fn comes_up(worker: u64) -> [Input; 3] {
    let connected = Input::Connected {
        worker: WorkerId(worker),
    };
    [connected, hello(worker), loaded(worker)]
}

const BOOM: &str = "the worker was ended by SIGSEGV (invalid memory access); its last log lines \
                    were:\n  boom";

#[test]
fn a_model_loads_serves_and_is_drained() {
    let mut script = Script::new();
    script.then(load(1, "m"), &["spawn 1 for m", "m is starting"]);
    script.then(
        Input::Connected {
            worker: WorkerId(1),
        },
        &["to 1: hello 1"],
    );
    script.then(submit_to("m", 10), &[]);
    script.then(hello(1), &["to 1: load m", "m is loading"]);
    let progress = FromWorker::LoadProgress { fraction: 0.5 };
    script.then(from(1, progress), &["m is loading"]);
    script.then(loaded(1), &["m is ready", "r1 loaded", "to 1: submit j10"]);
    script.then(submit_to("m", 11), &["to 1: submit j11"]);
    script.then(event(1, 10, text()), &["j10 event"]);
    script.then(event(1, 10, done()), &["j10 done"]);
    script.then(event(1, 10, text()), &[]);
    script.then(load(2, "m"), &["r2 loaded"]);
    script.then(unload(3, "m"), &["to 1: drain", "m is draining"]);
    script.then(
        submit_to("m", 12),
        &["j12 failed Draining: model `m` is being unloaded"],
    );
    script.then(load(4, "m"), &[]);
    script.then(event(1, 11, done()), &["j11 done"]);
    script.then(from(1, FromWorker::Drained), &["close 1"]);
    script.then(
        exited(1, clean()),
        &[
            "r3 unloaded true",
            "m is gone",
            "spawn 2 for m",
            "m is starting",
        ],
    );
}

#[test]
fn a_crash_fails_the_running_jobs_and_keeps_the_new_ones_for_the_next_worker() {
    let mut script = Script::ready();
    script.quietly([1, 2].map(|id| submit_to("m", id)));
    script.quietly([1, 2].map(|id| event(1, id, text())));
    let lost = |id| format!("j{id} failed WorkerLost({BOOM}): the worker of model `m` died");
    script.then(exited(1, crash()), &[&lost(1), &lost(2), "m is restarting"]);
    script.then(submit_to("m", 3), &[]);
    script.tick_at_deadline(100, &["spawn 2 for m", "m is starting"]);
    // What the dead worker still had to say is not listened to.
    script.then(event(1, 3, done()), &[]);
    script.quietly([hello(2)]);
    script.then(loaded(2), &["m is ready", "to 2: submit j3"]);
    let status = &script.state.statuses(script.now)[0];
    assert_eq!((status.restarts, status.pid), (1, Some(7)));
    assert_eq!(status.last_crash.as_deref(), Some(BOOM));
}

#[test]
fn jobs_that_had_not_begun_outlive_their_worker_but_only_so_often() {
    let mut script = Script::ready();
    script.state.limits.pending_max = 5;
    script.quietly([1, 2, 3].map(|id| submit_to("m", id)));
    script.quietly([event(1, 2, text())]);
    let lost = |id| format!("j{id} failed WorkerLost({BOOM}): the worker of model `m` died");
    script.then(exited(1, crash()), &[&lost(2), "m is restarting"]);
    script.quietly([submit_to("m", 4), submit_to("m", 5)]);
    script.tick_at_deadline(100, &["spawn 2 for m", "m is starting"]);
    script.quietly([hello(2)]);
    // In their old order, before those that came later.
    script.then(
        loaded(2),
        &[
            "m is ready",
            "to 2: submit j1",
            "to 2: submit j3",
            "to 2: submit j4",
        ],
    );
    script.quietly([event(2, 1, done())]);
    // A job that two workers have died with may be what kills them.
    script.then(exited(2, crash()), &[&lost(3), "m is restarting"]);
    script.tick_at_deadline(300, &["spawn 3 for m", "m is starting"]);
    script.quietly([hello(3)]);
    script.then(
        loaded(3),
        &["m is ready", "to 3: submit j4", "to 3: submit j5"],
    );
}

#[test]
fn a_kept_job_can_be_cancelled_and_does_not_wait_for_ever() {
    let mut script = Script::ready();
    script.quietly([1, 2, 3].map(|id| submit_to("m", id)));
    script.now = 50;
    script.then(exited(1, crash()), &["m is restarting"]);
    script.then(
        Input::Cancel { id: JobId(2) },
        &["j2 failed Cancelled: the caller is gone"],
    );
    script.tick_at_deadline(150, &["spawn 2 for m", "m is starting"]);
    script.quietly([hello(2)]);
    let late = |id| {
        format!(
            "j{id} failed ModelUnavailable: waited 10000 ms for model `m` to take the request, \
             the limit"
        )
    };
    script.tick_at_deadline(10_050, &[&late(1), &late(3)]);

    let mut drained = Script::ready();
    drained.quietly([submit_to("m", 1), unload(2, "m")]);
    let lost = format!("j1 failed WorkerLost({BOOM}): the worker of model `m` died");
    drained.then(
        exited(1, crash()),
        &[&lost, "r2 unloaded true", "m is gone"],
    );
}

#[test]
fn restarts_back_off_and_end() {
    let mut script = Script::ready();
    script.then(exited(1, crash()), &["m is restarting"]);
    script.tick_at_deadline(100, &["spawn 2 for m", "m is starting"]);
    script.quietly(comes_up(2));
    script.then(exited(2, crash()), &["m is restarting"]);
    script.then(submit_to("m", 1), &[]);
    script.tick_at_deadline(300, &["spawn 3 for m", "m is starting"]);
    script.quietly([load(2, "m")]);
    let gave_up = format!("gave up after 2 restarts within 60 s; at last while loading, {BOOM}");
    script.then(
        exited(3, crash()),
        &[
            "m is failed",
            &format!("j1 failed ModelUnavailable: model `m` could not be loaded: {gave_up}"),
            &format!("r2 load failed Crashed: {gave_up}"),
        ],
    );
    script.then(
        submit_to("m", 2),
        &[&format!(
            "j2 failed ModelUnavailable: model `m` could not be loaded: {gave_up}"
        )],
    );
    script.then(load(3, "m"), &["spawn 4 for m", "m is starting"]);
    assert_eq!(script.state.next_deadline(), Some(1_300));
}

#[test]
fn crashes_outside_the_window_are_forgiven() {
    let mut script = Script::ready();
    for worker in 1..10 {
        script.then(exited(worker, crash()), &["m is restarting"]);
        let at = script.now + 100;
        let spawn = format!("spawn {} for m", worker + 1);
        script.tick_at_deadline(at, &[&spawn, "m is starting"]);
        script.quietly(comes_up(worker + 1));
        script.now += 60_001;
    }
}

#[test]
fn a_worker_that_never_says_hello_is_killed() {
    let mut script = Script::new();
    script.quietly([load(1, "m")]);
    script.tick_at_deadline(1_000, &["kill 1", "m is restarting"]);
    script.then(
        exited(1, crash()),
        &[
            "m is failed",
            "r1 load failed Crashed: the worker did not say hello within 1000 ms; its last log \
             lines were:\n  boom",
        ],
    );
}

#[test]
fn a_worker_of_another_version_is_refused() {
    let mut script = Script::new();
    script.quietly([load(1, "m"), submit_to("m", 1)]);
    let other = FromWorker::Hello {
        version: 99,
        pid: 7,
    };
    script.then(from(1, other), &["kill 1", "m is failed"]);
    let why = "the worker speaks protocol version 99, this endpoint version 1; both must come \
               from the same build";
    script.then(
        exited(1, clean()),
        &[
            "m is failed",
            &format!("j1 failed ModelUnavailable: model `m` could not be loaded: {why}"),
            &format!("r1 load failed Crashed: {why}"),
        ],
    );
}

#[test]
fn a_load_that_fails_is_answered_and_can_be_tried_again() {
    let mut script = Script::new();
    script.quietly([load(1, "m"), hello(1)]);
    let failure = LoadFailure {
        kind: LoadFailureKind::Artifact,
        message: "not a GGUF".into(),
    };
    script.then(from(1, FromWorker::LoadFailed(failure)), &["m is failed"]);
    script.then(load(2, "m"), &[]);
    script.tick_at_deadline(200, &["kill 1"]);
    script.then(
        exited(1, clean()),
        &[
            "m is failed",
            "r1 load failed Artifact: not a GGUF",
            "spawn 2 for m",
            "m is starting",
        ],
    );
    script.quietly([exited(2, clean())]);
    script.then(unload(3, "m"), &["r3 unloaded true", "m is gone"]);
    script.then(unload(4, "m"), &["r4 unloaded false"]);
}

#[test]
fn only_the_last_failed_models_are_listed() {
    let mut script = Script::new();
    for (worker, name) in [(1, "a"), (2, "b"), (3, "c")] {
        script.quietly([load(worker, name), exited(worker, crash())]);
    }
    let statuses = script.state.statuses(script.now);
    let names: Vec<_> = statuses.iter().map(|model| &*model.name).collect();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn waiting_jobs_are_limited_in_number_and_time() {
    let mut script = Script::new();
    script.quietly([load(1, "m"), hello(1), submit_to("m", 1)]);
    script.now = 50;
    script.quietly([submit_to("m", 2)]);
    script.then(
        submit_to("m", 3),
        &["j3 failed QueueFull { limit: 2 }: 2 requests already wait for model `m` to be ready"],
    );
    script.tick_at_deadline(
        10_000,
        &["j1 failed ModelUnavailable: waited 10000 ms for model `m` to take the request, the limit"],
    );
    script.then(
        Input::Cancel { id: JobId(2) },
        &["j2 failed Cancelled: the caller is gone"],
    );
    script.then(loaded(1), &["m is ready", "r1 loaded"]);
    assert_eq!(script.state.next_deadline(), None);
}

#[test]
fn a_worker_that_becomes_ready_is_given_no_more_than_it_takes() {
    let mut script = Script::new();
    script.state.limits.pending_max = 5;
    script.quietly([load(1, "m"), hello(1)]);
    script.quietly([1, 2, 3, 4, 5].map(|id| submit_to("m", id)));
    script.then(
        loaded(1),
        &[
            "m is ready",
            "r1 loaded",
            "to 1: submit j1",
            "to 1: submit j2",
            "to 1: submit j3",
        ],
    );
    script.then(event(1, 2, done()), &["j2 done", "to 1: submit j4"]);
    script.then(
        Input::Cancel { id: JobId(1) },
        &[
            "to 1: cancel j1",
            "to 1: submit j5",
            "j1 failed Cancelled: the caller is gone",
        ],
    );
    script.then(event(1, 3, done()), &["j3 done"]);
}

#[test]
fn running_jobs_are_limited_and_end_from_this_side_too() {
    let mut script = Script::ready();
    script.quietly([1, 2, 3].map(|id| submit_to("m", id)));
    script.then(
        submit_to("m", 4),
        &[
            "j4 failed QueueFull { limit: 3 }: model `m` already has 3 unfinished requests \
           (slots + queue_max)",
        ],
    );
    script.then(
        Input::Cancel { id: JobId(1) },
        &["to 1: cancel j1", "j1 failed Cancelled: the caller is gone"],
    );
    script.then(Input::Cancel { id: JobId(1) }, &[]);
    script.then(
        Input::Overflow {
            id: JobId(2),
            detail: "too slow".into(),
        },
        &["to 1: cancel j2", "j2 failed Cancelled: too slow"],
    );
    script.then(event(1, 2, done()), &[]);
    script.then(
        submit_to("other", 5),
        &["j5 failed ModelUnavailable: model `other` is not loaded; loaded models: m"],
    );
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short() {
    let mut script = Script::ready();
    script.quietly([submit_to("m", 1)]);
    script.then(
        Input::Shutdown {
            request: RequestId(2),
        },
        &["to 1: drain", "m is draining"],
    );
    script.then(
        load(3, "n"),
        &["r3 load failed Resources: the endpoint is shutting down"],
    );
    script.then(
        submit_to("m", 2),
        &["j2 failed Draining: the endpoint is shutting down"],
    );
    script.tick_at_deadline(5_000, &["kill 1"]);
    let killed = Exit {
        end: ProcessEnd::Signal(15),
        ..clean()
    };
    script.then(
        exited(1, killed),
        &[
            "j1 failed Draining: model `m` is being unloaded, and the request did not end within \
             5000 ms, the limit",
            "m is gone",
            "r2 shut down",
        ],
    );
}

#[test]
fn an_unload_ends_every_phase() {
    let mut loading = Script::new();
    loading.quietly([load(1, "m"), hello(1), submit_to("m", 1)]);
    loading.then(
        unload(2, "m"),
        &[
            "j1 failed Draining: model `m` is being unloaded",
            "r1 load failed Resources: model `m` is being unloaded",
            "kill 1",
            "m is draining",
        ],
    );
    loading.then(exited(1, crash()), &["r2 unloaded true", "m is gone"]);

    let mut restarting = Script::ready();
    restarting.quietly([exited(1, crash())]);
    restarting.then(unload(2, "m"), &["r2 unloaded true", "m is gone"]);
    assert_eq!(restarting.state.next_deadline(), None);
}

#[test]
fn looks_are_answered_also_by_silence() {
    let look = |request| Input::Inspect {
        request: RequestId(request),
        model: "m".into(),
    };
    let mut script = Script::ready();
    script.then(look(2), &["to 1: inspect 2"]);
    let state = FromWorker::State {
        ticket: 2,
        state: WorkerState::default(),
    };
    script.then(from(1, state.clone()), &["r2 state true"]);
    script.then(from(1, state), &[]);
    script.quietly([look(3)]);
    script.tick_at_deadline(500, &["r3 state false"]);
    script.quietly([look(4)]);
    script.then(exited(1, crash()), &["r4 state false", "m is restarting"]);
    script.then(look(5), &["r5 state false"]);
}

#[test]
fn only_a_worker_that_is_ready_is_asked_to_give_back() {
    let ask = || Input::GiveBack { model: "m".into() };
    let mut script = Script::ready();
    script.then(ask(), &["to 1: give back"]);
    script.then(exited(1, crash()), &["m is restarting"]);
    script.then(ask(), &[]);
}

#[derive(Debug, Clone)]
enum Blow {
    Load(usize),
    Unload(usize),
    Submit(usize),
    Cancel(usize),
    Overflow(usize),
    Message(usize, u8),
    Exit(usize),
    Pass(u64),
    Shutdown,
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        2 => (0..2usize).prop_map(Blow::Load),
        1 => (0..2usize).prop_map(Blow::Unload),
        6 => (0..3usize).prop_map(Blow::Submit),
        2 => any::<usize>().prop_map(Blow::Cancel),
        1 => any::<usize>().prop_map(Blow::Overflow),
        12 => (any::<usize>(), any::<u8>()).prop_map(|(worker, what)| Blow::Message(worker, what)),
        2 => any::<usize>().prop_map(Blow::Exit),
        4 => (0..20_000u64).prop_map(Blow::Pass),
        1 => Just(Blow::Shutdown),
    ]
}

/// How far a worker has come. A message that does not fit its stage changes nothing:
/// a worker may say anything at any time.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Silent,
    Greeted,
    /// Loaded, and takes jobs.
    Open,
    /// Told to drain or killed, or its load failed.
    Closed,
}

/// The world around the machine, with what must hold of it.
#[derive(Debug, Default)]
struct World {
    alive: BTreeMap<WorkerId, Stage>,
    n_submitted: u64,
    n_requests: u64,
    answered: BTreeMap<RequestId, u32>,
    last_events: BTreeMap<JobId, u32>,
    /// Workers that each job was given to.
    handed: BTreeMap<JobId, u32>,
    /// Jobs whose caller has seen something of them.
    begun: BTreeSet<JobId>,
    /// Spawn times of each model.
    spawns: BTreeMap<String, Vec<u64>>,
    loads: BTreeMap<String, usize>,
}

impl World {
    fn look(&mut self, actions: &[Action], now: u64) {
        for action in actions {
            match action {
                Action::Spawn { worker, spec } => {
                    let earlier = self.alive.insert(*worker, Stage::Silent);
                    assert_eq!(earlier, None, "a worker id is used once");
                    self.spawns.entry(spec.name.clone()).or_default().push(now);
                }
                Action::Send { worker, message } => {
                    let stage = self.alive.get_mut(worker).expect("sent to a dead worker");
                    match message {
                        ToWorker::Submit { id, .. } => {
                            assert_eq!(*stage, Stage::Open, "a job for a worker not ready");
                            assert!(!self.begun.contains(id), "{id:?} begins a second time");
                            let n = self.handed.entry(*id).or_default();
                            *n += 1;
                            assert!(
                                *n <= limits().workers_per_job_max,
                                "{id:?} goes on for ever"
                            );
                        }
                        ToWorker::Drain => {
                            assert_eq!(*stage, Stage::Open, "drained before it was ready");
                            *stage = Stage::Closed;
                        }
                        _ => {}
                    }
                }
                Action::Kill { worker } => {
                    let stage = self.alive.get_mut(worker).expect("killed a dead worker");
                    *stage = Stage::Closed;
                }
                Action::Close { worker } => {
                    assert_eq!(
                        self.alive.get(worker),
                        Some(&Stage::Closed),
                        "closed before it was drained"
                    );
                }
                Action::Emit { id, event } => {
                    let n = self.last_events.entry(*id).or_default();
                    assert_eq!(*n, 0, "an event after the last one of {id:?}");
                    *n += u32::from(event.is_last());
                    self.begun.insert(*id);
                }
                Action::AnswerLoad { request, .. }
                | Action::AnswerUnload { request, .. }
                | Action::AnswerInspect { request, .. }
                | Action::AnswerShutdown { request } => {
                    *self.answered.entry(*request).or_default() += 1;
                }
                Action::Changed { .. } => {}
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.n_requests += 1;
        RequestId(self.n_requests)
    }

    fn pick(&self, index: usize) -> Option<WorkerId> {
        let n = self.alive.len().max(1);
        self.alive.keys().nth(index % n).copied()
    }

    fn input(&mut self, blow: &Blow) -> Option<Input> {
        let name = |index: &usize| ["a", "b", "c"][*index].to_owned();
        let some_job = |index: &usize, n: u64| JobId(*index as u64 % (n + 1));
        Some(match blow {
            Blow::Load(model) => {
                *self.loads.entry(name(model)).or_default() += 1;
                Input::Load {
                    request: self.request(),
                    spec: spec(&name(model)),
                }
            }
            Blow::Unload(model) => Input::Unload {
                request: self.request(),
                model: name(model),
            },
            Blow::Submit(model) => {
                self.n_submitted += 1;
                submit_to(&name(model), self.n_submitted)
            }
            Blow::Cancel(index) => Input::Cancel {
                id: some_job(index, self.n_submitted),
            },
            Blow::Overflow(index) => Input::Overflow {
                id: some_job(index, self.n_submitted),
                detail: "slow".into(),
            },
            Blow::Message(index, what) => {
                let worker = self.pick(*index)?;
                self.message(worker, *what)
            }
            Blow::Exit(index) => {
                let worker = self.pick(*index)?;
                self.alive.remove(&worker);
                exited(worker.0, crash())
            }
            Blow::Pass(_) => Input::Tick,
            Blow::Shutdown => Input::Shutdown {
                request: self.request(),
            },
        })
    }

    fn message(&mut self, worker: WorkerId, what: u8) -> Input {
        let id = u64::from(what) % (self.n_submitted + 1);
        let mut pass = |from: Stage, to: Stage| {
            self.alive
                .entry(worker)
                .and_modify(|stage| *stage = if *stage == from { to } else { *stage });
        };
        match what % 8 {
            0 => {
                pass(Stage::Silent, Stage::Greeted);
                hello(worker.0)
            }
            1 | 2 => {
                pass(Stage::Greeted, Stage::Open);
                loaded(worker.0)
            }
            3 => event(worker.0, id, done()),
            4 | 5 => event(worker.0, id, text()),
            6 => from(worker.0, FromWorker::Drained),
            _ => {
                pass(Stage::Greeted, Stage::Closed);
                let failure = LoadFailure {
                    kind: LoadFailureKind::Resources,
                    message: "no memory".into(),
                };
                from(worker.0, FromWorker::LoadFailed(failure))
            }
        }
    }

    /// Restarts without a load in between are bounded within any window.
    fn check_restarts(&self, limits: &Limits) {
        for (name, spawns) in &self.spawns {
            for (index, first) in spawns.iter().enumerate() {
                let within = spawns[index..]
                    .iter()
                    .take_while(|at| **at - first <= limits.restart_window_ms)
                    .count();
                let allowed = (limits.restarts_max as usize + 1) * self.loads[name];
                assert!(within <= allowed.max(1) + limits.restarts_max as usize);
            }
        }
    }
}

proptest! {
    #[test]
    fn random_histories_keep_the_promises(blows in prop::collection::vec(blow(), 1..200)) {
        let mut state = State::new(limits());
        let mut world = World::default();
        let mut now = 0;
        let mut shut_down = false;
        for blow in &blows {
            if let Blow::Pass(ms) = blow {
                now += ms;
            }
            // Once is enough, and not before something has happened.
            if matches!(blow, Blow::Shutdown) && (shut_down || world.n_submitted < 10) {
                continue;
            }
            shut_down |= matches!(blow, Blow::Shutdown);
            if let Some(input) = world.input(blow) {
                let actions = step(&mut state, input, now);
                world.look(&actions, now);
            }
            prop_assert!(state.next_deadline().is_none_or(|at| at > now) || !matches!(blow, Blow::Pass(_)));
        }
        // Whatever happened, a shutdown answers every job and every request.
        let end = Input::Shutdown { request: world.request() };
        let actions = step(&mut state, end, now);
        world.look(&actions, now);
        for worker in std::mem::take(&mut world.alive).into_keys() {
            let actions = step(&mut state, exited(worker.0, clean()), now);
            world.look(&actions, now);
        }
        prop_assert!(world.alive.is_empty(), "nothing is started after a shutdown");
        for id in 1..=world.n_submitted {
            prop_assert_eq!(world.last_events.get(&JobId(id)), Some(&1), "job {}", id);
        }
        for request in 1..=world.n_requests {
            prop_assert_eq!(world.answered.get(&RequestId(request)), Some(&1), "request {}", request);
        }
        world.check_restarts(&limits());
    }
}
