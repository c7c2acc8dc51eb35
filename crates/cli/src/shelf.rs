//! The models that a server loads on demand: those of `[[models]]`, and where it is wanted
//! every other on this machine.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use config::{Config, FleetTables, Preset};
use gateway::EMBEDDED;
use kv::CacheType;
use models::{Environment, Facts, Found};
use planner::{Kind, Place, Placed, Term};
use proto::{GpuPlacement, LoadFailure, LoadFailureKind, LoadSpec};
use supervisor::{DeviceMemory, Keep, Listing, MemoryCost, ModelTraits, Placement};

use crate::gpu::{self, Memory, Share};
use crate::outcome::{Code, Outcome, fault};
use crate::{load, models_here, plan};

/// Buffers of the computation, the vocabulary and the process, of a model that cannot be
/// planned: seen with small models at 512 tokens a pass.
const OTHER_BYTES: u64 = 192 << 20;

/// What models may take of this machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    /// Bytes of the host; `None`: nobody knows.
    pub(crate) host: Option<u64>,
    /// `None`: no GPU is used.
    pub(crate) gpu: Option<Share>,
}

impl Budget {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            host: memory_max(config),
            gpu: gpu::share(config),
        }
    }
}

/// What to do about a preset whose model is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Refuse,
    /// It was there when the server started; the others go on.
    Skip,
}

/// All of them, those of `[[models]]` first.
pub(crate) fn listings(
    config: &Config,
    environment: &Environment,
    missing: Missing,
) -> Outcome<Vec<Listing>> {
    let mut listings = Vec::new();
    let budget = Budget::of(config);
    for preset in &config.presets {
        match of_preset(preset, environment, &budget) {
            Ok(listing) => listings.push(listing),
            Err(error) => {
                let message = format!("the model `{}`: {error}", preset.name);
                if missing == Missing::Refuse {
                    return Err(fault(Code::ModelNotFound, message));
                }
                tracing::warn!("{message}");
            }
        }
    }
    // Who names models says what is served.
    if config.load_on_demand.unwrap_or(config.load.is_empty()) {
        for found in models::list(environment) {
            let mut spec = load::spec(config, &found)?;
            let is_taken = |name: &str| listings.iter().any(|one: &Listing| one.spec.name == name);
            if is_taken(&spec.name) {
                // One of two stores, or hidden behind a name of the operator's.
                spec.name = format!("{}:{}", found.store.prefix(), found.id);
            }
            // A broken file cannot be loaded, and two ways to one name lead to one model.
            if found.fault.is_some() || is_taken(&spec.name) {
                continue;
            }
            listings.push(listing(spec, &found, &budget));
        }
    }
    if missing == Missing::Refuse {
        check_helpers(&listings)?;
    }
    Ok(listings)
}

/// Bytes that all models together may take.
pub(crate) fn memory_max(config: &Config) -> Option<u64> {
    // Read once: later there is less, by what the models themselves take.
    static BUDGET: LazyLock<Option<u64>> = LazyLock::new(|| hardware::budget().map(|left| left.0));
    config.model_memory_max.map(|max| max.0).or(*BUDGET)
}

/// The tables with the presets' further names among the aliases.
pub(crate) fn with_aliases(config: &Config) -> FleetTables {
    let mut tables = config.fleet.clone();
    for preset in &config.presets {
        for alias in &preset.aliases {
            let target = format!("{EMBEDDED}:{}", preset.name);
            let routing = &mut tables.routing;
            let place = || format!("`[[models]]` `{}`", preset.name);
            let places = routing.places.entry(format!("aliases.{alias}"));
            places.or_insert_with(place);
            let aliases = &mut routing.aliases;
            aliases.entry(alias.clone()).or_default().push(target);
        }
    }
    tables
}

