//! Writes Lark rules for calls.

use std::fmt::Write as _;

use proto::ToolDefinition;
use serde_json::{Map, Value as Json, json};

use super::object_schema;
use crate::format::{ArgumentKind, ToolFormat, argument_kind};

/// How one format frames its calls. A block begins with `open` (not part of the
/// block's rule) and holds one call, or all of them if `is_list`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub(super) open: &'static str,
    /// Between two blocks.
    pub(super) between: &'static str,
    pub(super) is_list: bool,
    /// Framing inside the block: before the calls, between two, after them.
    before: &'static [Piece],
    separator: &'static [Piece],
    after: &'static [Piece],
    call: CallShape,
}

/// A part of a call's framing.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Text(&'static str),
    /// May be a control token.
    Marker(&'static str),
}

/// How one call is written.
#[derive(Debug, Clone, Copy)]
enum CallShape {
    /// Text, the name, text, the arguments as JSON, text.
    Json {
        before: &'static [Piece],
        middle: &'static [Piece],
        after: &'static [Piece],
    },
    /// Keys and values as elements.
    Elements {
        before: &'static str,
        middle: &'static str,
        key: &'static str,
        value: &'static str,
        value_end: &'static str,
        after: &'static [Piece],
    },
    Python,
    /// `call:f{…}` with this quote mark.
    Gemma {
        quote: &'static str,
    },
}

use CallShape::{Elements, Gemma, Json as JsonCall, Python};
use Piece::{Marker, Text};

const NAMED_ARGUMENTS: CallShape = JsonCall {
    before: &[Text("{\"name\": \"")],
    middle: &[Text("\", \"arguments\": ")],
    after: &[Text("}")],
};

const PLAIN: Dialect = Dialect {
    open: "",
    between: "\n",
    is_list: false,
    before: &[],
    separator: &[],
    after: &[],
    call: NAMED_ARGUMENTS,
};

pub(super) fn dialect(format: ToolFormat) -> Dialect {
    json_dialect(format).unwrap_or_else(|| bare_dialect(format))
}

/// The formats that write arguments as JSON.
fn json_dialect(format: ToolFormat) -> Option<Dialect> {
    Some(match format {
        ToolFormat::Hermes => Dialect {
            open: "<tool_call>",
            before: &[Text("\n")],
            after: &[Text("\n"), Marker("</tool_call>")],
            ..PLAIN
        },
        ToolFormat::Llama3 => Dialect {
            call: JsonCall {
                before: &[Text("{\"name\": \"")],
                middle: &[Text("\", \"parameters\": ")],
                after: &[Text("}")],
            },
            ..PLAIN
        },
        ToolFormat::Mistral => Dialect {
            open: "[TOOL_CALLS]",
            is_list: true,
            before: &[Text(" [")],
            separator: &[Text(", ")],
            after: &[Text("]")],
            ..PLAIN
        },
        ToolFormat::MistralArgs => Dialect {
            open: "[TOOL_CALLS]",
            between: "",
            call: JsonCall {
                before: &[],
                middle: &[Marker("[ARGS]")],
                after: &[],
            },
            ..PLAIN
        },
        ToolFormat::DeepSeekV3 => deepseek(JsonCall {
            before: &[
                Marker("<｜tool▁call▁begin｜>"),
                Text("function"),
                Marker("<｜tool▁sep｜>"),
            ],
            middle: &[Text("\n```json\n")],
            after: &[Text("\n```"), Marker("<｜tool▁call▁end｜>")],
        }),
        ToolFormat::DeepSeekV31 => deepseek(JsonCall {
            before: &[Marker("<｜tool▁call▁begin｜>")],
            middle: &[Marker("<｜tool▁sep｜>")],
            after: &[Marker("<｜tool▁call▁end｜>")],
        }),
        ToolFormat::Generic => Dialect {
            call: JsonCall {
                before: &[Text("{\"tool_call\": {\"name\": \"")],
                middle: &[Text("\", \"arguments\": ")],
                after: &[Text("}}")],
            },
            ..PLAIN
        },
        _ => return None,
    })
}

