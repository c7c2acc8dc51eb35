//! A deterministic stand-in for llama.cpp, for tests of what stands above the engine.
//!
//! Tokens are bytes (ids 0 to 255) and one end-of-generation token. The logits of
//! a row are a hash of the sequence up to it, so any slip in positions, sharing or
//! truncation changes the answer. Misuse that llama.cpp would punish panics here.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prefix::{
    BLOCK_TOKENS, Budgets, Cache, Content, Event, Facts, Fingerprint, Id, Key, Needs, Plane, Stored,
};

use crate::{
    DecodeError, Decoder, EmbedError, Embedder, Pieces, Place, PrefixStore, Row, SequenceId, Shape,
    StoreReport, TokenId, Vocabulary,
};

/// Ends a generation.
pub const END: TokenId = 256;
const N_VOCAB: usize = 257;

/// What the fake model says next.
#[derive(Debug, Clone)]
pub enum Script {
    /// A hash of everything before it.
    Hash,
    /// This text, byte by byte, after any prompt; then the end.
    Say(String),
    /// Repeats its last `n` tokens forever.
    Cycle(usize),
}

#[derive(Debug)]
pub struct FakeDecoder {
    shape: Shape,
    script: Script,
    sequences: HashMap<SequenceId, Vec<Cell>>,
    next_cell: u64,
    logits: Vec<Option<Vec<f32>>>,
    abort: Arc<AtomicBool>,
    /// Time one row takes; for tests that must see a pass in progress.
    pub row_time: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    /// Identifies the storage: shared cells are counted once.
    id: u64,
    token: TokenId,
}

impl FakeDecoder {
    #[must_use]
    pub fn new(shape: Shape, script: Script) -> Self {
        let shape = Shape {
            n_vocab: N_VOCAB,
            ..shape
        };
        Self {
            shape,
            script,
            sequences: HashMap::new(),
            next_cell: 0,
            logits: Vec::new(),
            abort: Arc::default(),
            row_time: Duration::ZERO,
        }
    }

    /// A shape for tests that do not care.
    #[must_use]
    pub fn usual_shape() -> Shape {
        Shape {
            n_vocab: N_VOCAB,
            batch: 64,
            ubatch: 64,
            outputs: 16,
            sequences: 8,
            cells: 1024,
            context: 512,
            can_cut: true,
        }
    }

