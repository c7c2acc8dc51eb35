//! Why a prompt was read as far as it was, and what would avoid that.

use proto::{PrefixCause, PrefixDetail, PrefixReport};
use serde::Serialize;
use utoipa::ToSchema;

/// Where a prompt left what was known, whose doing that is, and what would avoid it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct WirePrefix {
    /// Prompt tokens that a running or finished request still held.
    live_tokens: u32,
    /// Those from states that had been put away.
    restored_tokens: u32,
    /// Those that were computed.
    computed_tokens: u32,
    /// `new`, `extended`, `repeated`, `branched`, `edited`, `rewritten`, `evicted`, `slower`,
    /// `window`, `running` or `opted_out`.
    #[schema(value_type = String)]
    cause: PrefixCause,
    /// Of `edited`: `counter`, `inserted`, `removed`, `moved` or `replaced`; of `rewritten`:
    /// `reasoning_left_out`, `respaced`, `retokenised`, `shortened` or `replaced`; of `window`:
    /// `sliding_window` or `recurrent_state`; of `opted_out`: `cache_prompt` or
    /// `prompt_logprobs`.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<PrefixDetail>,
    /// Tokens in common with the earlier prompt that was most like it.
    common_tokens: u32,
    /// Tokens that would not have been computed without the cause.
    lost_tokens: u32,
    /// The seconds that took, by the speed of the last prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_seconds: Option<f64>,
    /// The prompt's text where it leaves the earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    excerpt: Option<String>,
    /// What would avoid it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl WirePrefix {
    pub(crate) fn new(report: &PrefixReport) -> Self {
        Self {
            live_tokens: report.live_tokens,
            restored_tokens: report.restored_tokens,
            computed_tokens: report.computed_tokens,
            cause: report.cause,
            detail: report.detail,
            common_tokens: report.common_tokens,
            lost_tokens: report.lost_tokens,
            lost_seconds: report.lost_seconds,
            excerpt: report.excerpt.clone(),
            advice: advice(report.cause, report.detail),
        }
    }
}

fn advice(cause: PrefixCause, detail: Option<PrefixDetail>) -> Option<&'static str> {
    Some(match cause {
        PrefixCause::New
        | PrefixCause::Extended
        | PrefixCause::Repeated
        | PrefixCause::Branched => return None,
        PrefixCause::Edited => edited(detail),
        PrefixCause::Rewritten => rewritten(detail),
        PrefixCause::Evicted => {
            "raise `context` or `prompt_cache_disk_max`, so that more prompts are kept"
        }
        PrefixCause::Slower => {
            "nothing: computing it took less time than fetching it; a faster disk for \
             `prompt_cache_dir` would change that"
        }
        PrefixCause::Window => {
            "nothing, if it comes back: the place is kept from now on; `swa_full = true` keeps all \
             places of models with sliding windows"
        }
        PrefixCause::Running => {
            "send the first of several requests with the same beginning ahead of the others"
        }
        PrefixCause::OptedOut => match detail {
            Some(PrefixDetail::PromptLogprobs) => "do not ask for log probabilities of the prompt",
            _ => "leave out `cache_prompt = false`",
        },
    })
}

fn edited(detail: Option<PrefixDetail>) -> &'static str {
    match detail {
        Some(PrefixDetail::Counter) => {
            "a time, a date or a number changes from request to request: leave it out, or put it at \
             the end of the prompt"
        }
        Some(PrefixDetail::Inserted) => "add what is new at the end of the prompt",
        Some(PrefixDetail::Removed) => {
            "something was left out before the end, as when the oldest messages are dropped: leave \
             out more at once, and more seldom"
        }
        Some(PrefixDetail::Moved) => {
            "the same parts came in another order: send tools and documents always in the same one"
        }
        _ => "keep what changes from request to request at the end of the prompt",
    }
}

fn rewritten(detail: Option<PrefixDetail>) -> &'static str {
    match detail {
        Some(PrefixDetail::ReasoningLeftOut) => {
            "send the reasoning back with the answer, if the template takes it; most templates leave \
             it out of all but the last turn"
        }
        Some(PrefixDetail::Respaced) => "send answers back with the spaces and line ends they had",
        Some(PrefixDetail::Retokenised) => {
            "nothing: the same text became other tokens, as where an answer was cut within a word"
        }
        Some(PrefixDetail::Shortened) => "send answers back whole",
        _ => "send answers back as they were given",
    }
}
