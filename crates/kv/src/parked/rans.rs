//! Symbols and plain bytes in one stream: an entropy coder with a table for each context.
//!
//! The coder is the range variant of asymmetric numeral systems (Duda, arXiv 1311.2540), with
//! states that take turns so that a processor works on several symbols at once (Giesen, arXiv
//! 1402.3392). Tables are made of what occurs, and go before the symbols. Neighbouring contexts share
//! one where tables of their own would take more than they save.
//!
//! Who writes and who reads go through the same [`Port`], and so through the same code: a reader is
//! given any symbol and answers with that of the stream.

use super::ParkedError;

/// Frequencies of a table are parts of this.
const SCALE_BITS: u32 = 12;
const SCALE: u32 = 1 << SCALE_BITS;
/// States that take turns; a power of two.
const STATES: usize = 4;
/// A state is at least this, and takes or gives 16 bits at a time.
const STATE_MIN: u32 = 1 << 16;
const WORD_BITS: u32 = 16;
/// What a table takes for each of its symbols, in bits, and beyond them.
const ENTRY_BITS: f64 = 9.0;
const TABLE_BITS: f64 = 40.0;
const NO_TABLE: u8 = u8::MAX;
const TABLES_MAX: usize = NO_TABLE as usize;

/// Where symbols go, or come from.
pub(super) trait Port {
    /// Of a context below the number that the stream was made for.
    fn symbol(&mut self, context: usize, symbol: u8) -> u8;

    /// A byte that no table would make shorter.
    fn byte(&mut self, byte: u8) -> u8;
}

/// Takes symbols, to be written at the end.
pub(super) struct Recorder {
    counts: Vec<[u32; 256]>,
    /// Contexts and symbols.
    symbols: Vec<(u16, u8)>,
    bytes: Vec<u8>,
}

impl Port for Recorder {
    fn symbol(&mut self, context: usize, symbol: u8) -> u8 {
        self.counts[context][usize::from(symbol)] += 1;
        self.symbols.push((context as u16, symbol));
        symbol
    }

    fn byte(&mut self, byte: u8) -> u8 {
        self.bytes.push(byte);
        byte
    }
}

