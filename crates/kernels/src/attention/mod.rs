//! Attention of query rows over the cells of a KV cache: ggml's `FLASH_ATTN_EXT`, for one
//! KV head and the query heads that share it.
//!
//! A row's output is `sum(p v) / sum(p)` over the cells, with `p = e^s` and
//! `s = cap tanh(scale / cap * q k) + slope * mask`. Cells whose mask is negative infinity do
//! not take part; a row in which all are masked gives zeros. Queries stay f32.
//!
//! **Order.** Cells are walked in tiles of 64 from cell 0, with the running maximum and sum
//! of Milakov and Gimelshein (2018), in spans of [`SPAN`] cells; partial results of spans
//! are merged in their order. Each score is one chain of multiply-adds along the head, each
//! output element one chain along the cells. Neither the number of rows nor who computes
//! which span changes a row's bits, nor do cells that are masked for it, as long as the
//! cells' values are finite.
//!
//! **Use.** Prefill: [`attend`] for a block of positions, the larger the better: each tile
//! of the cache is decoded once a call. Decode: [`attend_span`] for each span on any
//! thread, then [`merge`] and [`finish`].
//!
//! **Tolerance.** The variants are within 4e-6 of the exact result for values of about 1
//! and scores of a few units; an error in a score, about 1e-7 of it, is a relative error of
//! its weight. What is not a number in a query is seen in its row.

mod cache;
mod decode;
mod encode;
mod scalar;
#[cfg(test)]
mod tests;
mod tiled;

use crate::Isa;
use crate::simd::{Kernel, Simd, dispatch};

pub use cache::{CacheRows, CacheType};
pub use encode::quantize_row;

/// Cells of a span. Part of what defines the result's bits.
pub const SPAN: usize = 512;

/// Cells of a tile, which divides a span.
const TILE: usize = 64;

/// The f16 of negative infinity: a masked cell.
const MASKED: u16 = 0xfc00;

/// Query rows: `heads` at each of `positions`.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    pub data: &'a [f32],
    pub positions: usize,
    pub heads: usize,
    /// In floats.
    pub position_stride: usize,
    /// In floats.
    pub head_stride: usize,
}

/// A mask in f16: that of a position and a cell is at `position * stride + cell`.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    pub data: &'a [u16],
    pub stride: usize,
}

/// What attends to what.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    pub queries: Queries<'a>,
    pub keys: CacheRows<'a>,
    pub values: CacheRows<'a>,
    /// How many cells the cache has.
    pub cells: usize,
    pub mask: Option<Mask<'a>>,
    pub scale: f32,
    /// The bound of the scores; 0 for none.
    pub softcap: f32,
    /// ALiBi's slope of each head; 1 without.
    pub slopes: Option<&'a [f32]>,
    /// Of each head, a score that takes its share of the sum and has no value.
    pub sinks: Option<&'a [f32]>,
}

/// A query row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowId {
    pub position: usize,
    pub head: usize,
}

impl Attention<'_> {
    fn rows(&self) -> usize {
        self.queries.positions * self.queries.heads
    }

    fn row_id(&self, row: usize) -> RowId {
        RowId {
            position: row / self.queries.heads,
            head: row % self.queries.heads,
        }
    }

    fn query(&self, row: usize) -> &[f32] {
        let RowId { position, head } = self.row_id(row);
        let at = position * self.queries.position_stride + head * self.queries.head_stride;
        &self.queries.data[at..at + self.keys.head_size]
    }

    /// The mask of `n` cells from `first` on.
    fn mask_of(&self, position: usize, first: usize, n: usize) -> Option<&[u16]> {
        let mask = self.mask?;
        Some(&mask.data[position * mask.stride + first..][..n])
    }

    fn slope(&self, head: usize) -> f32 {
        self.slopes.map_or(1.0, |slopes| slopes[head])
    }

    /// What the product of a query and a key is multiplied by.
    fn factor(&self) -> f32 {
        if self.softcap == 0.0 {
            self.scale
        } else {
            self.scale / self.softcap
        }
    }

    fn check(&self) {
        let Queries {
            data,
            positions,
            heads,
            ..
        } = self.queries;
        if positions > 0 && heads > 0 {
            let last = (positions - 1) * self.queries.position_stride
                + (heads - 1) * self.queries.head_stride;
            assert!(last + self.keys.head_size <= data.len(), "every query row");
        }
        self.keys.check(self.cells);
        self.values.check(self.cells);
        if let Some(mask) = self.mask
            && positions > 0
        {
            let end = (positions - 1) * mask.stride + self.cells;
            assert!(end <= mask.data.len(), "a mask for every position");
        }
        let of_each_head = |row: Option<&[f32]>| row.is_none_or(|row| row.len() == heads);
        assert!(of_each_head(self.slopes), "a slope for each head");
        assert!(of_each_head(self.sinks), "a sink for each head");
    }
}

