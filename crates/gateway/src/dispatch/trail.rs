//! What became of a request, for its answer's headers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use router::Target;
use traces::TraceParent;

use super::Worded;

const SERVED_BY: HeaderName = HeaderName::from_static("x-sextant-served-by");
const ROUTE: HeaderName = HeaderName::from_static("x-sextant-route");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-sextant-attempts");
const TRAIL: HeaderName = HeaderName::from_static("x-sextant-trail");

/// Tries so far, and who answered.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    tracing: Tracing,
    state: Mutex<State>,
}

/// What providers are told of the trace that a request belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tracing {
    #[default]
    Off,
    /// What the client said; nothing is recorded here.
    PassedOn(TraceParent),
    /// A place below this one, which is recorded.
    Below(TraceParent),
}

/// One try at a provider, where it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    pub(crate) place: TraceParent,
    pub(crate) target: Target,
    pub(crate) address: Option<(String, u16)>,
    pub(crate) began: Instant,
    /// `None`: not yet.
    pub(crate) ended: Option<Instant>,
    /// The code of the error.
    pub(crate) error: Option<&'static str>,
}

/// A try that goes on until this is dropped.
#[derive(Debug)]
pub(super) struct Trying {
    trail: Arc<Trail>,
    /// Its number, from 1.
    pub(super) attempt: u32,
    /// Among those that are recorded.
    number: Option<usize>,
    /// What the provider is told.
    pub(super) parent: Option<TraceParent>,
}

impl Drop for Trying {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        if let Some(one) = self.trail.state().tries.get_mut(number) {
            one.ended = Some(Instant::now());
        }
    }
}

#[derive(Debug, Default)]
struct State {
    attempts: u32,
    /// Who failed, and the code of the error.
    failures: Vec<(Target, &'static str)>,
    served: Option<Target>,
    /// Those that are recorded.
    tries: Vec<Try>,
    /// Attempts that were sent off and did not fail before any text of them came.
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    attempt: u32,
    /// The place of its job in the request.
    job: usize,
    target: Target,
    /// Bytes of text that came and were held back.
    held_bytes: u64,
}

impl State {
    fn sent_as(&mut self, attempt: u32) -> Option<&mut Sent> {
        self.sent.iter_mut().find(|sent| sent.attempt == attempt)
    }
}

impl Trail {
    pub(crate) fn new(tracing: Tracing) -> Self {
        Self {
            tracing,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A try begins, at a provider with that address.
    pub(super) fn tries(self: &Arc<Self>, target: &Target, address: Option<(&str, u16)>) -> Trying {
        let mut state = self.state();
        state.attempts += 1;
        let attempt = state.attempts;
        let (number, parent) = match self.tracing {
            Tracing::Off => (None, None),
            Tracing::PassedOn(parent) => (None, Some(parent)),
            Tracing::Below(above) => {
                let place = above.child();
                state.tries.push(Try {
                    place,
                    target: target.clone(),
                    address: address.map(|(host, port)| (host.to_owned(), port)),
                    began: Instant::now(),
                    ended: None,
                    error: None,
                });
                (Some(state.tries.len() - 1), Some(place))
            }
        };
        drop(state);
        Trying {
            trail: Arc::clone(self),
            attempt,
            number,
            parent,
        }
    }

    pub(super) fn failed(&self, trying: &Trying, target: &Target, code: &'static str) {
        let mut state = self.state();
        state.failures.push((target.clone(), code));
        // One that has generated something has cost something.
        state
            .sent
            .retain(|sent| sent.attempt != trying.attempt || sent.held_bytes > 0);
        if let Some(one) = trying.number.and_then(|number| state.tries.get_mut(number)) {
            one.error = Some(code);
        }
    }

    /// The tries that are recorded.
    pub(crate) fn recorded(&self) -> Vec<Try> {
        self.state().tries.clone()
    }

    /// The attempt has its place, and its job goes off.
    pub(super) fn sent(&self, attempt: u32, job: usize, target: Target) {
        self.state().sent.push(Sent {
            attempt,
            job,
            target,
            held_bytes: 0,
        });
    }

    /// Text has come that the client does not see yet.
    pub(super) fn held(&self, attempt: u32, bytes: u64) {
        if let Some(sent) = self.state().sent_as(attempt) {
            sent.held_bytes = sent.held_bytes.saturating_add(bytes);
        }
    }

    /// From now on whoever looks at the answer sees its text.
    pub(super) fn served(&self, attempt: u32, target: &Target) {
        let mut state = self.state();
        state.served = Some(target.clone());
        if let Some(sent) = state.sent_as(attempt) {
            sent.held_bytes = 0;
        }
    }

    /// Who answered, or was the last to work on it where nobody has.
    pub(crate) fn worked(&self) -> Option<Target> {
        let state = self.state();
        let last = state.sent.last().map(|sent| &sent.target);
        state.served.as_ref().or(last).cloned()
    }

    /// Bytes of a job's text that were held back; `None`: nobody was sent the job.
    pub(crate) fn held_of(&self, job: usize) -> Option<u64> {
        let state = self.state();
        let sent = state.sent.iter().filter(|sent| sent.job == job);
        sent.map(|sent| sent.held_bytes).reduce(u64::saturating_add)
    }

    /// Who answered, as far as that is known.
    pub(crate) fn target(&self) -> Option<Target> {
        self.state().served.clone()
    }

    /// The same in a word, `PROVIDER:MODEL`.
    pub(crate) fn served_by(&self) -> Option<String> {
        self.state().served.as_ref().map(Target::name)
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.state().attempts
    }

    /// Who failed, and the codes of the errors; `None`: nobody has.
    pub(crate) fn failures(&self) -> Option<String> {
        let state = self.state();
        (!state.failures.is_empty()).then(|| in_words(&state.failures))
    }

    /// Says who answered, why, and after how many tries.
    pub(crate) fn write(&self, decision: &Worded, headers: &mut HeaderMap) {
        let state = self.state();
        // Not known yet where the headers go before the answer begins.
        let signature = decision.signature(state.served.as_ref());
        let attempts = HeaderValue::from(state.attempts.max(1));
        let trail = match state.failures.is_empty() {
            true => None,
            false => HeaderValue::try_from(in_words(&state.failures)).ok(),
        };
        for (name, value) in [
            (SERVED_BY, signature.served_by),
            (ROUTE, signature.route),
            (ATTEMPTS, Some(attempts)),
            (TRAIL, trail),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

fn in_words(failures: &[(Target, &'static str)]) -> String {
    let failures = failures.iter();
    let failures: Vec<_> = failures
        .map(|(target, code)| format!("{target}={code}"))
        .collect();
    failures.join("; ")
}
