//! Texts of a made-up language. What matters to an index is how frequent its words are, so they
//! are drawn as those of a natural language are: each about half as often as that of half its rank.

use std::ops::Range;

/// Words of the language.
const WORDS: u64 = 20_000;
const ONSETS: [&str; 16] = [
    "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr",
];
const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
const SYLLABLES: u64 = (ONSETS.len() * VOWELS.len()) as u64;

/// Draws words, the same ones from the same seed.
pub(super) struct Words(u64);

impl Words {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A word of these ranks, each as likely.
    pub(super) fn ranked(&mut self, ranks: Range<u64>) -> String {
        let rank = ranks.start + self.below(ranks.end - ranks.start);
        word(rank)
    }

    /// Words of a text.
    pub(super) fn sentence(&mut self, length: Range<u64>) -> String {
        let n_words = length.start + self.below(length.end - length.start);
        let mut text = String::new();
        for at in 0..n_words {
            if at > 0 {
                text.push(if at % 12 == 0 { '\n' } else { ' ' });
            }
            // A logarithm that is drawn evenly gives each word the inverse of its rank.
            let share = self.below(1 << 20) as f64 / (1_u64 << 20) as f64;
            let rank = (WORDS as f64).powf(share) - 1.0;
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
