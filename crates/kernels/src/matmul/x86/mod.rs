//! AVX-512 VNNI and AVX2.

pub(super) mod avx2;
pub(super) mod avx512;

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// How far ahead of the multiplication weights are asked for. With one column a core waits
/// for memory, and what it fetches by itself ends at each page: with 8 KiB one Zen 5 core
/// read 28 GB/s of Q4_0 where it had read 22.
const PREFETCH_BYTES: usize = 8 << 10;

/// Columns of a tile up to which it pays: with more, arithmetic takes longer than memory.
const PREFETCH_COLUMNS_MAX: usize = 4;

const CACHE_LINE_BYTES: usize = 64;

/// Asks for the unit of weights that comes so much later. It may lie behind the panel, which
/// is another panel more often than not.
#[inline(always)]
fn prefetch(weights: *const u8, unit_bytes: usize) {
    for line in 0..unit_bytes.div_ceil(CACHE_LINE_BYTES) {
        let ahead = weights.wrapping_add(PREFETCH_BYTES + line * CACHE_LINE_BYTES);
        // SAFETY: SSE is there on every x86-64; what is not mapped is not fetched.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
    }
}
