//! A row of the audit log while it waits to be written.
//!
//! A few hundred wait at a time on a busy server, and another thread frees them. So a row
//! holds nothing of its request, and all its texts lie in one block: requests that come
//! meanwhile find their memory in the cache, and few blocks go from thread to thread. The
//! decision's words are those of all requests that it was made for.

use std::sync::Arc;

use stdx::Cost;
use store::{AuditRow, AuditSource};

use crate::dispatch::Worded;

/// Columns of the log that hold text of the request's own.
const TEXTS_MAX: usize = 10;

/// A row, packed.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) numbers: Numbers,
    pub(super) texts: Texts,
    pub(super) decision: Option<Arc<Worded>>,
}

/// What the log says in numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) at_ms: u64,
    pub(super) attempts: u32,
    pub(super) status: u16,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) ttft_ms: Option<f64>,
    pub(super) duration_ms: f64,
    pub(super) cost: Cost,
}

/// One text after the other, in the order in which they were added.
#[derive(Debug)]
pub(super) struct Texts {
    all: String,
    lengths: [Option<usize>; TEXTS_MAX],
    n_added: usize,
}

impl Texts {
    /// With room for so many bytes.
    pub(super) fn with_capacity(n_bytes: usize) -> Self {
        Self {
            all: String::with_capacity(n_bytes),
            lengths: [None; TEXTS_MAX],
            n_added: 0,
        }
    }

    /// Adds the next one, or that there is none.
    pub(super) fn add(&mut self, text: Option<impl AsRef<str>>) -> &mut Self {
        let text: Option<&str> = text.as_ref().map(AsRef::as_ref);
        self.all.push_str(text.unwrap_or_default());
        if let Some(place) = self.lengths.get_mut(self.n_added) {
            *place = text.map(str::len);
        }
        self.n_added += 1;
        self
    }

    /// The texts as they were added, then none for ever.
    fn each<'a>(&'a self) -> impl FnMut() -> Option<&'a str> {
        let (mut rest, mut lengths) = (self.all.as_str(), self.lengths.iter());
        move || {
            let length = lengths.next().copied().flatten()?;
            let (text, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(text)
        }
    }
}

impl Packed {
    /// Bytes of its texts.
    pub(super) fn n_bytes(&self) -> usize {
        let shared = self
            .decision
            .as_ref()
            .map_or(0, |decision| decision.n_bytes());
        self.texts.all.len() + shared
    }
}

impl AuditSource for Packed {
    /// The texts are those of the log's columns, in their order.
    fn row(&self) -> AuditRow<&str> {
        let Self {
            numbers, decision, ..
        } = self;
        let decision = decision.as_deref();
        let mut next = self.texts.each();
        AuditRow {
            request_id: next().unwrap_or_default(),
            key_id: next(),
            key_name: next(),
            route: next().unwrap_or_default(),
            model: next(),
            decision: decision.map(Worded::json),
            privacy: decision.map(|decision| decision.limit.reach.label()),
            privacy_by: decision.map(Worded::privacy_by),
            served_by: next(),
            trail: next(),
            error: next(),
            prompt: next(),
            answer: next(),
            at_ms: numbers.at_ms,
            attempts: numbers.attempts,
            status: numbers.status,
            prompt_tokens: numbers.prompt_tokens,
            cached_tokens: numbers.cached_tokens,
            completion_tokens: numbers.completion_tokens,
            ttft_ms: numbers.ttft_ms,
            duration_ms: numbers.duration_ms,
            cost: numbers.cost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        let mut texts = Texts::with_capacity(0);
        texts.add(Some("id")).add(None::<&str>).add(Some("name"));
        texts.add(Some("")).add(Some("é"));
        let packed = Packed {
            numbers: Numbers::default(),
            texts,
            decision: None,
        };
        let row = packed.row();
        assert_eq!(row.request_id, "id");
        assert_eq!((row.key_id, row.key_name), (None, Some("name")));
        assert_eq!((row.route, row.model), ("", Some("é")));
        assert_eq!((row.decision, row.answer), (None, None));
    }
}
