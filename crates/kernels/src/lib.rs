//! CPU kernels: the arithmetic of a transformer, with no knowledge of ggml.
//!
//! Each kernel has a scalar reference, which is its specification, and variants for the
//! instruction sets in [`Isa`]. Integer parts agree bit for bit between the variants;
//! what floats may differ by stands with each kernel. A kernel starts no threads: callers
//! split the work.
//!
//! **Row invariance.** What a kernel computes for one row (of activations, of queries)
//! depends on that row alone, never on how many rows come with it or on how the work is
//! split. Speculative decoding and batching rely on it: a token gets the same logits
//! alone, in a batch and in a prefill.

pub mod attention;
pub mod conv;
pub mod float;
pub mod glu;
pub mod hadamard;
pub mod isa;
pub mod matmul;
pub mod memory;
pub mod norm;
pub mod peak;
pub mod rope;

mod simd;

pub use isa::Isa;
