//! Graphics processors and the memory they can use.
//!
//! NVIDIA's are asked through their own library ([`crate::Nvml`]), which is opened only
//! where the kernel shows such a device. AMD's, Intel's and those of boards are read from
//! `/sys/class/drm`. Vulkan is not asked: its loader runs every driver that is installed
//! inside this process.

use stdx::Bytes;

use crate::Root;
use crate::nvml::{NvidiaDevice, Nvml, NvmlTrouble};
use crate::root::Access;

const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;
const INTEL: u32 = 0x8086;
/// Devices that are listed.
const GPUS_MAX: usize = 64;
/// Memory that firmware sets aside for graphics in a processor, at the most where nobody asked
/// for more.
const CARVED_MAX: Bytes = Bytes(Bytes::GIB);

#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    pub vendor: GpuVendor,
    pub name: String,
    pub memory: GpuMemory,
    /// The kernel's driver, and NVIDIA's version.
    pub driver: Option<String>,
    /// The device through which programs compute, and whether this user may.
    pub node: Option<(String, Access)>,
    pub temperature_celsius: Option<f64>,
    pub power_watts: Option<f64>,
    pub busy_percent: Option<u32>,
    /// `16.0 GT/s PCIe x16`, as the kernel says it now.
    pub link: Option<String>,
    /// Why less is known than could be.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuVendor {
    Nvidia,
    Amd,
    Intel,
    /// Of a board's chip: Mali, VideoCore, Adreno.
    Board,
    Other(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuMemory {
    /// Memory of its own.
    Own {
        total: Bytes,
        used: Option<Bytes>,
    },
    /// The machine's memory, up to a limit if one is known: what the firmware set aside
    /// (`carved`) and what the driver maps (`mapped`).
    Shared {
        carved: Option<Bytes>,
        mapped: Option<Bytes>,
    },
    Unknown,
}

impl GpuMemory {
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Shared { .. })
    }
}

impl GpuVendor {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Intel => "intel",
            Self::Board => "board",
            Self::Other(_) => "other",
        }
    }
}

/// AMD's processors with graphics in them, by their device number.
const AMD_SHARED: &[(u32, &str)] = &[
    (0x1114, "Krackan Point"),
    (0x13c0, "Granite Ridge"),
    (0x150e, "Strix Point"),
    (0x1586, "Strix Halo"),
    (0x15d8, "Picasso"),
    (0x15dd, "Raven"),
    (0x15bf, "Phoenix"),
    (0x15c8, "Phoenix 2"),
    (0x15e7, "Barcelo"),
    (0x1636, "Renoir"),
    (0x1638, "Cezanne"),
    (0x163f, "Van Gogh"),
    (0x164e, "Raphael"),
    (0x1681, "Rembrandt"),
    (0x1900, "Hawk Point"),
    (0x1901, "Hawk Point"),
];

/// Reads every graphics processor. Blocking; NVIDIA's library may take a second to open.
#[must_use]
pub fn read(root: &Root, nvml: &dyn Nvml) -> Vec<Gpu> {
    let mut gpus = nvidia(root, nvml);
    for (_, card) in root.numbered("/sys/class/drm", "card") {
        if gpus.len() >= GPUS_MAX {
            break;
        }
        gpus.extend(of_card(root, &card));
    }
    if gpus.is_empty() {
        gpus.extend(of_clock(root));
    }
    gpus
}

/// A board's graphics processor whose vendor's driver makes no DRM device: it has a clock.
fn of_clock(root: &Root) -> Option<Gpu> {
    let folder = "/sys/class/devfreq";
    let names = root.names(folder).into_iter();
    let device = names
        .filter(|name| name.ends_with(".gpu"))
        .map(|name| format!("{folder}/{name}/device"))
        .next()?;
    let info = root.line(&format!("{device}/gpuinfo"));
    let name = info.unwrap_or_else(|| "board GPU".to_owned());
    let access = root.access("/dev/mali0");
    Some(Gpu {
        node: (access != Access::Absent).then(|| ("/dev/mali0".to_owned(), access)),
        ..plain(GpuVendor::Board, name, SHARED_WHOLE)
    })
}

