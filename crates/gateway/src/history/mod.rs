//! Keeps the history: a look at the models each second, a sample every ten, a write every three
//! minutes.
//!
//! What a look says becomes a sample in [`gather`], and marks in [`watch`]; both are pure. Nobody
//! waits for this: requests leave their counts in [`Tally`], and the file is written by threads
//! that may block. An endpoint at rest costs a look at its shelf a second and some small files of
//! the kernel every ten.

mod gather;
mod tally;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hardware::{Vitals, VitalsAsk};
use store::{History, HistoryError, Mark, MarkKind, STEP_S, Sample};
use tokio::time::MissedTickBehavior;

pub(crate) use gather::ENDPOINT;
pub(crate) use tally::Tally;

use crate::chats::now_ms;
use crate::error::{ApiError, ErrorCode};
use crate::routes::health::inspected;
use crate::wire::telemetry::TelemetryPoint;
use crate::{AppState, Reloaded};
use gather::{Ending, Gather, Seen};
use watch::{ClockWatch, ModelWatch, jump_text};

/// Time between two looks at the models.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Samples that are written together: more writes would wear a board's storage for little.
const SAMPLES_OF_A_WRITE: u32 = 18;

/// Who looks at the machine.
pub trait Pulse: std::fmt::Debug + Send + Sync {
    /// Looks, and says what is different from the look before. Blocks for some milliseconds.
    fn look(&self, ask: VitalsAsk<'_>) -> Vitals;
}

/// Where the history is kept, and who looks at the machine for it.
#[derive(Debug, Clone)]
pub struct HistoryKeeper {
    pub history: History,
    pub pulse: Arc<dyn Pulse>,
    /// Changes of marks, for pages that show them.
    changes: Arc<AtomicU64>,
}

impl HistoryKeeper {
    #[must_use]
    pub fn new(history: History, pulse: Arc<dyn Pulse>) -> Self {
        Self {
            history,
            pulse,
            changes: Arc::default(),
        }
    }
}

impl AppState {
    /// The history; an error where none is kept.
    pub(crate) fn history(&self) -> Result<&HistoryKeeper, ApiError> {
        self.config().history.as_ref().ok_or_else(|| {
            let message = "This endpoint keeps no history of its figures.";
            ApiError::message(ErrorCode::NoHistory, message)
        })
    }

    /// Notes what happened, for whoever looks at the history.
    pub(crate) fn marks(&self, marks: Vec<Mark>) {
        let Some(keeper) = &self.config().history else {
            return;
        };
        if marks.is_empty() {
            return;
        }
        for mark in marks {
            keeper.history.mark(mark);
        }
        self.marks_changed();
    }

    /// Tells those who read the bus that marks are not as they were.
    pub(crate) fn marks_changed(&self) {
        if let Some(keeper) = &self.config().history {
            let changes = keeper.changes.fetch_add(1, Ordering::Relaxed) + 1;
            self.bus().marks_changed(changes);
        }
    }

    /// Providers and rules were read again.
    pub(crate) fn mark_reload(&self, reloaded: &Reloaded) {
        let mut text = "providers and rules were read again".to_owned();
        for (word, names) in [("new", &reloaded.added), ("gone", &reloaded.removed)] {
            if !names.is_empty() {
                text.push_str(&format!("; {word}: {}", names.join(", ")));
            }
        }
        self.marks(vec![Mark::new(now_ms(), MarkKind::Setting, text)]);
    }

    /// Keeps the history for as long as it is polled, where one is kept.
    pub async fn keep_history(&self) {
        let Some(keeper) = self.config().history.clone() else {
            return;
        };
        let history = keeper.history.clone();
        let begin = move || history.begin(now_ms(), env!("CARGO_PKG_VERSION"));
        aside(begin).await;
        self.marks_changed();
        let (mut keeping, start) = (Keeping::new(keeper), Instant::now());
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let elapsed = start.elapsed();
            let now_ms = now_ms();
            keeping.look(self, Now { now_ms, elapsed }).await;
        }
    }

    /// Marks the end and writes what is left; for the end of the process.
    pub async fn end_history(&self) {
        let Some(keeper) = self.config().history.clone() else {
            return;
        };
        let history = keeper.history;
        history.mark(Mark::new(now_ms(), MarkKind::Stop, ""));
        aside(move || history.flush(now_ms() / 1000, false)).await;
    }
}

/// Does what blocks.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    // An error means that it panicked, which has been told.
    tokio::task::spawn_blocking(work).await.ok()
}

