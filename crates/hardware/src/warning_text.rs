//! The words of warnings: what is wrong, and what to do.

use stdx::Bytes;

use crate::limits::GroupLimit;
use crate::memory::SwapKind;
use crate::npu::{NEWER_DRIVER, RKNPU_DRIVER_MIN};
use crate::sensors::Throttle;
use crate::warning::{Severity, Warning, When};

fn place(kind: SwapKind) -> &'static str {
    match kind {
        SwapKind::Disk => "a disk",
        SwapKind::Compressed => "compressed memory",
    }
}

/// What a Raspberry Pi 5 must have; the ones before it ask for 3 A.
const BETTER_SUPPLY: &str = "use the board's own power supply (Raspberry Pi 5: 5 V and 5 A) with a short thick cable, and \
     give drives on USB a supply of their own";

fn under_voltage(when: When) -> String {
    match when {
        When::Now => "the board gets less than 4.63 V, so its firmware lowers clocks".to_owned(),
        When::SinceStart => {
            "the board got less than 4.63 V at some time since it was started".to_owned()
        }
    }
}

/// Memory that is packed has no entry by which `swapon -a` would find it again.
const fn free_swap(kind: SwapKind) -> &'static str {
    match kind {
        SwapKind::Disk => "stop what is not needed, then `sudo swapoff -a && sudo swapon -a`",
        SwapKind::Compressed => "stop what is not needed",
    }
}

/// Whether the supply may be why: its bit stands with those of the clocks.
fn is_of_supply(causes: &[Throttle]) -> bool {
    causes.contains(&Throttle::UnderVoltage) && !causes.contains(&Throttle::SoftTemperature)
}

fn clocks_lowered(when: When, causes: &[Throttle]) -> String {
    let words = causes.iter().filter_map(|cause| match cause {
        Throttle::UnderVoltage => None,
        Throttle::FrequencyCapped => Some("the processor's clock capped"),
        Throttle::Throttled => Some("clocks lowered"),
        Throttle::SoftTemperature => Some("the temperature limit reached"),
    });
    let words = words.collect::<Vec<_>>().join(", ");
    match when {
        When::Now => format!("the firmware slows the board down: {words}"),
        When::SinceStart => {
            format!("the firmware has slowed the board down since it was started: {words}")
        }
    }
}

fn group_left(left: Bytes, available: Bytes) -> String {
    format!("a control group leaves {left} of memory, and {available} are available on the machine")
}

