//! A response as a sequence of typed events, and whole: the same items either way.
//!
//! Every item is opened, filled and closed before the next one opens. The stream ends
//! with exactly one of `response.completed`, `response.incomplete` and
//! `response.failed`: without it agents ask again.

use std::sync::Arc;

use proto::{FinishReason, TokenLogprob};
use router::Reach;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::items;
use super::response::{
    Echo, IncompleteDetails, ItemStatus, OutputItem, OutputPart, ResponseError, ResponseObject,
    ResponseStatus, ResponseUsage,
};
use super::tools::Namespaces;
use crate::error::ApiError;
use crate::kept::{Kept, ResponseStore};
use crate::wire::encode::{Encoder, Envelope, json};
use crate::wire::fold::{Answer, Part, Report};
use crate::wire::openai::response::{WireReport, WireToken};

/// Where a finished response goes.
pub(crate) struct Keep {
    pub(crate) store: Arc<dyn ResponseStore>,
    /// The items that it answers.
    pub(crate) input: Vec<Value>,
    /// How far it may travel.
    pub(crate) reach: Reach,
}

/// Writes one response.
pub(crate) struct ResponseEncoder {
    envelope: Envelope,
    echo: Echo,
    namespaces: Namespaces,
    /// Whether log-probabilities were asked for.
    logprobs: bool,
    keep: Option<Keep>,
    stage: Stage,
    items: Vec<OutputItem>,
    /// What the last item takes more of, until it is closed.
    open: Option<Kind>,
    /// The places of the calls among the items.
    calls: Vec<usize>,
    reason: FinishReason,
    events: Events,
    /// The response as it ended, as JSON.
    ended: Vec<u8>,
}

/// What a request says about the way in which it is answered.
pub(crate) struct Asked {
    pub(crate) echo: Echo,
    pub(crate) namespaces: Namespaces,
    pub(crate) logprobs: bool,
    pub(crate) keep: Option<Keep>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Answering,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Call,
}

impl Encoder for ResponseEncoder {
    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        if self.stage == Stage::Over {
            return;
        }
        self.begin(out);
        match part {
            Part::Open { .. } => {}
            Part::Text { text, logprobs, .. } => self.text(text, logprobs, out),
            Part::Reasoning { text, .. } => self.reasoning(text, out),
            Part::CallStart { id, name, .. } => self.call(id, name, out),
            Part::CallArguments { index, text, .. } => self.arguments(*index, text, out),
            Part::Finish { reason, .. } => self.finish(*reason, out),
            Part::End(report) => self.end(report, out),
            Part::Error(error) => self.fail(error, out),
        }
    }

    /// The stream, unsent.
    fn whole(&mut self, answer: Answer) -> Vec<u8> {
        self.events = Events::Unsent;
        let mut unsent = Vec::new();
        for part in answer.into_parts() {
            self.part(&part, &mut unsent);
        }
        std::mem::take(&mut self.ended)
    }
}

impl ResponseEncoder {
    pub(crate) fn new(envelope: Envelope, asked: Asked) -> Self {
        Self {
            envelope,
            echo: asked.echo,
            namespaces: asked.namespaces,
            logprobs: asked.logprobs,
            keep: asked.keep,
            stage: Stage::Waiting,
            items: Vec::new(),
            open: None,
            calls: Vec::new(),
            reason: FinishReason::Stop,
            events: Events::Sent { n: 0 },
            ended: Vec::new(),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Answering;
            let status = ResponseStatus::InProgress;
            let response = json(&self.object(status, None, None));
            self.events.response("response.created", &response, out);
            self.events.response(status.event(), &response, out);
        }
    }

    fn text(&mut self, text: &str, logprobs: &[TokenLogprob], out: &mut Vec<u8>) {
        let tokens: Vec<_> = match self.logprobs {
            true => logprobs.iter().map(WireToken::from).collect(),
            false => Vec::new(),
        };
        if text.is_empty() && tokens.is_empty() {
            return;
        }
        if self.open != Some(Kind::Text) {
            let item = OutputItem::Message {
                id: self.item_id("msg_"),
                status: ItemStatus::InProgress,
                role: "assistant",
                content: Vec::new(),
            };
            self.open(Kind::Text, item, out);
        }
        self.extend(self.items.len() - 1, text, tokens, out);
    }

    fn reasoning(&mut self, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if self.open != Some(Kind::Reasoning) {
            let item = OutputItem::Reasoning {
                id: self.item_id("rs_"),
                summary: [],
                content: Vec::new(),
                status: ItemStatus::InProgress,
            };
            self.open(Kind::Reasoning, item, out);
        }
        self.extend(self.items.len() - 1, text, Vec::new(), out);
    }

