//! GBNF text to rules.

use std::collections::HashMap;

use super::{Class, GbnfError, Grammar, NESTING_MAX, Node, REPETITIONS_MAX};

pub(super) fn grammar(text: &str) -> Result<Grammar, GbnfError> {
    let mut parser = Parser {
        text,
        at: 0,
        numbers: HashMap::new(),
        rules: Vec::new(),
        depth: 0,
    };
    parser.skip_space(Newlines::Skip);
    while parser.peek().is_some() {
        parser.rule()?;
        parser.skip_space(Newlines::Skip);
    }
    parser.finish()
}

#[derive(Clone, Copy, PartialEq)]
enum Newlines {
    Skip,
    Stop,
}

struct Slot {
    /// Where the rule was first named.
    at: usize,
    name: String,
    node: Option<Node>,
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset.
    at: usize,
    numbers: HashMap<String, usize>,
    rules: Vec<Slot>,
    depth: usize,
}

type Parsed<T> = Result<T, GbnfError>;

impl Parser<'_> {
    fn finish(self) -> Parsed<Grammar> {
        let Some(&root) = self.numbers.get("root") else {
            return Err(self.error(self.text.len(), "the grammar has no rule `root`"));
        };
        if let Some(slot) = self.rules.iter().find(|slot| slot.node.is_none()) {
            let message = format!("rule `{}` is not defined", slot.name);
            return Err(self.error(slot.at, &message));
        }
        let rules = self.rules.into_iter().filter_map(|slot| slot.node);
        Ok(Grammar {
            rules: rules.collect(),
            root,
        })
    }

    fn rule(&mut self) -> Parsed<()> {
        let start = self.at;
        let name = self.name();
        if name.is_empty() {
            return Err(self.error(start, "a rule name is expected"));
        }
        let number = self.number(&name, start);
        self.skip_space(Newlines::Stop);
        if !self.take("::=") {
            return Err(self.error(self.at, "`::=` is expected after the rule name"));
        }
        if self.rules[number].node.is_some() {
            return Err(self.error(start, &format!("rule `{name}` is defined twice")));
        }
        self.skip_space(Newlines::Skip);
        let node = self.choice(Newlines::Stop)?;
        self.rules[number].node = Some(node);
        match self.peek() {
            None | Some('\n' | '\r') => Ok(()),
            Some(c) => Err(self.error(self.at, &format!("`{c}` is not expected here"))),
        }
    }

    fn choice(&mut self, newlines: Newlines) -> Parsed<Node> {
        let mut options = vec![self.sequence(newlines)?];
        while self.takes_bar(newlines) {
            self.skip_space(Newlines::Skip);
            options.push(self.sequence(newlines)?);
        }
        Ok(match options.len() {
            1 => options.remove(0),
            _ => Node::Choice(options),
        })
    }

    /// A `|`, possibly on a later line: a rule cannot start with one, so that is no mistake.
    fn takes_bar(&mut self, newlines: Newlines) -> bool {
        let before = self.at;
        if newlines == Newlines::Stop {
            self.skip_space(Newlines::Skip);
        }
        if self.take("|") {
            return true;
        }
        self.at = before;
        false
    }

    fn sequence(&mut self, newlines: Newlines) -> Parsed<Node> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            let start = self.at;
            let item = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('(') => self.group()?,
                Some('<') => self.token()?,
                Some('.') => {
                    self.at += 1;
                    any_character()
                }
                Some('!') => return Err(self.error(start, "negated tokens are not supported")),
                Some(c) if is_name(c) => {
                    let name = self.name();
                    Node::Rule(self.number(&name, start))
                }
                Some('*' | '+' | '?' | '{') => {
                    return Err(self.error(start, "there is nothing to repeat here"));
                }
                _ => break,
            };
            let item = self.repeated(item, newlines)?;
            items.push(item);
            self.skip_space(newlines);
        }
        Ok(match items.len() {
            1 => items.remove(0),
            _ => Node::Sequence(items),
        })
    }

    fn repeated(&mut self, mut item: Node, newlines: Newlines) -> Parsed<Node> {
        let mut depth = self.depth;
        loop {
            let before = self.at;
            self.skip_space(newlines);
            let start = self.at;
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.counts()?,
                _ => {
                    self.at = before;
                    return Ok(item);
                }
            };
            self.at += 1;
            if let Node::Repeat {
                min: inner_min,
                max: inner_max,
                ..
            } = &mut item
                && is_simple(min, max)
                && is_simple(*inner_min, *inner_max)
            {
                *inner_min *= min;
                *inner_max = inner_max.and(max);
                continue;
            }
            depth += 1;
            if depth > NESTING_MAX {
                let message = format!("parentheses and repetitions nest deeper than {NESTING_MAX}");
                return Err(self.error(start, &message));
            }
            item = Node::Repeat {
                item: Box::new(item),
                min,
                max,
            };
        }
    }

    /// `{m}`, `{m,}` or `{m,n}`, up to the closing brace.
    fn counts(&mut self) -> Parsed<(u32, Option<u32>)> {
        let start = self.at;
        self.at += 1;
        let min = self.count()?;
        self.skip_space(Newlines::Skip);
        let max = if self.take(",") {
            self.skip_space(Newlines::Skip);
            match self.peek() {
                Some('}') => None,
                _ => Some(self.count()?),
            }
        } else {
            Some(min)
        };
        self.skip_space(Newlines::Skip);
        if self.peek() != Some('}') {
            return Err(self.error(self.at, "`}` is expected after the count"));
        }
        if max.is_some_and(|max| max < min) {
            return Err(self.error(start, "the second count is below the first"));
        }
        Ok((min, max))
    }

    fn count(&mut self) -> Parsed<u32> {
        self.skip_space(Newlines::Skip);
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        if digits.is_empty() {
            return Err(self.error(start, "a count is expected"));
        }
        match digits.parse() {
            Ok(count) if count <= REPETITIONS_MAX => Ok(count),
            _ => {
                let message = format!("count {digits} is over the limit of {REPETITIONS_MAX}");
                Err(self.error(start, &message))
            }
        }
    }

    fn literal(&mut self) -> Parsed<Node> {
        let start = self.at;
        self.at += 1;
        let mut items = Vec::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(Node::Sequence(items));
                }
                None | Some('\n') => return Err(self.error(start, "the string is not closed")),
                Some(_) => {
                    let c = self.character()?;
                    items.push(Node::Characters(Class {
                        ranges: vec![(c, c)],
                        is_negated: false,
                    }));
                }
            }
        }
    }

    fn class(&mut self) -> Parsed<Node> {
        let start = self.at;
        self.at += 1;
        let is_negated = self.take("^");
        let mut ranges = Vec::new();
        loop {
            let first_at = self.at;
            match self.peek() {
                Some(']') => break,
                None | Some('\n') => return Err(self.error(start, "the class is not closed")),
                Some(_) => {}
            }
            let first = self.character()?;
            let is_range =
                self.text[self.at..].starts_with('-') && !self.text[self.at..].starts_with("-]");
            let last = if is_range {
                self.at += 1;
                match self.peek() {
                    None | Some('\n') => return Err(self.error(start, "the class is not closed")),
                    Some(_) => self.character()?,
                }
            } else {
                first
            };
            if last < first {
                return Err(self.error(first_at, "the range ends before it begins"));
            }
            ranges.push((first, last));
        }
        self.at += 1;
        if ranges.is_empty() && !is_negated {
            return Err(self.error(start, "the class is empty, so nothing matches it"));
        }
        Ok(Node::Characters(Class { ranges, is_negated }))
    }

    /// One character of a string or class, with llama.cpp's escapes.
    fn character(&mut self) -> Parsed<char> {
        let start = self.at;
        let Some(c) = self.next() else {
            return Err(self.error(start, "a character is expected"));
        };
        if c != '\\' {
            return Ok(c);
        }
        let digits = match self.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('n') => return Ok('\n'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '.')) => return Ok(c),
            Some(c) => return Err(self.error(start, &format!("`\\{c}` is not an escape"))),
            None => return Err(self.error(start, "the escape is cut short")),
        };
        self.text
            .get(self.at..self.at + digits)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32)
            .inspect(|_| self.at += digits)
            .ok_or_else(|| {
                let message = format!("{digits} hex digits of a character are expected");
                self.error(start, &message)
            })
    }

    fn group(&mut self) -> Parsed<Node> {
        let start = self.at;
        self.depth += 1;
        if self.depth > NESTING_MAX {
            let message = format!("parentheses and repetitions nest deeper than {NESTING_MAX}");
            return Err(self.error(start, &message));
        }
        self.at += 1;
        self.skip_space(Newlines::Skip);
        let node = self.choice(Newlines::Skip)?;
        if !self.take(")") {
            return Err(match self.peek() {
                None => self.error(start, "the parenthesis is not closed"),
                Some(c) => self.error(self.at, &format!("`{c}` is not expected here")),
            });
        }
        self.depth -= 1;
        Ok(node)
    }

    fn token(&mut self) -> Parsed<Node> {
        let start = self.at;
        let rest = &self.text[start..];
        let len = rest.find('>').map(|end| end + 1);
        match len.map(|len| &rest[..len]) {
            Some(name)
                if name.len() > 2
                    && !name[1..].contains(|c: char| c.is_whitespace() || c == '<') =>
            {
                self.at += name.len();
                Ok(Node::Token(name.to_string()))
            }
            _ => Err(self.error(start, "a token such as <think> is expected")),
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        self.text[start..self.at].to_string()
    }

    fn number(&mut self, name: &str, at: usize) -> usize {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.rules.len();
        self.numbers.insert(name.to_string(), number);
        self.rules.push(Slot {
            at,
            name: name.to_string(),
            node: None,
        });
        number
    }

    fn skip_space(&mut self, newlines: Newlines) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if newlines == Newlines::Skip => self.at += 1,
                '#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.text[self.at..].starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    fn error(&self, at: usize, message: &str) -> GbnfError {
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        GbnfError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.to_string(),
        }
    }
}

/// Whether a count is that of `*`, `+` or `?`. A repetition of a repetition with such
/// counts is one: the two together have no gap.
fn is_simple(min: u32, max: Option<u32>) -> bool {
    min <= 1 && max.is_none_or(|max| max == 1)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

fn any_character() -> Node {
    Node::Characters(Class {
        ranges: Vec::new(),
        is_negated: true,
    })
}
