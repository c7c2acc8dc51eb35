//! Answers on the wire, whole and as a stream of events.

use bytes::Bytes;
use proto::FinishReason;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::error_body;
use crate::wire::encode::{self, Encoder, Envelope, Prefill, data};
use crate::wire::fold::{Answer, Part, PromptTokens, Report};
use crate::wire::openai::response::WireReport;

/// The key of a tool's arguments that are no JSON object, as Anthropic recommends it.
const INVALID_JSON: &str = "INVALID_JSON";

/// Writes an answer as Anthropic's messages API does.
#[derive(Debug)]
pub(crate) struct MessageEncoder {
    envelope: Envelope,
    /// Blocks of the stream so far; the last of them is the one that may be open.
    n_blocks: usize,
    open: Option<Kind>,
    calls: Vec<StreamedCall>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    ToolUse,
}

#[derive(Debug)]
struct StreamedCall {
    block: usize,
    name: String,
    arguments: String,
}

impl Encoder for MessageEncoder {
    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        match part {
            Part::Open { prompt, .. } => self.begin(*prompt, out),
            Part::Text { text, .. } => self.text(text, out),
            Part::Reasoning { text, .. } => self.thinking(text, out),
            Part::CallStart { id, name, .. } => self.call(id, name, out),
            Part::CallArguments { index, text, .. } => self.arguments(*index, text, out),
            Part::Finish {
                reason,
                stop,
                report: Some(report),
                ..
            } => self.finish(Ending::new(*reason, stop.as_deref()), report, out),
            // Without a report the answer broke off, which the error says. A client takes
            // a message with an end for whole.
            Part::Finish { report: None, .. } => {}
            Part::End(_) => send(&MessageEvent::MessageStop, out),
            Part::Error(error) => event("error", &error_body(error), out),
        }
    }

    /// The SDKs skip pings wherever they come, before the message begins too.
    fn keep_alive(&self, _: Option<Prefill>) -> Bytes {
        Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n")
    }

    fn whole(&mut self, answer: Answer) -> Vec<u8> {
        let choice = answer.choices.into_iter().next().unwrap_or_default();
        let mut content = Vec::new();
        let mut warnings = Vec::new();
        if !choice.reasoning.is_empty() {
            content.push(AnswerBlock::thinking(&choice.reasoning));
        }
        if !choice.text.is_empty() {
            content.push(AnswerBlock::Text { text: &choice.text });
        }
        for call in &choice.calls {
            let input = object(&call.arguments).unwrap_or_else(|| {
                warnings.push(no_object(&call.name));
                json!({ INVALID_JSON: call.arguments })
            });
            content.push(AnswerBlock::ToolUse {
                id: &call.id,
                name: &call.name,
                input,
            });
        }
        let reason = choice.reason.unwrap_or(FinishReason::Stop);
        let message = AnswerMessage {
            content,
            ending: Ending::new(reason, choice.stop.as_deref()),
            usage: MessageUsage::of(&answer.report),
            sextant: Some(report(&answer.report, warnings)),
            ..self.message()
        };
        encode::json(&message)
    }
}

impl MessageEncoder {
    pub(crate) fn new(envelope: Envelope) -> Self {
        Self {
            envelope,
            n_blocks: 0,
            open: None,
            calls: Vec::new(),
        }
    }

    /// The message before anything is in it.
    fn message(&self) -> AnswerMessage<'_> {
        AnswerMessage {
            id: &self.envelope.id,
            r#type: "message",
            role: "assistant",
            model: &self.envelope.model,
            content: Vec::new(),
            ending: Ending::default(),
            usage: MessageUsage::default(),
            sextant: None,
        }
    }

    fn begin(&self, prompt: PromptTokens, out: &mut Vec<u8>) {
        let message = AnswerMessage {
            usage: MessageUsage::new(prompt, 0),
            ..self.message()
        };
        send(&MessageEvent::MessageStart { message }, out);
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if self.open != Some(Kind::Text) {
            self.start(Kind::Text, AnswerBlock::Text { text: "" }, out);
        }
        self.delta(self.n_blocks - 1, BlockDelta::Text { text }, out);
    }

    fn thinking(&mut self, thinking: &str, out: &mut Vec<u8>) {
        if self.open != Some(Kind::Thinking) {
            self.start(Kind::Thinking, AnswerBlock::thinking(""), out);
        }
        let delta = BlockDelta::Thinking { thinking };
        self.delta(self.n_blocks - 1, delta, out);
    }

    fn call(&mut self, id: &str, name: &str, out: &mut Vec<u8>) {
        let input = json!({});
        self.start(Kind::ToolUse, AnswerBlock::ToolUse { id, name, input }, out);
        self.calls.push(StreamedCall {
            block: self.n_blocks - 1,
            name: name.to_owned(),
            arguments: String::new(),
        });
    }

    fn arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        let Some(call) = self.calls.get_mut(index as usize) else {
            return;
        };
        call.arguments.push_str(text);
        let delta = BlockDelta::InputJson { partial_json: text };
        let block = call.block;
        self.delta(block, delta, out);
    }

    fn finish(&mut self, ending: Ending<'_>, given: &Report, out: &mut Vec<u8>) {
        self.close(out);
        let calls = self.calls.iter();
        let broken = calls.filter(|call| object(&call.arguments).is_none());
        let end = MessageEvent::MessageDelta {
            delta: ending,
            usage: MessageUsage::of(given),
            sextant: report(given, broken.map(|call| no_object(&call.name)).collect()),
        };
        send(&end, out);
    }

    /// Opens a block; clients read one after the other, so it closes the one before.
    fn start(&mut self, kind: Kind, content_block: AnswerBlock<'_>, out: &mut Vec<u8>) {
        self.close(out);
        let start = MessageEvent::ContentBlockStart {
            index: self.n_blocks,
            content_block,
        };
        send(&start, out);
        self.open = Some(kind);
        self.n_blocks += 1;
    }

    fn delta(&self, index: usize, delta: BlockDelta<'_>, out: &mut Vec<u8>) {
        send(&MessageEvent::ContentBlockDelta { index, delta }, out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(kind) = self.open.take() else { return };
        let index = self.n_blocks - 1;
        if kind == Kind::Thinking {
            self.delta(index, BlockDelta::Signature { signature: "" }, out);
        }
        send(&MessageEvent::ContentBlockStop { index }, out);
    }
}

