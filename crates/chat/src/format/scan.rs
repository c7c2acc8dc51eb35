//! Small scanners the families' machines are built from. All read one character at
//! a time.

/// Checks that what comes is exactly `text`.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    text: &'static str,
    /// Bytes of `text` already seen.
    at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    More,
    /// The character was the last one.
    Complete,
    Mismatch,
}

impl Expect {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn feed(&mut self, c: char) -> Expected {
        if !self.text[self.at..].starts_with(c) {
            return Expected::Mismatch;
        }
        self.at += c.len_utf8();
        if self.at == self.text.len() {
            Expected::Complete
        } else {
            Expected::More
        }
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.at == 0
    }
}

/// Passes text on until one of several markers comes. Holds back only what may be
/// the beginning of a marker.
#[derive(Debug, Clone)]
pub(crate) struct Until {
    markers: &'static [&'static str],
    held: String,
}

impl Until {
    pub(crate) fn new(markers: &'static [&'static str]) -> Self {
        Self {
            markers,
            held: String::new(),
        }
    }

    /// Appends what is certain to be text to `text`; `Some(i)` when marker `i` is complete.
    pub(crate) fn feed(&mut self, c: char, text: &mut String) -> Option<usize> {
        self.held.push(c);
        loop {
            if let Some(i) = self.markers.iter().position(|m| *m == self.held) {
                self.held.clear();
                return Some(i);
            }
            if self.markers.iter().any(|m| m.starts_with(&self.held)) {
                return None;
            }
            // Not empty: every marker begins with the empty string.
            text.push(self.held.remove(0));
        }
    }
}

/// Follows a JSON value by its brackets and quotes, without judging what is between.
#[derive(Debug, Clone, Default)]
pub(crate) struct JsonSpan {
    shape: Shape,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Unread,
    Container,
    Text,
    Scalar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    Inside,
    /// The character is the value's last.
    End,
    /// The value ended before the character.
    Before,
    /// No value begins with this character.
    Bad,
}

impl JsonSpan {
    pub(crate) fn feed(&mut self, c: char) -> Span {
        if self.shape == Shape::Unread {
            return self.begin(c);
        }
        if self.shape == Shape::Scalar {
            return if c.is_whitespace() || matches!(c, ',' | '}' | ']') {
                Span::Before
            } else if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') {
                Span::Inside
            } else {
                Span::Bad
            };
        }
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.depth == 0 {
                        return Span::End;
                    }
                }
                _ => {}
            }
            return Span::Inside;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Span::End;
                }
            }
            _ => {}
        }
        Span::Inside
    }

    fn begin(&mut self, c: char) -> Span {
        self.shape = match c {
            '{' | '[' => {
                self.depth = 1;
                Shape::Container
            }
            '"' => {
                self.in_string = true;
                Shape::Text
            }
            c if c.is_ascii_alphanumeric() || c == '-' => Shape::Scalar,
            _ => return Span::Bad,
        };
        Span::Inside
    }

    /// Whether the last character fed is inside a string.
    pub(crate) fn in_string(&self) -> bool {
        self.in_string
    }
}

/// `c` as it may stand in a JSON string: models write raw line breaks into strings,
/// which no JSON parser takes.
pub(crate) fn escape_control(c: char, out: &mut String) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c < ' ' => {
            let _ = std::fmt::Write::write_fmt(out, format_args!("\\u{:04x}", u32::from(c)));
        }
        c => out.push(c),
    }
}

/// `c` as a character of a JSON string's content.
pub(crate) fn escape(c: char, out: &mut String) {
    if matches!(c, '"' | '\\') {
        out.push('\\');
    }
    escape_control(c, out);
}

/// `text` as a JSON string, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        escape(c, &mut out);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_holds_back_no_more_than_a_marker_may_need() {
        let mut until = Until::new(&["</a>", "</b>"]);
        let mut text = String::new();
        for c in "x<<</".chars() {
            assert_eq!(until.feed(c, &mut text), None);
        }
        assert_eq!(text, "x<<");
        assert_eq!(until.feed('b', &mut text), None);
        assert_eq!(until.feed('>', &mut text), Some(1));
        assert_eq!(text, "x<<");
    }

    #[test]
    fn spans_end_where_values_end() {
        for (text, rest) in [
            (r#"{"a":"}\"","b":[1]} tail"#, " tail"),
            (r#""a\"b" tail"#, " tail"),
            ("-1.5e3, tail", ", tail"),
            ("true}", "}"),
        ] {
            let mut span = JsonSpan::default();
            let at = text
                .char_indices()
                .find_map(|(i, c)| match span.feed(c) {
                    Span::End => Some(i + 1),
                    Span::Before => Some(i),
                    _ => None,
                })
                .unwrap();
            assert_eq!(&text[at..], rest);
        }
    }
}
