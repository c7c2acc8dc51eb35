//! Grammars that the answer must obey, over the `llguidance` engine.
//!
//! A [`ConstraintFactory`] is built once a model; [`ConstraintFactory::compile`]
//! turns a [`Grammar`] into a [`Constraint`], the state of one choice. What a
//! grammar asks is enforced exactly or refused with the reason: nothing is relaxed.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use thiserror::Error;

use crate::{TokenId, TokenMask, Vocabulary, gbnf, lark, schema};

/// Longest Lark or GBNF grammar, in bytes.
pub const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// Longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 16 << 10;
/// Work the lexer may do while a grammar is compiled, in derivative steps; a
/// large real-world schema (FHIR) takes about 500,000.
pub const COMPILE_FUEL_MAX: u64 = 1_000_000;
/// Work the lexer may do for one mask or token.
pub const STEP_FUEL_MAX: u64 = 200_000;
/// Alternatives the parser may follow at one position.
pub const PARSER_ITEMS_MAX: usize = 2_000;
/// Parser items one mask or token may create; some 50 ms of work. Inside a GBNF
/// string, where every character is a lexeme, a vocabulary of 150,000 tokens takes
/// a few 100,000.
pub const STEP_ITEMS_MAX: usize = 2_000_000;
/// Lexer states a grammar may reach over its life.
pub const LEXER_STATES_MAX: usize = 100_000;
/// Stack of a compilation, which recurses with the grammar's nesting. Memory is
/// taken as it is used; common grammars use some kilobytes.
pub const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Symbols a compiled grammar may have.
pub const GRAMMAR_SYMBOLS_MAX: usize = 500_000;

/// What the answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// A JSON value the schema accepts.
    JsonSchema(Value),
    /// Text the whole of which matches (Rust regex syntax).
    Regex(String),
    /// llguidance's Lark dialect; schemas after `%json` are checked like [`Grammar::JsonSchema`].
    Lark(String),
    /// llama.cpp's GBNF.
    Gbnf(String),
}

/// Why a grammar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConstraintError {
    /// A schema keyword, or a use of it, that cannot be enforced exactly.
    #[error("`{keyword}` at {} cannot be enforced: {message}", display_pointer(.pointer))]
    Unsupported {
        keyword: String,
        /// JSON pointer of the schema that has the keyword.
        pointer: String,
        message: String,
    },
    /// No value satisfies it.
    #[error("nothing can satisfy this: {message}")]
    Contradictory { message: String },
    /// Not a grammar of its kind.
    #[error("{message}")]
    Invalid { message: String },
    #[error("{what}: {value} is over the limit of {limit}")]
    TooLarge {
        what: &'static str,
        value: usize,
        limit: usize,
    },
    /// Compiling it would take too much work or memory.
    #[error("the grammar is too complex: {message}")]
    TooComplex { message: String },
}

/// Why a constraint cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// The state is unchanged; another token may be tried.
    #[error("token {token} is not allowed here")]
    Rejected { token: TokenId },
    /// No token can follow, and the answer may not end either.
    #[error("the grammar has come to a dead end: no token of this vocabulary fits")]
    DeadEnd,
    /// A limit of work or memory, named in the message; final.
    #[error("the grammar cannot be followed further: {message}")]
    Failed { message: String },
}

fn display_pointer(pointer: &str) -> &str {
    if pointer.is_empty() {
        "the root"
    } else {
        pointer
    }
}

/// Compiles grammars for one vocabulary. Cheap to share, costly to build.
pub struct ConstraintFactory {
    vocabulary: Arc<Vocabulary>,
    parsers: ParserFactory,
}

impl fmt::Debug for ConstraintFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConstraintFactory")
            .field("vocabulary", &self.vocabulary)
            .finish_non_exhaustive()
    }
}

impl ConstraintFactory {
    /// Precomputes what all grammars over the vocabulary share. Takes about half a
    /// second for 150,000 tokens, so it belongs to loading the model or off its path.
    pub fn new(vocabulary: Arc<Vocabulary>) -> Result<Self, ConstraintError> {
        let mut parsers = ParserFactory::new_simple(vocabulary.env()).map_err(|error| {
            let message = format!("the vocabulary cannot be used with grammars: {error:#}");
            ConstraintError::Invalid { message }
        })?;
        parsers.quiet();
        *parsers.limits_mut() = ParserLimits {
            max_items_in_row: PARSER_ITEMS_MAX,
            initial_lexer_fuel: COMPILE_FUEL_MAX,
            step_lexer_fuel: STEP_FUEL_MAX,
            step_max_items: STEP_ITEMS_MAX,
            max_lexer_states: LEXER_STATES_MAX,
            max_grammar_size: GRAMMAR_SYMBOLS_MAX,
            precompute_large_lexemes: true,
            verbose_errors: false,
        };
        Ok(Self {
            vocabulary,
            parsers,
        })
    }

