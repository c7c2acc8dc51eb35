//! Continuous batching: which tokens go through the model next.
//!
//! Every pass takes the one pending token of each running stream, with its draft
//! if it has one, and fills up with a chunk of the oldest prompt that is still being
//! read; the chunk is sized so that running streams keep moving (`pace`). A
//! finished sequence stays in the KV cache for its prefix until the room is needed
//! (`sequences`). When the cache is full, kept prefixes go first, then the
//! youngest job is put back into the queue with the tokens it has and computed again
//! later: nothing is lost but time. A request that is more urgent than a running one takes
//! its slot (`park`).

mod cancel;
mod change;
mod collect;
mod draft;
mod history;
mod job;
mod pace;
mod park;
mod plan;
mod prefixes;
mod sequences;
mod shift;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::{FailureKind, FinishReason, JobFailure, Timings};

use crate::request::{JobKey, Output, Request};
use crate::{DecodeError, Decoder, Placement, Row, SequenceId, Shape, TokenId, Vocabulary};

pub use cancel::Canceller;
use history::History;
use job::{Choice, Job};
use pace::Pace;
use plan::Lease;
use prefixes::Prefixes;
use sequences::Sequences;
pub use shift::sinks_refusal;

/// Time since any fixed moment.
type Clock = Box<dyn Fn() -> Duration + Send>;

#[derive(Debug, Clone, Copy)]
pub struct SchedulerConfig {
    /// Requests that run at the same time.
    pub slots: usize,
    /// Requests that may wait.
    pub queue_max: usize,
    /// How long a pass with running streams in it should take at most.
    pub pass_target: Duration,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    pub prompt_tokens: u64,
    pub prompt_tokens_cached: u64,
    /// Of those, from states that had been put away.
    pub prompt_tokens_restored: u64,
    pub completion_tokens: u64,
    pub draft_tokens: u64,
    pub draft_accepted_tokens: u64,
    pub prefill: Duration,
    pub decode: Duration,
    /// Ended, however they did; those that failed or were cancelled are among them.
    pub jobs: u64,
    pub jobs_failed: u64,
    pub jobs_cancelled: u64,
    pub preemptions: u64,
    /// Slots that went to a request that was more urgent.
    pub parkings: u64,
}

/// One running request, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotView {
    pub key: JobKey,
    /// From 0; a job keeps it as long as it runs.
    pub slot: usize,
    pub prompt_tokens: usize,
    /// Of those, in the KV cache.
    pub prompt_done: usize,
    pub generated_tokens: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerState {
    pub slots: Vec<SlotView>,
    pub queued: usize,
    /// Tokens the KV cache can hold.
    pub cells: usize,
    /// Tokens held by running sequences; those shared count more than once.
    pub running_tokens: usize,
    pub cached_tokens: usize,
    pub cached_prefixes: usize,
    pub totals: Totals,
}

pub struct Scheduler {
    decoder: Box<dyn Decoder>,
    vocabulary: Arc<dyn Vocabulary>,
    config: SchedulerConfig,
    shape: Shape,
    clock: Clock,
    queue: VecDeque<Job>,
    /// In order of admission: the last one is the youngest.
    running: Vec<Job>,
    sequences: Sequences,
    /// States that outlive their sequences, if there is a place for them.
    prefixes: Option<Prefixes>,
    history: History,
    pace: Pace,
    canceller: Canceller,
    /// After a preemption nothing is admitted until a job ends, or the same job
    /// would come back at once and fill the cache again.
    admission_paused: bool,
    /// The pass is a prompt's alone, because streams leave it no room.
    is_prompts_turn: bool,
    rows: Vec<Row>,
    outputs: Vec<Output>,
    totals: Totals,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("shape", &self.shape)
            .field("queued", &self.queue.len())
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    pub fn new(
        decoder: Box<dyn Decoder>,
        vocabulary: Arc<dyn Vocabulary>,
        config: SchedulerConfig,
        clock: impl Fn() -> Duration + Send + 'static,
    ) -> Self {
        let shape = decoder.shape();
        let canceller = Canceller::new(decoder.abort_flag());
        Self {
            decoder,
            vocabulary,
            shape,
            clock: Box::new(clock),
            queue: VecDeque::new(),
            running: Vec::new(),
            sequences: Sequences::new(shape.sequences),
            prefixes: None,
            history: History::default(),
            pace: Pace::new(config.pass_target),
            canceller,
            admission_paused: false,
            is_prompts_turn: false,
            rows: Vec::new(),
            outputs: Vec::new(),
            totals: Totals::default(),
            config,
        }
    }

