//! From a `LoadSpec` to an engine and the facts about it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use engine::{
    Decoder, Embedder, EngineFacts, LlamaDecoder, LlamaEngine, OpenError, OpenOptions, PrefixStore,
    Vocabulary,
};
use llama::{CacheTypes, LoadError};
use models::ArtifactFault;
use proto::{
    DeviceFacts, FlashAttention, LoadFailure, LoadFailureKind, LoadSpec, ModelFacts, SamplingValues,
};
use sampling::Params;

use crate::parking::Codec;
use crate::prefixes::DiskStore;
use crate::{fingerprint, landed, place, types};

/// Context when none was asked for: what most chats need, and 16 times what some
/// peers cut prompts to; larger ones are one setting away.
pub const CONTEXT_DEFAULT_MAX: u32 = 8192;
/// Requests at the same time.
const SLOTS_DEFAULT: u32 = 4;
const QUEUE_DEFAULT: u32 = 64;
/// Tokens of one call.
const BATCH_DEFAULT: u32 = 2048;
/// Tokens of one pass through the model.
pub(crate) const UBATCH_DEFAULT: u32 = 512;
/// Lines of llama.cpp's log kept to explain a failed load.
const LOG_LINES_KEPT: usize = 4000;

/// A model that is ready to run.
pub struct Loaded {
    /// `None` for models that only embed.
    pub decoder: Option<Box<dyn Decoder>>,
    pub vocabulary: Arc<dyn Vocabulary>,
    pub embedder: Option<Box<dyn Embedder>>,
    pub facts: ModelFacts,
    /// Chat template of the model, where it has one.
    pub template: Option<String>,
    /// Where states of prompts are kept.
    pub prefixes: Option<Box<dyn PrefixStore>>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// Makes engines; llama.cpp, or a fake in tests.
pub trait Loader: Send + 'static {
    fn load(self, spec: &LoadSpec, progress: &mut dyn FnMut(f32)) -> Result<Loaded, LoadFailure>;
}

/// Loads GGUF files with llama.cpp.
#[derive(Debug, Clone, Copy)]
pub struct LlamaLoader;

impl Loader for LlamaLoader {
    fn load(self, spec: &LoadSpec, progress: &mut dyn FnMut(f32)) -> Result<Loaded, LoadFailure> {
        let file = check_file(spec)?;
        let mut options = options(spec, types::chosen(spec, &file)?)?;
        if options.huge_pages {
            allow_huge_pages();
        }
        clear_log();
        llama::init(crate::log_line, kernels(spec, &file));
        options.offload = offload(spec, &file)?;
        types::check_device(&options)?;
        let engine = LlamaEngine::open(&options, |fraction| {
            progress(fraction);
            true
        })
        .map_err(|error| explain(spec, &error))?;
        check_sinks(spec, engine.decoder.as_ref())?;
        let mut facts = facts(spec, &options, &engine.facts, engine.decoder.is_some());
        facts.description = description(&facts, file.quant.as_deref());
        let template = spec
            .chat_template
            .clone()
            .or_else(|| engine.facts.model.chat_template());
        let prefixes = prefixes(spec, &facts, engine.decoder.as_ref());
        Ok(Loaded {
            prefixes,
            decoder: engine
                .decoder
                .map(|decoder| Box::new(decoder) as Box<dyn Decoder>),
            vocabulary: engine.vocabulary,
            embedder: Some(Box::new(engine.embedder)),
            facts,
            template,
        })
    }
}

/// What cannot be done for any request is no setting.
fn check_sinks(spec: &LoadSpec, decoder: Option<&LlamaDecoder>) -> Result<(), LoadFailure> {
    let sinks = spec.attention_sinks.filter(|sinks| *sinks > 0);
    let refusal = decoder.zip(sinks);
    match refusal.and_then(|(decoder, sinks)| engine::sinks_refusal(decoder, sinks)) {
        Some(message) => Err(failure(LoadFailureKind::Setting, message)),
        None => Ok(()),
    }
}

/// Where states of prompts are kept, if somebody wants them kept and the model's can be.
fn prefixes(
    spec: &LoadSpec,
    facts: &ModelFacts,
    decoder: Option<&LlamaDecoder>,
) -> Option<Box<dyn PrefixStore>> {
    let settings = spec.prefixes.as_deref()?;
    let Some(needs) = decoder?.needs() else {
        tracing::info!("states of this model cannot be taken apart, so no prompts are kept");
        return None;
    };
    let codec = Codec::new(settings.codec.as_deref(), decoder?.states());
    let codec = codec
        .inspect_err(|error| tracing::warn!("no prompts are kept: {error}"))
        .ok()?;
    let fingerprint = fingerprint::of(&spec.path, facts, codec.inexact())
        .inspect_err(|error| tracing::warn!("no prompts are kept: {error}"))
        .ok()?;
    let store = DiskStore::open(settings, (fingerprint, needs), codec);
    Some(Box::new(store))
}

