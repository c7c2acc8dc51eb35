//! Chat messages, checked and translated.

use std::fmt;

use proto::{Image, Message, Role, ToolCall};
use serde_json::Value;

use super::request::{RequestMessage, RequestToolCall};
use super::shapes::{Content, ContentPart, ImageUrl, shown};
use crate::error::ApiError;
use crate::limits::{self, quoted};
use crate::wire::images::{self, Parts};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

pub(crate) fn messages(given: Option<Vec<RequestMessage>>) -> Result<Vec<Message>, ApiError> {
    let rule = "an array of at least 1 message";
    let given = given.ok_or_else(|| ApiError::missing("messages", rule))?;
    if given.is_empty() {
        return Err(ApiError::invalid("messages", "empty", rule));
    }
    limits::count("messages", given.len(), limits::MESSAGES_MAX, "messages")?;
    given
        .into_iter()
        .enumerate()
        .map(|(index, given)| message(Path(index), given))
        .collect()
}

/// Where a message stands, written out only where something is wrong with it.
#[derive(Debug, Clone, Copy)]
struct Path(usize);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "messages[{}]", self.0)
    }
}

fn message(path: Path, given: RequestMessage) -> Result<Message, ApiError> {
    let role = role(path, given.role.as_deref())?;
    if given.function_call.is_some_and(|call| !call.is_null()) {
        let param = format!("{path}.function_call");
        return Err(ApiError::not_supported(&param, "given", "use tool_calls"));
    }
    let tool_calls = tool_calls(path, given.tool_calls.unwrap_or_default())?;
    if !tool_calls.is_empty() && role != Role::Assistant {
        let param = format!("{path}.tool_calls");
        return Err(ApiError::invalid(
            &param,
            "given",
            "left out unless the role is assistant",
        ));
    }
    let parts = given
        .content
        .map(|content| parts(path, content, role))
        .transpose()?;
    if parts.is_none() && role != Role::Assistant {
        let param = format!("{path}.content");
        return Err(ApiError::missing(&param, "a string or an array of parts"));
    }
    let (content, images) = parts.map(|parts| (parts.text, parts.images)).unzip();
    Ok(Message {
        role,
        content,
        images: images.unwrap_or_default(),
        reasoning_content: given.reasoning_content,
        tool_calls,
        tool_call_id: given.tool_call_id,
        name: given.name,
    })
}

fn role(path: Path, given: Option<&str>) -> Result<Role, ApiError> {
    match given {
        Some("system") => Ok(Role::System),
        Some("developer") => Ok(Role::Developer),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        other => Err(no_role(path, other)),
    }
}

fn no_role(path: Path, given: Option<&str>) -> ApiError {
    let param = format!("{path}.role");
    let rule = format!("one of {}", ROLES.join(", "));
    match given {
        Some("function") => ApiError::not_supported(&param, "`function`", "use the role tool"),
        Some(other) => ApiError::invalid(&param, &quoted(other), &rule),
        None => ApiError::missing(&param, &rule),
    }
}

/// The content of a message; texts are joined without a separator, as llama.cpp's
/// templates do.
fn parts(path: Path, content: Content, role: Role) -> Result<Parts, ApiError> {
    let mut joined = Parts::default();
    let parts = match content {
        Content::Text(text) => {
            joined.text = text;
            return Ok(joined);
        }
        Content::Parts(parts) => parts,
    };
    let param = format!("{path}.content");
    limits::count(&param, parts.len(), limits::CONTENT_PARTS_MAX, "parts")?;
    for (index, part) in parts.into_iter().enumerate() {
        let path = format!("{param}[{index}]");
        match part.kind.as_deref() {
            Some("image_url") if role == Role::User => {
                joined.image(part_image(&path, part.image_url)?);
            }
            Some("image_url") => return Err(images::only_of_the_user(&path)),
            _ => joined.text(&part_text(&path, part)?),
        }
    }
    Ok(joined)
}

fn part_image(path: &str, given: Option<ImageUrl>) -> Result<Image, ApiError> {
    let path = format!("{path}.image_url");
    let given = given.ok_or_else(|| ApiError::missing(&path, "an object"))?;
    let path = format!("{path}.url");
    let url = given.url;
    let url = url.ok_or_else(|| ApiError::missing(&path, "a string"))?;
    images::image(&path, url, given.detail)
}

fn part_text(path: &str, part: ContentPart) -> Result<String, ApiError> {
    let missing = |field| ApiError::missing(&format!("{path}.{field}"), "a string");
    match part.kind.as_deref() {
        Some("text" | "input_text" | "output_text") => part.text.ok_or_else(|| missing("text")),
        Some("refusal") => part.refusal.ok_or_else(|| missing("refusal")),
        Some(other) => {
            let detail = "this endpoint reads text and images only";
            let value = format!("a part of type {}", quoted(other));
            Err(ApiError::not_supported(path, &value, detail))
        }
        None => Err(ApiError::missing(&format!("{path}.type"), "`text`")),
    }
}

fn tool_calls(path: Path, given: Vec<RequestToolCall>) -> Result<Vec<ToolCall>, ApiError> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let list = format!("{path}.tool_calls");
    limits::count(&list, given.len(), limits::TOOL_CALLS_MAX, "calls")?;
    given
        .into_iter()
        .enumerate()
        .map(|(index, call)| tool_call(&format!("{list}[{index}]"), index, call))
        .collect()
}

fn tool_call(path: &str, index: usize, given: RequestToolCall) -> Result<ToolCall, ApiError> {
    if let Some(kind) = given.kind.as_deref().filter(|kind| *kind != "function") {
        let param = format!("{path}.type");
        return Err(ApiError::invalid(&param, &quoted(kind), "`function`"));
    }
    let function = given
        .function
        .ok_or_else(|| ApiError::missing(&format!("{path}.function"), "an object"))?;
    let name = function
        .name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::missing(&format!("{path}.function.name"), "a string"))?;
    let arguments = match function.arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => text,
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(other) => {
            let param = format!("{path}.function.arguments");
            return Err(ApiError::invalid(
                &param,
                &shown(&other),
                "JSON text in a string",
            ));
        }
    };
    Ok(ToolCall {
        id: given.id.unwrap_or_else(|| format!("call_{index}")),
        name,
        arguments,
    })
}
