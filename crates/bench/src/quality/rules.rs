//! Rules of form that a program can check, after the manner of IFEval (Zhou and others,
//! *Instruction-Following Evaluation for Large Language Models*, 2023).

use serde::Deserialize;
use serde_json::Value;

use super::answer::words;

/// The answer keeps all of these.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesCheck {
    pub(super) rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    WordsMin(usize),
    WordsMax(usize),
    /// So many lines that begin with `- ` or `* `.
    Bullets(usize),
    /// With an empty line between two of them.
    Paragraphs(usize),
    Lowercase,
    Uppercase,
    NoCommas,
    /// A word, and how often at least.
    Holds(String, usize),
    Lacks(String),
    BeginsWith(String),
    EndsWith(String),
    /// In double quotation marks as a whole.
    Quoted,
    /// A line in double angle brackets.
    Title,
    /// One JSON object of these keys, each with a text.
    JsonKeys(Vec<String>),
    /// So many words in square brackets, at least.
    Slots(usize),
}

impl RulesCheck {
    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        self.rules.iter().try_for_each(|rule| rule.judge(text))
    }
}

impl Rule {
    /// As an answer is asked to keep it.
    #[must_use]
    pub(super) fn asked(&self) -> String {
        match self {
            Self::WordsMin(n) => format!("Write at least {n} words."),
            Self::WordsMax(n) => format!("Write at most {n} words."),
            Self::Bullets(n) => {
                format!("Write exactly {n} bullet points; each is a line that begins with `- `.")
            }
            Self::Paragraphs(n) => {
                format!("Write exactly {n} paragraphs, with an empty line between two of them.")
            }
            Self::Lowercase => "Use small letters only, no capital ones.".to_owned(),
            Self::Uppercase => "Use capital letters only, no small ones.".to_owned(),
            Self::NoCommas => "Use no comma.".to_owned(),
            Self::Holds(word, n) => format!("Use the word `{word}` at least {n} times."),
            Self::Lacks(word) => format!("Do not use the word `{word}`."),
            Self::BeginsWith(text) => format!("Begin with exactly these words: `{text}`"),
            Self::EndsWith(text) => {
                format!("End with exactly these words, and nothing after them: `{text}`")
            }
            Self::Quoted => "Put the whole answer into double quotation marks.".to_owned(),
            Self::Title => {
                "Put a title on a line of its own, in double angle brackets, as in <<a title>>."
                    .to_owned()
            }
            Self::JsonKeys(keys) => format!(
                "Answer with one JSON object and nothing around it. Its keys are {}, each with a text.",
                keys.iter()
                    .map(|key| format!("`{key}`"))
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
            Self::Slots(n) => format!(
                "Use at least {n} placeholders in square brackets, such as [name], for what a \
                 reader fills in."
            ),
        }
    }

    fn judge(&self, text: &str) -> Result<(), String> {
        let unless = |is_kept: bool, why: &str| match is_kept {
            true => Ok(()),
            false => Err(why.to_owned()),
        };
        let count = |got: usize, wanted: usize, what: &str| match got == wanted {
            true => Ok(()),
            false => Err(format!("{what}: {got} in place of {wanted}")),
        };
        let letters = || text.chars().filter(|c| c.is_alphabetic());
        match self {
            Self::WordsMin(n) => {
                let got = words(text).len();
                unless(got >= *n, &format!("{got} words in place of {n}"))
            }
            Self::WordsMax(n) => {
                let got = words(text).len();
                unless(got <= *n, &format!("{got} words in place of {n}"))
            }
            Self::Bullets(n) => {
                let lines = text.lines().map(str::trim_start);
                let bullets = lines.filter(|line| line.starts_with("- ") || line.starts_with("* "));
                count(bullets.count(), *n, "bullet points")
            }
            Self::Paragraphs(n) => count(paragraphs(text), *n, "paragraphs"),
            Self::Lowercase => unless(!letters().any(char::is_uppercase), "it has capital letters"),
            Self::Uppercase => unless(!letters().any(char::is_lowercase), "it has small letters"),
            Self::NoCommas => unless(
                !text.contains([',', '\u{ff0c}', '\u{3001}']),
                "it has a comma",
            ),
            Self::Holds(word, n) => {
                let got = times(text, word);
                unless(got >= *n, &format!("`{word}` {got} times in place of {n}"))
            }
            Self::Lacks(word) => unless(times(text, word) == 0, &format!("it has `{word}`")),
            Self::BeginsWith(start) => unless(text.starts_with(start), "it begins otherwise"),
            Self::EndsWith(end) => unless(text.ends_with(end), "it ends otherwise"),
            Self::Quoted => unless(is_quoted(text), "it is not in quotation marks"),
            Self::Title => unless(text.lines().any(is_title), "it has no title"),
            Self::JsonKeys(keys) => has_keys(text, keys),
            Self::Slots(n) => {
                let got = slots(text);
                unless(got >= *n, &format!("{got} placeholders in place of {n}"))
            }
        }
    }
}

fn times(text: &str, word: &str) -> usize {
    words(text).iter().filter(|got| *got == word).count()
}

fn paragraphs(text: &str) -> usize {
    let mut count = 0;
    let mut is_between = true;
    for line in text.lines() {
        let is_empty = line.trim().is_empty();
        count += usize::from(is_between && !is_empty);
        is_between = is_empty;
    }
    count
}

fn is_quoted(text: &str) -> bool {
    let inner = text.strip_prefix(['"', '\u{201c}']);
    let inner = inner.and_then(|text| text.strip_suffix(['"', '\u{201d}']));
    inner.is_some_and(|text| !text.trim().is_empty())
}

fn is_title(line: &str) -> bool {
    let inner = line.trim().strip_prefix("<<");
    let inner = inner.and_then(|line| line.strip_suffix(">>"));
    inner.is_some_and(|title| !title.trim().is_empty() && !title.contains(['<', '>']))
}

/// Pairs of square brackets with something in them, that are no links.
fn slots(text: &str) -> usize {
    let mut rest = text;
    let mut count = 0;
    while let Some((_, after)) = rest.split_once('[') {
        let Some((slot, beyond)) = after.split_once(']') else {
            break;
        };
        let is_one = !slot.trim().is_empty() && !slot.contains(['[', '\n']);
        count += usize::from(is_one && !beyond.starts_with('('));
        rest = beyond;
    }
    count
}

fn has_keys(text: &str, keys: &[String]) -> Result<(), String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("it is not JSON alone: {error}"))?;
    let Value::Object(got) = value else {
        return Err("it is no object".to_owned());
    };
    if got.len() != keys.len() {
        return Err(format!("{} keys in place of {}", got.len(), keys.len()));
    }
    for key in keys {
        match got.get(key).and_then(Value::as_str).map(str::trim) {
            None => return Err(format!("`{key}` has no text")),
            Some("") => return Err(format!("`{key}` is empty")),
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Rule {
        Rule::JsonKeys(vec!["title".into(), "text".into()])
    }

    #[test]
    fn what_keeps_a_rule_is_right_and_what_does_not_is_wrong() {
        let holds = || Rule::Holds("bread".into(), 2);
        let begins = || Rule::BeginsWith("In short,".into());
        let ends = || Rule::EndsWith("That is all.".into());
        let cases: [(Rule, &[&str], &[&str]); 15] = [
            (
                Rule::WordsMin(3),
                &["one two three", "a b c d"],
                &["one two", "", "- -"],
            ),
            (
                Rule::WordsMax(3),
                &["one two three", "it's fine"],
                &["a b c d"],
            ),
            (
                Rule::Bullets(2),
                &["- a\n- b", "Two:\n* a\n* b", "- a\n  and more\n- b"],
                &["- a", "- a\n- b\n- c", "1. a\n2. b", "-a\n-b"],
            ),
            (
                Rule::Paragraphs(2),
                &["a\n\nb", "a\nb\n\n\nc\n"],
                &["a\nb", "a\n\nb\n\nc", ""],
            ),
            (
                Rule::Lowercase,
                &["all small, 1 2 3.", "straße"],
                &["Not all", "nOt"],
            ),
            (Rule::Uppercase, &["ALL LARGE, 1 2 3."], &["NOT aLL", "not"]),
            (
                Rule::NoCommas,
                &["none at all; none."],
                &["one, two", "一、二"],
            ),
            (
                holds(),
                &["Bread is bread.", "bread BREAD bread"],
                &["bread", "breads bread", "bread-like"],
            ),
            (
                Rule::Lacks("the".into()),
                &["A cat.", "then"],
                &["The cat", "of the cat"],
            ),
            (
                begins(),
                &["In short, no."],
                &["in short, no", "So. In short, no"],
            ),
            (
                ends(),
                &["No. That is all."],
                &["That is all", "That is all. No.", "That is all.\nReally."],
            ),
            (
                Rule::Quoted,
                &["\"all of it\"", "\u{201c}all\u{201d}"],
                &["all", "\"all", "\"\"", "He said \"all\""],
            ),
            (
                Rule::Title,
                &["<<Bread>>\nIt is baked.", "a\n  <<b c>>"],
                &["<Bread>\na", "<<>>\na", "a <<b>>", "Bread"],
            ),
            (
                keys(),
                &[
                    "{\"title\": \"a\", \"text\": \"b\"}",
                    " {\"text\":\"b\",\"title\":\"a\"} ",
                ],
                &[
                    "```json\n{\"title\": \"a\", \"text\": \"b\"}\n```",
                    "{\"title\": \"a\"}",
                    "{\"title\": \"a\", \"text\": \"\"}",
                    "{\"title\": \"a\", \"text\": 1}",
                    "{\"title\": \"a\", \"text\": \"b\", \"more\": \"c\"}",
                    "[]",
                    "title: a",
                ],
            ),
            (
                Rule::Slots(2),
                &["Dear [name], see you on [day]."],
                &["Dear [name].", "[] []", "[a](b) [c](d)", "[a"],
            ),
        ];
        for (rule, kept, broken) in cases {
            for text in kept {
                assert_eq!(rule.judge(text), Ok(()), "{rule:?} {text:?}");
            }
            for text in broken {
                assert!(rule.judge(text).is_err(), "{rule:?} {text:?}");
            }
            assert!(rule.asked().ends_with(['.', '`']), "{rule:?}");
        }
    }
}
