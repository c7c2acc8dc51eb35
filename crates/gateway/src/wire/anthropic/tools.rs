//! `tools` and `tool_choice`, checked and translated.

use std::collections::HashSet;

use proto::{ToolChoice, ToolDefinition};

use super::request::{OfferedTool, ToolUse};
use crate::error::ApiError;
use crate::limits::{self, quoted};
use crate::wire::openai::tools::{known, parameters, tool_name};

/// The tools to offer and how they may be used.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tools {
    pub(crate) definitions: Vec<ToolDefinition>,
    pub(crate) choice: ToolChoice,
    /// `false` allows at most one call an answer.
    pub(crate) parallel: Option<bool>,
}

pub(crate) fn tools(
    given: Option<Vec<OfferedTool>>,
    choice: Option<ToolUse>,
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
            let value = quoted(&definition.name);
            let param = format!("{path}.name");
            return Err(ApiError::invalid(&param, &value, "unique among the tools"));
        }
        definitions.push(definition);
    }
    let Some(choice) = choice else {
        return Ok(Tools {
            definitions,
            ..Tools::default()
        });
    };
    Ok(Tools {
        parallel: choice.disable_parallel_tool_use.map(|disable| !disable),
        choice: tool_choice(choice, &definitions)?,
        definitions,
    })
}

/// Tools of other types are run by Anthropic's servers, or are known to its models
/// without a schema. Nothing here knows them, so they are left out, and `warnings` says so.
fn definition(
    path: &str,
    tool: OfferedTool,
    warnings: &mut Vec<String>,
) -> Result<Option<ToolDefinition>, ApiError> {
    if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
        warnings.push(format!(
            "{path} has the type {} and was left out; only tools of type `custom` can be offered.",
            quoted(kind)
        ));
        return Ok(None);
    }
    let param = |field| format!("{path}.{field}");
    let schema = param("input_schema");
    if tool.input_schema.is_none() {
        return Err(ApiError::missing(&schema, "a JSON Schema object"));
    }
    Ok(Some(ToolDefinition {
        name: tool_name(&param("name"), tool.name)?,
        description: tool.description,
        parameters: parameters(&schema, tool.input_schema)?,
        strict: tool.strict,
    }))
}

fn tool_choice(given: ToolUse, definitions: &[ToolDefinition]) -> Result<ToolChoice, ApiError> {
    let param = "tool_choice.type";
    let rule = "one of auto, any, tool, none";
    match given.kind.as_deref() {
        Some("auto") => Ok(ToolChoice::Auto),
        Some("none") => Ok(ToolChoice::None),
        Some("any") if definitions.is_empty() => {
            let rule = "auto or none: the request has no tools";
            Err(ApiError::invalid(param, "`any`", rule))
        }
        Some("any") => Ok(ToolChoice::Required),
        Some("tool") => {
            let param = "tool_choice.name";
            let rule = "the name of one of the tools";
            let name = given.name.ok_or_else(|| ApiError::missing(param, rule))?;
            known(param, &name, definitions)?;
            Ok(ToolChoice::Named(name))
        }
        Some(other) => Err(ApiError::invalid(param, &quoted(other), rule)),
        None => Err(ApiError::missing(param, rule)),
    }
}
