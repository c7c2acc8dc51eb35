//! The ways to ask for an answer of a given form: `response_format`, and
//! llama.cpp's `grammar` and `json_schema`.

use proto::Constraint;
use serde_json::Value;

use super::request::{GenerationFields, ResponseFormat};
use super::shapes::shown;
use crate::error::ApiError;
use crate::limits::{self, GRAMMAR_BYTES_MAX};

const KINDS: [&str; 6] = [
    "text",
    "json_object",
    "json_schema",
    "regex",
    "lark",
    "gbnf",
];

pub(crate) fn constraint(fields: &mut GenerationFields) -> Result<Option<Constraint>, ApiError> {
    let format = match fields.response_format.take() {
        Some(format) => from_format(format)?,
        None => None,
    };
    let grammar = match fields.grammar.take().filter(|text| !text.is_empty()) {
        Some(grammar) => Some(gbnf("grammar", grammar)?),
        None => None,
    };
    let schema = match fields.json_schema.take().filter(|schema| !schema.is_null()) {
        Some(schema) => Some(json_schema("json_schema", schema)?),
        None => None,
    };
    let given = [
        ("response_format", format),
        ("grammar", grammar),
        ("json_schema", schema),
    ];
    let mut found: Option<(&str, Constraint)> = None;
    for (param, constraint) in given {
        let Some(constraint) = constraint else {
            continue;
        };
        if let Some((other, _)) = found {
            return Err(ApiError::conflict(
                param,
                other,
                "each asks for a form of its own",
            ));
        }
        found = Some((param, constraint));
    }
    Ok(found.map(|(_, constraint)| constraint))
}

fn from_format(format: ResponseFormat) -> Result<Option<Constraint>, ApiError> {
    let rule = format!("one of {}", KINDS.join(", "));
    let kind = format
        .kind
        .ok_or_else(|| ApiError::missing("response_format.type", &rule))?;
    let constraint = match kind.as_str() {
        "text" => return Ok(None),
        "json_object" => match format.schema {
            Some(schema) => json_schema("response_format.schema", schema)?,
            None => Constraint::JsonObject,
        },
        "json_schema" => match (format.json_schema, format.schema) {
            (Some(wrapper), _) => wrapped_schema(wrapper)?,
            (None, Some(schema)) => json_schema("response_format.schema", schema)?,
            (None, None) => {
                let rule = "an object with a schema";
                return Err(ApiError::missing("response_format.json_schema", rule));
            }
        },
        "regex" => {
            let param = "response_format.pattern";
            let pattern = required(param, format.pattern)?;
            Constraint::Regex { pattern }
        }
        "lark" => {
            let grammar = required("response_format.grammar", format.grammar)?;
            Constraint::Lark { grammar }
        }
        "gbnf" | "grammar" => {
            let grammar = required("response_format.grammar", format.grammar)?;
            Constraint::Gbnf { grammar }
        }
        other => {
            let value = limits::quoted(other);
            return Err(ApiError::invalid("response_format.type", &value, &rule));
        }
    };
    Ok(Some(constraint))
}

fn wrapped_schema(wrapper: Value) -> Result<Constraint, ApiError> {
    let param = "response_format.json_schema";
    let Value::Object(mut wrapper) = wrapper else {
        return Err(ApiError::invalid(
            param,
            &shown(&wrapper),
            "an object with a schema",
        ));
    };
    let param = "response_format.json_schema.schema";
    let schema = wrapper
        .remove("schema")
        .ok_or_else(|| ApiError::missing(param, "a JSON Schema object"))?;
    json_schema(param, schema)
}

/// A schema that the whole answer must obey, within the limits.
pub(crate) fn json_schema(param: &str, schema: Value) -> Result<Constraint, ApiError> {
    if !schema.is_object() {
        return Err(ApiError::invalid(
            param,
            &shown(&schema),
            "a JSON Schema object",
        ));
    }
    limits::count(param, schema.to_string().len(), GRAMMAR_BYTES_MAX, "bytes")?;
    Ok(Constraint::JsonSchema { schema })
}

fn gbnf(param: &str, grammar: String) -> Result<Constraint, ApiError> {
    limits::count(param, grammar.len(), GRAMMAR_BYTES_MAX, "bytes")?;
    Ok(Constraint::Gbnf { grammar })
}

fn required(param: &str, text: Option<String>) -> Result<String, ApiError> {
    let text = text
        .filter(|text| !text.is_empty())
        .ok_or_else(|| ApiError::missing(param, "a string"))?;
    limits::count(param, text.len(), GRAMMAR_BYTES_MAX, "bytes")?;
    Ok(text)
}
