//! Which type each tensor of the cache gets, so that the bytes of a token stay within a budget and
//! the divergence that all of them cause is the least.
//!
//! This is a knapsack in which one thing of each kind is taken (a multiple-choice knapsack). Types
//! are few and rows have whole blocks, so that it is solved exactly, over all amounts of bytes that
//! can be spent (Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, 11.5). Divergences of
//! tensors are taken to add up; how far that is so is for a measurement of the whole plan to say.

use thiserror::Error;

use crate::cache_type::CacheType;
use crate::loss::Side;

/// Entries of the table of all amounts; beyond it bytes are counted in larger units, rounded up, and
/// a plan may leave a part of the budget unused. Caches of 500 layers of 16 heads stay below.
const ENTRIES_MAX: u64 = 1 << 24;

/// A type that a tensor may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub cache_type: CacheType,
    /// Of a token.
    pub bytes: u64,
    /// By how much it adds to the mean divergence, beyond what rounding does anyway; nats, not
    /// less than 0.
    pub excess: f64,
    /// One standard error of that.
    pub error: f64,
}

/// Keys or values of one layer, and the types that they may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub layer: u32,
    pub side: Side,
    pub candidates: Vec<Candidate>,
}

/// A type for each tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// In the order of the choices.
    pub chosen: Vec<Candidate>,
    /// Of a token, in all of them.
    pub bytes: u64,
    /// The sum of what they were measured to add.
    pub excess: f64,
}

/// Why there is no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AllocateError {
    #[error(
        "the budget is {budget} bytes a token, and these layers take at least {least}, with {types}; \
         give at least {least}"
    )]
    Budget {
        budget: u64,
        least: u64,
        /// The types that take so little.
        types: String,
    },
    #[error("there are no types to choose from for layer {layer}")]
    NoCandidate { layer: u32 },
    #[error("what layer {layer} adds in {cache_type} is {excess}, which is no divergence")]
    NoNumber {
        layer: u32,
        cache_type: CacheType,
        excess: String,
    },
    #[error("the model keeps no keys and values whose types could be chosen")]
    Nothing,
}

/// The types of least divergence within a budget of bytes a token. Of equal ones that with fewer
/// bytes, then that whose candidates stand first.
///
/// # Errors
/// [`AllocateError`]: a budget that nothing fits, with the least that does.
pub fn allocate(choices: &[Choice], budget: u64) -> Result<Allocation, AllocateError> {
    check(choices)?;
    let least = least(choices);
    let least_bytes: u64 = least.iter().map(|one| one.bytes).sum();
    let Some(spare) = budget.checked_sub(least_bytes) else {
        let mut types: Vec<_> = least.iter().map(|one| one.cache_type.name()).collect();
        types.sort_unstable();
        types.dedup();
        return Err(AllocateError::Budget {
            budget,
            least: least_bytes,
            types: types.join(" and "),
        });
    };
    let extras = Extras::new(choices, &least, spare);
    let picks = extras.solve(choices);
    let chosen = choices.iter().zip(&picks);
    let chosen: Vec<Candidate> = chosen
        .filter_map(|(choice, pick)| choice.candidates.get(*pick).copied())
        .collect();
    Ok(Allocation {
        bytes: chosen.iter().map(|one| one.bytes).sum(),
        excess: chosen.iter().map(|one| one.excess).sum(),
        chosen,
    })
}

fn check(choices: &[Choice]) -> Result<(), AllocateError> {
    if choices.is_empty() {
        return Err(AllocateError::Nothing);
    }
    for choice in choices {
        let layer = choice.layer;
        if choice.candidates.is_empty() {
            return Err(AllocateError::NoCandidate { layer });
        }
        let is_wrong = |one: &&Candidate| !(one.excess.is_finite() && one.excess >= 0.0);
        if let Some(wrong) = choice.candidates.iter().find(is_wrong) {
            return Err(AllocateError::NoNumber {
                layer,
                cache_type: wrong.cache_type,
                excess: wrong.excess.to_string(),
            });
        }
    }
    Ok(())
}