fn of_preset(preset: &Preset, environment: &Environment, budget: &Budget) -> Outcome<Listing> {
    let found = models_here::present(environment, &preset.model)?;
    // Of a broken one it is told when it is asked for; the others are served.
    let fault = found.fault.as_ref().map(|fault| LoadFailure {
        kind: LoadFailureKind::Artifact,
        message: fault.to_string(),
    });
    if let Some(fault) = &fault {
        let (model, fault) = (&preset.name, &fault.message);
        tracing::warn!(model, fault, "the model is broken; the others are served");
    }
    let spec = LoadSpec {
        name: preset.name.clone(),
        ..load::spec(&preset.config, &found)?
    };
    Ok(Listing {
        pin: preset.pin,
        keep_alive: preset
            .keep_alive
            .map(|time| time.map_or(Keep::Forever, Keep::For)),
        helps: preset.helps.clone(),
        fault,
        ..listing(spec, &found, budget)
    })
}

fn listing(spec: LoadSpec, found: &Found, budget: &Budget) -> Listing {
    let facts = models::diagnose(&found.path).ok();
    let (spec, cost) = match &facts {
        Some(facts) => planned(spec, facts, budget),
        None => (spec, MemoryCost::default()),
    };
    Listing {
        cost,
        traits: facts
            .as_ref()
            .map_or_else(ModelTraits::default, |facts| traits(&spec, facts)),
        spec,
        pin: false,
        keep_alive: None,
        helps: None,
        fault: None,
    }
}

fn check_helpers(listings: &[Listing]) -> Outcome {
    let is_listed = |name: &str| listings.iter().any(|one| one.spec.name == name);
    for listing in listings {
        if let Some(helps) = listing.helps.as_deref().filter(|name| !is_listed(name)) {
            let message = format!(
                "the model `{}` helps `{helps}`, which is not among the models on demand; give \
                 it a table of `[[models]]`, or correct the name",
                listing.spec.name
            );
            return Err(fault(Code::Usage, message));
        }
    }
    Ok(())
}

/// How a model will be loaded into so much memory, and what it will cost, by its file; nothing
/// where the file cannot be read, since the load then fails anyway.
pub(crate) fn estimate(spec: LoadSpec, budget: &Budget) -> (LoadSpec, MemoryCost) {
    let Ok(facts) = models::diagnose(Path::new(&spec.path)) else {
        return (spec, MemoryCost::default());
    };
    planned(spec, &facts, budget)
}

/// Chooses what nobody has set so that the model fits; as it is where it fits, or cannot.
pub(crate) fn planned(
    mut spec: LoadSpec,
    facts: &Facts,
    budget: &Budget,
) -> (LoadSpec, MemoryCost) {
    spec.gpu = None;
    let mut spec = match plan::sparing(&spec, facts, budget) {
        None => spec,
        Some((fitted, costs)) => {
            tracing::info!(model = fitted.name, "to fit into memory, {costs}");
            fitted
        }
    };
    let mut cost = match plan::placements(&spec, facts, budget) {
        Ok(placements) => place(&mut spec, facts, (placements, budget)),
        // The load will say it again, to whoever asks for it.
        Err(error) => {
            tracing::debug!(model = spec.name, %error, "its memory cannot be planned");
            upper_bound(&mut spec, facts, budget)
        }
    };
    let is_too_much = budget.host.is_some_and(|max| cost.host_bytes() > max);
    if is_too_much {
        cost.context_max = plan::context_sparing(&spec, facts, budget);
    }
    (spec, cost)
}

