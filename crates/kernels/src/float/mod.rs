//! Rows of floats: conversion between f32, f16 and bf16, and arithmetic.
//!
//! f16 and bf16 are held as their bits. Conversions are exact or round to nearest, ties to
//! even, and agree bit for bit between the instruction sets; so does the arithmetic but for
//! [`scale`], which rounds once where there is a fused multiply-add.

mod convert;
mod order;
#[cfg(test)]
mod tests;

use crate::Isa;
use crate::simd::{Map, Map2, Operand, Simd, map, map2};

pub use order::{Order, argsort};

pub use convert::{Row, RowMut, bf16_to_f32, convert, f16_to_f32, f32_to_bf16, f32_to_f16};

/// What [`binary`] computes of each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
}

/// `dst = a op b`. Panics unless the rows have one length.
pub fn binary(isa: Isa, op: Binary, dst: &mut [f32], a: &[f32], b: &[f32]) {
    binary_from(isa, op, dst, Operand::Row(a), b);
}

/// `dst = dst op b`. Panics unless the rows have one length.
pub fn binary_in_place(isa: Isa, op: Binary, dst: &mut [f32], b: &[f32]) {
    binary_from(isa, op, dst, Operand::InPlace, b);
}

fn binary_from(isa: Isa, op: Binary, dst: &mut [f32], a: Operand<'_>, b: &[f32]) {
    match op {
        Binary::Add => map2(isa, Add, dst, a, b),
        Binary::Sub => map2(isa, Sub, dst, a, b),
        Binary::Mul => map2(isa, Mul, dst, a, b),
        Binary::Div => map2(isa, Div, dst, a, b),
    }
}

macro_rules! operation {
    ($name:ident, $method:ident, $op:tt) => {
        struct $name;

        impl Map2 for $name {
            fn scalar(&self, a: f32, b: f32) -> f32 {
                a $op b
            }
            #[inline(always)]
            fn vector<S: Simd>(&self, s: S, a: S::V, b: S::V) -> S::V {
                s.$method(a, b)
            }
        }
    };
}

operation!(Add, add, +);
operation!(Sub, sub, -);
operation!(Mul, mul, *);
operation!(Div, div, /);

/// `x * factor + bias`
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    pub factor: f32,
    pub bias: f32,
}

impl Map for Affine {
    fn scalar(&self, x: f32) -> f32 {
        x * self.factor + self.bias
    }
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::V) -> S::V {
        s.fma(x, s.splat(self.factor), s.splat(self.bias))
    }
}

/// `dst = src * factor + bias`. Panics unless the rows have one length.
pub fn scale(isa: Isa, dst: &mut [f32], src: &[f32], by: Affine) {
    map(isa, by, dst, Operand::Row(src));
}

/// `row = row * factor + bias`
pub fn scale_in_place(isa: Isa, row: &mut [f32], by: Affine) {
    map(isa, by, row, Operand::InPlace);
}

/// `min(max(x, low), high)`; what is not a number becomes one of the two, as in ggml.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    pub low: f32,
    pub high: f32,
}

impl Map for Clamp {
    fn scalar(&self, x: f32) -> f32 {
        let x = if x < self.high { x } else { self.high };
        if x > self.low { x } else { self.low }
    }
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::V) -> S::V {
        s.max(s.min(x, s.splat(self.high)), s.splat(self.low))
    }
}

/// `dst` is `src` brought into the range. Panics unless the rows have one length.
pub fn clamp(isa: Isa, dst: &mut [f32], src: &[f32], range: Clamp) {
    map(isa, range, dst, Operand::Row(src));
}

/// The row brought into the range.
pub fn clamp_in_place(isa: Isa, row: &mut [f32], range: Clamp) {
    map(isa, range, row, Operand::InPlace);
}

/// The sum of a row, added up in 64 bits and rounded once.
#[must_use]
pub fn sum(row: &[f32]) -> f32 {
    row.iter().map(|x| f64::from(*x)).sum::<f64>() as f32
}
