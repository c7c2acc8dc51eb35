//! Chat answers on the wire, whole and as a stream of chunks.

use proto::{FinishReason, SamplingValues, TokenLogprob};
use serde::Serialize;
use utoipa::ToSchema;

use crate::wire::encode::{Encoder, Envelope, data, json};
use crate::wire::fold::{Answer, AnswerCall, AnswerChoice, Part, Report};
use crate::wire::prefix::WirePrefix;

/// Appends the event of `part` and what OpenAI's streams have besides chunks. A broken
/// stream must not end like a whole one, so only a good end is followed by `[DONE]`.
pub(super) fn send(part: &Part, chunk: Option<Vec<u8>>, out: &mut Vec<u8>) {
    if let Part::Error(error) = part {
        data(out, &json(&error.body()));
    }
    if let Some(chunk) = chunk {
        data(out, &chunk);
    }
    if let Part::End(_) = part {
        data(out, b"[DONE]");
    }
}

/// Writes OpenAI chat completions.
#[derive(Debug)]
pub(crate) struct ChatEncoder {
    pub(crate) envelope: Envelope,
    pub(crate) include_usage: bool,
    /// Whether log-probabilities were asked for.
    pub(crate) logprobs: bool,
}

impl Encoder for ChatEncoder {
    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        let chunk = self.chunk(part);
        send(part, chunk, out);
    }

    fn whole(&mut self, answer: Answer) -> Vec<u8> {
        let choices = answer.choices.into_iter().enumerate();
        json(&ChatCompletion {
            id: &self.envelope.id,
            object: "chat.completion",
            created: self.envelope.created,
            model: &self.envelope.model,
            system_fingerprint: self.envelope.fingerprint.as_deref(),
            choices: choices
                .map(|(index, choice)| whole_choice(index, choice, self.logprobs))
                .collect(),
            usage: WireUsage::new(&answer.report),
            sextant: WireReport::new(&answer.report),
        })
    }
}

impl ChatEncoder {
    fn chunk(&self, part: &Part) -> Option<Vec<u8>> {
        let mut chunk = self.empty_chunk();
        match part {
            Part::End(report) if self.include_usage => {
                chunk.usage = Some(Some(WireUsage::new(report)));
                chunk.sextant = Some(WireReport::new(report));
            }
            Part::End(_) | Part::Error(_) => return None,
            part => chunk.choices.push(self.choice(part)?),
        }
        if let Part::Finish {
            report: Some(report),
            ..
        } = part
            && !self.include_usage
        {
            chunk.sextant = Some(WireReport::new(report));
        }
        Some(json(&chunk))
    }

    fn empty_chunk(&self) -> ChatChunk<'_> {
        ChatChunk {
            id: &self.envelope.id,
            object: "chat.completion.chunk",
            created: self.envelope.created,
            model: &self.envelope.model,
            system_fingerprint: self.envelope.fingerprint.as_deref(),
            choices: Vec::with_capacity(1),
            usage: self.include_usage.then_some(None),
            sextant: None,
        }
    }

    fn choice<'a>(&self, part: &'a Part) -> Option<ChunkChoice<'a>> {
        let mut out = ChunkChoice::default();
        match part {
            Part::Open { choice, .. } => {
                out.index = *choice;
                out.delta.role = Some("assistant");
                out.delta.content = Some(None);
            }
            Part::Text {
                choice,
                text,
                logprobs,
            } => {
                out.index = *choice;
                // Only log-probabilities may come without text; empty text never goes out.
                out.delta.content = (!text.is_empty()).then_some(Some(text));
                out.logprobs = WireLogprobs::new(logprobs, &[], self.logprobs);
            }
            Part::Reasoning {
                choice,
                text,
                logprobs,
            } => {
                out.index = *choice;
                out.delta.reasoning_content = (!text.is_empty()).then_some(text);
                out.logprobs = WireLogprobs::new(&[], logprobs, self.logprobs);
            }
            Part::CallStart {
                choice,
                index,
                id,
                name,
            } => {
                out.index = *choice;
                out.delta.tool_calls = Some([ChunkCall::start(*index, id, name)]);
            }
            Part::CallArguments {
                choice,
                index,
                text,
            } => {
                out.index = *choice;
                out.delta.tool_calls = Some([ChunkCall::arguments(*index, text)]);
            }
            Part::Finish {
                choice,
                reason,
                stop,
                ..
            } => {
                out.index = *choice;
                out.finish_reason = Some(finish_reason(*reason));
                out.matched_stop = stop.as_deref();
            }
            Part::End(_) | Part::Error(_) => return None,
        }
        Some(out)
    }
}

