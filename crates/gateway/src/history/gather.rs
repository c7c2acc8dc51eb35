//! From looks, one a second, to a sample of ten seconds. Pure.

use std::collections::HashMap;

use hardware::Vitals;
use proto::WorkerState;
use store::{Cores, Figure, STEP_S, Sample, Spread};
use supervisor::{ModelPhase, ModelStatus};

use super::tally::Taken;

/// This process among the processes.
pub(crate) const ENDPOINT: &str = "(endpoint)";

/// All models at a moment; one that was not asked, or did not answer, without its state.
pub(super) type Seen = [(ModelStatus, Option<WorkerState>)];

/// What is known at the end of a sample beside the looks.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) taken: Taken,
    pub(super) vitals: Option<Vitals>,
    /// What the ledger counts for all models, and of that on GPUs where one is used.
    pub(super) models_bytes: u64,
    pub(super) gpu_models_bytes: Option<u64>,
}

/// Gathers a sample.
#[derive(Debug, Default)]
pub(super) struct Gather {
    sample: Sample,
    /// Seconds of which something is known.
    covered_s: f64,
    tokens: Tokens,
    workers: HashMap<String, Known>,
}

/// Tokens since some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tokens {
    read: u64,
    cached: u64,
    said: u64,
}

/// A worker as it was last seen.
#[derive(Debug)]
struct Known {
    pid: Option<u32>,
    tokens: Tokens,
}

impl Tokens {
    /// What a worker has done so far, with what its slots are at: its totals are of jobs that
    /// have ended, and prompts count there as soon as they begin.
    fn of(worker: &WorkerState) -> Self {
        let slots = worker.slots.iter();
        let open = |slot: &proto::SlotState| {
            let left = slot.prompt_tokens.saturating_sub(slot.prompt_done);
            (u64::from(left), u64::from(slot.generated_tokens))
        };
        let (left, generated) = slots
            .map(open)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let cached = worker.prompt_tokens_cached_total;
        let computed = worker.prompt_tokens_total.saturating_sub(cached);
        Self {
            read: computed.saturating_sub(left),
            cached,
            said: worker.completion_tokens_total + generated,
        }
    }

    /// A job that was cancelled takes what its slot had with it; that was counted.
    fn add_since(&mut self, before: Self, now: Self) {
        self.read += now.read.saturating_sub(before.read);
        self.cached += now.cached.saturating_sub(before.cached);
        self.said += now.said.saturating_sub(before.said);
    }
}

impl Gather {
    /// Takes a look in, so many seconds after the one before.
    pub(super) fn look(&mut self, seen: &Seen, seconds: f64) {
        self.covered_s += seconds.clamp(0.0, STEP_S as f64);
        let (mut running, mut queued) = (0, 0);
        for (model, worker) in seen {
            queued += model.place.waiting;
            match worker {
                None => running += model.place.running,
                Some(worker) => {
                    let busy = worker.slots.iter().filter(|slot| slot.job.is_some());
                    running += u32::try_from(busy.count()).unwrap_or(u32::MAX);
                    queued += worker.queued;
                    self.count(model, worker);
                }
            }
        }
        self.workers
            .retain(|name, _| seen.iter().any(|(model, _)| model.name == *name));
        let looks = [(Figure::Running, running), (Figure::Queued, queued)];
        for (figure, count) in looks {
            self.sample.add(figure, Spread::of(f64::from(count)));
        }
    }

    fn count(&mut self, model: &ModelStatus, worker: &WorkerState) {
        let now = Tokens::of(worker);
        let known = self.workers.get(&model.name);
        // A worker that was started again counts from 0, as this process started it.
        let before = known.filter(|known| known.pid == model.pid);
        let before = before.map_or_else(Tokens::default, |known| known.tokens);
        self.tokens.add_since(before, now);
        let known = Known {
            pid: model.pid,
            tokens: now,
        };
        self.workers.insert(model.name.clone(), known);
    }

