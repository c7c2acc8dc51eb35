//! Activations and gated linear units over rows.
//!
//! The scalar reference uses the platform's `exp` and `tanh`, and an erf by its series.
//! Vector variants agree with it within 1e-6 relative or 1e-7 absolute (3e-7 absolute, a
//! unit of `x`, for the erf forms; 2e-7 a unit of `x` for the tanh GELU).

#[cfg(test)]
mod tests;

use crate::Isa;
use crate::simd::math::{exp, gelu, gelu_erf, sigmoid, silu, tanh};
use crate::simd::{Map, Map2, Operand, Simd, map, map2};

/// A function of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `x sigmoid(x)`
    Silu,
    /// GELU by its tanh approximation.
    Gelu,
    /// GELU by the error function.
    GeluErf,
    /// `x sigmoid(1.702 x)`
    GeluQuick,
    Relu,
    Sigmoid,
    Tanh,
    Exp,
    Neg,
    Square,
    /// `ln(1 + e^x)`, and `x` above 20. Scalar in every instruction set.
    Softplus,
}

/// A gated linear unit: an activation of the gate, times the other operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Glu {
    Swiglu,
    Geglu,
    GegluErf,
    GegluQuick,
    Reglu,
    /// The unit of gpt-oss: the gate cut at `limit` from above and `up` from both sides,
    /// then `gate sigmoid(alpha gate) (up + 1)`.
    SwigluOai {
        alpha: f32,
        limit: f32,
    },
}

/// `dst = op(src)`. Panics unless the rows have one length.
pub fn unary(isa: Isa, op: Unary, dst: &mut [f32], src: &[f32]) {
    unary_from(isa, op, dst, Operand::Row(src));
}

/// `row = op(row)`
pub fn unary_in_place(isa: Isa, op: Unary, row: &mut [f32]) {
    unary_from(isa, op, row, Operand::InPlace);
}

/// `dst = op(gate, up)`. Panics unless the rows have one length.
pub fn glu(isa: Isa, op: Glu, dst: &mut [f32], gate: &[f32], up: &[f32]) {
    glu_from(isa, op, dst, Operand::Row(gate), up);
}

/// `gate = op(gate, up)`. Panics unless the rows have one length.
pub fn glu_in_place(isa: Isa, op: Glu, gate: &mut [f32], up: &[f32]) {
    glu_from(isa, op, gate, Operand::InPlace, up);
}

fn unary_from(isa: Isa, op: Unary, dst: &mut [f32], src: Operand<'_>) {
    match op {
        Unary::Silu => map(isa, Silu, dst, src),
        Unary::Gelu => map(isa, Gelu, dst, src),
        Unary::GeluErf => map(isa, GeluErf, dst, src),
        Unary::GeluQuick => map(isa, GeluQuick, dst, src),
        Unary::Relu => map(isa, Relu, dst, src),
        Unary::Sigmoid => map(isa, Sigmoid, dst, src),
        Unary::Tanh => map(isa, Tanh, dst, src),
        Unary::Exp => map(isa, Exp, dst, src),
        Unary::Neg => map(isa, Neg, dst, src),
        Unary::Square => map(isa, Square, dst, src),
        Unary::Softplus => {
            if let Operand::Row(src) = src {
                dst.copy_from_slice(src);
            }
            dst.iter_mut().for_each(|x| *x = softplus(*x));
        }
    }
}

fn glu_from(isa: Isa, op: Glu, dst: &mut [f32], gate: Operand<'_>, up: &[f32]) {
    match op {
        Glu::Swiglu => map2(isa, Gated(Silu), dst, gate, up),
        Glu::Geglu => map2(isa, Gated(Gelu), dst, gate, up),
        Glu::GegluErf => map2(isa, Gated(GeluErf), dst, gate, up),
        Glu::GegluQuick => map2(isa, Gated(GeluQuick), dst, gate, up),
        Glu::Reglu => map2(isa, Gated(Relu), dst, gate, up),
        Glu::SwigluOai { alpha, limit } => {
            map2(isa, SwigluOai { alpha, limit }, dst, gate, up);
        }
    }
}

struct Gated<F>(F);

impl<F: Map> Map2 for Gated<F> {
    fn scalar(&self, gate: f32, up: f32) -> f32 {
        self.0.scalar(gate) * up
    }
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(self.0.vector(s, gate), up)
    }
}

struct SwigluOai {
    alpha: f32,
    limit: f32,
}

impl Map2 for SwigluOai {
    fn scalar(&self, gate: f32, up: f32) -> f32 {
        let x = gate.min(self.limit);
        let y = up.min(self.limit).max(-self.limit);
        x / (1.0 + (-self.alpha * x).exp()) * (y + 1.0)
    }
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, gate: S::V, up: S::V) -> S::V {
        let limit = s.splat(self.limit);
        let x = s.min(gate, limit);
        let y = s.max(s.min(up, limit), s.splat(-self.limit));
        s.mul(silu(s, x, self.alpha), s.add(y, s.splat(1.0)))
    }
}

/// `function!(Name, scalar expression of x, vector expression of s and x)`
macro_rules! function {
    ($name:ident, |$x:ident| $scalar:expr, |$s:ident, $v:ident| $vector:expr) => {
        struct $name;

        impl Map for $name {
            fn scalar(&self, $x: f32) -> f32 {
                $scalar
            }
            #[inline(always)]
            fn vector<S: Simd>(&self, $s: S, $v: S::V) -> S::V {
                $vector
            }
        }
    };
}

function!(Silu, |x| x / (1.0 + (-x).exp()), |s, x| silu(s, x, 1.0));
function!(Gelu, |x| gelu_reference(x), |s, x| gelu(s, x));
function!(GeluErf, |x| gelu_erf_reference(x), |s, x| gelu_erf(s, x));
function!(GeluQuick, |x| x / (1.0 + (-1.702 * x).exp()), |s, x| silu(
    s, x, 1.702
));
function!(Relu, |x| if x > 0.0 { x } else { 0.0 }, |s, x| s
    .max(x, s.splat(0.0)));
function!(Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |s, x| sigmoid(s, x));
function!(Tanh, |x| x.tanh(), |s, x| tanh(s, x));
function!(Exp, |x| x.exp(), |s, x| exp(s, x));
function!(Neg, |x| -x, |s, x| s.mul(x, s.splat(-1.0)));
function!(Square, |x| x * x, |s, x| s.mul(x, x));

fn gelu_reference(x: f32) -> f32 {
    // sqrt(2 / pi)
    let u = 0.797_884_6 * x * (1.0 + 0.044_715 * x * x);
    0.5 * x * (1.0 + u.tanh())
}

fn gelu_erf_reference(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2) as f32)
}

/// The error function by its Taylor series, to 1e-9. From 4 on it is 1 in f32.
fn erf(x: f64) -> f64 {
    if x.abs() >= 4.0 {
        return x.signum();
    }
    let (mut power, mut sum) = (x, x);
    // The largest term is near x^2 = 16; by 90 terms they are below 1e-30.
    for n in 1..90 {
        power *= -x * x / f64::from(n);
        sum += power / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
