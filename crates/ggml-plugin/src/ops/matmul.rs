//! `MUL_MAT` with quantised weights.

use super::{Context, floats};
use crate::abi::Tensor;
use crate::buffer::Packed;
use crate::tensor::weight_type;
use kernels::Isa;
use kernels::matmul::{
    Operands, PANEL_ROWS, Products, TILE_COLUMNS, WeightType, multiply, pack_panel, quantize_tile,
    tile_bytes,
};
use std::sync::atomic::Ordering;

/// Bytes of rounded activations that a thread goes through again and again for one panel
/// after the other: half of a second-level cache of 1 MiB.
const GROUP_BYTES: usize = 512 << 10;

/// Pieces of work a thread: enough that a slow core does not hold the others up.
const PIECES_PER_THREAD: usize = 8;

/// The columns of a product, rounded to 8 bits and laid out in tiles.
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

    fn batch_tiles(&self) -> usize {
        self.batch_columns.div_ceil(TILE_COLUMNS)
    }

    /// First column, over all batches, and the number of columns of a tile.
    fn tile(&self, batch: usize, tile: usize) -> (usize, usize) {
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
    /// In each thread's own; `fresh` where this product has to put them there.
    Local { fresh: bool },
}

/// Where the weights are.
#[derive(Clone, Copy, Debug)]
enum Weights<'g> {
    Packed(Packed),
    /// In ggml's layout: each panel is packed when it is used.
    Plain(&'g Tensor, WeightType),
}

/// One product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatMul<'g> {
    node: &'g Tensor,
    weights: Weights<'g>,
    k: usize,
    rows: usize,
    activations: Activations<'g>,
    place: Place,
}

impl<'g> MatMul<'g> {
    pub(crate) fn new(
        node: &'g Tensor,
        activations: Activations<'g>,
        place: Place,
    ) -> Option<Self> {
        let weights = node.source(0)?;
        let kind = weight_type(weights.kind)?;
        let [k, rows, ..] = weights.shape();
        let weights = match Packed::of(weights) {
            Some(packed) => Weights::Packed(packed),
            None => Weights::Plain(weights, kind),
        };
        Some(Self {
            node,
            weights,
            k,
            rows,
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
        if let Place::Local { fresh: true } = self.place {
            local.tile.resize(activations.bytes(), 0);
            let tiles = activations.batch_tiles();
            for index in 0..activations.batches * tiles {
                let (first, width) = activations.tile(index / tiles, index % tiles);
                let start = tile_bytes(first, self.k);
                let tile = &mut local.tile[start..start + tile_bytes(width, self.k)];
                // SAFETY: the caller's promise.
                unsafe { activations.round_tile(isa, first, width, tile) };
            }
        }
        let rounded = match self.place {
            Place::Shared => shared.cast_const(),
            Place::Local { .. } => local.tile.as_ptr(),
        };
        let pieces = Pieces::new(self, activations, part.threads);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= pieces.count() {
                return;
            }
            // SAFETY: the caller's promise; each piece is taken once.
            unsafe { self.piece(isa, &pieces, index, rounded, &mut local.panel) };
        }
    }

    /// # Safety
    /// As for [`super::Step::run`]; `rounded` holds all tiles.
    unsafe fn piece(
        &self,
        isa: Isa,
        pieces: &Pieces<'_>,
        index: usize,
        rounded: *const u8,
        panel_memory: &mut Vec<u8>,
    ) {
        let activations = pieces.activations;
        let (batch, tiles, panels) = pieces.at(index);
        let matrix = self.matrix(batch);
        let weight_type = match self.weights {
            Weights::Packed(packed) => packed.weight_type,
            Weights::Plain(_, weight_type) => weight_type,
        };
        for panel in panels {
            // SAFETY: the caller's promise.
            let weights = unsafe { self.panel(matrix, panel, panel_memory) };
            let rows = (self.rows - panel * PANEL_ROWS).min(PANEL_ROWS);
            for tile in tiles.clone() {
                let (first, columns) = activations.tile(batch, tile);
                let offset = first * self.rows + panel * PANEL_ROWS;
                // SAFETY: the tile is among the rounded ones; the result is contiguous and
                // these rows of these columns are of this piece alone.
                let (tile, products) = unsafe {
                    let tile = rounded.add(tile_bytes(first, self.k));
                    let out = self.node.data.cast::<f32>().add(offset);
                    (
                        std::slice::from_raw_parts(tile, tile_bytes(columns, self.k)),
                        Products::from_raw(out, self.rows, rows),
                    )
                };
                let operands = Operands {
                    weight_type,
                    panel: weights,
                    tile,
                    columns,
                    k: self.k,
                };
                multiply(isa, &operands, products);
            }
        }
    }

    /// # Safety
    /// The weights must be allocated.
    unsafe fn panel<'a>(
        &self,
        matrix: [usize; 2],
        panel: usize,
        memory: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        match self.weights {
            Weights::Packed(packed) => {
                let n2 = self.node.source(0).map_or(1, |weights| weights.shape()[2]);
                // SAFETY: the caller's promise; nobody writes to weights.
                unsafe { packed.panel(matrix[1] * n2 + matrix[0], panel) }
            }
            Weights::Plain(tensor, weight_type) => {
                let first = panel * PANEL_ROWS;
                let rows = (self.rows - first).min(PANEL_ROWS);
                let place = tensor.at([first, matrix[0], matrix[1]]);
                // SAFETY: the caller's promise; `support` takes rows without gaps.
                let source = unsafe {
                    std::slice::from_raw_parts(place, rows * weight_type.row_bytes(self.k))
                };
                memory.resize(weight_type.panel_bytes(self.k), 0);
                pack_panel(weight_type, self.k, source, memory);
                memory
            }
        }
    }

