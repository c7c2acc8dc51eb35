//! The client of the overhead bench: one thread over epoll that keeps so many
//! connections busy and times every answer.

use super::wire::Answer;
use anyhow::{Context, Result, bail};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What a cell of the table asks for.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) address: SocketAddr,
    /// A whole HTTP request.
    pub(super) request: Vec<u8>,
    pub(super) stream: bool,
    pub(super) concurrency: usize,
    /// What ends in this time does not count.
    pub(super) warm_up: Duration,
    /// What ends in this time after it counts. Where that is too short for an answer on
    /// each connection it lasts longer, up to half of `patience`.
    pub(super) span: Duration,
    /// For the answers that are still to come then, and for any answer at all.
    pub(super) patience: Duration,
}

/// What was seen, all times in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) totals_ms: Vec<f32>,
    /// Streams: from the request to the first token.
    pub(super) ttfts_ms: Vec<f32>,
    /// Streams: between tokens.
    pub(super) gaps_ms: Vec<f32>,
    /// Answers a second, over the time in which they were counted.
    pub(super) per_s: f64,
    /// All answers, those that do not count among them.
    pub(super) answers: u64,
    /// Connections that had to be made again.
    pub(super) reconnects: u64,
}

/// Runs a load; anything but a whole answer to every request is an error.
pub(super) fn run(load: &Load) -> Result<Seen> {
    let mut client = Client::new(load)?;
    let mut events = Events::with_capacity(1024);
    let deadline = client.counting_ends + load.patience;
    while client.busy > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = load.patience.as_secs();
            bail!(
                "{} answers were not there after {seconds} s more",
                client.busy
            );
        }
        match client.poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.context("cannot wait for sockets")?,
        }
        for event in &events {
            client.serve(event)?;
        }
    }
    if client.seen.totals_ms.is_empty() {
        bail!("no answer came within the measured time");
    }
    let n_answers = client.seen.totals_ms.len() as f64;
    let counted = client.last_counted - client.counting_begins;
    client.seen.per_s = n_answers / counted.as_secs_f64();
    Ok(client.seen)
}

struct Client<'a> {
    load: &'a Load,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connections that wait for an answer.
    busy: usize,
    counting_begins: Instant,
    counting_ends: Instant,
    last_counted: Instant,
    seen: Seen,
    buffer: Vec<u8>,
}

struct Connection {
    socket: TcpStream,
    answer: Answer,
    /// How much of the request has been sent.
    sent: usize,
    begun: Instant,
    idle: bool,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for index in 0..load.concurrency {
            connections.push(Connection {
                socket: connect(&poll, load.address, index)?,
                answer: Answer::new(load.stream),
                sent: 0,
                begun: Instant::now(),
                idle: false,
            });
        }
        let counting_begins = Instant::now() + load.warm_up;
        let mut client = Self {
            load,
            poll,
            connections,
            busy: load.concurrency,
            counting_begins,
            counting_ends: counting_begins + load.span,
            last_counted: counting_begins,
            seen: Seen::default(),
            buffer: vec![0; 64 << 10],
        };
        for index in 0..load.concurrency {
            client.begin(index)?;
        }
        Ok(client)
    }

    fn begin(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.answer.reset();
        connection.sent = 0;
        connection.begun = Instant::now();
        connection.send(&self.load.request)
    }

    fn serve(&mut self, event: &Event) -> Result<()> {
        let index = event.token().0;
        let connection = &mut self.connections[index];
        if connection.idle {
            return Ok(());
        }
        if connection.sent < self.load.request.len() && event.is_writable() {
            connection.send(&self.load.request)?;
        }
        if !event.is_readable() {
            return Ok(());
        }
        loop {
            match connection.socket.read(&mut self.buffer) {
                Ok(0) if connection.sent > 0 && connection.answer.is_untouched() => {
                    // A keep-alive connection may end between two requests.
                    return self.reconnect(index);
                }
                Ok(0) => {
                    connection.answer.end()?;
                    return self.finish(index);
                }
                Ok(n) => {
                    let now = Instant::now();
                    connection.answer.feed(&self.buffer[..n], now)?;
                    if connection.answer.is_complete() {
                        return self.finish(index);
                    }
                    // A short read has emptied the socket: epoll tells of what comes later.
                    if n < self.buffer.len() && !event.is_read_closed() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read an answer"),
            }
        }
    }

    fn finish(&mut self, index: usize) -> Result<()> {
        let now = Instant::now();
        let connection = &self.connections[index];
        self.seen.answers += 1;
        let enough = self.seen.totals_ms.len() >= self.load.concurrency
            || now >= self.counting_ends + self.load.patience / 2;
        let over = now >= self.counting_ends && enough;
        if now >= self.counting_begins && !over {
            self.last_counted = now;
            let arrivals = &connection.answer.arrivals;
            let seen = &mut self.seen;
            seen.totals_ms.push(ms(now - connection.begun));
            if let Some(first) = arrivals.first() {
                seen.ttfts_ms.push(ms(*first - connection.begun));
            }
            let gaps = arrivals.windows(2).map(|pair| ms(pair[1] - pair[0]));
            seen.gaps_ms.extend(gaps);
        }
        if over {
            self.connections[index].idle = true;
            self.busy -= 1;
            return Ok(());
        }
        if connection.answer.closes {
            return self.reconnect(index);
        }
        self.begin(index)
    }

    fn reconnect(&mut self, index: usize) -> Result<()> {
        self.seen.reconnects += 1;
        // Nothing is lost by it, but more than one for each answer is a fault.
        if self.seen.reconnects > self.seen.answers + self.load.concurrency as u64 {
            bail!("connections end without an answer");
        }
        self.connections[index].socket = connect(&self.poll, self.load.address, index)?;
        self.begin(index)
    }
}

impl Connection {
    fn send(&mut self, request: &[u8]) -> Result<()> {
        while self.sent < request.len() {
            match self.socket.write(&request[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot send a request"),
            }
        }
        Ok(())
    }
}

/// Blocks until the connection stands: on loopback it does at once.
fn connect(poll: &Poll, address: SocketAddr, index: usize) -> Result<TcpStream> {
    let socket = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10))
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket);
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry()
        .register(&mut socket, Token(index), interest)?;
    Ok(socket)
}

fn ms(span: Duration) -> f32 {
    span.as_secs_f32() * 1e3
}
