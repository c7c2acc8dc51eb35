//! `MUL_MAT` with weights, or keys and values, that are floats.

use super::matmul::{Activations, Piece, Pieces, matrix_of};
use super::{Context, float_row, floats};
use crate::abi::Tensor;
use kernels::Isa;
use kernels::float::Row;
use kernels::matmul::{PANEL_ROWS, Products, TILE_COLUMNS, multiply_dense};
use std::sync::atomic::Ordering;

/// One product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense<'g> {
    node: &'g Tensor,
    weights: &'g Tensor,
    activations: Activations<'g>,
}

impl<'g> Dense<'g> {
    pub(crate) fn of(node: &'g Tensor) -> Option<Self> {
        Some(Self {
            node,
            weights: node.source(0)?,
            activations: Activations::of(node)?,
        })
    }

    /// Takes pieces of the product until none is left.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn run(&self, context: Context<'_>) {
        let [k, rows, ..] = self.weights.shape();
        let panels = rows.div_ceil(PANEL_ROWS);
        let pieces = Pieces::new(&self.activations, panels, 4 * k, context.part.threads);
        loop {
            let index = context.next.fetch_add(1, Ordering::Relaxed);
            if index >= pieces.count() {
                return;
            }
            // SAFETY: the caller's promise; each piece is taken once.
            unsafe { self.piece(context.isa, pieces.at(index)) };
        }
    }

    /// # Safety
    /// As for [`super::Step::run`].
    unsafe fn piece(&self, isa: Isa, piece: Piece) {
        let [k, rows, ..] = self.weights.shape();
        let [n2, n3] = matrix_of(self.node, piece.batch);
        for panel in piece.panels {
            let first = panel * PANEL_ROWS;
            let height = (rows - first).min(PANEL_ROWS);
            let mut weights = [Row::F32(&[]); PANEL_ROWS];
            for (row, weights) in weights[..height].iter_mut().enumerate() {
                let place = self.weights.at([first + row, n2, n3]);
                // SAFETY: the caller's promise; `support` takes dense rows of floats.
                *weights = unsafe { float_row(place, self.weights.kind, k) };
            }
            for tile in piece.tiles.clone() {
                let (column, width) = self.activations.tile(piece.batch, tile);
                let mut columns: [&[f32]; TILE_COLUMNS] = [&[]; TILE_COLUMNS];
                for (index, slice) in columns[..width].iter_mut().enumerate() {
                    let place = self.activations.source().row(column + index);
                    // SAFETY: the caller's promise; `support` takes dense rows of floats.
                    *slice = unsafe { floats(place, k) };
                }
                // SAFETY: the result is contiguous and these rows of these columns are of
                // this piece alone.
                let products = unsafe {
                    let out = self.node.data.cast::<f32>().add(column * rows + first);
                    Products::from_raw(out, rows, height)
                };
                multiply_dense(isa, &weights[..height], &columns[..width], products);
            }
        }
    }
}
