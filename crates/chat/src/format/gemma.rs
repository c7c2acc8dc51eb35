//! FunctionGemma and Gemma 4: `call:f{k:<escape>v<escape>,n:3}`. Strings stand between
//! quote marks of their own, keys and everything else are bare.

use super::scan::{Expect, Expected, Until, escape, quoted};
use super::{CallMachine, CallSink, NAME_CHARS_MAX, Opener, Place, Step, is_name_char};

/// The marks of one dialect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
    /// Before and after a string.
    pub(super) quote: &'static str,
    quote_list: &'static [&'static str],
}

pub(super) const FUNCTION_GEMMA: Marks = Marks {
    open: "<start_function_call>",
    close: "<end_function_call>",
    quote: "<escape>",
    quote_list: &["<escape>"],
};
pub(super) const GEMMA_4: Marks = Marks {
    open: "<|tool_call>",
    close: "<tool_call|>",
    quote: "<|\"|>",
    quote_list: &["<|\"|>"],
};

pub(super) const FUNCTION_GEMMA_OPENERS: [Opener; 1] = [Opener {
    text: FUNCTION_GEMMA.open,
    place: Place::Anywhere,
    machine: || Box::new(GemmaCall::new(FUNCTION_GEMMA)),
}];
pub(super) const GEMMA_4_OPENERS: [Opener; 1] = [Opener {
    text: GEMMA_4.open,
    place: Place::Anywhere,
    machine: || Box::new(GemmaCall::new(GEMMA_4)),
}];

const CALL: &str = "call:";

#[derive(Debug)]
struct GemmaCall {
    marks: Marks,
    state: State,
    name: String,
    /// Open braces and brackets, the arguments' own brace included.
    brackets: Vec<char>,
    word: String,
    /// A comma to write before the next item; one after the last is dropped.
    comma: bool,
}

#[derive(Debug)]
enum State {
    Call(Expect),
    Name,
    /// Before a key or the closing brace; `word` has the key so far.
    Key,
    /// Before a value.
    Value,
    Bare,
    Quote(Expect),
    Text(Until),
    DoubleQuoted {
        escaped: bool,
    },
    AfterValue,
    Close(Expect),
}

impl GemmaCall {
    fn new(marks: Marks) -> Self {
        Self {
            marks,
            state: State::Call(Expect::new(CALL)),
            name: String::new(),
            brackets: Vec::new(),
            word: String::new(),
            comma: false,
        }
    }

    fn pending_comma(&mut self, sink: &mut CallSink<'_>) {
        if std::mem::take(&mut self.comma) {
            sink.arguments(", ");
        }
    }

    fn open_bracket(&mut self, c: char, sink: &mut CallSink<'_>) {
        self.brackets.push(c);
        sink.arguments(if c == '{' { "{" } else { "[" });
        self.word.clear();
        self.state = if c == '{' { State::Key } else { State::Value };
    }

    fn close_bracket(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        let open = if c == '}' { '{' } else { '[' };
        if self.brackets.pop() != Some(open) {
            return Step::Fail;
        }
        self.comma = false;
        sink.arguments(if c == '}' { "}" } else { "]" });
        self.state = State::AfterValue;
        if self.brackets.is_empty() {
            sink.end();
            self.state = State::Close(Expect::new(self.marks.close));
        }
        Step::More
    }

