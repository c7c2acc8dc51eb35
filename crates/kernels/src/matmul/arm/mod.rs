//! NEON: four rows are the lanes of one register, a panel is four such quarters.
//!
//! A quarter's 32 values a row are taken apart once, to eight words ([`format`]), and then
//! multiplied by the columns of the tile in groups of four. The sums of floats wait in the
//! first cache, so weights are read once from end to end and the activations of 32 elements
//! stay in that cache for all four quarters. A single column, which is decoding, keeps its
//! sums in registers ([`Column`]).
//!
//! The levels share all of this; a [`Multiplier`] is what differs: [`Plain`], [`Dotprod`]
//! and [`I8mm`].

mod format;
mod multiplier;
mod quantize;

use super::activations::COLUMN_BYTES;
use super::{BLOCK, Operands, PANEL_ROWS, Products, TILE_COLUMNS, WeightType};
use format::{Format, QUARTER_ROWS, Unit, WORDS, Words};
use multiplier::{Dotprod, I8mm, Multiplier, Plain};
use std::arch::aarch64::*;

pub(super) use quantize::quantize_tile;

/// Columns that are multiplied at once.
const GROUP_COLUMNS: usize = 4;

/// Quarters of a panel.
const QUARTERS: usize = PANEL_ROWS / QUARTER_ROWS;

/// The sums of a group of columns for one quarter, as the [`Multiplier`] has them.
type Sums = [float32x4_t; GROUP_COLUMNS];

macro_rules! level {
    ($name:ident, $by_type:ident, $multiplier:ident, $features:literal) => {
        pub(super) fn $name(operands: &Operands<'_>, products: Products<'_>) {
            #[target_feature(enable = $features)]
            unsafe fn $by_type<F: Format>(operands: &Operands<'_>, products: Products<'_>) {
                // SAFETY: the caller's promise.
                unsafe {
                    if operands.columns == 1 {
                        column::<$multiplier, F>(operands, products);
                    } else {
                        tile::<$multiplier, F>(operands, products);
                    }
                }
            }
            // SAFETY: the caller has checked all lengths, and an `Isa` of this level exists
            // only where the features were found.
            unsafe {
                match operands.weight_type {
                    WeightType::Q4_0 => $by_type::<format::Q4_0>(operands, products),
                    WeightType::Q4_1 => $by_type::<format::Q4_1>(operands, products),
                    WeightType::Q5_0 => $by_type::<format::Q5_0>(operands, products),
                    WeightType::Q5_1 => $by_type::<format::Q5_1>(operands, products),
                    WeightType::Q8_0 => $by_type::<format::Q8_0>(operands, products),
                    WeightType::IQ4_NL => $by_type::<format::Iq4Nl>(operands, products),
                    WeightType::Q4_K => $by_type::<format::Q4K>(operands, products),
                    WeightType::Q5_K => $by_type::<format::Q5K>(operands, products),
                    WeightType::Q6_K => $by_type::<format::Q6K>(operands, products),
                }
            }
        }
    };
}

level!(plain, multiply_plain, Plain, "neon");
level!(dotprod, multiply_dotprod, Dotprod, "neon,dotprod");
level!(i8mm, multiply_i8mm, I8mm, "neon,dotprod,i8mm");

/// What is done with each 32 elements of a panel and of a tile, one after the other.
trait Work {
    /// # Safety
    /// The level's features must be there; the unit and the block be readable.
    unsafe fn add<F: Format>(&mut self, unit: Unit, block: Block);
}

/// Walks through a panel and a tile.
///
/// # Safety
/// The features must be there and all lengths as [`super::multiply`] checks them.
#[inline(always)]
unsafe fn walk<F: Format, W: Work>(operands: &Operands<'_>, work: &mut W) {
    let weight_type = F::WEIGHT_TYPE;
    let units = weight_type.block_len() / BLOCK;
    let mut weights = operands.panel.as_ptr();
    let mut block = Block {
        start: operands.tile.as_ptr(),
        columns: operands.columns,
    };
    for _ in 0..operands.k / weight_type.block_len() {
        let header = weights;
        // SAFETY: the panel holds that many superblocks of a header and its units, the
        // tile as many blocks.
        unsafe {
            weights = weights.add(weight_type.header_bytes());
            for _ in 0..units {
                let unit = Unit {
                    header,
                    scales: weights,
                    codes: weights.add(weight_type.unit_scale_bytes()),
                    quarter: 0,
                };
                work.add::<F>(unit, block);
                weights = weights.add(weight_type.unit_bytes());
                block.start = block.start.add(operands.columns * COLUMN_BYTES);
            }
        }
    }
}

/// 32 elements of all columns of a tile, in lines of `columns` words.
#[derive(Clone, Copy)]
struct Block {
    start: *const u8,
    columns: usize,
}

