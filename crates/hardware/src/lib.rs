//! What this machine is: cores, memory, limits, GPUs, NPUs, storage and sensors; which cores
//! to compute on and why; what stands in the way, each with its fix; and measured bandwidth.
//!
//! ```no_run
//! let root = hardware::Root::live();
//! let machine = hardware::Machine::read(&root);
//! println!("{}: {}", machine.tier.name(), machine.plan.threads());
//! ```
//!
//! Everything is read below a [`Root`], so that a recorded tree of another machine reads as
//! that machine does. No reading fails: what is not there is `None`, and what is there and
//! could not be read is in [`Machine::unread`].

mod arm;
mod cpu;
mod cpu_set;
pub mod energy;
pub mod gpu;
pub mod limits;
pub mod measure;

pub mod memory;
mod mounts;
pub mod npu;
pub mod nvml;
pub mod plan;
pub mod pressure;
mod process;
pub mod recording;
pub mod root;
pub mod sensors;
pub mod storage;
pub mod surroundings;
mod tier;
pub mod vitals;
pub mod warning;
mod warning_text;

pub use crate::arm::Part;
pub use crate::cpu::{Cache, CacheKind, Cluster, CoreKind, Cpu, NumaNode, Processor};
pub use crate::cpu_set::{CPUS_MAX, CpuSet, NoCpuSet};
pub use crate::gpu::Gpu;
pub use crate::limits::{GroupFolder, Limits};
pub use crate::memory::Memory;
pub use crate::npu::Npu;
pub use crate::nvml::Nvml;
pub use crate::plan::CorePlan;
pub use crate::process::Held;
pub use crate::recording::Recording;
pub use crate::root::{Root, Unread};
pub use crate::sensors::Sensors;
pub use crate::surroundings::Surroundings;
pub use crate::tier::Tier;
pub use crate::vitals::{Vitals, VitalsAsk, Watcher};
pub use crate::warning::Warning;

use stdx::Bytes;

/// Everything that can be read of a machine without computing on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub tier: Tier,
    pub surroundings: Surroundings,
    pub processor: Processor,
    pub memory: Memory,
    pub limits: Limits,
    pub gpus: Vec<Gpu>,
    pub npus: Vec<Npu>,
    pub sensors: Sensors,
    pub plan: CorePlan,
    /// What was there and could not be read.
    pub unread: Vec<Unread>,
}

impl Machine {
    /// Reads the machine below `root`. Blocking: a few thousand small files on a large
    /// server, a few hundred on a board.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        if root.is_live() {
            Self::read_with(root, &nvml::Library)
        } else {
            Self::read_with(root, &nvml::RecordedNvml(root))
        }
    }

    /// The same with something else in the place of NVIDIA's library.
    #[must_use]
    pub fn read_with(root: &Root, nvml: &dyn Nvml) -> Self {
        let processor = Processor::read(root);
        let surroundings = Surroundings::read(root, &processor);
        let limits = Limits::read(root);
        let gpus = gpu::read(root, nvml);
        let npus = npu::read(root, &surroundings);
        Self {
            tier: Tier::of(&processor, &surroundings, &gpus, &npus),
            memory: Memory::read(root),
            sensors: Sensors::read(root),
            plan: CorePlan::new(&processor, &limits),
            unread: root.unread(),
            surroundings,
            processor,
            limits,
            gpus,
            npus,
        }
    }

    /// What models may take of the memory; see [`limits::budget`].
    #[must_use]
    pub fn budget(&self) -> Option<Bytes> {
        limits::budget(&self.memory, &self.limits)
    }
}

/// What models may take of this machine's memory together; `None` where the system does not
/// say. Blocking, some small files.
#[must_use]
pub fn budget() -> Option<Bytes> {
    let root = Root::live();
    limits::budget(&Memory::read(&root), &Limits::read(&root))
}

/// Where to compute on this machine where nobody says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultCores {
    /// At least one.
    pub threads: u32,
    /// The big cores, where there are little ones too; `None`: wherever the system puts the
    /// threads.
    pub cpus: Option<CpuSet>,
    /// What may be used at all; empty where the system does not say.
    pub usable: CpuSet,
}

impl DefaultCores {
    /// Those of this machine. Blocking, some small files.
    #[must_use]
    pub fn read() -> Self {
        let root = Root::live();
        let processor = Processor::read(&root);
        if processor.cpus.is_empty() {
            let allowed = std::thread::available_parallelism().map_or(1, usize::from);
            return Self {
                threads: u32::try_from(allowed).unwrap_or(1),
                cpus: None,
                usable: CpuSet::default(),
            };
        }
        Self::of(CorePlan::new(&processor, &Limits::read(&root)), &processor)
    }

    fn of(plan: CorePlan, processor: &Processor) -> Self {
        let is_big = |reason: &plan::Reason| matches!(reason, plan::Reason::BigOnly { .. });
        let is_hybrid = plan.decode.reasons.iter().any(is_big);
        Self {
            threads: plan.threads(),
            cpus: is_hybrid.then(|| plan.usable.and(&processor.big())),
            usable: plan.usable,
        }
    }
}
