//! What callers leave unread, and how much of it they may.

use std::sync::atomic::{AtomicUsize, Ordering};

use proto::{Delta, Event};

/// Events a caller may leave unread before its job is cancelled: several times the
/// longest context, since a token is at most a few events.
const BACKLOG_EVENTS_MAX: usize = 1 << 18;
/// The same in bytes of text. One event may be larger; it then must be the only one.
const BACKLOG_BYTES_MAX: usize = 32 << 20;

/// What is unread in one job's channel.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    n_events: AtomicUsize,
    n_bytes: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BacklogLimits {
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
}

impl Backlog {
    pub(super) fn limits() -> BacklogLimits {
        BacklogLimits {
            events_max: BACKLOG_EVENTS_MAX,
            bytes_max: BACKLOG_BYTES_MAX,
        }
    }

    /// Counts an event in; the text of the limit it is over, if any.
    pub(super) fn add(&self, n_bytes: usize, limits: BacklogLimits) -> Option<String> {
        let events = self.n_events.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.n_bytes.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
        if events > limits.events_max {
            Some(format!(
                "the caller left more than {} events unread",
                limits.events_max
            ))
        } else if bytes > limits.bytes_max && events > 1 {
            Some(format!(
                "the caller left more than {} bytes unread",
                limits.bytes_max
            ))
        } else {
            None
        }
    }

    pub(super) fn remove(&self, n_bytes: usize) {
        self.n_events.fetch_sub(1, Ordering::Relaxed);
        self.n_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
    }
}

/// About how much memory an event holds beyond its fixed size.
pub(super) fn weight_bytes(event: &Event) -> usize {
    match event {
        Event::Delta {
            delta, logprobs, ..
        } => {
            let text = match delta {
                Delta::Text { text }
                | Delta::Reasoning { text }
                | Delta::ToolCallArguments { text, .. } => text.len(),
                Delta::ToolCallStart { id, name, .. } => id.len() + name.len(),
            };
            let entries = logprobs.iter().map(|entry| 1 + entry.top.len());
            text + 64 * entries.sum::<usize>()
        }
        Event::Tokens { tokens, .. } => 4 * tokens.len(),
        Event::Text { text } => text.len(),
        Event::Rendered { prompt, .. } => prompt.len(),
        Event::Embeddings { vectors, .. } => vectors.iter().map(|vector| 4 * vector.len()).sum(),
        _ => 0,
    }
}
