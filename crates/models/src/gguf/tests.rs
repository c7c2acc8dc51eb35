use super::write::Writer;
use super::{Arrays, Gguf, GgufError, Split, limits};

#[test]
fn reads_a_small_model() {
    let gguf = Gguf::parse(&Writer::tiny_model().bytes()).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.architecture(), Some("llama"));
    assert_eq!(gguf.name(), Some("Tiny Test"));
    assert_eq!(gguf.quant(), Some("Q4_K_M"));
    assert_eq!(gguf.context_length(), Some(2048));
    assert_eq!(gguf.chat_template(), Some("{{ messages }}"));
    assert_eq!(gguf.n_parameters(), 256 * 4 + 256);
    assert_eq!(gguf.weights_bytes(), 4 * 144 + 1024);
    assert_eq!(gguf.data_end(), Writer::tiny_model().bytes().len() as u64);
    let tokens = gguf.get_array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(
        tokens.strings().collect::<Vec<_>>(),
        ["<s>", "a", "b", "ab"]
    );
    let embedding = &gguf.tensors()[0];
    assert_eq!(embedding.dims(), [256, 4]);
    assert_eq!(embedding.tensor_type().name(), "Q4_K");
    assert_eq!(gguf.split(), None);
}

#[test]
fn reads_version_2_and_splits() {
    let bytes = Writer::tiny_model()
        .version(2)
        .u32("split.count", 3)
        .u32("split.no", 1)
        .bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.version(), 2);
    assert_eq!(gguf.split(), Some(Split { index: 1, count: 3 }));
}

#[test]
fn long_arrays_can_be_skipped_and_short_ones_stay() {
    let tokens: Vec<String> = (0..2000).map(|n| format!("token {n}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let bytes = Writer::tiny_model()
        .strings("tokens", &tokens)
        .u32s("heads", &[8; 32])
        .u32s("types", &[1; 2000])
        .bytes();
    let read = |arrays| Gguf::read(bytes.as_slice(), bytes.len() as u64, arrays).unwrap();
    let (skipped, kept) = (read(Arrays::SkipLong), read(Arrays::Read));
    for key in ["tokens", "types"] {
        assert_eq!(skipped.get_array(key).unwrap().len(), 2000);
        assert!(!skipped.get_array(key).unwrap().was_read());
        assert_eq!(kept.get_array(key).unwrap().iter().count(), 2000);
    }
    assert!(skipped.get_array("heads").unwrap().was_read());
    assert_eq!(skipped.tensors(), kept.tensors());
    assert_eq!(skipped.data_end(), kept.data_end());
}

/// Each hostile header, and what its error must say.
#[test]
fn hostile_headers_name_the_field_the_value_and_the_limit() {
    let new = Writer::new;
    let long = "k".repeat(limits::KEY_BYTES_MAX as usize + 1);
    let text_of = |len: u64| len.to_le_bytes().to_vec();
    let array_of = |item: u32, len: u64| [&item.to_le_bytes()[..], &len.to_le_bytes()].concat();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no byte", vec![], "magic at byte 0 needs 4"),
        (
            "other magic",
            b"GGML....".to_vec(),
            "starts with [47, 47, 4d, 4c]",
        ),
        ("version 1", new().version(1).bytes(), "version 1 at byte 4"),
        ("version 9", new().version(9).bytes(), "version 9 at byte 4"),
        (
            "big-endian",
            new().version(3 << 24).bytes(),
            "big-endian GGUF version 3",
        ),
        (
            "tensors",
            new().claim_tensors(1 << 40).bytes(),
            "tensor count at byte 8 is 1099511627776, above the limit of 131072",
        ),
        (
            "tensors, few bytes",
            new().claim_tensors(100).header(),
            "tensor count at byte 16 needs 2400 bytes, but only 8",
        ),
        (
            "metadata",
            new().claim_metadata(u64::MAX).bytes(),
            "metadata count at byte 16 is 18446744073709551615, above the limit of 65536",
        ),
        (
            "metadata, few bytes",
            new().claim_metadata(60_000).bytes(),
            "metadata count at byte 24 needs 780000",
        ),
        (
            "long key",
            new().u32(&long, 1).bytes(),
            "is 65536, above the limit of 65535",
        ),
        (
            "empty key",
            new().u32("", 1).bytes(),
            "is empty, expected a name",
        ),
        (
            "twice",
            new().u32("a", 1).u32("a", 2).bytes(),
            "`a` occurs twice",
        ),
        (
            "value type",
            new().raw("a", 13, &[0; 8]).bytes(),
            "type of `a` at byte 33 is 13",
        ),
        (
            "huge string",
            new().raw("a", 8, &text_of(u64::MAX)).bytes(),
            "above the limit of 67108864",
        ),
        (
            "string past end",
            new().raw("a", 8, &text_of(1 << 20)).bytes(),
            "`a` at byte 45 needs 1048576",
        ),
        (
            "huge array",
            new().raw("a", 9, &array_of(0, 1 << 60)).bytes(),
            "above the limit of 16777216",
        ),
        (
            "array past end",
            new().raw("a", 9, &array_of(10, 1 << 24)).bytes(),
            "length of `a` at byte 49 needs 134217728",
        ),
        (
            "strings past end",
            new().raw("a", 9, &array_of(8, 1 << 24)).bytes(),
            "needs 134217728",
        ),
        (
            "array of arrays",
            new().raw("a", 9, &array_of(9, 1)).bytes(),
            "arrays of arrays",
        ),
        (
            "alignment 0",
            new().u32("general.alignment", 0).bytes(),
            "expected a power of two",
        ),
        (
            "alignment 24",
            new().u32("general.alignment", 24).bytes(),
            "expected a power of two",
        ),
        (
            "dimensions",
            new().tensor("t", 0, &[1; 5]).bytes(),
            "is 5, above the limit of 4",
        ),
        (
            "shape overflows",
            new().raw_tensor("t", (0, 0), &[1 << 32, 1 << 32]).bytes(),
            "a product below 2^63",
        ),
        (
            "bytes overflow",
            new().raw_tensor("t", (28, 0), &[1 << 62]).bytes(),
            "a size below 2^64",
        ),
        (
            "half a block",
            new().raw_tensor("t", (12, 0), &[100]).bytes(),
            "rows of whole blocks",
        ),
        (
            "tensor type",
            new().raw_tensor("t", (99, 0), &[32]).bytes(),
            "tensor `t` at byte 45 has type 99",
        ),
        (
            "removed type",
            new().raw_tensor("t", (31, 0), &[32]).bytes(),
            "replaced by Q4_0",
        ),
        (
            "offset",
            new().raw_tensor("t", (0, 7), &[32]).bytes(),
            "a multiple of the file's alignment",
        ),
        (
            "offset overflows",
            new().raw_tensor("t", (0, u64::MAX - 31), &[32]).bytes(),
            "an end below 2^63",
        ),
        (
            "tensor name",
            new().tensor(&"n".repeat(64), 0, &[1]).bytes(),
            "is 64, above the limit of 63",
        ),
        (
            "tensor twice",
            new().tensor("t", 0, &[8]).tensor("t", 0, &[8]).bytes(),
            "`t` occurs twice",
        ),
    ];
    for (name, bytes, expected) in table {
        let message = Gguf::parse(&bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn a_source_shorter_than_promised_is_truncated_not_trusted() {
    let bytes = Writer::tiny_model().bytes();
    let error = Gguf::read(&bytes[..100], bytes.len() as u64, Arrays::Read).unwrap_err();
    assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
}