/// The allocator keeps the process from large pages; who asks for them gets them.
pub fn allow_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(false) {
        tracing::warn!(%error, "there will be no large pages");
    }
}

pub(crate) fn failure(kind: LoadFailureKind, message: String) -> LoadFailure {
    LoadFailure { kind, message }
}

/// Faults that are clearer said by us than by llama.cpp.
pub(crate) fn check_file(spec: &LoadSpec) -> Result<models::Facts, LoadFailure> {
    models::diagnose(&spec.path).map_err(|fault| {
        let kind = match fault {
            ArtifactFault::NotFound { .. } | ArtifactFault::Unreadable { .. } => {
                LoadFailureKind::NotFound
            }
            _ => LoadFailureKind::Artifact,
        };
        failure(kind, fault.to_string())
    })
}

/// What computes, by version: measurements of another build are not those of this one.
#[must_use]
pub fn build() -> String {
    let (version, llama) = (env!("CARGO_PKG_VERSION"), llama::version());
    format!("sextant {version}, llama.cpp {llama}")
}

/// What was asked for, else our own where they multiply nine tenths of the weights: a graph
/// that changes hands at most products loses more than it gains. A worker loads one model,
/// so this is the process's choice.
pub(crate) fn kernels(spec: &LoadSpec, file: &models::Facts) -> llama::Kernels {
    match kernels_of(spec, file) {
        proto::Kernels::Own => llama::Kernels::Own,
        proto::Kernels::Ggml => llama::Kernels::Ggml,
    }
}

/// Whether the llama.cpp of this program has a back end for GPUs: without one `gpu_layers`
/// does nothing.
pub const HAS_GPU_BACK_END: bool = llama::HAS_GPU_BACK_END;

/// What this process can compute on. It may start a GPU's driver, which takes memory for as
/// long as the process lives, and may end it.
#[must_use]
pub fn devices() -> Vec<DeviceFacts> {
    llama::init(crate::log_line, llama::Kernels::Ggml);
    landed::devices(&[])
}

/// Whose kernels a model will run on: what was asked for, else what its weights are for.
#[must_use]
pub fn kernels_of(spec: &LoadSpec, file: &models::Facts) -> proto::Kernels {
    if let Some(asked) = spec.kernels {
        return asked;
    }
    let types = file.matrix_bytes.iter();
    let (taken, others): (Vec<_>, Vec<_>) =
        types.partition(|(name, _)| llama::own_kernels_take(name));
    let bytes = |types: Vec<(&&str, &u64)>| types.into_iter().map(|(_, bytes)| bytes).sum::<u64>();
    let (taken, others) = (bytes(taken), bytes(others) + file.expert_bytes);
    if taken / 9 >= others {
        proto::Kernels::Own
    } else {
        proto::Kernels::Ggml
    }
}

/// Counts of a load that depend on one another, with what holds where nobody has set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Requests at the same time.
    pub slots: u32,
    /// Tokens of one call.
    pub batch: u32,
    /// Tokens of one pass through the model, at most those of a call.
    pub ubatch: u32,
}

impl Counts {
    /// Those that a spec asks for.
    ///
    /// # Errors
    /// A failure of [`LoadFailureKind::Setting`]: `ubatch` is set to more than `batch`, or
    /// `sequences` to less than `slots`.
    pub fn of(spec: &LoadSpec) -> Result<Self, LoadFailure> {
        let refused = |message| Err(failure(LoadFailureKind::Setting, message));
        let batch = spec.batch.unwrap_or(BATCH_DEFAULT);
        let slots = spec.slots.unwrap_or(SLOTS_DEFAULT);
        if let Some(ubatch) = spec.ubatch.filter(|ubatch| *ubatch > batch) {
            return refused(format!(
                "ubatch is {ubatch}, it must be at most batch, which is {batch}"
            ));
        }
        if let Some(sequences) = spec.sequences.filter(|sequences| *sequences < slots) {
            return refused(format!(
                "sequences is {sequences}, it must be at least slots, which is {slots}"
            ));
        }
        Ok(Self {
            slots,
            batch,
            ubatch: spec.ubatch.unwrap_or(UBATCH_DEFAULT).min(batch),
        })
    }
}

