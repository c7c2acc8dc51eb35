//! Where a model's layers and bytes landed, read from what llama.cpp says while it loads.
//!
//! llama.cpp tells which device has a layer, and the size of each buffer by the name of its
//! kind, which is that of the device (`Vulkan0`) or begins so (`CPU_Mapped`). What belongs to
//! no other device is the processor's: buffers that a driver pins (`Vulkan_Host`) are the
//! host's memory.

use llama::Device;
use proto::{BufferFacts, DeviceFacts, DeviceKind, Holds};

const MIB: f64 = 1024.0 * 1024.0;

/// All devices, with what of the model is there by these lines of the log.
pub(crate) fn devices(log: &[String]) -> Vec<DeviceFacts> {
    landed(llama::devices().into_iter().map(facts).collect(), log)
}

/// The GPU with the most free memory, one with memory of its own before any other.
pub(crate) fn roomiest() -> Option<String> {
    let gpus = llama::devices().into_iter();
    let gpus = gpus.filter(|device| device.kind.is_gpu());
    let best = gpus.max_by_key(|gpu| (gpu.kind == llama::DeviceKind::Gpu, gpu.memory_free));
    best.map(|gpu| gpu.name)
}

/// Layers on GPUs, the output among them.
pub(crate) fn gpu_layers(devices: &[DeviceFacts]) -> u32 {
    let gpus = devices.iter().filter(|device| device.kind.is_gpu());
    gpus.map(|gpu| gpu.layers).sum()
}

/// Keys, values and states, wherever they are.
pub(crate) fn kv_bytes(devices: &[DeviceFacts]) -> u64 {
    devices.iter().map(|device| device.kv_bytes).sum()
}

fn facts(device: Device) -> DeviceFacts {
    DeviceFacts {
        kind: match device.kind {
            llama::DeviceKind::Cpu => DeviceKind::Cpu,
            llama::DeviceKind::Kernels => DeviceKind::Kernels,
            llama::DeviceKind::Gpu => DeviceKind::Gpu,
            llama::DeviceKind::IntegratedGpu => DeviceKind::IntegratedGpu,
            llama::DeviceKind::Other => DeviceKind::Other,
        },
        name: device.name,
        description: device.description,
        memory_free_bytes: device.memory_free,
        memory_total_bytes: device.memory_total,
        ..DeviceFacts::default()
    }
}

fn landed(mut devices: Vec<DeviceFacts>, log: &[String]) -> Vec<DeviceFacts> {
    for line in log {
        if let Some(name) = layer_in(line) {
            if let Some(device) = devices.iter_mut().find(|device| device.name == name) {
                device.layers += 1;
            }
        } else if let Some(buffer) = buffer_in(line)
            && let Some(device) = owner(&mut devices, &buffer.name)
        {
            take(device, buffer);
        }
    }
    for device in &mut devices {
        let of = |holds: Holds| {
            let buffers = device.buffers.iter();
            let those = buffers.filter(|buffer| buffer.holds == holds);
            those.map(|buffer| buffer.bytes).sum()
        };
        device.weights_bytes = of(Holds::Weights);
        device.kv_bytes = of(Holds::Kv);
        device.compute_bytes = of(Holds::Compute);
    }
    devices
}

/// A buffer of the computation is told of each time that it is reserved anew; of the others
/// there may be several.
fn take(device: &mut DeviceFacts, buffer: BufferFacts) {
    let is_again = |one: &&mut BufferFacts| {
        buffer.holds == Holds::Compute && one.holds == Holds::Compute && one.name == buffer.name
    };
    match device.buffers.iter_mut().find(is_again) {
        Some(before) => *before = buffer,
        None => device.buffers.push(buffer),
    }
}

/// `load_tensors: layer   3 assigned to device Vulkan0, is_swa = 0`
fn layer_in(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once(" assigned to device ")?;
    let is_layer = before.contains("load_tensors: layer");
    let name = rest.split(',').next()?.trim();
    is_layer.then_some(name)
}

