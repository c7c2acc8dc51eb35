//! `tools` and `tool_choice`, checked and translated.
//!
//! Models know no namespaces. A function in one is offered under a joined name, and its
//! calls are given back with both names apart.

use std::collections::{HashMap, HashSet};

use proto::{ToolChoice, ToolDefinition};
use serde_json::Value;

use super::request::ResponsesTool;
use crate::error::ApiError;
use crate::limits::{self, quoted};
use crate::wire::openai::shapes::shown;
use crate::wire::openai::tools::{known, parameters, required, tool_name};

/// The tools to offer and how they may be used.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tools {
    pub(crate) definitions: Vec<ToolDefinition>,
    pub(crate) choice: ToolChoice,
    /// Those on offer, as the request has them.
    pub(crate) offered: Vec<ResponsesTool>,
    pub(crate) namespaces: Namespaces,
}

/// Functions in namespaces, by the names under which they are offered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespaces(HashMap<String, (String, String)>);

impl Namespaces {
    /// The namespace, where there is one, and the name of a function that was called.
    pub(crate) fn apart<'a>(&'a self, called: &'a str) -> (Option<&'a str>, &'a str) {
        match self.0.get(called) {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, called),
        }
    }
}

/// The name under which a function in a namespace is offered.
pub(crate) fn joined(namespace: &str, name: &str) -> String {
    format!("{}__{name}", namespace.trim_end_matches("__"))
}

pub(crate) fn tools(
    given: Option<Vec<ResponsesTool>>,
    choice: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Tools, ApiError> {
    let mut offer = Offer {
        tools: Tools::default(),
        names: HashSet::new(),
        warnings,
    };
    for (index, tool) in given.into_iter().flatten().enumerate() {
        let path = format!("tools[{index}]");
        if offer.add(&path, &tool, None)? {
            offer.tools.offered.push(tool);
        }
    }
    let mut tools = offer.tools;
    tools.choice = tool_choice(choice, &mut tools.definitions)?;
    Ok(tools)
}

/// Tools as they are collected.
struct Offer<'a> {
    tools: Tools,
    names: HashSet<String>,
    warnings: &'a mut Vec<String>,
}

impl Offer<'_> {
    /// `false` where there is nothing in it that can be offered.
    fn add(
        &mut self,
        path: &str,
        tool: &ResponsesTool,
        namespace: Option<&str>,
    ) -> Result<bool, ApiError> {
        match (tool.kind.as_deref(), namespace) {
            (Some("function"), namespace) => self.function(path, tool, namespace).map(|()| true),
            (Some("namespace"), None) => self.namespace(path, tool),
            (Some(other), _) => {
                self.warnings.push(format!(
                    "{path} has the type {} and was left out; only functions can be offered.",
                    quoted(other)
                ));
                Ok(false)
            }
            (None, _) => {
                let rule = "`function` or `namespace`";
                Err(ApiError::missing(&format!("{path}.type"), rule))
            }
        }
    }

    fn namespace(&mut self, path: &str, tool: &ResponsesTool) -> Result<bool, ApiError> {
        let name = tool_name(&format!("{path}.name"), tool.name.clone())?;
        let mut any = false;
        for (index, inner) in tool.tools.iter().flatten().enumerate() {
            any |= self.add(&format!("{path}.tools[{index}]"), inner, Some(&name))?;
        }
        Ok(any)
    }

    fn function(
        &mut self,
        path: &str,
        tool: &ResponsesTool,
        namespace: Option<&str>,
    ) -> Result<(), ApiError> {
        let param = format!("{path}.name");
        let own_name = tool_name(&param, tool.name.clone())?;
        let name = match namespace {
            None => own_name,
            Some(namespace) => {
                let name = tool_name(&param, Some(joined(namespace, &own_name)))?;
                let apart = (namespace.to_owned(), own_name);
                self.tools.namespaces.0.insert(name.clone(), apart);
                name
            }
        };
        if !self.names.insert(name.clone()) {
            let rule = "unique among the tools";
            return Err(ApiError::invalid(&param, &quoted(&name), rule));
        }
        self.tools.definitions.push(ToolDefinition {
            name,
            description: tool.description.clone(),
            parameters: parameters(&format!("{path}.parameters"), tool.parameters.clone())?,
            strict: tool.strict,
        });
        let n_tools = self.tools.definitions.len();
        limits::count("tools", n_tools, limits::TOOLS_MAX, "or more functions")
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
    let rule = "none, auto, required or an object of type function or allowed_tools";
    let refused = || ApiError::invalid("tool_choice", &shown(given), rule);
    match (given.as_str(), given.get("type").and_then(Value::as_str)) {
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("required"), _) => required(definitions),
        (None, Some("function")) => {
            let name = chosen("tool_choice", given, definitions)?;
            Ok(ToolChoice::Named(name))
        }
        (None, Some("allowed_tools")) => allowed(given, definitions),
        (None, Some(other)) => {
            let detail = "only functions can be offered";
            let value = quoted(other);
            Err(ApiError::not_supported("tool_choice.type", &value, detail))
        }
        _ => Err(refused()),
    }
}

/// The name under which the function that `given` names is offered.
fn chosen(path: &str, given: &Value, definitions: &[ToolDefinition]) -> Result<String, ApiError> {
    let text = |field| given.get(field).and_then(Value::as_str);
    let param = format!("{path}.name");
    let name = text("name").ok_or_else(|| ApiError::missing(&param, "the name of a function"))?;
    let name = match text("namespace") {
        None => name.to_owned(),
        Some(namespace) => joined(namespace, name),
    };
    known(&param, &name, definitions)?;
    Ok(name)
}

/// `{"type": "allowed_tools", "mode": ..., "tools": [...]}`: only the named tools are
/// offered.
fn allowed(given: &Value, definitions: &mut Vec<ToolDefinition>) -> Result<ToolChoice, ApiError> {
    let tools = given
        .get("tools")
        .and_then(Value::as_array)
        .ok_or_else(|| ApiError::missing("tool_choice.tools", "an array of tools"))?;
    let mut names = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tool_choice.tools[{index}]");
        names.insert(chosen(&path, tool, definitions)?);
    }
    definitions.retain(|tool| names.contains(&tool.name));
    let mode = given.get("mode").and_then(Value::as_str).unwrap_or("auto");
    match limits::word("tool_choice.mode", mode, &["auto", "required"])? {
        "required" => required(definitions),
        _ => Ok(ToolChoice::Auto),
    }
}
