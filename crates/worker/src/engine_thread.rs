//! The thread that owns the engine: one pass after another, answering in between.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{
    Canceller, Decoder, Embedder, JobKey, PrefixStore, Scheduler, SchedulerConfig, SchedulerState,
    StoreReport, TokenId, Vocabulary,
};
use proto::{
    Event, FailureKind, FromWorker, JobFailure, JobId, KvUse, PrefixUse, SlotPhase, SlotState,
    WorkerState,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::answer::Answer;
use crate::prepare::Prepared;

/// How long a pass with running streams in it may take; a reader hardly notices
/// a fifth of a second.
const PASS_TARGET: Duration = Duration::from_millis(200);

/// How long a worker that is to end waits for states of prompts to be written.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Work for the engine.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Box<Prepared>),
    Embed {
        id: JobId,
        inputs: Vec<Vec<TokenId>>,
    },
    Cancel(JobId),
    /// Free the cache and other memory that only running jobs need.
    GiveBack,
    Place(engine::Placement),
    /// Finish what is there, then end the thread.
    Drain,
}

/// The way to the engine thread.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    commands: Sender<Command>,
    canceller: Option<Canceller>,
    state: Arc<Mutex<WorkerState>>,
}

/// What the thread needs.
pub(crate) struct Parts {
    pub(crate) decoder: Option<Box<dyn Decoder>>,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) embedder: Option<Box<dyn Embedder>>,
    pub(crate) prefixes: Option<Box<dyn PrefixStore>>,
    pub(crate) slots: usize,
    pub(crate) queue_max: usize,
    pub(crate) events: UnboundedSender<FromWorker>,
}

impl EngineHandle {
    /// Starts the thread. It ends after `Drain` (then it sends `Drained`) or when
    /// the handle is dropped.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        let (commands, inbox) = std::sync::mpsc::channel();
        let state = Arc::new(Mutex::new(WorkerState::default()));
        let started = Instant::now();
        let config = SchedulerConfig {
            slots: parts.slots,
            queue_max: parts.queue_max,
            pass_target: PASS_TARGET,
        };
        let vocabulary = parts.vocabulary;
        let mut scheduler = parts
            .decoder
            .map(|decoder| Scheduler::new(decoder, vocabulary, config, move || started.elapsed()));
        if let (Some(scheduler), Some(store)) = (&mut scheduler, parts.prefixes) {
            scheduler.keep_prefixes(store);
        }
        let canceller = scheduler.as_ref().map(Scheduler::canceller);
        let mut thread = EngineThread {
            scheduler,
            embedder: parts.embedder,
            answers: HashMap::new(),
            events: parts.events,
            state: Arc::clone(&state),
            slots: parts.slots,
            queue_max: parts.queue_max,
            texts: VecDeque::new(),
            embedded: Embedded::default(),
        };
        thread.publish();
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                // Jobs wait for this thread; without it the process is of no use, and
                // its end is what the supervisor acts on.
                if std::panic::catch_unwind(AssertUnwindSafe(|| thread.run(&inbox))).is_err() {
                    tracing::error!("the engine thread panicked");
                    std::process::abort();
                }
            })?;
        Ok(Self {
            commands,
            canceller,
            state,
        })
    }

    pub(crate) fn send(&self, command: Command) {
        if let (Command::Cancel(id), Some(canceller)) = (&command, &self.canceller) {
            canceller.hint(JobKey(id.0));
        }
        // The thread is gone only after a drain or a panic; both close the worker.
        let _ = self.commands.send(command);
    }

    /// The state after the last pass; never waits for the one that runs.
    pub(crate) fn state(&self) -> WorkerState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct EngineThread {
    scheduler: Option<Scheduler>,
    embedder: Option<Box<dyn Embedder>>,
    answers: HashMap<JobKey, Answer>,
    events: UnboundedSender<FromWorker>,
    state: Arc<Mutex<WorkerState>>,
    slots: usize,
    queue_max: usize,
    /// Texts to embed; their requests take turns, one text each.
    texts: VecDeque<Texts>,
    embedded: Embedded,
}

/// Counters of embedding requests since the start.
#[derive(Debug, Default)]
struct Embedded {
    jobs: u64,
    failed: u64,
    cancelled: u64,
    tokens: u64,
    took: Duration,
}

