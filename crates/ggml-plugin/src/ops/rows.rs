//! Operations that work row by row.

use super::attention::cache_type;
use super::{Context, Step, float_row, floats, floats_mut};
use crate::abi::{Tensor, kind, op};
use crate::buffer::Packed;
use crate::tensor::weight_type;
use kernels::Isa;
use kernels::attention::quantize_row;
use kernels::float::{self, Affine, Binary, Clamp, Order, RowMut};
use kernels::glu::{self, Glu, Unary};
use kernels::matmul::{PANEL_ROWS, dequantize_row, unpack_row};
use kernels::norm::{self, Softmax, SoftmaxMask};

/// The step for a node of an operation of this module; `None` for what has no kernel.
pub(crate) fn step(node: &Tensor) -> Option<Step<'_>> {
    Some(match node.op {
        op::ADD => Step::Binary(node, Binary::Add),
        op::SUB => Step::Binary(node, Binary::Sub),
        op::MUL => Step::Binary(node, Binary::Mul),
        op::DIV => Step::Binary(node, Binary::Div),
        op::RMS_NORM => Step::RmsNorm {
            node,
            out: node,
            weight: None,
        },
        op::NORM => Step::LayerNorm(node),
        op::L2_NORM => Step::L2Norm(node),
        op::SCALE => {
            let [factor, bias] = [0, 1].map(|index| node.float_param(index));
            Step::Scale(node, Affine { factor, bias })
        }
        op::CLAMP => {
            let [low, high] = [0, 1].map(|index| node.float_param(index));
            Step::Clamp(node, Clamp { low, high })
        }
        op::SUM_ROWS => Step::SumRows(node),
        op::ARGSORT => Step::Argsort(node, order(node.op_params[0])?),
        op::UNARY => Step::Unary(node, unary_kind(node.op_params[0])?),
        op::GLU => Step::Glu(node, glu_kind(node)?),
        op::SOFT_MAX => Step::Softmax(node),
        op::CPY | op::CONT | op::DUP => Step::Copy(node),
        op::CONCAT => Step::Concat(node),
        op::SSM_CONV => Step::SsmConv(node),
        op::GET_ROWS => Step::GetRows(node),
        op::SET_ROWS => Step::SetRows(node),
        _ => return None,
    })
}

/// `enum ggml_sort_order`.
fn order(number: i32) -> Option<Order> {
    match number {
        0 => Some(Order::Ascending),
        1 => Some(Order::Descending),
        _ => None,
    }
}

/// `enum ggml_unary_op`.
fn unary_kind(number: i32) -> Option<Unary> {
    Some(match number {
        2 => Unary::Neg,
        4 => Unary::Tanh,
        6 => Unary::Relu,
        7 => Unary::Sigmoid,
        8 => Unary::Gelu,
        9 => Unary::GeluQuick,
        10 => Unary::Silu,
        13 => Unary::Exp,
        15 => Unary::Softplus,
        16 => Unary::GeluErf,
        _ => return None,
    })
}

/// `enum ggml_glu_op`.
fn glu_kind(node: &Tensor) -> Option<Glu> {
    Some(match node.op_params[0] {
        0 => Glu::Reglu,
        1 => Glu::Geglu,
        2 => Glu::Swiglu,
        3 => Glu::SwigluOai {
            alpha: node.float_param(2),
            limit: node.float_param(3),
        },
        4 => Glu::GegluErf,
        5 => Glu::GegluQuick,
        _ => return None,
    })
}

/// What `next` multiplies the norm by, if that is all it does and it is a row.
pub(crate) fn norm_weight<'g>(norm: &'g Tensor, next: &'g Tensor) -> Option<&'g Tensor> {
    let is_norm = |source: Option<&Tensor>| source.is_some_and(|source| std::ptr::eq(source, norm));
    if next.op != op::MUL || !is_norm(next.source(0)) {
        return None;
    }
    let weight = next.source(1)?;
    let fits = weight.is_float_rows() && weight.shape() == [norm.shape()[0], 1, 1, 1];
    fits.then_some(weight)
}