    fn call(&mut self, call_id: &str, called: &str, out: &mut Vec<u8>) {
        let (namespace, name) = self.namespaces.apart(called);
        let item = OutputItem::FunctionCall {
            id: self.item_id("fc_"),
            call_id: call_id.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            arguments: String::new(),
            status: ItemStatus::InProgress,
        };
        self.calls.push(self.items.len());
        self.open(Kind::Call, item, out);
    }

    fn arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        if let Some(place) = self.calls.get(index as usize)
            && !text.is_empty()
        {
            self.extend(*place, text, Vec::new(), out);
        }
    }

    /// Only what was being written when the tokens ran out is incomplete.
    fn finish(&mut self, reason: FinishReason, out: &mut Vec<u8>) {
        self.reason = reason;
        self.close(
            match reason {
                FinishReason::Length => ItemStatus::Incomplete,
                FinishReason::Stop | FinishReason::ToolCalls => ItemStatus::Completed,
            },
            out,
        );
    }

    fn end(&mut self, report: &Report, out: &mut Vec<u8>) {
        if let Some(sampling) = &report.sampling {
            self.echo.temperature = Some(sampling.temperature);
            self.echo.top_p = Some(sampling.top_p);
        }
        let status = ResponseStatus::from(self.reason);
        self.conclude(status, Some(report), None, out);
    }

    /// A call that a failure cut off is not told to be done: an agent would run it.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        if self.open == Some(Kind::Call)
            && let Some(call) = self.items.last_mut()
        {
            call.set_status(ItemStatus::Incomplete);
            self.open = None;
        }
        self.close(ItemStatus::Incomplete, out);
        self.events.error(error, out);
        self.conclude(ResponseStatus::Failed, None, Some(error), out);
    }

    fn conclude(
        &mut self,
        status: ResponseStatus,
        report: Option<&Report>,
        error: Option<&ApiError>,
        out: &mut Vec<u8>,
    ) {
        self.stage = Stage::Over;
        self.ended = json(&self.object(status, report, error));
        // Whoever reads the last event may ask for the response at once.
        if let Some(keep) = self.keep.take() {
            let id = self.envelope.id.clone();
            keep.store.put(Kept {
                previous: self.echo.previous_response_id.clone(),
                input: json(&items::listed(keep.input, &id)),
                response: self.ended.clone(),
                reach: keep.reach,
                // The store knows whose it is.
                owner: None,
                id,
            });
        }
        self.events.response(status.event(), &self.ended, out);
    }

    fn open(&mut self, kind: Kind, item: OutputItem, out: &mut Vec<u8>) {
        self.close(ItemStatus::Completed, out);
        let output_index = self.items.len();
        let added = StreamEvent {
            r#type: "response.output_item.added",
            output_index,
            item: Some(&item),
            ..StreamEvent::default()
        };
        self.events.send(added, out);
        self.open = Some(kind);
        self.items.push(item);
        let item = &mut self.items[output_index];
        let item_id = item.id().to_owned();
        if let Some(part) = item.begin_content() {
            let added = StreamEvent {
                r#type: "response.content_part.added",
                item_id: Some(&item_id),
                output_index,
                content_index: Some(0),
                part: Some(part),
                ..StreamEvent::default()
            };
            self.events.send(added, out);
        }
    }

    fn extend(&mut self, place: usize, more: &str, tokens: Vec<WireToken>, out: &mut Vec<u8>) {
        let item = &self.items[place];
        let mut event = StreamEvent {
            item_id: Some(item.id()),
            output_index: place,
            delta: Some(more),
            ..StreamEvent::default()
        };
        match item {
            OutputItem::Message { .. } => {
                event.r#type = "response.output_text.delta";
                event.content_index = Some(0);
                event.logprobs = Some(&tokens);
            }
            OutputItem::Reasoning { .. } => {
                event.r#type = "response.reasoning_text.delta";
                event.content_index = Some(0);
            }
            OutputItem::FunctionCall { .. } => {
                event.r#type = "response.function_call_arguments.delta";
            }
        }
        self.events.send(event, out);
        self.items[place].append(more, tokens);
    }

    /// Closes the last item, if it is open.
    fn close(&mut self, status: ItemStatus, out: &mut Vec<u8>) {
        if self.open.take().is_none() {
            return;
        }
        let output_index = self.items.len() - 1;
        self.items[output_index].set_status(status);
        let item = &self.items[output_index];
        let at = StreamEvent {
            item_id: Some(item.id()),
            output_index,
            ..StreamEvent::default()
        };
        match item {
            OutputItem::Message { content, .. } | OutputItem::Reasoning { content, .. } => {
                for part in content.iter() {
                    self.events.send(text_done(part, &at), out);
                    let done = StreamEvent {
                        r#type: "response.content_part.done",
                        content_index: Some(0),
                        part: Some(part),
                        ..at.clone()
                    };
                    self.events.send(done, out);
                }
            }
            OutputItem::FunctionCall {
                name, arguments, ..
            } => {
                let done = StreamEvent {
                    r#type: "response.function_call_arguments.done",
                    name: Some(name),
                    arguments: Some(arguments),
                    ..at
                };
                self.events.send(done, out);
            }
        }
        let done = StreamEvent {
            r#type: "response.output_item.done",
            output_index,
            item: Some(item),
            ..StreamEvent::default()
        };
        self.events.send(done, out);
    }

    fn item_id(&self, prefix: &str) -> String {
        items::id(prefix, &self.envelope.id, &self.items.len().to_string())
    }

    fn object(
        &self,
        status: ResponseStatus,
        report: Option<&Report>,
        error: Option<&ApiError>,
    ) -> ResponseObject<'_> {
        ResponseObject {
            id: &self.envelope.id,
            object: "response",
            created_at: self.envelope.created,
            status,
            background: false,
            error: error.map(ResponseError::new),
            incomplete_details: (status == ResponseStatus::Incomplete)
                .then_some(IncompleteDetails::MAX_OUTPUT_TOKENS),
            model: &self.envelope.model,
            output: &self.items,
            echo: &self.echo,
            usage: report.map(ResponseUsage::new),
            sextant: report.map(WireReport::new),
        }
    }
}

