//! Holds JSON Schemas to what the engine enforces exactly.
//!
//! The engine ignores keywords it does not know and approximates a few others.
//! [`prepare`] walks the schema first and refuses whatever would be relaxed, with
//! the keyword and its JSON pointer; what it returns has only enforced keywords.

use std::collections::{HashMap, HashSet};

use llguidance::JsonCompileOptions;
use serde_json::{Map, Number, Value};

use crate::constraint::ConstraintError;

/// Longest schema, in bytes of compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Deepest nesting of the schema's JSON.
pub const SCHEMA_DEPTH_MAX: usize = 64;

/// Most levels of schemas the engine may have to resolve inside one another: the
/// nesting of every referenced schema, added up. It resolves them recursively, and
/// in debug builds a level takes up to 40 KB of the stack in [`crate::COMPILE_STACK_BYTES`].
pub const SCHEMA_LEVELS_MAX: usize = 1_500;

/// Between two pieces of JSON at most this: one space, the style of `json.dumps`.
/// A model cannot pad its answer with whitespace, which small ones do for ever.
const WHITESPACE: &str = " ";
/// No `\uXXXX`: a key could be spelled two ways and slip past the schema.
const ESCAPES: &str = "nrbtf\\\"";

/// Enforced, and only checked by the engine itself.
const ENFORCED: [&str; 9] = [
    "required",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "multipleOf",
];
/// Say nothing about which values are valid.
const ANNOTATIONS: [&str; 18] = [
    "$schema",
    "$comment",
    "$vocabulary",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "example",
    "examples",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "externalDocs",
    "discriminator",
    "xml",
    "id",
];
/// Hold one schema.
const WITH_SCHEMA: [&str; 2] = ["additionalProperties", "additionalItems"];
/// Hold an array of schemas.
const WITH_SCHEMAS: [&str; 4] = ["anyOf", "allOf", "oneOf", "prefixItems"];
/// Hold an object of schemas.
const WITH_NAMED_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
const TYPES: [&str; 7] = [
    "null", "boolean", "number", "integer", "string", "array", "object",
];
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// The schema as the engine should see it, or why it cannot be enforced exactly.
pub fn prepare(schema: &Value) -> Result<Value, ConstraintError> {
    check_depth(schema, 0)?;
    let bytes = schema.to_string().len();
    if bytes > SCHEMA_BYTES_MAX {
        return Err(ConstraintError::TooLarge {
            what: "bytes of the JSON Schema",
            value: bytes,
            limit: SCHEMA_BYTES_MAX,
        });
    }
    let mut walk = Walk::default();
    let prepared = walk.schema(schema, "")?;
    walk.check_references()?;
    walk.check_levels()?;
    let mut prepared = match prepared {
        Value::Bool(true) => Value::Object(Map::new()),
        Value::Bool(false) => {
            return Err(ConstraintError::Contradictory {
                message: "the schema is `false`".to_string(),
            });
        }
        other => other,
    };
    let options = JsonCompileOptions {
        whitespace_flexible: true,
        whitespace_pattern: Some(WHITESPACE.to_string()),
        coerce_one_of: false,
        lenient: false,
        json_allowed_escapes: Some(ESCAPES.to_string()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut prepared);
    Ok(prepared)
}

/// The keyword behind an engine message that is about one, and what is wrong with its use.
pub(crate) fn refused_by_engine(message: &str) -> Option<(&'static str, &'static str)> {
    let table = [
        (
            "oneOf constraints are not supported",
            "oneOf",
            "its options are not plainly exclusive; use anyOf, or give each option a required \
             property with a different `const`",
        ),
        (
            "min/maxProperties only supported",
            "minProperties",
            "property counts need every listed property to be required",
        ),
        (
            "patternProperty",
            "patternProperties",
            "the patterns overlap",
        ),
        (
            "circular references with sibling keys",
            "$ref",
            "a recursive reference has keywords beside it",
        ),
        (
            "Unable to determine if regex is empty",
            "pattern",
            "it is too complex",
        ),
    ];
    table
        .iter()
        .find(|(text, ..)| message.contains(text))
        .map(|&(_, keyword, note)| (keyword, note))
}

/// The pointer of the first schema that uses the keyword; the root without one.
pub(crate) fn locate(schema: &Value, keyword: &str) -> String {
    let mut walk = Walk::default();
    // The schema was prepared before, so this walk succeeds.
    let _ = walk.schema(schema, "");
    walk.uses
        .into_iter()
        .find(|(used, _)| used == keyword)
        .map_or_else(String::new, |(_, pointer)| pointer)
}

fn check_depth(value: &Value, depth: usize) -> Result<(), ConstraintError> {
    if depth > SCHEMA_DEPTH_MAX {
        return Err(ConstraintError::TooLarge {
            what: "nesting of the JSON Schema",
            value: depth,
            limit: SCHEMA_DEPTH_MAX,
        });
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|v| check_depth(v, depth + 1)),
        Value::Object(map) => map.values().try_for_each(|v| check_depth(v, depth + 1)),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Walk {
    /// Pointers of all schemas seen.
    schemas: HashSet<String>,
    /// Pointers from the root to the schema being walked.
    path: Vec<String>,
    references: Vec<Reference>,
    /// Anchors and the pointers of their schemas.
    anchors: HashMap<String, String>,
    /// Keyword and pointer of the schema that uses it, in document order.
    uses: Vec<(String, String)>,
}

struct Reference {
    /// As written, for example `#/$defs/node`.
    text: String,
    /// Pointers from the root to the schema that has it.
    path: Vec<String>,
}

type Checked<T> = Result<T, ConstraintError>;

impl Walk {
    fn schema(&mut self, schema: &Value, pointer: &str) -> Checked<Value> {
        self.schemas.insert(pointer.to_string());
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err(invalid(pointer, "a schema must be an object or a boolean")),
        };
        self.path.push(pointer.to_string());
        let mut kept = Map::new();
        for (keyword, value) in map {
            self.uses.push((keyword.clone(), pointer.to_string()));
            if let Some(value) = self.keyword(map, keyword, value, pointer)? {
                kept.insert(keyword.clone(), value);
            }
        }
        self.path.pop();
        check_property_count(map, pointer)?;
        apply_number_format(map, &mut kept);
        Ok(Value::Object(kept))
    }

    /// The value to keep; `None` when the keyword constrains nothing.
    fn keyword(
        &mut self,
        map: &Map<String, Value>,
        keyword: &str,
        value: &Value,
        pointer: &str,
    ) -> Checked<Option<Value>> {
        let here = join(pointer, keyword);
        let kept = match keyword {
            "type" => check_type(value, &here)?,
            "const" => check_instance(value, keyword, pointer)?,
            "enum" => check_enum(value, pointer)?,
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                check_number(value, keyword, pointer)?
            }
            "format" => return check_format(map, value, pointer),
            "pattern" if !value.is_string() => return Err(invalid(&here, "it must be a string")),
            "$ref" => self.reference(value, pointer)?,
            "$anchor" => {
                let Some(name) = value.as_str() else {
                    return Err(invalid(&here, "it must be a string"));
                };
                self.anchors.insert(name.to_string(), pointer.to_string());
                value.clone()
            }
            "items" if value.is_array() => {
                if map.contains_key("prefixItems") {
                    let message = "it is an array beside `prefixItems`; use one of the two";
                    return Err(unsupported(keyword, pointer, message));
                }
                self.list(value, &here)?
            }
            "additionalItems" if !map.get("items").is_some_and(Value::is_array) => {
                let message = "it needs `items` to be an array; use `items` after `prefixItems`";
                return Err(unsupported(keyword, pointer, message));
            }
            "items" => self.schema(value, &here)?,
            _ if WITH_SCHEMA.contains(&keyword) => self.schema(value, &here)?,
            _ if WITH_SCHEMAS.contains(&keyword) => self.list(value, &here)?,
            _ if WITH_NAMED_SCHEMAS.contains(&keyword) => self.named(value, keyword, &here)?,
            _ if ENFORCED.contains(&keyword) => value.clone(),
            _ if is_annotation(keyword, pointer) || says_nothing(keyword, value) => {
                return Ok(None);
            }
            _ => return Err(unsupported(keyword, pointer, why_not(keyword))),
        };
        Ok(Some(kept))
    }

    fn list(&mut self, value: &Value, pointer: &str) -> Checked<Value> {
        let Value::Array(items) = value else {
            return Err(invalid(pointer, "it must be an array of schemas"));
        };
        let checked: Checked<Vec<Value>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.schema(item, &format!("{pointer}/{index}")))
            .collect();
        checked.map(Value::Array)
    }

    fn named(&mut self, value: &Value, keyword: &str, pointer: &str) -> Checked<Value> {
        let Value::Object(schemas) = value else {
            return Err(invalid(pointer, "it must be an object of schemas"));
        };
        let mut kept = Map::new();
        for (name, schema) in schemas {
            let here = join(pointer, name);
            if keyword == "properties" {
                check_text(name, keyword, &here)?;
            }
            kept.insert(name.clone(), self.schema(schema, &here)?);
        }
        Ok(Value::Object(kept))
    }

    fn reference(&mut self, value: &Value, pointer: &str) -> Checked<Value> {
        let Some(reference) = value.as_str() else {
            return Err(invalid(&join(pointer, "$ref"), "it must be a string"));
        };
        if !reference.starts_with('#') {
            let message = format!("`{reference}` points outside of this schema");
            return Err(unsupported("$ref", pointer, &message));
        }
        self.references.push(Reference {
            text: reference.to_string(),
            path: self.path.clone(),
        });
        Ok(value.clone())
    }

    fn check_references(&self) -> Checked<()> {
        for reference in &self.references {
            if self.target(reference).is_none() {
                let pointer = reference.path.last().map_or("", String::as_str);
                let message = format!("`{}` is not a schema of this document", reference.text);
                return Err(unsupported("$ref", pointer, &message));
            }
        }
        Ok(())
    }

    /// The pointer of the schema a reference names.
    fn target(&self, reference: &Reference) -> Option<&str> {
        let fragment = percent_decoded(reference.text.strip_prefix('#')?);
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.schemas.get(&fragment).map(String::as_str);
        }
        self.anchors.get(&fragment).map(String::as_str)
    }

    /// Each referenced schema is resolved once, inside whichever schema refers to
    /// it first. Whatever that order, the nesting is at most the sum over the root
    /// and all targets of the levels down to their deepest reference.
    fn check_levels(&self) -> Checked<()> {
        let mut starts: HashSet<&str> = self
            .references
            .iter()
            .filter_map(|reference| self.target(reference))
            .collect();
        starts.insert("");
        let mut levels: HashMap<&str, usize> = HashMap::new();
        for Reference { path, .. } in &self.references {
            for (above, pointer) in path.iter().enumerate() {
                if starts.contains(pointer.as_str()) {
                    let deepest = levels.entry(pointer).or_default();
                    *deepest = (*deepest).max(path.len() - above);
                }
            }
        }
        let value = levels.values().sum();
        if value > SCHEMA_LEVELS_MAX {
            return Err(ConstraintError::TooLarge {
                what: "levels of referenced schemas in the JSON Schema",
                value,
                limit: SCHEMA_LEVELS_MAX,
            });
        }
        Ok(())
    }
}

