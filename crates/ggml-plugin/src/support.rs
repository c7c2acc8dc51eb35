//! Which operations are taken: only what the steps compute, for the shapes they expect.
//!
//! ggml asks before anything is allocated, so a decision here rests on types, shapes and
//! strides, and on the buffers of what is allocated already.

use crate::abi::{self, Tensor, kind, op};
use crate::buffer::{self, Packed};
use crate::ops::attention::cache_type;
use crate::ops::{rope, rows};
use crate::tensor::weight_type;

pub(crate) fn supports(node: &Tensor) -> bool {
    if node.is_view() {
        return true;
    }
    let mut all = (0..node.src.len()).filter_map(|index| node.source(index));
    if !node.has_places() || !all.all(Tensor::has_places) {
        return false;
    }
    if is_probe(node) {
        return match node.op {
            op::MUL_MAT => matmul(node),
            op::MUL_MAT_ID => experts(node),
            _ => false,
        };
    }
    let packed_elsewhere = (0..node.src.len())
        .filter(|index| !(*index == 0 && buffer::reads_panels(node.op)))
        .filter_map(|index| node.source(index))
        .chain([node])
        .any(|tensor| Packed::of(tensor).is_some());
    if packed_elsewhere || !is_apart_or_in_step(node) {
        return false;
    }
    match node.op {
        op::MUL_MAT => matmul(node) || hadamard(node) || dense(node),
        op::MUL_MAT_ID => experts(node),
        op::ADD | op::SUB | op::MUL | op::DIV => binary(node),
        op::RMS_NORM | op::NORM | op::L2_NORM | op::SCALE | op::CLAMP => same_rows(node),
        op::SUM_ROWS => sum_rows(node),
        op::ARGSORT => argsort(node),
        op::UNARY => same_rows(node) && rows::step(node).is_some(),
        op::GLU => glu(node),
        op::SOFT_MAX => softmax(node),
        op::CPY | op::CONT | op::DUP => copy(node),
        op::CONCAT => concat(node),
        op::SSM_CONV => ssm_conv(node),
        op::GET_ROWS => get_rows(node),
        op::SET_ROWS => set_rows(node),
        op::ROPE => rope(node),
        op::FLASH_ATTN_EXT => attention(node),
        _ => false,
    }
}

/// Whether the loader of models asks about a weight: it gives it an empty buffer of ours.
/// Only weights that are multiplied are worth packing; those that are floats stay in the file
/// that is mapped.
fn is_probe(node: &Tensor) -> bool {
    let empty = |tensor: &Tensor| {
        // SAFETY: a tensor's buffer is null or alive.
        let buffer = unsafe { tensor.buffer.as_ref() };
        buffer.is_some_and(|buffer| buffer.size == 0 && buffer.buffer_type == buffer::host())
    };
    (0..node.src.len())
        .filter_map(|index| node.source(index))
        .any(empty)
}

/// Whether no part of a source can be overwritten before it is read. Views of one tensor
/// may share memory: an operation of rows can then work in place, where each row of the
/// result is that row of the source, and nothing else can.
fn is_apart_or_in_step(node: &Tensor) -> bool {
    let range = |tensor: &Tensor| {
        // SAFETY: the caller's tensor is alive.
        tensor.view_offs..tensor.view_offs + unsafe { abi::ggml_nbytes(tensor) }
    };
    let of_rows = !matches!(
        node.op,
        op::MUL_MAT
            | op::MUL_MAT_ID
            | op::GET_ROWS
            | op::SET_ROWS
            | op::SUM_ROWS
            | op::ARGSORT
            | op::CONCAT
            | op::SSM_CONV
            | op::FLASH_ATTN_EXT
    );
    let is_target = |index: usize| {
        matches!(
            (node.op, index),
            (op::CPY | op::CONT | op::DUP, 1) | (op::SET_ROWS, 2)
        )
    };
    let fits = |(index, source): (usize, &Tensor)| {
        if is_target(index) || !std::ptr::eq(source.root(), node.root()) {
            return true;
        }
        let (read, written) = (range(source), range(node));
        let apart = read.end <= written.start || written.end <= read.start;
        let shapes = source.shape() == node.shape() || (node.op == op::GLU && index == 0);
        let in_step = shapes && source.nb == node.nb && read.start == written.start;
        apart || (of_rows && in_step)
    };
    (0..node.src.len())
        .filter_map(|index| node.source(index).map(|source| (index, source)))
        .all(fits)
}

