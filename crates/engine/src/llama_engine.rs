//! llama.cpp behind the engine's seam.

mod shift;
mod states;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kv::parked::Layout;
use kv::state::{Form, Kinds};
use llama::{
    Batch, CacheTypes, Context, ContextError, ContextParams, Extent, FlashAttention, HugePages,
    LayerReport, LoadError, LoadMode, Model, ModelParams, Offload, Placement, Pooling, TokenKind,
    Types,
};
use prefix::{Needs, Plane};
use thiserror::Error;

pub use shift::cannot_shift;

use crate::{
    DecodeError, Decoder, EmbedError, Embedder, Pieces, Place, Row, SequenceId, Shape, TokenId,
    Vocabulary,
};

/// Most tokens of one text to embed with a model that also chats: pooling over
/// more says little, and the compute buffer grows with it.
const EMBED_TOKENS_MAX: u32 = 2048;

/// Enough to tell the form of a state by.
const WARM_UP_TOKENS: i32 = 3;

/// What to load and how; every value is decided by the caller.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    pub path: PathBuf,
    /// `None`: the model's own, at most `context_max`.
    pub context: Option<u32>,
    pub context_max: u32,
    pub slots: u32,
    /// Sequences to keep apart; `None`: as many as [`kv::sequences`] says.
    pub sequences: Option<u32>,
    pub batch: u32,
    pub ubatch: u32,
    pub placement: Placement,
    pub types: CacheTypes,
    pub flash_attention: FlashAttention,
    /// Layers on a GPU; `None`: none.
    pub offload: Option<Offload>,
    pub mmap: bool,
    pub mlock: bool,
    pub huge_pages: bool,
    pub swa_full: bool,
}

#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Model(#[from] LoadError),
    #[error("llama.cpp could not create a context of {context} tokens for {slots} slots")]
    Context { context: u32, slots: u32 },
    /// Layers of the KV cache have other types than were chosen.
    #[error(transparent)]
    Types(ContextError),
    #[error("the context must be between 8 and {max} tokens, {given} was asked for")]
    ContextSetting { given: u32, max: u32 },
    #[error("batch is {batch}, it must be at least {sequences}: one token of each sequence")]
    BatchTooSmall { batch: u32, sequences: u32 },
    /// Neither text nor vectors come out of it.
    #[error(
        "the model's pooling_type is {pooling_type}; 0 to 3 can be served, and 4 is a reranker, \
         which scores texts and neither answers nor embeds"
    )]
    Pooling { pooling_type: String },
    #[error("a first pass through the model failed: {0}")]
    WarmUp(llama::DecodeError),
}

/// A loaded model, before it is taken apart into its three seams.
#[derive(Debug)]
pub struct LlamaEngine {
    pub decoder: Option<LlamaDecoder>,
    pub vocabulary: Arc<LlamaVocabulary>,
    pub embedder: LlamaEmbedder,
    pub facts: EngineFacts,
}

/// What llama.cpp reports after loading.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    pub model: Model,
    pub context: u32,
    pub batch: u32,
    pub ubatch: u32,
    pub sequences: u32,
    /// What each layer keeps, where its types were chosen; else nothing.
    pub layers: Vec<LayerReport>,
    pub load_ms: f64,
}

impl LlamaEngine {
    /// Loads the file, makes its context and runs one warm-up pass.
    pub fn open(
        options: &OpenOptions,
        progress: impl FnMut(f32) -> bool,
    ) -> Result<Self, OpenError> {
        let started = Instant::now();
        let load_mode = match (options.mmap, options.mlock) {
            (true, false) => LoadMode::Mmap,
            (true, true) => LoadMode::MmapLocked,
            (false, false) => LoadMode::Read,
            (false, true) => LoadMode::ReadLocked,
        };
        llama::ask_for_huge_pages(match options.huge_pages {
            true => HugePages::Ask,
            false => HugePages::AsTheSystemDoes,
        });
        let model = Model::load(
            &options.path,
            ModelParams {
                load_mode,
                offload: options.offload.clone(),
            },
            progress,
        )?;
        let context = choose_context(options, &model)?;
        let purpose = purpose(&model)?;
        let decoder = match purpose {
            Purpose::Generate => Some(LlamaDecoder::open(options, &model, context)?),
            Purpose::Embed(_) => None,
        };
        let opened = decoder.as_ref();
        let opened = opened.and_then(|decoder| decoder.context.as_ref());
        let report = opened.map(Context::report);
        let layers = opened.map_or_else(Vec::new, |context| context.layers().to_vec());
        let embedder = LlamaEmbedder::new(&model, options, context, purpose);
        let facts = EngineFacts {
            context: decoder.as_ref().map_or(context, |decoder| decoder.limit),
            batch: report.map_or(options.batch, |report| report.batch),
            ubatch: report.map_or(options.ubatch, |report| report.ubatch),
            sequences: report.map_or(1, |report| report.sequences),
            layers,
            load_ms: started.elapsed().as_secs_f64() * 1e3,
            model: model.clone(),
        };
        let vocabulary = Arc::new(LlamaVocabulary { model });
        Ok(Self {
            decoder,
            vocabulary,
            embedder,
            facts,
        })
    }
}

