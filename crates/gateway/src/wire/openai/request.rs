//! Requests as clients send them. Every field is optional here and checked later,
//! so that errors can name the field, the value and the limit. What becomes of
//! unknown fields is said in `names`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use utoipa::ToSchema;

use super::shapes::{Content, Input, OneOrMany};

/// Declares a request with the fields that every kind of generation takes, and a
/// way to take them out. serde's `flatten` would lose the path to a wrong field.
macro_rules! generation_request {
    (
        $(#[$meta:meta])* $name:ident { $($(#[$own_meta:meta])* $own:ident: $own_type:ty,)* }
        shared { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct $name {
            $($(#[$own_meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $own: Option<$own_type>,)*
            $($(#[$field_meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl $name {
            pub(crate) fn take_generation(&mut self) -> GenerationFields {
                GenerationFields { $($field: self.$field.take(),)* }
            }
        }
    };
}

/// Hands the shared field list to `$callback`.
macro_rules! shared_fields {
    ($callback:ident! { $($head:tt)* }) => {
        $callback! {
            $($head)*
            shared {
                /// Most tokens of each answer; -1 or absent: until the context is full.
                max_tokens: i64,
                /// The newer spelling of `max_tokens`.
                max_completion_tokens: i64,
                /// llama.cpp's spelling of `max_tokens`.
                n_predict: i64,
                /// Up to 16 strings that end the answer; they are not part of it.
                stop: OneOrMany,
                /// Seed of the sampler; -1 or absent: a random one.
                #[schema(value_type = Option<i64>)]
                seed: Number,
                /// 0 to 2; 0 is greedy.
                temperature: f64,
                /// 0 to 1.
                top_p: f64,
                /// Keep this many likeliest tokens; 0 or -1: all.
                top_k: i64,
                /// 0 to 1.
                min_p: f64,
                /// 0 to 1.
                typical_p: f64,
                /// Token id to a bias of -100 to 100.
                logit_bias: BTreeMap<String, f64>,
                /// Answers to sample, 1 to 16.
                n: i64,
                /// -2 to 2.
                presence_penalty: f64,
                /// -2 to 2.
                frequency_penalty: f64,
                /// Above 0, up to 10; 1 is off.
                #[serde(alias = "repetition_penalty")]
                repeat_penalty: f64,
                /// Tokens the penalties look at; -1: the whole context.
                repeat_last_n: i64,
                /// Strength of the DRY penalty, 0 to 10; 0 is off.
                dry_multiplier: f64,
                /// 1 to 10.
                dry_base: f64,
                /// Length of repetition that is still free.
                dry_allowed_length: i64,
                /// Tokens DRY looks at; -1: the whole context.
                dry_penalty_last_n: i64,
                /// Texts over which DRY does not match.
                dry_sequence_breakers: Vec<String>,
                /// `false`: neither read nor leave a prefix in the cache.
                cache_prompt: bool,
                /// Go on past a full context: so many tokens at its beginning stay, and the
                /// older half of the others is dropped; 0: the answer ends there.
                attention_sinks: i64,
                /// Go on past the end-of-text token; for benchmarks.
                ignore_eos: bool,
                /// `false`, or how long drafts by prompt lookup may be.
                #[schema(value_type = Option<Object>)]
                speculation: Value,
                /// The form the answer must have.
                response_format: ResponseFormat,
                /// A GBNF grammar, as llama.cpp takes it.
                grammar: String,
                /// A JSON Schema, as llama.cpp takes it.
                #[schema(value_type = Option<Object>)]
                json_schema: Value,
            }
        }
    };
}

/// Declares the struct that holds the shared fields alone.
macro_rules! generation_fields {
    (shared { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        /// The fields that chat and completion requests share.
        #[derive(Debug, Default)]
        pub(crate) struct GenerationFields {
            $(pub(crate) $field: Option<$type>,)*
        }
    };
}

shared_fields! { generation_fields! {} }

shared_fields! { generation_request! {
    /// Body of `POST /v1/chat/completions`.
    ChatRequest {
        /// A loaded model's name; absent or empty: the first model.
        model: String,
        /// The conversation so far.
        messages: Vec<RequestMessage>,
        /// Answer as server-sent events.
        stream: bool,
        /// What a stream contains besides the answer.
        stream_options: StreamOptions,
        /// Functions the model may call.
        tools: Vec<RequestTool>,
        /// `none`, `auto`, `required`, or an object that names a function.
        #[schema(value_type = Option<Object>)]
        tool_choice: Value,
        /// `false` allows at most one call an answer.
        parallel_tool_calls: bool,
        /// Report the log-probability of each token.
        logprobs: bool,
        /// Alternatives to report for each token, 0 to 20.
        top_logprobs: i64,
        /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
        reasoning_effort: String,
        /// Finer control of thinking.
        reasoning: ReasoningRequest,
        /// Extra variables for the chat template.
        #[schema(value_type = Option<Object>)]
        chat_template_kwargs: Map<String, Value>,
        /// The last message is the assistant's and the beginning of its answer.
        continue_final_message: bool,
        /// Only read along with `continue_final_message`, which it has to contradict.
        add_generation_prompt: bool,
        /// Only `text` can be answered.
        modalities: Vec<String>,
        /// Deprecated in favour of `tools`; refused.
        #[schema(value_type = Option<Object>)]
        functions: Value,
        /// Deprecated in favour of `tool_choice`; refused.
        #[schema(value_type = Option<Object>)]
        function_call: Value,
    }
} }

shared_fields! { generation_request! {
    /// Body of `POST /v1/completions`.
    CompletionRequest {
        /// A loaded model's name; absent or empty: the first model.
        model: String,
        /// One prompt or several, as text or token ids.
        prompt: Input,
        /// Answer as server-sent events.
        stream: bool,
        /// What a stream contains besides the answer.
        stream_options: StreamOptions,
        /// Repeat the prompt in front of the answer.
        echo: bool,
        /// Alternatives to report for each token, 0 to 20.
        logprobs: i64,
        /// Filling in the middle is not supported.
        suffix: String,
        /// Only 1, or the same as `n`.
        best_of: i64,
    }
} }

/// `stream_options`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamOptions {
    /// Send a last chunk with the usage.
    pub include_usage: Option<bool>,
}

/// One message of a chat request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RequestMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: Option<String>,
    /// Text, or parts of type `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// An assistant's thinking in an earlier turn.
    #[serde(alias = "reasoning", skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls an assistant made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<RequestToolCall>>,
    /// For role `tool`: the call this is the result of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the participant or tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Deprecated in favour of `tool_calls`; refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Value>,
}

/// A call in an assistant message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RequestToolCall {
    /// Unique within the conversation.
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What was called.
    pub function: Option<RequestCalledFunction>,
}

/// The function of a call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RequestCalledFunction {
    /// Its name.
    pub name: Option<String>,
    /// JSON text; an object is taken too.
    #[schema(value_type = Option<String>)]
    pub arguments: Option<Value>,
}

/// A tool on offer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RequestTool {
    /// `function`; tools of other types are left out with a warning.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The function.
    pub function: Option<RequestFunction>,
}

/// A function on offer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RequestFunction {
    /// Its name, unique among the tools.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Hold the arguments to the schema.
    pub strict: Option<bool>,
}

/// `response_format`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResponseFormat {
    /// `text`, `json_object`, `json_schema`, `regex`, `lark` or `gbnf`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// For `json_schema`: an object with `name`, `schema` and `strict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub json_schema: Option<Value>,
    /// For `json_object` or `json_schema`: the schema itself, as llama.cpp takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// For `regex`.
    #[serde(alias = "regex", skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// For `lark` and `gbnf`.
    #[serde(
        alias = "lark",
        alias = "gbnf",
        skip_serializing_if = "Option::is_none"
    )]
    pub grammar: Option<String>,
}

/// `reasoning`, an extension.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReasoningRequest {
    /// Think or do not think; absent: as the template does by itself.
    pub enabled: Option<bool>,
    /// Tokens after which the thought is closed.
    #[serde(alias = "max_tokens")]
    pub budget_tokens: Option<i64>,
    /// As `reasoning_effort`.
    pub effort: Option<String>,
}

/// `speculation`, an extension; `false` in its place turns it off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct SpeculationRequest {
    /// Longest draft, 0 to 64 tokens; 0 is off.
    pub draft_tokens_max: Option<i64>,
    /// Tokens that must match, 1 to 16.
    pub ngram: Option<i64>,
}

/// Body of `POST /v1/embeddings`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct EmbeddingRequest {
    /// A loaded model's name; absent or empty: the first model.
    pub model: Option<String>,
    /// One input or several, as text or token ids.
    pub input: Option<Input>,
    /// `float` or `base64` (little-endian 32-bit floats).
    pub encoding_format: Option<String>,
    /// Only the model's own size.
    pub dimensions: Option<i64>,
}
