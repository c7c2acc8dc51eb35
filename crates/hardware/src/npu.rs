//! Neural processors.
//!
//! Rockchip's with the vendor's driver shows in `/sys/module/rknpu/version`, as a DRM device
//! or as `/dev/rknpu`; its load and clock only where debugfs and devfreq are readable. All
//! others are devices of `/sys/class/accel`, named by their driver.

use crate::root::Access;
use crate::{Root, Surroundings};

/// The driver that RKLLM of today wants at least.
pub const RKNPU_DRIVER_MIN: &str = "0.9.7";
/// What to do about an older one.
pub const NEWER_DRIVER: &str = "install a kernel of the vendor with rknpu 0.9.8";

/// A chip of Rockchip's with an NPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RockchipChip {
    /// As a device tree has it behind `rockchip,`, without the letter of a variant.
    pub name: &'static str,
    pub n_cores: u32,
    /// RKLLM makes files for it under this name.
    pub has_rkllm: bool,
}

/// Those that are known; of several that a device tree names the first counts.
pub const ROCKCHIP: &[RockchipChip] = &[
    rockchip("rk3588", 3, true),
    rockchip("rk3576", 2, true),
    rockchip("rk3562", 1, true),
    rockchip("rv1126b", 1, true),
    // An RK3588 with less of everything; how many cores of the NPU work is not written down.
    rockchip("rk3582", 1, false),
];

const fn rockchip(name: &'static str, n_cores: u32, has_rkllm: bool) -> RockchipChip {
    RockchipChip {
        name,
        n_cores,
        has_rkllm,
    }
}

/// The chip of [`ROCKCHIP`] that this machine has.
#[must_use]
pub fn rockchip_chip(surroundings: &Surroundings) -> Option<RockchipChip> {
    let mut chips = ROCKCHIP.iter().copied();
    chips.find(|chip| surroundings.is_chip(&format!("rockchip,{}", chip.name)))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Npu {
    pub kind: NpuKind,
    /// `0.9.8`, of the kernel's driver.
    pub driver_version: Option<String>,
    pub n_cores: Option<u32>,
    pub node: Option<(String, Access)>,
    pub clock_hz: Option<u64>,
    pub clock_max_hz: Option<u64>,
    pub governor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NpuKind {
    /// Rockchip's own driver, which RKLLM and RKNN need.
    Rknpu,
    /// The driver of the mainline kernel for the same hardware; RKLLM cannot use it.
    Rocket,
    IntelVpu,
    AmdXdna,
    Hailo,
    Other(String),
}

impl NpuKind {
    fn of_driver(driver: &str) -> Self {
        match driver {
            "RKNPU" | "rknpu" => Self::Rknpu,
            "rocket" => Self::Rocket,
            "intel_vpu" => Self::IntelVpu,
            "amdxdna" => Self::AmdXdna,
            "hailo" | "hailo1x" => Self::Hailo,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The driver's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Rknpu => "rknpu",
            Self::Rocket => "rocket",
            Self::IntelVpu => "intel_vpu",
            Self::AmdXdna => "amdxdna",
            Self::Hailo => "hailo",
            Self::Other(name) => name,
        }
    }
}

/// Reads every neural processor. Blocking, some small files.
#[must_use]
pub fn read(root: &Root, surroundings: &Surroundings) -> Vec<Npu> {
    let mut npus: Vec<Npu> = rknpu(root, surroundings).into_iter().collect();
    for (number, device) in root.numbered("/sys/class/accel", "accel") {
        let Some(driver) = driver(root, &format!("{device}/device")) else {
            continue;
        };
        let node = format!("/dev/accel/accel{number}");
        let access = root.access(&node);
        npus.push(Npu {
            driver_version: root.line(&format!("/sys/module/{driver}/version")),
            node: Some((node, access)),
            ..plain(NpuKind::of_driver(&driver))
        });
    }
    if root.access("/dev/hailo0") != Access::Absent {
        npus.push(Npu {
            driver_version: root.line("/sys/module/hailo_pci/version"),
            node: Some(("/dev/hailo0".to_owned(), root.access("/dev/hailo0"))),
            ..plain(NpuKind::Hailo)
        });
    }
    npus
}

fn plain(kind: NpuKind) -> Npu {
    Npu {
        kind,
        driver_version: None,
        n_cores: None,
        node: None,
        clock_hz: None,
        clock_max_hz: None,
        governor: None,
    }
}

fn driver(root: &Root, device: &str) -> Option<String> {
    let uevent = root.text(&format!("{device}/uevent"))?;
    let driver = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DRIVER="))?;
    Some(driver.to_owned())
}

fn rknpu(root: &Root, surroundings: &Surroundings) -> Option<Npu> {
    let module = root.line("/sys/module/rknpu/version");
    let debug = root
        .line("/sys/kernel/debug/rknpu/version")
        .and_then(|text| Some(text.rsplit_once('v')?.1.to_owned()));
    let node = rknpu_node(root);
    if module.is_none() && debug.is_none() && node.is_none() {
        return None;
    }
    let n_cores = rockchip_chip(surroundings).map_or(1, |chip| chip.n_cores);
    let clock = root
        .names("/sys/class/devfreq")
        .into_iter()
        .find(|name| name.ends_with(".npu"))
        .map(|name| format!("/sys/class/devfreq/{name}"));
    let of_clock = |file: &str| root.line(&format!("{}/{file}", clock.as_ref()?));
    let number = |file: &str| of_clock(file).and_then(|text| text.parse().ok());
    Some(Npu {
        driver_version: module.or(debug),
        n_cores: Some(n_cores),
        node,
        clock_hz: number("cur_freq"),
        clock_max_hz: number("max_freq"),
        governor: of_clock("governor"),
        ..plain(NpuKind::Rknpu)
    })
}

/// The render node of the driver, or the device it makes without DRM.
fn rknpu_node(root: &Root) -> Option<(String, Access)> {
    let folder = "/sys/class/drm";
    let nodes = root.numbered(folder, "renderD").into_iter();
    let mut nodes = nodes.filter(|(_, device)| {
        driver(root, &format!("{device}/device")).is_some_and(|driver| driver == "RKNPU")
    });
    let node = match nodes.next() {
        Some((number, _)) => format!("/dev/dri/renderD{number}"),
        None => "/dev/rknpu".to_owned(),
    };
    match root.access(&node) {
        Access::Absent => None,
        access => Some((node, access)),
    }
}

/// `0.9.8` as numbers; what is not a number counts as 0.
#[must_use]
pub fn version_of(text: &str) -> (u32, u32, u32) {
    let mut numbers = text
        .trim_start_matches('v')
        .split('.')
        .map(|number| number.trim().parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}