    #[must_use]
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The constraint at the start of an answer. Takes milliseconds for common
    /// grammars and is bounded by the limits of this module.
    ///
    /// Works on a thread of its own, so that a deep grammar meets a limit and not
    /// the end of the caller's stack.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, ConstraintError> {
        let failed = |message: String| ConstraintError::TooComplex { message };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_string())
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(scope, || self.compile_here(grammar))
                .map_err(|error| failed(format!("no thread to compile it on: {error}")))?
                .join()
                .unwrap_or_else(|_| Err(failed("the grammar engine panicked".to_string())))
        })
    }

    fn compile_here(&self, grammar: &Grammar) -> Result<Constraint, ConstraintError> {
        let parser = self
            .parsers
            .create_parser(engine_grammar(grammar)?)
            .map_err(|error| classify(&format!("{error:#}"), grammar))?;
        let mut constraint = Constraint {
            matcher: Matcher::new(Ok(parser)),
            vocabulary: self.vocabulary.clone(),
            mask: TokenMask::none(self.vocabulary.n_tokens()),
            mask_is_current: false,
            is_complete: false,
            has_ended: false,
        };
        constraint.is_complete = constraint.matcher.is_accepting().map_err(|error| {
            let message = first_line(&error.to_string());
            ConstraintError::TooComplex { message }
        })?;
        match constraint.mask() {
            Ok(_) => Ok(constraint),
            Err(StepError::Failed { message }) => Err(ConstraintError::TooComplex { message }),
            Err(error) => Err(ConstraintError::Contradictory {
                message: error.to_string(),
            }),
        }
    }
}

/// The grammar in the engine's terms, once it has passed our own limits.
fn engine_grammar(grammar: &Grammar) -> Result<TopLevelGrammar, ConstraintError> {
    Ok(match grammar {
        Grammar::JsonObject => {
            let any_object = serde_json::json!({"type": "object"});
            TopLevelGrammar::from_json_schema(schema::prepare(&any_object)?)
        }
        Grammar::JsonSchema(json) => TopLevelGrammar::from_json_schema(schema::prepare(json)?),
        Grammar::Regex(pattern) => TopLevelGrammar::from_lark(regex_grammar(pattern)?),
        Grammar::Lark(text) => {
            limit("bytes of the Lark grammar", text.len(), GRAMMAR_BYTES_MAX)?;
            TopLevelGrammar::from_lark(lark::prepare(text)?)
        }
        Grammar::Gbnf(text) => {
            limit("bytes of the GBNF grammar", text.len(), GRAMMAR_BYTES_MAX)?;
            let translated = gbnf::to_lark(text).map_err(|error| ConstraintError::Invalid {
                message: error.to_string(),
            })?;
            TopLevelGrammar::from_lark(translated)
        }
    })
}

/// The grammar state of one choice.
pub struct Constraint {
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
    mask: TokenMask,
    mask_is_current: bool,
    is_complete: bool,
    has_ended: bool,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("is_complete", &self.is_complete)
            .field("is_stopped", &self.is_stopped())
            .finish_non_exhaustive()
    }
}

impl Constraint {
    /// The tokens that may come next. End-of-generation tokens are among them
    /// exactly where the answer may end. Computed once a position.
    pub fn mask(&mut self) -> Result<&TokenMask, StepError> {
        if !self.mask_is_current {
            let words = self
                .matcher
                .compute_mask_or_eos()
                .map_err(|error| step_error(&error.to_string()))?;
            self.mask.copy_from_words(words.as_slice());
            self.mask_is_current = true;
        }
        Ok(&self.mask)
    }

    /// Moves past `token`. A token that is not allowed leaves the state as it was.
    pub fn accept(&mut self, token: TokenId) -> Result<(), StepError> {
        let rejected = StepError::Rejected { token };
        if self.vocabulary.is_end(token) {
            if !self.is_complete {
                return Err(rejected);
            }
            self.has_ended = true;
        } else if self.is_stopped() || !self.vocabulary.is_usable(token) {
            return Err(rejected);
        }
        // Past the last token the engine takes nothing, not even an end token.
        if self.matcher.is_stopped() && self.has_ended {
            return Ok(());
        }
        let id = u32::try_from(token).map_err(|_| rejected.clone())?;
        let consumed = self
            .matcher
            .try_consume_tokens(&[id])
            .map_err(|error| step_error(&error.to_string()))?;
        if consumed == 0 {
            return Err(rejected);
        }
        self.mask_is_current = false;
        self.is_complete = self.has_ended
            || self
                .matcher
                .is_accepting()
                .map_err(|error| step_error(&error.to_string()))?;
        Ok(())
    }