/// The least context of a model, tokens.
pub const CONTEXT_MIN: u32 = 8;

fn choose_context(options: &OpenOptions, model: &Model) -> Result<u32, OpenError> {
    let trained = model.context_train().max(CONTEXT_MIN);
    let Some(given) = options.context else {
        return Ok(trained.min(options.context_max));
    };
    if given < CONTEXT_MIN || given > trained {
        return Err(OpenError::ContextSetting {
            given,
            max: trained,
        });
    }
    Ok(given)
}

/// What a model was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Text. It embeds, too, with the mean over its tokens.
    Generate,
    Embed(Pooling),
}

fn purpose(model: &Model) -> Result<Purpose, OpenError> {
    let architecture = model.meta("general.architecture").unwrap_or_default();
    let meta = |key: &str| model.meta(&format!("{architecture}.{key}"));
    // Tokens that see those after them cannot be generated one after another.
    let is_encoder = !model.has_decoder() || meta("attention.causal").as_deref() == Some("false");
    // llama.cpp's numbers: none, mean, cls, last.
    match meta("pooling_type").as_deref() {
        Some("1" | "2" | "3") => Ok(Purpose::Embed(Pooling::Model)),
        None | Some("0") if is_encoder => Ok(Purpose::Embed(Pooling::Mean)),
        None | Some("0") => Ok(Purpose::Generate),
        Some(other) => Err(OpenError::Pooling {
            pooling_type: other.to_owned(),
        }),
    }
}

fn base_params(options: &OpenOptions) -> ContextParams {
    ContextParams {
        cells: 0,
        batch: options.batch,
        ubatch: options.ubatch,
        sequences: 1,
        outputs: 1,
        placement: options.placement.clone(),
        types: options.types.clone(),
        flash_attention: options.flash_attention,
        swa_full: options.swa_full,
        embeddings: None,
    }
}

/// The forward pass.
#[derive(Debug)]
pub struct LlamaDecoder {
    model: Model,
    params: ContextParams,
    /// `None` while its memory is given back.
    context: Option<Context>,
    abort: Arc<AtomicBool>,
    batch: Batch,
    shape: Shape,
    limit: u32,
    sliding_window: i32,
    /// Why positions cannot be moved.
    cannot_shift: Option<&'static str>,
    /// `None`: states of this model cannot be taken apart.
    form: Option<Form>,
    layouts: [Option<Layout>; 2],
}

/// What states of a context look like.
#[derive(Debug, Clone)]
pub struct StateForm {
    pub form: Form,
    /// Of the layers that see everything; `None` where there are none.
    pub rows: Option<Layout>,
    /// Of those that see a window.
    pub window: Option<Layout>,
}

impl LlamaDecoder {
    /// What states look like; `None`: those of this model cannot be taken apart.
    #[must_use]
    pub fn states(&self) -> Option<StateForm> {
        let [rows, window] = self.layouts.clone();
        let form = self.form?;
        Some(StateForm { form, rows, window })
    }

    fn open(options: &OpenOptions, model: &Model, limit: u32) -> Result<Self, OpenError> {
        let can_cut = !model.has_recurrent_state();
        let cut = if can_cut {
            kv::Cut::Anywhere
        } else {
            kv::Cut::Never
        };
        let sequences = options
            .sequences
            .unwrap_or_else(|| kv::sequences(options.slots, cut));
        if options.batch < sequences {
            return Err(OpenError::BatchTooSmall {
                batch: options.batch,
                sequences,
            });
        }
        let outputs = kv::output_rows(sequences, options.batch);
        let params = ContextParams {
            cells: limit,
            sequences,
            outputs,
            ..base_params(options)
        };
        let abort = Arc::new(AtomicBool::new(false));
        let context = Context::with_abort(model, &params, Arc::clone(&abort));
        let context = context.map_err(|error| match error {
            ContextError::Types(_) => OpenError::Types(error),
            ContextError::Refused => OpenError::Context {
                context: limit,
                slots: options.slots,
            },
        })?;
        let report = context.report();
        let shape = Shape {
            n_vocab: model.n_vocab() as usize,
            batch: report.batch as usize,
            ubatch: report.ubatch as usize,
            outputs: outputs as usize,
            sequences: report.sequences as usize,
            cells: report.cells as usize,
            context: limit as usize,
            can_cut,
        };
        let sliding_window = i32::try_from(model.sliding_window()).unwrap_or(i32::MAX);
        let cannot_shift = cannot_shift(model, &context, &params);
        let mut decoder = Self {
            model: model.clone(),
            params,
            context: Some(context),
            abort,
            batch: Batch::default(),
            shape,
            limit,
            sliding_window,
            cannot_shift,
            form: None,
            layouts: [None, None],
        };
        decoder.warm_up(model).map_err(OpenError::WarmUp)?;
        Ok(decoder)
    }