/// Whether the kernel shows a device of NVIDIA's, or one is part of the chip.
fn shows_nvidia(root: &Root) -> bool {
    let folder = "/sys/bus/pci/devices";
    let of_pci = root.names(folder).into_iter().any(|name| {
        let file = |file: &str| root.line(&format!("{folder}/{name}/{file}"));
        let class = file("class").and_then(|text| hex(&text)).unwrap_or(0);
        file("vendor").and_then(|text| hex(&text)) == Some(NVIDIA) && class >> 16 == 0x03
    });
    of_pci || is_tegra(root) || root.exists("/dev/nvidiactl")
}

fn is_tegra(root: &Root) -> bool {
    let compatible = root.text("/proc/device-tree/compatible");
    compatible.is_some_and(|text| text.contains("nvidia,tegra"))
}

fn nvidia(root: &Root, nvml: &dyn Nvml) -> Vec<Gpu> {
    // Windows' subsystem for Linux shows one node for the GPUs of all makers.
    let may_be = root.exists("/dev/dxg");
    let is_there = shows_nvidia(root);
    if !is_there && !may_be {
        return Vec::new();
    }
    match nvml.devices() {
        Ok(devices) if !devices.is_empty() => devices
            .into_iter()
            .take(GPUS_MAX)
            .map(|device| of_nvml(root, device))
            .collect(),
        _ if !is_there => Vec::new(),
        other => {
            let trouble = match other {
                Ok(_) => Some("NVIDIA's library lists no device".to_owned()),
                // Part of the chip, it is there whether the library is or not.
                Err(NvmlTrouble::NoLibrary(_)) if is_tegra(root) => None,
                Err(error) => Some(error.to_string()),
            };
            let name = if is_tegra(root) {
                "NVIDIA Tegra"
            } else {
                "NVIDIA device"
            };
            let memory = if is_tegra(root) {
                SHARED_WHOLE
            } else {
                GpuMemory::Unknown
            };
            vec![Gpu {
                node: nvidia_node(root),
                driver: root.line("/sys/module/nvidia/version"),
                trouble,
                ..plain(GpuVendor::Nvidia, name.to_owned(), memory)
            }]
        }
    }
}

const SHARED_WHOLE: GpuMemory = GpuMemory::Shared {
    carved: None,
    mapped: None,
};

fn of_nvml(root: &Root, device: NvidiaDevice) -> Gpu {
    Gpu {
        driver: device.driver,
        node: nvidia_node(root),
        temperature_celsius: device.temperature_celsius,
        power_watts: device.power_watts,
        busy_percent: device.busy_percent,
        link: device.link,
        trouble: device.trouble,
        ..plain(GpuVendor::Nvidia, device.name, device.memory)
    }
}

fn nvidia_node(root: &Root) -> Option<(String, Access)> {
    let nodes = [
        "/dev/nvidiactl",
        "/dev/nvidia0",
        "/dev/nvgpu/igpu0/ctrl",
        "/dev/nvhost-ctrl-gpu",
    ];
    nodes.iter().find_map(|node| {
        let access = root.access(node);
        (access != Access::Absent).then(|| ((*node).to_owned(), access))
    })
}

fn plain(vendor: GpuVendor, name: String, memory: GpuMemory) -> Gpu {
    Gpu {
        vendor,
        name,
        memory,
        driver: None,
        node: None,
        temperature_celsius: None,
        power_watts: None,
        busy_percent: None,
        link: None,
        trouble: None,
    }
}

/// What a card of `/sys/class/drm` is; `None` for NVIDIA's, which are known already, for
/// NPUs, and for displays of virtual machines.
fn of_card(root: &Root, card: &str) -> Option<Gpu> {
    let device = format!("{card}/device");
    let file = |name: &str| root.line(&format!("{device}/{name}"));
    let uevent = root.text(&format!("{device}/uevent")).unwrap_or_default();
    let driver = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DRIVER="))
        .map(str::to_owned);
    let number = |name: &str| file(name).and_then(|text| hex(&text));
    let node = render_node(root, &device);
    let mut gpu = match (number("vendor"), number("device")) {
        (Some(NVIDIA), _) => return None,
        (Some(AMD), id) => amd(root, &device, id),
        (Some(INTEL), id) => intel(root, card, &device, id),
        (Some(vendor), id) => {
            let name = format!("PCI {vendor:04x}:{:04x}", id.unwrap_or(0));
            // A display without a render node does not compute.
            node.as_ref()?;
            plain(GpuVendor::Other(vendor), name, GpuMemory::Unknown)
        }
        (None, _) => board(driver.as_deref()?)?,
    };
    gpu.driver = driver;
    gpu.node = node;
    gpu.link = match (file("current_link_speed"), file("current_link_width")) {
        (Some(speed), Some(width)) => Some(format!("{speed} x{width}")),
        _ => None,
    };
    let (temperature, power) = meters(root, &device);
    gpu.temperature_celsius = temperature;
    gpu.power_watts = power;
    Some(gpu)
}

