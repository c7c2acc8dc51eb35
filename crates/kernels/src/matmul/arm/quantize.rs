//! Activations to tiles, for every level of NEON.

use super::super::BLOCK;
use super::super::activations::{COLUMN_BYTES, Interleave};
use std::arch::aarch64::*;

/// Where one column's words of a block go.
struct Place {
    /// The column's word in the first line.
    word: *mut u32,
    interleave: Interleave,
    /// Columns of the tile.
    width: usize,
}

/// Rounds columns into a tile, whose length the caller has checked.
pub(in super::super) fn quantize_tile(interleave: Interleave, columns: &[&[f32]], tile: &mut [u8]) {
    let width = columns.len();
    for (index, column) in columns.iter().enumerate() {
        let blocks = tile.chunks_exact_mut(width * COLUMN_BYTES);
        for (values, bytes) in column.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let word = bytes.as_mut_ptr().cast::<u32>();
            // SAFETY: a block has twelve words for each column; an `Isa` of these levels
            // exists only where NEON was found.
            unsafe {
                let place = Place {
                    // The first line of eights has two words a column.
                    word: match interleave {
                        Interleave::Fours => word.add(index),
                        Interleave::Eights => word.add(2 * index),
                    },
                    interleave,
                    width,
                };
                let floats = word.add(8 * width + index);
                quantize_block(values, &place, floats);
            }
        }
    }
}

/// Rounds 32 values to one column's places in a block of a tile, `floats` being the one of
/// its scale.
///
/// # Safety
/// NEON must be there; the places, within twelve words a column, must be writable.
#[target_feature(enable = "neon")]
unsafe fn quantize_block(values: &[f32; BLOCK], place: &Place, floats: *mut u32) {
    // SAFETY: 32 floats are readable.
    let vectors: [float32x4_t; 8] =
        std::array::from_fn(|index| unsafe { vld1q_f32(values.as_ptr().add(4 * index)) });
    let [a, b, c, d, e, f, g, h] = vectors.map(|v| vabsq_f32(v));
    // The larger number, also beside what is not one.
    let first = vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d));
    let last = vmaxnmq_f32(vmaxnmq_f32(e, f), vmaxnmq_f32(g, h));
    // Where nothing is a number the scalar reference has 0.
    let largest = vmaxnmvq_f32(vmaxnmq_f32(first, last)).max(0.0);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let round = |v: float32x4_t| vcvtnq_s32_f32(vmulq_n_f32(v, inverse));
    let [a, b, c, d, e, f, g, h] = vectors.map(round);
    let narrow = |a, b| vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
    let narrower = |a, b| vcombine_s8(vqmovn_s16(a), vqmovn_s16(b));
    let first = narrower(narrow(a, b), narrow(c, d));
    let last = narrower(narrow(e, f), narrow(g, h));
    let last_sum = i32::from(vaddlvq_s8(last));
    let sum = i32::from(vaddlvq_s8(first)) + last_sum;
    // A difference of a value and itself is 0 but for what is not finite.
    let zeros = vectors.map(|v| vreinterpretq_u32_f32(vsubq_f32(v, v)));
    let differences = zeros
        .into_iter()
        .fold(vdupq_n_u32(0), |all, v| vorrq_u32(all, v));
    let scale = if vmaxvq_u32(differences) == 0 {
        largest / 127.0
    } else {
        f32::NAN
    };
    let lines = [
        scale.to_bits(),
        (-sum).cast_unsigned(),
        (-last_sum).cast_unsigned(),
        (scale * sum as f32).to_bits(),
    ];
    // SAFETY: the caller's promise.
    unsafe {
        place.store(0, vreinterpretq_u64_s8(first));
        place.store(2, vreinterpretq_u64_s8(last));
        for (line, word) in lines.into_iter().enumerate() {
            floats.add(line * place.width).write_unaligned(word);
        }
    }
}

impl Place {
    /// Writes sixteen values, the `eight`th eight of the block and the next.
    ///
    /// # Safety
    /// NEON must be there, and the places be writable.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(&self, eight: usize, values: uint64x2_t) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.interleave {
                Interleave::Eights => {
                    let at = |eight: usize| self.word.add(2 * eight * self.width).cast::<u64>();
                    at(eight).write_unaligned(vgetq_lane_u64::<0>(values));
                    at(eight + 1).write_unaligned(vgetq_lane_u64::<1>(values));
                }
                Interleave::Fours => {
                    let values = vreinterpretq_u32_u64(values);
                    let at = |four: usize| self.word.add((2 * eight + four) * self.width);
                    at(0).write_unaligned(vgetq_lane_u32::<0>(values));
                    at(1).write_unaligned(vgetq_lane_u32::<1>(values));
                    at(2).write_unaligned(vgetq_lane_u32::<2>(values));
                    at(3).write_unaligned(vgetq_lane_u32::<3>(values));
                }
            }
        }
    }
}