pub(crate) const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

fn whole_choice(index: usize, choice: AnswerChoice, logprobs: bool) -> ChatChoice {
    let calls: Vec<_> = choice.calls.into_iter().map(WholeCall::from).collect();
    let no_content = choice.text.is_empty() && !calls.is_empty();
    ChatChoice {
        index,
        message: ChatMessage {
            role: "assistant",
            content: (!no_content).then_some(choice.text),
            refusal: None,
            reasoning_content: (!choice.reasoning.is_empty()).then_some(choice.reasoning),
            tool_calls: (!calls.is_empty()).then_some(calls),
        },
        logprobs: WireLogprobs::new(&choice.logprobs, &choice.reasoning_logprobs, logprobs),
        finish_reason: finish_reason(choice.reason.unwrap_or(FinishReason::Stop)),
        matched_stop: choice.stop,
    }
}

/// Answer of `POST /v1/chat/completions` without `stream`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion<'a> {
    id: &'a str,
    /// `chat.completion`
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: Vec<ChatChoice>,
    usage: WireUsage,
    sextant: WireReport,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    index: usize,
    message: ChatMessage,
    logprobs: Option<WireLogprobs>,
    /// `stop`, `length` or `tool_calls`
    finish_reason: &'static str,
    /// The stop string that ended the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_stop: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatMessage {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<WholeCall>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeCall {
    id: String,
    /// `function`
    r#type: &'static str,
    function: WholeFunction,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeFunction {
    name: String,
    /// JSON text.
    arguments: String,
}

impl From<AnswerCall> for WholeCall {
    fn from(call: AnswerCall) -> Self {
        Self {
            id: call.id,
            r#type: "function",
            function: WholeFunction {
                name: call.name,
                arguments: call.arguments,
            },
        }
    }
}

/// One event of a streamed chat answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk<'a> {
    id: &'a str,
    /// `chat.completion.chunk`
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: Vec<ChunkChoice<'a>>,
    /// Absent unless asked for; then null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WireUsage>)]
    usage: Option<Option<WireUsage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sextant: Option<WireReport>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkChoice<'a> {
    index: usize,
    delta: ChunkDelta<'a>,
    logprobs: Option<WireLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_stop: Option<&'a str>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Null beside the role, never empty after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<ChunkCall>>)]
    tool_calls: Option<[ChunkCall<'a>; 1]>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChunkCall<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: ChunkFunction<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChunkFunction<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> ChunkCall<'a> {
    fn start(index: u32, id: &'a str, name: &'a str) -> Self {
        Self {
            index,
            id: Some(id),
            r#type: Some("function"),
            function: ChunkFunction {
                name: Some(name),
                arguments: "",
            },
        }
    }

    fn arguments(index: u32, text: &'a str) -> Self {
        Self {
            index,
            id: None,
            r#type: None,
            function: ChunkFunction {
                name: None,
                arguments: text,
            },
        }
    }
}

/// Log-probabilities of a choice's tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireLogprobs {
    content: Option<Vec<WireToken>>,
    refusal: Option<Vec<WireToken>>,
    /// Those of the thinking, an extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Vec<WireToken>>,
}

