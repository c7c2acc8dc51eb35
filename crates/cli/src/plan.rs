//! `sextant plan`: what a model would take and how fast it would be, before it is loaded.

pub(crate) mod text;

use std::path::Path;

use anyhow::anyhow;
use clap::ArgMatches;
use clap::parser::ValueSource;
use config::Config;
use gateway::wire::plan::PlanReport;
use gateway::{PlanAsk, Planned};
use hardware::Tier;
use hardware::measure::Measured;
use kv::{CacheType, Loss, WindowCells};
use models::{Environment, Facts, Gguf, diagnose};
use planner::{
    Answer, Available, Class, Compute, DeviceMemory, Layers, Ledger, Loading, Machine, Model,
    Others, Placed, Purpose, Rates, Setup, Source, Speed,
};
use proto::{Kernels, LoadFailure, LoadSpec};
use worker::CONTEXT_MIN;

use crate::gpu::{self, Memory, Share};
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::shelf::Budget;
use crate::{configuration, hw, load, models_here, output};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let environment = models_here::environment(&config);
    // Headers of a model that is not here; they go with the end of this command.
    let headers = tempfile::tempdir()?;
    let mut ask = ask(matches, &config)?;
    ask.model = models_here::find_or_header(&environment, &ask.model, headers.path())?;
    let planned = planned(&config, &environment, &ask)?;
    if output::wants_json(matches) {
        let report = serde_json::to_value(PlanReport::new(&planned))?;
        output::json(&report)?;
        return Ok(());
    }
    text::write(&planned)
}

/// What the flags ask for. Settings come with the configuration; those among the flags are
/// asked for once more, since a table of `[[models]]` stands before all others.
fn ask(matches: &ArgMatches, config: &Config) -> Outcome<PlanAsk> {
    let text = |flag: &str| matches.get_one::<String>(flag).cloned();
    let is_flag = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let count = |name: &str, value: Option<u32>| value.filter(|_| is_flag(name));
    let spec = load::settings(config)?;
    let cache = |name: &str, cache_type: Option<proto::CacheType>| {
        let asked = cache_type.filter(|_| is_flag(name)).map(type_name);
        asked.transpose()
    };
    let plan = config.kv_plan.clone().filter(|_| is_flag("kv_plan"));
    Ok(PlanAsk {
        model: text("model").unwrap_or_default(),
        context: count("context", config.context),
        slots: count("slots", config.slots),
        batch: count("batch", config.batch),
        ubatch: count("ubatch", config.ubatch),
        gpu_layers: count("gpu_layers", config.gpu_layers),
        swa_full: config.swa_full.filter(|_| is_flag("swa_full")),
        kv_type_k: cache("kv_type_k", spec.kv_type_k)?,
        kv_type_v: cache("kv_type_v", spec.kv_type_v)?,
        kv_plan: text("kv").or(plan),
        memory_bytes: bytes("--memory", text("memory"))?,
        gpu_bytes: bytes("--gpu-bytes", text("gpu_bytes"))?,
        device: text("device"),
        beside: {
            let given = matches.get_many::<String>("beside").unwrap_or_default();
            given.cloned().collect()
        },
        draft: text("draft"),
    })
}

fn type_name(of: proto::CacheType) -> Outcome<String> {
    let name = serde_json::to_value(of)?;
    let name = name.as_str().ok_or_else(|| anyhow!("{of:?} has no name"))?;
    Ok(name.to_owned())
}

/// A number of bytes as people write it: `8GiB`, `512MiB` or digits.
pub(crate) fn bytes(flag: &str, text: Option<String>) -> Outcome<Option<u64>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let parsed = units.into_iter().find_map(|(unit, shift)| {
        let number = text.strip_suffix(unit)?.trim_end();
        number.parse::<u64>().ok()?.checked_mul(1 << shift)
    });
    let parsed = parsed.ok_or_else(|| {
        let message = format!("{flag} is `{text}`; it must be a number of bytes, such as 8GiB");
        fault(Code::Usage, message)
    });
    parsed.map(Some)
}

