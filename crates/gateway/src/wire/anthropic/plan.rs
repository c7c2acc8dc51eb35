//! A messages request, checked and translated.

use proto::{ChatJob, Constraint, Generation, Reasoning, SamplingOverrides};

use super::request::{MessagesRequest, OutputFormat, Thinking};
use super::{messages, tools};
use crate::error::ApiError;
use crate::limits::{self, TOKENS_MAX, float, integer, quoted};
use crate::wire::openai::chat::is_begun;
use crate::wire::openai::constraint::json_schema;
use crate::wire::openai::generation::{stop_strings, unsigned};

const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// What a messages request asks for.
#[derive(Debug, PartialEq)]
pub struct MessagesPlan {
    /// The work.
    pub job: ChatJob,
    /// Answer as a stream.
    pub stream: bool,
    /// What was left out of the request, in words.
    pub warnings: Vec<String>,
}

/// Checks and translates a request for an answer. Pure: neither models nor limits of the
/// running server are looked at.
pub fn messages_plan(request: MessagesRequest) -> Result<MessagesPlan, ApiError> {
    if request.max_tokens.is_none() {
        let rule = format!("a whole number from 1 to {TOKENS_MAX}");
        return Err(ApiError::missing("max_tokens", &rule));
    }
    let mut warnings = undone(&request);
    Ok(MessagesPlan {
        stream: request.stream.unwrap_or(false),
        job: chat_job(request, &mut warnings)?,
        warnings,
    })
}

/// Checks and translates a request whose tokens are to be counted.
pub fn count_plan(request: MessagesRequest) -> Result<ChatJob, ApiError> {
    chat_job(request, &mut Vec::new())
}

fn chat_job(mut request: MessagesRequest, warnings: &mut Vec<String>) -> Result<ChatJob, ApiError> {
    let messages = messages::messages(request.system.take(), request.messages.take())?;
    let tools = tools::tools(request.tools.take(), request.tool_choice.take(), warnings)?;
    // A last message of the assistant's is the beginning of the answer that is asked for.
    let continues = is_begun(&messages);
    let generation = generation(&mut request)?;
    let output = request.output_config.unwrap_or_default();
    Ok(ChatJob {
        continues,
        messages,
        tools: tools.definitions,
        tool_choice: tools.choice,
        parallel_tool_calls: tools.parallel,
        reasoning: reasoning(request.thinking, output.effort, generation.max_tokens)?,
        constraint: constraint(output.format, request.output_format)?,
        generation,
        ..ChatJob::default()
    })
}

/// Warnings about what Anthropic's servers do around the model.
fn undone(request: &MessagesRequest) -> Vec<String> {
    let fields = [
        (
            "container",
            &request.container,
            "there is no container to run code in",
        ),
        (
            "context_management",
            &request.context_management,
            "nothing is cleared from the conversation",
        ),
        (
            "mcp_servers",
            &request.mcp_servers,
            "servers of tools are not called from here",
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, value, _)| value.is_some())
        .map(|(name, _, why)| format!("`{name}` is not read here: {why}."))
        .collect()
}

fn generation(request: &mut MessagesRequest) -> Result<Generation, ApiError> {
    let stops = request.stop_sequences.take().unwrap_or_default();
    Ok(Generation {
        n: 1,
        max_tokens: unsigned(integer("max_tokens", request.max_tokens, 1, TOKENS_MAX)?),
        stop: stop_strings("stop_sequences", stops)?,
        sampling: SamplingOverrides {
            temperature: float("temperature", request.temperature, 0.0, 1.0)?,
            top_p: float("top_p", request.top_p, 0.0, 1.0)?,
            top_k: unsigned(integer("top_k", request.top_k, 0, TOKENS_MAX)?),
            ..SamplingOverrides::default()
        },
        ..Generation::default()
    })
}

/// Who does not ask for thinking expects the answer in the first block, so then there is
/// none, whatever the template does by itself. How much is thought when it is `adaptive`
/// is up to the model.
fn reasoning(
    thinking: Option<Thinking>,
    effort: Option<String>,
    max_tokens: Option<u32>,
) -> Result<Reasoning, ApiError> {
    if let Some(effort) = &effort {
        limits::word("output_config.effort", effort, &EFFORTS)?;
    }
    let mut reasoning = Reasoning {
        enabled: Some(false),
        budget_tokens: None,
        effort,
    };
    let Some(thinking) = thinking else {
        return Ok(reasoning);
    };
    let param = "thinking.type";
    let rule = "one of enabled, adaptive, disabled";
    match thinking.kind.as_deref() {
        Some("disabled") => {}
        Some("adaptive") => reasoning.enabled = Some(true),
        Some("enabled") => {
            reasoning.enabled = Some(true);
            reasoning.budget_tokens = budget(thinking.budget_tokens, max_tokens)?;
        }
        Some(other) => return Err(ApiError::invalid(param, &quoted(other), rule)),
        None => return Err(ApiError::missing(param, rule)),
    }
    Ok(reasoning)
}

fn budget(given: Option<i64>, max_tokens: Option<u32>) -> Result<Option<u32>, ApiError> {
    let param = "thinking.budget_tokens";
    let budget = unsigned(integer(param, given, 1, TOKENS_MAX)?);
    match (budget, max_tokens) {
        // A thought that may use up all tokens leaves none for the answer.
        (Some(budget), Some(max_tokens)) if budget >= max_tokens => {
            let rule = format!("below max_tokens, which is {max_tokens}");
            Err(ApiError::invalid(param, &budget.to_string(), &rule))
        }
        _ => Ok(budget),
    }
}

fn constraint(
    format: Option<OutputFormat>,
    older: Option<OutputFormat>,
) -> Result<Option<Constraint>, ApiError> {
    let (path, format) = match (format, older) {
        (None, None) => return Ok(None),
        (Some(format), None) => ("output_config.format", format),
        (None, Some(format)) => ("output_format", format),
        (Some(_), Some(_)) => {
            return Err(ApiError::conflict(
                "output_format",
                "output_config.format",
                "each asks for a form of its own",
            ));
        }
    };
    let (kind, schema) = (format!("{path}.type"), format!("{path}.schema"));
    match format.kind.as_deref() {
        Some("json_schema") => {}
        Some(other) => return Err(ApiError::invalid(&kind, &quoted(other), "`json_schema`")),
        None => return Err(ApiError::missing(&kind, "`json_schema`")),
    }
    let given = format.schema;
    let given = given.ok_or_else(|| ApiError::missing(&schema, "a JSON Schema object"))?;
    json_schema(&schema, given).map(Some)
}
