//! Where machines put what they read, and what they may ask about the tools.

use proto::ToolDefinition;
use serde_json::Value as Json;

use super::{NAME_CHARS_MAX, is_name_char};

/// What a machine has read of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallEvent {
    Start(String),
    /// The next part of the arguments' JSON text.
    Arguments(String),
    End,
}

/// The tools of a request, asked for names and argument types.
#[derive(Debug, Clone, Default)]
pub(crate) struct Toolbox {
    tools: Vec<ToolDefinition>,
}

/// How an argument written without quotes is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArgumentKind {
    /// Always text, whatever it looks like.
    Text,
    /// JSON where it parses, text otherwise.
    Json,
    /// Text or something else: JSON where it parses to anything but a string.
    Either,
}

impl Toolbox {
    pub(crate) fn new(tools: Vec<ToolDefinition>) -> Self {
        Self { tools }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.name == name)
    }

    fn properties(&self, tool: &str) -> Option<&serde_json::Map<String, Json>> {
        self.tools
            .iter()
            .find(|t| t.name == tool)?
            .parameters
            .as_ref()?
            .get("properties")?
            .as_object()
    }

    pub(crate) fn kind(&self, tool: &str, argument: &str) -> ArgumentKind {
        self.properties(tool)
            .and_then(|properties| properties.get(argument))
            .map_or(ArgumentKind::Either, argument_kind)
    }

    /// The name of a tool's `index`th argument, for calls by position.
    pub(crate) fn argument_name(&self, tool: &str, index: usize) -> Option<String> {
        self.properties(tool)?.keys().nth(index).cloned()
    }
}

/// What a schema says about quoting.
pub(crate) fn argument_kind(schema: &Json) -> ArgumentKind {
    let is_string = |json: &Json| json.as_str() == Some("string");
    match schema.get("type") {
        Some(Json::String(name)) if name == "string" => return ArgumentKind::Text,
        Some(Json::String(_)) => return ArgumentKind::Json,
        Some(Json::Array(types)) if types.iter().all(is_string) => return ArgumentKind::Text,
        Some(Json::Array(types)) if types.iter().any(is_string) => return ArgumentKind::Either,
        Some(Json::Array(_)) => return ArgumentKind::Json,
        _ => {}
    }
    if let Some(Json::Array(values)) = schema.get("enum") {
        return match values.iter().filter(|value| value.is_string()).count() {
            0 => ArgumentKind::Json,
            n if n == values.len() => ArgumentKind::Text,
            _ => ArgumentKind::Either,
        };
    }
    match schema.get("const") {
        Some(Json::String(_)) => ArgumentKind::Text,
        Some(_) => ArgumentKind::Json,
        None => ArgumentKind::Either,
    }
}

pub(crate) struct CallSink<'a> {
    pub(crate) tools: &'a Toolbox,
    /// Only offered tools are accepted as names.
    pub(crate) offered_only: bool,
    pub(crate) events: Vec<CallEvent>,
}

impl CallSink<'_> {
    /// Whether `name` can be a call's name here.
    pub(crate) fn accepts(&self, name: &str) -> bool {
        let well_formed = !name.is_empty()
            && name.chars().count() <= NAME_CHARS_MAX
            && name.chars().all(is_name_char);
        self.tools.has(name) || (well_formed && !self.offered_only)
    }

    pub(crate) fn start(&mut self, name: &str) {
        self.events.push(CallEvent::Start(name.to_owned()));
    }

    pub(crate) fn arguments(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.events.last_mut() {
            Some(CallEvent::Arguments(last)) => last.push_str(text),
            _ => self.events.push(CallEvent::Arguments(text.to_owned())),
        }
    }

    pub(crate) fn end(&mut self) {
        self.events.push(CallEvent::End);
    }
}
