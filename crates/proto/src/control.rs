//! Loading, state and the end of a worker.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Event, Job, JobId, SamplingValues};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ToWorker {
    Hello {
        version: u32,
    },
    /// Sent once, after the hellos.
    Load(Box<LoadSpec>),
    Submit {
        id: JobId,
        job: Job,
    },
    /// The caller is gone. Answered by `Event::Failed` with `Cancelled`, unless
    /// the job's last event is already under way.
    Cancel {
        id: JobId,
    },
    /// Answered by `FromWorker::State`.
    Inspect {
        ticket: u64,
    },
    /// Memory is short: give back what is held only for speed, if nothing is to do. Not
    /// answered.
    GiveBack,
    /// Compute on other cores from the next pass on. It takes its place among the jobs, and
    /// is not answered.
    Place(Placement),
    /// Take no new jobs, finish those the engine has and answer `Drained`; requests that
    /// are still being prepared fail with `Draining`. The endpoint closes the connection
    /// then, which ends the worker.
    Drain,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum FromWorker {
    Hello {
        version: u32,
        pid: u32,
    },
    /// 0.0 to 1.0.
    LoadProgress {
        fraction: f32,
    },
    Loaded(Box<ModelFacts>),
    /// The worker exits after this.
    LoadFailed(LoadFailure),
    Event {
        id: JobId,
        event: Event,
    },
    State {
        ticket: u64,
        state: WorkerState,
    },
    Drained,
}

/// What to load and how. `None` means the worker's default; the values in force
/// come back in [`ModelFacts`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadSpec {
    /// The name clients use.
    pub name: String,
    /// A GGUF file; for a split model its first part.
    pub path: PathBuf,
    /// Most tokens one request may use, prompt and answer together.
    pub context: Option<u32>,
    /// Jobs that run at the same time.
    pub slots: Option<u32>,
    /// Jobs that may wait for a slot.
    pub queue_max: Option<u32>,
    pub batch: Option<u32>,
    pub ubatch: Option<u32>,
    pub threads: Option<u32>,
    pub threads_batch: Option<u32>,
    /// The CPUs on which it generates, such as `4-7`.
    pub cpus: Option<String>,
    /// Those on which it reads prompts.
    pub cpus_batch: Option<String>,
    pub kv_type_k: Option<CacheType>,
    pub kv_type_v: Option<CacheType>,
    /// Types by layer, as `kv::TypePlan` reads them. It stands before the two above, which say
    /// what it leaves open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_plan: Option<String>,
    pub flash_attention: Option<FlashAttention>,
    /// Sequences of the KV cache: of running jobs, and of prefixes for later ones.
    pub sequences: Option<u32>,
    pub kernels: Option<Kernels>,
    /// Layers on the GPU, as somebody set them; [`LoadSpec::gpu`] is what becomes of it.
    pub gpu_layers: Option<u32>,
    /// What the ledger has decided. Without it the worker does as `gpu_layers` says, with none
    /// where that says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Box<GpuPlacement>>,
    pub mmap: Option<bool>,
    /// Keep what is mapped in memory, whatever else wants it.
    pub mlock: Option<bool>,
    /// Ask for large pages for the weights that are packed.
    pub huge_pages: Option<bool>,
    /// Keep all tokens of sliding-window layers, so that any prefix can be reused.
    pub swa_full: Option<bool>,
    /// Replaces the GGUF's own chat template.
    pub chat_template: Option<String>,
    /// Tokens that stay when a context is full, for jobs that do not say; 0: the answer ends.
    pub attention_sinks: Option<u32>,
    /// Tokens of a thought, for jobs that do not say.
    pub reasoning_budget: Option<u32>,
    pub speculation: Option<crate::Speculation>,
    /// Where states of prompts are kept; `None`: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Box<PrefixSettings>>,
    /// The settings above that nobody gave: a measurement of this model on this machine did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<String>,
}

