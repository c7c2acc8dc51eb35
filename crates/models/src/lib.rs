//! Model files before an engine sees them.
//!
//! Four questions are answered here: what is in this file ([`gguf`]), is it
//! sound ([`diagnose`], and with more patience [`examine`]), which models does
//! this machine already have ([`stores`]), and how does a missing one get here
//! ([`pull`]).
//!
//! Nothing in this crate loads a model. A file found in another program's store
//! is used where it lies; it is never copied, moved or deleted.

pub mod architecture;
pub mod checksum;
pub mod diagnose;
pub mod examine;
pub mod gguf;
mod kv;
pub mod pull;
pub mod quant;
pub mod rkllm;
pub mod source;
pub mod stores;
pub mod tokenizer;

pub use diagnose::{ArtifactFault, Facts, Kind, diagnose};
pub use examine::{Examination, examine};
pub use gguf::{Gguf, GgufError};
pub use kv::KvValues;

pub use pull::{Package, Progress, PullError, Pulled, Puller, wheel_entry};
pub use source::Source;
pub use stores::{Environment, Found, Resolved, Store, list, resolve};