fn options(spec: &LoadSpec, types: CacheTypes) -> Result<OpenOptions, LoadFailure> {
    let placement = place::choose(spec, &hardware::DefaultCores::read())?;
    let flash_attention = spec.flash_attention.unwrap_or(FlashAttention::Auto);
    check_ranges(spec)?;
    let counts = Counts::of(spec)?;
    Ok(OpenOptions {
        path: spec.path.clone(),
        context: spec.context,
        context_max: CONTEXT_DEFAULT_MAX,
        slots: counts.slots,
        sequences: spec.sequences,
        batch: counts.batch,
        ubatch: counts.ubatch,
        placement,
        types,
        flash_attention: match flash_attention {
            FlashAttention::Auto => llama::FlashAttention::Auto,
            FlashAttention::On => llama::FlashAttention::On,
            FlashAttention::Off => llama::FlashAttention::Off,
        },
        offload: None,
        mmap: spec.mmap.unwrap_or(true),
        mlock: spec.mlock.unwrap_or(false),
        huge_pages: spec.huge_pages.unwrap_or(true),
        swa_full: spec.swa_full.unwrap_or(false),
    })
}

/// What the ledger has decided, else what was asked for; none where there is no GPU, which the
/// facts then tell.
fn offload(spec: &LoadSpec, file: &models::Facts) -> Result<Option<llama::Offload>, LoadFailure> {
    let wanted = match (&spec.gpu, spec.gpu_layers) {
        (Some(placed), _) => Some((Some(placed.device.clone()), placed.layers)),
        (None, Some(layers)) => Some((None, layers)),
        (None, None) => None,
    };
    let Some((device, layers)) = wanted.filter(|(_, layers)| *layers > 0) else {
        return Ok(None);
    };
    let Some(device) = device.or_else(landed::roomiest) else {
        return Ok(None);
    };
    let fault = |message: String| failure(LoadFailureKind::Artifact, message);
    let header = models::Gguf::open(&file.path).map_err(|error| fault(error.to_string()))?;
    let blocks = header
        .arch_get("block_count")
        .and_then(|value| value.as_u64());
    let blocks = blocks.and_then(|blocks| u32::try_from(blocks).ok());
    let blocks = blocks.ok_or_else(|| {
        fault(format!(
            "{}: the file does not say how many layers there are, so that none can be given to \
             a GPU; set `gpu_layers` to 0",
            file.path.display()
        ))
    })?;
    let of = blocks.saturating_add(1);
    Ok(Some(llama::Offload {
        device,
        layers: layers.min(of),
        of,
    }))
}

/// A load over HTTP comes past the checks of the command line.
fn check_ranges(spec: &LoadSpec) -> Result<(), LoadFailure> {
    let speculation = spec.speculation;
    let given = [
        ("context", spec.context),
        ("slots", spec.slots),
        ("threads", spec.threads),
        ("threads_batch", spec.threads_batch),
        ("batch", spec.batch),
        ("ubatch", spec.ubatch),
        ("queue_max", spec.queue_max),
        ("sequences", spec.sequences),
        ("gpu_layers", spec.gpu_layers),
        ("attention_sinks", spec.attention_sinks),
        ("reasoning_budget", spec.reasoning_budget),
        (
            "speculation_draft_tokens_max",
            speculation.map(|speculation| speculation.draft_tokens_max),
        ),
        (
            "speculation_ngram",
            speculation.map(|speculation| speculation.ngram),
        ),
    ];
    for (name, value) in given {
        let (Some(value), Some(setting)) = (value, config::setting(name)) else {
            continue;
        };
        if let config::Kind::Count { min, max } = setting.kind
            && !(min..=max).contains(&u64::from(value))
        {
            let message = format!("{name} is {value}, it must be between {min} and {max}");
            return Err(failure(LoadFailureKind::Setting, message));
        }
    }
    Ok(())
}

/// Architecture, size and quantisation: `llama 135M Q4_1`. llama.cpp's own description
/// takes the size from the number of layers, and so calls this model 256M.
fn description(facts: &ModelFacts, quant: Option<&str>) -> String {
    let size = in_short(facts.n_params);
    format!("{} {size} {}", facts.architecture, quant.unwrap_or(""))
        .trim_end()
        .to_owned()
}

/// 134515008 as `135M`, with two or three digits.
fn in_short(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000_000 => (n as f64 / 1e3, "K"),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "M"),
        _ => (n as f64 / 1e9, "B"),
    };
    if value < 9.95 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

