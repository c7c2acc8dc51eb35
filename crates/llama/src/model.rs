//! Weights and vocabulary of one GGUF file.

use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;
use thiserror::Error;

use crate::{device, ffi};

/// A token id of a model's vocabulary.
pub type Token = i32;

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("the path holds a NUL byte")]
    Path,
    /// The log lines before it say why.
    #[error("llama.cpp refused the file")]
    Refused,
    #[error("loading was stopped")]
    Stopped,
    /// No GPU of that name is there any more, or none ever was.
    #[error("there is no GPU `{0}` that llama.cpp can use")]
    NoDevice(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// Map the file; pages come in as they are read and can be dropped again.
    Mmap,
    /// The same, and the pages stay in memory.
    MmapLocked,
    /// Read the file into memory of our own.
    Read,
    /// The same, and the pages stay in memory.
    ReadLocked,
}

#[derive(Debug, Clone)]
pub struct ModelParams {
    pub load_mode: LoadMode,
    /// `None` leaves every layer to the processor.
    pub offload: Option<Offload>,
}

/// Layers on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offload {
    /// The device's name, as [`crate::devices`] tells it.
    pub device: String,
    /// How many, from the last: the output comes after the last layer and counts as one.
    pub layers: u32,
    /// All that there are, the output among them.
    pub of: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// `<|im_start|>` and the like.
    Control,
    /// One raw byte.
    Byte,
    /// Never to be generated.
    Unused,
}

/// A loaded model; cheap to clone, freed with the last clone.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    model: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
}

// SAFETY: after loading, llama.cpp only reads the model and its vocabulary
// ("The API is thread-safe" for tokenisation); freeing happens in `Drop`, once.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `llama_model_load_from_file` and no
        // context outlives it, since each holds a clone of the `Arc`.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Model").field(&self.description()).finish()
    }
}

