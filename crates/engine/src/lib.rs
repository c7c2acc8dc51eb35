//! One model's engine: continuous batching over a forward pass, prefix reuse,
//! sampling, constraints, stop strings, speculation.
//!
//! [`Scheduler`] owns a [`Decoder`] and turns [`Request`]s into [`Output`]s, one
//! forward pass a [`Scheduler::step`]. It holds no clock, thread or socket: the
//! caller passes the time and drives it. Behind the [`Decoder`] seam stands
//! llama.cpp ([`LlamaEngine`]) or the deterministic [`fake`].

pub mod fake;
mod llama_engine;
mod request;
mod scheduler;
mod seam;
mod text;
mod thought;

pub use llama_engine::{
    CONTEXT_MIN, EngineFacts, LlamaDecoder, LlamaEmbedder, LlamaEngine, LlamaVocabulary, OpenError,
    OpenOptions, StateForm, cannot_shift, find_form,
};
pub use request::{JobKey, Output, Request, ThoughtSpec};
pub use scheduler::{
    Canceller, Scheduler, SchedulerConfig, SchedulerState, SlotView, Totals, sinks_refusal,
};
pub use seam::{
    DecodeError, Decoder, EmbedError, Embedder, Pieces, Place, Placement, PrefixStore, Row,
    SequenceId, Shape, StoreReport, TokenId, Vocabulary,
};
