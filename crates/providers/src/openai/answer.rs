//! From what comes back to events. Pure.

use std::collections::BTreeMap;

use proto::{
    Delta, Event, FinishReason, JobFailure, Timings, TokenLogprob, TopLogprob, UpstreamFault, Usage,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call_ids::CallIds;
use super::request::AnswerKind;
use crate::failure::{failure, of_status};

/// Reads the answer to one request, whole or chunk by chunk.
#[derive(Debug)]
pub(crate) struct Reader {
    provider: String,
    kind: AnswerKind,
    warnings: Vec<String>,
    started: bool,
    over: bool,
    choices: BTreeMap<u32, Choice>,
    call_ids: CallIds,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Choice {
    finished: bool,
    /// Ours are numbered by their places here.
    calls: Vec<Call>,
}

/// A part of a call, and where in its chunk it stood.
struct GivenCall {
    place: usize,
    call: WireCall,
}

/// A call that was begun.
#[derive(Debug)]
struct Call {
    /// The number that the engine gives it.
    index: u64,
    id: Option<String>,
}

impl Reader {
    pub(crate) fn new(
        provider: &str,
        kind: AnswerKind,
        call_ids: CallIds,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            provider: provider.to_owned(),
            kind,
            warnings,
            started: false,
            over: false,
            choices: BTreeMap::new(),
            call_ids,
            usage: Usage::default(),
        }
    }

    /// Whether the last event has been given.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the data of one event of a stream.
    pub(crate) fn data(&mut self, data: &[u8], timings: Timings, events: &mut Vec<Event>) {
        if self.over {
            return;
        }
        if data == b"[DONE]" {
            return self.done(timings, events);
        }
        match read(data) {
            Ok(body) => self.body(body, events),
            Err(error) => self.fail(self.malformed(&error.to_string()), events),
        }
    }

    /// The stream has ended. Some engines forget `[DONE]`; what counts is that all choices
    /// were finished.
    pub(crate) fn end(&mut self, timings: Timings, events: &mut Vec<Event>) {
        if self.over {
            return;
        }
        self.done(timings, events);
    }

    fn is_whole(&self) -> bool {
        let (AnswerKind::Chat { n } | AnswerKind::Completion { n }) = self.kind else {
            return false;
        };
        let finished = self.choices.values().filter(|choice| choice.finished);
        finished.count() == n as usize
    }

    fn cut_off(&self) -> JobFailure {
        let message = format!("The answer of `{}` stopped before its end.", self.provider);
        failure(UpstreamFault::CutOff, message)
    }

    /// Takes a whole answer.
    pub(crate) fn whole(&mut self, body: &[u8], timings: Timings, events: &mut Vec<Event>) {
        if let AnswerKind::Embeddings { n } = self.kind {
            return match read(body) {
                Ok(body) => self.embeddings(body, n, events),
                Err(error) => self.fail(self.malformed(&error.to_string()), events),
            };
        }
        match read(body) {
            Ok(body) => {
                self.body(body, events);
                if !self.over {
                    self.end(timings, events);
                }
            }
            Err(error) => self.fail(self.malformed(&error.to_string()), events),
        }
    }

    /// Gives up; nothing after it counts.
    pub(crate) fn fail(&mut self, failure: JobFailure, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.over, true) {
            events.push(Event::Failed(failure));
        }
    }

    fn malformed(&self, detail: &str) -> JobFailure {
        let message = format!("`{}` sent what cannot be read: {detail}.", self.provider);
        failure(UpstreamFault::Malformed, message)
    }

    fn body(&mut self, body: Body, events: &mut Vec<Event>) {
        if let Some(error) = body.error {
            let (status, said) = error.read();
            let failure = of_status(&self.provider, status, &said, None);
            return self.fail(failure, events);
        }
        if let Some(usage) = body.usage {
            self.usage = usage.into();
        }
        if !self.started && !body.choices.is_empty() {
            self.started = true;
            events.push(Event::Started {
                prompt_tokens: self.usage.prompt_tokens,
                cached_tokens: self.usage.cached_tokens,
                sampling: None,
                warnings: std::mem::take(&mut self.warnings),
            });
        }
        for choice in body.choices {
            self.choice(choice, events);
            if self.over {
                return;
            }
        }
    }

    fn choice(&mut self, given: WireChoice, events: &mut Vec<Event>) {
        let (AnswerKind::Chat { n } | AnswerKind::Completion { n }) = self.kind else {
            return self.fail(
                self.malformed("choices where vectors were asked for"),
                events,
            );
        };
        let index = given.index;
        if index >= n {
            let detail = format!("choice {index} of {n}");
            return self.fail(self.malformed(&detail), events);
        }
        let choice = self.choices.entry(index).or_default();
        if choice.finished {
            // Some engines repeat the last chunk with usage in it.
            return;
        }
        let message = given.delta.or(given.message).unwrap_or_default();
        let mut logprobs = given.logprobs.map(WireLogprobs::read).unwrap_or_default();
        let mut say = |delta| {
            events.push(Event::Delta {
                choice: index,
                delta,
                logprobs: Vec::new(),
            });
        };
        let is_text = |text: &String| !text.is_empty();
        if let Some(text) = message
            .reasoning_content
            .or(message.reasoning)
            .filter(is_text)
        {
            say(Delta::Reasoning { text });
        }
        let text = message.content.or(given.text);
        if let Some(text) = text.filter(is_text) {
            events.push(Event::Delta {
                choice: index,
                delta: Delta::Text { text },
                logprobs: std::mem::take(&mut logprobs),
            });
        }
        for (place, call) in message.tool_calls.into_iter().flatten().enumerate() {
            let given = GivenCall { place, call };
            choice.call(index, given, &mut self.call_ids, events);
        }
        let reason = given.finish_reason.filter(is_text);
        if matches!(reason.as_deref(), Some("error" | "abort")) {
            return self.fail(self.cut_off(), events);
        }
        if let Some(reason) = reason {
            choice.finished = true;
            events.push(Event::Finished {
                choice: index,
                reason: finish_reason(&reason, !choice.calls.is_empty()),
                stop: None,
            });
        }
    }

    /// An end that was told; yet an answer is whole only with all its choices finished.
    fn done(&mut self, timings: Timings, events: &mut Vec<Event>) {
        if !self.is_whole() {
            return self.fail(self.cut_off(), events);
        }
        self.over = true;
        events.push(Event::Done {
            usage: self.usage,
            timings,
        });
    }

    fn embeddings(&mut self, body: EmbeddingBody, n: usize, events: &mut Vec<Event>) {
        let mut vectors = vec![Vec::new(); n];
        for entry in body.data {
            if let Some(vector) = vectors.get_mut(entry.index) {
                *vector = entry.embedding;
            }
        }
        if vectors.iter().any(Vec::is_empty) {
            let detail = format!("not one vector for each of {n} inputs");
            return self.fail(self.malformed(&detail), events);
        }
        for vector in &mut vectors {
            normalise(vector);
        }
        self.over = true;
        events.push(Event::Embeddings {
            vectors,
            prompt_tokens: body.usage.map_or(0, |usage| usage.prompt_tokens),
        });
    }
}

