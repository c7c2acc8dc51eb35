//! Decoding of a tile of the cache to f32: keys with the cells as columns, values row by
//! row. Each value is what the scalar reference gives, bit for bit, but that a product and
//! a minimum are rounded once.

use super::TILE;
use super::cache::{BLOCK, CacheRows, CacheType, LEVELS, decode};
use crate::simd::Simd;

/// Bytes of a cache line. What the next tile needs is asked for while this one is decoded,
/// a little at a time: rows apart are no stream to the hardware, and a burst would stall.
const LINE: usize = 64;

/// A cache type known to the compiler, so that its loops have no branches for others.
trait Format {
    const KIND: CacheType;
}

macro_rules! formats {
    ($($name:ident),*) => {
        $(
            struct $name;

            impl Format for $name {
                const KIND: CacheType = CacheType::$name;
            }
        )*

        /// As [`columns`], of the rows' type.
        #[inline(always)]
        fn columns_of<S: Simd>(s: S, columns: &Columns<'_>) {
            match columns.rows.kind {
                $(CacheType::$name => columns.run::<S, $name>(s),)*
            }
        }

        /// As [`value_rows`], of the rows' type.
        #[inline(always)]
        fn value_rows_of<S: Simd>(s: S, rows: &CacheRows<'_>, cells: TileCells, tile: RowsTile<'_>) {
            match rows.kind {
                $(CacheType::$name => value_rows::<S, $name>(s, rows, cells, tile),)*
            }
        }
    };
}

formats!(F32, F16, Bf16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Iq4Nl);

/// The cells of a tile: `n` from `first` on.
#[derive(Clone, Copy)]
pub(super) struct TileCells {
    pub(super) first: usize,
    pub(super) n: usize,
    /// The cells that any row attends to, by bit.
    pub(super) needed: u64,
}

/// Decodes the keys of a tile so that element `d` of cell `c` is at `out[d * TILE + c]`.
/// Vectors of cells that hold none that is needed are left as they are.
#[inline(always)]
pub(super) fn keys<S: Simd>(s: S, rows: &CacheRows<'_>, cells: TileCells, out: &mut [f32]) {
    assert!(out.len() >= rows.head_size * TILE, "a tile of keys");
    for start in (0..cells.n).step_by(S::LANES) {
        if cells.needed >> start & ((1 << S::LANES) - 1) == 0 {
            continue;
        }
        // Lanes beyond the last cell repeat it.
        let mut offsets = [0; 16];
        for (lane, offset) in offsets.iter_mut().enumerate() {
            *offset = (cells.first + (start + lane).min(cells.n - 1)) * rows.stride_bytes;
        }
        let columns = Columns {
            rows: *rows,
            offsets,
            out: out[start..].as_mut_ptr(),
        };
        columns_of(s, &columns);
    }
}

/// `LANES` cells to decode.
struct Columns<'a> {
    rows: CacheRows<'a>,
    /// Where their rows start; each row is within the data.
    offsets: [usize; 16],
    /// Writable for `head_size` vectors, `TILE` floats apart.
    out: *mut f32,
}

