//! What an entry holds.

use std::fmt;
use std::ops::Deref;

use crate::record::HEADER_BYTES;

/// The bytes of an entry, which only an engine understands.
pub struct Content {
    bytes: Vec<u8>,
    from: usize,
}

impl Content {
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, from: 0 }
    }

    /// Of a whole file, as [`crate::Folder::read`] gives it.
    #[must_use]
    pub fn of_file(file: Vec<u8>) -> Self {
        Self {
            from: HEADER_BYTES.min(file.len()),
            bytes: file,
        }
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.len())
    }
}
