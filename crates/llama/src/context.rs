//! The running state on a model: KV cache, compute buffers, logits.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv::{LayerTypes, Side, Types};
use llama_cpp_sys_2 as sys;
use thiserror::Error;

use crate::layer_types::{self, LayerReport};
use crate::stored_rows::{self, RowChange, StoredRows};
use crate::threads::{Placement, Threads};
use crate::{Batch, Model};

#[derive(Debug, Error)]
pub enum ContextError {
    /// The log lines before it say why: most often memory, or a KV type that this
    /// attention path cannot take.
    #[error("llama.cpp could not create the context")]
    Refused,
    /// The context was made and freed again: its layers have other types than were chosen.
    #[error(
        "the KV plan did not take effect: {0}; use one type for all keys and one for all values"
    )]
    Types(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// No room in the KV cache; nothing was changed.
    #[error("no room in the KV cache")]
    NoRoom,
    /// The abort flag was set; part of the batch may be in the cache.
    #[error("aborted")]
    Aborted,
    #[error("llama.cpp could not decode the batch (code {0})")]
    Failed(i32),
}

/// The types of the KV cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTypes {
    /// The same in every layer.
    Uniform(Types),
    /// Of each layer that keeps keys, in the order in which llama.cpp makes them
    /// (`kv::Plan::layers`). Not every program can: [`crate::can_choose_layer_types`].
    Layers(Vec<LayerTypes>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlashAttention {
    Auto,
    On,
    Off,
}

/// How token embeddings become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// As the GGUF says.
    Model,
    Mean,
}

#[derive(Debug, Clone)]
pub struct ContextParams {
    /// Cells of the KV cache, shared by all sequences.
    pub cells: u32,
    pub batch: u32,
    pub ubatch: u32,
    pub sequences: u32,
    /// Most rows of one batch that ask for logits; bounds the output buffer.
    pub outputs: u32,
    pub placement: Placement,
    pub types: CacheTypes,
    pub flash_attention: FlashAttention,
    pub swa_full: bool,
    /// `Some`: an embedding context, which gives vectors instead of logits.
    pub embeddings: Option<Pooling>,
}

/// Sizes in force after creation, as llama.cpp reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextReport {
    pub cells: u32,
    pub batch: u32,
    pub ubatch: u32,
    pub sequences: u32,
}

/// How much of a sequence's state is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// Only what cannot be cut: windows and recurrent states. Of a model without them it is
    /// the whole.
    Partial,
}

impl Extent {
    fn flags(self) -> sys::llama_state_seq_flags {
        match self {
            Self::Whole => 0,
            // `LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY`, which the bindings leave out.
            Self::Partial => 1,
        }
    }
}

/// One context. Movable between threads, used by one at a time.
#[derive(Debug)]
pub struct Context {
    context: NonNull<sys::llama_context>,
    /// Read by the abort callback; on the heap so that its address is stable.
    abort: Arc<AtomicBool>,
    /// Locked by the callback of each node, where there is one.
    stored: Option<Arc<Mutex<StoredRows>>>,
    /// Keeps the weights alive.
    model: Model,
    /// Freed after the context, which is freed in `drop`.
    threads: Threads,
    /// Those before them: the back end looks at the last one once more when it changes over.
    retired: Vec<Threads>,
    sequence_pointers: Vec<*mut i32>,
    sequence_counts: Vec<i32>,
    layers: Vec<LayerReport>,
}

// SAFETY: llama.cpp ties a context to no thread; `&mut self` on every call that
// changes it keeps use exclusive.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `llama_init_from_model` and is freed once.
        unsafe { sys::llama_free(self.context.as_ptr()) };
    }
}

impl Context {
    pub fn new(model: &Model, params: &ContextParams) -> Result<Self, ContextError> {
        Self::with_abort(model, params, Arc::default())
    }

    /// A context whose rows can be changed while they are stored
    /// ([`Self::change_stored`]).
    pub fn with_changes(model: &Model, params: &ContextParams) -> Result<Self, ContextError> {
        let stored = Arc::default();
        Self::with_callbacks(model, params, (Arc::default(), Some(stored)))
    }

    /// A context that is aborted by a flag of the caller's.
    pub fn with_abort(
        model: &Model,
        params: &ContextParams,
        abort: Arc<AtomicBool>,
    ) -> Result<Self, ContextError> {
        Self::with_callbacks(model, params, (abort, None))
    }