/// The formats with a notation of their own for arguments.
fn bare_dialect(format: ToolFormat) -> Dialect {
    match format {
        ToolFormat::QwenXml => Dialect {
            open: "<tool_call>",
            before: &[Text("\n")],
            after: &[Text("\n"), Marker("</tool_call>")],
            call: Elements {
                before: "<function=",
                middle: ">\n",
                key: "<parameter=",
                value: ">\n",
                value_end: "\n</parameter>\n",
                after: &[Text("</function>")],
            },
            ..PLAIN
        },
        ToolFormat::Glm => Dialect {
            open: "<tool_call>",
            call: Elements {
                before: "",
                middle: "\n",
                key: "<arg_key>",
                value: "</arg_key>\n<arg_value>",
                value_end: "</arg_value>\n",
                after: &[Marker("</tool_call>")],
            },
            ..PLAIN
        },
        ToolFormat::Lfm2 => Dialect {
            open: "<|tool_call_start|>",
            is_list: true,
            before: &[Text("[")],
            separator: &[Text(", ")],
            after: &[Text("]"), Marker("<|tool_call_end|>")],
            call: Python,
            ..PLAIN
        },
        ToolFormat::GemmaCode => Dialect {
            open: "```tool_code",
            is_list: true,
            before: &[Text("\n")],
            separator: &[Text("\n")],
            after: &[Text("\n```")],
            call: Python,
            ..PLAIN
        },
        ToolFormat::FunctionGemma => Dialect {
            open: "<start_function_call>",
            between: "",
            after: &[Marker("<end_function_call>")],
            call: Gemma { quote: "<escape>" },
            ..PLAIN
        },
        ToolFormat::Gemma4 => Dialect {
            open: "<|tool_call>",
            between: "",
            after: &[Marker("<tool_call|>")],
            call: Gemma { quote: "<|\"|>" },
            ..PLAIN
        },
        _ => PLAIN,
    }
}
fn deepseek(call: CallShape) -> Dialect {
    Dialect {
        open: "<｜tool▁calls▁begin｜>",
        is_list: true,
        separator: &[Text("\n")],
        after: &[Marker("<｜tool▁calls▁end｜>")],
        call,
        ..PLAIN
    }
}

impl Dialect {
    pub(super) fn is_json(&self) -> bool {
        matches!(self.call, JsonCall { .. })
    }
}

/// A grammar being written. Rules are added as they are needed; what a method returns
/// stands for its rule in another one's body.
pub(super) struct Lark<'a> {
    control_token: &'a dyn Fn(&str) -> Option<u32>,
    rules: String,
    n_rules: usize,
}

impl<'a> Lark<'a> {
    pub(super) fn new(control_token: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        Self {
            control_token,
            rules: String::new(),
            n_rules: 0,
        }
    }

    pub(super) fn finish(self, start: &str) -> String {
        format!("start: {}\n{}", start.trim(), self.rules)
    }

    /// `text` as a literal; nothing for an empty one.
    pub(super) fn text(&self, text: &str) -> String {
        if text.is_empty() {
            String::new()
        } else {
            Json::from(text).to_string()
        }
    }

    /// `text` as a control token if it is one, else as a literal.
    pub(super) fn marker(&self, text: &str) -> String {
        match (self.control_token)(text) {
            Some(id) if !text.is_empty() => format!("<[{id}]>"),
            _ => self.text(text),
        }
    }

    /// Any text, up to and with the first `end`.
    pub(super) fn text_until(&mut self, name: &str, end: &str) -> String {
        self.n_rules += 1;
        let n = self.n_rules;
        if let Some(id) = (self.control_token)(end) {
            let upper = format!("{}_{n}", name.to_uppercase());
            let _ = writeln!(self.rules, "{upper}: /(?s:.+)/");
            return format!("{upper}? <[{id}]>");
        }
        let _ = writeln!(
            self.rules,
            "{name}_{n}[suffix={}]: /(?s:.*)/",
            self.text(end)
        );
        format!("{name}_{n}")
    }

    /// Any text that does not contain `marker`. `name` is a terminal's, in capitals.
    pub(super) fn text_without(&mut self, name: &str, marker: &str) -> String {
        let body = match (self.control_token)(marker) {
            Some(_) => "/(?s:.+)/".to_owned(),
            None => format!("/(?s:.+)/ & ~/(?s:.*){}(?s:.*)/", regex_escaped(marker)),
        };
        let _ = writeln!(self.rules, "{name}: {body}");
        name.to_owned()
    }