fn is_float(number: i32) -> bool {
    matches!(number, kind::F32 | kind::F16 | kind::BF16)
}

/// Whether it is one row of dense floats.
fn is_float_vector(tensor: &Tensor) -> bool {
    tensor.is_float_rows() && tensor.rows() == 1
}

fn has_dense_float_rows(tensor: &Tensor) -> bool {
    is_float(tensor.kind) && tensor.has_dense_rows(if tensor.kind == kind::F32 { 4 } else { 2 })
}

/// A product with quantised weights.
fn matmul(node: &Tensor) -> bool {
    node.source(0).is_some_and(has_panels) && multiplies(node)
}

/// A product with weights, or keys and values, that are floats.
fn dense(node: &Tensor) -> bool {
    node.source(0).is_some_and(has_dense_float_rows) && multiplies(node)
}

/// Whether quantised weights can be, or are, panels.
fn has_panels(weights: &Tensor) -> bool {
    let [k, ..] = weights.shape();
    // A view of packed weights has no place of its own.
    weights.view_src.is_null()
        && weight_type(weights.kind).is_some_and(|weight_type| {
            k.is_multiple_of(weight_type.block_len())
                && weights.nb[0] == weight_type.block_bytes()
                && weights.is_contiguous(weight_type.row_bytes(k))
        })
}

/// Whether the shapes of a product fit, with weights that ggml repeats for several batches.
fn multiplies(node: &Tensor) -> bool {
    let (Some(weights), Some(columns)) = (node.source(0), node.source(1)) else {
        return false;
    };
    let [k, rows, n2, n3] = weights.shape();
    let [columns_k, count, c2, c3] = columns.shape();
    let repeats = n2 > 0 && n3 > 0 && c2.is_multiple_of(n2) && c3.is_multiple_of(n3);
    repeats
        && k > 0
        && k == columns_k
        && columns.is_float_rows()
        && node.is_contiguous_floats()
        && node.shape() == [rows, count, c2, c3]
}

/// A product with experts, each a matrix of quantised weights.
fn experts(node: &Tensor) -> bool {
    let [Some(weights), Some(columns), Some(ids)] = [0, 1, 2].map(|index| node.source(index))
    else {
        return false;
    };
    let [k, rows, experts, w3] = weights.shape();
    let [columns_k, slots, tokens, c3] = columns.shape();
    let [used, ids_tokens, i2, i3] = ids.shape();
    has_panels(weights)
        && k > 0
        && experts > 0
        && (k, tokens) == (columns_k, ids_tokens)
        && [w3, c3, i2, i3] == [1; 4]
        && slots > 0
        && used.is_multiple_of(slots)
        && columns.is_float_rows()
        && ids.kind == kind::I32
        && ids.has_dense_rows(4)
        && node.is_contiguous_floats()
        && node.shape() == [rows, used, tokens, 1]
}

fn sum_rows(node: &Tensor) -> bool {
    let [_, n1, n2, n3] = node.shape();
    node.source(0).is_some_and(|source| {
        let [len, ..] = source.shape();
        source.is_float_rows() && node.is_float_rows() && source.shape() == [len, n1, n2, n3]
    }) && node.shape()[0] == 1
}

fn argsort(node: &Tensor) -> bool {
    node.source(0).is_some_and(|source| {
        source.is_float_rows()
            && node.kind == kind::I32
            && node.has_dense_rows(4)
            && source.shape() == node.shape()
    }) && rows::step(node).is_some()
}

fn same_rows(node: &Tensor) -> bool {
    node.source(0).is_some_and(|source| {
        source.is_float_rows() && node.is_float_rows() && source.shape() == node.shape()
    })
}

fn binary(node: &Tensor) -> bool {
    let Some(b) = node.source(1) else {
        return false;
    };
    let repeats = b
        .shape()
        .iter()
        .zip(node.shape())
        .all(|(&few, many)| few > 0 && many.is_multiple_of(few));
    let [b0, ..] = b.shape();
    same_rows(node) && b.is_float_rows() && repeats && (b0 == 1 || b0 == node.shape()[0])
}

