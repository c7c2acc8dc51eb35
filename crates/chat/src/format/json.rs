//! One call as a JSON object: `{"name": …, "arguments": …}` and its relatives.

use super::scan::{JsonSpan, Span, escape_control};
use super::{CallSink, Step};

/// Reads one object. Accepts `parameters` and `args` for `arguments`, members in any
/// order, arguments given as a JSON string, and a wrapping `{"tool_call": {…}}`,
/// `{"function": {…}}` or `{"type": "function", "function": {…}}`.
#[derive(Debug)]
pub(crate) struct JsonCall {
    state: State,
    manner: Manner,
    /// Objects open around the call's own members, the innermost included.
    depth: u32,
    key: String,
    name: Option<String>,
    /// Arguments that came before the name, or that are a JSON string.
    held: String,
    arguments: Arguments,
    ended: bool,
}

/// How much doubt there is that this is a call at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A marker announced the call: unknown members are skipped.
    Announced,
    /// Bare JSON: unknown members mean that it is an ordinary JSON answer.
    Bare,
}

#[derive(Debug)]
enum State {
    Open,
    Member,
    Key { escaped: bool },
    Colon,
    Value,
    Name { escaped: bool },
    Skip(JsonSpan),
    Object(JsonSpan),
    Text(JsonSpan),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arguments {
    None,
    Held,
    Streamed,
}

const ARGUMENT_KEYS: [&str; 3] = ["arguments", "parameters", "args"];
const WRAPPER_KEYS: [&str; 2] = ["tool_call", "function"];
/// Members of a bare call that say nothing about it.
const IDLE_KEYS: [&str; 2] = ["type", "id"];

impl JsonCall {
    pub(crate) fn new(manner: Manner) -> Self {
        Self {
            state: State::Open,
            manner,
            depth: 0,
            key: String::new(),
            name: None,
            held: String::new(),
            arguments: Arguments::None,
            ended: false,
        }
    }

    /// For a caller that has already taken the opening brace.
    pub(crate) fn opened(manner: Manner) -> Self {
        Self {
            state: State::Member,
            depth: 1,
            ..Self::new(manner)
        }
    }

