//! A request, checked and translated.

use proto::{ChatJob, Constraint};
use serde_json::{Map, Value};

use super::input::{self, Conversation};
use super::request::{ResponsesReasoning, ResponsesRequest, TextFormat, TextRequest};
use super::response::Echo;
use super::tools::{self, Namespaces};
use crate::error::ApiError;
use crate::kept::ResponseStore;
use crate::limits::{self, integer, quoted};
use crate::wire::openai::chat::reasoning;
use crate::wire::openai::constraint::json_schema;
use crate::wire::openai::generation::{LeastTokens, generation};
use crate::wire::openai::request::{GenerationFields, ReasoningRequest};
use crate::wire::openai::shapes::shown;

const LOGPROBS: &str = "message.output_text.logprobs";

/// Values of `include` that OpenAI knows; all but [`LOGPROBS`] are about what is not
/// there or always there.
const INCLUDES: [&str; 8] = [
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct ResponsePlan {
    pub(crate) job: ChatJob,
    pub(crate) stream: bool,
    /// What was left out of the request, in words.
    pub(crate) warnings: Vec<String>,
    /// What the response repeats of it.
    pub(crate) echo: Echo,
    pub(crate) namespaces: Namespaces,
    /// The items of the input, references resolved.
    pub(crate) input: Vec<Value>,
}

/// Checks and translates a request; `store` is read for what it continues or refers to.
pub(crate) fn response_plan(
    mut request: ResponsesRequest,
    store: &dyn ResponseStore,
) -> Result<ResponsePlan, ApiError> {
    refuse(&request)?;
    let mut warnings = warnings(&request)?;
    let tools = tools::tools(
        request.tools.take(),
        request.tool_choice.as_ref(),
        &mut warnings,
    )?;
    let previous = request.previous_response_id.take();
    let input = input::items(request.input.take(), previous.as_deref(), store)?;
    let mut conversation = Conversation::new(request.instructions.clone());
    if let Some(previous) = &previous {
        conversation.continues(previous, store)?;
    }
    conversation.input(&input)?;
    let (messages, left_out) = conversation.end()?;
    warnings.extend(left_out);
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    let thinking = thinking(request.reasoning.as_ref());
    let logprobs = logprobs(&request)?;
    let job = ChatJob {
        messages,
        tools: tools.definitions,
        tool_choice: tools.choice,
        parallel_tool_calls: request.parallel_tool_calls,
        reasoning: reasoning(None, thinking)?,
        constraint: constraint(format)?,
        continues: false,
        template_kwargs: request.chat_template_kwargs.take().unwrap_or_default(),
        generation: generation(&mut fields(&mut request)?, LeastTokens::One, logprobs)?,
    };
    Ok(ResponsePlan {
        stream: request.stream.unwrap_or(false),
        warnings,
        echo: Echo {
            metadata: metadata(request.metadata.take())?,
            previous_response_id: previous,
            temperature: job.generation.sampling.temperature,
            top_p: job.generation.sampling.top_p,
            top_logprobs: logprobs.unwrap_or(0),
            tools: tools.offered,
            ..echo(request)
        },
        job,
        namespaces: tools.namespaces,
        input,
    })
}

/// What is repeated as it was given.
fn echo(request: ResponsesRequest) -> Echo {
    let text = request.text.unwrap_or_default();
    Echo {
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        max_tool_calls: request.max_tool_calls,
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        prompt_cache_key: request.prompt_cache_key,
        reasoning: request.reasoning.unwrap_or_default(),
        safety_identifier: request.safety_identifier,
        store: request.store.unwrap_or(true),
        text: TextRequest {
            format: Some(text.format.unwrap_or_else(plain_text)),
            ..text
        },
        tool_choice: request.tool_choice.unwrap_or_else(|| "auto".into()),
        user: request.user,
        ..Echo::default()
    }
}

fn refuse(request: &ResponsesRequest) -> Result<(), ApiError> {
    let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let refused = [
        ("messages", &request.messages, "use input"),
        ("max_tokens", &request.max_tokens, "use max_output_tokens"),
        (
            "max_completion_tokens",
            &request.max_completion_tokens,
            "use max_output_tokens",
        ),
        (
            "response_format",
            &request.response_format,
            "use text.format",
        ),
        (
            "reasoning_effort",
            &request.reasoning_effort,
            "use reasoning.effort",
        ),
        (
            "logprobs",
            &request.logprobs,
            "use include with `message.output_text.logprobs`",
        ),
        (
            "conversation",
            &request.conversation,
            "use previous_response_id",
        ),
        ("prompt", &request.prompt, "there are no prompt templates"),
    ];
    for (param, value, detail) in refused {
        if given(value) {
            return Err(ApiError::not_supported(param, "given", detail));
        }
    }
    if request.background == Some(true) {
        let detail = "a response is answered while its client waits";
        return Err(ApiError::not_supported("background", "true", detail));
    }
    match request.n {
        None | Some(1) => Ok(()),
        Some(n) => {
            let rule = "1: a response is one answer";
            Err(ApiError::invalid("n", &n.to_string(), rule))
        }
    }
}

fn warnings(request: &ResponsesRequest) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    if let Some(truncation) = request.truncation.as_deref()
        && limits::word("truncation", truncation, &["auto", "disabled"])? == "auto"
    {
        warnings.push(
            "truncation is `auto`, which is not done: a prompt that does not fit is refused."
                .to_owned(),
        );
    }
    let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let not_done = [
        ("context_management", &request.context_management),
        ("moderation", &request.moderation),
    ];
    for (param, value) in not_done {
        if given(value) {
            warnings.push(format!("{param} is not done here."));
        }
    }
    for (index, include) in request.include.iter().flatten().enumerate() {
        if !INCLUDES.contains(&include.as_str()) {
            let value = quoted(include);
            warnings.push(format!(
                "include[{index}] is {value}, which is not known here."
            ));
        }
    }
    Ok(warnings)
}

