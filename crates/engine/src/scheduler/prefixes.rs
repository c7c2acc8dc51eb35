//! States that outlive their sequences: putting them away, and going on from them.
//!
//! What is put away is cut into blocks of tokens that are named by all the tokens up to
//! their end ([`prefix`]). Rows of keys and values are taken from a sequence a few blocks
//! at a time, between passes, so that no stream waits for them. A window or a recurrent
//! state is there only for a moment, so it is taken at once, at chosen places: where the
//! next request with the same prompt can go on from, and where a prompt leaves what an
//! earlier one had, since others may do the same.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use prefix::{BLOCK_TOKENS, Content, Facts, Id, Key, Needs, Plane, Stored};
use proto::{PrefixDetail, PrefixReport};

use crate::scheduler::history::Begun;
use crate::scheduler::job::{Job, Restore};
use crate::scheduler::plan::Lease;
use crate::scheduler::{Choice, Scheduler, saturate, sequences};
use crate::{Pieces, Place, PrefixStore, SequenceId, StoreReport, TokenId};

/// Bytes of rows that are taken between two passes: copying them takes about as long as a
/// thousandth of a second.
const SLICE_BYTES: usize = 4 << 20;
/// Bytes of rows that are fetched and restored at once: they are in memory two or three times
/// meanwhile.
const PORTION_BYTES: u64 = 16 << 20;
/// Fewer tokens than this are computed sooner than anything is fetched.
const GAIN_MIN: usize = BLOCK_TOKENS;
/// Longest wait for the store when there is nothing else to do; the caller looks for news
/// in between.
const WAIT: Duration = Duration::from_millis(5);
/// Sequences whose states are still to be put away. Beyond them the oldest is left out.
const CAPTURES_MAX: usize = 64;
/// Microseconds that a token is taken to cost before anything was measured.
const TOKEN_COST_US: f64 = 1000.0;

pub(crate) struct Prefixes {
    store: Box<dyn PrefixStore>,
    needs: Needs,
    captures: VecDeque<Capture>,
    /// Bytes of a block's rows, as far as one was seen.
    block_bytes: usize,
}

/// A part of what is fetched, which brings the state if it is the first and the window if it
/// is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Only,
    First,
    Middle,
    Last,
}

/// Rows of a sequence that are still to be taken.
#[derive(Debug)]
struct Capture {
    sequence: SequenceId,
    keys: Vec<Key>,
    next: usize,
}

impl Scheduler {
    /// Puts states of prefixes away, and goes on from them. `false`: the decoder cannot.
    pub fn keep_prefixes(&mut self, store: Box<dyn PrefixStore>) -> bool {
        let needs = self.decoder.needs();
        self.prefixes = needs.map(|needs| Prefixes {
            store,
            needs,
            captures: VecDeque::new(),
            block_bytes: 0,
        });
        self.prefixes.is_some()
    }

    /// What is put away; `None` if nothing ever is.
    #[must_use]
    pub fn prefixes(&self) -> Option<StoreReport> {
        Some(self.prefixes.as_ref()?.store.report())
    }

    /// Whether something is still to be put away, or on its way.
    pub(super) fn has_captures(&self) -> bool {
        let prefixes = self.prefixes.as_ref();
        prefixes.is_some_and(|prefixes| {
            !prefixes.captures.is_empty() || prefixes.store.report().pending_bytes > 0
        })
    }

