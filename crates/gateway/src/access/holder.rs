//! Whoever sends a request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use router::{Bound, Candidate, Exclusion, Limit, Target};
use stdx::{Cost, Priority};
use store::{Key, Scope, Scopes, Spent, Usage};

use super::glob;
use super::quota::{Amount, Level, Moment, Quota, Refusal};

/// Who sends a request.
#[derive(Debug, Clone, Default)]
pub(crate) enum Caller {
    /// Nobody is asked for a key, or nobody has been yet.
    #[default]
    Anyone,
    /// Has the key of the settings.
    Operator,
    Holder(Arc<Holder>),
}

impl Caller {
    pub(crate) fn holder(&self) -> Option<&Arc<Holder>> {
        match self {
            Self::Holder(holder) => Some(holder),
            Self::Anyone | Self::Operator => None,
        }
    }

    pub(crate) fn scopes(&self) -> Scopes {
        self.holder()
            .map_or(Scopes::ALL, |holder| holder.key.facts.scopes)
    }

    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.scopes().has(scope)
    }

    /// How far the key lets its requests travel.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let facts = &self.holder()?.key.facts;
        Some(Limit {
            reach: facts.privacy?,
            bound: Bound::Key(facts.name.clone()),
        })
    }

    /// Whose responses this caller may see.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.holder().map(|holder| holder.key.id.as_str())
    }

    /// How important its requests are at most; without a key as they say.
    pub(crate) fn priority(&self) -> Option<Priority> {
        Some(self.holder()?.key.facts.priority)
    }

    /// Of `places`, those that are kept free of this caller for others: half of them of a low
    /// priority, a tenth of a normal one.
    pub(crate) fn places_kept_free(&self, places: usize) -> usize {
        match self.holder().map(|holder| holder.key.facts.priority) {
            Some(Priority::Low) => places / 2,
            Some(Priority::Normal) => places / 10,
            Some(Priority::High) | None => 0,
        }
    }
}

/// A key in use, with what it has used.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) key: Key,
    quota: Mutex<Quota>,
    counts_tokens: bool,
}

impl Holder {
    pub(super) fn new(key: Key, spent: Spent, now: Moment) -> Self {
        let quota = Quota::new(key.facts.limits, spent, now);
        Self {
            counts_tokens: quota.counts_tokens(),
            quota: Mutex::new(quota),
            key,
        }
    }

    /// Held for some arithmetic, never over an await.
    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &str {
        &self.key.facts.name
    }

    pub(crate) fn has_expired(&self, now_s: u64) -> bool {
        self.key.facts.expires_s.is_some_and(|end| end <= now_s)
    }

    /// Whether a request's tokens have to be estimated before it runs.
    pub(crate) const fn counts_tokens(&self) -> bool {
        self.counts_tokens
    }

    pub(crate) fn enter(&self, now: Moment) -> Result<(), Refusal> {
        self.quota().enter(now)
    }

    pub(crate) fn leave(&self) {
        self.quota().leave();
    }

    pub(crate) fn reserve(&self, asked: Amount, now: Moment) -> Result<(), Refusal> {
        self.quota().reserve(asked, now)
    }

    pub(crate) fn settle(&self, reserved: Amount, used: Amount, now: Moment) {
        self.quota().settle(reserved, used, now);
    }

    pub(crate) fn cost_left(&self, now: Moment) -> Option<Cost> {
        self.quota().cost_left(now)
    }

    /// Requests and tokens that are left of this minute.
    pub(crate) fn levels(&self, now: Moment) -> [Option<Level>; 2] {
        let mut quota = self.quota();
        [quota.requests_left(now), quota.tokens_left(now)]
    }

    /// Whether something of what it used is not written yet.
    pub(super) fn has_unsaved(&self) -> bool {
        self.quota().has_unsaved()
    }

    pub(super) fn save(&self, save: impl FnMut(Usage) -> bool) {
        self.quota().save(&self.key.id, save);
    }

    /// Whether the key may use a model by this name.
    fn allows(&self, name: &str) -> bool {
        let mut patterns = self.key.facts.models.iter();
        patterns.any(|pattern| glob::matches(pattern, name))
    }

    /// Whether the key may use a target. A name that it may ask for, an alias perhaps, brings
    /// with it all that the name stands for.
    pub(super) fn may_use(&self, asked: Option<&str>, target: &Target) -> bool {
        self.key.facts.models.is_empty()
            || asked.is_some_and(|name| self.allows(name))
            || self.allows(&target.model)
            || self.allows(&target.to_string())
    }

    /// Why the key may not use a candidate.
    pub(super) fn bars(&self, asked: Option<&str>, candidate: &Candidate) -> Option<Exclusion> {
        (!self.may_use(asked, &candidate.target)).then(|| Exclusion::NotAllowed {
            key: self.name().to_owned(),
        })
    }
}
