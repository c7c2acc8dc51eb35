//! A client of its own for engines that are near and asked without TLS.
//!
//! An exchange runs where it is awaited: no task beside it, no channel between them, one write
//! and one read for a short answer. A general client costs several times as much for each
//! request, and an engine on this machine answers in less than that.
//!
//! Connections are kept open for later requests, by the thread that opened them. An engine
//! may close one at any time; a request that meets its end is sent once more, on a new one.

mod connection;
mod framing;
mod head;
mod pool;

use std::sync::Arc;
use std::time::Duration;

use framing::Step;
use head::Begun;
use reqwest::Url;
use reqwest::header::HeaderMap;
use thread_local::ThreadLocal;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::near::Near;
use connection::{Connection, Sent};
use pool::Pool;

pub(crate) use head::{Head, Waits, is_stream};

/// Bytes that are read at once.
const READ_BYTES: usize = 8 << 10;
/// The same where reads come back full.
const READ_BYTES_MAX: usize = 64 << 10;

/// Who is asked, and how.
#[derive(Debug)]
pub(crate) struct Client {
    host: String,
    port: u16,
    /// The lines that every request has.
    fields: Vec<u8>,
    connect_timeout: Duration,
    /// `None`: wherever its name leads.
    near: Option<Near>,
    pools: ThreadLocal<Arc<Pool>>,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    /// With its first slash.
    pub(crate) path: &'a str,
    /// Beside those that every request has.
    pub(crate) headers: &'a [(&'static str, String)],
    /// JSON.
    pub(crate) body: &'a [u8],
}

/// Why there is no answer, or no whole one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Error {
    /// There is no connection.
    Unreachable(String),
    /// There was one, and it ended.
    Broken(String),
    /// What came is not HTTP.
    Malformed(String),
}

impl Client {
    /// For an address with `http:`. Nothing of `headers` is shown.
    pub(crate) fn new(
        url: &Url,
        headers: &HeaderMap,
        connect_timeout: Duration,
        near: Option<Near>,
    ) -> Self {
        let host = url.host_str().unwrap_or_default();
        let mut fields = Vec::new();
        field(&mut fields, "host", authority(host, url.port()).as_bytes());
        let agent = concat!("sextant/", env!("CARGO_PKG_VERSION"));
        field(&mut fields, "user-agent", agent.as_bytes());
        field(&mut fields, "accept", b"*/*");
        for (name, value) in headers {
            field(&mut fields, name.as_str(), value.as_bytes());
        }
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            fields,
            connect_timeout,
            near,
            pools: ThreadLocal::new(),
        }
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Answer, Error> {
        let message = self.message(request);
        let pool = self.pools.get_or_default();
        if let Some(known) = pool.take() {
            match exchange(known, &message, pool).await {
                // It was closed meanwhile, before a byte of an answer.
                Err((Error::Broken(_), Heard::Nothing)) => {}
                answer => return answer.map_err(|(error, _)| error),
            }
        }
        let new = self.connect().await?;
        let answer = exchange(new, &message, pool).await;
        answer.map_err(|(error, _)| error)
    }

    /// Closes connections that nobody has used for a while.
    pub(crate) fn close_old(&self) {
        for pool in &self.pools {
            pool.close_old();
        }
    }

    fn message(&self, request: &Request<'_>) -> Vec<u8> {
        let Request {
            method,
            path,
            headers,
            body,
        } = request;
        let mut out = Vec::with_capacity(self.fields.len() + body.len() + 256);
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        out.extend_from_slice(&self.fields);
        for (name, value) in *headers {
            field(&mut out, name, value.as_bytes());
        }
        if !body.is_empty() {
            field(&mut out, "content-type", b"application/json");
            field(
                &mut out,
                "content-length",
                body.len().to_string().as_bytes(),
            );
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        out
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let unreachable = |error: std::io::Error| Error::Unreachable(error.to_string());
        let connecting = async {
            let addresses = match self.near {
                Some(near) => near.addresses(&self.host, self.port).await?,
                None => tokio::net::lookup_host((&*self.host, self.port))
                    .await?
                    .collect(),
            };
            let stream = self.first_open(&addresses).await?;
            stream.set_nodelay(true)?;
            Ok(Connection::new(stream))
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(connection) => connection.map_err(unreachable),
            Err(_) => Err(Error::Unreachable(self.too_slow())),
        }
    }

    /// One address after the other. A silent one leaves time for the rest.
    async fn first_open(&self, addresses: &[std::net::SocketAddr]) -> std::io::Result<TcpStream> {
        let share =
            self.connect_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut failed = std::io::Error::other(format!("`{}` has no address", self.host));
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = std::io::Error::other(self.too_slow()),
            }
        }
        Err(failed)
    }

    fn too_slow(&self) -> String {
        let limit = self.connect_timeout.as_secs_f32();
        format!("no connection within {limit} s")
    }
}