/// Working memory, which grows to what a problem needs and is kept for the next.
#[derive(Debug, Default)]
pub struct Scratch {
    keys: Aligned,
    values: Aligned,
    visible: Vec<u64>,
    rows: Vec<u32>,
    partials: Vec<f32>,
}

impl Scratch {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Floats that start at a cache line.
#[derive(Debug, Default)]
struct Aligned(Vec<f32>);

impl Aligned {
    /// At least `n` floats, with whatever they last held.
    fn take(&mut self, n: usize) -> &mut [f32] {
        const LINE: usize = 64;
        let padded = n + LINE / size_of::<f32>();
        if self.0.len() < padded {
            self.0.resize(padded, 0.0);
        }
        let start = self.0.as_ptr().align_offset(LINE);
        &mut self.0[start..start + n]
    }
}

/// How many spans `cells` make.
#[must_use]
pub fn spans(cells: usize) -> usize {
    cells.div_ceil(SPAN)
}

/// Where the parts of a row's partial result are: the sum of weighted values, padded to
/// whole vectors, then the sums of the weights by lane, then their total and the maximum.
#[derive(Clone, Copy)]
struct Layout {
    sums: usize,
    total: usize,
    max: usize,
    row: usize,
}

impl Layout {
    fn of(problem: &Attention<'_>) -> Self {
        Self::new(problem.values.head_size)
    }

    fn new(value_size: usize) -> Self {
        let sums = value_size.next_multiple_of(16);
        Self {
            sums,
            total: sums + 16,
            max: sums + 17,
            row: sums + 32,
        }
    }

    /// Whether nothing was added to a row, not even what is not a number.
    fn is_empty(self, row: &[f32]) -> bool {
        row[self.max] == f32::NEG_INFINITY && row[self.total] == 0.0
    }
}

/// How many floats the partial result of a span takes, for all rows.
#[must_use]
pub fn partial_len(problem: &Attention<'_>) -> usize {
    partial_len_of(problem.rows(), problem.values.head_size)
}

/// [`partial_len`] of a problem with `rows` query rows and heads of values of that size.
#[must_use]
pub fn partial_len_of(rows: usize, value_size: usize) -> usize {
    rows * Layout::new(value_size).row
}

/// Attends to one span of the cells. Panics where the problem's slices are too short for
/// its shapes, `partial` is not of [`partial_len`], or there is no such span.
pub fn attend_span(
    isa: Isa,
    problem: &Attention<'_>,
    span: usize,
    scratch: &mut Scratch,
    partial: &mut [f32],
) {
    problem.check();
    assert_eq!(
        partial.len(),
        partial_len(problem),
        "a partial of the problem"
    );
    assert!(span < spans(problem.cells), "a span of the cells");
    let layout = Layout::of(problem);
    partial.fill(0.0);
    for row in partial.chunks_exact_mut(layout.row) {
        row[layout.max] = f32::NEG_INFINITY;
    }
    let first = span * SPAN;
    let work = Span {
        problem,
        layout,
        first,
        end: problem.cells.min(first + SPAN),
        scratch,
        partial,
    };
    dispatch(isa, work);
}

/// One span's work. Slices fit the problem, which is checked.
struct Span<'a> {
    problem: &'a Attention<'a>,
    layout: Layout,
    /// The span's first cell, and the one after its last.
    first: usize,
    end: usize,
    scratch: &'a mut Scratch,
    partial: &'a mut [f32],
}