/// Gives the model the first of its places: that with the most layers on the GPU.
fn place(
    spec: &mut LoadSpec,
    facts: &Facts,
    (placements, budget): (Vec<Placed>, &Budget),
) -> MemoryCost {
    let mut cost = MemoryCost {
        context: context(spec, facts),
        ..MemoryCost::default()
    };
    let Some(first) = placements.first() else {
        return cost;
    };
    cost.weights_bytes = first.ledger.bytes_for(Kind::Weights);
    cost.kv_bytes = first.ledger.bytes_for(Kind::Caches);
    let memory = budget.gpu.as_ref().map_or(Memory::Own, |gpu| gpu.memory);
    let all: Arc<[Placement]> = placements.iter().map(|one| placed(one, memory)).collect();
    if let Some(first) = all.first() {
        cost = cost.placed(first);
    }
    if let Some(gpu) = &budget.gpu
        && first.gpu_layers > 0
    {
        spec.gpu = Some(Box::new(GpuPlacement {
            device: gpu.device.clone(),
            layers: first.gpu_layers,
        }));
        cost.device_memory = device_memory(gpu);
        cost.placements = all;
    }
    cost
}

const fn device_memory(gpu: &Share) -> DeviceMemory {
    match gpu.memory {
        Memory::Own => DeviceMemory::Own,
        Memory::Unified | Memory::Process => DeviceMemory::Unified,
    }
}

fn placed(one: &Placed, memory: Memory) -> Placement {
    let ledger = &one.ledger;
    let resident = ledger.resident_when_loaded();
    let is_there = |term: &&Term| term.place == Place::Device && term.kind != Kind::Buffers;
    let on_gpu = ledger.terms.iter().filter(is_there);
    let on_gpu: u64 = on_gpu.map(|term| term.bytes.0).sum();
    Placement {
        gpu_layers: one.gpu_layers,
        host_bytes: ledger.host_needed(),
        device_bytes: ledger.bytes_in(Place::Device),
        resident_bytes: match memory {
            Memory::Own | Memory::Unified => resident,
            Memory::Process => resident.saturating_add(on_gpu),
        },
    }
}

/// Of a model whose caches nobody knows: every layer remembers all.
fn upper_bound(spec: &mut LoadSpec, facts: &Facts, budget: &Budget) -> MemoryCost {
    let context = context(spec, facts);
    // Layers that differ need to be known; without them the load is refused.
    let types = worker::types_asked(spec).ok();
    let types = types.and_then(|plan| plan.as_uniform()).unwrap_or_default();
    let of = |numbers: u64, cache: CacheType| {
        let numbers = numbers.saturating_mul(u64::from(context));
        cache.row_bytes(numbers)
    };
    let kv_bytes = match facts.is_embedder {
        true => 0,
        false => of(facts.kv_values.keys, types.keys)
            .saturating_add(of(facts.kv_values.values, types.values)),
    };
    let mut cost = MemoryCost {
        weights_bytes: facts.weights_bytes.0,
        kv_bytes,
        other_bytes: OTHER_BYTES,
        context,
        ..MemoryCost::default()
    };
    // Without a plan the GPU gets only what somebody asks it to take, and is taken to get all.
    let asked = spec.gpu_layers.filter(|layers| *layers > 0);
    if let (Some(gpu), Some(layers)) = (&budget.gpu, asked) {
        let device = gpu.device.clone();
        spec.gpu = Some(Box::new(GpuPlacement { device, layers }));
        cost.device_bytes = cost.weights_bytes.saturating_add(kv_bytes);
        cost.device_memory = device_memory(gpu);
    }
    cost
}

/// As the worker chooses it.
fn context(spec: &LoadSpec, facts: &Facts) -> u32 {
    let trained = facts
        .context_length
        .map_or(u32::MAX, |length| u32::try_from(length).unwrap_or(u32::MAX));
    spec.context
        .unwrap_or_else(|| trained.min(worker::CONTEXT_DEFAULT_MAX))
}

fn traits(spec: &LoadSpec, facts: &Facts) -> ModelTraits {
    let template = spec.chat_template.as_ref().or(facts.chat_template.as_ref());
    // A template that can take tools names them.
    let has_tools = template.is_some_and(|text| text.contains("tools"));
    let generates = !facts.is_embedder;
    ModelTraits {
        architecture: Some(facts.architecture.clone()),
        quant: facts.quant.clone(),
        n_params: facts.n_parameters,
        weights_bytes: facts.weights_bytes.0,
        context_train: facts
            .context_length
            .and_then(|length| u32::try_from(length).ok()),
        context: Some(context(spec, facts)),
        can_chat: generates && template.is_some(),
        can_call_tools: generates && has_tools,
        can_complete: generates,
        can_embed: true,
    }
}