/// Calls `each` with every row of this thread's share: where it is in the source and in
/// the result, which are of one shape.
fn each_row(context: &Context<'_>, node: &Tensor, mut each: impl FnMut(*mut u8, *mut u8)) {
    if let Some(source) = node.source(0) {
        for row in context.part.share(node.rows()) {
            each(source.row(row), node.row(row));
        }
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn rms_norm(
    context: Context<'_>,
    node: &Tensor,
    out: &Tensor,
    weight: Option<&Tensor>,
) {
    let (isa, len, eps) = (context.isa, node.shape()[0], node.float_param(0));
    let Some(source) = node.source(0) else { return };
    for row in context.part.share(node.rows()) {
        let (from, to) = (source.row(row), out.row(row));
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            let weight = weight.map(|weight| floats(weight.data.cast(), len));
            if from == to {
                norm::rms_norm_in_place(isa, floats_mut(to, len), eps, weight);
            } else {
                norm::rms_norm(isa, floats_mut(to, len), floats(from, len), eps, weight);
            }
        }
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn layer_norm(context: Context<'_>, node: &Tensor) {
    let (isa, len, eps) = (context.isa, node.shape()[0], node.float_param(0));
    each_row(&context, node, |from, to| {
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            if from == to {
                norm::layer_norm_in_place(isa, floats_mut(to, len), eps);
            } else {
                norm::layer_norm(isa, floats_mut(to, len), floats(from, len), eps);
            }
        }
    });
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn l2_norm(context: Context<'_>, node: &Tensor) {
    let (isa, len, eps) = (context.isa, node.shape()[0], node.float_param(0));
    each_row(&context, node, |from, to| {
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            if from == to {
                norm::l2_norm_in_place(isa, floats_mut(to, len), eps);
            } else {
                norm::l2_norm(isa, floats_mut(to, len), floats(from, len), eps);
            }
        }
    });
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn scale(context: Context<'_>, node: &Tensor, by: Affine) {
    let (isa, len) = (context.isa, node.shape()[0]);
    each_row(&context, node, |from, to| {
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            if from == to {
                float::scale_in_place(isa, floats_mut(to, len), by);
            } else {
                float::scale(isa, floats_mut(to, len), floats(from, len), by);
            }
        }
    });
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn clamp(context: Context<'_>, node: &Tensor, to_range: Clamp) {
    let (isa, len) = (context.isa, node.shape()[0]);
    each_row(&context, node, |from, to| {
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            if from == to {
                float::clamp_in_place(isa, floats_mut(to, len), to_range);
            } else {
                float::clamp(isa, floats_mut(to, len), floats(from, len), to_range);
            }
        }
    });
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn sum_rows(context: Context<'_>, node: &Tensor) {
    let Some(source) = node.source(0) else { return };
    let len = source.shape()[0];
    for row in context.part.share(node.rows()) {
        // SAFETY: `support` takes rows of dense floats that are apart.
        unsafe { floats_mut(node.row(row), 1)[0] = float::sum(floats(source.row(row), len)) };
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn argsort(context: Context<'_>, node: &Tensor, order: Order) {
    let len = node.shape()[0];
    let Context { part, local, .. } = context;
    let Some(source) = node.source(0) else { return };
    for row in part.share(node.rows()) {
        // SAFETY: `support` takes rows of dense floats and of dense numbers of 32 bits that are
        // apart.
        unsafe {
            let out = std::slice::from_raw_parts_mut(node.row(row).cast(), len);
            float::argsort(out, floats(source.row(row), len), order, &mut local.keys);
        }
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn unary(context: Context<'_>, node: &Tensor, unary: Unary) {
    let (isa, len) = (context.isa, node.shape()[0]);
    each_row(&context, node, |from, to| {
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            if from == to {
                glu::unary_in_place(isa, unary, floats_mut(to, len));
            } else {
                glu::unary(isa, unary, floats_mut(to, len), floats(from, len));
            }
        }
    });
}

/// Elementwise; the second operand is repeated over dimensions 1 to 3, and a row of one element
/// over the row.
///
/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn binary(context: Context<'_>, node: &Tensor, binary: Binary) {
    let Context {
        isa, part, local, ..
    } = context;
    let (Some(a), Some(b)) = (node.source(0), node.source(1)) else {
        return;
    };
    let [len, n1, n2, _] = node.shape();
    let [b0, b1, b2, b3] = b.shape();
    for row in part.share(node.rows()) {
        let places = [row % n1 % b1, row / n1 % n2 % b2, row / n1 / n2 % b3];
        let (left, right, to) = (a.row(row), b.at(places), node.row(row));
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            let mut right = floats(right, b0);
            if b0 < len {
                let value = right[0];
                local.floats.clear();
                local.floats.resize(len, value);
                right = &local.floats;
            } else if right.as_ptr() == to.cast::<f32>().cast_const() {
                local.floats.clear();
                local.floats.extend_from_slice(right);
                right = &local.floats;
            }
            if left == to {
                float::binary_in_place(isa, binary, floats_mut(to, len), right);
            } else {
                float::binary(isa, binary, floats_mut(to, len), floats(left, len), right);
            }
        }
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn glu(context: Context<'_>, node: &Tensor, kind: Glu) {
    let Context {
        isa, part, local, ..
    } = context;
    let Some(first) = node.source(0) else { return };
    let len = node.shape()[0];
    let swapped = node.op_params[1] != 0;
    for row in part.share(node.rows()) {
        let (mut gate, mut up) = match node.source(1) {
            Some(second) => (first.row(row), second.row(row)),
            None => (first.row(row), first.row(row).wrapping_add(4 * len)),
        };
        if swapped && node.source(1).is_none() {
            std::mem::swap(&mut gate, &mut up);
        }
        let to = node.row(row);
        // SAFETY: `support` takes rows of dense floats, the same place or apart.
        unsafe {
            let mut up = floats(up, len);
            if up.as_ptr() == to.cast::<f32>().cast_const() {
                local.floats.clear();
                local.floats.extend_from_slice(up);
                up = &local.floats;
            }
            if gate == to {
                glu::glu_in_place(isa, kind, floats_mut(to, len), up);
            } else {
                glu::glu(isa, kind, floats_mut(to, len), floats(gate, len), up);
            }
        }
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn softmax(context: Context<'_>, node: &Tensor) {
    let Context {
        isa, part, local, ..
    } = context;
    let Some(source) = node.source(0) else { return };
    let [len, n1, n2, _] = node.shape();
    for row in part.share(node.rows()) {
        let (i1, i2, i3) = (row % n1, row / n1 % n2, row / n1 / n2);
        let (from, to) = (source.row(row), node.row(row));
        // SAFETY: `support` takes dense rows, the same place or apart.
        unsafe {
            let mask = match node.source(1) {
                None => SoftmaxMask::None,
                Some(mask) => {
                    let [_, _, m2, m3] = mask.shape();
                    let place = mask.at([i1, i2 % m2, i3 % m3]);
                    if mask.kind == kind::F32 && place == to {
                        local.floats.clear();
                        local.floats.extend_from_slice(floats(place, len));
                        SoftmaxMask::F32(&local.floats)
                    } else if mask.kind == kind::F32 {
                        SoftmaxMask::F32(floats(place, len))
                    } else {
                        SoftmaxMask::F16(std::slice::from_raw_parts(place.cast(), len))
                    }
                }
            };
            let sink = node
                .source(2)
                .map(|sinks| floats(sinks.data.cast(), n2)[i2]);
            let arguments = Softmax {
                scale: node.float_param(0),
                mask,
                slope: 1.0,
                sink,
            };
            if from == to {
                norm::softmax_in_place(isa, floats_mut(to, len), &arguments);
            } else {
                norm::softmax(isa, floats_mut(to, len), floats(from, len), &arguments);
            }
        }
    }
}

/// Copies rows, with conversion: of one shape, or into a result without gaps.
///
/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn copy(context: Context<'_>, node: &Tensor) {
    let Some(source) = node.source(0) else { return };
    let len = source.shape()[0];
    let has_one_shape = source.shape() == node.shape();
    for row in context.part.share(source.rows()) {
        let to = match has_one_shape {
            true => node.row(row),
            false => node.data.cast::<u8>().wrapping_add(row * len * node.nb[0]),
        };
        let from = (source.row(row).cast_const(), source.kind);
        // SAFETY: `support` takes dense rows of floats, the same place or apart.
        unsafe { convert(context.isa, (to, node.kind), from, len) };
    }
}

/// # Safety
/// `len` elements of the kinds must be there; the kinds must be those of floats.
unsafe fn convert(
    isa: Isa,
    (to, to_kind): (*mut u8, i32),
    (from, from_kind): (*const u8, i32),
    len: usize,
) {
    if std::ptr::eq(from, to) {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let halves_mut = |place: *mut u8| std::slice::from_raw_parts_mut(place.cast::<u16>(), len);
        let result = match to_kind {
            kind::F16 => RowMut::F16(halves_mut(to)),
            kind::BF16 => RowMut::Bf16(halves_mut(to)),
            _ => RowMut::F32(floats_mut(to, len)),
        };
        float::convert(isa, result, float_row(from, from_kind, len));
    }
}

/// Rows of a table, by number.
///
/// # Safety
/// As for [`Step::run`]. A number beyond the table is a mistake of the caller, as in ggml.
pub(crate) unsafe fn get_rows(context: Context<'_>, node: &Tensor) {
    let (Some(table), Some(numbers)) = (node.source(0), node.source(1)) else {
        return;
    };
    let Context {
        isa, part, local, ..
    } = context;
    let [len, n1, n2, _] = node.shape();
    let table_rows = table.shape()[1];
    let packed = Packed::of(table);
    for row in part.share(node.rows()) {
        let (i1, i2, i3) = (row % n1, row / n1 % n2, row / n1 / n2);
        // SAFETY: `support` takes numbers of 32 bits and dense results of floats.
        unsafe {
            let place = numbers.data.cast::<u8>();
            let place = place.add(i1 * numbers.nb[0] + i2 * numbers.nb[1] + i3 * numbers.nb[2]);
            let number = usize::try_from(place.cast::<i32>().read()).unwrap_or(usize::MAX);
            assert!(
                number < table_rows,
                "row {number} of a table of {table_rows}"
            );
            let to = node.row(row);
            let from = table.at([number, i2, i3]).cast_const();
            match (packed, weight_type(table.kind)) {
                (Some(packed), _) => {
                    let matrix = i3 * table.shape()[2] + i2;
                    let panel = packed.panel(matrix, number / PANEL_ROWS);
                    local.panel.resize(packed.weight_type.row_bytes(len), 0);
                    let bytes = &mut local.panel;
                    unpack_row(packed.weight_type, len, panel, number % PANEL_ROWS, bytes);
                    dequantize_row(packed.weight_type, bytes, floats_mut(to, len));
                }
                (None, Some(kind)) => {
                    let bytes = std::slice::from_raw_parts(from, kind.row_bytes(len));
                    dequantize_row(kind, bytes, floats_mut(to, len));
                }
                (None, None) => convert(isa, (to, node.kind), (from, table.kind), len),
            }
        }
    }
}

/// Writes rows into a table, by number.
///
/// # Safety
/// As for [`Step::run`]. A number beyond the table is a mistake of the caller, as in ggml.
pub(crate) unsafe fn set_rows(context: Context<'_>, node: &Tensor) {
    let (Some(source), Some(numbers)) = (node.source(0), node.source(1)) else {
        return;
    };
    let [len, n1, n2, n3] = source.shape();
    let [_, m1, m2, _] = numbers.shape();
    let table_rows = node.shape()[1];
    for row in context.part.share(n1 * n2 * n3) {
        let (i1, i2, i3) = (row % n1, row / n1 % n2, row / n1 / n2);
        let offset = i1 * numbers.nb[0] + i2 % m1 * numbers.nb[1] + i3 % m2 * numbers.nb[2];
        // SAFETY: `support` takes numbers of 32 or 64 bits, and dense rows of
        // floats or blocks.
        unsafe {
            let place = numbers.data.cast::<u8>().add(offset);
            let number = match numbers.kind {
                kind::I64 => usize::try_from(place.cast::<i64>().read()),
                _ => usize::try_from(place.cast::<i32>().read()),
            };
            let number = number.unwrap_or(usize::MAX);
            assert!(
                number < table_rows,
                "row {number} of a table of {table_rows}"
            );
            let to = node.at([number, i2, i3]);
            match cache_type(node.kind).filter(|kind| kind.is_quantised()) {
                Some(kind) => {
                    let bytes = kind.row_bytes(len).unwrap_or(0);
                    let out = std::slice::from_raw_parts_mut(to, bytes);
                    quantize_row(context.isa, kind, floats(source.row(row), len), out);
                }
                None => convert(
                    context.isa,
                    (to, node.kind),
                    (source.row(row), source.kind),
                    len,
                ),
            }
        }
    }
}

/// # Safety
/// As for [`Step::run`].
pub(crate) unsafe fn hadamard(context: Context<'_>, node: &Tensor) {
    let (isa, len) = (context.isa, node.shape()[0]);
    let Some(source) = node.source(1) else { return };
    for row in context.part.share(node.rows()) {
        // SAFETY: `support` takes rows of dense floats that are apart.
        unsafe {
            let out = floats_mut(node.row(row), len);
            kernels::hadamard::hadamard(isa, out, floats(source.row(row), len));
        }
    }
}
