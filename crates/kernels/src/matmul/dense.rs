//! Products of weights that are floats.

use super::{PANEL_ROWS, Products, TILE_COLUMNS};
use crate::Isa;
use crate::float::{Row, bf16_to_f32, f16_to_f32};
use crate::simd::{Kernel, Simd, dispatch};

/// Rows whose sums are in registers at a time.
const BLOCK_ROWS: usize = 4;

/// Multiplies rows of weights, all of one type and at most [`PANEL_ROWS`], by columns, at most
/// [`TILE_COLUMNS`], of their length.
///
/// Every product of a row and a column is one chain of fused multiply-adds a lane, whatever
/// rows and columns come with it: within `1e-6 * sum |weight * activation|` of the exact one for
/// a thousand elements. The instruction sets differ in their lanes.
///
/// # Panics
/// When the rows are of several types, or a length or number does not fit: a mistake of the
/// caller.
pub fn multiply_dense(isa: Isa, rows: &[Row<'_>], columns: &[&[f32]], products: Products<'_>) {
    assert!((1..=PANEL_ROWS).contains(&rows.len()) && rows.len() == products.rows);
    assert!((1..=TILE_COLUMNS).contains(&columns.len()));
    match rows[0] {
        Row::F32(_) => run::<f32>(isa, rows, columns, products),
        Row::F16(_) => run::<F16>(isa, rows, columns, products),
        Row::Bf16(_) => run::<Bf16>(isa, rows, columns, products),
    }
}

fn run<E: Element>(isa: Isa, rows: &[Row<'_>], columns: &[&[f32]], products: Products<'_>) {
    let k = columns[0].len();
    let mut places = [std::ptr::null(); PANEL_ROWS];
    for (place, row) in places.iter_mut().zip(rows) {
        let row = E::row(*row);
        assert_eq!(row.len(), k, "rows of one length");
        *place = row.as_ptr();
    }
    for column in columns {
        assert_eq!(column.len(), k, "columns of the rows' length");
    }
    let dense = Dense::<'_, E> {
        rows: &places[..rows.len()],
        columns,
        k,
        products,
    };
    dispatch(isa, dense);
}

/// A type of weights.
trait Element: Copy {
    /// What is in memory.
    type Bits: Copy;
    /// The elements of a row, which is of this type.
    fn row(row: Row<'_>) -> &[Self::Bits];
    fn value(bits: Self::Bits) -> f32;
    /// # Safety
    /// `LANES` elements are readable at `from`.
    unsafe fn load<S: Simd>(s: S, from: *const Self::Bits) -> S::V;
    /// # Safety
    /// `n` elements are readable at `from`; lanes beyond are zero.
    unsafe fn load_first<S: Simd>(s: S, from: *const Self::Bits, n: usize) -> S::V;
}

#[cold]
fn of_several_types() -> ! {
    unreachable!("rows of several types")
}

impl Element for f32 {
    type Bits = f32;

    fn row(row: Row<'_>) -> &[f32] {
        match row {
            Row::F32(row) => row,
            _ => of_several_types(),
        }
    }
    fn value(bits: f32) -> f32 {
        bits
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(from) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, from: *const f32, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_first(from, n) }
    }
}

#[derive(Clone, Copy)]
struct F16;

impl Element for F16 {
    type Bits = u16;

    fn row(row: Row<'_>) -> &[u16] {
        match row {
            Row::F16(row) => row,
            _ => of_several_types(),
        }
    }
    fn value(bits: u16) -> f32 {
        f16_to_f32(bits)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(from) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, from: *const u16, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        s.low_f16(unsafe { s.load_u16_first(from, n) })
    }
}

#[derive(Clone, Copy)]
struct Bf16;

impl Element for Bf16 {
    type Bits = u16;

    fn row(row: Row<'_>) -> &[u16] {
        match row {
            Row::Bf16(row) => row,
            _ => of_several_types(),
        }
    }
    fn value(bits: u16) -> f32 {
        bf16_to_f32(bits)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u16) -> S::V {
        // SAFETY: the caller's promise.
        s.of_bits(s.shl(unsafe { s.load_u16(from) }, s.splat_int(16)))
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, from: *const u16, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        s.of_bits(s.shl(unsafe { s.load_u16_first(from, n) }, s.splat_int(16)))
    }
}

struct Dense<'a, E: Element> {
    /// `k` elements are readable at each.
    rows: &'a [*const E::Bits],
    /// Of `k` elements.
    columns: &'a [&'a [f32]],
    k: usize,
    products: Products<'a>,
}

impl<E: Element> Kernel for Dense<'_, E> {
    type Output = ();

    fn scalar(mut self) {
        for (n, column) in self.columns.iter().enumerate() {
            for (row, &weights) in self.rows.iter().enumerate() {
                let product = column.iter().enumerate().fold(0.0f32, |sum, (i, x)| {
                    // SAFETY: a row has as many elements as a column.
                    E::value(unsafe { *weights.add(i) }).mul_add(*x, sum)
                });
                self.products.column(n)[row] = product;
            }
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        for first in (0..self.rows.len()).step_by(BLOCK_ROWS) {
            if self.rows.len() - first >= BLOCK_ROWS {
                self.rows::<S, BLOCK_ROWS>(s, first);
            } else {
                for row in first..self.rows.len() {
                    self.rows::<S, 1>(s, row);
                }
            }
        }
    }
}

impl<E: Element> Dense<'_, E> {
    /// `R` rows by all columns.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, row: usize) {
        let mut column = 0;
        while column < self.columns.len() {
            let rest = self.columns.len() - column;
            if S::BLOCK_VECTORS == 4 && rest >= 4 {
                self.block::<S, R, 4>(s, row, column);
                column += 4;
            } else if rest >= 2 {
                self.block::<S, R, 2>(s, row, column);
                column += 2;
            } else {
                self.block::<S, R, 1>(s, row, column);
                column += 1;
            }
        }
    }

    #[inline(always)]
    fn block<S: Simd, const R: usize, const C: usize>(&mut self, s: S, row: usize, column: usize) {
        let mut rows = [std::ptr::null(); R];
        rows.copy_from_slice(&self.rows[row..row + R]);
        let mut columns = [std::ptr::null(); C];
        for (place, column) in columns.iter_mut().zip(&self.columns[column..]) {
            *place = column.as_ptr();
        }
        let mut sums = [[s.splat(0.0); C]; R];
        let whole = self.k - self.k % S::LANES;
        // SAFETY: all rows and columns have `k` elements.
        unsafe {
            for i in (0..whole).step_by(S::LANES) {
                let x = columns.map(|column: *const f32| s.load(column.add(i)));
                let w = rows.map(|row: *const E::Bits| E::load(s, row.add(i)));
                add(s, &mut sums, w, x);
            }
            if whole < self.k {
                let n = self.k - whole;
                let x = columns.map(|column: *const f32| s.load_first(column.add(whole), n));
                let w = rows.map(|row: *const E::Bits| E::load_first(s, row.add(whole), n));
                add(s, &mut sums, w, x);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                self.products.column(column + c)[row + r] = s.reduce_add(sum);
            }
        }
    }
}

#[inline(always)]
fn add<S: Simd, const R: usize, const C: usize>(
    s: S,
    sums: &mut [[S::V; C]; R],
    weights: [S::V; R],
    columns: [S::V; C],
) {
    for (sums, weight) in sums.iter_mut().zip(weights) {
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum = s.fma(weight, column, *sum);
        }
    }
}