#[cfg(test)]
mod tests {
    use models::gguf::write::Writer;

    use super::*;

    fn model(folder: &Path, name: &str) {
        let writer = Writer::tiny_model()
            .u32("llama.embedding_length", 256)
            .u32("llama.attention.head_count", 4)
            .u32("llama.attention.head_count_kv", 2);
        std::fs::write(folder.join(name), writer.bytes()).unwrap();
    }

    fn config(text: &str) -> Config {
        let flags = config::augment(clap::Command::new("x"), |_| true).get_matches_from(["x"]);
        let file = Some((Path::new("c.toml"), text));
        let raw = config::RawConfig::gather(&flags, [], file);
        raw.resolve().unwrap()
    }

    fn here(folder: &Path) -> Environment {
        Environment::from_process()
            .with_var("SEXTANT_MODELS", folder.to_string_lossy())
            .with_var("HF_HUB_CACHE", "/nowhere")
            .with_var("OLLAMA_MODELS", "/nowhere")
            .with_var("LLAMA_CACHE", "/nowhere")
    }

    fn names(listings: &[Listing]) -> Vec<&str> {
        listings.iter().map(|one| one.spec.name.as_str()).collect()
    }

    #[test]
    fn presets_come_first_and_all_models_follow_where_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        model(folder.path(), "a.gguf");
        model(folder.path(), "b.gguf");
        let preset = "[[models]]\nname = \"quick\"\nmodel = \"a\"\ncontext = 1024\n\
                      aliases = [\"fast\"]\n[[models]]\nname = \"b\"\nhelps = \"quick\"\n";
        let environment = here(folder.path());
        let all = listings(&config(preset), &environment, Missing::Refuse).unwrap();
        assert_eq!(&names(&all)[..4], ["quick", "b", "a", "sextant:b"]);
        assert_eq!(all[0].spec.context, Some(1024));
        // A head of 64 numbers in two groups, keys and values of 16 bits.
        assert_eq!(all[0].cost.kv_bytes, 1024 * 2 * 64 * 2 * 2);
        assert_eq!(all[0].traits.context, Some(1024));
        assert!(all[0].traits.can_chat && all[0].traits.can_complete);
        assert_eq!(all[1].helps.as_deref(), Some("quick"));
        let aliases = with_aliases(&config(preset)).routing.aliases;
        assert_eq!(aliases["fast"], ["embedded:quick"]);

        let named = format!("load = [\"b\"]\n{preset}");
        let some = listings(&config(&named), &environment, Missing::Refuse).unwrap();
        assert_eq!(names(&some), ["quick", "b"]);
        let wanted = format!("load = [\"b\"]\nload_on_demand = true\n{preset}");
        assert_eq!(
            &names(&listings(&config(&wanted), &environment, Missing::Refuse).unwrap())[..3],
            ["quick", "b", "a"]
        );
    }

    #[test]
    fn a_model_that_is_not_here_and_a_helper_of_nobody_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        model(folder.path(), "a.gguf");
        let environment = here(folder.path());
        for (text, told) in [
            ("[[models]]\nname = \"none\"\n", "the model `none`"),
            (
                "[[models]]\nname = \"a\"\nhelps = \"b\"\n",
                "helps `b`, which is not among",
            ),
        ] {
            let error = listings(&config(text), &environment, Missing::Refuse).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        // While it serves, the others go on.
        assert!(
            listings(
                &config("[[models]]\nname = \"none\"\n"),
                &environment,
                Missing::Skip
            )
            .is_ok()
        );
    }
}
