//! Looks at the engines while somebody reads.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::{SlotPhase, WorkerState};

use super::{Bus, Entry, Sight};
use crate::AppState;
use crate::chats::now_ms;
use crate::routes::health::inspected;
use crate::wire::events::{
    BusState, LogState, MemoryState, ModelState, PullProgress, ServerState, Speeds,
};

/// Time between two looks.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Shorter work says nothing of speed.
const SECONDS_MIN: f64 = 0.005;

/// Reads a worker's counters and tells speeds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    prompt: (u64, f64),
    answer: (u64, f64),
    speeds: Speeds,
}

impl Meter {
    fn read(&mut self, worker: &WorkerState) -> Speeds {
        let prompt_tokens = worker
            .prompt_tokens_total
            .saturating_sub(worker.prompt_tokens_cached_total);
        let prompt = (prompt_tokens, worker.prefill_seconds_total);
        let answer = (worker.completion_tokens_total, worker.decode_seconds_total);
        // A worker that was started again counts from 0.
        if prompt.1 < self.prompt.1 || answer.1 < self.answer.1 {
            *self = Self::default();
        }
        // Tokens of a prompt are counted when it begins, and its time when its answer has ended.
        let mut slots = worker.slots.iter();
        if slots.all(|slot| slot.phase == SlotPhase::Idle)
            && let Some(speed) = speed(self.prompt, prompt)
        {
            self.speeds.prefill = Some(speed);
            self.prompt = prompt;
        }
        if let Some(speed) = speed(self.answer, answer) {
            self.speeds.decode = Some(speed);
            self.answer = answer;
        }
        self.speeds
    }
}

fn speed(before: (u64, f64), after: (u64, f64)) -> Option<f64> {
    let (tokens, seconds) = (after.0.checked_sub(before.0)?, after.1 - before.1);
    let is_telling = tokens > 0 && seconds >= SECONDS_MIN;
    // To three digits: more would change with every look.
    is_telling.then(|| (tokens as f64 / seconds * 10.0).round() / 10.0)
}

impl Bus {
    /// Notes how everything is now, and goes on to do so while somebody reads.
    pub(crate) async fn watch(&self, state: &AppState) {
        self.sample(state).await;
        if self.0.is_sampling.swap(true, Ordering::AcqRel) {
            return;
        }
        let (bus, state_there) = (self.clone(), state.clone());
        let work = async move {
            loop {
                tokio::time::sleep(SAMPLE_EVERY).await;
                if bus.0.readers.load(Ordering::Relaxed) == 0 {
                    bus.0.is_sampling.store(false, Ordering::Release);
                    return;
                }
                bus.sample(&state_there).await;
            }
        };
        match state.runtime() {
            // It outlives the connection of the first reader.
            Some(runtime) => runtime.spawn(work),
            None => tokio::spawn(work),
        };
    }

    async fn sample(&self, state: &AppState) {
        let models = inspected(state).await;
        let now_ms = now_ms();
        let entries = {
            let mut course = self.course();
            let states = models.iter().map(|(model, worker)| {
                let worker = worker.as_ref().map(|worker| {
                    let meter = course.speeds.entry(model.name.clone()).or_default();
                    (worker, meter.read(worker))
                });
                let entry = Entry {
                    sight: Sight::Model(model.name.clone()),
                    state: BusState::Model(Box::new(ModelState::new(model, worker, now_ms))),
                };
                (format!("model/{}", model.name), entry)
            });
            let entries: Vec<_> = states.collect();
            course
                .speeds
                .retain(|name, _| models.iter().any(|(model, _)| model.name == *name));
            entries
        };
        self.replace("model/", entries);
        let backend = state.backend();
        let memory = MemoryState::new(
            backend.memory(),
            backend.device_memory(),
            backend.pressure(),
        );
        let everybody = |state| Entry {
            sight: Sight::Everybody,
            state,
        };
        let memory = everybody(BusState::Memory(memory));
        self.replace("memory", vec![("memory".to_owned(), memory)]);
        let server = everybody(BusState::Server(ServerState {
            version: env!("CARGO_PKG_VERSION"),
            started_s: state.started(),
            has_chats: state.chats().is_ok(),
            has_library: state.config().library.is_some(),
            has_history: state.config().history.is_some(),
            may_manage: false,
        }));
        self.replace("server", vec![("server".to_owned(), server)]);
        let pulls = state.pulls().all().into_iter().map(|(spec, pull)| {
            let entry = Entry {
                sight: Sight::Admin,
                state: BusState::Pull(PullProgress::new(spec.clone(), &pull)),
            };
            (format!("pull/{spec}"), entry)
        });
        self.replace("pull/", pulls.collect());
        let log = Entry {
            sight: Sight::Admin,
            state: BusState::Log(LogState {
                latest: state.config().logs.latest(),
            }),
        };
        self.replace("log", vec![("log".to_owned(), log)]);
        if let Ok(chats) = state.chats() {
            self.answers(&chats.lives());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(prompt: (u64, u64, f64), answer: (u64, f64)) -> WorkerState {
        WorkerState {
            prompt_tokens_total: prompt.0,
            prompt_tokens_cached_total: prompt.1,
            prefill_seconds_total: prompt.2,
            completion_tokens_total: answer.0,
            decode_seconds_total: answer.1,
            ..WorkerState::default()
        }
    }

    #[test]
    fn speeds_are_of_what_came_last_and_cached_tokens_do_not_count() {
        let mut meter = Meter::default();
        assert_eq!(
            meter.read(&worker((0, 0, 0.0), (0, 0.0))),
            Speeds::default()
        );
        let first = meter.read(&worker((100, 40, 0.5), (20, 2.0)));
        assert_eq!((first.prefill, first.decode), (Some(120.0), Some(10.0)));
        // Nothing new leaves the last.
        assert_eq!(meter.read(&worker((100, 40, 0.5), (20, 2.0))), first);
        let next = meter.read(&worker((100, 40, 0.5), (50, 3.0)));
        assert_eq!((next.prefill, next.decode), (Some(120.0), Some(30.0)));
        // A worker that was started again.
        let again = meter.read(&worker((10, 0, 0.1), (0, 0.0)));
        assert_eq!((again.prefill, again.decode), (Some(100.0), None));
    }
}
