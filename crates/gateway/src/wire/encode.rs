//! How a dialect writes an answer.

use bytes::Bytes;
use serde::Serialize;

use super::fold::{Answer, Part};

/// What identifies an answer; the same in every piece of it.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: Option<String>,
}

/// Prompt tokens read so far, and all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefill {
    pub(crate) done: u32,
    pub(crate) total: u32,
}

/// Writes an answer in one dialect: part by part as it comes, or whole. One encoder writes
/// one answer.
pub(crate) trait Encoder: Send + 'static {
    /// The media type of a stream.
    const STREAM_TYPE: &'static str = "text/event-stream; charset=utf-8";

    /// Appends what a stream has for `part`, framed; nothing where the dialect has no
    /// word for it.
    fn part(&mut self, part: &Part, out: &mut Vec<u8>);

    /// What is sent in silence, so that nobody takes the connection for dead; clients
    /// skip it.
    fn keep_alive(&self, prefill: Option<Prefill>) -> Bytes {
        match prefill {
            Some(Prefill { done, total }) => format!(": prefill {done}/{total}\n\n").into(),
            None => Bytes::from_static(b": keep-alive\n\n"),
        }
    }

    /// Marks the place where another provider (`PROVIDER:MODEL`) goes on; clients skip it,
    /// the report at the end has it as a warning.
    fn continued(&self, by: &str) -> Bytes {
        let by = by.replace(char::is_control, " ");
        format!(": continued by {by}\n\n").into()
    }

    /// The JSON of a whole answer.
    fn whole(&mut self, answer: Answer) -> Vec<u8>;
}

/// Bytes for which there is room from the start; short answers have fewer.
const JSON_BYTES: usize = 1 << 10;

/// JSON bytes of a value of the wire modules; they cannot fail to serialise.
pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(JSON_BYTES);
    let _ = serde_json::to_writer(&mut bytes, value);
    bytes
}

/// Appends a server-sent event without a name.
pub(crate) fn data(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.extend_from_slice(b"\n\n");
}
