//! A Python function, which is run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer has this function, and it does right by every case.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonCheck {
    function: String,
    cases: Vec<Case>,
    /// Kinds of nodes of Python's syntax that the function must have, such as `ListComp`.
    #[serde(default)]
    nodes: Vec<String>,
    /// Code that runs ahead of the answer.
    #[serde(default)]
    before: String,
    /// Code that runs after it and has a function `check`, which is called with the answer's.
    #[serde(default)]
    tests: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Case {
    arguments: Vec<Value>,
    expected: Value,
}

/// A program that judges an answer: run with `python3 -I -` and this on its standard input,
/// where it has no network, and little time, memory and room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script(pub String);

/// What the program says at its end, on a line of its own.
const MARK: &str = "judged:";

const PROGRAM: &str = include_str!("judge.py");

impl PythonCheck {
    /// A function that has to pass tests: code that has a function `check`, which is called with
    /// the answer's. The other code runs ahead of the answer.
    pub(super) fn tested(function: String, before: String, tests: String) -> Self {
        Self {
            function,
            before,
            tests,
            ..Self::default()
        }
    }

    pub(super) fn script(&self, text: &str) -> Result<Script, String> {
        let code = code(text)?;
        let given = serde_json::json!({
            "code": code,
            "function": self.function,
            "cases": self.cases,
            "nodes": self.nodes,
            "before": self.before,
            "tests": self.tests,
        });
        // As a literal of Python, whose strings read JSON's escapes alike.
        let given = Value::String(given.to_string());
        Ok(Script(PROGRAM.replace("\"GIVEN\"", &given.to_string())))
    }
}

impl Script {
    /// What the program's output says: why an answer is wrong, where it is.
    ///
    /// # Errors
    ///
    /// The reason, in words.
    pub fn judge(output: &str) -> Result<(), String> {
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(MARK));
        match line.map(str::trim) {
            Some("right") => Ok(()),
            Some(why) => Err(why.to_owned()),
            None => Err("the code ended its own process".into()),
        }
    }
}

/// What is between fences, all of it where there are several, or the whole text.
fn code(text: &str) -> Result<String, String> {
    let mut blocks = Vec::new();
    let mut block: Option<Vec<&str>> = None;
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        match (&mut block, is_fence) {
            (None, true) => block = Some(Vec::new()),
            (Some(lines), true) => {
                blocks.push(lines.join("\n"));
                block = None;
            }
            (Some(lines), false) => lines.push(line),
            (None, false) => {}
        }
    }
    match (blocks.is_empty(), block) {
        (_, Some(_)) => Err("a fence is not closed".into()),
        (true, None) => Ok(text.to_owned()),
        (false, None) => Ok(blocks.join("\n")),
    }
}
