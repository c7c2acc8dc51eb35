//! Writing to standard output (data) and standard error (talk).

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// A line of data.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Data without a line end, visible at once.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Data as indented JSON.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    line(&format!("{value:#}"))
}

/// A line for the person, kept apart from progress bars. It is lost where
/// standard error is closed, which is as it should be.
pub(crate) fn say(text: &str) {
    crate::progress::above_bars(|| {
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// A piece of talk without a line end; dimmed on a terminal.
pub(crate) fn whisper(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = if stderr.is_terminal() {
        write!(stderr, "\x1b[2m{text}\x1b[0m")
    } else {
        write!(stderr, "{text}")
    };
    let _ = stderr.flush();
}

/// Columns that line up; the last one is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    piece(&columns(head, rows))
}

/// The same as a text, a line each.
pub(crate) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<_> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let n_missing = width - cell.chars().count() + 2;
            line.extend(std::iter::repeat_n(' ', n_missing));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Whether the user asked for JSON.
pub(crate) fn wants_json(matches: &clap::ArgMatches) -> bool {
    matches.get_flag("json")
}