fn glu(node: &Tensor) -> bool {
    let Some(first) = node.source(0) else {
        return false;
    };
    let [len, n1, n2, n3] = node.shape();
    let shapes = match node.source(1) {
        Some(second) => {
            first.shape() == node.shape()
                && second.shape() == node.shape()
                && second.is_float_rows()
        }
        None => first.shape() == [2 * len, n1, n2, n3],
    };
    shapes && first.is_float_rows() && node.is_float_rows() && rows::step(node).is_some()
}

fn softmax(node: &Tensor) -> bool {
    let [len, n1, n2, n3] = node.shape();
    let mask_fits = node.source(1).is_none_or(|mask| {
        let [m0, m1, m2, m3] = mask.shape();
        let repeats = m2 > 0 && m3 > 0 && n2.is_multiple_of(m2) && n3.is_multiple_of(m3);
        m0 == len && m1 >= n1 && repeats && has_dense_float_rows(mask) && mask.kind != kind::BF16
    });
    let has_slopes = node.float_param(1) > 0.0;
    let sinks_fit = node
        .source(2)
        .is_none_or(|sinks| is_float_vector(sinks) && sinks.shape()[0] == n2);
    same_rows(node) && mask_fits && sinks_fit && !has_slopes
}

fn copy(node: &Tensor) -> bool {
    node.source(0).is_some_and(|source| {
        let len = |tensor: &Tensor| tensor.shape()[0] * tensor.rows();
        let has_no_gaps = node.is_contiguous(node.nb[0] * node.shape()[0]);
        has_dense_float_rows(source)
            && has_dense_float_rows(node)
            && (source.shape() == node.shape() || has_no_gaps && len(source) == len(node))
    })
}

fn concat(node: &Tensor) -> bool {
    let (Some(first), Some(second)) = (node.source(0), node.source(1)) else {
        return false;
    };
    let dimension = usize::try_from(node.op_params[0]).unwrap_or(usize::MAX);
    let mut sum = first.shape();
    let Some(place) = sum.get_mut(dimension) else {
        return false;
    };
    *place += second.shape()[dimension];
    let mut like = second.shape();
    like[dimension] = first.shape()[dimension];
    like == first.shape()
        && node.shape() == sum
        && node.is_float_rows()
        && first.is_floats_apart()
        && second.is_floats_apart()
}

fn ssm_conv(node: &Tensor) -> bool {
    let (Some(source), Some(weights)) = (node.source(0), node.source(1)) else {
        return false;
    };
    let [len, channels, sequences, s3] = source.shape();
    let [window, weights_channels, w2, w3] = weights.shape();
    let [node_channels, tokens, node_sequences, n3] = node.shape();
    source.is_float_rows()
        && weights.is_float_rows()
        && node.is_float_rows()
        && [s3, w2, w3, n3] == [1; 4]
        && (weights_channels, node_channels) == (channels, channels)
        && node_sequences == sequences
        && window > 0
        && len + 1 == tokens + window
}

fn get_rows(node: &Tensor) -> bool {
    let (Some(table), Some(numbers)) = (node.source(0), node.source(1)) else {
        return false;
    };
    let table_fits = match weight_type(table.kind) {
        Some(weight_type) => {
            table.shape()[0].is_multiple_of(weight_type.block_len())
                && table.nb[0] == weight_type.block_bytes()
                && table.view_src.is_null()
        }
        None => has_dense_float_rows(table),
    };
    let [len, _, t2, t3] = table.shape();
    let [n0, n1, n2, n3] = numbers.shape();
    table_fits
        && !table.is_empty()
        && numbers.kind == kind::I32
        && numbers.has_dense_rows(4)
        && [n1, n2, n3] == [t2, t3, 1]
        && node.shape() == [len, n0, n1, n2]
        && node.is_float_rows()
}