    /// Waits until what was put away is where it stays, at most that long.
    pub fn flush_prefixes(&mut self, at_most: Duration) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.store.flush(at_most);
        }
    }

    pub(super) fn shrink_prefixes(&mut self) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.captures.clear();
            prefixes.store.shrink();
        }
    }

    /// The last job has a sequence with its first `n_live` tokens: fetches what is known
    /// beyond them, if that is sooner than computing it. `false`: it goes on at once.
    pub(super) fn begin_restore(&mut self, at: usize, n_live: usize) -> bool {
        let row_seconds = self.pace.row_seconds();
        let job = &mut self.running[at];
        let Some(prefixes) = self.prefixes.as_mut().filter(|_| job.reuses()) else {
            return false;
        };
        let Some(choice) = job
            .choices
            .iter_mut()
            .find(|choice| choice.finished.is_none())
        else {
            return false;
        };
        // The last token is computed in any case: its logits are what comes next.
        let most = (choice.tokens.len() - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
        let keys = prefix::chain(&prefixes.store.fingerprint(), &choice.tokens[..most]);
        let (to, known) = prefixes.store.longest(&keys);
        job.checkpoints = checkpoints(
            &prefixes.needs,
            n_live.max(to * BLOCK_TOKENS),
            known,
            keys.len(),
        );
        let from = match prefixes.needs.is_plain() {
            true => n_live / BLOCK_TOKENS,
            false => 0,
        };
        let gain = (to * BLOCK_TOKENS).saturating_sub(n_live);
        if choice.sequence.is_none() || gain < GAIN_MIN {
            return false;
        }
        let bytes = prefixes.bytes(&prefixes.wanted(&keys, from..to, Part::Only));
        let fetching = prefixes.store.fetch_seconds(bytes);
        if row_seconds.is_some_and(|seconds| fetching > seconds * gain as f64) {
            job.fetch_is_slower = true;
            return false;
        }
        // Blocks are restored whole, and whole states replace all there is.
        if let Some(sequence) = choice.sequence
            && n_live > from * BLOCK_TOKENS
            && !self.decoder.truncate(sequence, from * BLOCK_TOKENS)
        {
            choice.n_kv = 0;
            return false;
        }
        choice.n_kv = from * BLOCK_TOKENS;
        let restore = Restore {
            keys,
            coming: from..from,
            to,
            state: None,
            n_live: n_live.min(from * BLOCK_TOKENS),
        };
        let ticket = job.key().0;
        job.restore = Some(prefixes.fetch(ticket, restore));
        true
    }

    /// Takes what was fetched into the sequences that wait for it.
    pub(super) fn restore_prefixes(&mut self) {
        for at in 0..self.running.len() {
            let ticket = self.running[at].key().0;
            let Some(prefixes) = self.prefixes.as_mut() else {
                return;
            };
            if self.running[at].restore.is_none() {
                continue;
            }
            let (Some(fetched), needs) = (prefixes.store.fetched(ticket), prefixes.needs) else {
                continue;
            };
            let Some(mut restore) = self.running[at].restore.take() else {
                continue;
            };
            let restored = fetched.is_some_and(|contents| {
                let pieces = restore.pieces(needs, contents);
                self.put_into(at, &restore.coming, &pieces)
            });
            if restored
                && restore.coming.end < restore.to
                && let Some(prefixes) = &mut self.prefixes
            {
                self.running[at].restore = Some(prefixes.fetch(ticket, restore));
            } else {
                self.end_restore(at, &restore);
            }
        }
    }

    fn put_into(&mut self, at: usize, blocks: &Range<usize>, pieces: &Pieces) -> bool {
        let waits = |choice: &&mut Choice| choice.finished.is_none();
        let choice = self.running[at].choices.iter_mut().find(waits);
        let Some(sequence) = choice.and_then(|choice| choice.sequence) else {
            return false;
        };
        let scratch = (blocks.start > 0)
            .then(|| self.take_sequence(None))
            .flatten();
        let place = Place { sequence, scratch };
        let mut restored = self.decoder.restore(place, blocks.clone(), pieces);
        // It may be for want of room, and what is kept can be restored in its turn.
        while !restored && self.is_crowded(blocks.len() * BLOCK_TOKENS) {
            let Some(evicted) = self.sequences.evict_except(None) else {
                break;
            };
            self.release(evicted);
            restored = self.decoder.restore(place, blocks.clone(), pieces);
        }
        if let Some(scratch) = scratch {
            self.release(scratch);
        }
        let waits = |choice: &&mut Choice| choice.finished.is_none();
        if restored && let Some(choice) = self.running[at].choices.iter_mut().find(waits) {
            choice.n_kv = blocks.end * BLOCK_TOKENS;
        }
        restored
    }

    /// Whether so many more cells might not be there.
    fn is_crowded(&self, cells: usize) -> bool {
        let running = self.running.iter().flat_map(|job| &job.choices);
        let held: usize = running.map(|choice| choice.n_kv).sum();
        held + self.sequences.cached_tokens() + cells > self.shape.cells
    }

    /// The job goes on from what it has.
    fn end_restore(&mut self, at: usize, restore: &Restore) {
        let is_plain = self
            .prefixes
            .as_ref()
            .is_some_and(|prefixes| prefixes.needs.is_plain());
        let job = &mut self.running[at];
        let waits = |choice: &&mut Choice| choice.finished.is_none();
        let Some(choice) = job.choices.iter_mut().find(waits) else {
            return;
        };
        let is_whole = choice.n_kv == restore.to * BLOCK_TOKENS;
        if !is_whole && let Some(sequence) = choice.sequence {
            // Without its window or its state a part is of no use.
            let len = if is_plain { choice.n_kv } else { 0 };
            let cut = self.decoder.truncate(sequence, len);
            choice.n_kv = if cut { len } else { 0 };
        }
        let n_kv = choice.n_kv.min(job.prompt_len);
        let n_live = restore.n_live.min(n_kv);
        self.announce(at, n_live, n_kv - n_live);
    }

    /// The job leaves its slot, and nobody waits for its state any more.
    pub(super) fn abandon_restore(&mut self, job: &mut Job) {
        if job.restore.take().is_some()
            && let Some(prefixes) = &mut self.prefixes
        {
            prefixes.store.abandon(job.key().0);
        }
    }

    /// After a pass over part of a prompt: takes the states that are there only now, and
    /// has the rows taken when the prompt is read.
    pub(super) fn put_away(&mut self, lease: Lease) {
        let Some(needs) = self.prefixes.as_ref().map(|prefixes| prefixes.needs) else {
            return;
        };
        let job = &self.running[lease.job];
        let choice = &job.choices[lease.choice];
        let (Some(sequence), true) = (choice.sequence, job.reuses()) else {
            return;
        };
        let (n_kv, is_read) = (choice.n_kv, choice.n_kv >= job.prompt_len);
        let is_checkpoint = job.checkpoints.contains(&n_kv);
        if !is_read && !is_checkpoint {
            return;
        }
        let tokens = choice.tokens[..n_kv].to_vec();
        // A window reaches back a little farther than it must, so that its place need not be
        // the end of a pass.
        let place = match is_checkpoint || needs.state {
            true => n_kv / BLOCK_TOKENS,
            false => (n_kv - 1) / BLOCK_TOKENS,
        };
        if !needs.is_plain() && (is_checkpoint || !needs.state) {
            self.capture_place(sequence, &tokens, place);
        }
        if is_read {
            self.capture(sequence, &tokens);
        }
    }

    /// Takes what it needs to go on behind that many blocks, but for the rows.
    fn capture_place(&mut self, sequence: SequenceId, tokens: &[TokenId], blocks: usize) {
        let token_us = self.token_us();
        let scratch = self.sequences.take_free();
        let Some(prefixes) = self.prefixes.as_mut().filter(|_| blocks > 0) else {
            return;
        };
        let keys = prefix::chain(
            &prefixes.store.fingerprint(),
            &tokens[..blocks * BLOCK_TOKENS],
        );
        // What it saves is what would be computed from the last place before it.
        let (before, _) = prefixes.store.longest(&keys[..blocks - 1]);
        let saved_us = (blocks - before) as f64 * BLOCK_TOKENS as f64 * token_us;
        let place = Place { sequence, scratch };
        let window = blocks.saturating_sub(prefixes.needs.window_blocks)..blocks;
        let planes = [
            (Plane::Window, window, prefixes.needs.window_blocks > 0),
            (Plane::State, blocks - 1..blocks, prefixes.needs.state),
        ];
        for (plane, range, is_needed) in planes {
            let lacks = |at: usize| {
                !prefixes.store.has(Id {
                    key: keys[at],
                    plane,
                })
            };
            if !is_needed || !range.clone().any(lacks) {
                continue;
            }
            let cost_us = saved_us / range.len() as f64;
            let Some(pieces) = self.decoder.save(place, plane, range.clone()) else {
                break;
            };
            for (at, content) in range.zip(pieces) {
                prefixes.put(
                    Id {
                        key: keys[at],
                        plane,
                    },
                    (at, cost_us),
                    content,
                );
            }
        }
        if let Some(scratch) = scratch {
            self.sequences.put_free(scratch);
        }
    }

    /// Has the rows of a sequence taken, as there is time.
    pub(super) fn capture(&mut self, sequence: SequenceId, tokens: &[TokenId]) {
        let Some(prefixes) = self
            .prefixes
            .as_mut()
            .filter(|prefixes| prefixes.needs.rows)
        else {
            return;
        };
        prefixes
            .captures
            .retain(|capture| capture.sequence != sequence);
        let keys = prefix::chain(&prefixes.store.fingerprint(), tokens);
        if keys.is_empty() {
            return;
        }
        if prefixes.captures.len() == CAPTURES_MAX {
            prefixes.captures.pop_front();
        }
        prefixes.captures.push_back(Capture {
            sequence,
            keys,
            next: 0,
        });
    }

    /// A sequence is cut to that many tokens: what is behind them cannot be taken any more.
    pub(super) fn forget_captures(&mut self, sequence: SequenceId, len: usize) {
        let Some(prefixes) = &mut self.prefixes else {
            return;
        };
        for capture in &mut prefixes.captures {
            if capture.sequence == sequence {
                capture.keys.truncate(len / BLOCK_TOKENS);
            }
        }
        prefixes
            .captures
            .retain(|capture| capture.next < capture.keys.len());
    }

    /// Takes a slice of the rows that are still to be put away. Where there is nothing else
    /// to do it waits a little for what the store is doing.
    pub(super) fn capture_prefixes(&mut self, is_idle: bool) {
        let has_room =
            |prefixes: &Prefixes| prefixes.captures.is_empty() || !prefixes.store.has_room();
        if self.prefixes.as_ref().is_some_and(has_room) {
            let waits = self.has_captures() || self.running.iter().any(|job| job.restore.is_some());
            if is_idle
                && waits
                && let Some(prefixes) = &mut self.prefixes
            {
                prefixes.store.wait(WAIT);
            }
            return;
        }
        let token_us = self.token_us();
        let scratch = self.sequences.take_free();
        if let Some(prefixes) = &mut self.prefixes
            && let Some((sequence, blocks)) = prefixes.next_slice()
        {
            let place = Place { sequence, scratch };
            match self.decoder.save(place, Plane::Rows, blocks.clone()) {
                Some(pieces) => prefixes.put_rows(blocks, pieces, token_us),
                // It does not hold them any more.
                None => drop(prefixes.captures.pop_front()),
            }
        }
        if let Some(scratch) = scratch {
            self.sequences.put_free(scratch);
        }
    }

    /// What is to be said of how much of a job's prompt was known.
    pub(super) fn explain(&self, at: usize, live: usize, restored: usize) -> PrefixReport {
        let job = &self.running[at];
        let prompt = &job.choices[0].tokens[..job.prompt_len];
        let others = self
            .running
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        let unread = others.filter_map(|(_, other)| {
            let first = other.choices.first()?;
            let common = sequences::common_prefix(&first.tokens, prompt);
            (common > first.n_kv && common > live + restored).then_some(common)
        });
        let stored = self.prefixes.as_ref().map_or(0, |prefixes| {
            let keys = prefix::chain(&prefixes.store.fingerprint(), prompt);
            prefixes.store.longest(&keys).1 * BLOCK_TOKENS
        });
        let begun = Begun {
            live,
            restored,
            opted_out: job.opted_out(),
            is_slower: job.fetch_is_slower,
            unread: unread.max().unwrap_or(0),
            stranded: self.sequences.common(prompt).max(stored),
            window: self.decoder.needs().and_then(|needs| {
                let sliding = (needs.window_blocks > 0).then_some(PrefixDetail::SlidingWindow);
                needs
                    .state
                    .then_some(PrefixDetail::RecurrentState)
                    .or(sliding)
            }),
            pace: self.pace.row_seconds(),
        };
        self.history.explain(prompt, &begun, &*self.vocabulary)
    }

    fn token_us(&self) -> f64 {
        self.pace
            .row_seconds()
            .map_or(TOKEN_COST_US, |seconds| seconds * 1e6)
    }
}