fn is_annotation(keyword: &str, pointer: &str) -> bool {
    // The engine reads its options from `x-guidance`; they are ours to set. An
    // inner `$id` would change what the references below it mean.
    ANNOTATIONS.contains(&keyword)
        || (keyword.starts_with("x-") && keyword != "x-guidance")
        || (keyword == "$id" && pointer.is_empty())
}

/// Keywords that are not enforced but, with this value, allow everything.
fn says_nothing(keyword: &str, value: &Value) -> bool {
    let allows_all = value == &Value::Bool(true) || value.as_object().is_some_and(Map::is_empty);
    match keyword {
        "uniqueItems" | "nullable" => value == &Value::Bool(false),
        "unevaluatedProperties" | "unevaluatedItems" => allows_all,
        // Names are strings anyway.
        "propertyNames" => allows_all || value == &serde_json::json!({"type": "string"}),
        _ => false,
    }
}

fn why_not(keyword: &str) -> &'static str {
    match keyword {
        "nullable" => "it is OpenAPI's; use `\"type\": [\"...\", \"null\"]`",
        "uniqueItems"
        | "contains"
        | "minContains"
        | "maxContains"
        | "propertyNames"
        | "not"
        | "if"
        | "then"
        | "else"
        | "dependencies"
        | "dependentRequired"
        | "dependentSchemas"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "$dynamicRef"
        | "$dynamicAnchor"
        | "$recursiveRef"
        | "$recursiveAnchor" => "no grammar can express it; leave it out",
        "x-guidance" => "the engine's options are not the caller's to set",
        "$id" => "only the root may have one",
        _ => "the keyword is unknown; leave it out or prefix it with `x-`",
    }
}

