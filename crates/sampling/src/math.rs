//! Exponentials and maxima over rows of logits.
//!
//! The exponential is ours for two reasons: libm's differs in the last bit
//! between platforms, which would make seeds irreproducible, and a plain
//! polynomial vectorises where a call cannot.

/// Lanes summed or compared independently; enough for any vector unit.
const LANES: usize = 16;
/// Logits summed in f32 before the sum moves to f64, which bounds the rounding.
const BLOCK: usize = 1024;

/// Below this the result is 0; it is ln of the smallest normal f32.
const EXP_MIN: f32 = -87.336_54;

/// e^x for `x <= 0`, within 2 units in the last place; 0 for NaN and below -87.3,
/// 1 above 0.
///
/// Range reduction by Cody and Waite, x = n ln2 + r with |r| <= ln2 / 2, then the
/// degree-6 minimax polynomial of Cephes' `expf`.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer that sits in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x >= EXP_MIN { x } else { EXP_MIN };
    let clamped = if clamped > 0.0 { 0.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let mantissa = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let scale = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x >= EXP_MIN { mantissa * scale } else { 0.0 }
}

/// The largest logit; minus infinity when there is none. NaN counts as minus infinity.
pub(crate) fn max(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let best = |m: f32, &x: &f32| if x > m { x } else { m };
    let over_lanes = lanes.iter().fold(f32::NEG_INFINITY, best);
    tail.iter().fold(over_lanes, best)
}

/// Difference between the two largest logits.
pub(crate) fn margin(logits: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &x in logits {
        if x > best {
            second = best;
            best = x;
        } else if x > second {
            second = x;
        }
    }
    best - second
}

/// The sum of e^(x - max) over the row.
pub(crate) fn sum_exp(logits: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for block in logits.chunks(BLOCK) {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, tail) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += exp(x - max);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane += exp(x - max);
        }
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    total
}

/// The index of the largest logit, the lowest of equals; `None` when every logit
/// is minus infinity or NaN.
pub(crate) fn argmax(logits: &[f32]) -> Option<usize> {
    const CHUNK: usize = 256;
    let mut best = f32::NEG_INFINITY;
    let mut best_chunk = None;
    for (index, chunk) in logits.chunks(CHUNK).enumerate() {
        let top = max(chunk);
        if top > best {
            best = top;
            best_chunk = Some(index);
        }
    }
    let start = best_chunk? * CHUNK;
    let offset = logits[start..].iter().position(|x| *x == best)?;
    Some(start + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_of_the_exact_value() {
        let mut worst = 0.0_f64;
        for i in 0..2_000_000 {
            let x = -(i as f32) * 87.3 / 2_000_000.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.4e-7, "worst relative error {worst:e}");
    }

    #[test]
    fn exp_at_the_edges() {
        let table = [
            (0.0, 1.0),
            (-0.0, 1.0),
            (-87.4, 0.0),
            (f32::NEG_INFINITY, 0.0),
            (f32::MIN, 0.0),
            (f32::NAN, 0.0),
            (f32::INFINITY, 1.0),
        ];
        for (x, expected) in table {
            assert_eq!(exp(x), expected, "exp({x})");
        }
        assert!(exp(EXP_MIN) > 0.0);
    }

    #[test]
    fn max_argmax_and_sum_cover_every_tail() {
        for n in 0..600 {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 601) as f32 / 60.0).collect();
            let naive = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&row), naive);
            assert_eq!(argmax(&row), row.iter().position(|x| *x == naive));
            let sum: f64 = row.iter().map(|x| f64::from(x - naive).exp()).sum();
            assert!((sum_exp(&row, naive) - sum).abs() <= 1e-6 * sum, "n = {n}");
        }
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_nan() {
        let inf = f32::INFINITY;
        assert_eq!(argmax(&[f32::NAN, 1.0, 3.0, 3.0, f32::NAN]), Some(2));
        assert_eq!(argmax(&[-inf, inf, inf]), Some(1));
        assert_eq!(argmax(&[-inf, f32::NAN]), None);
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
    }
}
