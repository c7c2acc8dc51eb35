//! The form our own preamble asks for, `{"tool_call": {…}}`, and bare or fenced JSON
//! calls of any model. Read in every format.

use super::json::{JsonCall, Manner};
use super::pythonic::{self, Frame, PythonCalls};
use super::scan::{Expect, Expected};
use super::{CallMachine, CallSink, Opener, Place, Step, deepseek, hermes, mistral, xml};

/// Granite 3 and Phi 4 write a list behind this, with or without an end.
const GRANITE_OPENER: Opener = Opener {
    text: "<|tool_call|>",
    place: Place::Anywhere,
    machine: || Box::new(BareCalls::new(Wrapping::Tag("<|/tool_call|>"))),
};
const NEMOTRON_OPENER: Opener = Opener {
    text: "<TOOLCALL>",
    place: Place::Anywhere,
    machine: || Box::new(BareCalls::new(Wrapping::Tag("</TOOLCALL>"))),
};

/// A model told about tools in words may still answer in the markup of its training.
pub(super) const FOREIGN_OPENERS: [Opener; 9] = [
    hermes::OPENER,
    hermes::SEED_OPENER,
    GRANITE_OPENER,
    NEMOTRON_OPENER,
    xml::OPENER,
    deepseek::SECTION_OPENER,
    deepseek::CALL_OPENER,
    mistral::OPENER,
    pythonic::LFM_OPENER,
];

pub(super) const OPENERS: [Opener; 4] = [
    Opener {
        text: "{",
        place: Place::AtStart,
        machine: || Box::new(BareCalls::new(Wrapping::Opened)),
    },
    Opener {
        text: "[",
        place: Place::AtStart,
        machine: || Box::new(BareCalls::new(Wrapping::List)),
    },
    Opener {
        text: "```json",
        place: Place::AtStart,
        machine: || Box::new(BareCalls::new(Wrapping::Fence)),
    },
    Opener {
        text: "```tool_call",
        place: Place::AtStart,
        machine: || Box::new(BareCalls::new(Wrapping::Fence)),
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    Opened,
    List,
    Fence,
    /// A list, or one object, up to this tag.
    Tag(&'static str),
}

/// Reads one bare or tagged object, a list of objects or of Python calls, or what is in a
/// Markdown fence.
#[derive(Debug)]
struct BareCalls {
    wrapping: Wrapping,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Call(JsonCall),
    Python(PythonCalls),
    Between,
    Close(Expect),
}

impl BareCalls {
    fn new(wrapping: Wrapping) -> Self {
        let state = match wrapping {
            Wrapping::Opened => State::Call(JsonCall::opened(Manner::Bare)),
            _ => State::Open,
        };
        Self { wrapping, state }
    }
}

impl CallMachine for BareCalls {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let in_tag = matches!(self.wrapping, Wrapping::Tag(_));
        match &mut self.state {
            State::Open | State::Between if c.is_whitespace() => Step::More,
            State::Open | State::Between if c == '{' => {
                let manner = if in_tag {
                    Manner::Announced
                } else {
                    Manner::Bare
                };
                self.state = State::Call(JsonCall::opened(manner));
                Step::More
            }
            State::Open if c == '[' && in_tag => Step::More,
            State::Between if c == ']' && in_tag => Step::More,
            State::Open if self.wrapping == Wrapping::List && c != ']' => {
                let mut calls = PythonCalls::new(Frame::List);
                let step = calls.feed(c, sink);
                self.state = State::Python(calls);
                step
            }
            State::Open => Step::Fail,
            State::Python(calls) => calls.feed(c, sink),
            State::Call(call) => {
                let step = call.feed(c, sink);
                if step != Step::Done || self.wrapping == Wrapping::Opened {
                    return step;
                }
                self.state = State::Between;
                Step::More
            }
            State::Between if c == ',' => Step::More,
            State::Between => {
                let close = match self.wrapping {
                    Wrapping::Fence => "```",
                    Wrapping::Tag(close) => close,
                    _ => "]",
                };
                self.state = State::Close(Expect::new(close));
                self.feed(c, sink)
            }
            State::Close(close) => match close.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => Step::Done,
                Expected::Mismatch => Step::Fail,
            },
        }
    }

    fn end(&mut self, sink: &mut CallSink<'_>) -> bool {
        match &mut self.state {
            State::Open => false,
            State::Call(call) => call.end(),
            State::Python(calls) => calls.end(sink),
            State::Between | State::Close(_) => true,
        }
    }
}
