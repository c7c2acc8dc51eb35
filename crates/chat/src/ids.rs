//! Ids of tool calls, from a seed the caller gives: this crate has no entropy.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Mistral's templates refuse any other length.
const SHORT_LEN: usize = 9;
const LONG_LEN: usize = 24;

/// SplitMix64 (Steele, Lea and Flood 2014): every seed gives a full-period sequence.
#[derive(Debug, Clone)]
pub(crate) struct IdGenerator {
    state: u64,
}

impl IdGenerator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// `call_` and 24 letters or digits.
    pub(crate) fn long_id(&mut self) -> String {
        format!("call_{}", self.letters(LONG_LEN))
    }

    /// Nine letters or digits.
    pub(crate) fn short_id(&mut self) -> String {
        self.letters(SHORT_LEN)
    }

    fn letters(&mut self, len: usize) -> String {
        (0..len)
            .map(|_| char::from(ALPHABET[(self.next() % 62) as usize]))
            .collect()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The nine-letter stand-in for a client's id, the same each time. An id that
/// already has the form stays.
pub(crate) fn short_id_of(id: &str) -> String {
    if id.len() == SHORT_LEN && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    // FNV-1a, 64 bits.
    let hash = id.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    IdGenerator::new(hash).short_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_form_and_repeat_with_the_seed() {
        let mut ids = IdGenerator::new(7);
        let first = ids.long_id();
        assert_eq!(first.len(), 29);
        assert_ne!(first, ids.long_id());
        assert_eq!(first, IdGenerator::new(7).long_id());
        assert_eq!(ids.short_id().len(), 9);
    }

    #[test]
    fn short_ids_are_stable() {
        assert_eq!(short_id_of("abc123XYZ"), "abc123XYZ");
        assert_eq!(short_id_of("call_1"), short_id_of("call_1"));
        assert_ne!(short_id_of("call_1"), short_id_of("call_2"));
    }
}
