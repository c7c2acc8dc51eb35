//! Softmax of a row of attention scores, with a mask and a sink.

use crate::Isa;
use crate::float::f16_to_f32;
use crate::simd::math::exp;
use crate::simd::{Kernel, Operand, Rows, Simd, dispatch, load_at};

/// What is added to the scaled scores, times the slope.
#[derive(Clone, Copy, Debug)]
pub enum SoftmaxMask<'a> {
    None,
    F32(&'a [f32]),
    /// Bits of f16.
    F16(&'a [u16]),
}

/// The parameters of [`softmax`].
#[derive(Clone, Copy, Debug)]
pub struct Softmax<'a> {
    pub scale: f32,
    pub mask: SoftmaxMask<'a>,
    /// ALiBi's slope; 1 without.
    pub slope: f32,
    /// A score that takes its share of the sum and has no element.
    pub sink: Option<f32>,
}

/// `dst = e^x / sum(e^x)` of `x = src * scale + mask * slope`. A row in which all is masked
/// gives zeros. Panics unless the rows and the mask have one length.
pub fn softmax(isa: Isa, dst: &mut [f32], src: &[f32], args: &Softmax<'_>) {
    run(isa, Rows::new(dst, Operand::Row(src)), args);
}

/// [`softmax`] of a row over itself.
pub fn softmax_in_place(isa: Isa, row: &mut [f32], args: &Softmax<'_>) {
    run(isa, Rows::new(row, Operand::InPlace), args);
}

fn run(isa: Isa, rows: Rows<'_>, args: &Softmax<'_>) {
    match args.mask {
        SoftmaxMask::None => {}
        SoftmaxMask::F32(mask) => assert_eq!(mask.len(), rows.len(), "a mask of the row"),
        SoftmaxMask::F16(mask) => assert_eq!(mask.len(), rows.len(), "a mask of the row"),
    }
    dispatch(isa, Run { rows, args });
}

/// What is subtracted from the scores: their maximum, but zero where all are masked, so
/// that the weights are zero and what is not a number stays so.
fn base(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

struct Run<'a> {
    rows: Rows<'a>,
    args: &'a Softmax<'a>,
}

impl Run<'_> {
    fn score(&self, i: usize) -> f32 {
        let x = self.rows.read(i) * self.args.scale;
        match self.args.mask {
            SoftmaxMask::None => x,
            SoftmaxMask::F32(mask) => x + self.args.slope * mask[i],
            SoftmaxMask::F16(mask) => x + self.args.slope * f16_to_f32(mask[i]),
        }
    }

    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, i: usize) -> S::V {
        let x = s.mul(self.rows.load(s, i), s.splat(self.args.scale));
        let slope = s.splat(self.args.slope);
        match self.args.mask {
            SoftmaxMask::None => x,
            SoftmaxMask::F32(mask) => s.fma(slope, load_at(s, mask, i), x),
            SoftmaxMask::F16(mask) => {
                let rest = &mask[i..];
                let n = rest.len().min(S::LANES);
                // SAFETY: the mask has n words from i on.
                let bits = unsafe { s.load_u16_first(rest.as_ptr(), n) };
                s.fma(slope, s.low_f16(bits), x)
            }
        }
    }
}

impl Kernel for Run<'_> {
    type Output = ();

    fn scalar(mut self) {
        let n = self.rows.len();
        let sink = self.args.sink.unwrap_or(f32::NEG_INFINITY);
        let max = (0..n).map(|i| self.score(i)).fold(sink, f32::max);
        let max = base(max);
        let mut sum = f64::from((sink - max).exp());
        for i in 0..n {
            let p = (self.score(i) - max).exp();
            sum += f64::from(p);
            self.rows.write(i, p);
        }
        let factor = if sum == 0.0 { 0.0 } else { (1.0 / sum) as f32 };
        for i in 0..n {
            let p = self.rows.reread(i);
            self.rows.write(i, p * factor);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        let n = self.rows.len();
        let low = s.splat(f32::NEG_INFINITY);
        let mut max = low;
        for i in (0..n).step_by(S::LANES) {
            let x = self.scores(s, i);
            self.rows.store(s, i, x);
            max = s.max(s.select(self.rows.within(s, i), x, low), max);
        }
        let sink = self.args.sink.unwrap_or(f32::NEG_INFINITY);
        let max = base(s.reduce_max(max).max(sink));
        let mut sums = [s.splat(0.0); 4];
        for (turn, i) in (0..n).step_by(S::LANES).enumerate() {
            let x = s.sub(self.rows.reload(s, i), s.splat(max));
            let p = s.select(self.rows.within(s, i), exp(s, x), s.splat(0.0));
            sums[turn % 4] = s.add(sums[turn % 4], p);
            self.rows.store(s, i, p);
        }
        let [a, b, c, d] = sums;
        let sum = s.reduce_add(s.add(s.add(a, b), s.add(c, d))) + (sink - max).exp();
        // All masked: the elements are zero and stay so.
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        for i in (0..n).step_by(S::LANES) {
            let y = s.mul(self.rows.reload(s, i), s.splat(factor));
            self.rows.store(s, i, y);
        }
    }
}
