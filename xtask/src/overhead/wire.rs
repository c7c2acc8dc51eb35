//! HTTP/1.1 as the overhead bench needs it, from both sides, over bytes alone.
//!
//! The client's side checks every answer for completeness: a gateway that loses or
//! changes something is wrong, not fast.

use anyhow::{Context, Result, bail};
use memchr::memmem;
use std::time::Instant;

/// What the answer consists of. Each is found nowhere else in an answer.
pub(super) const TOKENS: [&str; 20] = [
    "t00 ", "t01 ", "t02 ", "t03 ", "t04 ", "t05 ", "t06 ", "t07 ", "t08 ", "t09 ", "t10 ", "t11 ",
    "t12 ", "t13 ", "t14 ", "t15 ", "t16 ", "t17 ", "t18 ", "t19 ",
];
const TOKEN_BYTES: usize = 4;
const HEADERS_MAX: usize = 64;
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The content of the whole answer: all tokens.
pub(super) const TEXT: &str = "t00 t01 t02 t03 t04 t05 t06 t07 t08 t09 \
                               t10 t11 t12 t13 t14 t15 t16 t17 t18 t19 ";

pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Still in chunks, if it came so.
    pub(super) body: &'a [u8],
    /// Its length in the input, head included.
    pub(super) bytes: usize,
}

/// The first request of `input`; `None` while it is incomplete.
pub(super) fn request(input: &[u8]) -> Result<Option<Request<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(input)? else {
        return Ok(None);
    };
    let (method, path) = parsed.method.zip(parsed.path).context("no request line")?;
    let bytes = match Framing::of(parsed.headers)? {
        Some(Framing::Length(length)) => head + length,
        Some(Framing::Chunks) => match memmem::find(&input[head..], b"0\r\n\r\n") {
            Some(end) => head + end + b"0\r\n\r\n".len(),
            None => return Ok(None),
        },
        None => head,
    };
    Ok(input.get(head..bytes).map(|body| Request {
        method,
        path,
        body,
        bytes,
    }))
}

/// A whole answer with a JSON body.
pub(super) fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "content-type: application/json\r\ncontent-length";
    format!("HTTP/1.1 {status}\r\n{head}: {length}\r\n\r\n{body}").into_bytes()
}

/// Whether `"key": true` stands in a JSON text. Good for the bench's own requests, which
/// have the key at most once and in no string.
pub(super) fn says_true(body: &[u8], key: &[u8]) -> bool {
    let Some(at) = memmem::find(body, key) else {
        return false;
    };
    let mut rest = body[at + key.len()..].trim_ascii_start();
    rest = rest.strip_prefix(b":").unwrap_or_default();
    rest.trim_ascii_start().starts_with(b"true")
}

/// How a body's end is known.
#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunks,
}

impl Framing {
    fn of(headers: &[httparse::Header]) -> Result<Option<Self>> {
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = str::from_utf8(header.value)?;
                return Ok(Some(Self::Length(text.trim().parse()?)));
            }
            if header.name.eq_ignore_ascii_case("transfer-encoding") {
                return Ok(Some(Self::Chunks));
            }
        }
        Ok(None)
    }
}

/// One answer, as far as it has come.
pub(super) struct Answer {
    stream: bool,
    /// Bytes that could not be read yet.
    input: Vec<u8>,
    body: Vec<u8>,
    state: State,
    /// Whether the connection serves no further request.
    pub(super) closes: bool,
    /// When each token came.
    pub(super) arrivals: Vec<Instant>,
    /// Up to where the body has no token that is still looked for.
    searched: usize,
}

enum State {
    Head,
    /// So many bytes are missing.
    Length(usize),
    /// Before the line with a chunk's size.
    Size,
    /// So many bytes of a chunk and its line end are missing.
    Chunk(usize),
    /// Until the connection ends.
    Rest,
    Complete,
}

