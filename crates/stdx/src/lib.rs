//! Small things every crate may use: units with names, secrets that do not print.
//!
//! Nothing here does input or output. A type belongs here only when two crates
//! at different levels need it.

mod bytes;
mod secret;

pub use bytes::Bytes;
pub use secret::Secret;
