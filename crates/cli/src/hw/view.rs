//! The report as JSON.

use hardware::gpu::{GpuMemory, GpuVendor};
use hardware::limits::GroupVersion;
use hardware::plan::Choice;
use hardware::root::{Access, Why};
use hardware::sensors::{Throttle, TripKind};
use hardware::warning::Severity;
use hardware::{CacheKind, CoreKind, Gpu, Machine, Npu, Processor};
use serde_json::{Value, json};
use stdx::Bytes;

use super::{Known, Report, Source, measured};

pub(super) fn of(report: &Report) -> Value {
    let machine = &report.machine;
    let surroundings = &machine.surroundings;
    let warnings = report.warnings.iter().map(|warning| {
        json!({
            "code": warning.code(),
            "severity": match warning.severity() {
                Severity::Note => "note",
                Severity::Warning => "warning",
            },
            "message": warning.message(),
            "fix": warning.fix(),
        })
    });
    let unread = machine
        .unread
        .iter()
        .map(|unread| json!({"path": unread.path, "why": why(&unread.why)}));
    json!({
        "tier": machine.tier.name(),
        "model": surroundings.model,
        "compatible": surroundings.compatible,
        "kernel": surroundings.kernel,
        "hypervisor": surroundings.hypervisor,
        "container": surroundings.container.as_ref().map(|container| container.name()),
        "has_battery": surroundings.has_battery,
        "processor": processor(&machine.processor),
        "memory": memory(machine),
        "limits": limits(machine),
        "gpus": machine.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "npus": machine.npus.iter().map(npu).collect::<Vec<_>>(),
        "storage": report.storage.as_ref().map(|storage| json!({
            "kind": storage.kind.name(),
            "device": storage.device,
            "file_system": storage.file_system,
            "mount_point": storage.mount_point,
        })),
        "sensors": sensors(machine),
        "plan": {
            "usable_cpus": machine.plan.usable.to_string(),
            "threads": machine.plan.threads(),
            "decode": choice(&machine.plan.decode),
            "prefill": choice(&machine.plan.prefill),
        },
        "measured": measurement(report),
        "not_measured": report.measured.as_ref().err(),
        "warnings": warnings.collect::<Vec<_>>(),
        "unread": unread.collect::<Vec<_>>(),
    })
}

fn bytes(bytes: Option<Bytes>) -> Option<u64> {
    bytes.map(|bytes| bytes.0)
}

pub(super) fn why(why: &Why) -> String {
    match why {
        Why::Denied => "this user may not read it".to_owned(),
        Why::TooLong => "it is too long; its beginning was read".to_owned(),
        Why::Failed(words) => words.clone(),
    }
}

fn processor(processor: &Processor) -> Value {
    let clusters = processor.clusters.iter().map(|cluster| {
        json!({
            "kind": match cluster.kind {
                CoreKind::Big => "big",
                CoreKind::Little => "little",
            },
            "cpus": cluster.cpus.to_string(),
            "cores": cluster.n_cores,
            "design": cluster.part.map(|part| part.name()),
            "capacity": cluster.capacity,
            "max_khz": cluster.max_khz,
            "governor": cluster.governor,
        })
    });
    let caches = processor.caches.iter().map(|cache| {
        json!({
            "level": cache.level,
            "kind": match cache.kind {
                CacheKind::Data => "data",
                CacheKind::Instruction => "instruction",
                CacheKind::Unified => "unified",
            },
            "bytes": cache.bytes.0,
            "cpus": cache.cpus.to_string(),
        })
    });
    let nodes = processor.nodes.iter().map(|node| {
        json!({
            "id": node.id,
            "cpus": node.cpus.to_string(),
            "total_bytes": bytes(node.total),
            "distances": node.distances,
        })
    });
    json!({
        "name": processor.name(),
        "packages": processor.n_packages(),
        "cores": processor.n_cores(),
        "cpus": processor.online().to_string(),
        "clusters": clusters.collect::<Vec<_>>(),
        "caches": caches.collect::<Vec<_>>(),
        "instructions": processor.features,
        "numa_nodes": nodes.collect::<Vec<_>>(),
    })
}

fn memory(machine: &Machine) -> Value {
    let memory = &machine.memory;
    json!({
        "total_bytes": bytes(memory.total),
        "available_bytes": bytes(memory.available),
        "for_models_bytes": bytes(machine.budget()),
        "swap_total_bytes": bytes(memory.swap_total),
        "swap_used_bytes": memory.swap_used().0,
        "cma_total_bytes": bytes(memory.cma_total),
        "cma_free_bytes": bytes(memory.cma_free),
        "huge_pages": {
            "total": memory.huge_pages.total,
            "free": memory.huge_pages.free,
            "bytes_each": memory.huge_pages.bytes_each.0,
        },
        "transparent_huge_pages": memory.transparent_huge_pages,
        "channels": memory.channels,
    })
}