fn check_type(value: &Value, pointer: &str) -> Checked<Value> {
    let is_type = |v: &Value| v.as_str().is_some_and(|name| TYPES.contains(&name));
    let valid = match value {
        Value::Array(types) => !types.is_empty() && types.iter().all(is_type),
        other => is_type(other),
    };
    if valid {
        return Ok(value.clone());
    }
    let message = format!("{value} is not a type; types are {}", TYPES.join(", "));
    Err(invalid(pointer, &message))
}

fn check_enum(value: &Value, pointer: &str) -> Checked<Value> {
    match value {
        Value::Array(values) if values.is_empty() => Err(ConstraintError::Contradictory {
            message: format!("`enum` at {pointer:?} is empty"),
        }),
        Value::Array(values) => {
            for value in values {
                check_instance(value, "enum", pointer)?;
            }
            Ok(value.clone())
        }
        _ => Err(invalid(&join(pointer, "enum"), "it must be an array")),
    }
}

/// Checks that a literal value can be generated as it is.
fn check_instance(value: &Value, keyword: &str, pointer: &str) -> Checked<Value> {
    match value {
        Value::Number(_) => check_number(value, keyword, pointer),
        Value::String(text) => check_text(text, keyword, pointer).map(|()| value.clone()),
        Value::Array(items) => {
            for item in items {
                check_instance(item, keyword, pointer)?;
            }
            Ok(value.clone())
        }
        Value::Object(map) => {
            for (name, item) in map {
                check_text(name, keyword, pointer)?;
                check_instance(item, keyword, pointer)?;
            }
            Ok(value.clone())
        }
        Value::Null | Value::Bool(_) => Ok(value.clone()),
    }
}

