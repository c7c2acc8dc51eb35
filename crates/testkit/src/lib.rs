//! What tests of several crates share: tiny models of every family, written from scratch.
//!
//! [`tiny::gguf`] makes a GGUF file of a few hundred kilobytes with random 32-bit weights and
//! a token for each byte, which llama.cpp loads and runs. The text that comes out means
//! nothing; caches, states and buffers are as those of a large model of that family.
//! [`fat::gguf`] makes one whose cache takes a gigabyte for a few thousand tokens.
//! [`sized::write`] makes a llama of any size and type of weights, for what depends on those.

mod families;
pub mod fat;
mod llama;
mod weights;
mod writer;

pub mod tiny {
    pub use crate::families::{Family, Purpose, gguf, gguf_for};
}

pub mod sized {
    pub use crate::llama::{Llama, write};
    pub use crate::weights::WeightKind;
}
