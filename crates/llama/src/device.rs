//! What ggml can compute on, and which layers of a model go where.

use std::ptr;

use llama_cpp_sys_2 as sys;

use crate::model::{LoadError, Offload};
use crate::{ffi, plugin};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor, with ggml's kernels.
    Cpu,
    /// The processor, with ours.
    Kernels,
    /// A GPU that ggml takes for one with memory of its own.
    Gpu,
    /// A GPU that computes in the host's memory.
    IntegratedGpu,
    /// What helps the processor, such as a library for matrices.
    Other,
}

impl DeviceKind {
    #[must_use]
    pub const fn is_gpu(self) -> bool {
        matches!(self, Self::Gpu | Self::IntegratedGpu)
    }
}

/// A device as ggml tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// For example `Vulkan0`; its buffers have the same name.
    pub name: String,
    pub description: String,
    pub kind: DeviceKind,
    /// Bytes that are free now, and all.
    pub memory_free: u64,
    pub memory_total: u64,
}

/// All devices of this process. The first call may start a GPU's driver, which takes memory
/// and may end the process.
#[must_use]
pub fn devices() -> Vec<Device> {
    raw_devices().map(describe).collect()
}

fn raw_devices() -> impl Iterator<Item = sys::ggml_backend_dev_t> {
    // SAFETY: plain functions of the devices that are registered; they are never removed.
    let count = unsafe { sys::ggml_backend_dev_count() };
    (0..count).map(|index| {
        // SAFETY: the index is below the count.
        unsafe { sys::ggml_backend_dev_get(index) }
    })
}

fn describe(device: sys::ggml_backend_dev_t) -> Device {
    let (mut free, mut total) = (0_usize, 0_usize);
    // SAFETY: the device is registered, and both places can be written to.
    let (name, description) = unsafe {
        sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total);
        (
            sys::ggml_backend_dev_name(device),
            sys::ggml_backend_dev_description(device),
        )
    };
    Device {
        name: ffi::string(name),
        description: ffi::string(description),
        kind: kind(device),
        memory_free: free as u64,
        memory_total: total as u64,
    }
}

fn kind(device: sys::ggml_backend_dev_t) -> DeviceKind {
    if device.cast::<std::ffi::c_void>() == ggml_plugin::device_address() {
        return DeviceKind::Kernels;
    }
    // SAFETY: the device is registered.
    match unsafe { sys::ggml_backend_dev_type(device) } {
        sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
        sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
        sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
        _ => DeviceKind::Other,
    }
}

/// Which devices get layers, for `llama_model_params`.
pub(crate) struct Split {
    /// Ends with a null pointer. Never left to llama.cpp, which would take every GPU, and
    /// leave our kernels out where there is one.
    pub(crate) devices: Vec<sys::ggml_backend_dev_t>,
    /// The part of the layers that each gets, from the first layer; as long as llama.cpp reads.
    pub(crate) shares: Vec<f32>,
    pub(crate) layers: i32,
}

/// llama.cpp gives layers to devices in their order: our kernels get the first ones, and the
/// GPU the last and the output.
pub(crate) fn split(offload: Option<&Offload>) -> Result<Split, LoadError> {
    let own = plugin::is_registered().then(|| ggml_plugin::device_address().cast());
    let gpu = match offload.filter(|offload| offload.layers > 0) {
        Some(offload) => Some((find(&offload.device)?, offload)),
        None => None,
    };
    // SAFETY: it gives a constant.
    let places = unsafe { sys::llama_max_devices() };
    let mut split = Split {
        devices: Vec::new(),
        shares: vec![0.0; places],
        layers: i32::MAX,
    };
    match (own, gpu) {
        (own, None) => split.devices.extend(own),
        (Some(own), Some((gpu, offload))) if offload.layers < offload.of => {
            split.devices.extend([own, gpu]);
            let shares = [offload.of - offload.layers, offload.layers];
            for (place, share) in split.shares.iter_mut().zip(shares) {
                *place = share as f32;
            }
        }
        (_, Some((gpu, offload))) => {
            split.devices.push(gpu);
            split.layers = i32::try_from(offload.layers).unwrap_or(i32::MAX);
        }
    }
    split.devices.push(ptr::null_mut());
    Ok(split)
}

fn find(name: &str) -> Result<sys::ggml_backend_dev_t, LoadError> {
    let mut gpus = raw_devices().filter(|device| kind(*device).is_gpu());
    let found = gpus.find(|device| {
        // SAFETY: the device is registered.
        ffi::string(unsafe { sys::ggml_backend_dev_name(*device) }) == name
    });
    found.ok_or_else(|| LoadError::NoDevice(name.to_owned()))
}