/// A host as the field of that name has it.
fn authority(host: &str, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Adds a line to a head. What would end the line is left out.
fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend(
        value
            .iter()
            .filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)),
    );
    head.extend_from_slice(b"\r\n");
}

/// What came before an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Something,
}

/// Sends a message and reads the head of its answer.
async fn exchange(
    mut connection: Connection,
    message: &[u8],
    pool: &Arc<Pool>,
) -> Result<Answer, (Error, Heard)> {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut done = 0;
    let sent = connection.send(message, &mut buffer).await;
    loop {
        match head::parse(&buffer[done..]) {
            Err(detail) => return Err((Error::Malformed(detail), Heard::Something)),
            Ok(Begun::Head(length, head)) => {
                done += length;
                let Some(head) = head else { continue };
                return Ok(Answer {
                    body: Body {
                        is_kept: head.keeps_open && matches!(sent, Ok(Sent::Whole)),
                        framing: head.framing.clone(),
                        connection: Some(connection),
                        buffer,
                        done,
                        pool: Arc::clone(pool),
                    },
                    head,
                });
            }
            Ok(Begun::Partial) => {}
        }
        let heard = match buffer.is_empty() {
            true => Heard::Nothing,
            false => Heard::Something,
        };
        // An answer may have come although the request could not be sent whole.
        let broken = |error: std::io::Error| (Error::Broken(error.to_string()), heard);
        let n_read = match (connection.read(&mut buffer).await, &sent) {
            (Ok(n_read), _) => n_read,
            (Err(_), Err(error)) => return Err((Error::Broken(error.to_string()), heard)),
            (Err(error), Ok(_)) => return Err(broken(error)),
        };
        if n_read == 0 {
            return Err((closed(), heard));
        }
    }
}

fn closed() -> Error {
    Error::Broken("connection closed before the answer was complete".to_owned())
}

/// An answer whose body has not been read. Dropping it closes the connection, which tells the
/// engine to stop.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Body,
}

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Body {
    /// Given back once the body has ended.
    connection: Option<Connection>,
    is_kept: bool,
    framing: framing::Framing,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been given out.
    done: usize,
    pool: Arc<Pool>,
}

impl Body {
    /// The next bytes, once there are some; `None` after the last.
    ///
    /// # Errors
    /// The connection ended before the body, or sent what belongs to none.
    pub(crate) async fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            let step = self.framing.step(&self.buffer[self.done..]);
            match step.map_err(Error::Malformed)? {
                Step::Data(range) => {
                    let start = self.done + range.start;
                    self.done += range.end;
                    return Ok(Some(&self.buffer[start..self.done]));
                }
                Step::End(done) => {
                    self.done += done;
                    self.give_back();
                    return Ok(None);
                }
                Step::More(done) => self.done += done,
            }
            if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads into the buffer. `false`: the connection has ended, and the body with it.
    async fn read_more(&mut self) -> Result<bool, Error> {
        let was_full = self.buffer.len() == self.buffer.capacity();
        self.buffer.drain(..self.done);
        self.done = 0;
        // Much comes at once: vectors, or a long answer that is not streamed.
        if was_full && self.buffer.capacity() < READ_BYTES_MAX {
            self.buffer.reserve(2 * self.buffer.capacity());
        }
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        let read = connection.read(&mut self.buffer).await;
        match read.map_err(|error| Error::Broken(error.to_string()))? {
            0 if self.framing.ends_with_connection() => {
                self.connection = None;
                Ok(false)
            }
            0 => Err(closed()),
            _ => Ok(true),
        }
    }

    /// Keeps the connection for another request, unless something came that nobody asked for.
    fn give_back(&mut self) {
        let connection = self.connection.take();
        let is_clean = self.is_kept && self.done == self.buffer.len();
        if let Some(connection) = connection.filter(|_| is_clean) {
            self.pool.put(connection);
        }
    }
}

#[cfg(test)]
mod tests;