fn set_rows(node: &Tensor) -> bool {
    let (Some(source), Some(numbers)) = (node.source(0), node.source(1)) else {
        return false;
    };
    let [len, rows, s2, s3] = source.shape();
    let [node_len, _, t2, t3] = node.shape();
    let [n0, n1, n2, n3] = numbers.shape();
    let number_bytes = match numbers.kind {
        kind::I32 => 4,
        kind::I64 => 8,
        _ => return false,
    };
    let repeats = n1 > 0 && n2 > 0 && s2.is_multiple_of(n1) && s3.is_multiple_of(n2);
    source.is_float_rows()
        && !node.is_empty()
        && (has_dense_float_rows(node) || has_quantised_rows(node))
        && numbers.has_dense_rows(number_bytes)
        && repeats
        && [len, s2, s3] == [node_len, t2, t3]
        && [n0, n3] == [rows, 1]
}

/// Whether rows are whole blocks of a type that caches are kept in.
fn has_quantised_rows(tensor: &Tensor) -> bool {
    let bytes = cache_type(tensor.kind).and_then(|kind| kind.row_bytes(tensor.shape()[0]));
    !is_float(tensor.kind) && is_dense(tensor) && bytes.is_some_and(|bytes| tensor.nb[1] >= bytes)
}

/// A product with a matrix of which ggml says that it is Hadamard's, of the rows' length.
pub(crate) fn hadamard(node: &Tensor) -> bool {
    /// `GGML_HINT_SRC0_IS_HADAMARD`, the second parameter of a product.
    const HADAMARD: i32 = 1;
    let (Some(matrix), Some(rows)) = (node.source(0), node.source(1)) else {
        return false;
    };
    let n = rows.shape()[0];
    node.op_params[1] == HADAMARD
        && matrix.kind == kind::F32
        && matrix.shape() == [n, n, 1, 1]
        && n.is_power_of_two()
        && rows.is_float_rows()
        && node.is_float_rows()
        && node.shape() == rows.shape()
}

fn rope(node: &Tensor) -> bool {
    let Some(parameters) = rope::parameters(node) else {
        return false;
    };
    let factors_fit = node.source(2).is_none_or(|factors| {
        is_float_vector(factors) && 2 * factors.shape()[0] >= parameters.n_dims
    });
    same_rows(node)
        && factors_fit
        && parameters.n_dims.is_multiple_of(2)
        && parameters.n_dims + parameters.offset <= node.shape()[0]
        && node.source(1).is_some_and(|positions| {
            let [_, _, tokens, _] = node.shape();
            positions.kind == kind::I32
                && positions.has_dense_rows(4)
                && positions.shape() == [tokens, 1, 1, 1]
        })
}

fn attention(node: &Tensor) -> bool {
    let [Some(queries), Some(keys), Some(values)] = [0, 1, 2].map(|index| node.source(index))
    else {
        return false;
    };
    let cache_fits = |tensor: &Tensor| {
        cache_type(tensor.kind).is_some_and(|cache_type| {
            let dense = match cache_type.row_bytes(tensor.shape()[0]) {
                None => false,
                Some(bytes) => bytes > 0 && tensor.nb[1] >= bytes && is_dense(tensor),
            };
            dense && !tensor.is_empty()
        })
    };
    let [head_size, positions, heads, streams] = queries.shape();
    let [key_size, cells, kv_heads, key_streams] = keys.shape();
    let [value_size, value_cells, value_heads, value_streams] = values.shape();
    let mask_fits = node.source(3).is_none_or(|mask| {
        let [m0, m1, m2, m3] = mask.shape();
        let right = m0 >= cells && m1 >= positions && m2 == 1 && (m3 == 1 || m3 == streams);
        right && mask.kind == kind::F16 && mask.has_dense_rows(2)
    });
    let sinks_fit = node
        .source(4)
        .is_none_or(|sinks| is_float_vector(sinks) && sinks.shape()[0] == heads);
    queries.is_float_rows()
        && !queries.is_empty()
        && cache_fits(keys)
        && cache_fits(values)
        && head_size == key_size
        && cells == value_cells
        && (kv_heads, key_streams) == (value_heads, value_streams)
        && heads.is_multiple_of(kv_heads)
        && streams == key_streams
        && mask_fits
        && sinks_fit
        && node.is_contiguous_floats()
        && node.shape() == [value_size, heads, positions, streams]
}

/// Whether the elements of a row of the cache lie side by side.
fn is_dense(tensor: &Tensor) -> bool {
    match weight_type(tensor.kind) {
        Some(weight_type) => tensor.nb[0] == weight_type.block_bytes(),
        None => has_dense_float_rows(tensor),
    }
}
