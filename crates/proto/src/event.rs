//! What a worker answers.

use serde::{Deserialize, Serialize};

/// One event of a job. `choice` counts from 0 and is below the job's `n`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The job has a slot; prefill begins. Sent once, before any delta. Whatever is
    /// wrong with a request (template, grammar, context, queue) fails it before this.
    Started {
        prompt_tokens: u32,
        /// Of those, how many were already in the KV cache.
        cached_tokens: u32,
        /// `None` where another engine chose them.
        sampling: Option<Box<SamplingValues>>,
        /// What was asked for and could not be applied, in words (for example a
        /// missing chat template that was replaced).
        warnings: Vec<String>,
    },
    /// How much of the prompt was known, and why no more. Right before `Done`, if at all.
    Prefix(Box<PrefixReport>),
    /// Prefill progress in tokens, at most one a chunk.
    Prefill {
        done: u32,
        total: u32,
    },
    Delta {
        choice: u32,
        delta: Delta,
        /// Tokens this delta accounts for; empty unless logprobs were asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    Finished {
        choice: u32,
        reason: FinishReason,
        /// The stop string that ended the choice, where one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop: Option<String>,
    },
    /// The engine failed; another one continues its text from here.
    Continued {
        /// `PROVIDER:MODEL`
        by: String,
    },
    /// The last event of a generation job that went well.
    Done {
        usage: Usage,
        timings: Timings,
    },
    /// The last event of a job that did not.
    Failed(JobFailure),

    Tokens {
        tokens: Vec<i32>,
        /// The text of each token, where asked for; bytes that are not UTF-8 are replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pieces: Option<Vec<String>>,
    },
    Text {
        text: String,
    },
    Rendered {
        prompt: String,
        n_tokens: u32,
    },
    Embeddings {
        /// One unit-length vector an input, in input order.
        vectors: Vec<Vec<f32>>,
        prompt_tokens: u32,
    },
}

impl Event {
    /// Whether the job is over after this event.
    #[must_use]
    pub fn is_last(&self) -> bool {
        !matches!(
            self,
            Self::Started { .. }
                | Self::Prefix(_)
                | Self::Prefill { .. }
                | Self::Delta { .. }
                | Self::Finished { .. }
                | Self::Continued { .. }
        )
    }
}

/// Why a prompt had to be read as far as it had.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixReport {
    /// Prompt tokens that a running or finished request still held.
    pub live_tokens: u32,
    /// Those from states that had been put away.
    pub restored_tokens: u32,
    /// Those that were computed.
    pub computed_tokens: u32,
    pub cause: PrefixCause,
    /// What exactly, where the cause alone does not say it.
    pub detail: Option<PrefixDetail>,
    /// How many tokens the prompt has in common with the one that was most like it.
    pub common_tokens: u32,
    /// Tokens that would not have been computed without the cause.
    pub lost_tokens: u32,
    /// The seconds that took, by the speed of the last prompts; `None` where none was timed.
    pub lost_seconds: Option<f64>,
    /// The prompt's text where it leaves the earlier one. For the client whose prompt it is,
    /// and for nobody else: not for logs, traces or metrics.
    pub excerpt: Option<String>,
}

/// Whose doing it is that a prompt was not known farther.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixCause {
    /// No prompt was like it.
    #[default]
    New,
    /// It goes on where an earlier one or its answer ended.
    Extended,
    /// It is one that was read before.
    Repeated,
    /// It begins like an earlier one and then is about something else: another conversation
    /// with the same system prompt.
    Branched,
    /// An earlier prompt was changed at its beginning or in its middle.
    Edited,
    /// An earlier answer comes back otherwise than it was generated: the template leaves
    /// something out of it, or the client has changed it.
    Rewritten,
    /// It was known, and has made room for others.
    Evicted,
    /// It is put away, and fetching it takes longer than computing it.
    Slower,
    /// It is known, but the model's state cannot be gone on from at that place.
    Window,
    /// Another request is still reading it.
    Running,
    /// The request did not want it.
    OptedOut,
}

impl PrefixCause {
    /// As it is written in answers, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Extended => "extended",
            Self::Repeated => "repeated",
            Self::Branched => "branched",
            Self::Edited => "edited",
            Self::Rewritten => "rewritten",
            Self::Evicted => "evicted",
            Self::Slower => "slower",
            Self::Window => "window",
            Self::Running => "running",
            Self::OptedOut => "opted_out",
        }
    }
}

