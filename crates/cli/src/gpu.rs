//! The GPU that models share, as the engine sees it.
//!
//! The engine is asked in a process of its own, once: a driver that starts takes memory for as
//! long as its process lives, and one that crashes must not take the endpoint along.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use config::Config;
use proto::{DeviceFacts, DeviceKind};
use stdx::Bytes;

/// A driver that has not answered by then will not.
const ASK_TIME_MAX: Duration = Duration::from_secs(30);
const ASK_STEP: Duration = Duration::from_millis(10);
/// What models leave free of a GPU: this part of all, within these bounds. The engine takes
/// scratch memory there that it tells nobody of, and a desktop draws on the same card.
const RESERVE_SHARE: u64 = 16;
const RESERVE_BYTES_MIN: u64 = 256 << 20;
const RESERVE_BYTES_MAX: u64 = 1 << 30;
/// How Mesa's and Google's drivers that compute on the processor call themselves.
const SOFTWARE: [&str; 2] = ["llvmpipe", "SwiftShader"];

/// Where the memory is that a GPU computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// On the card.
    Own,
    /// The host's.
    Unified,
    /// The host's, and what is taken there shows as memory of the worker: there is no GPU at
    /// all, a driver computes on the processor.
    Process,
}

/// What models may take of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// By the engine's name for it.
    pub(crate) device: String,
    pub(crate) description: String,
    pub(crate) bytes: u64,
    pub(crate) memory: Memory,
}

/// What models may take of this machine's GPU; `None` where this program has no back end for
/// one, or finds none.
pub(crate) fn share(config: &Config) -> Option<Share> {
    share_up_to(config.gpu_memory_max)
}

/// So many bytes where somebody has set it, else what is free less the reserve.
pub(crate) fn share_up_to(max: Option<Bytes>) -> Option<Share> {
    let gpu = here()?;
    let reserve = reserve(gpu.memory_total_bytes);
    let left = gpu.memory_free_bytes.saturating_sub(reserve);
    let bytes = max.map_or(left, |max| max.0);
    Some(Share {
        device: gpu.name.clone(),
        description: gpu.description.clone(),
        bytes,
        memory: memory(gpu),
    })
}

/// What models leave free of a GPU with so much memory.
const fn reserve(total: u64) -> u64 {
    let share = total / RESERVE_SHARE;
    if share < RESERVE_BYTES_MIN {
        RESERVE_BYTES_MIN
    } else if share > RESERVE_BYTES_MAX {
        RESERVE_BYTES_MAX
    } else {
        share
    }
}

/// The GPU that models are given, as it was when it was first asked for.
pub(crate) fn here() -> Option<&'static DeviceFacts> {
    static HERE: LazyLock<Option<DeviceFacts>> = LazyLock::new(|| {
        if !worker::HAS_GPU_BACK_END {
            return None;
        }
        let devices = ask().unwrap_or_else(|error| {
            tracing::warn!("no GPU is used, because asking for one failed: {error:#}");
            Vec::new()
        });
        let chosen = choose(devices);
        match &chosen {
            Some(gpu) => tracing::info!(
                device = gpu.name,
                description = gpu.description,
                free = %Bytes(gpu.memory_free_bytes),
                total = %Bytes(gpu.memory_total_bytes),
                "a GPU"
            ),
            None => tracing::info!("no GPU that llama.cpp can use"),
        }
        chosen
    });
    HERE.as_ref()
}

/// One with memory of its own before any other, then the one with the most free. A model is
/// never spread over several.
fn choose(devices: Vec<DeviceFacts>) -> Option<DeviceFacts> {
    let gpus = devices.into_iter().filter(|device| device.kind.is_gpu());
    gpus.max_by_key(|gpu| (memory(gpu) == Memory::Own, gpu.memory_free_bytes))
}

fn memory(gpu: &DeviceFacts) -> Memory {
    if SOFTWARE.iter().any(|name| gpu.description.contains(name)) {
        return Memory::Process;
    }
    match gpu.kind {
        DeviceKind::IntegratedGpu => Memory::Unified,
        _ => Memory::Own,
    }
}

/// Has a worker say what it can compute on.
fn ask() -> anyhow::Result<Vec<DeviceFacts>> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program)
        .args(["worker", "--devices"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("a worker could not be started")?;
    let status = wait(&mut child)?;
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    if !status.success() {
        bail!("the worker that was asked ended with {status}; its driver may be broken");
    }
    Ok(serde_json::from_str(&text)?)
}

/// What it says is a few lines, which the pipe holds.
fn wait(child: &mut Child) -> anyhow::Result<std::process::ExitStatus> {
    let since = Instant::now();
    while since.elapsed() < ASK_TIME_MAX {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(ASK_STEP);
    }
    // It may be gone by now.
    let _ = child.kill();
    let _ = child.wait();
    Err(anyhow!(
        "the driver has not answered within {} s",
        ASK_TIME_MAX.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: DeviceKind, description: &str, free_gib: u64) -> DeviceFacts {
        DeviceFacts {
            name: description.to_lowercase(),
            description: description.to_owned(),
            kind,
            memory_free_bytes: free_gib << 30,
            memory_total_bytes: free_gib << 30,
            ..DeviceFacts::default()
        }
    }

    #[test]
    fn a_card_comes_before_what_shares_the_hosts_memory() {
        let cpu = device(DeviceKind::Cpu, "CPU", 64);
        let built_in = device(DeviceKind::IntegratedGpu, "Built in", 32);
        let small = device(DeviceKind::Gpu, "Small card", 6);
        let large = device(DeviceKind::Gpu, "Large card", 12);
        let software = device(DeviceKind::Gpu, "llvmpipe (LLVM 15.0.6, 256 bits)", 48);
        assert_eq!(memory(&built_in), Memory::Unified);
        assert_eq!(memory(&software), Memory::Process);
        assert_eq!(choose(vec![cpu.clone()]), None);
        let all = vec![cpu, built_in.clone(), small, large.clone(), software];
        assert_eq!(choose(all), Some(large));
        assert_eq!(choose(vec![built_in.clone()]), Some(built_in));
    }

    #[test]
    fn the_reserve_follows_the_card_within_bounds() {
        const GIB: u64 = 1 << 30;
        let cases = [(2, GIB / 4), (8, GIB / 2), (12, 3 * GIB / 4), (80, GIB)];
        for (total, expected) in cases {
            assert_eq!(reserve(total * GIB), expected, "{total}");
        }
    }
}
