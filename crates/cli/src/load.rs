//! From configuration and model to what a worker is told, and loading it.

use std::sync::Arc;

use config::{CacheType, Config, FlashAttention, Kernels, SpeculationMode};
use hardware::Root;
use hardware::pressure::Pools;
use models::Found;
use proto::{LoadSpec, ModelFacts, PrefixSettings};
use supervisor::pressure::PoolReading;
use supervisor::{Estimate, Fleet, FleetConfig, LoadOrder, PressureSource, ProcessLauncher};

use crate::models_here::{self, absolute, served_name};
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::say;
use crate::progress::follow_load;
use crate::{doctor, shelf, tune};

pub(crate) fn spec(config: &Config, found: &Found) -> Outcome<LoadSpec> {
    let spec = LoadSpec {
        name: served_name(found),
        path: absolute(&found.path),
        ..settings(config)?
    };
    Ok(tune::apply(spec, config))
}

/// The settings alone, for a model that somebody else knows by its name.
pub(crate) fn settings(config: &Config) -> Outcome<LoadSpec> {
    Ok(LoadSpec {
        context: config.context,
        slots: config.slots,
        queue_max: config.queue_max,
        batch: config.batch,
        ubatch: config.ubatch,
        threads: config.threads,
        threads_batch: config.threads_batch,
        cpus: config.cpus.clone(),
        cpus_batch: config.cpus_batch.clone(),
        kv_type_k: config.kv_type_k.map(cache_type),
        kv_type_v: config.kv_type_v.map(cache_type),
        kv_plan: config.kv_plan.clone(),
        flash_attention: config.flash_attention.map(flash_attention),
        sequences: config.sequences,
        kernels: config.kernels.map(kernels),
        gpu_layers: config.gpu_layers,
        mmap: config.mmap,
        mlock: config.mlock,
        huge_pages: config.huge_pages,
        swa_full: config.swa_full,
        chat_template: config.read_chat_template().code(Code::Usage)?,
        attention_sinks: config.attention_sinks,
        reasoning_budget: config.reasoning_budget,
        speculation: match config.speculation.mode {
            None | Some(SpeculationMode::Off) => None,
            Some(SpeculationMode::Ngram) => Some(proto::Speculation {
                draft_tokens_max: config.speculation.draft_tokens_max,
                ngram: config.speculation.ngram,
            }),
        },
        prefixes: prefixes(config).map(Box::new),
        ..LoadSpec::default()
    })
}

/// Where states of prompts are kept, if anywhere.
fn prefixes(config: &Config) -> Option<PrefixSettings> {
    let cache = &config.prompt_cache;
    let default = || {
        Some(
            models_here::environment(config)
                .cache_dir()?
                .join("sextant/prompts"),
        )
    };
    let folder = cache.dir.clone().or_else(default);
    let (disk, ram) = (cache.disk_max.0, cache.ram_max.0);
    let folder = folder.filter(|_| disk > 0);
    (folder.is_some() || ram > 0).then_some(PrefixSettings {
        folder,
        ram_bytes: ram,
        disk_bytes: disk,
        day_bytes: cache.writes_max.0,
        codec: cache.codec.clone(),
    })
}

/// A fleet whose workers are processes of this very program.
pub(crate) fn fleet(config: &Config) -> Outcome<Fleet> {
    let program = std::env::current_exe()?;
    let budget = shelf::Budget::of(config);
    let fleet_config = FleetConfig {
        hello_timeout: config.hello_timeout,
        drain_timeout: config.drain_timeout,
        restarts_max: config.restarts_max,
        restart_window: config.restart_window,
        memory_max: budget.host,
        device_memory_max: budget.gpu.as_ref().map(|gpu| gpu.bytes),
        swap_wait_max: config.swap_wait_max,
        keep_alive: config.model_keep_alive,
        estimate: Some(Estimate(Arc::new(move |spec| {
            shelf::estimate(spec, &budget)
        }))),
        pressure: config.memory_pressure.then(pressure),
        observe: tune::recheck(&models_here::environment(config)),
    };
    let launcher = Arc::new(ProcessLauncher::new(program));
    Ok(Fleet::new(fleet_config, launcher))
}

/// The memory that is left, of the machine and of each control group above this process.
fn pressure() -> PressureSource {
    let pools = Pools::find(&Root::live());
    let read = move || {
        let pools = pools.read(&Root::live()).into_iter();
        let reading = pools.map(|pool| PoolReading {
            left_bytes: pool.left.0,
            limit_bytes: pool.limit.0,
            margin_bytes: pool.margin.0,
            stalled_us: pool.stalled_us,
            kills: pool.kills,
        });
        reading.collect()
    };
    PressureSource(Arc::new(read))
}

/// Loads a model and shows how far it is.
pub(crate) async fn load(fleet: &Fleet, order: LoadOrder) -> Outcome<Arc<ModelFacts>> {
    let name = order.spec.name.clone();
    let spec = order.spec.clone();
    let progress = tokio::spawn(follow_load(fleet.clone(), name.clone()));
    let loaded = fleet.load_by(order).await;
    progress.abort();
    // The bar is cleared when its task is gone.
    let _ = progress.await;
    let failure = match loaded {
        Ok(facts) => return Ok(facts),
        Err(failure) => failure.message,
    };
    let mut message = format!("`{name}` could not be loaded: {failure}");
    let found = tokio::task::spawn_blocking(move || doctor::below_error(&spec, &failure));
    // It fails where the runtime ends; then nobody reads on either.
    let found = found.await.unwrap_or_default();
    if !found.is_empty() {
        message.push('\n');
        message.push_str(&found);
    }
    Err(fault(Code::LoadFailed, message))
}

