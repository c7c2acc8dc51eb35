//! What a section is besides its numbers: cells, and the form of each tensor.

use super::{ParkedError, values};
use crate::cache_type::CacheType;
use crate::loss::Side;
use crate::state::{LAYERS_MAX, ROW_BYTES_MAX, Section};

const HEAD_BYTES: usize = 16;
const TENSOR_HEAD_BYTES: usize = 12;
const CELL_BYTES: [usize; 2] = [12, 24];

/// The types and the order in which a context keeps numbers: what a state must have to be restored
/// there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    head: [u8; HEAD_BYTES],
    tensors: Vec<[u8; TENSOR_HEAD_BYTES]>,
}

/// Keys or values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) side: Side,
    /// `None`: none that a cache may have.
    pub(super) cache_type: Option<CacheType>,
    /// Bytes of one cell.
    pub(super) row_bytes: usize,
    /// Transposed, bytes of one number.
    element_bytes: Option<usize>,
    /// Numbers were rotated in blocks of so many; 0: they were not.
    pub(super) rotation: usize,
}

impl Layout {
    /// Of a context that gives this section; `None` if it has no cells.
    #[must_use]
    pub fn of(section: &Section<'_>) -> Option<Self> {
        let head = section.head.try_into().ok()?;
        let tensors: Option<Vec<[u8; TENSOR_HEAD_BYTES]>> = section
            .tensors()
            .map(|tensor| tensor.head.try_into().ok())
            .collect();
        let tensors = tensors?;
        Some(Self { head, tensors })
    }

    fn number(&self, at: usize) -> u32 {
        let bytes = &self.head[4 * at..];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Of every tensor, keys first; `None` if it is no layout of a state.
    pub(super) fn forms(&self) -> Option<Vec<Form>> {
        let [transposed, layers, keys, values] = [0, 1, 2, 3].map(|at| self.number(at));
        let layers = usize::try_from(layers).ok()?;
        let has_sides = [layers, layers.checked_mul(2)?].contains(&self.tensors.len());
        if transposed > 1 || !has_sides || layers > LAYERS_MAX as usize {
            return None;
        }
        let tensors = self.tensors.iter().enumerate();
        let form = |(at, head): (usize, &[u8; TENSOR_HEAD_BYTES])| {
            let (side, rotation) = match at < layers {
                true => (Side::Keys, keys),
                false => (Side::Values, values),
            };
            let number = |at: usize| {
                u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let is_transposed = transposed == 1 && side == Side::Values;
            let (unit, runs) = match is_transposed {
                false => (u64::from(number(4)) | u64::from(number(8)) << 32, 1),
                true => (u64::from(number(4)), u64::from(number(8))),
            };
            let row_bytes = unit.checked_mul(runs)?;
            if row_bytes > ROW_BYTES_MAX || row_bytes == 0 {
                return None;
            }
            let unit = usize::try_from(unit).ok()?;
            Some(Form {
                side,
                cache_type: values::of_ggml(number(0)),
                row_bytes: usize::try_from(row_bytes).ok()?,
                element_bytes: is_transposed.then_some(unit),
                rotation: usize::try_from(rotation).ok()?,
            })
        };
        tensors.map(form).collect()
    }
}

impl Form {
    /// Cell by cell.
    pub(super) fn rows(&self, data: &[u8], n_cells: usize) -> Vec<u8> {
        let Some(element) = self.element_bytes.filter(|_| n_cells > 0) else {
            return data.to_vec();
        };
        let mut rows = Vec::with_capacity(data.len());
        for cell in 0..n_cells {
            for run in data.chunks_exact(n_cells * element) {
                rows.extend(&run[cell * element..][..element]);
            }
        }
        rows
    }

    /// The other way round.
    fn append(&self, rows: &[u8], n_cells: usize, out: &mut Vec<u8>) {
        let Some(element) = self.element_bytes.filter(|_| n_cells > 0) else {
            out.extend(rows);
            return;
        };
        for from in (0..self.row_bytes).step_by(element) {
            for row in rows.chunks_exact(self.row_bytes) {
                out.extend(&row[from..from + element]);
            }
        }
    }

    /// Numbers of a cell; `None` if its bytes are none of its type.
    pub(super) fn n_values(&self) -> Option<usize> {
        values::n_values(self.cache_type?, self.row_bytes)
    }
}

/// A section without its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) n_cells: usize,
    cells: Vec<u8>,
    pub(super) layout: Layout,
    pub(super) forms: Vec<Form>,
}

impl Frame {
    pub(super) fn of(section: &Section<'_>) -> Option<Self> {
        let layout = Layout::of(section)?;
        Some(Self {
            n_cells: section.n_cells(),
            cells: section.cells.to_vec(),
            forms: layout.forms()?,
            layout,
        })
    }

