//! A tiny GGUF writer, for tests: enough to make sound files and hostile ones.
//!
//! Every field can be overridden, because a test wants the file that no
//! sensible writer would produce.

use super::TensorType;

/// Builds a file in memory.
#[derive(Debug, Clone)]
pub struct Writer {
    version: u32,
    metadata: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    tensor_count: Option<u64>,
    metadata_count: Option<u64>,
    data_bytes: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty version 3 file.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            version: 3,
            metadata: Vec::new(),
            tensors: Vec::new(),
            tensor_count: None,
            metadata_count: None,
            data_bytes: 0,
        }
    }

    /// A small model that passes every check: two tensors, a tokenizer, a template.
    #[must_use]
    pub fn tiny_model() -> Self {
        Self::new()
            .str("general.architecture", "llama")
            .str("general.name", "Tiny Test")
            .u32("general.file_type", 15)
            .u32("llama.context_length", 2048)
            .u32("llama.block_count", 1)
            .str("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &["<s>", "a", "b", "ab"])
            .strings("tokenizer.ggml.merges", &["a b"])
            .str("tokenizer.chat_template", "{{ messages }}")
            .tensor("token_embd.weight", 12, &[256, 4])
            .tensor("output_norm.weight", 0, &[256])
    }

    #[must_use]
    pub const fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Claims this many tensors, whatever is there.
    #[must_use]
    pub const fn claim_tensors(mut self, count: u64) -> Self {
        self.tensor_count = Some(count);
        self
    }

    /// Claims this many metadata entries, whatever is there.
    #[must_use]
    pub const fn claim_metadata(mut self, count: u64) -> Self {
        self.metadata_count = Some(count);
        self
    }

    /// A metadata entry with raw bytes as its value.
    #[must_use]
    pub fn raw(mut self, key: &str, value_type: u32, value: &[u8]) -> Self {
        let mut entry = string(key.as_bytes());
        entry.extend(value_type.to_le_bytes());
        entry.extend(value);
        self.metadata.push(entry);
        self
    }

    #[must_use]
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    #[must_use]
    pub fn str(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string(value.as_bytes()))
    }

    #[must_use]
    pub fn strings(self, key: &str, values: &[&str]) -> Self {
        let mut bytes = 8_u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            bytes.extend(string(value.as_bytes()));
        }
        self.raw(key, 9, &bytes)
    }

    #[must_use]
    pub fn u32s(self, key: &str, values: &[u32]) -> Self {
        let mut bytes = 4_u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            bytes.extend(value.to_le_bytes());
        }
        self.raw(key, 9, &bytes)
    }

    /// A tensor behind the ones so far, with its data.
    #[must_use]
    pub fn tensor(self, name: &str, type_id: u32, dims: &[u64]) -> Self {
        let weights: u64 = dims.iter().product();
        let bytes = TensorType::from_id(type_id)
            .ok()
            .and_then(|known| known.bytes_of(weights))
            .unwrap_or(0);
        let offset = self.data_bytes;
        let mut writer = self.raw_tensor(name, (type_id, offset), dims);
        writer.data_bytes = (offset + bytes).next_multiple_of(32);
        writer
    }

    /// A row of the tensor table with any offset and no data.
    #[must_use]
    pub fn raw_tensor(mut self, name: &str, (type_id, offset): (u32, u64), dims: &[u64]) -> Self {
        let mut entry = string(name.as_bytes());
        entry.extend((dims.len() as u32).to_le_bytes());
        for dim in dims {
            entry.extend(dim.to_le_bytes());
        }
        entry.extend(type_id.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    /// The header alone.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        let n_tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        let n_metadata = self.metadata_count.unwrap_or(self.metadata.len() as u64);
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(n_metadata.to_le_bytes());
        bytes.extend(self.metadata.concat());
        bytes.extend(self.tensors.concat());
        bytes
    }

    /// The whole file; tensor data is a repeating pattern.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend((0..self.data_bytes).map(|index| (index % 251) as u8));
        bytes
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}
