//! From the outside: starts a process that confines itself, and ends it in time.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Of what a program says, so much is kept.
const SAID_BYTES_MAX: u64 = 64 << 10;
/// How often it is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Where its programs are; nothing else is in its environment but a home and a locale.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A run of one program.
#[derive(Debug, Clone)]
pub struct Run {
    /// A program that confines itself by [`crate::enter`] when it is given `arguments`.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// What it reads.
    pub input: String,
    /// After so long it is ended.
    pub time_max: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    /// The first 64 KiB of its standard output; what is no UTF-8 is replaced.
    pub output: String,
    /// And of its standard error.
    pub errors: String,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    /// By this signal: going over a limit ends so.
    Signal(i32),
    /// By us, because its time was over.
    Late,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
#[error("a confined program cannot be started: {0}")]
pub struct StartError(#[from] io::Error);

impl Run {
    /// Runs it to its end; blocks for so long.
    ///
    /// # Errors
    ///
    /// Where the process cannot be started or watched. That it could not confine itself is told
    /// by its exit and its standard error.
    pub fn start(&self) -> Result<Outcome, StartError> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/nonexistent")
            .env("LANG", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal of a terminal is for us.
            .process_group(0)
            .spawn()?;
        let started = Instant::now();
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            // One that reads nothing must not hold up whoever writes.
            let writer = scope.spawn(move || {
                let written = input.map(|mut pipe| pipe.write_all(self.input.as_bytes()));
                drop(written);
            });
            let output = scope.spawn(move || output.map(said).unwrap_or_default());
            let errors = scope.spawn(move || errors.map(said).unwrap_or_default());
            let end = wait(&mut child, started, self.time_max)?;
            let _ = writer.join();
            Ok(Outcome {
                end,
                output: output.join().unwrap_or_default(),
                errors: errors.join().unwrap_or_default(),
            })
        })
    }
}

fn wait(child: &mut Child, started: Instant, time_max: Duration) -> io::Result<End> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(end(status));
        }
        if started.elapsed() >= time_max {
            child.kill()?;
            child.wait()?;
            return Ok(End::Late);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}

/// What is said first. The rest is read and dropped, so that nothing waits for it.
fn said(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let read = pipe.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut bytes);
    if read.is_ok() {
        let _ = io::copy(&mut pipe, &mut io::sink());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
