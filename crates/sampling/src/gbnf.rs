//! llama.cpp's grammar format, translated to the engine's Lark dialect.
//!
//! The format is that of llama.cpp's `grammars/README.md`. GBNF works on
//! characters, while the engine's lexer takes the longest lexeme and never looks
//! back; so every character becomes a lexeme of its own, which keeps the meaning
//! exact. A grammar without recursion becomes one regex instead, which is exact
//! too and much faster to follow.

mod emit;
mod parse;

use thiserror::Error;

/// Deepest nesting of parentheses and of repetitions of repetitions.
pub const NESTING_MAX: usize = 64;
/// Largest count in `{m,n}`, as in llama.cpp.
pub const REPETITIONS_MAX: u32 = 2_000;

/// A grammar that is not GBNF. Line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("GBNF line {line}, column {column}: {message}")]
pub struct GbnfError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Translates a GBNF grammar. Rules that `root` does not reach are checked but left out.
pub fn to_lark(text: &str) -> Result<String, GbnfError> {
    parse::grammar(text).map(|grammar| emit::lark(&grammar))
}

/// Rules by number; names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grammar {
    rules: Vec<Node>,
    root: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Choice(Vec<Node>),
    Sequence(Vec<Node>),
    Repeat {
        item: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
    Characters(Class),
    /// A control token by name, with its angle brackets.
    Token(String),
    Rule(usize),
}

/// A set of characters as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    ranges: Vec<(char, char)>,
    is_negated: bool,
}

#[cfg(test)]
mod tests;
