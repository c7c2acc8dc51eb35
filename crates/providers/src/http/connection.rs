//! One connection to an engine.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::READ_BYTES;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
}

/// How much of a request went off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// The answer began before that.
    Partly,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// Whether it is still there, as far as is known without asking.
    pub(super) fn is_open(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        // Its end, and bytes that nobody asked for, are the same to us.
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes a request. Whoever refuses a long one may answer and not read the rest, so what
    /// comes meanwhile goes to `answer` and ends the writing.
    pub(super) async fn send(&mut self, message: &[u8], answer: &mut Vec<u8>) -> io::Result<Sent> {
        let mut rest = message;
        loop {
            let written = poll_fn(|context| {
                let stream = Pin::new(&mut self.stream);
                match stream.poll_write(context, rest) {
                    Poll::Pending => self.stream.poll_read_ready(context).map_ok(|()| None),
                    written => written.map_ok(Some),
                }
            });
            match written.await? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(n_written) => rest = &rest[n_written..],
                None => match self.stream.try_read_buf(answer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => return Ok(Sent::Partly),
                },
            }
            if rest.is_empty() {
                return Ok(Sent::Whole);
            }
        }
    }

    /// Appends what has come, once something has; 0: the other side has ended it.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        if buffer.capacity() == buffer.len() {
            buffer.reserve(READ_BYTES);
        }
        self.stream.read_buf(buffer).await
    }

    #[cfg(test)]
    pub(super) async fn until_readable(&self) {
        self.stream.readable().await.unwrap();
    }
}
