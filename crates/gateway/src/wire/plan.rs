//! What a model would take, as JSON: the answer of `POST /api/plan` and of
//! `sextant plan --json`.

use kv::{Part, Types};
use planner::{Answer, Band, Basis, Change, Compute, Fit, Place};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::library::{PlanAsk, Planned};

/// Body of `POST /api/plan`. What is absent is as a load would have it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PlanRequest {
    /// The name of a model on the server's machine; it need not be loaded.
    pub(crate) model: Option<String>,
    /// Tokens of the KV cache, over all slots.
    pub(crate) context: Option<u32>,
    pub(crate) slots: Option<u32>,
    pub(crate) batch: Option<u32>,
    pub(crate) ubatch: Option<u32>,
    /// For example `f16` or `q8_0`.
    pub(crate) kv_type_k: Option<String>,
    pub(crate) kv_type_v: Option<String>,
    /// Types by layer, such as `k=q8_0,v=q4_0;k[18,20-23]=f16`. They stand before the two above,
    /// which say what they leave open.
    pub(crate) kv_plan: Option<String>,
    pub(crate) gpu_layers: Option<u32>,
    pub(crate) swa_full: Option<bool>,
    /// Bytes to plan against; absent: what this machine has left for models.
    pub(crate) memory_bytes: Option<u64>,
    /// Bytes of a GPU: as many layers go there as fit.
    pub(crate) gpu_bytes: Option<u64>,
    /// A machine whose speed is known, for example `rk3588-lpddr5`.
    pub(crate) device: Option<String>,
    /// Models that are in memory at the same time, 16 at most; one may stand there twice.
    pub(crate) beside: Vec<String>,
    /// A draft model that goes with this one.
    pub(crate) draft: Option<String>,
}

impl PlanRequest {
    pub(crate) fn into_ask(self, model: String) -> PlanAsk {
        PlanAsk {
            model,
            context: self.context,
            slots: self.slots,
            batch: self.batch,
            ubatch: self.ubatch,
            kv_type_k: self.kv_type_k,
            kv_type_v: self.kv_type_v,
            kv_plan: self.kv_plan,
            gpu_layers: self.gpu_layers,
            swa_full: self.swa_full,
            memory_bytes: self.memory_bytes,
            gpu_bytes: self.gpu_bytes,
            device: self.device,
            beside: self.beside,
            draft: self.draft,
        }
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlanReport {
    model: String,
    architecture: String,
    settings: PlanSettings,
    /// `fast`: all of it in the fastest memory; `spills`: a part in slower memory; `no`.
    fits: &'static str,
    /// Bytes that are missing; 0 where it fits.
    missing_bytes: u64,
    /// Bytes that must be free on the host.
    needed_bytes: u64,
    /// Bytes that the process will show as resident after a prompt, file pages included.
    resident_bytes: u64,
    device_bytes: u64,
    available_bytes: u64,
    available_device_bytes: u64,
    ledger: Vec<PlanTerm>,
    caches: Vec<PlanCache>,
    /// Keys and values of each layer that keeps them.
    kv_layers: Vec<PlanLayer>,
    /// The largest context that fits with these settings; null: none.
    context_max: Option<u32>,
    slots_max: Option<u32>,
    /// Pairs of types for this context, from the most bytes to the fewest.
    kv_types: Vec<PlanTypes>,
    /// What the choice loses, in words.
    losses: Vec<String>,
    /// Any one of these makes it fit; empty where it does.
    changes: Vec<PlanChange>,
    speed: PlanSpeed,
}

/// What the plan is for, with what was absent filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanSettings {
    context: u32,
    slots: u32,
    /// Sequences that the engine keeps for the slots.
    sequences: u32,
    batch: u32,
    ubatch: u32,
    /// `mixed` where layers differ.
    kv_type_k: &'static str,
    kv_type_v: &'static str,
    /// Where layers differ, the plan in full.
    kv_plan: Option<String>,
    flash_attention: bool,
    /// `own` or `ggml`
    kernels: &'static str,
    gpu_layers: u32,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanTerm {
    name: &'static str,
    bytes: u64,
    /// `host`, `cached` (file pages that the system may take back), `device`, or `later`
    place: &'static str,
    /// `exact`, `fitted` to measurements, or `given`
    basis: &'static str,
}

/// A cache as llama.cpp will allocate it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanCache {
    /// `tokens`, `window`, `index` or `states`
    part: &'static str,
    cells: u64,
    streams: u64,
    layers: u64,
    bytes: u64,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanLayer {
    layer: u32,
    kv_type_k: &'static str,
    kv_type_v: &'static str,
    keys_bytes: u64,
    values_bytes: u64,
}

/// Another pair of types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanTypes {
    kv_type_k: &'static str,
    kv_type_v: &'static str,
    bytes: u64,
    losses: Vec<String>,
}

/// A setting and the value with which it fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanChange {
    setting: &'static str,
    value: String,
}

/// Tokens a second, for one stream.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlanSpeed {
    machine: String,
    source: String,
    decode: PlanBand,
    /// When the context is full.
    decode_full: PlanBand,
    /// Null where the machine's integer throughput is not known.
    prefill: Option<PlanBand>,
}

/// A range in which the true value is expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct PlanBand {
    low: f64,
    high: f64,
}

