//! Ids and time stamps of answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes ids that are unique and not to be guessed, and tells the time.
#[derive(Debug)]
pub(crate) enum Stamps {
    /// Keyed hashes of a counter: SipHash under random keys is one-way.
    Random {
        keys: [RandomState; 2],
        counter: AtomicU64,
    },
    /// The same id and time for everything, for snapshots.
    #[cfg(test)]
    Fixed,
}

impl Stamps {
    pub(crate) fn random() -> Self {
        Self::Random {
            keys: [RandomState::new(), RandomState::new()],
            counter: AtomicU64::new(0),
        }
    }

    /// `prefix` and 24 hexadecimal digits.
    pub(crate) fn id(&self, prefix: &str) -> String {
        match self {
            Self::Random { keys, counter } => {
                let count = counter.fetch_add(1, Ordering::Relaxed);
                let [high, low] = keys.each_ref().map(|key| key.hash_one(count));
                format!("{prefix}{high:016x}{:08x}", low >> 32)
            }
            #[cfg(test)]
            Self::Fixed => format!("{prefix}0"),
        }
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Random { .. } => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            #[cfg(test)]
            Self::Fixed => 1_700_000_000,
        }
    }
}
