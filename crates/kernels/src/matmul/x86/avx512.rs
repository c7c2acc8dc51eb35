//! AVX-512 VNNI: sixteen rows are the lanes of one register.
//!
//! For each 32 elements a column takes eight `vpdpbusd`, whose second operand is a
//! broadcast from memory, and then a conversion, a product of scales and one or two fused
//! multiply-adds: on a core that starts two `vpdpbusd` and two multiply-adds a cycle from
//! the same ports at best 8 of 10 (no minimum) or 8 of 11 of the integer peak.

use super::super::activations::COLUMN_BYTES;
use super::super::weights::IQ4_NL_CODES;
use super::super::{BLOCK, Operands, PANEL_ROWS, Products, WeightType};
use super::{PREFETCH_COLUMNS_MAX, prefetch};
use std::arch::x86_64::*;

/// The scales of 32 elements of sixteen rows.
#[derive(Clone, Copy)]
struct Scales {
    /// Of the first and the last 16 elements; equal but for half scales.
    scale: [__m512; 2],
    minimum: __m512,
}

/// One packed weight type. Methods are inlined into functions that have the features.
trait Format {
    const WEIGHT_TYPE: WeightType;

    /// # Safety
    /// AVX-512 must be there, `header` and `unit` must be readable for the type's sizes.
    unsafe fn scales(header: *const u8, unit: *const u8) -> Scales;

    /// The codes of words `index` and `index + 4`.
    ///
    /// # Safety
    /// As for `scales`; `codes` points behind the unit's scales.
    unsafe fn codes(codes: *const u8, index: usize) -> (__m512i, __m512i);
}

/// # Safety
/// AVX-512 must be there; 32 bytes must be readable.
#[inline(always)]
unsafe fn halves(bytes: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.cast())) }
}

/// # Safety
/// AVX-512 must be there; 64 bytes must be readable.
#[inline(always)]
unsafe fn vector(bytes: *const u8, index: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(bytes.add(64 * index).cast()) }
}

/// # Safety
/// AVX-512 must be there; 64 bytes at `index` must be readable.
#[inline(always)]
unsafe fn nibbles(codes: *const u8, index: usize) -> (__m512i, __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let both = vector(codes, index);
        let mask = _mm512_set1_epi8(15);
        let high = _mm512_srli_epi16::<4>(both);
        (_mm512_and_si512(both, mask), _mm512_and_si512(high, mask))
    }
}

/// # Safety
/// As for [`nibbles`], with the masks of the fifth bits behind them.
#[inline(always)]
unsafe fn five_bits(codes: *const u8, index: usize) -> (__m512i, __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = nibbles(codes, index);
        let masks = codes.add(256).cast::<u64>();
        let bit = _mm512_set1_epi8(16);
        let first = masks.add(index).read_unaligned();
        let second = masks.add(index + 4).read_unaligned();
        (
            _mm512_mask_add_epi8(low, first, low, bit),
            _mm512_mask_add_epi8(high, second, high, bit),
        )
    }
}

/// # Safety
/// As for [`nibbles`], with the pairs of high bits behind them.
#[inline(always)]
unsafe fn six_bits(codes: *const u8, index: usize) -> (__m512i, __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = nibbles(codes, index);
        let mask = _mm512_set1_epi8(0x30);
        // The pair of word `f` of its half is at bit 2f of each byte; it has to be at bit 4.
        let raise = |pairs: __m512i| match index {
            0 => _mm512_slli_epi16::<4>(pairs),
            1 => _mm512_slli_epi16::<2>(pairs),
            2 => pairs,
            _ => _mm512_srli_epi16::<2>(pairs),
        };
        let first = _mm512_and_si512(raise(vector(codes, 4)), mask);
        let second = _mm512_and_si512(raise(vector(codes, 5)), mask);
        (_mm512_or_si512(low, first), _mm512_or_si512(high, second))
    }
}

/// # Safety
/// AVX-512 must be there; 32 bytes must be readable.
#[inline(always)]
unsafe fn one_scale(unit: *const u8) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = halves(unit);
        Scales {
            scale: [scale; 2],
            minimum: _mm512_setzero_ps(),
        }
    }
}

/// # Safety
/// AVX-512 must be there; 64 bytes must be readable.
#[inline(always)]
unsafe fn scale_and_minimum(unit: *const u8) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        Scales {
            scale: [halves(unit); 2],
            minimum: halves(unit.add(2 * PANEL_ROWS)),
        }
    }
}