    /// Distinct cells in use.
    #[must_use]
    pub fn cells_used(&self) -> usize {
        let mut ids: Vec<u64> = self
            .sequences
            .values()
            .flatten()
            .map(|cell| cell.id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    }

    fn next_token(&self, tokens: &[TokenId]) -> TokenId {
        match &self.script {
            Script::Hash => {
                let hash = tokens
                    .iter()
                    .fold(0xcbf2_9ce4_8422_2325_u64, |hash, token| {
                        (hash ^ u64::from(token.unsigned_abs())).wrapping_mul(0x0100_0000_01b3)
                    });
                // Lower-case letters, so that the text is readable.
                TokenId::from(b'a') + TokenId::try_from(hash % 26).unwrap_or(0)
            }
            Script::Say(text) => {
                // The longest beginning of the text that the sequence ends with has been said.
                let bytes: Vec<TokenId> = text.bytes().map(TokenId::from).collect();
                let said = (0..=bytes.len().min(tokens.len()))
                    .rev()
                    .find(|n| tokens.ends_with(&bytes[..*n]))
                    .unwrap_or(0);
                bytes.get(said).copied().unwrap_or(END)
            }
            Script::Cycle(n) => tokens[tokens.len().saturating_sub(*n)],
        }
    }
}

impl Decoder for FakeDecoder {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        assert!(
            !rows.is_empty() && rows.len() <= self.shape.batch,
            "{} rows",
            rows.len()
        );
        let outputs = rows.iter().filter(|row| row.output).count();
        assert!(outputs <= self.shape.outputs, "{outputs} outputs");
        if self.cells_used() + rows.len() > self.shape.cells {
            return Err(DecodeError::NoRoom);
        }
        self.logits.clear();
        for row in rows {
            let held = self.sequences.entry(row.sequence).or_default();
            assert_eq!(
                row.position as usize,
                held.len(),
                "a gap in sequence {}",
                row.sequence
            );
            assert!(
                held.len() < self.shape.context,
                "sequence {} is over the context",
                row.sequence
            );
            held.push(Cell {
                id: self.next_cell,
                token: row.token,
            });
            self.next_cell += 1;
            if !self.row_time.is_zero() {
                std::thread::sleep(self.row_time);
            }
            if self.abort.load(Ordering::Relaxed) {
                return Err(DecodeError::Aborted);
            }
            let tokens: Vec<TokenId> = self.sequences[&row.sequence]
                .iter()
                .map(|cell| cell.token)
                .collect();
            self.logits.push(row.output.then(|| {
                let mut logits = vec![0.0; N_VOCAB];
                if let Some(logit) = usize::try_from(self.next_token(&tokens))
                    .ok()
                    .and_then(|next| logits.get_mut(next))
                {
                    *logit = 10.0;
                }
                logits
            }));
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> Option<&[f32]> {
        self.logits.get(row)?.as_deref()
    }

    fn truncate(&mut self, sequence: SequenceId, len: usize) -> bool {
        let held = self.sequences.entry(sequence).or_default();
        if len != 0 && !self.shape.can_cut && len < held.len() {
            held.clear();
            return false;
        }
        held.truncate(len);
        true
    }

    fn share(&mut self, from: SequenceId, to: SequenceId, len: usize) -> bool {
        let source = self.sequences.get(&from).cloned().unwrap_or_default();
        assert!(len <= source.len(), "sharing more than there is");
        let target = self.sequences.entry(to).or_default();
        assert!(target.is_empty(), "sharing into a sequence in use");
        if !self.shape.can_cut && len < source.len() {
            return false;
        }
        target.extend_from_slice(&source[..len]);
        true
    }

    fn cannot_shift(&self) -> Option<&str> {
        (!self.shape.can_cut).then_some("its state cannot be cut")
    }

    fn shift(&mut self, sequence: SequenceId, from: usize, n: usize) -> bool {
        let ids_of = |held: &Vec<Cell>| held.iter().map(|cell| cell.id).collect::<Vec<_>>();
        let moved = ids_of(&self.sequences[&sequence])[from..].to_vec();
        let others = self.sequences.iter().filter(|(id, _)| **id != sequence);
        assert!(
            !others
                .flat_map(|(_, held)| ids_of(held))
                .any(|id| moved.contains(&id)),
            "cells of others would move"
        );
        let held = self.sequences.entry(sequence).or_default();
        held.drain(from..from + n);
        true
    }

    fn needs(&self) -> Option<Needs> {
        Some(Needs {
            rows: true,
            window_blocks: 0,
            state: !self.shape.can_cut,
        })
    }

    fn save(&mut self, at: Place, plane: Plane, blocks: Range<usize>) -> Option<Vec<Vec<u8>>> {
        let held = self.sequences.get(&at.sequence)?;
        let end = blocks.end * BLOCK_TOKENS;
        if plane == Plane::State {
            let is_here = held.len() == end;
            return is_here.then(|| vec![end.to_le_bytes().to_vec()]);
        }
        let block = |at: usize| {
            let cells = held.get(at * BLOCK_TOKENS..(at + 1) * BLOCK_TOKENS)?;
            Some(
                cells
                    .iter()
                    .flat_map(|cell| cell.token.to_le_bytes())
                    .collect(),
            )
        };
        blocks.map(block).collect()
    }

    fn restore(&mut self, at: Place, blocks: Range<usize>, pieces: &Pieces) -> bool {
        let state = pieces.state.as_deref().map(|state| state.to_vec());
        let end = (blocks.end * BLOCK_TOKENS).to_le_bytes().to_vec();
        assert_eq!(state.is_some(), !self.shape.can_cut);
        assert!(
            !pieces.is_last || state.is_none_or(|state| state == end),
            "another state"
        );
        assert!(
            blocks.start == 0 || at.scratch.is_some(),
            "nowhere to work in"
        );
        if self.cells_used() + blocks.len() * BLOCK_TOKENS > self.shape.cells {
            return false;
        }
        let held = self.sequences.entry(at.sequence).or_default();
        assert_eq!(held.len(), blocks.start * BLOCK_TOKENS, "a gap");
        for rows in &pieces.rows {
            for token in rows.chunks_exact(4) {
                let token = TokenId::from_le_bytes([token[0], token[1], token[2], token[3]]);
                held.push(Cell {
                    id: self.next_cell,
                    token,
                });
                self.next_cell += 1;
            }
        }
        held.len() == blocks.end * BLOCK_TOKENS
    }

    fn give_back(&mut self) {
        assert_eq!(self.cells_used(), 0, "cells are in use");
    }

    fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abort)
    }
}

