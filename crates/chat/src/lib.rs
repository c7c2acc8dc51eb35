//! Everything between chat messages and model text, for GGUF models.
//!
//! - [`Template`] renders messages and tools into the prompt a model was trained on
//!   and says what it had to change for it.
//! - [`ToolFormat`] knows how each model family writes tool calls.
//! - [`OutputParser`] turns generated text, in pieces of any size, into deltas of
//!   text, reasoning and tool calls.
//! - [`tool_grammar`] makes the grammar that forces a call where one is required.
//!
//! The crate is pure: no files, no clock, no entropy, no async.

mod format;
mod grammar;
mod ids;
mod parser;
mod reasoning;
mod template;

pub use format::ToolFormat;
pub use grammar::{GrammarError, GrammarRequest, Thought, ToolGrammar, tool_grammar};
pub use parser::{CALL_HELD_BYTES_MAX, OutputParser, OutputSpec, RESCANNED_BYTES_MAX};
pub use reasoning::{REASONING_TAGS, ReasoningTags, end_of_reasoning};
pub use template::{
    FUEL_MAX, PROMPT_BYTES_MAX, PromptEnding, RECURSION_MAX, RenderInput, Rendered,
    SOURCE_BYTES_MAX, Template, TemplateError, TemplateTokens,
};
