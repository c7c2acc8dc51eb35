//! `FLASH_ATTN_EXT`: a piece of work is some positions of the query heads of one KV head.

use super::{Context, floats, floats_mut};
use crate::abi::{Tensor, kind};
use kernels::attention::{
    Attention, CacheRows, CacheType, Mask, Queries, RowId, attend, attend_span, finish, merge,
    partial_len, partial_len_of, spans,
};
use std::sync::atomic::Ordering;

/// Query rows of a piece: enough to be worth converting keys and values for, few enough
/// to stay in the first-level cache.
const PIECE_ROWS: usize = 64;

/// One attention operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionStep<'g> {
    node: &'g Tensor,
    queries: &'g Tensor,
    keys: &'g Tensor,
    values: &'g Tensor,
    mask: Option<&'g Tensor>,
    sinks: Option<&'g Tensor>,
    /// Positions of a piece.
    positions: usize,
    /// Whether the cells are split too; the partial results wait in the shared memory.
    split: bool,
}

/// Which part of the operation a piece is.
#[derive(Clone, Copy)]
struct Piece {
    first: usize,
    positions: usize,
    kv_head: usize,
    stream: usize,
}

impl<'g> AttentionStep<'g> {
    pub(crate) fn new(node: &'g Tensor, threads: usize) -> Option<Self> {
        let [queries, keys, values] = [node.source(0)?, node.source(1)?, node.source(2)?];
        let mut step = Self {
            node,
            queries,
            keys,
            values,
            mask: node.source(3),
            sinks: node.source(4),
            positions: 1,
            split: false,
        };
        step.positions = (PIECE_ROWS / step.group()).clamp(1, step.queries.shape()[1]);
        step.split = step.pieces() < 2 * threads && spans(step.cells()) > 1;
        Some(step)
    }

    fn cells(&self) -> usize {
        self.keys.shape()[1]
    }

    fn heads(&self) -> usize {
        self.queries.shape()[2]
    }

    fn kv_heads(&self) -> usize {
        self.keys.shape()[2]
    }

    /// Query heads that share a KV head.
    fn group(&self) -> usize {
        self.heads() / self.kv_heads()
    }

    fn blocks(&self) -> usize {
        self.queries.shape()[1].div_ceil(self.positions)
    }

    fn pieces(&self) -> usize {
        self.blocks() * self.kv_heads() * self.queries.shape()[3]
    }

    fn piece(&self, index: usize) -> Piece {
        let (rest, kv_head) = (index / self.kv_heads(), index % self.kv_heads());
        let first = rest % self.blocks() * self.positions;
        let positions = (self.queries.shape()[1] - first).min(self.positions);
        Piece {
            first,
            positions,
            kv_head,
            stream: rest / self.blocks(),
        }
    }

    /// Floats of the partial result of one span of a piece with all its positions.
    fn partial_floats(&self) -> usize {
        partial_len_of(self.positions * self.group(), self.values.shape()[0])
    }

    /// Shared memory that the step needs; 0 when the cells are not split.
    pub(crate) fn partial_bytes(&self) -> usize {
        if self.split {
            self.pieces() * spans(self.cells()) * self.partial_floats() * 4
        } else {
            0
        }
    }

