//! Prose of so many sentences.

use serde::Deserialize;
use unicode_segmentation::UnicodeSegmentation;

use super::answer::words;

/// The answer has so many sentences, and is about something.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentencesCheck {
    count: usize,
    /// At least one of these words is in it.
    about: Vec<String>,
    words_min: usize,
}

/// After these a point ends no sentence.
const SHORT: [&str; 16] = [
    "e.g.", "i.e.", "dr.", "mr.", "mrs.", "ms.", "st.", "vs.", "etc.", "approx.", "ca.", "cf.",
    "no.", "fig.", "u.s.", "prof.",
];

impl SentencesCheck {
    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        if text.lines().any(is_of_a_list) {
            return Err("it is a list and not prose".into());
        }
        let count = count(text)?;
        if count != self.count {
            return Err(format!("sentences: {count} in place of {}", self.count));
        }
        let words = words(text);
        if words.len() < self.words_min {
            return Err(format!("{} words are no text", words.len()));
        }
        let is_about = |word: &String| self.about.contains(word);
        match words.iter().any(is_about) {
            true => Ok(()),
            false => Err("it is about something else".into()),
        }
    }
}

fn is_of_a_list(line: &str) -> bool {
    let line = line.trim_start();
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_numbered = number.len() < line.len() && number.starts_with(['.', ')']);
    is_numbered
        || ["- ", "* ", "# ", "```", "\u{2022}"]
            .iter()
            .any(|mark| line.starts_with(mark))
}

/// By Unicode's rules (UAX 29), but for points of short forms. The last one must end, too.
fn count(text: &str) -> Result<usize, String> {
    let mut count = 0;
    let mut is_open = false;
    for piece in text.unicode_sentences() {
        let piece = piece.trim();
        let last = piece.rsplit(char::is_whitespace).next().unwrap_or_default();
        let last = last
            .trim_start_matches(['(', '"', '\u{201c}'])
            .to_lowercase();
        let is_initial = last.len() == 2 && last.ends_with('.') && !last.starts_with(['i', '0']);
        let marks = ['"', '\'', ')', '\u{201d}', '\u{2019}', '*', '_'];
        let ends = piece
            .trim_end_matches(marks)
            .ends_with(['.', '!', '?', '\u{2026}']);
        is_open = !ends || SHORT.contains(&last.as_str()) || is_initial;
        if !is_open {
            count += 1;
        }
    }
    match is_open {
        true => Err("the last sentence does not end".into()),
        false => Ok(count),
    }
}
