//! Rows walked vector by vector, in place or not.

use std::marker::PhantomData;

use super::{Kernel, Simd, dispatch};
use crate::Isa;

/// Where a kernel reads its first operand.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// The row that it writes.
    InPlace,
    Row(&'a [f32]),
}

/// A row to write and a row of its length to read, which may be the same.
pub(crate) struct Rows<'a> {
    /// Readable and writable for `len` floats.
    to: *mut f32,
    /// Readable for `len` floats.
    from: *const f32,
    len: usize,
    rows: PhantomData<(&'a mut [f32], &'a [f32])>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(dst: &'a mut [f32], src: Operand<'a>) -> Self {
        let to = dst.as_mut_ptr();
        let from = match src {
            Operand::InPlace => to.cast_const(),
            Operand::Row(row) => {
                assert_eq!(dst.len(), row.len(), "rows of one length");
                row.as_ptr()
            }
        };
        Self {
            to,
            from,
            len: dst.len(),
            rows: PhantomData,
        }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Element `i` of what is read.
    pub(crate) fn read(&self, i: usize) -> f32 {
        assert!(i < self.len, "an element of the row");
        // SAFETY: i is within the row.
        unsafe { *self.from.add(i) }
    }

    /// Element `i` of what is written.
    pub(crate) fn reread(&self, i: usize) -> f32 {
        assert!(i < self.len, "an element of the row");
        // SAFETY: i is within the row.
        unsafe { *self.to.add(i) }
    }

    /// Sets element `i` of what is written.
    pub(crate) fn write(&mut self, i: usize, x: f32) {
        assert!(i < self.len, "an element of the row");
        // SAFETY: i is within the row.
        unsafe { *self.to.add(i) = x }
    }

    /// The elements from `i` on of what is read; zero beyond the row's end.
    #[inline(always)]
    pub(crate) fn load<S: Simd>(&self, s: S, i: usize) -> S::V {
        load(s, self.from, self.len, i)
    }

    /// The elements from `i` on of what is written; zero beyond the row's end.
    #[inline(always)]
    pub(crate) fn reload<S: Simd>(&self, s: S, i: usize) -> S::V {
        load(s, self.to, self.len, i)
    }

    /// Sets the elements from `i` on; lanes beyond the row's end are dropped.
    #[inline(always)]
    pub(crate) fn store<S: Simd>(&mut self, s: S, i: usize, v: S::V) {
        assert!(i < self.len, "an element of the row");
        let rest = self.len - i;
        // SAFETY: the row has `rest` floats from i on.
        unsafe {
            if rest >= S::LANES {
                s.store(self.to.add(i), v);
            } else {
                s.store_first(self.to.add(i), rest, v);
            }
        }
    }

    /// The `n <= LANES` elements from `i` on of what is read.
    #[inline(always)]
    pub(crate) fn load_n<S: Simd>(&self, s: S, i: usize, n: usize) -> S::V {
        assert!(n <= S::LANES && i + n <= self.len, "elements of the row");
        // SAFETY: the row has n floats from i on.
        unsafe { s.load_first(self.from.add(i), n) }
    }

    /// Sets the `n <= LANES` elements from `i` on.
    #[inline(always)]
    pub(crate) fn store_n<S: Simd>(&mut self, s: S, i: usize, n: usize, v: S::V) {
        assert!(n <= S::LANES && i + n <= self.len, "elements of the row");
        // SAFETY: the row has n floats from i on.
        unsafe { s.store_first(self.to.add(i), n, v) }
    }

    /// Which lanes of a vector at `i` are within the row.
    #[inline(always)]
    pub(crate) fn within<S: Simd>(&self, s: S, i: usize) -> S::M {
        let rest = (self.len - i).min(S::LANES);
        s.mask((1u64 << rest) - 1)
    }
}

/// The elements of `row` from `i` on; zero beyond its end.
#[inline(always)]
pub(crate) fn load_at<S: Simd>(s: S, row: &[f32], i: usize) -> S::V {
    load(s, row.as_ptr(), row.len(), i)
}

/// `from` is readable for `len` floats.
#[inline(always)]
fn load<S: Simd>(s: S, from: *const f32, len: usize, i: usize) -> S::V {
    assert!(i < len, "an element of the row");
    let rest = len - i;
    // SAFETY: the row has `rest` floats from i on.
    unsafe {
        if rest >= S::LANES {
            s.load(from.add(i))
        } else {
            s.load_first(from.add(i), rest)
        }
    }
}

/// A function of one element.
pub(crate) trait Map {
    fn scalar(&self, x: f32) -> f32;
    fn vector<S: Simd>(&self, s: S, x: S::V) -> S::V;
}

/// A function of two elements.
pub(crate) trait Map2 {
    fn scalar(&self, a: f32, b: f32) -> f32;
    fn vector<S: Simd>(&self, s: S, a: S::V, b: S::V) -> S::V;
}

/// `dst[i] = f(src[i])`
pub(crate) fn map<F: Map>(isa: Isa, f: F, dst: &mut [f32], src: Operand<'_>) {
    let rows = Rows::new(dst, src);
    dispatch(isa, MapRow { f, rows });
}

/// `dst[i] = f(a[i], b[i])`
pub(crate) fn map2<F: Map2>(isa: Isa, f: F, dst: &mut [f32], a: Operand<'_>, b: &[f32]) {
    assert_eq!(dst.len(), b.len(), "rows of one length");
    let rows = Rows::new(dst, a);
    dispatch(isa, MapRows { f, rows, b });
}

struct MapRow<'a, F> {
    f: F,
    rows: Rows<'a>,
}

impl<F: Map> Kernel for MapRow<'_, F> {
    type Output = ();

    fn scalar(mut self) {
        for i in 0..self.rows.len() {
            self.rows.write(i, self.f.scalar(self.rows.read(i)));
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        for i in (0..self.rows.len()).step_by(S::LANES) {
            let y = self.f.vector(s, self.rows.load(s, i));
            self.rows.store(s, i, y);
        }
    }
}

struct MapRows<'a, F> {
    f: F,
    rows: Rows<'a>,
    b: &'a [f32],
}

impl<F: Map2> Kernel for MapRows<'_, F> {
    type Output = ();

    fn scalar(mut self) {
        for (i, b) in self.b.iter().enumerate() {
            self.rows.write(i, self.f.scalar(self.rows.read(i), *b));
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(mut self, s: S) {
        for i in (0..self.rows.len()).step_by(S::LANES) {
            let y = self
                .f
                .vector(s, self.rows.load(s, i), load_at(s, self.b, i));
            self.rows.store(s, i, y);
        }
    }
}
