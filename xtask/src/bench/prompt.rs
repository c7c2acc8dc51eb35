//! Prompts of an exact number of tokens, different in every round.

use crate::http::Client;
use anyhow::{Result, bail};
use serde_json::json;

const WORDS: &[&str] = &[
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
];
const ATTEMPTS_MAX: usize = 40;

/// Counts with one server's tokenizer; both serve the same model.
pub(crate) struct Prompts {
    tokenizer: Client,
}

impl Prompts {
    pub(crate) fn new(tokenizer: Client) -> Self {
        Self { tokenizer }
    }

    /// Text of exactly `n_tokens` tokens. The same seed gives the same text, and
    /// texts of different seeds share no prefix worth caching.
    pub(crate) fn text(&self, n_tokens: usize, seed: usize) -> Result<String> {
        let mut n_words = n_tokens;
        for _ in 0..ATTEMPTS_MAX {
            let text = words(n_words, seed);
            let found = self.count(&text)?;
            if found == n_tokens {
                return Ok(text);
            }
            n_words = (n_words + n_tokens).saturating_sub(found).max(1);
        }
        bail!("found no text of exactly {n_tokens} tokens")
    }

    fn count(&self, text: &str) -> Result<usize> {
        let body = json!({"content": text, "add_special": true});
        let answer = self.tokenizer.post("/tokenize", &body)?;
        match answer["tokens"].as_array() {
            Some(tokens) => Ok(tokens.len()),
            None => bail!("/tokenize answered {answer}"),
        }
    }
}

fn words(n_words: usize, seed: usize) -> String {
    // Knuth's MMIX generator; the top bits are the good ones.
    let mut state = seed as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let picked: Vec<&str> = (0..n_words)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            WORDS[(state >> 33) as usize % WORDS.len()]
        })
        .collect();
    picked.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_text_and_seeds_differ_early() {
        assert_eq!(words(50, 3), words(50, 3));
        let (one, two) = (words(50, 3), words(50, 4));
        let shared = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b);
        assert!(shared.count() < 20);
    }
}
