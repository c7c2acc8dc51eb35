//! Rounding of rows to a cache's quantised types, with the choices of ggml's CPU back end.

use super::cache::{BLOCK, CacheType, LEVELS};
use crate::Isa;
use crate::float::f32_to_f16;
use crate::simd::{Kernel, Simd, dispatch};

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

impl Kernel for Blocks<'_> {
    type Output = ();

    fn scalar(self) {
        self.run();
    }

    #[inline(always)]
    fn vector<S: Simd>(self, _: S) {
        self.run();
    }
}

impl Blocks<'_> {
    /// Plain loops over a block, which the compiler turns into the set's vectors.
    #[inline(always)]
    fn run(self) {
        let blocks = self.row.as_chunks::<BLOCK>().0.iter();
        for (values, out) in blocks.zip(self.out.chunks_exact_mut(self.bytes)) {
            match self.kind {
                CacheType::Q8_0 => q8_0(values, out),
                CacheType::Q4_0 => from_zero::<8>(values, out),
                CacheType::Q5_0 => from_zero::<16>(values, out),
                CacheType::Q4_1 => from_minimum::<15>(values, out),
                CacheType::Q5_1 => from_minimum::<31>(values, out),
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

/// Codes from 0 to twice `ZERO` less 1, of which `ZERO` stands for 0. The value furthest from
/// 0, the first of several, is code 0 or as near as its sign allows.
#[inline(always)]
fn from_zero<const ZERO: u8>(values: &Values, out: &mut [u8]) {
    let most = magnitude(values);
    let furthest = values.iter().find(|value| value.abs() == most);
    let scale = furthest.copied().unwrap_or(most) / -f32::from(ZERO);
    let by = inverse(scale);
    put(out, 0, scale);
    let mut codes = [0u8; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = ((value * by + (f32::from(ZERO) + 0.5)) as u8).min(2 * ZERO - 1);
    }
    pack(
        &codes,
        if ZERO == 16 {
            Fifth::At(2)
        } else {
            Fifth::None
        },
        out,
    );
}

/// Codes from 0 to `MOST` above a minimum.
#[inline(always)]
fn from_minimum<const MOST: u8>(values: &Values, out: &mut [u8]) {
    let (mut least, mut most) = ([f32::MAX; 16], [f32::MIN; 16]);
    for half in values.as_chunks::<16>().0 {
        for ((least, most), value) in least.iter_mut().zip(&mut most).zip(half) {
            (*least, *most) = (least.min(*value), most.max(*value));
        }
    }
    let least = least.into_iter().fold(f32::MAX, f32::min);
    let most = most.into_iter().fold(f32::MIN, f32::max);
    let scale = (most - least) / f32::from(MOST);
    let by = inverse(scale);
    put(out, 0, scale);
    put(out, 2, least);
    let mut codes = [0u8; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (((value - least) * by + 0.5) as u8).min(MOST);
    }
    pack(
        &codes,
        if MOST == 31 {
            Fifth::At(4)
        } else {
            Fifth::None
        },
        out,
    );
}

/// Where a block has its values' fifth bits.
#[derive(Clone, Copy)]
enum Fifth {
    None,
    At(usize),
}

/// Nibbles of the first half of the block below those of the second, in the last 16 bytes.
#[inline(always)]
fn pack(codes: &[u8; BLOCK], fifth: Fifth, out: &mut [u8]) {
    if let Fifth::At(at) = fifth {
        let bits = codes.iter().enumerate();
        let bits = bits.fold(0u32, |bits, (j, code)| bits | u32::from(code >> 4 & 1) << j);
        out[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    }
    let nibbles = out.len() - BLOCK / 2;
    for (j, out) in out[nibbles..].iter_mut().enumerate() {
        *out = codes[j] & 15 | codes[j + BLOCK / 2] << 4;
    }
}

/// The nearest level under a scale that takes the value furthest from 0 to the first one;
/// then the scale with the least error, errors counted by the values' squares.
#[inline(always)]
fn iq4_nl(values: &Values, out: &mut [u8]) {
    /// Below this a block is all zero.
    const LEAST: f32 = 1e-15;
    let most = magnitude(values);
    let furthest = values.iter().find(|value| value.abs() == most);
    let furthest = furthest.copied().unwrap_or(most);
    if most < LEAST {
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
    pack(&codes, Fifth::None, out);
}
