//! Why a header could not be read.

use std::io;

/// A header that breaks the format or one of our limits. Every variant names
/// the field, and where it makes sense the byte offset, the value and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The operating system refused to read.
    #[error("reading {field} at byte {offset}: {message}")]
    Io {
        field: String,
        offset: u64,
        kind: io::ErrorKind,
        message: String,
    },
    /// The header ends before the field does.
    #[error(
        "{field} at byte {offset} needs {need_bytes} bytes, but only {have_bytes} are left in the file"
    )]
    Truncated {
        field: String,
        offset: u64,
        need_bytes: u64,
        have_bytes: u64,
    },
    /// The first four bytes are not `GGUF`.
    #[error("the file starts with {found:02x?}, a GGUF file starts with [47, 47, 55, 46]")]
    Magic { found: [u8; 4] },
    /// A GGUF version this reader does not know (it reads 2 and 3).
    #[error("GGUF version {found} at byte 4; versions 2 and 3 can be read")]
    Version { found: u32 },
    /// A file written for a big-endian machine.
    #[error("the file is big-endian GGUF version {version}; only little-endian files can be read")]
    BigEndian { version: u32 },
    /// A count or length above a named limit.
    #[error("{field} at byte {offset} is {value}, above the limit of {limit}")]
    Limit {
        field: String,
        offset: u64,
        value: u64,
        limit: u64,
    },
    /// A value outside what the format allows.
    #[error("{field} at byte {offset} is {value}, expected {expected}")]
    Value {
        field: String,
        offset: u64,
        value: String,
        expected: &'static str,
    },
    /// A metadata key or tensor name that occurs twice.
    #[error("{field} at byte {offset}: `{name}` occurs twice")]
    Duplicate {
        field: &'static str,
        offset: u64,
        name: String,
    },
    /// A tensor stored in a type this reader has no block size for.
    #[error("tensor `{tensor}` at byte {offset} has type {id}, which {why}")]
    TensorType {
        tensor: String,
        offset: u64,
        id: u32,
        why: &'static str,
    },
}
