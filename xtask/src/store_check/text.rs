//! Texts of a made-up language. What matters to an index is how frequent its words are, so they
//! are drawn as those of a natural language are: each about half as often as that of half its rank.

use std::ops::Range;

use fastrand::Rng;

/// Words of the language.
const WORDS: u64 = 20_000;
const ONSETS: [&str; 16] = [
    "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr",
];
const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
const SYLLABLES: u64 = (ONSETS.len() * VOWELS.len()) as u64;

/// Draws words, the same ones from the same seed.
pub(super) struct Words(Rng);

impl Words {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.u64(..limit.max(1))
    }

    /// A word of these ranks, each as likely.
    pub(super) fn ranked(&mut self, ranks: Range<u64>) -> String {
        word(self.0.u64(ranks))
    }

    /// Words of a text.
    pub(super) fn sentence(&mut self, length: Range<u64>) -> String {
        let n_words = self.0.u64(length);
        let mut text = String::new();
        for at in 0..n_words {
            if at > 0 {
                text.push(if at % 12 == 0 { '\n' } else { ' ' });
            }
            // A logarithm that is drawn evenly gives each word the inverse of its rank.
            let rank = (WORDS as f64).powf(self.0.f64()) - 1.0;
            text.push_str(&word(rank as u64));
        }
        text
    }
}

/// Frequent words are short: those of one syllable come first.
fn word(rank: u64) -> String {
    let mut rest = rank;
    let mut syllables = vec![rest % SYLLABLES];
    rest /= SYLLABLES;
    while rest > 0 {
        rest -= 1;
        syllables.push(rest % SYLLABLES);
        rest /= SYLLABLES;
    }
    syllables.iter().rev().map(|at| syllable(*at)).collect()
}

fn syllable(at: u64) -> String {
    let at = at as usize;
    let (onset, vowel) = (ONSETS[at % ONSETS.len()], VOWELS[at / ONSETS.len()]);
    format!("{onset}{vowel}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn words_differ_and_the_first_are_the_most_frequent() {
        let all: HashSet<_> = (0..WORDS).map(word).collect();
        assert_eq!(all.len() as u64, WORDS);
        let text = Words::new(1).sentence(100_000..100_001);
        let mut counts = HashMap::<&str, u32>::new();
        for word in text.split_whitespace() {
            *counts.entry(word).or_default() += 1;
        }
        let count = |rank| counts.get(word(rank).as_str()).copied().unwrap_or(0);
        assert!(count(0) > 3 * count(9) && count(9) > 3 * count(99));
    }
}
