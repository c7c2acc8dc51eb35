//! The Walsh-Hadamard transform of a row: llama.cpp turns queries, keys and values with it
//! before they are rounded to a quantised cache, so that no value stands out, and turns the
//! result back.

use crate::Isa;
use crate::simd::{Loops, dispatch};

/// `out = H row / sqrt(n)`, with `H` of Sylvester's order. The instruction sets agree bit for
/// bit: every sum has its place, in `log2 n` passes.
///
/// Panics unless both have one length, a power of two.
pub fn hadamard(isa: Isa, out: &mut [f32], row: &[f32]) {
    assert_eq!(out.len(), row.len(), "a result for each element");
    assert!(row.len().is_power_of_two(), "a length of a power of two");
    dispatch(isa, Transform { out, row });
}

struct Transform<'a> {
    out: &'a mut [f32],
    row: &'a [f32],
}

impl Loops for Transform<'_> {
    #[inline(always)]
    fn run(self) {
        let scale = 1.0 / (self.row.len() as f32).sqrt();
        for (out, value) in self.out.iter_mut().zip(self.row) {
            *out = value * scale;
        }
        let mut half = 1;
        while half < self.out.len() {
            match half {
                // Known lengths, so that pairs within a vector are shuffled.
                1 => pass::<1>(self.out),
                2 => pass::<2>(self.out),
                4 => pass::<4>(self.out),
                8 => pass::<8>(self.out),
                _ => {
                    for pair in self.out.chunks_exact_mut(2 * half) {
                        let (low, high) = pair.split_at_mut(half);
                        turn(low, high);
                    }
                }
            }
            half *= 2;
        }
    }
}

#[inline(always)]
fn pass<const HALF: usize>(out: &mut [f32]) {
    for pair in out.chunks_exact_mut(2 * HALF) {
        let (low, high) = pair.split_at_mut(HALF);
        turn(&mut low[..HALF], &mut high[..HALF]);
    }
}

#[inline(always)]
fn turn(low: &mut [f32], high: &mut [f32]) {
    for (low, high) in low.iter_mut().zip(high) {
        (*low, *high) = (*low + *high, *low - *high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_matrix_and_its_own_inverse() {
        for n in [1, 2, 4, 8, 16, 64, 128, 256] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect();
            let mut expected = vec![0.0; n];
            for (i, sum) in expected.iter_mut().enumerate() {
                for (j, value) in row.iter().enumerate() {
                    let sign = if (i & j).count_ones() % 2 == 0 {
                        1.0
                    } else {
                        -1.0
                    };
                    *sum += sign * value / (n as f32).sqrt();
                }
            }
            let mut reference = vec![0.0; n];
            hadamard(Isa::SCALAR, &mut reference, &row);
            for isa in Isa::available() {
                let (mut there, mut back) = (vec![0.0; n], vec![0.0; n]);
                hadamard(isa, &mut there, &row);
                hadamard(isa, &mut back, &there);
                let is_near =
                    |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(
                    is_near(&there, &expected) && is_near(&back, &row),
                    "{isa}, {n}"
                );
                let bits = |row: &[f32]| row.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&there), bits(&reference), "{isa}, {n}");
            }
        }
    }
}
