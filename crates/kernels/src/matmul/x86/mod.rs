//! AVX-512 VNNI and AVX2.

pub(super) mod avx2;
pub(super) mod avx512;
