//! GGUF version 3, little-endian, with random weights.

use std::io::{self, Write};

use crate::weights::{Random, Spread, WeightKind};

/// The data section's alignment.
const ALIGNMENT: usize = 32;

const TYPE_U32: u32 = 4;
const TYPE_I32: u32 = 5;
const TYPE_F32: u32 = 6;
const TYPE_BOOL: u32 = 7;
const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

/// `<unk>`, `<s>`, `</s>`, then the bytes.
pub(crate) const N_VOCAB: u64 = 3 + 256;

/// A file under construction. Weights are made when it is written, so that a file may be
/// larger than memory.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    architecture: String,
    n_pairs: u64,
    pairs: Vec<u8>,
    tensors: Vec<Tensor>,
    /// Of matrices.
    kind: WeightKind,
}

#[derive(Debug)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    kind: WeightKind,
    spread: Spread,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.kind.bytes(self.shape.iter().product())
    }
}

impl Writer {
    pub(crate) fn new(architecture: &str) -> Self {
        let mut writer = Self {
            architecture: architecture.to_owned(),
            ..Self::default()
        };
        writer.key("general.architecture", TYPE_STRING);
        write_string(&mut writer.pairs, architecture);
        writer
    }

    /// The type of all matrices that follow; 32-bit floats unless told.
    pub(crate) fn matrices_of(&mut self, kind: WeightKind) {
        self.kind = kind;
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.n_pairs += 1;
        write_string(&mut self.pairs, key);
        self.pairs.extend(kind.to_le_bytes());
    }

    /// A number below the architecture.
    pub(crate) fn u32(&mut self, last: &str, value: u64) {
        self.key(&format!("{}.{last}", self.architecture), TYPE_U32);
        self.pairs.extend((value as u32).to_le_bytes());
    }

    pub(crate) fn f32(&mut self, last: &str, value: f32) {
        self.key(&format!("{}.{last}", self.architecture), TYPE_F32);
        self.pairs.extend(value.to_le_bytes());
    }

    /// An array of numbers below the architecture.
    pub(crate) fn u32s(&mut self, last: &str, values: &[u64]) {
        self.array(
            &format!("{}.{last}", self.architecture),
            TYPE_U32,
            values.len(),
        );
        let values = values.iter().map(|value| *value as u32);
        self.pairs.extend(values.flat_map(u32::to_le_bytes));
    }

    pub(crate) fn bool(&mut self, last: &str, value: bool) {
        self.key(&format!("{}.{last}", self.architecture), TYPE_BOOL);
        self.pairs.push(u8::from(value));
    }

    pub(crate) fn bools(&mut self, last: &str, values: &[bool]) {
        self.array(
            &format!("{}.{last}", self.architecture),
            TYPE_BOOL,
            values.len(),
        );
        self.pairs
            .extend(values.iter().map(|value| u8::from(*value)));
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, TYPE_ARRAY);
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend((len as u64).to_le_bytes());
    }

    /// A tokenizer of SentencePiece's kind that has bytes, and words up to so many tokens.
    pub(crate) fn tokenizer(&mut self, n_vocab: u64) {
        const NORMAL: i32 = 1;
        const UNKNOWN: i32 = 2;
        const CONTROL: i32 = 3;
        const BYTE: i32 = 6;
        let n_vocab = n_vocab.max(N_VOCAB) as usize;
        self.key("tokenizer.ggml.model", TYPE_STRING);
        write_string(&mut self.pairs, "llama");
        let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
        let words = (N_VOCAB as usize..n_vocab).map(|index| format!("w{index}"));
        self.array("tokenizer.ggml.tokens", TYPE_STRING, n_vocab);
        for token in special.into_iter().chain(bytes).chain(words) {
            write_string(&mut self.pairs, &token);
        }
        self.array("tokenizer.ggml.scores", TYPE_F32, n_vocab);
        self.pairs.resize(self.pairs.len() + 4 * n_vocab, 0);
        self.array("tokenizer.ggml.token_type", TYPE_I32, n_vocab);
        let kinds = [UNKNOWN, CONTROL, CONTROL].into_iter().chain([BYTE; 256]);
        let kinds = kinds.chain(std::iter::repeat(NORMAL)).take(n_vocab);
        self.pairs.extend(kinds.flat_map(i32::to_le_bytes));
    }

    /// Random weights about 0, small enough that nothing blows up on its way through.
    pub(crate) fn matrix(&mut self, name: &str, shape: &[u64]) {
        let n_in = shape.first().copied().unwrap_or(1);
        let width = 1.0 / (n_in as f32).sqrt();
        self.tensor(name, shape, self.kind, Spread { mean: 0.0, width });
    }

    /// Random weights about 1, as norms have them.
    pub(crate) fn norm(&mut self, name: &str, n: u64) {
        self.norm_about(name, n, 1.0);
    }

    /// Random weights about another number.
    pub(crate) fn norm_about(&mut self, name: &str, n: u64, mean: f32) {
        let spread = Spread { mean, width: 0.1 };
        self.tensor(name, &[n], WeightKind::F32, spread);
    }

    fn tensor(&mut self, name: &str, shape: &[u64], kind: WeightKind, spread: Spread) {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind,
            spread,
        });
    }

    /// Writes the file; the same bytes each time.
    ///
    /// # Errors
    /// Those of the target.
    pub(crate) fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        let mut head = b"GGUF".to_vec();
        head.extend(3_u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend(self.n_pairs.to_le_bytes());
        head.extend(&self.pairs);
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            write_string(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            head.extend(tensor.shape.iter().flat_map(|n| n.to_le_bytes()));
            head.extend(tensor.kind.number().to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += tensor.bytes().next_multiple_of(ALIGNMENT as u64);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        to.write_all(&head)?;
        let mut random = Random::default();
        for tensor in &self.tensors {
            let n = tensor.shape.iter().product();
            tensor.kind.write(n, tensor.spread, &mut random, to)?;
            let bytes = tensor.bytes();
            let padding = bytes.next_multiple_of(ALIGNMENT as u64) - bytes;
            to.write_all(&[0; ALIGNMENT][..padding as usize])?;
        }
        Ok(())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Memory takes what it is given.
        let _ = self.write_to(&mut bytes);
        bytes
    }
}

fn write_string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.bytes());
}
