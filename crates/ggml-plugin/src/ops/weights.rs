//! Quantised weights of a product, as panels.

use crate::abi::Tensor;
use crate::buffer::Packed;
use crate::tensor::weight_type;
use kernels::matmul::{PANEL_ROWS, WeightType, pack_panel};

/// A tensor of quantised weights: one matrix or several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'g> {
    tensor: &'g Tensor,
    /// `None` in ggml's layout: then each panel is packed when it is used.
    packed: Option<Packed>,
    pub(crate) kind: WeightType,
    pub(crate) k: usize,
    /// Rows of one matrix.
    pub(crate) rows: usize,
}

impl<'g> Weights<'g> {
    pub(crate) fn of(tensor: &'g Tensor) -> Option<Self> {
        let [k, rows, ..] = tensor.shape();
        Some(Self {
            tensor,
            packed: Packed::of(tensor),
            kind: weight_type(tensor.kind)?,
            k,
            rows,
        })
    }

    /// Panels of one matrix.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Rows of a panel that exist.
    pub(crate) fn panel_rows(&self, panel: usize) -> usize {
        (self.rows - panel * PANEL_ROWS).min(PANEL_ROWS)
    }

    /// A panel of the matrix at these places of dimensions 2 and 3; `memory` is for one that
    /// has to be packed.
    ///
    /// # Safety
    /// The weights must be allocated, and nobody may write to them meanwhile.
    pub(crate) unsafe fn panel<'a>(
        &self,
        matrix: [usize; 2],
        panel: usize,
        memory: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        if let Some(packed) = self.packed {
            let [_, _, n2, _] = self.tensor.shape();
            // SAFETY: the caller's promise.
            return unsafe { packed.panel(matrix[1] * n2 + matrix[0], panel) };
        }
        let place = self.tensor.at([panel * PANEL_ROWS, matrix[0], matrix[1]]);
        let bytes = self.panel_rows(panel) * self.kind.row_bytes(self.k);
        // SAFETY: the caller's promise; `support` takes rows without gaps.
        let source = unsafe { std::slice::from_raw_parts(place, bytes) };
        memory.resize(self.kind.panel_bytes(self.k), 0);
        pack_panel(self.kind, self.k, source, memory);
        memory
    }
}