fn explain(spec: &LoadSpec, error: &OpenError) -> LoadFailure {
    let log = log_lines();
    let said: Vec<&str> = log
        .iter()
        .filter(|line| {
            line.contains("error") || line.contains("failed") || line.contains("invalid")
        })
        .map(String::as_str)
        .collect();
    let said = match said.last() {
        Some(line) => format!(" (llama.cpp: {line})"),
        None => String::new(),
    };
    let is_short = spec.gpu.is_some() && said.contains("allocate");
    let (kind, fix) = match error {
        OpenError::Model(LoadError::NoDevice(_)) => (
            LoadFailureKind::Setting,
            "; it was there when the server started, so restart the server, or set `gpu_layers` \
             to 0",
        ),
        OpenError::Model(_) if is_short => (
            LoadFailureKind::Resources,
            "; the GPU has less free memory than when the server started: end what takes it, or \
             lower `gpu_layers` or `gpu_memory_max`",
        ),
        OpenError::Model(_) => (
            LoadFailureKind::Artifact,
            "; the file may be damaged or of an architecture this build does not know",
        ),
        OpenError::ContextSetting { .. } | OpenError::BatchTooSmall { .. } => {
            (LoadFailureKind::Setting, "")
        }
        OpenError::Context { .. } => (
            LoadFailureKind::Resources,
            "; use a smaller context, fewer slots or a smaller KV type",
        ),
        OpenError::Types(_) => (LoadFailureKind::Setting, ""),
        OpenError::Pooling { .. } => (LoadFailureKind::Artifact, ""),
        OpenError::WarmUp(_) => (LoadFailureKind::Resources, ""),
    };
    failure(kind, format!("{}: {error}{said}{fix}", spec.path.display()))
}

fn facts(
    spec: &LoadSpec,
    options: &OpenOptions,
    engine: &EngineFacts,
    can_complete: bool,
) -> ModelFacts {
    let model = &engine.model;
    let devices = landed::devices(&log_lines());
    let text = |token: Option<i32>| {
        token.map(|token| String::from_utf8_lossy(&model.piece(token, true)).into_owned())
    };
    let facts = ModelFacts {
        name: spec.name.clone(),
        path: spec.path.clone(),
        architecture: model.meta("general.architecture").unwrap_or_default(),
        n_params: model.n_params(),
        weights_bytes: model.weights_bytes(),
        n_vocab: model.n_vocab(),
        n_embd: model.n_embd(),
        n_layer: model.n_layer(),
        context_train: model.context_train(),
        context: engine.context,
        slots: options.slots,
        queue_max: spec.queue_max.unwrap_or(QUEUE_DEFAULT),
        sequences: engine.sequences,
        batch: engine.batch,
        ubatch: engine.ubatch,
        threads: options.placement.threads,
        threads_batch: options.placement.threads_batch,
        cpus: place::set(&options.placement.cpus),
        cpus_batch: place::set(&options.placement.cpus_batch),
        mmap: options.mmap,
        mlock: options.mlock,
        huge_pages: options.huge_pages,
        kv_bytes: landed::kv_bytes(&devices),
        flash_attention: reported_flash_attention(options.flash_attention),
        gpu_layers: landed::gpu_layers(&devices),
        devices,
        kernels: llama::system_info(),
        llama_version: llama::version(),
        can_chat: can_complete,
        can_embed: true,
        can_complete,
        sampling: sampling_defaults(|key| model.meta(key), model.n_vocab() as usize),
        bos: text(model.bos()),
        eos: text(model.eos()),
        attention_sinks: spec.attention_sinks,
        reasoning_budget: spec.reasoning_budget,
        speculation: spec.speculation,
        load_ms: engine.load_ms,
        tuned: spec.tuned.clone(),
        ..ModelFacts::default()
    };
    types::told(facts, (spec, options), engine)
}

/// The engine's sampling defaults, overridden by what the GGUF recommends. A value
/// out of its range is left out, with a line in the log.
fn sampling_defaults(meta: impl Fn(&str) -> Option<String>, n_vocab: usize) -> SamplingValues {
    type Set = fn(&mut Params, f64);
    const KEYS: [(&str, Set); 6] = [
        ("temp", |params, value| params.temperature = value as f32),
        // Below 0 becomes 0, and both are off.
        ("top_k", |params, value| params.top_k = value as u32),
        ("top_p", |params, value| params.top_p = value as f32),
        ("min_p", |params, value| params.min_p = value as f32),
        ("penalty_repeat", |params, value| {
            params.repeat_penalty = value as f32;
        }),
        ("penalty_last_n", |params, value| {
            params.repeat_last_n = value as i32;
        }),
    ];
    let mut params = Params::default();
    for (key, set) in KEYS {
        let key = format!("general.sampling.{key}");
        let Some(text) = meta(&key) else { continue };
        let mut changed = params.clone();
        let valid = match text.parse::<f64>() {
            Ok(value) => {
                set(&mut changed, value);
                changed.validate(n_vocab).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("{text:?}: {error}")),
        };
        match valid {
            Ok(()) => params = changed,
            Err(error) => tracing::warn!("the model recommends {key}, which is left out: {error}"),
        }
    }
    values(&params)
}

