//! Rewrites messages into what a template can take, and says what was rewritten.

use std::fmt::Write as _;

use proto::{Message, Role, ToolCall, ToolDefinition};
use serde_json::{Map, Value as Json, json};

use super::Features;
use super::environment::python_literal;
use crate::format::ToolFormat;
use crate::ids::short_id_of;

/// Messages and tools in the shapes the template takes.
#[derive(Debug, Default)]
pub(super) struct Adapted {
    pub(super) messages: Vec<Json>,
    pub(super) tools: Vec<Json>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn adapt(
    messages: &[Message],
    tools: &[ToolDefinition],
    features: &Features,
    format: ToolFormat,
) -> Adapted {
    // Where tools are described in words, the history must show calls in those words.
    let in_words = !features.supports_tools && !tools.is_empty();
    let mut turns = Turns {
        turns: messages.to_vec(),
        warnings: Vec::new(),
    };
    turns.name_results();
    if !features.supports_developer {
        turns.developer_to_system();
    }
    if in_words {
        turns.describe_tools(tools);
    }
    if in_words || !features.supports_tool_calls {
        turns.calls_to_text(format);
    }
    if in_words || !features.supports_tool_results {
        turns.results_to_user();
    }
    if !features.supports_late_system {
        turns.late_system_to_user();
    }
    if !features.supports_system {
        turns.system_into_user();
    }
    if features.requires_alternation {
        turns.merge_runs();
    }
    let mut shaper = Shaper {
        features,
        warnings: turns.warnings,
    };
    Adapted {
        messages: turns
            .turns
            .iter()
            .map(|turn| shaper.message(turn))
            .collect(),
        tools: if features.supports_tools {
            tools.iter().map(tool_json).collect()
        } else {
            Vec::new()
        },
        warnings: shaper.warnings,
    }
}

struct Turns {
    turns: Vec<Message>,
    warnings: Vec<String>,
}

impl Turns {
    fn warn(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }

    /// Some templates want the tool's name beside its result; the wire has only the id.
    fn name_results(&mut self) {
        let calls: Vec<ToolCall> = self
            .turns
            .iter()
            .flat_map(|turn| turn.tool_calls.iter().cloned())
            .collect();
        for turn in &mut self.turns {
            if turn.role == Role::Tool && turn.name.is_none() {
                turn.name = calls
                    .iter()
                    .rfind(|call| Some(&call.id) == turn.tool_call_id.as_ref())
                    .map(|call| call.name.clone());
            }
        }
    }

    fn developer_to_system(&mut self) {
        let mut changed = false;
        for turn in &mut self.turns {
            if turn.role == Role::Developer {
                turn.role = Role::System;
                changed = true;
            }
        }
        if changed {
            self.warn("The role developer was given to the model as system.");
        }
    }

    fn describe_tools(&mut self, tools: &[ToolDefinition]) {
        let preamble = preamble(tools);
        match self.turns.first_mut() {
            Some(first) if first.role == Role::System => append(first, &preamble),
            _ => self.turns.insert(
                0,
                Message {
                    role: Role::System,
                    content: Some(preamble),
                    ..Message::default()
                },
            ),
        }
        self.warn(
            "The model's chat template knows no tools; they were described in the system prompt.",
        );
    }

    fn calls_to_text(&mut self, format: ToolFormat) {
        let mut changed = false;
        for turn in &mut self.turns {
            let calls = std::mem::take(&mut turn.tool_calls);
            if !calls.is_empty() {
                append(turn, &calls_text(&calls, format));
                changed = true;
            }
        }
        if changed {
            self.warn(
                "The model's chat template shows no tool calls; earlier ones were written as text.",
            );
        }
    }

    fn results_to_user(&mut self) {
        let mut changed = false;
        for turn in &mut self.turns {
            if turn.role != Role::Tool {
                continue;
            }
            let name = turn.name.take().unwrap_or_else(|| "tool".to_owned());
            let result = turn.content.take().unwrap_or_default();
            *turn = Message {
                role: Role::User,
                content: Some(format!("Result of {name}:\n{result}")),
                ..Message::default()
            };
            changed = true;
        }
        if changed {
            self.warn("The model's chat template shows no tool results; they were given as user messages.");
        }
    }

    /// One system message at the start, later ones as user text where they stand:
    /// moving them to the front would change the start of the prompt, and with it
    /// everything the prefix cache holds.
    fn late_system_to_user(&mut self) {
        let n_leading = self
            .turns
            .iter()
            .take_while(|turn| turn.role == Role::System)
            .count();
        if n_leading > 1 {
            let rest: Vec<_> = self.turns.drain(1..n_leading).collect();
            for turn in rest {
                append(
                    &mut self.turns[0],
                    turn.content.as_deref().unwrap_or_default(),
                );
            }
            self.warn("Several system messages at the start were joined into one.");
        }
        let mut changed = false;
        for turn in self.turns.iter_mut().skip(1) {
            if turn.role == Role::System {
                turn.role = Role::User;
                changed = true;
            }
        }
        if changed {
            self.warn("System messages after the start were given to the model as user messages.");
        }
    }

    fn system_into_user(&mut self) {
        let Some(at) = self.turns.iter().position(|turn| turn.role == Role::System) else {
            return;
        };
        let system = self.turns.remove(at).content.unwrap_or_default();
        match self.turns.get_mut(at) {
            Some(next) if next.role == Role::User => {
                let text = next.content.take().unwrap_or_default();
                next.content = Some(format!("{system}\n\n{text}"));
            }
            _ => self.turns.insert(
                at,
                Message {
                    role: Role::User,
                    content: Some(system),
                    ..Message::default()
                },
            ),
        }
        self.warn("The model's chat template has no system role; the system message was put into the first user message.");
    }

