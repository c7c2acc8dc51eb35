//! Responses that are kept, so that a later request can read or continue them.
//!
//! [`ResponseStore`] is the seam. [`Responses`] keeps them in memory, within limits of
//! number, bytes and age, and writes them to disk where it is told to: a request never waits
//! for the disk, and a restart finds there what the last one held. [`Own`] shows a caller
//! its own ones alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use router::Reach;
pub(crate) use store::Kept;
use store::{Used, Writer};

use crate::limits;

/// Where responses are kept. Calls are short: handlers make them as they go.
pub(crate) trait ResponseStore: Send + Sync {
    /// Keeps a response under its id.
    fn put(&self, kept: Kept);

    /// The response of that id, which does not count as a use of it.
    fn peek(&self, id: &str) -> Option<Arc<Kept>>;

    /// Uses the response of that id, and so all that it continues.
    fn get(&self, id: &str) -> Option<Arc<Kept>>;

    /// The response of that id after all that it continues, the oldest first.
    fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse>;

    /// Forgets a response; `false` if there is none of that id.
    fn delete(&self, id: &str) -> bool;
}

/// The responses of one owner. Those of others are not there for it.
pub(crate) struct Own {
    pub(crate) store: Arc<dyn ResponseStore>,
    /// The id of a key; `None`: they were made without one.
    pub(crate) owner: Option<String>,
}

impl ResponseStore for Own {
    fn put(&self, kept: Kept) {
        let owner = self.owner.clone();
        self.store.put(Kept { owner, ..kept });
    }

    fn peek(&self, id: &str) -> Option<Arc<Kept>> {
        let kept = self.store.peek(id);
        kept.filter(|kept| kept.owner == self.owner)
    }

    fn get(&self, id: &str) -> Option<Arc<Kept>> {
        // Looked at first, so that nobody keeps another's conversation fresh.
        self.peek(id)?;
        self.store.get(id)
    }

    fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse> {
        // As above.
        self.peek(id)
            .ok_or_else(|| MissingResponse(id.to_owned()))?;
        let chain = self.store.chain(id)?;
        match chain.iter().all(|kept| kept.owner == self.owner) {
            true => Ok(chain),
            false => Err(MissingResponse(id.to_owned())),
        }
    }

    fn delete(&self, id: &str) -> bool {
        self.peek(id).is_some() && self.store.delete(id)
    }
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

