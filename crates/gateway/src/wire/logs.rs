//! The log on the wire.

use serde::Serialize;
use supervisor::ENGINE_LOG;
use utoipa::ToSchema;

use crate::logs::{LogLine, Placed};
use crate::wire::doctor::{DoctorFinding, findings};

/// Answer of `GET /api/logs`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LogPage {
    /// The oldest first.
    lines: Vec<LogEntry>,
    /// What to give as `after` for what comes later.
    next: u64,
    /// What lines of the log are known to mean, the latest first; whatever `after` says.
    diagnoses: Vec<LogDiagnosis>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LogEntry {
    /// Counted from 1 since the endpoint was started.
    number: u64,
    /// Milliseconds since 1970.
    at_ms: u64,
    /// `error`, `warn`, `info` or `debug`
    level: &'static str,
    /// The part of the program that says it; `engine` for what an engine says.
    source: String,
    model: Option<String>,
    text: String,
}

/// A line whose meaning is known.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LogDiagnosis {
    /// The last line that says it.
    number: u64,
    at_ms: u64,
    model: Option<String>,
    /// Lines that say it.
    times: u32,
    finding: DoctorFinding,
}

impl LogPage {
    /// Of the lines from place `first` on, and of all for what they mean.
    pub(crate) fn new(all: Vec<Placed>, first: usize, next: u64) -> Self {
        let diagnoses = diagnoses(&all);
        let lines = all.into_iter().skip(first).map(|one| LogEntry {
            number: one.number,
            at_ms: one.at_ms,
            level: one.line.level,
            source: one.line.source,
            model: one.line.model,
            text: one.line.text,
        });
        Self {
            lines: lines.collect(),
            next,
            diagnoses,
        }
    }
}

/// Whether a line may tell of a failure. Engines say many of theirs without a level, or with a
/// harmless one.
fn may_tell(line: &LogLine) -> bool {
    matches!(line.level, "error" | "warn") || line.source == ENGINE_LOG
}

/// The same of the same model is said once.
fn diagnoses(all: &[Placed]) -> Vec<LogDiagnosis> {
    let mut known: Vec<(&'static str, LogDiagnosis)> = Vec::new();
    for one in all.iter().rev().filter(|one| may_tell(&one.line)) {
        for found in doctor::of_failure(&one.line.text) {
            let same = known
                .iter_mut()
                .find(|(code, known)| *code == found.code && known.model == one.line.model);
            if let Some((_, known)) = same {
                known.times += 1;
                continue;
            }
            let diagnosis = LogDiagnosis {
                number: one.number,
                at_ms: one.at_ms,
                model: one.line.model.clone(),
                times: 1,
                finding: findings(std::slice::from_ref(&found)).remove(0),
            };
            known.push((found.code, diagnosis));
        }
    }
    known.into_iter().map(|(_, diagnosis)| diagnosis).collect()
}
