//! Requests as clients send them. Every field is optional here and checked later, so
//! that errors can name the field, the value and the limit.

use std::marker::PhantomData;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::wire::openai::shapes::TextOr;

/// Body of `POST /v1/messages` and, without `max_tokens`, of
/// `POST /v1/messages/count_tokens`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::Request)]
#[serde(default)]
pub struct MessagesRequest {
    /// A loaded model's name; absent or empty: the first model.
    pub model: Option<String>,
    /// Most tokens of the answer, its thinking included.
    pub max_tokens: Option<i64>,
    /// What the model is told beforehand.
    pub system: Option<Content>,
    /// The conversation so far; it ends with what the model shall answer.
    pub messages: Option<Vec<Turn>>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Up to 16 strings that end the answer; they are not part of it.
    pub stop_sequences: Option<Vec<String>>,
    /// 0 to 1; 0 is greedy.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// Keep this many likeliest tokens; 0: all.
    pub top_k: Option<i64>,
    /// Functions the model may call.
    pub tools: Option<Vec<OfferedTool>>,
    /// How they may be used.
    pub tool_choice: Option<ToolUse>,
    /// Absent: the model does not think.
    pub thinking: Option<Thinking>,
    /// Effort, and the form the answer must have.
    pub output_config: Option<OutputConfig>,
    /// The older place of `output_config.format`.
    pub output_format: Option<OutputFormat>,
    /// Not done here; a warning says so.
    #[schema(value_type = Option<Object>)]
    pub container: Option<Value>,
    /// Not done here; a warning says so.
    #[schema(value_type = Option<Object>)]
    pub context_management: Option<Value>,
    /// Not done here; a warning says so.
    #[schema(value_type = Option<Vec<Object>>)]
    pub mcp_servers: Option<Value>,
}

/// One message of the conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::Turn)]
#[serde(default)]
pub struct Turn {
    /// `user`, `assistant` or `system`.
    pub role: Option<String>,
    /// Text, or blocks.
    pub content: Option<Content>,
}

/// Text, or typed blocks.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = anthropic::Content)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Blocks.
    Blocks(Vec<Block>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr {
            expected: "a string or an array of content blocks",
            text: Self::Text,
            list: Self::Blocks,
            item: PhantomData,
        })
    }
}

/// A block of content; which fields it has follows from its type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::Block)]
#[serde(default)]
pub struct Block {
    /// `text`, `document`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of a document: plain text; of an image: the image or where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Of a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What a document is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Of an earlier turn's thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Of a tool use: unique within the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of a tool use: the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a tool use: its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// Of a tool result: the use this is the result of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_use_id: Option<String>,
    /// Of a tool result: text, or blocks of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub content: Option<Content>,
    /// Of a tool result: the tool failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_error: Option<bool>,
}

/// Where a document comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::Source)]
#[serde(default)]
pub struct Source {
    /// `text` of a document, `base64` or `url` of an image; others are refused.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The text itself, or the image in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Of an image in base64, as `image/png`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The address of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A tool on offer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::Tool)]
#[serde(default)]
pub struct OfferedTool {
    /// `custom` or absent; tools of other types are left out with a warning.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name, unique among the tools.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    /// Hold the arguments to the schema.
    pub strict: Option<bool>,
}

/// `tool_choice`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::ToolChoice)]
#[serde(default)]
pub struct ToolUse {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of type `tool`: which one.
    pub name: Option<String>,
    /// At most one call an answer.
    pub disable_parallel_tool_use: Option<bool>,
}

/// `thinking`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::Thinking)]
#[serde(default)]
pub struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of type `enabled`: tokens after which the thought is closed; below `max_tokens`.
    pub budget_tokens: Option<i64>,
}

/// `output_config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::OutputConfig)]
#[serde(default)]
pub struct OutputConfig {
    /// `low`, `medium`, `high`, `xhigh` or `max`.
    pub effort: Option<String>,
    /// The form the answer must have.
    pub format: Option<OutputFormat>,
}

/// `output_config.format`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = anthropic::OutputFormat)]
#[serde(default)]
pub struct OutputFormat {
    /// `json_schema`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The JSON Schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}
