//! What numbers become in a type of the cache, by ggml's own rounding.

use kv::CacheType;
use llama_cpp_sys_2 as sys;

use crate::layer_types::ggml_type;

/// Numbers as they are after they were kept in a type. Those that are no whole block of it stay
/// as they are.
pub fn round_to(cache_type: CacheType, values: &mut [f32]) {
    if cache_type == CacheType::F32 {
        return;
    }
    let block = cache_type.block_values() as usize;
    let n = values.len() / block * block;
    // Blocks begin with numbers of 16 bits.
    let mut kept = vec![0_u16; cache_type.row_bytes(n as u64).div_ceil(2) as usize];
    let Ok(count) = i64::try_from(n) else { return };
    // SAFETY: ggml has a table for each of its types. Both functions take a whole number of blocks;
    // `kept` has the bytes of `n` values in this type and their alignment, `values` has at
    // least `n` values.
    unsafe {
        let traits = sys::ggml_get_type_traits(ggml_type(cache_type));
        if let (Some(narrow), Some(widen)) = ((*traits).from_float_ref, (*traits).to_float) {
            narrow(values.as_ptr(), kept.as_mut_ptr().cast(), count);
            widen(kept.as_ptr().cast(), values.as_mut_ptr(), count);
        }
    }
}

/// The numbers of a row of 16-bit floats, little-endian.
#[must_use]
pub fn widen_f16(row: &[u8]) -> Vec<f32> {
    let (pairs, _) = row.as_chunks::<2>();
    let half: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let mut wide = vec![0.0; half.len()];
    // SAFETY: both have as many numbers as are said.
    unsafe { sys::ggml_fp16_to_fp32_row(half.as_ptr(), wide.as_mut_ptr(), half.len() as i64) };
    wide
}

/// Writes numbers as 16-bit floats over a row; what is too large becomes the largest.
pub fn narrow_f16(values: &[f32], row: &mut [u8]) {
    const MOST: f32 = 65_504.0;
    let bounded: Vec<f32> = values
        .iter()
        .map(|value| value.clamp(-MOST, MOST))
        .collect();
    let mut half = vec![0_u16; bounded.len()];
    // SAFETY: both have as many numbers as are said.
    unsafe { sys::ggml_fp32_to_fp16_row(bounded.as_ptr(), half.as_mut_ptr(), half.len() as i64) };
    for (pair, value) in row.as_chunks_mut::<2>().0.iter_mut().zip(half) {
        *pair = value.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between -3 and 3, without a pattern.
    fn values() -> Vec<f32> {
        let each = (0..256_u32).map(|at| at.wrapping_mul(2_654_435_761) >> 8);
        each.map(|bits| bits as f32 / (1 << 23) as f32 * 3.0 - 3.0)
            .collect()
    }

    fn lost(cache_type: CacheType) -> f64 {
        let (before, mut after) = (values(), values());
        round_to(cache_type, &mut after);
        let square = |x: f32| f64::from(x).powi(2);
        let pairs = before.iter().zip(&after);
        let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        error / before.iter().map(|x| square(*x)).sum::<f64>()
    }

    #[test]
    fn fewer_bits_lose_more_and_none_loses_all() {
        use CacheType::{F16, F32, Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
        assert_eq!(lost(F32), 0.0);
        for pair in [
            [F16, Q8_0],
            [Q8_0, Q5_1],
            [Q5_1, Q5_0],
            [Q5_0, Q4_1],
            [Q4_1, Q4_0],
        ] {
            let [more, less] = pair.map(lost);
            assert!(more < less, "{pair:?}: {more} {less}");
        }
        for four in [Q4_0, Iq4Nl] {
            let lost = lost(four);
            assert!((0.001..0.02).contains(&lost), "{four}: {lost}");
        }
    }

    #[test]
    fn rounding_again_changes_nothing_much_and_parts_of_blocks_stay() {
        let mut once = values();
        round_to(CacheType::Q8_0, &mut once);
        let mut part = values();
        part.truncate(40);
        round_to(CacheType::Q8_0, &mut part);
        assert_eq!(part[..32], once[..32]);
        assert_eq!(part[32..], values()[32..40]);
    }

    #[test]
    fn rows_of_16_bits_are_read_and_written() {
        let mut row = [0_u8; 8];
        narrow_f16(&[1.0, -2.5, 1e9, 0.0], &mut row);
        assert_eq!(row[..4], [0x00, 0x3c, 0x00, 0xc1]);
        assert_eq!(widen_f16(&row), [1.0, -2.5, 65_504.0, 0.0]);
    }
}
