//! [`Simd`] with NEON, as every aarch64 has it: the later levels add nothing for floats.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, Simd};
use crate::Isa;
use crate::isa::Level;

/// Proof of NEON.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

#[inline]
pub(super) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.level() {
        Level::Neon | Level::NeonDotprod | Level::NeonI8mm => {
            // SAFETY: an Isa of these levels exists only where NEON was detected.
            unsafe { neon(kernel) }
        }
        Level::Scalar | Level::Avx2 | Level::Avx512Vnni => kernel.scalar(),
    }
}

#[target_feature(enable = "neon")]
fn neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.vector(Neon(()))
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

impl Simd for Neon {
    type V = float32x4_t;
    type I = uint32x4_t;
    type M = uint32x4_t;

    const LANES: usize = 4;
    /// 6 x 4 accumulators, 4 vectors of the shared operand and a broadcast: 29 of 32.
    const BLOCK_VECTORS: usize = 4;

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: every aarch64 has the instruction, which never faults.
        unsafe {
            asm!(
                "prfm pldl2keep, [{line}]",
                line = in(reg) line,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        registers!(vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        memory!(vld1q_f32(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: float32x4_t) {
        memory!(vst1q_f32(to, v))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> float32x4_t {
        let mut lanes = [0f32; 4];
        memory!({
            match n {
                0 => {}
                1 => copy::<_, 1>(from, lanes.as_mut_ptr()),
                2 => copy::<_, 2>(from, lanes.as_mut_ptr()),
                3 => copy::<_, 3>(from, lanes.as_mut_ptr()),
                _ => return vld1q_f32(from),
            }
            vld1q_f32(lanes.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize, v: float32x4_t) {
        let mut lanes = [0f32; 4];
        memory!({
            vst1q_f32(lanes.as_mut_ptr(), v);
            match n {
                0 => {}
                1 => copy::<_, 1>(lanes.as_ptr(), to),
                2 => copy::<_, 2>(lanes.as_ptr(), to),
                3 => copy::<_, 3>(lanes.as_ptr(), to),
                _ => vst1q_f32(to, v),
            }
        })
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        registers!(vfmaq_f32(c, a, b))
    }
    // `fmax` and `fmin` would give a NaN where either is one.
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vbslq_f32(vcltq_f32(a, b), a, b))
    }
    #[inline(always)]
    fn round(self, v: float32x4_t) -> float32x4_t {
        registers!(vrndnq_f32(v))
    }
    #[inline(always)]
    fn scale_by_power(self, v: float32x4_t, n: float32x4_t) -> float32x4_t {
        // In two factors, so that each is a normal number: 2^128 alone is not.
        registers!({
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let v = vmulq_f32(v, power_of_two(half));
            vmulq_f32(v, power_of_two(vsubq_s32(n, half)))
        })
    }
    #[inline(always)]
    fn swap_pairs(self, v: float32x4_t) -> float32x4_t {
        registers!(vrev64q_f32(v))
    }
    #[inline(always)]
    fn reduce_add(self, v: float32x4_t) -> f32 {
        registers!(vaddvq_f32(v))
    }
    #[inline(always)]
    fn reduce_max(self, v: float32x4_t) -> f32 {
        registers!(vmaxnmvq_f32(v))
    }

    #[inline(always)]
    fn less(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        registers!(vcltq_f32(a, b))
    }
    #[inline(always)]
    fn is_nan(self, v: float32x4_t) -> uint32x4_t {
        registers!(vmvnq_u32(vceqq_f32(v, v)))
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> uint32x4_t {
        const OWN: [u32; 4] = [1, 2, 4, 8];
        memory!(vtstq_u32(vdupq_n_u32(bits as u32), vld1q_u32(OWN.as_ptr())))
    }
    #[inline(always)]
    fn select(self, m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        registers!(vbslq_f32(m, a, b))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> uint32x4_t {
        registers!(vdupq_n_u32(x.cast_unsigned()))
    }
    #[inline(always)]
    fn and(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        registers!(vandq_u32(a, b))
    }
    #[inline(always)]
    fn or(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        registers!(vorrq_u32(a, b))
    }
    #[inline(always)]
    fn add_int(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        registers!(vaddq_u32(a, b))
    }
    #[inline(always)]
    fn shl(self, a: uint32x4_t, by: uint32x4_t) -> uint32x4_t {
        registers!(vshlq_u32(a, vreinterpretq_s32_u32(by)))
    }
    #[inline(always)]
    fn shr(self, a: uint32x4_t, by: uint32x4_t) -> uint32x4_t {
        registers!(vshlq_u32(a, vnegq_s32(vreinterpretq_s32_u32(by))))
    }
    #[inline(always)]
    fn sar(self, a: uint32x4_t, by: uint32x4_t) -> uint32x4_t {
        registers!({
            let left = vnegq_s32(vreinterpretq_s32_u32(by));
            vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a), left))
        })
    }
    #[inline(always)]
    fn float(self, a: uint32x4_t) -> float32x4_t {
        registers!(vcvtq_f32_s32(vreinterpretq_s32_u32(a)))
    }
    #[inline(always)]
    fn bits(self, v: float32x4_t) -> uint32x4_t {
        registers!(vreinterpretq_u32_f32(v))
    }
    #[inline(always)]
    fn of_bits(self, a: uint32x4_t) -> float32x4_t {
        registers!(vreinterpretq_f32_u32(a))
    }
    #[inline(always)]
    fn lane_numbers(self) -> uint32x4_t {
        const NUMBERS: [u32; 4] = [0, 1, 2, 3];
        memory!(vld1q_u32(NUMBERS.as_ptr()))
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], i: uint32x4_t) -> float32x4_t {
        memory!({
            // The four bytes of entry `i` are at `4 * i` and behind it.
            let first = vmulq_n_u32(i, 0x0404_0404);
            let bytes = vaddq_u32(first, vdupq_n_u32(0x0302_0100));
            let table = vld1q_u8_x4(table.as_ptr().cast());
            vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(bytes)))
        })
    }
    #[inline(always)]
    fn low_f16(self, a: uint32x4_t) -> float32x4_t {
        registers!(widen(vmovn_u32(a)))
    }
    #[inline(always)]
    fn both_f16(self, a: uint32x4_t) -> [float32x4_t; 2] {
        registers!([widen(vmovn_u32(a)), widen(vshrn_n_u32::<16>(a))])
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> uint32x4_t {
        memory!({
            let four = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            vmovl_u16(vget_low_u16(vmovl_u8(four)))
        })
    }
    #[inline(always)]
    unsafe fn load_u16(self, from: *const u16) -> uint32x4_t {
        memory!(vmovl_u16(vld1_u16(from)))
    }
    #[inline(always)]
    unsafe fn load_u16_first(self, from: *const u16, n: usize) -> uint32x4_t {
        let mut words = [0u16; 4];
        memory!({
            match n {
                0 => {}
                1 => copy::<_, 1>(from, words.as_mut_ptr()),
                2 => copy::<_, 2>(from, words.as_mut_ptr()),
                3 => copy::<_, 3>(from, words.as_mut_ptr()),
                _ => return self.load_u16(from),
            }
            self.load_u16(words.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn store_u16_first(self, to: *mut u16, n: usize, a: uint32x4_t) {
        memory!(store_words(to, n, vmovn_u32(a)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> float32x4_t {
        memory!(widen(vld1_u16(from)))
    }
    #[inline(always)]
    unsafe fn store_f16_first(self, to: *mut u16, n: usize, v: float32x4_t) {
        memory!(store_words(to, n, vreinterpret_u16_f16(vcvt_f16_f32(v))))
    }
    #[inline(always)]
    unsafe fn differs(self, from: *const u16, value: u16) -> u32 {
        const OWN: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        memory!({
            let (value, own) = (vdupq_n_u16(value), vld1q_u8(OWN.as_ptr()));
            // A byte for each word, that of its own bit where the word is equal.
            let equal = |at: usize| {
                let low = vmovn_u16(vceqq_u16(vld1q_u16(from.add(at)), value));
                let high = vceqq_u16(vld1q_u16(from.add(at + 8)), value);
                vandq_u8(vmovn_high_u16(low, high), own)
            };
            // Three sums of neighbours leave a byte of eight words' bits.
            let sums = vpaddq_u8(equal(0), equal(16));
            let sums = vpaddq_u8(sums, sums);
            !vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vpaddq_u8(sums, sums)))
        })
    }
    #[inline(always)]
    unsafe fn load_columns(self, base: *const u8, offsets: &[usize; 16]) -> [uint32x4_t; 4] {
        memory!({
            let row = |i: usize| vreinterpretq_u32_u8(vld1q_u8(base.add(offsets[i])));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let (ab, ab_high) = (vzip1q_u32(a, b), vzip2q_u32(a, b));
            let (cd, cd_high) = (vzip1q_u32(c, d), vzip2q_u32(c, d));
            [
                low_pairs(ab, cd),
                high_pairs(ab, cd),
                low_pairs(ab_high, cd_high),
                high_pairs(ab_high, cd_high),
            ]
        })
    }
}

/// Copies `N` elements, as many as the compiler knows.
///
/// # Safety
/// They must be readable at `from` and writable at `to`, which are apart.
#[inline(always)]
unsafe fn copy<T, const N: usize>(from: *const T, to: *mut T) {
    memory!({
        let elements = from.cast::<[T; N]>().read_unaligned();
        to.cast::<[T; N]>().write_unaligned(elements);
    })
}

/// `2^n` for `n` in -126..=127.
#[inline(always)]
fn power_of_two(n: int32x4_t) -> float32x4_t {
    registers!({
        let exponent = vaddq_s32(n, vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
    })
}

/// The values of four f16.
#[inline(always)]
fn widen(halves: uint16x4_t) -> float32x4_t {
    registers!(vcvt_f32_f16(vreinterpret_f16_u16(halves)))
}

#[inline(always)]
fn low_pairs(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    registers!(vcombine_u32(vget_low_u32(a), vget_low_u32(b)))
}

#[inline(always)]
fn high_pairs(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    registers!(vcombine_u32(vget_high_u32(a), vget_high_u32(b)))
}

/// # Safety
/// `n <= 4` words are writable at `to`.
#[inline(always)]
unsafe fn store_words(to: *mut u16, n: usize, words: uint16x4_t) {
    let mut buffer = [0u16; 4];
    memory!({
        vst1_u16(buffer.as_mut_ptr(), words);
        match n {
            0 => {}
            1 => copy::<_, 1>(buffer.as_ptr(), to),
            2 => copy::<_, 2>(buffer.as_ptr(), to),
            3 => copy::<_, 3>(buffer.as_ptr(), to),
            _ => vst1_u16(to, words),
        }
    })
}
