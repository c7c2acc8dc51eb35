//! How the next token is chosen: sampling, log-probabilities, and grammars that
//! restrict both.
//!
//! A [`Sampler`] turns one row of logits into one token. A [`Constraint`] says
//! which tokens a JSON Schema, regex or grammar allows next, as a [`TokenMask`]
//! that the sampler obeys. Both are plain state machines: no threads, files or
//! clocks, and the same inputs give the same tokens.
//!
//! ```text
//! constraint.mask() -> TokenMask --+
//! logits ------------------------> sampler.sample() -> token
//!                                     ^                  |
//!                  accept(token) -----+------------------+--> constraint.accept(token)
//! ```

mod dry;
mod logprobs;
mod mask;
mod math;
mod params;
mod penalties;
mod rng;
mod sampler;
mod select;

pub use dry::{BREAKER_BYTES_MAX, BREAKER_TAIL_TOKENS_MAX, DryBreakers};
pub use logprobs::{LOGPROB_FLOOR, TokenLogprobs, logprobs};
pub use mask::TokenMask;
pub use params::{LOGIT_BIAS_ENTRIES_MAX, ParamError, Params};
pub use sampler::{SampleError, Sampler};

/// A token of the model's vocabulary; llama.cpp's `llama_token`.
pub type TokenId = i32;
