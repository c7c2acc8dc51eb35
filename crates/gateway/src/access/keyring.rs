//! The keys at one moment.

use std::collections::HashMap;
use std::sync::Arc;

use store::{Session, StoreError, day_of, hash};

use super::{Holder, Moment};

/// All keys that were made, by what they are found by.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    by_hash: HashMap<[u8; 32], Arc<Holder>>,
    /// Those that are out of use, while requests of theirs run or something of what they used
    /// is not written yet.
    retired: Vec<Arc<Holder>>,
    /// There is a key, or there was one that is revoked.
    has_had_keys: bool,
}

impl Keyring {
    /// Reads the keys in use. Whoever was there before keeps what it has used.
    pub(super) fn read(session: &Session, old: &Self, now: Moment) -> Result<Self, StoreError> {
        let spent = session.spent(day_of(now.unix_s()))?;
        let held = old.retired.iter().filter(|holder| {
            // In this order: a request settles before it lets go of its holder.
            Arc::strong_count(holder) > 1 || holder.has_unsaved()
        });
        let mut new = Self {
            retired: held.map(Arc::clone).collect(),
            has_had_keys: false,
            by_hash: HashMap::new(),
        };
        for key in session.keys()? {
            new.has_had_keys = true;
            let known = old.by_hash.get(&key.hash).map(Arc::clone);
            if key.revoked_s.is_some() {
                new.retired.extend(known);
                continue;
            }
            let holder = known.unwrap_or_else(|| {
                let spent = spent.get(&key.id).copied().unwrap_or_default();
                Arc::new(Holder::new(key.clone(), spent, now))
            });
            new.by_hash.insert(key.hash, holder);
        }
        Ok(new)
    }

    /// The holder of a key that is in use. A lookup by the hash tells nothing by its time: a
    /// guess is hashed first, so nobody chooses what is compared.
    pub(super) fn find(&self, key: &str, now_s: u64) -> Option<Arc<Holder>> {
        if self.by_hash.is_empty() {
            return None;
        }
        let holder = self.by_hash.get(&hash(key))?;
        (!holder.has_expired(now_s)).then(|| Arc::clone(holder))
    }

    pub(super) fn has_keys(&self) -> bool {
        !self.by_hash.is_empty()
    }

    /// Whether the database knows of any key, also of one that is out of use.
    pub(super) const fn has_had_keys(&self) -> bool {
        self.has_had_keys
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = &Arc<Holder>> {
        self.by_hash.values().chain(&self.retired)
    }
}
