//! Parking: a request that is more urgent than a running one takes its slot. What the parked
//! one has computed stays in the KV cache while there is room, and is put away like any
//! finished prompt, so that it goes on where it was.
//!
//! A job is parked a few times at most, never twice without having got on in between, and
//! goes ahead of everyone once it has waited long enough.

use std::time::Duration;

use crate::scheduler::Scheduler;
use crate::scheduler::job::Job;

/// Times that a job is parked; after them it runs to its end.
const TIMES_MAX: u32 = 4;
/// Tokens that a job reads or generates between two of them, so that being parked stays a
/// small part of what it costs.
const STRIDE: usize = 32;
/// Who has been parked for so long goes ahead of everyone.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What became of a job's slot so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parking {
    times: u32,
    /// Since when it has been without its slot.
    since: Option<Duration>,
    /// Tokens it had when it got its slot back.
    resumed_at: usize,
}

impl Job {
    /// Whether it can give its slot away now. What must not be reused could not be kept for
    /// it, nor what has gone on past its context, nor several answers at once.
    fn can_be_parked(&self) -> bool {
        let [choice] = &self.choices[..] else {
            return false;
        };
        let has_got_on = self.parking.times == 0 || choice.n_kv >= self.parking.resumed_at + STRIDE;
        self.parking.times < TIMES_MAX
            && has_got_on
            && self.forked
            && self.reuses()
            && self.restore.is_none()
            && choice.finished.is_none()
            && choice.n_dropped == 0
    }

    /// It has a slot again: the time without one counts as waiting.
    pub(super) fn resume(&mut self, now: Duration) {
        let Some(since) = self.parking.since.take() else {
            return;
        };
        let away = now.saturating_sub(since);
        self.clocks.started += away;
        if let Some(first) = &mut self.clocks.first_token {
            *first += away;
        }
        if away >= WAIT_MAX {
            self.parking.times = TIMES_MAX;
        }
        self.parking.resumed_at = self.choices.first().map_or(0, |choice| choice.tokens.len());
    }
}

impl Scheduler {
    /// Which of the queue gets a slot that is free: who was parked long ago, or the first.
    pub(super) fn next_in_queue(&self) -> Option<usize> {
        let now = (self.clock)();
        let is_due = |job: &Job| {
            let since = job.parking.since;
            since.is_some_and(|since| now.saturating_sub(since) >= WAIT_MAX)
        };
        let due = self.queue.iter().position(is_due);
        due.or((!self.queue.is_empty()).then_some(0))
    }

    /// Makes room for the first of the queue, if somebody less urgent runs.
    pub(super) fn park_for_first(&mut self) -> bool {
        let Some(first) = self.queue.front() else {
            return false;
        };
        let urgency = first.request.priority;
        let in_use: usize = self.running.iter().map(Job::n_sequences).sum();
        // Its one sequence must be enough.
        if in_use - 1 + first.n_sequences() > self.shape.sequences {
            return false;
        }
        let gives_way = |job: &Job| job.request.priority < urgency && job.can_be_parked();
        let Some(at) = self.least_urgent(gives_way) else {
            return false;
        };
        self.park_job(at);
        true
    }

    /// The youngest of the least urgent among some of those that run.
    pub(super) fn least_urgent(&self, among: impl Fn(&Job) -> bool) -> Option<usize> {
        let running = self.running.iter().enumerate().rev();
        let least = running.filter(|(_, job)| among(job));
        let least = least.min_by_key(|(_, job)| job.request.priority);
        least.map(|(at, _)| at)
    }

    fn park_job(&mut self, at: usize) {
        let mut job = self.running.remove(at);
        for choice in &mut job.choices {
            self.retire_choice(choice, true);
            choice.n_kv = 0;
        }
        job.parking.times += 1;
        job.parking.since = Some((self.clock)());
        self.totals.parkings += 1;
        // Ahead of its equals, who came after it.
        let goes_behind = |queued: &Job| queued.request.priority <= job.request.priority;
        let place = self.queue.iter().position(goes_behind);
        self.queue.insert(place.unwrap_or(self.queue.len()), job);
    }
}
