//! How the next token is chosen: sampling, log-probabilities, and grammars that
//! restrict both.
//!
//! A [`Sampler`] turns one row of logits into one token. A [`Constraint`] says
//! which tokens a JSON Schema, regex or grammar allows next, as a [`TokenMask`]
//! that the sampler obeys. Both are plain state machines: no files or clocks,
//! and the same inputs give the same tokens.
//!
//! ```text
//! constraint.mask() -> TokenMask --+
//! logits ------------------------> sampler.sample() -> token
//!                                     ^                  |
//!                  accept(token) -----+------------------+--> constraint.accept(token)
//! ```

mod constraint;
mod dry;
mod gbnf;
mod lark;
mod logprobs;
mod mask;
mod math;
mod params;
mod penalties;
mod rng;
mod sampler;
mod schema;
mod select;
mod vocabulary;

pub use constraint::{
    COMPILE_FUEL_MAX, COMPILE_STACK_BYTES, Constraint, ConstraintError, ConstraintFactory,
    GRAMMAR_BYTES_MAX, GRAMMAR_SYMBOLS_MAX, Grammar, LEXER_STATES_MAX, PARSER_ITEMS_MAX,
    REGEX_BYTES_MAX, STEP_FUEL_MAX, STEP_ITEMS_MAX, StepError,
};
pub use dry::{BREAKER_BYTES_MAX, DryBreakers};
pub use gbnf::{GbnfError, NESTING_MAX, REPETITIONS_MAX, to_lark as gbnf_to_lark};
pub use logprobs::{LOGPROB_FLOOR, TokenLogprobs, logprobs};
pub use mask::TokenMask;
pub use params::{LOGIT_BIAS_ENTRIES_MAX, ParamError, Params};
pub use sampler::{SampleError, Sampler};
pub use schema::{
    SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_LEVELS_MAX, prepare as prepare_schema,
};
pub use vocabulary::{
    TOKEN_BYTES_MAX, TokenBytes, TokenKind, VOCABULARY_TOKENS_MAX, Vocabulary, VocabularyError,
};

/// A token of the model's vocabulary; llama.cpp's `llama_token`.
pub type TokenId = i32;
