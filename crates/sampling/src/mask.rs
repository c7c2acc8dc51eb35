//! The set of tokens that may come next.

use crate::TokenId;

const WORD_BITS: usize = 32;

/// One bit a token of the vocabulary; a set bit means the token is allowed.
/// Ids outside the vocabulary are never allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    n_vocab: usize,
}

impl TokenMask {
    /// A mask that allows nothing.
    #[must_use]
    pub fn none(n_vocab: usize) -> Self {
        Self {
            words: vec![0; n_vocab.div_ceil(WORD_BITS)],
            n_vocab,
        }
    }

    /// A mask that allows every token.
    #[must_use]
    pub fn all(n_vocab: usize) -> Self {
        let mut mask = Self::none(n_vocab);
        mask.words.fill(u32::MAX);
        mask.trim();
        mask
    }

    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Allows `token`; an id outside the vocabulary is left out.
    pub fn allow(&mut self, token: TokenId) {
        if let Some((word, bit)) = self.position(token) {
            self.words[word] |= bit;
        }
    }

    #[must_use]
    pub fn is_allowed(&self, token: TokenId) -> bool {
        self.position(token)
            .is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// How many tokens are allowed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// The allowed tokens, lowest id first.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            (0..WORD_BITS)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| (index * WORD_BITS + bit) as TokenId)
        })
    }

    /// Sets the logits of forbidden tokens, and of ids past the mask, to minus infinity.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        let covered = self.n_vocab.min(logits.len());
        let (inside, outside) = logits.split_at_mut(covered);
        outside.fill(f32::NEG_INFINITY);
        for (chunk, &word) in inside.chunks_mut(WORD_BITS).zip(&self.words) {
            match word {
                u32::MAX => {}
                0 => chunk.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }

    /// Takes the bits of `words`, 32 tokens a word from the lowest bit up.
    pub fn copy_from_words(&mut self, words: &[u32]) {
        let shared = self.words.len().min(words.len());
        self.words[..shared].copy_from_slice(&words[..shared]);
        self.words[shared..].fill(0);
        self.trim();
    }

    fn trim(&mut self) {
        let tail = self.n_vocab % WORD_BITS;
        if tail != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << tail) - 1;
        }
    }

    fn position(&self, token: TokenId) -> Option<(usize, u32)> {
        let index = usize::try_from(token).ok().filter(|i| *i < self.n_vocab)?;
        Some((index / WORD_BITS, 1 << (index % WORD_BITS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_outside_the_vocabulary_stay_clear() {
        let mut mask = TokenMask::all(35);
        assert_eq!(mask.count(), 35);
        assert!(!mask.is_allowed(35) && !mask.is_allowed(-1));
        mask.allow(40);
        mask.allow(-3);
        assert_eq!(mask.count(), 35);
        mask.copy_from_words(&[u32::MAX, u32::MAX, u32::MAX]);
        assert_eq!(mask, TokenMask::all(35));
        mask.copy_from_words(&[0b101]);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn apply_clears_forbidden_logits_and_those_past_the_mask() {
        let mut mask = TokenMask::none(66);
        for token in [0, 33, 64] {
            mask.allow(token);
        }
        let mut logits = vec![1.0; 70];
        mask.apply(&mut logits);
        let kept: Vec<usize> = (0..70).filter(|i| logits[*i] == 1.0).collect();
        assert_eq!(kept, [0, 33, 64]);
    }
}
