//! All findings, for people and for programs.

use std::fmt::Write as _;

use doctor::{Class, Finding, Severity, in_order};
use gateway::Checkup;
use gateway::wire::doctor::DoctorReport;

/// What was found, and where it was looked for.
#[derive(Debug, Default)]
pub(super) struct Report(Checkup);

impl Report {
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.0.findings.extend(findings);
    }

    pub(super) fn look(&mut self, what: &str) {
        self.0.looked_at.push(what.to_owned());
    }

    pub(super) fn skip(&mut self, what: &str, why: &str) {
        self.0.not_looked_at.push((what.to_owned(), why.to_owned()));
    }

    pub(super) fn in_order(mut self) -> Self {
        self.0.findings = in_order(self.0.findings);
        self
    }

    pub(super) fn count(&self, severity: Severity) -> usize {
        let of_severity = |finding: &&Finding| finding.severity == severity;
        self.0.findings.iter().filter(of_severity).count()
    }

    pub(super) fn as_text(&self) -> String {
        let mut text = String::new();
        for class in Class::ALL {
            let of_class: Vec<Finding> = self
                .0
                .findings
                .iter()
                .filter(|finding| finding.class == class)
                .cloned()
                .collect();
            if !of_class.is_empty() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}\n{}\n", title(class), lines(&of_class));
            }
        }
        let _ = writeln!(text, "looked at: {}", self.0.looked_at.join(", "));
        for (what, why) in &self.0.not_looked_at {
            let _ = writeln!(text, "not looked at: {what}; {why}");
        }
        let counts = [Severity::Fault, Severity::Warning, Severity::Note]
            .map(|severity| counted(self.count(severity), severity.name()));
        let _ = writeln!(text, "{}", counts.join(", "));
        text
    }

    /// As `--json` and `GET /api/doctor` have it.
    pub(super) fn as_wire(&self) -> DoctorReport {
        DoctorReport::new(&self.0)
    }

    pub(super) fn into_checkup(self) -> Checkup {
        self.0
    }
}

fn title(class: Class) -> &'static str {
    match class {
        Class::Artifact => "The model's files (artifact)",
        Class::Configuration => "Settings and folders (configuration)",
        Class::Runtime => "The machine as it is (runtime)",
    }
}

/// Two lines a finding, without a line end behind the last.
pub(super) fn lines(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        let severity = finding.severity.name().to_owned();
        let code = finding.code.to_owned();
        line([severity, finding.what.clone(), code, finding.fix.clone()])
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The two lines of a finding: its severity, what is wrong, its code and the fix.
pub(crate) fn line([severity, what, code, fix]: [String; 4]) -> String {
    // Words of other programs may have several lines.
    let (what, fix) = (what.replace('\n', "\n    "), fix.replace('\n', "\n    "));
    format!("  {severity}: {what} [{code}]\n    fix: {fix}")
}

fn counted(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
