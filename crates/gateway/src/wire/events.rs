//! The state of the endpoint as the workbench sees it, on the wire.

use proto::{LoadSpec, ModelFacts, SlotPhase, WorkerState};
use serde::Serialize;
use supervisor::{ModelPhase, ModelStatus, PressureState};
use utoipa::ToSchema;

use crate::library::PullState;
use crate::routes::health::why_not;
use crate::wire::openai::models::facts;
use crate::wire::telemetry::{MarksState, TelemetryPoint};

/// An event of `GET /api/events`. Its id is a place in the course of changes; `Last-Event-ID`
/// goes on from there, or begins with a snapshot where that is too long ago.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum BusEvent {
    /// All that there is; what was known before is void.
    Snapshot { entries: Vec<BusEntry> },
    /// An entry is new or has changed.
    Upsert { entry: Box<BusEntry> },
    /// An entry is gone.
    Remove { key: String },
}

/// A thing with its key, and its state.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct BusEntry {
    pub(crate) key: String,
    pub(crate) state: BusState,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum BusState {
    Server(ServerState),
    Memory(MemoryState),
    Model(Box<ModelState>),
    Pull(PullProgress),
    Answer(OpenAnswer),
    Chats(ChatsState),
    Log(LogState),
    /// The latest ten seconds of the history.
    Telemetry(Box<TelemetryPoint>),
    Marks(MarksState),
}

/// The endpoint itself.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ServerState {
    pub(crate) version: &'static str,
    /// Seconds since 1970.
    pub(crate) started_s: u64,
    /// There is a database to keep chats in.
    pub(crate) has_chats: bool,
    /// There is a store that models can be pulled into.
    pub(crate) has_library: bool,
    /// A history of figures is kept.
    pub(crate) has_history: bool,
    /// The request's key may load, unload and pull models.
    pub(crate) may_manage: bool,
}

/// What all models take.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct MemoryState {
    pub(crate) memory_bytes: u64,
    /// Null without a limit.
    pub(crate) memory_bytes_max: Option<u64>,
    pub(crate) gpu_memory_bytes: u64,
    /// Null where no GPU is used.
    pub(crate) gpu_memory_bytes_max: Option<u64>,
    /// `calm`, `short` or `critical`
    pub(crate) pressure: &'static str,
    /// Times that idle models gave their caches back.
    pub(crate) shrinks: u64,
    /// Models that were unloaded for want of memory.
    pub(crate) unloads: u64,
}

impl MemoryState {
    pub(crate) fn new(
        host: (u64, Option<u64>),
        gpu: (u64, Option<u64>),
        pressure: PressureState,
    ) -> Self {
        Self {
            memory_bytes: host.0,
            memory_bytes_max: host.1,
            gpu_memory_bytes: gpu.0,
            gpu_memory_bytes_max: gpu.1,
            pressure: pressure.level.word(),
            shrinks: pressure.shrinks,
            unloads: pressure.unloads,
        }
    }
}

/// A download.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct PullProgress {
    spec: String,
    files: Vec<PullFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct PullFile {
    name: String,
    done_bytes: u64,
    total_bytes: Option<u64>,
}

impl PullProgress {
    pub(crate) fn new(spec: String, state: &PullState) -> Self {
        let files = state.files.iter().map(|file| PullFile {
            name: file.file.clone(),
            done_bytes: file.done,
            total_bytes: file.total,
        });
        Self {
            spec,
            files: files.collect(),
        }
    }
}

/// An answer of a chat that is being written.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct OpenAnswer {
    pub(crate) chat: String,
    pub(crate) message: String,
    pub(crate) model: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) began_ms: u64,
}

/// Counts the changes of the list of chats.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChatsState {
    pub(crate) changes: u64,
}

/// How far the log is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LogState {
    /// The number of its last line, as `/api/logs` counts them.
    pub(crate) latest: u64,
}

