//! Streamed answers: server-sent events with keep-alive comments.

use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use proto::Event;

use crate::wire::openai::fold::{Fold, Part};
use crate::wire::openai::response::{Encoder, json};
use tokio::time::{Instant, timeout_at};

/// Events of several jobs, each with the index of its job.
pub(crate) type TaggedEvents = Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>;

/// Everything a streamed answer is made from. Dropping it, which is what happens
/// when the client goes away, cancels the jobs.
pub(crate) struct SseAnswer<E> {
    pub(crate) events: TaggedEvents,
    pub(crate) fold: Fold,
    pub(crate) encoder: E,
    /// Silence after which a comment is sent; `None`: never.
    pub(crate) keep_alive: Option<Duration>,
    /// The event that was waited for before the headers went out. Without it the
    /// stream begins with a comment, so that the client sees life.
    pub(crate) first: Option<(usize, Event)>,
}

/// The state of a stream between two pieces of its body.
struct Driver<E> {
    answer: SseAnswer<E>,
    parts: Vec<Part>,
    failed: bool,
    greeted: bool,
    /// Prefill progress, told in the comments.
    prefill: Option<(u32, u32)>,
}

impl<E: Encoder> SseAnswer<E> {
    pub(crate) fn into_response(self) -> Response {
        let driver = Driver {
            greeted: self.first.is_some() || self.keep_alive.is_none(),
            answer: self,
            parts: Vec::new(),
            failed: false,
            prefill: None,
        };
        let body = stream::unfold(Some(driver), |driver| async move {
            let mut driver = driver?;
            let bytes = driver.next().await?;
            let over = driver.answer.fold.is_over();
            Some((
                Ok::<_, std::convert::Infallible>(bytes),
                (!over).then_some(driver),
            ))
        });
        let mut response = Response::new(Body::from_stream(body));
        let headers = response.headers_mut();
        let fields = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
            // Without this a reverse proxy of the nginx family holds the tokens back.
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        for (name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl<E: Encoder> Driver<E> {
    /// The next bytes to send; they are flushed at once.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(self.comment());
        }
        // Events that send nothing (prefill progress) do not put a comment off.
        let deadline = self.answer.keep_alive.map(|limit| Instant::now() + limit);
        loop {
            let next = match self.answer.first.take() {
                Some(first) => Some(first),
                None => match deadline {
                    None => self.answer.events.next().await,
                    Some(deadline) => match timeout_at(deadline, self.answer.events.next()).await {
                        Ok(next) => next,
                        Err(_) => return Some(self.comment()),
                    },
                },
            };
            let (job, event) = next?;
            let bytes = self.take(job, event);
            if !bytes.is_empty() {
                return Some(bytes.into());
            }
        }
    }

    fn comment(&self) -> Bytes {
        match self.prefill {
            Some((done, total)) => format!(": prefill {done}/{total}\n\n").into(),
            None => Bytes::from_static(b": keep-alive\n\n"),
        }
    }

    fn take(&mut self, job: usize, event: Event) -> Vec<u8> {
        self.prefill = match event {
            Event::Prefill { done, total } => Some((done, total)),
            _ => None,
        };
        self.answer.fold.step(job, event, &mut self.parts);
        let mut out = Vec::new();
        for part in self.parts.drain(..) {
            if let Part::Error(error) = &part {
                self.failed = true;
                data(&mut out, &json(&error.body()));
            }
            if let Some(chunk) = self.answer.encoder.chunk(&part) {
                data(&mut out, &chunk);
            }
        }
        // A broken stream must not end like a whole one.
        if self.answer.fold.is_over() && !self.failed {
            data(&mut out, b"[DONE]");
        }
        out
    }
}

fn data(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.extend_from_slice(b"\n\n");
}
