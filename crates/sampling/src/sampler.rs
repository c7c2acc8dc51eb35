//! One row of logits in, one token out.
//!
//! The chain is llama.cpp's default: logit bias, penalties, DRY, mask, top-k,
//! typical, top-p, min-p, temperature, then one draw. As there, the filters see
//! the distribution at temperature 1, and the temperature shapes what they leave.
//!
//! A row is not copied unless something changes it, and no step sorts more of it
//! than it keeps. Buffers are reused from token to token.

use std::sync::Arc;

use thiserror::Error;

use crate::dry::Dry;
use crate::penalties::Penalties;
use crate::rng::{Rng, choice_seed};
use crate::select::{self, Candidate};
use crate::{Params, TokenId, TokenMask, math};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SampleError {
    /// Every logit is minus infinity or NaN after bias, bans and mask.
    #[error("no token can be sampled: all {n_vocab} are masked, banned or not a number")]
    NoCandidate { n_vocab: usize },
}

/// The sampling state of one choice: its values, random stream and token history.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: Arc<Params>,
    rng: Rng,
    penalties: Option<Penalties>,
    dry: Option<Dry>,
    /// The row after bias, penalties and mask.
    row: Vec<f32>,
    candidates: Vec<Candidate>,
    weights: Vec<f32>,
    surprises: Vec<(f32, Candidate)>,
}

impl Sampler {
    /// The values must have passed [`Params::validate`]; outside its ranges the
    /// result is still a token or an error, but which is not specified.
    #[must_use]
    pub fn new(params: &Params) -> Self {
        Self {
            rng: Rng::new(params.seed),
            penalties: Penalties::new(params),
            dry: Dry::new(params),
            params: Arc::new(params.clone()),
            row: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
            surprises: Vec::new(),
        }
    }