/// A model of this process.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ModelState {
    name: String,
    /// `unloaded`, `starting`, `loading`, `ready`, `restarting`, `draining` or `failed`
    phase: &'static str,
    /// 0 to 1 while loading.
    load_fraction: Option<f32>,
    /// Why it cannot answer now, where it cannot.
    why: Option<String>,
    restarts: u32,
    /// Why its worker last died.
    last_crash: Option<String>,
    on_demand: bool,
    pinned: bool,
    /// What it takes or will take, and whether that was seen or is an estimate.
    memory_bytes: u64,
    memory_measured: bool,
    gpu_memory_bytes: u64,
    /// When it goes if nobody asks for it, seconds since 1970, to 5 s; null: not before memory is
    /// needed.
    expires_s: Option<u64>,
    /// The model that this one is for.
    helps: Option<String>,
    requests_running: u32,
    /// Requests that wait for it to be loaded.
    requests_waiting: u32,
    can_chat: bool,
    can_embed: bool,
    n_params: u64,
    architecture: Option<String>,
    quant: Option<String>,
    /// The context that it has or will have, tokens.
    context: Option<u32>,
    context_train: Option<u32>,
    /// What somebody asked for; null where that was left to the endpoint.
    asked: AskedSettings,
    /// Values in force, from the engine; null until it is loaded.
    facts: Option<RuntimeFacts>,
    /// What the worker is doing; null where it is not ready.
    worker: Option<WorkerView>,
}

/// Settings as they were asked for.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct AskedSettings {
    context: Option<u32>,
    slots: Option<u32>,
    batch: Option<u32>,
    ubatch: Option<u32>,
    threads: Option<u32>,
    threads_batch: Option<u32>,
    #[schema(value_type = Option<String>)]
    kv_type_k: Option<proto::CacheType>,
    #[schema(value_type = Option<String>)]
    kv_type_v: Option<proto::CacheType>,
    /// Types by layer, which stand before those two.
    kv_plan: Option<String>,
    #[schema(value_type = Option<String>)]
    flash_attention: Option<proto::FlashAttention>,
    gpu_layers: Option<u32>,
    /// Those that a measurement of this machine chose.
    tuned: Vec<String>,
}

impl AskedSettings {
    pub(crate) fn new(spec: &LoadSpec) -> Self {
        Self {
            context: spec.context,
            slots: spec.slots,
            batch: spec.batch,
            ubatch: spec.ubatch,
            threads: spec.threads,
            threads_batch: spec.threads_batch,
            kv_type_k: spec.kv_type_k,
            kv_type_v: spec.kv_type_v,
            kv_plan: spec.kv_plan.clone(),
            flash_attention: spec.flash_attention,
            gpu_layers: spec.gpu_layers,
            tuned: spec.tuned.clone(),
        }
    }
}

/// Values in force, as the engine reports them after loading.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct RuntimeFacts {
    description: String,
    weights_bytes: u64,
    kv_bytes: u64,
    n_layer: u32,
    n_embd: u32,
    n_vocab: u32,
    /// Most tokens of one request.
    context: u32,
    context_train: u32,
    slots: u32,
    queue_max: u32,
    sequences: u32,
    batch: u32,
    ubatch: u32,
    threads: u32,
    threads_batch: u32,
    cpus: String,
    cpus_batch: String,
    mmap: bool,
    mlock: bool,
    huge_pages: bool,
    /// `mixed` where layers differ.
    kv_type_k: String,
    kv_type_v: String,
    /// Where layers differ, the plan in full.
    kv_plan: Option<String>,
    /// Where layers differ, what each that keeps keys has; else empty.
    kv_layers: Vec<KvLayerView>,
    flash_attention: bool,
    gpu_layers: u32,
    devices: Vec<DeviceView>,
    kernels: String,
    llama_version: String,
    can_reason: bool,
    own_template: bool,
    tool_format: String,
    template_warnings: Vec<String>,
    #[schema(value_type = Object)]
    sampling: proto::SamplingValues,
    #[schema(value_type = Option<crate::wire::openai::request::SpeculationRequest>)]
    speculation: Option<proto::Speculation>,
    load_ms: f64,
    tuned: Vec<String>,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct KvLayerView {
    layer: u32,
    keys: String,
    values: String,
    bytes: u64,
}