impl Model {
    /// Loads a GGUF file (of a split model its first part). `progress` gets 0.0
    /// to 1.0 and returns `false` to stop.
    pub fn load(
        path: &Path,
        params: ModelParams,
        mut progress: impl FnMut(f32) -> bool,
    ) -> Result<Self, LoadError> {
        let path =
            CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| LoadError::Path)?;
        let mut stopped = false;
        let mut report = |fraction| {
            stopped = !progress(fraction);
            !stopped
        };
        let mut report: &mut dyn FnMut(f32) -> bool = &mut report;
        // SAFETY: no argument, returns a plain struct.
        let mut raw = unsafe { sys::llama_model_default_params() };
        raw.load_mode = match params.load_mode {
            LoadMode::Mmap => sys::LLAMA_LOAD_MODE_MMAP,
            LoadMode::MmapLocked => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
            LoadMode::Read => sys::LLAMA_LOAD_MODE_NONE,
            LoadMode::ReadLocked => sys::LLAMA_LOAD_MODE_MLOCK,
        };
        let mut split = device::split(params.offload.as_ref())?;
        raw.devices = split.devices.as_mut_ptr();
        raw.tensor_split = split.shares.as_ptr();
        raw.n_gpu_layers = split.layers;
        // What stays on the host stays where the file is mapped, or is packed by our kernels,
        // and is not copied into memory that the driver pins.
        raw.no_host = params.offload.is_some();
        raw.progress_callback = Some(on_progress);
        raw.progress_callback_user_data = std::ptr::from_mut(&mut report).cast::<c_void>();
        // SAFETY: `path` is NUL-terminated and `report` outlives the call, which
        // is the only time the callback runs.
        let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), raw) };
        let Some(model) = NonNull::new(model) else {
            return Err(if stopped {
                LoadError::Stopped
            } else {
                LoadError::Refused
            });
        };
        // SAFETY: the model is live; its vocabulary lives as long.
        let vocab = unsafe { sys::llama_model_get_vocab(model.as_ptr()) };
        let vocab = NonNull::new(vocab.cast_mut()).ok_or(LoadError::Refused)?;
        Ok(Self {
            inner: Arc::new(Inner { model, vocab }),
        })
    }

    pub(crate) fn raw(&self) -> *mut sys::llama_model {
        self.inner.model.as_ptr()
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        self.inner.vocab.as_ptr()
    }

    /// A metadata value of the GGUF as text; `None` if the key is not there.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        ffi::sized_string(|buffer, len| {
            // SAFETY: `buffer` has `len` bytes; the key is NUL-terminated.
            unsafe { sys::llama_model_meta_val_str(self.raw(), key.as_ptr(), buffer, len) }
        })
    }

    /// llama.cpp's one-line description, for example `llama 135M Q4_1`.
    #[must_use]
    pub fn description(&self) -> String {
        ffi::sized_string(|buffer, len| {
            // SAFETY: `buffer` has `len` bytes.
            unsafe { sys::llama_model_desc(self.raw(), buffer, len) }
        })
        .unwrap_or_default()
    }

    /// The chat template in the file, if it has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<String> {
        // SAFETY: a null name asks for the default template; null means none.
        let text = unsafe { sys::llama_model_chat_template(self.raw(), std::ptr::null()) };
        (!text.is_null()).then(|| ffi::string(text))
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn weights_bytes(&self) -> u64 {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_size(self.raw()) }
    }

    #[must_use]
    pub fn n_params(&self) -> u64 {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_n_params(self.raw()) }
    }

    /// Context length the model was trained with.
    #[must_use]
    pub fn context_train(&self) -> u32 {
        // SAFETY: the model is live.
        count(unsafe { sys::llama_model_n_ctx_train(self.raw()) })
    }

    #[must_use]
    pub fn n_embd(&self) -> u32 {
        // SAFETY: the model is live.
        count(unsafe { sys::llama_model_n_embd_out(self.raw()) })
    }

    #[must_use]
    pub fn n_layer(&self) -> u32 {
        // SAFETY: the model is live.
        count(unsafe { sys::llama_model_n_layer(self.raw()) })
    }

    /// Tokens of the sliding window; 0 where no layer has one.
    #[must_use]
    pub fn sliding_window(&self) -> u32 {
        // SAFETY: the model is live.
        count(unsafe { sys::llama_model_n_swa(self.raw()) })
    }

    #[must_use]
    pub fn has_decoder(&self) -> bool {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_has_decoder(self.raw()) }
    }

    #[must_use]
    pub fn has_encoder(&self) -> bool {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_has_encoder(self.raw()) }
    }

    /// Some state is recurrent and cannot be cut back to an earlier position.
    #[must_use]
    pub fn has_recurrent_state(&self) -> bool {
        // SAFETY: the model is live.
        unsafe {
            sys::llama_model_is_recurrent(self.raw()) || sys::llama_model_is_hybrid(self.raw())
        }
    }

    /// All state is recurrent: there are no keys and values.
    #[must_use]
    pub fn has_only_recurrent_state(&self) -> bool {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_is_recurrent(self.raw()) }
    }

    #[must_use]
    pub fn n_vocab(&self) -> u32 {
        // SAFETY: the vocabulary is live.
        count(unsafe { sys::llama_vocab_n_tokens(self.vocab()) })
    }

    #[must_use]
    pub fn bos(&self) -> Option<Token> {
        // SAFETY: the vocabulary is live.
        token(unsafe { sys::llama_vocab_bos(self.vocab()) })
    }

    #[must_use]
    pub fn eos(&self) -> Option<Token> {
        // SAFETY: the vocabulary is live.
        token(unsafe { sys::llama_vocab_eos(self.vocab()) })
    }

    /// Whether `token` ends a generation.
    #[must_use]
    pub fn is_end_of_generation(&self, token: Token) -> bool {
        // SAFETY: llama.cpp answers `false` for ids outside the vocabulary.
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// Kind of a token; ids outside the vocabulary are `Unused`.
    #[must_use]
    pub fn kind(&self, token: Token) -> TokenKind {
        if u32::try_from(token).map_or(true, |id| id >= self.n_vocab()) {
            return TokenKind::Unused;
        }
        // SAFETY: the id was checked against the vocabulary.
        let attributes = unsafe { sys::llama_vocab_get_attr(self.vocab(), token) };
        let has = |bit: sys::llama_token_attr| attributes & bit != 0;
        if has(sys::LLAMA_TOKEN_ATTR_CONTROL) {
            TokenKind::Control
        } else if has(sys::LLAMA_TOKEN_ATTR_BYTE) {
            TokenKind::Byte
        } else if has(sys::LLAMA_TOKEN_ATTR_UNUSED) {
            TokenKind::Unused
        } else {
            TokenKind::Normal
        }
    }

    /// The bytes of a token; `special` also renders control tokens. Ids outside
    /// the vocabulary have none.
    #[must_use]
    pub fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        if u32::try_from(token).map_or(true, |id| id >= self.n_vocab()) {
            return Vec::new();
        }
        let mut buffer = vec![0_u8; 32];
        loop {
            let len = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            let pointer = buffer.as_mut_ptr().cast::<c_char>();
            // SAFETY: `pointer` has `len` bytes and the id is in the vocabulary.
            let n =
                unsafe { sys::llama_token_to_piece(self.vocab(), token, pointer, len, 0, special) };
            match usize::try_from(n) {
                Ok(n) => {
                    buffer.truncate(n);
                    return buffer;
                }
                // A negative length is the size it wants.
                Err(_) => buffer.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }

    /// Text to tokens. `add_special` adds BOS/EOS as the vocabulary asks;
    /// `parse_special` reads control tokens in the text as such.
    ///
    /// Text of more than `i32::MAX` bytes gives no tokens; callers limit it long before.
    #[must_use]
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<Token> {
        let Ok(text_len) = i32::try_from(text.len()) else {
            return Vec::new();
        };
        // A token is at least one byte but for the few added ones.
        let mut tokens: Vec<Token> = vec![0; text.len() + 8];
        loop {
            let room = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
            // SAFETY: both pointers are valid for the lengths given with them.
            let n = unsafe {
                sys::llama_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    text_len,
                    tokens.as_mut_ptr(),
                    room,
                    add_special,
                    parse_special,
                )
            };
            match usize::try_from(n) {
                Ok(n) => {
                    tokens.truncate(n);
                    return tokens;
                }
                Err(_) if n == i32::MIN => return Vec::new(),
                // A negative count is the room it wants.
                Err(_) => tokens.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }
}

extern "C" fn on_progress(fraction: f32, user_data: *mut c_void) -> bool {
    std::panic::catch_unwind(|| {
        // SAFETY: `user_data` is the `&mut &mut dyn FnMut` of `Model::load`, which
        // is waiting for this very call and touches it nowhere else.
        let report = unsafe { &mut *user_data.cast::<&mut dyn FnMut(f32) -> bool>() };
        report(fraction)
    })
    // A panic in the callback stops the load.
    .unwrap_or(false)
}

fn count(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

fn token(id: i32) -> Option<Token> {
    (id >= 0).then_some(id)
}
