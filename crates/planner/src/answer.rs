//! Does it fit, how much would, and what must change.

use kv::{CacheType, Loss, Plan, PlanError, TypePlan, Types};

use crate::ledger::{Ledger, Others, Place};
use crate::model::Model;
use crate::setup::{Compute, Setup};

/// Contexts are searched in steps of this many tokens.
const CONTEXT_STEP: u32 = 256;
/// Most slots that a server takes.
pub const SLOTS_MAX: u32 = 64;

/// Memory to plan against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Available {
    /// Bytes that may be taken on the host.
    pub host: u64,
    /// Bytes of a GPU; 0 without one.
    pub device: u64,
    pub memory: DeviceMemory,
    pub layers: Layers,
}

/// Where a GPU's memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceMemory {
    /// On the card.
    #[default]
    Own,
    /// A part of the host's, of which the GPU may have so much: what is there counts on the
    /// host, too, and once.
    Unified,
}

/// Who says how many layers go to a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layers {
    /// As many as fit there.
    #[default]
    AsFit,
    /// The setup, and it is checked against the memory that there is.
    AsSet,
}

/// A number of layers on a GPU, and what the model then takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub gpu_layers: u32,
    pub ledger: Ledger,
}

/// Whether a model fits, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Everything in the fastest memory that there is.
    Fast,
    /// A part of it lies in slower memory: `on_device` of `layers` are on the GPU.
    Spills { on_device: u32, layers: u32 },
    /// So many bytes are missing.
    No { missing: u64 },
}

/// Keys and values of a context in one pair of types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeChoice {
    pub types: Types,
    pub kv_bytes: u64,
    pub losses: Vec<Loss>,
}

/// A change after which it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Context(u32),
    Types(Types),
    Slots(u32),
    /// Sequences kept apart: fewer prefixes for later requests.
    Sequences(u32),
    /// ggml's kernels, which read weights where the file is mapped.
    GgmlKernels,
    Ubatch(u32),
    /// Fewer layers on the GPU; the processor computes the others.
    GpuLayers(u32),
    /// No single setting is enough; ggml's kernels, so many sequences and this context are.
    Together {
        context: u32,
        sequences: u32,
    },
    /// Nor are all together: so many bytes are missing at the least context.
    SmallerModel {
        missing: u64,
    },
}

/// A plan and its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub setup: Setup,
    pub plan: Plan,
    pub ledger: Ledger,
    pub available: Available,
    pub fit: Fit,
    /// The largest context that fits with the other settings; `None` where none does.
    pub context_max: Option<u32>,
    /// The largest number of slots that fits.
    pub slots_max: Option<u32>,
    /// Pairs of types for this context, from the most bytes to the fewest.
    pub types: Vec<TypeChoice>,
    pub losses: Vec<Loss>,
    /// What must change to fit, the least loss first; empty where it fits.
    pub changes: Vec<Change>,
}

/// Pairs worth choosing from: keys need their bits more than values do.
const PAIRS: [(CacheType, CacheType); 6] = [
    (CacheType::F16, CacheType::F16),
    (CacheType::Q8_0, CacheType::Q8_0),
    (CacheType::Q8_0, CacheType::Q5_0),
    (CacheType::Q8_0, CacheType::Q4_0),
    (CacheType::Q5_0, CacheType::Q5_0),
    (CacheType::Q4_0, CacheType::Q4_0),
];