    /// The bytes of the section in a layout with these forms.
    pub(super) fn section_bytes(&self, forms: &[Form]) -> Option<usize> {
        let tensor = |form: &Form| {
            form.row_bytes
                .checked_mul(self.n_cells)?
                .checked_add(TENSOR_HEAD_BYTES)
        };
        let start = 8 + self.cells.len() + HEAD_BYTES;
        forms
            .iter()
            .try_fold(start, |sum, form| sum.checked_add(tensor(form)?))
    }

    /// The section in a layout, from rows of each of its tensors.
    pub(super) fn section(
        &self,
        (layout, forms): (&Layout, &[Form]),
        mut rows: impl FnMut(usize) -> Result<Vec<u8>, ParkedError>,
    ) -> Result<Vec<u8>, ParkedError> {
        let len = self.section_bytes(forms).ok_or(ParkedError::Form)?;
        let mut out = Vec::with_capacity(len);
        out.extend(1_u32.to_le_bytes());
        out.extend((self.n_cells as u32).to_le_bytes());
        out.extend(&self.cells);
        out.extend(layout.head);
        for (at, (form, head)) in forms.iter().zip(&layout.tensors).enumerate() {
            out.extend(head);
            form.append(&rows(at)?, self.n_cells, &mut out);
        }
        Ok(out)
    }

    /// Cells that follow one another are a position alone, tensors like those before them a byte.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let cell_bytes = self.cells.len() / self.n_cells.max(1);
        out.extend((self.n_cells as u32).to_le_bytes());
        let first = self.cells.first_chunk::<4>().copied().unwrap_or_default();
        let is_run = self.cells == run_of(i32::from_le_bytes(first), self.n_cells);
        out.push(if is_run { 0 } else { cell_bytes as u8 });
        match is_run {
            true => out.extend(first),
            false => out.extend(&self.cells),
        }
        out.extend(self.layout.head);
        out.extend((self.layout.tensors.len() as u32).to_le_bytes());
        let mut before = None;
        for head in &self.layout.tensors {
            let is_same = before == Some(head);
            out.push(u8::from(is_same));
            if !is_same {
                out.extend(head);
            }
            before = Some(head);
        }
    }

    /// What [`Frame::write`] wrote, with the most bytes that its section may have.
    pub(super) fn read(rest: &mut &[u8], bytes_max: usize) -> Result<Self, ParkedError> {
        let n_cells = take_number(rest)? as usize;
        let cell_bytes = take(rest, 1)?[0];
        if n_cells == 0 || n_cells > bytes_max / CELL_BYTES[0] {
            return Err(ParkedError::Form);
        }
        let cells = match usize::from(cell_bytes) {
            0 => run_of(take_number(rest)?.cast_signed(), n_cells),
            bytes if CELL_BYTES.contains(&bytes) => take(rest, n_cells * bytes)?.to_vec(),
            _ => return Err(ParkedError::Form),
        };
        let head: Result<[u8; HEAD_BYTES], _> = take(rest, HEAD_BYTES)?.try_into();
        let head = head.map_err(|_| ParkedError::Form)?;
        let n_tensors = take_number(rest)?;
        if n_tensors > 2 * LAYERS_MAX {
            return Err(ParkedError::Form);
        }
        let mut tensors: Vec<[u8; TENSOR_HEAD_BYTES]> = Vec::new();
        for _ in 0..n_tensors {
            let head = match (take(rest, 1)?[0], tensors.last()) {
                (1, Some(before)) => *before,
                (0, _) => {
                    let head: Result<[u8; TENSOR_HEAD_BYTES], _> =
                        take(rest, TENSOR_HEAD_BYTES)?.try_into();
                    head.map_err(|_| ParkedError::Form)?
                }
                _ => return Err(ParkedError::Form),
            };
            tensors.push(head);
        }
        let layout = Layout { head, tensors };
        let forms = layout.forms().ok_or(ParkedError::Form)?;
        Ok(Self {
            n_cells,
            cells,
            layout,
            forms,
        })
    }
}

/// Cells of one sequence from a position on, as `state` cuts them.
fn run_of(first: i32, n_cells: usize) -> Vec<u8> {
    let mut cells = Vec::with_capacity(12 * n_cells);
    for (_, position) in (0..n_cells).zip(0_i32..) {
        cells.extend(first.wrapping_add(position).to_le_bytes());
        cells.extend(1_u32.to_le_bytes());
        cells.extend(0_i32.to_le_bytes());
    }
    cells
}

pub(super) fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], ParkedError> {
    let (taken, behind) = rest.split_at_checked(n).ok_or(ParkedError::Short)?;
    *rest = behind;
    Ok(taken)
}

pub(super) fn take_number(rest: &mut &[u8]) -> Result<u32, ParkedError> {
    let (number, behind) = rest.split_first_chunk::<4>().ok_or(ParkedError::Short)?;
    *rest = behind;
    Ok(u32::from_le_bytes(*number))
}
