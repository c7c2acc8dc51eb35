//! Rows of the cache as numbers, and back, in each of its types.
//!
//! Blocks are those of ggml (`ggml-common.h`), and so is how numbers are rounded
//! (`quantize_row_*_ref` in `ggml-quants.c`); 32 numbers share a scale of 16 bits.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::cache_type::CacheType;

const BLOCK: usize = 32;
const HALF_MOST: f32 = 65_504.0;
/// The sixteen values of `iq4_nl` (`kvalues_iq4nl`).
const NORMAL_GRID: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// ggml's number of a type; `None` if the cache has no such type.
pub(super) const fn of_ggml(number: u32) -> Option<CacheType> {
    Some(match number {
        0 => CacheType::F32,
        1 => CacheType::F16,
        2 => CacheType::Q4_0,
        3 => CacheType::Q4_1,
        6 => CacheType::Q5_0,
        7 => CacheType::Q5_1,
        8 => CacheType::Q8_0,
        20 => CacheType::Iq4Nl,
        30 => CacheType::Bf16,
        _ => return None,
    })
}

/// How many numbers so many bytes of a type are; `None` if they are no whole blocks.
pub(super) fn n_values(cache_type: CacheType, bytes: usize) -> Option<usize> {
    let block = usize::try_from(cache_type.block_bytes()).ok()?;
    let values = usize::try_from(cache_type.block_values()).ok()?;
    bytes
        .is_multiple_of(block)
        .then_some(bytes / block * values)
}

/// The numbers of whole blocks.
pub(super) fn read(cache_type: CacheType, bytes: &[u8], values: &mut [f32]) {
    match cache_type {
        CacheType::F32 => {
            let numbers = bytes.as_chunks::<4>().0.iter();
            let numbers = numbers.map(|number| f32::from_le_bytes(*number));
            values.iter_mut().zip(numbers).for_each(|(to, of)| *to = of);
        }
        CacheType::F16 => {
            let halves = bytes.as_chunks::<2>().0.iter();
            let halves: Vec<f16> = halves.map(|half| f16::from_le_bytes(*half)).collect();
            let n = halves.len().min(values.len());
            halves[..n].convert_to_f32_slice(&mut values[..n]);
        }
        CacheType::Bf16 => {
            let numbers = bytes.as_chunks::<2>().0.iter();
            let numbers =
                numbers.map(|number| f32::from_bits(u32::from(u16::from_le_bytes(*number)) << 16));
            values.iter_mut().zip(numbers).for_each(|(to, of)| *to = of);
        }
        _ => {
            let block_bytes = cache_type.block_bytes() as usize;
            let blocks = bytes.chunks_exact(block_bytes);
            for (block, values) in blocks.zip(values.as_chunks_mut::<BLOCK>().0) {
                read_block(cache_type, block, values);
            }
        }
    }
}

