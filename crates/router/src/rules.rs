//! Rules that look at what a request says.

use regex::RegexSet;

use crate::{Bound, Limit, Reach};

/// A request whose text matches travels no farther than `reach`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// Regular expressions, any of which is enough; or `secrets` or `pii`, which stand for
    /// lists of our own.
    pub patterns: Vec<String>,
    pub reach: Reach,
}

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the privacy rule `{rule}` has the pattern `{pattern}`: {error}")]
pub struct RuleError {
    rule: String,
    pattern: String,
    error: regex::Error,
}

impl RuleError {
    /// The name of the rule that is at fault.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Rules, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<(Limit, RegexSet)>,
}

/// Forms of credentials that are the same everywhere: private keys, tokens whose issuers gave
/// them a prefix so that they can be found, and values of names that say what they are. The
/// prefixes need no boundary before them: in JSON a line feed is a backslash and an `n`.
const SECRETS: [&str; 9] = [
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"AKIA[0-9A-Z]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36}",
    r"github_pat_[A-Za-z0-9_]{22}",
    r"glpat-[A-Za-z0-9_-]{20}",
    r"xox[abprs]-[A-Za-z0-9-]{10}",
    r"sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20}",
    r"AIza[0-9A-Za-z_-]{35}",
    r#"(?i)(?:password|passwd|api[_-]?key|secret(?:[_-]?access)?(?:[_-]?key)?|token)\\?["']?\s*[:=]\s*\\?["']?[^\s"']{8,}"#,
];

/// What names a person: mail addresses, international telephone numbers, IBANs, numbers of
/// payment cards, US social security numbers. Shapes only: a check of digits would let a
/// number with a slip in it out.
const PII: [&str; 5] = [
    r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    r"\+[1-9](?:[ ./()-]{0,2}[0-9]){7,14}",
    r"(?-u:\b)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?(?-u:\b)",
    r"(?-u:\b)[3-6][0-9]{3}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,7}(?-u:\b)",
    r"(?-u:\b)[0-9]{3}-[0-9]{2}-[0-9]{4}(?-u:\b)",
];

impl Rules {
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn new(rules: &[Rule]) -> Result<Self, RuleError> {
        let ready = rules.iter().map(|rule| {
            let patterns = rule.patterns.iter().flat_map(|pattern| expand(pattern));
            // One by one first, since the error of a set does not say which one is wrong.
            for pattern in patterns.clone() {
                regex::Regex::new(pattern).map_err(|error| RuleError {
                    rule: rule.name.clone(),
                    pattern: pattern.to_owned(),
                    error,
                })?;
            }
            let set = RegexSet::new(patterns).map_err(|error| RuleError {
                rule: rule.name.clone(),
                pattern: rule.patterns.join("`, `"),
                error,
            })?;
            let limit = Limit {
                reach: rule.reach,
                bound: Bound::Rule(rule.name.clone()),
            };
            Ok((limit, set))
        });
        Ok(Self {
            rules: ready.collect::<Result<_, _>>()?,
        })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How far the strictest rule lets go what it finds; `None` without rules.
    #[must_use]
    pub fn strictest(&self) -> Option<Reach> {
        self.rules.iter().map(|(limit, _)| limit.reach).min()
    }

    /// The limits of all rules that find something in one of the texts.
    pub fn limits<'a>(&'a self, texts: &'a [&'a str]) -> impl Iterator<Item = Limit> + 'a {
        let matches = |set: &RegexSet| texts.iter().any(|text| set.is_match(text));
        let found = self.rules.iter().filter(move |(_, set)| matches(set));
        found.map(|(limit, _)| limit.clone())
    }
}

fn expand(pattern: &str) -> Vec<&str> {
    match pattern {
        "secrets" => SECRETS.to_vec(),
        "pii" => PII.to_vec(),
        pattern => vec![pattern],
    }
}
