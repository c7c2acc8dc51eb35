//! What a worker is asked to do.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use stdx::Priority;

/// One unit of work. A generation job is answered by a stream of events that
/// ends with `Done` or `Failed`; the others by exactly one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Job {
    Chat(Box<ChatJob>),
    Completion(Box<CompletionJob>),
    Embedding(EmbeddingJob),
    /// Answered by `Event::Tokens`.
    Tokenize {
        text: String,
        /// Add the model's BOS/EOS as its vocabulary asks.
        add_special: bool,
        /// Read `<|im_start|>` and the like as control tokens, not as text.
        parse_special: bool,
        /// Also return the text of each token.
        with_pieces: bool,
    },
    /// Answered by `Event::Text`.
    Detokenize {
        tokens: Vec<i32>,
    },
    /// Renders the chat template only; answered by `Event::Rendered`.
    Render(Box<ChatJob>),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatJob {
    pub messages: Vec<Message>,
    pub tools: Vec<ToolDefinition>,
    pub tool_choice: ToolChoice,
    /// `false` allows at most one call an answer.
    pub parallel_tool_calls: Option<bool>,
    pub reasoning: Reasoning,
    /// Extra variables for the chat template.
    pub template_kwargs: Map<String, Value>,
    pub constraint: Option<Constraint>,
    /// The last message is the beginning of the answer: what comes continues its text.
    pub continues: bool,
    pub generation: Generation,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionJob {
    pub prompt: Prompt,
    /// Repeat the prompt in front of the answer (with its logprobs where asked).
    #[serde(default)]
    pub echo: bool,
    #[serde(default)]
    pub constraint: Option<Constraint>,
    #[serde(default)]
    pub generation: Generation,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    Text(String),
    Tokens(Vec<i32>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingJob {
    pub inputs: Vec<EmbeddingInput>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingInput {
    Text(String),
    Tokens(Vec<i32>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    Developer,
    #[default]
    User,
    Assistant,
    Tool,
}

/// One chat turn. Multi-part text is joined before it gets here; other parts than text and
/// images are refused at the edge.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    pub role: Role,
    pub content: Option<String>,
    /// In the order in which they stand in the text. A worker cannot see and refuses them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    pub reasoning_content: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    /// For `Role::Tool`: the call this is the result of.
    pub tool_call_id: Option<String>,
    pub name: Option<String>,
}

/// An image in a message. Nobody here looks into it or fetches it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// An address, or the image itself as a `data:` URL.
    pub url: String,
    /// How closely to look at it, as on the OpenAI wire.
    pub detail: Option<String>,
    /// The bytes of the message's text that come before it.
    pub at: usize,
}

impl Image {
    /// Whether it is itself here, and not only where it is.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.url
            .get(..5)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text, as on the OpenAI wire.
    pub arguments: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolDefinition {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments; `None` means an empty object.
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// What the caller asked about thinking. `None` leaves the template's own default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reasoning {
    pub enabled: Option<bool>,
    /// After this many reasoning tokens the thought is closed and the answer begins.
    pub budget_tokens: Option<u32>,
    /// `reasoning_effort` as given; passed to templates that read it.
    pub effort: Option<String>,
}

/// A grammar that the whole answer must obey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    JsonSchema {
        schema: Value,
    },
    Regex {
        pattern: String,
    },
    /// llguidance's Lark dialect.
    Lark {
        grammar: String,
    },
    /// llama.cpp's GBNF.
    Gbnf {
        grammar: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generation {
    /// Choices to sample from one prefill; 0 is read as 1.
    pub n: u32,
    /// `None`: until the context is full.
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub sampling: SamplingOverrides,
    /// `Some(k)`: report each token's log-probability and the `k` likeliest alternatives.
    pub logprobs: Option<u8>,
    pub speculation: Option<Speculation>,
    /// `false`: neither read nor leave anything in the prefix cache.
    pub cache_prompt: Option<bool>,
    /// Tokens at the beginning that stay when the context is full and the older half of the
    /// others makes room; `None`: the answer ends there.
    pub attention_sinks: Option<u32>,
    /// Ignore end-of-generation tokens; for benchmarks.
    pub ignore_eos: bool,
    /// Its place among those that wait.
    pub priority: Priority,
}

impl Job {
    /// What a job that generates text is told; `None` for the others.
    pub fn generation_mut(&mut self) -> Option<&mut Generation> {
        match self {
            Self::Chat(job) => Some(&mut job.generation),
            Self::Completion(job) => Some(&mut job.generation),
            _ => None,
        }
    }

    /// The images of a chat.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        let messages = match self {
            Self::Chat(job) | Self::Render(job) => job.messages.as_slice(),
            _ => &[],
        };
        messages.iter().flat_map(|message| &message.images)
    }
}

/// Sampling values a request sets; what it leaves out comes from the model's
/// own metadata, then from the engine's defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingOverrides {
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub repeat_penalty: Option<f32>,
    /// How many of the last tokens the penalties look at; `-1` is the whole context.
    pub repeat_last_n: Option<i32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub dry_multiplier: Option<f32>,
    pub dry_base: Option<f32>,
    pub dry_allowed_length: Option<u32>,
    pub dry_penalty_last_n: Option<i32>,
    pub dry_sequence_breakers: Option<Vec<String>>,
    pub seed: Option<u64>,
    /// Token id and the bias added to its logit.
    pub logit_bias: Vec<(i32, f32)>,
}

/// Prompt-lookup speculation: drafts are n-grams copied from the text so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speculation {
    /// Longest draft a step.
    pub draft_tokens_max: u32,
    /// Length of the n-gram that must match.
    pub ngram: u32,
}
