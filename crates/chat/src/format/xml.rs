//! Qwen3-Coder: `<function=f>` with `<parameter=k>` elements. Llama 3.1's own
//! `<function=f>{…}</function>` opens the same way and is read here, too.

use super::args::{ArgumentWriter, Edges};
use super::scan::{Expect, Expected, JsonSpan, Span, Until, escape_control};
use super::{CallMachine, CallSink, NAME_CHARS_MAX, Opener, Place, Step, is_name_char};

pub(super) const OPEN: &str = "<function=";
const VALUE_ENDS: [&str; 2] = ["</parameter>", "</function>"];

pub(super) const OPENER: Opener = Opener {
    text: OPEN,
    place: Place::AnywhereIfOffered,
    machine: || Box::new(XmlCall::new()),
};

/// Reads from behind `<function=` to `</function>`.
#[derive(Debug)]
pub(super) struct XmlCall {
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
    /// Between elements.
    Body,
    Tag(String),
    Key,
    Value(Until),
    Json(JsonSpan),
    CloseAfterJson(Expect),
}

impl XmlCall {
    pub(super) fn new() -> Self {
        Self {
            state: State::Name,
            name: String::new(),
            key: String::new(),
            started: false,
            ended: false,
            arguments: ArgumentWriter::new(Edges::OneNewline),
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

    fn body(&mut self, c: char) -> Step {
        match c {
            c if c.is_whitespace() => {}
            '<' => self.state = State::Tag("<".to_owned()),
            _ => return Step::Fail,
        }
        Step::More
    }

    fn tag(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let State::Tag(tag) = &mut self.state else {
            return Step::Fail;
        };
        tag.push(c);
        match tag.as_str() {
            "<parameter=" => {
                self.start(sink);
                self.key.clear();
                self.state = State::Key;
                Step::More
            }
            "</function>" => {
                self.finish(sink);
                Step::Done
            }
            partial
                if ["<parameter=", "</function>"]
                    .iter()
                    .any(|t| t.starts_with(partial)) =>
            {
                Step::More
            }
            _ => Step::Fail,
        }
    }

    fn json(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let State::Json(span) = &mut self.state else {
            return Step::Fail;
        };
        let mut out = String::new();
        if span.in_string() {
            escape_control(c, &mut out);
        } else {
            out.push(c);
        }
        let step = span.feed(c);
        sink.arguments(&out);
        if step == Span::End {
            sink.end();
            self.ended = true;
            self.state = State::CloseAfterJson(Expect::new("</function>"));
        }
        Step::More
    }
}

impl CallMachine for XmlCall {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Name if c == '>' => {
                if !sink.accepts(&self.name) {
                    return Step::Fail;
                }
                self.state = State::Body;
                Step::More
            }
            State::Name => {
                if !is_name_char(c) || self.name.len() >= NAME_CHARS_MAX {
                    return Step::Fail;
                }
                self.name.push(c);
                Step::More
            }
            State::Body if c == '{' && !self.started => {
                self.start(sink);
                self.state = State::Json(JsonSpan::default());
                self.json(c, sink)
            }
            State::Body => self.body(c),
            State::Tag(_) => self.tag(c, sink),
            State::Key if c == '>' => {
                let kind = sink.tools.kind(&self.name, &self.key);
                self.arguments.begin(&self.key, kind, sink);
                self.state = State::Value(Until::new(&VALUE_ENDS));
                Step::More
            }
            State::Key => {
                if matches!(c, '<' | '\n') {
                    return Step::Fail;
                }
                self.key.push(c);
                Step::More
            }
            State::Value(until) => {
                let mut text = String::new();
                let hit = until.feed(c, &mut text);
                self.arguments.push(&text, sink);
                match hit {
                    None => Step::More,
                    Some(0) => {
                        self.arguments.end(sink);
                        self.state = State::Body;
                        Step::More
                    }
                    Some(_) => {
                        self.arguments.end(sink);
                        self.finish(sink);
                        Step::Done
                    }
                }
            }
            State::Json(_) => self.json(c, sink),
            State::CloseAfterJson(close) => {
                if close.is_fresh() && c.is_whitespace() {
                    return Step::More;
                }
                match close.feed(c) {
                    Expected::More => Step::More,
                    Expected::Complete => Step::Done,
                    Expected::Mismatch => Step::Fail,
                }
            }
        }
    }

    fn end(&mut self, sink: &mut CallSink<'_>) -> bool {
        // Between elements every argument is complete; only closing tags are missing.
        if self.started && !self.ended && matches!(self.state, State::Body | State::Tag(_)) {
            self.finish(sink);
        }
        self.ended
    }
}