impl Warning {
    /// A name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::SlowGovernor { .. } => "slow_governor",
            Self::SlowDeviceClock { .. } => "slow_device_clock",
            Self::LittleCoresUsed { .. } => "little_cores_used",
            Self::OnlyLittleCores { .. } => "only_little_cores",
            Self::SwapInUse { .. } => "swap_in_use",
            Self::HotZone { .. } => "hot_zone",
            Self::UnderVoltage { .. } => "under_voltage",
            Self::ClocksLowered { .. } => "clocks_lowered",
            Self::GroupBelowAvailable { .. } => "group_below_available",
            Self::QuotaBelowCores { .. } => "quota_below_cores",
            Self::NodeDenied { .. } => "node_denied",
            Self::GpuSilent { .. } => "gpu_silent",
            Self::MappedBelowMemory { .. } => "mapped_below_memory",
            Self::OldNpuDriver { .. } => "old_npu_driver",
            Self::MainlineNpuDriver => "mainline_npu_driver",
            Self::SmallCma { .. } => "small_cma",
            Self::SeveralNodes { .. } => "several_nodes",
            Self::OneMemoryChannel => "one_memory_channel",
            Self::ChannelsUnknown => "channels_unknown",
            Self::SlowStorage { .. } => "slow_storage",
            Self::NoDotProducts { .. } => "no_dot_products",
        }
    }

    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            // It may be mended since: only the next start forgets it.
            Self::ClocksLowered {
                when: When::SinceStart,
                ..
            }
            | Self::QuotaBelowCores { .. }
            | Self::SeveralNodes { .. }
            | Self::ChannelsUnknown
            | Self::GroupBelowAvailable { .. }
            | Self::SlowStorage { .. }
            | Self::NoDotProducts { .. } => Severity::Note,
            _ => Severity::Warning,
        }
    }

    /// What is wrong, with the figures.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::SlowGovernor { cpus, governor } => {
                format!("the governor of CPUs {cpus} is `{governor}`, which keeps clocks low")
            }
            Self::SlowDeviceClock {
                device,
                governor,
                hz,
                max_hz,
            } => format!(
                "`{device}` runs at {} of {} MHz under `{governor}`; decoding waits for memory",
                hz / 1_000_000,
                max_hz / 1_000_000
            ),
            Self::LittleCoresUsed { n_threads, n_big } => format!(
                "{n_threads} threads are configured and there are {n_big} big cores, so each \
                 pass waits for little ones"
            ),
            Self::OnlyLittleCores { usable, big } => {
                format!("only CPUs {usable} may be used, and the big ones are {big}")
            }
            Self::SwapInUse { used, kind } => format!("{used} are swapped out to {}", place(*kind)),
            Self::HotZone {
                zone,
                celsius,
                slows_at,
            } => format!("`{zone}` is at {celsius:.0} C, and {slows_at:.0} C slow or stop it"),
            Self::UnderVoltage { when } => under_voltage(*when),
            Self::ClocksLowered { when, causes } => clocks_lowered(*when, causes),
            Self::GroupBelowAvailable {
                left, available, ..
            } => group_left(*left, *available),
            Self::QuotaBelowCores {
                milli_cpus,
                n_cores,
            } => format!(
                "a control group pays for {} CPUs of {n_cores} cores",
                *milli_cpus as f64 / 1e3
            ),
            Self::NodeDenied { node, of } => {
                format!("`{node}` of {of} may not be opened by this user")
            }
            Self::GpuSilent { name, trouble } => format!("{name} is there, but {trouble}"),
            Self::MappedBelowMemory { mapped, total } => {
                format!("the GPU may map {mapped} of {total} of memory")
            }
            Self::OldNpuDriver { .. } | Self::MainlineNpuDriver | Self::SmallCma { .. } => {
                self.message_of_npu()
            }
            Self::SeveralNodes { n_nodes } => format!(
                "memory is spread over {n_nodes} nodes, and a core reads that of another one \
                 more slowly"
            ),
            Self::OneMemoryChannel => "all memory modules are on one channel".to_owned(),
            Self::ChannelsUnknown => "only root can read which memory slots are filled".to_owned(),
            Self::SlowStorage { storage } => format!(
                "models lie on `{}` ({}), so loading takes its time",
                storage.device,
                storage.kind.name()
            ),
            Self::NoDotProducts { wanted } => format!(
                "the processor has no `{wanted}`, so quantised models are computed by slower means"
            ),
        }
    }

    fn message_of_npu(&self) -> String {
        match self {
            Self::OldNpuDriver { version } => format!(
                "the NPU's driver is {version}, and RKLLM wants {RKNPU_DRIVER_MIN} at least"
            ),
            Self::SmallCma { total } => format!(
                "drivers can have {total} in one piece (CMA), which may be too little for the NPU"
            ),
            _ => "the NPU's driver is `rocket`, not RKLLM's".to_owned(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::SlowGovernor { .. } => "`echo performance | sudo tee \
                 /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor`, until the next start"
                .to_owned(),
            Self::SlowDeviceClock { device, .. } => {
                format!("`echo performance | sudo tee /sys/class/devfreq/{device}/governor`")
            }
            Self::LittleCoresUsed { n_big, .. } => {
                format!("set `threads = {n_big}` or leave it out")
            }
            Self::OnlyLittleCores { big, .. } => {
                format!("start it with `taskset -c {big}`, or give its control group those CPUs")
            }
            Self::SwapInUse { kind, .. } => free_swap(*kind).to_owned(),
            Self::HotZone { .. } => "see to its cooling, or measure after it has cooled".to_owned(),
            Self::UnderVoltage { .. } => BETTER_SUPPLY.to_owned(),
            Self::ClocksLowered { causes, .. } => match is_of_supply(causes) {
                true => format!("first the supply, which lowers clocks too: {BETTER_SUPPLY}"),
                false => "a heat sink with a fan, or a cooler place".to_owned(),
            },
            Self::GroupBelowAvailable { limit, .. } => match limit {
                GroupLimit::Max => {
                    "raise the group's limit: `MemoryMax=` of the unit, `--memory` of the container"
                        .to_owned()
                }
                GroupLimit::High => "raise the group's limit: `MemoryHigh=` of the unit".to_owned(),
            },
            Self::QuotaBelowCores { .. } => {
                "raise the group's quota: `CPUQuota=` of the unit, `--cpus` of the container"
                    .to_owned()
            }
            Self::NodeDenied { node, .. } => format!(
                "join the group that owns it: `sudo usermod -aG $(stat -c %G {node}) $USER`, then \
                 log in again; in a container pass it with `--device {node}`"
            ),
            Self::GpuSilent { .. } => {
                "install the driver of the running kernel; in a container, start it with the GPU"
                    .to_owned()
            }
            Self::MappedBelowMemory { total, .. } => format!(
                "add `ttm.pages_limit={}` to the kernel's command line",
                total.0 / 4096 / 100 * 90
            ),
            Self::OldNpuDriver { .. } => NEWER_DRIVER.to_owned(),
            Self::MainlineNpuDriver => {
                "boot the vendor's kernel (5.10 or 6.1) to use RKLLM".to_owned()
            }
            Self::SmallCma { .. } => "add `cma=512M` to the kernel's command line".to_owned(),
            Self::SeveralNodes { .. } => {
                "keep it on one node with `numactl --cpunodebind=0 --membind=0` if the model fits \
                 there, and measure both"
                    .to_owned()
            }
            Self::OneMemoryChannel => "put the modules on as many channels as there are".to_owned(),
            Self::ChannelsUnknown => {
                "`sudo dmidecode -t memory` lists the slots; measured bandwidth tells as well"
                    .to_owned()
            }
            Self::SlowStorage { .. } => {
                "move the models to an SSD (`models_dir`), or keep them loaded".to_owned()
            }
            Self::NoDotProducts { .. } => {
                "prefer small models, and types with 4 or 8 bits in blocks of 32".to_owned()
            }
        }
    }
}
