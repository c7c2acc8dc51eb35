//! States that are put away, in fewer bytes than they have in a live cache.
//!
//! A section of a state ([`crate::state::Section`]: keys and values of some tokens) is kept at one of
//! several [`Level`]s:
//!
//! - lossless: floats are taken apart into what can be foretold of them, which is their sign and size
//!   by the channel's in the tokens before, and what cannot, which are the lower digits. The same is
//!   done with scales and digits of quantised types.
//! - in about so many bits a number: each tensor is rounded to a uniform grid, and the places on it
//!   are entropy-coded in the context of their channel. The step is set by the tensor's root mean
//!   square and by its side: keys matter more than values. Tokens at the beginning, to which models
//!   look back from everywhere, and at the end can be kept exactly.
//!
//! At the same rate a uniform grid with an entropy coder loses less than any grid of as many places
//! (a quarter of a bit above Shannon's bound, Gish and Pierce 1968), and it needs no rotation: a
//! rotation makes channels alike, so that nothing of their differences is left to the entropy coder.
//! It is taken back where a quantised cache has it, and put on again where one wants it.
//!
//! ```text
//! 0   4  "SXKV"
//! 4   1  version
//! 5   1  kind: 0 as it was, 1 a section, 2 other bytes
//! 6   1  level: 0 lossless, else bits
//! 7   1  class
//! 8   4  bytes before
//! 12  4  CRC-32 of all other bytes
//! 16     cells, types, steps, tables, symbols, plain bytes
//! ```
//!
//! Whatever the bytes are, [`decode`] neither panics nor takes more memory than a fixed multiple
//! of them.

mod frame;
mod history;
mod rans;
mod values;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::cache_type::CacheType;
use crate::loss::Side;
use crate::rotation::rotate;
use crate::state::Section;

use frame::{Form, Frame, take, take_number};
use history::{BYTE_CONTEXTS, Bytes, GRID_CONTEXTS, Grid, HALF_CONTEXTS, Halves, Role};
use rans::{Port, Reader, Recorder};

pub use frame::Layout;

const MAGIC: &[u8; 4] = b"SXKV";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 16;
const CHECKED_FROM: usize = 16;
/// What is taken for more than so many times its bytes is refused: it would be a trap. Sections
/// that would come out smaller are kept as they are.
const RATIO_MAX: usize = 256;
/// Bits of a normal number on a grid of step 1: half the logarithm of 2 pi e.
const NORMAL_BITS: f32 = 2.047;
/// By so many bits keys are finer than the mean of both sides, and values coarser: where this was
/// measured an error of keys did three to five times the harm of one of values.
const SIDE_BITS: f32 = 0.45;
/// The share of keys in what an entry is said to have lost, for the same reason.
const KEYS_SHARE: f64 = 0.75;
/// Contexts that may share tables: of grids, of floats and of other bytes, of both sides.
const FAMILIES: [usize; 8] = [
    GRID_CONTEXTS,
    GRID_CONTEXTS,
    HALF_CONTEXTS,
    HALF_CONTEXTS,
    BYTE_CONTEXTS,
    BYTE_CONTEXTS,
    BYTE_CONTEXTS,
    BYTE_CONTEXTS,
];
const CONTEXTS: usize = 2 * (GRID_CONTEXTS + HALF_CONTEXTS + 2 * BYTE_CONTEXTS);
const HALVES_FROM: usize = 2 * GRID_CONTEXTS;
const BYTES_FROM: usize = HALVES_FROM + 2 * HALF_CONTEXTS;

/// How exactly a state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// As it was, to the bit.
    Lossless,
    /// In about so many bits a number, [`Level::BITS_MIN`] to [`Level::BITS_MAX`].
    Bits(u8),
}

impl Level {
    pub const BITS_MIN: u8 = 2;
    pub const BITS_MAX: u8 = 8;
    /// All of them, the most exact first.
    pub const ALL: [Self; 8] = [
        Self::Lossless,
        Self::Bits(8),
        Self::Bits(7),
        Self::Bits(6),
        Self::Bits(5),
        Self::Bits(4),
        Self::Bits(3),
        Self::Bits(2),
    ];

