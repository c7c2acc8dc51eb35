//! The tools of our own agent: what is offered, and what a call asks for.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::Calls;
use crate::quality::Call;

/// Of a text that is written.
const CONTENT_BYTES_MAX: usize = 64 << 10;
/// Of a path.
const PATH_BYTES_MAX: usize = 512;

/// What a call asks for. Paths are relative and lead nowhere else than down; that nothing on the
/// way is a link has to be seen where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    Read {
        path: PathBuf,
    },
    Write {
        path: PathBuf,
        content: String,
    },
    /// The files of a folder, those of its folders as well.
    List {
        path: PathBuf,
    },
    RunTests,
}

/// The tools, as requests offer them.
#[must_use]
pub fn offered() -> Value {
    let text = |what: &str| json!({ "type": "string", "description": what });
    let tool = |name: &str, what: &str, properties: Value, required: Value| {
        json!({ "type": "function", "function": {
            "name": name,
            "description": what,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            },
        } })
    };
    let path = || text("Path of the file, from the current folder");
    json!([
        tool(
            "list_files",
            "Lists the files of a folder, and of the folders in it.",
            json!({ "path": text("Path of the folder; the current one where it is left out") }),
            json!([]),
        ),
        tool(
            "read_file",
            "Gives the text of a file.",
            json!({ "path": path() }),
            json!(["path"]),
        ),
        tool(
            "write_file",
            "Writes a file: its whole text, in place of what it held before.",
            json!({ "path": path(), "content": text("The whole text of the file") }),
            json!(["path", "content"]),
        ),
        tool(
            "run_tests",
            "Runs all tests, and gives what they print.",
            json!({}),
            json!([]),
        ),
    ])
}

/// The schema of a tool's arguments.
pub(super) fn schema<'a>(tools: &'a Value, name: &str) -> Option<&'a Value> {
    let mut tools = tools.as_array()?.iter();
    let tool = tools.find(|tool| tool["function"]["name"] == name)?;
    Some(&tool["function"]["parameters"])
}

/// What a call asks for, and what it was worth.
pub(super) fn asked(call: &Call, tools: &Value) -> (Result<Use, String>, Calls) {
    let schema = schema(tools, &call.name);
    let worth = Calls::of(call, schema);
    let found = match (&call.arguments, schema) {
        (_, None) => Err(format!("there is no tool `{}`", call.name)),
        (Value::Object(_), Some(schema)) => {
            crate::quality::obeys(&call.arguments, schema).and_then(|()| meant(call))
        }
        _ => Err("the arguments are no JSON object".to_owned()),
    };
    // A path that leads out obeys the schema, and is wrong.
    let worth = match (&found, worth.right) {
        (Err(_), 1) => Calls {
            wrong: 1,
            ..Calls::default()
        },
        _ => worth,
    };
    (found, worth)
}

fn meant(call: &Call) -> Result<Use, String> {
    let text = |name: &str| call.arguments[name].as_str().unwrap_or_default();
    Ok(match call.name.as_str() {
        "read_file" => Use::Read {
            path: inside(text("path"))?,
        },
        "write_file" => {
            let content = text("content").to_owned();
            if content.len() > CONTENT_BYTES_MAX {
                return Err(format!(
                    "the content has {} bytes; at most {CONTENT_BYTES_MAX} can be written",
                    content.len()
                ));
            }
            Use::Write {
                path: inside(text("path"))?,
                content,
            }
        }
        "list_files" => Use::List {
            path: inside_or_here(text("path"))?,
        },
        _ => Use::RunTests,
    })
}

/// A path of something in the folder.
fn inside(path: &str) -> Result<PathBuf, String> {
    let clean = inside_or_here(path)?;
    match clean.as_os_str().is_empty() {
        true => Err(format!("`{path}` is no file")),
        false => Ok(clean),
    }
}

/// The same, or the folder itself, which is the empty path.
fn inside_or_here(path: &str) -> Result<PathBuf, String> {
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(format!(
            "a path has at most {PATH_BYTES_MAX} bytes, none of them 0"
        ));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let message = "leads out of the current folder; give one relative to it";
                return Err(format!("`{path}` {message}"));
            }
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: Value) -> Call {
        Call {
            name: name.into(),
            arguments,
        }
    }

    #[test]
    fn calls_are_told_apart_by_what_they_are_worth() {
        let tools = offered();
        let path = |path: &str| json!({ "path": path });
        let (right, wrong, malformed) = ([1, 0, 0], [0, 1, 0], [0, 0, 1]);
        for (call, worth) in [
            (call("read_file", path("a/b.py")), right),
            (call("read_file", path("./b.py")), right),
            (call("list_files", json!({})), right),
            (call("list_files", path(".")), right),
            (call("run_tests", json!({})), right),
            (
                call("write_file", json!({ "path": "a", "content": "" })),
                right,
            ),
            (call("read_file", path("../b.py")), wrong),
            (call("read_file", path("a/../../b.py")), wrong),
            (call("read_file", path("/etc/passwd")), wrong),
            (call("read_file", path(".")), wrong),
            (call("read_file", path("a\0b")), wrong),
            (call("read_file", path(&"a".repeat(600))), wrong),
            (call("read_file", json!({})), wrong),
            (call("read_file", json!({ "path": 7 })), wrong),
            (call("read_file", json!({ "path": "a", "more": 1 })), wrong),
            (call("write_file", path("a")), wrong),
            (
                call(
                    "write_file",
                    json!({ "path": "a", "content": "a".repeat(70_000) }),
                ),
                wrong,
            ),
            (call("shell", json!({ "command": "ls" })), wrong),
            (call("read_file", json!("b.py")), malformed),
            (call("run_tests", json!([])), malformed),
            (call("shell", Value::Null), malformed),
        ] {
            let (found, got) = asked(&call, &tools);
            let shown = format!("{} {}", call.name, call.arguments);
            assert_eq!([got.right, got.wrong, got.malformed], worth, "{shown:.80}");
            assert_eq!(found.is_ok(), worth == right, "{shown:.80}");
        }
    }

    #[test]
    fn paths_are_plain() {
        let tools = offered();
        let read = |path: &str| asked(&call("read_file", json!({ "path": path })), &tools).0;
        let wanted = Use::Read {
            path: "a/b.py".into(),
        };
        for path in ["a/b.py", "./a/b.py", "a//b.py", "a/./b.py"] {
            assert_eq!(read(path).unwrap(), wanted);
        }
    }
}
