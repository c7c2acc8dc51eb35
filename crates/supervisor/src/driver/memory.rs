//! What models take of memory: what a load will cost, what is held, and what is done when the
//! memory that is left runs short.

use std::sync::{Arc, Weak};
use std::time::Duration;

use proto::LoadSpec;

use super::{Fleet, Inner};
use crate::pressure::{Level, Reading, Step, Watch};
use crate::{Estimate, MemoryCost, PressureSource, PressureState, shelf};

impl Fleet {
    /// Bytes that the models in memory take, as far as the ledger knows, and the limit.
    #[must_use]
    pub fn memory(&self) -> (u64, Option<u64>) {
        let (held, max) = self.inner.lock().shelf.memory();
        (held, (max < u64::MAX).then_some(max))
    }

    /// The same of the GPU.
    #[must_use]
    pub fn device_memory(&self) -> (u64, Option<u64>) {
        let (held, max) = self.inner.lock().shelf.device_memory();
        (held, (max < u64::MAX).then_some(max))
    }

    /// How short memory is, and what was given up for it.
    #[must_use]
    pub fn pressure(&self) -> PressureState {
        self.inner.lock().pressure
    }

    /// How a model will be loaded, and what it will cost so.
    pub(super) async fn estimated(&self, spec: LoadSpec) -> (LoadSpec, MemoryCost) {
        let listed = {
            let shared = self.inner.lock();
            let known = shared.shelf.listed(&spec.name);
            known
                .filter(|(known, _)| **known == spec)
                .map(|(_, cost)| cost)
        };
        match (listed, self.inner.estimate.clone()) {
            (Some(cost), _) => (spec, cost),
            (None, Some(Estimate(estimate))) => {
                let asked = spec.clone();
                let runtime = &self.inner.runtime;
                let estimated = runtime.spawn_blocking(move || estimate(asked)).await;
                estimated.unwrap_or_else(|_| (spec, MemoryCost::default()))
            }
            (None, None) => (spec, MemoryCost::default()),
        }
    }
}

/// Reads and acts until the fleet is gone.
pub(super) async fn watch(fleet: Weak<Inner>, source: PressureSource) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(Duration::from_millis(watch.interval_ms())).await;
        let read = Arc::clone(&source.0);
        let Ok(reading) = tokio::task::spawn_blocking(move || read()).await else {
            tracing::error!("what memory is left cannot be read; nobody watches it any more");
            return;
        };
        let Some(inner) = fleet.upgrade() else {
            return;
        };
        inner.follow(&mut watch, &reading);
    }
}

impl Inner {
    fn follow(&self, watch: &mut Watch, reading: &Reading) {
        let before = watch.level();
        let step = watch.step(reading, self.now_ms());
        let left = reading.iter().map(|pool| pool.left_bytes).min();
        let left = stdx::Bytes(left.unwrap_or_default());
        let level = watch.level();
        if level != before {
            match level {
                Level::Calm => tracing::info!(%left, "there is memory again"),
                _ => tracing::warn!(%left, "memory is {}", level.word()),
            }
        }
        let mut shared = self.lock();
        shared.pressure.level = level;
        let event = match step {
            None => return,
            Some(Step::Shrink) => {
                shared.pressure.shrinks += 1;
                shelf::Event::Shrink
            }
            Some(Step::Unload { bytes }) => shelf::Event::Shed { bytes },
            Some(Step::Room { bytes }) => shelf::Event::Room { bytes },
        };
        self.apply_locked(&mut shared, event.into());
        if !shared.shelf.is_capped() {
            watch.lifted();
        }
    }
}