impl Columns<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Format>(&self, s: S) {
        match F::KIND {
            CacheType::F32 | CacheType::F16 | CacheType::Bf16 => self.floats::<S, F>(s),
            _ => self.blocks::<S, F>(s),
        }
    }

    #[inline(always)]
    fn floats<S: Simd, F: Format>(&self, s: S) {
        let size = F::KIND.block().1;
        let step = 16 / size;
        let n = self.rows.head_size;
        if n < step {
            return self.slowly(s);
        }
        let mut d = 0;
        while d < n {
            // The last 16 bytes may begin within those before them.
            let from = d.min(n - step);
            if from * size % LINE < 16 {
                self.prefetch(s, from * size);
            }
            // SAFETY: from + step <= n, so 16 bytes there are within each row, and the
            // vectors from `from` on are within `out`.
            unsafe {
                let words = s.load_columns(self.rows.data.as_ptr().add(from * size), &self.offsets);
                self.store_floats::<S, F>(s, from, words);
            }
            d += step;
        }
    }

    /// # Safety
    /// The words' elements, from `d` on, are within the head.
    #[inline(always)]
    unsafe fn store_floats<S: Simd, F: Format>(&self, s: S, d: usize, words: [S::I; 4]) {
        let half = s.splat_int(16);
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                match F::KIND {
                    CacheType::F32 => self.store(s, d + i, s.of_bits(word)),
                    CacheType::F16 => {
                        let [low, high] = s.both_f16(word);
                        self.store(s, d + 2 * i, low);
                        self.store(s, d + 2 * i + 1, high);
                    }
                    _ => {
                        let high = s.and(word, s.splat_int(-0x10000));
                        self.store(s, d + 2 * i, s.of_bits(s.shl(word, half)));
                        self.store(s, d + 2 * i + 1, s.of_bits(high));
                    }
                }
            }
        }
    }

    /// # Safety
    /// `d` is below the head's size.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, s: S, d: usize, v: S::V) {
        // SAFETY: the vector of element d is within `out`.
        unsafe { s.store(self.out.add(d * TILE), v) }
    }

    /// Asks for the line at `at` of the same rows in the next tile.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, at: usize) {
        let next = self
            .rows
            .data
            .as_ptr()
            .wrapping_add(TILE * self.rows.stride_bytes + at);
        for offset in &self.offsets[..S::LANES] {
            s.prefetch(next.wrapping_add(*offset));
        }
    }

    /// Heads of less than 16 bytes.
    fn slowly<S: Simd>(&self, _: S) {
        let mut row = [0.0; 16];
        let bytes = self.rows.head_size * self.rows.kind.block().1;
        for lane in 0..S::LANES {
            let from = &self.rows.data[self.offsets[lane]..][..bytes];
            decode(self.rows.kind, from, &mut row);
            for (d, x) in row[..self.rows.head_size].iter().enumerate() {
                // SAFETY: the vector of element d is within `out`.
                unsafe { *self.out.add(d * TILE + lane) = *x };
            }
        }
    }

    #[inline(always)]
    fn blocks<S: Simd, F: Format>(&self, s: S) {
        let kind = F::KIND;
        let bytes = kind.block().1;
        for block in 0..self.rows.head_size / BLOCK {
            let at = block * bytes;
            if at % LINE < bytes {
                self.prefetch(s, at);
            }
            // SAFETY: a block of each row starts at `at`; it has more than 16 bytes before
            // and after each offset that is read, and 32 vectors of `out` are its own.
            unsafe {
                let base = self.rows.data.as_ptr().add(at);
                let head = s.load_columns(base, &self.offsets);
                let scale = s.low_f16(head[0]);
                let quants = base.add(kind.quants_at());
                if kind == CacheType::Q8_0 {
                    let low = s.load_columns(quants, &self.offsets);
                    let high = s.load_columns(quants.add(16), &self.offsets);
                    self.store_bytes(s, block * BLOCK, scale, low);
                    self.store_bytes(s, block * BLOCK + 16, scale, high);
                } else {
                    let words = s.load_columns(quants, &self.offsets);
                    self.store_nibbles::<S, F>(s, block * BLOCK, head, words);
                }
            }
        }
    }

    /// # Safety
    /// 16 elements from `d` on are within the head.
    #[inline(always)]
    unsafe fn store_bytes<S: Simd>(&self, s: S, d: usize, scale: S::V, words: [S::I; 4]) {
        let top = s.splat_int(24);
        for (i, word) in words.into_iter().enumerate() {
            for byte in 0..4 {
                let left = s.shl(word, s.splat_int(24 - 8 * byte));
                let level = s.float(s.sar(left, top));
                // SAFETY: the caller's promise.
                unsafe { self.store(s, d + 4 * i + byte as usize, s.mul(level, scale)) };
            }
        }
    }

    /// # Safety
    /// 32 elements from `d` on are within the head.
    #[inline(always)]
    unsafe fn store_nibbles<S: Simd, F: Format>(
        &self,
        s: S,
        d: usize,
        head: [S::I; 4],
        words: [S::I; 4],
    ) {
        let kind = F::KIND;
        let half = s.splat_int(16);
        let scale = s.low_f16(head[0]);
        let minimum = s.low_f16(s.shr(head[0], half));
        // The fifth bits follow the scale, or the scale and the minimum.
        let fifth = if kind.has_minimum() {
            head[1]
        } else {
            s.or(s.shr(head[0], half), s.shl(head[1], half))
        };
        for (i, word) in words.into_iter().enumerate() {
            for byte in 0..4 {
                for high in 0..2 {
                    let j = 16 * high + 4 * i as i32 + byte;
                    let shifted = s.shr(word, s.splat_int(8 * byte + 4 * high));
                    let mut level = s.and(shifted, s.splat_int(15));
                    if kind.has_fifth_bits() {
                        let bit = s.and(s.shr(fifth, s.splat_int(j)), s.splat_int(1));
                        level = s.or(level, s.shl(bit, s.splat_int(4)));
                    }
                    let v = value::<S, F>(s, level, scale, minimum);
                    // SAFETY: the caller's promise.
                    unsafe { self.store(s, d + j as usize, v) };
                }
            }
        }
    }
}

/// What a nibble, with its fifth bit, stands for.
#[inline(always)]
fn value<S: Simd, F: Format>(s: S, level: S::I, scale: S::V, minimum: S::V) -> S::V {
    let kind = F::KIND;
    match kind {
        CacheType::Iq4Nl => s.mul(s.lookup(&LEVELS, level), scale),
        _ if kind.has_minimum() => s.fma(s.float(level), scale, minimum),
        _ => {
            let zero = s.splat_int(-kind.zero());
            s.mul(s.float(s.add_int(level, zero)), scale)
        }
    }
}

