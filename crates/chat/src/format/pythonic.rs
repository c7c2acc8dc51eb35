//! Calls as Python source: `[f(k="v", n=3), g()]` (LFM2, Llama 3.2) and `f(k="v")` in a
//! `tool_code` fence (Gemma 3). Python literals become JSON as they come.

use super::json::{JsonCall, Manner};
use super::scan::{Expect, Expected, escape, quoted};
use super::{CallMachine, CallSink, NAME_CHARS_MAX, Opener, Place, Step, is_name_char};

pub(super) const LFM_OPEN: &str = "<|tool_call_start|>";
pub(super) const LFM_CLOSE: &str = "<|tool_call_end|>";

pub(super) const LFM_OPENER: Opener = Opener {
    text: LFM_OPEN,
    place: Place::Anywhere,
    machine: || Box::new(PythonCalls::new(Frame::Tag)),
};
pub(super) const LFM_OPENERS: [Opener; 1] = [LFM_OPENER];

pub(super) const CODE_OPENERS: [Opener; 1] = [Opener {
    text: "```tool_code",
    place: Place::Anywhere,
    machine: || Box::new(PythonCalls::new(Frame::Fence)),
}];

/// What the calls stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// A list up to `<|tool_call_end|>`.
    Tag,
    /// Lines up to a closing Markdown fence.
    Fence,
    /// A list whose opening bracket was taken already.
    List,
}

#[derive(Debug)]
pub(super) struct PythonCalls {
    frame: Frame,
    state: State,
    in_list: bool,
    n_calls: u32,
    call: Call,
}

#[derive(Debug)]
enum State {
    /// Before the list, a call, a separator or the frame's end.
    Between,
    Json(JsonCall),
    Name,
    /// Before an argument or the closing parenthesis.
    Argument,
    /// A keyword, or a positional argument that looks like one.
    Key,
    AfterKey,
    Value(Literal),
    Close(Expect),
}

#[derive(Debug, Default)]
struct Call {
    name: String,
    key: String,
    n_arguments: usize,
}

impl PythonCalls {
    pub(super) fn new(frame: Frame) -> Self {
        Self {
            frame,
            state: State::Between,
            in_list: frame == Frame::List,
            n_calls: 0,
            call: Call::default(),
        }
    }

