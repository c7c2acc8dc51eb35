//! The steps of a graph. All are cut into a share for each thread; a share of some is to take
//! pieces until none is left.

pub(crate) mod attention;
pub(crate) mod dense;
pub(crate) mod experts;
pub(crate) mod matmul;
mod mixing;
pub(crate) mod rope;
pub(crate) mod rows;
mod weights;

use crate::abi::{Tensor, kind};
use crate::graph::Local;
use crate::pool::Part;
use attention::AttentionStep;
use dense::Dense;
use experts::{Chosen, Experts};
use kernels::Isa;
use kernels::float::{Affine, Binary, Clamp, Order, Row};
use kernels::glu::{Glu, Unary};
use matmul::{Activations, MatMul};
use rope::{RopeTables, Tables};
use std::sync::atomic::AtomicUsize;

/// What a step runs with on one thread.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) isa: Isa,
    pub(crate) part: Part,
    /// Memory of all threads, as large as the plan said.
    pub(crate) shared: *mut u8,
    /// The next piece of work of this step that nobody has taken.
    pub(crate) next: &'a AtomicUsize,
    pub(crate) tables: &'a Tables,
    pub(crate) local: &'a mut Local,
}

/// One step.
#[derive(Debug)]
pub(crate) enum Step<'g> {
    /// Rounds activations for the products that follow.
    Round(Activations<'g>),
    MatMul(MatMul<'g>),
    Dense(Dense<'g>),
    /// Rounds the columns of experts for the products that follow.
    RoundChosen(Chosen<'g>),
    Experts(Experts<'g>),
    RmsNorm {
        node: &'g Tensor,
        out: &'g Tensor,
        weight: Option<&'g Tensor>,
    },
    LayerNorm(&'g Tensor),
    L2Norm(&'g Tensor),
    Binary(&'g Tensor, Binary),
    Scale(&'g Tensor, Affine),
    Clamp(&'g Tensor, Clamp),
    SumRows(&'g Tensor),
    Argsort(&'g Tensor, Order),
    Unary(&'g Tensor, Unary),
    Glu(&'g Tensor, Glu),
    Softmax(&'g Tensor),
    Copy(&'g Tensor),
    Concat(&'g Tensor),
    SsmConv(&'g Tensor),
    GetRows(&'g Tensor),
    SetRows(&'g Tensor),
    /// The second source, transformed row by row.
    Hadamard(&'g Tensor),
    RopeTables(RopeTables<'g>),
    Rope {
        node: &'g Tensor,
        tables: RopeTables<'g>,
    },
    Attention(AttentionStep<'g>),
    MergeAttention(AttentionStep<'g>),
}

impl Step<'_> {
    /// Shares that are worth a thread each. A share of a step that hands out pieces is to take
    /// of them until none is left.
    pub(crate) fn shares_max(&self) -> usize {
        match self {
            Self::MatMul(_) | Self::Dense(_) | Self::Experts(_) | Self::Attention(_) => usize::MAX,
            Self::Round(activations) => activations.batches() * activations.batch_tiles(),
            // How its columns are brought together is not known yet.
            Self::RoundChosen(_) | Self::MergeAttention(_) => usize::MAX,
            Self::RopeTables(tables) => tables.tokens(),
            Self::RmsNorm { node, .. }
            | Self::LayerNorm(node)
            | Self::L2Norm(node)
            | Self::Binary(node, _)
            | Self::Scale(node, _)
            | Self::Clamp(node, _)
            | Self::SumRows(node)
            | Self::Argsort(node, _)
            | Self::Unary(node, _)
            | Self::Glu(node, _)
            | Self::Softmax(node)
            | Self::Concat(node)
            | Self::GetRows(node)
            | Self::Hadamard(node)
            | Self::Rope { node, .. } => node.rows(),
            // Their rows are not those of the result.
            Self::Copy(_) | Self::SsmConv(_) | Self::SetRows(_) => usize::MAX,
        }
    }

    /// Whether a share is to take pieces until none is left.
    pub(crate) const fn hands_out_pieces(&self) -> bool {
        matches!(
            self,
            Self::MatMul(_) | Self::Dense(_) | Self::Experts(_) | Self::Attention(_)
        )
    }

    /// Runs a share, or pieces until none is left.
    ///
    /// # Safety
    /// The tensors must be allocated and of the shapes that `support` takes, and no other
    /// thread may touch what this step writes, but for the same step.
    pub(crate) unsafe fn run(&self, context: Context<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Round(activations) => activations.round(context),
                Self::MatMul(matmul) => matmul.run(context),
                Self::Dense(dense) => dense.run(context),
                Self::RoundChosen(chosen) => chosen.round(context),
                Self::Experts(experts) => experts.run(context),
                Self::RmsNorm { node, out, weight } => rows::rms_norm(context, node, out, *weight),
                Self::LayerNorm(node) => rows::layer_norm(context, node),
                Self::L2Norm(node) => rows::l2_norm(context, node),
                Self::Binary(node, binary) => rows::binary(context, node, *binary),
                Self::Scale(node, affine) => rows::scale(context, node, *affine),
                Self::Clamp(node, clamp) => rows::clamp(context, node, *clamp),
                Self::SumRows(node) => rows::sum_rows(context, node),
                Self::Argsort(node, order) => rows::argsort(context, node, *order),
                Self::Unary(node, unary) => rows::unary(context, node, *unary),
                Self::Glu(node, glu) => rows::glu(context, node, *glu),
                Self::Softmax(node) => rows::softmax(context, node),
                Self::Copy(node) => rows::copy(context, node),
                Self::Concat(node) => mixing::concat(context, node),
                Self::SsmConv(node) => mixing::ssm_conv(context, node),
                Self::GetRows(node) => rows::get_rows(context, node),
                Self::SetRows(node) => rows::set_rows(context, node),
                Self::Hadamard(node) => rows::hadamard(context, node),
                Self::RopeTables(tables) => tables.fill(context),
                Self::Rope { node, tables } => tables.apply(context, node),
                Self::Attention(step) => step.run(context),
                Self::MergeAttention(step) => step.merge(context),
            }
        }
    }
}

/// Floats at a place.
///
/// # Safety
/// That many must be there and not be written to meanwhile.
pub(crate) unsafe fn floats<'a>(place: *const u8, count: usize) -> &'a [f32] {
    // SAFETY: the caller's promise; ggml aligns elements.
    unsafe { std::slice::from_raw_parts(place.cast(), count) }
}

/// Floats at a place, to be written.
///
/// # Safety
/// That many must be there and nobody else may have them.
pub(crate) unsafe fn floats_mut<'a>(place: *mut u8, count: usize) -> &'a mut [f32] {
    // SAFETY: the caller's promise; ggml aligns elements.
    unsafe { std::slice::from_raw_parts_mut(place.cast(), count) }
}

/// A row of floats of that type, or of `f32` for any other.
///
/// # Safety
/// As for [`floats`].
pub(crate) unsafe fn float_row<'a>(place: *const u8, kind: i32, count: usize) -> Row<'a> {
    // SAFETY: the caller's promise; ggml aligns elements.
    unsafe {
        match kind {
            kind::F16 => Row::F16(std::slice::from_raw_parts(place.cast(), count)),
            kind::BF16 => Row::Bf16(std::slice::from_raw_parts(place.cast(), count)),
            _ => Row::F32(floats(place, count)),
        }
    }
}
