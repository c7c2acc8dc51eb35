//! Whether a repository is repaired: two programs that are run where they can do no harm, and
//! what their output says.
//!
//! The tests run in one process with the code that they test, so code that wants to can say that they
//! have passed. The calls of [`Repair::cases`] are judged here: a process that evaluates them
//! does not know what they should give.

use serde_json::{Value, json};

use super::task::{Case, Repair, Task, module};
use crate::quality::Script;

const RUN_TESTS: &str = include_str!("run_tests.py");
const RUN_CASES: &str = include_str!("run_cases.py");
/// Floats that differ by less are the same.
const RELATIVE_ERROR_MAX: f64 = 1e-9;

/// Runs tests in the current folder: those of a repair, or all that are there.
#[must_use]
pub fn tests_program(repair: Option<&Repair>) -> Script {
    let tests = repair.map_or(&[][..], |repair| &repair.tests);
    let modules: Vec<&str> = tests.iter().filter_map(module).collect();
    program(RUN_TESTS, &json!({ "modules": modules }))
}

/// Evaluates the calls of a repair in the current folder.
#[must_use]
pub fn cases_program(task: &Task, repair: &Repair) -> Script {
    let modules: Vec<&str> = task.files.iter().filter_map(module).collect();
    let calls: Vec<&str> = repair.cases.iter().map(|case| case.call.as_str()).collect();
    program(RUN_CASES, &json!({ "modules": modules, "calls": calls }))
}

fn program(text: &str, given: &Value) -> Script {
    // As a literal of Python, whose strings read JSON's escapes alike.
    let given = Value::String(given.to_string());
    Script(text.replace("\"GIVEN\"", &given.to_string()))
}

/// What the output of [`tests_program`] says.
///
/// # Errors
///
/// The reason, in words.
pub fn judge_tests(output: &str) -> Result<(), String> {
    Script::judge(output)
}

/// What the output of [`cases_program`] says.
///
/// # Errors
///
/// The first call that gives something else.
pub fn judge_cases(repair: &Repair, output: &str) -> Result<(), String> {
    for (number, case) in repair.cases.iter().enumerate() {
        let mark = format!("case {number}: ");
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(&mark));
        let got: Option<Value> = line.and_then(|line| serde_json::from_str(line).ok());
        if !got.is_some_and(|got| case.is_met(&got)) {
            return Err(format!("{} is wrong", case.call));
        }
    }
    Ok(())
}

impl Case {
    pub(super) fn is_met(&self, got: &Value) -> bool {
        match (&self.value, &self.raises) {
            (Some(value), _) => got.get("value").is_some_and(|got| is_equal(got, value)),
            (None, Some(raises)) => got["raises"] == raises.as_str(),
            (None, None) => false,
        }
    }
}

/// Numbers by their value, all else to the letter.
fn is_equal(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Number(got), Value::Number(wanted)) => {
            let (got, wanted) = (got.as_f64(), wanted.as_f64());
            got.zip(wanted).is_some_and(|(got, wanted)| {
                (got - wanted).abs() <= RELATIVE_ERROR_MAX * wanted.abs()
            })
        }
        (Value::Array(got), Value::Array(wanted)) => {
            let mut pairs = got.iter().zip(wanted);
            got.len() == wanted.len() && pairs.all(|(got, wanted)| is_equal(got, wanted))
        }
        (got, wanted) => got == wanted,
    }
}