    /// The sample of the time that began then, with the last look. `None` where nothing was
    /// looked at.
    pub(super) fn close(&mut self, at_s: u64, seen: &Seen, ending: Ending) -> Option<Sample> {
        let mut sample = std::mem::take(&mut self.sample);
        let covered_s = std::mem::take(&mut self.covered_s);
        let tokens = std::mem::take(&mut self.tokens);
        if covered_s <= 0.0 {
            return None;
        }
        sample.at_s = at_s;
        let taken = ending.taken;
        let rates = [
            (Figure::ReadTps, tokens.read, 1.0),
            (Figure::CachedTps, tokens.cached, 1.0),
            (Figure::SaidTps, tokens.said, 1.0),
            (Figure::AnsweredPerMin, taken.answered, 60.0),
            (Figure::FailedPerMin, taken.failed, 60.0),
        ];
        for (figure, count, per_s) in rates {
            let rate = count as f64 * per_s / covered_s;
            sample.add(figure, Spread::weighted(rate, covered_s));
        }
        let speeds = [
            (Figure::PrefillSpeed, taken.prefill),
            (Figure::DecodeSpeed, taken.decode),
        ];
        for (figure, (tokens, seconds)) in speeds {
            if tokens > 0 && seconds > 0.0 {
                let speed = tokens as f64 / seconds;
                sample.add(figure, Spread::weighted(speed, seconds));
            }
        }
        sample.waits = taken.waits;
        let models = Spread::of(ending.models_bytes as f64);
        sample.add(Figure::Models, models);
        if let Some(bytes) = ending.gpu_models_bytes {
            sample.add(Figure::GpuModels, Spread::of(bytes as f64));
        }
        add_caches(&mut sample, seen);
        if let Some(vitals) = ending.vitals {
            add_vitals(&mut sample, &vitals);
        }
        Some(sample)
    }

    /// Forgets what was gathered: the clock was set, and nobody knows of which time it is.
    pub(super) fn forget(&mut self) {
        self.sample = Sample::default();
        self.covered_s = 0.0;
        self.tokens = Tokens::default();
    }
}

/// Caches and processes of the workers that tell of them.
fn add_caches(sample: &mut Sample, seen: &Seen) {
    let (mut cells, mut running, mut cached) = (0, 0, 0);
    let (mut bytes, mut used) = (0.0, 0.0);
    let mut has_cache = false;
    for (model, worker) in seen {
        let Some(worker) = worker else { continue };
        sample.add_process(&model.name, Spread::of(worker.resident_bytes as f64));
        let (kv, in_use) = (&worker.kv, worker.kv.cells_running + worker.kv.cells_cached);
        if kv.cells == 0 {
            continue;
        }
        has_cache = true;
        cells += u64::from(kv.cells);
        running += u64::from(kv.cells_running);
        cached += u64::from(kv.cells_cached);
        if let ModelPhase::Ready(facts) = &model.phase {
            let share = f64::from(in_use) / f64::from(kv.cells);
            bytes += facts.kv_bytes as f64;
            used += facts.kv_bytes as f64 * share.min(1.0);
        }
    }
    if !has_cache {
        return;
    }
    let figures = [
        (Figure::KvCells, cells as f64),
        (Figure::KvRunning, running as f64),
        (Figure::KvCached, cached as f64),
        (Figure::KvBytes, bytes),
        (Figure::KvUsed, used),
    ];
    for (figure, value) in figures {
        sample.add(figure, Spread::of(value));
    }
}

fn add_vitals(sample: &mut Sample, vitals: &Vitals) {
    let bytes = |bytes: Option<stdx::Bytes>| bytes.map(|bytes| bytes.0 as f64);
    let figures = [
        (Figure::Available, bytes(vitals.available)),
        (Figure::GpuUsed, bytes(vitals.gpu_used)),
        (Figure::Busy, vitals.busy_share),
        (Figure::OwnCores, vitals.own_cores),
        (Figure::Celsius, vitals.celsius),
        (Figure::GpuCelsius, vitals.gpu_celsius),
        (Figure::GpuBusy, vitals.gpu_busy_share),
        (
            Figure::Throttled,
            vitals.is_throttled.map(|is| f64::from(u8::from(is))),
        ),
    ];
    for (figure, value) in figures {
        if let Some(value) = value {
            sample.add(figure, Spread::of(value));
        }
    }
    if let Some(resident) = bytes(vitals.own_resident) {
        sample.add_process(ENDPOINT, Spread::of(resident));
    }
    if !vitals.cores.is_empty() {
        sample.cores = Cores::of(&vitals.cores);
    }
}

#[cfg(test)]
mod tests {
    use proto::{JobId, KvUse, SlotPhase, SlotState};

    use super::*;
    use crate::tests::scripted::ready_model;

    fn worker(prompt: (u64, u64), said: u64, slots: Vec<SlotState>) -> WorkerState {
        WorkerState {
            prompt_tokens_total: prompt.0,
            prompt_tokens_cached_total: prompt.1,
            completion_tokens_total: said,
            slots,
            ..WorkerState::default()
        }
    }

    fn slot(prompt: (u32, u32), generated_tokens: u32) -> SlotState {
        SlotState {
            slot: 0,
            job: Some(JobId(1)),
            phase: SlotPhase::Decode,
            prompt_tokens: prompt.0,
            prompt_done: prompt.1,
            generated_tokens,
        }
    }

    fn seen(worker: WorkerState) -> Vec<(ModelStatus, Option<WorkerState>)> {
        vec![(ready_model("tiny"), Some(worker))]
    }