    fn key(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            ':' => {
                self.pending_comma(sink);
                let key = self.word.trim().trim_matches('"').to_owned();
                let key = key
                    .trim_start_matches(self.marks.quote)
                    .trim_end_matches(self.marks.quote);
                sink.arguments(&format!("{}: ", quoted(key)));
                self.state = State::Value;
                Step::More
            }
            '}' if self.word.trim().is_empty() => self.close_bracket(c, sink),
            '{' | '}' | '[' | ']' | ',' => Step::Fail,
            c => {
                self.word.push(c);
                Step::More
            }
        }
    }

    fn value(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        if !c.is_whitespace() && c != ']' {
            self.pending_comma(sink);
        }
        match c {
            c if c.is_whitespace() => Step::More,
            '{' | '[' => {
                self.open_bracket(c, sink);
                Step::More
            }
            ']' => self.close_bracket(c, sink),
            '"' => {
                sink.arguments("\"");
                self.state = State::DoubleQuoted { escaped: false };
                Step::More
            }
            '<' => {
                self.state = State::Quote(Expect::new(self.marks.quote));
                self.feed(c, sink)
            }
            '}' | ',' | ':' => Step::Fail,
            c => {
                self.word = c.to_string();
                self.state = State::Bare;
                Step::More
            }
        }
    }

    fn after_value(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match c {
            c if c.is_whitespace() => Step::More,
            ',' => {
                self.comma = true;
                self.word.clear();
                self.state = match self.brackets.last() {
                    Some('{') => State::Key,
                    _ => State::Value,
                };
                Step::More
            }
            '}' | ']' => self.close_bracket(c, sink),
            _ => Step::Fail,
        }
    }

    fn bare(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        if !matches!(c, ',' | '}' | ']') {
            self.word.push(c);
            return Step::More;
        }
        let word = self.word.trim();
        let json = match word {
            "True" => "true".to_owned(),
            "False" => "false".to_owned(),
            "None" => "null".to_owned(),
            _ if serde_json::from_str::<serde_json::Value>(word).is_ok() => word.to_owned(),
            _ => quoted(word),
        };
        sink.arguments(&json);
        self.state = State::AfterValue;
        self.after_value(c, sink)
    }

    fn double_quoted(&mut self, c: char, escaped: bool, sink: &mut CallSink<'_>) -> Step {
        let mut out = String::new();
        self.state = State::DoubleQuoted {
            escaped: c == '\\' && !escaped,
        };
        match c {
            '"' if !escaped => {
                out.push('"');
                self.state = State::AfterValue;
            }
            '\\' if !escaped => {}
            '"' | '\\' => escape(c, &mut out),
            'n' | 't' | 'r' | 'u' | 'b' | 'f' | '/' if escaped => {
                out.push('\\');
                out.push(c);
            }
            c => escape(c, &mut out),
        }
        sink.arguments(&out);
        Step::More
    }
}

impl CallMachine for GemmaCall {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step {
        match &mut self.state {
            State::Call(expect) => match expect.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => {
                    self.state = State::Name;
                    Step::More
                }
                Expected::Mismatch if expect.is_fresh() && c.is_whitespace() => Step::More,
                Expected::Mismatch => Step::Fail,
            },
            State::Name if c == '{' => {
                let name = self.name.trim().to_owned();
                if !sink.accepts(&name) {
                    return Step::Fail;
                }
                sink.start(&name);
                self.open_bracket('{', sink);
                Step::More
            }
            State::Name if self.name.len() < NAME_CHARS_MAX && (is_name_char(c) || c == ' ') => {
                self.name.push(c);
                Step::More
            }
            State::Name => Step::Fail,
            State::Key => self.key(c, sink),
            State::Value => self.value(c, sink),
            State::Bare => self.bare(c, sink),
            State::Quote(quote) => match quote.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => {
                    sink.arguments("\"");
                    self.state = State::Text(Until::new(self.marks.quote_list));
                    Step::More
                }
                Expected::Mismatch => Step::Fail,
            },
            State::Text(until) => {
                let mut text = String::new();
                let hit = until.feed(c, &mut text);
                let mut out = String::new();
                text.chars().for_each(|c| escape(c, &mut out));
                if hit.is_some() {
                    out.push('"');
                    self.state = State::AfterValue;
                }
                sink.arguments(&out);
                Step::More
            }
            State::DoubleQuoted { escaped } => {
                let escaped = *escaped;
                self.double_quoted(c, escaped, sink)
            }
            State::AfterValue => self.after_value(c, sink),
            State::Close(close) => match close.feed(c) {
                Expected::More => Step::More,
                Expected::Complete => Step::Done,
                Expected::Mismatch if close.is_fresh() && c.is_whitespace() => Step::More,
                Expected::Mismatch => Step::Fail,
            },
        }
    }

    fn end(&mut self, _sink: &mut CallSink<'_>) -> bool {
        matches!(self.state, State::Close(_))
    }
}
