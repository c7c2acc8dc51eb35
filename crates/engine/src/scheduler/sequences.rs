//! Which sequence ids are in use, free, or kept for their prefix.

use crate::{SequenceId, TokenId};

/// A finished sequence whose tokens are still in the KV cache.
#[derive(Debug)]
struct Cached {
    sequence: SequenceId,
    tokens: Vec<TokenId>,
    used_at: u64,
}

/// Where the longest known prefix of a prompt lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) sequence: SequenceId,
    /// Tokens in common.
    pub(crate) len: usize,
    /// The match is a kept sequence with nothing beyond the common part.
    pub(crate) whole: bool,
}

/// Sequence ids of one decoder. Kept sequences are given up least recently used first.
#[derive(Debug)]
pub(crate) struct Sequences {
    free: Vec<SequenceId>,
    cached: Vec<Cached>,
    clock: u64,
    /// By id: it may hold cells that another one holds, too.
    shared: Vec<bool>,
}

impl Sequences {
    pub(crate) fn new(n: usize) -> Self {
        let ids = SequenceId::try_from(n).unwrap_or(SequenceId::MAX);
        Self {
            free: (0..ids).rev().collect(),
            cached: Vec::new(),
            clock: 0,
            shared: vec![false; n],
        }
    }

    pub(crate) fn take_free(&mut self) -> Option<SequenceId> {
        self.free.pop()
    }

    /// Both hold cells of the other from now on.
    pub(crate) fn set_shared(&mut self, one: SequenceId, other: SequenceId) {
        for id in [one, other] {
            if let Some(shared) = self.of(id) {
                *shared = true;
            }
        }
    }

    /// It holds nothing any more, or nothing that others hold.
    pub(crate) fn set_unshared(&mut self, sequence: SequenceId) {
        if let Some(shared) = self.of(sequence) {
            *shared = false;
        }
    }

    pub(crate) fn is_shared(&self, sequence: SequenceId) -> bool {
        let at = usize::try_from(sequence).ok();
        at.and_then(|at| self.shared.get(at)).is_none_or(|it| *it)
    }

    fn of(&mut self, sequence: SequenceId) -> Option<&mut bool> {
        self.shared.get_mut(usize::try_from(sequence).ok()?)
    }

    /// The id's KV must be empty.
    pub(crate) fn put_free(&mut self, sequence: SequenceId) {
        self.set_unshared(sequence);
        self.free.push(sequence);
    }

    /// Keeps a sequence for its prefix. Returns ids whose whole content is now
    /// also held by this one; the caller empties and frees them.
    pub(crate) fn keep(&mut self, sequence: SequenceId, tokens: Vec<TokenId>) -> Vec<SequenceId> {
        self.clock += 1;
        let (covered, cached) = std::mem::take(&mut self.cached)
            .into_iter()
            .partition(|entry| tokens.starts_with(&entry.tokens));
        self.cached = cached;
        self.cached.push(Cached {
            sequence,
            tokens,
            used_at: self.clock,
        });
        covered.into_iter().map(|entry| entry.sequence).collect()
    }

    /// The kept sequence that shares the most tokens with `prompt`.
    pub(crate) fn longest_prefix(&mut self, prompt: &[TokenId]) -> Option<Match> {
        self.clock += 1;
        let clock = self.clock;
        let (len, entry) = self
            .cached
            .iter_mut()
            .map(|entry| (common_prefix(&entry.tokens, prompt), entry))
            .max_by_key(|(len, entry)| (*len, entry.used_at))?;
        if len == 0 {
            return None;
        }
        entry.used_at = clock;
        Some(Match {
            sequence: entry.sequence,
            len,
            whole: len == entry.tokens.len(),
        })
    }

    /// The most tokens that a kept sequence has in common with a prompt.
    pub(crate) fn common(&self, prompt: &[TokenId]) -> usize {
        let all = self.cached.iter();
        let each = all.map(|entry| common_prefix(&entry.tokens, prompt));
        each.max().unwrap_or(0)
    }

    /// Takes a kept sequence back into use.
    pub(crate) fn reclaim(&mut self, sequence: SequenceId) {
        self.cached.retain(|entry| entry.sequence != sequence);
    }

    /// Gives up the least recently used kept sequence but `spare`; the caller empties it.
    pub(crate) fn evict_except(&mut self, spare: Option<SequenceId>) -> Option<SequenceId> {
        let (at, _) = self
            .cached
            .iter()
            .enumerate()
            .filter(|(_, entry)| Some(entry.sequence) != spare)
            .min_by_key(|(_, entry)| entry.used_at)?;
        let sequence = self.cached.swap_remove(at).sequence;
        self.set_unshared(sequence);
        Some(sequence)
    }

    pub(crate) fn n_cached(&self) -> usize {
        self.cached.len()
    }

    /// Tokens of all kept sequences; those shared between them count more than once.
    pub(crate) fn cached_tokens(&self) -> usize {
        self.cached.iter().map(|entry| entry.tokens.len()).sum()
    }
}

/// How many tokens two sequences have in common from the start.
pub(crate) fn common_prefix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_says_whether_it_is_whole() {
        let mut sequences = Sequences::new(3);
        let a = sequences.take_free().unwrap();
        let b = sequences.take_free().unwrap();
        sequences.keep(a, vec![1, 2, 3]);
        sequences.keep(b, vec![1, 2, 9, 9]);
        assert_eq!(
            sequences.longest_prefix(&[1, 2, 3, 4]),
            Some(Match {
                sequence: a,
                len: 3,
                whole: true
            })
        );
        assert_eq!(
            sequences.longest_prefix(&[1, 2, 9, 4]),
            Some(Match {
                sequence: b,
                len: 3,
                whole: false
            })
        );
        assert_eq!(sequences.longest_prefix(&[7]), None);
    }

    #[test]
    fn a_longer_sequence_replaces_the_prefixes_it_covers() {
        let mut sequences = Sequences::new(3);
        let a = sequences.take_free().unwrap();
        let b = sequences.take_free().unwrap();
        assert!(sequences.keep(a, vec![1, 2]).is_empty());
        assert_eq!(sequences.keep(b, vec![1, 2, 3]), [a]);
        assert_eq!(sequences.n_cached(), 1);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut sequences = Sequences::new(2);
        let a = sequences.take_free().unwrap();
        let b = sequences.take_free().unwrap();
        sequences.keep(a, vec![1]);
        sequences.keep(b, vec![2]);
        sequences.longest_prefix(&[1, 5]);
        assert_eq!(sequences.evict_except(None), Some(b));
        assert_eq!(sequences.evict_except(Some(a)), None);
        assert_eq!(sequences.evict_except(None), Some(a));
    }
}
