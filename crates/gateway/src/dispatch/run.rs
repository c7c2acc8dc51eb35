//! A job on its way from candidate to candidate.
//!
//! Until the client has something of an answer, a failure costs nothing but time: the next
//! candidate is tried. What came before that is held back meanwhile, so that the client sees
//! one answer. Once text has been sent, a failure ends the stream with an error, unless the
//! request wants it continued: then the next candidate goes on where the text stops.
//!
//! Where a silence is hedged, the next candidate is asked too after a while; whoever begins
//! first answers, and the other one is cancelled.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use proto::{Event, FailureKind, Job, JobFailure, UpstreamFault};
use providers::Order;
use router::{Candidate, Outcome, Target};

use super::continuation::Told;
use super::places::{Place, WAITING_MAX};
use super::trail::Trying;
use super::{Dispatch, Post, Settled, Trail};
use crate::access::delta_bytes;
use crate::backend::{self, EventStream};
use crate::error::ApiError;

/// How long a request waits for a place where another provider could answer it.
const OVERFLOW_AFTER: Duration = Duration::from_millis(500);

impl Dispatch {
    /// Runs a job by a decision. Dropping the stream cancels it, wherever it is.
    pub(crate) fn run(
        self: &Arc<Self>,
        settled: &Arc<Settled>,
        (index, job): (usize, Job),
        delivery: Delivery,
        trail: &Arc<Trail>,
    ) -> EventStream {
        let may_continue = settled.terms.continues && delivery == Delivery::Stream;
        let run = Run {
            told: may_continue.then(|| Told::new(&job)),
            dispatch: Arc::clone(self),
            settled: Arc::clone(settled),
            index,
            job: Some(job),
            delivery,
            trail: Arc::clone(trail),
            next: 0,
            failures: Vec::new(),
            attempts: Vec::new(),
            hedged: false,
            cut: None,
            rest: None,
            ready: VecDeque::new(),
            over: false,
        };
        stream::unfold(run, |mut run| async move {
            let event = run.event().await?;
            Some((event, run))
        })
        .boxed()
    }
}

/// How the answer goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As it comes.
    Stream,
    /// At once, when it is whole.
    Whole,
}

struct Run {
    dispatch: Arc<Dispatch>,
    settled: Arc<Settled>,
    /// The job's place in the request.
    index: usize,
    /// Taken by the last candidate, unless the answer may be continued.
    job: Option<Job>,
    delivery: Delivery,
    trail: Arc<Trail>,
    /// The candidate that is tried next.
    next: usize,
    failures: Vec<(Target, JobFailure)>,
    /// More than one only while a silence is hedged.
    attempts: Vec<Attempt>,
    hedged: bool,
    /// What the client has, where the answer may be continued.
    told: Option<Told>,
    /// Why the answer broke off that is being continued.
    cut: Option<JobFailure>,
    /// What is left of the job then.
    rest: Option<Job>,
    ready: VecDeque<Event>,
    over: bool,
}

/// A job at one candidate.
struct Attempt {
    target: Target,
    trying: Trying,
    source: Source,
    /// Once there is a place.
    tenure: Option<Tenure>,
    sent: Instant,
    /// Its first text has come.
    began: bool,
    /// The client has something of it, so nobody else can answer any more.
    committed: bool,
    held: Vec<Event>,
}

enum Source {
    /// Waits for a place and hands the job over.
    Opening(BoxFuture<'static, Result<Opened, Refused>>),
    Open(EventStream),
}

struct Opened {
    tenure: Tenure,
    sent: Instant,
    events: EventStream,
}

struct Refused {
    tenure: Option<Tenure>,
    failure: JobFailure,
}

/// A place at a provider. Without a word of how it went, its end says nothing.
struct Tenure {
    seat: Seat,
    told: bool,
}

enum Seat {
    Embedded(Arc<AtomicU32>),
    Remote(
        Arc<Post>,
        #[expect(dead_code, reason = "held until the end")] Place,
    ),
}

impl Tenure {
    fn new(seat: Seat) -> Self {
        Self { seat, told: false }
    }