    fn between(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            c if c.is_whitespace() => Step::More,
            ',' | ';' if self.n_calls > 0 => Step::More,
            '[' if !self.in_list && self.n_calls == 0 => {
                self.in_list = true;
                Step::More
            }
            ']' if self.in_list && self.n_calls > 0 => {
                self.in_list = false;
                if self.frame == Frame::List {
                    Step::Done
                } else {
                    Step::More
                }
            }
            '{' if self.frame != Frame::List => {
                self.state = State::Json(JsonCall::opened(Manner::Announced));
                Step::More
            }
            c if c.is_alphabetic() || c == '_' => {
                self.call = Call::default();
                self.state = State::Name;
                self.feed(c, sink)
            }
            _ if self.n_calls == 0 => Step::Fail,
            _ => {
                let close = match self.frame {
                    Frame::Tag => LFM_CLOSE,
                    Frame::Fence => "```",
                    Frame::List => return Step::Fail,
                };
                self.state = State::Close(Expect::new(close));
                self.feed(c, sink)
            }
        }
    }

    fn call_opens(&mut self, sink: &mut CallSink<'_>) -> Step {
        let name = self.call.name.trim_end().to_owned();
        // `print(f(x))` is how Gemma was first prompted.
        if self.frame == Frame::Fence && name == "print" && !sink.tools.has("print") {
            self.call = Call::default();
            self.state = State::Name;
            return Step::More;
        }
        if !sink.accepts(&name) {
            return Step::Fail;
        }
        sink.start(&name);
        self.call.name = name;
        self.state = State::Argument;
        Step::More
    }

    fn argument(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            c if c.is_whitespace() || c == ',' => Step::More,
            ')' => {
                sink.arguments(if self.call.n_arguments == 0 {
                    "{}"
                } else {
                    "}"
                });
                sink.end();
                self.n_calls += 1;
                self.state = State::Between;
                Step::More
            }
            c if c.is_alphabetic() || c == '_' => {
                self.call.key = c.to_string();
                self.state = State::Key;
                Step::More
            }
            _ => {
                let index = self.call.n_arguments;
                let Some(key) = sink.tools.argument_name(&self.call.name, index) else {
                    return Step::Fail;
                };
                self.call.key = key;
                self.begin_value(sink);
                self.value(c, sink)
            }
        }
    }

    /// `True` and its like as a positional argument; any other bare word is no call.
    fn bare_word(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let word = std::mem::take(&mut self.call.key);
        let name = sink
            .tools
            .argument_name(&self.call.name, self.call.n_arguments);
        let (Some(json), Some(key)) = (python_word(&word), name) else {
            return Step::Fail;
        };
        self.call.key = key;
        self.begin_value(sink);
        sink.arguments(json);
        self.state = State::Argument;
        self.argument(c, sink)
    }

    fn begin_value(&mut self, sink: &mut CallSink<'_>) {
        let open = if self.call.n_arguments == 0 {
            "{"
        } else {
            ", "
        };
        self.call.n_arguments += 1;
        sink.arguments(&format!("{open}{}: ", quoted(&self.call.key)));
        self.state = State::Value(Literal::default());
    }

    fn value(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let State::Value(literal) = &mut self.state else {
            return Step::Fail;
        };
        let mut out = String::new();
        let step = literal.feed(c, &mut out);
        sink.arguments(&out);
        match step {
            LiteralStep::Inside => Step::More,
            LiteralStep::Before => {
                self.state = State::Argument;
                self.argument(c, sink)
            }
            LiteralStep::Bad => Step::Fail,
        }
    }
}

impl CallMachine for PythonCalls {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            // The parentheses of `print(…)` close after the call.
            State::Between if c == ')' && self.frame == Frame::Fence && self.n_calls > 0 => {
                Step::More
            }
            State::Between => self.between(c, sink),
            State::Json(call) => {
                let step = call.feed(c, sink);
                if step != Step::Done {
                    return step;
                }
                self.n_calls += 1;
                self.state = State::Between;
                Step::More
            }
            State::Name if c == '(' => self.call_opens(sink),
            State::Name if is_name_char(c) && self.call.name.len() < NAME_CHARS_MAX => {
                self.call.name.push(c);
                Step::More
            }
            State::Name => Step::Fail,
            State::Argument => self.argument(c, sink),
            State::Key if c.is_alphanumeric() || c == '_' => {
                self.call.key.push(c);
                Step::More
            }
            State::Key | State::AfterKey => match c {
                '=' => {
                    self.begin_value(sink);
                    Step::More
                }
                c if c.is_whitespace() => {
                    self.state = State::AfterKey;
                    Step::More
                }
                ',' | ')' => self.bare_word(c, sink),
                _ => Step::Fail,
            },
            State::Value(_) => self.value(c, sink),
            State::Close(close) => match close.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => Step::Done,
                Expected::Mismatch => Step::Fail,
            },
        }
    }

    fn end(&mut self, _sink: &mut CallSink<'_>) -> bool {
        match &self.state {
            State::Between | State::Close(_) => self.n_calls > 0,
            State::Json(call) => call.end(),
            _ => false,
        }
    }
}

/// Turns one Python literal into JSON as it comes.
#[derive(Debug, Default)]
struct Literal {
    state: LiteralState,
    brackets: Vec<char>,
    /// A number or a word being read.
    word: String,
    begun: bool,
    /// A comma to write before the next item: Python allows one after the last.
    comma: bool,
}