impl Prefixes {
    /// Begins to fetch the next blocks.
    fn fetch(&mut self, ticket: u64, mut restore: Restore) -> Restore {
        let from = restore.coming.end;
        let rows = self.wanted(&restore.keys, from..restore.to, Part::Middle);
        let bytes = self.store.fetched_bytes(self.bytes(&rows));
        let each = (bytes / rows.len().max(1) as u64).max(1);
        let at_once = usize::try_from(PORTION_BYTES / each).unwrap_or(usize::MAX);
        let mut to = restore.to.min(from.saturating_add(at_once.max(1)));
        if !self.needs.rows {
            to = restore.to;
        }
        let part = match (
            restore.state.is_some() || !self.needs.state,
            to == restore.to,
        ) {
            (false, false) => Part::First,
            (true, false) => Part::Middle,
            (false, true) => Part::Only,
            (true, true) => Part::Last,
        };
        let mut ids = self.wanted(&restore.keys, from..to, part);
        if part == Part::First {
            // The state is that behind the last block of all.
            let key = restore.keys[restore.to - 1];
            ids.push(Id {
                key,
                plane: Plane::State,
            });
        }
        self.store.fetch(ticket, ids);
        restore.coming = from..to;
        restore
    }

    /// The entries of a part: rows in order, then the window in order, then the state.
    fn wanted(&self, keys: &[Key], blocks: Range<usize>, part: Part) -> Vec<Id> {
        let id = |plane| move |key: &Key| Id { key: *key, plane };
        let mut wanted = Vec::new();
        if self.needs.rows {
            wanted.extend(keys[blocks.clone()].iter().map(id(Plane::Rows)));
        }
        let is_last = matches!(part, Part::Only | Part::Last);
        if is_last && self.needs.window_blocks > 0 {
            let first = blocks.end.saturating_sub(self.needs.window_blocks);
            wanted.extend(keys[first..blocks.end].iter().map(id(Plane::Window)));
        }
        if part == Part::Only && self.needs.state && blocks.end > 0 {
            wanted.push(id(Plane::State)(&keys[blocks.end - 1]));
        }
        wanted
    }