    fn began(&self, ttft: Duration) {
        if let Seat::Remote(post, _) = &self.seat {
            post.began(ttft);
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        self.told = true;
        if let Seat::Remote(post, _) = &self.seat {
            post.ended(outcome);
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if let Seat::Embedded(running) = &self.seat {
            running.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.told {
            self.ended(&Outcome::Nothing);
        }
    }
}

impl Attempt {
    fn new(candidate: &Candidate, job: Job, run: &Run) -> Self {
        let target = candidate.target.clone();
        let post = run.dispatch.post(&target.provider);
        let address = post.and_then(|post| post.provider().address());
        let trying = run.trail.tries(&target, address);
        let opening = Opening {
            dispatch: Arc::clone(&run.dispatch),
            trail: Arc::clone(&run.trail),
            attempt: trying.attempt,
            index: run.index,
            target: target.clone(),
            patience: match run.can_go_on() {
                true => OVERFLOW_AFTER.min(run.dispatch.queue_timeout),
                false => run.dispatch.queue_timeout,
            },
            order: Order {
                model: target.model.clone(),
                job,
                reach_max: candidate.reach_max,
                hops: run.settled.hops,
                priority: run.settled.terms.priority,
                is_whole: run.delivery == Delivery::Whole,
                trace_parent: trying.parent.map(|parent| parent.to_string()),
            },
        };
        Self {
            target,
            trying,
            source: Source::Opening(opening.open().boxed()),
            tenure: None,
            sent: Instant::now(),
            began: false,
            committed: false,
            held: Vec::new(),
        }
    }

    /// Its next event. A stream that ends without a last one has failed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            match &mut self.source {
                Source::Open(events) => {
                    let event = ready!(events.poll_next_unpin(context));
                    return Poll::Ready(event.unwrap_or_else(|| Event::Failed(backend::cut_off())));
                }
                Source::Opening(opening) => match ready!(opening.poll_unpin(context)) {
                    Ok(opened) => {
                        self.tenure = Some(opened.tenure);
                        self.sent = opened.sent;
                        self.source = Source::Open(opened.events);
                    }
                    Err(refused) => {
                        self.tenure = refused.tenure;
                        // It is not polled again after its last event.
                        self.source = Source::Open(stream::empty().boxed());
                        return Poll::Ready(Event::Failed(refused.failure));
                    }
                },
            }
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        if let Some(tenure) = &mut self.tenure {
            tenure.ended(outcome);
        }
    }
}

/// What is done before a provider has the job.
struct Opening {
    dispatch: Arc<Dispatch>,
    trail: Arc<Trail>,
    /// Its number in the trail.
    attempt: u32,
    /// The job's place in the request.
    index: usize,
    target: Target,
    order: Order,
    /// How long to wait for a place.
    patience: Duration,
}

impl Opening {
    async fn open(self) -> Result<Opened, Refused> {
        let refused = |tenure, failure| Refused { tenure, failure };
        let (seat, post) = match self.dispatch.post(&self.target.provider) {
            None => {
                let running = Arc::clone(&self.dispatch.memory.embedded_running);
                running.fetch_add(1, Ordering::Relaxed);
                (Seat::Embedded(running), None)
            }
            Some(post) => {
                let place = self.place(post).await;
                let place = place.map_err(|failure| refused(None, failure))?;
                post.sent();
                (Seat::Remote(Arc::clone(post), place), Some(post))
            }
        };
        let tenure = Tenure::new(seat);
        let sent = Instant::now();
        let mut order = self.order;
        self.trail.sent(self.attempt, self.index, self.target);
        let events = match post {
            None => {
                if let Some(generation) = order.job.generation_mut() {
                    generation.priority = order.priority;
                }
                self.dispatch.backend.submit(&order.model, order.job).await
            }
            Some(post) => post.provider().submit(order).await,
        };
        match events {
            Ok(events) => Ok(Opened {
                tenure,
                sent,
                events,
            }),
            Err(failure) => Err(refused(Some(tenure), failure)),
        }
    }

