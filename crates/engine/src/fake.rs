//! A deterministic stand-in for llama.cpp, for tests of what stands above the engine.
//!
//! Tokens are bytes (ids 0 to 255) and one end-of-generation token. The logits of
//! a row are a hash of the sequence up to it, so any slip in positions, sharing or
//! truncation changes the answer. Misuse that llama.cpp would punish panics here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{
    DecodeError, Decoder, EmbedError, Embedder, Row, SequenceId, Shape, TokenId, Vocabulary,
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
