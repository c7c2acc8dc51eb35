//! One model of the shelf: what it costs, who waits for it, when it may go.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::{
    DeviceFacts, FailureKind, Job, JobId, LoadFailure, LoadFailureKind, LoadSpec, ModelFacts,
};

use super::space::Space;
use super::{Action, Limits, NOBODY, Turn};
use crate::core::RequestId;
use crate::drift::Held;
use crate::{DeviceMemory, Keep, Listing, MemoryCost, ModelPhase, ModelTraits, Place, Residence};

/// Over this time the weight of a use is halved.
const USE_HALF_LIFE_MS: f64 = 600_000.0;
/// A model that nobody uses still costs a part of its reload: somebody put it here.
const USES_MIN: f64 = 0.05;
/// How fast weights are read where no load has been measured: that of a plain SSD.
const READ_BYTES_PER_MS: u64 = 500_000;
/// The share of a new measurement in what is remembered of earlier ones.
const THINK_SHARE: f64 = 0.3;
/// Longer gaps between requests are all the same: no wait is worth them.
const THINK_MAX_MS: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Entry {
    /// Its place on the shelf; `None` for a guest, which is here because somebody loaded
    /// it by its path, and stays until it is unloaded by name or cannot be loaded.
    pub(super) listing: Option<Arc<Listing>>,
    pub(super) spec: LoadSpec,
    /// What the file says that it costs.
    pub(super) cost: MemoryCost,
    /// The same with as many layers on the GPU as may ever be there.
    planned: MemoryCost,
    /// What the ledger counts.
    space: Space,
    /// Bytes that it takes on the GPU beyond what its file says, as a load that failed tells.
    device_more: u64,
    /// Weights and cache, by the engine.
    reported: u64,
    /// The cache among it.
    kv_reported: u64,
    /// Bytes on the GPU, by the engine.
    device_reported: u64,
    is_measured: bool,
    pub(super) traits: ModelTraits,
    pub(super) helps: Option<String>,
    pub(super) pin: bool,
    /// Loaded although it did not fit.
    pub(super) forced: bool,
    /// What the last request that had a wish wants to become of it.
    keep: Option<Keep>,
    pub(super) phase: Phase,
    /// The model for which it makes room: it takes nothing new and goes when it is idle.
    pub(super) closed_for: Option<String>,
    /// It was unloaded because memory was short, and has not been loaded since.
    was_shed: bool,
    /// It goes from the shelf when it goes from memory.
    to_be_dropped: bool,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) n_running: u32,
    pub(super) idle_since: u64,
    /// How often it was asked for, the older the less.
    uses: f64,
    uses_at: u64,
    /// How long after its last job the next one came, on average.
    think_ms: Option<f64>,
    /// Nobody has asked for it since it became idle.
    is_gap_open: bool,
    reload_ms: Option<u64>,
    n_failures: u32,
    cooldown: Option<(LoadFailure, u64)>,
    /// What its listing says is wrong with it.
    fault: Option<LoadFailure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Off,
    Loading {
        since: u64,
        /// Bytes that the ledger had for it, and whether others held some.
        room: Space,
        was_alone: bool,
    },
    Ready,
    /// Its process is on its way out, and its memory with it.
    Leaving,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) waiter: Waiter,
    pub(super) since: u64,
    pub(super) until: u64,
}

#[derive(Debug)]
pub(super) enum Waiter {
    Job { id: JobId, job: Job },
    Load { request: RequestId, force: bool },
}

impl Entry {
    pub(super) fn listed(listing: Listing) -> Self {
        let mut entry = Self::guest(listing.spec.clone(), listing.cost.clone());
        entry.list(listing);
        entry
    }

    pub(super) fn guest(spec: LoadSpec, cost: MemoryCost) -> Self {
        Self {
            listing: None,
            space: space_of(&cost),
            device_more: 0,
            reported: 0,
            kv_reported: 0,
            device_reported: 0,
            is_measured: false,
            spec,
            planned: cost.clone(),
            cost,
            traits: ModelTraits::default(),
            helps: None,
            pin: false,
            forced: false,
            keep: None,
            phase: Phase::Off,
            closed_for: None,
            was_shed: false,
            to_be_dropped: false,
            waiting: VecDeque::new(),
            n_running: 0,
            idle_since: 0,
            uses: 0.0,
            uses_at: 0,
            think_ms: None,
            is_gap_open: false,
            reload_ms: None,
            n_failures: 0,
            cooldown: None,
            fault: None,
        }
    }

