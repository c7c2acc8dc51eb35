//! The ggml tensor types: how many weights share a block, and how many bytes it takes.
//!
//! The sizes follow the block structs of ggml (`ggml-common.h`); the ids are the
//! ones written into GGUF files and never change their meaning.

use std::fmt;

/// One ggml tensor type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType {
    id: u32,
    name: &'static str,
    block_weights: u32,
    block_bytes: u32,
}

const fn tensor_type(
    id: u32,
    name: &'static str,
    (block_weights, block_bytes): (u32, u32),
) -> TensorType {
    TensorType {
        id,
        name,
        block_weights,
        block_bytes,
    }
}

/// Every type a current GGUF file may hold, by id.
pub const TENSOR_TYPES: [TensorType; 35] = [
    tensor_type(0, "F32", (1, 4)),
    tensor_type(1, "F16", (1, 2)),
    tensor_type(2, "Q4_0", (32, 2 + 16)),
    tensor_type(3, "Q4_1", (32, 4 + 16)),
    tensor_type(6, "Q5_0", (32, 2 + 4 + 16)),
    tensor_type(7, "Q5_1", (32, 4 + 4 + 16)),
    tensor_type(8, "Q8_0", (32, 2 + 32)),
    tensor_type(9, "Q8_1", (32, 4 + 32)),
    tensor_type(10, "Q2_K", (256, 4 + 16 + 64)),
    tensor_type(11, "Q3_K", (256, 2 + 64 + 32 + 12)),
    tensor_type(12, "Q4_K", (256, 4 + 12 + 128)),
    tensor_type(13, "Q5_K", (256, 4 + 12 + 128 + 32)),
    tensor_type(14, "Q6_K", (256, 2 + 16 + 192)),
    tensor_type(15, "Q8_K", (256, 4 + 256 + 32)),
    tensor_type(16, "IQ2_XXS", (256, 2 + 64)),
    tensor_type(17, "IQ2_XS", (256, 2 + 64 + 8)),
    tensor_type(18, "IQ3_XXS", (256, 2 + 96)),
    tensor_type(19, "IQ1_S", (256, 2 + 32 + 16)),
    tensor_type(20, "IQ4_NL", (32, 2 + 16)),
    tensor_type(21, "IQ3_S", (256, 2 + 104 + 4)),
    tensor_type(22, "IQ2_S", (256, 2 + 64 + 16)),
    tensor_type(23, "IQ4_XS", (256, 2 + 2 + 4 + 128)),
    tensor_type(24, "I8", (1, 1)),
    tensor_type(25, "I16", (1, 2)),
    tensor_type(26, "I32", (1, 4)),
    tensor_type(27, "I64", (1, 8)),
    tensor_type(28, "F64", (1, 8)),
    tensor_type(29, "IQ1_M", (256, 32 + 16 + 8)),
    tensor_type(30, "BF16", (1, 2)),
    tensor_type(34, "TQ1_0", (256, 2 + 4 + 48)),
    tensor_type(35, "TQ2_0", (256, 2 + 64)),
    tensor_type(39, "MXFP4", (32, 1 + 16)),
    tensor_type(40, "NVFP4", (64, 4 + 32)),
    tensor_type(41, "Q1_0", (128, 2 + 16)),
    tensor_type(42, "Q2_0", (64, 2 + 16)),
];

impl TensorType {
    /// The type with this id, or why there is none.
    ///
    /// # Errors
    /// A reason that completes "type N, which ...".
    pub fn from_id(id: u32) -> Result<Self, &'static str> {
        if let Some(known) = TENSOR_TYPES.iter().find(|known| known.id == id) {
            return Ok(*known);
        }
        Err(match id {
            4 | 5 => "was removed from ggml in 2023",
            31..=33 => "was replaced by Q4_0 repacked while loading",
            36..=38 => "was replaced by IQ4_NL repacked while loading",
            _ => "this version does not know",
        })
    }

    /// The number written into files.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.id
    }

    /// The usual spelling, for example `Q4_K`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Weights that share one block.
    #[must_use]
    pub const fn block_weights(self) -> u64 {
        self.block_weights as u64
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> u64 {
        self.block_bytes as u64
    }

    /// Bytes of `weights` weights, or `None` when they do not fill whole blocks
    /// or the product overflows.
    #[must_use]
    pub const fn bytes_of(self, weights: u64) -> Option<u64> {
        if !weights.is_multiple_of(self.block_weights()) {
            return None;
        }
        (weights / self.block_weights()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The name of a `general.file_type` number, as people write it: `Q4_K_M`.
#[must_use]
pub const fn file_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{TENSOR_TYPES, TensorType};

    /// Bits per weight as ggml's own tables print them.
    #[test]
    fn block_sizes_give_the_known_bits_per_weight() {
        let known = [
            ("F32", 32.0),
            ("BF16", 16.0),
            ("Q8_0", 8.5),
            ("Q6_K", 6.5625),
            ("Q5_K", 5.5),
            ("Q4_K", 4.5),
            ("Q4_0", 4.5),
            ("Q4_1", 5.0),
            ("Q3_K", 3.4375),
            ("Q2_K", 2.625),
            ("IQ4_XS", 4.25),
            ("IQ3_S", 3.4375),
            ("IQ3_XXS", 3.0625),
            ("IQ2_S", 2.5625),
            ("IQ2_XS", 2.3125),
            ("IQ2_XXS", 2.0625),
            ("IQ1_M", 1.75),
            ("IQ1_S", 1.5625),
            ("TQ1_0", 1.6875),
            ("TQ2_0", 2.0625),
            ("MXFP4", 4.25),
            ("NVFP4", 4.5),
            ("Q1_0", 1.125),
            ("Q2_0", 2.25),
        ];
        for (name, bits) in known {
            let found = TENSOR_TYPES.iter().find(|t| t.name() == name).unwrap();
            let got = found.block_bytes() as f64 * 8.0 / found.block_weights() as f64;
            assert!((got - bits).abs() < 1e-9, "{name}: {got}, expected {bits}");
        }
    }

    #[test]
    fn ids_are_unique_and_removed_ones_say_so() {
        for known in TENSOR_TYPES {
            assert_eq!(TensorType::from_id(known.id()), Ok(known));
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38] {
            assert!(!TensorType::from_id(removed).unwrap_err().contains("know"));
        }
        assert!(
            TensorType::from_id(43)
                .unwrap_err()
                .contains("does not know")
        );
        assert_eq!(TensorType::from_id(12).unwrap().bytes_of(255), None);
        assert_eq!(TensorType::from_id(12).unwrap().bytes_of(512), Some(288));
    }
}