/// Parameters as they are reported.
pub(crate) fn values(params: &Params) -> SamplingValues {
    SamplingValues {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        typical_p: params.typical_p,
        repeat_penalty: params.repeat_penalty,
        repeat_last_n: params.repeat_last_n,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        dry_multiplier: params.dry_multiplier,
        dry_base: params.dry_base,
        dry_allowed_length: params.dry_allowed_length,
        dry_penalty_last_n: params.dry_penalty_last_n,
        seed: params.seed,
    }
}

/// llama.cpp tells some of what it decided only in its log.
static LOG: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

pub(crate) fn note_log_line(line: &str) {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    if log.len() == LOG_LINES_KEPT {
        log.pop_front();
    }
    log.push_back(line.to_owned());
}

fn clear_log() {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn log_lines() -> Vec<String> {
    LOG.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .cloned()
        .collect()
}

fn reported_flash_attention(asked: llama::FlashAttention) -> bool {
    let resolved_off = log_lines()
        .iter()
        .any(|line| line.contains("Flash Attention not supported"));
    match asked {
        llama::FlashAttention::On => true,
        llama::FlashAttention::Off => false,
        llama::FlashAttention::Auto => !resolved_off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_recommendation_spoils_no_other() {
        let meta = |key: &str| match key.strip_prefix("general.sampling.")? {
            "temp" => Some("0.5".to_owned()),
            "top_p" => Some("7".to_owned()),
            "min_p" => Some("little".to_owned()),
            "top_k" => Some("-1".to_owned()),
            "penalty_last_n" => Some("32".to_owned()),
            _ => None,
        };
        let usual = values(&Params::default());
        let expected = SamplingValues {
            temperature: 0.5,
            top_k: 0,
            repeat_last_n: 32,
            ..usual
        };
        assert_eq!(sampling_defaults(meta, 10), expected);
    }

    #[test]
    fn settings_out_of_range_name_the_range() {
        let spec = LoadSpec {
            slots: Some(0),
            ..LoadSpec::default()
        };
        let types = CacheTypes::Uniform(llama::Types::default());
        let failure = options(&spec, types).unwrap_err();
        assert_eq!(failure.message, "slots is 0, it must be between 1 and 64");
    }

    #[test]
    fn counts_that_contradict_each_other_are_refused() {
        let counts = |batch, ubatch, slots, sequences| {
            let spec = LoadSpec {
                batch,
                ubatch,
                slots,
                sequences,
                ..LoadSpec::default()
            };
            let counts = Counts::of(&spec).map_err(|failure| failure.message)?;
            Ok::<_, String>([counts.slots, counts.batch, counts.ubatch])
        };
        let usual = [SLOTS_DEFAULT, BATCH_DEFAULT, UBATCH_DEFAULT];
        assert_eq!(counts(None, None, None, None).unwrap(), usual);
        // A batch that is smaller than a usual pass makes the pass smaller.
        let small = counts(Some(64), None, Some(2), Some(2)).unwrap();
        assert_eq!(small, [2, 64, 64]);
        for (refused, named) in [
            (counts(Some(64), Some(65), None, None), ["65", "64"]),
            (counts(None, Some(4096), None, None), ["4096", "2048"]),
            (counts(None, None, Some(3), Some(2)), ["2", "3"]),
            (counts(None, None, None, Some(3)), ["3", "4"]),
        ] {
            let message = refused.unwrap_err();
            assert!(named.iter().all(|one| message.contains(one)), "{message}");
        }
    }

    #[test]
    fn sizes_are_told_in_two_or_three_digits() {
        let cases = [
            (1_500, "1.5K"),
            (134_515_008, "135M"),
            (1_235_814_400, "1.2B"),
            (9_960_000_000, "10B"),
            (70_553_706_496, "71B"),
        ];
        for (n, want) in cases {
            assert_eq!(in_short(n), want);
        }
    }

    #[test]
    fn a_pipe_is_refused_instead_of_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let spec = LoadSpec {
            path,
            ..LoadSpec::default()
        };
        let failure = check_file(&spec).unwrap_err();
        assert_eq!(failure.kind, LoadFailureKind::Artifact);
        assert!(failure.message.contains("pipe"), "{}", failure.message);
    }
}