/// `llama_kv_cache:    Vulkan0 KV buffer size =   180.00 MiB`
fn buffer_in(line: &str) -> Option<BufferFacts> {
    let (before, size) = line.split_once(" buffer size =")?;
    let mib: f64 = size.trim().split(' ').next()?.parse().ok()?;
    let (_, named) = before.split_once(": ")?;
    let (name, what) = named.trim().rsplit_once(' ')?;
    let holds = match what {
        "model" => Holds::Weights,
        "KV" | "RS" | "state" => Holds::Kv,
        "compute" => Holds::Compute,
        "output" => Holds::Output,
        _ => return None,
    };
    let name = name.split_whitespace().next()?;
    Some(BufferFacts {
        name: name.to_owned(),
        holds,
        bytes: (mib * MIB) as u64,
    })
}

/// The device of that name, or whose name comes before what kind of memory it is, else the
/// processor.
fn owner<'a>(devices: &'a mut [DeviceFacts], buffer: &str) -> Option<&'a mut DeviceFacts> {
    let device = buffer.split_once('_').map_or(buffer, |(device, _)| device);
    let exact = devices.iter().position(|one| one.name == device);
    let is_cpu = |device: &DeviceFacts| device.kind == DeviceKind::Cpu;
    let place = exact.or_else(|| devices.iter().position(is_cpu))?;
    devices.get_mut(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kind: DeviceKind) -> DeviceFacts {
        DeviceFacts {
            name: name.into(),
            kind,
            ..DeviceFacts::default()
        }
    }

    #[test]
    fn each_layer_and_buffer_is_its_devices() {
        let lines = [
            "load_tensors: layer   0 assigned to device Sextant, is_swa = 0",
            "load_tensors: layer   1 assigned to device Vulkan0, is_swa = 0",
            "load_tensors: layer   2 assigned to device Vulkan0, is_swa = 0",
            "load_tensors: offloaded 2/3 layers to GPU",
            "load_tensors:   CPU_Mapped model buffer size =    28.69 MiB",
            "load_tensors:      Vulkan0 model buffer size =    60.00 MiB",
            "load_tensors: Sextant_Packed model buffer size =    30.50 MiB",
            "llama_context: Vulkan_Host  output buffer size =     0.19 MiB",
            "llama_kv_cache:    Vulkan0 KV buffer size =   120.00 MiB",
            "llama_memory_recurrent:    Sextant RS buffer size =     1.50 MiB",
            "sched_reserve:    Vulkan0 compute buffer size =    40.00 MiB",
            "sched_reserve:    Vulkan0 compute buffer size =   103.00 MiB",
            "sched_reserve: Vulkan_Host compute buffer size =     9.00 MiB",
            "sched_reserve: Vulkan0 compute buffer size is 103.0000 MiB, matches expectation",
        ];
        let lines = lines.map(str::to_owned);
        let bare = vec![
            device("Vulkan0", DeviceKind::Gpu),
            device("Sextant", DeviceKind::Kernels),
            device("CPU", DeviceKind::Cpu),
        ];
        let mib = |n: u64| n << 20;
        let devices = landed(bare, &lines);
        let [gpu, own, cpu] = devices.as_slice() else {
            panic!("{devices:?}")
        };
        assert_eq!((gpu.layers, own.layers, cpu.layers), (2, 1, 0));
        assert_eq!(gpu_layers(&devices), 2);
        assert_eq!(gpu.weights_bytes, mib(60));
        assert_eq!((gpu.kv_bytes, gpu.compute_bytes), (mib(120), mib(103)));
        assert_eq!(gpu.held_bytes(), mib(283));
        assert_eq!((own.weights_bytes, own.kv_bytes), (mib(61) / 2, mib(3) / 2));
        assert_eq!(cpu.compute_bytes, mib(9));
        assert_eq!(cpu.buffers.len(), 3, "{cpu:?}");
        assert_eq!(kv_bytes(&devices), mib(120) + mib(3) / 2);
    }
}
