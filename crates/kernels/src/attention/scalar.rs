//! The specification: cell by cell, with a running maximum.

use super::cache::decode;
use super::{MASKED, Span};
use crate::float::f16_to_f32;

pub(super) fn attend(span: Span<'_>) {
    let Span {
        problem,
        layout,
        first,
        end,
        scratch,
        partial,
    } = span;
    let key = scratch.keys.take(problem.keys.head_size);
    let value = scratch.values.take(problem.values.head_size);
    for cell in first..end {
        decode(problem.keys.kind, problem.keys.row(cell), key);
        decode(problem.values.kind, problem.values.row(cell), value);
        for (row, partial) in partial.chunks_exact_mut(layout.row).enumerate() {
            let id = problem.row_id(row);
            let mask = problem.mask_of(id.position, cell, 1);
            let mask = mask.map_or(0, |mask| mask[0]);
            if mask == MASKED {
                continue;
            }
            let product = problem.query(row).iter().zip(&*key);
            let product = product.fold(0.0, |sum, (q, k)| sum + q * k);
            let mut score = product * problem.factor();
            if problem.softcap != 0.0 {
                score = problem.softcap * score.tanh();
            }
            score += problem.slope(id.head) * f16_to_f32(mask);

            let max = partial[layout.max].max(score);
            if max == f32::NEG_INFINITY && !score.is_nan() {
                continue;
            }
            let old = (partial[layout.max] - max).exp();
            let weight = (score - max).exp();
            for (sum, v) in partial.iter_mut().zip(&*value) {
                *sum = *sum * old + weight * v;
            }
            partial[layout.total] = partial[layout.total] * old + weight;
            partial[layout.max] = max;
        }
    }
}
