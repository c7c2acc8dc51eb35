//! The response object and what it is made of.

use proto::FinishReason;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::request::{ResponsesReasoning, ResponsesTool, TextRequest};
use crate::error::{ApiError, ErrorCode};
use crate::wire::fold::Report;
use crate::wire::openai::response::{WireReport, WireToken};

/// Answer of `POST /v1/responses`, and of `GET /v1/responses/{id}` later.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseObject<'a> {
    pub(crate) id: &'a str,
    /// `response`
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    pub(crate) status: ResponseStatus,
    /// Never: a response is answered while its client waits.
    pub(crate) background: bool,
    pub(crate) error: Option<ResponseError>,
    pub(crate) incomplete_details: Option<IncompleteDetails>,
    pub(crate) model: &'a str,
    #[schema(value_type = Vec<OutputItem>)]
    pub(crate) output: &'a [OutputItem],
    #[serde(flatten)]
    pub(crate) echo: &'a Echo,
    /// Null until the response is complete.
    pub(crate) usage: Option<ResponseUsage>,
    /// An extension: what was really done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sextant: Option<WireReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

impl ResponseStatus {
    /// The type of the event that tells of it.
    pub(crate) const fn event(self) -> &'static str {
        match self {
            Self::InProgress => "response.in_progress",
            Self::Completed => "response.completed",
            Self::Incomplete => "response.incomplete",
            Self::Failed => "response.failed",
        }
    }
}

impl From<FinishReason> for ResponseStatus {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Length => Self::Incomplete,
            FinishReason::Stop | FinishReason::ToolCalls => Self::Completed,
        }
    }
}

/// Why a response failed.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ResponseError {
    /// `context_length_exceeded`, `invalid_prompt`, `rate_limit_exceeded` or `server_error`;
    /// the event `error` has the code of the error table.
    code: &'static str,
    message: String,
}

impl ResponseError {
    /// Agents decide by OpenAI's codes whether to ask again, and whether to shorten.
    pub(crate) fn new(error: &ApiError) -> Self {
        let row = error.row();
        let code = match row.status {
            _ if row.id == ErrorCode::ContextExceeded => row.code,
            429 => "rate_limit_exceeded",
            400..=499 => "invalid_prompt",
            _ => "server_error",
        };
        Self {
            code,
            message: error.text().to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct IncompleteDetails {
    /// `max_output_tokens`, also where the context is full.
    reason: &'static str,
}

impl IncompleteDetails {
    pub(crate) const MAX_OUTPUT_TOKENS: Self = Self {
        reason: "max_output_tokens",
    };
}

/// What a response repeats of its request.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Echo {
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<i64>,
    pub(crate) max_tool_calls: Option<i64>,
    #[schema(value_type = Object)]
    pub(crate) metadata: Map<String, Value>,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) prompt_cache_key: Option<String>,
    pub(crate) reasoning: ResponsesReasoning,
    pub(crate) safety_identifier: Option<String>,
    /// `default`
    pub(crate) service_tier: &'static str,
    pub(crate) store: bool,
    /// As given; at the end the value that was in force.
    pub(crate) temperature: Option<f32>,
    pub(crate) text: TextRequest,
    #[schema(value_type = Object)]
    pub(crate) tool_choice: Value,
    /// Those that were offered.
    pub(crate) tools: Vec<ResponsesTool>,
    pub(crate) top_logprobs: u8,
    /// As `temperature`.
    pub(crate) top_p: Option<f32>,
    /// `disabled`
    pub(crate) truncation: &'static str,
    pub(crate) user: Option<String>,
}

impl Default for Echo {
    fn default() -> Self {
        Self {
            instructions: None,
            max_output_tokens: None,
            max_tool_calls: None,
            metadata: Map::new(),
            parallel_tool_calls: true,
            previous_response_id: None,
            prompt_cache_key: None,
            reasoning: ResponsesReasoning::default(),
            safety_identifier: None,
            service_tier: "default",
            store: true,
            temperature: None,
            text: TextRequest::default(),
            tool_choice: Value::Null,
            tools: Vec::new(),
            top_logprobs: 0,
            top_p: None,
            truncation: "disabled",
            user: None,
        }
    }
}

/// One item of an answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputItem {
    /// The thinking itself; there is no summary of it.
    Reasoning {
        id: String,
        #[schema(value_type = Vec<Object>)]
        summary: [(); 0],
        content: Vec<OutputPart>,
        status: ItemStatus,
    },
    Message {
        id: String,
        status: ItemStatus,
        /// `assistant`
        role: &'static str,
        content: Vec<OutputPart>,
    },
    FunctionCall {
        id: String,
        call_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        name: String,
        /// JSON text.
        arguments: String,
        status: ItemStatus,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// The content of an item; each has one part.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputPart {
    OutputText {
        text: String,
        #[schema(value_type = Vec<Object>)]
        annotations: [(); 0],
        logprobs: Vec<WireToken>,
    },
    ReasoningText {
        text: String,
    },
}

impl OutputItem {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } => id,
            Self::FunctionCall { id, .. } => id,
        }
    }

    pub(crate) fn set_status(&mut self, new: ItemStatus) {
        match self {
            Self::Reasoning { status, .. }
            | Self::Message { status, .. }
            | Self::FunctionCall { status, .. } => *status = new,
        }
    }

    /// Gives an item with content its one part, still empty, and shows it.
    pub(crate) fn begin_content(&mut self) -> Option<&OutputPart> {
        let (content, part) = match self {
            Self::Message { content, .. } => {
                let part = OutputPart::OutputText {
                    text: String::new(),
                    annotations: [],
                    logprobs: Vec::new(),
                };
                (content, part)
            }
            Self::Reasoning { content, .. } => {
                let text = String::new();
                (content, OutputPart::ReasoningText { text })
            }
            Self::FunctionCall { .. } => return None,
        };
        content.push(part);
        content.last()
    }

    /// Adds to the text or the arguments.
    pub(crate) fn append(&mut self, more: &str, tokens: Vec<WireToken>) {
        match self {
            Self::Message { content, .. } | Self::Reasoning { content, .. } => {
                match content.last_mut() {
                    Some(OutputPart::OutputText { text, logprobs, .. }) => {
                        text.push_str(more);
                        logprobs.extend(tokens);
                    }
                    Some(OutputPart::ReasoningText { text }) => text.push_str(more),
                    None => {}
                }
            }
            Self::FunctionCall { arguments, .. } => arguments.push_str(more),
        }
    }
}

/// `usage`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    input_tokens: u32,
    input_tokens_details: InputDetails,
    output_tokens: u32,
    output_tokens_details: OutputDetails,
    total_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct InputDetails {
    /// Always 0: no cache is written that has a price.
    cache_write_tokens: u32,
    cached_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct OutputDetails {
    reasoning_tokens: u32,
}

impl ResponseUsage {
    pub(crate) fn new(report: &Report) -> Self {
        let usage = &report.usage;
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails {
                cache_write_tokens: 0,
                cached_tokens: usage.cached_tokens,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails {
                reasoning_tokens: usage.reasoning_tokens,
            },
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
        }
    }
}
