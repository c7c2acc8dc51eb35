//! DeepSeek: calls between `<｜tool▁call▁begin｜>` and `<｜tool▁call▁end｜>`, all of
//! them in a section. V3 and R1 write `function`, a separator, the name and a JSON
//! fence; V3.1 writes the name, the separator and bare JSON.

use super::scan::{JsonSpan, Span, Until, escape_control};
use super::{CallMachine, CallSink, Opener, Place, Step};

pub(super) const SECTION_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const SECTION_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
const BETWEEN: [&str; 2] = [CALL_BEGIN, SECTION_END];

pub(super) const SECTION_OPENER: Opener = Opener {
    text: SECTION_BEGIN,
    place: Place::Anywhere,
    machine: || Box::new(DeepSeekCalls::new(State::Between(String::new()))),
};
pub(super) const CALL_OPENER: Opener = Opener {
    text: CALL_BEGIN,
    place: Place::Anywhere,
    machine: || Box::new(DeepSeekCalls::new(header())),
};
pub(super) const OPENERS: [Opener; 2] = [SECTION_OPENER, CALL_OPENER];

#[derive(Debug)]
struct DeepSeekCalls {
    state: State,
    name: String,
    n_calls: u32,
}

#[derive(Debug)]
enum State {
    /// In the section: what has come of the next marker.
    Between(String),
    Header(Until),
    /// V3: the name comes after the separator, up to the fence.
    Name,
    Fence,
    Arguments(JsonSpan),
    AfterArguments(Until),
}

fn header() -> State {
    State::Header(Until::new(&[SEPARATOR]))
}

impl DeepSeekCalls {
    fn new(state: State) -> Self {
        Self {
            state,
            name: String::new(),
            n_calls: 0,
        }
    }

    fn between(&mut self, c: char) -> Step {
        let State::Between(marker) = &mut self.state else {
            return Step::Fail;
        };
        if marker.is_empty() && c.is_whitespace() {
            return Step::More;
        }
        let fresh = marker.is_empty();
        marker.push(c);
        match marker.as_str() {
            CALL_BEGIN => {
                self.name.clear();
                self.state = header();
            }
            SECTION_END => return Step::Done,
            partial if BETWEEN.iter().any(|m| m.starts_with(partial)) => {}
            // The section's end marker is missing; text goes on.
            _ if fresh && self.n_calls > 0 => return Step::DoneBefore,
            _ => return Step::Fail,
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
            self.n_calls += 1;
            self.state = State::AfterArguments(Until::new(&[CALL_END]));
        }
        Step::More
    }

    fn header_complete(&mut self, sink: &CallSink<'_>) -> Step {
        self.name = self.name.trim().to_owned();
        if self.name == "function" && !sink.tools.has("function") {
            self.name.clear();
            self.state = State::Name;
            return Step::More;
        }
        self.state = State::Fence;
        if sink.accepts(&self.name) {
            Step::More
        } else {
            Step::Fail
        }
    }
}

impl CallMachine for DeepSeekCalls {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Between(_) => self.between(c),
            State::Header(until) => {
                let mut text = String::new();
                let hit = until.feed(c, &mut text);
                self.name.push_str(&text);
                match hit {
                    Some(_) => self.header_complete(sink),
                    None => Step::More,
                }
            }
            State::Name if matches!(c, '\n' | '`' | '{') => {
                self.name = self.name.trim().to_owned();
                if !sink.accepts(&self.name) {
                    return Step::Fail;
                }
                self.state = State::Fence;
                self.feed(c, sink)
            }
            State::Name => {
                self.name.push(c);
                Step::More
            }
            State::Fence => match c {
                '{' => self.begin_arguments(sink),
                '`' | 'j' | 's' | 'o' | 'n' => Step::More,
                c if c.is_whitespace() => Step::More,
                _ => Step::Fail,
            },
            State::Arguments(_) => self.argument_char(c, sink),
            State::AfterArguments(until) => {
                let mut text = String::new();
                if until.feed(c, &mut text).is_some() {
                    self.state = State::Between(String::new());
                    return Step::More;
                }
                if text.chars().all(|c| c.is_whitespace() || c == '`') {
                    Step::More
                } else {
                    Step::Fail
                }
            }
        }
    }

    fn end(&mut self, _sink: &mut CallSink<'_>) -> bool {
        matches!(self.state, State::Between(_) | State::AfterArguments(_)) && self.n_calls > 0
    }
}