    /// Takes pieces until none is left.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn run(&self, context: Context<'_>) {
        let slopes = self.slopes();
        let spans = if self.split { spans(self.cells()) } else { 1 };
        loop {
            let index = context.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.pieces() * spans {
                return;
            }
            let piece = self.piece(index / spans);
            // SAFETY: the caller's promise; a partial result has one writer.
            unsafe {
                let problem = self.problem(piece, &slopes);
                let scratch = &mut context.local.attention;
                if self.split {
                    let partial = self.partial(context.shared, index, &problem);
                    attend_span(context.isa, &problem, index % spans, scratch, partial);
                } else {
                    attend(context.isa, &problem, scratch, |row| {
                        self.output(piece, row)
                    });
                }
            }
        }
    }

    /// Puts the spans of each piece together.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn merge(&self, context: Context<'_>) {
        let slopes = self.slopes();
        let spans = spans(self.cells());
        for index in context.part.share(self.pieces()) {
            let piece = self.piece(index);
            // SAFETY: the caller's promise; this thread alone has this piece.
            unsafe {
                let problem = self.problem(piece, &slopes);
                let sum = self.partial(context.shared, index * spans, &problem);
                for span in 1..spans {
                    let other = self.partial(context.shared, index * spans + span, &problem);
                    merge(&problem, sum, other);
                }
                finish(&problem, sum, |row| self.output(piece, row));
            }
        }
    }

    /// # Safety
    /// The shared memory must be as large as `partial_bytes`, and the place nobody else's.
    unsafe fn partial<'a>(
        &self,
        shared: *mut u8,
        index: usize,
        problem: &Attention<'_>,
    ) -> &'a mut [f32] {
        let len = partial_len(problem);
        assert!(len <= self.partial_floats());
        // SAFETY: the caller's promise.
        unsafe { floats_mut(shared.add(index * self.partial_floats() * 4), len) }
    }

    /// # Safety
    /// The node must be allocated, and the row nobody else's.
    unsafe fn output<'a>(&self, piece: Piece, row: RowId) -> &'a mut [f32] {
        let head = piece.kv_head * self.group() + row.head;
        let place = self
            .node
            .at([head, piece.first + row.position, piece.stream]);
        // SAFETY: the caller's promise; `support` takes outputs of dense floats.
        unsafe { floats_mut(place, self.values.shape()[0]) }
    }

    /// # Safety
    /// The sources must be allocated.
    unsafe fn problem<'a>(&self, piece: Piece, slopes: &'a Option<Vec<f32>>) -> Attention<'a> {
        let (first_head, group) = (piece.kv_head * self.group(), self.group());
        let heads = first_head..first_head + group;
        let [head_size, ..] = self.queries.shape();
        let strides = self.queries.nb;
        let last = (piece.positions - 1) * strides[1] + (group - 1) * strides[2];
        // SAFETY: the caller's promise; `support` takes dense rows of floats, whose
        // strides are whole floats, and masks of dense halves.
        unsafe {
            let queries = Queries {
                data: floats(
                    self.queries.at([piece.first, first_head, piece.stream]),
                    last / 4 + head_size,
                ),
                positions: piece.positions,
                heads: group,
                position_stride: strides[1] / 4,
                head_stride: strides[2] / 4,
            };
            Attention {
                queries,
                keys: cache_rows(self.keys, piece),
                values: cache_rows(self.values, piece),
                cells: self.cells(),
                mask: self.mask.map(|mask| mask_rows(mask, piece)),
                scale: self.node.float_param(0),
                softcap: self.node.float_param(2),
                slopes: slopes.as_deref().map(|slopes| &slopes[heads.clone()]),
                sinks: self
                    .sinks
                    .map(|sinks| floats(sinks.data.cast(), self.heads()))
                    .map(|all| &all[heads]),
            }
        }
    }

    /// ALiBi's slope of each head, as Press et al. (arXiv 2108.12409) define them; `None`
    /// where they are 1.
    fn slopes(&self) -> Option<Vec<f32>> {
        let max_bias = self.node.float_param(1);
        if max_bias <= 0.0 {
            return None;
        }
        let power = self.heads().next_power_of_two();
        let power = if power > self.heads() {
            power / 2
        } else {
            power
        };
        let even = (-max_bias / power as f32).exp2();
        let odd = (-max_bias / 2.0 / power as f32).exp2();
        let slope = |head: usize| match head.checked_sub(power) {
            None => even.powi(head as i32 + 1),
            Some(rest) => odd.powi(2 * rest as i32 + 1),
        };
        Some((0..self.heads()).map(slope).collect())
    }
}

/// # Safety
/// The tensor must be allocated, with cells that do not change meanwhile.
unsafe fn cache_rows<'a>(tensor: &Tensor, piece: Piece) -> CacheRows<'a> {
    let [head_size, cells, ..] = tensor.shape();
    let kind = cache_type(tensor.kind).unwrap_or(CacheType::F32);
    let row_bytes = kind.row_bytes(head_size).unwrap_or(0);
    let len = (cells - 1) * tensor.nb[1] + row_bytes;
    let place = tensor.at([0, piece.kv_head, piece.stream]);
    // SAFETY: the caller's promise.
    let data = unsafe { std::slice::from_raw_parts(place, len) };
    CacheRows {
        kind,
        data,
        stride_bytes: tensor.nb[1],
        head_size,
    }
}

/// # Safety
/// The mask must be allocated; `support` has compared its shape.
unsafe fn mask_rows<'a>(mask: &Tensor, piece: Piece) -> Mask<'a> {
    let [cells, _, _, streams] = mask.shape();
    let stride = mask.nb[1] / 2;
    let place = mask.at([piece.first, 0, piece.stream % streams]);
    let len = (piece.positions - 1) * stride + cells;
    // SAFETY: the caller's promise.
    let data = unsafe { std::slice::from_raw_parts(place.cast(), len) };
    Mask { data, stride }
}

/// The kernels' name for a type of the cache.
pub(crate) fn cache_type(number: i32) -> Option<CacheType> {
    Some(match number {
        kind::F32 => CacheType::F32,
        kind::F16 => CacheType::F16,
        kind::BF16 => CacheType::Bf16,
        kind::Q8_0 => CacheType::Q8_0,
        kind::Q4_0 => CacheType::Q4_0,
        kind::Q4_1 => CacheType::Q4_1,
        kind::Q5_0 => CacheType::Q5_0,
        kind::Q5_1 => CacheType::Q5_1,
        kind::IQ4_NL => CacheType::Iq4Nl,
        _ => return None,
    })
}
