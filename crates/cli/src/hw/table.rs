//! The report for people: a name and a value a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hardware::gpu::GpuMemory;
use hardware::limits::GroupVersion;
use hardware::plan::Choice;
use hardware::root::Access;
use hardware::sensors::{Throttle, TripKind};
use hardware::warning::Severity;
use hardware::{CacheKind, CoreKind, Gpu, Machine, Npu};
use stdx::Bytes;

use super::{Known, Report, Source, view};

/// Paths that could not be read, of which not all need a line.
const UNREAD_LINES_MAX: usize = 5;

/// Lines, each with a name; one that follows another of the same name has none.
#[derive(Default)]
struct Lines {
    text: String,
    last: &'static str,
}

impl Lines {
    fn add(&mut self, name: &'static str, value: &str) {
        let shown = if name == self.last { "" } else { name };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{shown:<14}{value}");
        self.last = name;
    }
}

pub(super) fn of(report: &Report) -> String {
    let mut lines = Lines::default();
    let machine = &report.machine;
    surroundings(machine, &mut lines);
    processor(machine, &mut lines);
    memory(machine, &mut lines);
    limits(machine, &mut lines);
    for gpu in &machine.gpus {
        lines.add("gpu", &gpu_line(gpu));
    }
    if machine.gpus.is_empty() {
        lines.add("gpu", "none found");
    }
    for npu in &machine.npus {
        lines.add("npu", &npu_line(npu));
    }
    match &report.storage {
        Some(storage) => lines.add(
            "models on",
            &format!(
                "{}, {} ({} at {})",
                storage.kind.name(),
                storage.device,
                storage.file_system,
                storage.mount_point
            ),
        ),
        None => lines.add("models on", "unknown: no mounts could be read"),
    }
    sensors(machine, &mut lines);
    plan(machine, &mut lines);
    measured(report, &mut lines);
    unread(machine, &mut lines);
    for warning in &report.warnings {
        let name = match warning.severity() {
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        lines.last = "";
        lines.add(name, &warning.message());
        lines.add(name, &format!("fix: {}", warning.fix()));
    }
    lines.text
}

fn surroundings(machine: &Machine, lines: &mut Lines) {
    let surroundings = &machine.surroundings;
    let model = surroundings.model.as_deref().unwrap_or("unnamed");
    lines.add("machine", model);
    let tier = machine.tier;
    lines.add("tier", &format!("{}: {}", tier.name(), tier.description()));
    let mut within = Vec::new();
    if let Some(container) = &surroundings.container {
        within.push(format!("a container ({})", container.name()));
    }
    if let Some(hypervisor) = &surroundings.hypervisor {
        within.push(format!("a virtual machine (host: {hypervisor})"));
    }
    if !within.is_empty() {
        lines.add("inside", &within.join(" in "));
    }
    if let Some(kernel) = &surroundings.kernel {
        lines.add("kernel", kernel);
    }
}

fn processor(machine: &Machine, lines: &mut Lines) {
    let processor = &machine.processor;
    lines.add("processor", &processor.name());
    let (n_cores, n_cpus) = (processor.n_cores(), processor.cpus.len());
    let packages = match processor.n_packages() {
        1 => String::new(),
        n => format!(" in {n} packages"),
    };
    lines.add(
        "cores",
        &format!("{n_cores} with {}{packages}", counted(n_cpus, "thread")),
    );
    for cluster in &processor.clusters {
        let kind = match (processor.is_hybrid(), cluster.kind) {
            (false, _) => "all",
            (true, CoreKind::Big) => "big",
            (true, CoreKind::Little) => "little",
        };
        let design = cluster.part.map_or("core".to_owned(), |part| part.name());
        let clock = cluster.max_khz.map_or("clock unknown".to_owned(), |khz| {
            format!("{:.2} GHz", khz as f64 / 1e6)
        });
        let governor = cluster.governor.as_deref().unwrap_or("no governor");
        let (cpus, n_cores) = (&cluster.cpus, cluster.n_cores);
        lines.add(
            "cores",
            &format!("{kind} {cpus}: {n_cores}x {design}, {clock}, {governor}"),
        );
    }
    let caches = caches(machine);
    lines.add(
        "caches",
        if caches.is_empty() {
            "unknown"
        } else {
            &caches
        },
    );
    let features = processor.features.join(" ");
    lines.add(
        "instructions",
        if features.is_empty() {
            "unknown"
        } else {
            &features
        },
    );
    let nodes: Vec<_> = processor.full_nodes().collect();
    if nodes.len() > 1 {
        for node in nodes {
            let total = node.total.map_or("?".to_owned(), |total| total.to_string());
            lines.add(
                "numa nodes",
                &format!("{}: CPUs {}, {total}", node.id, node.cpus),
            );
        }
    }
}

/// `L1d 4x 32.0 KiB, L2 ...`.
fn caches(machine: &Machine) -> String {
    let mut kinds: BTreeMap<(u32, CacheKind, Bytes), usize> = BTreeMap::new();
    for cache in &machine.processor.caches {
        *kinds
            .entry((cache.level, cache.kind, cache.bytes))
            .or_default() += 1;
    }
    let caches = kinds.iter().map(|((level, kind, bytes), n)| {
        let kind = match kind {
            CacheKind::Data => "d",
            CacheKind::Instruction => "i",
            CacheKind::Unified => "",
        };
        format!("L{level}{kind} {n}x {bytes}")
    });
    caches.collect::<Vec<_>>().join(", ")
}

fn memory(machine: &Machine, lines: &mut Lines) {
    let memory = &machine.memory;
    let or_unknown = |bytes: Option<Bytes>| bytes.map_or("?".to_owned(), |it| it.to_string());
    lines.add(
        "memory",
        &format!(
            "{}, {} available, {} for models",
            or_unknown(memory.total),
            or_unknown(memory.available),
            or_unknown(machine.budget())
        ),
    );
    match memory.swap_total {
        Some(Bytes(0)) => lines.add("swap", "none"),
        Some(total) => lines.add("swap", &format!("{total}, {} in use", memory.swap_used())),
        None => lines.add("swap", "unknown"),
    }
    let huge = memory.huge_pages;
    let transparent = memory.transparent_huge_pages.as_deref().unwrap_or("?");
    lines.add(
        "huge pages",
        &format!(
            "transparent: {transparent}; set aside: {} of {}",
            huge.total, huge.bytes_each
        ),
    );
    if let Some(total) = memory.cma_total {
        let free = or_unknown(memory.cma_free);
        lines.add("cma", &format!("{total}, {free} free"));
    }
}

fn limits(machine: &Machine, lines: &mut Lines) {
    let limits = &machine.limits;
    let version = match limits.version {
        None => "no control groups",
        Some(GroupVersion::V1) => "control groups v1",
        Some(GroupVersion::V2) => "control groups v2",
        Some(GroupVersion::Both) => "control groups v1 and v2",
    };
    let mut known = Vec::new();
    if let Some(max) = limits.memory_max {
        known.push(format!("memory at most {max}"));
    }
    if let Some(high) = limits.memory_high {
        known.push(format!("slowed above {high}"));
    }
    if let Some(left) = limits.memory_left {
        known.push(format!("{left} left"));
    }
    if let Some(milli) = limits.quota_milli_cpus {
        known.push(format!("{} CPUs' time", milli as f64 / 1e3));
    }
    if machine.plan.usable.len() < machine.processor.cpus.len() {
        known.push(format!("CPUs {}", machine.plan.usable));
    }
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    lines.add("limits", &format!("{known} ({version})"));
}

fn node_words(node: &Option<(String, Access)>) -> Option<String> {
    let (path, access) = node.as_ref()?;
    Some(match access {
        Access::Usable => path.clone(),
        Access::Denied => format!("{path} (not for this user)"),
        Access::Absent => format!("{path} (absent)"),
    })
}

fn gpu_line(gpu: &Gpu) -> String {
    let mut words = vec![gpu.name.clone()];
    words.push(match gpu.memory {
        GpuMemory::Own {
            total,
            used: Some(used),
        } => format!("{total} of its own, {used} in use"),
        GpuMemory::Own { total, used: None } => format!("{total} of its own"),
        GpuMemory::Shared { carved, mapped } => {
            let mut text = "shares the memory".to_owned();
            if let Some(mapped) = mapped {
                let _ = write!(text, ", may map {mapped}");
            }
            if let Some(carved) = carved {
                let _ = write!(text, " beside {carved} set aside");
            }
            text
        }
        GpuMemory::Unknown => "memory unknown".to_owned(),
    });
    words.extend(gpu.driver.as_ref().map(|driver| format!("driver {driver}")));
    words.extend(node_words(&gpu.node));
    words.extend(gpu.link.clone());
    words.extend(gpu.temperature_celsius.map(|it| format!("{it:.0} C")));
    words.extend(gpu.power_watts.map(|it| format!("{it:.1} W")));
    words.join(", ")
}

fn npu_line(npu: &Npu) -> String {
    let version = npu
        .driver_version
        .as_deref()
        .unwrap_or("of unknown version");
    let mut words = vec![format!("driver {} {version}", npu.kind.name())];
    words.extend(npu.n_cores.map(|n| format!("{n} cores")));
    words.extend(node_words(&npu.node));
    if let (Some(hz), Some(max)) = (npu.clock_hz, npu.clock_max_hz) {
        words.push(format!("{} of {} MHz", hz / 1_000_000, max / 1_000_000));
    }
    words.join(", ")
}

fn sensors(machine: &Machine, lines: &mut Lines) {
    let sensors = &machine.sensors;
    let zones = sensors.zones.iter().map(|zone| {
        let only_stops = zone
            .trips
            .iter()
            .all(|trip| matches!(trip.kind, TripKind::Active | TripKind::Critical));
        let does = if only_stops { "stops" } else { "slows" };
        let slows = zone
            .slows_at()
            .map_or(String::new(), |at| format!(" ({does} at {at:.0})"));
        format!("{} {:.0} C{slows}", zone.name, zone.celsius)
    });
    let zones: Vec<_> = zones.collect();
    if zones.is_empty() {
        lines.add("temperature", "no zones found");
    }
    for some in zones.chunks(3) {
        lines.add("temperature", &some.join(", "));
    }
    let mhz = |hz: Option<u64>| hz.map_or("?".to_owned(), |hz| (hz / 1_000_000).to_string());
    for clock in &sensors.clocks {
        let governor = clock.governor.as_deref().unwrap_or("no governor");
        lines.add(
            "clocks",
            &format!(
                "{}: {} of {} MHz, {governor}",
                clock.device,
                mhz(clock.hz),
                mhz(clock.max_hz)
            ),
        );
    }
    if let Some(throttling) = &sensors.throttling {
        let words = |of: &[Throttle]| {
            let names: Vec<_> = of.iter().map(|one| one.name().replace('_', " ")).collect();
            match names.as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            }
        };
        let now = words(&throttling.now);
        let before = words(&throttling.since_start);
        lines.add(
            "throttling",
            &format!("now {now}; since the start {before}"),
        );
    }
    let power = sensors.power.iter().map(|meter| match meter.watts {
        Some(watts) => format!("{} {watts:.1} W", meter.name),
        None if meter.readable => format!("{} counts energy", meter.name),
        None => format!("{} may not be read", meter.name),
    });
    let power: Vec<_> = power.collect();
    if !power.is_empty() {
        lines.add("power", &power.join(", "));
    }
}

