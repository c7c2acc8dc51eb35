//! GGUF version 3, little-endian, with 32-bit weights.

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

/// A file under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    architecture: String,
    n_pairs: u64,
    pairs: Vec<u8>,
    n_tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
    random: u64,
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

    /// A tokenizer of SentencePiece's kind that has nothing but bytes.
    pub(crate) fn tokenizer(&mut self) {
        const UNKNOWN: i32 = 2;
        const CONTROL: i32 = 3;
        const BYTE: i32 = 6;
        self.key("tokenizer.ggml.model", TYPE_STRING);
        write_string(&mut self.pairs, "llama");
        let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
        self.array("tokenizer.ggml.tokens", TYPE_STRING, N_VOCAB as usize);
        for token in special.into_iter().chain(bytes) {
            write_string(&mut self.pairs, &token);
        }
        self.array("tokenizer.ggml.scores", TYPE_F32, N_VOCAB as usize);
        self.pairs.extend([0; 4 * N_VOCAB as usize]);
        self.array("tokenizer.ggml.token_type", TYPE_I32, N_VOCAB as usize);
        let kinds = [UNKNOWN, CONTROL, CONTROL].into_iter().chain([BYTE; 256]);
        self.pairs.extend(kinds.flat_map(i32::to_le_bytes));
    }

    /// Random weights about 0, small enough that nothing blows up on its way through.
    pub(crate) fn matrix(&mut self, name: &str, shape: &[u64]) {
        let n_in = shape.first().copied().unwrap_or(1);
        self.tensor(name, shape, (0.0, 1.0 / (n_in as f32).sqrt()));
    }

    /// Random weights about 1, as norms have them.
    pub(crate) fn norm(&mut self, name: &str, n: u64) {
        self.tensor(name, &[n], (1.0, 0.1));
    }

    fn tensor(&mut self, name: &str, shape: &[u64], (mean, scale): (f32, f32)) {
        const F32: u32 = 0;
        self.n_tensors += 1;
        write_string(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        self.infos
            .extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        self.infos.extend(F32.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        for _ in 0..shape.iter().product() {
            let value = mean + scale * self.uniform();
            self.data.extend(value.to_le_bytes());
        }
        let padded = self.data.len().next_multiple_of(ALIGNMENT);
        self.data.resize(padded, 0);
    }

    /// From -1 to 1 (SplitMix64, Steele, Lea and Flood 2014).
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(self.n_tensors.to_le_bytes());
        bytes.extend(self.n_pairs.to_le_bytes());
        bytes.extend(self.pairs);
        bytes.extend(self.infos);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(self.data);
        bytes
    }
}

fn write_string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.bytes());
}
