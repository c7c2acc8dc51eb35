//! Arbitrary and damaged headers never panic and never cost more memory than
//! the file's own size allows.

use models::gguf::write::Writer;
use models::gguf::{Arrays, Gguf, limits};
use proptest::prelude::*;

/// Parses `bytes` both ways and checks the peak of live heap memory.
fn parse_within_bounds(bytes: &[u8], claimed_bytes: u64) {
    for arrays in [Arrays::Read, Arrays::SkipLong] {
        let used = allocation_counter::measure(|| {
            if let Ok(gguf) = Gguf::read(bytes, claimed_bytes, arrays) {
                std::hint::black_box(gguf.n_parameters());
                std::hint::black_box(gguf.weights_bytes());
                std::hint::black_box(gguf.quant());
            }
        });
        let bound = limits::MEMORY_PER_FILE_BYTE_MAX * claimed_bytes + (64 << 10);
        assert!(
            used.bytes_max <= bound,
            "{} bytes live at once for a file of {claimed_bytes}, bound {bound}",
            used.bytes_max
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_after_the_magic(version in 0_u32..5, tail in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(tail);
        parse_within_bounds(&bytes, bytes.len() as u64);
    }

    #[test]
    fn a_sound_header_with_damaged_bytes(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = Writer::tiny_model().bytes();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        parse_within_bounds(&bytes, bytes.len() as u64);
    }

    /// The places that hold counts and lengths, set to the values that hurt.
    #[test]
    fn a_sound_header_with_hostile_numbers(
        place in any::<prop::sample::Index>(),
        number in prop_oneof![
            Just(u64::MAX), Just(1 << 63), Just(1 << 32), Just(1 << 24), Just(1 << 16), any::<u64>(),
        ],
    ) {
        let mut bytes = Writer::tiny_model().header();
        let place = place.index(bytes.len() - 8);
        bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        parse_within_bounds(&bytes, bytes.len() as u64);
    }
}

/// A file that claims to be huge gets no memory for what it does not hold.
#[test]
fn the_densest_headers_stay_within_the_bound() {
    let mut entries = Writer::new();
    for n in 0_u32..20_000 {
        // Two bytes of key and one of value: about the densest table there is.
        let key = char::from_u32(0x100 + n)
            .map(String::from)
            .unwrap_or(n.to_string());
        entries = entries.raw(&key, 0, &[1]);
    }
    let mut tensors = Writer::new();
    for n in 0_u32..20_000 {
        let name = char::from_u32(0x100 + n)
            .map(String::from)
            .unwrap_or(n.to_string());
        tensors = tensors.raw_tensor(&name, (24, 0), &[]);
    }
    let empty_strings = Writer::new().strings("s", &[""; 50_000]);
    for writer in [entries, tensors, empty_strings] {
        let bytes = writer.bytes();
        assert!(Gguf::parse(&bytes).is_ok());
        parse_within_bounds(&bytes, bytes.len() as u64);
    }
}