/// Bytes as tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeVocabulary;

impl Vocabulary for FakeVocabulary {
    fn n_tokens(&self) -> usize {
        N_VOCAB
    }

    fn tokenize(&self, text: &str, _add_special: bool, _parse_special: bool) -> Vec<TokenId> {
        text.bytes().map(TokenId::from).collect()
    }

    fn piece(&self, token: TokenId, special: bool) -> Vec<u8> {
        match u8::try_from(token) {
            Ok(byte) => vec![byte],
            Err(_) if special => b"<end>".to_vec(),
            Err(_) => Vec::new(),
        }
    }

    fn is_end_of_generation(&self, token: TokenId) -> bool {
        token == END
    }

    fn is_control(&self, token: TokenId) -> bool {
        token == END
    }
}

/// Vectors that depend on the input only.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeEmbedder;

impl Embedder for FakeEmbedder {
    fn tokens_max(&self) -> usize {
        64
    }

    fn embed(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, EmbedError> {
        let sum: f32 = tokens.iter().map(|token| *token as f32).sum();
        Ok(vec![sum.cos(), sum.sin()])
    }
}

/// Prefixes in memory, which outlive a scheduler if a clone of it is kept.
#[derive(Debug, Clone)]
pub struct FakeStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    contents: HashMap<Id, Arc<Content>>,
    tickets: HashMap<u64, (usize, Vec<Id>)>,
    /// How often [`PrefixStore::fetched`] says that it is not there yet.
    delay: usize,
}

impl FakeStore {
    /// For the decoder's model; a fetch is there after being asked for `delay` times.
    #[must_use]
    pub fn new(decoder: &FakeDecoder, delay: usize) -> Self {
        let budgets = Budgets {
            ram_bytes: u64::MAX,
            disk_bytes: 0,
            day_bytes: 0,
        };
        let fingerprint = Fingerprint::of([("fake", &b""[..])]);
        let needs = decoder.needs().unwrap_or_default();
        let inner = Inner {
            cache: Cache::new(fingerprint, needs, budgets),
            contents: HashMap::new(),
            tickets: HashMap::new(),
            delay,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Loses the content of every entry without knowing it.
    pub fn lose_contents(&self) {
        self.lock().contents.clear();
    }

    #[must_use]
    pub fn n_entries(&self) -> usize {
        self.lock().cache.n_entries()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PrefixStore for FakeStore {
    fn fingerprint(&self) -> Fingerprint {
        self.lock().cache.fingerprint()
    }

    fn longest(&self, keys: &[Key]) -> (usize, usize) {
        let inner = self.lock();
        (inner.cache.longest(keys), inner.cache.known(keys))
    }

    fn facts(&self, id: Id) -> Option<Facts> {
        self.lock().cache.facts(id)
    }

    fn has_room(&self) -> bool {
        true
    }

    fn store(&mut self, stored: Stored, content: Vec<u8>) {
        let mut inner = self.lock();
        inner
            .contents
            .insert(stored.id, Arc::new(Content::new(content)));
        // Nothing ever has to go.
        drop(inner.cache.step(Event::Stored(stored), Duration::ZERO));
    }

    fn fetch(&mut self, ticket: u64, ids: Vec<Id>) {
        let mut inner = self.lock();
        let delay = inner.delay;
        let before = inner.tickets.insert(ticket, (delay, ids));
        assert!(before.is_none(), "the ticket {ticket} is in use");
    }

    fn fetched(&mut self, ticket: u64) -> Option<Option<Vec<Arc<Content>>>> {
        let mut inner = self.lock();
        let (delay, ids) = inner.tickets.get_mut(&ticket)?;
        if *delay > 0 {
            *delay -= 1;
            return None;
        }
        let ids = std::mem::take(ids);
        inner.tickets.remove(&ticket);
        Some(
            ids.iter()
                .map(|id| inner.contents.get(id).cloned())
                .collect(),
        )
    }

    fn abandon(&mut self, ticket: u64) {
        self.lock().tickets.remove(&ticket);
    }

    fn fetch_seconds(&self, _bytes: u64) -> f64 {
        0.0
    }

    fn wait(&mut self, _at_most: Duration) {}

    fn shrink(&mut self) {}

    fn flush(&mut self, _at_most: Duration) {}

    fn report(&self) -> StoreReport {
        StoreReport {
            entries: self.n_entries(),
            ..StoreReport::default()
        }
    }
}
