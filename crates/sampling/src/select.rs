//! Partial selection over rows of logits, without sorting what is thrown away.
//!
//! Everywhere, a higher logit comes first and equal logits are ordered by token
//! id, so results do not depend on the selection algorithm.

use std::cmp::Ordering;

use crate::{TokenId, math};

/// A token still in the running. The logit is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) token: TokenId,
    pub(crate) logit: f32,
}

impl Candidate {
    /// An infinite logit becomes the largest finite one, so that differences stay numbers.
    fn new(index: usize, logit: f32) -> Self {
        Self {
            token: index as TokenId,
            logit: logit.min(f32::MAX),
        }
    }
}

pub(crate) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit
        .partial_cmp(&a.logit)
        .unwrap_or(Ordering::Equal)
        .then(a.token.cmp(&b.token))
}

/// The `k` best candidates of a row, best first. Minus infinity and NaN are never candidates.
///
/// One pass: a chunk whose values all lie at or below the k-th best so far is
/// skipped by a vectorised comparison; the few others go to a buffer that is cut
/// back to `k` when it doubles.
pub(crate) fn top_k(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    const CHUNK: usize = 64;
    out.clear();
    if k == 0 {
        return;
    }
    let len_max = k.saturating_mul(2).max(k.saturating_add(256));
    let mut threshold = f32::NEG_INFINITY;
    for (index, chunk) in logits.chunks(CHUNK).enumerate() {
        if !chunk.iter().fold(false, |any, x| any | (*x > threshold)) {
            continue;
        }
        for (offset, &logit) in chunk.iter().enumerate() {
            if logit > threshold {
                out.push(Candidate::new(index * CHUNK + offset, logit));
            }
        }
        if out.len() >= len_max {
            out.select_nth_unstable_by(k - 1, by_rank);
            out.truncate(k);
            threshold = out[k - 1].logit;
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, by_rank);
        out.truncate(k);
    }
    out.sort_unstable_by(by_rank);
}

/// Every candidate at or above `floor`, in id order.
pub(crate) fn at_least(logits: &[f32], floor: f32, out: &mut Vec<Candidate>) {
    out.clear();
    out.extend(
        logits
            .iter()
            .enumerate()
            .filter(|(_, x)| **x >= floor && **x > f32::NEG_INFINITY)
            .map(|(index, &logit)| Candidate::new(index, logit)),
    );
}

/// Calls `enough` with the elements in sorted order until it says so, and drops
/// the rest. Sorts in growing steps, so that a short prefix costs a short sort.
pub(crate) fn take_sorted_until<T>(
    items: &mut Vec<T>,
    compare: impl Fn(&T, &T) -> Ordering,
    mut enough: impl FnMut(&T) -> bool,
) {
    let mut step = 256;
    let mut done = 0;
    while done < items.len() {
        let end = items.len().min(done + step);
        if end < items.len() {
            items[done..].select_nth_unstable_by(end - done - 1, &compare);
        }
        items[done..end].sort_unstable_by(&compare);
        if let Some(offset) = items[done..end].iter().position(&mut enough) {
            items.truncate(done + offset + 1);
            return;
        }
        done = end;
        step *= 4;
    }
}

/// The highest logit of the candidates; minus infinity when there are none.
pub(crate) fn max_logit(candidates: &[Candidate]) -> f32 {
    candidates
        .iter()
        .fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
}

/// The sum of e^(logit - max) over the candidates.
pub(crate) fn total_weight(candidates: &[Candidate], max: f32) -> f64 {
    candidates
        .iter()
        .map(|c| f64::from(math::exp(c.logit - max)))
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(logits: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = logits
            .iter()
            .enumerate()
            .filter(|(_, x)| !x.is_nan() && **x != f32::NEG_INFINITY)
            .map(|(index, &x)| Candidate::new(index, x))
            .collect();
        all.sort_by(by_rank);
        all
    }

    fn logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => (-8_i8..8).prop_map(|x| f32::from(x) / 2.0),
            3 => -30.0_f32..30.0,
            1 => prop_oneof![
                Just(f32::NEG_INFINITY),
                Just(f32::INFINITY),
                Just(f32::NAN),
                Just(-0.0),
            ],
        ]
    }

    proptest! {
        #[test]
        fn top_k_equals_a_full_sort(logits in prop::collection::vec(logit(), 0..2000), k in 0_usize..700) {
            let mut fast = Vec::new();
            top_k(&logits, k, &mut fast);
            let mut slow = naive(&logits);
            slow.truncate(k);
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn a_sorted_prefix_equals_a_full_sort(logits in prop::collection::vec(logit(), 0..3000), n in 1_usize..3000) {
            let mut fast = Vec::new();
            at_least(&logits, f32::NEG_INFINITY, &mut fast);
            let mut seen = 0;
            take_sorted_until(&mut fast, by_rank, |_| { seen += 1; seen == n });
            let mut slow = naive(&logits);
            slow.truncate(n);
            prop_assert_eq!(fast, slow);
        }
    }
}