    /// Computes on other threads or CPUs from the next pass on; `false` where the decoder
    /// goes on with those it has.
    pub fn place(&mut self, placement: &Placement) -> bool {
        self.decoder.place(placement)
    }

    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Puts a request into the queue. An error means it was not taken.
    pub fn submit(&mut self, mut request: Request) -> Result<(), JobFailure> {
        self.check(&request)?;
        if request.ignore_eos {
            self.forbid_end(&mut request);
        }
        if !self.shape.can_cut {
            request.speculation = None;
        }
        let job = Job::new(request, (self.clock)());
        let goes_before = |queued: &Job| queued.request.priority >= job.request.priority;
        let at = self.queue.iter().rposition(goes_before);
        self.queue.insert(at.map_or(0, |at| at + 1), job);
        // A request that finds a free slot never counts as waiting.
        self.admit();
        Ok(())
    }

    /// Ends a request whose caller is gone; its prefix is kept. An unknown key is
    /// one that has ended already.
    pub fn cancel(&mut self, key: JobKey) {
        self.canceller.forget(key);
        let queued = self.queue.iter().position(|job| job.key() == key);
        let running = self.running.iter().position(|job| job.key() == key);
        if let Some(at) = queued {
            self.queue.remove(at);
        } else if let Some(at) = running {
            self.retire(at);
        } else {
            return;
        }
        self.totals.jobs += 1;
        self.totals.jobs_cancelled += 1;
        self.outputs.push(Output::Failed {
            key,
            failure: JobFailure {
                kind: FailureKind::Cancelled,
                message: "The caller went away".into(),
                param: None,
            },
        });
    }