/// What exactly was done to a prompt, or stood in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixDetail {
    /// Edited: a time, a date, a number or an identifier is another one.
    Counter,
    /// Edited: something was put in.
    Inserted,
    /// Edited: something was left out, as where the oldest messages are dropped.
    Removed,
    /// Edited: the same parts come in another order.
    Moved,
    /// Edited or rewritten: something else stands there.
    Replaced,
    /// Rewritten: the answer comes back without its reasoning.
    ReasoningLeftOut,
    /// Rewritten: other spaces and line ends.
    Respaced,
    /// Rewritten: the same text, in other tokens.
    Retokenised,
    /// Rewritten: the answer comes back cut.
    Shortened,
    /// Window: layers with a sliding window have dropped what was before it.
    SlidingWindow,
    /// Window: a recurrent state is that of one place only.
    RecurrentState,
    /// Opted out: `cache_prompt` is false.
    CachePrompt,
    /// Opted out: log probabilities of the prompt were wanted.
    PromptLogprobs,
}

impl PrefixDetail {
    /// As it is written in answers, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Inserted => "inserted",
            Self::Removed => "removed",
            Self::Moved => "moved",
            Self::Replaced => "replaced",
            Self::ReasoningLeftOut => "reasoning_left_out",
            Self::Respaced => "respaced",
            Self::Retokenised => "retokenised",
            Self::Shortened => "shortened",
            Self::SlidingWindow => "sliding_window",
            Self::RecurrentState => "recurrent_state",
            Self::CachePrompt => "cache_prompt",
            Self::PromptLogprobs => "prompt_logprobs",
        }
    }
}

/// A piece of an answer. Text is whole UTF-8, and empty only where it carries
/// log-probabilities of text sent before (an echoed prompt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Delta {
    Text {
        text: String,
    },
    Reasoning {
        text: String,
    },
    /// Opens call `index` (dense from 0 within the choice); sent once a call.
    ToolCallStart {
        index: u32,
        id: String,
        name: String,
    },
    /// The next part of the call's JSON arguments.
    ToolCallArguments {
        index: u32,
        text: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End of generation, or a stop string.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    ToolCalls,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub token: String,
    pub bytes: Vec<u8>,
    /// Natural logarithm of the probability before any sampling filter; `None` for the
    /// first token of a prompt, which follows nothing.
    pub logprob: Option<f32>,
    pub top: Vec<TopLogprob>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    pub token: String,
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    /// Of those, from states that had been put away.
    pub restored_tokens: u32,
    /// Over all choices.
    pub completion_tokens: u32,
    pub reasoning_tokens: u32,
    /// Speculation: tokens drafted, and how many of them stood.
    pub draft_tokens: u32,
    pub draft_accepted_tokens: u32,
    /// Tokens that left the context, so that the answer could go on.
    pub dropped_tokens: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    pub queue_ms: f64,
    /// From the slot to the first token.
    pub prefill_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
}

/// The sampling values in force for a job, after defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingValues {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub typical_p: f32,
    pub repeat_penalty: f32,
    pub repeat_last_n: i32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub dry_multiplier: f32,
    pub dry_base: f32,
    pub dry_allowed_length: u32,
    pub dry_penalty_last_n: i32,
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobFailure {
    #[serde(flatten)]
    pub kind: FailureKind,
    /// One sentence that names the limit and the value given.
    pub message: String,
    /// The request field at fault, in OpenAI's spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}

/// Why a job failed; the HTTP edge maps each to one row of its error table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FailureKind {
    /// The prompt (with at least one token of answer) is over the context.
    ContextExceeded {
        prompt_tokens: u32,
        context: u32,
    },
    /// A value the engine cannot take.
    InvalidRequest,
    /// A schema or grammar that cannot be honoured; `keyword` is what stands in the way.
    ConstraintUnsupported {
        keyword: String,
    },
    /// The model's chat template refused these messages or is broken.
    TemplateFailed,
    /// The model cannot do this (embeddings, chat, tools).
    Unsupported,
    /// The queue is at its limit.
    QueueFull {
        limit: u32,
    },
    /// The worker is draining and takes no new jobs.
    Draining,
    Cancelled,
    /// The worker process died; `cause` is what is known of it.
    WorkerLost {
        cause: String,
    },
    /// The model is not loaded, or its loading failed.
    ModelUnavailable,
    /// Another engine that was asked over the network failed.
    Upstream {
        fault: UpstreamFault,
        /// The HTTP status it answered with, where it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// How long it asked to be left alone, milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// Everyone who could have answered failed; the message says how.
    NoProvider,
    Internal,
}

/// What another engine did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamFault {
    /// No connection.
    Unreachable,
    /// Silence for longer than it is given.
    TimedOut,
    /// It wants fewer requests.
    RateLimited,
    /// It does not take our key, or not this model.
    Denied,
    /// It finds the request itself wrong.
    Rejected,
    /// An error of its own.
    Broken,
    /// An answer that cannot be read.
    Malformed,
    /// An answer that stopped before its end.
    CutOff,
}
