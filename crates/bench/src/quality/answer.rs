//! An answer, and what of it counts.

use serde::Deserialize;
use serde_json::Value;

/// Pairs of marks between which models think, whatever a template calls it.
const THOUGHTS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("[THINK]", "[/THINK]"),
];
/// A line without `Answer:` counts as one up to so many characters.
const LINE_CHARS_MAX: usize = 160;

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub name: String,
    /// What was sent as arguments, parsed. What does not parse is a text.
    pub arguments: Value,
}

/// What came of a question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Sample")]
pub struct Answer {
    pub text: String,
    pub calls: Vec<Call>,
}

/// As files of questions write it: a text, or calls.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sample {
    Text(String),
    Calls(Vec<Call>),
    Whole { text: String, calls: Vec<Call> },
}

impl From<Sample> for Answer {
    fn from(sample: Sample) -> Self {
        let (text, calls) = match sample {
            Sample::Text(text) => (text, Vec::new()),
            Sample::Calls(calls) => (String::new(), calls),
            Sample::Whole { text, calls } => (text, calls),
        };
        Self { text, calls }
    }
}

impl Answer {
    /// Whether marks of a thought are in the text: the pipeline should have taken them out.
    #[must_use]
    pub fn has_leaked_thought(&self) -> bool {
        let marks = THOUGHTS.iter().flat_map(|(open, close)| [open, close]);
        marks.into_iter().any(|mark| self.text.contains(mark))
    }

    /// The text without thoughts. One that never ends takes all that follows with it, and a
    /// close without an open all that came before: a template may have opened it.
    pub(crate) fn without_thoughts(&self) -> String {
        let mut text = self.text.clone();
        for (open, close) in THOUGHTS {
            while let Some(start) = text.find(open) {
                let end = text[start..].find(close);
                let end = end.map_or(text.len(), |at| start + at + close.len());
                text.replace_range(start..end, "");
            }
            if let Some(at) = text.rfind(close) {
                text.replace_range(..at + close.len(), "");
            }
        }
        text
    }
}

/// What stands after the last `Answer:` that begins a line, or the whole where it is one short
/// line. Emphasis is taken off.
pub(super) fn last_line(text: &str) -> Result<String, String> {
    let plain = text.replace(['*', '`', '_'], "");
    let marked = plain.lines().rev().find_map(|line| {
        let line = line.trim().trim_start_matches(['#', '>', '-', ' ']);
        let word = line.get(.."answer".len())?;
        let rest = &line["answer".len()..];
        let rest = rest.trim_start().strip_prefix([':', '=']);
        rest.filter(|_| word.eq_ignore_ascii_case("answer"))
    });
    if let Some(line) = marked {
        return match line.trim() {
            "" => Err("nothing stands after `Answer:`".into()),
            line => Ok(line.to_owned()),
        };
    }
    let mut lines = plain.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(line), None) if line.chars().count() <= LINE_CHARS_MAX => Ok(line.to_owned()),
        _ => Err("no line begins with `Answer:`".into()),
    }
}

/// Words that turn what is said into its opposite, or leave it open.
const DOUBTS: [&str; 14] = [
    "not",
    "never",
    "isn't",
    "wasn't",
    "aren't",
    "doesn't",
    "cannot",
    "can't",
    "wrong",
    "incorrect",
    "false",
    "either",
    "or",
    "unless",
];

/// The words of a text, in small letters, without the marks around them.
pub(super) fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase().replace('\u{2019}', "'");
    let is_mark = |c: char| !c.is_alphanumeric() && c != '\'';
    let words = text.split(is_mark).map(|word| word.trim_matches('\''));
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

pub(super) fn doubt(words: &[String]) -> Option<&str> {
    let mut words = words.iter().map(String::as_str);
    words.find(|word| DOUBTS.contains(word))
}
