//! Cuts a body into server-sent events.
//!
//! After the WHATWG HTML standard, section "Server-sent events". Of its fields only `data`
//! is kept: no engine says anything in the others that the data does not say too.

/// Bytes of one event. Whole answers in one event stay far below.
pub(crate) const EVENT_BYTES_MAX: usize = 16 << 20;

/// An event that is larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Collects bytes until lines and events are whole.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a carriage return, so a line feed belongs to it.
    after_return: bool,
}

impl Frames {
    /// Takes the next bytes and appends the data of each event they complete.
    pub(crate) fn take(&mut self, bytes: &[u8], events: &mut Vec<Vec<u8>>) -> Result<(), TooLarge> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (part, is_whole) = match end {
                Some(end) => (&rest[..end], true),
                None => (rest, false),
            };
            if self.line.len() + self.data.len() + part.len() > EVENT_BYTES_MAX {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(part);
            rest = &rest[part.len()..];
            if is_whole {
                self.after_return = rest[0] == b'\r';
                rest = &rest[1..];
                self.end_line(events);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Vec<u8>>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                events.push(std::mem::take(&mut self.data));
            }
            return;
        }
        if line.starts_with(b"error:") {
            // Older llama-servers say so that an answer broke off.
            let error = String::from_utf8_lossy(&line["error:".len()..]);
            events.push(format!("{{\"error\":{error}}}").into_bytes());
            return;
        }
        let Some(value) = line.strip_prefix(b"data") else {
            return;
        };
        let value = match value {
            [] => value,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            // Another field whose name begins alike.
            _ => return,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let (mut frames, mut events) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.take(piece, &mut events).unwrap();
        }
        let text = |event: Vec<u8>| String::from_utf8(event).unwrap();
        events.into_iter().map(text).collect()
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let cases: [(&[u8], &[&str]); 8] = [
            (b"data: a\n\ndata: b\n\n", &["a", "b"]),
            (b"data: a\r\n\r\ndata:b\r\rdata:  c\n\n", &["a", "b", " c"]),
            (b": comment\n\n:\n\nevent: x\ndata: a\nid: 1\n\n", &["a"]),
            (b"data: a\ndata: b\n\n", &["a\nb"]),
            (b"data\n\ndata:\n\n", &["", ""]),
            (b"database: a\n\nretry: 3\n\n", &[]),
            (
                b"error: {\"code\":500}\n\n",
                &["{\"error\": {\"code\":500}}"],
            ),
            // An event without its blank line has not been sent yet.
            (b"data: a\n", &[]),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(events(&[bytes]), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut frames = Frames::default();
        let megabyte = vec![b'x'; 1 << 20];
        let mut refused = false;
        for _ in 0..=EVENT_BYTES_MAX >> 20 {
            refused = frames.take(&megabyte, &mut Vec::new()).is_err();
        }
        assert!(refused);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "(data:[ab]{0,3}|:c|\r|\n|\r\n){0,20}", cut in 0_usize..60) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(events(&[bytes]), events(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