/// Plans a model against memory.
///
/// With memory of a GPU, as many layers go there as fit, unless somebody has set how many;
/// without, `setup.gpu_layers` stands.
///
/// # Errors
/// [`PlanError`]: what the engine would refuse whatever the memory.
pub fn answer(
    model: &Model,
    setup: &Setup,
    available: Available,
    others: &Others,
) -> Result<Answer, PlanError> {
    let planner = Planner {
        model,
        available,
        others,
    };
    let setup = planner.with_gpu_layers(setup.clone())?;
    let (plan, ledger) = planner.plan(&setup)?;
    let fit = planner.fit(&setup, &ledger);
    let request = setup.request(model);
    let mut losses = kv::losses(&model.shape, &request, &plan, setup.attention());
    let may_go = available.device > 0 && available.layers == Layers::AsFit;
    if may_go && plan.is_mixed() {
        losses.insert(0, Loss::MixedStaysOnHost);
    }
    Ok(Answer {
        fit,
        losses,
        context_max: planner.context_max(&setup),
        slots_max: planner.slots_max(&setup),
        types: planner.types(&setup),
        changes: match fit {
            Fit::No { .. } => planner.changes(&setup),
            Fit::Fast | Fit::Spills { .. } => Vec::new(),
        },
        setup,
        plan,
        ledger,
        available,
    })
}

/// What may be chosen so that a model fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// How many sequences are kept apart.
    pub sequences: bool,
    /// Whose kernels compute.
    pub compute: bool,
}

/// The setup that fits with the least loss, where this one does not: first fewer prefixes are
/// kept, then ggml's kernels read the weights where the file is mapped, which costs speed.
/// `None`: it fits as it is, or nothing that is open is enough.
#[must_use]
pub fn sparing(model: &Model, setup: &Setup, available: Available, open: Open) -> Option<Setup> {
    let planner = Planner {
        model,
        available,
        others: &Others::default(),
    };
    if planner.fits(setup) {
        return None;
    }
    let fewer = |setup: &Setup| {
        let found = planner.sequences(setup).filter(|_| open.sequences)?;
        Some(Setup {
            sequences: Some(found),
            ..setup.clone()
        })
    };
    let ggml = Setup {
        compute: Compute::Ggml,
        ..setup.clone()
    };
    let may_change = open.compute && setup.compute == Compute::Own;
    let ggml = may_change.then_some(ggml);
    fewer(setup)
        .or_else(|| ggml.clone().filter(|ggml| planner.fits(ggml)))
        .or_else(|| fewer(ggml.as_ref()?))
}

/// The longest context, in whole steps, with which a setup fits once what is open was chosen
/// sparingly; `None`: not the shortest either.
#[must_use]
pub fn context_sparing(
    model: &Model,
    setup: &Setup,
    available: Available,
    open: Open,
) -> Option<u32> {
    let planner = Planner {
        model,
        available,
        others: &Others::default(),
    };
    let steps = setup.context.div_ceil(CONTEXT_STEP).saturating_sub(1);
    let found = largest(1, steps, |step| {
        let context = step.saturating_mul(CONTEXT_STEP);
        let setup = Setup {
            context,
            ..setup.clone()
        };
        planner.fits(&setup) || sparing(model, &setup, available, open).is_some()
    })?;
    Some(found.saturating_mul(CONTEXT_STEP))
}

/// What the model takes with each number of layers on the GPU, from the most that fit there to
/// none. With several to choose from, those who share the GPU may get less than all of it.
///
/// # Errors
/// [`PlanError`]: what the engine would refuse whatever the memory.
pub fn placements(
    model: &Model,
    setup: &Setup,
    available: Available,
) -> Result<Vec<Placed>, PlanError> {
    let planner = Planner {
        model,
        available,
        others: &Others::default(),
    };
    let most = planner.with_gpu_layers(setup.clone())?.gpu_layers;
    let each = (0..=most).rev().map(|gpu_layers| {
        let setup = Setup {
            gpu_layers,
            ..setup.clone()
        };
        let (_, ledger) = planner.plan(&setup)?;
        Ok(Placed { gpu_layers, ledger })
    });
    each.collect()
}

struct Planner<'a> {
    model: &'a Model,
    available: Available,
    others: &'a Others,
}

