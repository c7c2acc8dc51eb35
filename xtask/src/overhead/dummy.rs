//! The back end of the overhead bench: one thread over epoll that gives every chat
//! request the same answer, so that what is measured is what lies in front of it.
//!
//! `POST /pace/MICROSECONDS` sets the time before each token of the streams that begin
//! after it, the first one among them; 0, as at the start, sends all chunks at once.
//! Each chunk is a write of its own either way.

use super::wire::{self, Request};
use anyhow::{Context, Result};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A request that is larger than this ends its connection.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const CONNECTIONS_MAX: usize = 4096;
const EVENTS_MAX: usize = 1024;
const LISTENER: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);
/// The name of its only model.
pub(super) const MODEL: &str = "dummy-model";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Serves until it is ended. The first line it prints is its address.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let listener = TcpListener::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    println!("{}", listener.local_addr()?);
    let mut engine = Engine::new(listener)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        match engine.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.context("cannot wait for sockets")?,
        }
        for event in &events {
            match event.token() {
                LISTENER => engine.accept()?,
                TIMER => engine.tick()?,
                _ => engine.serve(event),
            }
        }
    }
}

struct Engine {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    answers: Answers,
    timer: OwnedFd,
    /// Chunks to come, by when. All streams have one pace, so they come in order.
    due: VecDeque<Due>,
    pace: Duration,
    counts: Counts,
}

struct Due {
    at: Instant,
    connection: usize,
    /// Which stream of the run this belongs to; a connection may be another's by then.
    stream: u64,
    chunk: usize,
    with_usage: bool,
}

#[derive(Default)]
struct Counts {
    whole: u64,
    streams: u64,
    connections: u64,
}

struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
    /// What the socket did not take.
    output: Vec<u8>,
    /// The stream that runs on it; 0 for none.
    stream: u64,
    closed: bool,
}