    fn bytes(&self, ids: &[Id]) -> u64 {
        let facts = ids.iter().filter_map(|id| self.store.facts(*id));
        facts.map(|facts| facts.bytes).sum()
    }

    /// The next rows to take: blocks in a row that the store does not have.
    fn next_slice(&mut self) -> Option<(SequenceId, Range<usize>)> {
        loop {
            let capture = self.captures.front_mut()?;
            let lacks = |key: &Key| {
                let plane = Plane::Rows;
                !self.store.has(Id { key: *key, plane })
            };
            let Some(first) = capture.keys[capture.next..].iter().position(lacks) else {
                self.captures.pop_front();
                continue;
            };
            let first = capture.next + first;
            let at_once = match self.block_bytes {
                0 => 1,
                bytes => (SLICE_BYTES / bytes).max(1),
            };
            let rest = capture.keys[first..].iter().take(at_once);
            let n = rest.take_while(|key| lacks(key)).count();
            return Some((capture.sequence, first..first + n));
        }
    }

    fn put_rows(&mut self, blocks: Range<usize>, pieces: Vec<Vec<u8>>, token_us: f64) {
        let Some(capture) = self.captures.front_mut() else {
            return;
        };
        capture.next = blocks.end;
        let keys = capture.keys[blocks.clone()].to_vec();
        let cost_us = token_us * BLOCK_TOKENS as f64;
        for ((at, key), content) in blocks.zip(keys).zip(pieces) {
            self.block_bytes = content.len();
            let plane = Plane::Rows;
            self.put(Id { key, plane }, (at, cost_us), content);
        }
    }

