//! A job on its way from candidate to candidate.
//!
//! Until the client has something of an answer, a failure costs nothing but time: the next
//! candidate is tried. What came before that is held back meanwhile, so that the client sees
//! one answer. Once text has been sent, a failure ends the stream with an error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use proto::{Event, FailureKind, Job, JobFailure, UpstreamFault};
use providers::Order;
use router::{Outcome, Target};
use tokio::sync::OwnedSemaphorePermit;

use super::{Dispatch, Post, Settled, Trail};
use crate::backend::{self, EventStream};
use crate::error::ApiError;

/// How long a request waits for a place where another provider could answer it.
const OVERFLOW_AFTER: Duration = Duration::from_millis(500);

impl Dispatch {
    /// Runs a job by a decision. Dropping the stream cancels it, wherever it is.
    pub(crate) fn run(
        self: &Arc<Self>,
        settled: &Arc<Settled>,
        job: Job,
        delivery: Delivery,
        trail: &Arc<Trail>,
    ) -> EventStream {
        let run = Run {
            dispatch: Arc::clone(self),
            settled: Arc::clone(settled),
            job: Some(job),
            delivery,
            trail: Arc::clone(trail),
            next: 0,
            failures: Vec::new(),
            attempt: None,
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
    /// Taken by the last candidate.
    job: Option<Job>,
    delivery: Delivery,
    trail: Arc<Trail>,
    /// The candidate that is tried next.
    next: usize,
    failures: Vec<(Target, JobFailure)>,
    attempt: Option<Attempt>,
    ready: VecDeque<Event>,
    over: bool,
}

/// A job at one candidate.
struct Attempt {
    target: Target,
    events: EventStream,
    tenure: Tenure,
    sent: Instant,
    /// Its first text has come.
    began: bool,
    /// The client has something of it, so nobody else can answer any more.
    settled: bool,
    held: Vec<Event>,
}

/// A place at a provider. Without a word of how it went, its end says nothing.
struct Tenure {
    place: Place,
    told: bool,
}

enum Place {
    Embedded(Arc<AtomicU32>),
    Remote(
        Arc<Post>,
        #[expect(dead_code, reason = "held until the end")] OwnedSemaphorePermit,
    ),
}

impl Tenure {
    fn began(&self, ttft: Duration) {
        if let Place::Remote(post, _) = &self.place {
            post.began(ttft);
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        self.told = true;
        if let Place::Remote(post, _) = &self.place {
            post.ended(outcome);
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if let Place::Embedded(running) = &self.place {
            running.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.told {
            self.ended(&Outcome::Nothing);
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
            match &mut self.attempt {
                None => self.start().await,
                Some(attempt) => {
                    let event = attempt.events.next().await;
                    self.take(event.unwrap_or_else(|| Event::Failed(backend::cut_off())));
                }
            }
        }
    }

    /// Starts at the next candidate; without one the job has failed.
    async fn start(&mut self) {
        let candidates = &self.settled.decision.candidates;
        let Some(candidate) = candidates.get(self.next) else {
            self.over = true;
            let failure = exhausted(std::mem::take(&mut self.failures));
            return self.ready.push_back(Event::Failed(failure));
        };
        let (target, reach_max) = (candidate.target.clone(), candidate.reach_max);
        self.next += 1;
        let job = match self.next < candidates.len() {
            true => self.job.clone(),
            false => self.job.take(),
        };
        let Some(job) = job else {
            return;
        };
        self.trail.tried();
        let dispatch = Arc::clone(&self.dispatch);
        let patience = match self.can_go_on() {
            true => OVERFLOW_AFTER.min(dispatch.queue_timeout),
            false => dispatch.queue_timeout,
        };
        let tenure = match place(&dispatch, &target, patience).await {
            Ok(tenure) => tenure,
            Err(failure) => return self.failed(target, failure),
        };
        let sent = Instant::now();
        let order = Order {
            model: target.model.clone(),
            job,
            reach_max,
            hops: self.settled.hops,
        };
        match submit(&dispatch, &tenure.place, order).await {
            Ok(events) => {
                self.attempt = Some(Attempt {
                    target,
                    events,
                    tenure,
                    sent,
                    began: false,
                    settled: false,
                    held: Vec::new(),
                });
            }
            Err(failure) => self.lost(target, tenure, failure),
        }
    }

    fn take(&mut self, event: Event) {
        let Some(mut attempt) = self.attempt.take() else {
            return;
        };
        match event {
            Event::Failed(failure) if !attempt.settled => {
                return self.lost(attempt.target, attempt.tenure, failure);
            }
            // Nobody sees progress of a prompt but as a sign of life.
            Event::Prefill { .. } => self.ready.push_back(event),
            event => {
                if !matches!(event, Event::Started { .. })
                    && !std::mem::replace(&mut attempt.began, true)
                {
                    attempt.tenure.began(attempt.sent.elapsed());
                }
                if self.has_others() && !attempt.settled && !self.settles(&event) {
                    attempt.held.push(event);
                    self.attempt = Some(attempt);
                    return;
                }
                if !std::mem::replace(&mut attempt.settled, true) {
                    self.settle(&mut attempt);
                }
                if let Event::Failed(failure) = &event {
                    attempt.tenure.ended(&outcome(failure));
                    self.trail.failed(&attempt.target, code(failure));
                } else if event.is_last() {
                    attempt.tenure.ended(&Outcome::Answered);
                }
                self.over = event.is_last();
                self.ready.push_back(event);
            }
        }
        if !self.over {
            self.attempt = Some(attempt);
        }
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
    fn settles(&self, event: &Event) -> bool {
        match self.delivery {
            Delivery::Stream => !matches!(event, Event::Started { .. }),
            Delivery::Whole => event.is_last(),
        }
    }

    fn settle(&mut self, attempt: &mut Attempt) {
        self.trail.served(&attempt.target);
        self.ready.extend(attempt.held.drain(..));
        if let Some(conversation) = self.settled.conversation {
            let target = attempt.target.clone();
            self.dispatch.settle_down(conversation, target);
        }
        // No other candidate will need it.
        self.job = None;
    }

    /// A candidate failed before its answer began.
    fn lost(&mut self, target: Target, mut tenure: Tenure, failure: JobFailure) {
        tenure.ended(&outcome(&failure));
        self.failed(target, failure);
    }

    fn failed(&mut self, target: Target, failure: JobFailure) {
        self.trail.failed(&target, code(&failure));
        if helps_elsewhere(&failure.kind) {
            if self.can_go_on() {
                let code = code(&failure);
                tracing::info!(%target, code, "a provider failed; the next one is tried");
            }
            self.failures.push((target, failure));
            return;
        }
        self.over = true;
        self.ready.push_back(Event::Failed(failure));
    }
}

/// A place at the provider; waits for one where all are taken.
async fn place(
    dispatch: &Dispatch,
    target: &Target,
    patience: Duration,
) -> Result<Tenure, JobFailure> {
    let place = match dispatch.post(&target.provider) {
        None => {
            let running = Arc::clone(&dispatch.embedded_running);
            running.fetch_add(1, Ordering::Relaxed);
            Place::Embedded(running)
        }
        Some(post) => {
            let permit = Arc::clone(&post.places).acquire_owned();
            match tokio::time::timeout(patience, permit).await {
                Ok(Ok(permit)) => {
                    post.sent();
                    Place::Remote(Arc::clone(post), permit)
                }
                _ => return Err(no_place(&target.provider, patience)),
            }
        }
    };
    Ok(Tenure { place, told: false })
}

async fn submit(
    dispatch: &Dispatch,
    place: &Place,
    order: Order,
) -> Result<EventStream, JobFailure> {
    match place {
        Place::Embedded(_) => dispatch.backend.submit(&order.model, order.job).await,
        Place::Remote(post, _) => post.provider.submit(order).await,
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

fn no_place(provider: &str, limit: Duration) -> JobFailure {
    JobFailure {
        kind: FailureKind::Upstream {
            fault: UpstreamFault::RateLimited,
            status: None,
            retry_after_ms: None,
        },
        message: format!(
            "All places at `{provider}` were taken for {} s.",
            limit.as_secs_f32()
        ),
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
