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
                let mut id = String::with_capacity(prefix.len() + 24);
                id.push_str(prefix);
                push_hex(&mut id, high, 16);
                push_hex(&mut id, low >> 32, 8);
                id
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

/// Appends that many hexadecimal digits, the last ones of `number`. Two ids are made for each
/// answer, and the formatter of the standard library takes ten times as long.
fn push_hex(text: &mut String, number: u64, n_digits: u32) {
    for place in (0..n_digits).rev() {
        let digit = (number >> (4 * place)) & 0xf;
        text.push(char::from(b"0123456789abcdef"[digit as usize]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_those_of_the_formatter() {
        for number in [0, 1, 0xdead_beef, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut text = String::new();
            push_hex(&mut text, number, 16);
            assert_eq!(text, format!("{number:016x}"));
            text.clear();
            push_hex(&mut text, number >> 32, 8);
            assert_eq!(text, format!("{:08x}", number >> 32));
        }
    }
}
