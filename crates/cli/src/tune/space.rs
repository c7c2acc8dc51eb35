//! The settings that are tried, and how each gets into a `LoadSpec`.

use std::fmt;
use std::time::Duration;

use hardware::measure::{self, Workload};
use hardware::{CpuSet, Machine};
use kernels::Isa;
use proto::{CacheType, FlashAttention, Kernels, LoadSpec, ModelFacts, Placement, Speculation};
use tuner::cores::{Core, sets};
use tuner::{Axis, Choice, Phase, Point, Space, Switch};

use crate::hw;

/// How long each core computes to tell how fast it is.
const CORE_TIME: Duration = Duration::from_millis(40);
/// All of them together, on machines with many.
const CORES_TIME: Duration = Duration::from_secs(1);

/// What a KV cache of two types loses: the mean KL divergence from 16 bits, over 4k tokens of
/// SmolLM2-135M. Other models lose more or less.
const KV_PAIRS: [(CacheType, CacheType, f64); 4] = [
    (CacheType::F16, CacheType::F16, 0.0),
    (CacheType::Q8_0, CacheType::Q8_0, 0.0048),
    (CacheType::Q8_0, CacheType::Q4_0, 0.0129),
    (CacheType::Q5_0, CacheType::Q5_0, 0.026),
];
const UBATCHES: [u32; 4] = [1024, 256, 128, 64];
const BATCH: u32 = 512;
const DRAFTS: [Speculation; 2] = [
    Speculation {
        draft_tokens_max: 8,
        ngram: 3,
    },
    Speculation {
        draft_tokens_max: 4,
        ngram: 2,
    },
];

/// A setting's value, or that of some that go together.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// What it is without tuning.
    Default,
    Cores(CpuSet),
    FlashAttention(FlashAttention),
    Kv(CacheType, CacheType),
    Ubatch(u32),
    Batch(u32),
    HugePages(bool),
    Mmap(bool),
    Mlock(bool),
    Speculation(Speculation),
    Kernels(Kernels),
}

/// What the axes are made from.
pub(super) struct Ground<'a> {
    pub(super) machine: &'a Machine,
    /// What was given, which is not tuned.
    pub(super) given: &'a LoadSpec,
    pub(super) kv_loss_max: f64,
    pub(super) prompt_tokens: u32,
    /// In force without tuning.
    pub(super) facts: &'a ModelFacts,
    pub(super) reach: Reach,
    /// Only these; all where none is named.
    pub(super) only: &'a [String],
}

/// Whether to try what seldom wins, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Usual,
    All,
}

/// The axes with their values.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub(super) space: Space,
    values: Vec<Vec<Value>>,
    /// Threads and CPUs in force without tuning.
    defaults: Placement,
}

impl Values {
    pub(super) fn new(ground: &Ground<'_>) -> Self {
        let facts = ground.facts;
        let usable = ground.machine.plan.usable.to_string();
        let anywhere = |cpus: &str| match cpus {
            "" => usable.clone(),
            cpus => cpus.to_owned(),
        };
        let mut all = Self {
            space: Space::default(),
            values: Vec::new(),
            defaults: Placement {
                threads: facts.threads,
                threads_batch: facts.threads_batch,
                cpus: anywhere(&facts.cpus),
                cpus_batch: anywhere(&facts.cpus_batch),
            },
        };
        for axis in axes(ground) {
            let (name, _, _, values) = &axis;
            let is_wanted = ground.only.is_empty() || ground.only.iter().any(|one| one == name);
            if is_wanted && !values.is_empty() {
                all.add(axis, facts);
            }
        }
        all.forbid();
        all
    }

    fn add(&mut self, (name, phase, switch, others): AxisOf, facts: &ModelFacts) {
        let levels = std::iter::once(default_label(name, facts));
        let takes = match name {
            DECODE_CORES => takes(facts.threads, &others),
            PREFILL_CORES => takes(facts.threads_batch, &others),
            _ => Vec::new(),
        };
        self.space.axes.push(Axis {
            name: name.to_owned(),
            phase,
            switch,
            levels: levels.chain(others.iter().map(Value::to_string)).collect(),
            default: 0,
            takes,
        });
        let values = std::iter::once(Value::Default).chain(others);
        self.values.push(values.collect());
    }

