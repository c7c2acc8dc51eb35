//! Conversion of values and rows between the float types.

use crate::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// A row to read.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    F32(&'a [f32]),
    /// Bits of f16.
    F16(&'a [u16]),
    /// Bits of bf16.
    Bf16(&'a [u16]),
}

/// A row to write.
#[derive(Debug)]
pub enum RowMut<'a> {
    F32(&'a mut [f32]),
    /// Bits of f16.
    F16(&'a mut [u16]),
    /// Bits of bf16.
    Bf16(&'a mut [u16]),
}

/// The value of an f16. Exact; a NaN becomes quiet.
#[must_use]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    let magnitude = match (exponent, fraction) {
        // A subnormal is its fraction times 2^-24, which f32 holds exactly.
        (0, _) => (fraction as f32 * 2f32.powi(-24)).to_bits(),
        (0x1f, 0) => 0x7f80_0000,
        (0x1f, _) => 0x7fc0_0000 | fraction << 13,
        // The bias goes from 15 to 127.
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The nearest f16, ties to even; beyond the largest, infinity. A NaN becomes quiet.
#[must_use]
pub fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 | (magnitude >> 13) & 0x1ff
    } else if magnitude >= 0x4780_0000 {
        // 65536 and more; what rounds up to it from below does so by carry.
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Below 2^-14: adding 0.5 leaves multiples of 2^-24, rounded by the hardware.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let odd = magnitude >> 13 & 1;
        (magnitude - (112 << 23) + 0xfff + odd) >> 13
    };
    sign | half as u16
}

/// The value of a bf16. Exact.
#[must_use]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16, ties to even. A NaN becomes quiet.
#[must_use]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + (0x7fff + (bits >> 16 & 1))) >> 16) as u16
}

/// Copies `src` to `dst`, converting. Panics unless the rows have one length.
pub fn convert(isa: Isa, dst: RowMut<'_>, src: Row<'_>) {
    match (dst, src) {
        (RowMut::F32(dst), Row::F32(src)) => dst.copy_from_slice(src),
        (RowMut::F16(dst), Row::F16(src)) | (RowMut::Bf16(dst), Row::Bf16(src)) => {
            dst.copy_from_slice(src);
        }
        (RowMut::F32(dst), Row::F16(src)) => run::<F16, F32>(isa, dst, src),
        (RowMut::F32(dst), Row::Bf16(src)) => run::<Bf16, F32>(isa, dst, src),
        (RowMut::F16(dst), Row::F32(src)) => run::<F32, F16>(isa, dst, src),
        (RowMut::F16(dst), Row::Bf16(src)) => run::<Bf16, F16>(isa, dst, src),
        (RowMut::Bf16(dst), Row::F32(src)) => run::<F32, Bf16>(isa, dst, src),
        (RowMut::Bf16(dst), Row::F16(src)) => run::<F16, Bf16>(isa, dst, src),
    }
}

fn run<A: Element, B: Element>(isa: Isa, dst: &mut [B::Bits], src: &[A::Bits]) {
    assert_eq!(dst.len(), src.len(), "rows of one length");
    dispatch(isa, Convert::<A, B> { dst, src });
}

/// A float type in memory.
trait Element {
    type Bits: Copy;
    fn get(bits: Self::Bits) -> f32;
    fn put(x: f32) -> Self::Bits;
    /// # Safety
    /// `n` elements are readable at `from`.
    unsafe fn load<S: Simd>(s: S, from: *const Self::Bits, n: usize) -> S::V;
    /// # Safety
    /// `n` elements are writable at `to`.
    unsafe fn store<S: Simd>(s: S, to: *mut Self::Bits, n: usize, v: S::V);
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    type Bits = f32;
    fn get(bits: f32) -> f32 {
        bits
    }
    fn put(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const f32, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_first(from, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut f32, n: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_first(to, n, v) }
    }
}

impl Element for F16 {
    type Bits = u16;
    fn get(bits: u16) -> f32 {
        f16_to_f32(bits)
    }
    fn put(x: f32) -> u16 {
        f32_to_f16(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u16, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        s.low_f16(unsafe { s.load_u16_first(from, n) })
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut u16, n: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_f16_first(to, n, v) }
    }
}

impl Element for Bf16 {
    type Bits = u16;
    fn get(bits: u16) -> f32 {
        bf16_to_f32(bits)
    }
    fn put(x: f32) -> u16 {
        f32_to_bf16(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u16, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        let bits = unsafe { s.load_u16_first(from, n) };
        s.of_bits(s.shl(bits, s.splat_int(16)))
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut u16, n: usize, v: S::V) {
        let bits = s.bits(v);
        let high = s.shr(bits, s.splat_int(16));
        let odd = s.and(high, s.splat_int(1));
        let round = s.add_int(odd, s.splat_int(0x7fff));
        let rounded = s.shr(s.add_int(bits, round), s.splat_int(16));
        let quiet = s.or(high, s.splat_int(0x40));
        let picked = s.select(s.is_nan(v), s.of_bits(quiet), s.of_bits(rounded));
        // SAFETY: the caller's promise.
        unsafe { s.store_u16_first(to, n, s.bits(picked)) }
    }
}

struct Convert<'a, A: Element, B: Element> {
    dst: &'a mut [B::Bits],
    src: &'a [A::Bits],
}

impl<A: Element, B: Element> Kernel for Convert<'_, A, B> {
    type Output = ();

    fn scalar(self) {
        for (dst, src) in self.dst.iter_mut().zip(self.src) {
            *dst = B::put(A::get(*src));
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        let n = self.src.len();
        let (to, from) = (self.dst.as_mut_ptr(), self.src.as_ptr());
        let whole = n - n % S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: i + LANES <= n, the length of both rows.
            unsafe { B::store(s, to.add(i), S::LANES, A::load(s, from.add(i), S::LANES)) };
        }
        if whole < n {
            let rest = n - whole;
            // SAFETY: whole + rest = n.
            unsafe { B::store(s, to.add(whole), rest, A::load(s, from.add(whole), rest)) };
        }
    }
}