/// The candidate of fewest bytes of each.
fn least(choices: &[Choice]) -> Vec<Candidate> {
    let each = choices.iter();
    each.filter_map(|choice| choice.candidates.iter().min_by_key(|one| one.bytes))
        .copied()
        .collect()
}

/// What candidates take beyond the least, in units of bytes.
struct Extras {
    /// For each choice its candidates.
    units: Vec<Vec<usize>>,
    /// What may be spent.
    capacity: usize,
}

/// What is spent, and what it leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Best {
    excess: f64,
    units: usize,
}

impl Best {
    fn is_better_than(&self, other: &Self) -> bool {
        let order = self.excess.total_cmp(&other.excess);
        order.then(self.units.cmp(&other.units)).is_lt()
    }
}

impl Extras {
    fn new(choices: &[Choice], least: &[Candidate], spare: u64) -> Self {
        let bytes: Vec<Vec<u64>> = choices
            .iter()
            .zip(least)
            .map(|(choice, least)| {
                let each = choice.candidates.iter();
                each.map(|one| one.bytes - least.bytes).collect()
            })
            .collect();
        let all = || bytes.iter().flatten().copied();
        // More than the most of each cannot be spent.
        let most: u64 = bytes.iter().filter_map(|each| each.iter().max()).sum();
        let spare = spare.min(most);
        let exact = all().fold(0, divisor).max(1);
        let entries = (spare / exact + 1).saturating_mul(choices.len() as u64);
        let unit = exact.saturating_mul(entries.div_ceil(ENTRIES_MAX));
        let units = |bytes: u64| usize::try_from(bytes.div_ceil(unit)).unwrap_or(usize::MAX);
        Self {
            units: bytes
                .iter()
                .map(|each| each.iter().map(|one| units(*one)).collect())
                .collect(),
            capacity: usize::try_from(spare / unit).unwrap_or(0),
        }
    }

    /// The place of the candidate of each choice.
    fn solve(&self, choices: &[Choice]) -> Vec<usize> {
        let start = Best {
            excess: 0.0,
            units: 0,
        };
        // For each amount what is best with the choices so far, and which candidate of each
        // choice that takes.
        let mut best = vec![start; self.capacity + 1];
        let mut picks: Vec<Vec<u8>> = Vec::with_capacity(choices.len());
        for (choice, units) in choices.iter().zip(&self.units) {
            let rows = (0..=self.capacity).map(|amount| pick(choice, units, (&best, amount)));
            let (next, taken): (Vec<Best>, Vec<u8>) = rows.unzip();
            best = next;
            picks.push(taken);
        }
        let mut amount = self.capacity;
        let mut found = vec![0; choices.len()];
        for (at, (taken, units)) in picks.iter().zip(&self.units).enumerate().rev() {
            let place = usize::from(taken[amount]);
            found[at] = place;
            amount -= units[place];
        }
        found
    }
}

/// The best candidate of a choice where that amount may be spent on it and on those before.
fn pick(choice: &Choice, units: &[usize], (before, amount): (&[Best], usize)) -> (Best, u8) {
    let mut found: Option<(Best, u8)> = None;
    // There are no more types than places of a byte.
    for ((place, candidate), units) in (0..=u8::MAX).zip(&choice.candidates).zip(units) {
        let Some(before) = amount.checked_sub(*units).and_then(|rest| before.get(rest)) else {
            continue;
        };
        let new = Best {
            excess: before.excess + candidate.excess,
            units: before.units + units,
        };
        if found.is_none_or(|(best, _)| new.is_better_than(&best)) {
            found = Some((new, place));
        }
    }
    // The least of each takes nothing and so always fits.
    found.unwrap_or((before[amount], 0))
}

/// The greatest common divisor.
fn divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests;
