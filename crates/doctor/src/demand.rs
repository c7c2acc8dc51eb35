//! Whether a model fits into the memory that there is.

use hardware::Machine;
use hardware::limits::{group_margin, machine_margin};
use models::Examination;
use stdx::Bytes;

use crate::{Code, Finding};

/// Where layers may go besides the processor's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu<'a> {
    /// This program has no back end for one: `gpu_layers` does nothing.
    NoBackEnd,
    /// It has one, and finds nothing that it can compute on.
    NoDevice,
    Usable(OnGpu<'a>),
}

/// What a model would take of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnGpu<'a> {
    /// As the engine describes it.
    pub name: &'a str,
    /// What models may take there.
    pub room: Bytes,
    /// With the layers that somebody has set, else with all of them.
    pub need: Bytes,
    /// How many layers fit, the output among them, and how many there are.
    pub fitting: u32,
    pub layers: u32,
}

/// What a model will take, by an estimate.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    pub model: &'a str,
    pub weights: Bytes,
    pub kv: Bytes,
    /// Buffers of the computation and the process.
    pub other: Bytes,
    /// Tokens of context that `kv` is for.
    pub context: u32,
    /// The longest context that fits into what models may take now, where somebody has worked
    /// it out.
    pub context_max: Option<u32>,
    /// `gpu_layers`; 0 leaves the GPU out.
    pub gpu_layers: Option<u32>,
    pub gpu: Gpu<'a>,
    /// What of all that is memory on a card, which the host need not have.
    pub on_card: Bytes,
    /// `model_memory_max`: what all models may take together.
    pub memory_max: Option<Bytes>,
}

impl Demand<'_> {
    fn total(&self) -> Bytes {
        let Self {
            weights, kv, other, ..
        } = self;
        Bytes(weights.0.saturating_add(kv.0).saturating_add(other.0))
    }

    /// What the host must have of it.
    fn on_host(&self) -> Bytes {
        self.total().saturating_sub(self.on_card)
    }

    fn in_words(&self) -> String {
        let on_card = match self.on_card.0 {
            0 => String::new(),
            _ => format!(", and {} of all that is on the GPU", self.on_card),
        };
        format!(
            "{} of memory: weights {}, KV cache {} for {} tokens, the rest {}{on_card}",
            self.total(),
            self.weights,
            self.kv,
            self.context,
            self.other
        )
    }
}

/// Whether the model fits: into what this process may ever have, into what is free now, and
/// into what models may take of a GPU.
#[must_use]
pub fn of_demand(demand: &Demand<'_>, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (model, need) = (demand.model, demand.on_host());
    let now = machine.budget();
    if let Some((ever, whose)) = most_ever(demand, machine).filter(|(ever, _)| need > *ever) {
        findings.push(Finding::new(
            Code::MemoryShort,
            format!(
                "`{model}` needs about {}; {}, {} too little",
                demand.in_words(),
                whose.allows(ever),
                need.saturating_sub(ever)
            ),
            format!("{}{}", smaller(demand, ever), whose.or_raise()),
        ));
    } else if let Some(now) = now.filter(|now| need > *now) {
        findings.push(Finding::new(
            Code::MemoryBusy,
            format!(
                "`{model}` needs about {}; models may take {now} as things are, {} too little",
                demand.in_words(),
                need.saturating_sub(now)
            ),
            format!("end what is not needed, or {}", smaller(demand, now)),
        ));
    }
    findings.extend(match demand.gpu {
        Gpu::NoBackEnd => ignored(
            demand,
            "this program has no back end for a GPU",
            "leave `gpu_layers` out, build with `make build FEATURES=vulkan`, or serve the model \
             with a llama-server that uses the GPU, as a provider",
        ),
        Gpu::NoDevice => ignored(
            demand,
            "llama.cpp finds no GPU that it can compute on",
            "leave `gpu_layers` out, or install the GPU's driver and give this user access to it: \
             `vulkaninfo --summary` must list it",
        ),
        Gpu::Usable(on) => vram(demand, on),
    });
    findings
}

/// A limit on memory, by what sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Machine,
    GroupMax,
    GroupHigh,
    Setting,
}

impl Limit {
    fn allows(self, ever: Bytes) -> String {
        match self {
            Self::Machine => format!("models may take {ever} of this machine at most"),
            Self::GroupMax => {
                format!("the control group of this process leaves models {ever} at most")
            }
            Self::GroupHigh => {
                format!("the control group of this process is slowed where models take over {ever}")
            }
            Self::Setting => format!("`model_memory_max` allows {ever} for all models"),
        }
    }

