//! What the scheduler is asked for and what it answers.

use proto::{FinishReason, JobFailure, PrefixReport, Speculation, Timings, TokenLogprob, Usage};
use sampling::{Constraint, Params};
use stdx::Priority;

use crate::TokenId;

/// The caller's name for a request; unique among those in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey(pub u64);

/// One generation: a prompt and how to go on from it.
#[derive(Debug)]
pub struct Request {
    pub key: JobKey,
    pub prompt: Vec<TokenId>,
    /// Choices sampled from one prefill; at least 1.
    pub n: u32,
    /// `None`: until the context is full.
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub sampling: Params,
    pub constraint: Option<Constraint>,
    /// The constraint covers the thought, too; otherwise it begins after it.
    pub constrain_thought: bool,
    /// `Some(k)`: log-probabilities of each token and its `k` likeliest rivals.
    pub logprobs: Option<usize>,
    /// Also of the prompt's tokens; turns prefix reuse off for this request.
    pub prompt_logprobs: bool,
    pub speculation: Option<Speculation>,
    pub cache_prompt: bool,
    /// Tokens at the beginning that stay when the context is full and the older half of the
    /// others makes room; `None`: the answer ends there.
    pub attention_sinks: Option<u32>,
    pub ignore_eos: bool,
    /// Its place in the queue: behind those of the same or a higher one.
    pub priority: Priority,
    /// Render control tokens in the answer (a chat parser reads them).
    pub special_text: bool,
    pub thought: Option<ThoughtSpec>,
}

impl Request {
    /// One choice at temperature 0 until the context is full, and nothing else asked for.
    #[must_use]
    pub fn greedy(key: JobKey, prompt: Vec<TokenId>) -> Self {
        Self {
            key,
            prompt,
            n: 1,
            max_tokens: None,
            stop: Vec::new(),
            sampling: Params {
                temperature: 0.0,
                ..Params::default()
            },
            constraint: None,
            constrain_thought: false,
            logprobs: None,
            prompt_logprobs: false,
            speculation: None,
            cache_prompt: true,
            attention_sinks: None,
            ignore_eos: false,
            priority: Priority::Normal,
            special_text: false,
            thought: None,
        }
    }
}

/// How the model marks its reasoning, and how much of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThoughtSpec {
    pub open: String,
    pub close: String,
    /// The prompt already opened a thought.
    pub starts_inside: bool,
    /// Reasoning tokens after which the thought is closed for the model.
    pub budget_tokens: Option<u32>,
    /// What is put into the answer to close it.
    pub close_tokens: Vec<TokenId>,
}

/// One piece of news on a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Started {
        key: JobKey,
        prompt_tokens: u32,
        cached_tokens: u32,
    },
    Prefill {
        key: JobKey,
        done: u32,
        total: u32,
    },
    /// Log-probabilities of the prompt's tokens; the first has none.
    Prompt {
        key: JobKey,
        logprobs: Vec<TokenLogprob>,
    },
    Text {
        key: JobKey,
        choice: u32,
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    Finished {
        key: JobKey,
        choice: u32,
        reason: FinishReason,
        stop: Option<String>,
    },
    /// How much of the prompt was known, and why no more; before `Done`.
    Prefix {
        key: JobKey,
        report: Box<PrefixReport>,
    },
    Done {
        key: JobKey,
        usage: Usage,
        timings: Timings,
    },
    Failed {
        key: JobKey,
        failure: JobFailure,
    },
}

impl Output {
    #[must_use]
    pub fn key(&self) -> JobKey {
        match self {
            Self::Started { key, .. }
            | Self::Prefill { key, .. }
            | Self::Prompt { key, .. }
            | Self::Text { key, .. }
            | Self::Finished { key, .. }
            | Self::Prefix { key, .. }
            | Self::Done { key, .. }
            | Self::Failed { key, .. } => *key,
        }
    }
}