/// Where a tile of values goes: that of cell `c` to `out[c * stride]` and on.
pub(super) struct RowsTile<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

/// Decodes the values of the needed cells of a tile, with zeros up to whole vectors.
#[inline(always)]
pub(super) fn values<S: Simd>(s: S, rows: &CacheRows<'_>, cells: TileCells, tile: RowsTile<'_>) {
    assert!(tile.stride >= rows.head_size.next_multiple_of(S::LANES));
    assert!(tile.out.len() >= TILE * tile.stride, "a tile of values");
    value_rows_of(s, rows, cells, tile);
}

#[inline(always)]
fn value_rows<S: Simd, F: Format>(
    s: S,
    rows: &CacheRows<'_>,
    cells: TileCells,
    tile: RowsTile<'_>,
) {
    let (values, bytes) = F::KIND.block();
    let bytes = rows.head_size / values * bytes;
    let whole_vectors = rows.head_size.next_multiple_of(S::LANES);
    let data = &rows.data[cells.first * rows.stride_bytes..];
    let mut needed = cells.needed;
    while needed != 0 {
        let cell = needed.trailing_zeros() as usize;
        needed &= needed - 1;
        let row = &data[cell * rows.stride_bytes..][..bytes];
        let next = row.as_ptr().wrapping_add(TILE * rows.stride_bytes);
        for at in (0..bytes).step_by(LINE) {
            s.prefetch(next.wrapping_add(at));
        }
        let out = &mut tile.out[cell * tile.stride..][..whole_vectors];
        match F::KIND {
            CacheType::F32 | CacheType::F16 | CacheType::Bf16 => float_row::<S, F>(s, row, out),
            _ => block_row::<S, F>(s, row, out),
        }
    }
}

/// `out` has whole vectors for the row.
#[inline(always)]
fn float_row<S: Simd, F: Format>(s: S, row: &[u8], out: &mut [f32]) {
    let size = F::KIND.block().1;
    let n = row.len() / size;
    let whole = n - n % S::LANES;
    let (from, to) = (row.as_ptr(), out.as_mut_ptr());
    // SAFETY: the row has n values, and `out` whole vectors for them.
    unsafe {
        for d in (0..whole).step_by(S::LANES) {
            let from = from.add(d * size);
            let v = match F::KIND {
                CacheType::F32 => s.load(from.cast()),
                CacheType::F16 => s.load_f16(from.cast()),
                _ => s.of_bits(s.shl(s.load_u16(from.cast()), s.splat_int(16))),
            };
            s.store(to.add(d), v);
        }
        if whole < n {
            let (from, rest) = (from.add(whole * size), n - whole);
            let v = match F::KIND {
                CacheType::F32 => s.load_first(from.cast(), rest),
                CacheType::F16 => s.low_f16(s.load_u16_first(from.cast(), rest)),
                _ => s.of_bits(s.shl(s.load_u16_first(from.cast(), rest), s.splat_int(16))),
            };
            s.store(to.add(whole), v);
        }
    }
}

#[inline(always)]
fn block_row<S: Simd, F: Format>(s: S, row: &[u8], out: &mut [f32]) {
    let kind = F::KIND;
    let bytes = kind.block().1;
    for (block, out) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(BLOCK)) {
        // SAFETY: a block has a word at each offset read here, then its quants; `out` has
        // 32 floats.
        unsafe {
            let word = |at: usize| i32::from(u16::from_le_bytes([block[at], block[at + 1]]));
            let scale = s.low_f16(s.splat_int(word(0)));
            let quants = block.as_ptr().add(kind.quants_at());
            let to = out.as_mut_ptr();
            if kind == CacheType::Q8_0 {
                for j in (0..BLOCK).step_by(S::LANES) {
                    let left = s.shl(s.load_u8(quants.add(j)), s.splat_int(24));
                    let level = s.float(s.sar(left, s.splat_int(24)));
                    s.store(to.add(j), s.mul(level, scale));
                }
                continue;
            }
            let minimum = if kind.has_minimum() { word(2) } else { 0 };
            let minimum = s.low_f16(s.splat_int(minimum));
            let mut fifth = 0;
            if kind.has_fifth_bits() {
                let at = kind.quants_at() - 4;
                fifth = word(at) | word(at + 2) << 16;
            }
            for j in (0..16).step_by(S::LANES) {
                let bytes = s.load_u8(quants.add(j));
                for high in 0..2 {
                    let shifted = s.shr(bytes, s.splat_int(4 * high));
                    let mut level = s.and(shifted, s.splat_int(15));
                    let at = 16 * high as usize + j;
                    if kind.has_fifth_bits() {
                        let by = s.add_int(s.lane_numbers(), s.splat_int(at as i32));
                        let bit = s.and(s.shr(s.splat_int(fifth), by), s.splat_int(1));
                        level = s.or(level, s.shl(bit, s.splat_int(4)));
                    }
                    s.store(to.add(at), value::<S, F>(s, level, scale, minimum));
                }
            }
        }
    }
}