/// Bytes that other models take on the host, each with its own settings, else with the same.
fn together<'a>(
    config: &Config,
    environment: &Environment,
    names: impl IntoIterator<Item = &'a String>,
    gpu: Gpu,
) -> Outcome<u64> {
    let mut bytes = 0_u64;
    for name in names {
        let ledger = companion(config, environment, name, gpu).map_err(|error| {
            let message = format!("the model `{name}` beside it: {error}");
            fault(error.code(), message)
        })?;
        bytes = bytes.saturating_add(ledger.host_needed());
    }
    Ok(bytes)
}

fn companion(config: &Config, environment: &Environment, name: &str, gpu: Gpu) -> Outcome<Ledger> {
    let subject = Subject::find(config, environment, name)?;
    let trained = trained(&subject.model);
    let spec = LoadSpec {
        // The context that is asked for is the planned model's.
        context: subject.spec.context.map(|context| context.min(trained)),
        ..subject.spec
    };
    ledger_of(&spec, &subject.facts, &subject.model, gpu)
}

/// A model, and the settings in force for it.
struct Subject {
    name: String,
    facts: Facts,
    model: Model,
    spec: LoadSpec,
}

impl Subject {
    /// A model of this machine, or a preset.
    fn find(config: &Config, environment: &Environment, name: &str) -> Outcome<Self> {
        let (wanted, own) = models_here::with_settings(config, name);
        let found = models_here::find(environment, wanted)?;
        let facts = diagnose(&found.path).code(Code::ModelNotFound)?;
        let is_preset = !std::ptr::eq(own, config);
        Ok(Self {
            name: match is_preset {
                true => name.to_owned(),
                false => models_here::served_name(&found),
            },
            model: read(&facts.files)?,
            // As it would be loaded: with what was measured of it here.
            spec: LoadSpec {
                name: String::new(),
                ..load::spec(own, &found)?
            },
            facts,
        })
    }
}

/// Plans a model. The configuration says what the question leaves open.
pub(crate) fn planned(
    config: &Config,
    environment: &Environment,
    ask: &PlanAsk,
) -> Outcome<Planned> {
    let config = &of_device(config, ask);
    let gpu = Gpu::of(ask);
    let others = Others {
        models: together(config, environment, &ask.beside, gpu)?,
        draft: together(config, environment, &ask.draft, gpu)?,
    };
    let Premises {
        name,
        architecture,
        model,
        spec,
        setup,
        available,
        here,
        on,
    } = premises(config, environment, ask)?;
    let mut answer = planner::answer(&model, &setup, available, &others).code(Code::Usage)?;
    let on = on.with_layers(here.as_ref(), &answer);
    let ignored = spec.gpu_layers.filter(|n| *n > 0 && gpu == Gpu::None);
    let ignored = ignored.map(|gpu_layers| Loss::NoGpu { gpu_layers });
    answer.losses.splice(0..0, ignored);
    Ok(Planned {
        model: name,
        architecture,
        sequences: answer.setup.sequences(&model),
        speed: on.speed(&model, &answer),
        machine: on.name,
        machine_source: on.source,
        answer,
    })
}

/// What is fastest here says nothing of another machine.
fn of_device(config: &Config, ask: &PlanAsk) -> Config {
    Config {
        tuned: config.tuned && ask.device.is_none(),
        ..config.clone()
    }
}

/// What a plan is made from.
pub(crate) struct Premises {
    pub(crate) name: String,
    architecture: String,
    pub(crate) model: Model,
    pub(crate) spec: LoadSpec,
    pub(crate) setup: Setup,
    pub(crate) available: Available,
    /// This machine's GPU, where it counts.
    pub(crate) here: Option<Share>,
    pub(crate) on: Predicted,
}

/// Reads a model, and the settings and the machine that are asked about.
pub(crate) fn premises(
    config: &Config,
    environment: &Environment,
    ask: &PlanAsk,
) -> Outcome<Premises> {
    let config = &of_device(config, ask);
    let subject = Subject::find(config, environment, &ask.model)?;
    let (model, facts) = (subject.model, subject.facts);
    let spec = with_ask(subject.spec, ask)?;
    let setup = setup(&spec, &facts, &model, Gpu::of(ask))?;
    let on = machine(ask.device.as_deref(), environment)?;
    // Of a machine that is not this one no GPU but its own counts.
    let here = match (&ask.device, ask.gpu_bytes) {
        (None, None) => gpu::share(config),
        _ => None,
    };
    let gpu_bytes = ask.gpu_bytes.or(on.gpu_bytes);
    let available = Available {
        host: ask
            .memory_bytes
            .or(config.model_memory_max.map(|max| max.0))
            .or_else(|| hardware::budget().map(|bytes| bytes.0))
            .unwrap_or(0),
        device: gpu_bytes.unwrap_or_else(|| here.as_ref().map_or(0, |gpu| gpu.bytes)),
        memory: here.as_ref().map_or(DeviceMemory::Own, device_memory),
        layers: layers(&spec),
    };
    Ok(Premises {
        name: subject.name,
        architecture: facts.architecture,
        model,
        spec,
        setup,
        available,
        here,
        on,
    })
}

