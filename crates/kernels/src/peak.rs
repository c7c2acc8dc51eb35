//! The most that a core could do: products with nothing to load, convert or store.
//!
//! Benches state a kernel's speed as a share of this. The loops keep enough sums apart that
//! none waits for another.

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;

/// Sums that are kept apart: more than the steps a product takes times those a cycle starts.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

/// Does products of 8-bit numbers in registers, `rounds` times over; returns how many
/// operations these were, a product and its addition counted as two.
///
/// 0 where the instruction set has no loop of its own here.
#[must_use]
pub fn int8(isa: Isa, rounds: u64) -> u64 {
    match isa.level() {
        // SAFETY: a value of `Isa` is proof of its instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { x86::avx512_vnni(rounds) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(rounds) },
        _ => {
            let _ = rounds;
            0
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SUMS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// # Safety
    /// AVX-512 VNNI must be there.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn avx512_vnni(rounds: u64) -> u64 {
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        rounds * SUMS as u64 * 64 * 2
    }

    /// Without VNNI: pairs to 16 bits, these to 32, and the sum.
    ///
    /// # Safety
    /// AVX2 must be there.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2(rounds: u64) -> u64 {
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(5)));
        let ones = black_box(_mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..rounds {
            // What is the same in each turn must be computed in each.
            let a = black_box(a);
            for sum in &mut sums {
                let pairs = _mm256_maddubs_epi16(a, _mm256_xor_si256(b, *sum));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
        rounds * SUMS as u64 * 32 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_where_there_is_a_loop() {
        for isa in Isa::available() {
            let done = int8(isa, 3);
            let has_loop = isa != Isa::SCALAR && cfg!(target_arch = "x86_64");
            assert_eq!(done > 0, has_loop, "{isa}");
            assert_eq!(int8(isa, 6), 2 * done);
        }
    }
}