    /// Whether the answer may end here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether nothing but an end-of-generation token can follow.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.has_ended || self.matcher.is_stopped()
    }

    /// An independent copy, for another choice that shares the beginning.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            matcher: self.matcher.clone(),
            vocabulary: self.vocabulary.clone(),
            mask: self.mask.clone(),
            ..*self
        }
    }
}

fn limit(what: &'static str, value: usize, limit: usize) -> Result<(), ConstraintError> {
    if value > limit {
        return Err(ConstraintError::TooLarge { what, value, limit });
    }
    Ok(())
}

/// A Lark grammar of one terminal. The engine matches the whole text, so anchors
/// at the two ends say nothing new and are dropped.
fn regex_grammar(pattern: &str) -> Result<String, ConstraintError> {
    limit("bytes of the regex", pattern.len(), REGEX_BYTES_MAX)?;
    let invalid = |message: &str| ConstraintError::Invalid {
        message: format!("the regex {message}"),
    };
    let body = pattern.strip_prefix('^').unwrap_or(pattern);
    let body = match body.strip_suffix('$') {
        Some(rest) if trailing_backslashes(rest).is_multiple_of(2) => rest,
        _ => body,
    };
    if body.is_empty() {
        return Err(invalid("is empty"));
    }
    if !trailing_backslashes(body).is_multiple_of(2) {
        return Err(invalid("ends in a lone backslash"));
    }
    // `\d`, `\w` and `\s` mean ASCII, as in the patterns of JSON Schemas.
    let body = llguidance::regex_to_lark(body, "dws");
    Ok(format!("start: /{body}/"))
}

fn trailing_backslashes(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

/// Sorts the engine's messages into our kinds; it has no error type of its own.
fn classify(message: &str, grammar: &Grammar) -> ConstraintError {
    const COMPLEX: [&str; 8] = [
        "fuel",
        "too complex",
        "too large",
        "too big",
        "too many",
        "limit",
        "stack level",
        "too deeply",
    ];
    let json = match grammar {
        Grammar::JsonSchema(json) => Some(json),
        _ => None,
    };
    let by_engine = schema::refused_by_engine(message);
    if let Some((keyword, note)) = by_engine.or_else(|| refused_value(message, json?)) {
        return ConstraintError::Unsupported {
            keyword: keyword.to_string(),
            pointer: json.map_or_else(String::new, |json| schema::locate(json, keyword)),
            message: format!("{note} ({})", first_line(message)),
        };
    }
    let message = first_line(message);
    if message.contains("Unsatisfiable") || message.contains("unsatisfiable") {
        ConstraintError::Contradictory { message }
    } else if COMPLEX.iter().any(|word| message.contains(word)) {
        ConstraintError::TooComplex { message }
    } else {
        ConstraintError::Invalid { message }
    }
}

/// Keywords whose value is beyond the engine, told from its message and the schema.
fn refused_value(message: &str, schema: &Value) -> Option<(&'static str, &'static str)> {
    const BOUNDS: [&str; 5] = [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ];
    if message.contains("regex parse error") {
        return Some(("pattern", "it is not a regular expression"));
    }
    if !message.contains("Failed to generate regex for") {
        return None;
    }
    let text = schema.to_string();
    let used = BOUNDS
        .into_iter()
        .find(|word| text.contains(&format!("\"{word}\":")));
    used.map(|word| (word, "the bound is too large for a grammar"))
}

fn step_error(message: &str) -> StepError {
    if message.starts_with("NoExtensionBias") {
        return StepError::DeadEnd;
    }
    StepError::Failed {
        message: first_line(message),
    }
}

/// The engine appends source excerpts and backtraces; one line is what a caller can
/// use, and where that only announces a regex error, the error itself.
fn first_line(message: &str) -> String {
    const CHARS_MAX: usize = 400;
    let line = message.lines().next().unwrap_or_default();
    let cause = message
        .lines()
        .find_map(|line| line.trim().strip_prefix("error: "));
    let text = match cause {
        Some(cause) if line.ends_with(':') => format!("{line} {cause}"),
        _ => line.to_owned(),
    };
    text.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
