//! The types of a KV cache, laid out as ggml has them.

use crate::float::{bf16_to_f32, f16_to_f32};

/// Values of a quantised block.
pub(super) const BLOCK: usize = 32;

/// The levels of [`CacheType::Iq4Nl`].
pub(super) const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// The type of a cache's rows. The quantised ones have blocks of 32 values with one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheType {
    F32,
    F16,
    Bf16,
    /// Scale, 32 signed bytes.
    Q8_0,
    /// Scale, 32 nibbles less 8.
    Q4_0,
    /// Scale and minimum, 32 nibbles.
    Q4_1,
    /// Scale, 32 fifth bits, 32 nibbles; less 16.
    Q5_0,
    /// Scale and minimum, 32 fifth bits, 32 nibbles.
    Q5_1,
    /// Scale, 32 nibbles that name one of 16 levels.
    Iq4Nl,
}

impl CacheType {
    /// Every type.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Iq4Nl,
    ];

    /// Values of a block and its bytes.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_0 | Self::Iq4Nl => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q5_0 => (BLOCK, 22),
            Self::Q5_1 => (BLOCK, 24),
        }
    }

    /// The bytes of a row of `head_size` values, where they are whole blocks.
    #[must_use]
    pub fn row_bytes(self, head_size: usize) -> Option<usize> {
        let (values, bytes) = self.block();
        head_size
            .is_multiple_of(values)
            .then_some(head_size / values * bytes)
    }

    /// Whether it has blocks of values with a scale.
    #[must_use]
    pub fn is_quantised(self) -> bool {
        self.block().0 > 1
    }

    /// Whether a block has a minimum besides its scale.
    pub(super) fn has_minimum(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1)
    }

    /// Whether a block has its values' fifth bits.
    pub(super) fn has_fifth_bits(self) -> bool {
        matches!(self, Self::Q5_0 | Self::Q5_1)
    }

    /// Where in a block its bytes or nibbles start. Nibble `j` of 16 low ones is value `j`;
    /// of the high ones, value `16 + j`.
    pub(super) fn quants_at(self) -> usize {
        2 + if self.has_minimum() { 2 } else { 0 } + if self.has_fifth_bits() { 4 } else { 0 }
    }

    /// What is subtracted from a nibble, with its fifth bit.
    pub(super) fn zero(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            _ => 0,
        }
    }
}

/// The rows of a cache for one KV head: that of a cell starts at `cell * stride_bytes`.
#[derive(Clone, Copy, Debug)]
pub struct CacheRows<'a> {
    pub kind: CacheType,
    /// May end with the last cell's row.
    pub data: &'a [u8],
    pub stride_bytes: usize,
    /// Values of a row.
    pub head_size: usize,
}

impl<'a> CacheRows<'a> {
    /// Panics unless the rows of `cells` cells are within the data.
    pub(super) fn check(&self, cells: usize) {
        let row = self.kind.row_bytes(self.head_size);
        assert!(row.is_some(), "whole blocks of a row");
        let last = self.stride_bytes.checked_mul(cells.saturating_sub(1));
        let end = last.and_then(|last| last.checked_add(row?));
        let fits = end.is_some_and(|end| end <= self.data.len());
        assert!(cells == 0 || fits, "a row for every cell");
    }

    /// The bytes of a cell's row.
    pub(super) fn row(&self, cell: usize) -> &'a [u8] {
        let bytes = self.kind.row_bytes(self.head_size).unwrap_or(0);
        &self.data[cell * self.stride_bytes..][..bytes]
    }
}

/// Decodes a row: what the types mean.
pub(super) fn decode(kind: CacheType, row: &[u8], out: &mut [f32]) {
    let (values, bytes) = kind.block();
    for (block, out) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(values)) {
        decode_block(kind, block, out);
    }
}

fn decode_block(kind: CacheType, block: &[u8], out: &mut [f32]) {
    let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    match kind {
        CacheType::F32 => {
            out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            return;
        }
        CacheType::F16 => {
            out[0] = f16_to_f32(word(0));
            return;
        }
        CacheType::Bf16 => {
            out[0] = bf16_to_f32(word(0));
            return;
        }
        _ => {}
    }
    let scale = f16_to_f32(word(0));
    let minimum = if kind.has_minimum() {
        f16_to_f32(word(2))
    } else {
        0.0
    };
    let quants = &block[kind.quants_at()..];
    for (j, out) in out.iter_mut().enumerate() {
        let nibble = quants[j % 16] >> (j / 16 * 4) & 15;
        let level = match kind {
            CacheType::Q8_0 => f32::from(quants[j] as i8),
            CacheType::Iq4Nl => LEVELS[usize::from(nibble)],
            _ => {
                let fifth = if kind.has_fifth_bits() {
                    let bits = &block[kind.quants_at() - 4..];
                    i32::from(bits[j / 8] >> (j % 8) & 1) << 4
                } else {
                    0
                };
                ((i32::from(nibble) | fifth) - kind.zero()) as f32
            }
        };
        *out = if kind.has_minimum() {
            level * scale + minimum
        } else {
            level * scale
        };
    }
}