/// One line of what is in force: values of the engine, not wishes.
pub(crate) fn summary(facts: &ModelFacts) -> String {
    let kv_bytes = (facts.kv_bytes > 0).then(|| format!(" {}", stdx::Bytes(facts.kv_bytes)));
    format!(
        "{}: {}; context {}, {} slots; KV {}{}; threads {}/{}{}; kernels {}{}; loaded in {:.1} s{}",
        facts.name,
        facts.description,
        facts.context,
        facts.slots,
        kv_in_short(facts),
        kv_bytes.unwrap_or_default(),
        facts.threads,
        facts.threads_batch,
        cpus_in_short(facts),
        kernels_in_short(&facts.kernels),
        gpu_in_short(facts),
        facts.load_ms / 1000.0,
        tuned_in_short(facts),
    )
}

/// The types of the KV cache: the plan where layers differ.
pub(crate) fn kv_in_short(facts: &ModelFacts) -> String {
    let pair = || format!("{}/{}", facts.kv_type_k, facts.kv_type_v);
    facts.kv_plan.clone().unwrap_or_else(pair)
}

/// What the engine has put on a GPU.
fn gpu_in_short(facts: &ModelFacts) -> String {
    let devices = facts.devices.iter();
    let gpus = devices.filter(|device| device.kind.is_gpu() && device.layers > 0);
    let each = gpus.map(|gpu| {
        format!(
            "; {} of {} layers on {} ({}) in {}",
            gpu.layers,
            facts.n_layer + 1,
            gpu.name,
            gpu.description,
            stdx::Bytes(gpu.held_bytes())
        )
    });
    each.collect()
}

/// Where the threads may run, unless that is anywhere.
fn cpus_in_short(facts: &ModelFacts) -> String {
    let place = |cpus: &str| match cpus {
        "" => "any".to_owned(),
        cpus => cpus.to_owned(),
    };
    match (facts.cpus.as_str(), facts.cpus_batch.as_str()) {
        ("", "") => String::new(),
        (cpus, batch) if cpus == batch => format!(" on {cpus}"),
        (cpus, batch) => format!(" on {}/{}", place(cpus), place(batch)),
    }
}

/// Which of the settings were measured.
fn tuned_in_short(facts: &ModelFacts) -> String {
    match facts.tuned.as_slice() {
        [] => String::new(),
        names => format!("; by `sextant tune`: {}", names.join(", ")),
    }
}

/// Tells what of the model is not as it should be.
pub(crate) fn warn(facts: &ModelFacts) {
    for warning in &facts.template_warnings {
        say(&format!("warning: {warning}"));
    }
}

/// `CPU : AVX2 = 1 | FMA = 1 |` as `CPU: AVX2 FMA`: the names of what is on.
fn kernels_in_short(kernels: &str) -> String {
    let short = |part: &str| {
        let (name, value) = part.trim().split_once(" = ")?;
        let name = name.replace(" : ", ": ");
        match value.trim() {
            "1" => Some(name),
            "0" => None,
            value => Some(format!("{name}={value}")),
        }
    };
    let names: Vec<_> = kernels.split('|').filter_map(short).collect();
    match names.as_slice() {
        [] => kernels.to_owned(),
        names => names.join(" "),
    }
}

fn cache_type(of: CacheType) -> proto::CacheType {
    match of {
        CacheType::F32 => proto::CacheType::F32,
        CacheType::F16 => proto::CacheType::F16,
        CacheType::Bf16 => proto::CacheType::Bf16,
        CacheType::Q8_0 => proto::CacheType::Q8_0,
        CacheType::Q5_0 => proto::CacheType::Q5_0,
        CacheType::Q5_1 => proto::CacheType::Q5_1,
        CacheType::Q4_0 => proto::CacheType::Q4_0,
        CacheType::Q4_1 => proto::CacheType::Q4_1,
        CacheType::Iq4Nl => proto::CacheType::Iq4Nl,
    }
}

fn flash_attention(of: FlashAttention) -> proto::FlashAttention {
    match of {
        FlashAttention::Auto => proto::FlashAttention::Auto,
        FlashAttention::On => proto::FlashAttention::On,
        FlashAttention::Off => proto::FlashAttention::Off,
    }
}

fn kernels(of: Kernels) -> proto::Kernels {
    match of {
        Kernels::Own => proto::Kernels::Own,
        Kernels::Ggml => proto::Kernels::Ggml,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_by_name() {
        let cases = [
            (
                "CPU : AVX2 = 1 | FMA = 0 | SVE_CNT = 32 | ",
                "CPU: AVX2 SVE_CNT=32",
            ),
            ("unknown", "unknown"),
        ];
        for (long, short) in cases {
            assert_eq!(kernels_in_short(long), short);
        }
    }
}
