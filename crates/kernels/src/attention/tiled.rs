//! The vector form: tiles of 64 cells, decoded once for all rows.
//!
//! Keys lie with the cells as columns, so a block of rows times a tile is a matrix product
//! whose shared operand is loaded once for six rows and whose other operand is
//! broadcast; so is the product of the weights and the values. With six rows by four
//! vectors of 16 lanes, 24 multiply-adds take 10 loads.

use super::decode::{self, RowsTile, TileCells};
use super::{Attention, Layout, MASKED, Span, TILE};
use crate::simd::Simd;
use crate::simd::math::{exp, tanh};

/// Most rows of a block.
const BLOCK_ROWS: usize = 6;

/// Scores, then weights, of a block of rows.
#[repr(align(64))]
struct Scores([[f32; TILE]; BLOCK_ROWS]);

#[inline(always)]
pub(super) fn attend<S: Simd>(s: S, span: Span<'_>) {
    let Span {
        problem,
        layout,
        first,
        end,
        scratch,
        partial,
    } = span;
    let keys = scratch.keys.take(problem.keys.head_size * TILE);
    let values = scratch.values.take(TILE * layout.sums);
    for start in (first..end).step_by(TILE) {
        let n = TILE.min(end - start);
        let needed = look(s, problem, start, n, &mut scratch.visible);
        if needed == 0 {
            continue;
        }
        let cells = TileCells {
            first: start,
            n,
            needed,
        };
        decode::keys(s, &problem.keys, cells, keys);
        let tile = RowsTile {
            out: &mut *values,
            stride: layout.sums,
        };
        decode::values(s, &problem.values, cells, tile);
        scratch.rows.clear();
        for (position, visible) in scratch.visible.iter().enumerate() {
            if *visible != 0 {
                let row = position * problem.queries.heads;
                let rows = row..row + problem.queries.heads;
                scratch.rows.extend(rows.map(|row| row as u32));
            }
        }
        let mut tile = Tile {
            problem,
            layout,
            cells,
            visible: &scratch.visible,
            keys,
            values,
            partial,
        };
        for rows in scratch.rows.chunks(BLOCK_ROWS) {
            match *rows {
                [a] => tile.block(s, [a]),
                [a, b] => tile.block(s, [a, b]),
                [a, b, c] => tile.block(s, [a, b, c]),
                [a, b, c, d] => tile.block(s, [a, b, c, d]),
                [a, b, c, d, e] => tile.block(s, [a, b, c, d, e]),
                [a, b, c, d, e, f] => tile.block(s, [a, b, c, d, e, f]),
                _ => {}
            }
        }
    }
    for row in partial.chunks_exact_mut(layout.row) {
        row[layout.total] = lane_sums_total(s, &row[layout.sums..]);
    }
}

#[inline(always)]
fn lane_sums_total<S: Simd>(s: S, sums: &[f32]) -> f32 {
    assert!(sums.len() >= S::LANES);
    // SAFETY: there are LANES sums.
    s.reduce_add(unsafe { s.load(sums.as_ptr()) })
}

/// Which of a tile's cells each position attends to; returns their union.
#[inline(always)]
fn look<S: Simd>(
    s: S,
    problem: &Attention<'_>,
    first: usize,
    n: usize,
    visible: &mut Vec<u64>,
) -> u64 {
    let all = !0 >> (TILE - n);
    visible.clear();
    for position in 0..problem.queries.positions {
        let bits = match problem.mask_of(position, first, n) {
            None => all,
            Some(mask) => all & unmasked(s, mask),
        };
        visible.push(bits);
    }
    visible.iter().fold(0, |union, bits| union | bits)
}

#[inline(always)]
fn unmasked<S: Simd>(s: S, mask: &[u16]) -> u64 {
    let mut tail = [MASKED; TILE];
    let mut from = mask.as_ptr();
    if mask.len() < TILE {
        tail[..mask.len()].copy_from_slice(mask);
        from = tail.as_ptr();
    }
    // SAFETY: 64 words are there, of the mask or of its padded copy.
    let (low, high) = unsafe { (s.differs(from, MASKED), s.differs(from.add(32), MASKED)) };
    u64::from(low) | u64::from(high) << 32
}

