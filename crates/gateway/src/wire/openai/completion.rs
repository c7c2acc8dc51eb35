//! Text completions: request to jobs, parts to answer.

use proto::{CompletionJob, FinishReason, Prompt, TokenLogprob};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::constraint;
use super::generation::{LeastTokens, generation};
use super::request::CompletionRequest;
use super::response::{WireReport, WireUsage, finish_reason, send, wire_logprob};
use super::shapes::{Input, InputItem};
use crate::error::ApiError;
use crate::limits::{self, integer};
use crate::wire::encode::{Encoder, Envelope, json};
use crate::wire::fold::{Answer, AnswerChoice, Part};

/// What a completion request asks for: one job a prompt.
#[derive(Debug, PartialEq)]
pub struct CompletionPlan {
    /// The work, in the order of the prompts; never empty.
    pub jobs: Vec<CompletionJob>,
    /// Answer as a stream.
    pub stream: bool,
    /// End the stream with a usage chunk.
    pub include_usage: bool,
}

/// Checks and translates a completion request.
pub fn completion_plan(mut request: CompletionRequest) -> Result<CompletionPlan, ApiError> {
    if request
        .suffix
        .as_deref()
        .is_some_and(|text| !text.is_empty())
    {
        let detail = "filling in the middle is not possible here";
        return Err(ApiError::not_supported("suffix", "given", detail));
    }
    let rule = "a string or an array of strings, token ids or arrays of token ids";
    let prompt = request.prompt.take();
    let prompt = prompt.ok_or_else(|| ApiError::missing("prompt", rule))?;
    let prompts = inputs("prompt", prompt, limits::PROMPTS_MAX)?;
    let logprobs = integer("logprobs", request.logprobs, 0, limits::TOP_LOGPROBS_MAX)?
        .and_then(|top| u8::try_from(top).ok());
    let echo = request.echo.unwrap_or(false);
    let least = match echo {
        true => LeastTokens::Zero,
        false => LeastTokens::One,
    };
    let mut fields = request.take_generation();
    let constraint = constraint::constraint(&mut fields)?;
    let generation = generation(&mut fields, least, logprobs)?;
    let choices = i64::from(generation.n);
    if let Some(best) = request.best_of.filter(|best| ![1, choices].contains(best)) {
        let detail = "only 1 or the value of n";
        return Err(ApiError::not_supported(
            "best_of",
            &best.to_string(),
            detail,
        ));
    }
    let options = request.stream_options.unwrap_or_default();
    let jobs = prompts.into_iter().map(|prompt| CompletionJob {
        prompt,
        echo,
        constraint: constraint.clone(),
        generation: generation.clone(),
    });
    Ok(CompletionPlan {
        jobs: jobs.collect(),
        stream: request.stream.unwrap_or(false),
        include_usage: options.include_usage.unwrap_or(false),
    })
}

/// The inputs of a completion or embedding request, each text or tokens.
pub(crate) fn inputs(param: &str, given: Input, limit: usize) -> Result<Vec<Prompt>, ApiError> {
    let items = match given {
        Input::Text(text) => return Ok(vec![Prompt::Text(text)]),
        Input::List(items) => items,
    };
    if items.is_empty() {
        return Err(ApiError::invalid(param, "empty", "at least 1 input"));
    }
    if let Some(InputItem::Token(_)) = items.first() {
        let tokens = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| match item {
                InputItem::Token(token) => Ok(token),
                _ => Err(mixed(param, index, "a token id")),
            });
        return Ok(vec![Prompt::Tokens(tokens.collect::<Result<_, _>>()?)]);
    }
    limits::count(param, items.len(), limit, "inputs")?;
    let inputs = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| match item {
            InputItem::Text(text) => Ok(Prompt::Text(text)),
            InputItem::Tokens(tokens) if tokens.is_empty() => {
                let param = format!("{param}[{index}]");
                Err(ApiError::invalid(&param, "empty", "at least 1 token id"))
            }
            InputItem::Tokens(tokens) => Ok(Prompt::Tokens(tokens)),
            InputItem::Token(_) => Err(mixed(param, index, "a string or an array of token ids")),
        });
    inputs.collect()
}

fn mixed(param: &str, index: usize, rule: &str) -> ApiError {
    let param = format!("{param}[{index}]");
    ApiError::invalid(&param, "of another type than the first", rule)
}

