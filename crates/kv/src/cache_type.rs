//! The types that the cache may have.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How numbers of the cache are stored. llama.cpp takes these and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

/// A name that is none of a [`CacheType`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the KV type `{given}` does not exist; it must be one of f32, f16, bf16, q8_0, q5_1, q5_0, \
     q4_1, q4_0 and iq4_nl"
)]
pub struct UnknownCacheType {
    pub given: String,
}

impl CacheType {
    /// All of them, from the most bytes to the fewest.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
        Self::Iq4Nl,
    ];

    /// The name by which settings take it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::Iq4Nl => "iq4_nl",
        }
    }

    /// Values that share a block.
    #[must_use]
    pub const fn block_values(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            _ => 32,
        }
    }

    /// Bytes of a block (`ggml-common.h`): for 4 bits 16 bytes of digits and a scale of
    /// two, with an offset two more, with fifth bits four more.
    #[must_use]
    pub const fn block_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q5_1 => 24,
            Self::Q5_0 => 22,
            Self::Q4_1 => 20,
            Self::Q4_0 | Self::Iq4Nl => 18,
        }
    }

    /// Whether values share a scale.
    #[must_use]
    pub const fn is_quantised(self) -> bool {
        self.block_values() > 1
    }

    /// Bytes of a row of that many values; a block that is begun counts whole.
    #[must_use]
    pub const fn row_bytes(self, values: u64) -> u64 {
        values
            .div_ceil(self.block_values())
            .saturating_mul(self.block_bytes())
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CacheType {
    type Err = UnknownCacheType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|known| known.name() == text);
        known.ok_or_else(|| UnknownCacheType {
            given: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_refused_with_the_list() {
        for known in CacheType::ALL {
            assert_eq!(known.name().parse(), Ok(known));
        }
        let error = "q6_k".parse::<CacheType>().unwrap_err().to_string();
        assert!(
            error.contains("q6_k") && error.contains("iq4_nl"),
            "{error}"
        );
    }

    /// SmolLM2-135M: 3 heads of 64 values, in 30 layers, keys and values.
    #[test]
    fn rows_of_a_known_model_have_the_known_bytes() {
        let token = |cache: CacheType| 30 * 2 * cache.row_bytes(3 * 64);
        assert_eq!(token(CacheType::F16), 23_040);
        assert_eq!(token(CacheType::Q8_0), 12_240);
        assert_eq!(token(CacheType::Q5_0), 7_920);
        assert_eq!(token(CacheType::Q4_0), 6_480);
    }
}