fn plan(machine: &Machine, lines: &mut Lines) {
    let words = |choice: &Choice| {
        let reasons: Vec<_> = choice.reasons.iter().map(ToString::to_string).collect();
        let threads = counted(choice.cpus.len(), "thread");
        format!("{threads} on CPUs {}: {}", choice.cpus, reasons.join("; "))
    };
    let plan = &machine.plan;
    if plan.decode.cpus.is_empty() {
        lines.add("decode on", "unknown: no core could be read");
        return;
    }
    lines.add("decode on", &words(&plan.decode));
    if plan.prefill == plan.decode {
        lines.add("prefill on", "the same");
    } else {
        lines.add("prefill on", &words(&plan.prefill));
    }
}

/// `1 core`, `2 cores`.
fn counted(n: usize, thing: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{s}")
}

fn measured(report: &Report, lines: &mut Lines) {
    let Known { measured, source } = match &report.measured {
        Ok(known) => known,
        Err(why) => {
            lines.add("bandwidth", &format!("not measured: {why}"));
            return;
        }
    };
    for point in &measured.bandwidth {
        let (best, median) = (point.best_gb_per_second, point.median_gb_per_second);
        let cores = counted(point.n_cores, "core");
        lines.add(
            "bandwidth",
            &format!("{best:.1} GB/s by {cores} (median {median:.1})"),
        );
    }
    if let Some(enough) = measured.enough_cores()
        && enough < measured.cores.len()
    {
        let cores = counted(enough, "core");
        lines.add(
            "bandwidth",
            &format!("{cores} read within 5 % of the best: more do not decode faster"),
        );
    }
    for point in &measured.compute {
        let (best, median) = (point.best_giga_per_second, point.median_giga_per_second);
        let (name, cores) = (&point.name, counted(point.n_cores, "core"));
        lines.add(
            "arithmetic",
            &format!("{name} {best:.0} G operations/s by {cores} (median {median:.0})"),
        );
    }
    let when = match source {
        Source::Now => format!("now, in {:.1} s", measured.seconds),
        Source::Kept { age_secs } => {
            format!("{} ago; `sextant hw --measure` repeats it", ago(*age_secs))
        }
    };
    lines.add("measured", &when);
    if !measured.is_pinned {
        lines.add("measured", "threads could not be bound to cores");
    }
    let busy = &measured.busy;
    let percent = |it: Option<f64>| it.map_or("?".to_owned(), |it| format!("{it:.0}"));
    if busy.was_busy() {
        lines.add(
            "measured",
            &format!(
                "the machine was busy: others took {} %, a host {} %, load {} a CPU before; the \
                 figures may be too low and are not kept",
                percent(busy.others_percent),
                percent(busy.stolen_percent),
                busy.load_a_cpu
                    .map_or("?".to_owned(), |load| format!("{load:.1}"))
            ),
        );
    }
}

fn ago(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

fn unread(machine: &Machine, lines: &mut Lines) {
    for unread in machine.unread.iter().take(UNREAD_LINES_MAX) {
        lines.add(
            "not read",
            &format!("{}: {}", unread.path, view::why(&unread.why)),
        );
    }
    let n_more = machine.unread.len().saturating_sub(UNREAD_LINES_MAX);
    if n_more > 0 {
        lines.add("not read", &format!("and {n_more} more (see `--json`)"));
    }
}
