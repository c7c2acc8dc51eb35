//! What stands in the way of speed or of loading at all, each with its fix.

use stdx::Bytes;

use crate::cpu::Family;
use crate::gpu::{GpuMemory, GpuVendor};
use crate::limits::GroupLimit;
use crate::memory::SwapKind;
use crate::npu::{self, NpuKind, RKNPU_DRIVER_MIN};
use crate::root::Access;
use crate::sensors::Throttle;
use crate::storage::{Storage, StorageKind};
use crate::{CpuSet, Machine, Tier};

/// Degrees below the point where clocks are lowered.
const NEAR_TRIP_CELSIUS: f64 = 10.0;
/// CMA below which buffers of an NPU or a camera may not fit, on boards with an NPU.
const CMA_MIN: Bytes = Bytes::mib(256);
/// Swap in use that is no mere leftover.
const SWAP_USED_MIN: Bytes = Bytes::mib(64);

#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// Cores are kept slow, or sped up only after work has begun.
    SlowGovernor {
        cpus: CpuSet,
        governor: String,
    },
    /// A device's clock is below its best and set by demand.
    SlowDeviceClock {
        device: String,
        governor: String,
        hz: u64,
        max_hz: u64,
    },
    /// More threads are configured than there are big cores.
    LittleCoresUsed {
        n_threads: usize,
        n_big: usize,
    },
    /// Only little cores may be used.
    OnlyLittleCores {
        usable: CpuSet,
        big: CpuSet,
    },
    SwapInUse {
        used: Bytes,
        kind: SwapKind,
    },
    HotZone {
        zone: String,
        celsius: f64,
        slows_at: f64,
    },
    /// A Raspberry Pi's supply is too weak, or its cable.
    UnderVoltage {
        when: When,
    },
    /// A Raspberry Pi's firmware lowers the clocks.
    ClocksLowered {
        when: When,
        causes: Vec<Throttle>,
    },
    /// A control group leaves less than the machine has.
    GroupBelowAvailable {
        left: Bytes,
        available: Bytes,
        limit: GroupLimit,
    },
    QuotaBelowCores {
        milli_cpus: u64,
        n_cores: usize,
    },
    NodeDenied {
        node: String,
        of: String,
    },
    /// A GPU is there, and its driver or library does not answer.
    GpuSilent {
        name: String,
        trouble: String,
    },
    /// The driver of a GPU that shares the memory maps only a part of it.
    MappedBelowMemory {
        mapped: Bytes,
        total: Bytes,
    },
    OldNpuDriver {
        version: String,
    },
    /// The mainline driver, which RKLLM cannot use.
    MainlineNpuDriver,
    SmallCma {
        total: Bytes,
    },
    SeveralNodes {
        n_nodes: usize,
    },
    OneMemoryChannel,
    /// Nobody but root can tell how many channels have modules.
    ChannelsUnknown,
    SlowStorage {
        storage: Storage,
    },
    /// Nothing faster than plain arithmetic for 8-bit numbers.
    NoDotProducts {
        wanted: &'static str,
    },
}

/// Whether something is so, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Now,
    /// At some time since the machine was started, and not now.
    SinceStart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Worth fixing.
    Warning,
}

/// What is asked beside the machine itself.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Threads that are configured.
    pub threads: Option<u32>,
    /// Where the models lie.
    pub storage: Option<Storage>,
}

/// Every warning that applies, the more severe first.
#[must_use]
pub fn warnings(machine: &Machine, context: &Context) -> Vec<Warning> {
    let mut warnings = Vec::new();
    cores(machine, context, &mut warnings);
    clocks(machine, &mut warnings);
    memory(machine, &mut warnings);
    devices(machine, &mut warnings);
    let slow = context.storage.iter().filter(|storage| {
        use StorageKind::{HardDisk, Network, SdCard};
        matches!(storage.kind, HardDisk | SdCard | Network)
    });
    warnings.extend(slow.map(|storage| Warning::SlowStorage {
        storage: storage.clone(),
    }));
    warnings.sort_by_key(|warning| std::cmp::Reverse(warning.severity()));
    warnings
}