/// What a model takes by itself under these settings, with each number of layers on the GPU
/// that there is room for, from the most to none. Without a GPU that is one.
pub(crate) fn placements(spec: &LoadSpec, facts: &Facts, budget: &Budget) -> Outcome<Vec<Placed>> {
    let model = read(&facts.files)?;
    let setup = setup(spec, facts, &model, Gpu::of_budget(budget))?;
    planner::placements(&model, &setup, available(spec, budget)).code(Code::Usage)
}

fn ledger_of(spec: &LoadSpec, facts: &Facts, model: &Model, gpu: Gpu) -> Outcome<Ledger> {
    let setup = setup(spec, facts, model, gpu)?;
    let plan = kv::Plan::new(&model.shape, &setup.request(model)).code(Code::Usage)?;
    Ok(Ledger::of(model, &setup, &plan, &Others::default()))
}

/// The settings with which a model fits into so much memory, where it does not as it is and
/// what nobody has set is enough; and what that costs, in words.
pub(crate) fn sparing(
    spec: &LoadSpec,
    facts: &Facts,
    budget: &Budget,
) -> Option<(LoadSpec, String)> {
    budget.host?;
    let model = read(&facts.files).ok()?;
    let setup = setup(spec, facts, &model, Gpu::of_budget(budget)).ok()?;
    let (available, open) = (available(spec, budget), open(spec));
    let found = planner::sparing(&model, &setup, available, open)?;
    let mut costs = Vec::new();
    if let Some(sequences) = found.sequences.filter(|_| open.sequences) {
        let usual = setup.sequences(&model);
        costs.push(format!(
            "`sequences` is {sequences} in place of {usual}, so that fewer prefixes are kept"
        ));
    }
    let mut kernels = spec.kernels;
    if found.compute != setup.compute {
        kernels = Some(Kernels::Ggml);
        costs.push("`kernels` is `ggml`, which is slower on prompts".to_owned());
    }
    let spec = LoadSpec {
        sequences: found.sequences,
        kernels,
        ..spec.clone()
    };
    Some((spec, costs.join(", and ")))
}

/// The longest context with which a model would fit into so much memory, where nobody has set
/// what decides it; `None` where no context is short enough.
pub(crate) fn context_sparing(spec: &LoadSpec, facts: &Facts, budget: &Budget) -> Option<u32> {
    let model = read(&facts.files).ok()?;
    let setup = setup(spec, facts, &model, Gpu::of_budget(budget)).ok()?;
    planner::context_sparing(&model, &setup, available(spec, budget), open(spec))
}

fn available(spec: &LoadSpec, budget: &Budget) -> Available {
    let gpu = budget.gpu.as_ref();
    Available {
        host: budget.host.unwrap_or(u64::MAX),
        device: gpu.map_or(0, |gpu| gpu.bytes),
        memory: gpu.map_or(DeviceMemory::Own, device_memory),
        layers: layers(spec),
    }
}

const fn device_memory(gpu: &Share) -> DeviceMemory {
    match gpu.memory {
        Memory::Own => DeviceMemory::Own,
        Memory::Unified | Memory::Process => DeviceMemory::Unified,
    }
}

/// What somebody has set stands, and may not fit.
const fn layers(spec: &LoadSpec) -> Layers {
    match spec.gpu_layers {
        Some(_) => Layers::AsSet,
        None => Layers::AsFit,
    }
}

/// What nobody has set.
fn open(spec: &LoadSpec) -> planner::Open {
    planner::Open {
        sequences: spec.sequences.is_none(),
        compute: spec.kernels.is_none(),
    }
}

