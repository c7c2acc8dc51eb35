//! NVIDIA's management library, behind a trait that a recording can play.

use std::ffi::OsStr;
use std::sync::OnceLock;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use stdx::Bytes;

use crate::Root;
use crate::gpu::GpuMemory;

/// The library under the name that its run time packages install; without the number it
/// comes only with packages for development.
pub(crate) const LIBRARY: &str = "libnvidia-ml.so.1";
/// Where a recording has what the library said: `/nvml/0/name`.
const RECORDED: &str = "/nvml";
const DEVICES_MAX: u32 = 64;

#[derive(Debug, Clone, PartialEq)]
pub struct NvidiaDevice {
    pub name: String,
    pub memory: GpuMemory,
    pub driver: Option<String>,
    pub temperature_celsius: Option<f64>,
    pub power_watts: Option<f64>,
    pub busy_percent: Option<u32>,
    pub link: Option<String>,
    /// Why nothing else is known of it.
    pub trouble: Option<String>,
}

/// Why the library says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NvmlTrouble {
    #[error("NVIDIA's library {LIBRARY} cannot be opened: {0}")]
    NoLibrary(String),
    #[error("NVIDIA's library gives no answer: {0}")]
    NoAnswer(String),
}

/// Something that lists NVIDIA's devices.
pub trait Nvml {
    /// Every device.
    ///
    /// # Errors
    /// When the library is not there or does not answer.
    fn devices(&self) -> Result<Vec<NvidiaDevice>, NvmlTrouble>;
}

/// The library of this machine, opened at the call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Library;

impl Nvml for Library {
    fn devices(&self) -> Result<Vec<NvidiaDevice>, NvmlTrouble> {
        listed_by(&opened()?)
    }
}

/// The library of this machine, opened at the first call and kept open: opening it may take a
/// second, asking it takes a millisecond.
#[derive(Debug, Default)]
pub struct Kept(OnceLock<Result<nvml_wrapper::Nvml, NvmlTrouble>>);

impl Nvml for Kept {
    fn devices(&self) -> Result<Vec<NvidiaDevice>, NvmlTrouble> {
        match self.0.get_or_init(opened) {
            Ok(library) => listed_by(library),
            Err(trouble) => Err(trouble.clone()),
        }
    }
}

fn opened() -> Result<nvml_wrapper::Nvml, NvmlTrouble> {
    let library = nvml_wrapper::Nvml::builder()
        .lib_path(OsStr::new(LIBRARY))
        .init();
    library.map_err(|error| match error {
        NvmlError::LibloadingError(error) => NvmlTrouble::NoLibrary(error.to_string()),
        other => NvmlTrouble::NoAnswer(other.to_string()),
    })
}

fn listed_by(library: &nvml_wrapper::Nvml) -> Result<Vec<NvidiaDevice>, NvmlTrouble> {
    let no_answer = |error: NvmlError| NvmlTrouble::NoAnswer(error.to_string());
    let count = library.device_count().map_err(no_answer)?;
    let driver = library.sys_driver_version().ok();
    let devices = (0..count.min(DEVICES_MAX)).map(|index| {
        let device = library.device_by_index(index).map_err(no_answer)?;
        Ok(of_device(&device, driver.clone()))
    });
    Ok(listed(devices))
}

/// Every device, those that do not answer with their trouble.
fn listed(devices: impl Iterator<Item = Result<NvidiaDevice, NvmlTrouble>>) -> Vec<NvidiaDevice> {
    let devices = devices.enumerate().map(|(index, device)| {
        device.unwrap_or_else(|trouble| NvidiaDevice {
            name: format!("NVIDIA device {index}"),
            memory: GpuMemory::Unknown,
            driver: None,
            temperature_celsius: None,
            power_watts: None,
            busy_percent: None,
            link: None,
            trouble: Some(trouble.to_string()),
        })
    });
    devices.collect()
}

fn of_device(device: &nvml_wrapper::Device<'_>, driver: Option<String>) -> NvidiaDevice {
    let memory = match device.memory_info() {
        Ok(info) if info.total > 0 => GpuMemory::Own {
            total: Bytes(info.total),
            // Not `used`, which some drivers give without what they reserve for themselves.
            used: Some(Bytes(info.total.saturating_sub(info.free))),
        },
        // A chip that shares the machine's memory has none of its own to tell of.
        Ok(_) | Err(NvmlError::NotSupported) => GpuMemory::Shared {
            carved: None,
            mapped: None,
        },
        Err(_) => GpuMemory::Unknown,
    };
    let link = device
        .current_pcie_link_gen()
        .ok()
        .zip(device.current_pcie_link_width().ok());
    NvidiaDevice {
        name: device.name().unwrap_or_else(|_| "NVIDIA device".to_owned()),
        memory,
        driver,
        temperature_celsius: device
            .temperature(TemperatureSensor::Gpu)
            .ok()
            .map(f64::from),
        power_watts: device
            .power_usage()
            .ok()
            .map(|milli| f64::from(milli) / 1e3),
        busy_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        link: link.map(|(generation, width)| format!("PCIe {generation}.0 x{width}")),
        trouble: None,
    }
}

/// What the library said when a tree was recorded; a tree without that has no library.
#[derive(Debug)]
pub struct RecordedNvml<'a>(pub &'a Root);

impl Nvml for RecordedNvml<'_> {
    fn devices(&self) -> Result<Vec<NvidiaDevice>, NvmlTrouble> {
        let root = self.0;
        let devices = root.numbered(RECORDED, "");
        if devices.is_empty() {
            return Err(NvmlTrouble::NoLibrary("the recording has none".to_owned()));
        }
        let devices = devices.into_iter().map(|(_, folder)| {
            let file = |name: &str| root.line(&format!("{folder}/{name}"));
            let number = |name: &str| file(name).and_then(|text| text.parse::<f64>().ok());
            let bytes = |name: &str| file(name).and_then(|text| text.parse().ok().map(Bytes));
            NvidiaDevice {
                name: file("name").unwrap_or_else(|| "NVIDIA device".to_owned()),
                memory: match bytes("memory_total") {
                    Some(total) => GpuMemory::Own {
                        total,
                        used: bytes("memory_used"),
                    },
                    None => GpuMemory::Shared {
                        carved: None,
                        mapped: None,
                    },
                },
                driver: file("driver"),
                temperature_celsius: number("temperature"),
                power_watts: number("power_watts"),
                busy_percent: file("busy_percent").and_then(|text| text.parse().ok()),
                link: file("link"),
                trouble: None,
            }
        });
        Ok(devices.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card that fell off the bus must not hide the others.
    #[test]
    fn a_device_that_does_not_answer_is_listed_with_its_trouble() {
        let answer = NvidiaDevice {
            name: "RTX 3060".to_owned(),
            memory: GpuMemory::Unknown,
            driver: None,
            temperature_celsius: None,
            power_watts: None,
            busy_percent: None,
            link: None,
            trouble: None,
        };
        let lost = NvmlTrouble::NoAnswer("the GPU is lost".to_owned());
        let devices = listed([Err(lost), Ok(answer.clone())].into_iter());
        assert_eq!(devices[0].name, "NVIDIA device 0");
        let trouble = devices[0].trouble.as_deref().unwrap_or_default();
        assert!(trouble.contains("the GPU is lost"), "{trouble}");
        assert_eq!(devices[1], answer);
    }
}