    fn merge_runs(&mut self) {
        let n_before = self.turns.len();
        let mut merged: Vec<Message> = Vec::with_capacity(n_before);
        for turn in self.turns.drain(..) {
            match merged.last_mut() {
                Some(last) if can_join(last, &turn) => {
                    append(last, turn.content.as_deref().unwrap_or_default());
                    last.tool_calls.extend(turn.tool_calls);
                }
                _ => merged.push(turn),
            }
        }
        self.turns = merged;
        if self.turns.len() < n_before {
            self.warn("The model's chat template wants user and assistant in turn; consecutive messages of one role were joined.");
        }
    }
}

fn can_join(last: &Message, next: &Message) -> bool {
    last.role == next.role
        && matches!(next.role, Role::User | Role::Assistant)
        && last.tool_calls.is_empty()
}

fn append(message: &mut Message, text: &str) {
    let content = message.content.get_or_insert_default();
    if !content.is_empty() && !text.is_empty() {
        content.push_str("\n\n");
    }
    content.push_str(text);
}

/// What a model without tool training is told. The answer it describes is the one
/// `ToolFormat::Generic` reads.
fn preamble(tools: &[ToolDefinition]) -> String {
    let mut text = String::from("You can use these tools, given as one JSON object a line:\n");
    for tool in tools {
        let _ = writeln!(text, "{}", tool_json(tool)["function"]);
    }
    text.push_str(
        "\nTo use a tool, answer with only this JSON object, one line for each use:\n\
         {\"tool_call\": {\"name\": \"<the tool's name>\", \"arguments\": {<its arguments>}}}\n\
         You are then given the result. When no tool helps, answer in plain text.",
    );
    text
}

/// Calls as the model itself would have written them.
fn calls_text(calls: &[ToolCall], format: ToolFormat) -> String {
    let parsed = calls.iter().map(|call| {
        let arguments = serde_json::from_str(&call.arguments);
        (
            call.name.as_str(),
            arguments.unwrap_or_else(|_| json!(call.arguments)),
        )
    });
    if format == ToolFormat::Lfm2 {
        let calls: Vec<String> = parsed
            .map(|(name, arguments)| python_call(name, &arguments))
            .collect();
        return format!("<|tool_call_start|>[{}]<|tool_call_end|>", calls.join(", "));
    }
    let lines: Vec<String> = parsed
        .map(|(name, arguments)| {
            let call = json!({"name": name, "arguments": arguments});
            match format {
                ToolFormat::Hermes => format!("<tool_call>\n{call}\n</tool_call>"),
                _ => json!({"tool_call": call}).to_string(),
            }
        })
        .collect();
    lines.join("\n")
}

fn python_call(name: &str, arguments: &Json) -> String {
    let arguments: Vec<String> = arguments
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", python_literal(value)))
        .collect();
    format!("{name}({})", arguments.join(", "))
}

fn tool_json(tool: &ToolDefinition) -> Json {
    let parameters = tool
        .parameters
        .clone()
        .unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    json!({"type": "function", "function": {
        "name": tool.name,
        "description": tool.description.as_deref().unwrap_or_default(),
        "parameters": parameters,
    }})
}

/// Gives messages the JSON shape the template was seen to want.
struct Shaper<'a> {
    features: &'a Features,
    warnings: Vec<String>,
}

impl Shaper<'_> {
    fn message(&mut self, message: &Message) -> Json {
        let mut out = Map::new();
        out.insert("role".to_owned(), json!(role_name(message.role)));
        let content = match &message.content {
            Some(text) if !text.is_empty() || message.tool_calls.is_empty() => json!(text),
            _ if !message.tool_calls.is_empty() && self.features.wants_null_content => Json::Null,
            _ => json!(""),
        };
        out.insert("content".to_owned(), content);
        if let Some(reasoning) = &message.reasoning_content {
            out.insert("reasoning_content".to_owned(), json!(reasoning));
        }
        if !message.tool_calls.is_empty() {
            let calls: Vec<Json> = message
                .tool_calls
                .iter()
                .map(|call| self.call(call))
                .collect();
            out.insert("tool_calls".to_owned(), Json::from(calls));
        }
        if let Some(id) = &message.tool_call_id {
            out.insert("tool_call_id".to_owned(), self.id(id));
        }
        if let Some(name) = &message.name {
            out.insert("name".to_owned(), json!(name));
        }
        Json::Object(out)
    }

    fn call(&mut self, call: &ToolCall) -> Json {
        json!({"id": self.id(&call.id), "type": "function", "function": {
            "name": call.name,
            "arguments": self.arguments(call),
        }})
    }

    fn id(&self, id: &str) -> Json {
        if self.features.wants_short_call_ids {
            json!(short_id_of(id))
        } else {
            json!(id)
        }
    }

    fn arguments(&mut self, call: &ToolCall) -> Json {
        let text = match call.arguments.trim() {
            "" => "{}",
            text => text,
        };
        if !self.features.wants_object_arguments {
            return json!(text);
        }
        match serde_json::from_str::<Json>(text) {
            Ok(object @ Json::Object(_)) => object,
            _ if self.features.takes_string_arguments => json!(text),
            _ => {
                self.warnings.push(format!(
                    "The arguments of an earlier call of {} are not a JSON object; they were given as {{\"arguments\": text}}.",
                    call.name
                ));
                json!({"arguments": text})
            }
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}