impl Recorder {
    /// `families`: numbers of contexts that may share tables with their neighbours; there are at most
    /// 65,536 contexts.
    pub(super) fn new(families: &[usize]) -> Self {
        Self {
            counts: vec![[0; 256]; families.iter().sum()],
            symbols: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Tables, states, words of 16 bits, and the plain bytes.
    pub(super) fn finish(self, families: &[usize], out: &mut Vec<u8>) {
        let mut tables: Vec<[u32; 256]> = Vec::new();
        let mut places: Vec<u8> = Vec::with_capacity(self.counts.len());
        let mut rest = self.counts.as_slice();
        for family in families {
            let (counts, behind) = rest.split_at((*family).min(rest.len()));
            rest = behind;
            for group in merged(counts, TABLES_MAX - tables.len()) {
                let table = match &group.counts {
                    Some(counts) => {
                        tables.push(normalised(counts));
                        (tables.len() - 1) as u8
                    }
                    None => NO_TABLE,
                };
                places.extend(std::iter::repeat_n(table, group.len));
            }
        }
        write_tables(&places, &tables, out);
        let (states, words) = self.encode(&places, &tables);
        out.extend((words.len() as u32).to_le_bytes());
        for state in states {
            out.extend(state.to_le_bytes());
        }
        // The reader wants the last word first.
        for word in words.iter().rev() {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.bytes);
    }

    fn encode(&self, places: &[u8], tables: &[[u32; 256]]) -> ([u32; STATES], Vec<u16>) {
        let entries: Vec<[(u32, u32); 256]> = tables.iter().map(starts).collect();
        let mut states = [STATE_MIN; STATES];
        let mut words = Vec::with_capacity(self.symbols.len() / 2);
        for (at, (context, symbol)) in self.symbols.iter().enumerate().rev() {
            let table = usize::from(places[usize::from(*context)]);
            let (start, frequency) = entries[table][usize::from(*symbol)];
            let state = &mut states[at % STATES];
            if u64::from(*state) >= u64::from(frequency) << (32 - SCALE_BITS) {
                words.push((*state & 0xffff) as u16);
                *state >>= WORD_BITS;
            }
            let (whole, part) = (*state / frequency, *state % frequency);
            *state = (whole << SCALE_BITS) + part + start;
        }
        (states, words)
    }
}

/// Contexts that follow one another and share a table.
struct Group {
    len: usize,
    /// `None` where nothing occurs.
    counts: Option<[u32; 256]>,
    bits: f64,
}

impl Group {
    fn new(len: usize, counts: Option<[u32; 256]>) -> Self {
        let bits = counts.as_ref().map_or(0.0, bits);
        Self { len, counts, bits }
    }

    fn with(&self, other: &Self) -> Self {
        let sum = |a: &[u32; 256], b: &[u32; 256]| std::array::from_fn(|at| a[at] + b[at]);
        let counts = match (&self.counts, &other.counts) {
            (Some(a), Some(b)) => Some(sum(a, b)),
            (one, None) | (None, one) => *one,
        };
        Self::new(self.len + other.len, counts)
    }
}

/// Bits of symbols with a table of their own, and of the table.
fn bits(counts: &[u32; 256]) -> f64 {
    let total: u32 = counts.iter().sum();
    let used = counts.iter().filter(|count| **count > 0);
    let each = used.map(|count| {
        let count = f64::from(*count);
        ENTRY_BITS + count * (f64::from(total) / count).log2()
    });
    TABLE_BITS + each.sum::<f64>()
}

/// Joins neighbours as long as that takes fewer bits, and at least to so many tables.
fn merged(counts: &[[u32; 256]], tables_max: usize) -> Vec<Group> {
    let single = |counts: &[u32; 256]| {
        let is_used = counts.iter().any(|count| *count > 0);
        Group::new(1, is_used.then_some(*counts))
    };
    let mut groups: Vec<Group> = counts.iter().map(single).collect();
    let mut pairs: Vec<Group> = groups.windows(2).map(|two| two[0].with(&two[1])).collect();
    loop {
        let gain = |at: usize| groups[at].bits + groups[at + 1].bits - pairs[at].bits;
        let best = (0..pairs.len()).max_by(|a, b| gain(*a).total_cmp(&gain(*b)));
        let is_over = groups.iter().filter(|group| group.counts.is_some()).count() > tables_max;
        let Some(at) = best.filter(|at| is_over || gain(*at) >= 0.0) else {
            return groups;
        };
        groups[at] = pairs.remove(at);
        groups.remove(at + 1);
        if at > 0 {
            pairs[at - 1] = groups[at - 1].with(&groups[at]);
        }
        if at + 1 < groups.len() {
            pairs[at] = groups[at].with(&groups[at + 1]);
        }
    }
}

/// Frequencies that sum to [`SCALE`], at least one for what occurs.
fn normalised(counts: &[u32; 256]) -> [u32; 256] {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let part = |count: &u32| match count {
        0 => 0,
        _ => (u64::from(*count) * u64::from(SCALE) / total.max(1)).max(1) as u32,
    };
    let mut parts: [u32; 256] = std::array::from_fn(|at| part(&counts[at]));
    let mut sum: u32 = parts.iter().sum();
    // What rounding has left goes to those to whom it matters least, a little at a time.
    while sum != SCALE {
        let largest = (0..256).max_by_key(|at| parts[*at]).unwrap_or(0);
        if sum < SCALE {
            parts[largest] += SCALE - sum;
            sum = SCALE;
        } else {
            let step = (sum - SCALE).min((parts[largest] / 4).max(1));
            parts[largest] -= step;
            sum -= step;
        }
    }
    parts
}

/// Where each symbol's part begins, and its length.
fn starts(table: &[u32; 256]) -> [(u32, u32); 256] {
    let mut start = 0;
    std::array::from_fn(|at| {
        let entry = (start, table[at]);
        start += table[at];
        entry
    })
}

/// How many tables there are, runs of contexts with theirs, and of each table its symbols from the
/// first that occurs to the last.
fn write_tables(places: &[u8], tables: &[[u32; 256]], out: &mut Vec<u8>) {
    out.push(tables.len() as u8);
    for run in places.chunk_by(|a, b| a == b) {
        for part in run.chunks(usize::from(u8::MAX)) {
            out.extend([part.len() as u8, part[0]]);
        }
    }
    for table in tables {
        let first = table.iter().position(|part| *part > 0).unwrap_or(0);
        let last = table.iter().rposition(|part| *part > 0).unwrap_or(0);
        out.extend([first as u8, last as u8]);
        for part in &table[first..=last] {
            // At most 4096: 13 bits.
            match u8::try_from(*part) {
                Ok(small) if small < 0x80 => out.push(small),
                _ => out.extend([0x80 | (part >> 8) as u8, (part & 0xff) as u8]),
            }
        }
    }
}

/// A symbol of a table by what a state ends in.
#[derive(Clone, Copy, Default)]
struct Slot {
    frequency: u16,
    offset: u16,
    symbol: u8,
}

/// Gives the symbols and bytes that a [`Recorder`] took, if they are asked for in the same order.
pub(super) struct Reader<'a> {
    slots: Vec<Slot>,
    places: Vec<u8>,
    states: [u32; STATES],
    turn: usize,
    words: &'a [u8],
    bytes: &'a [u8],
    /// Something was asked for that is not there.
    is_short: bool,
}

impl Port for Reader<'_> {
    #[inline]
    fn symbol(&mut self, context: usize, _: u8) -> u8 {
        let state = &mut self.states[self.turn % STATES];
        self.turn = self.turn.wrapping_add(1);
        let table = usize::from(self.places[context]);
        let place = table * SCALE as usize + (*state % SCALE) as usize;
        let Some(slot) = self.slots.get(place) else {
            self.is_short = true;
            return 0;
        };
        *state = u32::from(slot.frequency) * (*state >> SCALE_BITS) + u32::from(slot.offset);
        if *state < STATE_MIN {
            let (word, rest) = match self.words.split_first_chunk::<2>() {
                Some((word, rest)) => (u16::from_le_bytes(*word), rest),
                None => {
                    self.is_short = true;
                    (1, self.words)
                }
            };
            *state = *state << WORD_BITS | u32::from(word);
            self.words = rest;
        }
        slot.symbol
    }

