//! What an agent is asked to do.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::quality::{Answer, CallCheck, SuiteError};

/// What is said of every repository, after what it is.
const REPAIR: &str = "It is in Python, and some of its tests (`test_*.py` in the current folder, \
run with `python3 -m unittest`) fail. Find out why and repair the code, so that it does what its \
docstrings say. Do not change the tests. You are done when all of them pass.";

/// A task, and what shows that it can be judged.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub id: String,
    /// From 1, the easiest, to 4.
    pub level: u8,
    /// What is hard about it, in a few words.
    pub about: String,
    prompt: String,
    /// What is in the folder, tests apart.
    pub files: Vec<File>,
    pub check: Check,
}

/// A file, by its path from the task's folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// What makes a task solved.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    Call(Box<CallTask>),
    Repair(Repair),
}

/// The first answer is one native call with the right arguments. Only our own agent is asked,
/// since the tools are its.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallTask {
    want: CallCheck,
    pub accepted: Vec<Answer>,
    pub rejected: Vec<Answer>,
}

/// The tests pass, and so do calls that the agent has not seen.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repair {
    /// They are put back before judging, whatever became of them.
    pub tests: Vec<File>,
    pub cases: Vec<Case>,
    /// Files as they should be.
    pub solution: Vec<File>,
    /// Files that pass the tests and are wrong all the same.
    pub hollow: Vec<File>,
}

/// A call of a function, and what it gives.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// An expression of Python, with the repository's modules by their names.
    pub call: String,
    pub(super) value: Option<Value>,
    /// The exception that it raises in place of giving a value.
    pub(super) raises: Option<String>,
}

impl Task {
    /// What the agent is told.
    #[must_use]
    pub fn prompt(&self) -> String {
        let prompt = self.prompt.trim();
        match self.check {
            Check::Call(_) => prompt.to_owned(),
            Check::Repair(_) => format!("{prompt} {REPAIR}"),
        }
    }

    /// All files that the agent finds.
    pub fn given(&self) -> impl Iterator<Item = &File> {
        let tests = match &self.check {
            Check::Call(_) => &[][..],
            Check::Repair(repair) => &repair.tests,
        };
        self.files.iter().chain(tests)
    }
}

impl CallTask {
    /// Whether an answer is the call that is wanted.
    ///
    /// # Errors
    ///
    /// Why not, in a few words.
    pub fn judge(&self, answer: &Answer) -> Result<(), String> {
        self.want.judge(answer)
    }
}

/// The module of a file of Python.
pub(super) fn module(file: &File) -> Option<&str> {
    let name = file.path.strip_suffix(".py")?;
    (!name.contains('/')).then_some(name)
}

const FILES: [(&str, &str); 9] = [
    (
        "call_read",
        include_str!("../../data/agents/call_read.toml"),
    ),
    (
        "call_write",
        include_str!("../../data/agents/call_write.toml"),
    ),
    (
        "call_tests",
        include_str!("../../data/agents/call_tests.toml"),
    ),
    ("pages", include_str!("../../data/agents/pages.toml")),
    ("price", include_str!("../../data/agents/price.toml")),
    ("median", include_str!("../../data/agents/median.toml")),
    (
        "durations",
        include_str!("../../data/agents/durations.toml"),
    ),
    ("ledger", include_str!("../../data/agents/ledger.toml")),
    ("calendar", include_str!("../../data/agents/calendar.toml")),
];

/// The tasks, in a fixed order.
///
/// # Errors
///
/// Names the file that is not as this module reads it, which a test rules out.
pub fn suite() -> Result<Vec<Task>, SuiteError> {
    let read = |(name, text)| toml::from_str(text).map_err(|error| SuiteError { name, error });
    FILES.into_iter().map(read).collect()
}

/// The files of the tasks by their names: attempts at one text do not go with those at another.
#[must_use]
pub fn sources() -> BTreeMap<&'static str, &'static str> {
    FILES.into_iter().collect()
}
