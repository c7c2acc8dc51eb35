//! One entry as the bytes of a file.
//!
//! ```text
//! 0   8  "SXTPFX01"
//! 8   32 fingerprint
//! 40  32 key
//! 72  1  plane: 'r', 'w' or 's'
//! 73  3  zero
//! 76  4  depth: the block's place in its prompt, from 0
//! 80  8  bytes of the content
//! 88  32 BLAKE3 of the 88 bytes before and of the content
//! 120    the content
//! ```
//! Numbers are little-endian. The checksum is what tells a whole entry from one that a
//! power cut has left half, from one that a disk has changed, and, with the fingerprint
//! and the key, from one that is not what its name says. It is no signature: whoever can
//! write into the folder can write a state that passes, and must be trusted with it.

use thiserror::Error;

use crate::{Fingerprint, Id};

/// The bytes before the content.
pub const HEADER_BYTES: usize = 120;
/// The largest content that is read: far above a block of any published model.
pub const CONTENT_BYTES_MAX: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"SXTPFX01";
const CHECKED: usize = 88;

/// What an entry is besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub fingerprint: Fingerprint,
    pub id: Id,
    pub depth: u32,
}

/// Why bytes are not the entry that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("it has {given} bytes, which is less than the {HEADER_BYTES} of a header")]
    Short { given: usize },
    #[error("it is no entry of a prefix cache, or of another version")]
    Foreign,
    #[error("it has {given} bytes behind its header and should have {expected}")]
    Length { given: u64, expected: u64 },
    #[error("it is said to hold {given} bytes, and the limit is {CONTENT_BYTES_MAX}")]
    TooLarge { given: u64 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is of another block or another model")]
    Misplaced,
}

/// The header of a file with that content, which follows it.
#[must_use]
pub fn header(label: &Label, content: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(label.fingerprint.0);
    header.extend(label.id.key.0);
    // The letters are ASCII.
    header.push(label.id.plane.letter() as u8);
    header.extend([0; 3]);
    header.extend(label.depth.to_le_bytes());
    header.extend((content.len() as u64).to_le_bytes());
    let sum = checksum(&header, content);
    header.extend(sum);
    header
}

fn checksum(header: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// The content of a file that must be the entry with that label.
///
/// # Errors
/// [`Fault`] says what is wrong with it. Whatever the bytes are, this neither panics nor
/// takes memory.
pub fn decode<'a>(file: &'a [u8], expected: &Label) -> Result<&'a [u8], Fault> {
    let Some((header, content)) = file.split_at_checked(HEADER_BYTES) else {
        return Err(Fault::Short { given: file.len() });
    };
    if header[..8] != *MAGIC || header[73..76] != [0; 3] {
        return Err(Fault::Foreign);
    }
    let (given, said) = (
        content.len() as u64,
        u64::from_le_bytes(bytes_at(header, 80)),
    );
    if said > CONTENT_BYTES_MAX {
        return Err(Fault::TooLarge { given: said });
    }
    if said != given {
        let expected = said;
        return Err(Fault::Length { given, expected });
    }
    if header[CHECKED..] != checksum(&header[..CHECKED], content) {
        return Err(Fault::Checksum);
    }
    let is_expected = header[8..40] == expected.fingerprint.0
        && header[40..72] == expected.id.key.0
        && char::from(header[72]) == expected.id.plane.letter()
        && u32::from_le_bytes(bytes_at(header, 76)) == expected.depth;
    is_expected.then_some(content).ok_or(Fault::Misplaced)
}

fn bytes_at<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..][..N]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{BLOCK_TOKENS, Plane, chain};

    fn encode(label: &Label, content: &[u8]) -> Vec<u8> {
        [&header(label, content), content].concat()
    }

    fn label(plane: Plane) -> Label {
        let fingerprint = Fingerprint::of([("model", &b"m"[..])]);
        let key = chain(&fingerprint, &[1; BLOCK_TOKENS])[0];
        Label {
            fingerprint,
            id: Id { key, plane },
            depth: 3,
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written_and_only_in_its_place() {
        let label = label(Plane::Rows);
        let file = encode(&label, b"state");
        assert_eq!(decode(&file, &label), Ok(&b"state"[..]));
        let mut others = [label; 3];
        others[0].id.plane = Plane::State;
        others[1].depth = 4;
        others[2].fingerprint = Fingerprint::of([("model", &b"n"[..])]);
        for other in others {
            assert_eq!(decode(&file, &other), Err(Fault::Misplaced));
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let label = label(Plane::State);
        let file = encode(&label, b"state");
        assert_eq!(decode(&file[..50], &label), Err(Fault::Short { given: 50 }));
        assert_eq!(
            decode(&file[..file.len() - 2], &label),
            Err(Fault::Length {
                given: 3,
                expected: 5
            })
        );
        let mut foreign = file.clone();
        foreign[0] = b'G';
        assert_eq!(decode(&foreign, &label), Err(Fault::Foreign));
        let mut huge = file.clone();
        huge[87] = 0x7f;
        assert!(matches!(decode(&huge, &label), Err(Fault::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn no_change_of_any_byte_passes(at in any::<prop::sample::Index>(), change in 1_u8..) {
            let label = label(Plane::Window);
            let mut file = encode(&label, b"some content of a block");
            let at = at.index(file.len());
            file[at] ^= change;
            prop_assert!(decode(&file, &label).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode(&bytes, &label(Plane::Rows)).is_err());
        }
    }
}