impl WireLogprobs {
    fn new(content: &[TokenLogprob], reasoning: &[TokenLogprob], wanted: bool) -> Option<Self> {
        let list = |tokens: &[TokenLogprob]| {
            (!tokens.is_empty()).then(|| tokens.iter().map(WireToken::from).collect())
        };
        let (content, reasoning_content) = (list(content), list(reasoning));
        let any = content.is_some() || reasoning_content.is_some();
        (wanted && any).then_some(Self {
            content,
            refusal: None,
            reasoning_content,
        })
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<WireTopToken>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireTopToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl From<&TokenLogprob> for WireToken {
    fn from(token: &TokenLogprob) -> Self {
        let top = token.top.iter().map(|top| WireTopToken {
            token: top.token.clone(),
            logprob: wire_logprob(top.logprob),
            bytes: top.bytes.clone(),
        });
        Self {
            token: token.token.clone(),
            // What a chat answers with was generated, so it has one.
            logprob: token.logprob.map_or(LOGPROB_MIN, wire_logprob),
            bytes: token.bytes.clone(),
            top_logprobs: top.collect(),
        }
    }
}

/// OpenAI's stand-in for a probability of zero; JSON has no infinity.
const LOGPROB_MIN: f32 = -9999.0;

pub(crate) fn wire_logprob(logprob: f32) -> f32 {
    match logprob.is_nan() {
        true => LOGPROB_MIN,
        false => logprob.clamp(LOGPROB_MIN, 0.0),
    }
}

/// `usage`
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct WireUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CompletionDetails {
    reasoning_tokens: u32,
}

impl WireUsage {
    pub(crate) fn new(report: &Report) -> Self {
        let usage = &report.usage;
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_tokens,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning_tokens,
            },
        }
    }
}

/// `sextant`, an extension: what was really done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct WireReport {
    /// Sampling values in force; absent where another engine chose them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    sampling: Option<SamplingValues>,
    timings: WireTimings,
    /// Prompt tokens that were taken from the cache.
    cached_tokens: u32,
    /// Of those, from states that had been put away: of ended requests, before a restart.
    restored_tokens: u32,
    /// Why the prompt was read as far as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<WirePrefix>,
    /// Tokens drafted by speculation, and how many of them stood.
    draft_tokens: u32,
    draft_accepted_tokens: u32,
    /// Tokens that left the context, so that the answer could go on; absent: none.
    #[serde(skip_serializing_if = "is_zero")]
    dropped_tokens: u32,
    /// What was asked for and not done.
    warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct WireTimings {
    queue_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    /// Of the tokens that were not cached.
    prefill_tokens_per_second: Option<f64>,
    /// Of the tokens after the first.
    decode_tokens_per_second: Option<f64>,
}

impl WireReport {
    pub(crate) fn new(report: &Report) -> Self {
        let (usage, timings) = (&report.usage, &report.timings);
        let prefilled = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        let decoded = usage.completion_tokens.saturating_sub(report.jobs);
        Self {
            sampling: report.sampling.clone(),
            timings: WireTimings {
                queue_ms: timings.queue_ms,
                prefill_ms: timings.prefill_ms,
                decode_ms: timings.decode_ms,
                prefill_tokens_per_second: rate(prefilled, timings.prefill_ms),
                decode_tokens_per_second: rate(decoded, timings.decode_ms),
            },
            cached_tokens: usage.cached_tokens,
            restored_tokens: usage.restored_tokens,
            prefix: report.prefix.as_ref().map(WirePrefix::new),
            draft_tokens: usage.draft_tokens,
            draft_accepted_tokens: usage.draft_accepted_tokens,
            dropped_tokens: usage.dropped_tokens,
            warnings: report.warnings.clone(),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands it a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Tokens a second, to two decimal places; `None` where nothing was measured.
fn rate(tokens: u32, ms: f64) -> Option<f64> {
    let measured = tokens > 0 && ms > 0.0;
    measured.then(|| (f64::from(tokens) * 100_000.0 / ms).round() / 100.0)
}
