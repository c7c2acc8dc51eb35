//! The state of a sequence as llama.cpp writes it, cut into ranges of tokens and put
//! together again.
//!
//! `llama_state_seq_get_data_ext` gives (llama.cpp b11434, `src/llama-kv-cache.cpp` and
//! `src/llama-memory-recurrent.cpp`; integers little-endian):
//!
//! ```text
//! u32 magic, i32 sequence
//! for each KV cache (all tokens, then the window where there is one):
//!   u32 streams = 1, u32 cells; nothing more where that is 0
//!   a cell:   i32 position, u32 1, [12 bytes with M-RoPE and the like], i32 sequence
//!   u32 are values transposed, u32 layers, u32 rotation of keys, u32 of values
//!   a layer's keys:   i32 type, u64 bytes a row, a row a cell
//!   a layer's values: the same, or i32 type, u32 bytes an element, u32 elements a row, and
//!                     for each element its value in each cell; with MLA there are none
//! the recurrent state, if there is one: taken as it is
//! ```
//!
//! The state itself does not tell which of these forms it has. [`Form::find`] finds it
//! for a model by reading a state of it, and gives up where that is not certain.

/// The most bytes of one row: far above any model's.
const ROW_BYTES_MAX: u64 = 1 << 24;
/// The most layers.
const LAYERS_MAX: u32 = 4096;
const EXT_BYTES: usize = 12;
const GGML_TYPE_F16: u32 = 1;
const PRELUDE_BYTES: usize = 8;

/// What a model's states look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Layers that see all tokens.
    pub rows: bool,
    /// Layers that see a window.
    pub window: bool,
    /// Layers with a state.
    pub recurrent: bool,
    magic: [u8; 4],
    has_ext: bool,
    has_values: bool,
}

/// What a model is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    pub attention: bool,
    pub window: bool,
    pub recurrent: bool,
}

/// The parts of one state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    pub rows: Option<Section<'a>>,
    pub window: Option<Section<'a>>,
    pub recurrent: &'a [u8],
}

impl Form {
    /// The form of a whole state and of the partial one of the same sequence, whose
    /// windowed and recurrent parts are all that is in it.
    #[must_use]
    pub fn find(kinds: Kinds, whole: &[u8], partial: &[u8]) -> Option<Self> {
        let magic = whole.get(..4)?.try_into().ok()?;
        let is_partial = partial.len() < whole.len();
        // Both parts behind the rows: their border cannot be told.
        if kinds.window && kinds.recurrent {
            return None;
        }
        // Without a cache of its own the window has no part of its own.
        if kinds.window && !is_partial {
            return None;
        }
        let forms = [(false, true), (true, true), (false, false), (true, false)];
        let forms = forms.map(|(has_ext, has_values)| Self {
            rows: kinds.attention,
            window: kinds.window,
            recurrent: kinds.recurrent,
            magic,
            has_ext,
            has_values,
        });
        let tail = partial.len().checked_sub(PRELUDE_BYTES)?;
        let mut fitting = forms.into_iter().filter(|form| form.fits(whole, tail));
        let found = fitting.next()?;
        // Where there are no rows the forms are all the same.
        (!kinds.attention || fitting.next().is_none()).then_some(found)
    }

    fn fits(&self, whole: &[u8], tail: usize) -> bool {
        let Some(parts) = self.parts(whole) else {
            return false;
        };
        let window = parts.window.map_or(0, |section| section.bytes.len());
        let behind_rows = window + parts.recurrent.len();
        !(self.window || (self.recurrent && self.rows)) || behind_rows == tail
    }

