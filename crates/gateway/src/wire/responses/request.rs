//! Requests as clients send them; every field is optional here and checked later.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use utoipa::ToSchema;

use crate::wire::openai::shapes::OneOrMany;

/// Body of `POST /v1/responses` and of `POST /v1/responses/input_tokens`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ResponsesRequest {
    /// A loaded model's name; absent or empty: the first model.
    pub(crate) model: Option<String>,
    /// A text, or a list of items.
    #[schema(value_type = Option<Object>)]
    pub(crate) input: Option<Value>,
    /// A system message before all else; not carried over to the next response.
    pub(crate) instructions: Option<String>,
    /// The kept response that this one continues.
    pub(crate) previous_response_id: Option<String>,
    /// Keep the response, so that it can be read and continued; true by default.
    pub(crate) store: Option<bool>,
    /// Answer as server-sent events.
    pub(crate) stream: Option<bool>,
    /// `message.output_text.logprobs` asks for log-probabilities; others change nothing.
    pub(crate) include: Option<Vec<String>>,
    /// Functions the model may call, also inside of namespaces. Tools of other types are
    /// left out with a warning.
    pub(crate) tools: Option<Vec<ResponsesTool>>,
    /// `none`, `auto`, `required`, or an object of type `function` or `allowed_tools`.
    #[schema(value_type = Option<Object>)]
    pub(crate) tool_choice: Option<Value>,
    /// `false` allows at most one call an answer.
    pub(crate) parallel_tool_calls: Option<bool>,
    /// Most tokens of the answer, thinking included; absent: until the context is full.
    pub(crate) max_output_tokens: Option<i64>,
    /// About tools that OpenAI runs; there are none here.
    pub(crate) max_tool_calls: Option<i64>,
    /// 0 to 2; 0 is greedy.
    pub(crate) temperature: Option<f64>,
    /// 0 to 1.
    pub(crate) top_p: Option<f64>,
    /// Alternatives to report for each token, 0 to 20.
    pub(crate) top_logprobs: Option<i64>,
    /// The form of the answer.
    pub(crate) text: Option<TextRequest>,
    /// Whether and how long to think.
    pub(crate) reasoning: Option<ResponsesReasoning>,
    /// Up to 16 pairs of strings, given back as they are.
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Map<String, Value>>,
    /// `disabled`: the prompt is never cut; `auto` is answered with a warning.
    pub(crate) truncation: Option<String>,
    /// Only `false`.
    pub(crate) background: Option<bool>,
    /// Not supported.
    #[schema(value_type = Option<Object>)]
    pub(crate) conversation: Option<Value>,
    /// Templates are not supported.
    #[schema(value_type = Option<Object>)]
    pub(crate) prompt: Option<Value>,
    /// Given back as it is.
    pub(crate) user: Option<String>,
    /// Given back as it is.
    pub(crate) safety_identifier: Option<String>,
    /// Given back as it is: the longest common prefix is always reused.
    pub(crate) prompt_cache_key: Option<String>,
    /// Not read.
    pub(crate) service_tier: Option<String>,
    /// Not done; answered with a warning.
    #[schema(value_type = Option<Object>)]
    pub(crate) context_management: Option<Value>,
    /// Not done; answered with a warning.
    #[schema(value_type = Option<Object>)]
    pub(crate) moderation: Option<Value>,

    // Extensions, as chat requests have them.
    /// Up to 16 strings that end the answer; they are not part of it.
    pub(crate) stop: Option<OneOrMany>,
    /// Seed of the sampler; -1 or absent: a random one.
    #[schema(value_type = Option<i64>)]
    pub(crate) seed: Option<Number>,
    /// Keep this many likeliest tokens; 0 or -1: all.
    pub(crate) top_k: Option<i64>,
    /// 0 to 1.
    pub(crate) min_p: Option<f64>,
    /// -2 to 2.
    pub(crate) presence_penalty: Option<f64>,
    /// -2 to 2.
    pub(crate) frequency_penalty: Option<f64>,
    /// Above 0, up to 10; 1 is off.
    pub(crate) repeat_penalty: Option<f64>,
    /// `false`: neither read nor leave a prefix in the cache.
    pub(crate) cache_prompt: Option<bool>,
    /// Go on past a full context: so many tokens at its beginning stay, and the older half of
    /// the others is dropped; 0: the answer ends there.
    pub(crate) attention_sinks: Option<i64>,
    /// Extra variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,

    // Fields of chat requests, refused with the name of their counterpart.
    /// Use `input`.
    #[schema(value_type = Option<Object>)]
    pub(crate) messages: Option<Value>,
    /// Use `max_output_tokens`.
    #[schema(value_type = Option<Object>)]
    pub(crate) max_tokens: Option<Value>,
    /// Use `max_output_tokens`.
    #[schema(value_type = Option<Object>)]
    pub(crate) max_completion_tokens: Option<Value>,
    /// Use `text.format`.
    #[schema(value_type = Option<Object>)]
    pub(crate) response_format: Option<Value>,
    /// Use `reasoning.effort`.
    #[schema(value_type = Option<Object>)]
    pub(crate) reasoning_effort: Option<Value>,
    /// Use `include` with `message.output_text.logprobs`.
    #[schema(value_type = Option<Object>)]
    pub(crate) logprobs: Option<Value>,
    /// Only 1: a response is one answer.
    pub(crate) n: Option<i64>,
}

/// A tool on offer, or a namespace of tools.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ResponsesTool {
    /// `function` or `namespace`; tools of other types are left out with a warning.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// Unique among the tools of its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// JSON Schema of its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Option<Value>,
    /// Hold the arguments to the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
    /// The tools of a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub(crate) tools: Option<Vec<ResponsesTool>>,
}

/// `text`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct TextRequest {
    pub(crate) format: Option<TextFormat>,
    /// Not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verbosity: Option<String>,
}

/// The form that the text of the answer must have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// For `json_schema`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) schema: Option<Value>,
    /// The schema is always held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

/// `reasoning`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ResponsesReasoning {
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    pub(crate) effort: Option<String>,
    /// Not read: the thinking itself is answered, not a summary of it.
    pub(crate) summary: Option<String>,
    /// An extension: think or do not think; absent: as the template does by itself.
    #[serde(skip_serializing)]
    pub(crate) enabled: Option<bool>,
    /// An extension: tokens after which the thought is closed.
    #[serde(skip_serializing)]
    pub(crate) budget_tokens: Option<i64>,
}
