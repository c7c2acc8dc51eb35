//! `tools` and `tool_choice`, checked and translated.

use std::collections::HashSet;

use proto::{ToolChoice, ToolDefinition};
use serde_json::Value;

use super::request::RequestTool;
use super::shapes::shown;
use crate::error::ApiError;
use crate::limits::{self, quoted};

/// The tools to offer and how they may be used.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tools {
    pub(crate) definitions: Vec<ToolDefinition>,
    pub(crate) choice: ToolChoice,
}

/// Tools of a type other than `function` cannot be run by a local model's client;
/// they are left out, and `warnings` says so.
pub(crate) fn tools(
    given: Option<Vec<RequestTool>>,
    choice: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Tools, ApiError> {
    let given = given.unwrap_or_default();
    limits::count("tools", given.len(), limits::TOOLS_MAX, "tools")?;
    let mut definitions = Vec::with_capacity(given.len());
    let mut names = HashSet::new();
    for (index, tool) in given.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        let Some(definition) = definition(&path, tool, warnings)? else {
            continue;
        };
        if !names.insert(definition.name.clone()) {
            let param = format!("{path}.function.name");
            let value = quoted(&definition.name);
            return Err(ApiError::invalid(&param, &value, "unique among the tools"));
        }
        definitions.push(definition);
    }
    let choice = tool_choice(choice, &mut definitions)?;
    Ok(Tools {
        definitions,
        choice,
    })
}

fn definition(
    path: &str,
    tool: RequestTool,
    warnings: &mut Vec<String>,
) -> Result<Option<ToolDefinition>, ApiError> {
    match tool.kind.as_deref() {
        Some("function") => {}
        None if tool.function.is_some() => {}
        None => return Err(ApiError::missing(&format!("{path}.type"), "`function`")),
        Some(other) => {
            warnings.push(format!(
                "{path} has the type {} and was left out; only functions can be offered.",
                quoted(other)
            ));
            return Ok(None);
        }
    }
    let function = tool
        .function
        .ok_or_else(|| ApiError::missing(&format!("{path}.function"), "an object"))?;
    let param = |field| format!("{path}.function.{field}");
    Ok(Some(ToolDefinition {
        name: tool_name(&param("name"), function.name)?,
        description: function.description,
        parameters: parameters(&param("parameters"), function.parameters)?,
        strict: function.strict,
    }))
}

pub(crate) fn tool_name(param: &str, given: Option<String>) -> Result<String, ApiError> {
    let name = given.ok_or_else(|| ApiError::missing(param, "a string"))?;
    limits::count(param, name.len(), limits::TOOL_NAME_BYTES_MAX, "bytes")?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let rule = "a name without white space";
        return Err(ApiError::invalid(param, &quoted(&name), rule));
    }
    Ok(name)
}

pub(crate) fn parameters(param: &str, given: Option<Value>) -> Result<Option<Value>, ApiError> {
    match given.filter(|schema| !schema.is_null()) {
        Some(schema) if !schema.is_object() => {
            let rule = "a JSON Schema object";
            Err(ApiError::invalid(param, &shown(&schema), rule))
        }
        schema => Ok(schema),
    }
}

fn tool_choice(
    given: Option<&Value>,
    definitions: &mut Vec<ToolDefinition>,
) -> Result<ToolChoice, ApiError> {
    let given = match given {
        None | Some(Value::Null) => return Ok(ToolChoice::Auto),
        Some(given) => given,
    };
    let rule = "none, auto, required or an object that names a function";
    let refused = || ApiError::invalid("tool_choice", &shown(given), rule);
    let kind = match given {
        Value::String(word) => word.as_str(),
        Value::Object(object) => object
            .get("type")
            .and_then(Value::as_str)
            .ok_or_else(refused)?,
        _ => return Err(refused()),
    };
    match (kind, given.is_object()) {
        ("none", _) => Ok(ToolChoice::None),
        ("auto", _) => Ok(ToolChoice::Auto),
        ("required", _) => required(definitions),
        ("function", true) => {
            let name = function_name(given).ok_or_else(|| {
                ApiError::missing("tool_choice.function.name", "the name of one of the tools")
            })?;
            known("tool_choice.function.name", name, definitions)?;
            Ok(ToolChoice::Named(name.to_owned()))
        }
        ("allowed_tools", true) => allowed(given, definitions),
        _ => Err(refused()),
    }
}

fn function_name(value: &Value) -> Option<&str> {
    let nested = value
        .get("function")
        .and_then(|function| function.get("name"));
    nested.or_else(|| value.get("name")).and_then(Value::as_str)
}

/// Checks that `name` is one of the tools on offer.
pub(crate) fn known(
    param: &str,
    name: &str,
    definitions: &[ToolDefinition],
) -> Result<(), ApiError> {
    if definitions.iter().any(|tool| tool.name == name) {
        return Ok(());
    }
    let names: Vec<_> = definitions.iter().map(|tool| tool.name.as_str()).collect();
    let rule = match names.is_empty() {
        true => "left out: the request has no tools".to_owned(),
        false => format!("one of the tools: {}", names.join(", ")),
    };
    Err(ApiError::invalid(param, &quoted(name), &rule))
}

fn required(definitions: &[ToolDefinition]) -> Result<ToolChoice, ApiError> {
    if definitions.is_empty() {
        let rule = "none or auto: the request has no tools";
        return Err(ApiError::invalid("tool_choice", "`required`", rule));
    }
    Ok(ToolChoice::Required)
}

/// `{"type":"allowed_tools","allowed_tools":{"mode":...,"tools":[...]}}`: only the
/// named tools are offered.
fn allowed(given: &Value, definitions: &mut Vec<ToolDefinition>) -> Result<ToolChoice, ApiError> {
    let inner = given.get("allowed_tools").unwrap_or(given);
    let tools = inner
        .get("tools")
        .and_then(Value::as_array)
        .ok_or_else(|| ApiError::missing("tool_choice.allowed_tools.tools", "an array of tools"))?;
    let mut names = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        let param = format!("tool_choice.allowed_tools.tools[{index}]");
        let name = function_name(tool)
            .ok_or_else(|| ApiError::missing(&format!("{param}.function.name"), "a string"))?;
        known(&param, name, definitions)?;
        names.insert(name);
    }
    definitions.retain(|tool| names.contains(tool.name.as_str()));
    let mode = inner.get("mode").and_then(Value::as_str).unwrap_or("auto");
    match limits::word(
        "tool_choice.allowed_tools.mode",
        mode,
        &["auto", "required"],
    )? {
        "required" => required(definitions),
        _ => Ok(ToolChoice::Auto),
    }
}
