//! Streamed answers: pieces of a body as the dialect writes them, each flushed at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use proto::Event;
use tokio::time::{Instant, timeout_at};

use crate::wire::encode::{Encoder, Prefill};
use crate::wire::fold::{Fold, Part};

/// A piece of this size is sent, whatever else there is.
const PIECE_BYTES: usize = 16 << 10;

/// Events of several jobs, each with the index of its job.
pub(crate) type TaggedEvents = Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>;

/// Everything a streamed answer is made from. Dropping it, which is what happens
/// when the client goes away, cancels the jobs.
pub(crate) struct StreamedAnswer<E> {
    pub(crate) events: TaggedEvents,
    pub(crate) fold: Fold,
    pub(crate) encoder: E,
    /// Silence after which a sign of life is sent; `None`: never.
    pub(crate) keep_alive: Option<Duration>,
    /// The event that was waited for before the headers went out. Without it the
    /// stream begins with a sign of life.
    pub(crate) first: Option<(usize, Event)>,
}

/// The state of a stream between two pieces of its body.
struct Driver<E> {
    answer: StreamedAnswer<E>,
    parts: Vec<Part>,
    greeted: bool,
    prefill: Option<Prefill>,
}

impl<E: Encoder> StreamedAnswer<E> {
    pub(crate) fn into_response(self) -> Response {
        let driver = Driver {
            greeted: self.first.is_some() || self.keep_alive.is_none(),
            answer: self,
            parts: Vec::new(),
            prefill: None,
        };
        let body = stream::unfold(Some(driver), |driver| async move {
            let mut driver = driver?;
            let bytes = driver.next().await?;
            let over = driver.answer.fold.is_over();
            Some((Ok::<_, Infallible>(bytes), (!over).then_some(driver)))
        });
        streamed(Body::from_stream(body), E::STREAM_TYPE)
    }
}

/// A response whose body is sent piece by piece.
pub(crate) fn streamed(body: Body, media_type: &'static str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let fields = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
        // Without this a reverse proxy of the nginx family holds the tokens back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl<E: Encoder> Driver<E> {
    /// The next bytes to send.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(self.sign_of_life());
        }
        // Events that send nothing (prefill progress) do not put a sign of life off.
        let deadline = self.answer.keep_alive.map(|limit| Instant::now() + limit);
        loop {
            let next = match self.answer.first.take() {
                Some(first) => Some(first),
                None => match deadline {
                    None => self.answer.events.next().await,
                    Some(deadline) => match timeout_at(deadline, self.answer.events.next()).await {
                        Ok(next) => next,
                        Err(_) => return Some(self.sign_of_life()),
                    },
                },
            };
            let (job, event) = next?;
            let mut bytes = self.take(job, event);
            self.add_ready(&mut bytes);
            if !bytes.is_empty() {
                return Some(bytes.into());
            }
        }
    }

    /// Adds what is there already: where events come faster than they are sent, several go
    /// in one piece.
    fn add_ready(&mut self, bytes: &mut Vec<u8>) {
        while bytes.len() < PIECE_BYTES && !self.answer.fold.is_over() {
            let Some(Some((job, event))) = self.answer.events.next().now_or_never() else {
                return;
            };
            bytes.append(&mut self.take(job, event));
        }
    }

    fn sign_of_life(&self) -> Bytes {
        self.answer.encoder.keep_alive(self.prefill)
    }

    fn take(&mut self, job: usize, event: Event) -> Vec<u8> {
        self.prefill = match event {
            Event::Prefill { done, total } => Some(Prefill { done, total }),
            _ => None,
        };
        let mut out = Vec::new();
        if let Event::Continued { by } = &event {
            out.extend_from_slice(&self.answer.encoder.continued(by));
        }
        self.answer.fold.step(job, event, &mut self.parts);
        for part in self.parts.drain(..) {
            self.answer.encoder.part(&part, &mut out);
        }
        out
    }
}