fn cores(machine: &Machine, context: &Context, warnings: &mut Vec<Warning>) {
    let processor = &machine.processor;
    let plan = &machine.plan;
    let big = processor.big();
    if processor.is_hybrid() {
        if !plan.usable.is_empty() && plan.usable.and(&big).is_empty() {
            warnings.push(Warning::OnlyLittleCores {
                usable: plan.usable.clone(),
                big: big.clone(),
            });
        }
        // Two threads of a big core are big as well.
        let n_big = plan.usable.and(&big).len();
        let n_threads = context.threads.map_or(0, |threads| threads as usize);
        if n_big > 0 && n_threads > n_big {
            warnings.push(Warning::LittleCoresUsed { n_threads, n_big });
        }
    }
    let n_usable = processor.one_a_core(&plan.usable).len();
    if let Some(milli_cpus) = machine.limits.quota_milli_cpus
        && milli_cpus < n_usable as u64 * 1000
    {
        warnings.push(Warning::QuotaBelowCores {
            milli_cpus,
            n_cores: n_usable,
        });
    }
    let n_nodes = processor.full_nodes().count();
    if n_nodes > 1 {
        warnings.push(Warning::SeveralNodes { n_nodes });
    }
    let has = |name: &str| processor.features.contains(&name);
    if has("asimd") && !has("asimddp") {
        warnings.push(Warning::NoDotProducts { wanted: "asimddp" });
    } else if processor.family == Family::X86 && !has("avx2") {
        warnings.push(Warning::NoDotProducts { wanted: "avx2" });
    }
}

fn clocks(machine: &Machine, warnings: &mut Vec<Warning>) {
    let mut slow: Vec<(String, CpuSet)> = Vec::new();
    for cpu in &machine.processor.cpus {
        // Of these drivers `powersave` is the ordinary mode, which follows the load.
        let adapts = matches!(
            cpu.clock_driver.as_deref(),
            Some("intel_pstate" | "amd-pstate-epp")
        );
        let is_slow = match cpu.governor.as_deref() {
            Some("powersave") => !adapts,
            Some("conservative") => true,
            // Between tokens the load falls, and with it the clock.
            Some("ondemand") => machine.tier.is_board(),
            _ => false,
        };
        if let Some(governor) = cpu.governor.as_ref().filter(|_| is_slow) {
            match slow.iter_mut().find(|(known, _)| known == governor) {
                Some((_, cpus)) => cpus.insert(cpu.id),
                None => slow.push((governor.clone(), [cpu.id].into_iter().collect())),
            }
        }
    }
    let slow = slow.into_iter();
    warnings.extend(slow.map(|(governor, cpus)| Warning::SlowGovernor { cpus, governor }));
    for clock in &machine.sensors.clocks {
        let is_memory = clock.device.contains("dmc") || clock.device.contains("ddr");
        if let (Some(governor), Some(hz), Some(max_hz)) = (&clock.governor, clock.hz, clock.max_hz)
            && is_memory
            && hz < max_hz
            && governor != "performance"
        {
            warnings.push(Warning::SlowDeviceClock {
                device: clock.device.clone(),
                governor: governor.clone(),
                hz,
                max_hz,
            });
        }
    }
    let hot = machine.sensors.zones.iter().filter_map(|zone| {
        let slows_at = zone.slows_at()?;
        (zone.celsius >= slows_at - NEAR_TRIP_CELSIUS).then(|| Warning::HotZone {
            zone: zone.name.clone(),
            celsius: zone.celsius,
            slows_at,
        })
    });
    warnings.extend(hot);
    warnings.extend(firmware(machine));
}

