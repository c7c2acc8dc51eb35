//! Chat messages, checked and translated.
//!
//! Ollama's clients may leave out the ids of tool calls, and name the function a result
//! belongs to, or nothing at all. Templates want ids, so calls without one get it here, and
//! each result goes to the call it names, else to the first of that function that has no
//! result yet, else to the first of any.

use std::collections::VecDeque;

use proto::{Message, Role, ToolCall};
use serde_json::Value;

use super::plan::images;
use super::request::{OllamaCall, OllamaMessage};
use crate::error::ApiError;
use crate::limits::{self, quoted};
use crate::wire::images::only_of_the_user;

const ROLES: &str = "one of system, developer, user, assistant, tool";

pub(crate) fn messages(given: Vec<OllamaMessage>) -> Result<Vec<Message>, ApiError> {
    limits::count("messages", given.len(), limits::MESSAGES_MAX, "messages")?;
    let mut calls = Calls::default();
    let messages = given.into_iter().enumerate();
    messages
        .map(|(index, given)| message(&format!("messages[{index}]"), given, &mut calls))
        .collect()
}

/// The calls of a conversation so far.
#[derive(Debug, Default)]
struct Calls {
    n_calls: usize,
    /// Id and function of those that have no result yet.
    waiting: VecDeque<(String, String)>,
}

impl Calls {
    fn begin(&mut self, id: Option<String>, name: &str) -> String {
        let id = id.filter(|id| !id.is_empty());
        let id = id.unwrap_or_else(|| format!("call_{}", self.n_calls));
        self.n_calls += 1;
        self.waiting.push_back((id.clone(), name.to_owned()));
        id
    }

    /// The call that a result belongs to.
    fn answer(&mut self, id: Option<String>, name: Option<&str>) -> Option<String> {
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            self.waiting.retain(|(waiting, _)| *waiting != id);
            return Some(id);
        }
        let of_function = |(_, function): &(String, String)| Some(function.as_str()) == name;
        let place = self.waiting.iter().position(of_function).unwrap_or(0);
        self.waiting.remove(place).map(|(id, _)| id)
    }
}

fn message(path: &str, given: OllamaMessage, calls: &mut Calls) -> Result<Message, ApiError> {
    let role = role(path, given.role.as_deref())?;
    let param = format!("{path}.images");
    let images = images(&param, given.images)?;
    if !images.is_empty() && role != Role::User {
        return Err(only_of_the_user(&param));
    }
    let tool_calls = tool_calls(path, given.tool_calls.unwrap_or_default(), calls)?;
    if !tool_calls.is_empty() && role != Role::Assistant {
        let rule = "left out unless the role is assistant";
        let param = format!("{path}.tool_calls");
        return Err(ApiError::invalid(&param, "given", rule));
    }
    if given.content.is_none() && role != Role::Assistant {
        return Err(ApiError::missing(&format!("{path}.content"), "a string"));
    }
    let name = given.tool_name.filter(|name| !name.is_empty());
    let tool_call_id = match role {
        Role::Tool => calls.answer(given.tool_call_id, name.as_deref()),
        _ => None,
    };
    Ok(Message {
        role,
        // Beside calls an empty text is Ollama's way to say that there is none.
        content: given
            .content
            .filter(|text| !text.is_empty() || tool_calls.is_empty()),
        images,
        reasoning_content: given.thinking.filter(|text| !text.is_empty()),
        tool_calls,
        tool_call_id,
        name,
    })
}

fn role(path: &str, given: Option<&str>) -> Result<Role, ApiError> {
    let param = format!("{path}.role");
    match given {
        Some("system") => Ok(Role::System),
        Some("developer") => Ok(Role::Developer),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        Some(other) => Err(ApiError::invalid(&param, &quoted(other), ROLES)),
        None => Err(ApiError::missing(&param, ROLES)),
    }
}

fn tool_calls(
    path: &str,
    given: Vec<OllamaCall>,
    calls: &mut Calls,
) -> Result<Vec<ToolCall>, ApiError> {
    let list = format!("{path}.tool_calls");
    limits::count(&list, given.len(), limits::TOOL_CALLS_MAX, "calls")?;
    let given = given.into_iter().enumerate();
    given
        .map(|(index, call)| tool_call(&format!("{list}[{index}]"), call, calls))
        .collect()
}

fn tool_call(path: &str, given: OllamaCall, calls: &mut Calls) -> Result<ToolCall, ApiError> {
    let function = given
        .function
        .ok_or_else(|| ApiError::missing(&format!("{path}.function"), "an object"))?;
    let name = function
        .name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::missing(&format!("{path}.function.name"), "a string"))?;
    let arguments = Value::Object(function.arguments.unwrap_or_default());
    Ok(ToolCall {
        id: calls.begin(given.id, &name),
        name,
        arguments: arguments.to_string(),
    })
}
