//! A chat request, checked and translated.

use proto::{ChatJob, Job};

use super::messages::messages;
use super::plan::{Plan, SharedFields};
use super::request::OllamaChat;
use crate::error::ApiError;
use crate::wire::openai::chat::is_begun;
use crate::wire::openai::tools::tools;

/// Pure: neither models nor limits of the running server are looked at.
pub(crate) fn chat_plan(request: OllamaChat) -> Result<Plan, ApiError> {
    let mut warnings = Vec::new();
    let messages = messages(request.messages.unwrap_or_default())?;
    let tools = tools(request.tools, None, &mut warnings)?;
    let shared = SharedFields {
        stream: request.stream,
        format: request.format,
        options: request.options,
        think: request.think,
        keep_alive: request.keep_alive,
        logprobs: request.logprobs,
        top_logprobs: request.top_logprobs,
    };
    let shared = shared.check()?;
    if messages.is_empty() {
        return Ok(shared.no_text(warnings));
    }
    // A last message of the assistant's is the beginning of its answer.
    let continues = is_begun(&messages);
    Ok(
        shared.answer(warnings, |generation, constraint, reasoning| {
            Job::Chat(Box::new(ChatJob {
                messages,
                tools: tools.definitions,
                tool_choice: tools.choice,
                reasoning,
                constraint,
                continues,
                generation,
                ..ChatJob::default()
            }))
        }),
    )
}
