//! `<tool_call>` … `</tool_call>`: JSON (Hermes, Qwen), `<function=…>` elements
//! (Qwen3-Coder) or GLM's key and value tags. Models trained on one of them slip into
//! another now and then, so the first character inside decides.

use super::glm::GlmCall;
use super::json::{JsonCall, Manner};
use super::scan::{Expect, Expected};
use super::xml::{self, XmlCall};
use super::{CallMachine, CallSink, Opener, Place, Step, is_name_char};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

pub(super) const OPENER: Opener = Opener {
    text: OPEN,
    place: Place::Anywhere,
    machine: || Box::new(TaggedCalls::new(CLOSE)),
};
/// Seed-OSS: the same inside, other tags.
pub(super) const SEED_OPENER: Opener = Opener {
    text: "<seed:tool_call>",
    place: Place::Anywhere,
    machine: || Box::new(TaggedCalls::new("</seed:tool_call>")),
};
pub(super) const OPENERS: [Opener; 3] = [OPENER, SEED_OPENER, xml::OPENER];

/// Reads from behind `<tool_call>` to `</tool_call>`; several JSON calls may share a tag.
#[derive(Debug)]
pub(super) struct TaggedCalls {
    close: &'static str,
    state: State,
    n_calls: u32,
}

#[derive(Debug)]
enum State {
    Open,
    Json(JsonCall),
    Tag(Expect),
    Xml(XmlCall),
    Glm(GlmCall),
    /// A call is complete: the closing tag or another call.
    Between,
    Close(Expect),
}

impl TaggedCalls {
    fn new(close: &'static str) -> Self {
        Self {
            close,
            state: State::Open,
            n_calls: 0,
        }
    }

    fn open(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            c if c.is_whitespace() => Step::More,
            '{' => {
                self.state = State::Json(JsonCall::opened(Manner::Announced));
                Step::More
            }
            '<' => {
                self.state = State::Tag(Expect::new(xml::OPEN));
                self.feed(c, sink)
            }
            c if is_name_char(c) => {
                let mut call = GlmCall::new();
                let step = call.feed(c, sink);
                self.state = State::Glm(call);
                step
            }
            _ => Step::Fail,
        }
    }

    fn after(&mut self, step: Step) -> Step {
        if step == Step::Done {
            self.n_calls += 1;
            self.state = State::Between;
            return Step::More;
        }
        step
    }
}

impl CallMachine for TaggedCalls {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Open => self.open(c, sink),
            State::Json(call) => {
                let step = call.feed(c, sink);
                self.after(step)
            }
            State::Xml(call) => {
                let step = call.feed(c, sink);
                self.after(step)
            }
            State::Glm(call) => {
                let step = call.feed(c, sink);
                if step == Step::Done {
                    self.n_calls += 1;
                }
                step
            }
            State::Tag(tag) => match tag.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => {
                    self.state = State::Xml(XmlCall::new());
                    Step::More
                }
                Expected::Mismatch => Step::Fail,
            },
            State::Between => match c {
                c if c.is_whitespace() || c == ',' => Step::More,
                '{' => {
                    self.state = State::Json(JsonCall::opened(Manner::Announced));
                    Step::More
                }
                _ => {
                    self.state = State::Close(Expect::new(self.close));
                    self.feed(c, sink)
                }
            },
            State::Close(close) => match close.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => Step::Done,
                Expected::Mismatch => Step::Fail,
            },
        }
    }

    fn end(&mut self, sink: &mut CallSink<'_>) -> bool {
        match &mut self.state {
            State::Open | State::Tag(_) => false,
            State::Json(call) => call.end(),
            State::Xml(call) => call.end(sink),
            State::Glm(call) => call.end(sink),
            State::Between | State::Close(_) => true,
        }
    }
}
