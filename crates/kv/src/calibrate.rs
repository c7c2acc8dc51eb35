//! From what the cache of each layer was measured to lose to a plan for a budget, and plans to hold
//! it against.
//!
//! The divergence that a tensor adds is proportional to the share of its square that rounding
//! loses, as long as that is small: rounding errors are nearly independent of one another, and the
//! divergence is least, so flat, where there are none. So one measurement of a tensor, with errors
//! that are large enough to be told from noise, and the share that each type loses of it, give all
//! types ([`Sensitivity::choice`]).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::allocate::{AllocateError, Allocation, Candidate, Choice, allocate};
use crate::cache_type::{CacheType, UnknownCacheType};
use crate::chance;
use crate::loss::Side;
use crate::plan::{PlanError, Types};
use crate::shape::Shape;
use crate::type_plan::TypePlan;

/// The part of its standard error that a sensitivity is taken to be larger by.
const PRUDENCE: f64 = 0.25;

/// What was measured of the keys or the values of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    pub layer: u32,
    pub side: Side,
    /// Numbers of a token.
    pub row_values: u64,
    /// By how much the mean divergence grows where this share of the square is lost, beyond what
    /// rounding does anyway; nats. Below 0 it is noise.
    pub slope: f64,
    /// One standard error of that.
    pub slope_error: f64,
    /// The share of the square that each type loses here.
    pub lost: Vec<(CacheType, f64)>,
}

impl Sensitivity {
    /// What each type takes and adds: not less than 0, and a part of the error more, so that what
    /// noise hides is not taken for nothing and gets bits that nobody else needs.
    #[must_use]
    pub fn choice(&self) -> Choice {
        let slope = self.slope.max(0.0) + PRUDENCE * self.slope_error;
        let each = self.lost.iter().map(|(cache_type, lost)| Candidate {
            cache_type: *cache_type,
            bytes: cache_type.row_bytes(self.row_values),
            excess: slope * lost,
            error: self.slope_error * lost,
        });
        Choice {
            layer: self.layer,
            side: self.side,
            candidates: each.collect(),
        }
    }

    fn candidate(&self, cache_type: CacheType) -> Option<Candidate> {
        let candidates = self.choice().candidates;
        candidates
            .into_iter()
            .find(|one| one.cache_type == cache_type)
    }
}

/// A plan, and what it should take and add.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrated {
    pub plan: TypePlan,
    /// Of a token.
    pub bytes: u64,
    /// The sum over tensors; nats.
    pub excess: f64,
}

impl Calibrated {
    fn new(table: &[Sensitivity], allocation: &Allocation) -> Self {
        let tensors = table.iter().zip(&allocation.chosen);
        let tensors = tensors.map(|(of, chosen)| (of.layer, of.side, chosen.cache_type));
        Self {
            plan: TypePlan::from_tensors(tensors),
            bytes: allocation.bytes,
            excess: allocation.excess,
        }
    }
}

/// The plan of least divergence within a budget of bytes a token.
///
/// # Errors
/// [`AllocateError`]: nothing fits, or nothing was measured.
pub fn calibrate(table: &[Sensitivity], budget: u64) -> Result<Calibrated, AllocateError> {
    let choices: Vec<_> = table.iter().map(Sensitivity::choice).collect();
    let allocation = allocate(&choices, budget)?;
    Ok(Calibrated::new(table, &allocation))
}

/// Allocations that should be worse: if they are not, then it is not what was measured that helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Tensors have the sensitivities of others, by chance; the number is the seed.
    Random(u64),
    /// The most sensitive has the sensitivity of the least, and so on.
    Inverted,
}

/// A plan within the budget that comes of a table that is wrong, with what it should add by the
/// one that is right.
///
/// # Errors
/// As of [`calibrate`].
pub fn control(
    table: &[Sensitivity],
    control: Control,
    budget: u64,
) -> Result<Calibrated, AllocateError> {
    // Places by sensitivity, and those whose sensitivity they get.
    let mut places: Vec<usize> = (0..table.len()).collect();
    places.sort_by(|a, b| table[*a].slope.total_cmp(&table[*b].slope));
    let mut others = places.clone();
    match control {
        Control::Inverted => others.reverse(),
        Control::Random(seed) => shuffle(&mut others, seed),
    }
    let mut wrong = table.to_vec();
    for (to, from) in places.into_iter().zip(others) {
        wrong[to].slope = table[from].slope;
        wrong[to].slope_error = table[from].slope_error;
    }
    let choices: Vec<_> = wrong.iter().map(Sensitivity::choice).collect();
    let mut found = allocate(&choices, budget)?;
    let right = found.chosen.iter().zip(table);
    let right = right.map(|(chosen, of)| of.candidate(chosen.cache_type).unwrap_or(*chosen));
    found.chosen = right.collect();
    found.excess = found.chosen.iter().map(|one| one.excess).sum();
    Ok(Calibrated::new(table, &found))
}

