//! Child processes: how they end, in words a person can act on, and the last lines they say.

use std::collections::VecDeque;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

/// Most log lines kept of one process, and most bytes over all of them.
const LOG_LINES_MAX: usize = 20;
const LOG_BYTES_MAX: usize = 4 << 10;
/// Longer lines are cut here.
pub const LINE_BYTES_MAX: usize = 1 << 10;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEnd {
    Code(i32),
    Signal(i32),
    /// Anything else, in words that complete "the process ...".
    Other(String),
}

impl From<ExitStatus> for ProcessEnd {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Other(format!("ended with {status}")),
        }
    }
}

/// Completes a sentence that begins with the process.
impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => f.write_str(&signal_in_words(*signal)),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// The name of the signals that end processes, with what they usually mean.
fn signal_in_words(signal: i32) -> String {
    let bus = if cfg!(target_os = "macos") { 10 } else { 7 };
    let (name, meaning) = match signal {
        1 => ("SIGHUP", "its terminal went away"),
        2 => ("SIGINT", "interrupted"),
        3 => ("SIGQUIT", "asked to quit"),
        4 => ("SIGILL", "an instruction this CPU does not have"),
        6 => ("SIGABRT", "an internal check failed"),
        8 => ("SIGFPE", "an arithmetic fault"),
        9 => (
            "SIGKILL",
            "possibly the kernel's out-of-memory killer; see `dmesg`",
        ),
        11 => ("SIGSEGV", "invalid memory access"),
        15 => ("SIGTERM", "asked to end"),
        n if n == bus => ("SIGBUS", "a mapped file or memory went away"),
        n => return format!("was ended by signal {n}"),
    };
    format!("was ended by {name} ({meaning})")
}

/// The last lines of a process' log that may tell why it ended: all but those of level
/// INFO, as our workers mark them. Cheap to clone; clones share the lines.
/// Holds at most 20 lines and 4 KiB; a line is cut at 1 KiB.
#[derive(Debug, Clone, Default)]
pub struct LogTail(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<String>,
    n_bytes: usize,
}

impl LogTail {
    /// Adds a line, unless it is routine, and forgets the oldest ones over the limits.
    pub fn push(&self, line: &str) {
        if line.trim_start().starts_with("INFO ") {
            return;
        }
        let line = &line[..line.floor_char_boundary(LINE_BYTES_MAX)];
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.n_bytes += line.len();
        ring.lines.push_back(line.to_owned());
        while ring.lines.len() > LOG_LINES_MAX || ring.n_bytes > LOG_BYTES_MAX {
            let Some(oldest) = ring.lines.pop_front() else {
                break;
            };
            ring.n_bytes -= oldest.len();
        }
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lines.iter().cloned().collect()
    }
}

/// Cuts a byte stream into lines. A line over [`LINE_BYTES_MAX`] is given once, cut.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Calls `each` for every line that `bytes` completes.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (body, ends) = match piece.split_last() {
                Some((b'\n', body)) => (body, true),
                _ => (piece, false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
            self.partial
                .extend_from_slice(&body[..body.len().min(room)]);
            if ends {
                self.finish(&mut each);
            }
        }
    }

    /// Gives what is left of an unfinished last line.
    pub fn finish(&mut self, mut each: impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.partial);
        let line = line.trim_end();
        if !line.is_empty() {
            each(line);
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_within_its_limits() {
        let tail = LogTail::default();
        for n in 0..100 {
            tail.push(&format!("line {n}"));
            tail.push(" INFO as always");
        }
        let lines = tail.lines();
        assert_eq!(lines.len(), LOG_LINES_MAX);
        assert_eq!(lines.last().map(String::as_str), Some("line 99"));
        for _ in 0..100 {
            tail.push(&"é".repeat(LINE_BYTES_MAX));
        }
        let bytes: usize = tail.lines().iter().map(String::len).sum();
        assert_eq!(bytes, LOG_BYTES_MAX);
    }

    #[test]
    fn lines_survive_any_chunking_and_long_ones_are_cut() {
        let text = format!("one\ntwo\r\n\n{}\nlast", "x".repeat(5000));
        let want = ["one", "two", &"x".repeat(LINE_BYTES_MAX), "last"];
        for chunk in [1, 3, 7, 1000, text.len()] {
            let mut splitter = LineSplitter::default();
            let mut lines = Vec::new();
            for part in text.as_bytes().chunks(chunk) {
                splitter.feed(part, |line| lines.push(line.to_owned()));
            }
            splitter.finish(|line| lines.push(line.to_owned()));
            assert_eq!(lines, want, "chunks of {chunk}");
        }
    }
}
