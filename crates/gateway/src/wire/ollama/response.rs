//! Answers on the wire: JSON objects, one a line, or a whole one.
//!
//! The arguments of a tool call are an object here, not text, so a call is sent when it is
//! complete. Arguments that are no JSON object, as of a call that the token limit cut, can
//! be no call: they are sent as text at the end of the answer, so that they are neither
//! lost nor run.

use proto::{FinishReason, TokenLogprob};
use serde::Serialize;
use serde_json::{Map, Value};
use stdx::rfc3339;
use utoipa::ToSchema;

use super::error_body;
use super::time::nanoseconds;
use crate::wire::encode::{Encoder, Envelope, Prefill, json};
use crate::wire::fold::{Answer, AnswerCall, Part, Report};
use crate::wire::openai::response::{WireReport, WireToken};

/// The media type of lines of JSON.
pub(crate) const LINES: &str = "application/x-ndjson";

/// Which of the two kinds of answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Chat,
    Generate,
}

/// Writes the answers of `/api/chat` and `/api/generate`.
#[derive(Debug)]
pub(crate) struct LineEncoder {
    form: Form,
    model: String,
    created_at: String,
    /// Whether log-probabilities were asked for.
    logprobs: bool,
    /// The call that is being written.
    call: Option<AnswerCall>,
    n_calls: u32,
    /// What was to be a call and is none.
    unreadable: String,
    /// An error has been sent; nothing may follow it.
    broken: bool,
}

impl LineEncoder {
    pub(crate) fn new(form: Form, envelope: Envelope, logprobs: bool) -> Self {
        Self {
            form,
            model: envelope.model,
            created_at: rfc3339(envelope.created),
            logprobs,
            call: None,
            n_calls: 0,
            unreadable: String::new(),
            broken: false,
        }
    }

    /// The answer to a request without text: what became of the model.
    pub(crate) fn about_model(&self, done_reason: &'static str) -> Vec<u8> {
        self.object(Piece {
            end: Some(AnswerEnd {
                done_reason,
                figures: None,
            }),
            ..Piece::default()
        })
    }

    fn object(&self, piece: Piece<'_>) -> Vec<u8> {
        let logprobs = (self.logprobs && !piece.logprobs.is_empty())
            .then(|| piece.logprobs.iter().map(WireToken::from).collect());
        let thinking = (!piece.thinking.is_empty()).then_some(piece.thinking);
        match self.form {
            Form::Chat => json(&OllamaChatAnswer {
                model: &self.model,
                created_at: &self.created_at,
                message: OllamaAnswerMessage {
                    role: "assistant",
                    content: piece.text,
                    thinking,
                    tool_calls: (!piece.calls.is_empty()).then_some(piece.calls),
                },
                logprobs,
                done: piece.end.is_some(),
                end: piece.end,
            }),
            Form::Generate => json(&OllamaGenerateAnswer {
                model: &self.model,
                created_at: &self.created_at,
                response: piece.text,
                thinking,
                logprobs,
                done: piece.end.is_some(),
                end: piece.end,
            }),
        }
    }

    fn send(&self, piece: Piece<'_>, out: &mut Vec<u8>) {
        line(out, &self.object(piece));
    }

    /// The next complete call, where its arguments can be read.
    fn complete(&mut self, call: AnswerCall) -> Option<OllamaAnswerCall> {
        let Some(arguments) = arguments(&call.arguments) else {
            let name = Value::from(call.name);
            let text = format!("\n{{\"name\": {name}, \"arguments\": {}}}", call.arguments);
            self.unreadable.push_str(&text);
            return None;
        };
        let index = self.n_calls;
        self.n_calls += 1;
        Some(OllamaAnswerCall {
            id: call.id,
            function: OllamaAnswerFunction {
                index,
                name: call.name,
                arguments,
            },
        })
    }

    fn end_call(&mut self, out: &mut Vec<u8>) {
        let call = self.call.take().and_then(|call| self.complete(call));
        if let Some(call) = call {
            let calls = vec![call];
            self.send(
                Piece {
                    calls,
                    ..Piece::default()
                },
                out,
            );
        }
    }

    fn finish(&mut self, reason: FinishReason, report: Option<&Report>, out: &mut Vec<u8>) {
        if self.broken {
            return;
        }
        self.end_call(out);
        let text = std::mem::take(&mut self.unreadable);
        if !text.is_empty() {
            self.send(Piece::text(&text), out);
        }
        // Without a report an error follows, which must not come after a good end.
        if let Some(report) = report {
            self.send(Piece::end(reason, report), out);
        }
    }
}

impl Encoder for LineEncoder {
    const STREAM_TYPE: &'static str = LINES;

    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        match part {
            Part::Text { text, logprobs, .. } => self.send(
                Piece {
                    logprobs,
                    ..Piece::text(text)
                },
                out,
            ),
            Part::Reasoning { text, logprobs, .. } => self.send(
                Piece {
                    thinking: text,
                    logprobs,
                    ..Piece::default()
                },
                out,
            ),
            Part::CallStart { id, name, .. } => {
                self.end_call(out);
                self.call = Some(AnswerCall {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                });
            }
            Part::CallArguments { text, .. } => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(text);
                }
            }
            Part::Finish { reason, report, .. } => self.finish(*reason, report.as_deref(), out),
            Part::Error(error) => {
                self.broken = true;
                line(out, &json(&error_body(error)));
            }
            Part::Open { .. } | Part::End(_) => {}
        }
    }

    /// White space in front of a line's JSON is legal, and the official clients read it.
    fn keep_alive(&self, _prefill: Option<Prefill>) -> bytes::Bytes {
        bytes::Bytes::from_static(KEEP_ALIVE)
    }

    /// Lines have no comments; the last one carries the warning.
    fn continued(&self, _by: &str) -> bytes::Bytes {
        bytes::Bytes::new()
    }

    fn whole(&mut self, mut answer: Answer) -> Vec<u8> {
        let choice = answer.choices.pop().unwrap_or_default();
        let calls = choice.calls.into_iter();
        let calls = calls.filter_map(|call| self.complete(call)).collect();
        let logprobs = [choice.reasoning_logprobs, choice.logprobs].concat();
        let text = choice.text + &self.unreadable;
        let reason = choice.reason.unwrap_or(FinishReason::Stop);
        self.object(Piece {
            text: &text,
            thinking: &choice.reasoning,
            calls,
            logprobs: &logprobs,
            ..Piece::end(reason, &answer.report)
        })
    }
}

