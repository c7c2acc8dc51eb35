//! States of prompts in fewer bytes, while nobody needs them.

use engine::StateForm;
use kv::parked::{self, Layout, Level, Options, ParkedError, UnknownLevel};
use prefix::{Id, Plane, record};

/// Tokens at the start of a prompt that are kept exactly at any level: models look back at them from
/// everywhere (Xiao and others, arXiv 2309.17453).
pub(crate) const SINK_TOKENS: usize = 4;
/// How many times smaller floats become to the bit, before anything was measured.
const LOSSLESS_RATIO: f64 = 1.2;
const FLOAT_BITS: f64 = 16.0;

/// How contents are kept, and brought back.
#[derive(Debug)]
pub(crate) struct Codec {
    level: Option<Level>,
    /// The level's name, where it loses something.
    inexact: Option<String>,
    /// What states of the context look like; without it nothing is changed.
    states: Option<StateForm>,
}

impl Codec {
    pub(crate) fn new(
        level: Option<&str>,
        states: Option<StateForm>,
    ) -> Result<Self, UnknownLevel> {
        let level = level.map(str::parse::<Level>).transpose()?;
        let inexact = level.filter(|level| *level != Level::Lossless);
        Ok(Self {
            level,
            inexact: inexact.map(|level| level.to_string()),
            states,
        })
    }

    pub(crate) fn inexact(&self) -> Option<&str> {
        self.inexact.as_deref()
    }

    /// Whether contents are changed before they are kept.
    pub(crate) fn encodes(&self) -> bool {
        self.level.is_some()
    }

    /// How many times smaller contents become, before anything was measured.
    pub(crate) fn ratio(&self) -> f64 {
        match self.level {
            None => 1.0,
            Some(Level::Lossless) => LOSSLESS_RATIO,
            Some(Level::Bits(bits)) => FLOAT_BITS / f64::from(bits),
        }
    }

    /// A content in the form in which it is kept; `depth` is the place of its block.
    pub(crate) fn encode(&self, id: Id, depth: u32, content: Vec<u8>) -> Vec<u8> {
        let Some(level) = self.level else {
            return content;
        };
        let form = self.states.as_ref().map(|states| states.form);
        let form = form.filter(|_| id.plane != Plane::State);
        let section = form.and_then(|form| form.read(&content));
        let Some(section) = section else {
            return parked::encode_bytes(&content);
        };
        let options = Options {
            exact_first: if depth == 0 { SINK_TOKENS } else { 0 },
            ..Options::new(level)
        };
        parked::encode(&section, &options)
    }

    /// The content as the context takes it; `None`: it is so already.
    pub(crate) fn decode(&self, plane: Plane, kept: &[u8]) -> Option<Result<Vec<u8>, ParkedError>> {
        // What was kept as it is begins otherwise.
        if !parked::is_parked(kept) {
            return None;
        }
        let layout: Option<&Layout> = self.states.as_ref().and_then(|states| match plane {
            Plane::Rows => states.rows.as_ref(),
            Plane::Window => states.window.as_ref(),
            Plane::State => None,
        });
        let limit = usize::try_from(record::CONTENT_BYTES_MAX).unwrap_or(usize::MAX);
        Some(parked::decode(kept, layout, limit))
    }
}