    /// A quantised value cache needs flash attention.
    fn forbid(&mut self) {
        let choices = |is: fn(&Value) -> bool| -> Vec<Choice> {
            let axes = self.values.iter().enumerate();
            let choices = axes.flat_map(|(axis, values)| {
                let levels = values.iter().enumerate().filter(|(_, value)| is(value));
                levels.map(move |(level, _)| Choice { axis, level })
            });
            choices.collect()
        };
        let off = choices(|value| matches!(value, Value::FlashAttention(FlashAttention::Off)));
        let quantised = choices(|value| matches!(value, Value::Kv(_, v) if *v != CacheType::F16));
        let pairs = off
            .iter()
            .flat_map(|off| quantised.iter().map(|kv| [*off, *kv]));
        self.space.forbidden = pairs.collect();
        // A pass is no larger than what is handed over at once.
        let large = choices(|value| matches!(value, Value::Ubatch(ubatch) if *ubatch > BATCH));
        let small = choices(|value| matches!(value, Value::Batch(_)));
        let pairs = large
            .iter()
            .flat_map(|large| small.iter().map(|small| [*large, *small]));
        self.space.forbidden.extend(pairs);
    }

    fn value(&self, point: &Point, axis: usize) -> &Value {
        &self.values[axis][point.level(axis)]
    }

    /// What a process must be loaded with for a point.
    pub(super) fn load(&self, point: &Point, base: &LoadSpec) -> LoadSpec {
        let mut spec = base.clone();
        for (axis, of) in self.space.axes.iter().enumerate() {
            if of.switch == Switch::Load {
                self.value(point, axis).put(&mut spec);
            }
        }
        spec
    }

    /// Where a point computes.
    pub(super) fn placement(&self, point: &Point) -> Placement {
        let mut placement = self.defaults.clone();
        for (axis, of) in self.space.axes.iter().enumerate() {
            if let Value::Cores(set) = self.value(point, axis) {
                let threads = u32::try_from(set.len()).unwrap_or(1);
                let cpus = set.to_string();
                match of.phase {
                    Phase::Prefill => {
                        (placement.threads_batch, placement.cpus_batch) = (threads, cpus);
                    }
                    _ => (placement.threads, placement.cpus) = (threads, cpus),
                }
            }
        }
        placement
    }

    pub(super) fn speculation(&self, point: &Point) -> Option<Speculation> {
        let axes = 0..self.space.axes.len();
        let mut values = axes.map(|axis| self.value(point, axis));
        values.find_map(|value| match value {
            Value::Speculation(speculation) => Some(*speculation),
            _ => None,
        })
    }

    /// Only what a point has other than the defaults.
    pub(super) fn settings(&self, point: &Point) -> LoadSpec {
        let mut spec = self.load(point, &LoadSpec::default());
        spec.speculation = self.speculation(point);
        let placement = self.placement(point);
        if placement != self.defaults {
            // All four: one that is left out would follow another.
            spec.threads = Some(placement.threads);
            spec.threads_batch = Some(placement.threads_batch);
            spec.cpus = Some(placement.cpus);
            spec.cpus_batch = Some(placement.cpus_batch);
        }
        spec
    }
}

