//! A chat request, checked and translated.

use proto::{ChatJob, Message, Reasoning, Role};
use serde_json::Value;

use super::generation::{LeastTokens, generation};
use super::request::{ChatRequest, GenerationFields, ReasoningRequest};
use super::{constraint, messages, tools};
use crate::error::ApiError;
use crate::limits::{self, integer};

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// What a chat request asks for.
#[derive(Debug, PartialEq)]
pub struct ChatPlan {
    /// The work.
    pub job: ChatJob,
    /// Answer as a stream.
    pub stream: bool,
    /// End the stream with a usage chunk.
    pub include_usage: bool,
    /// What was left out of the request, in words.
    pub warnings: Vec<String>,
}

/// Checks and translates a chat request. Pure: neither models nor limits of the
/// running server are looked at.
pub fn chat_plan(mut request: ChatRequest) -> Result<ChatPlan, ApiError> {
    refuse_deprecated(&request)?;
    let mut warnings = Vec::new();
    let messages = messages::messages(request.messages.take())?;
    let continues = continues(&request, &messages)?;
    let tools = tools::tools(
        request.tools.take(),
        request.tool_choice.as_ref(),
        &mut warnings,
    )?;
    let logprobs = logprobs(request.logprobs, request.top_logprobs)?;
    let reasoning = reasoning(
        request.reasoning_effort.take(),
        request.reasoning.take().unwrap_or_default(),
    )?;
    let mut fields: GenerationFields = request.take_generation();
    let constraint = constraint::constraint(&mut fields)?;
    let generation = generation(&mut fields, LeastTokens::One, logprobs)?;
    let options = request.stream_options.unwrap_or_default();
    Ok(ChatPlan {
        job: ChatJob {
            messages,
            tools: tools.definitions,
            tool_choice: tools.choice,
            parallel_tool_calls: request.parallel_tool_calls,
            reasoning,
            template_kwargs: request.chat_template_kwargs.unwrap_or_default(),
            constraint,
            continues,
            generation,
        },
        stream: request.stream.unwrap_or(false),
        include_usage: options.include_usage.unwrap_or(false),
        warnings,
    })
}

/// Whether the answer goes on with the text of the last message.
fn continues(request: &ChatRequest, messages: &[Message]) -> Result<bool, ApiError> {
    let wanted = request.continue_final_message.unwrap_or(false);
    if request.add_generation_prompt == Some(wanted) {
        let detail = match wanted {
            true => "an answer that is gone on with is not begun anew",
            false => "without it a prompt ends with a new answer",
        };
        let (one, other) = ("add_generation_prompt", "continue_final_message");
        return Err(ApiError::conflict(one, other, detail));
    }
    if wanted && !is_begun(messages) {
        let rule = "left out unless the last message is the assistant's, with text and no calls";
        return Err(ApiError::invalid("continue_final_message", "true", rule));
    }
    Ok(wanted)
}

/// Whether the last message can be the beginning of an answer.
pub(crate) fn is_begun(messages: &[Message]) -> bool {
    messages.last().is_some_and(|last| {
        last.role == Role::Assistant && last.tool_calls.is_empty() && last.content.is_some()
    })
}

fn refuse_deprecated(request: &ChatRequest) -> Result<(), ApiError> {
    let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    if given(&request.functions) {
        return Err(ApiError::not_supported("functions", "given", "use tools"));
    }
    if given(&request.function_call) {
        return Err(ApiError::not_supported(
            "function_call",
            "given",
            "use tool_choice",
        ));
    }
    for (index, modality) in request.modalities.iter().flatten().enumerate() {
        if modality != "text" {
            let param = format!("modalities[{index}]");
            let detail = "this endpoint's models write text only";
            return Err(ApiError::not_supported(
                &param,
                &limits::quoted(modality),
                detail,
            ));
        }
    }
    Ok(())
}

/// How many alternatives each token's log-probability comes with, where it is asked for.
pub(crate) fn logprobs(wanted: Option<bool>, top: Option<i64>) -> Result<Option<u8>, ApiError> {
    let top = integer("top_logprobs", top, 0, limits::TOP_LOGPROBS_MAX)?;
    match (wanted.unwrap_or(false), top) {
        (false, None | Some(0)) => Ok(None),
        (false, Some(top)) => {
            let rule = "left out unless logprobs is true";
            Err(ApiError::invalid("top_logprobs", &top.to_string(), rule))
        }
        (true, top) => Ok(Some(u8::try_from(top.unwrap_or(0)).unwrap_or(0))),
    }
}

/// Asking for an effort asks for thinking; `none` asks for none.
pub(crate) fn reasoning(
    effort: Option<String>,
    given: ReasoningRequest,
) -> Result<Reasoning, ApiError> {
    let budget = integer(
        "reasoning.budget_tokens",
        given.budget_tokens,
        0,
        limits::TOKENS_MAX,
    )?;
    let (param, effort) = match (effort, given.effort) {
        (Some(effort), _) => ("reasoning_effort", Some(effort)),
        (None, effort) => ("reasoning.effort", effort),
    };
    let mut reasoning = Reasoning {
        enabled: given.enabled,
        budget_tokens: budget.and_then(|budget| u32::try_from(budget).ok()),
        effort: None,
    };
    let Some(effort) = effort else {
        return Ok(reasoning);
    };
    limits::word(param, &effort, &EFFORTS)?;
    let thinks = effort != "none";
    if let Some(enabled) = given.enabled.filter(|enabled| *enabled != thinks) {
        let detail = format!("one says {enabled}, the other `{effort}`");
        return Err(ApiError::conflict(param, "reasoning.enabled", &detail));
    }
    reasoning.enabled = Some(thinks);
    reasoning.effort = thinks.then_some(effort);
    Ok(reasoning)
}
