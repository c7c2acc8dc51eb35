//! Server-sent events, taken apart as they come.

use anyhow::bail;
use stdx::Bytes;

/// Most bytes of one event.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// An event; its id is empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    pub(super) id: String,
    pub(super) data: String,
}

/// What is incomplete waits for more.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    line: Vec<u8>,
    event: SseEvent,
}

impl SseParser {
    /// The events that end in this chunk. Fails where one is larger than any of ours.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<SseEvent>> {
        let mut events = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let n_bytes = self.event.data.len() + self.line.len() + piece.len();
            if n_bytes > EVENT_BYTES_MAX {
                let limit = Bytes(EVENT_BYTES_MAX as u64);
                bail!("it sent an event of more than {limit}, the limit");
            }
            self.line.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line_of(line.trim_end_matches(['\n', '\r'])));
        }
        Ok(events)
    }

    fn line_of(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.data.is_empty()).then_some(event);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => value.clone_into(&mut self.event.id),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment, or what we have no use for.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_chunking() {
        let stream =
            ": alive\r\n\r\nid: r.1\r\ndata: {\"a\":\"\u{e9}\"}\r\n\r\nretry: 5\nid: r.2\n\
                      data:one\ndata: two\n\nid: r.3\n\ndata: cut"
                .as_bytes();
        for size in 1..=stream.len() {
            let mut parser = SseParser::default();
            let events: Vec<_> = stream
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk).unwrap())
                .map(|event| (event.id, event.data))
                .collect();
            let want = [
                ("r.1".to_owned(), "{\"a\":\"\u{e9}\"}".to_owned()),
                ("r.2".to_owned(), "one\ntwo".to_owned()),
            ];
            assert_eq!(events, want, "chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut parser = SseParser::default();
        let chunk = vec![b'x'; 1 << 20];
        let n_taken = (0..100).take_while(|_| parser.feed(&chunk).is_ok()).count();
        assert_eq!(n_taken, EVENT_BYTES_MAX >> 20);
        let mut parser = SseParser::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; 1 << 20], b"\n"].concat();
        let n_taken = (0..100).take_while(|_| parser.feed(&line).is_ok()).count();
        assert!(n_taken <= EVENT_BYTES_MAX >> 20, "lines of one event");
    }
}