    fn with_callbacks(
        model: &Model,
        params: &ContextParams,
        (abort, stored): (Arc<AtomicBool>, Option<Arc<Mutex<StoredRows>>>),
    ) -> Result<Self, ContextError> {
        let mut raw = raw_params(params, &abort);
        if let Some(stored) = &stored {
            raw.cb_eval = Some(stored_rows::on_node);
            raw.cb_eval_user_data = Arc::as_ptr(stored).cast_mut().cast::<c_void>();
        }
        // SAFETY: the model is live and held by the new value; `abort` and `stored` too.
        let make = || unsafe { sys::llama_init_from_model(model.raw(), raw) };
        let (context, made) = match &params.types {
            CacheTypes::Uniform(_) => (make(), Vec::new()),
            CacheTypes::Layers(layers) => layer_types::choosing(layers, make),
        };
        let context = NonNull::new(context).ok_or(ContextError::Refused)?;
        let layers = match &params.types {
            CacheTypes::Uniform(_) => Ok(Vec::new()),
            // SAFETY: they are this context's, which lives.
            CacheTypes::Layers(layers) => unsafe { layer_types::check(layers, &made) },
        };
        let layers = layers.map_err(|why| {
            // SAFETY: it was just made and nothing else knows of it.
            unsafe { sys::llama_free(context.as_ptr()) };
            ContextError::Types(why)
        })?;
        let Some(threads) = Threads::start(params.placement.clone()) else {
            // SAFETY: it was just made and nothing else knows of it.
            unsafe { sys::llama_free(context.as_ptr()) };
            return Err(ContextError::Refused);
        };
        // SAFETY: the context is live, and the threads outlive it.
        unsafe { threads.attach(context.as_ptr()) };
        Ok(Self {
            context,
            abort,
            stored,
            model: model.clone(),
            threads,
            retired: Vec::new(),
            sequence_pointers: Vec::new(),
            sequence_counts: Vec::new(),
            layers,
        })
    }

    /// What each layer keeps where they were chosen; else nothing.
    #[must_use]
    pub fn layers(&self) -> &[LayerReport] {
        &self.layers
    }

    /// From now on each row of these keys or values is changed when it is stored, before it is looked
    /// at; `None` ends that. Only rows of 16 bits on the processor are, and values only with flash
    /// attention: [`Self::n_stored_changed`] tells. Without [`Self::with_changes`] none is.
    pub fn change_stored(&mut self, wanted: Option<(u32, Side, RowChange)>) {
        if let Some(mut stored) = self.stored() {
            stored.want(wanted);
        }
    }

    /// Rows that were changed since the last call of [`Self::change_stored`].
    #[must_use]
    pub fn n_stored_changed(&self) -> u64 {
        self.stored().map_or(0, |stored| stored.n_changed())
    }