    /// Gives it its place on the shelf; what is in memory keeps the settings it has.
    pub(super) fn list(&mut self, listing: Listing) {
        if self.phase == Phase::Off {
            self.set_spec(listing.spec.clone(), listing.cost.clone());
        }
        self.fault = listing.fault.clone().filter(|_| self.phase == Phase::Off);
        self.pin |= listing.pin;
        self.traits = listing.traits.clone();
        self.helps = listing.helps.clone();
        self.to_be_dropped = false;
        self.listing = Some(Arc::new(listing));
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// A measurement stands for as long as the settings do.
    pub(super) fn set_spec(&mut self, spec: LoadSpec, cost: MemoryCost) {
        // It may be there with fewer layers on the GPU than were planned.
        let is_known = self.as_placed(spec.clone()) == self.spec;
        if !is_known || self.planned != cost {
            self.space = space_of(&cost);
            self.device_more = 0;
            self.is_measured = false;
            self.planned = cost.clone();
            self.cost = cost;
            self.spec = spec;
        }
    }

    /// The settings as it was placed with them, where they are the same in all else.
    pub(super) fn as_placed(&self, mut spec: LoadSpec) -> LoadSpec {
        let may_differ = self.spec.gpu.is_some() && spec.gpu.is_some();
        if may_differ && spec.gpu_layers.is_none() {
            let planned = std::mem::replace(&mut spec.gpu, self.spec.gpu.clone());
            if spec != self.spec {
                spec.gpu = planned;
            }
        }
        spec
    }

    /// Puts as many layers on the GPU as there is room for, where nobody has said how many.
    pub(super) fn place_in(&mut self, room: Space) {
        let (None, Some(gpu)) = (self.spec.gpu_layers, &mut self.spec.gpu) else {
            return;
        };
        let room = room.device.saturating_sub(self.device_more);
        let Some(placement) = self.planned.placement_that_fits(room) else {
            return;
        };
        if gpu.layers == placement.gpu_layers {
            return;
        }
        gpu.layers = placement.gpu_layers;
        self.cost = self.planned.placed(placement);
        self.space = space_of(&self.cost);
        if placement.device_bytes > 0 {
            self.space.device = self.space.device.saturating_add(self.device_more);
        }
        self.is_measured = false;
    }

    pub(super) fn space(&self) -> Space {
        self.space
    }

    /// All that it takes, bytes; those that count in both memories once.
    pub(super) fn bytes(&self) -> u64 {
        match self.cost.device_memory {
            DeviceMemory::Own => self.space.bytes(),
            DeviceMemory::Unified => self.space.host,
        }
    }

    pub(super) fn held(&self) -> Space {
        match self.phase {
            Phase::Off => Space::default(),
            _ => self.space,
        }
    }

    pub(super) fn is_used(&self) -> bool {
        self.phase != Phase::Off || !self.waiting.is_empty()
    }

    pub(super) fn is_over(&self) -> bool {
        self.to_be_dropped && !self.is_used()
    }

    pub(super) fn is_to_be_dropped(&self) -> bool {
        self.to_be_dropped
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Ready && self.n_running == 0
    }

    /// Since when its first waiter waits.
    pub(super) fn waits_since(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.since).min()
    }

    /// Until when it is left alone although it is idle: its clients use to come back soon.
    pub(super) fn lingers_until(&self) -> Option<u64> {
        let think_ms = self.think_ms?;
        // Waiting longer than a reload costs is worse than the reload.
        let worth_it = think_ms < self.reload_ms() as f64;
        (self.is_idle() && worth_it).then(|| {
            let patience_ms = (2.0 * think_ms).min(self.reload_ms() as f64) as u64;
            self.idle_since.saturating_add(patience_ms.max(1))
        })
    }

    /// When an idle model goes; `None`: it stays, or is not idle.
    pub(super) fn expires_at(&self, limits: &Limits) -> Option<u64> {
        if !self.is_idle() || self.pin {
            return None;
        }
        Some(self.idle_since.saturating_add(self.keep_ms(limits)?))
    }