fn amd(root: &Root, device: &str, id: Option<u32>) -> Gpu {
    let bytes = |name: &str| root.number(&format!("{device}/{name}")).map(Bytes);
    let (vram, gtt) = (bytes("mem_info_vram_total"), bytes("mem_info_gtt_total"));
    let shared = AMD_SHARED.iter().find(|(known, _)| Some(*known) == id);
    // No card of its own has had so little for long; graphics in a processor have no more set
    // aside, and map the machine's memory beside it.
    let is_carved = vram.is_some_and(|vram| vram <= CARVED_MAX && gtt > Some(vram));
    let memory = match (shared, vram) {
        (shared, _) if shared.is_some() || is_carved => GpuMemory::Shared {
            carved: vram,
            mapped: gtt,
        },
        (_, Some(total)) => GpuMemory::Own {
            total,
            used: bytes("mem_info_vram_used"),
        },
        (_, None) => GpuMemory::Unknown,
    };
    let product = root.line(&format!("{device}/product_name"));
    let name = product.unwrap_or_else(|| match (shared, id) {
        (Some((_, name)), _) => format!("AMD {name}"),
        (None, Some(id)) => format!("AMD 1002:{id:04x}"),
        (None, None) => "AMD".to_owned(),
    });
    Gpu {
        busy_percent: root.number(&format!("{device}/gpu_busy_percent")),
        ..plain(GpuVendor::Amd, name, memory)
    }
}

fn intel(root: &Root, card: &str, device: &str, id: Option<u32>) -> Gpu {
    let tiles = root.numbered(device, "tile").into_iter();
    let tiles = tiles.filter_map(|(_, tile)| {
        let text = root.line(&format!("{tile}/physical_vram_size_bytes"))?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    });
    let own = tiles.fold(None, |sum: Option<u64>, bytes| {
        Some(sum.unwrap_or(0).saturating_add(bytes))
    });
    let own = own.or_else(|| root.number(&format!("{card}/lmem_total_bytes")));
    let memory = match own.filter(|bytes| *bytes > 0) {
        Some(total) => GpuMemory::Own {
            total: Bytes(total),
            used: None,
        },
        None => SHARED_WHOLE,
    };
    let name = id.map_or("Intel".to_owned(), |id| format!("Intel 8086:{id:04x}"));
    plain(GpuVendor::Intel, name, memory)
}

/// A graphics processor of a board's chip, by its driver.
fn board(driver: &str) -> Option<Gpu> {
    let name = match driver {
        "panthor" | "panfrost" | "mali" | "lima" => "Mali",
        "v3d" | "vc4-drm" | "vc4" => "VideoCore",
        "msm" | "msm_dpu" => "Adreno",
        "etnaviv" => "Vivante",
        "powervr" | "pvrsrvkm" => "PowerVR",
        _ => return None,
    };
    // The display half of VideoCore is a card of its own.
    (!driver.starts_with("vc4")).then(|| plain(GpuVendor::Board, name.to_owned(), SHARED_WHOLE))
}

fn render_node(root: &Root, device: &str) -> Option<(String, Access)> {
    let (number, _) = root
        .numbered(&format!("{device}/drm"), "renderD")
        .into_iter()
        .next()?;
    let node = format!("/dev/dri/renderD{number}");
    let access = root.access(&node);
    Some((node, access))
}

/// Temperature and power from the sensors of a device.
fn meters(root: &Root, device: &str) -> (Option<f64>, Option<f64>) {
    let mut meters = (None, None);
    for (_, sensors) in root.numbered(&format!("{device}/hwmon"), "hwmon") {
        let value = |name: &str| root.number::<f64>(&format!("{sensors}/{name}"));
        meters.0 = meters.0.or(value("temp1_input").map(|milli| milli / 1e3));
        let power = value("power1_average").or_else(|| value("power1_input"));
        meters.1 = meters.1.or(power.map(|micro| micro / 1e6));
    }
    meters
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