    fn stored(&self) -> Option<MutexGuard<'_, StoredRows>> {
        let stored = self.stored.as_ref()?;
        Some(stored.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Setting this makes a running [`Context::decode`] return `Aborted` at the
    /// next graph node (CPU back end). The caller clears it again.
    #[must_use]
    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abort)
    }

    #[must_use]
    pub fn report(&self) -> ContextReport {
        let context = self.context.as_ptr();
        // SAFETY: the context is live; these only read.
        unsafe {
            ContextReport {
                cells: sys::llama_n_ctx(context),
                batch: sys::llama_n_batch(context),
                ubatch: sys::llama_n_ubatch(context),
                sequences: sys::llama_n_seq_max(context),
            }
        }
    }

    /// Computes on other threads or CPUs from the next pass on. Where they cannot be had it
    /// goes on with those it has.
    pub fn place(&mut self, placement: &Placement) -> Result<(), ContextError> {
        let threads = Threads::start(placement.clone()).ok_or(ContextError::Refused)?;
        let context = self.context.as_ptr();
        // SAFETY: the context is live; the old threads end only after a pass with the new.
        unsafe {
            sys::llama_detach_threadpool(context);
            let count = |n: u32| i32::try_from(n).unwrap_or(1);
            sys::llama_set_n_threads(
                context,
                count(placement.threads),
                count(placement.threads_batch),
            );
            threads.attach(context);
        }
        self.retired
            .push(std::mem::replace(&mut self.threads, threads));
        Ok(())
    }

    /// Runs the model over the batch. Afterwards [`Context::logits`] gives the rows
    /// that asked for output.
    pub fn decode(&mut self, batch: &mut Batch) -> Result<(), DecodeError> {
        let raw = self.raw_batch(batch);
        self.threads.bind_caller(batch.len());
        // SAFETY: the pointers in `raw` are valid for `n_tokens` entries and stay
        // so during the call: they belong to `batch` and `self`, both borrowed here.
        match unsafe { sys::llama_decode(self.context.as_ptr(), raw) } {
            0 => {
                self.retired.clear();
                Ok(())
            }
            1 => Err(DecodeError::NoRoom),
            2 => Err(DecodeError::Aborted),
            code => Err(DecodeError::Failed(code)),
        }
    }

    /// Runs an encoder-only model (BERT and its kin) over the batch.
    pub fn encode(&mut self, batch: &mut Batch) -> Result<(), DecodeError> {
        let raw = self.raw_batch(batch);
        self.threads.bind_caller(batch.len());
        // SAFETY: as in `decode`.
        match unsafe { sys::llama_encode(self.context.as_ptr(), raw) } {
            0 => Ok(()),
            code => Err(DecodeError::Failed(code)),
        }
    }

    fn raw_batch(&mut self, batch: &mut Batch) -> sys::llama_batch {
        self.sequence_counts.clear();
        self.sequence_counts.resize(batch.len(), 1);
        self.sequence_pointers.clear();
        self.sequence_pointers
            .extend(batch.sequences.iter_mut().map(std::ptr::from_mut));
        sys::llama_batch {
            n_tokens: i32::try_from(batch.len()).unwrap_or(0),
            token: batch.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: self.sequence_counts.as_mut_ptr(),
            seq_id: self.sequence_pointers.as_mut_ptr(),
            logits: batch.outputs.as_mut_ptr(),
        }
    }

    /// Logits of row `row` of the last batch; `None` if it did not ask for them.
    #[must_use]
    pub fn logits(&self, row: usize) -> Option<&[f32]> {
        let row = i32::try_from(row).ok()?;
        // SAFETY: null for rows without output, else `n_vocab` floats that stay
        // until the next `decode`, which needs `&mut self`.
        unsafe {
            let pointer = sys::llama_get_logits_ith(self.context.as_ptr(), row);
            (!pointer.is_null())
                .then(|| std::slice::from_raw_parts(pointer, self.model.n_vocab() as usize))
        }
    }

    /// The pooled embedding of a sequence of the last batch; `None` also where the
    /// context ranks texts instead.
    #[must_use]
    pub fn embedding(&self, sequence: i32) -> Option<&[f32]> {
        // SAFETY: the context is live; this only reads.
        let pooling = unsafe { sys::llama_pooling_type(self.context.as_ptr()) };
        if pooling == sys::LLAMA_POOLING_TYPE_RANK {
            // There are `n_cls_out` floats then, often just one.
            return None;
        }
        // SAFETY: null if there is none, else `n_embd` floats, as the context does not
        // rank, that stay until the next `decode`, which needs `&mut self`.
        unsafe {
            let pointer = sys::llama_get_embeddings_seq(self.context.as_ptr(), sequence);
            (!pointer.is_null())
                .then(|| std::slice::from_raw_parts(pointer, self.model.n_embd() as usize))
        }
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is live.
        unsafe { sys::llama_get_memory(self.context.as_ptr()) }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        // SAFETY: the memory belongs to the live context; encoder-only models have none.
        unsafe {
            let memory = self.memory();
            if !memory.is_null() {
                sys::llama_memory_clear(memory, false);
            }
        }
    }

    /// Forgets positions `from..` of a sequence; `false` if its state cannot be cut there.
    pub fn truncate(&mut self, sequence: i32, from: i32) -> bool {
        // SAFETY: the memory belongs to the live context.
        unsafe { sys::llama_memory_seq_rm(self.memory(), sequence, from, -1) }
    }

    /// Makes positions `0..len` of `from` belong to `to` as well; no data is copied.
    pub fn share(&mut self, from: i32, to: i32, len: i32) {
        // SAFETY: the memory belongs to the live context.
        unsafe { sys::llama_memory_seq_cp(self.memory(), from, to, 0, len) };
    }

    /// Makes positions `from..to` of one sequence belong to another as well; no data is
    /// copied. A recurrent state goes with them.
    pub fn lend(&mut self, sequence: i32, to: i32, range: std::ops::Range<i32>) {
        // SAFETY: the memory belongs to the live context.
        unsafe {
            sys::llama_memory_seq_cp(self.memory(), sequence, to, range.start, range.end);
        }
    }

    /// Whether positions can be moved at all ([`Context::shift`]).
    #[must_use]
    pub fn can_shift(&self) -> bool {
        // SAFETY: the memory belongs to the live context; encoder-only models have none.
        unsafe {
            let memory = self.memory();
            !memory.is_null() && sys::llama_memory_can_shift(memory)
        }
    }

    /// Forgets `n` positions of a sequence from `from` on, and moves those behind them down to
    /// close the gap; their keys are turned with the next pass. Cells that belong to other
    /// sequences too move for all of them. `false`: nothing was changed.
    pub fn shift(&mut self, sequence: i32, from: i32, n: i32) -> bool {
        if !self.can_shift() {
            return false;
        }
        // SAFETY: the memory belongs to the live context, whose positions can be moved.
        unsafe {
            let memory = self.memory();
            if !sys::llama_memory_seq_rm(memory, sequence, from, from + n) {
                return false;
            }
            sys::llama_memory_seq_add(memory, sequence, from + n, -1, -n);
        }
        true
    }

    /// The state of a sequence, in llama.cpp's own form (`kv::state`); `None` if it has none.
    pub fn state(&mut self, sequence: i32, extent: Extent) -> Option<Vec<u8>> {
        let context = self.context.as_ptr();
        let flags = extent.flags();
        // SAFETY: the context is live; this only measures.
        let len = unsafe { sys::llama_state_seq_get_size_ext(context, sequence, flags) };
        let mut state = Vec::new();
        state.try_reserve_exact(len).ok()?;
        state.resize(len, 0);
        // SAFETY: `state` has `len` bytes, and nothing is written beyond them.
        let written = unsafe {
            let data = state.as_mut_ptr();
            sys::llama_state_seq_get_data_ext(context, data, len, sequence, flags)
        };
        (written == len && len > 0).then_some(state)
    }

    /// Replaces what a sequence holds with a state. `false`: it does not fit the model or
    /// there is no room, and the sequence is empty.
    pub fn set_state(&mut self, sequence: i32, state: &[u8]) -> bool {
        // SAFETY: llama.cpp reads at most `state.len()` bytes and checks sizes and types
        // against its own before it copies.
        let read = unsafe {
            let (data, len) = (state.as_ptr(), state.len());
            sys::llama_state_seq_set_data_ext(self.context.as_ptr(), data, len, sequence, 0)
        };
        if read != state.len() {
            self.truncate(sequence, -1);
        }
        read == state.len()
    }

    /// First and last position held for a sequence; `None` if it is empty.
    #[must_use]
    pub fn positions(&self, sequence: i32) -> Option<(i32, i32)> {
        // SAFETY: the memory belongs to the live context; -1 means empty.
        let (first, last) = unsafe {
            (
                sys::llama_memory_seq_pos_min(self.memory(), sequence),
                sys::llama_memory_seq_pos_max(self.memory(), sequence),
            )
        };
        (first >= 0 && last >= 0).then_some((first, last))
    }
}

