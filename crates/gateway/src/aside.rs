//! Large requests, aside of the lane that they came in by.
//!
//! A lane is one thread for all its connections, so whatever takes long on it holds up the
//! streams of others: to read 16 MiB of JSON, to look through them for what rules forbid, to
//! write them down again for another engine. Requests of that size are handled by a thread of
//! their own until their answer begins; its events are the lane's again.

use std::convert::Infallible;
use std::future::Future;

use axum::extract::Request;
use axum::http::header;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// From here on a body is large. To read less takes a lane about a millisecond.
const LARGE_BYTES_MIN: u64 = 256 << 10;

/// Whether a request is to be handled aside. One that does not say how long it is may be long.
pub(crate) fn is_large(request: &Request) -> bool {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) => length >= LARGE_BYTES_MIN,
        None => headers.contains_key(header::TRANSFER_ENCODING),
    }
}

/// Polls `work` on a thread of its own; `None` where it panicked. Dropping the future drops
/// the work. Sockets and timers stay those of the lane.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let lane = Handle::current();
    let (here, gone) = oneshot::channel::<Infallible>();
    let polled = tokio::task::spawn_blocking(move || {
        lane.block_on(async {
            tokio::select! {
                done = work => Some(done),
                // Nothing is ever sent: whoever waited has left.
                _ = gone => None,
            }
        })
    });
    let done = polled.await;
    drop(here);
    done.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn work_is_done_by_another_thread_and_dropped_with_its_future() {
        let here = std::thread::current().id();
        let there = aside(async { std::thread::current().id() }).await;
        assert!(there.is_some_and(|there| there != here));
        let held = Arc::new(());
        let work = Arc::clone(&held);
        let mut waiting = Box::pin(aside(async move {
            std::future::pending::<()>().await;
            drop(work);
        }));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(waiting);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
        let panicked = aside(async { panic!("scripted") });
        assert_eq!(panicked.await, None::<()>);
    }

    #[test]
    fn what_does_not_say_how_long_it_is_may_be_long() {
        let is_large = |name: &str, value: &str| {
            let request = Request::builder().header(name, value);
            super::is_large(&request.body(axum::body::Body::empty()).unwrap())
        };
        assert!(!is_large("content-length", "262143"));
        assert!(is_large("content-length", "262144"));
        assert!(is_large("transfer-encoding", "chunked"));
        assert!(!is_large("accept", "*/*"));
    }
}