    /// A place at the provider; waits for one where all are taken.
    async fn place(&self, post: &Post) -> Result<Place, JobFailure> {
        let mut turn = pin!(post.places().take(self.order.priority));
        let name = &self.target.provider;
        // Where one is free nobody waits, and no timer is needed.
        let turn = match turn.as_mut().now_or_never() {
            Some(turn) => Ok(turn),
            None => tokio::time::timeout(self.patience, turn).await,
        };
        match turn {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(no_place(format!(
                "{WAITING_MAX} requests wait for a place at `{name}` already."
            ))),
            Err(_) => Err(no_place(format!(
                "All places at `{name}` were taken for {} s.",
                self.patience.as_secs_f32()
            ))),
        }
    }
}

impl Run {
    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if self.attempts.is_empty() {
                self.start();
                continue;
            }
            match self.hear().await {
                Some((index, event)) => self.take(index, event),
                None => {
                    self.hedged = true;
                    self.start();
                }
            }
        }
    }

    /// The next event of any attempt; `None` when it is time to ask somebody else too.
    async fn hear(&mut self) -> Option<(usize, Event)> {
        let deadline = self.hedge_at();
        let attempts = &mut self.attempts;
        let heard = poll_fn(|context| {
            for (index, attempt) in attempts.iter_mut().enumerate() {
                if let Poll::Ready(event) = attempt.poll(context) {
                    return Poll::Ready((index, event));
                }
            }
            Poll::Pending
        });
        match deadline {
            None => Some(heard.await),
            Some(deadline) => tokio::time::timeout_at(deadline.into(), heard).await.ok(),
        }
    }

    /// When a silence has lasted for so long that the next candidate is asked too.
    fn hedge_at(&self) -> Option<Instant> {
        let after = self.settled.terms.hedge_after?;
        match self.attempts.as_slice() {
            [attempt] if !self.hedged && !attempt.began && self.can_go_on() => {
                Some(attempt.sent + after)
            }
            _ => None,
        }
    }

    /// Starts at the next candidate; without one the job has failed.
    fn start(&mut self) {
        let settled = Arc::clone(&self.settled);
        let candidates = &settled.decision.candidates;
        let Some(candidate) = candidates.get(self.next) else {
            let failures = std::mem::take(&mut self.failures);
            let failure = self.cut.take().unwrap_or_else(|| exhausted(failures));
            return self.fail(failure);
        };
        self.next += 1;
        let job = match &self.rest {
            Some(_) if !self.dispatch.can_continue(&candidate.target) => return,
            Some(rest) => Some(rest.clone()),
            None if self.can_go_on() || self.told.is_some() => self.job.clone(),
            None => self.job.take(),
        };
        // There is one: it is taken for the last candidate only.
        let Some(job) = job else { return };
        let attempt = Attempt::new(candidate, job, self);
        self.attempts.push(attempt);
    }

    fn fail(&mut self, failure: JobFailure) {
        if let Some(told) = &mut self.told {
            told.release(&mut self.ready);
        }
        self.over = true;
        self.attempts.clear();
        self.ready.push_back(Event::Failed(failure));
    }

    fn take(&mut self, mut index: usize, event: Event) {
        let attempt = &mut self.attempts[index];
        if let Event::Failed(failure) = event {
            let attempt = self.attempts.swap_remove(index);
            return self.lost(attempt, failure);
        }
        if matches!(event, Event::Prefill { .. }) {
            // Nobody sees progress of a prompt but as a sign of life.
            return self.ready.push_back(event);
        }
        let is_first = !matches!(event, Event::Started { .. });
        if is_first && !std::mem::replace(&mut attempt.began, true) {
            if let Some(tenure) = &attempt.tenure {
                tenure.began(attempt.sent.elapsed());
            }
            // Whoever begins first answers.
            let winner = self.attempts.swap_remove(index);
            self.attempts.clear();
            self.attempts.push(winner);
            index = 0;
        }
        self.tell(index, event);
    }