/// Reads JSON. That it is text is looked at once for all of it, which is much faster than text
/// by text; what is not is left to the reader that says where.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(bytes),
    }
}

/// Our answers have unit length, whatever the engine's have.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

impl Choice {
    fn call(&mut self, choice: u32, given: GivenCall, ids: &mut CallIds, events: &mut Vec<Event>) {
        let GivenCall { place, call } = given;
        let number = call.index.unwrap_or(place as u64);
        let function = call.function.unwrap_or_default();
        let id = call.id.filter(|id| !id.is_empty());
        // Some engines number every call 0: another id with a name is another call.
        let begins = function.name.as_ref().is_some_and(|name| !name.is_empty());
        let is_it = |known: &Call| {
            let is_other = begins && id.is_some() && known.id != id;
            known.index == number && !is_other
        };
        let known = self.calls.iter().rposition(is_it);
        let ours = known.unwrap_or(self.calls.len());
        let index = u32::try_from(ours).unwrap_or(u32::MAX);
        let mut say = |delta| {
            events.push(Event::Delta {
                choice,
                delta,
                logprobs: Vec::new(),
            });
        };
        if known.is_none() {
            self.calls.push(Call {
                index: number,
                id: id.clone(),
            });
            say(Delta::ToolCallStart {
                index,
                id: ids.take(id.as_deref()),
                name: function.name.unwrap_or_default(),
            });
        }
        let text = match function.arguments {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            // Ollama's older form.
            Some(object) => object.to_string(),
        };
        if !text.is_empty() {
            say(Delta::ToolCallArguments { index, text });
        }
    }
}