    fn keep_ms(&self, limits: &Limits) -> Option<u64> {
        match self.keep {
            Some(keep) => in_ms(keep),
            None => self.stay_ms(limits),
        }
    }

    /// How long it stays idle where no request has said anything of it.
    fn stay_ms(&self, limits: &Limits) -> Option<u64> {
        // Without a listing somebody loaded it by hand and will unload it so.
        match self.listing.as_ref()?.keep_alive {
            Some(keep) => in_ms(keep),
            None => limits.keep_alive_ms,
        }
    }

    /// Takes in what a request that is over wants to become of it. Of a model that has gone
    /// meanwhile there is nothing to keep.
    pub(super) fn keep(&mut self, keep: Keep, now: u64) {
        if matches!(self.phase, Phase::Loading { .. } | Phase::Ready) {
            self.keep = Some(keep);
            self.idle_since = now;
        }
    }

    /// Whether a request has asked for it to stay.
    pub(super) fn is_kept(&self) -> bool {
        self.keep == Some(Keep::Forever)
    }

    /// What its going would cost: the time of its reload, the more the more it is used.
    pub(super) fn loss(&self, now: u64) -> f64 {
        self.reload_ms() as f64 * (USES_MIN + self.uses_at(now))
    }

    fn reload_ms(&self) -> u64 {
        self.reload_ms
            .unwrap_or(self.bytes() / READ_BYTES_PER_MS)
            .max(1)
    }

    fn uses_at(&self, now: u64) -> f64 {
        let age_ms = now.saturating_sub(self.uses_at) as f64;
        self.uses * (-age_ms / USE_HALF_LIFE_MS).exp2()
    }

    /// A job for it has come.
    pub(super) fn asked(&mut self, now: u64) {
        self.uses = self.uses_at(now) + 1.0;
        self.uses_at = now;
        if std::mem::take(&mut self.is_gap_open) {
            let gap_ms = now.saturating_sub(self.idle_since).min(THINK_MAX_MS) as f64;
            let known_ms = self.think_ms.unwrap_or(gap_ms);
            self.think_ms = Some(known_ms + THINK_SHARE * (gap_ms - known_ms));
        }
    }

    pub(super) fn submit(&mut self, (id, job): (JobId, Job), turn: &mut Turn<'_>) {
        self.n_running += 1;
        turn.actions.push(Action::Submit {
            id,
            model: self.name().to_owned(),
            job,
        });
    }

    pub(super) fn ended(&mut self, now: u64) {
        self.n_running = self.n_running.saturating_sub(1);
        if self.n_running == 0 {
            self.idle_since = now;
            self.is_gap_open = true;
        }
    }

    /// The failure of its last load, while it is left alone because of it, and for how long.
    pub(super) fn cooling(&self, now: u64) -> Option<(&LoadFailure, u64)> {
        let (failure, until) = self.cooldown.as_ref()?;
        let in_ms = until.checked_sub(now).filter(|ms| *ms > 0)?;
        Some((failure, in_ms))
    }

    /// Why nobody tries to load it, however long that is.
    pub(super) fn fault(&self) -> Option<&LoadFailure> {
        self.fault.as_ref()
    }

    /// Lets it be tried again at once.
    pub(super) fn forgive(&mut self) {
        self.cooldown = None;
        self.fault = None;
    }

    /// Somebody wants it, whatever was before.
    pub(super) fn welcome(&mut self) {
        self.forgive();
        self.to_be_dropped = false;
    }

    /// Loads it for all who wait.
    pub(super) fn start(&mut self, (room, was_alone): (Space, bool), turn: &mut Turn<'_>) {
        self.phase = Phase::Loading {
            since: turn.now,
            room,
            was_alone,
        };
        self.closed_for = None;
        self.was_shed = false;
        let (mut jobs, mut requests) = (Vec::new(), Vec::new());
        for Waiting { waiter, .. } in std::mem::take(&mut self.waiting) {
            match waiter {
                Waiter::Job { id, job } => jobs.push((id, job)),
                Waiter::Load { request, .. } => requests.push(request),
            }
        }
        if requests.is_empty() {
            requests.push(NOBODY);
        }
        for request in requests {
            let spec = self.spec.clone();
            turn.actions.push(Action::Load { request, spec });
        }
        for job in jobs {
            self.submit(job, turn);
        }
    }