/// A tile of the cache, decoded, and what it adds to.
struct Tile<'a> {
    problem: &'a Attention<'a>,
    layout: Layout,
    cells: TileCells,
    /// Of each position.
    visible: &'a [u64],
    /// `[head_size][TILE]`
    keys: &'a [f32],
    /// `[TILE][layout.sums]`
    values: &'a [f32],
    partial: &'a mut [f32],
}

impl Tile<'_> {
    /// Adds the tile to some rows.
    #[inline(always)]
    fn block<S: Simd, const R: usize>(&mut self, s: S, rows: [u32; R]) {
        let mut scores = Scores([[0.0; TILE]; BLOCK_ROWS]);
        let mut queries = [std::ptr::null(); R];
        for (query, row) in queries.iter_mut().zip(rows) {
            *query = self.problem.query(row as usize).as_ptr();
        }
        // SAFETY: a query and the keys have head_size elements, the keys TILE columns.
        unsafe {
            let (keys, depth) = (self.keys.as_ptr(), self.problem.keys.head_size);
            if S::BLOCK_VECTORS == 4 {
                multiply::<S, R, 4>(s, queries, keys, depth, &mut scores);
            } else {
                multiply::<S, R, 2>(s, queries, keys, depth, &mut scores);
            }
        }
        let mut factors = [1.0; R];
        let mut weights = [std::ptr::null(); R];
        let mut sums = [std::ptr::null_mut(); R];
        let mut visible = 0;
        for i in 0..R {
            let row = rows[i] as usize;
            factors[i] = self.weigh(s, row, &mut scores.0[i]);
            weights[i] = scores.0[i].as_ptr();
            sums[i] = self.partial[row * self.layout.row..][..self.layout.row].as_mut_ptr();
            visible |= self.visible[self.problem.row_id(row).position];
        }
        let width = self.problem.values.head_size;
        let stride = self.layout.sums;
        let mut d = 0;
        // SAFETY: the sums and the values are padded to whole vectors of up to 16 lanes,
        // and the visible cells are decoded.
        unsafe {
            while d + S::BLOCK_VECTORS * S::LANES <= stride {
                let values = self.values.as_ptr().add(d);
                let sums = sums.map(|sums: *mut f32| sums.add(d));
                if S::BLOCK_VECTORS == 4 {
                    accumulate::<S, R, 4>(s, sums, factors, weights, values, stride, visible);
                } else {
                    accumulate::<S, R, 2>(s, sums, factors, weights, values, stride, visible);
                }
                d += S::BLOCK_VECTORS * S::LANES;
            }
            while d < width {
                let values = self.values.as_ptr().add(d);
                let sums = sums.map(|sums: *mut f32| sums.add(d));
                accumulate::<S, R, 1>(s, sums, factors, weights, values, stride, visible);
                d += S::LANES;
            }
        }
    }

    /// Turns products into weights, and gives what the row's sums so far are to be
    /// multiplied by.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, row: usize, scores: &mut [f32; TILE]) -> f32 {
        let id = self.problem.row_id(row);
        let visible = self.visible[id.position];
        let low = s.splat(f32::NEG_INFINITY);
        let mut max = low;
        for i in (0..TILE).step_by(S::LANES) {
            let x = self.score(s, row, i, &scores[i..]);
            let x = s.select(s.mask(visible >> i), x, low);
            max = s.max(x, max);
            store(s, &mut scores[i..], x);
        }
        let Layout { sums, max: at, .. } = self.layout;
        let partial = &mut self.partial[row * self.layout.row..][..self.layout.row];
        let old = partial[at];
        let max = s.reduce_max(max).max(old);
        let mut factor = s.splat(1.0);
        if old < max {
            factor = exp(s, s.splat(old - max));
        }
        partial[at] = max;
        // Of scores that are all negative infinity the weights are to be zero; what is not a
        // number stays so.
        let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = s.splat(0.0);
        for i in (0..TILE).step_by(S::LANES) {
            let p = exp(s, s.sub(load(s, &scores[i..]), s.splat(base)));
            sum = s.add(sum, p);
            store(s, &mut scores[i..], p);
        }
        let sums = &mut partial[sums..];
        let sum = s.fma(load(s, sums), factor, sum);
        store(s, sums, sum);
        first_lane(s, factor)
    }

    /// The scores of the cells from `i` of the tile on.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, row: usize, i: usize, products: &[f32]) -> S::V {
        let id = self.problem.row_id(row);
        let mut x = s.mul(load(s, products), s.splat(self.problem.factor()));
        let cap = self.problem.softcap;
        if cap != 0.0 {
            x = s.mul(tanh(s, x), s.splat(cap));
        }
        if i >= self.cells.n {
            return x;
        }
        let n = (self.cells.n - i).min(S::LANES);
        if let Some(mask) = self.problem.mask_of(id.position, self.cells.first + i, n) {
            // SAFETY: the mask has n words.
            let mask = unsafe {
                if n == S::LANES {
                    s.load_f16(mask.as_ptr())
                } else {
                    s.low_f16(s.load_u16_first(mask.as_ptr(), n))
                }
            };
            x = s.fma(mask, s.splat(self.problem.slope(id.head)), x);
        }
        x
    }
}