/// Numbers as whole blocks of a type; those that are too large become the largest.
pub(super) fn write(cache_type: CacheType, values: &[f32], bytes: &mut [u8]) {
    match cache_type {
        CacheType::F32 => {
            let numbers = bytes.as_chunks_mut::<4>().0.iter_mut();
            numbers
                .zip(values)
                .for_each(|(to, of)| *to = of.to_le_bytes());
        }
        CacheType::F16 => {
            let bounded: Vec<f32> = values
                .iter()
                .map(|value| value.clamp(-HALF_MOST, HALF_MOST))
                .collect();
            let mut halves = vec![f16::ZERO; bounded.len()];
            halves.convert_from_f32_slice(&bounded);
            let numbers = bytes.as_chunks_mut::<2>().0.iter_mut();
            numbers
                .zip(halves)
                .for_each(|(to, of)| *to = of.to_le_bytes());
        }
        CacheType::Bf16 => {
            let numbers = bytes.as_chunks_mut::<2>().0.iter_mut();
            numbers
                .zip(values)
                .for_each(|(to, of)| *to = half::bf16::from_f32(*of).to_le_bytes());
        }
        _ => {
            let block_bytes = cache_type.block_bytes() as usize;
            let blocks = bytes.chunks_exact_mut(block_bytes);
            for (block, values) in blocks.zip(values.as_chunks::<BLOCK>().0) {
                write_block(cache_type, values, block);
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn put_half(block: &mut [u8], at: usize, value: f32) {
    let value = f16::from_f32(value.clamp(-HALF_MOST, HALF_MOST));
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn read_block(cache_type: CacheType, block: &[u8], values: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    if cache_type == CacheType::Q8_0 {
        for (value, digit) in values.iter_mut().zip(&block[2..]) {
            *value = f32::from(digit.cast_signed()) * scale;
        }
        return;
    }
    let form = Digits::of(cache_type);
    let least = if form.has_least {
        half_at(block, 2)
    } else {
        0.0
    };
    let digits = form.read(block);
    for (value, digit) in values.iter_mut().zip(digits) {
        *value = match cache_type {
            CacheType::Iq4Nl => NORMAL_GRID[usize::from(digit & 15)] * scale,
            _ => (f32::from(digit) - form.middle) * scale + least,
        };
    }
}

fn write_block(cache_type: CacheType, values: &[f32; BLOCK], block: &mut [u8]) {
    // Of those that are farthest from 0 the first.
    let farthest = values.iter().fold(0.0_f32, |most, value| {
        if value.abs() > most.abs() {
            *value
        } else {
            most
        }
    });
    let inverse = |scale: f32| if scale == 0.0 { 0.0 } else { 1.0 / scale };
    if cache_type == CacheType::Q8_0 {
        let scale = farthest.abs() / 127.0;
        put_half(block, 0, scale);
        for (digit, value) in block[2..].iter_mut().zip(values) {
            // A float becomes the nearest number there is.
            *digit = ((value * inverse(scale)).round() as i8).cast_unsigned();
        }
        return;
    }
    if cache_type == CacheType::Iq4Nl {
        write_normal(values, farthest, block);
        return;
    }
    let form = Digits::of(cache_type);
    let most = form.most();
    let (scale, least) = if form.has_least {
        let least = values.iter().copied().fold(f32::INFINITY, f32::min);
        let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        ((greatest - least) / most, least)
    } else {
        (farthest / -form.middle, 0.0)
    };
    put_half(block, 0, scale);
    if form.has_least {
        put_half(block, 2, least);
    }
    let by = inverse(scale);
    let digits = values.map(|value| ((value - least) * by + form.middle + 0.5).min(most) as u8);
    form.write(&digits, block);
}

/// The scale is that of least error, weighted by squares, for the digits that the farthest value
/// gives.
fn write_normal(values: &[f32; BLOCK], farthest: f32, block: &mut [u8]) {
    let first = farthest / NORMAL_GRID[0];
    let by = if first == 0.0 { 0.0 } else { 1.0 / first };
    let nearest = |value: f32| {
        let after = NORMAL_GRID.partition_point(|grid| *grid < value).min(15);
        let before = after.saturating_sub(1);
        let is_before = value - NORMAL_GRID[before] < NORMAL_GRID[after] - value;
        (if is_before { before } else { after }) as u8
    };
    let digits = values.map(|value| nearest(value * by));
    let (mut product, mut square) = (0.0, 0.0);
    for (value, digit) in values.iter().zip(digits) {
        let grid = NORMAL_GRID[usize::from(digit)];
        product += value * value * grid * value;
        square += value * value * grid * grid;
    }
    put_half(block, 0, if square > 0.0 { product / square } else { 0.0 });
    Digits::of(CacheType::Iq4Nl).write(&digits, block);
}

/// Where a block has its digits: halves of bytes, and the fifth bits before them.
#[derive(Clone, Copy)]
struct Digits {
    /// A digit that stands for 0.
    middle: f32,
    has_least: bool,
    has_fifth: bool,
}

impl Digits {
    const fn of(cache_type: CacheType) -> Self {
        let (middle, has_least, has_fifth) = match cache_type {
            CacheType::Q4_1 => (0.0, true, false),
            CacheType::Q5_0 => (16.0, false, true),
            CacheType::Q5_1 => (0.0, true, true),
            _ => (8.0, false, false),
        };
        Self {
            middle,
            has_least,
            has_fifth,
        }
    }

    const fn most(self) -> f32 {
        if self.has_fifth { 31.0 } else { 15.0 }
    }

    /// Where the fifth bits begin.
    const fn behind_scales(self) -> usize {
        if self.has_least { 4 } else { 2 }
    }

    fn read(self, block: &[u8]) -> [u8; BLOCK] {
        let from = self.behind_scales();
        let (fifth, low) = match self.has_fifth {
            true => (
                u32::from_le_bytes([
                    block[from],
                    block[from + 1],
                    block[from + 2],
                    block[from + 3],
                ]),
                &block[from + 4..],
            ),
            false => (0, &block[from..]),
        };
        std::array::from_fn(|at| {
            let four = match at < BLOCK / 2 {
                true => low[at] & 15,
                false => low[at - BLOCK / 2] >> 4,
            };
            four | ((fifth >> at & 1) as u8) << 4
        })
    }

    fn write(self, digits: &[u8; BLOCK], block: &mut [u8]) {
        let mut from = self.behind_scales();
        if self.has_fifth {
            let bits = (0..BLOCK).map(|at| u32::from(digits[at] >> 4 & 1) << at);
            let fifth: u32 = bits.sum();
            block[from..from + 4].copy_from_slice(&fifth.to_le_bytes());
            from += 4;
        }
        for (at, byte) in block[from..].iter_mut().take(BLOCK / 2).enumerate() {
            *byte = digits[at] & 15 | digits[at + BLOCK / 2] << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What types lose of normal numbers, as measured with ggml: kv-cache research, by block of 32.
    #[test]
    fn types_lose_what_they_do_in_ggml() {
        let mut random = 7_u64;
        let mut uniform = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((random >> 40) as f32 + 0.5) / (1 << 24) as f32
        };
        let mut normal =
            || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
        let values: Vec<f32> = (0..32 * 2000).map(|_| normal()).collect();
        // Decibels: q4_0 21.3, iq4_nl and q4_1 22.2, q5_0 27.4, q5_1 28.4, q8_0 45.4.
        let expected = [
            (CacheType::Q4_0, 21.3),
            (CacheType::Q4_1, 22.2),
            (CacheType::Iq4Nl, 22.2),
            (CacheType::Q5_0, 27.4),
            (CacheType::Q5_1, 28.4),
            (CacheType::Q8_0, 45.4),
            (CacheType::Bf16, 56.0),
            (CacheType::F16, 74.0),
        ];
        for (cache_type, decibels) in expected {
            let mut bytes = vec![0; cache_type.row_bytes(values.len() as u64) as usize];
            assert_eq!(n_values(cache_type, bytes.len()), Some(values.len()));
            write(cache_type, &values, &mut bytes);
            let mut back = vec![0.0; values.len()];
            read(cache_type, &bytes, &mut back);
            let square = |x: f32| f64::from(x) * f64::from(x);
            let lost: f64 = values.iter().zip(&back).map(|(a, b)| square(a - b)).sum();
            let all: f64 = values.iter().map(|x| square(*x)).sum();
            let found = 10.0 * (all / lost).log10();
            assert!(
                (found - decibels).abs() < 0.4 || found > 55.0 && found > decibels - 1.0,
                "{cache_type}: {found}"
            );
            // What a type can hold it holds.
            let mut again = bytes.clone();
            write(cache_type, &back, &mut again);
            let mut twice = back.clone();
            read(cache_type, &again, &mut twice);
            let drift: f64 = back.iter().zip(&twice).map(|(a, b)| square(a - b)).sum();
            assert!(drift <= lost / 4.0, "{cache_type}: {drift} {lost}");
        }
    }

    #[test]
    fn odd_numbers_are_no_accident() {
        for cache_type in CacheType::ALL {
            let mut bytes = vec![0; cache_type.row_bytes(64) as usize];
            let mut values = [0.0; 64];
            write(cache_type, &values, &mut bytes);
            read(cache_type, &bytes, &mut values);
            assert_eq!(values, [0.0; 64], "{cache_type}");
            values[3] = 1e30;
            values[40] = -1e30;
            write(cache_type, &values, &mut bytes);
            bytes.fill(0xff);
            read(cache_type, &bytes, &mut values);
        }
        assert_eq!(n_values(CacheType::Q8_0, 35), None);
        assert_eq!(of_ggml(4), None);
    }
}
