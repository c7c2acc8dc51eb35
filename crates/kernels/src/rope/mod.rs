//! Rotary position embedding.
//!
//! The angles of a position are the same for every head: [`RopeTable::fill`] computes
//! them once, by ggml's recurrence in f32, and [`RopeTable::apply`] rotates each head's row
//! by them. The recurrence and the extension of the context are those of YaRN (Peng et al.,
//! 2023) as ggml has them. The variants agree bit for bit: nothing is fused.

#[cfg(test)]
mod tests;

use crate::Isa;
use crate::simd::{Kernel, Operand, Rows, Simd, dispatch, load_at};

/// Which elements are a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeMode {
    /// Neighbours: `2i` and `2i + 1`. ggml's type 0.
    Norm,
    /// Halves: `i` and `i + n_dims / 2`. ggml's type 2.
    Neox,
}

/// The parameters of an embedding.
#[derive(Clone, Copy, Debug)]
pub struct RopeParams {
    pub mode: RopeMode,
    /// How many elements are rotated; even. The rest pass through.
    pub n_dims: usize,
    /// The first element rotated; even.
    pub offset: usize,
    /// Tokens of context that the model was trained with.
    pub n_ctx_orig: usize,
    pub freq_base: f32,
    pub freq_scale: f32,
    /// The share of YaRN's mix; 0 without.
    pub ext_factor: f32,
    pub attn_factor: f32,
    pub beta_fast: f32,
    pub beta_slow: f32,
}

/// The cosines and sines of one position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    params: RopeParams,
    /// The pairs between which YaRN's ramp runs.
    ramp: [f32; 2],
    theta_scale: f32,
    /// One a pair for halves; for neighbours one an element, the first of a pair having
    /// its sine negated, so that an element is `x * cos + partner * sin`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for position 0. Panics where `n_dims` or `offset` is odd.
    #[must_use]
    pub fn new(params: &RopeParams) -> Self {
        assert!(params.n_dims.is_multiple_of(2), "pairs of elements");
        assert!(params.offset.is_multiple_of(2), "pairs of elements");
        let entries = match params.mode {
            RopeMode::Norm => params.n_dims,
            RopeMode::Neox => params.n_dims / 2,
        };
        let mut table = Self {
            params: *params,
            ramp: ramp(params),
            theta_scale: params.freq_base.powf(-2.0 / params.n_dims as f32),
            cos: vec![1.0; entries],
            sin: vec![0.0; entries],
        };
        table.fill(0, None);
        table
    }

    /// Computes the table of `position`; `freq_factors` divide the frequency of each pair.
    /// Panics where there are fewer of them than pairs.
    pub fn fill(&mut self, position: i32, freq_factors: Option<&[f32]>) {
        let RopeParams {
            freq_scale,
            ext_factor,
            attn_factor,
            ..
        } = self.params;
        let mut magnitude = attn_factor;
        if ext_factor != 0.0 {
            magnitude *= 1.0 + 0.1 * (1.0 / freq_scale).ln();
        }
        let mut theta = position as f32;
        for i in 0..self.params.n_dims / 2 {
            let extrapolated = theta / freq_factors.map_or(1.0, |factors| factors[i]);
            let mut angle = freq_scale * extrapolated;
            if ext_factor != 0.0 {
                let mix = ramp_at(self.ramp, i) * ext_factor;
                angle = angle * (1.0 - mix) + extrapolated * mix;
            }
            self.set(i, angle.cos() * magnitude, angle.sin() * magnitude);
            theta *= self.theta_scale;
        }
    }

    fn set(&mut self, pair: usize, cos: f32, sin: f32) {
        match self.params.mode {
            RopeMode::Norm => {
                self.cos[2 * pair..][..2].fill(cos);
                self.sin[2 * pair..][..2].copy_from_slice(&[-sin, sin]);
            }
            RopeMode::Neox => {
                self.cos[pair] = cos;
                self.sin[pair] = sin;
            }
        }
    }

    /// Rotates one head's row. Panics unless the rows have one length, which holds the
    /// rotated elements.
    pub fn apply(&self, isa: Isa, dst: &mut [f32], src: &[f32]) {
        assert_eq!(dst.len(), src.len(), "rows of one length");
        let start = self.params.offset;
        let end = start + self.params.n_dims;
        dst[..start].copy_from_slice(&src[..start]);
        dst[end..].copy_from_slice(&src[end..]);
        self.rotate(isa, &mut dst[start..end], Operand::Row(&src[start..end]));
    }

    /// [`RopeTable::apply`] to a row over itself.
    pub fn apply_in_place(&self, isa: Isa, row: &mut [f32]) {
        let start = self.params.offset;
        let end = start + self.params.n_dims;
        self.rotate(isa, &mut row[start..end], Operand::InPlace);
    }

    fn rotate(&self, isa: Isa, dst: &mut [f32], src: Operand<'_>) {
        let rows = Rows::new(dst, src);
        let (cos, sin) = (&self.cos[..], &self.sin[..]);
        match self.params.mode {
            RopeMode::Norm => dispatch(isa, Neighbours { rows, cos, sin }),
            RopeMode::Neox => dispatch(isa, Halves { rows, cos, sin }),
        }
    }
}

