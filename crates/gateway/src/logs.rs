//! The last lines of the log, the endpoint's own and those of its engines, for somebody who does
//! not sit at its machine. Whoever keeps the log puts them here; older ones make room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chats::now_ms;

/// Lines that are kept.
pub const LOG_LINES_MAX: usize = 4096;
/// Bytes of a line; the rest of it is cut.
pub const LOG_LINE_BYTES_MAX: usize = 2048;

/// The target of lines about requests of the workbench's own. They are not kept here: whoever
/// reads the log in the workbench would write into it, and they would bury everything else.
pub const PAGE_LOG: &str = "gateway::page";

/// A line of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogLine {
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// The part of the program that says it; `engine` for what an engine says.
    pub source: String,
    pub model: Option<String>,
    pub text: String,
}

/// A line with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Counted from 1 since the start of the program.
    pub(crate) number: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) line: LogLine,
}

/// The lines; cheap to clone, and every clone holds the same.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Placed>,
    latest: u64,
}

impl Logs {
    /// Adds a line. It may be called by whoever logs, so it logs nothing itself.
    pub fn push(&self, mut line: LogLine) {
        let end = line.text.floor_char_boundary(LOG_LINE_BYTES_MAX);
        if end < line.text.len() {
            line.text.truncate(end);
            line.text.push_str(" …");
        }
        let mut ring = self.ring();
        if ring.lines.len() >= LOG_LINES_MAX {
            ring.lines.pop_front();
        }
        ring.latest += 1;
        let number = ring.latest;
        ring.lines.push_back(Placed {
            number,
            at_ms: now_ms(),
            line,
        });
    }

    /// The number of the last line; 0 before the first.
    pub(crate) fn latest(&self) -> u64 {
        self.ring().latest
    }

    /// The last `limit` of the lines after that number, the oldest first.
    pub(crate) fn after(&self, number: u64, limit: usize) -> Vec<Placed> {
        let ring = self.ring();
        let news = ring.lines.iter().filter(|one| one.number > number);
        let n_more = news.clone().count().saturating_sub(limit);
        news.skip(n_more).cloned().collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            level: "info",
            text: text.into(),
            ..LogLine::default()
        }
    }

    #[test]
    fn old_lines_make_room_and_long_ones_are_cut() {
        let logs = Logs::default();
        assert_eq!((logs.latest(), logs.after(0, 9).len()), (0, 0));
        for number in 1..=LOG_LINES_MAX + 3 {
            logs.push(line(&number.to_string()));
        }
        let all = logs.after(0, usize::MAX);
        assert_eq!((all.len(), all[0].number), (LOG_LINES_MAX, 4));
        let last = logs.latest();
        let two = logs.after(last - 5, 2);
        let numbers: Vec<_> = two.iter().map(|one| one.number).collect();
        assert_eq!(numbers, [last - 1, last]);
        assert_eq!(logs.after(last, 9), []);
        logs.push(line(&"é".repeat(LOG_LINE_BYTES_MAX)));
        let cut = logs.after(last, 9).remove(0).line.text;
        assert!(cut.len() <= LOG_LINE_BYTES_MAX + 4 && cut.ends_with('…'));
    }
}
