//! Functions of vectors. Errors are against the exact value, in units of the result's last
//! place (ulp), measured by the tests of [`crate::glu`].

use super::Simd;

/// `e^x` to 2 ulp; 0 where the result would be below the smallest normal number.
///
/// Cody and Waite's reduction to `|r| <= ln 2 / 2` with the Cephes polynomial.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first short enough for `n * high` to be exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    let y = s.scale_by_power(y, n);
    // Beyond these the exponent leaves the range of normal numbers.
    let y = s.select(s.less(x, s.splat(-87.336_54)), s.splat(0.0), y);
    s.select(s.less(s.splat(88.722_83), x), s.splat(f32::INFINITY), y)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(s.splat(1.0), exp_minus_plus_one(s, x))
}

/// `x / (1 + e^(-a x))`
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V, a: f32) -> S::V {
    s.div(x, exp_minus_plus_one(s, s.mul(x, s.splat(a))))
}

#[inline(always)]
fn exp_minus_plus_one<S: Simd>(s: S, x: S::V) -> S::V {
    s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x)))
}

/// `tanh x` to 3 ulp: the Cephes polynomial below 0.625, the exponential above.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let size = magnitude(s, x);
    let z = s.mul(x, x);
    let mut p = s.splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = s.fma(p, z, s.splat(c));
    }
    let small = s.fma(s.mul(p, z), x, x);
    let e = exp(s, s.add(size, size));
    let quotient = s.div(s.splat(2.0), s.add(e, s.splat(1.0)));
    let large = with_sign_of(s, s.sub(s.splat(1.0), quotient), x);
    s.select(s.less(size, s.splat(0.625)), small, large)
}

/// `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`, by `(1 + tanh u) / 2 = sigmoid 2u`.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    // 2 sqrt(2 / pi)
    let doubled = s.splat(1.595_769);
    let cubic = s.fma(s.mul(x, x), s.splat(0.044_715), s.splat(1.0));
    s.div(x, exp_minus_plus_one(s, s.mul(s.mul(doubled, x), cubic)))
}

/// `x (1 + erf(x / sqrt 2)) / 2` within `2e-7 |x|`: Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.mul(magnitude(s, x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let one = s.splat(1.0);
    let t = s.div(one, s.fma(a, s.splat(0.327_591_1), one));
    let mut p = s.splat(1.061_405_4);
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = s.fma(p, t, s.splat(c));
    }
    let e = exp(s, s.sub(s.splat(0.0), s.mul(a, a)));
    // Half of erfc(a): the distribution's tail, which needs no subtraction for x < 0.
    let tail = s.mul(s.mul(s.mul(p, t), e), s.splat(0.5));
    let share = s.select(s.less(x, s.splat(0.0)), tail, s.sub(one, tail));
    s.mul(x, share)
}

#[inline(always)]
fn magnitude<S: Simd>(s: S, x: S::V) -> S::V {
    s.of_bits(s.and(s.bits(x), s.splat_int(i32::MAX)))
}

/// A value that is not negative, with the sign of another.
#[inline(always)]
fn with_sign_of<S: Simd>(s: S, size: S::V, sign: S::V) -> S::V {
    s.of_bits(s.or(s.bits(size), s.and(s.bits(sign), s.splat_int(i32::MIN))))
}