    fn mean(sample: &Sample, figure: Figure) -> f32 {
        sample.get(figure).unwrap().mean
    }

    #[test]
    fn tokens_count_while_they_come_and_once() {
        let mut gather = Gather::default();
        // 100 of a prompt of which 20 were cached; 30 are computed.
        let began = worker((100, 20), 0, vec![slot((100, 50), 0)]);
        gather.look(&seen(began), 1.0);
        let writing = worker((100, 20), 0, vec![slot((100, 100), 7)]);
        gather.look(&seen(writing), 1.0);
        let ended = worker((100, 20), 10, vec![]);
        gather.look(&seen(ended.clone()), 3.0);
        let sample = gather.close(50, &seen(ended), Ending::default()).unwrap();
        assert_eq!(sample.at_s, 50);
        assert_eq!(mean(&sample, Figure::ReadTps), 16.0);
        assert_eq!(mean(&sample, Figure::CachedTps), 4.0);
        assert_eq!(mean(&sample, Figure::SaidTps), 2.0);
        let running = sample.get(Figure::Running).unwrap();
        assert_eq!((running.min, running.max), (0.0, 1.0));
        // A job that is cancelled takes nothing back; a worker that starts again counts from 0.
        let cancelled = worker((100, 20), 10, vec![slot((50, 0), 0)]);
        gather.look(&seen(cancelled), 1.0);
        let mut again = seen(worker((8, 0), 4, vec![]));
        again[0].0.pid = Some(99);
        gather.look(&again, 1.0);
        let sample = gather.close(60, &again, Ending::default()).unwrap();
        assert_eq!(
            (
                mean(&sample, Figure::ReadTps),
                mean(&sample, Figure::SaidTps)
            ),
            (4.0, 2.0)
        );
    }

    #[test]
    fn what_nobody_tells_is_absent_and_not_0() {
        let mut gather = Gather::default();
        assert_eq!(
            gather.close(1, &[], Ending::default()),
            None,
            "nobody looked"
        );
        gather.look(&[], 1.0);
        let sample = gather.close(1, &[], Ending::default()).unwrap();
        for figure in [
            Figure::DecodeSpeed,
            Figure::KvCells,
            Figure::Celsius,
            Figure::GpuUsed,
            Figure::GpuModels,
        ] {
            assert_eq!(sample.get(figure), None, "{figure:?}");
        }
        assert_eq!(mean(&sample, Figure::Queued), 0.0);
        assert!(sample.processes().is_empty());
    }

    #[test]
    fn caches_processes_and_the_machine_are_in_it() {
        let worker = WorkerState {
            resident_bytes: 500,
            queued: 3,
            kv: KvUse {
                cells: 100,
                cells_running: 20,
                cells_cached: 30,
                ..KvUse::default()
            },
            ..WorkerState::default()
        };
        let mut seen = seen(worker);
        seen[0].0.place.waiting = 2;
        if let ModelPhase::Ready(facts) = &mut seen[0].0.phase {
            std::sync::Arc::make_mut(facts).kv_bytes = 1000;
        }
        let vitals = Vitals {
            own_resident: Some(stdx::Bytes(70)),
            is_throttled: Some(true),
            cores: vec![0.25, 0.75],
            ..Vitals::default()
        };
        let ending = Ending {
            vitals: Some(vitals),
            models_bytes: 9,
            gpu_models_bytes: Some(4),
            taken: Taken {
                decode: (30, 2.0),
                ..Taken::default()
            },
        };
        let mut gather = Gather::default();
        gather.look(&seen, 10.0);
        let sample = gather.close(10, &seen, ending).unwrap();
        assert_eq!(mean(&sample, Figure::Queued), 5.0);
        assert_eq!(mean(&sample, Figure::KvUsed), 500.0);
        assert_eq!(mean(&sample, Figure::Throttled), 1.0);
        assert_eq!(mean(&sample, Figure::GpuModels), 4.0);
        assert_eq!(mean(&sample, Figure::DecodeSpeed), 15.0);
        assert_eq!(sample.cores.percent, [25, 75]);
        let names: Vec<_> = sample
            .processes()
            .iter()
            .map(|one| one.0.to_owned())
            .collect();
        assert_eq!(names, [ENDPOINT, "tiny"]);
    }

    #[test]
    fn what_was_gathered_before_the_clock_was_set_is_nobodys() {
        let mut gather = Gather::default();
        let ended = seen(worker((100, 0), 100, vec![]));
        gather.look(&ended, 5.0);
        gather.forget();
        gather.look(&ended, 1.0);
        let sample = gather.close(10, &ended, Ending::default()).unwrap();
        assert_eq!(
            mean(&sample, Figure::SaidTps),
            0.0,
            "and nothing counts twice"
        );
    }
}
