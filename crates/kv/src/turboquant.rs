//! Rotation and one grid for all coordinates, as a row to compare other codecs with.
//!
//! This is the first quantiser of TurboQuant (Zandieh, Daliri, Hadian, Mirrokni, arXiv 2504.19874,
//! "Qmse"), as published: a vector's length is kept, its direction is turned by a random rotation,
//! after which each coordinate of a long vector is nearly normal, whatever it was before; each is
//! then rounded to the nearest centroid of the quantiser that Lloyd (1957, 1982) and Max (1960)
//! found for the normal distribution. The same pattern with other rotations and grids is older
//! (DRIVE 2021, EDEN 2022).
//!
//! Nothing is stored or computed with it: llama.cpp's rotated types are as good for the same bytes
//! in a live cache, and an entropy coder is better in a stored one.

use crate::chance;

/// Most bits of an index.
const BITS_MAX: u32 = 8;
/// The normal density is summed over steps of this width, between these bounds. What lies
/// outside is less than 1e-14.
const STEP: f64 = 1.0 / 4096.0;
const BOUND: f64 = 8.0;
/// Lloyd's iteration moves no centroid by more than this when it ends.
const MOVE_MAX: f64 = 1e-7;
const ROUNDS_MAX: usize = 20_000;

/// The quantiser of least mean square error for the standard normal distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct LloydMax {
    /// Ascending, and symmetric around 0.
    centroids: Vec<f64>,
}

/// Sums of the normal density up to each step: of 1, x and x squared.
struct Normal {
    sums: Vec<[f64; 3]>,
}

impl Normal {
    fn new() -> Self {
        let n = (2.0 * BOUND / STEP) as usize;
        let mut sums = Vec::with_capacity(n + 1);
        let mut all = [0.0; 3];
        sums.push(all);
        for at in 0..n {
            let x = -BOUND + (at as f64 + 0.5) * STEP;
            let mass = STEP * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
            all = [all[0] + mass, all[1] + mass * x, all[2] + mass * x * x];
            sums.push(all);
        }
        Self { sums }
    }

    /// The sums up to a place, between two steps by their distance.
    fn up_to(&self, x: f64) -> [f64; 3] {
        let last = self.sums.len() - 1;
        let place = ((x + BOUND) / STEP).clamp(0.0, last as f64);
        let low = (place as usize).min(last - 1);
        let part = place - low as f64;
        let (a, b) = (self.sums[low], self.sums[low + 1]);
        [0, 1, 2].map(|at| a[at] + (b[at] - a[at]) * part)
    }

    fn between(&self, low: f64, high: f64) -> [f64; 3] {
        let (low, high) = (self.up_to(low), self.up_to(high));
        [0, 1, 2].map(|at| high[at] - low[at])
    }
}

impl LloydMax {
    /// The quantiser with 2 to the power of `bits` centroids; `bits` is taken as 1 to 8.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let n = 1_usize << bits.clamp(1, BITS_MAX);
        let normal = Normal::new();
        let spread = |at: usize| 3.0 * ((2 * at + 1) as f64 / n as f64 - 1.0);
        let mut grid = Self {
            centroids: (0..n).map(spread).collect(),
        };
        for _ in 0..ROUNDS_MAX {
            let cells = grid.cells();
            let middles = cells.iter().zip(&grid.centroids).map(|(cell, now)| {
                let [mass, first, _] = normal.between(cell.0, cell.1);
                if mass > 0.0 { first / mass } else { *now }
            });
            let middles: Vec<f64> = middles.collect();
            let pairs = middles.iter().zip(&grid.centroids);
            let moved = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            grid.centroids = middles;
            if moved < MOVE_MAX {
                break;
            }
        }
        grid
    }

    #[must_use]
    pub fn centroids(&self) -> &[f64] {
        &self.centroids
    }

    /// The mean square error over the standard normal distribution.
    #[must_use]
    pub fn distortion(&self) -> f64 {
        let normal = Normal::new();
        let cells = self.cells();
        let each = cells.iter().zip(&self.centroids).map(|(cell, centroid)| {
            let [mass, first, second] = normal.between(cell.0, cell.1);
            second - 2.0 * centroid * first + centroid * centroid * mass
        });
        each.sum()
    }

    /// Borders lie in the middle between centroids.
    fn cells(&self) -> Vec<(f64, f64)> {
        let borders = self
            .centroids
            .windows(2)
            .map(|two| f64::midpoint(two[0], two[1]));
        let low = std::iter::once(-BOUND).chain(borders.clone());
        let high = borders.chain(std::iter::once(BOUND));
        low.zip(high).collect()
    }

    fn nearest(&self, value: f64) -> usize {
        let after = self.centroids.partition_point(|centroid| *centroid < value);
        match (after.checked_sub(1), self.centroids.get(after)) {
            (Some(before), Some(next)) if value - self.centroids[before] > next - value => after,
            (Some(before), _) => before,
            (None, _) => after,
        }
    }
}

/// Vectors of one width in so many bits a coordinate.
#[derive(Debug, Clone)]
pub struct TurboQuant {
    width: usize,
    /// Rows of an orthogonal matrix.
    rotation: Vec<f64>,
    grid: LloydMax,
}

/// A vector as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Code {
    pub length: f32,
    /// Of the centroid of each coordinate.
    pub indices: Vec<u8>,
}

