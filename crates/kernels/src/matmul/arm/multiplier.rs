//! What differs between the levels of NEON: how 8-bit integers are multiplied and summed.

use super::format::{Format, Words};
use super::{GROUP_COLUMNS, Group};
use std::arch::aarch64::*;
use std::arch::asm;

/// The integer products of four rows with a group of up to four columns, in up to four
/// registers. Methods are inlined into functions that have the level's features.
pub(super) trait Multiplier {
    /// What sums of integers start from.
    const START: i32;

    /// The floats that sums from [`Self::START`] on stand for.
    ///
    /// # Safety
    /// As for `arrange`.
    unsafe fn floats(sums: int32x4_t) -> float32x4_t;

    /// The values of four rows as [`Self::dots`] wants them.
    ///
    /// # Safety
    /// The level's features must be there.
    unsafe fn arrange(words: Words) -> Words;

    /// The integer products of `words`, the first of which meets the activations of `line`,
    /// with `N` columns.
    ///
    /// # Safety
    /// As for `arrange`, and the block must be readable.
    unsafe fn dots<F: Format, const N: usize>(
        words: &[int8x16_t],
        group: Group,
        line: usize,
    ) -> [int32x4_t; GROUP_COLUMNS];

    /// Registers that the products with `n` columns take.
    fn registers(n: usize) -> usize;

    /// A number of each row, where each register of products has that row.
    ///
    /// # Safety
    /// As for `arrange`.
    unsafe fn rows(rows: float32x4_t) -> [float32x4_t; GROUP_COLUMNS];

    /// A number of each column, where each register of products has that column.
    ///
    /// # Safety
    /// As for `arrange`.
    unsafe fn columns(columns: float32x4_t) -> [float32x4_t; GROUP_COLUMNS];

    /// From the order of the products to a register a column, a row a lane.
    ///
    /// # Safety
    /// As for `arrange`.
    unsafe fn by_column(sums: &[float32x4_t; GROUP_COLUMNS]) -> [float32x4_t; GROUP_COLUMNS];

    /// Adds the products of four words, as [`Format::words`] gives them, with one column's
    /// sixteen activations to sums: row `r` in lane `r`.
    ///
    /// # Safety
    /// As for `arrange`.
    unsafe fn quad<F: Format>(
        sums: int32x4_t,
        words: [int8x16_t; 4],
        activations: int8x16_t,
    ) -> int32x4_t;
}

/// The four lanes, each in a register of its own.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn lanes(v: float32x4_t) -> [float32x4_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            vdupq_laneq_f32::<0>(v),
            vdupq_laneq_f32::<1>(v),
            vdupq_laneq_f32::<2>(v),
            vdupq_laneq_f32::<3>(v),
        ]
    }
}

/// Armv8.0: products of 16 bits, summed in 16 bits while they fit.
///
/// `smull` and `smlal` multiply eight pairs of bytes to a register of 16-bit sums, in which a
/// few words can be summed before they must be widened. With activations of at most 127 a
/// word adds to each sum at most
///
/// | values | one word | words | their sum |
/// |---|---|---|---|
/// | 4 bits, 0 to 15 | 15 * 127 = 1,905 | 8 | 15,240 |
/// | 5 bits, 0 to 31 | 31 * 127 = 3,937 | 8 | 31,496 |
/// | 6 bits, -32 to 31 | 32 * 127 = 4,064 | 8 | 32,512 |
/// | signed 8 bits | 128 * 127 = 16,256 | 2 | 32,512 |
///
/// all below 2^15, so nothing wraps.
pub(super) struct Plain;

/// Sums of 16 bits: of two rows, four each.
#[derive(Clone, Copy)]
struct Short {
    low: int16x8_t,
    high: int16x8_t,
}

impl Short {
    /// # Safety
    /// NEON must be there.
    #[inline(always)]
    unsafe fn product(word: int8x16_t, activations: int8x16_t) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                low: vmull_s8(vget_low_s8(word), vget_low_s8(activations)),
                high: vmull_high_s8(word, activations),
            }
        }
    }

    /// # Safety
    /// NEON must be there.
    #[inline(always)]
    unsafe fn add(self, word: int8x16_t, activations: int8x16_t) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                low: vmlal_s8(self.low, vget_low_s8(word), vget_low_s8(activations)),
                high: vmlal_high_s8(self.high, word, activations),
            }
        }
    }
}