    /// The parts of a state; `None` if it is none of this form.
    #[must_use]
    pub fn parts<'a>(&self, state: &'a [u8]) -> Option<Parts<'a>> {
        let mut rest = state.get(PRELUDE_BYTES..)?;
        if state[..4] != self.magic {
            return None;
        }
        let mut parts = Parts::default();
        if self.rows {
            let (section, behind) = self.section(rest)?;
            (parts.rows, rest) = (Some(section), behind);
        }
        if self.window {
            let (section, behind) = self.section(rest)?;
            (parts.window, rest) = (Some(section), behind);
        }
        if self.recurrent {
            (parts.recurrent, rest) = (rest, &[]);
        }
        rest.is_empty().then_some(parts)
    }

    /// The form of a partial state of the same model.
    #[must_use]
    pub fn partial(&self) -> Self {
        let is_partial = self.window || self.recurrent;
        Self {
            rows: self.rows && !is_partial,
            ..*self
        }
    }

    /// Reads what [`Section::cut`] and [`join`] give.
    #[must_use]
    pub fn read<'a>(&self, section: &'a [u8]) -> Option<Section<'a>> {
        let (section, rest) = self.section(section)?;
        rest.is_empty().then_some(section)
    }

    /// A state of these parts, for any sequence.
    #[must_use]
    pub fn state(&self, rows: &[u8], window: &[u8], recurrent: &[u8]) -> Vec<u8> {
        let len = PRELUDE_BYTES + rows.len() + window.len() + recurrent.len();
        let mut state = Vec::with_capacity(len);
        state.extend(self.magic);
        state.extend(0_i32.to_le_bytes());
        for part in [rows, window, recurrent] {
            state.extend(part);
        }
        state
    }

    /// Changes the last bit of every second 16-bit value in the cells from that position on: what
    /// the rounding of a cache in 16 bits may be off by. `None` if it is no state of this form;
    /// else how many values were changed.
    pub fn nudge(&self, state: &mut [u8], from: usize) -> Option<usize> {
        let start = state.as_ptr() as usize;
        let mut places = Vec::new();
        let parts = self.parts(state)?;
        for section in [parts.rows, parts.window].into_iter().flatten() {
            let n_cells = section.n_cells();
            let is_new = |cell: &usize| {
                usize::try_from(section.position(*cell)).is_ok_and(|position| position >= from)
            };
            let cells: Vec<usize> = (0..n_cells).filter(is_new).collect();
            for tensor in section
                .tensors()
                .filter(|one| le32(one.head, 0) == GGML_TYPE_F16)
            {
                let first = tensor.data.as_ptr() as usize - start;
                for run in 0..tensor.runs {
                    let run_start = first + run * n_cells * tensor.unit;
                    let units = cells.iter().map(|cell| run_start + cell * tensor.unit);
                    // Transposed, a unit is one value, and every second run has its turn.
                    let skip = if tensor.runs > 1 { run % 2 * 2 } else { 0 };
                    places.extend(units.map(|unit| (unit + skip, unit + tensor.unit)));
                }
            }
        }
        let mut n_changed = 0;
        for (from, to) in places {
            for value in state.get_mut(from..to)?.chunks_exact_mut(2).step_by(2) {
                value[0] ^= 1;
                n_changed += 1;
            }
        }
        Some(n_changed)
    }

    fn section<'a>(&self, bytes: &'a [u8]) -> Option<(Section<'a>, &'a [u8])> {
        let mut reader = Reader(bytes);
        if reader.u32()? != 1 {
            return None;
        }
        let n_cells = reader.u32()? as usize;
        let cell_bytes = 12 + if self.has_ext { EXT_BYTES } else { 0 };
        let cells = reader.take(n_cells.checked_mul(cell_bytes)?)?;
        let mut section = Section {
            bytes: &[],
            cells,
            cell_bytes,
            head: &[],
            tensors: &[],
            n_tensors: 0,
        };
        if n_cells > 0 {
            section.head = reader.take(16)?;
            let (transposed, layers) = (le32(section.head, 0), le32(section.head, 4));
            if layers > LAYERS_MAX || transposed > 1 {
                return None;
            }
            let sides = if self.has_values { 2 } else { 1 };
            section.n_tensors = layers * sides;
            let before = reader.0;
            for at in 0..section.n_tensors {
                let is_transposed = at >= layers && transposed == 1;
                Tensor::read(&mut reader, n_cells, is_transposed)?;
            }
            section.tensors = &before[..before.len() - reader.0.len()];
        }
        section.bytes = &bytes[..bytes.len() - reader.0.len()];
        let is_cell =
            |at: usize| section.position(at) >= 0 && le32(section.cells, at * cell_bytes + 4) == 1;
        (0..n_cells).all(is_cell).then_some((section, reader.0))
    }
}

/// The part of one KV cache.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    bytes: &'a [u8],
    cells: &'a [u8],
    cell_bytes: usize,
    head: &'a [u8],
    tensors: &'a [u8],
    n_tensors: u32,
}

impl<'a> Section<'a> {
    #[must_use]
    pub fn n_cells(&self) -> usize {
        self.cells.len() / self.cell_bytes
    }

    fn position(&self, cell: usize) -> i32 {
        le32(self.cells, cell * self.cell_bytes) as i32
    }

