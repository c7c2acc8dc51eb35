//! Small things every crate may use: units with names, moments, money, priorities, secrets that do
//! not print.
//!
//! Nothing here does input or output. A type belongs here only when two crates
//! at different levels need it.

mod bytes;
mod cost;
mod moment;
mod priority;
mod secret;

pub use bytes::Bytes;
pub use cost::{Cost, NoAmount};
pub use moment::{rfc3339, unix_of_rfc3339};
pub use priority::Priority;
pub use secret::Secret;