    /// Touches weights and buffers once, so that the first request does not pay for it, and
    /// looks at the state that comes of it.
    fn warm_up(&mut self, model: &Model) -> Result<(), llama::DecodeError> {
        let token = model.bos().or(model.eos()).unwrap_or(0);
        self.batch.clear();
        for at in 0..WARM_UP_TOKENS {
            self.batch.push(token, at, 0, at + 1 == WARM_UP_TOKENS);
        }
        let Some(context) = &mut self.context else {
            return Ok(());
        };
        let result = context.decode(&mut self.batch);
        if result.is_ok() {
            self.form = find_form(model, context);
            if let Some(form) = self.form {
                self.layouts = layouts(&form, context);
            }
        }
        context.clear();
        result
    }

    /// Makes the context again whose memory was given back.
    fn reopen(&self) -> Result<Context, DecodeError> {
        let abort = Arc::clone(&self.abort);
        Context::with_abort(&self.model, &self.params, abort).map_err(|_| {
            let message = format!(
                "the memory of a context of {} tokens was given back while it was short, and is \
                 not to be had again; unload another model or end other programs",
                self.limit
            );
            DecodeError::Failed(message)
        })
    }
}

impl LlamaDecoder {
    /// Whether a sequence ends at `len` and holds all that its next token attends
    /// to: a sliding-window layer may have let go of positions inside the window.
    fn holds(&self, sequence: SequenceId, len: usize) -> bool {
        let len = position(len);
        let window = self.sliding_window;
        let context = self.context.as_ref();
        context
            .and_then(|context| context.positions(sequence))
            .is_some_and(|(first, last)| {
                last + 1 == len && (window == 0 || first <= (len - window).max(0))
            })
    }
}

impl Decoder for LlamaDecoder {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        let mut context = match self.context.take() {
            Some(context) => context,
            None => self.reopen()?,
        };
        self.batch.clear();
        for row in rows {
            self.batch.push(
                row.token,
                position(row.position as usize),
                row.sequence,
                row.output,
            );
        }
        let result = context.decode(&mut self.batch);
        self.context = Some(context);
        result.map_err(|error| match error {
            llama::DecodeError::NoRoom => DecodeError::NoRoom,
            llama::DecodeError::Aborted => DecodeError::Aborted,
            llama::DecodeError::Failed(_) => DecodeError::Failed(error.to_string()),
        })
    }

    fn logits(&self, row: usize) -> Option<&[f32]> {
        self.context.as_ref()?.logits(row)
    }

    fn truncate(&mut self, sequence: SequenceId, len: usize) -> bool {
        let Some(context) = &mut self.context else {
            return len == 0;
        };
        let cut = context.truncate(sequence, position(len));
        if cut && (len == 0 || self.holds(sequence, len)) {
            return true;
        }
        // Removing a whole sequence never fails.
        if let Some(context) = &mut self.context {
            context.truncate(sequence, -1);
        }
        false
    }

    fn share(&mut self, from: SequenceId, to: SequenceId, len: usize) -> bool {
        let Some(context) = &mut self.context else {
            return false;
        };
        let Some((_, last)) = context.positions(from) else {
            return false;
        };
        let whole = last + 1 == position(len);
        if !self.shape.can_cut && !whole {
            return false;
        }
        context.share(from, to, if whole { -1 } else { position(len) });
        if self.holds(to, len) {
            return true;
        }
        if let Some(context) = &mut self.context {
            context.truncate(to, -1);
        }
        false
    }

    fn cannot_shift(&self) -> Option<&str> {
        self.cannot_shift
    }

    fn shift(&mut self, sequence: SequenceId, from: usize, n: usize) -> bool {
        let context = self
            .context
            .as_mut()
            .filter(|_| self.cannot_shift.is_none());
        context.is_some_and(|context| context.shift(sequence, position(from), position(n)))
    }

    fn needs(&self) -> Option<Needs> {
        Some(self.needs_of(&self.form?))
    }

    fn save(&mut self, at: Place, plane: Plane, blocks: Range<usize>) -> Option<Vec<Vec<u8>>> {
        self.save_blocks(at, plane, blocks)
    }

    fn restore(&mut self, at: Place, blocks: Range<usize>, pieces: &Pieces) -> bool {
        self.restore_blocks(at, blocks, pieces).is_some()
    }

    fn give_back(&mut self) {
        self.context = None;
    }

    fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abort)
    }

    fn place(&mut self, placement: &Placement) -> bool {
        // A context that is made again begins there.
        self.params.placement = placement.clone();
        let context = self.context.as_mut();
        context.is_none_or(|context| context.place(placement).is_ok())
    }
}

