//! What is said of a decision, written once for all requests that it is made for.
//!
//! A busy endpoint makes the same decision for one request after the other. Its words, in the
//! headers of each answer and in each row of the audit log, took a tenth of a request's time,
//! and a row that has words of its own is four times as long while it waits to be written.
//!
//! Each thread keeps its own: lanes that share a decision pass its counts of references from
//! core to core with every request, which took as long as the words.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use router::{Advantage, Decision, Target};
use thread_local::ThreadLocal;

use crate::wire::routing::WireDecision;

/// Decisions that each thread remembers. One that tells of a pause is another at each request.
const KEPT_MAX: usize = 16;
/// Bytes that the JSON of a decision takes for each provider in it, about, and beside them.
const PROVIDER_BYTES: usize = 256;

/// A decision with its words.
#[derive(Debug)]
pub(crate) struct Worded {
    decision: Decision,
    /// Why, while nobody has answered yet. `None`: names of models may hold what no header can.
    route: Option<HeaderValue>,
    /// In the order of the decision's.
    candidates: Vec<Signature>,
    privacy_by: String,
    json: OnceLock<String>,
}

/// What an answer says of the candidate that gave it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signature {
    pub(crate) served_by: Option<HeaderValue>,
    /// Why it was asked.
    pub(crate) route: Option<HeaderValue>,
}

impl Deref for Worded {
    type Target = Decision;

    fn deref(&self) -> &Decision {
        &self.decision
    }
}

impl Worded {
    fn new(decision: Decision) -> Self {
        let candidates = decision.candidates.iter().map(|candidate| Signature {
            served_by: HeaderValue::try_from(candidate.target.name()).ok(),
            route: route(&decision, candidate.ahead),
        });
        Self {
            route: route(&decision, None),
            candidates: candidates.collect(),
            privacy_by: decision.limit.bound.to_string(),
            json: OnceLock::new(),
            decision,
        }
    }

    /// The headers of an answer; `served` is who gave it, as far as that is known.
    pub(crate) fn signature(&self, served: Option<&Target>) -> Signature {
        let mut known = self.decision.candidates.iter();
        let place = known.position(|candidate| Some(&candidate.target) == served);
        match place.and_then(|place| self.candidates.get(place)) {
            Some(signature) => signature.clone(),
            None => Signature {
                served_by: None,
                route: self.route.clone(),
            },
        }
    }

    /// Who said how far the request may travel.
    pub(crate) fn privacy_by(&self) -> &str {
        &self.privacy_by
    }

    /// As `POST /v1/route` says it. Whoever asks first writes it.
    pub(crate) fn json(&self) -> &str {
        let write = || serde_json::to_string(&WireDecision::from(&self.decision));
        // Strings and numbers always serialise.
        self.json.get_or_init(|| write().unwrap_or_default())
    }

    /// Bytes that its words take, about.
    pub(crate) fn n_bytes(&self) -> usize {
        let n_providers = self.decision.candidates.len() + self.decision.excluded.len();
        (1 + n_providers) * PROVIDER_BYTES
    }
}

fn route(decision: &Decision, ahead: Option<Advantage>) -> Option<HeaderValue> {
    let route = match ahead {
        Some(advantage) => format!("{}; {}", decision.route, advantage.word()),
        None => decision.route.to_string(),
    };
    HeaderValue::try_from(route).ok()
}

/// The latest decisions of each thread, the one used last in front.
#[derive(Debug, Default)]
pub(super) struct Wordings(ThreadLocal<RefCell<VecDeque<Arc<Worded>>>>);

impl Wordings {
    /// The decision with its words, which an equal one before it may have left.
    pub(super) fn of(&self, decision: Decision) -> Arc<Worded> {
        let mut kept = self.0.get_or_default().borrow_mut();
        if let Some(place) = kept.iter().position(|known| known.decision == decision) {
            kept.swap(0, place);
            return Arc::clone(&kept[0]);
        }
        let worded = Arc::new(Worded::new(decision));
        kept.push_front(Arc::clone(&worded));
        kept.truncate(KEPT_MAX);
        worded
    }
}

#[cfg(test)]
mod tests {
    use router::{Bound, Candidate, Limit, Reach, Route};

    use super::*;

    fn decision(name: &str) -> Decision {
        let candidate = |provider: &str, ahead| Candidate {
            target: Target {
                provider: provider.to_owned(),
                model: name.to_owned(),
            },
            reach: Reach::Lan,
            reach_max: Reach::Cloud,
            rank: 0,
            ahead,
        };
        Decision {
            route: Route::Name(name.to_owned()),
            limit: Limit {
                reach: Reach::Cloud,
                bound: Bound::Default,
            },
            candidates: vec![
                candidate("desk", Some(Advantage::Home)),
                candidate("box", None),
            ],
            excluded: Vec::new(),
        }
    }

    #[test]
    fn equal_decisions_share_their_words_and_the_oldest_are_forgotten() {
        let wordings = Wordings::default();
        let first = wordings.of(decision("a"));
        assert!(Arc::ptr_eq(&first, &wordings.of(decision("a"))));
        for number in 0..KEPT_MAX {
            let other = wordings.of(decision(&number.to_string()));
            assert!(!Arc::ptr_eq(&first, &other));
        }
        assert!(!Arc::ptr_eq(&first, &wordings.of(decision("a"))));
        assert_eq!(wordings.0.get().unwrap().borrow().len(), KEPT_MAX);
    }

    #[test]
    fn answers_are_signed_by_who_gave_them() {
        let worded = Worded::new(decision("m"));
        let texts = |served: Option<&Target>| {
            let signature = worded.signature(served);
            let text =
                |value: Option<HeaderValue>| value.map(|value| value.to_str().unwrap().to_owned());
            (text(signature.served_by), text(signature.route).unwrap())
        };
        let target = |place: usize| Some(&worded.decision.candidates[place].target);
        assert_eq!(texts(None), (None, "the model `m`".to_owned()));
        let first = (Some("desk:m".to_owned()), "the model `m`; home".to_owned());
        assert_eq!(texts(target(0)), first);
        let second = (Some("box:m".to_owned()), "the model `m`".to_owned());
        assert_eq!(texts(target(1)), second);
        assert!(worded.json().contains("\"route\":\"name\""));
    }
}
