//! `MUL_MAT` with quantised weights.

use super::weights::Weights;
use super::{Context, floats};
use crate::abi::Tensor;
use kernels::Isa;
use kernels::matmul::{
    Operands, PANEL_ROWS, Products, TILE_COLUMNS, multiply, quantize_tile, tile_bytes,
};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Bytes of activations that a thread goes through again and again for one panel after the
/// other: half of a second-level cache of 1 MiB.
const GROUP_BYTES: usize = 512 << 10;

/// Pieces of work a thread: enough that a slow core does not hold the others up.
const PIECES_PER_THREAD: usize = 8;

/// The columns of a product, by tiles; for quantised weights they are rounded to 8 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activations<'g> {
    source: &'g Tensor,
    k: usize,
    /// Matrices that are multiplied apart; columns of one tile are of the same.
    batches: usize,
    batch_columns: usize,
}

impl<'g> Activations<'g> {
    /// Columns that each thread rounds for itself.
    pub(crate) const LOCAL_COLUMNS_MAX: usize = 4;

    /// The activations of a product: one batch where there is one matrix of weights.
    pub(crate) fn of(node: &'g Tensor) -> Option<Self> {
        let [k, _, n2, n3] = node.source(0)?.shape();
        let source = node.source(1)?;
        let [_, _, c2, c3] = source.shape();
        let batches = if n2 * n3 > 1 { c2 * c3 } else { 1 };
        Some(Self {
            source,
            k,
            batches,
            batch_columns: source.rows() / batches,
        })
    }

    pub(crate) fn source(&self) -> &'g Tensor {
        self.source
    }

    pub(crate) fn batches(&self) -> usize {
        self.batches
    }

    pub(crate) fn columns(&self) -> usize {
        self.batches * self.batch_columns
    }

    pub(crate) fn bytes(&self) -> usize {
        tile_bytes(self.columns(), self.k)
    }

    pub(crate) fn batch_tiles(&self) -> usize {
        self.batch_columns.div_ceil(TILE_COLUMNS)
    }

    /// First column, over all batches, and the number of columns of a tile.
    pub(crate) fn tile(&self, batch: usize, tile: usize) -> (usize, usize) {
        let start = tile * TILE_COLUMNS;
        let width = (self.batch_columns - start).min(TILE_COLUMNS);
        (batch * self.batch_columns + start, width)
    }

    /// Rounds this thread's share of the tiles into the shared memory.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn round(&self, context: Context<'_>) {
        for index in context.part.share(self.batches * self.batch_tiles()) {
            let (first, width) = self.tile(index / self.batch_tiles(), index % self.batch_tiles());
            // SAFETY: the shared memory has room for all tiles; this one is ours.
            unsafe {
                let place = context.shared.add(tile_bytes(first, self.k));
                let bytes = std::slice::from_raw_parts_mut(place, tile_bytes(width, self.k));
                self.round_tile(context.isa, first, width, bytes);
            }
        }
    }

    /// Rounds all tiles into memory of this thread.
    ///
    /// # Safety
    /// The source must be allocated.
    unsafe fn round_all(&self, isa: Isa, bytes: &mut Vec<u8>) {
        bytes.resize(self.bytes(), 0);
        for index in 0..self.batches * self.batch_tiles() {
            let (first, width) = self.tile(index / self.batch_tiles(), index % self.batch_tiles());
            let start = tile_bytes(first, self.k);
            let tile = &mut bytes[start..start + tile_bytes(width, self.k)];
            // SAFETY: the caller's promise.
            unsafe { self.round_tile(isa, first, width, tile) };
        }
    }

    /// # Safety
    /// The source must be allocated.
    unsafe fn round_tile(&self, isa: Isa, first: usize, width: usize, tile: &mut [u8]) {
        let mut columns: [&[f32]; TILE_COLUMNS] = [&[]; TILE_COLUMNS];
        for (index, column) in columns[..width].iter_mut().enumerate() {
            // SAFETY: `support` takes sources whose rows are dense floats.
            *column = unsafe { floats(self.source.row(first + index), self.k) };
        }
        quantize_tile(isa, &columns[..width], tile);
    }
}

/// Where the rounded activations are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In the shared memory.
    Shared,
    /// In each thread's own, under this number; a thread that does not have them there rounds
    /// them.
    Local { number: usize },
}

/// One product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatMul<'g> {
    node: &'g Tensor,
    weights: Weights<'g>,
    activations: Activations<'g>,
    place: Place,
}

impl<'g> MatMul<'g> {
    pub(crate) fn new(
        node: &'g Tensor,
        activations: Activations<'g>,
        place: Place,
    ) -> Option<Self> {
        Some(Self {
            node,
            weights: Weights::of(node.source(0)?)?,
            activations,
            place,
        })
    }