/// How states of prompts are kept beyond their requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixSettings {
    /// `None`: in memory alone.
    pub folder: Option<PathBuf>,
    pub ram_bytes: u64,
    /// Of all models together.
    pub disk_bytes: u64,
    /// Most bytes to write to disk in a day, by all models together.
    pub day_bytes: u64,
    /// The level of `kv::parked` at which they are kept, by its name; `None`: as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
}

/// Layers on a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuPlacement {
    /// By the engine's name for it, such as `Vulkan0`.
    pub device: String,
    /// How many, from the last; the output comes after the last layer and counts as one.
    pub layers: u32,
}

/// Threads and the CPUs they may run on; an empty text leaves that to the system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub threads: u32,
    pub threads_batch: u32,
    pub cpus: String,
    pub cpus_batch: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q5_0,
    Q5_1,
    Q4_0,
    Q4_1,
    Iq4Nl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlashAttention {
    Auto,
    On,
    Off,
}

/// Who computes on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernels {
    /// Our own, with ggml's for what they do not take.
    Own,
    Ggml,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvLayerFacts {
    pub layer: u32,
    pub keys: String,
    pub values: String,
    /// Of its two tensors.
    pub bytes: u64,
}

/// What the engine reports after loading: values in force, never wishes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelFacts {
    pub name: String,
    pub path: PathBuf,
    pub architecture: String,
    /// In one line, for example `llama 135M Q4_1`.
    pub description: String,
    pub n_params: u64,
    pub weights_bytes: u64,
    pub n_vocab: u32,
    pub n_embd: u32,
    pub n_layer: u32,
    pub context_train: u32,
    /// Most tokens one request may use.
    pub context: u32,
    pub slots: u32,
    pub queue_max: u32,
    pub sequences: u32,
    pub batch: u32,
    pub ubatch: u32,
    pub threads: u32,
    pub threads_batch: u32,
    /// Where those threads may run; empty: wherever the system puts them.
    pub cpus: String,
    pub cpus_batch: String,
    pub mmap: bool,
    pub mlock: bool,
    pub huge_pages: bool,
    /// `mixed` where layers differ; then [`ModelFacts::kv_layers`] says more.
    pub kv_type_k: String,
    pub kv_type_v: String,
    /// Where layers differ, the plan in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_plan: Option<String>,
    /// Where layers differ, those that keep keys, as the engine reports them; else none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kv_layers: Vec<KvLayerFacts>,
    pub kv_bytes: u64,
    pub flash_attention: bool,
    /// Layers that the engine put on a GPU, the output among them.
    pub gpu_layers: u32,
    /// Everything that the engine can compute on, and what of the model is there.
    pub devices: Vec<DeviceFacts>,
    /// Whose kernels compute, and the CPU features that they use.
    pub kernels: String,
    pub llama_version: String,
    /// Chat is possible (a decoder with a template, its own or the fallback).
    pub can_chat: bool,
    /// Chats go through the model's own template, or the one given for it, and not the
    /// fallback.
    pub own_template: bool,
    pub can_embed: bool,
    pub can_complete: bool,
    pub chat_template: Option<String>,
    /// Name of the tool-call format the answers are parsed as.
    pub tool_format: String,
    pub template_warnings: Vec<String>,
    /// The template can think and knows how to be told not to.
    pub can_reason: bool,
    /// Per-model sampling defaults, already merged with the engine's.
    pub sampling: SamplingValues,
    pub bos: Option<String>,
    pub eos: Option<String>,
    /// Tokens that stay when a context is full, for jobs that do not say; 0: the answer ends.
    pub attention_sinks: Option<u32>,
    /// Tokens of a thought, for jobs that do not say.
    pub reasoning_budget: Option<u32>,
    /// Drafting of requests that do not ask for another.
    pub speculation: Option<crate::Speculation>,
    pub load_ms: f64,
    /// The settings that a measurement of this model on this machine chose.
    pub tuned: Vec<String>,
}

