//! Rules to Lark text.

use std::collections::VecDeque;
use std::fmt::Write;

use super::{Class, Grammar, Node};

/// A regex longer than this is not worth its compilation; rules are used instead.
const REGEX_BYTES_MAX: usize = 16 << 10;

pub(super) fn lark(grammar: &Grammar) -> String {
    match whole_regex(grammar) {
        Some(regex) => format!("start: /{regex}/\n"),
        None => rules(grammar),
    }
}

/// The whole language as one regex, where the grammar has no recursion and no
/// control tokens.
fn whole_regex(grammar: &Grammar) -> Option<String> {
    let mut regexes = Regexes {
        grammar,
        rules: vec![State::New; grammar.rules.len()],
    };
    let regex = regexes.rule(grammar.root)?;
    // An empty regex would read as a comment.
    (!regex.is_empty()).then_some(regex)
}

#[derive(Clone)]
enum State {
    New,
    Open,
    Done(Option<String>),
}

struct Regexes<'a> {
    grammar: &'a Grammar,
    rules: Vec<State>,
}

impl Regexes<'_> {
    fn rule(&mut self, number: usize) -> Option<String> {
        match &self.rules[number] {
            State::Done(regex) => regex.clone(),
            // The rule is inside itself.
            State::Open => None,
            State::New => {
                self.rules[number] = State::Open;
                let grammar = self.grammar;
                let regex = self.node(&grammar.rules[number]);
                self.rules[number] = State::Done(regex.clone());
                regex
            }
        }
    }

    fn node(&mut self, node: &Node) -> Option<String> {
        let regex = match node {
            Node::Characters(class) => class_regex(class),
            Node::Token(_) => return None,
            Node::Rule(number) => self.rule(*number)?,
            Node::Sequence(items) => {
                let mut all = String::new();
                for item in items {
                    all.push_str(&self.node(item)?);
                    if all.len() > REGEX_BYTES_MAX {
                        return None;
                    }
                }
                all
            }
            Node::Choice(options) => {
                let mut all = String::from("(?:");
                for (index, option) in options.iter().enumerate() {
                    if index > 0 {
                        all.push('|');
                    }
                    all.push_str(&self.node(option)?);
                    if all.len() > REGEX_BYTES_MAX {
                        return None;
                    }
                }
                all.push(')');
                all
            }
            Node::Repeat { item, min, max } => {
                let max = max.map_or(String::new(), |max| max.to_string());
                format!("(?:{}){{{min},{max}}}", self.node(item)?)
            }
        };
        (regex.len() <= REGEX_BYTES_MAX).then_some(regex)
    }
}

/// One Lark rule a GBNF rule and a group, and one lexeme a character.
fn rules(grammar: &Grammar) -> String {
    let mut out = String::new();
    let mut writer = Writer {
        seen: vec![false; grammar.rules.len()],
        queue: VecDeque::new(),
        n_groups: 0,
    };
    let root = writer.rule(grammar.root);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "start: {root}");
    while let Some((name, node)) = writer.queue.pop_front() {
        let body = match node {
            Work::Rule(number) => writer.body(&grammar.rules[number]),
            Work::Group(node) => writer.body(node),
        };
        let _ = writeln!(out, "{name}: {body}");
    }
    out
}

enum Work<'a> {
    Rule(usize),
    Group(&'a Node),
}

struct Writer<'a> {
    seen: Vec<bool>,
    queue: VecDeque<(String, Work<'a>)>,
    n_groups: usize,
}

impl<'a> Writer<'a> {
    fn body(&mut self, node: &'a Node) -> String {
        match node {
            Node::Choice(options) => {
                let options: Vec<String> = options.iter().map(|o| self.sequence(o)).collect();
                options.join(" | ")
            }
            other => self.sequence(other),
        }
    }

    fn sequence(&mut self, node: &'a Node) -> String {
        match node {
            Node::Sequence(items) if items.is_empty() => "\"\"".to_string(),
            Node::Sequence(items) => {
                let items: Vec<String> = items.iter().map(|item| self.term(item)).collect();
                items.join(" ")
            }
            other => self.term(other),
        }
    }

    fn term(&mut self, node: &'a Node) -> String {
        match node {
            Node::Repeat { item, min, max } => {
                let atom = self.atom(item);
                match (min, max) {
                    (_, Some(0)) => "\"\"".to_string(),
                    (0, None) => format!("{atom}*"),
                    (1, None) => format!("{atom}+"),
                    (0, Some(1)) => format!("{atom}?"),
                    (min, None) => format!("{atom}{{{min},}}"),
                    (min, Some(max)) => format!("{atom}{{{min},{max}}}"),
                }
            }
            Node::Sequence(items) if !items.is_empty() => self.sequence(node),
            other => self.atom(other),
        }
    }

    /// Something a repetition can follow.
    fn atom(&mut self, node: &'a Node) -> String {
        match node {
            Node::Characters(class) => format!("/{}/", class_regex(class)),
            Node::Token(name) => name.clone(),
            Node::Rule(number) => self.rule(*number),
            Node::Sequence(items) if items.is_empty() => "\"\"".to_string(),
            Node::Sequence(items) if items.len() == 1 => self.atom(&items[0]),
            group => {
                let name = format!("g{}", self.n_groups);
                self.n_groups += 1;
                self.queue.push_back((name.clone(), Work::Group(group)));
                name
            }
        }
    }

    fn rule(&mut self, number: usize) -> String {
        let name = format!("r{number}");
        if !std::mem::replace(&mut self.seen[number], true) {
            self.queue.push_back((name.clone(), Work::Rule(number)));
        }
        name
    }
}

fn class_regex(class: &Class) -> String {
    if class.ranges.is_empty() {
        return "(?s:.)".to_string();
    }
    if let ([(first, last)], false) = (class.ranges.as_slice(), class.is_negated)
        && first == last
    {
        return character_regex(*first);
    }
    let mut regex = String::from(if class.is_negated { "[^" } else { "[" });
    for &(first, last) in &class.ranges {
        regex.push_str(&character_regex(first));
        if last > first {
            regex.push('-');
            regex.push_str(&character_regex(last));
        }
    }
    regex.push(']');
    regex
}

/// Everything but ASCII letters and digits is spelled by number, so that neither
/// the regex nor the Lark syntax around it can read it as its own.
fn character_regex(c: char) -> String {
    if c.is_ascii_alphanumeric() {
        c.to_string()
    } else {
        format!("\\x{{{:x}}}", c as u32)
    }
}
