//! All findings, for people and for programs.

use std::fmt::Write as _;

use doctor::{Class, Finding, Severity, in_order};
use serde_json::{Value, json};

/// What was found, and where it was looked for.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
    looked_at: Vec<String>,
    /// What was not, and why.
    skipped: Vec<(String, String)>,
}

impl Report {
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    pub(super) fn look(&mut self, what: &str) {
        self.looked_at.push(what.to_owned());
    }

    pub(super) fn skip(&mut self, what: &str, why: &str) {
        self.skipped.push((what.to_owned(), why.to_owned()));
    }

    pub(super) fn in_order(self) -> Self {
        Self {
            findings: in_order(self.findings),
            ..self
        }
    }

    pub(super) fn count(&self, severity: Severity) -> usize {
        let of_severity = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(of_severity).count()
    }

    pub(super) fn as_text(&self) -> String {
        let mut text = String::new();
        for class in Class::ALL {
            let of_class: Vec<Finding> = self
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
        let _ = writeln!(text, "looked at: {}", self.looked_at.join(", "));
        for (what, why) in &self.skipped {
            let _ = writeln!(text, "not looked at: {what}; {why}");
        }
        let counts = [Severity::Fault, Severity::Warning, Severity::Note]
            .map(|severity| counted(self.count(severity), severity.name()));
        let _ = writeln!(text, "{}", counts.join(", "));
        text
    }

    pub(super) fn as_json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "code": finding.code,
                "severity": finding.severity.name(),
                "class": finding.class.name(),
                "what": finding.what,
                "fix": finding.fix,
            })
        });
        let skipped = self.skipped.iter();
        let skipped = skipped.map(|(what, why)| json!({"what": what, "why": why}));
        json!({
            "findings": findings.collect::<Vec<_>>(),
            "faults": self.count(Severity::Fault),
            "warnings": self.count(Severity::Warning),
            "notes": self.count(Severity::Note),
            "looked_at": self.looked_at,
            "not_looked_at": skipped.collect::<Vec<_>>(),
        })
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
        format!(
            "  {}: {} [{}]\n    fix: {}",
            finding.severity.name(),
            // Words of other programs may have several lines.
            finding.what.replace('\n', "\n    "),
            finding.code,
            finding.fix.replace('\n', "\n    ")
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn counted(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