    /// Holds an event back until its attempt is committed, then sends it.
    fn tell(&mut self, index: usize, event: Event) {
        let waits = self.has_others() && !self.commits(&event);
        let attempt = &mut self.attempts[index];
        if waits && !attempt.committed {
            if let Event::Delta { delta, .. } = &event {
                self.trail.held(attempt.trying.attempt, delta_bytes(delta));
            }
            return attempt.held.push(event);
        }
        if !std::mem::replace(&mut attempt.committed, true) {
            let (target, held) = (attempt.target.clone(), std::mem::take(&mut attempt.held));
            self.trail.served(attempt.trying.attempt, &target);
            self.commit(&target, held);
        }
        if event.is_last() {
            self.over = true;
            let attempt = &mut self.attempts[index];
            attempt.ended(&Outcome::Answered);
            self.attempts.clear();
        }
        self.send(event);
    }

    /// Alone there is nobody to wait for.
    fn has_others(&self) -> bool {
        self.settled.decision.candidates.len() > 1
    }

    fn can_go_on(&self) -> bool {
        self.next < self.settled.decision.candidates.len()
    }

    /// Whether the client gets to see something with this event: of a stream the first
    /// text, of a whole answer nothing before its end.
    fn commits(&self, event: &Event) -> bool {
        match self.delivery {
            Delivery::Stream => !matches!(event, Event::Started { .. }),
            Delivery::Whole => event.is_last(),
        }
    }

    /// From now on this candidate answers; no other one will need the job, unless the
    /// answer may be continued.
    fn commit(&mut self, target: &Target, held: Vec<Event>) {
        if let Some(conversation) = self.settled.conversation {
            self.dispatch.settle_down(conversation, target);
        }
        if self.told.is_none() {
            self.job = None;
        }
        if self.rest.is_some() {
            let by = target.to_string();
            self.ready.push_back(Event::Continued { by });
        }
        held.into_iter().for_each(|event| self.send(event));
    }

    fn send(&mut self, mut event: Event) {
        if let Some(told) = &mut self.told {
            match &mut event {
                // The answer has begun long ago.
                Event::Started { .. } if self.rest.is_some() => return,
                Event::Done { usage, .. } if self.rest.is_some() => told.add_to(usage),
                _ => {}
            }
            return told.pass(event, &mut self.ready);
        }
        self.ready.push_back(event);
    }

    /// A candidate failed.
    fn lost(&mut self, mut attempt: Attempt, failure: JobFailure) {
        attempt.ended(&outcome(&failure));
        self.trail
            .failed(&attempt.trying, &attempt.target, code(&failure));
        if !helps_elsewhere(&failure.kind) {
            return self.fail(failure);
        }
        if attempt.committed {
            return self.cut(failure);
        }
        if self.can_go_on() {
            let (target, code) = (&attempt.target, code(&failure));
            tracing::info!(%target, code, "a provider failed; the next one is tried");
        }
        self.failures.push((attempt.target, failure));
    }

    /// An answer broke off of which the client has the beginning.
    fn cut(&mut self, failure: JobFailure) {
        let rest = match (&mut self.told, &self.job) {
            (Some(told), Some(job)) if self.next < self.settled.decision.candidates.len() => {
                told.rest(job.clone())
            }
            _ => None,
        };
        match rest {
            Some(rest) => {
                tracing::info!("an answer broke off; the next provider continues it");
                self.rest = Some(rest);
                self.cut = Some(failure);
            }
            None => self.fail(failure),
        }
    }
}

/// The code of a failure in the error table.
fn code(failure: &JobFailure) -> &'static str {
    ApiError::from(failure.clone()).row().code
}

