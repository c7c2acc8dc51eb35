//! Where answers come from: a worker of this program, or a server.

use std::fmt;
use std::io;
use std::time::Instant;

use futures_util::StreamExt;
use proto::{ChatJob, Delta, Event, FinishReason, Job, JobFailure, Message, Role};
use serde_json::{Value, json};
use supervisor::Fleet;

use super::options::Options;
use crate::http::{Lines, Server};
use crate::outcome::{Code, Outcome, fault};

#[derive(Debug)]
pub(super) enum Backend {
    Local { fleet: Fleet, model: String },
    Remote { server: Server, model: String },
}

/// A part of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    Text(String),
    Thought(String),
}

/// What an answer took.
#[derive(Debug, Default)]
pub(super) struct Summary {
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    /// To the first piece.
    first_ms: f64,
    decode_ms: f64,
    is_cut: bool,
}

type Sink<'a> = &'a mut (dyn FnMut(Piece) -> io::Result<()> + Send);

impl Backend {
    /// Streams one answer into `sink`. Dropping the future stops it.
    pub(super) async fn answer(
        &self,
        messages: Vec<Message>,
        options: &Options,
        sink: Sink<'_>,
    ) -> Outcome<Summary> {
        match self {
            Self::Local { fleet, model } => {
                let chat = ChatJob {
                    messages,
                    reasoning: options.reasoning(),
                    generation: options.generation(),
                    ..ChatJob::default()
                };
                local(fleet, model, Job::Chat(Box::new(chat)), sink).await
            }
            Self::Remote { server, model } => {
                let mut body = json!({
                    "model": model,
                    "messages": messages.iter().map(on_the_wire).collect::<Vec<_>>(),
                    "stream": true,
                    "stream_options": { "include_usage": true },
                });
                for (name, value) in options.request_fields() {
                    body[name] = value;
                }
                remote(server, &body, sink).await
            }
        }
    }

    /// Ends what was started for the talk.
    pub(super) async fn close(&self) {
        if let Self::Local { fleet, .. } = self {
            fleet.shutdown().await;
        }
    }
}

async fn local(fleet: &Fleet, model: &str, job: Job, sink: Sink<'_>) -> Outcome<Summary> {
    let mut stream = fleet.submit(model, job).await.map_err(failed)?;
    let mut summary = Summary::default();
    while let Some(event) = stream.next().await {
        match event {
            Event::Started { warnings, .. } => {
                for warning in warnings {
                    crate::output::say(&format!("warning: {warning}"));
                }
            }
            Event::Delta { delta, .. } => match delta {
                Delta::Text { text } => sink(Piece::Text(text))?,
                Delta::Reasoning { text } => sink(Piece::Thought(text))?,
                // No tools are offered, so there are no calls to show.
                Delta::ToolCallStart { .. } | Delta::ToolCallArguments { .. } => {}
            },
            Event::Finished { reason, .. } => summary.is_cut = reason == FinishReason::Length,
            Event::Done { usage, timings } => {
                summary.prompt_tokens = usage.prompt_tokens.into();
                summary.cached_tokens = usage.cached_tokens.into();
                summary.completion_tokens = usage.completion_tokens.into();
                summary.first_ms = timings.queue_ms + timings.prefill_ms;
                summary.decode_ms = timings.decode_ms;
            }
            Event::Failed(failure) => return Err(failed(failure)),
            _ => {}
        }
    }
    Ok(summary)
}

fn failed(failure: JobFailure) -> crate::outcome::Fault {
    let cause = match failure.kind {
        proto::FailureKind::WorkerLost { cause } => format!(": {cause}"),
        _ => String::new(),
    };
    fault(Code::Failure, format!("{}{cause}", failure.message))
}

async fn remote(server: &Server, body: &Value, sink: Sink<'_>) -> Outcome<Summary> {
    let started = Instant::now();
    let ms = |from: Instant| from.elapsed().as_secs_f64() * 1000.0;
    let response = server.post_streaming("/v1/chat/completions", body).await?;
    let mut chunks = response.bytes_stream();
    let mut lines = Lines::default();
    let mut summary = Summary::default();
    let mut first: Option<Instant> = None;
    while let Some(chunk) = chunks.next().await {
        for data in lines.feed(&chunk?) {
            if data == "[DONE]" {
                continue;
            }
            let value: Value = serde_json::from_str(&data)?;
            if let Some(message) = value["error"]["message"].as_str() {
                return Err(fault(Code::Failure, message));
            }
            let choice = &value["choices"][0];
            let delta = &choice["delta"];
            let thought = delta["reasoning_content"].as_str().map(str::to_owned);
            let text = delta["content"].as_str().map(str::to_owned);
            let pieces = [thought.map(Piece::Thought), text.map(Piece::Text)];
            for piece in pieces.into_iter().flatten() {
                if first.is_none() {
                    first = Some(Instant::now());
                    summary.first_ms = ms(started);
                }
                sink(piece)?;
            }
            summary.is_cut |= choice["finish_reason"] == "length";
            let usage = &value["usage"];
            if let Some(n) = usage["completion_tokens"].as_u64() {
                summary.completion_tokens = n;
                summary.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
                let details = &usage["prompt_tokens_details"];
                summary.cached_tokens = details["cached_tokens"].as_u64().unwrap_or(0);
            }
        }
    }
    summary.decode_ms = first.map_or(0.0, ms);
    Ok(summary)
}

fn on_the_wire(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    json!({ "role": role, "content": message.content })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |n: u64, ms: f64| {
            if ms > 0.0 {
                n as f64 * 1000.0 / ms
            } else {
                0.0
            }
        };
        write!(
            f,
            "({} prompt tokens, {} of them cached; first token after {:.0} ms; {} tokens at \
             {:.1} t/s{})",
            self.prompt_tokens,
            self.cached_tokens,
            self.first_ms,
            self.completion_tokens,
            per_second(self.completion_tokens.saturating_sub(1), self.decode_ms),
            if self.is_cut {
                "; cut at the limit"
            } else {
                ""
            },
        )
    }
}