/// Writes OpenAI text completions.
#[derive(Debug)]
pub(crate) struct CompletionEncoder {
    pub(crate) envelope: Envelope,
    pub(crate) include_usage: bool,
    /// Whether log-probabilities were asked for.
    pub(crate) logprobs: bool,
    /// Characters of each choice sent so far, for `text_offset`.
    pub(crate) sent_chars: Vec<usize>,
}

impl Encoder for CompletionEncoder {
    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        let chunk = self.chunk(part);
        send(part, chunk, out);
    }

    fn whole(&mut self, answer: Answer) -> Vec<u8> {
        let choices = answer.choices.into_iter().enumerate();
        let choices = choices
            .map(|(index, choice)| self.whole_choice(index, choice))
            .collect();
        json(&Completion {
            id: &self.envelope.id,
            object: "text_completion",
            created: self.envelope.created,
            model: &self.envelope.model,
            system_fingerprint: self.envelope.fingerprint.as_deref(),
            choices,
            usage: Some(Some(WireUsage::new(&answer.report))),
            sextant: Some(WireReport::new(&answer.report)),
        })
    }
}

impl CompletionEncoder {
    fn chunk(&mut self, part: &Part) -> Option<Vec<u8>> {
        let (mut usage, mut sextant) = (self.include_usage.then_some(None), None);
        let mut choices = Vec::with_capacity(1);
        match part {
            Part::Text {
                choice,
                text,
                logprobs,
            }
            | Part::Reasoning {
                choice,
                text,
                logprobs,
            } => choices.push(CompletionChoice {
                index: *choice,
                text: text.clone(),
                logprobs: self.logprobs(*choice, logprobs),
                finish_reason: None,
                matched_stop: None,
            }),
            Part::Finish {
                choice,
                reason,
                stop,
                report,
            } => {
                choices.push(closing(*choice, *reason, stop.clone()));
                let report = report.as_deref().filter(|_| !self.include_usage);
                sextant = report.map(WireReport::new);
            }
            Part::End(report) if self.include_usage => {
                usage = Some(Some(WireUsage::new(report)));
                sextant = Some(WireReport::new(report));
            }
            _ => return None,
        }
        Some(json(&Completion {
            id: &self.envelope.id,
            object: "text_completion",
            created: self.envelope.created,
            model: &self.envelope.model,
            system_fingerprint: self.envelope.fingerprint.as_deref(),
            choices,
            usage,
            sextant,
        }))
    }
}

fn closing(index: usize, reason: FinishReason, stop: Option<String>) -> CompletionChoice {
    CompletionChoice {
        index,
        text: String::new(),
        logprobs: None,
        finish_reason: Some(finish_reason(reason)),
        matched_stop: stop,
    }
}

impl CompletionEncoder {
    fn whole_choice(&mut self, index: usize, choice: AnswerChoice) -> CompletionChoice {
        CompletionChoice {
            index,
            logprobs: self.logprobs(index, &choice.logprobs),
            text: choice.text,
            finish_reason: choice.reason.map(finish_reason),
            matched_stop: choice.stop,
        }
    }

    fn logprobs(&mut self, choice: usize, tokens: &[TokenLogprob]) -> Option<ListLogprobs> {
        if !self.logprobs || tokens.is_empty() {
            return None;
        }
        let sent = self.sent_chars.get_mut(choice)?;
        let mut out = ListLogprobs::default();
        for token in tokens {
            let top = token.top.iter();
            let top = top.map(|top| (top.token.clone(), Value::from(wire_logprob(top.logprob))));
            out.text_offset.push(*sent);
            out.token_logprobs.push(token.logprob.map(wire_logprob));
            out.top_logprobs.push(token.logprob.map(|_| top.collect()));
            out.tokens.push(token.token.clone());
            *sent += token.token.chars().count();
        }
        Some(out)
    }
}

/// Answer of `POST /v1/completions`, whole or one event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    id: &'a str,
    /// `text_completion`
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WireUsage>)]
    usage: Option<Option<WireUsage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sextant: Option<WireReport>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<ListLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_stop: Option<String>,
}

/// Log-probabilities in the older form: parallel lists.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ListLogprobs {
    tokens: Vec<String>,
    /// `null` for the first token of an echoed prompt.
    token_logprobs: Vec<Option<f32>>,
    #[schema(value_type = Vec<Option<Object>>)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// In characters from the start of the text.
    text_offset: Vec<usize>,
}