fn limits(machine: &Machine) -> Value {
    let limits = &machine.limits;
    json!({
        "control_groups": limits.version.map(|version| match version {
            GroupVersion::V1 => "v1",
            GroupVersion::V2 => "v2",
            GroupVersion::Both => "v1 and v2",
        }),
        "memory_max_bytes": bytes(limits.memory_max),
        "memory_high_bytes": bytes(limits.memory_high),
        "memory_left_bytes": bytes(limits.memory_left),
        "swap_max_bytes": bytes(limits.swap_max),
        "quota_cpus": limits.quota_milli_cpus.map(|milli| milli as f64 / 1e3),
        "cpuset": limits.cpuset.as_ref().map(ToString::to_string),
        "affinity": limits.affinity.as_ref().map(ToString::to_string),
    })
}

fn node(node: &Option<(String, Access)>) -> Value {
    node.as_ref().map_or(
        Value::Null,
        |(path, access)| json!({"path": path, "usable": *access == Access::Usable}),
    )
}

fn gpu(gpu: &Gpu) -> Value {
    let memory = match gpu.memory {
        GpuMemory::Own { total, used } => {
            json!({"kind": "own", "total_bytes": total.0, "used_bytes": bytes(used)})
        }
        GpuMemory::Shared { carved, mapped } => json!({
            "kind": "shared",
            "set_aside_bytes": bytes(carved),
            "mapped_max_bytes": bytes(mapped),
        }),
        GpuMemory::Unknown => Value::Null,
    };
    json!({
        "vendor": gpu.vendor.name(),
        "pci_vendor": match gpu.vendor {
            GpuVendor::Other(id) => Some(format!("{id:04x}")),
            _ => None,
        },
        "name": gpu.name,
        "memory": memory,
        "driver": gpu.driver,
        "node": node(&gpu.node),
        "temperature_celsius": gpu.temperature_celsius,
        "power_watts": gpu.power_watts,
        "busy_percent": gpu.busy_percent,
        "link": gpu.link,
        "trouble": gpu.trouble,
    })
}

fn npu(npu: &Npu) -> Value {
    json!({
        "kind": npu.kind.name(),
        "driver_version": npu.driver_version,
        "cores": npu.n_cores,
        "node": node(&npu.node),
        "clock_hz": npu.clock_hz,
        "clock_max_hz": npu.clock_max_hz,
        "governor": npu.governor,
    })
}

fn sensors(machine: &Machine) -> Value {
    let zones = machine.sensors.zones.iter().map(|zone| {
        let trips = zone.trips.iter().map(|trip| {
            let kind = match trip.kind {
                TripKind::Active => "active",
                TripKind::Passive => "passive",
                TripKind::Hot => "hot",
                TripKind::Critical => "critical",
            };
            json!({"kind": kind, "celsius": trip.celsius})
        });
        json!({
            "name": zone.name,
            "celsius": zone.celsius,
            "slows_at_celsius": zone.slows_at(),
            "trips": trips.collect::<Vec<_>>(),
        })
    });
    let clocks = machine.sensors.clocks.iter().map(|clock| {
        json!({
            "device": clock.device,
            "governor": clock.governor,
            "hz": clock.hz,
            "max_hz": clock.max_hz,
        })
    });
    let names = |of: &[Throttle]| of.iter().map(|one| one.name()).collect::<Vec<_>>();
    let power =
        machine.sensors.power.iter().map(
            |meter| json!({"name": meter.name, "watts": meter.watts, "readable": meter.readable}),
        );
    json!({
        "zones": zones.collect::<Vec<_>>(),
        "clocks": clocks.collect::<Vec<_>>(),
        "power": power.collect::<Vec<_>>(),
        "throttling": machine.sensors.throttling.as_ref().map(|throttling| json!({
            "now": names(&throttling.now),
            "since_start": names(&throttling.since_start),
        })),
    })
}

fn choice(choice: &Choice) -> Value {
    let reasons = choice.reasons.iter().map(ToString::to_string);
    json!({"cpus": choice.cpus.to_string(), "reasons": reasons.collect::<Vec<_>>()})
}

fn measurement(report: &Report) -> Value {
    match &report.measured {
        Err(_) => Value::Null,
        Ok(Known { measured, source }) => {
            let mut value = measured::as_json(measured);
            value["best_gb_per_second"] = json!(measured.best_gb_per_second());
            value["enough_cores"] = json!(measured.enough_cores());
            value["was_busy"] = json!(measured.busy.was_busy());
            value["age_secs"] = match source {
                Source::Now => json!(0),
                Source::Kept { age_secs } => json!(age_secs),
            };
            value
        }
    }
}