/// A device, and what of the model is there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct DeviceView {
    name: String,
    description: String,
    is_gpu: bool,
    layers: u32,
    weights_bytes: u64,
    kv_bytes: u64,
    compute_bytes: u64,
}

impl RuntimeFacts {
    fn new(facts: &ModelFacts) -> Self {
        let devices = facts
            .devices
            .iter()
            .filter(|device| device.held_bytes() > 0);
        let devices = devices.map(|device| DeviceView {
            name: device.name.clone(),
            description: device.description.clone(),
            is_gpu: device.kind.is_gpu(),
            layers: device.layers,
            weights_bytes: device.weights_bytes,
            kv_bytes: device.kv_bytes,
            compute_bytes: device.compute_bytes,
        });
        let layers = facts.kv_layers.iter().map(|layer| KvLayerView {
            layer: layer.layer,
            keys: layer.keys.clone(),
            values: layer.values.clone(),
            bytes: layer.bytes,
        });
        Self {
            devices: devices.collect(),
            description: facts.description.clone(),
            weights_bytes: facts.weights_bytes,
            kv_bytes: facts.kv_bytes,
            n_layer: facts.n_layer,
            n_embd: facts.n_embd,
            n_vocab: facts.n_vocab,
            context: facts.context,
            context_train: facts.context_train,
            slots: facts.slots,
            queue_max: facts.queue_max,
            sequences: facts.sequences,
            batch: facts.batch,
            ubatch: facts.ubatch,
            threads: facts.threads,
            threads_batch: facts.threads_batch,
            cpus: facts.cpus.clone(),
            cpus_batch: facts.cpus_batch.clone(),
            mmap: facts.mmap,
            mlock: facts.mlock,
            huge_pages: facts.huge_pages,
            kv_type_k: facts.kv_type_k.clone(),
            kv_type_v: facts.kv_type_v.clone(),
            kv_plan: facts.kv_plan.clone(),
            kv_layers: layers.collect(),
            flash_attention: facts.flash_attention,
            gpu_layers: facts.gpu_layers,
            kernels: facts.kernels.clone(),
            llama_version: facts.llama_version.clone(),
            can_reason: facts.can_reason,
            own_template: facts.own_template,
            tool_format: facts.tool_format.clone(),
            template_warnings: facts.template_warnings.clone(),
            sampling: facts.sampling.clone(),
            speculation: facts.speculation,
            load_ms: facts.load_ms,
            tuned: facts.tuned.clone(),
        }
    }
}

/// A worker at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct WorkerView {
    slots: Vec<SlotView>,
    /// Jobs that wait for a slot.
    queued: u32,
    /// Cells of the KV cache: all, those of running requests, those kept for reuse.
    kv_cells: u32,
    kv_cells_running: u32,
    kv_cells_cached: u32,
    cached_prefixes: u32,
    /// To a MiB: less than that is noise.
    resident_bytes: u64,
    /// Tokens a second of the last prompts and answers; null before the first.
    prefill_tps: Option<f64>,
    decode_tps: Option<f64>,
    prompt_tokens_total: u64,
    prompt_tokens_cached_total: u64,
    completion_tokens_total: u64,
    draft_tokens_total: u64,
    draft_accepted_tokens_total: u64,
    jobs_total: u64,
    jobs_failed_total: u64,
    preemptions_total: u64,
    /// Slots that went to a more urgent request.
    parkings_total: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct SlotView {
    slot: u32,
    /// `idle`, `prefill` or `decode`
    phase: &'static str,
    prompt_tokens: u32,
    prompt_done: u32,
    generated_tokens: u32,
}