/// Where YaRN's ramp starts and ends: the pairs that turn `beta` times within the original
/// context.
fn ramp(params: &RopeParams) -> [f32; 2] {
    let n_dims = params.n_dims as f32;
    let pair = |turns: f32| {
        let wavelength = params.n_ctx_orig as f32 / (turns * 2.0 * std::f32::consts::PI);
        n_dims * wavelength.ln() / (2.0 * params.freq_base.ln())
    };
    [
        pair(params.beta_fast).floor().max(0.0),
        pair(params.beta_slow).ceil().min(n_dims - 1.0),
    ]
}

/// 1 at the ramp's start and before, 0 from its end on.
fn ramp_at([start, end]: [f32; 2], pair: usize) -> f32 {
    let y = (pair as f32 - start) / (end - start).max(0.001);
    1.0 - y.clamp(0.0, 1.0)
}

struct Neighbours<'a> {
    rows: Rows<'a>,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Neighbours<'_> {
    type Output = ();

    fn scalar(mut self) {
        for i in (0..self.cos.len()).step_by(2) {
            let (x, y) = (self.rows.read(i), self.rows.read(i + 1));
            self.rows.write(i, x * self.cos[i] + y * self.sin[i]);
            self.rows
                .write(i + 1, y * self.cos[i + 1] + x * self.sin[i + 1]);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        for i in (0..self.cos.len()).step_by(S::LANES) {
            let (cos, sin) = (load_at(s, self.cos, i), load_at(s, self.sin, i));
            let x = self.rows.load(s, i);
            let y = s.add(s.mul(x, cos), s.mul(s.swap_pairs(x), sin));
            self.rows.store(s, i, y);
        }
    }
}

struct Halves<'a> {
    rows: Rows<'a>,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Halves<'_> {
    type Output = ();

    fn scalar(mut self) {
        let half = self.cos.len();
        for (i, (cos, sin)) in self.cos.iter().zip(self.sin).enumerate() {
            let (x, y) = (self.rows.read(i), self.rows.read(half + i));
            self.rows.write(i, x * cos - y * sin);
            self.rows.write(half + i, x * sin + y * cos);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        let half = self.cos.len();
        for i in (0..half).step_by(S::LANES) {
            let n = (half - i).min(S::LANES);
            let (cos, sin) = (load_at(s, self.cos, i), load_at(s, self.sin, i));
            let (x, y) = (self.rows.load_n(s, i, n), self.rows.load_n(s, half + i, n));
            let minus = s.sub(s.mul(x, cos), s.mul(y, sin));
            let plus = s.add(s.mul(x, sin), s.mul(y, cos));
            self.rows.store_n(s, i, n, minus);
            self.rows.store_n(s, half + i, n, plus);
        }
    }
}