impl Planner<'_> {
    fn plan(&self, setup: &Setup) -> Result<(Plan, Ledger), PlanError> {
        let plan = Plan::new(&self.model.shape, &setup.request(self.model))?;
        if setup.gpu_layers > 0 && plan.is_mixed() {
            let gpu_layers = setup.gpu_layers;
            return Err(PlanError::MixedOnDevice { gpu_layers });
        }
        let ledger = Ledger::of(self.model, setup, &plan, self.others);
        Ok((plan, ledger))
    }

    fn missing(&self, ledger: &Ledger) -> u64 {
        let on_device = ledger.bytes_in(Place::Device);
        let on_host = match self.available.memory {
            DeviceMemory::Own => ledger.host_needed(),
            DeviceMemory::Unified => ledger.host_needed().saturating_add(on_device),
        };
        let host = on_host.saturating_sub(self.available.host);
        let device = match self.available.device {
            0 => 0,
            there => on_device.saturating_sub(there),
        };
        match self.available.memory {
            DeviceMemory::Own => host.saturating_add(device),
            // Bytes that are too many for both are the same ones.
            DeviceMemory::Unified => host.max(device),
        }
    }

    fn fits(&self, setup: &Setup) -> bool {
        let planned = self
            .with_gpu_layers(setup.clone())
            .and_then(|setup| self.plan(&setup));
        planned.is_ok_and(|(_, ledger)| self.missing(&ledger) == 0)
    }

    /// As many layers on the GPU as its memory takes.
    fn with_gpu_layers(&self, setup: Setup) -> Result<Setup, PlanError> {
        let layers = self.layers();
        if self.available.device == 0 {
            return Ok(setup);
        }
        if self.available.layers == Layers::AsSet {
            let gpu_layers = setup.gpu_layers.min(layers);
            return Ok(Setup {
                gpu_layers,
                ..setup
            });
        }
        let mut best = Setup {
            gpu_layers: 0,
            ..setup.clone()
        };
        if self.plan(&best)?.0.is_mixed() {
            return Ok(best);
        }
        // Layers differ, so that halving could miss; there are at most a few hundred.
        for gpu_layers in 1..=layers {
            let more = Setup {
                gpu_layers,
                ..setup.clone()
            };
            let (_, ledger) = self.plan(&more)?;
            // All of them may take less than all but one, which needs room to copy a matrix.
            if ledger.bytes_in(Place::Device) <= self.available.device {
                best = more;
            }
        }
        Ok(best)
    }

    /// All layers, the output among them.
    fn layers(&self) -> u32 {
        u32::try_from(self.model.n_layers + 1).unwrap_or(u32::MAX)
    }

    fn fit(&self, setup: &Setup, ledger: &Ledger) -> Fit {
        let missing = self.missing(ledger);
        let layers = self.layers();
        if missing > 0 {
            Fit::No { missing }
        } else if self.available.device > 0 && setup.gpu_layers < layers {
            Fit::Spills {
                on_device: setup.gpu_layers,
                layers,
            }
        } else {
            Fit::Fast
        }
    }

    fn context_max(&self, setup: &Setup) -> Option<u32> {
        let trained = u32::try_from(self.model.shape.context_train).unwrap_or(u32::MAX);
        let steps = trained.max(setup.context).div_ceil(CONTEXT_STEP);
        let fits = |step: u32| {
            let context = step.saturating_mul(CONTEXT_STEP);
            self.fits(&Setup {
                context,
                ..setup.clone()
            })
        };
        let found = largest(1, steps, fits)?;
        Some(
            found
                .saturating_mul(CONTEXT_STEP)
                .min(trained.max(setup.context)),
        )
    }

    fn slots_max(&self, setup: &Setup) -> Option<u32> {
        // A slot has a sequence at least.
        let most = setup.sequences.unwrap_or(SLOTS_MAX).min(SLOTS_MAX);
        largest(1, most, |slots| {
            self.fits(&Setup {
                slots,
                ..setup.clone()
            })
        })
    }

    fn types(&self, setup: &Setup) -> Vec<TypeChoice> {
        let choices = PAIRS.into_iter().filter_map(|(keys, values)| {
            let types = Types { keys, values };
            let setup = with_types(setup, types);
            let (plan, _) = self.plan(&setup).ok()?;
            let request = setup.request(self.model);
            Some(TypeChoice {
                types,
                kv_bytes: plan.bytes(),
                losses: kv::losses(&self.model.shape, &request, &plan, setup.attention()),
            })
        });
        choices.collect()
    }

    /// The most sequences below those of the setup with which it fits.
    fn sequences(&self, setup: &Setup) -> Option<u32> {
        let least = kv::sequences_least(setup.slots);
        let most = setup.sequences(self.model).saturating_sub(1);
        largest(least, most, |sequences| {
            self.fits(&Setup {
                sequences: Some(sequences),
                ..setup.clone()
            })
        })
    }

    /// Single changes first; if none is enough, how much is missing at the least.
    fn changes(&self, setup: &Setup) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut pairs = PAIRS
            .map(|(keys, values)| Types { keys, values })
            .into_iter();
        let now = setup.types.as_uniform();
        let fitting =
            pairs.find(|types| Some(*types) != now && self.fits(&with_types(setup, *types)));
        changes.extend(fitting.map(Change::Types));
        changes.extend(self.context_max(setup).map(Change::Context));
        let fewer = largest(1, setup.slots.saturating_sub(1), |slots| {
            self.fits(&Setup {
                slots,
                ..setup.clone()
            })
        });
        changes.extend(fewer.map(Change::Slots));
        changes.extend(self.sequences(setup).map(Change::Sequences));
        let ggml = Setup {
            compute: Compute::Ggml,
            ..setup.clone()
        };
        if setup.compute == Compute::Own && self.fits(&ggml) {
            changes.push(Change::GgmlKernels);
        }
        let ubatch = [256, 128, 64].into_iter().find(|ubatch| {
            *ubatch < setup.ubatch
                && self.fits(&Setup {
                    ubatch: *ubatch,
                    ..setup.clone()
                })
        });
        changes.extend(ubatch.map(Change::Ubatch));
        if self.available.layers == Layers::AsSet && setup.gpu_layers > 0 {
            let fewer = (0..setup.gpu_layers).rev().find(|gpu_layers| {
                self.fits(&Setup {
                    gpu_layers: *gpu_layers,
                    ..setup.clone()
                })
            });
            changes.extend(fewer.map(Change::GpuLayers));
        }
        if changes.is_empty() {
            changes.push(self.together(setup));
        }
        changes
    }

    /// Where no single change is enough.
    fn together(&self, setup: &Setup) -> Change {
        let sequences = kv::sequences_least(setup.slots);
        let sparing = Setup {
            sequences: Some(sequences),
            compute: Compute::Ggml,
            ..setup.clone()
        };
        if let Some(context) = self.context_max(&sparing) {
            return Change::Together { context, sequences };
        }
        let least = Setup {
            context: CONTEXT_STEP,
            slots: 1,
            sequences: Some(kv::sequences_least(1)),
            ..sparing
        };
        let missing = self
            .plan(&least)
            .map_or(0, |(_, ledger)| self.missing(&ledger));
        Change::SmallerModel { missing }
    }
}

fn with_types(setup: &Setup, types: Types) -> Setup {
    Setup {
        types: TypePlan::uniform(types),
        ..setup.clone()
    }
}

/// Where a setup has room, by itself; `None`: the engine would refuse it whatever the memory.
pub(crate) fn fit_of(model: &Model, setup: &Setup, available: Available) -> Option<Fit> {
    let planner = Planner {
        model,
        available,
        others: &Others::default(),
    };
    let setup = planner.with_gpu_layers(setup.clone()).ok()?;
    let (_, ledger) = planner.plan(&setup).ok()?;
    Some(planner.fit(&setup, &ledger))
}

/// The largest number of a range for which `fits` holds, where it holds for all below.
pub(crate) fn largest(least: u32, most: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
    if most < least || !fits(least) {
        return None;
    }
    let (mut low, mut high) = (least, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(low)
}
