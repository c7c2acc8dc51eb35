//! Reads the header of a GGUF file: metadata and tensor table, no weights.
//!
//! The input is treated as hostile. Every count and length is compared with a
//! limit from [`limits`] and with the bytes that are left in the file before
//! anything is allocated, so a header can never cost more memory than a small
//! multiple of the file's own size ([`limits::MEMORY_PER_FILE_BYTE_MAX`]).
//!
//! Format: the GGUF specification in the ggml repository, versions 2 and 3,
//! little-endian.

mod error;
mod read;
mod split;
mod tensor_type;
mod value;
#[doc(hidden)]
pub mod write;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

pub use error::GgufError;
pub use split::{ShardName, shard_name};
pub use tensor_type::{TENSOR_TYPES, TensorType, file_type_name};
pub use value::{Array, Value, ValueType};

/// The limits of the reader. Each is well above any published model.
pub mod limits {
    /// Metadata entries.
    pub const METADATA_MAX: u64 = 1 << 16;
    /// Tensors in one file.
    pub const TENSORS_MAX: u64 = 1 << 17;
    /// Bytes of a metadata key, from the specification.
    pub const KEY_BYTES_MAX: u64 = (1 << 16) - 1;
    /// Bytes of a tensor name: ggml keeps 64 with the terminating zero.
    pub const TENSOR_NAME_BYTES_MAX: u64 = 63;
    /// Bytes of one string; embedded tokenizer files reach tens of megabytes.
    pub const STRING_BYTES_MAX: u64 = 64 << 20;
    /// Items of one array.
    pub const ARRAY_ITEMS_MAX: u64 = 1 << 24;
    /// Bytes of keys, strings and arrays kept in memory.
    pub const HEADER_BYTES_MAX: u64 = 256 << 20;
    /// Dimensions of a tensor.
    pub const DIMENSIONS_MAX: u32 = 4;
    /// Arrays up to this length are kept by [`super::Arrays::SkipLong`]: long
    /// enough for one number a layer, far shorter than a vocabulary.
    pub const SHORT_ARRAY_ITEMS: u64 = 1024;
    /// The data section's alignment, when it is given at all.
    pub const ALIGNMENT_MAX: u64 = 1 << 20;
    /// The reader never holds more than this many bytes for each byte of the
    /// file, plus 64 KiB. The worst case is a table of the shortest possible
    /// metadata entries: 14 bytes in the file, kept once in the table (with
    /// the vector's spare capacity) and once in the set that finds duplicates.
    pub const MEMORY_PER_FILE_BYTE_MAX: u64 = 32;
}

/// What to do with long arrays, chiefly the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrays {
    /// Keep every array.
    Read,
    /// Keep only the length of arrays above [`limits::SHORT_ARRAY_ITEMS`].
    SkipLong,
}

/// One metadata entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub key: String,
    pub value: Value,
}

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    tensor_type: TensorType,
    dims: [u64; limits::DIMENSIONS_MAX as usize],
    n_dims: u32,
    offset: u64,
    bytes: u64,
}

impl TensorInfo {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub const fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// The dimensions as written, innermost first.
    #[must_use]
    pub fn dims(&self) -> &[u64] {
        self.dims
            .get(..self.n_dims as usize)
            .unwrap_or(self.dims.as_slice())
    }

    /// Where the tensor starts, counted from [`Gguf::data_offset`].
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the tensor's data.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of weights.
    #[must_use]
    pub fn n_weights(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// Where a file stands in a split model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// This file's number, from 0.
    pub index: u32,
    /// Files in all.
    pub count: u32,
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    version: u32,
    metadata: Vec<Metadata>,
    tensors: Vec<TensorInfo>,
    data_offset: u64,
    data_end: u64,
}

impl Gguf {
    /// Reads the header of the file at `path`, keeping only the length of long
    /// arrays.
    ///
    /// # Errors
    /// [`GgufError`] names the field, its offset and what was wrong with it.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::open_with(path, Arrays::SkipLong)
    }

    /// Like [`Gguf::open`], with a choice about long arrays.
    ///
    /// # Errors
    /// See [`Gguf::open`].
    pub fn open_with(path: &Path, arrays: Arrays) -> Result<Self, GgufError> {
        let io = |error: std::io::Error| GgufError::Io {
            field: format!("`{}`", path.display()),
            offset: 0,
            kind: error.kind(),
            message: error.to_string(),
        };
        let file = File::open(path).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        Self::read(
            BufReader::with_capacity(256 << 10, file),
            file_bytes,
            arrays,
        )
    }