    /// Ends its worker. What it costs is held until the process is gone.
    pub(super) fn leave(&mut self, turn: &mut Turn<'_>) {
        self.phase = Phase::Leaving;
        self.closed_for = None;
        turn.actions.push(Action::Unload {
            request: NOBODY,
            model: self.name().to_owned(),
        });
    }

    /// Ends its worker because memory is short.
    pub(super) fn shed(&mut self, turn: &mut Turn<'_>) {
        self.was_shed = true;
        turn.actions.push(Action::TellShed {
            model: self.name().to_owned(),
            bytes: self.bytes(),
        });
        self.leave(turn);
    }

    /// A guest that is unloaded by name does not come back; neither do those who wait for it.
    pub(super) fn unlist_guest(&mut self, turn: &mut Turn<'_>) {
        match &self.listing {
            Some(listing) => self.pin = listing.pin,
            None => {
                self.to_be_dropped = true;
                let message = format!("model `{}` is being unloaded", self.name());
                self.refuse_all(&FailureKind::Draining, &message, turn);
            }
        }
    }

    pub(super) fn refuse_all(&mut self, kind: &FailureKind, message: &str, turn: &mut Turn<'_>) {
        for waiting in std::mem::take(&mut self.waiting) {
            turn.refuse_waiter(waiting.waiter, kind.clone(), message);
        }
    }

    pub(super) fn take_waiting(&mut self, is_taken: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (taken, left): (Vec<_>, Vec<_>) = all.partition(|waiting| is_taken(waiting));
        self.waiting = left.into();
        taken
    }

    /// Follows its worker.
    pub(super) fn take_phase(&mut self, phase: Option<ModelPhase>, turn: &mut Turn<'_>) {
        match (phase, self.phase) {
            (Some(ModelPhase::Ready(facts)), Phase::Loading { since, .. }) => {
                self.phase = Phase::Ready;
                self.idle_since = turn.now;
                self.reload_ms = Some(turn.now.saturating_sub(since));
                self.n_failures = 0;
                self.cooldown = None;
                self.traits = ModelTraits::of(&facts);
                if !self.is_measured && turn.limits.memory_max < u64::MAX {
                    self.take_facts(&facts);
                    let model = self.name().to_owned();
                    turn.actions.push(Action::Measure { model });
                }
            }
            (Some(ModelPhase::Failed(_)), Phase::Off) => {}
            (Some(ModelPhase::Failed(failure)), _) => self.failed(failure, turn),
            (Some(ModelPhase::Draining), Phase::Loading { .. } | Phase::Ready) => {
                self.phase = Phase::Leaving;
            }
            (None, _) => self.gone(),
            _ => {}
        }
    }

    /// What the engine says of the model it has loaded.
    fn take_facts(&mut self, facts: &ModelFacts) {
        if facts.weights_bytes > 0 {
            self.reported = facts.weights_bytes.saturating_add(facts.kv_bytes);
            self.kv_reported = facts.kv_bytes;
            let all = self.reported.saturating_add(self.cost.other_bytes);
            self.space.host = match self.cost.device_memory {
                DeviceMemory::Own => all.saturating_sub(self.cost.device_bytes),
                DeviceMemory::Unified => all,
            };
        }
        if facts.devices.is_empty() {
            return;
        }
        let gpus = facts.devices.iter().filter(|device| device.kind.is_gpu());
        let held: u64 = gpus.map(DeviceFacts::held_bytes).sum();
        // What only embeds makes its context with the first text.
        let device = match facts.can_complete {
            true => held,
            false if facts.gpu_layers == 0 => 0,
            false => held.max(self.cost.device_bytes),
        };
        if facts.can_complete {
            self.device_reported = held;
        }
        if self.cost.device_memory == DeviceMemory::Unified {
            let others = self.space.host.saturating_sub(self.cost.device_bytes);
            self.space.host = others.saturating_add(device);
        }
        self.device_more = device.saturating_sub(self.cost.device_bytes);
        self.space.device = device;
    }

