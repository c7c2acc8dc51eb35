//! The head of an answer: status, framing, and the few fields that are read. Pure.

use std::time::Duration;

use super::framing::Framing;

/// Bytes of a head that are read.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Fields of a head.
const FIELDS_MAX: usize = 100;

/// What stands above an answer's body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// The body is a stream of events.
    pub(crate) is_stream: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(super) framing: Framing,
    /// Whether the connection may be used again once the body has been read.
    pub(super) keeps_open: bool,
}

/// What the first bytes of an answer are.
#[derive(Debug, PartialEq)]
pub(super) enum Begun {
    /// Not a whole head yet.
    Partial,
    /// A head and its length. `None`: one that announces another.
    Head(usize, Option<Head>),
}

/// Reads a head.
///
/// # Errors
/// Why it is none.
pub(super) fn parse(bytes: &[u8]) -> Result<Begun, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes).map_err(|error| error.to_string())?;
    let length = match parsed {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() < HEAD_BYTES_MAX => return Ok(Begun::Partial),
        httparse::Status::Partial => return Err(format!("a head of over {HEAD_BYTES_MAX} bytes")),
    };
    let status = response.code.unwrap_or_default();
    match status {
        101 => return Err("another protocol (status 101)".to_owned()),
        100..200 => return Ok(Begun::Head(length, None)),
        _ => {}
    }
    let is_newest = response.version == Some(1);
    let head = read(status, is_newest, response.headers)?;
    Ok(Begun::Head(length, Some(head)))
}

fn read(status: u16, is_newest: bool, fields: &[httparse::Header<'_>]) -> Result<Head, String> {
    let mut length = None;
    let mut coding = None;
    let mut keeps_open = is_newest;
    let mut is_stream = false;
    let mut waits = Waits::default();
    for field in fields {
        let value = field.value.trim_ascii();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let told = self::length(value)?;
            if length.is_some_and(|length| length != told) {
                return Err("two lengths of one body".to_owned());
            }
            length = Some(told);
        } else if is("transfer-encoding") {
            coding = Some(last_word(value));
        } else if is("connection") {
            for word in value.split(|byte| *byte == b',') {
                match word.trim_ascii() {
                    word if word.eq_ignore_ascii_case(b"close") => keeps_open = false,
                    // What is older than HTTP/1.1 says so.
                    word if word.eq_ignore_ascii_case(b"keep-alive") => keeps_open = true,
                    _ => {}
                }
            }
        } else if is("content-type") {
            is_stream = self::is_stream(value);
        } else {
            waits.note(field.name, value);
        }
    }
    let framing = match (coding, length) {
        _ if matches!(status, 204 | 304) => Framing::of_length(0),
        (Some(coding), told) => {
            // Two framings at once: one of both is a trick of somebody between us.
            keeps_open &= told.is_none();
            match coding.eq_ignore_ascii_case(b"chunked") {
                true => Framing::chunked(),
                false => Framing::until_close(),
            }
        }
        (None, Some(length)) => Framing::of_length(length),
        (None, None) => Framing::until_close(),
    };
    Ok(Head {
        status,
        is_stream,
        retry_after: waits.shortest(),
        keeps_open: keeps_open && framing != Framing::until_close(),
        framing,
    })
}

fn length(value: &[u8]) -> Result<u64, String> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| "a length that is no number".to_owned())
}

fn last_word(list: &[u8]) -> &[u8] {
    let last = list.rsplit(|byte| *byte == b',').next();
    last.unwrap_or_default().trim_ascii()
}

/// Whether a media type is that of server-sent events.
pub(crate) fn is_stream(media_type: &[u8]) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let start = media_type.get(..EVENTS.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
}

/// `Retry-After` in seconds, or in milliseconds as some write it. Dates are not read: an
/// engine that sends one means hours, and is asked again after the usual pause.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    seconds: Option<f64>,
    milliseconds: Option<f64>,
}

impl Waits {
    /// Looks at a field of the head.
    pub(crate) fn note(&mut self, name: &str, value: &[u8]) {
        let number = || std::str::from_utf8(value).ok()?.trim().parse::<f64>().ok();
        if name.eq_ignore_ascii_case("retry-after") {
            self.seconds = number();
        } else if name.eq_ignore_ascii_case("retry-after-ms") {
            self.milliseconds = number();
        }
    }

    /// The more exact one of both.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        let seconds = self.milliseconds.map(|ms| ms / 1000.0).or(self.seconds)?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> Result<Head, String> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        match parse(text.as_bytes())? {
            Begun::Head(length, Some(head)) if length == text.len() => Ok(head),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn framings_are_told_apart() {
        let cases = [
            ("content-length: 5\r\n", Framing::of_length(5), true),
            (
                "Content-Length: 5\r\nconnection: x, Close\r\n",
                Framing::of_length(5),
                false,
            ),
            ("transfer-encoding: chunked\r\n", Framing::chunked(), true),
            (
                "transfer-encoding: gzip, chunked\r\n",
                Framing::chunked(),
                true,
            ),
            (
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                Framing::chunked(),
                false,
            ),
            ("transfer-encoding: gzip\r\n", Framing::until_close(), false),
            ("connection: keep-alive\r\n", Framing::until_close(), false),
        ];
        for (fields, framing, keeps_open) in cases {
            let head = head(fields).unwrap();
            assert_eq!(
                (head.framing, head.keeps_open),
                (framing, keeps_open),
                "{fields}"
            );
        }
    }

    #[test]
    fn what_is_older_closes_unless_it_says_otherwise() {
        let keeps_open = |fields: &str| {
            let text = format!("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
            match parse(text.as_bytes()) {
                Ok(Begun::Head(_, Some(head))) => head.keeps_open,
                other => panic!("{other:?}"),
            }
        };
        assert!(!keeps_open(""));
        assert!(keeps_open("connection: keep-alive\r\n"));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nconte"), Ok(Begun::Partial));
        assert_eq!(
            parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP"),
            Ok(Begun::Head(25, None))
        );
        let long = [
            b"HTTP/1.1 200 OK\r\na: ".as_slice(),
            &[b'b'; HEAD_BYTES_MAX],
        ]
        .concat();
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "a: b\r\n".repeat(FIELDS_MAX + 1)
        );
        for bytes in [
            b"SSH-2.0-OpenSSH\r\n\r\n".as_slice(),
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            &long,
            many.as_bytes(),
        ] {
            assert!(
                parse(bytes).is_err(),
                "{}",
                String::from_utf8_lossy(&bytes[..20])
            );
        }
    }

    #[test]
    fn waits_are_read_in_seconds_and_milliseconds() {
        let wait = |field: &str| head(&format!("{field}\r\n")).unwrap().retry_after;
        assert_eq!(wait("Retry-After: 30"), Some(Duration::from_secs(30)));
        assert_eq!(
            wait("retry-after: 1\r\nretry-after-ms: 250"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(wait("retry-after: -1"), None);
        assert_eq!(wait("retry-after: Sat, 21 Nov 2026 12:00:00 GMT"), None);
    }

    #[test]
    fn streams_are_known_by_their_media_type() {
        let is_stream = |kind: &str| {
            head(&format!("content-type: {kind}\r\n"))
                .unwrap()
                .is_stream
        };
        assert!(is_stream("text/event-stream; charset=utf-8"));
        assert!(is_stream("Text/Event-Stream"));
        assert!(!is_stream("application/json"));
    }
}
