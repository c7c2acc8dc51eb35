//! Metadata values.

use std::borrow::Cow;

/// The type of a metadata value, as written in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// The type with this number in the file.
    #[must_use]
    pub const fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Str,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one item in the file; for strings and arrays the least they take.
    #[must_use]
    pub const fn bytes_min(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }
}

/// One metadata value. Integers are widened: the file's width carries no meaning.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Str(String),
    Array(Array),
}

impl Value {
    /// The value as a count: any integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as a signed integer.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(value) => i64::try_from(*value).ok(),
            Self::Signed(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as a number with a fraction; integers are converted.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Unsigned(value) => Some(*value as f64),
            Self::Signed(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The value as text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(value) => Some(value),
            _ => None,
        }
    }

    /// The value as a flag.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as an array.
    #[must_use]
    pub const fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(value) => Some(value),
            _ => None,
        }
    }
}

/// An array of metadata. Long arrays may have been skipped: then only their
/// length is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub(crate) item_type: ValueType,
    pub(crate) len: u64,
    pub(crate) items: Items,
}

/// What was kept of an array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Items {
    Skipped,
    /// Little-endian items as they lie in the file.
    Packed(Vec<u8>),
    /// All strings end to end, and where each one ends.
    Strings {
        bytes: Vec<u8>,
        ends: Vec<u32>,
    },
}

impl Array {
    /// The number of items in the file, whether they were read or skipped.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub const fn item_type(&self) -> ValueType {
        self.item_type
    }

    /// False when the items were skipped while reading.
    #[must_use]
    pub const fn was_read(&self) -> bool {
        !matches!(self.items, Items::Skipped)
    }

    /// Item `index`, or `None` when it is out of range or the items were skipped.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Value> {
        match &self.items {
            Items::Skipped => None,
            Items::Strings { .. } => {
                let text = String::from_utf8_lossy(self.string_bytes(index)?);
                Some(Value::Str(text.into_owned()))
            }
            Items::Packed(bytes) => {
                let width = self.item_type.bytes_min() as usize;
                let start = index.checked_mul(width)?;
                scalar(self.item_type, bytes.get(start..start.checked_add(width)?)?)
            }
        }
    }

    /// All items in order; nothing when they were skipped.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        (0..).map_while(|index| self.get(index))
    }

    /// The strings of a string array, without a copy where they are valid UTF-8.
    pub fn strings(&self) -> impl Iterator<Item = Cow<'_, str>> + '_ {
        (0..)
            .map_while(|index| self.string_bytes(index))
            .map(String::from_utf8_lossy)
    }

    /// The bytes of string `index`: vocabularies may hold pieces that are not UTF-8.
    #[must_use]
    pub fn string_bytes(&self, index: usize) -> Option<&[u8]> {
        let Items::Strings { bytes, ends } = &self.items else {
            return None;
        };
        let end = *ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(before) => *ends.get(before)? as usize,
            None => 0,
        };
        bytes.get(start..end)
    }
}

/// Decodes one fixed-width item. `bytes` holds exactly its width.
pub(crate) fn scalar(item_type: ValueType, bytes: &[u8]) -> Option<Value> {
    Some(match item_type {
        ValueType::U8 => Value::Unsigned((*bytes.first()?).into()),
        ValueType::I8 => Value::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::U16 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::I16 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::U32 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::I32 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F32 => Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::F64 => Value::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::Bool => Value::Bool(*bytes.first()? != 0),
        ValueType::Str | ValueType::Array => return None,
    })
}