impl Answer {
    pub(super) fn new(stream: bool) -> Self {
        Self {
            stream,
            input: Vec::new(),
            body: Vec::new(),
            state: State::Head,
            closes: false,
            arrivals: Vec::with_capacity(TOKENS.len()),
            searched: 0,
        }
    }

    /// For the next answer on the same connection.
    pub(super) fn reset(&mut self) {
        self.input.clear();
        self.body.clear();
        self.arrivals.clear();
        self.state = State::Head;
        self.closes = false;
        self.searched = 0;
    }

    /// Whether nothing of it has come.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Head) && self.input.is_empty()
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Takes what was read at `now`; an error says what is wrong with the answer.
    pub(super) fn feed(&mut self, bytes: &[u8], now: Instant) -> Result<()> {
        let mut kept = std::mem::take(&mut self.input);
        let mut rest = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept
        };
        while let Some(taken) = self.step(rest)? {
            rest = &rest[taken..];
        }
        if self.is_complete() && !rest.is_empty() {
            bail!("{} bytes came after the end of the answer", rest.len());
        }
        let rest = rest.to_vec();
        self.input = rest;
        if self.body.len() + self.input.len() > ANSWER_BYTES_MAX {
            bail!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
        }
        if self.stream {
            self.look_for_tokens(now);
        }
        if self.is_complete() {
            self.check()?;
        }
        Ok(())
    }

    /// The connection ended.
    pub(super) fn end(&mut self) -> Result<()> {
        if !matches!(self.state, State::Rest) {
            let n_bytes = self.body.len();
            bail!("the connection ended inside an answer, after {n_bytes} bytes of its body");
        }
        self.state = State::Complete;
        self.closes = true;
        self.check()
    }

    /// Reads the next piece of `rest`; `None` where there is nothing whole to be read.
    fn step(&mut self, rest: &[u8]) -> Result<Option<usize>> {
        match self.state {
            State::Head => self.head(rest),
            State::Complete => Ok(None),
            _ if rest.is_empty() => Ok(None),
            State::Length(missing) => {
                let taken = missing.min(rest.len());
                self.body.extend_from_slice(&rest[..taken]);
                self.state = match missing - taken {
                    0 => State::Complete,
                    missing => State::Length(missing),
                };
                Ok(Some(taken))
            }
            State::Rest => {
                self.body.extend_from_slice(rest);
                Ok(Some(rest.len()))
            }
            State::Size => match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((taken, size))) => {
                    let line_end = 2;
                    if size > 0 {
                        self.state = State::Chunk(usize::try_from(size)? + line_end);
                        return Ok(Some(taken));
                    }
                    // Trailers are not expected: after the last chunk comes an empty line.
                    let Some(end) = rest.get(taken..taken + line_end) else {
                        return Ok(None);
                    };
                    if end != b"\r\n" {
                        bail!("no empty line after the last chunk");
                    }
                    self.state = State::Complete;
                    Ok(Some(taken + line_end))
                }
                Ok(httparse::Status::Partial) => Ok(None),
                Err(_) => bail!("a chunk's size cannot be read"),
            },
            State::Chunk(missing) => {
                let taken = missing.min(rest.len());
                let data = taken.min(missing.saturating_sub(2));
                self.body.extend_from_slice(&rest[..data]);
                self.state = match missing - taken {
                    0 => State::Size,
                    missing => State::Chunk(missing),
                };
                Ok(Some(taken))
            }
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<Option<usize>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(taken) = parsed.parse(rest)? else {
            return Ok(None);
        };
        let status = parsed.code.context("no status")?;
        if status != 200 {
            let body = String::from_utf8_lossy(&rest[taken..]);
            bail!("status {status}: {body}");
        }
        self.closes = parsed.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("connection")
                && header.value.eq_ignore_ascii_case(b"close")
        });
        self.state = match Framing::of(parsed.headers)? {
            Some(Framing::Length(0)) => State::Complete,
            Some(Framing::Length(length)) => State::Length(length),
            Some(Framing::Chunks) => State::Size,
            None => State::Rest,
        };
        Ok(Some(taken))
    }

    fn look_for_tokens(&mut self, now: Instant) {
        while let Some(token) = TOKENS.get(self.arrivals.len()) {
            let Some(at) = memmem::find(&self.body[self.searched..], token.as_bytes()) else {
                // The start of a token may be there already.
                let kept = self.body.len().saturating_sub(TOKEN_BYTES - 1);
                self.searched = self.searched.max(kept);
                return;
            };
            self.searched += at + TOKEN_BYTES;
            self.arrivals.push(now);
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str| -> Result<()> {
            bail!("{what}: {}", String::from_utf8_lossy(&self.body));
        };
        if !self.stream {
            let Some(at) = memmem::find(&self.body, TEXT.as_bytes()) else {
                return wrong("the answer lacks a part of its text");
            };
            return match memmem::find(&self.body[at..], b"\"total_tokens\"") {
                Some(_) => Ok(()),
                None => wrong("the answer has no usage"),
            };
        }
        if self.arrivals.len() != TOKENS.len() {
            return wrong("the stream lacks a part of its text");
        }
        let rest = &self.body[self.searched..];
        if memmem::find(rest, b"\"stop\"").is_none() {
            return wrong("the stream has no finish_reason");
        }
        if !rest.trim_ascii_end().ends_with(b"[DONE]") {
            return wrong("the stream ends without [DONE]");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(tokens: &[&str], tail: &str) -> Vec<u8> {
        let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        let mut events: Vec<String> = tokens.iter().map(|t| format!("data: {t}\n\n")).collect();
        events.push(tail.to_owned());
        for event in events {
            text += &format!("{:X}\r\n{event}\r\n", event.len());
        }
        (text + "0\r\n\r\n").into_bytes()
    }

    const END: &str = "data: {\"finish_reason\":\"stop\"}\n\ndata: [DONE]\n\n";

    #[test]
    fn a_stream_is_read_alike_however_it_is_cut() {
        let bytes = stream_of(&TOKENS, END);
        for size in [1, 2, 3, 7, 64, bytes.len()] {
            let mut answer = Answer::new(true);
            for piece in bytes.chunks(size) {
                answer.feed(piece, Instant::now()).unwrap();
            }
            assert!(answer.is_complete(), "in pieces of {size}");
            assert_eq!(answer.arrivals.len(), TOKENS.len());
        }
    }

    #[test]
    fn the_text_is_the_tokens() {
        assert_eq!(TEXT, TOKENS.concat());
    }

    #[test]
    fn what_is_missing_is_found_out() {
        let fault = |bytes: &[u8]| {
            let mut answer = Answer::new(true);
            let error = answer.feed(bytes, Instant::now()).unwrap_err();
            error.to_string().split(':').next().unwrap().to_owned()
        };
        let lacks = "the stream lacks a part of its text";
        assert_eq!(fault(&stream_of(&TOKENS[..19], END)), lacks);
        assert_eq!(fault(&stream_of(&TOKENS[1..], END)), lacks);
        let cut = stream_of(&TOKENS, "data: {\"finish_reason\":\"stop\"}\n\n");
        assert_eq!(fault(&cut), "the stream ends without [DONE]");
        let refused = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nbusy";
        assert_eq!(fault(refused), "status 429");
    }

    #[test]
    fn an_early_end_is_an_error_and_a_late_one_is_not() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        let body = format!("{}\"total_tokens\"", TEXT);
        let mut answer = Answer::new(false);
        answer
            .feed(format!("{head}{body}").as_bytes(), Instant::now())
            .unwrap();
        answer.end().unwrap();
        assert!(answer.is_complete() && answer.closes);
        let mut answer = Answer::new(false);
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx";
        answer.feed(cut.as_bytes(), Instant::now()).unwrap();
        assert!(answer.end().is_err());
    }
}