    const fn code(self) -> u8 {
        match self {
            Self::Lossless => 0,
            Self::Bits(bits) => bits,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.code() == code)
    }
}

/// `lossless`, or bits as in `4bit`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lossless => f.write_str("lossless"),
            Self::Bits(bits) => write!(f, "{bits}bit"),
        }
    }
}

/// A name that is none of a [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the level `{given}` does not exist; it must be lossless or 2bit to 8bit")]
pub struct UnknownLevel {
    pub given: String,
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL
            .into_iter()
            .find(|level| level.to_string() == text);
        known.ok_or_else(|| UnknownLevel {
            given: text.to_owned(),
        })
    }
}

/// What was lost of an entry, by its own numbers: no more than that type of a live cache, with its
/// rotation, loses of normal numbers. What those types do to predictions `sextant kv compare` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Nothing.
    Exact,
    /// No more than `q8_0` does.
    Q8,
    /// No more than `q5_0` does.
    Q5,
    /// No more than `q4_0` does.
    Q4,
    /// More.
    Coarse,
}

impl Class {
    const ALL: [Self; 5] = [Self::Exact, Self::Q8, Self::Q5, Self::Q4, Self::Coarse];

    /// By the share of the square that is lost.
    fn of(lost: f64) -> Self {
        match lost {
            0.0 => Self::Exact,
            ..=0.000_03 => Self::Q8,
            ..=0.0018 => Self::Q5,
            ..=0.0074 => Self::Q4,
            _ => Self::Coarse,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Q8 => "q8_0",
            Self::Q5 => "q5_0",
            Self::Q4 => "q4_0",
            Self::Coarse => "coarse",
        })
    }
}

/// How a section is put away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options<'a> {
    pub level: Level,
    /// Cells at the beginning and at the end that are kept exactly at any level, at most
    /// [`Options::EXACT_MAX`] of each.
    pub exact_first: usize,
    pub exact_last: usize,
    /// Bits beyond the level's for each tensor, keys of all layers before values, as a calibration
    /// gives them; those that are missing go by their side.
    pub extra_bits: &'a [f32],
}

impl Options<'_> {
    pub const EXACT_MAX: usize = 255;

    #[must_use]
    pub const fn new(level: Level) -> Self {
        Self {
            level,
            exact_first: 0,
            exact_last: 0,
            extra_bits: &[],
        }
    }

    const fn is_exact(&self, cell: usize, n_cells: usize) -> bool {
        cell < self.exact_first || cell + self.exact_last >= n_cells
    }
}

/// What is known of an entry without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    pub level: Level,
    pub class: Class,
    /// Bytes that were encoded.
    pub bytes: usize,
}

/// Why bytes are no state that was put away.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParkedError {
    #[error("it is cut off")]
    Short,
    #[error("it is no state that was put away")]
    Foreign,
    #[error("it is of version {given}, this program reads version {VERSION}")]
    Version { given: u8 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is said to be {given} bytes, and the limit is {limit}")]
    TooLarge { given: usize, limit: usize },
    #[error("its cells or tensors are those of no state")]
    Form,
    #[error("its tables of frequencies are wrong")]
    Tables,
    #[error("its symbols do not end where it does")]
    Symbols,
    #[error("the context has other layers or other numbers in them")]
    Layout,
    #[error("it has numbers in a type that cannot be changed into that of the context")]
    Type,
}

