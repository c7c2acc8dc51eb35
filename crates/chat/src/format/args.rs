//! Writes a JSON object of arguments for formats whose own arguments are not JSON.

use serde_json::Value as Json;

use super::CallSink;
use super::scan::{escape, quoted};
use super::sink::ArgumentKind;

/// Builds one call's argument object, piece by piece. Text arguments stream; others
/// are held until they are complete, because their type is known only then.
#[derive(Debug)]
pub(crate) struct ArgumentWriter {
    n_written: usize,
    kind: ArgumentKind,
    edges: Edges,
    held: String,
    begun: bool,
    pending_newline: bool,
}

/// Whether the line breaks at a value's edges belong to the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edges {
    Kept,
    /// One leading and one trailing line break are the format's.
    OneNewline,
}

impl ArgumentWriter {
    pub(crate) fn new(edges: Edges) -> Self {
        Self {
            n_written: 0,
            kind: ArgumentKind::Text,
            edges,
            held: String::new(),
            begun: false,
            pending_newline: false,
        }
    }

    pub(crate) fn begin(&mut self, key: &str, kind: ArgumentKind, sink: &mut CallSink<'_>) {
        let open = if self.n_written == 0 { "{" } else { ", " };
        self.n_written += 1;
        sink.arguments(&format!("{open}{}: ", quoted(key)));
        if kind == ArgumentKind::Text {
            sink.arguments("\"");
        }
        self.kind = kind;
        self.held.clear();
        self.begun = false;
        self.pending_newline = false;
    }

    pub(crate) fn push(&mut self, text: &str, sink: &mut CallSink<'_>) {
        if self.kind != ArgumentKind::Text {
            self.held.push_str(text);
            return;
        }
        let mut out = String::new();
        for c in text.chars() {
            let first = !std::mem::replace(&mut self.begun, true);
            if self.edges == Edges::OneNewline && c == '\n' {
                if first {
                    continue;
                }
                if std::mem::replace(&mut self.pending_newline, true) {
                    out.push_str("\\n");
                }
                continue;
            }
            if std::mem::take(&mut self.pending_newline) {
                out.push_str("\\n");
            }
            escape(c, &mut out);
        }
        sink.arguments(&out);
    }

    pub(crate) fn end(&mut self, sink: &mut CallSink<'_>) {
        if self.kind == ArgumentKind::Text {
            sink.arguments("\"");
            return;
        }
        let mut text = self.held.as_str();
        if self.edges == Edges::OneNewline {
            text = text.strip_prefix('\n').unwrap_or(text);
            text = text.strip_suffix('\n').unwrap_or(text);
        }
        sink.arguments(&typed(text, self.kind));
    }

    /// Closes the object.
    pub(crate) fn close(&mut self, sink: &mut CallSink<'_>) {
        sink.arguments(if self.n_written == 0 { "{}" } else { "}" });
    }
}

/// `text` as JSON: its own where it parses and the kind allows, else a string.
fn typed(text: &str, kind: ArgumentKind) -> String {
    let trimmed = text.trim();
    let python = match trimmed {
        "True" => Some("true"),
        "False" => Some("false"),
        "None" => Some("null"),
        _ => None,
    };
    if let Some(json) = python {
        return json.to_owned();
    }
    match serde_json::from_str::<Json>(trimmed) {
        Ok(Json::String(_)) if kind == ArgumentKind::Either => quoted(text),
        Ok(_) => trimmed.to_owned(),
        Err(_) => quoted(text),
    }
}