/// Neighbouring columns of a block.
#[derive(Clone, Copy)]
struct Group {
    block: Block,
    first: usize,
}

/// Lines of a block behind the quantised values.
const SCALE: usize = 8;
const SCALED_SUM: usize = 11;

impl Group {
    /// Words `place` to `place + N` of the block; zeros in lanes from `N` on.
    ///
    /// # Safety
    /// NEON must be there, and the words be readable.
    #[inline(always)]
    unsafe fn words<const N: usize>(self, place: usize) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let from = self.block.start.cast::<i32>().add(place);
            let zero = vdupq_n_s32(0);
            match N {
                1 => vsetq_lane_s32::<0>(from.read_unaligned(), zero),
                2 => vcombine_s32(vld1_s32(from), vdup_n_s32(0)),
                3 => {
                    let two = vcombine_s32(vld1_s32(from), vdup_n_s32(0));
                    vsetq_lane_s32::<2>(from.add(2).read_unaligned(), two)
                }
                _ => vld1q_s32(from),
            }
        }
    }

    /// Words of `N` columns.
    ///
    /// # Safety
    /// As for `words`.
    #[inline(always)]
    unsafe fn line<const N: usize>(self, line: usize) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { self.words::<N>(line * self.block.columns + self.first) }
    }

    /// Floats of `N` columns.
    ///
    /// # Safety
    /// As for `words`.
    #[inline(always)]
    unsafe fn floats<const N: usize>(self, line: usize) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vreinterpretq_f32_s32(self.line::<N>(line)) }
    }
}

/// The product of a panel and several columns.
struct Tile<M> {
    sums: [[Sums; TILE_COLUMNS / GROUP_COLUMNS]; QUARTERS],
    /// Quarters that have rows.
    quarters: usize,
    multiplier: std::marker::PhantomData<M>,
}

/// Multiplies one panel by the columns of a tile.
///
/// # Safety
/// The features must be there and all lengths as [`super::multiply`] checks them.
#[inline(always)]
unsafe fn tile<M: Multiplier, F: Format>(operands: &Operands<'_>, mut products: Products<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut tile = Tile::<M> {
            sums: [[[vdupq_n_f32(0.0); GROUP_COLUMNS]; _]; _],
            quarters: products.rows.div_ceil(QUARTER_ROWS),
            multiplier: std::marker::PhantomData,
        };
        walk::<F, _>(operands, &mut tile);
        for column in 0..operands.columns {
            let mut rows = [0f32; PANEL_ROWS];
            let quarters = rows.as_chunks_mut::<QUARTER_ROWS>().0.iter_mut();
            for (rows, sums) in quarters.zip(&tile.sums) {
                let sums = M::by_column(&sums[column / GROUP_COLUMNS]);
                vst1q_f32(rows.as_mut_ptr(), sums[column % GROUP_COLUMNS]);
            }
            let places = products.column(column);
            places.copy_from_slice(&rows[..places.len()]);
        }
    }
}

impl<M: Multiplier> Work for Tile<M> {
    #[inline(always)]
    unsafe fn add<F: Format>(&mut self, mut unit: Unit, block: Block) {
        for (quarter, sums) in self.sums.iter_mut().enumerate().take(self.quarters) {
            unit.quarter = quarter;
            // SAFETY: the caller's promise; no group goes beyond the columns.
            unsafe {
                let words = M::arrange(F::words(unit));
                let weights = Weights {
                    words,
                    scales: F::scales(unit),
                };
                for (index, sums) in sums.iter_mut().enumerate() {
                    let first = index * GROUP_COLUMNS;
                    let group = Group { block, first };
                    match block.columns.saturating_sub(first) {
                        0 => break,
                        1 => weights.add::<M, F, 1>(group, sums),
                        2 => weights.add::<M, F, 2>(group, sums),
                        3 => weights.add::<M, F, 3>(group, sums),
                        _ => weights.add::<M, F, GROUP_COLUMNS>(group, sums),
                    }
                }
            }
        }
    }
}

/// 32 elements of four rows, the values as the [`Multiplier`] arranges them.
struct Weights {
    words: Words,
    scales: format::Scales,
}

impl Weights {
    /// Adds 32 elements of `N` columns to the sums.
    ///
    /// # Safety
    /// The level's features must be there, and the block be readable.
    #[inline(always)]
    unsafe fn add<M: Multiplier, F: Format, const N: usize>(&self, group: Group, sums: &mut Sums) {
        let Self { words, scales } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let activation_scale = M::columns(group.floats::<N>(SCALE));
            if F::WEIGHT_TYPE.has_half_scales() {
                let (first, last) = words.split_at(WORDS / 2);
                let dots = M::dots::<F, N>(first, group, 0);
                scale::<M, N>(sums, &dots, scales.scale[0], activation_scale);
                let dots = M::dots::<F, N>(last, group, WORDS / 2);
                scale::<M, N>(sums, &dots, scales.scale[1], activation_scale);
                return;
            }
            let dots = M::dots::<F, N>(words, group, 0);
            scale::<M, N>(sums, &dots, scales.scale[0], activation_scale);
            if F::WEIGHT_TYPE.has_minimum() {
                let minimum = M::rows(scales.minimum);
                let scaled_sum = M::columns(group.floats::<N>(SCALED_SUM));
                for (index, sum) in sums.iter_mut().enumerate().take(M::registers(N)) {
                    *sum = vfmaq_f32(*sum, minimum[index], scaled_sum[index]);
                }
            }
        }
    }
}