/// Puts a section away.
#[must_use]
pub fn encode(section: &Section<'_>, options: &Options<'_>) -> Vec<u8> {
    let Some(frame) = Frame::of(section) else {
        return encode_bytes(section.bytes);
    };
    let options = &Options {
        exact_first: options.exact_first.min(Options::EXACT_MAX),
        exact_last: options.exact_last.min(Options::EXACT_MAX),
        ..*options
    };
    let mut recorder = Recorder::new(&FAMILIES);
    let mut steps = Vec::new();
    let mut lost = Lost::default();
    for ((tensor, form), at) in section.tensors().zip(&frame.forms).zip(0..) {
        let mut rows = Rows::new(form, tensor.data, frame.n_cells);
        let step = rows.round((form, at), options, &mut lost);
        if options.level != Level::Lossless {
            steps.extend(step.unwrap_or(f32::NAN).to_le_bytes());
        }
        rows.code(&mut recorder, form, (options, step));
    }
    let mut out = Vec::new();
    frame.write(&mut out);
    if options.level != Level::Lossless {
        let counts = [options.exact_first, options.exact_last];
        out.extend(counts.map(|count| count as u8));
        out.extend(steps);
    }
    recorder.finish(&FAMILIES, &mut out);
    let about = (options.level, Class::of(lost.share()));
    finished((Kind::Section, about), section.bytes, out)
}

/// Puts bytes away of which nothing is known but that neighbours four bytes apart are alike, as with
/// recurrent states.
#[must_use]
pub fn encode_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut recorder = Recorder::new(&FAMILIES);
    words(&mut recorder, &mut bytes.to_vec());
    let mut out = Vec::new();
    recorder.finish(&FAMILIES, &mut out);
    finished((Kind::Bytes, (Level::Lossless, Class::Exact)), bytes, out)
}

