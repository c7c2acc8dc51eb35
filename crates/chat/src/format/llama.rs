//! Llama 3: `{"name": …, "parameters": …}` after `<|python_tag|>`, several with `;`
//! between them, or `<function=f>{…}</function>`. Bare calls are common to all formats.

use super::json::{JsonCall, Manner};
use super::xml;
use super::{CallMachine, CallSink, Opener, Place, Step};

pub(super) const PYTHON_TAG: &str = "<|python_tag|>";

pub(super) const OPENERS: [Opener; 2] = [
    Opener {
        text: PYTHON_TAG,
        place: Place::Anywhere,
        machine: || Box::new(TagCalls::default()),
    },
    xml::OPENER,
];

/// Reads the calls behind `<|python_tag|>`.
#[derive(Debug, Default)]
struct TagCalls {
    call: Option<JsonCall>,
    n_calls: u32,
}

impl CallMachine for TagCalls {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        if let Some(call) = &mut self.call {
            let step = call.feed(c, sink);
            if step != Step::Done {
                return step;
            }
            self.call = None;
            self.n_calls += 1;
            return Step::More;
        }
        match c {
            '{' => {
                self.call = Some(JsonCall::opened(Manner::Announced));
                Step::More
            }
            c if c.is_whitespace() || (c == ';' && self.n_calls > 0) => Step::More,
            _ if self.n_calls > 0 => Step::DoneBefore,
            _ => Step::Fail,
        }
    }

    fn end(&mut self, _sink: &mut CallSink<'_>) -> bool {
        match &self.call {
            Some(call) => call.end(),
            None => self.n_calls > 0,
        }
    }
}