/// An embedding request in progress.
struct Texts {
    key: JobKey,
    inputs: Vec<Vec<TokenId>>,
    vectors: Vec<Vec<f32>>,
}

impl EngineThread {
    fn run(&mut self, inbox: &Receiver<Command>) {
        let mut draining = false;
        loop {
            let has_work = self.has_work();
            if draining && !has_work {
                if let Some(scheduler) = &mut self.scheduler {
                    scheduler.flush_prefixes(FLUSH_MAX);
                }
                let _ = self.events.send(FromWorker::Drained);
                return;
            }
            let command = if has_work {
                inbox.try_recv()
            } else {
                inbox.recv().map_err(|_| TryRecvError::Disconnected)
            };
            match command {
                Ok(Command::Drain) => draining = true,
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => {
                    self.embed_one();
                    self.step();
                }
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.texts.is_empty() || self.scheduler.as_ref().is_some_and(Scheduler::has_work)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Run(prepared) => self.run_job(*prepared),
            Command::Embed { id, inputs } => self.take_texts(id, inputs),
            Command::Cancel(id) => self.cancel(JobKey(id.0)),
            Command::GiveBack => self.give_back(),
            Command::Place(placement) => self.place(&placement),
            Command::Drain => {}
        }
        self.publish();
    }

    fn run_job(&mut self, prepared: Prepared) {
        let Prepared { request, answer } = prepared;
        let key = request.key;
        let Some(scheduler) = &mut self.scheduler else {
            return self.fail(
                key,
                unsupported("This model only embeds; it cannot generate text"),
            );
        };
        match scheduler.submit(request) {
            Ok(()) => {
                self.answers.insert(key, answer);
            }
            Err(failure) => self.fail(key, failure),
        }
    }

    fn place(&mut self, placement: &engine::Placement) {
        let placed = self
            .scheduler
            .as_mut()
            .is_some_and(|scheduler| scheduler.place(placement));
        if !placed {
            tracing::warn!(?placement, "it goes on with the threads it has");
        }
    }

    /// Takes texts to embed in, after checking them against the model's limit.
    fn take_texts(&mut self, id: JobId, inputs: Vec<Vec<TokenId>>) {
        let key = JobKey(id.0);
        let Some(embedder) = &self.embedder else {
            return self.fail(key, unsupported("This model cannot embed"));
        };
        let limit = embedder.tokens_max();
        let too_long = inputs
            .iter()
            .enumerate()
            .find(|(_, tokens)| tokens.len() > limit);
        let failure = if let Some((at, tokens)) = too_long {
            let n = tokens.len();
            Some((
                FailureKind::ContextExceeded {
                    prompt_tokens: saturate(n),
                    context: saturate(limit),
                },
                format!("Input {at} has {n} tokens; this model embeds at most {limit}"),
            ))
        } else if self.texts.len() >= self.queue_max {
            let limit = self.queue_max;
            Some((
                FailureKind::QueueFull {
                    limit: saturate(limit),
                },
                format!("{limit} embedding requests are waiting, which is the limit (queue_max)"),
            ))
        } else {
            None
        };
        match failure {
            Some((kind, message)) => {
                self.fail(
                    key,
                    JobFailure {
                        kind,
                        message,
                        param: Some("input".into()),
                    },
                );
            }
            None => self.texts.push_back(Texts {
                key,
                inputs,
                vectors: Vec::new(),
            }),
        }
    }

    /// Embeds one text, so that streams and other callers wait for no more than that.
    fn embed_one(&mut self) {
        let Some(mut texts) = self.texts.pop_front() else {
            return;
        };
        let Some(embedder) = &mut self.embedder else {
            return;
        };
        let input = &texts.inputs[texts.vectors.len()];
        let started = Instant::now();
        let result = embedder.embed(input);
        self.embedded.took += started.elapsed();
        match result {
            Ok(vector) => {
                self.embedded.tokens += input.len() as u64;
                texts.vectors.push(vector);
            }
            Err(error) => {
                self.embedded.jobs += 1;
                self.embedded.failed += 1;
                let kind = FailureKind::Internal;
                let message = error.to_string();
                return self.fail(
                    texts.key,
                    JobFailure {
                        kind,
                        message,
                        param: Some("input".into()),
                    },
                );
            }
        }
        if texts.vectors.len() < texts.inputs.len() {
            return self.texts.push_back(texts);
        }
        self.embedded.jobs += 1;
        let prompt_tokens = saturate(texts.inputs.iter().map(Vec::len).sum());
        self.emit(
            texts.key,
            Event::Embeddings {
                vectors: texts.vectors,
                prompt_tokens,
            },
        );
    }

    /// A worker with something to do keeps what it has: it would take it again at once.
    fn give_back(&mut self) {
        if !self.texts.is_empty() || self.scheduler.as_ref().is_some_and(Scheduler::has_jobs) {
            return;
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.give_back();
        }
        if let Some(embedder) = &mut self.embedder {
            embedder.give_back();
        }
        tracing::info!("memory is short: the cache and its prefixes are given back");
    }

    fn cancel(&mut self, key: JobKey) {
        if let Some(scheduler) = &mut self.scheduler {
            // Of a key that is none of its own it drops the canceller's hint.
            scheduler.cancel(key);
        }
        let at = self.texts.iter().position(|texts| texts.key == key);
        if let Some(texts) = at.and_then(|at| self.texts.remove(at)) {
            self.embedded.jobs += 1;
            self.embedded.cancelled += 1;
            let message = "The caller went away".to_owned();
            self.fail(
                texts.key,
                JobFailure {
                    kind: FailureKind::Cancelled,
                    message,
                    param: None,
                },
            );
        }
    }

    fn step(&mut self) {
        let outputs = self.scheduler.as_mut().map(Scheduler::step);
        for output in outputs.into_iter().flatten() {
            let key = output.key();
            let Some(answer) = self.answers.get_mut(&key) else {
                continue;
            };
            let events = answer.on_output(output);
            for event in events {
                self.emit(key, event);
            }
        }
        self.publish();
    }

    fn fail(&mut self, key: JobKey, failure: JobFailure) {
        self.emit(key, Event::Failed(failure));
    }

    fn emit(&mut self, key: JobKey, event: Event) {
        if event.is_last() {
            self.answers.remove(&key);
        }
        let _ = self.events.send(FromWorker::Event {
            id: JobId(key.0),
            event,
        });
    }

    fn publish(&mut self) {
        let state = self.look();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn look(&self) -> WorkerState {
        let mut state = WorkerState::default();
        if let Some(scheduler) = &self.scheduler {
            self.look_at_scheduler(&scheduler.state(), &mut state);
        }
        let Embedded {
            jobs,
            failed,
            cancelled,
            tokens,
            took,
        } = self.embedded;
        // The first of them has its turn, the others wait.
        state.queued += saturate(self.texts.len().saturating_sub(1));
        state.prompt_tokens_total += tokens;
        state.prefill_seconds_total += took.as_secs_f64();
        state.jobs_total += jobs;
        state.jobs_failed_total += failed;
        state.jobs_cancelled_total += cancelled;
        state
    }

    fn look_at_scheduler(&self, seen: &SchedulerState, state: &mut WorkerState) {
        let totals = seen.totals;
        let count = saturate;
        let slots = (0..self.slots).map(|slot| {
            let view = seen.slots.iter().find(|view| view.slot == slot);
            SlotState {
                slot: count(slot),
                job: view.map(|view| JobId(view.key.0)),
                phase: match view {
                    None => SlotPhase::Idle,
                    Some(view) if view.generated_tokens == 0 => SlotPhase::Prefill,
                    Some(_) => SlotPhase::Decode,
                },
                prompt_tokens: view.map_or(0, |view| count(view.prompt_tokens)),
                prompt_done: view.map_or(0, |view| count(view.prompt_done)),
                generated_tokens: view.map_or(0, |view| count(view.generated_tokens)),
            }
        });
        *state = WorkerState {
            slots: slots.collect(),
            queued: count(seen.queued),
            kv: KvUse {
                cells: count(seen.cells),
                cells_running: count(seen.running_tokens),
                cells_cached: count(seen.cached_tokens),
                cached_prefixes: count(seen.cached_prefixes),
            },
            resident_bytes: 0,
            prompt_tokens_total: totals.prompt_tokens,
            prompt_tokens_cached_total: totals.prompt_tokens_cached,
            prompt_tokens_restored_total: totals.prompt_tokens_restored,
            prefixes: self
                .scheduler
                .as_ref()
                .and_then(Scheduler::prefixes)
                .map(prefix_use),
            completion_tokens_total: totals.completion_tokens,
            draft_tokens_total: totals.draft_tokens,
            draft_accepted_tokens_total: totals.draft_accepted_tokens,
            prefill_seconds_total: totals.prefill.as_secs_f64(),
            decode_seconds_total: totals.decode.as_secs_f64(),
            jobs_total: totals.jobs,
            jobs_failed_total: totals.jobs_failed,
            jobs_cancelled_total: totals.jobs_cancelled,
            preemptions_total: totals.preemptions,
            parkings_total: totals.parkings,
        };
    }
}

fn prefix_use(report: StoreReport) -> PrefixUse {
    let StoreReport {
        ram_bytes,
        disk_bytes,
        pending_bytes,
        entries,
        written_bytes,
        read_bytes,
        refused_bytes,
        faulty,
    } = report;
    PrefixUse {
        ram_bytes,
        disk_bytes,
        pending_bytes,
        entries: saturate(entries),
        written_bytes_total: written_bytes,
        read_bytes_total: read_bytes,
        refused_bytes_total: refused_bytes,
        faulty_total: faulty,
    }
}

pub(crate) fn unsupported(message: &str) -> JobFailure {
    JobFailure {
        kind: FailureKind::Unsupported,
        message: message.to_owned(),
        param: None,
    }
}

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use engine::fake::{FakeDecoder, FakeEmbedder, FakeVocabulary, Script};
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;

    fn thread() -> (EngineThread, UnboundedReceiver<FromWorker>) {
        let (events, outbox) = tokio::sync::mpsc::unbounded_channel();
        let config = SchedulerConfig {
            slots: 2,
            queue_max: 4,
            pass_target: PASS_TARGET,
        };
        let decoder = FakeDecoder::new(FakeDecoder::usual_shape(), Script::Hash);
        let clock = || Duration::ZERO;
        let vocabulary = Arc::new(FakeVocabulary);
        let thread = EngineThread {
            scheduler: Some(Scheduler::new(Box::new(decoder), vocabulary, config, clock)),
            embedder: Some(Box::new(FakeEmbedder)),
            answers: HashMap::new(),
            events,
            state: Arc::default(),
            slots: 2,
            queue_max: 4,
            texts: VecDeque::new(),
            embedded: Embedded::default(),
        };
        (thread, outbox)
    }

    #[test]
    fn a_cancelled_embedding_leaves_no_hint_behind() {
        let (mut thread, mut outbox) = thread();
        let canceller = thread.scheduler.as_ref().unwrap().canceller();
        let before = format!("{canceller:?}");
        for id in [7, 8].map(JobId) {
            let inputs = vec![vec![97], vec![98]];
            thread.obey(Command::Embed { id, inputs });
            canceller.hint(JobKey(id.0));
            thread.obey(Command::Cancel(id));
        }
        assert_eq!(format!("{canceller:?}"), before);
        for id in [7, 8].map(JobId) {
            let Some(FromWorker::Event { id: of, event }) = outbox.blocking_recv() else {
                panic!("no event")
            };
            let Event::Failed(failure) = event else {
                panic!("{event:?}")
            };
            assert_eq!((of, failure.kind), (id, FailureKind::Cancelled));
        }
    }

    #[test]
    fn embeddings_are_counted_and_wait_like_others() {
        let (mut thread, _outbox) = thread();
        for id in [1, 2, 3].map(JobId) {
            let inputs = vec![vec![97, 98]];
            thread.obey(Command::Embed { id, inputs });
        }
        assert_eq!(thread.look().queued, 2);
        thread.obey(Command::Cancel(JobId(3)));
        while thread.has_work() {
            thread.embed_one();
            thread.step();
        }
        let state = thread.state.lock().unwrap().clone();
        let counts = (state.jobs_total, state.jobs_cancelled_total);
        assert_eq!((counts, state.prompt_tokens_total), ((3, 1), 4));
        assert_eq!((state.queued, state.kv.cells), (0, 1024));
    }
}