fn read(files: &[impl AsRef<Path>]) -> Outcome<Model> {
    let headers: Result<Vec<Gguf>, _> =
        files.iter().map(|file| Gguf::open(file.as_ref())).collect();
    let headers = headers.code(Code::ModelNotFound)?;
    Model::read(&headers).code(Code::ModelNotFound)
}

fn with_ask(spec: LoadSpec, ask: &PlanAsk) -> Outcome<LoadSpec> {
    let counts = [
        ("context", ask.context),
        ("slots", ask.slots),
        ("batch", ask.batch),
        ("ubatch", ask.ubatch),
        ("gpu_layers", ask.gpu_layers),
    ];
    for (name, value) in counts {
        let (Some(value), Some(setting)) = (value, config::setting(name)) else {
            continue;
        };
        if let config::Kind::Count { min, max } = setting.kind
            && !(min..=max).contains(&u64::from(value))
        {
            let message = format!("{name} is {value}, it must be between {min} and {max}");
            return Err(fault(Code::Usage, message));
        }
    }
    // Who asks for types of all layers does not mean the plan that was set before.
    let has_types = ask.kv_type_k.is_some() || ask.kv_type_v.is_some();
    let cache = |text: &Option<String>, usual| match text {
        Some(text) => proto_type(text).map(Some),
        None => Ok(usual),
    };
    Ok(LoadSpec {
        context: ask.context.or(spec.context),
        slots: ask.slots.or(spec.slots),
        batch: ask.batch.or(spec.batch),
        ubatch: ask.ubatch.or(spec.ubatch),
        gpu_layers: ask.gpu_layers.or(spec.gpu_layers),
        swa_full: ask.swa_full.or(spec.swa_full),
        kv_type_k: cache(&ask.kv_type_k, spec.kv_type_k)?,
        kv_type_v: cache(&ask.kv_type_v, spec.kv_type_v)?,
        kv_plan: ask.kv_plan.clone().or(spec.kv_plan.filter(|_| !has_types)),
        ..spec
    })
}

fn proto_type(text: &str) -> Outcome<proto::CacheType> {
    let known: CacheType = text.parse().code(Code::Usage)?;
    serde_json::from_value(known.name().into()).code(Code::Usage)
}

/// Whether layers can go to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gpu {
    Usable,
    None,
}

impl Gpu {
    /// Of another machine's program nobody knows.
    fn of(ask: &PlanAsk) -> Self {
        match ask.device.is_some() || ask.gpu_bytes.is_some() {
            true => Self::Usable,
            false => Self::here(),
        }
    }

    /// That of this program on this machine.
    fn here() -> Self {
        match gpu::here() {
            Some(_) => Self::Usable,
            None => Self::None,
        }
    }

    fn of_budget(budget: &Budget) -> Self {
        match budget.gpu {
            Some(_) => Self::Usable,
            None => Self::None,
        }
    }
}

/// The most context that a model takes, tokens.
fn trained(model: &Model) -> u32 {
    let trained = u32::try_from(model.shape.context_train).unwrap_or(u32::MAX);
    trained.max(CONTEXT_MIN)
}

/// Settings as the worker resolves them.
fn setup(spec: &LoadSpec, facts: &Facts, model: &Model, gpu: Gpu) -> Outcome<Setup> {
    let trained = trained(model);
    let context = spec
        .context
        .unwrap_or_else(|| trained.min(worker::CONTEXT_DEFAULT_MAX));
    if !(CONTEXT_MIN..=trained).contains(&context) {
        let message = format!(
            "the context is {context} tokens, this model takes {CONTEXT_MIN} to {trained}, for \
             which it was trained; ask for a context in that range"
        );
        return Err(fault(Code::Usage, message));
    }
    let refused = |failure: LoadFailure| fault(Code::Usage, failure.message);
    let counts = worker::Counts::of(spec).map_err(refused)?;
    Ok(Setup {
        context,
        slots: counts.slots,
        sequences: spec.sequences,
        batch: counts.batch,
        ubatch: counts.ubatch,
        types: worker::types_asked(spec).map_err(refused)?,
        window: match spec.swa_full {
            Some(true) => WindowCells::Full,
            _ => WindowCells::Window,
        },
        has_flash_attention: spec.flash_attention != Some(proto::FlashAttention::Off),
        compute: match worker::kernels_of(spec, facts) {
            Kernels::Own => Compute::Own,
            Kernels::Ggml => Compute::Ggml,
        },
        is_locked: spec.mlock == Some(true),
        loading: match spec.mmap {
            Some(false) => Loading::Read,
            _ => Loading::Mapped,
        },
        gpu_layers: match gpu {
            Gpu::Usable => spec.gpu_layers.unwrap_or(0),
            Gpu::None => 0,
        },
        prompt_cache: worker::prompt_cache_bytes(spec),
        purpose: match facts.is_embedder {
            true => Purpose::Embed,
            false => Purpose::Generate,
        },
    })
}

