//! One thing that is wrong.

use std::fmt;

use crate::codes::Code;

/// What is at fault: the file, what was asked for, or the machine as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Artifact,
    Configuration,
    Runtime,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Artifact, Self::Configuration, Self::Runtime];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Configuration => "configuration",
            Self::Runtime => "runtime",
        }
    }
}

/// How bad it is. The greater comes first in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It works, and worse than it could.
    Warning,
    /// It does not work.
    Fault,
}

impl Severity {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A name for programs; it does not change.
    pub code: &'static str,
    pub severity: Severity,
    pub class: Class,
    /// What is wrong, with the values found and the limits. No full stop at its end.
    pub what: String,
    /// What to do; a command where there is one. No full stop at its end.
    pub fix: String,
}

impl Finding {
    /// A finding with the severity and the class of its code.
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>, fix: impl Into<String>) -> Self {
        let row = code.row();
        Self {
            code: row.name,
            severity: row.severity,
            class: row.class,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// From a message that says what is wrong and, behind its last semicolon, what to do.
    /// One that does not say it gets the code's own advice.
    #[must_use]
    pub fn of_message(code: Code, message: &str) -> Self {
        match message.rsplit_once("; ") {
            Some((what, fix)) => Self::new(code, what, fix),
            None => Self::new(code, message, code.row().fix),
        }
    }
}

/// As one sentence.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// By class, in each the more severe first, otherwise as they came; each once.
#[must_use]
pub fn in_order(findings: Vec<Finding>) -> Vec<Finding> {
    let mut once: Vec<Finding> = Vec::with_capacity(findings.len());
    for finding in findings {
        if !once.contains(&finding) {
            once.push(finding);
        }
    }
    once.sort_by_key(|finding| (finding.class, std::cmp::Reverse(finding.severity)));
    once
}