fn raw_params(params: &ContextParams, abort: &Arc<AtomicBool>) -> sys::llama_context_params {
    // SAFETY: no argument, returns a plain struct.
    let mut raw = unsafe { sys::llama_context_default_params() };
    raw.n_ctx = params.cells;
    raw.n_batch = params.batch;
    raw.n_ubatch = params.ubatch;
    raw.n_seq_max = params.sequences;
    raw.n_outputs_max = params.outputs;
    raw.n_threads = i32::try_from(params.placement.threads).unwrap_or(1);
    raw.n_threads_batch = i32::try_from(params.placement.threads_batch).unwrap_or(1);
    let Types { keys, values } = match &params.types {
        CacheTypes::Uniform(types) => *types,
        CacheTypes::Layers(layers) => layer_types::told(layers),
    };
    raw.type_k = layer_types::ggml_type(keys);
    raw.type_v = layer_types::ggml_type(values);
    raw.flash_attn_type = match params.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    raw.swa_full = params.swa_full;
    // One pool of cells for all sequences: a prefix is shared without a copy.
    raw.kv_unified = true;
    raw.no_perf = true;
    if let Some(pooling) = params.embeddings {
        raw.embeddings = true;
        raw.pooling_type = match pooling {
            Pooling::Model => sys::LLAMA_POOLING_TYPE_UNSPECIFIED,
            Pooling::Mean => sys::LLAMA_POOLING_TYPE_MEAN,
        };
    }
    raw.abort_callback = Some(on_abort_check);
    raw.abort_callback_data = Arc::as_ptr(abort).cast_mut().cast::<c_void>();
    raw
}

extern "C" fn on_abort_check(data: *mut c_void) -> bool {
    // SAFETY: `data` is the `AtomicBool` that the context holds an `Arc` of. An
    // atomic load cannot panic.
    unsafe { (*data.cast::<AtomicBool>()).load(Ordering::Relaxed) }
}