impl Engine {
    fn new(mut listener: TcpListener) -> Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let source = timer.as_raw_fd();
        registry.register(&mut SourceFd(&source), TIMER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            answers: Answers::new()?,
            timer,
            due: VecDeque::new(),
            pace: Duration::ZERO,
            counts: Counts::default(),
        })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            };
            let index = match self.free.pop() {
                Some(index) => index,
                None if self.connections.len() < CONNECTIONS_MAX => {
                    self.connections.push(None);
                    self.connections.len() - 1
                }
                // Dropping the socket refuses the connection.
                None => continue,
            };
            socket.set_nodelay(true)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(&mut socket, Token(index), interest)?;
            self.counts.connections += 1;
            self.connections[index] = Some(Connection {
                socket,
                input: Vec::new(),
                output: Vec::new(),
                stream: 0,
                closed: false,
            });
        }
    }

    fn serve(&mut self, event: &Event) {
        let index = event.token().0;
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        if event.is_writable() && !connection.output.is_empty() {
            connection.send(&[]);
        }
        if event.is_readable() {
            connection.receive();
        }
        while !connection.closed && connection.stream == 0 {
            match wire::request(&connection.input) {
                Ok(Some(request)) => {
                    let taken = request.bytes;
                    let asked = Asked::read(&request);
                    self.answer(index, &mut connection, &asked);
                    connection.input.drain(..taken);
                }
                Ok(None) if connection.input.len() <= REQUEST_BYTES_MAX => break,
                Ok(None) | Err(_) => connection.closed = true,
            }
        }
        self.put_back(index, connection);
    }

    fn put_back(&mut self, index: usize, connection: Connection) {
        if connection.closed {
            self.free.push(index);
        } else {
            self.connections[index] = Some(connection);
        }
    }

    fn answer(&mut self, index: usize, connection: &mut Connection, asked: &Asked) {
        match asked {
            Asked::Chat { stream: false, .. } => {
                self.counts.whole += 1;
                connection.send(&self.answers.whole);
            }
            Asked::Chat { usage, .. } => {
                self.counts.streams += 1;
                self.begin(index, connection, *usage);
            }
            Asked::Models => connection.send(&self.answers.models),
            Asked::Health => connection.send(&wire::answer("200 OK", "{\"status\":\"ok\"}")),
            Asked::Stats => {
                let counts = &self.counts;
                let text = format!(
                    "{{\"whole\":{},\"streams\":{},\"connections\":{}}}",
                    counts.whole, counts.streams, counts.connections
                );
                connection.send(&wire::answer("200 OK", &text));
            }
            Asked::Pace(pace) => {
                self.pace = *pace;
                connection.send(&wire::answer("200 OK", "{}"));
            }
            Asked::Unknown => {
                let text = "{\"error\":{\"message\":\"no such path\"}}";
                connection.send(&wire::answer("404 Not Found", text));
            }
        }
    }

    fn begin(&mut self, index: usize, connection: &mut Connection, with_usage: bool) {
        if self.pace.is_zero() {
            for chunk in self.answers.chunks(with_usage) {
                connection.send(chunk);
            }
            return;
        }
        connection.stream = self.counts.streams;
        self.schedule(Due {
            at: Instant::now() + self.pace,
            connection: index,
            stream: connection.stream,
            chunk: 0,
            with_usage,
        });
    }

    fn schedule(&mut self, due: Due) {
        // A stream that fell behind must not hold up those after it.
        let at = self.due.partition_point(|other| other.at <= due.at);
        self.due.insert(at, due);
        if at == 0 {
            self.arm();
        }
    }

    /// Sets the timer for the next chunk.
    fn arm(&self) {
        let Some(next) = self.due.front() else {
            return;
        };
        // Zero would turn the timer off.
        let wait = next.at.saturating_duration_since(Instant::now());
        let wait = wait.max(Duration::from_nanos(1));
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(wait.subsec_nanos()),
            },
        };
        // It fails only on values out of range, and these are in it.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }

    /// Sends every chunk whose time has come.
    fn tick(&mut self) -> Result<()> {
        let mut count = [0; 8];
        match rustix::io::read(&self.timer, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error).context("cannot read the timer"),
        }
        let now = Instant::now();
        while let Some(due) = self.due.pop_front_if(|due| due.at <= now) {
            let slot = self.connections.get_mut(due.connection);
            let Some(mut connection) = slot.and_then(Option::take) else {
                continue;
            };
            let index = due.connection;
            if connection.stream == due.stream {
                self.send_chunk(due, &mut connection);
            }
            self.put_back(index, connection);
        }
        self.arm();
        Ok(())
    }

    fn send_chunk(&mut self, mut due: Due, connection: &mut Connection) {
        let chunks = self.answers.chunks(due.with_usage);
        connection.send(&chunks[due.chunk]);
        due.chunk += 1;
        if due.chunk < wire::TOKENS.len() {
            due.at += self.pace;
            self.schedule(due);
            return;
        }
        // No token, no time: whether usage was asked for must not show.
        for chunk in &chunks[due.chunk..] {
            connection.send(chunk);
        }
        connection.stream = 0;
    }
}

impl Connection {
    fn receive(&mut self) {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(n) => {
                    self.input.extend_from_slice(&buffer[..n]);
                    // A short read has emptied the socket: epoll tells of what comes later.
                    if n == buffer.len() {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.closed = true,
            }
            return;
        }
    }

    /// Sends what waits and then `bytes`; keeps what the socket does not take.
    fn send(&mut self, bytes: &[u8]) {
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            let waiting = std::mem::take(&mut self.output);
            self.write(&waiting);
            return;
        }
        self.write(bytes);
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.output.extend_from_slice(bytes);
                    return;
                }
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

/// What a request is for.
#[derive(Debug, PartialEq)]
enum Asked {
    Chat { stream: bool, usage: bool },
    Models,
    Health,
    Stats,
    Pace(Duration),
    Unknown,
}

impl Asked {
    fn read(request: &Request) -> Self {
        let path = request.path.split('?').next().unwrap_or_default();
        match (request.method, path) {
            ("POST", "/v1/chat/completions" | "/chat/completions") => Self::Chat {
                stream: wire::says_true(request.body, b"\"stream\""),
                usage: wire::says_true(request.body, b"\"include_usage\""),
            },
            ("GET", "/v1/models" | "/models") => Self::Models,
            ("GET", "/health" | "/health_generate") => Self::Health,
            ("GET", "/stats") => Self::Stats,
            ("POST", path) => path
                .strip_prefix("/pace/")
                .and_then(|text| text.parse().ok())
                .map_or(Self::Unknown, |us| Self::Pace(Duration::from_micros(us))),
            _ => Self::Unknown,
        }
    }
}