    /// A little white space. Never empty: make it optional where it is used.
    pub(super) fn gap(&mut self) -> String {
        let _ = writeln!(self.rules, "GAP: /[ \\t\\r\\n]{{1,4}}/");
        "GAP".to_owned()
    }

    fn rule(&mut self, name: &str, body: &str) -> String {
        self.n_rules += 1;
        let name = format!("{name}_{}", self.n_rules);
        let body = if body.trim().is_empty() { "\"\"" } else { body };
        let _ = writeln!(self.rules, "{name}: {body}");
        name
    }

    fn pieces(&self, pieces: &[Piece]) -> String {
        let parts: Vec<String> = pieces
            .iter()
            .map(|piece| match piece {
                Text(text) => self.text(text),
                Marker(text) => self.marker(text),
            })
            .collect();
        parts.join(" ")
    }

    /// How schemas are enforced (white space, unknown keywords) is for whoever
    /// compiles the grammar.
    fn json(&mut self, schema: &Json) -> String {
        self.rule("json", &format!("%json {schema}"))
    }

    /// Everything of a block behind its opening marker; `None` if a tool cannot be
    /// expressed.
    pub(super) fn block(
        &mut self,
        dialect: &Dialect,
        tools: &[ToolDefinition],
        parallel: bool,
    ) -> Option<String> {
        let calls: Vec<String> = tools
            .iter()
            .map(|tool| self.call(&dialect.call, tool))
            .collect::<Option<_>>()?;
        let call = self.rule("call", &calls.join(" | "));
        let more = if parallel && dialect.is_list {
            format!("({} {call})*", self.pieces(dialect.separator))
        } else {
            String::new()
        };
        let body = format!(
            "{} {call} {more} {}",
            self.pieces(dialect.before),
            self.pieces(dialect.after)
        );
        Some(self.rule("block", &body))
    }

    fn call(&mut self, shape: &CallShape, tool: &ToolDefinition) -> Option<String> {
        let schema = object_schema(tool);
        let name = self.text(&tool.name);
        if name.is_empty() {
            return None;
        }
        let body = match *shape {
            JsonCall {
                before,
                middle,
                after,
            } => {
                let arguments = self.json(&schema);
                let (before, middle) = (self.pieces(before), self.pieces(middle));
                format!(
                    "{before} {name} {middle} {arguments} {}",
                    self.pieces(after)
                )
            }
            Elements {
                before,
                middle,
                after,
                ..
            } => {
                let arguments = self.elements(shape, &schema)?;
                let (before, middle) = (self.text(before), self.text(middle));
                format!(
                    "{before} {name} {middle} {arguments} {}",
                    self.pieces(after)
                )
            }
            Python => {
                let arguments = self.joined(&schema, ", ", Self::python_argument)?;
                format!("{name} \"(\" {arguments} \")\"")
            }
            Gemma { quote } => {
                let arguments = self.joined(&schema, ",", |lark, key, schema| {
                    lark.gemma_argument(quote, key, schema)
                })?;
                format!("\"call:\" {name} \"{{\" {arguments} \"}}\"")
            }
        };
        Some(self.rule("tool", &body))
    }

    fn elements(&mut self, shape: &CallShape, schema: &Json) -> Option<String> {
        let Elements {
            key,
            value,
            value_end,
            ..
        } = *shape
        else {
            return None;
        };
        let mut parts = Vec::new();
        for argument in arguments(schema)? {
            if argument.key.contains(['<', '>', '\n']) {
                return None;
            }
            let head = self.text(&format!("{key}{}{value}", argument.key));
            let body = match (argument_kind(&argument.schema), texts_of(&argument.schema)) {
                (ArgumentKind::Json, _) => {
                    let json = self.json(&argument.schema);
                    format!("{json} {}", self.text(value_end))
                }
                (_, Some(choices)) => {
                    let choices: Vec<String> = choices.iter().map(|c| self.text(c)).collect();
                    format!("({}) {}", choices.join(" | "), self.text(value_end))
                }
                _ => self.text_until("value", value_end),
            };
            let mark = if argument.required { "" } else { "?" };
            let rule = self.rule("argument", &format!("{head} {body}"));
            parts.push(format!("{rule}{mark}"));
        }
        Some(parts.join(" "))
    }