/// What a Raspberry Pi's firmware does to the clocks, and did.
fn firmware(machine: &Machine) -> Vec<Warning> {
    let Some(throttling) = &machine.sensors.throttling else {
        return Vec::new();
    };
    let when = |is_it: &dyn Fn(&Throttle) -> bool| {
        if throttling.now.iter().any(is_it) {
            Some((When::Now, &throttling.now))
        } else if throttling.since_start.iter().any(is_it) {
            Some((When::SinceStart, &throttling.since_start))
        } else {
            None
        }
    };
    let is_voltage = |throttle: &Throttle| *throttle == Throttle::UnderVoltage;
    let voltage = when(&is_voltage).map(|(when, _)| Warning::UnderVoltage { when });
    let lowered = when(&|throttle| !is_voltage(throttle));
    let lowered = lowered.map(|(when, causes)| Warning::ClocksLowered {
        when,
        causes: causes.clone(),
    });
    voltage.into_iter().chain(lowered).collect()
}

fn memory(machine: &Machine, warnings: &mut Vec<Warning>) {
    let memory = &machine.memory;
    let used = memory.swap_used();
    if used >= SWAP_USED_MIN {
        let on_disk = memory
            .swaps
            .iter()
            .any(|swap| swap.kind == SwapKind::Disk && swap.used.0 > 0);
        let kind = if on_disk || memory.swaps.is_empty() {
            SwapKind::Disk
        } else {
            SwapKind::Compressed
        };
        warnings.push(Warning::SwapInUse { used, kind });
    }
    if let (Some(left), Some(available)) = (machine.limits.memory_left, memory.available)
        && left < available
    {
        let limit = machine.limits.memory_left_below;
        warnings.push(Warning::GroupBelowAvailable {
            left,
            available,
            limit: limit.unwrap_or(GroupLimit::Max),
        });
    }
    let has_rknpu = machine.npus.iter().any(|npu| npu.kind == NpuKind::Rknpu);
    if let Some(total) = memory.cma_total
        && has_rknpu
        && total < CMA_MIN
    {
        warnings.push(Warning::SmallCma { total });
    }
    match memory.channels {
        Some(1) => warnings.push(Warning::OneMemoryChannel),
        None if matches!(machine.tier, Tier::Workstation | Tier::Laptop) => {
            warnings.push(Warning::ChannelsUnknown);
        }
        _ => {}
    }
}

fn devices(machine: &Machine, warnings: &mut Vec<Warning>) {
    let gpus = machine.gpus.iter().map(|gpu| (&gpu.node, gpu.name.clone()));
    let npus = machine
        .npus
        .iter()
        .map(|npu| (&npu.node, format!("the NPU ({})", npu.kind.name())));
    for (node, of) in gpus.chain(npus) {
        if let Some((node, Access::Denied)) = node {
            let node = node.clone();
            warnings.push(Warning::NodeDenied { node, of });
        }
    }
    for gpu in &machine.gpus {
        if let Some(trouble) = &gpu.trouble {
            warnings.push(Warning::GpuSilent {
                name: gpu.name.clone(),
                trouble: trouble.clone(),
            });
        }
        if let (GpuVendor::Amd, GpuMemory::Shared { carved, mapped }, Some(total)) =
            (gpu.vendor, gpu.memory, machine.memory.total)
        {
            let mapped = mapped.unwrap_or_default();
            let reach = carved.unwrap_or_default().0.saturating_add(mapped.0);
            if machine.tier == Tier::AmdUnified && u128::from(reach) * 4 < u128::from(total.0) * 3 {
                warnings.push(Warning::MappedBelowMemory { mapped, total });
            }
        }
    }
    for npu in &machine.npus {
        match (&npu.kind, &npu.driver_version) {
            (NpuKind::Rocket, _) => warnings.push(Warning::MainlineNpuDriver),
            (NpuKind::Rknpu, Some(version))
                if npu::version_of(version) < npu::version_of(RKNPU_DRIVER_MIN) =>
            {
                warnings.push(Warning::OldNpuDriver {
                    version: version.clone(),
                });
            }
            _ => {}
        }
    }
}