    fn put(&mut self, id: Id, (at, cost_us): (usize, f64), content: Vec<u8>) {
        let facts = Facts {
            depth: saturate(at),
            bytes: content.len() as u64,
            // A float becomes the nearest number there is.
            cost_us: cost_us as u32,
        };
        self.store.store(Stored { id, facts }, content);
    }
}

/// Where passes over a prompt must end. `there`: tokens that are held or will be restored;
/// `known`: blocks of which another prompt has left the rows; `blocks`: those that a later
/// request with the same prompt could begin with.
fn checkpoints(needs: &Needs, there: usize, known: usize, blocks: usize) -> Vec<usize> {
    if needs.is_plain() {
        return Vec::new();
    }
    let mut places = Vec::new();
    if known < blocks {
        places.push(known * BLOCK_TOKENS);
    }
    if needs.state {
        places.push(blocks * BLOCK_TOKENS);
    }
    places.retain(|place| *place > there);
    places
}

impl Restore {
    /// Contents in the order of [`Prefixes::wanted`], by plane.
    fn pieces(&mut self, needs: Needs, contents: Vec<Arc<Content>>) -> Pieces {
        let mut contents = contents.into_iter();
        let n_rows = if needs.rows { self.coming.len() } else { 0 };
        let rows = contents.by_ref().take(n_rows).collect();
        let is_last = self.coming.end == self.to;
        let n_window = if is_last { needs.window_blocks } else { 0 };
        let window = contents.by_ref().take(n_window.min(self.to)).collect();
        if self.state.is_none() && needs.state {
            self.state = contents.next();
        }
        Pieces {
            rows,
            window,
            state: self.state.clone(),
            is_last,
        }
    }
}
