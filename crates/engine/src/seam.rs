//! The seam between scheduling and a model: small enough to print.
//!
//! A decoder holds sequences of tokens in a KV cache. The scheduler names rows
//! (token, position, sequence), the decoder runs them in one pass and gives the
//! logits of those rows that asked for them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thiserror::Error;

pub use llama::Placement;

/// A token of the model's vocabulary.
pub type TokenId = i32;

/// One row of KV state; ids run from 0 to `Shape::sequences`.
pub type SequenceId = i32;

/// One token of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub token: TokenId,
    pub position: u32,
    pub sequence: SequenceId,
    /// Whether this row's logits are wanted.
    pub output: bool,
}

/// Sizes of a decoder, in force after loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub n_vocab: usize,
    /// Most rows of one pass.
    pub batch: usize,
    /// Rows that are computed at once; a pass of more is split.
    pub ubatch: usize,
    /// Most rows of one pass that ask for logits.
    pub outputs: usize,
    pub sequences: usize,
    /// Tokens the KV cache can hold over all sequences.
    pub cells: usize,
    /// Most tokens of one sequence.
    pub context: usize,
    /// A sequence can be cut back to any earlier length; recurrent state cannot.
    pub can_cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The KV cache is full; nothing was changed.
    #[error("no room in the KV cache")]
    NoRoom,
    /// The abort flag was set; the sequences must be truncated to what is known.
    #[error("aborted")]
    Aborted,
    #[error("{0}")]
    Failed(String),
}

pub trait Decoder: Send {
    fn shape(&self) -> Shape;

    /// Runs the rows. Positions of a sequence go on without a gap from what it holds.
    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError>;

    /// Logits of row `row` of the last pass; `None` if it did not ask for them.
    fn logits(&self, row: usize) -> Option<&[f32]>;

    /// Makes a sequence forget positions from `len` on. `false`: its state cannot
    /// be cut there, and it is now empty.
    fn truncate(&mut self, sequence: SequenceId, len: usize) -> bool;

    /// Makes the empty sequence `to` begin with the first `len` tokens of `from`,
    /// without copying. `false`: that state cannot be gone on from, `to` is still empty.
    fn share(&mut self, from: SequenceId, to: SequenceId, len: usize) -> bool;

    /// Gives memory back that only a cache with something in it needs; every sequence must
    /// be empty. The next [`Decoder::decode`] takes it again, and fails where it is not to
    /// be had.
    fn give_back(&mut self) {}

    /// While set, a running [`Decoder::decode`] ends early with `Aborted`.
    fn abort_flag(&self) -> Arc<AtomicBool>;

    /// Computes on other threads or CPUs from the next pass on. `false`: it goes on with
    /// those it has.
    fn place(&mut self, _placement: &Placement) -> bool {
        false
    }
}

/// Text to tokens and back.
pub trait Vocabulary: Send + Sync {
    fn n_tokens(&self) -> usize;

    /// `add_special` adds BOS/EOS as the model asks; `parse_special` reads control
    /// tokens in the text as such.
    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<TokenId>;

    /// The bytes of a token; control tokens have none unless `special`.
    fn piece(&self, token: TokenId, special: bool) -> Vec<u8>;

    fn is_end_of_generation(&self, token: TokenId) -> bool;

    fn is_control(&self, token: TokenId) -> bool;
}

/// Why a text could not be embedded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct EmbedError(pub String);

pub trait Embedder: Send {
    /// Most tokens of one text.
    fn tokens_max(&self) -> usize;

    /// Gives memory back until the next text.
    fn give_back(&mut self) {}

    /// The unit-length vector of a text of 1 to `tokens_max` tokens.
    fn embed(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, EmbedError>;
}
