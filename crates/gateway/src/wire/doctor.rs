//! What is wrong, as JSON: the answer of `GET /api/doctor` and of `sextant doctor --json`.

use doctor::{Finding, Severity};
use serde::Serialize;
use utoipa::ToSchema;

use crate::doctor::Checkup;

/// A checkup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DoctorReport {
    /// By class, in each the more severe first.
    findings: Vec<DoctorFinding>,
    faults: usize,
    warnings: usize,
    notes: usize,
    looked_at: Vec<String>,
    not_looked_at: Vec<DoctorSkipped>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DoctorFinding {
    /// A name that does not change; docs/doctor.md lists them.
    code: &'static str,
    /// `fault`: it does not work; `warning`: worse than it could; `note`: worth knowing.
    severity: &'static str,
    /// `artifact`: the model's files; `configuration`: what was asked for; `runtime`: the
    /// machine as it is now.
    class: &'static str,
    /// What is wrong, with the values found and the limits.
    what: String,
    /// What to do; a command where there is one.
    fix: String,
}

/// What was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DoctorSkipped {
    what: String,
    why: String,
}

impl DoctorReport {
    #[must_use]
    pub fn new(checkup: &Checkup) -> Self {
        let count = |severity: Severity| {
            let findings = checkup.findings.iter();
            findings.filter(|one| one.severity == severity).count()
        };
        let skipped = checkup.not_looked_at.iter();
        Self {
            findings: findings(&checkup.findings),
            faults: count(Severity::Fault),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            looked_at: checkup.looked_at.clone(),
            not_looked_at: skipped
                .map(|(what, why)| DoctorSkipped {
                    what: what.clone(),
                    why: why.clone(),
                })
                .collect(),
        }
    }
}

/// Findings, as everywhere on the wire.
pub(crate) fn findings(all: &[Finding]) -> Vec<DoctorFinding> {
    let findings = all.iter().map(|finding| DoctorFinding {
        code: finding.code,
        severity: finding.severity.name(),
        class: finding.class.name(),
        what: finding.what.clone(),
        fix: finding.fix.clone(),
    });
    findings.collect()
}