    /// Parses a header from memory, keeping every array. Tensor data need not
    /// be there.
    ///
    /// # Errors
    /// See [`Gguf::open`].
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        Self::read(bytes, bytes.len() as u64, Arrays::Read)
    }

    /// Parses a header from `reader`, which can give `file_bytes` bytes.
    ///
    /// # Errors
    /// See [`Gguf::open`].
    pub fn read(reader: impl BufRead, file_bytes: u64, arrays: Arrays) -> Result<Self, GgufError> {
        let header = read::header(reader, file_bytes, arrays)?;
        let mut gguf = Self {
            version: header.version,
            metadata: header.metadata,
            tensors: header.tensors,
            data_offset: 0,
            data_end: header.header_bytes,
        };
        let alignment = gguf.alignment()?;
        // The header lies inside the file and the alignment is small: no overflow.
        gguf.data_offset = header.header_bytes.next_multiple_of(alignment);
        gguf.data_end = gguf.check_tensors(alignment)?;
        Ok(gguf)
    }

    fn alignment(&self) -> Result<u64, GgufError> {
        let Some(value) = self.get("general.alignment") else {
            return Ok(32);
        };
        match value.as_u64() {
            Some(n) if n.is_power_of_two() && n <= limits::ALIGNMENT_MAX => Ok(n),
            _ => Err(GgufError::Value {
                field: "`general.alignment`".to_owned(),
                offset: 0,
                value: format!("{value:?}"),
                expected: "a power of two up to 1048576",
            }),
        }
    }

    /// The end of the last tensor, counted from the start of the file.
    fn check_tensors(&self, alignment: u64) -> Result<u64, GgufError> {
        // Without tensors there is no padding to wait for either.
        let mut end = self.data_end;
        for tensor in &self.tensors {
            let bad = |expected| GgufError::Value {
                field: format!("offset of tensor `{}`", tensor.name),
                offset: self.data_offset,
                value: tensor.offset.to_string(),
                expected,
            };
            if !tensor.offset.is_multiple_of(alignment) {
                return Err(bad("a multiple of the file's alignment"));
            }
            let tensor_end = self
                .data_offset
                .checked_add(tensor.offset)
                .and_then(|start| start.checked_add(tensor.bytes))
                .filter(|end| i64::try_from(*end).is_ok())
                .ok_or_else(|| bad("an end below 2^63"))?;
            end = end.max(tensor_end);
        }
        Ok(end)
    }

    /// The format version: 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// All metadata in the file's order.
    #[must_use]
    pub fn metadata(&self) -> &[Metadata] {
        &self.metadata
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self.metadata.iter().find(|entry| entry.key == key)?;
        Some(&found.value)
    }

    /// The text at `key`.
    #[must_use]
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The number at `key`, when it fits.
    #[must_use]
    pub fn get_u32(&self, key: &str) -> Option<u32> {
        u32::try_from(self.get_u64(key)?).ok()
    }

    /// The number at `key`, when it is not negative.
    #[must_use]
    pub fn get_u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// The number at `key`; integers are converted.
    #[must_use]
    pub fn get_f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// The flag at `key`.
    #[must_use]
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// The array at `key`.
    #[must_use]
    pub fn get_array(&self, key: &str) -> Option<&Array> {
        self.get(key)?.as_array()
    }

    /// The value of `key` below the architecture: `arch_get("block_count")`
    /// reads `llama.block_count` in a llama model.
    #[must_use]
    pub fn arch_get(&self, key: &str) -> Option<&Value> {
        self.get(&format!("{}.{key}", self.architecture()?))
    }

    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where tensor data starts in the file, bytes.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// How long the file must be to hold every tensor, bytes.
    #[must_use]
    pub const fn data_end(&self) -> u64 {
        self.data_end
    }

    /// `general.architecture`, for example `llama`.
    #[must_use]
    pub fn architecture(&self) -> Option<&str> {
        self.get_str("general.architecture")
    }

    /// `general.name`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.get_str("general.name").filter(|name| !name.is_empty())
    }

    /// The default chat template, Jinja source.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.get_str("tokenizer.chat_template")
    }

    /// The context the model was trained for, tokens.
    #[must_use]
    pub fn context_length(&self) -> Option<u64> {
        self.arch_get("context_length")?.as_u64()
    }

    /// The quantisation as people name it: the file's own `general.file_type`,
    /// or else the type that holds most of the weights.
    #[must_use]
    pub fn quant(&self) -> Option<&'static str> {
        self.get_u32("general.file_type")
            .and_then(file_type_name)
            .or_else(|| self.dominant_type().map(TensorType::name))
    }

    fn dominant_type(&self) -> Option<TensorType> {
        let mut totals: Vec<(TensorType, u64)> = Vec::new();
        for tensor in &self.tensors {
            let weights = tensor.n_weights();
            match totals.iter_mut().find(|(t, _)| *t == tensor.tensor_type) {
                Some((_, total)) => *total = total.saturating_add(weights),
                None => totals.push((tensor.tensor_type, weights)),
            }
        }
        let (dominant, _) = totals.into_iter().max_by_key(|(_, total)| *total)?;
        Some(dominant)
    }

    /// Weights in this file, all tensors together.
    #[must_use]
    pub fn n_parameters(&self) -> u64 {
        self.tensors
            .iter()
            .fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_weights()))
    }

    /// Bytes of tensor data in this file, without padding.
    #[must_use]
    pub fn weights_bytes(&self) -> u64 {
        self.tensors
            .iter()
            .fold(0, |sum: u64, tensor| sum.saturating_add(tensor.bytes))
    }

    /// This file's place in a split model; `None` for a model in one file.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        let count = self.get_u32("split.count").filter(|count| *count > 1)?;
        Some(Split {
            index: self.get_u32("split.no").unwrap_or(0),
            count,
        })
    }
}

#[cfg(test)]
mod tests;
