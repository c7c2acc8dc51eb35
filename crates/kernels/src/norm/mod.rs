//! Normalisation of a row: RMS, layer and L2 norms, and softmax.
//!
//! The scalar reference sums in f64 and rounds once. Vector variants sum in f32, in 64
//! lanes or fewer, and agree with it within 2e-6 relative (softmax: 1e-5 for rows of up to
//! 100 000 elements).

mod softmax;
#[cfg(test)]
mod tests;

use crate::Isa;
use crate::simd::{Kernel, Operand, Rows, Simd, dispatch, load_at};

pub use softmax::{Softmax, SoftmaxMask, softmax, softmax_in_place};

/// `dst = src / sqrt(mean(src^2) + eps) * weight`. Panics unless the rows have one length.
pub fn rms_norm(isa: Isa, dst: &mut [f32], src: &[f32], eps: f32, weight: Option<&[f32]>) {
    rms(isa, Rows::new(dst, Operand::Row(src)), eps, weight);
}

/// [`rms_norm`] of a row over itself.
pub fn rms_norm_in_place(isa: Isa, row: &mut [f32], eps: f32, weight: Option<&[f32]>) {
    rms(isa, Rows::new(row, Operand::InPlace), eps, weight);
}

/// `dst = (src - mean) / sqrt(variance + eps)`. Panics unless the rows have one length.
pub fn layer_norm(isa: Isa, dst: &mut [f32], src: &[f32], eps: f32) {
    let rows = Rows::new(dst, Operand::Row(src));
    dispatch(isa, LayerNorm { rows, eps });
}

/// [`layer_norm`] of a row over itself.
pub fn layer_norm_in_place(isa: Isa, row: &mut [f32], eps: f32) {
    let rows = Rows::new(row, Operand::InPlace);
    dispatch(isa, LayerNorm { rows, eps });
}

/// `dst = src / max(sqrt(sum(src^2)), eps)`. Panics unless the rows have one length.
pub fn l2_norm(isa: Isa, dst: &mut [f32], src: &[f32], eps: f32) {
    let rows = Rows::new(dst, Operand::Row(src));
    dispatch(isa, L2Norm { rows, eps });
}

/// [`l2_norm`] of a row over itself.
pub fn l2_norm_in_place(isa: Isa, row: &mut [f32], eps: f32) {
    let rows = Rows::new(row, Operand::InPlace);
    dispatch(isa, L2Norm { rows, eps });
}

fn rms(isa: Isa, rows: Rows<'_>, eps: f32, weight: Option<&[f32]>) {
    if let Some(weight) = weight {
        assert_eq!(rows.len(), weight.len(), "a weight for each element");
    }
    dispatch(isa, RmsNorm { rows, eps, weight });
}

struct RmsNorm<'a> {
    rows: Rows<'a>,
    eps: f32,
    weight: Option<&'a [f32]>,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    fn scalar(mut self) {
        let mean = (squares(&self.rows, 0.0) / self.rows.len() as f64) as f32;
        let factor = 1.0 / (mean + self.eps).sqrt();
        for i in 0..self.rows.len() {
            let weight = self.weight.map_or(1.0, |weight| weight[i]);
            self.rows.write(i, self.rows.read(i) * factor * weight);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        let n = self.rows.len();
        let mean = sum_of_squares(s, &self.rows, 0.0) / n as f32;
        let factor = s.splat(1.0 / (mean + self.eps).sqrt());
        for i in (0..n).step_by(S::LANES) {
            let mut y = s.mul(self.rows.load(s, i), factor);
            if let Some(weight) = self.weight {
                y = s.mul(y, load_at(s, weight, i));
            }
            self.rows.store(s, i, y);
        }
    }
}

struct LayerNorm<'a> {
    rows: Rows<'a>,
    eps: f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    fn scalar(mut self) {
        let n = self.rows.len();
        let sum: f64 = (0..n).map(|i| f64::from(self.rows.read(i))).sum();
        let mean = (sum / n as f64) as f32;
        let variance = (squares(&self.rows, mean) / n as f64) as f32;
        let factor = 1.0 / (variance + self.eps).sqrt();
        for i in 0..n {
            self.rows.write(i, (self.rows.read(i) - mean) * factor);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        let n = self.rows.len();
        let mean = sum(s, &self.rows) / n as f32;
        let variance = sum_of_squares(s, &self.rows, mean) / n as f32;
        let factor = s.splat(1.0 / (variance + self.eps).sqrt());
        for i in (0..n).step_by(S::LANES) {
            let centred = s.sub(self.rows.load(s, i), s.splat(mean));
            self.rows.store(s, i, s.mul(centred, factor));
        }
    }
}

struct L2Norm<'a> {
    rows: Rows<'a>,
    eps: f32,
}

impl Kernel for L2Norm<'_> {
    type Output = ();

    fn scalar(mut self) {
        let norm = squares(&self.rows, 0.0).sqrt() as f32;
        let factor = 1.0 / norm.max(self.eps);
        for i in 0..self.rows.len() {
            self.rows.write(i, self.rows.read(i) * factor);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        let norm = sum_of_squares(s, &self.rows, 0.0).sqrt();
        let factor = s.splat(1.0 / norm.max(self.eps));
        for i in (0..self.rows.len()).step_by(S::LANES) {
            let y = s.mul(self.rows.load(s, i), factor);
            self.rows.store(s, i, y);
        }
    }
}

/// The sum of `(x - centre)^2`.
fn squares(rows: &Rows<'_>, centre: f32) -> f64 {
    let square = |i| f64::from(rows.read(i) - centre).powi(2);
    (0..rows.len()).map(square).sum()
}

/// As [`squares`], in four chains of vectors.
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, rows: &Rows<'_>, centre: f32) -> f32 {
    let mut chains = [s.splat(0.0); 4];
    let centre = s.splat(centre);
    for (turn, i) in (0..rows.len()).step_by(S::LANES).enumerate() {
        let x = s.sub(rows.load(s, i), centre);
        // Beyond the end a lane reads zero, which is not the centre.
        let x = s.select(rows.within(s, i), x, s.splat(0.0));
        chains[turn % 4] = s.fma(x, x, chains[turn % 4]);
    }
    total(s, chains)
}

#[inline(always)]
fn sum<S: Simd>(s: S, rows: &Rows<'_>) -> f32 {
    let mut chains = [s.splat(0.0); 4];
    for (turn, i) in (0..rows.len()).step_by(S::LANES).enumerate() {
        chains[turn % 4] = s.add(chains[turn % 4], rows.load(s, i));
    }
    total(s, chains)
}

#[inline(always)]
fn total<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> f32 {
    s.reduce_add(s.add(s.add(a, b), s.add(c, d)))
}
