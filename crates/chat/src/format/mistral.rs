//! Mistral: `[TOOL_CALLS]` and a JSON list, or a name, `[ARGS]` and a JSON object.

use super::json::{JsonCall, Manner};
use super::scan::{JsonSpan, Span, Until, escape_control};
use super::{CallMachine, CallSink, Opener, Place, Step};

pub(super) const OPEN: &str = "[TOOL_CALLS]";
pub(super) const ARGS: &str = "[ARGS]";

pub(super) const OPENER: Opener = Opener {
    text: OPEN,
    place: Place::Anywhere,
    machine: || Box::new(MistralCalls::new()),
};
pub(super) const OPENERS: [Opener; 1] = [OPENER];

/// Reads from behind `[TOOL_CALLS]` to the end of the list or of the one object.
#[derive(Debug)]
struct MistralCalls {
    state: State,
    name: String,
}

#[derive(Debug)]
enum State {
    Open,
    /// In the list: before a call, between two, or at its end.
    List {
        n_calls: u32,
    },
    Listed {
        call: JsonCall,
        n_calls: u32,
    },
    Single(JsonCall),
    /// The name, up to `[`.
    Name(Until),
    CallId(Until),
    BeforeArguments,
    Arguments(JsonSpan),
}

impl MistralCalls {
    fn new() -> Self {
        Self {
            state: State::Open,
            name: String::new(),
        }
    }

    fn open(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            c if c.is_whitespace() => {}
            '[' => self.state = State::List { n_calls: 0 },
            '{' => self.state = State::Single(JsonCall::opened(Manner::Announced)),
            _ => {
                self.state = State::Name(Until::new(&[ARGS, "[CALL_ID]", "{"]));
                return self.feed(c, sink);
            }
        }
        Step::More
    }

    fn name(&mut self, hit: usize, sink: &mut CallSink<'_>) -> Step {
        self.name = self.name.trim().to_owned();
        if !sink.accepts(&self.name) {
            return Step::Fail;
        }
        match hit {
            0 => self.state = State::BeforeArguments,
            1 => self.state = State::CallId(Until::new(&[ARGS, "{"])),
            _ => return self.begin_arguments(sink),
        }
        Step::More
    }

    fn begin_arguments(&mut self, sink: &mut CallSink<'_>) -> Step {
        sink.start(&self.name);
        self.state = State::Arguments(JsonSpan::default());
        self.argument_char('{', sink)
    }

    fn argument_char(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let State::Arguments(span) = &mut self.state else {
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
            return Step::Done;
        }
        Step::More
    }
}

impl CallMachine for MistralCalls {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Open => self.open(c, sink),
            State::List { n_calls } => {
                let n_calls = *n_calls;
                match c {
                    '{' => {
                        let call = JsonCall::opened(Manner::Announced);
                        self.state = State::Listed { call, n_calls };
                        Step::More
                    }
                    ']' if n_calls > 0 => Step::Done,
                    c if c.is_whitespace() || (c == ',' && n_calls > 0) => Step::More,
                    _ => Step::Fail,
                }
            }
            State::Listed { call, n_calls } => {
                let step = call.feed(c, sink);
                if step != Step::Done {
                    return step;
                }
                self.state = State::List {
                    n_calls: *n_calls + 1,
                };
                Step::More
            }
            State::Single(call) => call.feed(c, sink),
            State::Name(until) => {
                let mut text = String::new();
                let hit = until.feed(c, &mut text);
                self.name.push_str(&text);
                match hit {
                    Some(hit) => self.name(hit, sink),
                    None if self.name.contains('\n') => Step::Fail,
                    None => Step::More,
                }
            }
            State::CallId(until) => match until.feed(c, &mut String::new()) {
                Some(0) => {
                    self.state = State::BeforeArguments;
                    Step::More
                }
                Some(_) => self.begin_arguments(sink),
                None => Step::More,
            },
            State::BeforeArguments => match c {
                '{' => self.begin_arguments(sink),
                c if c.is_whitespace() => Step::More,
                _ => Step::Fail,
            },
            State::Arguments(_) => self.argument_char(c, sink),
        }
    }

    fn end(&mut self, _sink: &mut CallSink<'_>) -> bool {
        match &self.state {
            State::List { n_calls } => *n_calls > 0,
            State::Listed { call, .. } | State::Single(call) => call.end(),
            _ => false,
        }
    }
}
