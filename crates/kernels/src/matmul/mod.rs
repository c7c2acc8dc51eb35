//! Matrix products of weights with activations: prefill and decode. What follows is about
//! quantised weights; [`multiply_dense`] takes weights that are floats, as they are.
//!
//! `out[column][row] = sum over k of weight[row][k] * activation[column][k]`
//!
//! Weights are packed once, when a model is loaded ([`pack_panel`]): sixteen rows make a
//! *panel*, in which four neighbouring elements of each row lie side by side, so that one
//! 64-byte vector holds the same four positions of sixteen rows and an integer dot
//! product of it with four broadcast activations needs no shuffle and no horizontal sum.
//! Activations are rounded to 8 bits a column in blocks of 32 with an f32 scale
//! ([`quantize_tile`]), up to [`TILE_COLUMNS`] columns interleaved to a *tile*. [`multiply`]
//! takes one panel and one tile. Panels are the same for all instruction sets, a register
//! being all sixteen rows or part of them; tiles differ in how many values lie side by side.
//!
//! **The arithmetic**, the same in every variant: within 32 elements (16 for Q6_K) the
//! product is an exact integer sum `s`; then `acc = fma(s as f32, d * a, acc)`, where `d`
//! is the weights' scale and `a` the activations', and for types with a minimum `m`
//! `acc = fma(m, a * sum of the quantised activations, acc)`, block after block. No
//! integer sum leaves 32 bits: 32 * 255 * 127 < 2^20. So all variants agree bit for bit,
//! and a column's results do not depend on the columns beside it.
//!
//! Rounding activations to 8 bits in blocks of 32 is also what ggml does for the types in
//! blocks of 32; for the K types ggml uses blocks of 256, which rounds more.

mod activations;
#[cfg(target_arch = "aarch64")]
mod arm;
mod dense;
mod pack;
mod routing;
mod weights;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

pub use activations::{quantize_tile, tile_bytes};
pub use dense::multiply_dense;
pub use pack::{dequantize_row, pack_panel, unpack_row};
pub use routing::{ExpertTile, Routing};
pub use weights::WeightType;

use crate::Isa;
use crate::isa::Level;
use activations::Interleave;
use pack::Panel;
use std::marker::PhantomData;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// Columns of a tile at most. Twelve sums of integers and twelve of floats fill the 32
/// vector registers of AVX-512 but for what the weights need; AVX2 and NEON multiply four
/// columns at a time.
pub const TILE_COLUMNS: usize = 12;

/// Elements that share a scale of the activations, and the unit of every layout here.
pub const BLOCK: usize = 32;

/// What [`multiply`] works on.
#[derive(Debug)]
pub struct Operands<'a> {
    pub weight_type: WeightType,
    /// One packed panel, [`WeightType::panel_bytes`] long.
    pub panel: &'a [u8],
    /// One tile, [`tile_bytes`] long, rounded with the same instruction set.
    pub tile: &'a [u8],
    /// Columns of the tile.
    pub columns: usize,
    /// Elements of a row: a multiple of the type's block.
    pub k: usize,
}

/// Where the products go: column `c`, row `r` to place `c * stride + r`.
#[derive(Debug)]
pub struct Products<'a> {
    out: *mut f32,
    stride: usize,
    /// Rows of the panel that exist: at most [`PANEL_ROWS`].
    rows: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<'a> Products<'a> {
    /// Products of `columns` columns.
    ///
    /// # Panics
    /// When they do not fit `out`: a mistake of the caller.
    pub fn new(out: &'a mut [f32], stride: usize, rows: usize, columns: usize) -> Self {
        assert!(stride >= rows && (1..=PANEL_ROWS).contains(&rows) && columns > 0);
        assert!(out.len() >= (columns - 1) * stride + rows);
        Self {
            out: out.as_mut_ptr(),
            stride,
            rows,
            lifetime: PhantomData,
        }
    }

    /// Products into a matrix of which others have other rows at the same time.
    ///
    /// # Safety
    /// `rows` floats from `out`, and from every `stride`th place behind it, for each column
    /// of the tile, must be there and nobody else's.
    #[must_use]
    pub unsafe fn from_raw(out: *mut f32, stride: usize, rows: usize) -> Self {
        Self {
            out,
            stride,
            rows,
            lifetime: PhantomData,
        }
    }

    /// The places of a column.
    fn column(&mut self, column: usize) -> &mut [f32] {
        // SAFETY: both constructors have it that these places are there and ours.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(column * self.stride), self.rows) }
    }
}

/// Multiplies a panel by a tile.
///
/// # Panics
/// When a length does not fit the sizes given: a mistake of the caller.
pub fn multiply(isa: Isa, operands: &Operands<'_>, products: Products<'_>) {
    let Operands {
        weight_type,
        panel,
        tile,
        columns,
        k,
    } = *operands;
    assert!((1..=TILE_COLUMNS).contains(&columns) && (1..=PANEL_ROWS).contains(&products.rows));
    assert!(k.is_multiple_of(weight_type.block_len()));
    assert_eq!(panel.len(), weight_type.panel_bytes(k));
    assert_eq!(tile.len(), tile_bytes(columns, k));
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => x86::avx2::multiply(operands, products),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => x86::avx512::multiply(operands, products),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => arm::plain(operands, products),
        #[cfg(target_arch = "aarch64")]
        Level::NeonDotprod => arm::dotprod(operands, products),
        #[cfg(target_arch = "aarch64")]
        Level::NeonI8mm => arm::i8mm(operands, products),
        _ => multiply_scalar(operands, products),
    }
}

/// The specification.
fn multiply_scalar(operands: &Operands<'_>, mut products: Products<'_>) {
    let Operands {
        weight_type,
        panel,
        tile,
        columns,
        k,
    } = *operands;
    for row in 0..products.rows {
        let mut sums = [0f32; TILE_COLUMNS];
        for block in 0..k / BLOCK {
            let weights = Panel {
                weight_type,
                bytes: panel,
            }
            .block(block, row);
            for (column, sum) in sums[..columns].iter_mut().enumerate() {
                let activations =
                    activations::block(tile, Interleave::Fours, columns, block, column);
                *sum = accumulate(*sum, weight_type, &weights, &activations);
            }
        }
        for (column, sum) in sums[..columns].iter().enumerate() {
            products.column(column)[row] = *sum;
        }
    }
}

fn accumulate(
    mut sum: f32,
    weight_type: WeightType,
    weights: &pack::Block,
    activations: &activations::Block,
) -> f32 {
    let halves = if weight_type.has_half_scales() { 2 } else { 1 };
    let len = BLOCK / halves;
    for half in 0..halves {
        let range = half * len..(half + 1) * len;
        let codes = weights.codes[range.clone()].iter();
        let dot: i32 = codes
            .zip(&activations.quants[range])
            .map(|(&code, &quant)| (i32::from(code) - weight_type.offset()) * i32::from(quant))
            .sum();
        sum = (dot as f32).mul_add(weights.scales[half] * activations.scale, sum);
    }
    if weight_type.has_minimum() {
        sum = weights.minimum.mul_add(activations.scaled_sum, sum);
    }
    sum
}