/// # Safety
/// AVX-512 must be there; 64 bytes of header and 32 of the unit must be readable.
#[inline(always)]
unsafe fn k_scales(header: *const u8, unit: *const u8) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let widen = |bytes: *const u8| {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast())))
        };
        let scale = _mm512_mul_ps(halves(header), widen(unit));
        let minimum = _mm512_mul_ps(
            halves(header.add(2 * PANEL_ROWS)),
            widen(unit.add(PANEL_ROWS)),
        );
        let minimum = _mm512_xor_ps(minimum, _mm512_set1_ps(-0.0));
        Scales {
            scale: [scale; 2],
            minimum,
        }
    }
}

/// # Safety
/// AVX-512 must be there; 32 bytes of header and of the unit must be readable.
#[inline(always)]
unsafe fn half_scales(header: *const u8, unit: *const u8) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let widen = |bytes: *const u8| {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast())))
        };
        let d = halves(header);
        let scale = [
            _mm512_mul_ps(d, widen(unit)),
            _mm512_mul_ps(d, widen(unit.add(PANEL_ROWS))),
        ];
        Scales {
            scale,
            minimum: _mm512_setzero_ps(),
        }
    }
}

/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn looked_up(codes: *const u8, index: usize) -> (__m512i, __m512i) {
    // SAFETY: the caller's promise; the table has sixteen bytes.
    unsafe {
        let (low, high) = nibbles(codes, index);
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(IQ4_NL_CODES.as_ptr().cast()));
        (
            _mm512_shuffle_epi8(table, low),
            _mm512_shuffle_epi8(table, high),
        )
    }
}

/// # Safety
/// AVX-512 must be there; eight vectors must be readable.
#[inline(always)]
unsafe fn bytes(codes: *const u8, index: usize) -> (__m512i, __m512i) {
    // SAFETY: the caller's promise.
    unsafe { (vector(codes, index), vector(codes, index + 4)) }
}

macro_rules! format {
    ($name:ident, $weight_type:ident, $codes:path, |$header:ident, $unit:ident| $scales:expr) => {
        struct $name;

        impl Format for $name {
            const WEIGHT_TYPE: WeightType = WeightType::$weight_type;

            #[inline(always)]
            unsafe fn scales($header: *const u8, $unit: *const u8) -> Scales {
                // SAFETY: the caller's promise.
                unsafe { $scales }
            }

            #[inline(always)]
            unsafe fn codes(codes: *const u8, index: usize) -> (__m512i, __m512i) {
                // SAFETY: the caller's promise.
                unsafe { $codes(codes, index) }
            }
        }
    };
}

format!(Q4_0, Q4_0, nibbles, |_header, unit| one_scale(unit));
format!(Q4_1, Q4_1, nibbles, |_header, unit| scale_and_minimum(unit));
format!(Q5_0, Q5_0, five_bits, |_header, unit| one_scale(unit));
format!(Q5_1, Q5_1, five_bits, |_header, unit| scale_and_minimum(
    unit
));
format!(Q8_0, Q8_0, bytes, |_header, unit| one_scale(unit));
format!(Iq4Nl, IQ4_NL, looked_up, |_header, unit| one_scale(unit));
format!(Q4K, Q4_K, nibbles, |header, unit| k_scales(header, unit));
format!(Q5K, Q5_K, five_bits, |header, unit| k_scales(header, unit));
format!(Q6K, Q6_K, six_bits, |header, unit| half_scales(
    header, unit
));

pub(in super::super) fn multiply(operands: &Operands<'_>, products: Products<'_>) {
    match operands.weight_type {
        WeightType::Q4_0 => multiply_as::<Q4_0>(operands, products),
        WeightType::Q4_1 => multiply_as::<Q4_1>(operands, products),
        WeightType::Q5_0 => multiply_as::<Q5_0>(operands, products),
        WeightType::Q5_1 => multiply_as::<Q5_1>(operands, products),
        WeightType::Q8_0 => multiply_as::<Q8_0>(operands, products),
        WeightType::IQ4_NL => multiply_as::<Iq4Nl>(operands, products),
        WeightType::Q4_K => multiply_as::<Q4K>(operands, products),
        WeightType::Q5_K => multiply_as::<Q5K>(operands, products),
        WeightType::Q6_K => multiply_as::<Q6K>(operands, products),
    }
}

