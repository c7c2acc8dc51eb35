//! One of several things that can be said.

use serde::Deserialize;

use super::answer::{doubt, last_line, words};

/// The answer names the right thing and none of the others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhraseCheck {
    /// Ways to say what is right.
    right: Vec<String>,
    /// What else could be said, none of which may be.
    wrong: Vec<String>,
}

impl PhraseCheck {
    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        let mut line = words(&last_line(text)?);
        let right = self.right.iter().map(|phrase| (phrase, true));
        let wrong = self.wrong.iter().map(|phrase| (phrase, false));
        let mut phrases: Vec<(Vec<String>, bool)> = right
            .chain(wrong)
            .map(|(phrase, is_right)| (words(phrase), is_right))
            .collect();
        // The longest first, so that `not valid` is not taken for `valid`.
        phrases.sort_by_key(|(phrase, _)| std::cmp::Reverse(phrase.len()));
        let mut is_right_said = false;
        for (phrase, is_right) in &phrases {
            while let Some(at) = place(&line, phrase) {
                if !is_right {
                    return Err(format!("it says `{}`", phrase.join(" ")));
                }
                is_right_said = true;
                line.drain(at..at + phrase.len());
            }
        }
        match (doubt(&line), is_right_said) {
            (Some(doubt), _) => Err(format!("`{doubt}` leaves open what the answer is")),
            (None, true) => Ok(()),
            (None, false) => Err("what is right is not in the answer".into()),
        }
    }
}

fn place(line: &[String], phrase: &[String]) -> Option<usize> {
    let mut windows = line.windows(phrase.len().max(1));
    windows.position(|window| window == phrase)
}
