//! The machine that is asked about, as far as engines depend on it.

use gateway::PlanAsk;
use hardware::gpu::{GpuMemory, GpuVendor};
use hardware::{Gpu, Machine, Root};
use planner::advise::{EmbeddedGpu, Site};
use planner::{Class, DeviceMemory, Vendor, device_named};

use crate::gpu::Memory;
use crate::plan::Premises;

/// Looks at the machine. A GPU that this build cannot use counts for other engines: then the
/// plan is made against its memory.
pub(super) fn site(premises: &mut Premises, ask: &PlanAsk) -> Site {
    let class = premises.on.machine.class;
    if let Some(device) = ask.device.as_deref().and_then(device_named) {
        return Site {
            class,
            vendor: device.vendor,
            embedded_gpu: EmbeddedGpu::Usable,
        };
    }
    let machine = Machine::read(&Root::live());
    let known = machine.gpus.iter().map(|gpu| vendor(gpu.vendor));
    let known = known.max_by_key(|vendor| *vendor != Vendor::Other);
    if let Some(here) = &premises.here {
        return Site {
            class: match here.memory {
                Memory::Own => Class::Gpu,
                Memory::Unified => Class::UnifiedGpu,
                Memory::Process => class,
            },
            vendor: match here.memory {
                Memory::Process => Vendor::None,
                Memory::Own | Memory::Unified => known.unwrap_or(Vendor::Other),
            },
            embedded_gpu: EmbeddedGpu::Usable,
        };
    }
    let Some((gpu, bytes)) = machine.gpus.iter().find_map(with_memory) else {
        return Site {
            class,
            vendor: Vendor::None,
            embedded_gpu: EmbeddedGpu::OtherBuild,
        };
    };
    premises.available.device = bytes;
    premises.available.memory = DeviceMemory::Own;
    Site {
        class: Class::Gpu,
        vendor: vendor(gpu.vendor),
        embedded_gpu: EmbeddedGpu::OtherBuild,
    }
}

/// Cards alone: a GPU without memory of its own gains nothing that is known.
fn with_memory(gpu: &Gpu) -> Option<(&Gpu, u64)> {
    match gpu.memory {
        GpuMemory::Own { total, .. } => Some((gpu, total.0)),
        GpuMemory::Shared { .. } | GpuMemory::Unknown => None,
    }
}

const fn vendor(vendor: GpuVendor) -> Vendor {
    match vendor {
        GpuVendor::Nvidia => Vendor::Nvidia,
        GpuVendor::Amd => Vendor::Amd,
        GpuVendor::Intel | GpuVendor::Board | GpuVendor::Other(_) => Vendor::Other,
    }
}