/// Sums of 32 bits: of two rows, two each.
#[derive(Clone, Copy)]
struct Long {
    low: int32x4_t,
    high: int32x4_t,
}

impl Long {
    /// # Safety
    /// NEON must be there.
    #[inline(always)]
    unsafe fn of(short: Short) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                low: vpaddlq_s16(short.low),
                high: vpaddlq_s16(short.high),
            }
        }
    }

    /// # Safety
    /// NEON must be there.
    #[inline(always)]
    unsafe fn add(self, short: Short) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                low: vpadalq_s16(self.low, short.low),
                high: vpadalq_s16(self.high, short.high),
            }
        }
    }

    /// # Safety
    /// NEON must be there.
    #[inline(always)]
    unsafe fn rows(self) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vpaddq_s32(self.low, self.high) }
    }
}

/// One word of activations for all rows.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn for_all_rows<const LANE: i32>(line: int32x4_t) -> int8x16_t {
    let rows: int8x16_t;
    // SAFETY: the caller's promise; nothing but registers is touched. Where the compiler
    // sees that both halves are equal it multiplies with one of them, and brings the upper
    // half of each word down for that rather than use `smlal2`: 174 instructions became 132.
    unsafe {
        asm!(
            "dup {rows:v}.4s, {line:v}.s[{lane}]",
            rows = lateout(vreg) rows,
            line = in(vreg) line,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    rows
}

impl Multiplier for Plain {
    const START: i32 = 0;

    #[inline(always)]
    unsafe fn floats(sums: int32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vcvtq_f32_s32(sums) }
    }

    #[inline(always)]
    unsafe fn arrange(words: Words) -> Words {
        words
    }

    #[inline(always)]
    unsafe fn dots<F: Format, const N: usize>(
        words: &[int8x16_t],
        group: Group,
        line: usize,
    ) -> [int32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe {
            let zero = vdupq_n_s32(0);
            let mut longs = [None::<Long>; GROUP_COLUMNS];
            let parts = words.chunks(F::PRODUCTS_16_BITS.min(words.len()));
            for (part, words) in parts.enumerate() {
                let mut shorts = [None::<Short>; GROUP_COLUMNS];
                for (index, word) in words.iter().enumerate() {
                    let line = line + part * F::PRODUCTS_16_BITS + index;
                    let line = group.line::<N>(line);
                    let columns = [
                        for_all_rows::<0>(line),
                        for_all_rows::<1>(line),
                        for_all_rows::<2>(line),
                        for_all_rows::<3>(line),
                    ];
                    for (short, column) in shorts.iter_mut().zip(columns).take(N) {
                        *short = Some(match *short {
                            None => Short::product(*word, column),
                            Some(short) => short.add(*word, column),
                        });
                    }
                }
                for (long, short) in longs.iter_mut().zip(shorts.into_iter().flatten()) {
                    *long = Some(long.map_or_else(|| Long::of(short), |long| long.add(short)));
                }
            }
            longs.map(|long| long.map_or(zero, |long| long.rows()))
        }
    }

    #[inline(always)]
    fn registers(n: usize) -> usize {
        n
    }

    #[inline(always)]
    unsafe fn rows(rows: float32x4_t) -> [float32x4_t; GROUP_COLUMNS] {
        [rows; GROUP_COLUMNS]
    }

    #[inline(always)]
    unsafe fn columns(columns: float32x4_t) -> [float32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe { lanes(columns) }
    }

    #[inline(always)]
    unsafe fn by_column(sums: &[float32x4_t; GROUP_COLUMNS]) -> [float32x4_t; GROUP_COLUMNS] {
        *sums
    }

    #[inline(always)]
    unsafe fn quad<F: Format>(
        sums: int32x4_t,
        words: [int8x16_t; 4],
        activations: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let line = vreinterpretq_s32_s8(activations);
            let [a, b, c, d] = words;
            let first = Short::product(a, for_all_rows::<0>(line));
            let first = first.add(b, for_all_rows::<1>(line));
            let long = if F::PRODUCTS_16_BITS < 4 {
                let last = Short::product(c, for_all_rows::<2>(line));
                let last = last.add(d, for_all_rows::<3>(line));
                Long::of(first).add(last)
            } else {
                let all = first.add(c, for_all_rows::<2>(line));
                Long::of(all.add(d, for_all_rows::<3>(line)))
            };
            vaddq_s32(sums, long.rows())
        }
    }
}

