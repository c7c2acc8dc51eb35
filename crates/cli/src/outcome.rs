//! How a command ends: exit codes and the errors that carry them.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

/// What the exit code says; shown by `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Failure = 1,
    Usage = 2,
    ModelNotFound = 3,
    NoServer = 4,
    Download = 5,
    LoadFailed = 6,
    Faults = 7,
    Interrupted = 130,
}

/// Every exit code with its meaning.
const CODES: &[(u8, &str)] = &[
    (0, "all went well"),
    (
        Code::Failure as u8,
        "something else failed; the message says what",
    ),
    (Code::Usage as u8, "wrong arguments or settings"),
    (
        Code::ModelNotFound as u8,
        "no such model here, or its file is broken",
    ),
    (Code::NoServer as u8, "the server could not be reached"),
    (
        Code::Download as u8,
        "a download failed; run it again to continue it",
    ),
    (Code::LoadFailed as u8, "the model could not be loaded"),
    (Code::Faults as u8, "`doctor` found a fault"),
    (Code::Interrupted as u8, "interrupted"),
];

/// The table of exit codes, for the help.
pub(crate) fn table() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in CODES {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {code:>3}  {meaning}");
    }
    text
}

/// An error with the exit code it ends the program with.
#[derive(Debug)]
pub(crate) struct Fault {
    code: Code,
    error: anyhow::Error,
}

pub(crate) type Outcome<T = ()> = Result<T, Fault>;

impl<E: Into<anyhow::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self {
            code: Code::Failure,
            error: error.into(),
        }
    }
}

impl Fault {
    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// Tells the error, unless writing standard output failed: then nobody reads on.
    pub(crate) fn unless_fatal(self) -> Outcome {
        if self.error.is::<io::Error>() {
            return Err(self);
        }
        crate::output::say(&format!("error: {self}"));
        Ok(())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Gives an error its exit code.
pub(crate) trait WithCode<T> {
    fn code(self, code: Code) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> WithCode<T> for Result<T, E> {
    fn code(self, code: Code) -> Outcome<T> {
        self.map_err(|error| Fault {
            code,
            error: error.into(),
        })
    }
}

/// A fault from a sentence.
pub(crate) fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault {
        code,
        error: anyhow::anyhow!(message.into()),
    }
}

/// Tells the error, if there is one, and gives the exit code.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    let Err(Fault { code, error }) = outcome else {
        return ExitCode::SUCCESS;
    };
    // The reader of a pipe has seen enough; that is no failure.
    if let Some(io) = error.downcast_ref::<io::Error>()
        && io.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    if code != Code::Interrupted {
        crate::output::say(&format!("error: {error:#}"));
    }
    code.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_table_once() {
        let mut codes: Vec<_> = CODES.iter().map(|(code, _)| *code).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 130]);
    }
}
