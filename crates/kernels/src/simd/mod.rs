//! Vectors for the float kernels: a kernel is written once over [`Simd`] and compiled for
//! each instruction set.
//!
//! A [`Simd`] value is a token: it exists only inside [`dispatch`], below a function that
//! enables the set's features, so its methods may use them. Everything generic over it is
//! `#[inline(always)]`, which is what carries the features into the kernel.

#[cfg(target_arch = "aarch64")]
mod arm;
mod elementwise;
pub(crate) mod math;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use elementwise::{Map, Map2, Operand, Rows, load_at, map, map2};

use crate::Isa;

/// A computation with a scalar specification and a vector form.
pub(crate) trait Kernel {
    type Output;
    fn scalar(self) -> Self::Output;
    fn vector<S: Simd>(self, simd: S) -> Self::Output;
}

/// A computation of plain loops, which the compiler turns into the set's vectors: the
/// specification and every vector form are one text, and agree bit for bit.
pub(crate) trait Loops {
    /// To be `#[inline(always)]`, which is what brings it below a function with the features.
    fn run(self);
}

impl<L: Loops> Kernel for L {
    type Output = ();

    fn scalar(self) {
        self.run();
    }

    #[inline(always)]
    fn vector<S: Simd>(self, _: S) {
        self.run();
    }
}

/// Runs `kernel` with the instructions of `isa`.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        x86::dispatch(isa, kernel)
    }
    #[cfg(target_arch = "aarch64")]
    {
        arm::dispatch(isa, kernel)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = isa;
        kernel.scalar()
    }
}

/// Vectors of `LANES` 32-bit lanes.
///
/// The `first` forms touch only the first `n <= LANES` elements; lanes beyond read as zero.
/// Pointers need no alignment.
pub(crate) trait Simd: Copy {
    type V: Copy;
    type I: Copy;
    type M: Copy;

    const LANES: usize;
    /// By how many vectors six rows of a matrix product fit the registers: 2 or 4.
    const BLOCK_VECTORS: usize;

    /// Asks for a cache line, which may be anywhere.
    fn prefetch(self, line: *const u8);

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` floats are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` floats are writable at `to`.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// # Safety
    /// `n` floats are readable at `from`.
    unsafe fn load_first(self, from: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `n` floats are writable at `to`.
    unsafe fn store_first(self, to: *mut f32, n: usize, v: Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The second operand where either is a NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The second operand where either is a NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v * 2^n` for integral `n` in -126..=128 and `v` in 0.5..2.
    fn scale_by_power(self, v: Self::V, n: Self::V) -> Self::V;
    /// The two lanes of each pair exchanged.
    fn swap_pairs(self, v: Self::V) -> Self::V;
    fn reduce_add(self, v: Self::V) -> f32;
    fn reduce_max(self, v: Self::V) -> f32;

    fn less(self, a: Self::V, b: Self::V) -> Self::M;
    fn is_nan(self, v: Self::V) -> Self::M;
    /// Lane `i` is bit `i`.
    fn mask(self, bits: u64) -> Self::M;
    /// `a` where the mask is set, else `b`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;

    fn splat_int(self, x: i32) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl(self, a: Self::I, by: Self::I) -> Self::I;
    fn shr(self, a: Self::I, by: Self::I) -> Self::I;
    /// Arithmetic shift right.
    fn sar(self, a: Self::I, by: Self::I) -> Self::I;
    fn float(self, a: Self::I) -> Self::V;
    fn bits(self, v: Self::V) -> Self::I;
    fn of_bits(self, a: Self::I) -> Self::V;
    /// `0, 1, 2, ...`
    fn lane_numbers(self) -> Self::I;
    /// `table[i]` for lanes `i` in 0..16.
    fn lookup(self, table: &[f32; 16], i: Self::I) -> Self::V;
    /// The low halves of the lanes, as f16.
    fn low_f16(self, a: Self::I) -> Self::V;
    /// The low and the high halves of the lanes, as f16.
    fn both_f16(self, a: Self::I) -> [Self::V; 2];

    /// `LANES` bytes, zero-extended.
    /// # Safety
    /// `LANES` bytes are readable at `from`.
    unsafe fn load_u8(self, from: *const u8) -> Self::I;
    /// `LANES` 16-bit words, zero-extended.
    /// # Safety
    /// `LANES` words are readable at `from`.
    unsafe fn load_u16(self, from: *const u16) -> Self::I;
    /// # Safety
    /// `n` words are readable at `from`.
    unsafe fn load_u16_first(self, from: *const u16, n: usize) -> Self::I;
    /// The low halves of the lanes.
    /// # Safety
    /// `n` words are writable at `to`.
    unsafe fn store_u16_first(self, to: *mut u16, n: usize, a: Self::I);
    /// # Safety
    /// `LANES` words are readable at `from`.
    unsafe fn load_f16(self, from: *const u16) -> Self::V;
    /// # Safety
    /// `n` words are writable at `to`.
    unsafe fn store_f16_first(self, to: *mut u16, n: usize, v: Self::V);
    /// Bit `i` says that word `i` of 32 differs from `value`.
    /// # Safety
    /// 32 words are readable at `from`.
    unsafe fn differs(self, from: *const u16, value: u16) -> u32;
    /// The four 32-bit words at `base + offsets[lane]`, each word a vector over the lanes.
    /// # Safety
    /// 16 bytes are readable at `base + offset` for the first `LANES` offsets.
    unsafe fn load_columns(self, base: *const u8, offsets: &[usize; 16]) -> [Self::I; 4];
}