/// Whether bytes begin like something that was put away. No section of a state does.
#[must_use]
pub fn is_parked(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What an entry says of itself.
///
/// # Errors
/// [`ParkedError`] where it is none, or was changed.
pub fn about(stream: &[u8]) -> Result<About, ParkedError> {
    Ok(open(stream)?.1)
}

/// A section, or other bytes, as they were put away; of a level that is not lossless as near as it
/// keeps them. With a layout it comes out in the types of that context.
///
/// # Errors
/// [`ParkedError`]: it is no entry, of more than `bytes_max` bytes, or cannot be brought into the
/// layout.
pub fn decode(
    stream: &[u8],
    into: Option<&Layout>,
    bytes_max: usize,
) -> Result<Vec<u8>, ParkedError> {
    let (kind, about) = open(stream)?;
    let limit = bytes_max.min(stream.len().saturating_mul(RATIO_MAX));
    let fits = |given: usize| match given > limit {
        true => Err(ParkedError::TooLarge { given, limit }),
        false => Ok(()),
    };
    fits(about.bytes)?;
    let mut rest = &stream[HEADER_BYTES..];
    match kind {
        Kind::Stored => {
            let is_whole = rest.len() == about.bytes;
            is_whole.then(|| rest.to_vec()).ok_or(ParkedError::Short)
        }
        Kind::Bytes => {
            let mut reader = Reader::new(CONTEXTS, rest)?;
            let mut bytes = vec![0; about.bytes];
            words(&mut reader, &mut bytes);
            reader.finish()?;
            Ok(bytes)
        }
        Kind::Section => {
            let frame = Frame::read(&mut rest, about.bytes)?;
            if frame.section_bytes(&frame.forms) != Some(about.bytes) {
                return Err(ParkedError::Form);
            }
            let layout = into.unwrap_or(&frame.layout);
            let forms = layout.forms().ok_or(ParkedError::Form)?;
            fits(frame.section_bytes(&forms).ok_or(ParkedError::Form)?)?;
            decode_section(&frame, (layout, &forms), (about.level, rest))
        }
    }
}

fn decode_section(
    frame: &Frame,
    (layout, forms): (&Layout, &[Form]),
    (level, mut rest): (Level, &[u8]),
) -> Result<Vec<u8>, ParkedError> {
    let is_alike = |(a, b): (&Form, &Form)| a.side == b.side;
    let n = forms.len();
    if n != frame.forms.len() || !forms.iter().zip(&frame.forms).all(is_alike) {
        return Err(ParkedError::Layout);
    }
    let mut options = Options::new(level);
    let mut steps = vec![None; n];
    if level != Level::Lossless {
        let counts = take(&mut rest, 2)?;
        options.exact_first = usize::from(counts[0]);
        options.exact_last = usize::from(counts[1]);
        for step in &mut steps {
            let number = f32::from_bits(take_number(&mut rest)?);
            *step = Some(number).filter(|number| number.is_finite());
        }
    }
    let mut reader = Reader::new(CONTEXTS, rest)?;
    let section = frame.section((layout, forms), |at| {
        let (form, step) = (&frame.forms[at], steps[at]);
        let mut rows = Rows::empty(form, frame.n_cells);
        if step.is_some() && form.n_values().is_none() {
            return Err(ParkedError::Form);
        }
        rows.code(&mut reader, form, (&options, step));
        rows.into_bytes(form, &forms[at], (&options, step))
    })?;
    reader.finish()?;
    Ok(section)
}

/// A section with numbers changed, row by row and before any rotation; `None` where it has none, or
/// none that can be read.
#[must_use]
pub fn changed(section: &Section<'_>, mut change: impl FnMut(Side, &mut [f32])) -> Option<Vec<u8>> {
    let frame = Frame::of(section)?;
    let tensors: Vec<&[u8]> = section.tensors().map(|tensor| tensor.data).collect();
    let changed = frame.section((&frame.layout, &frame.forms), |at| {
        let form = &frame.forms[at];
        let types = form.cache_type.zip(form.n_values());
        let (cache_type, width) = types.ok_or(ParkedError::Type)?;
        let mut rows = form.rows(tensors[at], frame.n_cells);
        let mut numbers = vec![0.0; width];
        for row in rows.chunks_exact_mut(form.row_bytes) {
            values::read(cache_type, row, &mut numbers);
            rotate(&mut numbers, form.rotation);
            change(form.side, &mut numbers);
            rotate(&mut numbers, form.rotation);
            values::write(cache_type, &numbers, row);
        }
        Ok(rows)
    });
    changed.ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stored,
    Section,
    Bytes,
}

/// A stream with its header; bytes as they are, where nothing was gained.
fn finished(
    (kind, (level, class)): (Kind, (Level, Class)),
    before: &[u8],
    body: Vec<u8>,
) -> Vec<u8> {
    let is_trap = before.len() / RATIO_MAX >= body.len();
    let is_longer = level == Level::Lossless && body.len() >= before.len();
    let (kind, body, level, class) = match is_trap || is_longer {
        true => (Kind::Stored, before, Level::Lossless, Class::Exact),
        false => (kind, body.as_slice(), level, class),
    };
    let kind = match kind {
        Kind::Stored => 0,
        Kind::Section => 1,
        Kind::Bytes => 2,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend(MAGIC);
    out.extend([VERSION, kind, level.code(), class as u8]);
    // A block is far below four gigabytes; one that is not is found to have the wrong length.
    out.extend((before.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend(body);
    let sum = checksum(&out);
    out[12..CHECKED_FROM].copy_from_slice(&sum);
    out
}

/// Bytes with the checksum that they should have, to test what is behind it.
#[doc(hidden)]
#[must_use]
pub fn signed(stream: &[u8]) -> Vec<u8> {
    let mut stream = stream.to_vec();
    if stream.len() >= HEADER_BYTES {
        let sum = checksum(&stream);
        stream[12..CHECKED_FROM].copy_from_slice(&sum);
    }
    stream
}

fn checksum(stream: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stream[..12]);
    hasher.update(&stream[CHECKED_FROM..]);
    hasher.finalize().to_le_bytes()
}

fn open(stream: &[u8]) -> Result<(Kind, About), ParkedError> {
    let Some(header) = stream.first_chunk::<HEADER_BYTES>() else {
        return Err(ParkedError::Short);
    };
    if header[..4] != *MAGIC {
        return Err(ParkedError::Foreign);
    }
    if header[4] != VERSION {
        return Err(ParkedError::Version { given: header[4] });
    }
    if header[12..] != checksum(stream) {
        return Err(ParkedError::Checksum);
    }
    let kind = match header[5] {
        0 => Kind::Stored,
        1 => Kind::Section,
        2 => Kind::Bytes,
        _ => return Err(ParkedError::Foreign),
    };
    let level = Level::of_code(header[6]).ok_or(ParkedError::Foreign)?;
    let class = Class::ALL.get(usize::from(header[7])).copied();
    let bytes = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let about = About {
        level,
        class: class.ok_or(ParkedError::Foreign)?,
        bytes: bytes as usize,
    };
    Ok((kind, about))
}

/// The share of the square that was lost, of both sides.
#[derive(Debug, Default)]
struct Lost {
    keys: (f64, u32),
    values: (f64, u32),
}

impl Lost {
    fn add(&mut self, side: Side, share: f64) {
        let of = match side {
            Side::Keys => &mut self.keys,
            Side::Values => &mut self.values,
        };
        of.0 += share;
        of.1 += 1;
    }

    fn share(&self) -> f64 {
        let mean = |(sum, n): (f64, u32)| sum / f64::from(n.max(1));
        KEYS_SHARE * mean(self.keys) + (1.0 - KEYS_SHARE) * mean(self.values)
    }
}

/// A tensor, cell by cell: bytes, and where it is rounded its places on the grid.
struct Rows {
    bytes: Vec<u8>,
    places: Vec<i32>,
}

impl Rows {
    fn new(form: &Form, data: &[u8], n_cells: usize) -> Self {
        Self {
            bytes: form.rows(data, n_cells),
            places: Vec::new(),
        }
    }

    fn empty(form: &Form, n_cells: usize) -> Self {
        Self {
            bytes: vec![0; form.row_bytes * n_cells],
            places: Vec::new(),
        }
    }

    /// Finds the step for a level, and the places; `None` where the tensor is kept as it is.
    fn round(
        &mut self,
        (form, at): (&Form, usize),
        options: &Options<'_>,
        lost: &mut Lost,
    ) -> Option<f32> {
        let Level::Bits(bits) = options.level else {
            return None;
        };
        let (cache_type, width) = (form.cache_type?, form.n_values()?);
        let mut numbers = vec![0.0; width * (self.bytes.len() / form.row_bytes)];
        values::read(cache_type, &self.bytes, &mut numbers);
        for row in numbers.chunks_exact_mut(width) {
            rotate(row, form.rotation);
        }
        let n_cells = numbers.len() / width;
        let rounded = |(cell, _): &(usize, &[f32])| !options.is_exact(*cell, n_cells);
        let square = |number: &f32| f64::from(*number) * f64::from(*number);
        let rows = || numbers.chunks_exact(width).enumerate().filter(rounded);
        let squares: f64 = rows().flat_map(|(_, row)| row).map(square).sum();
        let n = rows().count() * width;
        if !squares.is_finite() || n == 0 {
            return None;
        }
        let of_side = match form.side {
            Side::Keys => SIDE_BITS,
            Side::Values => -SIDE_BITS,
        };
        let extra = options.extra_bits.get(at).copied().unwrap_or(of_side);
        let step =
            (NORMAL_BITS - f32::from(bits) - extra).exp2() * (squares / n as f64).sqrt() as f32;
        if !step.is_finite() {
            return None;
        }
        let by = if step > 0.0 { 1.0 / step } else { 0.0 };
        self.places = numbers
            .iter()
            .map(|number| (number * by).round_ties_even() as i32)
            .collect();
        let pairs = numbers.iter().zip(&self.places).enumerate();
        let pairs = pairs.filter(|(at, _)| !options.is_exact(at / width, n_cells));
        let error: f64 = pairs
            .map(|(_, (number, place))| square(&(number - *place as f32 * step)))
            .sum();
        lost.add(form.side, error / squares.max(f64::MIN_POSITIVE));
        Some(step)
    }

    /// Through a port, which gives what it reads.
    fn code(
        &mut self,
        port: &mut impl Port,
        form: &Form,
        (options, step): (&Options<'_>, Option<f32>),
    ) {
        let side = usize::from(form.side == Side::Values);
        let n_cells = self.bytes.len() / form.row_bytes;
        let width = form.n_values().filter(|_| step.is_some());
        if let Some(width) = width {
            self.places.resize(width * n_cells, 0);
        }
        let is_float = form.cache_type == Some(CacheType::F16) && form.n_values().is_some();
        let roles = roles(form.cache_type);
        let mut halves = Halves::new(
            if is_float { form.row_bytes / 2 } else { 0 },
            HALVES_FROM + side * HALF_CONTEXTS,
        );
        let row_bytes = if is_float { 0 } else { form.row_bytes };
        let mut bytes = Bytes::new(row_bytes, &roles, BYTES_FROM + 2 * side * BYTE_CONTEXTS);
        let mut grid = Grid::new(width.unwrap_or(0), side * GRID_CONTEXTS);
        for cell in 0..n_cells {
            match width.filter(|_| !options.is_exact(cell, n_cells)) {
                Some(width) => grid.row(port, &mut self.places[cell * width..][..width]),
                None => {
                    let row = &mut self.bytes[cell * form.row_bytes..][..form.row_bytes];
                    match is_float {
                        true => halves.row(port, row),
                        false => bytes.row(port, row),
                    }
                }
            }
        }
    }

    /// Rows in the form of the context.
    fn into_bytes(
        self,
        form: &Form,
        into: &Form,
        (options, step): (&Options<'_>, Option<f32>),
    ) -> Result<Vec<u8>, ParkedError> {
        let is_same = form.cache_type == into.cache_type
            && form.row_bytes == into.row_bytes
            && form.rotation == into.rotation;
        if step.is_none() && is_same {
            return Ok(self.bytes);
        }
        let types = form.cache_type.zip(into.cache_type);
        let (of, to) = types.ok_or(ParkedError::Type)?;
        let width = form.n_values().ok_or(ParkedError::Type)?;
        if into.n_values() != Some(width) {
            return Err(ParkedError::Layout);
        }
        let n_cells = self.bytes.len() / form.row_bytes;
        let mut out = vec![0; into.row_bytes * n_cells];
        let mut numbers = vec![0.0; width];
        for (cell, row) in out.chunks_exact_mut(into.row_bytes).enumerate() {
            let kept = &self.bytes[cell * form.row_bytes..][..form.row_bytes];
            match step.filter(|_| !options.is_exact(cell, n_cells)) {
                None if is_same => {
                    row.copy_from_slice(kept);
                    continue;
                }
                None => {
                    values::read(of, kept, &mut numbers);
                    rotate(&mut numbers, form.rotation);
                }
                Some(step) => {
                    let places = &self.places[cell * width..][..width];
                    let pairs = numbers.iter_mut().zip(places);
                    pairs.for_each(|(number, place)| *number = *place as f32 * step);
                }
            }
            rotate(&mut numbers, into.rotation);
            values::write(to, &numbers, row);
        }
        Ok(out)
    }
}

/// What each byte of a block is.
fn roles(cache_type: Option<CacheType>) -> Vec<Role> {
    let Some(of) = cache_type else {
        return vec![Role::Digit];
    };
    let scale = [Role::Plain, Role::Scale];
    match of {
        // The halves of a 16-bit float have a coder of their own.
        CacheType::F16 => scale.to_vec(),
        CacheType::Bf16 => vec![Role::Digit, Role::Scale],
        CacheType::F32 => vec![Role::Plain, Role::Plain, Role::Digit, Role::Scale],
        _ => {
            let n_scales = match of {
                CacheType::Q4_1 | CacheType::Q5_1 => 2,
                _ => 1,
            };
            let digits = of.block_bytes() as usize - 2 * n_scales;
            // The lower four of five digits are as good as random, and so is the fifth alone.
            let digit = match of {
                CacheType::Q5_0 | CacheType::Q5_1 => Role::Plain,
                _ => Role::Digit,
            };
            let scales = std::iter::repeat_n(scale, n_scales).flatten();
            scales.chain(std::iter::repeat_n(digit, digits)).collect()
        }
    }
}

/// Bytes as rows of one word.
fn words(port: &mut impl Port, bytes: &mut [u8]) {
    let roles = roles(Some(CacheType::F32));
    let mut coder = Bytes::new(roles.len(), &roles, BYTES_FROM);
    for word in bytes.chunks_mut(roles.len()) {
        coder.row(port, word);
    }
}