/// The engine computes with doubles, so whole numbers past 2^53 would be rounded.
fn check_number(value: &Value, keyword: &str, pointer: &str) -> Checked<Value> {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::Number(number) if is_whole_past(number, EXACT_MAX) => {
            let message = format!("{number} is a whole number beyond 2^53, which is not exact");
            Err(unsupported(keyword, pointer, &message))
        }
        Value::Number(_) => Ok(value.clone()),
        // Draft 4 spells an exclusive bound as a flag.
        Value::Bool(_) if keyword.starts_with("exclusive") => Ok(value.clone()),
        _ => Err(invalid(&join(pointer, keyword), "it must be a number")),
    }
}

fn is_whole_past(number: &Number, max: u64) -> bool {
    match (number.as_i64(), number.as_u64()) {
        (Some(signed), _) => signed.unsigned_abs() > max,
        (None, Some(unsigned)) => unsigned > max,
        (None, None) => false,
    }
}

/// JSON writes most control characters as `\uXXXX`, which answers may not contain.
fn check_text(text: &str, keyword: &str, pointer: &str) -> Checked<()> {
    let short_escape = |c: char| matches!(c, '\n' | '\r' | '\t' | '\u{8}' | '\u{c}');
    match text
        .chars()
        .find(|c| (*c <= '\u{1f}' || *c == '\u{7f}') && !short_escape(*c))
    {
        None => Ok(()),
        Some(c) => {
            let message = format!("it has the control character U+{:04X}", c as u32);
            Err(unsupported(keyword, pointer, &message))
        }
    }
}

