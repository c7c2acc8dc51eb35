//! The class of machine, which decides what is worth trying first.

use crate::Processor;
use crate::gpu::{Gpu, GpuVendor};
use crate::npu::{self, Npu, NpuKind};
use crate::surroundings::{Chassis, Surroundings};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A board of Rockchip's with an NPU: RK3588 and its kin.
    RockchipBoard,
    /// A board without anything that computes but its cores: Raspberry Pi and its kin.
    ArmBoard,
    /// NVIDIA's processor and GPU over one memory: Jetson, GB10.
    NvidiaUnified,
    /// AMD's processor and GPU over one memory with a wide bus: Strix Halo.
    AmdUnified,
    /// More than one package or NUMA node.
    NumaServer,
    /// A machine inside another one.
    VirtualMachine,
    Laptop,
    /// A desktop or a small server, with or without a GPU.
    Workstation,
    /// Too little could be read.
    Unknown,
}

impl Tier {
    #[must_use]
    pub fn of(
        processor: &Processor,
        surroundings: &Surroundings,
        gpus: &[Gpu],
        npus: &[Npu],
    ) -> Self {
        let nvidia_shared = gpus
            .iter()
            .any(|gpu| gpu.vendor == GpuVendor::Nvidia && gpu.memory.is_shared());
        let rockchip = npus
            .iter()
            .any(|npu| matches!(npu.kind, NpuKind::Rknpu | NpuKind::Rocket));
        if processor.cpus.is_empty() {
            Self::Unknown
        } else if surroundings.hypervisor.is_some() {
            Self::VirtualMachine
        } else if nvidia_shared || surroundings.is_chip("nvidia,tegra") {
            Self::NvidiaUnified
        } else if rockchip || npu::rockchip_chip(surroundings).is_some() {
            Self::RockchipBoard
        } else if !surroundings.compatible.is_empty() {
            Self::ArmBoard
        } else if has_wide_memory(processor) {
            Self::AmdUnified
        } else if processor.n_packages() > 1 || processor.full_nodes().count() > 1 {
            Self::NumaServer
        } else if surroundings.chassis == Chassis::Laptop || surroundings.has_battery {
            Self::Laptop
        } else {
            Self::Workstation
        }
    }

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RockchipBoard => "rockchip-board",
            Self::ArmBoard => "arm-board",
            Self::NvidiaUnified => "nvidia-unified",
            Self::AmdUnified => "amd-unified",
            Self::NumaServer => "numa-server",
            Self::VirtualMachine => "virtual-machine",
            Self::Laptop => "laptop",
            Self::Workstation => "workstation",
            Self::Unknown => "unknown",
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::RockchipBoard => "a Rockchip board with an NPU and one narrow memory",
            Self::ArmBoard => "an Arm board: its cores do all the work",
            Self::NvidiaUnified => "NVIDIA's processor and GPU over one memory",
            Self::AmdUnified => "AMD's processor and GPU over one wide memory",
            Self::NumaServer => "a server whose memory is nearer to some cores than to others",
            Self::VirtualMachine => "a virtual machine: what its host shares is not visible here",
            Self::Laptop => "a laptop: heat and battery bound what it sustains",
            Self::Workstation => "a desktop or a small server",
            Self::Unknown => "unknown: too little could be read",
        }
    }

    /// A board, whose clocks are worth setting by hand.
    #[must_use]
    pub fn is_board(self) -> bool {
        matches!(self, Self::RockchipBoard | Self::ArmBoard)
    }
}

/// AMD's processors with 256 bits of memory; no file tells the width.
fn has_wide_memory(processor: &Processor) -> bool {
    let model = processor.model.as_deref().unwrap_or_default();
    model.to_lowercase().contains("ryzen ai max")
}