/// The sign of life in a silent stream of lines.
pub(crate) const KEEP_ALIVE: &[u8] = b" ";

/// Appends one line. The official Python client reads with httpx, for which these three
/// characters end a line too; JSON allows them in a string as they are, and escaped.
pub(crate) fn line(out: &mut Vec<u8>, object: &[u8]) {
    const LINE_ENDS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];
    let mut text = String::from_utf8_lossy(object);
    if text.contains(LINE_ENDS) {
        for end in LINE_ENDS {
            let escape = format!("\\u{:04x}", u32::from(end));
            text = text.replace(end, &escape).into();
        }
    }
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// Arguments as an object; nothing at all is an empty one.
fn arguments(text: &str) -> Option<Map<String, Value>> {
    match text.trim() {
        "" => Some(Map::new()),
        text => serde_json::from_str(text).ok(),
    }
}

/// What one line says.
#[derive(Debug, Default)]
struct Piece<'a> {
    text: &'a str,
    thinking: &'a str,
    calls: Vec<OllamaAnswerCall>,
    logprobs: &'a [TokenLogprob],
    end: Option<AnswerEnd>,
}

impl<'a> Piece<'a> {
    fn text(text: &'a str) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    fn end(reason: FinishReason, report: &Report) -> Self {
        let done_reason = match reason {
            FinishReason::Stop | FinishReason::ToolCalls => "stop",
            FinishReason::Length => "length",
        };
        Self {
            end: Some(AnswerEnd {
                done_reason,
                figures: Some(Figures::new(report)),
            }),
            ..Self::default()
        }
    }
}

/// Answer of `POST /api/chat`, or one line of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaChatAnswer<'a> {
    /// The name that was asked for.
    model: &'a str,
    /// RFC 3339
    created_at: &'a str,
    message: OllamaAnswerMessage<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<WireToken>>,
    /// Whether this is the last line, or the whole answer.
    done: bool,
    #[serde(flatten)]
    end: Option<AnswerEnd>,
}

/// Answer of `POST /api/generate`, or one line of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaGenerateAnswer<'a> {
    /// The name that was asked for.
    model: &'a str,
    /// RFC 3339
    created_at: &'a str,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<WireToken>>,
    /// Whether this is the last line, or the whole answer.
    done: bool,
    #[serde(flatten)]
    end: Option<AnswerEnd>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaAnswerMessage<'a> {
    /// `assistant`
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<OllamaAnswerCall>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaAnswerCall {
    id: String,
    function: OllamaAnswerFunction,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaAnswerFunction {
    index: u32,
    name: String,
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
}

/// What only the last line has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerEnd {
    /// `stop` or `length`; of a request without text `load` or `unload`
    done_reason: &'static str,
    #[serde(flatten)]
    figures: Option<Figures>,
}

/// Counts in tokens, durations in nanoseconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Figures {
    total_duration: u64,
    /// Time in the queue.
    load_duration: u64,
    /// All tokens of the prompt, those from the cache included.
    prompt_eval_count: u32,
    prompt_eval_duration: u64,
    eval_count: u32,
    eval_duration: u64,
    sextant: WireReport,
}

impl Figures {
    fn new(report: &Report) -> Self {
        let (usage, timings) = (&report.usage, &report.timings);
        Self {
            total_duration: nanoseconds(timings.queue_ms + timings.prefill_ms + timings.decode_ms),
            load_duration: nanoseconds(timings.queue_ms),
            prompt_eval_count: usage.prompt_tokens,
            prompt_eval_duration: nanoseconds(timings.prefill_ms),
            eval_count: usage.completion_tokens,
            eval_duration: nanoseconds(timings.decode_ms),
            sextant: WireReport::new(report),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_character_that_a_client_takes_for_its_end() {
        let text = "a\u{85}b\u{2028}c\u{2029}d\r\n\u{b}\u{c}\u{1c}é";
        let mut out = Vec::new();
        line(&mut out, &json(&text));
        let sent = String::from_utf8(out).unwrap();
        let ends = "\n\r\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}";
        assert_eq!(sent.find(|c| ends.contains(c)), Some(sent.len() - 1));
        assert_eq!(serde_json::from_str::<String>(&sent).unwrap(), text);
    }

    #[test]
    fn only_objects_are_arguments() {
        assert_eq!(arguments(" "), Some(Map::new()));
        assert!(arguments(r#"{"a": 1} "#).is_some());
        for text in ["[1]", "\"x\"", "null", "{\"city\": \"Be", "{} {}"] {
            assert_eq!(arguments(text), None, "{text}");
        }
    }
}