    /// Arguments with a separator between those that are there: one rule for "the
    /// first is still to come" and one for "another may come" at each argument.
    fn joined(
        &mut self,
        schema: &Json,
        separator: &str,
        mut write: impl FnMut(&mut Self, &str, &Json) -> Option<String>,
    ) -> Option<String> {
        let mut first = self.rule("first", "");
        let mut rest = self.rule("rest", "");
        for argument in arguments(schema)?.iter().rev() {
            let is_name = !argument.key.is_empty()
                && argument
                    .key
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '_')
                && !argument.key.starts_with(|c: char| c.is_numeric());
            if !is_name {
                return None;
            }
            let item = write(self, &argument.key, &argument.schema)?;
            let separator = self.text(separator);
            let (skip_first, skip_rest) = if argument.required {
                (String::new(), String::new())
            } else {
                (format!(" | {first}"), format!(" | {rest}"))
            };
            let with_first = format!("{item} {rest}{skip_first}");
            let with_rest = format!("{separator} {item} {rest}{skip_rest}");
            first = self.rule("first", &with_first);
            rest = self.rule("rest", &with_rest);
        }
        Some(first)
    }

    fn python_argument(&mut self, key: &str, schema: &Json) -> Option<String> {
        let head = self.text(&format!("{key}="));
        let value = if schema.get("type") == Some(&json!("boolean")) {
            "(\"True\" | \"False\")".to_owned()
        } else {
            self.json(schema)
        };
        Some(self.rule("argument", &format!("{head} {value}")))
    }

    fn gemma_argument(&mut self, quote: &str, key: &str, schema: &Json) -> Option<String> {
        let head = self.text(&format!("{key}:"));
        let open = self.marker(quote);
        let value = match schema.get("type").and_then(Json::as_str)? {
            "string" => match texts_of(schema) {
                Some(choices) => {
                    let choices: Vec<String> = choices.iter().map(|c| self.text(c)).collect();
                    format!("{open} ({}) {open}", choices.join(" | "))
                }
                None => format!("{open} {}", self.text_until("value", quote)),
            },
            "integer" | "number" | "boolean" | "null" => self.json(schema),
            _ => return None,
        };
        Some(self.rule("argument", &format!("{head} {value}")))
    }
}

struct Argument {
    key: String,
    schema: Json,
    required: bool,
}

/// The declared arguments; `None` if the schema has a shape that does not list them.
fn arguments(schema: &Json) -> Option<Vec<Argument>> {
    let map = schema.as_object()?;
    if ["$ref", "anyOf", "oneOf", "allOf", "patternProperties"]
        .iter()
        .any(|key| map.contains_key(*key))
    {
        return None;
    }
    let no_properties = Map::new();
    let properties = map
        .get("properties")
        .and_then(Json::as_object)
        .unwrap_or(&no_properties);
    let required: Vec<&str> = map
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    if required.iter().any(|key| !properties.contains_key(*key)) {
        return None;
    }
    let arguments = properties.iter().map(|(key, property)| {
        let mut property = property.clone();
        // References in the property point into the whole schema.
        if let Json::Object(property) = &mut property {
            for shared in ["$defs", "definitions"] {
                if let Some(definitions) = map.get(shared) {
                    property.insert(shared.to_owned(), definitions.clone());
                }
            }
        }
        Argument {
            key: key.clone(),
            schema: property,
            required: required.contains(&key.as_str()),
        }
    });
    Some(arguments.collect())
}

/// The texts an enumeration allows.
fn texts_of(schema: &Json) -> Option<Vec<String>> {
    let values = match (schema.get("enum"), schema.get("const")) {
        (Some(Json::Array(values)), _) => values.clone(),
        (None, Some(value)) => vec![value.clone()],
        _ => return None,
    };
    let texts: Option<Vec<String>> = values
        .iter()
        .map(|value| {
            value
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        })
        .collect();
    texts.filter(|texts| !texts.is_empty())
}

/// `text` as a regular expression between slashes.
fn regex_escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "\\/.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