    const fn or_raise(self) -> &'static str {
        match self {
            Self::Machine => "",
            Self::GroupMax => {
                ", or raise the group's limit: `MemoryMax=` of the unit, `--memory` of the container"
            }
            Self::GroupHigh => ", or raise the group's limit: `MemoryHigh=` of the unit",
            Self::Setting => ", or raise `model_memory_max`",
        }
    }
}

/// The most that models may ever have here, and who says so; of equals the first.
fn most_ever(demand: &Demand<'_>, machine: &Machine) -> Option<(Bytes, Limit)> {
    // Models leave a margin of what a machine or a group has, as admission does.
    let less = |bytes: Option<Bytes>, margin: fn(Bytes) -> Bytes| {
        bytes.map(|bytes| bytes.saturating_sub(margin(bytes)))
    };
    let limits = [
        (less(machine.memory.total, machine_margin), Limit::Machine),
        (
            less(machine.limits.memory_max, group_margin),
            Limit::GroupMax,
        ),
        (
            less(machine.limits.memory_high, group_margin),
            Limit::GroupHigh,
        ),
        (demand.memory_max, Limit::Setting),
    ];
    let there = limits.into_iter();
    let there = there.filter_map(|(bytes, limit)| Some((bytes?, limit)));
    there.min_by_key(|(bytes, _)| *bytes)
}

/// A setting that does nothing.
fn ignored(demand: &Demand<'_>, why: &str, fix: &str) -> Option<Finding> {
    let n = demand.gpu_layers.filter(|n| *n > 0)?;
    Some(Finding::new(
        Code::GpuLayersIgnored,
        format!(
            "`gpu_layers` is {n}, and {why}: the processor computes all layers of `{}`",
            demand.model
        ),
        fix,
    ))
}

/// What must change to fit: the context, or else the model.
fn smaller(demand: &Demand<'_>, room: Bytes) -> String {
    let fixed = demand.weights.0.saturating_add(demand.other.0);
    let left = room.0.saturating_sub(fixed);
    // In whole steps of 256 tokens, as the engine rounds.
    let fits = u128::from(demand.context) * u128::from(left) / u128::from(demand.kv.0.max(1));
    let fits = fits / 256 * 256;
    match demand.context_max.map_or(fits, u128::from) {
        0 => "take a smaller model or quantisation".to_owned(),
        fits => format!("set `context = {fits}`, or take a smaller quantisation"),
    }
}

/// The model is refused where somebody has set how many layers go to the GPU, and computed in
/// part by the processor where nobody has.
fn vram(demand: &Demand<'_>, on: OnGpu<'_>) -> Option<Finding> {
    let OnGpu {
        name, room, need, ..
    } = on;
    if demand.gpu_layers == Some(0) || need <= room {
        return None;
    }
    let (model, fitting, layers) = (demand.model, on.fitting, on.layers);
    let (takes, fix) = match demand.gpu_layers {
        Some(n) => (
            format!("with {n} layers there, and is not loaded so"),
            format!("set `gpu_layers = {fitting}`, or leave it out"),
        ),
        None => (
            format!(
                "with all {layers} layers there: {fitting} of them fit, and the processor \
                 computes the others"
            ),
            "a part in slower memory sets the pace: take a shorter context, smaller KV types or \
             a smaller quantisation"
                .to_owned(),
        ),
    };
    Some(Finding::new(
        Code::VramShort,
        format!("`{model}` needs {need} of {name}, where models may take {room}, {takes}"),
        format!("{fix}, or raise `gpu_memory_max` if there is more"),
    ))
}

/// What drivers want of such memory beside a model.
const CMA_SPARE_MIB: u64 = 128;

/// Whether the drivers of an NPU could have an RKLLM file in one piece.
#[must_use]
pub fn of_cma(examination: &Examination, machine: &Machine, file: Bytes) -> Option<Finding> {
    let path = examination.path.display();
    examination.rkllm.as_ref()?;
    let free = machine.memory.cma_free?;
    (!machine.npus.is_empty() && file > free).then(|| {
        Finding::new(
            Code::CmaShort,
            format!("`{path}` has {file}, and drivers can have {free} in one piece (CMA)"),
            format!(
                "most boards reach the NPU's memory otherwise; if loading fails, set `cma={}M` on \
                 the kernel's command line",
                (file.0 >> 20) + CMA_SPARE_MIB
            ),
        )
    })
}
