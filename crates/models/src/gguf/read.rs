//! The byte reader: every length is checked before a byte is allocated.

use std::collections::HashSet;
use std::io::{self, BufRead};

use super::error::GgufError;
use super::tensor_type::TensorType;
use super::value::{Array, Items, Value, ValueType, scalar};
use super::{Arrays, Metadata, TensorInfo, limits};

/// A header as read, before the accessors of [`super::Gguf`] wrap it.
pub(super) struct Header {
    pub version: u32,
    pub metadata: Vec<Metadata>,
    pub tensors: Vec<TensorInfo>,
    pub header_bytes: u64,
}

/// Reads a whole header. `file_bytes` is how many bytes the source can give:
/// no allocation is made for more than what is left of it.
pub(super) fn header<R: BufRead>(
    inner: R,
    file_bytes: u64,
    arrays: Arrays,
) -> Result<Header, GgufError> {
    let mut source = Source {
        inner,
        offset: 0,
        file_bytes,
        kept_bytes: 0,
    };
    let version = source.version()?;
    // An entry takes at least 13 bytes (key length, type, one byte of value),
    // a tensor at least 24 (name length, dimension count, type, offset).
    let n_tensors = source.count("tensor count", limits::TENSORS_MAX, 24)?;
    let n_metadata = source.count("metadata count", limits::METADATA_MAX, 13)?;
    let metadata = source.metadata(n_metadata, arrays)?;
    let tensors = source.tensors(n_tensors)?;
    Ok(Header {
        version,
        metadata,
        tensors,
        header_bytes: source.offset,
    })
}

struct Source<R> {
    inner: R,
    offset: u64,
    file_bytes: u64,
    /// Bytes of keys, strings and arrays held so far.
    kept_bytes: u64,
}

impl<R: BufRead> Source<R> {
    fn version(&mut self) -> Result<u32, GgufError> {
        let found: [u8; 4] = self.array("magic")?;
        if &found != b"GGUF" {
            return Err(GgufError::Magic { found });
        }
        let version = self.u32("version")?;
        match version {
            2 | 3 => Ok(version),
            other if matches!(other.swap_bytes(), 1..=3) => Err(GgufError::BigEndian {
                version: other.swap_bytes(),
            }),
            found => Err(GgufError::Version { found }),
        }
    }