impl TurboQuant {
    /// The rotation is that of the seed: Q of the QR decomposition of a matrix of normal numbers,
    /// which is uniform over all rotations and reflections.
    #[must_use]
    pub fn new(width: usize, bits: u32, seed: u64) -> Self {
        let mut normal = Gauss(seed);
        let mut rotation: Vec<f64> = (0..width * width).map(|_| normal.next()).collect();
        for row in 0..width {
            let (before, rest) = rotation.split_at_mut(row * width);
            let now = &mut rest[..width];
            // Gram and Schmidt, twice: once leaves what rounding has left.
            for other in before.chunks_exact(width).chain(before.chunks_exact(width)) {
                let share = dot(now, other);
                now.iter_mut().zip(other).for_each(|(a, b)| *a -= share * b);
            }
            let length = dot(now, now).sqrt();
            now.iter_mut().for_each(|value| *value /= length);
        }
        Self {
            width,
            rotation,
            grid: LloydMax::new(bits),
        }
    }

    /// `None` for a vector of another width.
    #[must_use]
    pub fn encode(&self, vector: &[f32]) -> Option<Code> {
        if vector.len() != self.width {
            return None;
        }
        let vector: Vec<f64> = vector.iter().copied().map(f64::from).collect();
        let length = dot(&vector, &vector).sqrt();
        // Coordinates of a unit vector have a variance of one in its width.
        let scale = (self.width as f64).sqrt() / if length > 0.0 { length } else { 1.0 };
        let rows = self.rotation.chunks_exact(self.width);
        let indices = rows.map(|row| self.grid.nearest(dot(row, &vector) * scale));
        Some(Code {
            length: length as f32,
            indices: indices
                .filter_map(|index| u8::try_from(index).ok())
                .collect(),
        })
    }

    /// The vector that is kept; coordinates that the code does not have are 0 after the rotation.
    #[must_use]
    pub fn decode(&self, code: &Code) -> Vec<f32> {
        let scale = f64::from(code.length) / (self.width as f64).sqrt();
        let mut vector = vec![0.0; self.width];
        let rows = self.rotation.chunks_exact(self.width);
        for (row, index) in rows.zip(&code.indices) {
            let centroids = self.grid.centroids();
            let value = centroids.get(usize::from(*index)).copied().unwrap_or(0.0) * scale;
            vector
                .iter_mut()
                .zip(row)
                .for_each(|(sum, of)| *sum += value * of);
        }
        vector.into_iter().map(|value| value as f32).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Normal numbers, by the transform of Box and Muller.
struct Gauss(u64);

impl Gauss {
    fn uniform(&mut self) -> f64 {
        let bits = chance::next(&mut self.0);
        // 53 bits, and never 0, of which there is no logarithm.
        ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Max's tables (1960), and the figures of the paper.
    const DISTORTIONS: [f64; 4] = [0.363, 0.117, 0.0345, 0.0095];

    #[test]
    fn grids_are_those_of_the_tables() {
        for (bits, published) in (1..).zip(DISTORTIONS) {
            let found = LloydMax::new(bits).distortion();
            assert!(
                (found / published - 1.0).abs() < 0.01,
                "{bits} bits: {found}"
            );
        }
        let exact = [0.363_380, 0.117_482, 0.034_548, 0.009_501];
        for (bits, exact) in (1..).zip(exact) {
            let found = LloydMax::new(bits).distortion();
            assert!((found - exact).abs() < 2e-6, "{bits} bits: {found}");
        }
        let positive = |bits, n: usize| LloydMax::new(bits).centroids()[n..].to_vec();
        let near = |found: &[f64], table: &[f64]| {
            let pairs = found.iter().zip(table);
            found.len() == table.len() && pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4)
        };
        assert!(near(&positive(1, 1), &[0.7979]));
        assert!(near(&positive(2, 2), &[0.4528, 1.5104]));
        let eight = [
            0.1284, 0.3880, 0.6568, 0.9423, 1.2562, 1.6180, 2.0690, 2.7326,
        ];
        assert!(near(&positive(4, 8), &eight));
    }

    /// Directions of all kinds lose the published share of their square, since the rotation makes
    /// them all alike: normal ones, such as have few coordinates, and such as have one.
    #[test]
    fn vectors_lose_the_published_share() {
        const WIDTH: usize = 512;
        let mut normal = Gauss(7);
        let mut vectors: Vec<Vec<f32>> = Vec::new();
        for at in 0..240 {
            let keeps = [WIDTH, 16, 1][at % 3];
            let step = WIDTH / keeps;
            let value = |place: usize, normal: &mut Gauss| match place % step == at % step {
                true => 3.0 * normal.next() as f32,
                false => 0.0,
            };
            vectors.push((0..WIDTH).map(|place| value(place, &mut normal)).collect());
        }
        for (bits, published) in (1..).zip(DISTORTIONS) {
            let codec = TurboQuant::new(WIDTH, bits, 42);
            let share = |vector: &Vec<f32>| {
                let kept = codec.decode(&codec.encode(vector).unwrap());
                let square = |x: f32| f64::from(x) * f64::from(x);
                let lost: f64 = vector.iter().zip(&kept).map(|(a, b)| square(a - b)).sum();
                lost / vector.iter().map(|x| square(*x)).sum::<f64>()
            };
            let mean = vectors.iter().map(share).sum::<f64>() / vectors.len() as f64;
            assert!((mean / published - 1.0).abs() < 0.01, "{bits} bits: {mean}");
        }
    }

    #[test]
    fn odd_vectors_are_no_accident() {
        let codec = TurboQuant::new(8, 3, 1);
        assert_eq!(codec.encode(&[1.0; 7]), None);
        let zero = codec.encode(&[0.0; 8]).unwrap();
        assert_eq!(codec.decode(&zero), [0.0; 8]);
    }
}
