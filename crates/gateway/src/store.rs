//! Responses that are kept, so that a later request can read or continue them.
//!
//! [`ResponseStore`] is the seam; [`MemoryStore`] keeps responses until the process
//! ends, within limits of number, bytes and age.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use router::Reach;

use crate::limits;

/// Where responses are kept. Calls are short: handlers make them as they go.
pub(crate) trait ResponseStore: Send + Sync {
    /// Keeps a response under its id.
    fn put(&self, kept: Kept);

    /// The response of that id.
    fn get(&self, id: &str) -> Option<Arc<Kept>>;

    /// The response of that id after all that it continues, the oldest first.
    fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse>;

    /// Forgets a response; `false` if there is none of that id.
    fn delete(&self, id: &str) -> bool;
}

/// A response and what it answered, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: String,
    /// The response that this one continues.
    pub(crate) previous: Option<String>,
    /// An array of the input items, each with an id; those of earlier responses are not
    /// among them.
    pub(crate) input: Vec<u8>,
    /// The response object.
    pub(crate) response: Vec<u8>,
    /// How far it may travel.
    pub(crate) reach: Reach,
}

/// A store that remembers the strictest label of what was read from it.
pub(crate) struct Watched<'a> {
    store: &'a dyn ResponseStore,
    strictest: Mutex<Reach>,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(store: &'a dyn ResponseStore) -> Self {
        Self {
            store,
            strictest: Mutex::new(Reach::Cloud),
        }
    }

    /// How far whatever was read may travel.
    pub(crate) fn strictest(&self) -> Reach {
        *self
            .strictest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn saw(&self, kept: &Kept) {
        let mut strictest = self
            .strictest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *strictest = kept.reach.min(*strictest);
    }
}

impl ResponseStore for Watched<'_> {
    fn put(&self, kept: Kept) {
        self.store.put(kept);
    }

    fn get(&self, id: &str) -> Option<Arc<Kept>> {
        let kept = self.store.get(id)?;
        self.saw(&kept);
        Some(kept)
    }

    fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse> {
        let chain = self.store.chain(id)?;
        chain.iter().for_each(|kept| self.saw(kept));
        Ok(chain)
    }

    fn delete(&self, id: &str) -> bool {
        self.store.delete(id)
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.id.len() + self.input.len() + self.response.len()
    }
}

/// The id that nothing is kept under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingResponse(pub(crate) String);

/// A store in memory.
#[derive(Debug)]
pub(crate) struct MemoryStore(Mutex<Shelf>);

impl MemoryStore {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self(Mutex::new(Shelf::new(bounds)))
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // No method of the shelf leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResponseStore for MemoryStore {
    fn put(&self, kept: Kept) {
        let (id, bytes) = (kept.id.clone(), kept.bytes());
        if !self.shelf().put(kept, Instant::now()) {
            tracing::warn!(id, bytes, "a response is too large to be kept");
        }
    }

    fn get(&self, id: &str) -> Option<Arc<Kept>> {
        self.shelf().walk(id, Instant::now()).pop()
    }

    fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse> {
        let chain = self.shelf().walk(id, Instant::now());
        let first = chain.first();
        let missing = first.map_or(Some(id), |first| first.previous.as_deref());
        match missing {
            None => Ok(chain),
            Some(missing) => Err(MissingResponse(missing.to_owned())),
        }
    }

    fn delete(&self, id: &str) -> bool {
        self.shelf().remove(id).is_some()
    }
}

/// What a [`MemoryStore`] keeps at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) responses_max: usize,
    pub(crate) bytes_max: usize,
    /// Since the last use.
    pub(crate) idle_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            responses_max: limits::RESPONSES_KEPT_MAX,
            bytes_max: limits::RESPONSES_KEPT_BYTES_MAX,
            idle_max: limits::RESPONSE_IDLE_MAX,
        }
    }
}

/// What is kept, by id and by last use.
///
/// To use a response is to use all that it continues, after it. So whatever goes first
/// for want of room or of use is not continued by anything that stays.
#[derive(Debug)]
struct Shelf {
    bounds: Bounds,
    entries: HashMap<String, Entry>,
    by_use: BTreeMap<u64, String>,
    n_uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    kept: Arc<Kept>,
    /// Its key in `by_use`.
    used: u64,
    used_at: Instant,
}