    #[inline]
    fn byte(&mut self, _: u8) -> u8 {
        let Some((byte, rest)) = self.bytes.split_first() else {
            self.is_short = true;
            return 0;
        };
        self.bytes = rest;
        *byte
    }
}

impl<'a> Reader<'a> {
    /// Of what [`Recorder::finish`] has written for so many contexts.
    pub(super) fn new(contexts: usize, stream: &'a [u8]) -> Result<Self, ParkedError> {
        let mut rest = stream;
        let (slots, places) = read_tables(contexts, &mut rest).ok_or(ParkedError::Tables)?;
        let mut number = || {
            let (number, behind) = rest.split_first_chunk::<4>()?;
            rest = behind;
            Some(u32::from_le_bytes(*number))
        };
        let n_words = number().ok_or(ParkedError::Short)?;
        let mut states = [0; STATES];
        for state in &mut states {
            *state = number().ok_or(ParkedError::Short)?;
        }
        let n_bytes = usize::try_from(n_words).ok().and_then(|n| n.checked_mul(2));
        let split = n_bytes.and_then(|n| rest.split_at_checked(n));
        let (words, bytes) = split.ok_or(ParkedError::Short)?;
        Ok(Self {
            slots,
            places,
            states,
            turn: 0,
            words,
            bytes,
            is_short: false,
        })
    }

    /// Whether all was read, and no more.
    pub(super) fn finish(self) -> Result<(), ParkedError> {
        let is_end = self.words.is_empty() && self.bytes.is_empty() && !self.is_short;
        let is_start = self.states == [STATE_MIN; STATES];
        (is_end && is_start)
            .then_some(())
            .ok_or(ParkedError::Symbols)
    }
}