fn multiply_as<F: Format>(operands: &Operands<'_>, products: Products<'_>) {
    macro_rules! columns {
        ($($n:literal)*) => {
            match operands.columns {
                // SAFETY: the caller has checked all lengths, and an `Isa` of this level
                // exists only where the features were found.
                $($n => unsafe { tile::<F, $n>(operands, products) },)*
                _ => unreachable!("a tile has at most 12 columns"),
            }
        };
    }
    columns!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Multiplies one panel by `N` columns.
///
/// # Safety
/// The features must be there and all lengths as [`super::super::multiply`] checks them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn tile<F: Format, const N: usize>(operands: &Operands<'_>, mut products: Products<'_>) {
    let weight_type = F::WEIGHT_TYPE;
    let units = weight_type.block_len() / BLOCK;
    let mut sums = [_mm512_setzero_ps(); N];
    let mut weights = operands.panel.as_ptr();
    let mut activations = operands.tile.as_ptr();
    for _ in 0..operands.k / weight_type.block_len() {
        let header = weights;
        // SAFETY: the panel holds that many superblocks of a header and its units, the
        // tile as many blocks.
        unsafe {
            weights = weights.add(weight_type.header_bytes());
            for _ in 0..units {
                if N <= PREFETCH_COLUMNS_MAX {
                    prefetch(weights, weight_type.unit_bytes());
                }
                block::<F, N>(header, weights, activations, &mut sums);
                weights = weights.add(weight_type.unit_bytes());
                activations = activations.add(N * COLUMN_BYTES);
            }
        }
    }
    let mask = u16::MAX >> (PANEL_ROWS - products.rows);
    for (column, sum) in sums.iter().enumerate() {
        // SAFETY: the mask lets as many floats through as the column has places.
        unsafe { _mm512_mask_storeu_ps(products.column(column).as_mut_ptr(), mask, *sum) };
    }
}

/// A block of a tile of `N` columns, whose lines are `N` words long (`activations`).
#[derive(Clone, Copy)]
struct Columns<const N: usize>(*const u8);

impl<const N: usize> Columns<N> {
    const SCALE: usize = 8;
    const NEGATIVE_SUM: usize = 9;
    const NEGATIVE_LAST_SUM: usize = 10;
    const SCALED_SUM: usize = 11;

    /// One word of a column in every lane.
    ///
    /// # Safety
    /// AVX-512 must be there, and the block be readable.
    #[inline(always)]
    unsafe fn word(self, line: usize, column: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let place = self.0.cast::<i32>().add(line * N + column);
            _mm512_set1_epi32(place.read_unaligned())
        }
    }

    /// # Safety
    /// As for `word`.
    #[inline(always)]
    unsafe fn float(self, line: usize, column: usize) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_castsi512_ps(self.word(line, column)) }
    }

    /// Adds the products of four codes of each row with the words of `line`.
    ///
    /// # Safety
    /// As for `word`, with VNNI.
    #[inline(always)]
    unsafe fn dot(self, dots: &mut [__m512i; N], codes: __m512i, line: usize) {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *dot = unsafe { _mm512_dpbusd_epi32(*dot, codes, self.word(line, column)) };
        }
    }

    /// Adds what the integers stand for to the sums.
    ///
    /// # Safety
    /// As for `word`.
    #[inline(always)]
    unsafe fn add(self, sums: &mut [__m512; N], dots: &[__m512i; N], scale: __m512) {
        for (column, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let scale = _mm512_mul_ps(scale, self.float(Self::SCALE, column));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*dot), scale, *sum);
            }
        }
    }
}

/// Adds 32 elements of each column to the sums.
///
/// # Safety
/// The features must be there; a unit of weights and a block of `N` columns be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn block<F: Format, const N: usize>(
    header: *const u8,
    unit: *const u8,
    activations: *const u8,
    sums: &mut [__m512; N],
) {
    let columns = Columns::<N>(activations);
    // SAFETY: the caller's promise.
    unsafe {
        let codes = unit.add(F::WEIGHT_TYPE.unit_scale_bytes());
        let scales = F::scales(header, unit);
        if F::WEIGHT_TYPE.has_half_scales() {
            halves_block::<F, N>(codes, &scales, columns, sums);
            return;
        }
        // A code is larger by the offset than its value, so the sum starts that much lower.
        let mut dots = [_mm512_setzero_si512(); N];
        if F::WEIGHT_TYPE.offset() != 0 {
            dots = std::array::from_fn(|n| {
                times_offset::<F>(columns.word(Columns::<N>::NEGATIVE_SUM, n))
            });
        }
        for group in 0..4 {
            let (low, high) = F::codes(codes, group);
            columns.dot(&mut dots, low, group);
            columns.dot(&mut dots, high, group + 4);
        }
        columns.add(sums, &dots, scales.scale[0]);
        if F::WEIGHT_TYPE.has_minimum() {
            for (column, sum) in sums.iter_mut().enumerate() {
                let scaled_sum = columns.float(Columns::<N>::SCALED_SUM, column);
                *sum = _mm512_fmadd_ps(scales.minimum, scaled_sum, *sum);
            }
        }
    }
}