/// What a failure says of the provider.
fn outcome(failure: &JobFailure) -> Outcome {
    let FailureKind::Upstream {
        fault,
        status,
        retry_after_ms,
    } = &failure.kind
    else {
        return Outcome::Nothing;
    };
    // Others read it too, so nothing of what was said about this request.
    let cause = || match status {
        Some(status) => format!("it answered with status {status}"),
        None => fault_in_words(*fault).to_owned(),
    };
    match fault {
        // About the model or the request, not about the engine.
        UpstreamFault::Denied if matches!(status, Some(403..=405)) => Outcome::Nothing,
        UpstreamFault::Unreachable => Outcome::Unreachable { cause: cause() },
        UpstreamFault::RateLimited => Outcome::RateLimited {
            retry_after: retry_after_ms.map(Duration::from_millis),
        },
        UpstreamFault::Rejected => Outcome::Nothing,
        UpstreamFault::TimedOut
        | UpstreamFault::Denied
        | UpstreamFault::Broken
        | UpstreamFault::Malformed
        | UpstreamFault::CutOff => Outcome::Failed { cause: cause() },
    }
}

fn fault_in_words(fault: UpstreamFault) -> &'static str {
    match fault {
        UpstreamFault::Unreachable => "it cannot be reached",
        UpstreamFault::TimedOut => "it was silent for too long",
        UpstreamFault::RateLimited => "it limits its rate",
        UpstreamFault::Denied => "it refuses us",
        UpstreamFault::Rejected => "it refused the request",
        UpstreamFault::Broken => "it failed",
        UpstreamFault::Malformed => "it sent what cannot be read",
        UpstreamFault::CutOff => "its answer stopped before its end",
    }
}

/// Whether another provider may do better. A request that is wrong is wrong everywhere.
fn helps_elsewhere(kind: &FailureKind) -> bool {
    match kind {
        FailureKind::Upstream { fault, .. } => *fault != UpstreamFault::Rejected,
        FailureKind::ContextExceeded { .. }
        | FailureKind::ConstraintUnsupported { .. }
        | FailureKind::Unsupported
        | FailureKind::QueueFull { .. }
        | FailureKind::Draining
        | FailureKind::WorkerLost { .. }
        | FailureKind::ModelUnavailable
        | FailureKind::NoProvider
        | FailureKind::Internal => true,
        FailureKind::InvalidRequest | FailureKind::TemplateFailed | FailureKind::Cancelled => false,
    }
}

fn no_place(message: String) -> JobFailure {
    JobFailure {
        kind: FailureKind::Upstream {
            fault: UpstreamFault::RateLimited,
            status: None,
            retry_after_ms: None,
        },
        message,
        param: None,
    }
}

/// The failure of a job that every candidate has failed at. One alone speaks for itself, and
/// so does the first where all say what the caller must change; where all ask for a wait,
/// the shortest.
fn exhausted(mut failures: Vec<(Target, JobFailure)>) -> JobFailure {
    let is_callers = |(_, failure): &(Target, JobFailure)| {
        matches!(
            failure.kind,
            FailureKind::ContextExceeded { .. }
                | FailureKind::ConstraintUnsupported { .. }
                | FailureKind::Unsupported
        )
    };
    if failures.len() == 1 || (!failures.is_empty() && failures.iter().all(is_callers)) {
        return failures.swap_remove(0).1;
    }
    let reasons: Vec<_> = failures
        .iter()
        .map(|(target, failure)| format!("`{target}`: {}", failure.message.trim_end_matches('.')))
        .collect();
    let message = reasons.join("; ");
    let waits = failures.iter().map(|(_, failure)| match failure.kind {
        FailureKind::Upstream {
            fault: UpstreamFault::RateLimited,
            retry_after_ms,
            ..
        } => Some(retry_after_ms),
        _ => None,
    });
    let kind = match waits.collect::<Option<Vec<_>>>() {
        Some(waits) if !waits.is_empty() => FailureKind::Upstream {
            fault: UpstreamFault::RateLimited,
            status: Some(429),
            retry_after_ms: waits.into_iter().flatten().min(),
        },
        _ => FailureKind::NoProvider,
    };
    JobFailure {
        kind,
        message,
        param: None,
    }
}