impl Kernel for Span<'_> {
    type Output = ();

    fn scalar(self) {
        scalar::attend(self);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        tiled::attend(s, self);
    }
}

/// Adds the partial result of a span to that of the spans before it. Panics unless both
/// are of [`partial_len`].
pub fn merge(problem: &Attention<'_>, into: &mut [f32], from: &[f32]) {
    assert_eq!(into.len(), partial_len(problem), "a partial of the problem");
    assert_eq!(from.len(), partial_len(problem), "a partial of the problem");
    let layout = Layout::of(problem);
    let rows = into.chunks_exact_mut(layout.row);
    for (into, from) in rows.zip(from.chunks_exact(layout.row)) {
        // A span masked as a whole changes nothing, whether it is merged or not.
        if layout.is_empty(from) {
            continue;
        }
        if layout.is_empty(into) {
            into.copy_from_slice(from);
            continue;
        }
        let max = into[layout.max].max(from[layout.max]);
        let old = (into[layout.max] - max).exp();
        let new = (from[layout.max] - max).exp();
        for (into, from) in into.iter_mut().zip(from) {
            *into = *into * old + from * new;
        }
        into[layout.max] = max;
    }
}

/// Writes the rows that the merged spans give: `output` is asked once for the floats of
/// each row, as many as the head of the values. Panics where they are fewer or more.
pub fn finish<'o>(
    problem: &Attention<'_>,
    partial: &[f32],
    mut output: impl FnMut(RowId) -> &'o mut [f32],
) {
    assert_eq!(
        partial.len(),
        partial_len(problem),
        "a partial of the problem"
    );
    let layout = Layout::of(problem);
    for (row, partial) in partial.chunks_exact(layout.row).enumerate() {
        let id = problem.row_id(row);
        let mut max = partial[layout.max];
        let mut total = partial[layout.total];
        let mut factor = 1.0;
        if let Some(sinks) = problem.sinks {
            let sink = sinks[id.head];
            let old = max;
            max = old.max(sink);
            if max > f32::NEG_INFINITY {
                factor = (old - max).exp();
                total = total * factor + (sink - max).exp();
            }
        }
        let factor = if total == 0.0 { 0.0 } else { factor / total };
        let output = output(id);
        assert_eq!(output.len(), problem.values.head_size, "an output row");
        for (y, x) in output.iter_mut().zip(partial) {
            // The added zero makes -0 of +0, which masked cells may or may not have done.
            *y = x * factor + 0.0;
        }
    }
}

/// Attends to all cells on this thread. `output` is asked once for each row, as by
/// [`finish`]. Panics where the problem's slices are too short for its shapes.
pub fn attend<'o>(
    isa: Isa,
    problem: &Attention<'_>,
    scratch: &mut Scratch,
    output: impl FnMut(RowId) -> &'o mut [f32],
) {
    let n = partial_len(problem);
    let mut partials = std::mem::take(&mut scratch.partials);
    if partials.len() < 2 * n {
        partials.resize(2 * n, 0.0);
    }
    let (merged, next) = partials[..2 * n].split_at_mut(n);
    if problem.cells == 0 {
        merged.fill(0.0);
    }
    for span in 0..spans(problem.cells) {
        if span == 0 {
            attend_span(isa, problem, span, scratch, merged);
        } else {
            attend_span(isa, problem, span, scratch, next);
            merge(problem, merged, next);
        }
    }
    finish(problem, merged, output);
    scratch.partials = partials;
}