    fn metadata(&mut self, count: u64, arrays: Arrays) -> Result<Vec<Metadata>, GgufError> {
        let mut metadata = Vec::new();
        let mut seen = HashSet::new();
        for index in 0..count {
            let offset = self.offset;
            let key = self.name(
                || format!("key of metadata entry {index}"),
                limits::KEY_BYTES_MAX,
            )?;
            if !seen.insert(key.clone()) {
                return Err(GgufError::Duplicate {
                    field: "metadata",
                    offset,
                    name: key,
                });
            }
            let value = self.value(&key, arrays)?;
            metadata.push(Metadata { key, value });
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, arrays: Arrays) -> Result<Value, GgufError> {
        match self.value_type(|| format!("type of `{key}`"))? {
            ValueType::Str => {
                let bytes = self.bytes(|| format!("`{key}`"), limits::STRING_BYTES_MAX)?;
                Ok(Value::Str(match String::from_utf8(bytes) {
                    Ok(text) => text,
                    Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
                }))
            }
            ValueType::Array => self.array_value(key, arrays).map(Value::Array),
            fixed => {
                let offset = self.offset;
                let mut buffer = [0; 8];
                let width = fixed.bytes_min() as usize;
                let bytes = &mut buffer[..width];
                self.fill(bytes, || format!("`{key}`"))?;
                scalar(fixed, bytes).ok_or_else(|| GgufError::Value {
                    field: format!("`{key}`"),
                    offset,
                    value: format!("{bytes:02x?}"),
                    expected: "a number",
                })
            }
        }
    }

    fn array_value(&mut self, key: &str, arrays: Arrays) -> Result<Array, GgufError> {
        let offset = self.offset;
        let item_type = self.value_type(|| format!("item type of `{key}`"))?;
        if item_type == ValueType::Array {
            return Err(GgufError::Value {
                field: format!("item type of `{key}`"),
                offset,
                value: "array".to_owned(),
                expected: "a plain type: arrays of arrays are not part of any model",
            });
        }
        let len = self.count(
            &format!("length of `{key}`"),
            limits::ARRAY_ITEMS_MAX,
            item_type.bytes_min(),
        )?;
        let skip = arrays == Arrays::SkipLong && len > limits::SHORT_ARRAY_ITEMS;
        let items = match (item_type, skip) {
            (ValueType::Str, true) => self.skip_strings(key, len)?,
            (ValueType::Str, false) => self.strings(key, len)?,
            (fixed, true) => {
                self.skip(len * fixed.bytes_min(), || format!("`{key}`"))?;
                Items::Skipped
            }
            (fixed, false) => {
                Items::Packed(self.exactly(len * fixed.bytes_min(), || format!("`{key}`"))?)
            }
        };
        Ok(Array {
            item_type,
            len,
            items,
        })
    }

    fn strings(&mut self, key: &str, len: u64) -> Result<Items, GgufError> {
        // `count` has checked that `len` strings of at least 8 bytes are left, so
        // 4 bytes for each end is less than what the file holds.
        let mut ends = Vec::with_capacity(len as usize);
        let mut bytes = Vec::new();
        for index in 0..len {
            let field = || format!("item {index} of `{key}`");
            let item = self.bytes(field, limits::STRING_BYTES_MAX)?;
            bytes.extend_from_slice(&item);
            // HEADER_BYTES_MAX is below u32::MAX, and `bytes` counts against it.
            ends.push(bytes.len() as u32);
        }
        Ok(Items::Strings { bytes, ends })
    }

    fn skip_strings(&mut self, key: &str, len: u64) -> Result<Items, GgufError> {
        for index in 0..len {
            let field = || format!("item {index} of `{key}`");
            let bytes = self.length(field, limits::STRING_BYTES_MAX)?;
            self.skip(bytes, field)?;
        }
        Ok(Items::Skipped)
    }

    fn tensors(&mut self, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
        let mut tensors = Vec::new();
        let mut seen = HashSet::new();
        for index in 0..count {
            let offset = self.offset;
            let tensor = self.tensor(index)?;
            if !seen.insert(tensor.name.clone()) {
                return Err(GgufError::Duplicate {
                    field: "tensor",
                    offset,
                    name: tensor.name,
                });
            }
            tensors.push(tensor);
        }
        Ok(tensors)
    }

    fn tensor(&mut self, index: u64) -> Result<TensorInfo, GgufError> {
        let start = self.offset;
        let name = self.name(
            || format!("name of tensor {index}"),
            limits::TENSOR_NAME_BYTES_MAX,
        )?;
        let dims_offset = self.offset;
        let n_dims = self.u32("dimension count")?;
        if n_dims > limits::DIMENSIONS_MAX {
            return Err(GgufError::Limit {
                field: format!("dimension count of tensor `{name}`"),
                offset: dims_offset,
                value: n_dims.into(),
                limit: limits::DIMENSIONS_MAX.into(),
            });
        }
        let mut dims = [1; limits::DIMENSIONS_MAX as usize];
        for dim in dims.iter_mut().take(n_dims as usize) {
            *dim = self.u64("tensor dimension")?;
        }
        let type_offset = self.offset;
        let id = self.u32("tensor type")?;
        let tensor_type = TensorType::from_id(id).map_err(|why| GgufError::TensorType {
            tensor: name.clone(),
            offset: type_offset,
            id,
            why,
        })?;
        let bad_shape = |expected| GgufError::Value {
            field: format!("shape of tensor `{name}`"),
            offset: start,
            value: format!("{dims:?}"),
            expected,
        };
        let n_weights = dims
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul(*dim))
            .filter(|weights| i64::try_from(*weights).is_ok())
            .ok_or_else(|| bad_shape("a product below 2^63"))?;
        if !dims[0].is_multiple_of(tensor_type.block_weights()) {
            return Err(bad_shape("rows of whole blocks of the tensor's type"));
        }
        let bytes = tensor_type
            .bytes_of(n_weights)
            .ok_or_else(|| bad_shape("a size below 2^64 bytes"))?;
        let offset = self.u64("tensor offset")?;
        Ok(TensorInfo {
            name,
            tensor_type,
            dims,
            n_dims,
            offset,
            bytes,
        })
    }

