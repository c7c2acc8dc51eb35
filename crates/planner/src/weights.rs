//! Where weights lie once a model is loaded, and in how many bytes.

use kernels::matmul::{PANEL_ROWS, WeightType};

use crate::model::{Model, Role, Tensor};
use crate::setup::{Compute, Loading, Setup};

/// Bytes of a cache line, to which packed tensors are aligned.
const LINE: u64 = 64;

/// Bytes of a model's weights by where they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weights {
    /// In memory of the process, in the layout that the kernels read.
    pub packed: u64,
    /// In memory of the process, as they lie in the file.
    pub read: u64,
    /// Read whole for every token where the file is mapped: decoding without these pages in
    /// memory reads the disk for each token.
    pub mapped: u64,
    /// Tables where the file is mapped, of which a token reads one row: the system may take
    /// their pages back, and a row that is asked for again costs one read.
    pub tables: u64,
    /// Pages of the file that were only read through on loading: they count as resident until
    /// the system needs them, which costs nothing then.
    pub left_over: u64,
    /// On a GPU.
    pub device: u64,
}

/// How one tensor is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Packed(u64),
    AsInFile,
}

impl Weights {
    /// Where the weights of a model go.
    #[must_use]
    pub fn of(model: &Model, setup: &Setup) -> Self {
        let mut weights = Self::default();
        let first_on_device = setup.first_on_device(model);
        let is_on_device = |tensor: &Tensor| {
            let place = tensor.layer.unwrap_or(model.n_layers);
            setup.gpu_layers > 0 && tensor.role != Role::Table && place >= first_on_device
        };
        for tensor in &model.tensors {
            if is_on_device(tensor) {
                weights.device = weights.device.saturating_add(tensor.bytes);
            } else {
                weights.add(kept(tensor, setup), tensor, setup.loading);
            }
        }
        // A tied output is a second tensor wherever the first one's place cannot multiply.
        if let Some(table) = model.table().filter(|_| model.is_tied) {
            let output = Tensor {
                role: Role::Weight,
                is_matrix: true,
                ..table.clone()
            };
            if is_on_device(&output) {
                weights.device = weights.device.saturating_add(output.bytes);
            } else if let Kept::Packed(bytes) = kept(&output, setup) {
                weights.packed = weights.packed.saturating_add(bytes);
            } else if setup.loading == Loading::Mapped {
                // The table itself is multiplied with, all of it for every token.
                weights.tables = weights.tables.saturating_sub(table.bytes);
                weights.mapped = weights.mapped.saturating_add(table.bytes);
            }
        }
        weights
    }

    fn add(&mut self, kept: Kept, tensor: &Tensor, loading: Loading) {
        let file_bytes = tensor.bytes;
        match (kept, loading) {
            (Kept::Packed(bytes), Loading::Mapped) => {
                self.packed = self.packed.saturating_add(bytes);
                self.left_over = self.left_over.saturating_add(file_bytes);
            }
            (Kept::Packed(bytes), Loading::Read) => {
                self.packed = self.packed.saturating_add(bytes);
            }
            (Kept::AsInFile, Loading::Mapped) if tensor.role == Role::Table => {
                self.tables = self.tables.saturating_add(file_bytes);
            }
            (Kept::AsInFile, Loading::Mapped) => {
                self.mapped = self.mapped.saturating_add(file_bytes);
            }
            (Kept::AsInFile, Loading::Read) => self.read = self.read.saturating_add(file_bytes),
        }
    }
}

fn kept(tensor: &Tensor, setup: &Setup) -> Kept {
    if !tensor.is_matrix {
        return Kept::AsInFile;
    }
    match setup.compute {
        Compute::Own => panels(tensor).map_or(Kept::AsInFile, Kept::Packed),
        Compute::Ggml if is_repacked(tensor) => Kept::Packed(tensor.bytes),
        Compute::Ggml => Kept::AsInFile,
    }
}

/// Bytes of matrices in panels of our kernels; `None` where they do not take them.
fn panels(tensor: &Tensor) -> Option<u64> {
    let weight_type = WeightType::from_name(tensor.kind)?;
    let width = usize::try_from(tensor.row).ok()?;
    if !width.is_multiple_of(weight_type.block_len()) {
        return None;
    }
    let rows = tensor.rows.checked_div(tensor.matrices)?;
    let panels = rows.div_ceil(PANEL_ROWS as u64);
    let bytes = panels
        .saturating_mul(tensor.matrices)
        .saturating_mul(weight_type.panel_bytes(width) as u64);
    Some(bytes.max(tensor.bytes).next_multiple_of(LINE))
}

/// Types that ggml's CPU back end lays out anew (`ggml-cpu/repack.cpp`), where rows come in
/// eights. Which of them depends on the instruction set; these are those of AVX2 and of ARM
/// with dot products.
fn is_repacked(tensor: &Tensor) -> bool {
    let known = matches!(tensor.kind, "Q4_0" | "Q4_K" | "IQ4_NL" | "Q2_K");
    known && tensor.rows.is_multiple_of(8)
}