fn read_tables(contexts: usize, rest: &mut &[u8]) -> Option<(Vec<Slot>, Vec<u8>)> {
    let mut byte = || {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        Some(*byte)
    };
    let n_tables = byte()?;
    let mut places = Vec::with_capacity(contexts);
    while places.len() < contexts {
        let (len, table) = (byte()?, byte()?);
        let is_known = table < n_tables || table == NO_TABLE;
        if len == 0 || !is_known || places.len() + usize::from(len) > contexts {
            return None;
        }
        places.extend(std::iter::repeat_n(table, usize::from(len)));
    }
    let mut slots = Vec::new();
    for _ in 0..n_tables {
        let (first, last) = (byte()?, byte()?);
        let mut sum = 0;
        for symbol in first..=last {
            let part = match byte()? {
                low if low < 0x80 => u32::from(low),
                high => u32::from(high & 0x7f) << 8 | u32::from(byte()?),
            };
            sum += part;
            if sum > SCALE {
                return None;
            }
            let slot = |offset: u32| Slot {
                frequency: part as u16,
                offset: offset as u16,
                symbol,
            };
            slots.extend((0..part).map(slot));
        }
        if sum != SCALE {
            return None;
        }
    }
    Some((slots, places))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAMILIES: [usize; 3] = [4, 1, 3];

    fn written(symbols: &[(usize, u8)], bytes: &[u8]) -> Vec<u8> {
        let mut recorder = Recorder::new(&FAMILIES);
        for (context, symbol) in symbols {
            recorder.symbol(*context, *symbol);
        }
        for byte in bytes {
            recorder.byte(*byte);
        }
        let mut out = Vec::new();
        recorder.finish(&FAMILIES, &mut out);
        out
    }

    fn read(stream: &[u8], symbols: &[(usize, u8)], n_bytes: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut reader = Reader::new(8, stream).ok()?;
        let read = symbols
            .iter()
            .map(|(context, _)| reader.symbol(*context, 0));
        let read = read.collect();
        let bytes = (0..n_bytes).map(|_| reader.byte(0)).collect();
        reader.finish().ok()?;
        Some((read, bytes))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            symbols in prop::collection::vec((0_usize..8, any::<u8>()), 0..3000),
            few in prop::collection::vec((0_usize..8, 0_u8..3), 0..3000),
            bytes in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let symbols = [symbols, few].concat();
            let stream = written(&symbols, &bytes);
            let (read, plain) = read(&stream, &symbols, bytes.len()).unwrap();
            prop_assert!(read.iter().eq(symbols.iter().map(|(_, symbol)| symbol)));
            prop_assert_eq!(plain, bytes);
        }

        #[test]
        fn other_bytes_are_no_accident(
            stream in prop::collection::vec(any::<u8>(), 0..400),
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let symbols: Vec<(usize, u8)> = (0..500).map(|at| (at % 8, (at % 7) as u8)).collect();
            let _ = read(&stream, &symbols, 3);
            let mut changed = written(&symbols, &[1, 2, 3]);
            for (at, byte) in change {
                let at = at.index(changed.len());
                changed[at] = byte;
            }
            let _ = read(&changed, &symbols, 3);
        }
    }

    /// The length is the entropy, to a percent, with the tables and states on top.
    #[test]
    fn symbols_take_what_they_say() {
        let mut random = 1_u32;
        let mut symbols = Vec::new();
        for _ in 0..100_000 {
            random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let symbol = (random >> 16).trailing_zeros().min(15) as u8;
            symbols.push((0, symbol));
        }
        // Halves, quarters and so on: two bits.
        let stream = written(&symbols, &[]);
        assert!((25_000..25_400).contains(&stream.len()), "{}", stream.len());
        assert!(read(&stream, &symbols, 0).is_some());
        assert!(read(&stream, &symbols[1..], 0).is_none());
        assert!(read(&stream[..stream.len() - 2], &symbols, 0).is_none());
    }

    /// Contexts that are alike share a table, others do not.
    #[test]
    fn contexts_share_tables_where_that_is_shorter() {
        let alike: Vec<(usize, u8)> = (0..4000).map(|at| (at % 4, (at % 5) as u8)).collect();
        assert_eq!(written(&alike, &[])[0], 1);
        let other = |at: usize| (at % 4, (at % 4 * 50 + at / 4 % 3) as u8);
        let apart: Vec<(usize, u8)> = (0..4000).map(other).collect();
        assert_eq!(written(&apart, &[])[0], 4);
    }
}