    fn peek(&self, id: &str) -> Option<Arc<Kept>> {
        let kept = self.store.peek(id)?;
        self.saw(&kept);
        Some(kept)
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

/// The id that nothing is kept under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingResponse(pub(crate) String);

/// The store: in memory, and on disk behind it where there is a writer.
#[derive(Debug)]
pub(crate) struct Responses {
    shelf: Mutex<Shelf>,
    disk: Option<Writer>,
}

impl Responses {
    pub(crate) fn in_memory(bounds: Bounds) -> Self {
        Self {
            shelf: Mutex::new(Shelf::new(bounds)),
            disk: None,
        }
    }

    /// With what was found on the disk: responses in the order of their last use, and when
    /// that was, in seconds since 1970.
    pub(crate) fn on_disk(bounds: Bounds, found: Vec<(Kept, u64)>, writer: Writer) -> Self {
        let mut shelf = Shelf::new(bounds);
        // Later than all uses of processes before this one.
        shelf.n_uses = u64::try_from(since_1970().as_micros()).unwrap_or(0);
        for (kept, used_s) in found {
            let id = kept.id.clone();
            if !shelf.insert(kept, Duration::from_secs(used_s)) {
                shelf.changes.push(Change::Gone(id));
            }
        }
        // What was put back is on the disk as it is.
        shelf
            .changes
            .retain(|change| matches!(change, Change::Gone(_)));
        let store = Self {
            shelf: Mutex::new(shelf),
            disk: Some(writer),
        };
        store.with(|shelf| shelf.trim(since_1970()));
        store
    }

    /// Does something with the shelf and hands what changed to the writer.
    fn with<T>(&self, act: impl FnOnce(&mut Shelf) -> T) -> T {
        // No method of the shelf leaves it half changed.
        let mut shelf = self.shelf();
        let result = act(&mut shelf);
        // Under the lock, so that the disk sees changes in their order; the queue never waits.
        let changes = shelf.changes.drain(..);
        match &self.disk {
            None => drop(changes),
            Some(writer) => changes.for_each(|change| {
                write(writer, change);
            }),
        }
        result
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer says what comes of it when it takes nothing more.
fn write(writer: &Writer, change: Change) -> bool {
    match change {
        Change::Put(kept, used) => writer.put_response(kept, used),
        Change::Used(used) => writer.used_responses(used),
        Change::Gone(id) => writer.delete_response(&id),
    }
}

impl ResponseStore for Responses {
    fn put(&self, kept: Kept) {
        let (id, bytes) = (kept.id.clone(), kept.bytes());
        if !self.with(|shelf| shelf.put(kept, since_1970())) {
            tracing::warn!(id, bytes, "a response is too large to be kept");
        }
    }

    fn peek(&self, id: &str) -> Option<Arc<Kept>> {
        self.with(|shelf| shelf.peek(id, since_1970()))
    }

    fn get(&self, id: &str) -> Option<Arc<Kept>> {
        self.with(|shelf| shelf.walk(id, since_1970()).pop())
    }

    fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse> {
        let chain = self.with(|shelf| shelf.walk(id, since_1970()));
        let first = chain.first();
        let missing = first.map_or(Some(id), |first| first.previous.as_deref());
        match missing {
            None => Ok(chain),
            Some(missing) => Err(MissingResponse(missing.to_owned())),
        }
    }

    fn delete(&self, id: &str) -> bool {
        self.with(|shelf| shelf.remove(id).is_some())
    }
}

/// Ages outlive the process, so they are of the clock on the wall.
fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// What [`Responses`] keeps at most.
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
    /// What the disk has not been told.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Put(Arc<Kept>, Used),
    /// A response and all that it continues: one change, however long the chain is.
    Used(Vec<Used>),
    Gone(String),
}

#[derive(Debug)]
struct Entry {
    kept: Arc<Kept>,
    /// Its key in `by_use`.
    used: u64,
    /// Since 1970.
    used_at: Duration,
}

impl Entry {
    fn used(&self, id: &str) -> Used {
        Used {
            id: id.to_owned(),
            at_s: self.used_at.as_secs(),
            order: self.used,
        }
    }
}

impl Shelf {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            n_uses: 0,
            bytes: 0,
            changes: Vec::new(),
        }
    }

    /// `false` if it alone is more than all may be.
    fn put(&mut self, kept: Kept, now: Duration) -> bool {
        let id = kept.id.clone();
        if !self.insert(kept, now) {
            return false;
        }
        self.touch(&id, now);
        self.trim(now);
        true
    }

    fn insert(&mut self, kept: Kept, used_at: Duration) -> bool {
        if kept.bytes() > self.bounds.bytes_max {
            return false;
        }
        // On the disk the new one takes its place.
        self.take_out(&kept.id);
        let id = kept.id.clone();
        self.bytes += kept.bytes();
        let entry = Entry {
            kept: Arc::new(kept),
            used: self.n_uses,
            used_at,
        };
        let used = entry.used(&id);
        self.changes
            .push(Change::Put(Arc::clone(&entry.kept), used));
        self.by_use.insert(self.n_uses, id.clone());
        self.entries.insert(id, entry);
        self.n_uses += 1;
        true
    }

    fn peek(&mut self, id: &str, now: Duration) -> Option<Arc<Kept>> {
        self.trim(now);
        self.entries.get(id).map(|entry| Arc::clone(&entry.kept))
    }

    /// Uses a response and all that it continues; the oldest of them comes first.
    fn walk(&mut self, id: &str, now: Duration) -> Vec<Arc<Kept>> {
        self.trim(now);
        let mut chain = self.touch(id, now);
        chain.reverse();
        chain
    }

    fn touch(&mut self, id: &str, now: Duration) -> Vec<Arc<Kept>> {
        let (mut chain, mut uses) = (Vec::new(), Vec::new());
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
            uses.push(entry.used(&id));
            self.by_use.insert(entry.used, id);
        }
        if !uses.is_empty() {
            self.changes.push(Change::Used(uses));
        }
        chain
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Kept>> {
        let kept = self.take_out(id)?;
        self.changes.push(Change::Gone(id.to_owned()));
        Some(kept)
    }

    fn take_out(&mut self, id: &str) -> Option<Arc<Kept>> {
        let entry = self.entries.remove(id)?;
        self.by_use.remove(&entry.used);
        self.bytes -= entry.kept.bytes();
        Some(entry.kept)
    }

    /// Drops what was not used for longest while there is too much of it or it is too old.
    fn trim(&mut self, now: Duration) {
        while let Some((_, id)) = self.by_use.first_key_value() {
            let full = self.entries.len() > self.bounds.responses_max
                || self.bytes > self.bounds.bytes_max;
            let used_at = self.entries.get(id).map(|entry| entry.used_at);
            let idle = used_at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
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
    use std::path::Path;

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
            owner: None,
        }
    }

    fn ids(chain: &[Arc<Kept>]) -> Vec<&str> {
        chain.iter().map(|kept| kept.id.as_str()).collect()
    }

    /// A store on disk, as a process that starts finds it.
    fn on_disk(folder: &Path) -> Responses {
        let store = store::Store::open(folder).unwrap();
        let found = store.connect().unwrap().responses().unwrap();
        let writer = store.writer(store::Retention::default()).unwrap();
        Responses::on_disk(BOUNDS, found, writer)
    }

    /// What holds for both kinds of store.
    fn both(test: impl Fn(Responses)) {
        test(Responses::in_memory(BOUNDS));
        let folder = tempfile::tempdir().unwrap();
        test(on_disk(folder.path()));
    }

    #[test]
    fn a_chain_is_given_oldest_first_and_its_gap_is_named() {
        both(chains);
    }

    fn chains(store: Responses) {
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

    /// How often the disk would be told of a use, and of how many.
    fn uses(shelf: &mut Shelf) -> Vec<usize> {
        let changes = shelf.changes.drain(..);
        changes
            .filter_map(|change| match change {
                Change::Used(uses) => Some(uses.len()),
                Change::Put(..) | Change::Gone(_) => None,
            })
            .collect()
    }

    #[test]
    fn to_use_a_chain_is_one_change_and_to_look_at_it_is_none() {
        let now = since_1970();
        let mut shelf = Shelf::new(BOUNDS);
        for (id, previous) in [("a", None), ("b", Some("a")), ("c", Some("b"))] {
            assert!(shelf.put(kept(id, previous, 10), now));
        }
        uses(&mut shelf);
        shelf.walk("c", now);
        assert_eq!(uses(&mut shelf), [3]);
        let order = shelf.by_use.clone();
        assert_eq!(shelf.peek("c", now).unwrap().id, "c");
        assert_eq!(shelf.by_use, order);
        assert!(uses(&mut shelf).is_empty());
        shelf.walk("x", now);
        assert!(uses(&mut shelf).is_empty());
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many_or_too_large_ones() {
        both(|store| {
            for id in ["a", "b", "c", "d", "e"] {
                store.put(kept(id, None, 10));
            }
            assert!(store.get("a").is_none());
            store.put(kept("f", None, 90));
            assert!(store.get("d").is_none() && store.get("e").is_some());
            store.put(kept("g", None, 101));
            assert!(store.get("g").is_none());
        });
    }

    #[test]
    fn a_restart_finds_what_was_there_in_the_order_of_its_use() {
        let folder = tempfile::tempdir().unwrap();
        let whole = Kept {
            input: b"[1]".to_vec(),
            reach: Reach::Device,
            owner: Some("key_1".into()),
            ..kept("a", None, 10)
        };
        {
            let store = on_disk(folder.path());
            store.put(whole.clone());
            for id in ["b", "c", "d"] {
                store.put(kept(id, None, 10));
            }
            assert!(store.delete("c"));
            assert_eq!(store.get("a").as_deref(), Some(&whole));
        }
        {
            let store = on_disk(folder.path());
            assert!(store.get("c").is_none());
            store.put(kept("e", Some("a"), 10));
            // One more than may be: b was unused for longest.
            store.put(kept("f", None, 10));
        }
        let store = on_disk(folder.path());
        assert!(store.get("b").is_none());
        assert_eq!(store.get("a").as_deref(), Some(&whole));
        assert_eq!(ids(&store.chain("e").unwrap()), ["a", "e"]);
    }

    #[test]
    fn what_is_too_old_or_too_large_for_a_restart_is_gone_from_the_disk_too() {
        let folder = tempfile::tempdir().unwrap();
        let database = store::Store::open(folder.path()).unwrap();
        let now_s = since_1970().as_secs();
        {
            let writer = database.writer(store::Retention::default()).unwrap();
            for (id, n_bytes, at_s) in [("old", 10, 1), ("huge", 101, now_s), ("new", 10, now_s)] {
                let (id, order) = (id.to_owned(), 0);
                let entry = Arc::new(kept(&id, None, n_bytes));
                assert!(writer.put_response(entry, Used { id, at_s, order }));
            }
        }
        let store = on_disk(folder.path());
        assert!(store.get("new").is_some() && store.get("old").is_none());
        drop(store);
        let found = database.connect().unwrap().responses().unwrap();
        let ids: Vec<_> = found.iter().map(|(kept, _)| kept.id.as_str()).collect();
        assert_eq!(ids, ["new"]);
    }

    #[test]
    fn a_caller_sees_only_its_own() {
        let store: Arc<dyn ResponseStore> = Arc::new(Responses::in_memory(BOUNDS));
        let own = |owner: Option<&str>| Own {
            store: Arc::clone(&store),
            owner: owner.map(str::to_owned),
        };
        let (anna, ben, nobody) = (own(Some("a")), own(Some("b")), own(None));
        anna.put(kept("1", None, 10));
        nobody.put(kept("2", None, 10));
        // As if a key had guessed an id: the chain leads to another's response.
        ben.put(kept("3", Some("1"), 10));
        let missing = |id: &str| Err(MissingResponse(id.to_owned()));
        assert!(anna.get("1").is_some() && anna.get("2").is_none());
        assert!(ben.get("1").is_none() && !ben.delete("1"));
        assert_eq!(ben.chain("1"), missing("1"));
        assert_eq!(ben.chain("3"), missing("3"));
        assert!(nobody.get("2").is_some() && nobody.get("1").is_none());
        assert!(anna.delete("1"));
    }

    #[test]
    fn nobody_keeps_the_responses_of_others_fresh() {
        type Act = fn(&Own);
        let acts: [Act; 4] = [
            |ben| assert!(ben.peek("1").is_none()),
            |ben| assert!(ben.get("1").is_none()),
            |ben| assert!(ben.chain("1").is_err()),
            |ben| assert!(!ben.delete("1")),
        ];
        for act in acts {
            let store: Arc<dyn ResponseStore> = Arc::new(Responses::in_memory(BOUNDS));
            let own = |owner: &str| Own {
                store: Arc::clone(&store),
                owner: Some(owner.to_owned()),
            };
            let (anna, ben) = (own("a"), own("b"));
            for id in ["1", "2", "3", "4"] {
                anna.put(kept(id, None, 10));
            }
            act(&ben);
            anna.put(kept("5", None, 10));
            assert!(anna.peek("1").is_none(), "1 was unused for longest");
        }
    }

    #[test]
    fn number_bytes_and_age_are_bounded() {
        let now = since_1970();
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
            let mut now = since_1970();
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