fn check_format(map: &Map<String, Value>, value: &Value, pointer: &str) -> Checked<Option<Value>> {
    let Some(format) = value.as_str() else {
        return Err(invalid(&join(pointer, "format"), "it must be a string"));
    };
    if FORMATS.contains(&format) {
        return Ok(Some(value.clone()));
    }
    if is_number_type(map) && (number_range(format).is_some() || is_float(format)) {
        return Ok(None);
    }
    let message = format!("`{format}` is not one of {}", FORMATS.join(", "));
    Err(unsupported("format", pointer, &message))
}

fn is_number_type(map: &Map<String, Value>) -> bool {
    let is_number = |v: &Value| matches!(v.as_str(), Some("integer" | "number" | "null"));
    match map.get("type") {
        Some(Value::Array(types)) => types.iter().all(is_number),
        Some(one) => is_number(one),
        None => false,
    }
}

fn is_float(format: &str) -> bool {
    matches!(format, "float" | "double")
}

/// OpenAPI's integer formats; 64-bit ones are narrowed to what doubles hold exactly.
fn number_range(format: &str) -> Option<(i64, i64)> {
    const EXACT_MAX: i64 = (1 << 53) - 1;
    Some(match format {
        "int8" => (i8::MIN.into(), i8::MAX.into()),
        "int16" => (i16::MIN.into(), i16::MAX.into()),
        "int32" => (i32::MIN.into(), i32::MAX.into()),
        "int64" | "int" => (-EXACT_MAX, EXACT_MAX),
        "uint8" => (0, u8::MAX.into()),
        "uint16" => (0, u16::MAX.into()),
        "uint32" => (0, u32::MAX.into()),
        "uint64" | "uint" => (0, EXACT_MAX),
        _ => return None,
    })
}

/// Turns an integer format into the bounds it means, unless tighter ones are there.
fn apply_number_format(map: &Map<String, Value>, kept: &mut Map<String, Value>) {
    let Some((low, high)) = map
        .get("format")
        .and_then(Value::as_str)
        .filter(|_| is_number_type(map))
        .and_then(number_range)
    else {
        return;
    };
    let given = |kept: &Map<String, Value>, key| kept.get(key).and_then(Value::as_f64);
    if given(kept, "minimum").is_none_or(|minimum| minimum < low as f64) {
        kept.insert("minimum".to_string(), low.into());
    }
    if given(kept, "maximum").is_none_or(|maximum| maximum > high as f64) {
        kept.insert("maximum".to_string(), high.into());
    }
}

/// A grammar cannot see that a free key repeats an earlier one, so two free keys
/// may be one property: a minimum can count on a single free key only.
fn check_property_count(map: &Map<String, Value>, pointer: &str) -> Checked<()> {
    let Some(minimum) = map.get("minProperties").and_then(Value::as_u64) else {
        return Ok(());
    };
    let listed = |key: &str| match map.get(key) {
        Some(Value::Array(names)) => names.len() as u64,
        _ => 0,
    };
    if minimum > listed("required") + 1 {
        let message = "it asks for more than one property beyond the required ones";
        return Err(unsupported("minProperties", pointer, message));
    }
    Ok(())
}

fn join(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Decodes `%41` in the fragment of a URI; what is no escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unsupported(keyword: &str, pointer: &str, message: &str) -> ConstraintError {
    ConstraintError::Unsupported {
        keyword: keyword.to_string(),
        pointer: pointer.to_string(),
        message: message.to_string(),
    }
}

fn invalid(pointer: &str, message: &str) -> ConstraintError {
    let place = if pointer.is_empty() {
        "the root"
    } else {
        pointer
    };
    ConstraintError::Invalid {
        message: format!("the schema is invalid at {place}: {message}"),
    }
}

#[cfg(test)]
mod tests;