impl Shelf {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            n_uses: 0,
            bytes: 0,
        }
    }

    /// `false` if it alone is more than all may be.
    fn put(&mut self, kept: Kept, now: Instant) -> bool {
        if kept.bytes() > self.bounds.bytes_max {
            return false;
        }
        self.remove(&kept.id);
        let id = kept.id.clone();
        self.bytes += kept.bytes();
        let entry = Entry {
            kept: Arc::new(kept),
            used: self.n_uses,
            used_at: now,
        };
        self.by_use.insert(self.n_uses, id.clone());
        self.entries.insert(id.clone(), entry);
        self.n_uses += 1;
        self.touch(&id, now);
        self.trim(now);
        true
    }

    /// Uses a response and all that it continues; the oldest of them comes first.
    fn walk(&mut self, id: &str, now: Instant) -> Vec<Arc<Kept>> {
        self.trim(now);
        let mut chain = self.touch(id, now);
        chain.reverse();
        chain
    }

    fn touch(&mut self, id: &str, now: Instant) -> Vec<Arc<Kept>> {
        let mut chain = Vec::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next.take() {
            // A chain is no longer than all that is kept.
            if chain.len() == self.entries.len() {
                break;
            }
            let Some(entry) = self.entries.get_mut(&id) else {
                break;
            };
            self.by_use.remove(&entry.used);
            entry.used = self.n_uses;
            entry.used_at = now;
            self.n_uses += 1;
            next = entry.kept.previous.clone();
            chain.push(Arc::clone(&entry.kept));
            self.by_use.insert(entry.used, id);
        }
        chain
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Kept>> {
        let entry = self.entries.remove(id)?;
        self.by_use.remove(&entry.used);
        self.bytes -= entry.kept.bytes();
        Some(entry.kept)
    }

    /// Drops what was not used for longest while there is too much of it or it is too old.
    fn trim(&mut self, now: Instant) {
        while let Some((_, id)) = self.by_use.first_key_value() {
            let full = self.entries.len() > self.bounds.responses_max
                || self.bytes > self.bounds.bytes_max;
            let used_at = self.entries.get(id).map(|entry| entry.used_at);
            let idle = used_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            if !full && idle <= self.bounds.idle_max {
                return;
            }
            let id = id.clone();
            self.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        responses_max: 4,
        bytes_max: 100,
        idle_max: Duration::from_secs(60),
    };

    fn kept(id: &str, previous: Option<&str>, n_bytes: usize) -> Kept {
        Kept {
            reach: Reach::Cloud,
            id: id.to_owned(),
            previous: previous.map(str::to_owned),
            input: Vec::new(),
            response: vec![b'x'; n_bytes - id.len()],
        }
    }

    fn ids(chain: &[Arc<Kept>]) -> Vec<&str> {
        chain.iter().map(|kept| kept.id.as_str()).collect()
    }

    #[test]
    fn a_chain_is_given_oldest_first_and_its_gap_is_named() {
        let store = MemoryStore::new(BOUNDS);
        store.put(kept("a", None, 10));
        store.put(kept("b", Some("a"), 10));
        store.put(kept("c", Some("b"), 10));
        assert_eq!(ids(&store.chain("c").unwrap()), ["a", "b", "c"]);
        assert_eq!(store.get("b").unwrap().id, "b");
        assert!(store.delete("a"));
        assert!(!store.delete("a"));
        let missing = |id: &str| Err(MissingResponse(id.to_owned()));
        assert_eq!(store.chain("c"), missing("a"));
        assert_eq!(store.chain("x"), missing("x"));
        assert_eq!(store.get("c").unwrap().id, "c");
    }

    #[test]
    fn number_bytes_and_age_are_bounded() {
        let now = Instant::now();
        let mut shelf = Shelf::new(BOUNDS);
        for id in ["a", "b", "c", "d"] {
            assert!(shelf.put(kept(id, None, 10), now));
        }
        shelf.walk("a", now);
        assert!(shelf.put(kept("e", None, 10), now));
        assert!(!shelf.entries.contains_key("b"), "b was unused for longest");
        assert!(shelf.put(kept("f", None, 80), now));
        assert_eq!(shelf.entries.len(), 3, "f leaves room for two others");
        assert!(!shelf.put(kept("g", None, 101), now));
        let later = now + Duration::from_secs(40);
        shelf.walk("f", later);
        assert!(shelf.walk("x", later + Duration::from_secs(30)).is_empty());
        assert_eq!(shelf.entries.len(), 1, "only f was used within a minute");
        assert_eq!(shelf.bytes, 80);
    }

    proptest! {
        /// Each step keeps a response that continues an earlier one or reads one.
        #[test]
        fn what_is_continued_outlives_what_continues_it(
            steps in prop::collection::vec((0..30_usize, 1..50_usize, any::<bool>()), 1..40)
        ) {
            let mut shelf = Shelf::new(BOUNDS);
            let mut now = Instant::now();
            for (index, (other, n_bytes, reads)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(10);
                let other = format!("r{}", other % (index + 1));
                if reads {
                    shelf.walk(&other, now);
                } else {
                    // As a request does: what is gone cannot be continued.
                    let previous = shelf.entries.contains_key(&other).then_some(other);
                    shelf.put(kept(&format!("r{index}"), previous.as_deref(), n_bytes + 3), now);
                }
                for entry in shelf.entries.values() {
                    let previous = entry.kept.previous.as_ref();
                    prop_assert!(previous.is_none_or(|id| shelf.entries.contains_key(id)));
                }
                prop_assert!(shelf.entries.len() <= BOUNDS.responses_max);
                let bytes: usize = shelf.entries.values().map(|entry| entry.kept.bytes()).sum();
                prop_assert_eq!(bytes, shelf.bytes);
                prop_assert!(bytes <= BOUNDS.bytes_max);
                prop_assert_eq!(shelf.by_use.len(), shelf.entries.len());
            }
        }
    }
}