type AxisOf = (&'static str, Phase, Switch, Vec<Value>);

/// The one with the largest expected effect first; an axis without values is left out.
fn axes(ground: &Ground<'_>) -> Vec<AxisOf> {
    let mut axes = core_axes(ground);
    axes.extend(attention_axes(ground));
    axes.extend(batch_axes(ground));
    axes.extend(memory_axes(ground));
    axes
}

/// The values where the setting is open, else none.
fn when(is_open: bool, values: Vec<Value>) -> Vec<Value> {
    if is_open { values } else { Vec::new() }
}

fn core_axes(ground: &Ground<'_>) -> Vec<AxisOf> {
    let (given, facts) = (ground.given, ground.facts);
    if given.threads.is_some() || given.cpus.is_some() {
        // Who chooses the threads chooses both.
        return Vec::new();
    }
    let cores = core_values(ground);
    let decode = other_than(ground, (facts.threads, &facts.cpus), &cores);
    let is_open = given.threads_batch.is_none() && given.cpus_batch.is_none();
    let prefill = other_than(ground, (facts.threads_batch, &facts.cpus_batch), &cores);
    let prefill = when(is_open, prefill);
    vec![
        (DECODE_CORES, Phase::Decode, Switch::Live, decode),
        (PREFILL_CORES, Phase::Prefill, Switch::Live, prefill),
    ]
}

fn attention_axes(ground: &Ground<'_>) -> Vec<AxisOf> {
    let (given, facts) = (ground.given, ground.facts);
    let is_on = given.flash_attention.is_none() && facts.flash_attention;
    let off = when(is_on, vec![Value::FlashAttention(FlashAttention::Off)]);
    let is_open = given.kv_type_k.is_none() && given.kv_type_v.is_none() && given.kv_plan.is_none();
    let types = when(is_open, kv_values(ground.kv_loss_max));
    vec![
        ("flash attention", Phase::Both, Switch::Load, off),
        ("KV types", Phase::Both, Switch::Load, types),
    ]
}

fn batch_axes(ground: &Ground<'_>) -> Vec<AxisOf> {
    let given = ground.given;
    let ubatches = when(given.ubatch.is_none(), ubatch_values(ground));
    let is_open = given.batch.is_none() && ground.prompt_tokens > BATCH;
    let batches = when(is_open, vec![Value::Batch(BATCH)]);
    vec![
        ("ubatch", Phase::Prefill, Switch::Load, ubatches),
        ("batch", Phase::Prefill, Switch::Load, batches),
    ]
}

fn memory_axes(ground: &Ground<'_>) -> Vec<AxisOf> {
    let given = ground.given;
    let is_all = ground.reach == Reach::All;
    let is_own = ground.facts.kernels.starts_with("own");
    let can_huge = given.huge_pages.is_none() && is_own && can_have_huge_pages();
    let huge = when(can_huge, vec![Value::HugePages(!ground.facts.huge_pages)]);
    let drafts = DRAFTS.map(Value::Speculation).to_vec();
    let drafts = when(given.speculation.is_none(), drafts);
    let mmap = when(given.mmap.is_none(), vec![Value::Mmap(false)]);
    let mlock = when(is_all && given.mlock.is_none(), vec![Value::Mlock(true)]);
    let other = match is_own {
        true => Kernels::Ggml,
        false => Kernels::Own,
    };
    let kernels = when(
        is_all && given.kernels.is_none(),
        vec![Value::Kernels(other)],
    );
    vec![
        ("huge pages", Phase::Both, Switch::Load, huge),
        ("speculation", Phase::Decode, Switch::Live, drafts),
        ("mmap", Phase::Both, Switch::Load, mmap),
        ("mlock", Phase::Both, Switch::Load, mlock),
        ("kernels", Phase::Both, Switch::Load, kernels),
    ]
}

const DECODE_CORES: &str = "decode cores";
const PREFILL_CORES: &str = "prefill cores";

/// The cores of each level, the default's first.
fn takes(threads: u32, others: &[Value]) -> Vec<usize> {
    let of = |value: &Value| match value {
        Value::Cores(set) => set.len(),
        _ => 0,
    };
    let others = others.iter().map(of);
    std::iter::once(threads as usize).chain(others).collect()
}

fn default_label(name: &str, facts: &ModelFacts) -> String {
    let cores = |threads: u32, cpus: &str| {
        let threads = crate::tune::text::count(threads as usize, "thread");
        match cpus {
            "" => format!("{threads} anywhere"),
            cpus => format!("{threads} on {cpus}"),
        }
    };
    let switch = |is_on: bool| (if is_on { "on" } else { "off" }).to_owned();
    match name {
        DECODE_CORES => cores(facts.threads, &facts.cpus),
        PREFILL_CORES => cores(facts.threads_batch, &facts.cpus_batch),
        "flash attention" => switch(facts.flash_attention),
        "KV types" => crate::load::kv_in_short(facts),
        "ubatch" => facts.ubatch.to_string(),
        "batch" => facts.batch.to_string(),
        "huge pages" => switch(facts.huge_pages),
        "mmap" => switch(facts.mmap),
        "mlock" => switch(facts.mlock),
        "kernels" if facts.kernels.starts_with("own") => "own".to_owned(),
        "kernels" => "ggml".to_owned(),
        _ => switch(false),
    }
}

/// Sets of the cores that are fast right now.
fn core_values(ground: &Ground<'_>) -> Vec<Value> {
    let usable = &ground.machine.plan.usable;
    let one_a_core = ground.machine.processor.one_a_core(usable);
    let Ok(count) = u32::try_from(one_a_core.len().max(1)) else {
        return Vec::new();
    };
    let isa = Isa::best();
    let make = move || hw::int8_products(isa);
    let workload = Workload {
        name: "int8",
        operations: hw::int8_operations(),
        make: &make,
    };
    let speeds = measure::each_core(&one_a_core, &workload, CORE_TIME.min(CORES_TIME / count));
    let cores = speeds.unwrap_or_default();
    let cores: Vec<Core> = cores
        .iter()
        .map(|core| Core {
            cpu: core.cpu,
            speed: core.operations_s,
        })
        .collect();
    let quota = ground.machine.limits.quota_cpus().unwrap_or(usize::MAX);
    let sets = sets(&cores, quota.clamp(1, usize::MAX)).into_iter();
    sets.map(|set| Value::Cores(set.cpus.into_iter().collect()))
        .collect()
}

/// Without the set that is in force anyway.
fn other_than(ground: &Ground<'_>, (threads, cpus): (u32, &str), cores: &[Value]) -> Vec<Value> {
    let usable = &ground.machine.plan.usable;
    let is_now = |value: &&Value| match value {
        Value::Cores(set) => {
            let is_place = match cpus {
                "" => set == usable,
                cpus => set.to_string() == cpus,
            };
            set.len() == threads as usize && is_place
        }
        _ => false,
    };
    cores
        .iter()
        .filter(|value| !is_now(value))
        .cloned()
        .collect()
}

fn kv_values(loss_max: f64) -> Vec<Value> {
    let allowed = KV_PAIRS
        .iter()
        .skip(1)
        .filter(|(_, _, loss)| *loss <= loss_max);
    allowed
        .map(|(keys, values, _)| Value::Kv(*keys, *values))
        .collect()
}

/// One that is larger than the prompts that are measured does what the default does.
fn ubatch_values(ground: &Ground<'_>) -> Vec<Value> {
    let now = ground.facts.ubatch;
    let makes_a_difference = |ubatch: &u32| {
        *ubatch <= ground.facts.batch && *ubatch != now && now.min(*ubatch) < ground.prompt_tokens
    };
    let values = UBATCHES.into_iter().filter(makes_a_difference);
    values.map(Value::Ubatch).collect()
}

/// Whether the system gives large pages to who asks.
fn can_have_huge_pages() -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let mode = std::fs::read_to_string(path).unwrap_or_default();
    mode.contains("[madvise]") || mode.contains("[always]")
}