    fn tensors(&self) -> impl Iterator<Item = Tensor<'a>> {
        let (mut reader, n_cells) = (Reader(self.tensors), self.n_cells());
        let transposed = self.n_tensors > 0 && le32(self.head, 0) == 1;
        let layers = if self.n_tensors > 0 {
            le32(self.head, 4)
        } else {
            0
        };
        (0..self.n_tensors)
            .map_while(move |at| Tensor::read(&mut reader, n_cells, transposed && at >= layers))
    }

    /// Whether the positions are `from..`, in order.
    #[must_use]
    pub fn is_at(&self, from: usize) -> bool {
        (0..self.n_cells()).all(|at| usize::try_from(self.position(at)) == Ok(from + at))
    }

    /// The section of the positions `from..to` alone, in order. `None` if one of them is not
    /// there.
    #[must_use]
    pub fn cut(&self, from: usize, to: usize) -> Option<Vec<u8>> {
        let mut order: Vec<(usize, usize)> = (0..self.n_cells())
            .filter_map(|at| Some((usize::try_from(self.position(at)).ok()?, at)))
            .filter(|(position, _)| (from..to).contains(position))
            .collect();
        order.sort_unstable();
        let is_whole = order.iter().map(|(position, _)| *position).eq(from..to);
        if !is_whole || order.is_empty() {
            return None;
        }
        let chosen: Vec<usize> = order.into_iter().map(|(_, at)| at).collect();
        let each = self.bytes.len() / self.n_cells();
        let mut out = Vec::with_capacity((each + 16) * chosen.len());
        out.extend(1_u32.to_le_bytes());
        out.extend(u32::try_from(chosen.len()).ok()?.to_le_bytes());
        for at in &chosen {
            let cell = &self.cells[at * self.cell_bytes..][..self.cell_bytes];
            // The sequence is no part of what is kept, so that equal blocks are equal bytes.
            out.extend(&cell[..self.cell_bytes - 4]);
            out.extend(0_i32.to_le_bytes());
        }
        out.extend(self.head);
        for tensor in self.tensors() {
            out.extend(tensor.head);
            tensor.gather(&chosen, self.n_cells(), &mut out);
        }
        Some(out)
    }
}

/// A section without a cell.
#[must_use]
pub fn nothing() -> Vec<u8> {
    [1_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat()
}

/// One section of sections whose positions follow one another. `None` if they are not of one
/// kind.
#[must_use]
pub fn join(sections: &[Section<'_>]) -> Option<Vec<u8>> {
    let first = sections.first()?;
    let n_cells: usize = sections.iter().map(Section::n_cells).sum();
    let len: usize = sections.iter().map(|section| section.bytes.len()).sum();
    let mut out = Vec::with_capacity(len);
    out.extend(1_u32.to_le_bytes());
    out.extend(u32::try_from(n_cells).ok()?.to_le_bytes());
    for section in sections {
        if section.head != first.head || section.n_tensors != first.n_tensors {
            return None;
        }
        out.extend(section.cells);
    }
    out.extend(first.head);
    let mut all: Vec<_> = sections.iter().map(Section::tensors).collect();
    for _ in 0..first.n_tensors {
        let parts: Option<Vec<Tensor<'_>>> = all.iter_mut().map(Iterator::next).collect();
        let parts = parts?;
        let head = parts.first()?.head;
        if parts.iter().any(|part| part.head != head) {
            return None;
        }
        out.extend(head);
        // One run a row of elements; untransposed there is a single one.
        let runs = parts.first()?.runs;
        for run in 0..runs {
            for part in &parts {
                let bytes = part.data.len() / runs;
                out.extend(&part.data[run * bytes..][..bytes]);
            }
        }
    }
    Some(out)
}

/// Keys or values of one layer.
struct Tensor<'a> {
    head: &'a [u8],
    /// Bytes of one cell in one run.
    unit: usize,
    /// How often the cells follow one another: once, or transposed once an element.
    runs: usize,
    data: &'a [u8],
}

impl<'a> Tensor<'a> {
    fn read(reader: &mut Reader<'a>, n_cells: usize, transposed: bool) -> Option<Self> {
        let head = reader.take(12)?;
        let (unit, runs) = match transposed {
            false => (u64::from_le_bytes(head[4..].try_into().ok()?), 1),
            true => (u64::from(le32(head, 4)), u64::from(le32(head, 8))),
        };
        if unit.checked_mul(runs)? > ROW_BYTES_MAX || runs == 0 {
            return None;
        }
        let (unit, runs) = (usize::try_from(unit).ok()?, usize::try_from(runs).ok()?);
        let data = reader.take(unit.checked_mul(runs)?.checked_mul(n_cells)?)?;
        Some(Self {
            head,
            unit,
            runs,
            data,
        })
    }

    fn gather(&self, chosen: &[usize], n_cells: usize, out: &mut Vec<u8>) {
        for run in 0..self.runs {
            let run = &self.data[run * n_cells * self.unit..][..n_cells * self.unit];
            // Cells that follow one another are copied at once.
            for span in chosen.chunk_by(|a, b| a + 1 == *b) {
                let Some(first) = span.first() else { continue };
                out.extend(&run[first * self.unit..][..span.len() * self.unit]);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(le32(self.take(4)?, 0))
    }
}

/// The caller has checked that there are four bytes.
fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