/// Tokens a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Speeds {
    pub(crate) prefill: Option<f64>,
    pub(crate) decode: Option<f64>,
}

const MIB: u64 = 1 << 20;
const EXPIRES_STEP_MS: u64 = 5000;

impl WorkerView {
    fn new(worker: &WorkerState, speeds: Speeds) -> Self {
        let slots = worker.slots.iter().map(|slot| SlotView {
            slot: slot.slot,
            phase: match slot.phase {
                SlotPhase::Idle => "idle",
                SlotPhase::Prefill => "prefill",
                SlotPhase::Decode => "decode",
            },
            prompt_tokens: slot.prompt_tokens,
            prompt_done: slot.prompt_done,
            generated_tokens: slot.generated_tokens,
        });
        Self {
            slots: slots.collect(),
            queued: worker.queued,
            kv_cells: worker.kv.cells,
            kv_cells_running: worker.kv.cells_running,
            kv_cells_cached: worker.kv.cells_cached,
            cached_prefixes: worker.kv.cached_prefixes,
            resident_bytes: worker.resident_bytes / MIB * MIB,
            prefill_tps: speeds.prefill,
            decode_tps: speeds.decode,
            prompt_tokens_total: worker.prompt_tokens_total,
            prompt_tokens_cached_total: worker.prompt_tokens_cached_total,
            completion_tokens_total: worker.completion_tokens_total,
            draft_tokens_total: worker.draft_tokens_total,
            draft_accepted_tokens_total: worker.draft_accepted_tokens_total,
            jobs_total: worker.jobs_total,
            jobs_failed_total: worker.jobs_failed_total,
            preemptions_total: worker.preemptions_total,
            parkings_total: worker.parkings_total,
        }
    }
}

impl ModelState {
    /// `now_ms` is the time, milliseconds since 1970.
    pub(crate) fn new(
        model: &ModelStatus,
        worker: Option<(&WorkerState, Speeds)>,
        now_ms: u64,
    ) -> Self {
        let (place, traits) = (&model.place, &model.place.traits);
        let known = facts(model);
        let architecture = known.map(|facts| facts.architecture.clone());
        Self {
            name: model.name.clone(),
            phase: model.phase.word(),
            load_fraction: match model.phase {
                ModelPhase::Loading { fraction } => Some(fraction),
                _ => None,
            },
            why: why_not(model),
            restarts: model.restarts,
            last_crash: model.last_crash.clone(),
            on_demand: place.is_listed,
            pinned: place.pinned,
            memory_bytes: place.bytes,
            memory_measured: place.is_measured,
            gpu_memory_bytes: place.device_bytes,
            expires_s: place
                .expires_in_ms
                // Two looks at a clock that stands still must not differ.
                .map(|ms| now_ms.saturating_add(ms + EXPIRES_STEP_MS / 2) / EXPIRES_STEP_MS)
                .map(|steps| steps * (EXPIRES_STEP_MS / 1000)),
            helps: place.helps.clone(),
            requests_running: place.running,
            requests_waiting: place.waiting,
            can_chat: known.map_or(traits.can_chat, |facts| facts.can_chat),
            can_embed: known.map_or(traits.can_embed, |facts| facts.can_embed),
            n_params: known.map_or(traits.n_params, |facts| facts.n_params),
            architecture: architecture.or_else(|| traits.architecture.clone()),
            quant: traits.quant.clone(),
            context: known.map(|facts| facts.context).or(traits.context),
            context_train: known
                .map(|facts| facts.context_train)
                .or(traits.context_train),
            asked: AskedSettings::new(&model.spec),
            facts: known.map(RuntimeFacts::new),
            worker: worker.map(|(worker, speeds)| WorkerView::new(worker, speeds)),
        }
    }
}