impl Value {
    fn put(&self, spec: &mut LoadSpec) {
        match self {
            // Those change over in a loaded model.
            Self::Default | Self::Cores(_) | Self::Speculation(_) => {}
            Self::FlashAttention(value) => spec.flash_attention = Some(*value),
            Self::Kv(keys, values) => {
                spec.kv_type_k = Some(*keys);
                spec.kv_type_v = Some(*values);
            }
            Self::Ubatch(n) => spec.ubatch = Some(*n),
            Self::Batch(n) => spec.batch = Some(*n),
            Self::HugePages(is_on) => spec.huge_pages = Some(*is_on),
            Self::Mmap(is_on) => spec.mmap = Some(*is_on),
            Self::Mlock(is_on) => spec.mlock = Some(*is_on),
            Self::Kernels(value) => spec.kernels = Some(*value),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |is_on: &bool| if *is_on { "on" } else { "off" };
        match self {
            Self::Default => f.write_str("default"),
            Self::Cores(set) => {
                let threads = crate::tune::text::count(set.len(), "thread");
                write!(f, "{threads} on {set}")
            }
            Self::FlashAttention(FlashAttention::Off) => f.write_str("off"),
            Self::FlashAttention(_) => f.write_str("on"),
            Self::Kv(keys, values) => {
                let name = |of: &CacheType| {
                    let value = serde_json::to_value(of).unwrap_or_default();
                    value.as_str().unwrap_or("?").to_owned()
                };
                write!(f, "{}/{}", name(keys), name(values))
            }
            Self::Ubatch(n) | Self::Batch(n) => write!(f, "{n}"),
            Self::HugePages(is_on) | Self::Mmap(is_on) | Self::Mlock(is_on) => {
                f.write_str(switch(is_on))
            }
            Self::Speculation(of) => write!(f, "{} by {}", of.draft_tokens_max, of.ngram),
            Self::Kernels(Kernels::Own) => f.write_str("own"),
            Self::Kernels(Kernels::Ggml) => f.write_str("ggml"),
        }
    }
}
