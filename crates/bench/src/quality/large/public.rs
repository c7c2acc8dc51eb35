//! Questions of public sets, from their files.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Draft, LargeError};
use crate::quality::choice::letter;
use crate::quality::{CallCheck, Check, ChoiceCheck, PythonCheck};

/// The lines of a set with their numbers.
fn lines<T: DeserializeOwned>(
    set: &'static str,
    text: &str,
) -> Result<Vec<(usize, T)>, LargeError> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(place, line)| match serde_json::from_str(line) {
            Ok(read) => Ok((place, read)),
            Err(error) => Err(fault(set, place, error.to_string())),
        })
        .collect()
}

fn fault(set: &'static str, place: usize, problem: impl Into<String>) -> LargeError {
    LargeError::Line {
        set,
        line: place + 1,
        problem: problem.into(),
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    passage: String,
    question: String,
    /// A line each, with its letter ahead.
    options: String,
    /// The right line.
    answer: String,
}

pub(super) fn logiqa(text: &str) -> Result<Vec<Draft>, LargeError> {
    choices("LogiQA", "logiqa", text)
}

pub(super) fn openbookqa(text: &str) -> Result<Vec<Draft>, LargeError> {
    choices("OpenBookQA", "openbookqa", text)
}

fn choices(set: &'static str, id: &str, text: &str) -> Result<Vec<Draft>, LargeError> {
    let mut drafts = Vec::new();
    for (place, choice) in lines::<Choice>(set, text)? {
        let options = choice.options.lines().map(str::trim);
        let options: Vec<&str> = options.filter(|line| !line.is_empty()).collect();
        let answer = choice.answer.trim();
        let right = options.iter().position(|option| *option == answer);
        let right = right.ok_or_else(|| fault(set, place, "the answer is none of the options"))?;
        let mut bare = Vec::new();
        for (at, option) in options.iter().enumerate() {
            let option = option.strip_prefix(letter(at));
            let option = option.and_then(|option| option.strip_prefix('.'));
            let option = option.ok_or_else(|| fault(set, place, "an option has another letter"))?;
            bare.push(option.trim().to_owned());
        }
        let question = [
            choice.passage.trim(),
            choice.question.trim(),
            &options.join("\n"),
        ];
        let question: Vec<&str> = question
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let prompt = format!(
            "{}\n\nYou may reason first. End with one line: `Answer: ` and the letter of the right \
             option.",
            question.join("\n\n")
        );
        let check = ChoiceCheck {
            options: bare,
            right,
        };
        // A few lost words when they were translated.
        if check.is_sound() {
            let id = format!("{id}/{place}");
            drafts.push(Draft::new(id, prompt, Check::Choice(check)));
        }
    }
    Ok(drafts)
}

#[derive(Deserialize)]
struct Programming {
    task_id: String,
    prompt: String,
    entry_point: String,
    test: String,
}

pub(super) fn human_eval(text: &str) -> Result<Vec<Draft>, LargeError> {
    let read = |(_, task): (usize, Programming)| {
        let prompt = format!(
            "Complete this function of Python. Reply with the code of the whole function only, with \
             the imports that it needs.\n\n```python\n{}\n```",
            task.prompt.trim_end()
        );
        // The prompt has helpers and imports, and the function without what it does.
        let check = PythonCheck::tested(task.entry_point, task.prompt, task.test);
        let check = Check::Python(check);
        Draft::new(task.task_id.to_lowercase(), prompt, check)
    };
    let tasks = lines("HumanEval", text)?;
    Ok(tasks.into_iter().map(read).collect())
}

#[derive(Deserialize)]
struct Calling {
    id: String,
    /// Turns of messages.
    question: Vec<Vec<Message>>,
    function: Vec<Function>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    description: String,
    parameters: Value,
}

#[derive(Deserialize)]
struct Truth {
    id: String,
    /// The function, and for each argument what is right.
    ground_truth: Vec<Map<String, Value>>,
}

impl Function {
    /// Names with points are no names where requests give them.
    fn name(&self) -> String {
        self.name.replace('.', "_")
    }

    fn as_tool(&self) -> Value {
        json!({ "type": "function", "function": {
            "name": self.name(),
            "description": self.description,
            "parameters": as_schema(&self.parameters),
        }})
    }
}

/// Python's names of types as JSON Schema's.
fn as_schema(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let read = |(key, value): (&String, &Value)| {
                let named = match (key.as_str(), value.as_str()) {
                    ("type", Some("dict")) => Some("object"),
                    ("type", Some("float")) => Some("number"),
                    ("type", Some("tuple")) => Some("array"),
                    // Anything may be there.
                    ("type", Some("any")) => return None,
                    _ => None,
                };
                let value = named.map_or_else(|| as_schema(value), Value::from);
                Some((key.clone(), value))
            };
            Value::Object(map.iter().filter_map(read).collect())
        }
        Value::Array(list) => list.iter().map(as_schema).collect(),
        other => other.clone(),
    }
}

/// One message and the tool for it.
fn call_draft(
    set: &'static str,
    (place, calling): &(usize, Calling),
    check: Check,
) -> Result<Draft, LargeError> {
    let turns: Vec<&[Message]> = calling.question.iter().map(Vec::as_slice).collect();
    let [[message]] = turns.as_slice() else {
        return Err(fault(set, *place, "it has not one message"));
    };
    let id = format!("bfcl/{}", calling.id);
    Ok(Draft {
        tools: calling.function.iter().map(Function::as_tool).collect(),
        ..Draft::new(id, message.content.clone(), check)
    })
}

/// Those whose arguments are plain: values within objects are told in a way of their own there.
pub(super) fn calls(questions: &str, answers: &str) -> Result<Vec<Draft>, LargeError> {
    const SET: &str = "BFCL's simple calls";
    let truths: Vec<(usize, Truth)> = lines("BFCL's answers to simple calls", answers)?;
    let mut drafts = Vec::new();
    for read in lines::<Calling>(SET, questions)? {
        let (place, calling) = &read;
        let truth = truths.iter().find(|(_, truth)| truth.id == calling.id);
        let truth = truth.map(|(_, truth)| truth.ground_truth.as_slice());
        let (Some([truth]), [function]) = (truth, calling.function.as_slice()) else {
            return Err(fault(SET, *place, "it has not one answer and one function"));
        };
        let Some(among) = truth.get(&function.name).and_then(Value::as_object) else {
            return Err(fault(SET, *place, "its answer is of another function"));
        };
        if !among.values().all(is_plain) {
            continue;
        }
        let check = CallCheck::among(function.name(), among.clone());
        drafts.push(call_draft(SET, &read, Check::Call(Box::new(check)))?);
    }
    Ok(drafts)
}

/// A list of values, none of which is an object or has one.
fn is_plain(right: &Value) -> bool {
    let is_deep = |value: &Value| value.is_object() || value.is_array();
    right.as_array().is_some_and(|right| {
        right.iter().all(|value| match value {
            Value::Object(_) => false,
            Value::Array(list) => !list.iter().any(is_deep),
            _ => true,
        })
    })
}

pub(super) fn irrelevant_calls(questions: &str) -> Result<Vec<Draft>, LargeError> {
    const SET: &str = "BFCL's irrelevant calls";
    let read = lines::<Calling>(SET, questions)?;
    read.iter()
        .map(|read| call_draft(SET, read, Check::NoCall))
        .collect()
}