fn finish_reason(word: &str, called: bool) -> FinishReason {
    match word {
        "length" | "max_tokens" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        _ if called => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    choices: Vec<WireChoice>,
    usage: Option<WireUsage>,
    error: Option<WireError>,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: u32,
    delta: Option<WireMessage>,
    message: Option<WireMessage>,
    text: Option<String>,
    finish_reason: Option<String>,
    logprobs: Option<WireLogprobs>,
}

#[derive(Default, Deserialize)]
struct WireMessage {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<WireCall>>,
}

#[derive(Deserialize)]
struct WireCall {
    index: Option<u64>,
    id: Option<String>,
    function: Option<WireFunction>,
}

#[derive(Default, Deserialize)]
struct WireFunction {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct WireLogprobs {
    content: Option<Vec<WireToken>>,
}

#[derive(Deserialize)]
struct WireToken {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<WireToken>,
}

impl WireLogprobs {
    fn read(self) -> Vec<TokenLogprob> {
        let tokens = self.content.unwrap_or_default().into_iter();
        let tokens = tokens.map(|token| TokenLogprob {
            bytes: bytes(token.bytes, &token.token),
            token: token.token,
            logprob: Some(token.logprob),
            top: token.top_logprobs.into_iter().map(top).collect(),
        });
        tokens.collect()
    }
}

fn top(token: WireToken) -> TopLogprob {
    TopLogprob {
        bytes: bytes(token.bytes, &token.token),
        token: token.token,
        logprob: token.logprob,
    }
}

fn bytes(given: Option<Vec<u8>>, token: &str) -> Vec<u8> {
    given.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<u32>,
}

impl From<WireUsage> for Usage {
    fn from(usage: WireUsage) -> Self {
        let prompt = usage.prompt_tokens_details.unwrap_or_default();
        let completion = usage.completion_tokens_details.unwrap_or_default();
        Self {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: prompt.cached_tokens.unwrap_or(0),
            completion_tokens: usage.completion_tokens,
            reasoning_tokens: completion.reasoning_tokens.unwrap_or(0),
            ..Self::default()
        }
    }
}

/// An error object as the engines write it: text, or an object with a code.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum WireError {
    Text(String),
    Object {
        message: Option<String>,
        code: Option<Value>,
    },
}

impl WireError {
    /// The status that the error stands for, and its message.
    pub(crate) fn read(self) -> (u16, String) {
        match self {
            Self::Text(text) => (500, text),
            Self::Object { message, code } => {
                let status = match code {
                    Some(Value::Number(code)) => {
                        code.as_u64().and_then(|code| u16::try_from(code).ok())
                    }
                    Some(Value::String(word)) if word.contains("rate_limit") => Some(429),
                    Some(Value::String(word)) => word.parse().ok(),
                    _ => None,
                };
                let status = status.filter(|status| (400..600).contains(status));
                (status.unwrap_or(500), message.unwrap_or_default())
            }
        }
    }
}

#[derive(Deserialize)]
struct EmbeddingBody {
    data: Vec<EmbeddingEntry>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct EmbeddingEntry {
    #[serde(default)]
    index: usize,
    embedding: Vec<f32>,
}
