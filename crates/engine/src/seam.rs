//! The seam between scheduling and a model: small enough to print.
//!
//! A decoder holds sequences of tokens in a KV cache. The scheduler names rows
//! (token, position, sequence), the decoder runs them in one pass and gives the
//! logits of those rows that asked for them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prefix::{Content, Facts, Fingerprint, Id, Key, Needs, Plane, Stored};

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

/// Where a state is taken from or put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub sequence: SequenceId,
    /// An empty sequence to work in; without it some things take longer or cannot be done.
    pub scratch: Option<SequenceId>,
}

/// What a state is put together from, in one go or in parts that follow one another: blocks
/// in order, of each plane that the model needs.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    pub rows: Vec<Arc<Content>>,
    /// Of the last blocks there will be; empty but in the last part.
    pub window: Vec<Arc<Content>>,
    /// Behind the last block there will be, in every part.
    pub state: Option<Arc<Content>>,
    pub is_last: bool,
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

    /// Why positions cannot be moved ([`Decoder::shift`]); `None`: they can.
    fn cannot_shift(&self) -> Option<&str> {
        Some("its engine does not move positions")
    }

    /// Makes a sequence that shares nothing forget `n` positions from `from` on, and moves
    /// those behind them down to close the gap. `false`: nothing was changed.
    fn shift(&mut self, _sequence: SequenceId, _from: usize, _n: usize) -> bool {
        false
    }

    /// What has to be kept of a sequence to go on from it some other time; `None`: that
    /// cannot be had of this model.
    fn needs(&self) -> Option<Needs> {
        None
    }

    /// One plane of some blocks ([`prefix::BLOCK_TOKENS`]) of a sequence, a piece each. The
    /// state is one piece, and the sequence must end with the last block. `None`: it is not
    /// there, or not any more.
    fn save(&mut self, _: Place, _: Plane, _blocks: Range<usize>) -> Option<Vec<Vec<u8>>> {
        None
    }

    /// Lets a sequence that ends where the first of the blocks begins hold them, too, as if
    /// it had computed them; with a window or a state it can be used only after the last part.
    /// Anything but the first part takes a scratch. `false`: it holds what it held, or, if
    /// that was nothing or a part, what is to be cut away.
    fn restore(&mut self, _: Place, _blocks: Range<usize>, _: &Pieces) -> bool {
        false
    }

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

/// What a [`PrefixStore`] holds and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreReport {
    pub ram_bytes: u64,
    /// Of all models.
    pub disk_bytes: u64,
    /// On their way to the disk.
    pub pending_bytes: u64,
    pub entries: usize,
    pub written_bytes: u64,
    pub read_bytes: u64,
    /// Not written because of the limit for a day.
    pub refused_bytes: u64,
    /// Entries that were found faulty.
    pub faulty: u64,
}

/// Where states of prefixes are kept beyond their sequences. No call waits for a disk but
/// [`PrefixStore::wait`].
pub trait PrefixStore: Send {
    fn fingerprint(&self) -> Fingerprint;

    /// How many of these blocks can be restored; the second number: of how many the rows
    /// are there at least.
    fn longest(&self, keys: &[Key]) -> (usize, usize);

    fn has(&self, id: Id) -> bool {
        self.facts(id).is_some()
    }

    /// What is known of an entry.
    fn facts(&self, id: Id) -> Option<Facts>;

    /// Whether more is taken at the moment.
    fn has_room(&self) -> bool;

    fn store(&mut self, stored: Stored, content: Vec<u8>);

    /// Begins to fetch entries. The same ticket must not be in use.
    fn fetch(&mut self, ticket: u64, ids: Vec<Id>);

    /// The entries, in the order in which they were asked for, once they are there;
    /// `Some(None)`: one of them is not to be had.
    fn fetched(&mut self, ticket: u64) -> Option<Option<Vec<Arc<Content>>>>;

    fn abandon(&mut self, ticket: u64);

    /// Seconds that fetching so many bytes takes, by what was measured.
    fn fetch_seconds(&self, bytes: u64) -> f64;

    /// Bytes that so many of what is kept have when they are fetched.
    fn fetched_bytes(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Returns when something was fetched or written, or after that time.
    fn wait(&mut self, at_most: Duration);

    /// Memory is short: gives back what is held there.
    fn shrink(&mut self);

    /// Waits until what was stored is on disk, at most that long.
    fn flush(&mut self, at_most: Duration);

    fn report(&self) -> StoreReport;
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