/// Positions are below the context, which llama.cpp holds in an `i32`.
fn position(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}

/// What states of the model look like, if they can be taken apart. Sequence 0 must hold some
/// tokens.
pub fn find_form(model: &Model, context: &mut Context) -> Option<Form> {
    // What an encoder leaves is no part of a sequence's state.
    if model.has_encoder() {
        return None;
    }
    let whole = context.state(0, Extent::Whole)?;
    let partial = context.state(0, Extent::Partial)?;
    let kinds = Kinds {
        attention: !model.has_only_recurrent_state(),
        window: model.sliding_window() > 0 && partial.len() < whole.len(),
        recurrent: model.has_recurrent_state(),
    };
    Form::find(kinds, &whole, &partial)
}

/// Of both caches, where they are. Sequence 0 must hold some tokens.
fn layouts(form: &Form, context: &mut Context) -> [Option<Layout>; 2] {
    let state = context.state(0, Extent::Whole);
    let parts = state.as_ref().and_then(|state| form.parts(state));
    let parts = parts.unwrap_or_default();
    [parts.rows, parts.window].map(|section| Layout::of(&section?))
}

/// The model's tokenizer.
#[derive(Debug, Clone)]
pub struct LlamaVocabulary {
    model: Model,
}

impl LlamaVocabulary {
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }
}

impl Vocabulary for LlamaVocabulary {
    fn n_tokens(&self) -> usize {
        self.model.n_vocab() as usize
    }

    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<TokenId> {
        self.model.tokenize(text, add_special, parse_special)
    }

    fn piece(&self, token: TokenId, special: bool) -> Vec<u8> {
        self.model.piece(token, special)
    }

    fn is_end_of_generation(&self, token: TokenId) -> bool {
        self.model.is_end_of_generation(token)
    }

    fn is_control(&self, token: TokenId) -> bool {
        self.model.kind(token) == TokenKind::Control
    }
}

/// Vectors from the same weights, through a context of their own that is made at
/// the first use.
#[derive(Debug)]
pub struct LlamaEmbedder {
    model: Model,
    params: ContextParams,
    context: Option<Context>,
}

impl LlamaEmbedder {
    fn new(model: &Model, options: &OpenOptions, context: u32, purpose: Purpose) -> Self {
        let (pooling, tokens) = match purpose {
            Purpose::Embed(pooling) => (pooling, context),
            Purpose::Generate => (Pooling::Mean, context.min(EMBED_TOKENS_MAX)),
        };
        let params = ContextParams {
            cells: tokens,
            // Attention without a causal mask needs the whole text in one pass.
            batch: tokens,
            ubatch: tokens,
            sequences: 1,
            outputs: tokens,
            types: CacheTypes::Uniform(Types::default()),
            embeddings: Some(pooling),
            ..base_params(options)
        };
        Self {
            model: model.clone(),
            params,
            context: None,
        }
    }
}

impl Embedder for LlamaEmbedder {
    fn tokens_max(&self) -> usize {
        self.params.cells as usize
    }

    fn give_back(&mut self) {
        self.context = None;
    }

    fn embed(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, EmbedError> {
        if self.context.is_none() {
            let context = Context::new(&self.model, &self.params)
                .map_err(|error| EmbedError(error.to_string()))?;
            self.context = Some(context);
        }
        let Some(context) = &mut self.context else {
            return Err(EmbedError("the model has no context to embed in".into()));
        };
        let mut batch = Batch::default();
        for (at, token) in tokens.iter().enumerate() {
            batch.push(*token, position(at), 0, true);
        }
        context.clear();
        let result = match self.model.has_encoder() && !self.model.has_decoder() {
            true => context.encode(&mut batch),
            false => context.decode(&mut batch),
        };
        result.map_err(|error| EmbedError(error.to_string()))?;
        let vector = context.embedding(0).map(normalized);
        vector.ok_or_else(|| EmbedError("the model gave no vector".into()))
    }
}

/// The vector at length 1; a zero vector stays as it is.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt();
    let scale = if length > 0.0 {
        (1.0 / length) as f32
    } else {
        0.0
    };
    vector.iter().map(|x| x * scale).collect()
}