#[inline(always)]
fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
    assert!(from.len() >= S::LANES);
    // SAFETY: there are LANES floats.
    unsafe { s.load(from.as_ptr()) }
}

#[inline(always)]
fn store<S: Simd>(s: S, to: &mut [f32], v: S::V) {
    assert!(to.len() >= S::LANES);
    // SAFETY: there are LANES floats.
    unsafe { s.store(to.as_mut_ptr(), v) }
}

#[inline(always)]
fn first_lane<S: Simd>(s: S, v: S::V) -> f32 {
    let mut lane = 0.0;
    // SAFETY: one float is writable.
    unsafe { s.store_first(&raw mut lane, 1, v) };
    lane
}

/// Rows times the columns of a tile: each score one chain along the `depth`.
///
/// # Safety
/// The rows have `depth` floats; `TILE` are readable at `columns + d * TILE` for each `d`
/// below it.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const N: usize>(
    s: S,
    rows: [*const f32; R],
    columns: *const f32,
    depth: usize,
    scores: &mut Scores,
) {
    for group in (0..TILE).step_by(N * S::LANES) {
        let mut sums = [[s.splat(0.0); N]; R];
        for d in 0..depth {
            // SAFETY: the caller's promise.
            unsafe {
                let columns = vectors::<S, N>(s, columns.add(d * TILE + group));
                for r in 0..R {
                    let x = s.splat(*rows[r].add(d));
                    for i in 0..N {
                        sums[r][i] = s.fma(x, columns[i], sums[r][i]);
                    }
                }
            }
        }
        for (scores, sums) in scores.0.iter_mut().zip(sums) {
            for (i, sum) in sums.into_iter().enumerate() {
                store(s, &mut scores[group + i * S::LANES..], sum);
            }
        }
    }
}

/// `sums * factors + weights * values` over the visible cells: each element one chain.
///
/// # Safety
/// `N` vectors are readable and writable at each of `sums`, and readable at
/// `values + cell * stride` for each visible cell; the weights have `TILE` floats.
#[inline(always)]
unsafe fn accumulate<S: Simd, const R: usize, const N: usize>(
    s: S,
    sums: [*mut f32; R],
    factors: [f32; R],
    weights: [*const f32; R],
    values: *const f32,
    stride: usize,
    visible: u64,
) {
    let mut chains = [[s.splat(0.0); N]; R];
    for r in 0..R {
        // SAFETY: the caller's promise.
        let sums = unsafe { vectors::<S, N>(s, sums[r]) };
        for (chain, sum) in chains[r].iter_mut().zip(sums) {
            *chain = s.mul(sum, s.splat(factors[r]));
        }
    }
    let mut cells = visible;
    while cells != 0 {
        let cell = cells.trailing_zeros() as usize;
        cells &= cells - 1;
        // SAFETY: the caller's promise.
        unsafe {
            let values = vectors::<S, N>(s, values.add(cell * stride));
            for r in 0..R {
                let weight = s.splat(*weights[r].add(cell));
                for i in 0..N {
                    chains[r][i] = s.fma(weight, values[i], chains[r][i]);
                }
            }
        }
    }
    for r in 0..R {
        for (i, chain) in chains[r].into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { s.store(sums[r].add(i * S::LANES), chain) };
        }
    }
}

/// # Safety
/// `N` vectors are readable at `from`.
#[inline(always)]
unsafe fn vectors<S: Simd, const N: usize>(s: S, from: *const f32) -> [S::V; N] {
    let mut vectors = [s.splat(0.0); N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *vector = unsafe { s.load(from.add(i * S::LANES)) };
    }
    vectors
}