    /// What the process holds right after loading corrects the estimate. Where it was
    /// expected to show another figure than it will need, with pages of the file that may be
    /// taken back and without buffers of the first pass, what it holds beyond that counts; what
    /// it holds less may be such pages, which memory that is short has taken back. Else the
    /// figure stands: it has weights maybe twice, and pages of weights and cache that it has
    /// not touched yet are in what the engine says.
    pub(super) fn measured(&mut self, bytes: u64, turn: &mut Turn<'_>) {
        if self.phase != Phase::Ready || bytes == 0 {
            return;
        }
        let host = match self.cost.resident_bytes {
            0 => self.reported.saturating_sub(self.on_card()).max(bytes),
            expected => {
                let more = bytes.saturating_sub(expected);
                self.cost.host_bytes().saturating_add(more)
            }
        };
        self.space.host = host;
        self.is_measured = true;
        if self.cost.resident_bytes > 0 {
            turn.actions.push(Action::Compare {
                model: self.name().to_owned(),
                planned: self.cost.clone(),
                held: Held {
                    kv_bytes: self.kv_reported,
                    device_bytes: self.device_reported,
                    resident_bytes: bytes,
                },
            });
        }
    }

    /// Bytes that are not the host's.
    fn on_card(&self) -> u64 {
        match self.cost.device_memory {
            DeviceMemory::Own => self.space.device,
            DeviceMemory::Unified => 0,
        }
    }

    fn gone(&mut self) {
        self.phase = Phase::Off;
        self.closed_for = None;
        self.forced = false;
        self.keep = None;
        if let Some(listing) = self.listing.clone() {
            // What it was loaded with by hand was for that time.
            if self.waiting.is_empty() {
                self.set_spec(listing.spec.clone(), listing.cost.clone());
            }
        }
    }

    fn failed(&mut self, failure: LoadFailure, turn: &mut Turn<'_>) {
        if let Phase::Loading {
            room, was_alone, ..
        } = self.phase
            && failure.kind == LoadFailureKind::Resources
            && !was_alone
        {
            // It takes more than what was free beside the others. Alone it is tried again
            // after a while: other programs come and go.
            if self.space.device > 0 {
                let short = room.device.saturating_add(1);
                self.device_more = short.saturating_sub(self.cost.device_bytes);
                self.space.device = self.space.device.max(short);
            } else {
                self.space.host = self.space.host.max(room.host.saturating_add(1));
            }
        }
        self.phase = Phase::Off;
        self.closed_for = None;
        self.forced = false;
        self.to_be_dropped |= self.listing.is_none();
        let doublings = self.n_failures.min(16);
        let wait_ms = turn.limits.cooldown_first_ms << doublings;
        let until = turn.now + wait_ms.min(turn.limits.cooldown_max_ms);
        self.n_failures += 1;
        let message = format!(
            "model `{}` could not be loaded: {}",
            self.name(),
            failure.message
        );
        self.cooldown = Some((failure, until));
        self.refuse_all(&FailureKind::ModelUnavailable, &message, turn);
    }

    pub(super) fn place(&self, limits: &Limits, now: u64) -> Place {
        let residence = match self.phase {
            Phase::Off => Residence::Out,
            Phase::Loading { .. } => Residence::Coming,
            Phase::Ready => Residence::In,
            Phase::Leaving => Residence::Leaving,
        };
        let keeps = residence == Residence::In && !self.pin;
        let idle_ms = match self.n_running {
            0 => now.saturating_sub(self.idle_since),
            _ => 0,
        };
        Place {
            residence,
            is_listed: self.listing.is_some(),
            pinned: self.pin,
            bytes: self.bytes(),
            device_bytes: self.space.device,
            is_measured: self.is_measured,
            running: self.n_running,
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            stay_ms: self.stay_ms(limits),
            expires_in_ms: keeps
                .then(|| self.keep_ms(limits))
                .flatten()
                .map(|keep_ms| keep_ms.saturating_sub(idle_ms)),
            closed_for: self.closed_for.clone(),
            was_shed: self.was_shed,
            retry_in_ms: self.cooling(now).map(|(_, in_ms)| in_ms),
            helps: self.helps.clone(),
            traits: self.traits.clone(),
        }
    }
}

/// What the ledger counts for a cost.
fn space_of(cost: &MemoryCost) -> Space {
    Space {
        host: cost.host_bytes(),
        device: cost.device_bytes,
    }
}

fn in_ms(keep: Keep) -> Option<u64> {
    match keep {
        Keep::Forever => None,
        Keep::For(time) => Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}
