//! Whether a model fits into the memory that there is.

use hardware::Machine;
use hardware::gpu::GpuMemory;
use models::Examination;
use stdx::Bytes;

use crate::{Code, Finding};

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
    /// `gpu_layers`; 0 leaves the GPU out.
    pub gpu_layers: Option<u32>,
}

impl Demand<'_> {
    fn total(&self) -> Bytes {
        let Self {
            weights, kv, other, ..
        } = self;
        Bytes(weights.0.saturating_add(kv.0).saturating_add(other.0))
    }

    fn in_words(&self) -> String {
        format!(
            "{} of memory: weights {}, KV cache {} for {} tokens, the rest {}",
            self.total(),
            self.weights,
            self.kv,
            self.context,
            self.other
        )
    }
}

/// Whether the model fits: into what this process may ever have, into what is free now, and
/// into the memory of a GPU.
#[must_use]
pub fn of_demand(demand: &Demand<'_>, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (model, need) = (demand.model, demand.total());
    let ever = [machine.memory.total, machine.limits.memory_max];
    let ever = ever.into_iter().flatten().min();
    let now = machine.budget();
    if let Some(ever) = ever.filter(|ever| need > *ever) {
        findings.push(Finding::new(
            Code::MemoryShort,
            format!(
                "`{model}` needs about {}; this process may have {ever}, {} too little",
                demand.in_words(),
                need.saturating_sub(ever)
            ),
            smaller(demand, ever),
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
    if demand.gpu_layers != Some(0) {
        findings.extend(vram(demand, machine));
    }
    findings
}

/// What must change to fit: the context, or else the model.
fn smaller(demand: &Demand<'_>, room: Bytes) -> String {
    let fixed = demand.weights.0.saturating_add(demand.other.0);
    let left = room.0.saturating_sub(fixed);
    // In whole steps of 256 tokens, as the engine rounds.
    let fits = u128::from(demand.context) * u128::from(left) / u128::from(demand.kv.0.max(1));
    let fits = fits / 256 * 256;
    match fits {
        0 => "take a smaller model or quantisation".to_owned(),
        fits => format!("set `context = {fits}`, or take a smaller quantisation"),
    }
}

fn vram(demand: &Demand<'_>, machine: &Machine) -> Option<Finding> {
    let free = |memory: GpuMemory| match memory {
        GpuMemory::Own { total, used } => Some(total.saturating_sub(used.unwrap_or_default())),
        GpuMemory::Shared { .. } | GpuMemory::Unknown => None,
    };
    let gpus = machine.gpus.iter();
    let (gpu, free) = gpus
        .filter_map(|gpu| Some((gpu, free(gpu.memory)?)))
        .max_by_key(|(_, free)| *free)?;
    let need = demand.total();
    (need > free).then(|| {
        Finding::new(
            Code::VramShort,
            format!(
                "`{}` needs about {}; {} has {free} free, so a part of it is computed by the \
                 processor",
                demand.model,
                demand.in_words(),
                gpu.name
            ),
            format!(
                "{}; a part in slower memory sets the pace",
                smaller(demand, free)
            ),
        )
    })
}

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
            "most boards reach the NPU's memory otherwise; if loading fails, add `cma=512M` to \
             the kernel's command line",
        )
    })
}