    /// A name: UTF-8, not empty.
    fn name(&mut self, field: impl Fn() -> String, limit: u64) -> Result<String, GgufError> {
        let offset = self.offset;
        let bytes = self.bytes(&field, limit)?;
        let bad = |value, expected| GgufError::Value {
            field: field(),
            offset,
            value,
            expected,
        };
        if bytes.is_empty() {
            return Err(bad("empty".to_owned(), "a name"));
        }
        String::from_utf8(bytes).map_err(|_| bad("not UTF-8".to_owned(), "UTF-8 text"))
    }

    fn value_type(&mut self, field: impl Fn() -> String) -> Result<ValueType, GgufError> {
        let offset = self.offset;
        let id = u32::from_le_bytes(self.array_named(&field)?);
        ValueType::from_id(id).ok_or_else(|| GgufError::Value {
            field: field(),
            offset,
            value: id.to_string(),
            expected: "a type from 0 to 12",
        })
    }

    /// A count of things that take at least `item_bytes` each.
    fn count(&mut self, field: &str, limit: u64, item_bytes: u64) -> Result<u64, GgufError> {
        let offset = self.offset;
        let value = self.u64(field)?;
        if value > limit {
            return Err(GgufError::Limit {
                field: field.to_owned(),
                offset,
                value,
                limit,
            });
        }
        self.need(value * item_bytes, || field.to_owned())?;
        Ok(value)
    }

    fn length(&mut self, field: impl Fn() -> String, limit: u64) -> Result<u64, GgufError> {
        let offset = self.offset;
        let value = u64::from_le_bytes(self.array_named(&field)?);
        if value > limit {
            return Err(GgufError::Limit {
                field: field(),
                offset,
                value,
                limit,
            });
        }
        Ok(value)
    }

    fn bytes(&mut self, field: impl Fn() -> String, limit: u64) -> Result<Vec<u8>, GgufError> {
        let len = self.length(&field, limit)?;
        self.exactly(len, field)
    }

    /// `len` bytes in a vector of exactly that size.
    fn exactly(&mut self, len: u64, field: impl Fn() -> String) -> Result<Vec<u8>, GgufError> {
        self.need(len, &field)?;
        self.kept_bytes += len;
        if self.kept_bytes > limits::HEADER_BYTES_MAX {
            return Err(GgufError::Limit {
                field: format!("metadata kept in memory, reached with {}", field()),
                offset: self.offset,
                value: self.kept_bytes,
                limit: limits::HEADER_BYTES_MAX,
            });
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &str) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], GgufError> {
        self.array_named(|| field.to_owned())
    }

    fn array_named<const N: usize>(
        &mut self,
        field: impl Fn() -> String,
    ) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], field: impl Fn() -> String) -> Result<(), GgufError> {
        let len = bytes.len() as u64;
        self.need(len, &field)?;
        self.inner
            .read_exact(bytes)
            .map_err(|error| self.io(&error, len, &field))?;
        self.offset += len;
        Ok(())
    }

    fn skip(&mut self, len: u64, field: impl Fn() -> String) -> Result<(), GgufError> {
        self.need(len, &field)?;
        let mut left = len;
        while left > 0 {
            let available = match self.inner.fill_buf() {
                Ok(buffer) => buffer.len() as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.io(&error, left, &field)),
            };
            if available == 0 {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Err(self.io(&error, left, &field));
            }
            let step = available.min(left);
            self.inner.consume(step as usize);
            self.offset += step;
            left -= step;
        }
        Ok(())
    }

    /// Refuses to read past the end before anything is allocated.
    fn need(&self, need_bytes: u64, field: impl Fn() -> String) -> Result<(), GgufError> {
        let have_bytes = self.file_bytes.saturating_sub(self.offset);
        if need_bytes <= have_bytes {
            return Ok(());
        }
        Err(GgufError::Truncated {
            field: field(),
            offset: self.offset,
            need_bytes,
            have_bytes,
        })
    }

    fn io(&self, error: &io::Error, need_bytes: u64, field: impl Fn() -> String) -> GgufError {
        // The source promised more bytes than it had: the file shrank meanwhile.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return GgufError::Truncated {
                field: field(),
                offset: self.offset,
                need_bytes,
                have_bytes: 0,
            };
        }
        GgufError::Io {
            field: field(),
            offset: self.offset,
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}