/// Pairs of types for all layers that are within the budget, from the least predicted divergence.
#[must_use]
pub fn uniform_pairs(table: &[Sensitivity], budget: u64) -> Vec<Calibrated> {
    let Some(first) = table.first() else {
        return Vec::new();
    };
    let types = || first.lost.iter().map(|(cache_type, _)| *cache_type);
    let pairs = types().flat_map(|keys| types().map(move |values| Types { keys, values }));
    let pairs = pairs.filter_map(|types| {
        let each = table.iter().map(|one| one.candidate(types.side(one.side)));
        let all: Vec<Candidate> = each.collect::<Option<_>>()?;
        Some(Calibrated {
            plan: TypePlan::uniform(types),
            bytes: all.iter().map(|one| one.bytes).sum(),
            excess: all.iter().map(|one| one.excess).sum(),
        })
    });
    let mut pairs: Vec<_> = pairs.filter(|pair| pair.bytes <= budget).collect();
    pairs.sort_by(|a, b| {
        let order = a.excess.total_cmp(&b.excess);
        order.then(a.bytes.cmp(&b.bytes))
    });
    pairs
}

/// The rule of thumb, stretched to a budget: as many of the first layers in 8 bits as it allows, the
/// others in 4. `None` where not even 4 bits fit.
#[must_use]
pub fn first_layers(table: &[Sensitivity], budget: u64) -> Option<Calibrated> {
    let mut layers: Vec<u32> = table.iter().map(|one| one.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let with = |n: usize| {
        let of = |layer: &u32| {
            let is_first = layers.iter().take(n).any(|first| first == layer);
            if is_first {
                CacheType::Q8_0
            } else {
                CacheType::Q4_0
            }
        };
        let chosen: Option<Vec<_>> = table
            .iter()
            .map(|one| one.candidate(of(&one.layer)))
            .collect();
        let chosen = chosen?;
        let allocation = Allocation {
            bytes: chosen.iter().map(|one| one.bytes).sum(),
            excess: chosen.iter().map(|one| one.excess).sum(),
            chosen,
        };
        Some(Calibrated::new(table, &allocation)).filter(|made| made.bytes <= budget)
    };
    (0..=layers.len()).rev().find_map(with)
}

/// Fisher and Yates.
fn shuffle(places: &mut [usize], seed: u64) {
    let mut state = seed;
    for at in (1..places.len()).rev() {
        let other = chance::next(&mut state) % (at as u64 + 1);
        places.swap(at, usize::try_from(other).unwrap_or(0));
    }
}

/// What keys and values of a token may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    Bytes(u64),
    /// Of what f16 takes.
    Share(f64),
    /// What this pair of types takes.
    Pair(Types),
}

/// A text that is no budget.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BudgetError {
    #[error(transparent)]
    Type(#[from] UnknownCacheType),
    #[error(
        "`{given}` is no budget; give bytes a token such as 7200, a share of what f16 takes such as \
         0.4, or a pair of types such as q8_0/q4_0"
    )]
    Text { given: String },
}

impl Budget {
    /// In bytes a token of all layers that keep keys.
    ///
    /// # Errors
    /// [`PlanError`]: none for a shape that was read from a file.
    pub fn bytes(&self, shape: &Shape) -> Result<u64, PlanError> {
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::Share(share) => {
                let whole = TypePlan::default().token_bytes(shape)?;
                Ok((whole as f64 * share) as u64)
            }
            Self::Pair(types) => TypePlan::uniform(*types).token_bytes(shape),
        }
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let unknown = || BudgetError::Text {
            given: text.to_owned(),
        };
        let begins_as_type = text.starts_with(|letter: char| letter.is_ascii_alphabetic());
        if begins_as_type {
            let (keys, values) = text.split_once('/').unwrap_or((text, text));
            return Ok(Self::Pair(Types {
                keys: keys.trim().parse()?,
                values: values.trim().parse()?,
            }));
        }
        if let Ok(bytes) = text.parse::<u64>() {
            // A share of 1 is what f16 takes; nothing takes one byte.
            return match bytes {
                0 => Err(unknown()),
                1 => Ok(Self::Share(1.0)),
                bytes => Ok(Self::Bytes(bytes)),
            };
        }
        let share = text.parse::<f64>().map_err(|_| unknown())?;
        if share > 0.0 && share <= 1.0 {
            Ok(Self::Share(share))
        } else {
            Err(unknown())
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Share(share) => write!(f, "{share}"),
            Self::Pair(types) => write!(f, "{types}"),
        }
    }
}

#[cfg(test)]
mod tests;