    pub(crate) fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Open => match c {
                '{' => {
                    self.depth = 1;
                    self.state = State::Member;
                    Step::More
                }
                c if c.is_whitespace() => Step::More,
                _ => Step::Fail,
            },
            State::Member => self.member(c, sink),
            State::Key { escaped } => {
                if c == '"' && !*escaped {
                    self.state = State::Colon;
                } else {
                    *escaped = c == '\\' && !*escaped;
                    self.key.push(c);
                }
                Step::More
            }
            State::Colon => match c {
                ':' => {
                    self.state = State::Value;
                    Step::More
                }
                c if c.is_whitespace() => Step::More,
                _ => Step::Fail,
            },
            State::Value if c.is_whitespace() => Step::More,
            State::Value => self.value(c, sink),
            State::Name { escaped } => {
                if c != '"' || *escaped {
                    *escaped = c == '\\' && !*escaped;
                    self.held_name().push(c);
                    return Step::More;
                }
                self.state = State::Member;
                self.name_complete(sink)
            }
            State::Skip(span) => match span.feed(c) {
                Span::Inside => Step::More,
                Span::End => {
                    self.state = State::Member;
                    Step::More
                }
                Span::Before => {
                    self.state = State::Member;
                    self.member(c, sink)
                }
                Span::Bad => Step::Fail,
            },
            State::Object(_) | State::Text(_) => self.argument_char(c, sink),
        }
    }

    /// Whether the output may end here.
    pub(crate) fn end(&self) -> bool {
        self.ended
    }

    fn held_name(&mut self) -> &mut String {
        self.name.get_or_insert_default()
    }

    fn member(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            '"' => {
                self.key.clear();
                self.state = State::Key { escaped: false };
                Step::More
            }
            ',' => Step::More,
            c if c.is_whitespace() => Step::More,
            '}' => self.close(sink),
            _ => Step::Fail,
        }
    }

    fn close(&mut self, sink: &mut CallSink<'_>) -> Step {
        self.depth -= 1;
        if !self.ended {
            let Some(name) = &self.name else {
                return Step::Fail;
            };
            if self.arguments == Arguments::None {
                if self.manner == Manner::Bare {
                    return Step::Fail;
                }
                sink.start(name);
                sink.arguments("{}");
            }
            sink.end();
            self.ended = true;
        }
        if self.depth == 0 {
            Step::Done
        } else {
            Step::More
        }
    }

    fn value(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let key = self.key.as_str();
        let is_name = key == "name" || (key == "function" && c == '"');
        if is_name && self.name.is_none() {
            if c != '"' {
                return Step::Fail;
            }
            self.held_name();
            self.state = State::Name { escaped: false };
            return Step::More;
        }
        if WRAPPER_KEYS.contains(&key) && c == '{' {
            self.depth += 1;
            self.state = State::Member;
            return Step::More;
        }
        if ARGUMENT_KEYS.contains(&key) && self.arguments == Arguments::None && !self.ended {
            return self.begin_arguments(c, sink);
        }
        if self.manner == Manner::Bare && !(IDLE_KEYS.contains(&key) && c == '"') {
            return Step::Fail;
        }
        let mut span = JsonSpan::default();
        if span.feed(c) == Span::Bad {
            return Step::Fail;
        }
        self.state = State::Skip(span);
        Step::More
    }

    fn begin_arguments(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        if self.manner == Manner::Bare && c != '{' && c != '"' {
            return Step::Fail;
        }
        self.held.clear();
        self.arguments = Arguments::Held;
        if let Some(name) = &self.name
            && c == '{'
        {
            sink.start(name);
            self.arguments = Arguments::Streamed;
        }
        let span = JsonSpan::default();
        self.state = match c {
            '"' => State::Text(span),
            _ => State::Object(span),
        };
        self.argument_char(c, sink)
    }

    fn argument_char(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let (State::Object(span) | State::Text(span)) = &mut self.state else {
            return Step::Fail;
        };
        let was_in_string = span.in_string();
        let step = span.feed(c);
        let mut out = String::new();
        match step {
            Span::Bad => return Step::Fail,
            Span::Before => {}
            _ if was_in_string => escape_control(c, &mut out),
            _ => out.push(c),
        }
        if self.arguments == Arguments::Streamed {
            sink.arguments(&out);
        } else {
            self.held.push_str(&out);
        }
        match step {
            Span::Inside => Step::More,
            Span::End => {
                self.arguments_complete(sink);
                Step::More
            }
            _ => {
                self.arguments_complete(sink);
                self.member(c, sink)
            }
        }
    }

    fn arguments_complete(&mut self, sink: &mut CallSink<'_>) {
        let was_text = matches!(self.state, State::Text(_));
        self.state = State::Member;
        if was_text {
            // A JSON string that holds the arguments' JSON text.
            let inner = serde_json::from_str::<String>(&self.held);
            self.held = match inner.as_deref().map(str::trim) {
                Ok("") => "{}".to_owned(),
                Ok(text) => text.to_owned(),
                Err(_) => std::mem::take(&mut self.held),
            };
        } else if self.held == "null" {
            self.held = "{}".to_owned();
        }
        if self.arguments == Arguments::Held
            && let Some(name) = &self.name
        {
            sink.start(name);
            sink.arguments(&self.held);
            self.arguments = Arguments::Streamed;
        }
    }

    fn name_complete(&mut self, sink: &mut CallSink<'_>) -> Step {
        let name = self.name.clone().unwrap_or_default();
        if !sink.accepts(&name) {
            return Step::Fail;
        }
        if self.arguments == Arguments::Held {
            sink.start(&name);
            sink.arguments(&self.held);
            self.arguments = Arguments::Streamed;
        }
        Step::More
    }
}
