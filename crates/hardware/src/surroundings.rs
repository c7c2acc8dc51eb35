//! What kind of box this is: the board, the chassis, a virtual machine, a container.
//!
//! From `/proc/device-tree` on boards, `/sys/class/dmi/id` elsewhere, and the traces that
//! hypervisors and container engines leave.

use crate::cpu::Family;
use crate::mounts::mounts;
use crate::{Processor, Root};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The maker's name of the board or machine.
    pub model: Option<String>,
    /// What a device tree calls the board and its chip: `rockchip,rk3588`.
    pub compatible: Vec<String>,
    pub chassis: Chassis,
    pub has_battery: bool,
    /// Whose virtual machine this is; `unknown` where only the processor says that it is one.
    pub hypervisor: Option<String>,
    pub container: Option<Container>,
    pub kernel: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chassis {
    Laptop,
    Desktop,
    Server,
    #[default]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    Docker,
    Podman,
    Kubernetes,
    /// What systemd calls it: `lxc`, `systemd-nspawn`.
    Other(String),
}

impl Container {
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Kubernetes => "kubernetes",
            Self::Other(name) => name,
        }
    }
}

impl Surroundings {
    #[must_use]
    pub fn read(root: &Root, processor: &Processor) -> Self {
        let tree = root.text("/proc/device-tree/compatible");
        let compatible = tree.unwrap_or_default();
        let compatible = compatible
            .split(['\0', '\n'])
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let dmi = |name: &str| root.line(&format!("/sys/class/dmi/id/{name}"));
        let product = match (dmi("sys_vendor"), dmi("product_name")) {
            (Some(vendor), Some(product)) => Some(format!("{vendor} {product}")),
            (vendor, product) => vendor.or(product),
        };
        Self {
            model: root.line("/proc/device-tree/model").or(product),
            compatible,
            chassis: chassis(root),
            has_battery: has_battery(root),
            hypervisor: hypervisor(root, processor),
            container: container(root),
            kernel: root.line("/proc/sys/kernel/osrelease"),
        }
    }

    /// Whether a device tree names this chip, its variants included.
    #[must_use]
    pub fn is_chip(&self, name: &str) -> bool {
        let mut compatible = self.compatible.iter();
        compatible.any(|one| one.starts_with(name))
    }
}

/// The types of SMBIOS 3, table 17.
fn chassis(root: &Root) -> Chassis {
    match root.number::<u32>("/sys/class/dmi/id/chassis_type") {
        Some(8..=10 | 14 | 30..=32) => Chassis::Laptop,
        Some(3..=7 | 13 | 15 | 16 | 24 | 35 | 36) => Chassis::Desktop,
        Some(17 | 23 | 25 | 28 | 29) => Chassis::Server,
        _ => Chassis::Unknown,
    }
}

/// One that feeds the machine and not its mouse.
fn has_battery(root: &Root) -> bool {
    let folder = "/sys/class/power_supply";
    root.names(folder).into_iter().any(|name| {
        let file = |file: &str| root.line(&format!("{folder}/{name}/{file}"));
        file("type").as_deref() == Some("Battery") && file("scope").as_deref() != Some("Device")
    })
}

fn hypervisor(root: &Root, processor: &Processor) -> Option<String> {
    if let Some(kind) = root.line("/sys/hypervisor/type") {
        return Some(kind);
    }
    let release = root.line("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.to_lowercase().contains("microsoft") {
        return Some("wsl".to_owned());
    }
    let vendor = root.line("/sys/class/dmi/id/sys_vendor");
    let known = vendor.filter(|vendor| {
        let names = [
            "QEMU",
            "KVM",
            "VMware",
            "innotek",
            "Xen",
            "Amazon EC2",
            "Google",
            "Parallels",
        ];
        names.iter().any(|name| vendor.contains(name))
    });
    // The cloud's own metal carries its name as well: x86 has a flag for guests, on Arm only
    // the name of the product tells (`c7g.metal`, and boards of Google's make).
    let product = root.line("/sys/class/dmi/id/product_name");
    let product = product.unwrap_or_default();
    let is_guest = |vendor: &str| match processor.family {
        Family::Arm if vendor.contains("Amazon EC2") => !product.contains("metal"),
        Family::Arm if vendor.contains("Google") => product.contains("Compute Engine"),
        Family::Arm => true,
        Family::X86 | Family::Unknown => processor.is_virtual || vendor == "QEMU",
    };
    match known {
        Some(vendor) if is_guest(&vendor) => Some(vendor),
        _ => processor.is_virtual.then(|| "unknown".to_owned()),
    }
}

fn container(root: &Root) -> Option<Container> {
    if let Some(name) = root.line("/run/systemd/container") {
        return Some(match name.as_str() {
            "docker" => Container::Docker,
            "podman" => Container::Podman,
            _ => Container::Other(name),
        });
    }
    // A virtual machine may be made from a container's image, and carry its traces: then its
    // root is a whole device.
    let mounts = mounts(root);
    let whole = mounts
        .iter()
        .any(|mount| mount.point == "/" && mount.root == "/" && mount.source.starts_with("/dev/"));
    if whole {
        return None;
    }
    let groups = root.text("/proc/self/cgroup").unwrap_or_default();
    if root.exists("/run/secrets/kubernetes.io") || groups.contains("kubepods") {
        return Some(Container::Kubernetes);
    }
    if root.exists("/run/.containerenv") {
        return Some(Container::Podman);
    }
    if root.exists("/.dockerenv") || groups.contains("docker") {
        return Some(Container::Docker);
    }
    groups
        .contains("/lxc")
        .then(|| Container::Other("lxc".to_owned()))
}
