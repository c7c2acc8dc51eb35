//! Whether so many users have room, and with which settings.

use kv::{CacheType, PlanError, TypePlan, Types};

use super::Load;
use crate::answer::{self, Answer, Available, Fit, Open, answer};
use crate::ledger::Others;
use crate::model::Model;
use crate::setup::{Compute, Setup};

/// Users that are searched up to.
const USERS_MAX: u32 = 1024;
/// Contexts are searched in steps of so many tokens.
const CONTEXT_STEP: u32 = 256;

/// What nobody has set, and what may be chosen so that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choosable {
    pub types: bool,
    pub sparing: Open,
}

/// Something that was chosen so that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    Types(Types),
    /// Fewer prefixes are kept.
    Sequences(u32),
    /// ggml's kernels read weights where the file is mapped.
    GgmlKernels,
}

/// The memory of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// For all users with a context of their own each; of the settings that fit, else of those
    /// that take the least.
    pub answer: Answer,
    /// Empty where it fits as it is, or nothing may be chosen.
    pub chosen: Vec<Chosen>,
    /// The most users with that context that fit, all else as in the answer.
    pub users_max: Option<u32>,
    /// The longest context with which all users fit.
    pub context_max: Option<u32>,
    /// The most tokens that the embedded engine's one pool has for all of them.
    pub pool_max: u32,
}

impl Room {
    #[must_use]
    pub fn fits(&self) -> bool {
        !matches!(self.answer.fit, Fit::No { .. })
    }

    /// Whether everything lies in the fastest memory.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        self.answer.fit == Fit::Fast
    }

    /// Whether the contexts of all are more than one pool may have.
    #[must_use]
    pub const fn is_pool_short(&self) -> bool {
        self.answer.setup.context > self.pool_max
    }
}

/// What bits of keys and values may be given up, the least first.
const TYPES: [Types; 2] = [
    Types {
        keys: CacheType::Q8_0,
        values: CacheType::Q8_0,
    },
    Types {
        keys: CacheType::Q8_0,
        values: CacheType::Q4_0,
    },
];

/// Finds the settings with the least loss that have room for the load.
///
/// # Errors
/// [`PlanError`]: what the engine would refuse whatever the memory.
pub fn room(
    model: &Model,
    setup: &Setup,
    available: Available,
    (load, choosable): (&Load, Choosable),
) -> Result<Room, PlanError> {
    let asked = for_users(setup, load.users, load.context);
    let none = Others::default();
    let first = answer(model, &asked, available, &none)?;
    let is_enough = first.fit == Fit::Fast;
    let others = match is_enough {
        true => Vec::new(),
        false => candidates(model, &asked, available, choosable),
    };
    let planned = others
        .into_iter()
        // What the engine would refuse is no choice.
        .filter_map(|(setup, chosen)| {
            Some((answer(model, &setup, available, &none).ok()?, chosen))
        });
    let mut all: Vec<(Answer, Vec<Chosen>)> = vec![(first, Vec::new())];
    all.extend(planned);
    let fast = all.iter().position(|(answer, _)| answer.fit == Fit::Fast);
    let any = || {
        all.iter()
            .position(|(answer, _)| !matches!(answer.fit, Fit::No { .. }))
    };
    // Where nothing is enough, what is missing at the least is told.
    let place = fast.or_else(any).unwrap_or(all.len() - 1);
    let (answer, chosen) = all.swap_remove(place);
    let fits = |users: u32, context: u32| {
        let setup = for_users(&answer.setup, users, context);
        let fit = answer::fit_of(model, &setup, available);
        match answer.fit {
            // Who is in the fastest memory is to stay there.
            Fit::Fast => fit == Some(Fit::Fast),
            Fit::Spills { .. } | Fit::No { .. } => {
                fit.is_some_and(|fit| !matches!(fit, Fit::No { .. }))
            }
        }
    };
    let trained = u32::try_from(model.shape.context_train).unwrap_or(u32::MAX);
    let steps = (trained / CONTEXT_STEP).max(1);
    let context_max = answer::largest(1, steps, |step| fits(load.users, step * CONTEXT_STEP));
    Ok(Room {
        users_max: answer::largest(1, USERS_MAX, |users| fits(users, load.context)),
        context_max: context_max.map(|step| step * CONTEXT_STEP),
        pool_max: trained,
        answer,
        chosen,
    })
}

/// The settings for so many users, each with a context of that length.
fn for_users(setup: &Setup, users: u32, context: u32) -> Setup {
    Setup {
        context: context.saturating_mul(users),
        slots: users,
        // A number that was set for fewer slots would be too small.
        sequences: setup.sequences.filter(|sequences| *sequences >= users),
        ..setup.clone()
    }
}

/// Other settings, those with the least loss first.
fn candidates(
    model: &Model,
    asked: &Setup,
    available: Available,
    choosable: Choosable,
) -> Vec<(Setup, Vec<Chosen>)> {
    let mut setups = vec![(asked.clone(), Vec::new())];
    let types = TYPES.into_iter().filter(|_| choosable.types);
    setups.extend(types.map(|types| {
        let setup = Setup {
            types: TypePlan::uniform(types),
            ..asked.clone()
        };
        (setup, vec![Chosen::Types(types)])
    }));
    let mut all = Vec::new();
    for (setup, chosen) in setups {
        let sparing = answer::sparing(model, &setup, available, choosable.sparing);
        let sparing = sparing.map(|spared| {
            let mut chosen = chosen.clone();
            if spared.sequences != setup.sequences {
                chosen.extend(spared.sequences.map(Chosen::Sequences));
            }
            if spared.compute == Compute::Ggml && setup.compute == Compute::Own {
                chosen.push(Chosen::GgmlKernels);
            }
            (spared, chosen)
        });
        all.push((setup, chosen));
        all.extend(sparing);
    }
    all
}
