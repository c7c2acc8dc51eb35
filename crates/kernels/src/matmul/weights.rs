//! The weight types: sizes, and what their parts mean.

use super::{BLOCK, PANEL_ROWS};

/// A quantised weight type of GGUF, by ggml's name.
#[expect(non_camel_case_types, reason = "the field's names for these formats")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    IQ4_NL,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// How many bits a packed code has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bits {
    Four,
    Five,
    Six,
    Eight,
}

impl Bits {
    /// Bytes of the codes of 32 elements of 16 rows.
    pub(super) const fn panel_block_bytes(self) -> usize {
        match self {
            Self::Four => 256,
            Self::Five => 256 + 64,
            Self::Six => 256 + 128,
            Self::Eight => 512,
        }
    }
}

/// IQ4_NL's sixteen values, plus 128.
pub(super) const IQ4_NL_CODES: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];

impl WeightType {
    pub const ALL: [Self; 9] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::IQ4_NL,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The type with that name, as ggml and GGUF spell it: `Q4_K`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let mut types = Self::ALL.into_iter();
        types.find(|weight_type| format!("{weight_type:?}") == name)
    }

    /// Elements of a block of the source: rows are whole multiples of it.
    #[must_use]
    pub const fn block_len(self) -> usize {
        if self.is_k() { 256 } else { BLOCK }
    }

    /// Bytes of a block of the source.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `k` elements in the source.
    #[must_use]
    pub const fn row_bytes(self, k: usize) -> usize {
        k / self.block_len() * self.block_bytes()
    }

    /// Bytes of a packed panel of rows of `k` elements.
    #[must_use]
    pub const fn panel_bytes(self, k: usize) -> usize {
        k / self.block_len() * self.superblock_bytes()
    }

    /// Bytes of what a panel holds for one block of the source.
    pub(super) const fn superblock_bytes(self) -> usize {
        self.header_bytes() + self.block_len() / BLOCK * self.unit_bytes()
    }

    /// Scales that all units of a superblock share: f16, one a row, of `d` and `dmin`.
    pub(super) const fn header_bytes(self) -> usize {
        match self {
            Self::Q4_K | Self::Q5_K => 4 * PANEL_ROWS,
            Self::Q6_K => 2 * PANEL_ROWS,
            _ => 0,
        }
    }

    /// Scales in front of the codes of 32 elements.
    pub(super) const fn unit_scale_bytes(self) -> usize {
        match self {
            Self::Q4_1 | Self::Q5_1 => 4 * PANEL_ROWS,
            _ => 2 * PANEL_ROWS,
        }
    }

    /// Bytes of 32 elements of 16 rows, with their own scales.
    pub(super) const fn unit_bytes(self) -> usize {
        self.unit_scale_bytes() + self.bits().panel_block_bytes()
    }

    pub(super) const fn bits(self) -> Bits {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::IQ4_NL | Self::Q4_K => Bits::Four,
            Self::Q5_0 | Self::Q5_1 | Self::Q5_K => Bits::Five,
            Self::Q6_K => Bits::Six,
            Self::Q8_0 => Bits::Eight,
        }
    }

    /// What is taken from a code to have the quantised value.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6_K => 32,
            Self::Q8_0 | Self::IQ4_NL => 128,
            Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K => 0,
        }
    }

    pub(super) const fn has_minimum(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K)
    }

    /// Whether each 16 elements have a scale of their own, rather than each 32.
    pub(super) const fn has_half_scales(self) -> bool {
        matches!(self, Self::Q6_K)
    }

    const fn is_k(self) -> bool {
        matches!(self, Self::Q4_K | Self::Q5_K | Self::Q6_K)
    }
}