    /// Whether [`Scheduler::step`] has something to do, states to put away among it.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.has_jobs() || self.has_captures()
    }

    /// Whether there are jobs, or news of them.
    #[must_use]
    pub fn has_jobs(&self) -> bool {
        !self.queue.is_empty() || !self.running.is_empty() || !self.outputs.is_empty()
    }

    /// Gives up kept prefixes and the memory of the cache, where there is nothing to do;
    /// `false`: there is.
    pub fn give_back(&mut self) -> bool {
        if self.has_jobs() {
            return false;
        }
        self.shrink_prefixes();
        while let Some(sequence) = self.sequences.evict_except(None) {
            self.release(sequence);
        }
        self.decoder.give_back();
        true
    }

    /// One forward pass, if there is anything to do, and the news since the last one.
    pub fn step(&mut self) -> Vec<Output> {
        self.admit();
        self.restore_prefixes();
        self.join_choices();
        self.shift_full();
        let mut is_idle = false;
        loop {
            let leases = self.plan();
            if leases.is_empty() {
                is_idle = true;
                break;
            }
            match self.pass(&leases) {
                Ok(()) => break,
                Err(DecodeError::NoRoom) => self.make_room(),
                Err(DecodeError::Aborted) => {
                    self.resync(&leases);
                    break;
                }
                Err(DecodeError::Failed(message)) => {
                    self.fail_pass(&leases, &message);
                    break;
                }
            }
        }
        self.reap();
        self.capture_prefixes(is_idle && self.outputs.is_empty());
        std::mem::take(&mut self.outputs)
    }

    #[must_use]
    pub fn state(&self) -> SchedulerState {
        let running = || self.running.iter().flat_map(|job| &job.choices);
        SchedulerState {
            slots: self.running.iter().map(view).collect(),
            queued: self.queue.len(),
            cells: self.shape.cells,
            running_tokens: running().map(|choice| choice.n_kv).sum(),
            cached_tokens: self.sequences.cached_tokens(),
            cached_prefixes: self.sequences.n_cached(),
            totals: self.totals,
        }
    }

    fn check(&self, request: &Request) -> Result<(), JobFailure> {
        let refuse = |kind, message: String, param: Option<&str>| {
            Err(JobFailure {
                kind,
                message,
                param: param.map(str::to_owned),
            })
        };
        if self.queue.len() >= self.config.queue_max {
            let limit = self.config.queue_max;
            return refuse(
                FailureKind::QueueFull {
                    limit: saturate(limit),
                },
                format!("{limit} requests are waiting already, which is the limit (queue_max)"),
                None,
            );
        }
        let (n, context) = (request.prompt.len(), self.shape.context);
        if n == 0 {
            let message = "The prompt has no tokens".to_owned();
            return refuse(FailureKind::InvalidRequest, message, Some("prompt"));
        }
        if n >= context {
            let kind = FailureKind::ContextExceeded {
                prompt_tokens: saturate(n),
                context: saturate(context),
            };
            let message = format!(
                "The prompt has {n} tokens and the context is {context}, which must also hold the \
                 answer: shorten the prompt by {} tokens or load the model with a larger context",
                n + 1 - context
            );
            return refuse(kind, message, None);
        }
        if request.n as usize > self.shape.sequences {
            let message = format!(
                "n is {} and this model runs at most {} sequences",
                request.n, self.shape.sequences
            );
            return refuse(FailureKind::InvalidRequest, message, Some("n"));
        }
        if let Some(refusal) = self.refuse_sinks(request) {
            return Err(refusal);
        }
        let outside =
            |token: &&TokenId| usize::try_from(**token).map_or(true, |id| id >= self.shape.n_vocab);
        if let Some(token) = request.prompt.iter().find(outside) {
            let message = format!(
                "The prompt holds token {token}, the vocabulary has ids 0 to {}",
                self.shape.n_vocab - 1
            );
            return refuse(FailureKind::InvalidRequest, message, Some("prompt"));
        }
        Ok(())
    }

    /// Makes end-of-generation tokens impossible.
    fn forbid_end(&self, request: &mut Request) {
        let ids = 0..TokenId::try_from(self.shape.n_vocab).unwrap_or(TokenId::MAX);
        let ends = ids.filter(|id| self.vocabulary.is_end_of_generation(*id));
        request.sampling.banned.extend(ends);
    }

    /// Moves requests from the queue into free slots.
    fn admit(&mut self) {
        if self.running.is_empty() {
            self.admission_paused = false;
        }
        while !self.admission_paused {
            let is_full = self.running.len() >= self.config.slots;
            // Who takes somebody's slot goes into it, whoever else is due.
            let next = match is_full {
                true => self.park_for_first().then_some(0),
                false => self.next_in_queue(),
            };
            let in_use: usize = self.running.iter().map(Job::n_sequences).sum();
            let has_room = |job: &Job| in_use + job.n_sequences() <= self.shape.sequences;
            let Some(at) = next.filter(|at| self.queue.get(*at).is_some_and(has_room)) else {
                return;
            };
            let Some(mut job) = self.queue.remove(at) else {
                return;
            };
            job.resume((self.clock)());
            self.start(job);
        }
    }

    fn start(&mut self, mut job: Job) {
        let reuse = job.reuses();
        let mut n_live = 0;
        let taken = |slot: &usize| self.running.iter().any(|other| other.slot == *slot);
        job.slot = (0..self.config.slots)
            .find(|slot| !taken(slot))
            .unwrap_or(0);
        // Further choices join once this one holds the prompt again.
        let first = job
            .choices
            .iter_mut()
            .find(|choice| choice.finished.is_none());
        if let Some(choice) = first {
            let (sequence, n) = self.attach(&choice.tokens, reuse);
            choice.sequence = sequence;
            choice.n_kv = n;
            n_live = n.min(job.prompt_len);
        }
        if !job.announced {
            job.clocks.started = (self.clock)();
        }
        self.running.push(job);
        let at = self.running.len() - 1;
        if !self.begin_restore(at, n_live) {
            self.announce(at, n_live, 0);
        }
    }

    /// Says, once, how much of the prompt is there and how it came there.
    fn announce(&mut self, at: usize, n_live: usize, n_restored: usize) {
        let job = &mut self.running[at];
        if std::mem::replace(&mut job.announced, true) {
            return;
        }
        let n_cached = n_live + n_restored;
        let report = self.explain(at, n_live, n_restored);
        let job = &mut self.running[at];
        job.prefix = Some(Box::new(report));
        job.usage.cached_tokens = saturate(n_cached);
        job.usage.restored_tokens = saturate(n_restored);
        self.totals.prompt_tokens += job.prompt_len as u64;
        self.totals.prompt_tokens_cached += n_cached as u64;
        self.totals.prompt_tokens_restored += n_restored as u64;
        self.outputs.push(Output::Started {
            key: job.key(),
            prompt_tokens: saturate(job.prompt_len),
            cached_tokens: saturate(n_cached),
        });
    }

    /// A sequence that holds as much of `tokens` as is known, but for the last one:
    /// its logits are what comes next.
    fn attach(&mut self, tokens: &[TokenId], reuse: bool) -> (Option<SequenceId>, usize) {
        if !reuse {
            return (self.take_sequence(None), 0);
        }
        let most = tokens.len() - 1;
        let running = self
            .running
            .iter()
            .filter(|job| job.request.cache_prompt)
            .flat_map(|job| &job.choices)
            .filter(|other| other.n_dropped == 0)
            .filter_map(|other| {
                let common = sequences::common_prefix(&other.tokens[..other.n_kv], tokens);
                other.sequence.map(|sequence| (common.min(most), sequence))
            })
            .max();
        let kept = self.sequences.longest_prefix(tokens);
        match (kept, running) {
            (Some(kept), running) if running.is_none_or(|(len, _)| kept.len.min(most) >= len) => {
                self.attach_kept(kept, most)
            }
            (_, Some((len, from))) if len > 0 => {
                let to = self.take_sequence(None);
                let shared = to.is_some_and(|to| self.share(from, to, len));
                (to, if shared { len } else { 0 })
            }
            _ => (self.take_sequence(None), 0),
        }
    }

    fn attach_kept(&mut self, kept: sequences::Match, most: usize) -> (Option<SequenceId>, usize) {
        if kept.whole && kept.len <= most {
            self.sequences.reclaim(kept.sequence);
            return (Some(kept.sequence), kept.len);
        }
        let len = kept.len.min(most);
        if let Some(to) = self.take_sequence(Some(kept.sequence)) {
            if self.share(kept.sequence, to, len) {
                return (Some(to), len);
            }
            return (Some(to), 0);
        }
        // The kept sequence is the only one left: cut it and go on from there.
        self.sequences.reclaim(kept.sequence);
        self.forget_captures(kept.sequence, len);
        let cut = self.decoder.truncate(kept.sequence, len);
        (Some(kept.sequence), if cut { len } else { 0 })
    }

    /// Makes an empty sequence begin with the first tokens of another one.
    fn share(&mut self, from: SequenceId, to: SequenceId, len: usize) -> bool {
        let shared = self.decoder.share(from, to, len);
        if shared {
            self.sequences.set_shared(from, to);
        }
        shared
    }

    /// A free sequence id, giving up kept prefixes (never `spare`) if there is none.
    fn take_sequence(&mut self, spare: Option<SequenceId>) -> Option<SequenceId> {
        if let Some(sequence) = self.sequences.take_free() {
            return Some(sequence);
        }
        let evicted = self.sequences.evict_except(spare)?;
        self.forget_captures(evicted, 0);
        self.decoder.truncate(evicted, 0);
        Some(evicted)
    }

    /// Frees KV cells after a pass found none: kept prefixes first, then the youngest job
    /// of the least urgent goes back to the queue, then the only job ends where it is.
    fn make_room(&mut self) {
        if let Some(sequence) = self.sequences.evict_except(None) {
            self.release(sequence);
        } else if self.running.len() > 1 {
            let Some(at) = self.least_urgent(|_| true) else {
                return;
            };
            let mut job = self.running.remove(at);
            self.abandon_restore(&mut job);
            for choice in &mut job.choices {
                self.park(choice);
                choice.parked = false;
            }
            job.prompt_logprobs.clear();
            self.totals.preemptions += 1;
            self.admission_paused = true;
            self.queue.push_front(job);
        } else if let Some(job) = self.running.first_mut() {
            let running: Vec<usize> = (0..job.choices.len())
                .filter(|at| job.choices[*at].is_running())
                .collect();
            match running[..] {
                // A choice waits until another one of its job has ended.
                [_, .., last] => self.park_choice(0, last),
                [only] => {
                    job.choices[only].finished = Some(FinishReason::Length);
                    job.forked = true;
                    self.report(0, only);
                }
                [] => {}
            }
        }
    }

    fn park_choice(&mut self, job: usize, choice: usize) {
        let mut choices = std::mem::take(&mut self.running[job].choices);
        self.park(&mut choices[choice]);
        self.running[job].choices = choices;
        self.totals.preemptions += 1;
    }

    /// Gives a choice's cells back; its tokens are computed again when it resumes.
    fn park(&mut self, choice: &mut Choice) {
        if let Some(sequence) = choice.sequence.take() {
            self.release(sequence);
        }
        choice.n_kv = 0;
        choice.parked = true;
    }

    /// Lets choices without a sequence share the prompt of one that holds it. Where
    /// none does, the first of them reads it again, and the others wait for that.
    fn join_choices(&mut self) {
        for at in 0..self.running.len() {
            let job = &self.running[at];
            let len = job.prompt_len;
            let holder = job.choices.iter().find(|choice| choice.n_kv >= len);
            let Some(from) = holder.and_then(|choice| choice.sequence) else {
                self.read_again(at);
                continue;
            };
            for choice in 0..self.running[at].choices.len() {
                if !self.running[at].choices[choice].waits_for_prompt() {
                    continue;
                }
                let to = self.take_sequence(None);
                let shared = to.is_some_and(|to| self.share(from, to, len));
                let choice = &mut self.running[at].choices[choice];
                choice.sequence = to;
                choice.n_kv = if shared { len } else { 0 };
            }
        }
    }

    /// Starts the first waiting choice of a job of which no choice runs: the one that
    /// held the prompt has ended, and its state could not be cut back to the prompt.
    fn read_again(&mut self, at: usize) {
        let job = &self.running[at];
        let waiting = job.choices.iter().position(Choice::waits_for_prompt);
        let Some(choice) = waiting.filter(|_| !job.choices.iter().any(Choice::is_running)) else {
            return;
        };
        let tokens = job.choices[choice].tokens.clone();
        let (sequence, n_kv) = self.attach(&tokens, job.request.cache_prompt);
        let choice = &mut self.running[at].choices[choice];
        choice.sequence = sequence;
        choice.n_kv = n_kv;
    }

    fn release(&mut self, sequence: SequenceId) {
        self.forget_captures(sequence, 0);
        self.decoder.truncate(sequence, 0);
        self.sequences.put_free(sequence);
    }

    /// After an abort: what the cache holds beyond what is known is forgotten.
    fn resync(&mut self, leases: &[Lease]) {
        for lease in leases {
            let choice = &mut self.running[lease.job].choices[lease.choice];
            if let Some(sequence) = choice.sequence
                && !self.decoder.truncate(sequence, choice.n_kv)
            {
                choice.n_kv = 0;
            }
        }
    }

    /// The pass failed inside the decoder: its jobs cannot go on.
    fn fail_pass(&mut self, leases: &[Lease], message: &str) {
        let mut jobs: Vec<usize> = leases.iter().map(|lease| lease.job).collect();
        jobs.sort_unstable();
        jobs.dedup();
        for at in jobs.into_iter().rev() {
            let failure = JobFailure {
                kind: FailureKind::Internal,
                message: message.to_owned(),
                param: None,
            };
            self.fail(at, failure);
        }
    }

    /// Ends a running job with an error; nothing of it is kept.
    fn fail(&mut self, at: usize, failure: JobFailure) {
        let mut job = self.running.remove(at);
        self.abandon_restore(&mut job);
        for sequence in job.choices.iter().filter_map(|choice| choice.sequence) {
            self.release(sequence);
        }
        self.admission_paused = false;
        self.totals.jobs += 1;
        self.totals.jobs_failed += 1;
        self.outputs.push(Output::Failed {
            key: job.key(),
            failure,
        });
    }

    /// Takes finished jobs out of their slots.
    fn reap(&mut self) {
        for at in (0..self.running.len()).rev() {
            if self.running[at].is_finished() {
                let mut job = self.retire(at);
                let done = done(&job);
                self.count(&job);
                let key = job.key();
                let report = job.prefix.take();
                let told = report.map(|report| Output::Prefix { key, report });
                self.outputs.extend(told);
                self.outputs.push(done);
            }
        }
    }

    /// Takes a job out of its slot and keeps its first sequence for the prefix.
    fn retire(&mut self, at: usize) -> Job {
        let mut job = self.running.remove(at);
        self.abandon_restore(&mut job);
        self.admission_paused = false;
        let prompt_len = job.prompt_len;
        let first = job.choices.first();
        if let Some(first) =
            first.filter(|first| first.n_kv >= prompt_len && first.n_dropped == 0 && job.reuses())
        {
            self.history.remember(first.tokens.clone(), prompt_len);
        }
        for choice in &mut job.choices {
            self.retire_choice(choice, job.request.cache_prompt);
        }
        job
    }

    fn retire_choice(&mut self, choice: &mut Choice, keep: bool) {
        let Some(sequence) = choice.sequence.take() else {
            return;
        };
        // What was computed behind tokens that have gone is not what its tokens would give.
        if !keep || choice.index > 0 || choice.n_kv == 0 || choice.n_dropped > 0 {
            return self.release(sequence);
        }
        let mut tokens = choice.tokens.clone();
        tokens.truncate(choice.n_kv);
        self.capture(sequence, &tokens);
        for covered in self.sequences.keep(sequence, tokens) {
            self.release(covered);
        }
    }

    fn count(&mut self, job: &Job) {
        self.totals.jobs += 1;
        self.totals.completion_tokens += u64::from(job.usage.completion_tokens);
        self.totals.draft_tokens += u64::from(job.usage.draft_tokens);
        self.totals.draft_accepted_tokens += u64::from(job.usage.draft_accepted_tokens);
        let timings = clock_spans(job);
        self.totals.prefill += timings.0;
        self.totals.decode += timings.1;
    }
}

fn view(job: &Job) -> SlotView {
    let first = &job.choices[0];
    SlotView {
        key: job.key(),
        slot: job.slot,
        prompt_tokens: job.prompt_len,
        prompt_done: first.n_kv.min(job.prompt_len),
        generated_tokens: job.usage.completion_tokens as usize,
    }
}

/// Time from the slot to the first token, and from there to the last.
fn clock_spans(job: &Job) -> (Duration, Duration) {
    let first = job.clocks.first_token.unwrap_or(job.clocks.last_token);
    (
        first.saturating_sub(job.clocks.started),
        job.clocks.last_token.saturating_sub(first),
    )
}

fn done(job: &Job) -> Output {
    let (prefill, decode) = clock_spans(job);
    let queue = job.clocks.started.saturating_sub(job.clocks.submitted);
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let mut usage = job.usage;
    usage.reasoning_tokens = job.reasoning_tokens();
    Output::Done {
        key: job.key(),
        usage,
        timings: Timings {
            queue_ms: ms(queue),
            prefill_ms: ms(prefill),
            decode_ms: ms(decode),
        },
    }
}

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
