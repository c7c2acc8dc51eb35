//! What a model's KV cache takes, by the shape of its attention.

use crate::gguf::{Gguf, Value};

/// Numbers that the cache holds of one token, over all layers.
///
/// An upper bound: layers that keep only a window of tokens, or a state of fixed size, are
/// counted as if they kept all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvValues {
    pub keys: u64,
    pub values: u64,
}

impl KvValues {
    /// Nothing where the metadata does not tell the shape.
    pub(crate) fn of(gguf: &Gguf) -> Self {
        let number = |key: &str| gguf.arch_get(key).and_then(Value::as_u64);
        let (Some(layers), Some(heads)) = (number("block_count"), heads(gguf)) else {
            return Self::default();
        };
        let width = || Some(number("embedding_length")? / heads.max(1));
        let length = |key: &str| number(key).or_else(width).unwrap_or(0);
        let n_heads = kv_heads(gguf, layers).unwrap_or_else(|| layers.saturating_mul(heads));
        Self {
            keys: n_heads.saturating_mul(length("attention.key_length")),
            values: n_heads.saturating_mul(length("attention.value_length")),
        }
    }
}

/// Heads of a layer; the most where layers differ.
fn heads(gguf: &Gguf) -> Option<u64> {
    let heads = gguf.arch_get("attention.head_count")?;
    let of_layers = heads
        .as_array()
        .and_then(|array| array.iter().filter_map(|one| one.as_u64()).max());
    heads.as_u64().or(of_layers)
}

/// Heads of keys and values, over all layers.
fn kv_heads(gguf: &Gguf, layers: u64) -> Option<u64> {
    let heads = gguf.arch_get("attention.head_count_kv")?;
    match heads.as_array() {
        Some(array) => {
            let of_layers = array.iter().filter_map(|one| one.as_u64());
            Some(of_layers.fold(0, u64::saturating_add))
        }
        None => Some(heads.as_u64()?.saturating_mul(layers)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::write::Writer;

    fn of(writer: Writer) -> KvValues {
        KvValues::of(&Gguf::parse(&writer.bytes()).unwrap())
    }

    fn llama() -> Writer {
        Writer::new()
            .str("general.architecture", "llama")
            .u32("llama.block_count", 32)
            .u32("llama.embedding_length", 4096)
            .u32("llama.attention.head_count", 32)
    }

    #[test]
    fn shapes_are_read_from_the_metadata() {
        let all = |values| KvValues {
            keys: values,
            values,
        };
        // Llama 3 8B: 8 heads of 128 in each of 32 layers.
        let grouped = llama().u32("llama.attention.head_count_kv", 8);
        assert_eq!(of(grouped), all(32 * 8 * 128));
        // Without groups every head has its own.
        assert_eq!(of(llama()), all(32 * 32 * 128));
        let own_lengths = llama()
            .u32("llama.attention.head_count_kv", 2)
            .u32("llama.attention.key_length", 256)
            .u32("llama.attention.value_length", 64);
        let expected = KvValues {
            keys: 32 * 2 * 256,
            values: 32 * 2 * 64,
        };
        assert_eq!(of(own_lengths), expected);
        let unknown = Writer::new().str("general.architecture", "odd");
        assert_eq!(of(unknown), KvValues::default());
    }

    #[test]
    fn no_shape_overflows() {
        let huge = Writer::new()
            .str("general.architecture", "llama")
            .u32("llama.block_count", u32::MAX)
            .u32("llama.embedding_length", u32::MAX)
            .u32("llama.attention.head_count", 1)
            .u32("llama.attention.head_count_kv", u32::MAX);
        assert_eq!(of(huge).keys, u64::MAX);
    }
}
