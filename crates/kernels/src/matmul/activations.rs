//! Activations, rounded to 8 bits and interleaved for [`super::multiply`].
//!
//! A tile of `columns` columns holds, for each block of 32 elements in turn:
//!
//! | what | type | index |
//! |---|---|---|
//! | quantised values, by fours | `i8 x 4` | `[group of 4][column]` |
//! | or, see [`Interleave`], by eights | `i8 x 8` | `[group of 8][column]` |
//! | scale | `f32` | `[column]` |
//! | minus the sum of all 32 values | `i32` | `[column]` |
//! | minus the sum of the last 16 | `i32` | `[column]` |
//! | scale times the sum of all 32 | `f32` | `[column]` |

use super::{BLOCK, TILE_COLUMNS};
use crate::Isa;
use crate::isa::Level;

/// Bytes of one column in one block.
pub(super) const COLUMN_BYTES: usize = BLOCK + 16;

/// Bytes of a tile of `columns` columns of `k` elements.
#[must_use]
pub const fn tile_bytes(columns: usize, k: usize) -> usize {
    k / BLOCK * columns * COLUMN_BYTES
}

/// How many neighbouring values of a column lie side by side in a tile: as many as one
/// instruction multiplies with those of one row. A tile of one column is the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interleave {
    Fours,
    Eights,
}

impl Interleave {
    /// What [`super::multiply`] expects with these instructions.
    pub(super) fn of(isa: Isa) -> Self {
        match isa.level() {
            Level::NeonI8mm => Self::Eights,
            _ => Self::Fours,
        }
    }

    /// The place of the `group`th four values of a column, in words of four.
    fn word(self, group: usize, width: usize, column: usize) -> usize {
        match self {
            Self::Fours => group * width + column,
            Self::Eights => (group / 2 * width + column) * 2 + group % 2,
        }
    }
}

/// One block of one column, as [`super::multiply`] uses it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) quants: [i8; BLOCK],
    pub(super) scale: f32,
    /// Minus the sums of all values and of the last 16.
    pub(super) negative_sums: [i32; 2],
    pub(super) scaled_sum: f32,
}

impl Block {
    /// Rounds to the nearest of 255 steps, ties to even. A value that is not finite makes
    /// the scale NaN, so that it is seen in the products.
    fn quantize(values: &[f32; BLOCK]) -> Self {
        let largest = values
            .iter()
            .fold(0f32, |largest, value| largest.max(value.abs()));
        let finite = values.iter().all(|value| value.is_finite());
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // The inverse of a subnormal overflows; such a block is as good as zero.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let quants = values.map(|value| (value * inverse).round_ties_even() as i8);
        let sum = |quants: &[i8]| quants.iter().map(|&quant| i32::from(quant)).sum::<i32>();
        let sums = [sum(&quants), sum(&quants[16..])];
        let scale = if finite { largest / 127.0 } else { f32::NAN };
        Self {
            quants,
            scale,
            negative_sums: [-sums[0], -sums[1]],
            scaled_sum: scale * sums[0] as f32,
        }
    }
}

/// Rounds `columns.len()` columns of equal length into a tile, which is for multiplying with
/// the same instruction set: the layout may differ between them.
///
/// # Panics
/// When there are more columns than [`TILE_COLUMNS`], or a length is wrong: a mistake of
/// the caller.
pub fn quantize_tile(isa: Isa, columns: &[&[f32]], tile: &mut [u8]) {
    assert!((1..=TILE_COLUMNS).contains(&columns.len()));
    let k = columns[0].len();
    assert!(columns.iter().all(|column| column.len() == k) && k.is_multiple_of(BLOCK));
    assert_eq!(tile.len(), tile_bytes(columns.len(), k));
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => super::x86::avx512::quantize_tile(columns, tile),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => super::x86::avx2::quantize_tile(columns, tile),
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDotprod | Level::NeonI8mm => {
            super::arm::quantize_tile(Interleave::of(isa), columns, tile);
        }
        _ => quantize_scalar(Interleave::of(isa), columns, tile),
    }
}

fn quantize_scalar(interleave: Interleave, columns: &[&[f32]], tile: &mut [u8]) {
    let width = columns.len();
    for (index, column) in columns.iter().enumerate() {
        for (block, values) in column.as_chunks::<BLOCK>().0.iter().enumerate() {
            let start = block * width * COLUMN_BYTES;
            let bytes = &mut tile[start..start + width * COLUMN_BYTES];
            write(bytes, interleave, width, index, &Block::quantize(values));
        }
    }
}

fn write(bytes: &mut [u8], interleave: Interleave, width: usize, column: usize, block: &Block) {
    let mut put_word = |index: usize, word: [u8; 4]| {
        bytes[4 * index..4 * index + 4].copy_from_slice(&word);
    };
    for (group, quants) in block.quants.as_chunks::<4>().0.iter().enumerate() {
        let index = interleave.word(group, width, column);
        put_word(index, quants.map(i8::cast_unsigned));
    }
    let mut put = |line: usize, word: [u8; 4]| put_word(line * width + column, word);
    put(8, block.scale.to_ne_bytes());
    put(9, block.negative_sums[0].to_ne_bytes());
    put(10, block.negative_sums[1].to_ne_bytes());
    put(11, block.scaled_sum.to_ne_bytes());
}

/// Reads one block of one column back.
pub(super) fn block(
    tile: &[u8],
    interleave: Interleave,
    width: usize,
    block: usize,
    column: usize,
) -> Block {
    let bytes = &tile[block * width * COLUMN_BYTES..];
    let word = |index: usize| -> [u8; 4] {
        let at = index * 4;
        [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
    };
    let get = |line: usize| word(line * width + column);
    let mut quants = [0i8; BLOCK];
    for (group, four) in quants.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *four = word(interleave.word(group, width, column)).map(u8::cast_signed);
    }
    Block {
        quants,
        scale: f32::from_ne_bytes(get(8)),
        negative_sums: [i32::from_ne_bytes(get(9)), i32::from_ne_bytes(get(10))],
        scaled_sum: f32::from_ne_bytes(get(11)),
    }
}
