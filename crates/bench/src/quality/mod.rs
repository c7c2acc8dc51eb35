//! Questions whose answers a program can judge, in six dimensions.
//!
//! Each question is a file of data: what is asked, what it weighs and why, how an answer is
//! judged, and answers that are right and wrong, the treacherous ones among them, which are the
//! tests of the judging.
//!
//! Judging is strict. Whoever asks for CSV feeds it to a program, so CSV in a fence is wrong;
//! a number is right in its unit only; an answer that names the right city and another one says
//! nothing. Where reasons may come before the answer, the question asks for a last line that
//! begins with `Answer:`, and only that line counts; an answer without it counts if it is one
//! short line.

mod answer;
mod call;
mod choice;
mod fault;
mod fields;
mod large;
mod number;
mod phrase;
mod python;
mod rules;
mod sentences;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use answer::{Answer, Call};
pub use call::CallCheck;
pub use choice::ChoiceCheck;
pub use fault::{Answered, Came, Fault, Record, suspects};
pub(crate) use fault::{is_intercepted, is_name, of_error};
pub(crate) use fields::obeys;
pub use fields::{CsvCheck, JsonCheck};
pub use large::{ITEMS_MAX, LargeError, PublicSets, large};
pub use number::NumberCheck;
pub use phrase::PhraseCheck;
pub use python::{PythonCheck, Script};
pub use rules::{Rule, RulesCheck};
pub use sentences::SentencesCheck;

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    Reasoning,
    Factual,
    Code,
    Instruction,
    ToolCall,
    Math,
}

impl Dimension {
    pub const ALL: [Self; 6] = [
        Self::Reasoning,
        Self::Factual,
        Self::Code,
        Self::Instruction,
        Self::ToolCall,
        Self::Math,
    ];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reasoning => "reasoning",
            Self::Factual => "factual",
            Self::Code => "code",
            Self::Instruction => "instruction",
            Self::ToolCall => "tool_call",
            Self::Math => "math",
        }
    }
}

/// A question, how its answer is judged, and answers that show it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub id: String,
    pub dimension: Dimension,
    /// What a right answer adds to the weighted quality.
    pub weight: f64,
    /// Why it weighs so much.
    pub why: String,
    pub prompt: String,
    /// Functions that may be called, as requests give them.
    #[serde(default)]
    pub tools: Vec<Value>,
    pub check: Check,
    pub accepted: Vec<Answer>,
    pub rejected: Vec<Answer>,
}

/// What a question counts for.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Weighed {
    pub dimension: Dimension,
    /// What a right answer adds to the weighted quality.
    pub weight: f64,
}

/// How an answer is judged.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    Number(NumberCheck),
    Phrase(PhraseCheck),
    Csv(CsvCheck),
    Json(JsonCheck),
    Sentences(SentencesCheck),
    Call(Box<CallCheck>),
    /// Words, and no call: none of the functions is of use.
    NoCall,
    Python(PythonCheck),
    Choice(ChoiceCheck),
    Rules(RulesCheck),
}

/// What judging says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grade {
    Right,
    /// And why, in a few words.
    Wrong(String),
    /// It is code: this says so once it has run where it can do no harm.
    Run(Script),
}

impl Grade {
    pub(crate) fn wrong(why: impl Into<String>) -> Self {
        Self::Wrong(why.into())
    }

    pub(crate) fn of(judged: Result<(), String>) -> Self {
        match judged {
            Ok(()) => Self::Right,
            Err(why) => Self::Wrong(why),
        }
    }
}

impl Question {
    /// What it counts for.
    #[must_use]
    pub const fn weighed(&self) -> Weighed {
        Weighed {
            dimension: self.dimension,
            weight: self.weight,
        }
    }

    /// Judges an answer. Thoughts are not part of it, wherever a pipeline left them
    /// ([`Answer::has_leaked_thought`] tells of that).
    #[must_use]
    pub fn grade(&self, answer: &Answer) -> Grade {
        if let Check::Call(check) = &self.check {
            return Grade::of(check.judge(answer));
        }
        if !answer.calls.is_empty() {
            return Grade::wrong("it calls a function where text was asked for");
        }
        let text = answer.without_thoughts();
        let text = text.trim();
        if text.is_empty() {
            return Grade::wrong("it is empty");
        }
        match &self.check {
            Check::Number(check) => Grade::of(check.judge(text)),
            Check::Phrase(check) => Grade::of(check.judge(text)),
            Check::Csv(check) => Grade::of(check.judge(text)),
            Check::Json(check) => Grade::of(check.judge(text)),
            Check::Sentences(check) => Grade::of(check.judge(text)),
            Check::Python(check) => check.script(text).map_or_else(Grade::Wrong, Grade::Run),
            Check::Choice(check) => Grade::of(check.judge(text)),
            Check::Rules(check) => Grade::of(check.judge(text)),
            Check::NoCall if self.writes_a_call(text) => {
                Grade::wrong("a call stands in the text where none is of use")
            }
            Check::NoCall => Grade::Right,
            Check::Call(_) => Grade::wrong("it calls nothing"),
        }
    }
}

impl Question {
    /// Whether a text has what a pipeline should have made a call.
    fn writes_a_call(&self, text: &str) -> bool {
        let names = self
            .tools
            .iter()
            .filter_map(|tool| tool["function"]["name"].as_str());
        let mut named = names.filter(|name| text.contains(*name));
        named.next().is_some()
            && (text.contains("\"arguments\"") || text.contains("\"parameters\""))
    }
}

/// What is wrong with a file of questions or tasks.
#[derive(Debug, thiserror::Error)]
#[error("the file of `{name}` cannot be read: {error}")]
pub struct SuiteError {
    pub(crate) name: &'static str,
    pub(crate) error: toml::de::Error,
}

const FILES: [(&str, &str); 14] = [
    (
        "bat_and_ball",
        include_str!("../../data/quality/bat_and_ball.toml"),
    ),
    (
        "syllogism",
        include_str!("../../data/quality/syllogism.toml"),
    ),
    ("machines", include_str!("../../data/quality/machines.toml")),
    ("capital", include_str!("../../data/quality/capital.toml")),
    ("language", include_str!("../../data/quality/language.toml")),
    ("element", include_str!("../../data/quality/element.toml")),
    ("evens", include_str!("../../data/quality/evens.toml")),
    (
        "palindrome",
        include_str!("../../data/quality/palindrome.toml"),
    ),
    ("csv", include_str!("../../data/quality/csv.toml")),
    (
        "sentences",
        include_str!("../../data/quality/sentences.toml"),
    ),
    ("json", include_str!("../../data/quality/json.toml")),
    (
        "web_search",
        include_str!("../../data/quality/web_search.toml"),
    ),
    (
        "calculator",
        include_str!("../../data/quality/calculator.toml"),
    ),
    ("speed", include_str!("../../data/quality/speed.toml")),
];

/// The fourteen questions, in a fixed order.
///
/// # Errors
///
/// Names the file that is not as this module reads it, which a test rules out.
pub fn suite() -> Result<Vec<Question>, SuiteError> {
    let read = |(name, text): (&'static str, &str)| {
        toml::from_str(text).map_err(|error| SuiteError { name, error })
    };
    FILES.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
