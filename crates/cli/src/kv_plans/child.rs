//! Work on a model in a process of its own: the engine may end its process on an internal error.
//!
//! The process gets a request on standard input and tells, a line each, how far it is, and at the
//! end its report or why there is none.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use process::ProcessEnd;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::output;
use crate::progress::{Unit, bar};

/// Before that nobody knows how long it takes.
const ESTIMATE_AFTER: Duration = Duration::from_secs(3);
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Which work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// By which `sextant worker` does it.
    pub(super) flag: &'static str,
    /// As people are told of it.
    pub(super) doing: &'static str,
    /// What takes less memory.
    pub(super) smaller: &'static str,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<R> {
    Done { done: u32, of: u32 },
    Report(R),
    Failed(String),
}

/// In the process: reads the request, and does the work.
pub(super) fn answer<Q: DeserializeOwned, R: Serialize>(
    work: impl FnOnce(&Q, &mut dyn FnMut(u32, u32)) -> anyhow::Result<R>,
) -> Outcome {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let request: Q = serde_json::from_str(&text)?;
    let tell = |line: &Line<R>| -> Outcome { Ok(output::line(&serde_json::to_string(line)?)?) };
    let report = work(&request, &mut |done, of| {
        // Where nobody listens the end says so.
        let _ = tell(&Line::Done { done, of });
    });
    match report {
        Ok(report) => tell(&Line::Report(report)),
        Err(error) => tell(&Line::Failed(format!("{error:#}"))),
    }
}

/// Has the work done, and shows how far it is.
pub(super) fn ask<Q: Serialize, R: DeserializeOwned>(task: Task, request: &Q) -> anyhow::Result<R> {
    let mut child = Process::new(std::env::current_exe()?)
        .args(["worker", task.flag])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("a worker could not be started")?;
    let report = listen(&mut child, (task, request));
    if report.is_err() {
        // It may be gone by now.
        let _ = child.kill();
    }
    let ended = child.wait()?;
    match report? {
        Some(report) => Ok(report),
        None => bail!(
            "the process that was {} {} before it was done; {} take less memory",
            task.doing,
            ProcessEnd::from(ended),
            task.smaller
        ),
    }
}

/// Its report; `None` where it ends without one.
fn listen<Q: Serialize, R: DeserializeOwned>(
    child: &mut Child,
    (task, request): (Task, &Q),
) -> anyhow::Result<Option<R>> {
    let stdin = child.stdin.take().context("the worker has no input")?;
    serde_json::to_writer(stdin, request)?;
    let stdout = child.stdout.take().context("the worker has no output")?;
    let mut shown = Shown::new(task.doing);
    let mut report = None;
    for line in BufReader::new(stdout).lines() {
        match serde_json::from_str(&line?)? {
            Line::Done { done, of } => shown.at(done, of),
            Line::Report(found) => report = Some(found),
            Line::Failed(message) => return Err(anyhow!(message)),
        }
    }
    Ok(report)
}

/// A bar, or lines where there is no terminal.
struct Shown {
    doing: &'static str,
    started: Instant,
    bar: ProgressBar,
    line: Option<Instant>,
}

impl Shown {
    fn new(doing: &'static str) -> Self {
        let now = Instant::now();
        Self {
            doing,
            started: now,
            bar: bar(doing, Unit::Percent),
            line: (!std::io::stderr().is_terminal()).then_some(now),
        }
    }

    fn at(&mut self, done: u32, of: u32) {
        let percent = u64::from(done) * 100 / u64::from(of.max(1));
        let spent = self.started.elapsed();
        let left = (spent > ESTIMATE_AFTER && done > 0).then(|| left(spent, (done, of)));
        self.bar.set_position(percent);
        if let Some(left) = &left {
            self.bar.set_prefix(format!("{}, {left}", self.doing));
        }
        if let Some(last) = self.line.filter(|last| last.elapsed() >= LINE_EVERY) {
            let left = left.map_or_else(String::new, |left| format!(", {left}"));
            output::say(&format!("{}: {percent} %{left}", self.doing));
            self.line = Some(last + last.elapsed());
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How long the rest takes if it is as what is done.
fn left(spent: Duration, (done, of): (u32, u32)) -> String {
    let rest = f64::from(of.saturating_sub(done)) / f64::from(done.max(1));
    let seconds = spent.as_secs_f64() * rest;
    match seconds {
        ..90.0 => format!("about {seconds:.0} s left"),
        ..5400.0 => format!("about {:.0} min left", seconds / 60.0),
        _ => format!("about {:.1} h left", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_a_unit_of_its_size() {
        let after = |seconds, part| left(Duration::from_secs(seconds), part);
        assert_eq!(after(60, (1, 2)), "about 60 s left");
        assert_eq!(after(60, (1, 6)), "about 5 min left");
        assert_eq!(after(600, (1, 19)), "about 3.0 h left");
        assert_eq!(after(60, (9, 9)), "about 0 s left");
    }
}