fn send(message: &MessageEvent<'_>, out: &mut Vec<u8>) {
    event(message.name(), message, out);
}

/// Appends a server-sent event with a name.
fn event<T: Serialize>(name: &str, value: &T, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(out, &encode::json(value));
}

/// A tool's arguments as the object that the API has there. They are none where the
/// answer was cut off inside them or the model made a slip. A stream has then sent the
/// text as it is; a whole answer has it under [`INVALID_JSON`]: with `{}` in its place
/// the tool would run without its arguments, and nobody could see what the model wrote.
fn object(arguments: &str) -> Option<Value> {
    match arguments.trim() {
        "" => Some(json!({})),
        text => serde_json::from_str(text).ok().filter(Value::is_object),
    }
}

fn no_object(name: &str) -> String {
    format!("The arguments of a call of {name} are no JSON object; they are given as they are.")
}

fn report(report: &Report, more: Vec<String>) -> WireReport {
    let mut report = report.clone();
    report.warnings.extend(more);
    WireReport::new(&report)
}

/// Answer of `POST /v1/messages` without `stream`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = anthropic::Message)]
pub(crate) struct AnswerMessage<'a> {
    id: &'a str,
    /// `message`
    r#type: &'static str,
    /// `assistant`
    role: &'static str,
    model: &'a str,
    content: Vec<AnswerBlock<'a>>,
    #[serde(flatten)]
    ending: Ending<'a>,
    usage: MessageUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    sextant: Option<WireReport>,
}

/// A block of an answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = anthropic::AnswerBlock)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum AnswerBlock<'a> {
    Thinking {
        thinking: &'a str,
        /// Empty; Anthropic's models sign theirs.
        signature: &'static str,
    },
    Text {
        text: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        /// `{"INVALID_JSON": text}` where the model wrote no JSON object.
        #[schema(value_type = Object)]
        input: Value,
    },
}

impl<'a> AnswerBlock<'a> {
    fn thinking(thinking: &'a str) -> Self {
        Self::Thinking {
            thinking,
            signature: "",
        }
    }
}

/// Why an answer ended; null while it goes on.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = anthropic::Ending)]
pub(crate) struct Ending<'a> {
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`
    stop_reason: Option<&'static str>,
    /// The one that ended the answer.
    stop_sequence: Option<&'a str>,
}

impl<'a> Ending<'a> {
    fn new(reason: FinishReason, stop: Option<&'a str>) -> Self {
        Self {
            stop_reason: Some(match reason {
                FinishReason::Stop if stop.is_some() => "stop_sequence",
                FinishReason::Stop => "end_turn",
                FinishReason::Length => "max_tokens",
                FinishReason::ToolCalls => "tool_use",
            }),
            stop_sequence: stop.filter(|_| reason == FinishReason::Stop),
        }
    }
}

/// `usage`
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = anthropic::Usage)]
pub(crate) struct MessageUsage {
    /// Of the prompt, without those that were cached.
    input_tokens: u32,
    /// Always 0: what is read is kept without being asked for.
    cache_creation_input_tokens: u32,
    cache_read_input_tokens: u32,
    output_tokens: u32,
}

impl MessageUsage {
    fn new(prompt: PromptTokens, output_tokens: u32) -> Self {
        Self {
            input_tokens: prompt.all.saturating_sub(prompt.cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: prompt.cached,
            output_tokens,
        }
    }

    fn of(report: &Report) -> Self {
        let usage = &report.usage;
        let prompt = PromptTokens {
            all: usage.prompt_tokens,
            cached: usage.cached_tokens,
        };
        Self::new(prompt, usage.completion_tokens)
    }
}

/// One event of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = anthropic::Event)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum MessageEvent<'a> {
    MessageStart {
        message: AnswerMessage<'a>,
    },
    ContentBlockStart {
        index: usize,
        content_block: AnswerBlock<'a>,
    },
    ContentBlockDelta {
        index: usize,
        delta: BlockDelta<'a>,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: Ending<'a>,
        usage: MessageUsage,
        sextant: WireReport,
    },
    MessageStop,
}

impl MessageEvent<'_> {
    /// The same as the type.
    fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

/// More of a block.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = anthropic::BlockDelta)]
#[serde(tag = "type")]
pub(crate) enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'static str },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// Answer of `POST /v1/messages/count_tokens`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = anthropic::TokenCount)]
pub(crate) struct TokenCount {
    /// Tokens of the prompt that the chat template makes of the request.
    pub(crate) input_tokens: u32,
}
