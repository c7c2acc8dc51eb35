//! States of prompt prefixes that outlive the sequence, the request and the process.
//!
//! A prompt is cut into blocks of [`BLOCK_TOKENS`] tokens. Each block has a [`Key`]: a
//! hash of the model and of every token up to the block's end, so that equal beginnings
//! have equal keys, whoever computed them. What an engine knows of a block lies in up to
//! three [`Plane`]s, each an entry of its own, and so a beginning that many prompts share
//! is stored once.
//!
//! [`Cache`] is the pure core: which entries there are, what may be restored, what goes
//! when room is short (`step(event, now) -> actions`). [`record`] is the form of an entry
//! in a file, and [`Folder`] the thin driver that reads and writes such files.

mod content;
mod core;
mod disk;
mod key;
pub mod record;

pub use content::Content;
pub use core::{Action, Budgets, Cache, Event, Facts, Listed, Needs, Stored};
pub use disk::{Folder, FolderError, Lost, WEAR_FILE, WearLog};
pub use key::{BLOCK_TOKENS, Fingerprint, Id, Key, Plane, chain};