/// Everything it ever says, ready to be sent.
struct Answers {
    whole: Vec<u8>,
    models: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    chunks_with_usage: Vec<Vec<u8>>,
}

impl Answers {
    fn new() -> Result<Self> {
        let text = format!(
            "{{\"id\":\"chatcmpl-0000000000000001\",\"object\":\"chat.completion\",\
             \"created\":1700000000,\"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\
             \"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}},\
             \"finish_reason\":\"stop\"}}],\"usage\":{USAGE}}}",
            wire::TEXT
        );
        let models = format!(
            "{{\"object\":\"list\",\"data\":[{{\"id\":\"{MODEL}\",\"object\":\"model\",\
             \"created\":1700000000,\"owned_by\":\"bench\"}}]}}"
        );
        Ok(Self {
            whole: wire::answer("200 OK", &text),
            models: wire::answer("200 OK", &models),
            chunks: stream(false)?,
            chunks_with_usage: stream(true)?,
        })
    }

    fn chunks(&self, with_usage: bool) -> &[Vec<u8>] {
        if with_usage {
            &self.chunks_with_usage
        } else {
            &self.chunks
        }
    }
}

const USAGE: &str = "{\"prompt_tokens\":20,\"completion_tokens\":20,\"total_tokens\":40}";

/// The writes of one stream: a chunk with each token, the last one with the reason it
/// ended, usage where it is asked for, and the end. The head goes with the first.
fn stream(with_usage: bool) -> Result<Vec<Vec<u8>>> {
    let event = |choices: &str, usage: &str| {
        format!(
            "{{\"id\":\"chatcmpl-0000000000000001\",\"object\":\"chat.completion.chunk\",\
             \"created\":1700000000,\"model\":\"{MODEL}\",\"choices\":[{choices}]{usage}}}"
        )
    };
    let choice = |delta: &str, reason: &str| {
        format!("{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}")
    };
    let mut events: Vec<String> = wire::TOKENS
        .iter()
        .enumerate()
        .map(|(at, token)| {
            let role = if at == 0 {
                "\"role\":\"assistant\","
            } else {
                ""
            };
            event(
                &choice(&format!("{{{role}\"content\":\"{token}\"}}"), "null"),
                "",
            )
        })
        .collect();
    events.push(event(&choice("{}", "\"stop\""), ""));
    if with_usage {
        events.push(event("", &format!(",\"usage\":{USAGE}")));
    }
    events.push("[DONE]".to_owned());
    let last = events.len() - 1;
    let mut writes = Vec::new();
    for (at, data) in events.iter().enumerate() {
        let mut text = String::new();
        if at == 0 {
            text.push_str(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                 cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
            );
        }
        let data = format!("data: {data}\n\n");
        write!(text, "{:x}\r\n{data}\r\n", data.len())?;
        if at == last {
            text.push_str("0\r\n\r\n");
        }
        writes.push(text.into_bytes());
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str, body: &str) -> Asked {
        let text = format!(
            "{line} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Asked::read(&wire::request(text.as_bytes()).unwrap().unwrap())
    }

    #[test]
    fn requests_are_told_apart() {
        let chat = |stream, usage| Asked::Chat { stream, usage };
        let line = "POST /v1/chat/completions";
        assert_eq!(asked(line, r#"{"stream":false}"#), chat(false, false));
        assert_eq!(
            asked(
                line,
                r#"{"stream_options":{"include_usage": true}, "stream" : true}"#
            ),
            chat(true, true)
        );
        assert_eq!(
            asked("POST /pace/250", ""),
            Asked::Pace(Duration::from_micros(250))
        );
        assert_eq!(asked("POST /pace/x", ""), Asked::Unknown);
        assert_eq!(asked("GET /v1/models?x=1", ""), Asked::Models);
        assert_eq!(asked("DELETE /v1/models", ""), Asked::Unknown);
    }

    #[test]
    fn its_answers_pass_the_check_of_the_client() {
        let answers = Answers::new().unwrap();
        for (stream, bytes) in [
            (false, answers.whole.clone()),
            (true, answers.chunks.concat()),
            (true, answers.chunks_with_usage.concat()),
        ] {
            let mut answer = wire::Answer::new(stream);
            answer.feed(&bytes, Instant::now()).unwrap();
            assert!(answer.is_complete());
        }
        assert_eq!(answers.chunks_with_usage.len(), wire::TOKENS.len() + 3);
    }
}
