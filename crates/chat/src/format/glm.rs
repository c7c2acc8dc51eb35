//! GLM 4: a name, then `<arg_key>k</arg_key><arg_value>v</arg_value>` pairs.

use super::args::{ArgumentWriter, Edges};
use super::scan::Until;
use super::{CallMachine, CallSink, NAME_CHARS_MAX, Step, is_name_char};

const TAGS: [&str; 3] = ["<arg_key>", "<arg_value>", "</tool_call>"];

/// Reads from behind `<tool_call>` to `</tool_call>`.
#[derive(Debug)]
pub(super) struct GlmCall {
    state: State,
    name: String,
    key: String,
    started: bool,
    ended: bool,
    arguments: ArgumentWriter,
}

#[derive(Debug)]
enum State {
    Name,
    /// Between elements; what has come of the next tag.
    Body(String),
    Key(Until),
    Value(Until),
}

impl GlmCall {
    pub(super) fn new() -> Self {
        Self {
            state: State::Name,
            name: String::new(),
            key: String::new(),
            started: false,
            ended: false,
            arguments: ArgumentWriter::new(Edges::Kept),
        }
    }

    fn start(&mut self, sink: &mut CallSink<'_>) {
        if !self.started {
            sink.start(&self.name);
            self.started = true;
        }
    }

    fn finish(&mut self, sink: &mut CallSink<'_>) {
        self.start(sink);
        self.arguments.close(sink);
        sink.end();
        self.ended = true;
    }

    fn body(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let State::Body(tag) = &mut self.state else {
            return Step::Fail;
        };
        if tag.is_empty() && c.is_whitespace() {
            return Step::More;
        }
        tag.push(c);
        match tag.as_str() {
            "<arg_key>" => {
                self.start(sink);
                self.key.clear();
                self.state = State::Key(Until::new(&["</arg_key>"]));
            }
            "<arg_value>" if self.started => {
                let kind = sink.tools.kind(&self.name, &self.key);
                self.arguments.begin(&self.key, kind, sink);
                self.state = State::Value(Until::new(&["</arg_value>"]));
            }
            "</tool_call>" => {
                self.finish(sink);
                return Step::Done;
            }
            partial
                if TAGS
                    .iter()
                    .any(|tag| tag.starts_with(partial) && *tag != partial) => {}
            _ => return Step::Fail,
        }
        Step::More
    }
}

impl CallMachine for GlmCall {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Name if self.name.is_empty() && c.is_whitespace() => Step::More,
            State::Name if c == '<' || c.is_whitespace() => {
                if !sink.accepts(&self.name) {
                    return Step::Fail;
                }
                self.state = State::Body(String::new());
                self.body(c, sink)
            }
            State::Name => {
                if !is_name_char(c) || self.name.len() >= NAME_CHARS_MAX {
                    return Step::Fail;
                }
                self.name.push(c);
                Step::More
            }
            State::Body(_) => self.body(c, sink),
            State::Key(until) => {
                let mut text = String::new();
                let hit = until.feed(c, &mut text);
                self.key.push_str(&text);
                if hit.is_some() {
                    self.key = self.key.trim().to_owned();
                    self.state = State::Body(String::new());
                }
                Step::More
            }
            State::Value(until) => {
                let mut text = String::new();
                let hit = until.feed(c, &mut text);
                self.arguments.push(&text, sink);
                if hit.is_some() {
                    self.arguments.end(sink);
                    self.state = State::Body(String::new());
                }
                Step::More
            }
        }
    }

    fn end(&mut self, sink: &mut CallSink<'_>) -> bool {
        if self.started && !self.ended && matches!(self.state, State::Body(_)) {
            self.finish(sink);
        }
        self.ended
    }
}