#[derive(Debug, Default)]
enum LiteralState {
    #[default]
    Between,
    Text {
        quote: char,
    },
    Escape {
        quote: char,
    },
    /// Digits of `\xNN` or `\uNNNN` still to come.
    Hex {
        quote: char,
        digits: String,
        n: usize,
    },
}

enum LiteralStep {
    Inside,
    /// The literal ended before the character.
    Before,
    Bad,
}

impl Literal {
    fn feed(&mut self, c: char, out: &mut String) -> LiteralStep {
        match &mut self.state {
            LiteralState::Between => return self.between(c, out),
            LiteralState::Text { quote } if c == *quote => {
                out.push('"');
                self.state = LiteralState::Between;
            }
            LiteralState::Text { quote } if c == '\\' => {
                self.state = LiteralState::Escape { quote: *quote };
            }
            LiteralState::Text { .. } => escape(c, out),
            LiteralState::Escape { quote } => {
                let quote = *quote;
                let n = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 0,
                };
                if n > 0 {
                    let digits = String::new();
                    self.state = LiteralState::Hex { quote, digits, n };
                    return LiteralStep::Inside;
                }
                match c {
                    'n' => out.push_str("\\n"),
                    't' => out.push_str("\\t"),
                    'r' => out.push_str("\\r"),
                    'b' => out.push_str("\\b"),
                    'f' => out.push_str("\\f"),
                    '\n' => {}
                    '\'' => out.push('\''),
                    '/' => out.push('/'),
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    other => {
                        out.push_str("\\\\");
                        escape(other, out);
                    }
                }
                self.state = LiteralState::Text { quote };
            }
            LiteralState::Hex { quote, digits, n } => {
                if !c.is_ascii_hexdigit() {
                    return LiteralStep::Bad;
                }
                digits.push(c);
                if digits.len() == *n {
                    out.push_str(&format!("\\u{digits:0>4}"));
                    self.state = LiteralState::Text { quote: *quote };
                }
            }
        }
        LiteralStep::Inside
    }

    fn between(&mut self, c: char, out: &mut String) -> LiteralStep {
        let in_word = c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let begins_item = in_word || matches!(c, '"' | '\'' | '{' | '[' | '(');
        if begins_item && std::mem::take(&mut self.comma) {
            out.push_str(", ");
        }
        if in_word {
            self.word.push(c);
            self.begun = true;
            return LiteralStep::Inside;
        }
        if !self.flush_word(out) {
            return LiteralStep::Bad;
        }
        let top = self.brackets.is_empty();
        match c {
            c if c.is_whitespace() => {}
            ',' | ')' if top && self.begun => return LiteralStep::Before,
            '"' | '\'' => {
                out.push('"');
                self.begun = true;
                self.state = LiteralState::Text { quote: c };
            }
            '{' | '[' | '(' => {
                out.push(if c == '{' { '{' } else { '[' });
                self.begun = true;
                self.brackets.push(c);
            }
            '}' | ']' | ')' => {
                let open = match c {
                    '}' => '{',
                    ']' => '[',
                    _ => '(',
                };
                if self.brackets.pop() != Some(open) {
                    return LiteralStep::Bad;
                }
                self.comma = false;
                out.push(if c == '}' { '}' } else { ']' });
            }
            ',' if !top => self.comma = true,
            ':' if self.brackets.last() == Some(&'{') => out.push_str(": "),
            _ => return LiteralStep::Bad,
        }
        LiteralStep::Inside
    }

    fn flush_word(&mut self, out: &mut String) -> bool {
        let word = std::mem::take(&mut self.word);
        if word.is_empty() {
            return true;
        }
        let json = match python_word(&word) {
            Some(json) => json,
            None if serde_json::from_str::<serde_json::Value>(&word).is_ok() => word.as_str(),
            None => return false,
        };
        out.push_str(json);
        true
    }
}

fn python_word(word: &str) -> Option<&'static str> {
    match word {
        "True" | "true" => Some("true"),
        "False" | "false" => Some("false"),
        "None" | "null" => Some("null"),
        _ => None,
    }
}