    /// Whether the same logits always give the same token, whatever the seed.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.params.temperature <= 0.0
    }

    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// A sampler for another choice of the same request: same values and history,
    /// its own random stream. Choice 0 continues the request's seed from its start.
    #[must_use]
    pub fn fork(&self, choice: u32) -> Self {
        Self {
            rng: Rng::new(choice_seed(self.params.seed, choice)),
            ..self.clone()
        }
    }

    /// Adds a token, of the prompt or sampled, to the history that penalties see.
    pub fn accept(&mut self, token: TokenId) {
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(token);
        }
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
    }

    /// Chooses a token; does not accept it. NaN logits count as minus infinity.
    ///
    /// A draw takes one number from the random stream; greedy sampling takes none
    /// and resolves ties to the lowest id. Tokens outside the mask are never chosen.
    pub fn sample(
        &mut self,
        logits: &[f32],
        mask: Option<&TokenMask>,
    ) -> Result<TokenId, SampleError> {
        let no_candidate = SampleError::NoCandidate {
            n_vocab: logits.len(),
        };
        if self.is_greedy() {
            let best = if self.changes_row(mask) {
                self.change_row(logits, mask);
                math::argmax(&self.row)
            } else {
                math::argmax(logits)
            };
            return best.map(|index| index as TokenId).ok_or(no_candidate);
        }
        self.narrow(logits, mask);
        self.weigh();
        self.draw().ok_or(no_candidate)
    }

    /// How far the token that greedy sampling takes is ahead of the next best: both
    /// after bias, penalties and mask. Infinite where there is no next best.
    pub fn greedy_margin(&mut self, logits: &[f32], mask: Option<&TokenMask>) -> f32 {
        if self.changes_row(mask) {
            self.change_row(logits, mask);
            math::margin(&self.row)
        } else {
            math::margin(logits)
        }
    }

    fn changes_row(&self, mask: Option<&TokenMask>) -> bool {
        mask.is_some()
            || !self.params.logit_bias.is_empty()
            || !self.params.banned.is_empty()
            || self.penalties.as_ref().is_some_and(|p| !p.is_idle())
            || self.dry.as_ref().is_some_and(|d| !d.is_idle())
    }

    fn change_row(&mut self, logits: &[f32], mask: Option<&TokenMask>) {
        let row = &mut self.row;
        row.clear();
        row.extend_from_slice(logits);
        for &(token, bias) in &self.params.logit_bias {
            if let Some(logit) = at(row, token) {
                *logit += bias;
            }
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(row);
        }
        if let Some(dry) = &mut self.dry {
            dry.apply(row);
        }
        for &token in &self.params.banned {
            if let Some(logit) = at(row, token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(mask) = mask {
            mask.apply(row);
        }
    }

    /// Fills `candidates` with what the filters leave.
    fn narrow(&mut self, logits: &[f32], mask: Option<&TokenMask>) {
        let changed = self.changes_row(mask);
        if changed {
            self.change_row(logits, mask);
        }
        let row = if changed { &self.row } else { logits };
        let params = &self.params;
        let candidates = &mut self.candidates;
        let k = params.top_k as usize;
        let sorted = k > 0 && k < row.len();
        let typical = params.typical_p < 1.0;
        let mut max = math::max(row).min(f32::MAX);
        let mut total = None;
        if sorted {
            select::top_k(row, k, candidates);
        } else if typical || max == f32::NEG_INFINITY {
            select::at_least(row, f32::NEG_INFINITY, candidates);
        } else if params.top_p < 1.0 {
            // Tokens this unlikely cannot hold the tail's share even together, so the
            // nucleus is complete without them.
            let weight = math::sum_exp(row, max);
            let tail = f64::from(1.0 - params.top_p) * weight / row.len() as f64 / 2.0;
            select::at_least(row, max + tail.ln() as f32, candidates);
            total = Some(weight);
        } else if params.min_p > 0.0 {
            select::at_least(row, max + params.min_p.ln(), candidates);
        } else {
            select::at_least(row, f32::NEG_INFINITY, candidates);
        }
        if typical {
            keep_typical(candidates, &mut self.surprises, params.typical_p);
            max = select::max_logit(candidates);
        }
        if params.top_p < 1.0 {
            let total = total.unwrap_or_else(|| select::total_weight(candidates, max));
            let needed = f64::from(params.top_p) * total;
            keep_nucleus(candidates, needed, max, sorted && !typical);
        }
        if params.min_p > 0.0 {
            let floor = select::max_logit(candidates) + params.min_p.ln();
            candidates.retain(|c| c.logit >= floor);
        }
    }

    /// Fills `weights`: each candidate's share at the temperature, unnormalised.
    fn weigh(&mut self) {
        let max = select::max_logit(&self.candidates);
        let temperature = self.params.temperature;
        self.weights.clear();
        self.weights.reserve(self.candidates.capacity());
        self.weights.extend(
            self.candidates
                .iter()
                .map(|c| math::exp((c.logit - max) / temperature)),
        );
    }

    fn draw(&mut self) -> Option<TokenId> {
        let total: f64 = self.weights.iter().map(|w| f64::from(*w)).sum();
        let mut left = self.rng.next_f64() * total;
        let mut chosen = None;
        for (candidate, &weight) in self.candidates.iter().zip(&self.weights) {
            if weight > 0.0 {
                chosen = Some(candidate.token);
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        // Rounding may leave a sliver past the last candidate; it belongs to that one.
        chosen
    }
}

fn at(row: &mut [f32], token: TokenId) -> Option<&mut f32> {
    usize::try_from(token).ok().and_then(|i| row.get_mut(i))
}

/// Keeps the fewest likeliest candidates whose weights e^(logit - max) reach `needed`,
/// best first.
fn keep_nucleus(candidates: &mut Vec<Candidate>, needed: f64, max: f32, is_sorted: bool) {
    let mut held = 0.0;
    let mut enough = |c: &Candidate| {
        held += f64::from(math::exp(c.logit - max));
        held >= needed
    };
    if !is_sorted {
        select::take_sorted_until(candidates, select::by_rank, enough);
    } else if let Some(last) = candidates.iter().position(&mut enough) {
        candidates.truncate(last + 1);
    }
}

/// Keeps the candidates whose surprise is nearest the entropy until they hold more than `p`.
fn keep_typical(candidates: &mut Vec<Candidate>, surprises: &mut Vec<(f32, Candidate)>, p: f32) {
    let max = select::max_logit(candidates);
    let total = select::total_weight(candidates, max);
    let surprise = |c: &Candidate| total.ln() - (f64::from(c.logit) - f64::from(max));
    let entropy: f64 = candidates
        .iter()
        .map(|c| (f64::from(math::exp(c.logit - max)) / total) * surprise(c))
        .sum();
    surprises.clear();
    surprises.reserve(candidates.capacity());
    surprises.extend(
        candidates
            .iter()
            .map(|c| ((surprise(c) - entropy).abs() as f32, *c)),
    );
    let compare = |a: &(f32, Candidate), b: &(f32, Candidate)| {
        a.0.total_cmp(&b.0)
            .then_with(|| select::by_rank(&a.1, &b.1))
    };
    let needed = f64::from(p) * total;
    let mut held = 0.0;
    select::take_sorted_until(surprises, compare, |(_, c)| {
        held += f64::from(math::exp(c.logit - max));
        held > needed
    });
    candidates.clear();
    candidates.extend(surprises.iter().map(|(_, c)| *c));
}

#[cfg(test)]
mod tests;