fn text_done<'a>(part: &'a OutputPart, at: &StreamEvent<'a>) -> StreamEvent<'a> {
    let at = StreamEvent {
        content_index: Some(0),
        ..at.clone()
    };
    match part {
        OutputPart::OutputText { text, logprobs, .. } => StreamEvent {
            r#type: "response.output_text.done",
            text: Some(text),
            logprobs: Some(logprobs),
            ..at
        },
        OutputPart::ReasoningText { text } => StreamEvent {
            r#type: "response.reasoning_text.done",
            text: Some(text),
            ..at
        },
    }
}

/// One event of a streamed response about an item. Events about the response itself
/// have `type`, `sequence_number` and `response`; the event `error` has `type`,
/// `sequence_number`, `code`, `message` and `param`.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct StreamEvent<'a> {
    /// As the name of the event.
    r#type: &'static str,
    /// Counts from 0.
    sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<&'a str>,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a OutputItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<&'a OutputPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<WireToken>>)]
    logprobs: Option<&'a [WireToken]>,
}

#[derive(Serialize)]
struct ErrorEvent<'a> {
    r#type: &'static str,
    sequence_number: u64,
    code: &'static str,
    message: &'a str,
    param: Option<&'a str>,
}

/// Numbers events and frames them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Events {
    Sent {
        /// How many were sent.
        n: u64,
    },
    Unsent,
}

impl Events {
    /// The number of the next event, where events are sent.
    fn next(&mut self) -> Option<u64> {
        match self {
            Self::Sent { n } => {
                *n += 1;
                Some(*n - 1)
            }
            Self::Unsent => None,
        }
    }

    fn send(&mut self, event: StreamEvent<'_>, out: &mut Vec<u8>) {
        if let Some(sequence_number) = self.next() {
            let event = StreamEvent {
                sequence_number,
                ..event
            };
            frame(event.r#type, &json(&event), out);
        }
    }

    /// Sends an event about the response, which is JSON already.
    fn response(&mut self, kind: &str, response: &[u8], out: &mut Vec<u8>) {
        if let Some(number) = self.next() {
            let head = format!(r#"{{"type":"{kind}","sequence_number":{number},"response":"#);
            frame(kind, &[head.as_bytes(), response, b"}"].concat(), out);
        }
    }

    fn error(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        if let Some(sequence_number) = self.next() {
            let event = ErrorEvent {
                r#type: "error",
                sequence_number,
                code: error.row().code,
                message: error.text(),
                param: error.param(),
            };
            frame(event.r#type, &json(&event), out);
        }
    }
}

/// Appends a named server-sent event.
fn frame(name: &str, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}
