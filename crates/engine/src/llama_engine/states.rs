//! States of sequences, in blocks.

use std::ops::Range;

use kv::state::{Form, Section, join};
use llama::{Context, Extent};
use prefix::{BLOCK_TOKENS, Needs, Plane};

use super::{LlamaDecoder, position};
use crate::{Decoder, Pieces, Place, SequenceId};

impl LlamaDecoder {
    pub(super) fn needs_of(&self, form: &Form) -> Needs {
        let window = usize::try_from(self.sliding_window).unwrap_or(0);
        Needs {
            rows: form.rows,
            window_blocks: if form.window {
                window.div_ceil(BLOCK_TOKENS)
            } else {
                0
            },
            state: form.recurrent,
        }
    }

    pub(super) fn save_blocks(
        &mut self,
        at: Place,
        plane: Plane,
        blocks: Range<usize>,
    ) -> Option<Vec<Vec<u8>>> {
        let form = self.form?;
        let window = usize::try_from(self.sliding_window).unwrap_or(0);
        let sequence = at.sequence;
        let context = self.context.as_mut()?;
        if plane == Plane::State {
            let (_, last) = context.positions(sequence)?;
            if last + 1 != position(blocks.end * BLOCK_TOKENS) {
                return None;
            }
            let state = context.state(sequence, Extent::Partial)?;
            let parts = form.partial().parts(&state)?;
            return Some(vec![parts.recurrent.to_vec()]);
        }
        if plane == Plane::Rows {
            return save_rows(context, &form, at, blocks);
        }
        // A state leaves out what its last token does not see any more, so a block that is
        // longer than the window is taken in parts.
        let mut pieces = Vec::with_capacity(blocks.len());
        for block in blocks {
            let tokens = tokens_of(block..block + 1);
            let mut parts = Vec::new();
            for from in tokens.clone().step_by(window.max(1)) {
                let part = from..tokens.end.min(from + window.max(1));
                parts.push(save_window(context, &form, at, part)?);
            }
            let read: Option<Vec<_>> = parts.iter().map(|part| form.read(part)).collect();
            pieces.push(join(&read?)?);
        }
        Some(pieces)
    }

    pub(super) fn restore_blocks(
        &mut self,
        at: Place,
        blocks: Range<usize>,
        pieces: &Pieces,
    ) -> Option<()> {
        let form = self.form?;
        let needs = self.needs_of(&form);
        let state = whole_state(&form, &needs, &blocks, pieces)?;
        if self.context.is_none() {
            self.context = Some(self.reopen().ok()?);
        }
        let len = blocks.end * BLOCK_TOKENS;
        let context = self.context.as_mut()?;
        if blocks.start == 0 {
            if !context.set_state(at.sequence, &state) {
                return None;
            }
        } else {
            // A state replaces all that its sequence holds, so it goes into another one first.
            let scratch = at.scratch?;
            if !context.set_state(scratch, &state) {
                return None;
            }
            context.lend(scratch, at.sequence, 0..position(len));
            context.truncate(scratch, -1);
        }
        let is_whole = !pieces.is_last || self.holds_whole(at.sequence, len);
        if !is_whole {
            self.truncate(at.sequence, blocks.start * BLOCK_TOKENS);
        }
        is_whole.then_some(())
    }

    /// Whether a sequence ends at `len`, and may be gone on from.
    fn holds_whole(&self, sequence: SequenceId, len: usize) -> bool {
        let is_windowed = self.form.is_some_and(|form| form.window);
        if is_windowed {
            return self.holds(sequence, len);
        }
        let context = self.context.as_ref();
        let positions = context.and_then(|context| context.positions(sequence));
        positions.is_some_and(|(_, last)| last + 1 == position(len))
    }
}

fn tokens_of(blocks: Range<usize>) -> Range<usize> {
    blocks.start * BLOCK_TOKENS..blocks.end * BLOCK_TOKENS
}

/// The state of some tokens of a sequence; without a scratch that of all its tokens.
fn state_of(
    context: &mut Context,
    at: Place,
    tokens: &Range<usize>,
    extent: Extent,
) -> Option<Vec<u8>> {
    let Some(scratch) = at.scratch else {
        return context.state(at.sequence, extent);
    };
    context.lend(
        at.sequence,
        scratch,
        position(tokens.start)..position(tokens.end),
    );
    let state = context.state(scratch, extent);
    context.truncate(scratch, -1);
    state
}

fn save_rows(
    context: &mut Context,
    form: &Form,
    at: Place,
    blocks: Range<usize>,
) -> Option<Vec<Vec<u8>>> {
    let state = state_of(context, at, &tokens_of(blocks.clone()), Extent::Whole)?;
    let rows = form.parts(&state)?.rows?;
    let cut = |block: usize| rows.cut(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS);
    blocks.map(cut).collect()
}

fn save_window(
    context: &mut Context,
    form: &Form,
    at: Place,
    tokens: Range<usize>,
) -> Option<Vec<u8>> {
    let state = state_of(context, at, &tokens, Extent::Partial)?;
    let window = form.partial().parts(&state)?.window?;
    window.cut(tokens.start, tokens.end)
}

/// The state that a sequence with these blocks has; `None` if the pieces are not theirs.
fn whole_state(
    form: &Form,
    needs: &Needs,
    blocks: &Range<usize>,
    pieces: &Pieces,
) -> Option<Vec<u8>> {
    let sections = |contents: &[_], first: usize| {
        let read = |(at, content): (usize, &std::sync::Arc<prefix::Content>)| {
            let section: Section<'_> = form.read(content)?;
            let is_here =
                section.n_cells() == BLOCK_TOKENS && section.is_at((first + at) * BLOCK_TOKENS);
            is_here.then_some(())
        };
        contents.iter().enumerate().all(|each| read(each).is_some())
    };
    let joined = |contents: &[std::sync::Arc<prefix::Content>]| {
        let read: Option<Vec<_>> = contents.iter().map(|content| form.read(content)).collect();
        join(&read?)
    };
    let mut rows = Vec::new();
    if needs.rows {
        if pieces.rows.len() != blocks.len() || !sections(&pieces.rows, blocks.start) {
            return None;
        }
        rows = joined(&pieces.rows)?;
    }
    let mut window = Vec::new();
    if needs.window_blocks > 0 && !pieces.is_last {
        window = kv::state::nothing();
    } else if needs.window_blocks > 0 {
        let n = needs.window_blocks.min(blocks.end);
        if pieces.window.len() != n || !sections(&pieces.window, blocks.end - n) {
            return None;
        }
        window = joined(&pieces.window)?;
    }
    let recurrent: &[u8] = match (&pieces.state, needs.state) {
        (Some(state), true) => state,
        (None, false) => &[],
        _ => return None,
    };
    Some(form.state(&rows, &window, recurrent))
}
