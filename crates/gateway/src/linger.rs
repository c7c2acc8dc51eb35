//! Bodies that nobody reads to their end.
//!
//! A request may be refused before its body has come. Were the connection closed then, the
//! rest of the body would meet a reset, and many clients would see that instead of the
//! answer. So the rest is read and thrown away for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::{Frame, SizeHint};

/// Bytes of a refused body that are read.
const BYTES_MAX: usize = 64 << 20;
/// Time in which they may come.
const TIME_MAX: Duration = Duration::from_secs(5);

/// A request's body that is read to its end, within limits, when it is dropped.
pub(crate) struct Lingering {
    /// Taken on drop.
    body: Option<Body>,
    ended: bool,
}

impl Lingering {
    pub(crate) fn wrap(body: Body) -> Body {
        Body::new(Self {
            ended: body.is_end_stream(),
            body: Some(body),
        })
    }
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(HttpBody::size_hint)
            .unwrap_or_default()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self
            .body
            .take()
            .filter(|body| !self.ended && !body.is_end_stream())
        else {
            return;
        };
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async { tokio::time::timeout(TIME_MAX, discard(body)).await });
        }
    }
}

async fn discard(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut n_bytes = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        n_bytes += chunk.len();
        if n_bytes > BYTES_MAX {
            return;
        }
    }
}