/// Armv8.2: `sdot` adds the products of four values of each of four rows with one column's
/// four activations, which are any lane of a register: a line of the tile is four columns.
pub(super) struct Dotprod;

/// Adds to each row's sum the products of its word with the word in `LANE` of the
/// activations.
///
/// # Safety
/// NEON with the dot product must be there.
#[inline(always)]
unsafe fn sdot<const LANE: i32>(
    mut sums: int32x4_t,
    word: int8x16_t,
    activations: int32x4_t,
) -> int32x4_t {
    // SAFETY: the caller's promise; nothing but registers is touched. Stable Rust has no
    // intrinsic for it yet.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {word:v}.16b, {activations:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            word = in(vreg) word,
            activations = in(vreg) activations,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// 1.5 * 2^23, whose bits plus an integer `s` are those of 1.5 * 2^23 + s, for |s| < 2^22:
/// the floats there are the integers. Sums are at most 32 * 128 * 127 < 2^20. To start from
/// it and take it away is one instruction on any pipe; `scvtf` blocks one of the two pipes
/// of a Cortex-A76 or A720 for two cycles.
const INTEGERS: f32 = 12_582_912.0;

impl Multiplier for Dotprod {
    const START: i32 = INTEGERS.to_bits().cast_signed();

    #[inline(always)]
    unsafe fn floats(sums: int32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vsubq_f32(vreinterpretq_f32_s32(sums), vdupq_n_f32(INTEGERS)) }
    }

    #[inline(always)]
    unsafe fn arrange(words: Words) -> Words {
        words
    }

    #[inline(always)]
    unsafe fn dots<F: Format, const N: usize>(
        words: &[int8x16_t],
        group: Group,
        line: usize,
    ) -> [int32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut dots = [vdupq_n_s32(Self::START); GROUP_COLUMNS];
            for (index, word) in words.iter().enumerate() {
                let line = group.line::<N>(line + index);
                dots[0] = sdot::<0>(dots[0], *word, line);
                if N > 1 {
                    dots[1] = sdot::<1>(dots[1], *word, line);
                }
                if N > 2 {
                    dots[2] = sdot::<2>(dots[2], *word, line);
                }
                if N > 3 {
                    dots[3] = sdot::<3>(dots[3], *word, line);
                }
            }
            dots
        }
    }

    #[inline(always)]
    fn registers(n: usize) -> usize {
        Plain::registers(n)
    }

    #[inline(always)]
    unsafe fn rows(rows: float32x4_t) -> [float32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe { Plain::rows(rows) }
    }

    #[inline(always)]
    unsafe fn columns(columns: float32x4_t) -> [float32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe { Plain::columns(columns) }
    }

    #[inline(always)]
    unsafe fn by_column(sums: &[float32x4_t; GROUP_COLUMNS]) -> [float32x4_t; GROUP_COLUMNS] {
        *sums
    }

    #[inline(always)]
    unsafe fn quad<F: Format>(
        sums: int32x4_t,
        words: [int8x16_t; 4],
        activations: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let line = vreinterpretq_s32_s8(activations);
            let [a, b, c, d] = words;
            let sums = sdot::<0>(sums, a, line);
            let sums = sdot::<1>(sums, b, line);
            let sums = sdot::<2>(sums, c, line);
            sdot::<3>(sums, d, line)
        }
    }
}