/// [`block`] where each 16 elements have a scale: words 0 to 3 are the first half.
///
/// # Safety
/// As for [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn halves_block<F: Format, const N: usize>(
    codes: *const u8,
    scales: &Scales,
    columns: Columns<N>,
    sums: &mut [__m512; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let words: [(__m512i, __m512i); 4] = std::array::from_fn(|group| F::codes(codes, group));
        let last = |n: usize| columns.word(Columns::<N>::NEGATIVE_LAST_SUM, n);
        let mut dots: [__m512i; N] = std::array::from_fn(|n| {
            let both = columns.word(Columns::<N>::NEGATIVE_SUM, n);
            times_offset::<F>(_mm512_sub_epi32(both, last(n)))
        });
        for (group, (first, _)) in words.iter().enumerate() {
            columns.dot(&mut dots, *first, group);
        }
        columns.add(sums, &dots, scales.scale[0]);
        dots = std::array::from_fn(|n| times_offset::<F>(last(n)));
        for (group, (_, second)) in words.iter().enumerate() {
            columns.dot(&mut dots, *second, group + 4);
        }
        columns.add(sums, &dots, scales.scale[1]);
    }
}

/// # Safety
/// AVX-512 must be there.
#[inline(always)]
unsafe fn times_offset<F: Format>(sums: __m512i) -> __m512i {
    let shift = F::WEIGHT_TYPE.offset().trailing_zeros().cast_signed();
    // SAFETY: the caller's promise. All offsets are powers of two.
    unsafe { _mm512_sll_epi32(sums, _mm_cvtsi32_si128(shift)) }
}

pub(in super::super) fn quantize_tile(columns: &[&[f32]], tile: &mut [u8]) {
    let width = columns.len();
    for (index, column) in columns.iter().enumerate() {
        for (block, values) in column.as_chunks::<BLOCK>().0.iter().enumerate() {
            let start = block * width * COLUMN_BYTES;
            let bytes = &mut tile[start..start + width * COLUMN_BYTES];
            // SAFETY: an `Isa` of this level exists only where the features were found.
            unsafe { quantize_block(values, bytes, width, index) };
        }
    }
}

/// Rounds 32 values to one column's places in a block of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn quantize_block(values: &[f32; BLOCK], bytes: &mut [u8], width: usize, column: usize) {
    assert!(bytes.len() == width * COLUMN_BYTES && column < width);
    // SAFETY: 32 floats are readable.
    let (first, last) = unsafe {
        (
            _mm512_loadu_ps(values.as_ptr()),
            _mm512_loadu_ps(values.as_ptr().add(16)),
        )
    };
    let largest = _mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(last));
    let largest = _mm512_reduce_max_ps(largest);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let round = |values| _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(inverse)));
    let (first_quants, last_quants) = (round(first), round(last));
    // A difference of a value and itself is 0 but for what is not finite.
    let zero = _mm512_add_ps(_mm512_sub_ps(first, first), _mm512_sub_ps(last, last));
    let finite = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(zero, _mm512_setzero_ps()) == u16::MAX;
    let scale = if finite { largest / 127.0 } else { f32::NAN };
    let last_sum = _mm512_reduce_add_epi32(last_quants);
    let sum = _mm512_reduce_add_epi32(first_quants) + last_sum;
    let words = _mm256_set_m128i(
        _mm512_cvtepi32_epi8(last_quants),
        _mm512_cvtepi32_epi8(first_quants),
    );
    let mut lines = [0u32; 12];
    // SAFETY: eight words are writable; the places of a column are within the block, whose
    // length was checked above.
    unsafe {
        _mm256_storeu_si256(lines.as_mut_ptr().cast(), words);
        lines[8] = scale.to_bits();
        lines[9] = (-sum).cast_unsigned();
        lines[10] = (-last_sum).cast_unsigned();
        lines[11] = (scale * sum as f32).to_bits();
        let out = bytes.as_mut_ptr().cast::<u32>().add(column);
        for (line, word) in lines.iter().enumerate() {
            out.add(line * width).write_unaligned(*word);
        }
    }
}