    /// Takes pieces of the product, a few panels of rows by a group of columns, until none
    /// is left.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn run(&self, context: Context<'_>) {
        let activations = &self.activations;
        let Context {
            isa,
            part,
            local,
            next,
            shared,
            ..
        } = context;
        let k = self.weights.k;
        let panels = self.weights.panels();
        let pieces = Pieces::new(activations, panels, tile_bytes(1, k), part.threads);
        let take = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            (index < pieces.count()).then(|| pieces.at(index))
        };
        let mut taken = take();
        if let Place::Local { number } = self.place
            && taken.is_some()
            && local.rounded != Some(number)
        {
            // SAFETY: the caller's promise.
            unsafe { activations.round_all(isa, &mut local.tile) };
            local.rounded = Some(number);
        }
        let rounded = match self.place {
            Place::Shared => shared.cast_const(),
            Place::Local { .. } => local.tile.as_ptr(),
        };
        while let Some(piece) = taken {
            // SAFETY: the caller's promise; each piece is taken once.
            unsafe { self.piece(isa, piece, rounded, &mut local.panel) };
            taken = take();
        }
    }

    /// # Safety
    /// As for [`super::Step::run`]; `rounded` holds all tiles.
    unsafe fn piece(&self, isa: Isa, piece: Piece, rounded: *const u8, panel_memory: &mut Vec<u8>) {
        let weights = &self.weights;
        let matrix = matrix_of(self.node, piece.batch);
        for panel in piece.panels {
            // SAFETY: the caller's promise.
            let bytes = unsafe { weights.panel(matrix, panel, panel_memory) };
            let rows = weights.panel_rows(panel);
            for tile in piece.tiles.clone() {
                let (first, columns) = self.activations.tile(piece.batch, tile);
                let offset = first * weights.rows + panel * PANEL_ROWS;
                // SAFETY: the tile is among the rounded ones; the result is contiguous and
                // these rows of these columns are of this piece alone.
                let (tile, products) = unsafe {
                    let tile = rounded.add(tile_bytes(first, weights.k));
                    let out = self.node.data.cast::<f32>().add(offset);
                    (
                        std::slice::from_raw_parts(tile, tile_bytes(columns, weights.k)),
                        Products::from_raw(out, weights.rows, rows),
                    )
                };
                let operands = Operands {
                    weight_type: weights.kind,
                    panel: bytes,
                    tile,
                    columns,
                    k: weights.k,
                };
                multiply(isa, &operands, products);
            }
        }
    }
}

/// The matrix of weights for a batch of a product, in dimensions 2 and 3: ggml repeats weights.
pub(crate) fn matrix_of(node: &Tensor, batch: usize) -> [usize; 2] {
    let shape = |index| node.source(index).map_or([1; 4], Tensor::shape);
    let ([_, _, n2, n3], [_, _, c2, c3]) = (shape(0), shape(1));
    if n2 * n3 == 1 {
        return [0, 0];
    }
    [batch % c2 / (c2 / n2), batch / c2 / (c3 / n3)]
}

/// Tiles of activations that stay in a core's cache, for columns of so many bytes.
pub(crate) fn group_tiles(column_bytes: usize) -> usize {
    (GROUP_BYTES / (TILE_COLUMNS * column_bytes)).max(1)
}

/// Panels that a piece of a product takes.
pub(crate) fn chunk_panels(panels: usize, threads: usize) -> usize {
    (panels / (threads * PIECES_PER_THREAD)).clamp(1, 8)
}

/// How a product is cut.
pub(crate) struct Pieces<'a> {
    activations: &'a Activations<'a>,
    panels: usize,
    /// Panels of a piece.
    chunk: usize,
    /// Tiles of a group of columns.
    group: usize,
}

/// Some panels of weights by some tiles of activations.
pub(crate) struct Piece {
    pub(crate) batch: usize,
    pub(crate) tiles: Range<usize>,
    pub(crate) panels: Range<usize>,
}

impl<'a> Pieces<'a> {
    /// For activations of `column_bytes` a column.
    pub(crate) fn new(
        activations: &'a Activations<'a>,
        panels: usize,
        column_bytes: usize,
        threads: usize,
    ) -> Self {
        Self {
            activations,
            panels,
            chunk: chunk_panels(panels, threads),
            group: group_tiles(column_bytes),
        }
    }

    fn chunks(&self) -> usize {
        self.panels.div_ceil(self.chunk)
    }

    fn groups(&self) -> usize {
        self.activations.batch_tiles().div_ceil(self.group)
    }

    pub(crate) fn count(&self) -> usize {
        self.activations.batches * self.groups() * self.chunks()
    }

    pub(crate) fn at(&self, index: usize) -> Piece {
        let (rest, chunk) = (index / self.chunks(), index % self.chunks());
        let (batch, group) = (rest / self.groups(), rest % self.groups());
        let tiles = group * self.group;
        let panels = chunk * self.chunk;
        Piece {
            batch,
            tiles: tiles..(tiles + self.group).min(self.activations.batch_tiles()),
            panels: panels..(panels + self.chunk).min(self.panels),
        }
    }
}
