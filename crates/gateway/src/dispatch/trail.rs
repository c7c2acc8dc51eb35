//! What became of a request, for its answer's headers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use router::{Decision, Target};

const SERVED_BY: HeaderName = HeaderName::from_static("x-sextant-served-by");
const ROUTE: HeaderName = HeaderName::from_static("x-sextant-route");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-sextant-attempts");
const TRAIL: HeaderName = HeaderName::from_static("x-sextant-trail");

/// Tries so far, and who answered.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    attempts: u32,
    /// Who failed, and the code of the error.
    failures: Vec<(Target, &'static str)>,
    served: Option<Target>,
}

impl Trail {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tried(&self) {
        self.state().attempts += 1;
    }

    pub(super) fn failed(&self, target: &Target, code: &'static str) {
        self.state().failures.push((target.clone(), code));
    }

    pub(super) fn served(&self, target: &Target) {
        self.state().served = Some(target.clone());
    }

    /// Who answered, as far as that is known.
    pub(crate) fn target(&self) -> Option<Target> {
        self.state().served.clone()
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
    pub(crate) fn write(&self, decision: &Decision, headers: &mut HeaderMap) {
        let state = self.state();
        // Not known yet where the headers go before the answer begins.
        let served = state.served.as_ref();
        let chosen = decision.candidates.iter();
        let mut chosen = chosen.filter(|candidate| Some(&candidate.target) == served);
        let ahead = chosen.next().and_then(|candidate| candidate.ahead);
        let route = match ahead {
            Some(advantage) => format!("{}; {}", decision.route, advantage.word()),
            None => decision.route.to_string(),
        };
        let mut set = |name, text: String| {
            // Names of models may hold what no header can.
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        };
        if let Some(served) = served {
            set(SERVED_BY, served.to_string());
        }
        set(ROUTE, route);
        set(ATTEMPTS, state.attempts.max(1).to_string());
        if !state.failures.is_empty() {
            set(TRAIL, in_words(&state.failures));
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
