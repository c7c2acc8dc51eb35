//! The OpenAI dialect: chat, completions, embeddings, models.

pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod constraint;
pub(crate) mod embedding;
pub(crate) mod generation;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod shapes;
pub(crate) mod tools;

pub use chat::{ChatPlan, chat_plan};
pub use completion::{CompletionPlan, completion_plan};
pub use request::{ChatRequest, CompletionRequest};
