//! A row of the audit log while it waits to be written.
//!
//! A few hundred wait at a time on a busy server, and another thread frees them. So a row
//! holds nothing of its request, and all its texts lie in one block: requests that come
//! meanwhile find their memory in the cache, and few blocks go from thread to thread.

use std::fmt::{Display, Write as _};

use stdx::Cost;
use store::AuditRow;

/// Columns of the log that hold text.
const TEXTS_MAX: usize = 13;

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

    pub(super) fn n_bytes(&self) -> usize {
        self.all.len()
    }

    /// Adds the next one, or that there is none.
    pub(super) fn add(&mut self, text: Option<impl Display>) -> &mut Self {
        if let Some(text) = text {
            let start = self.all.len();
            // Writing to a string cannot fail.
            let _ = write!(self.all, "{text}");
            self.note(Some(self.all.len() - start));
        } else {
            self.note(None);
        }
        self
    }

    fn note(&mut self, length: Option<usize>) {
        if let Some(place) = self.lengths.get_mut(self.n_added) {
            *place = length;
        }
        self.n_added += 1;
    }

    /// The texts as they were added, then none for ever.
    fn each(&self) -> impl FnMut() -> Option<String> {
        let (mut rest, mut lengths) = (self.all.as_str(), self.lengths.iter());
        move || {
            let length = lengths.next().copied().flatten()?;
            let (text, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(text.to_owned())
        }
    }
}

/// The row. Its texts are those of the log's columns, in their order.
pub(super) fn unpacked(numbers: &Numbers, texts: &Texts) -> AuditRow {
    let mut next = texts.each();
    AuditRow {
        request_id: next().unwrap_or_default(),
        key_id: next(),
        key_name: next(),
        route: next().unwrap_or_default(),
        model: next(),
        decision: next(),
        privacy: next(),
        privacy_by: next(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        let mut texts = Texts::with_capacity(0);
        texts.add(Some("id")).add(None::<&str>).add(Some("name"));
        texts.add(Some("")).add(Some("é"));
        let row = unpacked(&Numbers::default(), &texts);
        assert_eq!(row.request_id, "id");
        assert_eq!((row.key_id, row.key_name), (None, Some("name".to_owned())));
        assert_eq!(
            (row.route, row.model),
            (String::new(), Some("é".to_owned()))
        );
        assert_eq!((row.decision, row.answer), (None, None));
    }
}
