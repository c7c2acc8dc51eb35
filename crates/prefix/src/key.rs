//! Names of blocks.

use std::fmt;

/// Tokens of a block. What is left of a prompt after its last whole block is computed
/// again, so fewer cost less time; each block of each plane is a file, so more cost less
/// housekeeping.
pub const BLOCK_TOKENS: usize = 32;

const FINGERPRINT_CONTEXT: &str = "sextant prefix cache 1: what a state depends on";

/// Everything beyond the tokens that a state depends on: model, tokenizer, engine, types.
/// States of another fingerprint are never restored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of named parts. Their order counts, and each is told apart from its neighbours.
    #[must_use]
    pub fn of<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(FINGERPRINT_CONTEXT);
        for (name, bytes) in parts {
            for part in [name.as_bytes(), bytes] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A block: its tokens, all before them, and the fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Key {
    /// From the 64 digits that [`Key`] is shown as.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        Some(Self(unhex(text)?))
    }
}

/// The keys of the whole blocks that the tokens begin with.
///
/// The hash is a cryptographic one because whoever could make two prompts collide would
/// be answered from a state of the other.
#[must_use]
pub fn chain(fingerprint: &Fingerprint, tokens: &[i32]) -> Vec<Key> {
    let mut before = fingerprint.0;
    let blocks = tokens.chunks_exact(BLOCK_TOKENS);
    let key = |block: &[i32]| {
        let mut hasher = blake3::Hasher::new_keyed(&before);
        for token in block {
            hasher.update(&token.to_le_bytes());
        }
        before = *hasher.finalize().as_bytes();
        Key(before)
    };
    blocks.map(key).collect()
}

/// A part of what an engine knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plane {
    /// Keys and values of the block's tokens in the layers that see everything.
    Rows,
    /// The same in layers with a sliding window. Only those of the last window before a
    /// place are needed to go on from there, so they are kept for chosen places.
    Window,
    /// The recurrent state behind the block's last token, for chosen places.
    State,
}

impl Plane {
    pub const ALL: [Self; 3] = [Self::Rows, Self::Window, Self::State];

    /// As it is written in a file's name.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Rows => 'r',
            Self::Window => 'w',
            Self::State => 's',
        }
    }

    #[must_use]
    pub fn from_letter(letter: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|plane| letter.chars().eq([plane.letter()]))
    }
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub key: Key,
    pub plane: Plane,
}

pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| match pair[at] {
            digit @ b'0'..=b'9' => Some(digit - b'0'),
            digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Fingerprint {
        Fingerprint::of([("model", text.as_bytes())])
    }

    #[test]
    fn equal_beginnings_have_equal_keys_and_nothing_else_has() {
        let long: Vec<i32> = (0..100).collect();
        let keys = chain(&of("a"), &long);
        assert_eq!(keys.len(), 3);
        assert_eq!(chain(&of("a"), &long[..64]), keys[..2]);
        let mut other = long.clone();
        other[40] = 7;
        let others = chain(&of("a"), &other);
        assert_eq!(others[0], keys[0]);
        assert!(others[1] != keys[1] && others[2] != keys[2]);
        let of_b = chain(&of("b"), &long);
        assert!(keys.iter().all(|key| !of_b.contains(key)));
        // The same block in another place is another block.
        let twice = [&long[..32], &long[..32]].concat();
        let keys = chain(&of("a"), &twice);
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn parts_of_a_fingerprint_do_not_run_together() {
        let split = Fingerprint::of([("ab", &b"c"[..]), ("d", b"")]);
        assert_ne!(split, Fingerprint::of([("a", &b"bc"[..]), ("d", b"")]));
        assert_ne!(split, Fingerprint::of([("ab", &b"cd"[..]), ("", b"")]));
    }

    #[test]
    fn names_can_be_read_again() {
        let key = chain(&of("a"), &[1; BLOCK_TOKENS])[0];
        assert_eq!(Key::from_hex(&key.to_string()), Some(key));
        for odd in ["", "ab", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32)] {
            assert_eq!(Key::from_hex(odd), None);
        }
        for plane in Plane::ALL {
            assert_eq!(Plane::from_letter(&plane.letter().to_string()), Some(plane));
        }
        assert_eq!(Plane::from_letter("rw"), None);
    }
}
