//! Machines whose figures are published, for plans of a machine that is not at hand.

use crate::roofline::{Class, Machine, Source};

/// Who made the GPU, since engines differ in whose they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// There is no GPU that counts.
    None,
    Nvidia,
    Amd,
    Apple,
    Other,
}

/// A known machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Device {
    pub name: &'static str,
    pub describes: &'static str,
    pub machine: Machine,
    pub vendor: Vendor,
    /// Memory of its own, for a GPU that has some.
    pub gpu_bytes: Option<u64>,
    /// Where the figures come from.
    pub source: &'static str,
}

const GB: f64 = 1e9;
const TOPS: f64 = 1e12;

const fn device(
    name: &'static str,
    describes: &'static str,
    class: Class,
    (bandwidth, int8_ops): (f64, Option<f64>),
    source: &'static str,
) -> Device {
    Device {
        name,
        describes,
        machine: Machine {
            class,
            source: Source::Peak,
            bandwidth_bytes_s: bandwidth * GB,
            int8_ops_s: int8_ops,
        },
        vendor: Vendor::None,
        gpu_bytes: None,
        source,
    }
}

/// A machine whose GPU shares its memory.
const fn unified(
    name: &'static str,
    describes: &'static str,
    vendor: Vendor,
    figures: (f64, Option<f64>),
    source: &'static str,
) -> Device {
    let of_figures = device(name, describes, Class::UnifiedGpu, figures, source);
    Device {
        vendor,
        ..of_figures
    }
}

/// A graphics card with so many GiB.
const fn card(name: &'static str, describes: &'static str, bandwidth: f64, gib: u64) -> Device {
    let of_bandwidth = device(name, describes, Class::Gpu, (bandwidth, None), VENDOR);
    Device {
        vendor: Vendor::Nvidia,
        gpu_bytes: Some(gib << 30),
        ..of_bandwidth
    }
}

/// SDOT does 16 products of bytes, 32 operations; an A76 issues two a cycle.
const A76_OPS_A_CYCLE: f64 = 64.0;
const RK3588_OPS: f64 = 4.0 * 2.3e9 * A76_OPS_A_CYCLE;
const PI5_OPS: f64 = 4.0 * 2.4e9 * A76_OPS_A_CYCLE;

const ARITHMETIC: &str = "peak by arithmetic: width of the bus times transfers a second";
const VENDOR: &str = "the vendor's data sheet";

/// The table. Bandwidths are theoretical peaks.
pub const DEVICES: &[Device] = &[
    device(
        "rk3588-lpddr4x",
        "RK3588 with LPDDR4X-4224 (ROCK 5B, Orange Pi 5)",
        Class::Board,
        (33.8, Some(RK3588_OPS)),
        ARITHMETIC,
    ),
    device(
        "rk3588-lpddr5",
        "RK3588 with LPDDR5-4800 (ROCK 5B+)",
        Class::Board,
        (38.4, Some(RK3588_OPS)),
        ARITHMETIC,
    ),
    device(
        "pi5",
        "Raspberry Pi 5, LPDDR4X-4267",
        Class::Board,
        (17.1, Some(PI5_OPS)),
        ARITHMETIC,
    ),
    unified(
        "orin-nano",
        "Jetson Orin Nano 8 GB",
        Vendor::Nvidia,
        (68.0, Some(40.0 * TOPS)),
        VENDOR,
    ),
    unified(
        "orin-nano-super",
        "Jetson Orin Nano Super",
        Vendor::Nvidia,
        (102.0, Some(67.0 * TOPS)),
        VENDOR,
    ),
    device(
        "ddr4-3200",
        "desktop, two channels of DDR4-3200",
        Class::Cpu,
        (51.2, None),
        ARITHMETIC,
    ),
    device(
        "ddr5-5600",
        "desktop, two channels of DDR5-5600",
        Class::Cpu,
        (89.6, None),
        ARITHMETIC,
    ),
    device(
        "ddr5-6400",
        "desktop, two channels of DDR5-6400",
        Class::Cpu,
        (102.4, None),
        ARITHMETIC,
    ),
    unified("m1", "Apple M1", Vendor::Apple, (68.25, None), VENDOR),
    unified(
        "m1-max",
        "Apple M1 Max",
        Vendor::Apple,
        (400.0, None),
        VENDOR,
    ),
    unified("m4", "Apple M4", Vendor::Apple, (120.0, None), VENDOR),
    unified(
        "m4-pro",
        "Apple M4 Pro",
        Vendor::Apple,
        (273.0, None),
        VENDOR,
    ),
    unified(
        "strix-halo",
        "Ryzen AI Max+ 395, LPDDR5X-8000",
        Vendor::Amd,
        (256.0, None),
        ARITHMETIC,
    ),
    unified(
        "dgx-spark",
        "DGX Spark (GB10)",
        Vendor::Nvidia,
        (273.0, None),
        VENDOR,
    ),
    card("rtx3060", "GeForce RTX 3060 12 GB", 360.0, 12),
    card("rtx4090", "GeForce RTX 4090", 1008.0, 24),
    card("rtx5090", "GeForce RTX 5090", 1792.0, 32),
    card("h100", "H100 SXM", 3350.0, 80),
];

/// A machine with that name.
#[must_use]
pub fn device_named(name: &str) -> Option<&'static Device> {
    DEVICES.iter().find(|device| device.name == name)
}

/// When nothing is known of the machine: two channels of slow DDR4 that nobody measured.
#[must_use]
pub const fn unmeasured() -> Machine {
    Machine {
        class: Class::Cpu,
        source: Source::Peak,
        bandwidth_bytes_s: 25.6 * GB,
        int8_ops_s: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_figures_are_sane() {
        for device in DEVICES {
            let named = device_named(device.name).map(|found| found.describes);
            assert_eq!(named, Some(device.describes));
            assert!((1e9..1e13).contains(&device.machine.bandwidth_bytes_s));
            assert_eq!(
                device.machine.class == Class::Gpu,
                device.gpu_bytes.is_some()
            );
            let has_gpu = matches!(device.machine.class, Class::Gpu | Class::UnifiedGpu);
            assert_eq!(device.vendor == Vendor::None, !has_gpu, "{}", device.name);
        }
    }
}