/// Armv8.6: `smmla` multiplies eight values of each of two rows with eight activations of
/// each of two columns, twice the products of `sdot`. Tiles have the activations by eights;
/// the words of two rows are brought together by [`Multiplier::arrange`], once for all
/// columns. A register of products is row 0 with columns 0 and 1, then row 1 with them.
pub(super) struct I8mm;

/// Adds the products of two rows, eight values each, with two columns.
///
/// # Safety
/// NEON with the 8-bit matrix product must be there.
#[inline(always)]
unsafe fn smmla(mut sums: int32x4_t, rows: int8x16_t, columns: int32x4_t) -> int32x4_t {
    // SAFETY: the caller's promise; nothing but registers is touched. Stable Rust has no
    // intrinsic for it yet.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {rows:v}.16b, {columns:v}.16b",
            sums = inout(vreg) sums,
            rows = in(vreg) rows,
            columns = in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

impl Multiplier for I8mm {
    const START: i32 = Dotprod::START;

    #[inline(always)]
    unsafe fn floats(sums: int32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { Dotprod::floats(sums) }
    }

    #[inline(always)]
    unsafe fn arrange(words: Words) -> Words {
        let mut pairs = words;
        let couples = words.as_chunks::<2>().0.iter();
        for (pair, [first, second]) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(couples) {
            // SAFETY: the caller's promise.
            unsafe {
                let (first, second) = (vreinterpretq_s32_s8(*first), vreinterpretq_s32_s8(*second));
                *pair = [
                    vreinterpretq_s8_s32(vzip1q_s32(first, second)),
                    vreinterpretq_s8_s32(vzip2q_s32(first, second)),
                ];
            }
        }
        pairs
    }

    #[inline(always)]
    unsafe fn dots<F: Format, const N: usize>(
        words: &[int8x16_t],
        group: Group,
        line: usize,
    ) -> [int32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut dots = [vdupq_n_s32(Self::START); GROUP_COLUMNS];
            for (index, [upper, lower]) in words.as_chunks::<2>().0.iter().enumerate() {
                // Two lines of words are one of eights: two words a column.
                let eights = line / 2 + index;
                let place = 2 * (eights * group.block.columns + group.first);
                let columns = match N {
                    1 => group.words::<2>(place),
                    _ => group.words::<4>(place),
                };
                dots[0] = smmla(dots[0], *upper, columns);
                dots[1] = smmla(dots[1], *lower, columns);
                if N > 2 {
                    let columns = match N {
                        3 => group.words::<2>(place + 4),
                        _ => group.words::<4>(place + 4),
                    };
                    dots[2] = smmla(dots[2], *upper, columns);
                    dots[3] = smmla(dots[3], *lower, columns);
                }
            }
            dots
        }
    }

    #[inline(always)]
    fn registers(n: usize) -> usize {
        n.next_multiple_of(2)
    }

    #[inline(always)]
    unsafe fn rows(rows: float32x4_t) -> [float32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (upper, lower) = (vzip1q_f32(rows, rows), vzip2q_f32(rows, rows));
            [upper, lower, upper, lower]
        }
    }

    #[inline(always)]
    unsafe fn columns(columns: float32x4_t) -> [float32x4_t; GROUP_COLUMNS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = (vget_low_f32(columns), vget_high_f32(columns));
            let (left, right) = (vcombine_f32(low, low), vcombine_f32(high, high));
            [left, left, right, right]
        }
    }

    #[inline(always)]
    unsafe fn by_column(sums: &[float32x4_t; GROUP_COLUMNS]) -> [float32x4_t; GROUP_COLUMNS] {
        let [a, b, c, d] = *sums;
        // SAFETY: the caller's promise.
        unsafe {
            [
                vuzp1q_f32(a, b),
                vuzp2q_f32(a, b),
                vuzp1q_f32(c, d),
                vuzp2q_f32(c, d),
            ]
        }
    }

    #[inline(always)]
    unsafe fn quad<F: Format>(
        sums: int32x4_t,
        words: [int8x16_t; 4],
        activations: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: the caller's promise; this level has the dot product too.
        unsafe { Dotprod::quad::<F>(sums, words, activations) }
    }
}
