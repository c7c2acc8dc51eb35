//! What recurrent families do along the tokens: `CONCAT` and `SSM_CONV`.

use super::{Context, floats, floats_mut};
use crate::abi::Tensor;
use kernels::conv;

/// One tensor behind the other along a dimension.
///
/// # Safety
/// As for [`super::Step::run`].
pub(crate) unsafe fn concat(context: Context<'_>, node: &Tensor) {
    let (Some(first), Some(second)) = (node.source(0), node.source(1)) else {
        return;
    };
    let dimension = usize::try_from(node.op_params[0]).unwrap_or(0);
    let [len, n1, n2, _] = node.shape();
    for row in context.part.share(node.rows()) {
        let mut place = [row % n1, row / n1 % n2, row / n1 / n2];
        // SAFETY: `support` takes floats, and a result of dense rows that is apart.
        unsafe {
            let out = floats_mut(node.row(row), len);
            let Some(outer) = dimension.checked_sub(1) else {
                let (head, tail) = out.split_at_mut(first.shape()[0]);
                gather(first, place, head);
                gather(second, place, tail);
                continue;
            };
            match place[outer].checked_sub(first.shape()[dimension]) {
                None => gather(first, place, out),
                Some(rest) => {
                    place[outer] = rest;
                    gather(second, place, out);
                }
            }
        }
    }
}

/// Copies a row of floats that may lie apart.
///
/// # Safety
/// The tensor must be allocated and have a row of that length at the place.
unsafe fn gather(tensor: &Tensor, place: [usize; 3], out: &mut [f32]) {
    let from = tensor.at(place).cast_const();
    for (index, value) in out.iter_mut().enumerate() {
        // SAFETY: the caller's promise; strides are whole floats.
        *value = unsafe { from.add(index * tensor.nb[0]).cast::<f32>().read() };
    }
}

/// A convolution of each channel with its few weights. Threads share the channels.
///
/// # Safety
/// As for [`super::Step::run`].
pub(crate) unsafe fn ssm_conv(context: Context<'_>, node: &Tensor) {
    let (Some(source), Some(weights)) = (node.source(0), node.source(1)) else {
        return;
    };
    let [len, channels, sequences, _] = source.shape();
    for index in context.part.share(channels * sequences) {
        let (channel, sequence) = (index % channels, index / channels);
        // SAFETY: `support` takes dense rows of floats, and a result of dense rows that is
        // apart, with a row for each window.
        unsafe {
            let row = floats(source.at([channel, sequence, 0]), len);
            let weights = floats(weights.at([channel, 0, 0]), weights.shape()[0]);
            conv::causal(row, weights, |token, sum| {
                let place = node.at([token, sequence, 0]).cast::<f32>();
                place.add(channel).write(sum);
            });
        }
    }
}