/// A device as the engine reports it, and what of the model landed there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceFacts {
    /// For example `Vulkan0`.
    pub name: String,
    pub description: String,
    pub kind: DeviceKind,
    /// Bytes that were free when it was asked: after loading, where a model is loaded.
    pub memory_free_bytes: u64,
    pub memory_total_bytes: u64,
    /// Layers, the output among them.
    pub layers: u32,
    pub weights_bytes: u64,
    /// Keys, values and states.
    pub kv_bytes: u64,
    /// Buffers of the computation.
    pub compute_bytes: u64,
    /// Each buffer with what the engine says of it.
    pub buffers: Vec<BufferFacts>,
}

impl DeviceFacts {
    /// Bytes of all its buffers.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let each = self.buffers.iter().map(|buffer| buffer.bytes);
        each.fold(0, u64::saturating_add)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor, with ggml's kernels.
    #[default]
    Cpu,
    /// The processor, with ours.
    Kernels,
    Gpu,
    /// A GPU that computes in the host's memory.
    IntegratedGpu,
    Other,
}

impl DeviceKind {
    #[must_use]
    pub const fn is_gpu(self) -> bool {
        matches!(self, Self::Gpu | Self::IntegratedGpu)
    }
}

/// One piece of memory that the engine took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferFacts {
    /// For example `Vulkan0` or `CPU_Mapped`.
    pub name: String,
    pub holds: Holds,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    Weights,
    /// Keys, values and states.
    Kv,
    Compute,
    /// Logits and vectors.
    Output,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    pub kind: LoadFailureKind,
    /// Cause and fix, in one or two sentences.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadFailureKind {
    /// The file is missing or cannot be read.
    NotFound,
    /// The file is not a GGUF model this engine can load.
    Artifact,
    /// A setting the engine cannot take with this model.
    Setting,
    /// Memory, threads or a device could not be had.
    Resources,
    /// The process died while loading; the message has its last words.
    Crashed,
}

/// A look at a running worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerState {
    pub slots: Vec<SlotState>,
    pub queued: u32,
    pub kv: KvUse,
    pub resident_bytes: u64,
    /// Counters since start, for `/metrics`.
    pub prompt_tokens_total: u64,
    pub prompt_tokens_cached_total: u64,
    /// Of those, from states that had been put away.
    pub prompt_tokens_restored_total: u64,
    pub completion_tokens_total: u64,
    pub draft_tokens_total: u64,
    pub draft_accepted_tokens_total: u64,
    pub prefill_seconds_total: f64,
    pub decode_seconds_total: f64,
    pub jobs_total: u64,
    pub jobs_failed_total: u64,
    pub jobs_cancelled_total: u64,
    pub preemptions_total: u64,
    /// Slots that went to a more urgent request; who had them went on later.
    pub parkings_total: u64,
    /// `None`: no states of prompts are kept.
    pub prefixes: Option<PrefixUse>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotState {
    pub slot: u32,
    pub job: Option<JobId>,
    pub phase: SlotPhase,
    pub prompt_tokens: u32,
    pub prompt_done: u32,
    pub generated_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotPhase {
    Idle,
    Prefill,
    Decode,
}

/// States of prompts that are kept beyond their requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixUse {
    pub ram_bytes: u64,
    /// Of all models.
    pub disk_bytes: u64,
    /// On their way to the disk.
    pub pending_bytes: u64,
    pub entries: u32,
    pub written_bytes_total: u64,
    pub read_bytes_total: u64,
    /// Not written because of the limit for a day.
    pub refused_bytes_total: u64,
    /// Entries that were found faulty and left out.
    pub faulty_total: u64,
}

/// Cells of the KV cache; one cell holds one token of one or more sequences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvUse {
    pub cells: u32,
    pub cells_running: u32,
    /// Held for prefix reuse; freed when needed.
    pub cells_cached: u32,
    pub cached_prefixes: u32,
}
