//! What restoring a state loses that was put away: cells of an f16 cache are encoded and decoded as
//! soon as they are written, in blocks as the prompt cache has them, and so all that is looked
//! back at was restored.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use kv::parked::{self, Level, Options};
use kv::state::{Form, Section, join};
use kv::turboquant::TurboQuant;
use kv::{Shape, Side};
use prefix::BLOCK_TOKENS;

use crate::parking::SINK_TOKENS;

const SEED: u64 = 42;
/// A length of 16 bits.
const LENGTH_BITS: u64 = 16;
const TURBO_BITS: std::ops::RangeInclusive<u8> = 1..=8;

/// How states are put away: `parked:LEVEL`, or `turboquant:BITS` as a row to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    Parked(Level),
    Turbo(u8),
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parked(level) => write!(f, "parked:{level}"),
            Self::Turbo(bits) => write!(f, "turboquant:{bits}"),
        }
    }
}

impl FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("parked", level)) => level
                .parse()
                .map(Self::Parked)
                .map_err(|error: parked::UnknownLevel| error.to_string()),
            Some(("turboquant", bits)) => bits
                .parse()
                .ok()
                .filter(|bits| TURBO_BITS.contains(bits))
                .map(Self::Turbo)
                .ok_or_else(|| format!("turboquant takes 1 to 8 bits, `{bits}` was given")),
            _ => Err(format!(
                "`{text}` is neither `parked:LEVEL` nor `turboquant:BITS`"
            )),
        }
    }
}

/// A trial over a text.
pub(super) struct Parker {
    trial: Trial,
    form: Form,
    /// Of keys and of values, where they are wanted.
    turbo: Option<[(usize, TurboQuant); 2]>,
    bits: u64,
    tokens: u64,
    save: Duration,
    load: Duration,
}

impl Parker {
    pub(super) fn new(trial: Trial, form: Form, shape: &Shape) -> Self {
        let turbo = match trial {
            Trial::Parked(_) => None,
            Trial::Turbo(bits) => {
                let of = |width: u64| {
                    let width = usize::try_from(width).unwrap_or(1).max(1);
                    (width, TurboQuant::new(width, bits.into(), SEED))
                };
                let head = shape.first_head;
                Some([of(head.key_width), of(head.value_width)])
            }
        };
        Self {
            trial,
            form,
            turbo,
            bits: 0,
            tokens: 0,
            save: Duration::ZERO,
            load: Duration::ZERO,
        }
    }

    /// Bytes of a token as they were kept.
    pub(super) fn token_bytes(&self) -> u64 {
        (self.bits / 8).checked_div(self.tokens).unwrap_or(0)
    }

    /// Tokens a second that are put away, and restored; `None` where nothing was timed.
    pub(super) fn speeds(&self) -> Option<(f64, f64)> {
        let rate = |time: Duration| self.tokens as f64 / time.as_secs_f64();
        let is_timed = self.save > Duration::ZERO && self.load > Duration::ZERO;
        is_timed.then(|| (rate(self.save), rate(self.load)))
    }

    /// The state with all cells from that position on put away and restored. `None`: it cannot be
    /// taken apart.
    pub(super) fn restored(&mut self, state: &[u8], from: usize) -> Option<Vec<u8>> {
        let parts = self.form.parts(state)?;
        let recurrent = parts.recurrent.to_vec();
        let counted = parts.rows.or(parts.window)?.range()?;
        self.tokens += (counted.end - counted.start.max(from)) as u64;
        let mut sections = [Vec::new(), Vec::new()];
        for (section, out) in [parts.rows, parts.window].into_iter().zip(&mut sections) {
            if let Some(section) = section {
                *out = self.section(&section, from)?;
            }
        }
        Some(self.form.state(&sections[0], &sections[1], &recurrent))
    }

    fn section(&mut self, section: &Section<'_>, from: usize) -> Option<Vec<u8>> {
        let Some(range) = section.range() else {
            return Some(kv::state::nothing());
        };
        let from = from.clamp(range.start, range.end);
        let mut parts = Vec::new();
        if range.start < from {
            parts.push(section.cut(range.start, from)?);
        }
        for first in (from..range.end).step_by(BLOCK_TOKENS) {
            let block = section.cut(first, range.end.min(first + BLOCK_TOKENS))?;
            parts.push(self.block(&block, first == 0)?);
        }
        let read: Option<Vec<_>> = parts.iter().map(|part| self.form.read(part)).collect();
        join(&read?)
    }

    fn block(&mut self, block: &[u8], is_first: bool) -> Option<Vec<u8>> {
        let section = self.form.read(block)?;
        let level = match (self.trial, &self.turbo) {
            (Trial::Parked(level), _) => level,
            (Trial::Turbo(bits), Some(turbo)) => {
                let (kept, restored) = turbo_block(&section, turbo, u64::from(bits))?;
                self.bits += kept;
                return Some(restored);
            }
            (Trial::Turbo(_), None) => return None,
        };
        let options = Options {
            exact_first: if is_first { SINK_TOKENS } else { 0 },
            ..Options::new(level)
        };
        let started = Instant::now();
        let stream = parked::encode(&section, &options);
        self.save += started.elapsed();
        self.bits += 8 * stream.len() as u64;
        let started = Instant::now();
        let restored = parked::decode(&stream, None, usize::MAX).ok();
        self.load += started.elapsed();
        restored
    }
}

/// The bits of a block, and what is restored of them.
fn turbo_block(
    section: &Section<'_>,
    turbo: &[(usize, TurboQuant); 2],
    bits: u64,
) -> Option<(u64, Vec<u8>)> {
    let mut kept = 0;
    let restored = parked::changed(section, |side, row| {
        let (width, codec) = match side {
            Side::Keys => &turbo[0],
            Side::Values => &turbo[1],
        };
        for head in row.chunks_exact_mut(*width) {
            kept += bits * head.len() as u64 + LENGTH_BITS;
            if let Some(code) = codec.encode(head) {
                head.copy_from_slice(&codec.decode(&code));
            }
        }
    })?;
    Some((kept, restored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_have_names() {
        for trial in [
            Trial::Parked(Level::Lossless),
            Trial::Parked(Level::Bits(4)),
            Trial::Turbo(3),
        ] {
            assert_eq!(trial.to_string().parse(), Ok(trial));
        }
        for odd in [
            "parked:",
            "parked:9bit",
            "turboquant:0",
            "turboquant:9",
            "q4_0",
            "",
        ] {
            assert!(odd.parse::<Trial>().is_err(), "{odd}");
        }
    }
}
