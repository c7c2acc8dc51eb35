//! Grammars that force a well-formed call where `tool_choice` demands one, in the
//! model's own format and in llguidance's Lark dialect.
//!
//! Arguments obey each tool's JSON Schema where the format writes JSON. Formats with
//! bare values keep the declared arguments, in their order, required ones always:
//! texts are free, other values obey their part of the schema. Where a format cannot
//! express a tool (a key that is no identifier, nested values in Gemma's notation),
//! the whole grammar falls back to the generic form, which the parser of every format
//! reads, too.
//!
//! A schema with a keyword that no grammar can express is refused when the grammar is
//! compiled, not here; the caller may then ask again with weaker schemas. Separators
//! are fixed, because a grammar that allows white space everywhere lets a model write
//! white space for ever.

mod rules;

use std::fmt;

use proto::{Constraint, ToolChoice, ToolDefinition};
use serde_json::Value as Json;
use thiserror::Error;

use crate::format::ToolFormat;
use crate::reasoning::ReasoningTags;
use rules::{Dialect, Lark, dialect};

#[derive(Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    #[error("tool_choice asks for a call, but the request offers no tools")]
    NoTools,
    #[error("tool_choice names the tool {name:?}, which the request does not offer")]
    UnknownTool { name: String },
}

/// What is known of the thought before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thought {
    /// The model does not think, or was told not to.
    None,
    /// It may open a thought with these tags first.
    Possible(ReasoningTags),
    /// The prompt has already opened one.
    Open(ReasoningTags),
}

/// Asks for a grammar.
#[derive(Clone, Copy)]
pub struct GrammarRequest<'a> {
    pub format: ToolFormat,
    pub tools: &'a [ToolDefinition],
    pub choice: &'a ToolChoice,
    /// `false` allows one call only.
    pub parallel: bool,
    pub thought: Thought,
    /// The id of a marker such as `[TOOL_CALLS]` that is one control token of the
    /// vocabulary, so that no other tokens can spell it; `None` for ordinary text.
    pub control_token: &'a dyn Fn(&str) -> Option<u32>,
}

impl fmt::Debug for GrammarRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarRequest")
            .field("format", &self.format)
            .field("tools", &self.tools)
            .field("choice", &self.choice)
            .field("parallel", &self.parallel)
            .field("thought", &self.thought)
            .finish_non_exhaustive()
    }
}

/// A grammar and what it took to make it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolGrammar {
    pub constraint: Constraint,
    /// The calls it forces: the format asked for, or `Generic` where that one cannot
    /// express the tools.
    pub format: ToolFormat,
}

/// The grammar for a request's `tool_choice`: `None` where nothing is to be forced.
///
/// `Required` and `Named` force at least one call and no text around it. `Auto` leaves
/// the text free and binds calls once their opening marker is written; that is done
/// only if a tool is `strict` and the format has such a marker.
///
/// # Errors
/// `NoTools` and `UnknownTool` say what is wrong with `tool_choice`.
pub fn tool_grammar(request: &GrammarRequest<'_>) -> Result<Option<ToolGrammar>, GrammarError> {
    let forced = match request.choice {
        ToolChoice::None => return Ok(None),
        ToolChoice::Auto => {
            return Ok(auto_grammar(request));
        }
        ToolChoice::Required => request.tools.to_vec(),
        ToolChoice::Named(name) => {
            let named = request.tools.iter().find(|tool| tool.name == *name);
            vec![
                named
                    .cloned()
                    .ok_or_else(|| GrammarError::UnknownTool { name: name.clone() })?,
            ]
        }
    };
    if forced.is_empty() {
        return Err(GrammarError::NoTools);
    }
    let (dialect, format, mut lark, block) = blocks(request, &forced);
    let thought = thought_rule(request, &mut lark);
    let open = lark.marker(dialect.open);
    let again = if request.parallel && !dialect.is_list {
        format!(" ({} {open} {block})*", lark.text(dialect.between))
    } else {
        String::new()
    };
    let start = format!("{thought} {open} {block}{again}");
    Ok(Some(ToolGrammar {
        constraint: Constraint::Lark {
            grammar: lark.finish(&start),
        },
        format,
    }))
}

/// The dialect of the format, or the generic one if it cannot express the tools.
fn blocks<'a>(
    request: &GrammarRequest<'a>,
    tools: &[ToolDefinition],
) -> (Dialect, ToolFormat, Lark<'a>, String) {
    for format in [request.format, ToolFormat::Generic] {
        let dialect = dialect(format);
        let mut lark = Lark::new(request.control_token);
        if let Some(block) = lark.block(&dialect, tools, request.parallel) {
            return (dialect, format, lark, block);
        }
    }
    // Not reached: the generic dialect expresses every tool.
    let lark = Lark::new(request.control_token);
    (
        dialect(ToolFormat::Generic),
        ToolFormat::Generic,
        lark,
        String::new(),
    )
}

fn auto_grammar(request: &GrammarRequest<'_>) -> Option<ToolGrammar> {
    if !request.tools.iter().any(|tool| tool.strict == Some(true)) {
        return None;
    }
    // Only strict tools promise to obey their schemas.
    let tools: Vec<ToolDefinition> = request
        .tools
        .iter()
        .map(|tool| match tool.strict {
            Some(true) => tool.clone(),
            _ => ToolDefinition {
                parameters: Some(serde_json::json!({"type": "object"})),
                ..tool.clone()
            },
        })
        .collect();
    let dialect = dialect(request.format);
    if dialect.open.is_empty() || !dialect.is_json() {
        return None;
    }
    let mut lark = Lark::new(request.control_token);
    let block = lark.block(&dialect, &tools, request.parallel)?;
    let thought = match request.thought {
        Thought::Open(_) => thought_rule(request, &mut lark),
        _ => String::new(),
    };
    let lead = lark.text_until("lead", dialect.open);
    let tail = lark.text_without("TAIL", dialect.open);
    let repeat = if request.parallel { "*" } else { "?" };
    let start = format!("{thought} ({lead} {block}){repeat} {tail}?");
    Some(ToolGrammar {
        constraint: Constraint::Lark {
            grammar: lark.finish(&start),
        },
        format: request.format,
    })
}

/// What may come before the call.
fn thought_rule(request: &GrammarRequest<'_>, lark: &mut Lark<'_>) -> String {
    let (tags, is_open) = match request.thought {
        Thought::None => return String::new(),
        Thought::Possible(tags) => (tags, false),
        Thought::Open(tags) => (tags, true),
    };
    let thought = lark.text_until("thought", tags.close);
    let gap = lark.gap();
    if is_open {
        format!("{thought} {gap}?")
    } else {
        format!("({} {thought} {gap}?)?", lark.marker(tags.open))
    }
}

/// A tool's schema as one that only objects obey.
fn object_schema(tool: &ToolDefinition) -> Json {
    match &tool.parameters {
        Some(Json::Object(schema)) => {
            let mut schema = schema.clone();
            let says_something = ["type", "$ref", "anyOf", "oneOf", "allOf"]
                .iter()
                .any(|key| schema.contains_key(*key));
            if !says_something {
                schema.insert("type".to_owned(), Json::from("object"));
            }
            Json::Object(schema)
        }
        Some(_) => serde_json::json!({"type": "object"}),
        None => serde_json::json!({
            "type": "object", "properties": {}, "additionalProperties": false,
        }),
    }
}

#[cfg(test)]
mod tests;
