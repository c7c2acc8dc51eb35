//! [`Simd`] with AVX2 and with AVX-512.

use std::arch::x86_64::*;

use super::{Kernel, Simd};
use crate::Isa;
use crate::isa::Level;

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Proof of AVX-512 F, BW, DQ and VL, besides what [`Avx2`] has.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

#[inline]
pub(super) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.level() {
        Level::Scalar | Level::Neon | Level::NeonDotprod | Level::NeonI8mm => kernel.scalar(),
        // SAFETY: an Isa of this level exists only where its instructions were detected.
        Level::Avx2 => unsafe { avx2(kernel) },
        // SAFETY: as above.
        Level::Avx512Vnni => unsafe { avx512(kernel) },
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.vector(Avx2(()))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.vector(Avx512(()))
}

/// An expression of intrinsics on registers.
macro_rules! registers {
    ($e:expr) => {{
        // SAFETY: the token proves the features; nothing but registers is touched.
        unsafe { $e }
    }};
}

/// An expression of intrinsics that read or write memory.
macro_rules! memory {
    ($e:expr) => {{
        // SAFETY: the token proves the features; the caller promises the memory.
        unsafe { $e }
    }};
}

impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;
    type M = __mmask16;

    const LANES: usize = 16;
    /// 6 x 4 accumulators, 4 vectors of the shared operand and a broadcast: 29 of 32.
    const BLOCK_VECTORS: usize = 4;

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: every x86-64 has the instruction, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        registers!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        memory!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        memory!(_mm512_storeu_ps(to, v))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> __m512 {
        memory!(_mm512_maskz_loadu_ps(first(n), from))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize, v: __m512) {
        memory!(_mm512_mask_storeu_ps(to, first(n), v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        registers!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        registers!(_mm512_roundscale_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(v))
    }
    #[inline(always)]
    fn scale_by_power(self, v: __m512, n: __m512) -> __m512 {
        registers!(_mm512_scalef_ps(v, n))
    }
    #[inline(always)]
    fn swap_pairs(self, v: __m512) -> __m512 {
        registers!(_mm512_permute_ps::<0b10_11_00_01>(v))
    }
    #[inline(always)]
    fn reduce_add(self, v: __m512) -> f32 {
        registers!(_mm512_reduce_add_ps(v))
    }
    #[inline(always)]
    fn reduce_max(self, v: __m512) -> f32 {
        registers!(_mm512_reduce_max_ps(v))
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        registers!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn is_nan(self, v: __m512) -> __mmask16 {
        registers!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v))
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> __mmask16 {
        bits as __mmask16
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_mask_blend_ps(m, b, a))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        registers!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn shl(self, a: __m512i, by: __m512i) -> __m512i {
        registers!(_mm512_sllv_epi32(a, by))
    }
    #[inline(always)]
    fn shr(self, a: __m512i, by: __m512i) -> __m512i {
        registers!(_mm512_srlv_epi32(a, by))
    }
    #[inline(always)]
    fn sar(self, a: __m512i, by: __m512i) -> __m512i {
        registers!(_mm512_srav_epi32(a, by))
    }
    #[inline(always)]
    fn float(self, a: __m512i) -> __m512 {
        registers!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn bits(self, v: __m512) -> __m512i {
        registers!(_mm512_castps_si512(v))
    }
    #[inline(always)]
    fn of_bits(self, a: __m512i) -> __m512 {
        registers!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn lane_numbers(self) -> __m512i {
        registers!(_mm512_setr_epi32(
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        ))
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], i: __m512i) -> __m512 {
        memory!(_mm512_permutexvar_ps(i, _mm512_loadu_ps(table.as_ptr())))
    }
    #[inline(always)]
    fn low_f16(self, a: __m512i) -> __m512 {
        registers!(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)))
    }
    #[inline(always)]
    fn both_f16(self, a: __m512i) -> [__m512; 2] {
        registers!({
            // Word 2i goes to i, word 2i + 1 to 16 + i: one permutation for both halves.
            let order = _mm512_set_epi16(
                31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20,
                18, 16, 14, 12, 10, 8, 6, 4, 2, 0,
            );
            let halves = _mm512_permutexvar_epi16(order, a);
            [
                _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m512i {
        memory!(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> __m512i {
        memory!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_u16_first(self, from: *const u16, n: usize) -> __m512i {
        memory!(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
            first(n),
            from.cast()
        )))
    }
    #[inline(always)]
    unsafe fn store_u16_first(self, to: *mut u16, n: usize, a: __m512i) {
        memory!(_mm512_mask_cvtepi32_storeu_epi16(to.cast(), first(n), a))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        memory!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn store_f16_first(self, to: *mut u16, n: usize, v: __m512) {
        memory!(_mm256_mask_storeu_epi16(
            to.cast(),
            first(n),
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)
        ))
    }
    #[inline(always)]
    unsafe fn differs(self, from: *const u16, value: u16) -> u32 {
        memory!(_mm512_cmpneq_epi16_mask(
            _mm512_loadu_si512(from.cast()),
            _mm512_set1_epi16(value as i16)
        ))
    }
    #[inline(always)]
    unsafe fn load_columns(self, base: *const u8, offsets: &[usize; 16]) -> [__m512i; 4] {
        memory!({
            let (a, b) = (four_rows(base, offsets, 0), four_rows(base, offsets, 1));
            let (c, d) = (four_rows(base, offsets, 2), four_rows(base, offsets, 3));
            let (ab, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        })
    }
}

/// 16 bytes each of rows `i`, `4 + i`, `8 + i` and `12 + i`.
///
/// # Safety
/// As for [`Simd::load_columns`].
#[inline(always)]
unsafe fn four_rows(base: *const u8, offsets: &[usize; 16], i: usize) -> __m512i {
    memory!({
        let v = _mm512_castsi128_si512(row(base, offsets[i]));
        let v = _mm512_inserti32x4::<1>(v, row(base, offsets[4 + i]));
        let v = _mm512_inserti32x4::<2>(v, row(base, offsets[8 + i]));
        _mm512_inserti32x4::<3>(v, row(base, offsets[12 + i]))
    })
}

/// 16 bytes each of rows `i` and `4 + i`.
///
/// # Safety
/// As for [`Simd::load_columns`].
#[inline(always)]
unsafe fn two_rows(base: *const u8, offsets: &[usize; 16], i: usize) -> __m256i {
    memory!(_mm256_inserti128_si256::<1>(
        _mm256_castsi128_si256(row(base, offsets[i])),
        row(base, offsets[4 + i])
    ))
}

/// # Safety
/// 16 bytes are readable at `base + offset`.
#[inline(always)]
unsafe fn row(base: *const u8, offset: usize) -> __m128i {
    memory!(_mm_loadu_si128(base.add(offset).cast()))
}

/// The mask of the first `n <= 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx2 {
    type V = __m256;
    type I = __m256i;
    type M = __m256;

    const LANES: usize = 8;
    /// 6 x 2 accumulators, 2 vectors of the shared operand and a broadcast: 15 of 16.
    const BLOCK_VECTORS: usize = 2;

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: every x86-64 has the instruction, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        registers!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        memory!(_mm256_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m256) {
        memory!(_mm256_storeu_ps(to, v))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> __m256 {
        memory!(_mm256_maskload_ps(from, lanes(n)))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize, v: __m256) {
        memory!(_mm256_maskstore_ps(to, lanes(n), v))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        registers!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn round(self, v: __m256) -> __m256 {
        registers!(_mm256_round_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(v))
    }
    #[inline(always)]
    fn scale_by_power(self, v: __m256, n: __m256) -> __m256 {
        // In two factors, so that each is a normal number: 2^128 alone is not.
        registers!({
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let v = _mm256_mul_ps(v, power_of_two(half));
            _mm256_mul_ps(v, power_of_two(_mm256_sub_epi32(n, half)))
        })
    }
    #[inline(always)]
    fn swap_pairs(self, v: __m256) -> __m256 {
        registers!(_mm256_permute_ps::<0b10_11_00_01>(v))
    }
    #[inline(always)]
    fn reduce_add(self, v: __m256) -> f32 {
        registers!({
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        })
    }
    #[inline(always)]
    fn reduce_max(self, v: __m256) -> f32 {
        registers!({
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        })
    }

    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn is_nan(self, v: __m256) -> __m256 {
        registers!(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v))
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> __m256 {
        registers!({
            let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lane);
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane))
        })
    }
    #[inline(always)]
    fn select(self, m: __m256, a: __m256, b: __m256) -> __m256 {
        registers!(_mm256_blendv_ps(b, a, m))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m256i {
        registers!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn add_int(self, a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn shl(self, a: __m256i, by: __m256i) -> __m256i {
        registers!(_mm256_sllv_epi32(a, by))
    }
    #[inline(always)]
    fn shr(self, a: __m256i, by: __m256i) -> __m256i {
        registers!(_mm256_srlv_epi32(a, by))
    }
    #[inline(always)]
    fn sar(self, a: __m256i, by: __m256i) -> __m256i {
        registers!(_mm256_srav_epi32(a, by))
    }
    #[inline(always)]
    fn float(self, a: __m256i) -> __m256 {
        registers!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn bits(self, v: __m256) -> __m256i {
        registers!(_mm256_castps_si256(v))
    }
    #[inline(always)]
    fn of_bits(self, a: __m256i) -> __m256 {
        registers!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    fn lane_numbers(self) -> __m256i {
        registers!(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], i: __m256i) -> __m256 {
        memory!({
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), i);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), i);
            // Bit 3 of the index, moved to the sign, picks the half.
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(i)))
        })
    }
    #[inline(always)]
    fn low_f16(self, a: __m256i) -> __m256 {
        registers!(_mm256_cvtph_ps(low_halves(a)))
    }
    #[inline(always)]
    fn both_f16(self, a: __m256i) -> [__m256; 2] {
        registers!([self.low_f16(a), self.low_f16(_mm256_srli_epi32::<16>(a))])
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m256i {
        memory!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> __m256i {
        memory!(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_u16_first(self, from: *const u16, n: usize) -> __m256i {
        let mut words = [0u16; 8];
        memory!({
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), words.as_mut_ptr().cast(), 2 * n);
            self.load_u16(words.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn store_u16_first(self, to: *mut u16, n: usize, a: __m256i) {
        memory!(store_words(to, n, low_halves(a)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        memory!(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn store_f16_first(self, to: *mut u16, n: usize, v: __m256) {
        memory!(store_words(
            to,
            n,
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)
        ))
    }
    #[inline(always)]
    unsafe fn differs(self, from: *const u16, value: u16) -> u32 {
        memory!({
            let value = _mm256_set1_epi16(value as i16);
            let low = _mm256_cmpeq_epi16(_mm256_loadu_si256(from.cast()), value);
            let high = _mm256_cmpeq_epi16(_mm256_loadu_si256(from.add(16).cast()), value);
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
            !(_mm256_movemask_epi8(bytes) as u32)
        })
    }
    #[inline(always)]
    unsafe fn load_columns(self, base: *const u8, offsets: &[usize; 16]) -> [__m256i; 4] {
        memory!({
            let (a, b) = (two_rows(base, offsets, 0), two_rows(base, offsets, 1));
            let (c, d) = (two_rows(base, offsets, 2), two_rows(base, offsets, 3));
            let (ab, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        })
    }
}

/// `2^n` for `n` in -126..=127.
#[inline(always)]
fn power_of_two(n: __m256i) -> __m256 {
    // SAFETY: called by methods of the Avx2 token only.
    unsafe {
        let exponent = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
    }
}

/// All ones in the first `n <= 8` lanes.
#[inline(always)]
fn lanes(n: usize) -> __m256i {
    // SAFETY: called by methods of the Avx2 token only.
    unsafe {
        let number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), number)
    }
}

/// The low halves of eight lanes.
#[inline(always)]
fn low_halves(a: __m256i) -> __m128i {
    // SAFETY: called by methods of the Avx2 token only.
    unsafe {
        let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
        let packed = _mm256_packus_epi32(low, low);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b00_00_10_00>(packed))
    }
}

/// # Safety
/// `n <= 8` words are writable at `to`.
#[inline(always)]
unsafe fn store_words(to: *mut u16, n: usize, words: __m128i) {
    let mut buffer = [0u16; 8];
    // SAFETY: the buffer holds eight words; the caller promises `n` words at `to`.
    unsafe {
        _mm_storeu_si128(buffer.as_mut_ptr().cast(), words);
        if n == 8 {
            _mm_storeu_si128(to.cast(), words);
        } else {
            std::ptr::copy_nonoverlapping(buffer.as_ptr().cast::<u8>(), to.cast(), 2 * n);
        }
    }
}