    /// The matrix of weights for a batch, in dimensions 2 and 3: ggml repeats weights.
    fn matrix(&self, batch: usize) -> [usize; 2] {
        let shape = |index| self.node.source(index).map_or([1; 4], Tensor::shape);
        let ([_, _, n2, n3], [_, _, c2, c3]) = (shape(0), shape(1));
        if n2 * n3 == 1 {
            return [0, 0];
        }
        [batch % c2 / (c2 / n2), batch / c2 / (c3 / n3)]
    }
}

/// How a product is cut.
struct Pieces<'a> {
    activations: &'a Activations<'a>,
    panels: usize,
    /// Panels of a piece.
    chunk: usize,
    /// Tiles of a group of columns.
    group: usize,
}

impl<'a> Pieces<'a> {
    fn new(matmul: &MatMul<'_>, activations: &'a Activations<'a>, threads: usize) -> Self {
        let panels = matmul.rows.div_ceil(PANEL_ROWS);
        let group = (GROUP_BYTES / tile_bytes(TILE_COLUMNS, matmul.k)).max(1);
        let chunk = (panels / (threads * PIECES_PER_THREAD)).clamp(1, 8);
        Self {
            activations,
            panels,
            chunk,
            group,
        }
    }

    fn chunks(&self) -> usize {
        self.panels.div_ceil(self.chunk)
    }

    fn groups(&self) -> usize {
        self.activations.batch_tiles().div_ceil(self.group)
    }

    fn count(&self) -> usize {
        self.activations.batches * self.groups() * self.chunks()
    }

    /// Batch, tiles and panels of a piece.
    fn at(&self, index: usize) -> (usize, std::ops::Range<usize>, std::ops::Range<usize>) {
        let (rest, chunk) = (index / self.chunks(), index % self.chunks());
        let (batch, group) = (rest / self.groups(), rest % self.groups());
        let tiles = group * self.group;
        let panels = chunk * self.chunk;
        (
            batch,
            tiles..(tiles + self.group).min(self.activations.batch_tiles()),
            panels..(panels + self.chunk).min(self.panels),
        )
    }
}