impl PlanReport {
    #[must_use]
    pub fn new(planned: &Planned) -> Self {
        let Planned {
            answer,
            model,
            architecture,
            sequences,
            ..
        } = planned;
        let (fits, missing_bytes) = match answer.fit {
            Fit::Fast => ("fast", 0),
            Fit::Spills { .. } => ("spills", 0),
            Fit::No { missing } => ("no", missing),
        };
        Self {
            model: model.clone(),
            architecture: architecture.clone(),
            settings: settings(answer, *sequences),
            fits,
            missing_bytes,
            needed_bytes: answer.ledger.host_needed(),
            resident_bytes: answer.ledger.resident(),
            device_bytes: answer.ledger.bytes_in(Place::Device),
            available_bytes: answer.available.host,
            available_device_bytes: answer.available.device,
            ledger: answer.ledger.terms.iter().map(term).collect(),
            caches: answer.plan.caches.iter().map(cache).collect(),
            kv_layers: layers(&answer.plan),
            context_max: answer.context_max,
            slots_max: answer.slots_max,
            kv_types: answer.types.iter().map(types).collect(),
            losses: answer.losses.iter().map(ToString::to_string).collect(),
            changes: answer.changes.iter().flat_map(changes).collect(),
            speed: PlanSpeed {
                machine: planned.machine.clone(),
                source: planned.machine_source.clone(),
                decode: band(planned.speed.decode),
                decode_full: band(planned.speed.decode_full),
                prefill: planned.speed.prefill.map(band),
            },
        }
    }
}

fn settings(answer: &Answer, sequences: u32) -> PlanSettings {
    let setup = &answer.setup;
    let uniform = answer.plan.uniform_types().or(setup.types.as_uniform());
    let side = |of: fn(kv::Types) -> kv::CacheType| {
        let layers = answer.plan.layers.iter().map(|layer| layer.types);
        let mut types = layers.chain(uniform).map(of);
        let first = types.next().unwrap_or(kv::CacheType::F16);
        match types.all(|other| other == first) {
            true => first.name(),
            false => "mixed",
        }
    };
    PlanSettings {
        context: setup.context,
        slots: setup.slots,
        sequences,
        batch: setup.batch,
        ubatch: setup.ubatch,
        kv_type_k: side(|types| types.keys),
        kv_type_v: side(|types| types.values),
        kv_plan: answer.plan.is_mixed().then(|| setup.types.to_string()),
        flash_attention: setup.has_flash_attention,
        kernels: match setup.compute {
            Compute::Own => "own",
            Compute::Ggml => "ggml",
        },
        gpu_layers: setup.gpu_layers,
    }
}

fn term(term: &planner::Term) -> PlanTerm {
    PlanTerm {
        name: term.name,
        bytes: term.bytes.0,
        place: place(term.place),
        basis: basis(term.basis),
    }
}

/// The word for a place.
#[must_use]
pub const fn place(place: Place) -> &'static str {
    match place {
        Place::Host => "host",
        Place::Cached => "cached",
        Place::Device => "device",
        Place::Later => "later",
    }
}

/// The word for how a term is known.
#[must_use]
pub const fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Exact => "exact",
        Basis::Fitted => "fitted",
        Basis::Given => "given",
    }
}

fn cache(cache: &kv::Cache) -> PlanCache {
    PlanCache {
        part: match cache.part {
            Part::Tokens => "tokens",
            Part::Window => "window",
            Part::Index => "index",
            Part::States => "states",
        },
        cells: cache.cells,
        streams: cache.streams,
        layers: cache.layers,
        bytes: cache.bytes(),
    }
}

/// From the first to the last, whatever the order of their tensors.
fn layers(plan: &kv::Plan) -> Vec<PlanLayer> {
    let each = plan.layers.iter().map(|layer| PlanLayer {
        layer: layer.layer,
        kv_type_k: layer.types.keys.name(),
        kv_type_v: layer.types.values.name(),
        keys_bytes: layer.keys_bytes,
        values_bytes: layer.values_bytes,
    });
    let mut layers: Vec<_> = each.collect();
    layers.sort_by_key(|layer| layer.layer);
    layers
}

fn types(choice: &planner::TypeChoice) -> PlanTypes {
    PlanTypes {
        kv_type_k: choice.types.keys.name(),
        kv_type_v: choice.types.values.name(),
        bytes: choice.kv_bytes,
        losses: choice.losses.iter().map(ToString::to_string).collect(),
    }
}

fn changes(change: &Change) -> Vec<PlanChange> {
    let one = |setting, value: String| vec![PlanChange { setting, value }];
    match *change {
        Change::Context(context) => one("context", context.to_string()),
        Change::Slots(slots) => one("slots", slots.to_string()),
        Change::Sequences(sequences) => one("sequences", sequences.to_string()),
        Change::GgmlKernels => one("kernels", "ggml".to_owned()),
        Change::Ubatch(ubatch) => one("ubatch", ubatch.to_string()),
        Change::GpuLayers(layers) => one("gpu_layers", layers.to_string()),
        Change::Together { context, sequences } => [
            ("kernels", "ggml".to_owned()),
            ("sequences", sequences.to_string()),
            ("context", context.to_string()),
        ]
        .map(|(setting, value)| PlanChange { setting, value })
        .to_vec(),
        Change::SmallerModel { missing } => one("model", format!("smaller by {missing} bytes")),
        Change::Types(Types { keys, values }) => vec![
            PlanChange {
                setting: "kv_type_k",
                value: keys.to_string(),
            },
            PlanChange {
                setting: "kv_type_v",
                value: values.to_string(),
            },
        ],
    }
}

/// To three digits, more would be pretence.
fn band(band: Band) -> PlanBand {
    let short = |value: f64| {
        let digits = 10_f64.powf(2.0 - value.abs().max(1e-9).log10().floor());
        (value * digits).round() / digits
    };
    PlanBand {
        low: short(band.low),
        high: short(band.high),
    }
}