fn thinking(asked: Option<&ResponsesReasoning>) -> ReasoningRequest {
    asked.map_or_else(ReasoningRequest::default, |asked| ReasoningRequest {
        enabled: asked.enabled,
        budget_tokens: asked.budget_tokens,
        effort: asked.effort.clone(),
    })
}

fn plain_text() -> TextFormat {
    TextFormat {
        kind: Some("text".to_owned()),
        ..TextFormat::default()
    }
}

fn constraint(format: Option<&TextFormat>) -> Result<Option<Constraint>, ApiError> {
    let Some(format) = format else {
        return Ok(None);
    };
    let kinds = ["text", "json_object", "json_schema"];
    let kind = format.kind.as_deref().ok_or_else(|| {
        let rule = format!("one of {}", kinds.join(", "));
        ApiError::missing("text.format.type", &rule)
    })?;
    match limits::word("text.format.type", kind, &kinds)? {
        "json_object" => Ok(Some(Constraint::JsonObject)),
        "json_schema" => {
            let param = "text.format.schema";
            let schema = format.schema.clone();
            let schema = schema.ok_or_else(|| ApiError::missing(param, "a JSON Schema object"))?;
            json_schema(param, schema).map(Some)
        }
        _ => Ok(None),
    }
}

/// Log-probabilities are asked for by name or by how many alternatives to report.
fn logprobs(request: &ResponsesRequest) -> Result<Option<u8>, ApiError> {
    let limit = limits::TOP_LOGPROBS_MAX;
    let top = integer("top_logprobs", request.top_logprobs, 0, limit)?.unwrap_or(0);
    let included = request
        .include
        .iter()
        .flatten()
        .any(|name| name == LOGPROBS);
    Ok((included || top > 0).then(|| u8::try_from(top).unwrap_or(0)))
}

fn fields(request: &mut ResponsesRequest) -> Result<GenerationFields, ApiError> {
    let max_tokens = integer(
        "max_output_tokens",
        request.max_output_tokens,
        1,
        limits::TOKENS_MAX,
    )?;
    Ok(GenerationFields {
        max_tokens,
        stop: request.stop.take(),
        seed: request.seed.take(),
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        repeat_penalty: request.repeat_penalty,
        cache_prompt: request.cache_prompt,
        attention_sinks: request.attention_sinks,
        ..GenerationFields::default()
    })
}

fn metadata(given: Option<Map<String, Value>>) -> Result<Map<String, Value>, ApiError> {
    let metadata = given.unwrap_or_default();
    let limit = limits::METADATA_ENTRIES_MAX;
    limits::count("metadata", metadata.len(), limit, "entries")?;
    for (key, value) in &metadata {
        limits::count(
            "metadata",
            key.len(),
            limits::METADATA_KEY_BYTES_MAX,
            "bytes in a key",
        )?;
        let param = format!("metadata.{key}");
        let Some(text) = value.as_str() else {
            return Err(ApiError::invalid(&param, &shown(value), "a string"));
        };
        limits::count(
            &param,
            text.len(),
            limits::METADATA_VALUE_BYTES_MAX,
            "bytes",
        )?;
    }
    Ok(metadata)
}