/// The time of day, and since the start.
#[derive(Debug, Clone, Copy)]
struct Now {
    /// Milliseconds since 1970.
    now_ms: u64,
    elapsed: Duration,
}

/// The driver: clocks, the backend and the machine on one side, what is pure on the other.
struct Keeping {
    keeper: HistoryKeeper,
    /// Since the start, at the last look.
    looked: Duration,
    /// The beginning of the sample that is gathered, seconds since 1970.
    at_s: Option<u64>,
    unwritten: u32,
    gather: Gather,
    models: ModelWatch,
    clock: ClockWatch,
}

impl Keeping {
    fn new(keeper: HistoryKeeper) -> Self {
        Self {
            keeper,
            looked: Duration::ZERO,
            at_s: None,
            unwritten: 0,
            gather: Gather::default(),
            models: ModelWatch::default(),
            clock: ClockWatch::default(),
        }
    }

    async fn look(&mut self, state: &AppState, now: Now) {
        let Now { now_ms, elapsed } = now;
        let clock = self.clock.step(now_ms, elapsed);
        let mut marks = Vec::new();
        if let Some(jump_ms) = clock.jump_ms {
            self.gather.forget();
            self.at_s = None;
            if !clock.is_unset {
                marks.push(Mark::new(now_ms, MarkKind::Clock, jump_text(jump_ms)));
            }
        }
        let at_s = now_ms / 1000 / STEP_S * STEP_S;
        let ended = self.at_s.replace(at_s).filter(|before| *before != at_s);
        let seen = seen(state, ended.is_some()).await;
        let since = elapsed.saturating_sub(self.looked);
        self.looked = elapsed;
        self.gather.look(&seen, since.as_secs_f64());
        let models = seen.iter().map(|(model, _)| model);
        marks.extend(self.models.step(now_ms, models));
        state.marks(marks);
        let Some(ended_s) = ended else { return };
        let ending = self.ending(state, &seen).await;
        // Until the clock is set nobody knows of which time it is.
        let sample = self.gather.close(ended_s, &seen, ending);
        let Some(sample) = sample.filter(|_| !clock.is_unset) else {
            return;
        };
        self.record(state, sample);
        if self.unwritten >= SAMPLES_OF_A_WRITE {
            self.unwritten = 0;
            let history = self.keeper.history.clone();
            aside(move || history.flush(now_ms / 1000, clock.is_steady)).await;
        }
    }

    fn record(&mut self, state: &AppState, sample: Sample) {
        state.bus().telemetry(TelemetryPoint::new(&sample, STEP_S));
        self.keeper.history.record(sample);
        self.unwritten += 1;
    }

    /// What is known at the end of a sample beside the looks.
    async fn ending(&self, state: &AppState, seen: &Seen) -> Ending {
        let (models_bytes, _) = state.backend().memory();
        let (gpu_bytes, gpu_max) = state.backend().device_memory();
        let workers = seen.iter().filter_map(|(model, _)| model.pid);
        let pids: Vec<_> = std::iter::once(std::process::id()).chain(workers).collect();
        let pulse = Arc::clone(&self.keeper.pulse);
        let look = move || {
            pulse.look(VitalsAsk {
                pids: &pids,
                // A GPU that nobody uses may sleep.
                gpus: gpu_bytes > 0,
            })
        };
        Ending {
            taken: state.metrics().tally().take(),
            vitals: aside(look).await,
            models_bytes,
            gpu_models_bytes: gpu_max.map(|_| gpu_bytes),
        }
    }
}

/// All models; workers are asked where something is to be counted.
async fn seen(state: &AppState, is_end: bool) -> Box<Seen> {
    let models = state.backend().models();
    let at_work = |model: &supervisor::ModelStatus| model.place.running + model.place.waiting > 0;
    if is_end || models.iter().any(at_work) {
        return inspected(state).await.into();
    }
    models.into_iter().map(|model| (model, None)).collect()
}

/// The error of a history that cannot be used.
pub(crate) fn failed(error: &HistoryError) -> ApiError {
    match error {
        HistoryError::TooManyNotes { limit } => {
            let (given, limit) = ((limit + 1).to_string(), limit.to_string());
            let facts = [
                ("param", "notes"),
                ("value", given.as_str()),
                ("unit", "entries"),
                ("limit", limit.as_str()),
            ];
            ApiError::new(ErrorCode::LimitExceeded, &facts)
        }
        _ => {
            let message = format!("The note cannot be kept: {error}.");
            ApiError::message(ErrorCode::DatabaseFailed, &message)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
