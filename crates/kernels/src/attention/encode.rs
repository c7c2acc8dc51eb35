//! Rounding of rows to a cache's quantised types, with the choices of ggml's CPU back end.

use super::cache::{BLOCK, CacheType, LEVELS};
use crate::Isa;
use crate::float::f32_to_f16;
use crate::simd::{Loops, dispatch};

/// A block's values.
type Values = [f32; BLOCK];

/// Rounds `row` to a quantised type. The instruction sets agree bit for bit. Values that are
/// not numbers give a block that is not.
///
/// Panics unless `row` is whole blocks, `out` has their bytes and the type is quantised.
pub fn quantize_row(isa: Isa, kind: CacheType, row: &[f32], out: &mut [u8]) {
    let (values, bytes) = kind.block();
    assert_eq!(values, BLOCK, "a quantised type");
    assert_eq!(kind.row_bytes(row.len()), Some(out.len()), "a row's bytes");
    let blocks = Blocks {
        kind,
        bytes,
        row,
        out,
    };
    dispatch(isa, blocks);
}

struct Blocks<'a> {
    kind: CacheType,
    bytes: usize,
    row: &'a [f32],
    out: &'a mut [u8],
}

impl Loops for Blocks<'_> {
    #[inline(always)]
    fn run(self) {
        let blocks = self.row.as_chunks::<BLOCK>().0.iter();
        for (values, out) in blocks.zip(self.out.chunks_exact_mut(self.bytes)) {
            match self.kind {
                CacheType::Q8_0 => q8_0(values, out),
                kind @ (CacheType::Q4_0 | CacheType::Q5_0) => from_zero(kind, values, out),
                kind @ (CacheType::Q4_1 | CacheType::Q5_1) => from_minimum(kind, values, out),
                _ => iq4_nl(values, out),
            }
        }
    }
}

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[inline(always)]
fn put(out: &mut [u8], at: usize, value: f32) {
    out[at..at + 2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
}

/// The largest magnitude; independent maxima, so that they are vectors.
#[inline(always)]
fn magnitude(values: &Values) -> f32 {
    let mut most = [0f32; 16];
    for half in values.as_chunks::<16>().0 {
        for (most, value) in most.iter_mut().zip(half) {
            *most = most.max(value.abs());
        }
    }
    most.into_iter().fold(0.0, f32::max)
}

/// The first of the values with the largest magnitude.
#[inline(always)]
fn furthest(values: &Values) -> f32 {
    let most = magnitude(values);
    let found = values.iter().find(|value| value.abs() == most);
    found.copied().unwrap_or(most)
}

#[inline(always)]
fn q8_0(values: &Values, out: &mut [u8]) {
    let scale = magnitude(values) / 127.0;
    let by = inverse(scale);
    put(out, 0, scale);
    for (value, out) in values.iter().zip(&mut out[2..]) {
        // Saturates, and what is not a number is 0, as its scale is not a number.
        *out = (value * by).round_ties_even() as i8 as u8;
    }
}

/// Codes of which the type's zero stands for 0. The value furthest from 0, the first of
/// several, is code 0 or as near as its sign allows.
#[inline(always)]
fn from_zero(kind: CacheType, values: &Values, out: &mut [u8]) {
    let zero = kind.zero();
    let furthest = furthest(values);
    let scale = furthest / -(zero as f32);
    let by = inverse(scale);
    put(out, 0, scale);
    let middle = zero as f32 + 0.5;
    let code = |value: &f32| ((value * by + middle) as i32).clamp(0, 2 * zero - 1) as u8;
    pack(kind, &values.each_ref().map(code), out);
}

/// Codes from 0 to the type's most above a minimum.
#[inline(always)]
fn from_minimum(kind: CacheType, values: &Values, out: &mut [u8]) {
    let steps = if kind.has_fifth_bits() { 31 } else { 15 };
    let (mut least, mut most) = ([f32::MAX; 16], [f32::MIN; 16]);
    for half in values.as_chunks::<16>().0 {
        for ((least, most), value) in least.iter_mut().zip(&mut most).zip(half) {
            (*least, *most) = (least.min(*value), most.max(*value));
        }
    }
    let least = least.into_iter().fold(f32::MAX, f32::min);
    let most = most.into_iter().fold(f32::MIN, f32::max);
    let scale = (most - least) / steps as f32;
    let by = inverse(scale);
    put(out, 0, scale);
    put(out, 2, least);
    let code = |value: &f32| (((value - least) * by + 0.5) as i32).clamp(0, steps) as u8;
    pack(kind, &values.each_ref().map(code), out);
}

/// Nibbles of the first half of the block below those of the second, and the fifth bits.
#[inline(always)]
fn pack(kind: CacheType, codes: &[u8; BLOCK], out: &mut [u8]) {
    let (scales, nibbles) = out.split_at_mut(kind.quants_at());
    if kind.has_fifth_bits() {
        let bits = codes.iter().enumerate();
        let bits = bits.fold(0u32, |bits, (j, code)| bits | u32::from(code >> 4 & 1) << j);
        let place = scales.len() - 4;
        scales[place..].copy_from_slice(&bits.to_le_bytes());
    }
    for (j, out) in nibbles.iter_mut().enumerate() {
        *out = codes[j] & 15 | codes[j + BLOCK / 2] << 4;
    }
}

/// The nearest level under a scale that takes the value furthest from 0 to the first one;
/// then the scale with the least error, errors counted by the values' squares.
#[inline(always)]
fn iq4_nl(values: &Values, out: &mut [u8]) {
    /// Below this a block is all zero.
    const LEAST: f32 = 1e-15;
    let furthest = furthest(values);
    if furthest.abs() < LEAST {
        out.fill(0);
        return;
    }
    let by = 1.0 / (furthest / LEVELS[0]);
    let mut codes = [0u8; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        let scaled = value * by;
        // How many of the middles between levels it is beyond.
        let beyond = LEVELS.windows(2).map(|pair| {
            let is_nearer = scaled - pair[0] >= pair[1] - scaled;
            u8::from(is_nearer)
        });
        *code = beyond.sum();
    }
    let (mut products, mut squares) = (0.0, 0.0);
    for (code, value) in codes.iter().zip(values) {
        let (level, weight) = (LEVELS[usize::from(*code)], value * value);
        products += weight * level * value;
        squares += weight * level * level;
    }
    put(
        out,
        0,
        if squares > 0.0 {
            products / squares
        } else {
            0.0
        },
    );
    pack(CacheType::Iq4Nl, &codes, out);
}