/// A machine whose speed is predicted.
pub(crate) struct Predicted {
    pub(crate) machine: Machine,
    /// Of this build's kernels, where they were timed there.
    rates: Option<Rates>,
    /// Memory of its GPU, where a table has it.
    gpu_bytes: Option<u64>,
    pub(crate) name: String,
    pub(crate) source: String,
}

impl Predicted {
    /// The same where some layers are on a GPU.
    pub(crate) fn with_layers(self, gpu: Option<&Share>, answer: &Answer) -> Self {
        match (gpu, answer.setup.gpu_layers) {
            (Some(gpu), 1..) => self.beside(&gpu.description),
            _ => self,
        }
    }

    /// Nobody has measured this machine's GPU.
    pub(crate) fn beside(self, gpu: &str) -> Self {
        Self {
            name: format!("{}, without its GPU", self.name),
            source: format!("{}; {gpu} is not measured", self.source),
            ..self
        }
    }

    pub(crate) fn speed(&self, model: &Model, answer: &Answer) -> Speed {
        let (setup, plan) = (&answer.setup, &answer.plan);
        let rates = self.rates.as_ref();
        rates
            .and_then(|rates| planner::predict_measured(model, setup, plan, rates))
            .unwrap_or_else(|| planner::predict(model, setup, plan, &self.machine))
    }
}

/// The device of that name; without one this machine, as it was measured.
fn machine(name: Option<&str>, environment: &Environment) -> Outcome<Predicted> {
    let Some(name) = name else {
        return Ok(this_machine(environment));
    };
    let device = planner::device_named(name).ok_or_else(|| {
        let names: Vec<_> = planner::DEVICES.iter().map(|known| known.name).collect();
        let message = format!(
            "the device `{name}` is not known; it must be one of {}",
            names.join(", ")
        );
        fault(Code::Usage, message)
    })?;
    Ok(Predicted {
        machine: device.machine,
        rates: None,
        gpu_bytes: device.gpu_bytes,
        name: device.describes.to_owned(),
        source: device.source.to_owned(),
    })
}

fn this_machine(environment: &Environment) -> Predicted {
    let known = hw::kept(environment).and_then(|(machine, measured)| {
        let predicted = of_measured(machine.tier, &measured)?;
        let rates = hw::rates::of_measured(&measured);
        Some((machine.processor.name(), predicted, rates))
    });
    match known {
        Some((name, machine, rates)) => Predicted {
            machine,
            rates,
            gpu_bytes: None,
            name,
            source: "as `sextant hw` measured it".to_owned(),
        },
        None => Predicted {
            machine: planner::unmeasured(),
            rates: None,
            gpu_bytes: None,
            name: "a slow desktop, which nobody measured".to_owned(),
            source: "an assumption; `sextant hw` measures this one, `device` names another"
                .to_owned(),
        },
    }
}

/// `None` where no bandwidth was measured.
fn of_measured(tier: Tier, measured: &Measured) -> Option<Machine> {
    const GIGA: f64 = 1e9;
    let compute = measured.compute.iter();
    let int8 = compute
        .filter(|point| point.name == "int8")
        .map(|point| point.best_giga_per_second * GIGA)
        .max_by(f64::total_cmp);
    Some(Machine {
        class: match tier {
            Tier::RockchipBoard | Tier::ArmBoard => Class::Board,
            _ => Class::Cpu,
        },
        source: Source::Measured,
        bandwidth_bytes_s: measured.best_gb_per_second()? * GIGA,
        int8_ops_s: int8,
    })
}