/// Adds what the integers stand for to the sums of `N` columns.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn scale<M: Multiplier, const N: usize>(
    sums: &mut Sums,
    dots: &[int32x4_t; GROUP_COLUMNS],
    scale: float32x4_t,
    activation_scale: [float32x4_t; GROUP_COLUMNS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = M::rows(scale);
        for (index, sum) in sums.iter_mut().enumerate().take(M::registers(N)) {
            let scale = vmulq_f32(scale[index], activation_scale[index]);
            *sum = vfmaq_f32(*sum, M::floats(dots[index]), scale);
        }
    }
}

/// The product of a panel and one column.
struct Column<M> {
    sums: [float32x4_t; QUARTERS],
    multiplier: std::marker::PhantomData<M>,
}

/// Multiplies one panel by one column.
///
/// # Safety
/// The features must be there and all lengths as [`super::multiply`] checks them.
#[inline(always)]
unsafe fn column<M: Multiplier, F: Format>(operands: &Operands<'_>, mut products: Products<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut column = Column::<M> {
            sums: [vdupq_n_f32(0.0); QUARTERS],
            multiplier: std::marker::PhantomData,
        };
        walk::<F, _>(operands, &mut column);
        let mut rows = [0f32; PANEL_ROWS];
        let quarters = rows.as_chunks_mut::<QUARTER_ROWS>().0.iter_mut();
        for (rows, sum) in quarters.zip(column.sums) {
            vst1q_f32(rows.as_mut_ptr(), sum);
        }
        let places = products.column(0);
        places.copy_from_slice(&rows[..places.len()]);
    }
}

impl<M: Multiplier> Work for Column<M> {
    #[inline(always)]
    unsafe fn add<F: Format>(&mut self, unit: Unit, block: Block) {
        // SAFETY: the caller's promise; the words of one column are neighbours.
        unsafe {
            let float = |line: usize| block.start.cast::<f32>().add(line).read_unaligned();
            let activations = Activations {
                values: [
                    vld1q_s8(block.start.cast()),
                    vld1q_s8(block.start.add(BLOCK / 2).cast()),
                ],
                scale: float(SCALE),
                scaled_sum: float(SCALED_SUM),
            };
            // Written out: from a loop the compiler puts the sums in memory.
            let [a, b, c, d] = self.sums;
            let of = |quarter| Unit { quarter, ..unit };
            self.sums = [
                activations.add::<M, F>(of(0), a),
                activations.add::<M, F>(of(1), b),
                activations.add::<M, F>(of(2), c),
                activations.add::<M, F>(of(3), d),
            ];
        }
    }
}

/// 32 activations of the only column of a tile.
struct Activations {
    values: [int8x16_t; 2],
    scale: f32,
    scaled_sum: f32,
}

impl Activations {
    /// Adds the products with a quarter's rows to their sums.
    ///
    /// # Safety
    /// The level's features must be there, and the unit be readable.
    #[inline(always)]
    unsafe fn add<M: Multiplier, F: Format>(&self, unit: Unit, sum: float32x4_t) -> float32x4_t {
        let [first, last] = self.values;
        // SAFETY: the caller's promise.
        unsafe {
            let scales = F::scales(unit);
            let [a, b, c, d, e, f, g, h] = F::words(unit);
            let start = vdupq_n_s32(M::START);
            let dot = M::quad::<F>(start, [a, b, c, d], first);
            let scale = vmulq_n_f32(scales.scale[0], self.scale);
            if F::WEIGHT_TYPE.has_half_scales() {
                let sum = vfmaq_f32(sum, M::floats(dot), scale);
                let dot = M::quad::<F>(start, [e, f, g, h], last);
                let scale = vmulq_n_f32(scales.scale[1], self.scale);
                return vfmaq_f32(sum, M::floats(dot), scale);
            }
            let dot = M::quad::<F>(dot, [e, f, g, h], last);
            let sum = vfmaq_f32(sum, M::floats(dot), scale);
            if F::WEIGHT_TYPE.has_minimum() {
                return vfmaq_n_f32(sum, scales.minimum, self.scaled_sum);
            }
            sum
        }
    }
}
