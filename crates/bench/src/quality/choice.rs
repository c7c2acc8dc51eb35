//! One of several options, by its letter or in its words.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::answer::{last_line, words};

/// The answer is one of these options and no other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChoiceCheck {
    pub(super) options: Vec<String>,
    /// The place of the right one.
    pub(super) right: usize,
}

/// What may stand before an option and says nothing.
const LEADS: [&str; 6] = ["the", "correct", "answer", "is", "option", "choice"];

impl ChoiceCheck {
    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        let line = last_line(text)?;
        let chosen = self.chosen(&line);
        match chosen.ok_or("it names none of the options, or more than one")? {
            place if place == self.right => Ok(()),
            place => Err(format!("it takes {}", letter(place))),
        }
    }

    /// Whether the options differ, and none is empty.
    pub(super) fn is_sound(&self) -> bool {
        let mut seen = BTreeSet::new();
        let mut options = self.options.iter().map(|option| plain(option));
        options.all(|option| !option.is_empty() && seen.insert(option))
    }

    fn chosen(&self, line: &str) -> Option<usize> {
        let is_mark = |c: char| !c.is_alphanumeric();
        let mut rest = line.trim_matches(is_mark);
        if let Some(place) = self.in_words(rest) {
            return Some(place);
        }
        loop {
            let end = rest.find(is_mark).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if !LEADS.contains(&word.to_lowercase().as_str()) {
                break;
            }
            rest = after.trim_start_matches(is_mark);
        }
        if let Some(place) = self.in_words(rest) {
            return Some(place);
        }
        let end = rest.find(is_mark).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let place = place(word)?;
        let option = plain(self.options.get(place)?);
        // What follows a letter is the option's own text, or nothing.
        plain(after)
            .starts_with(&option[..])
            .then_some(place)
            .or_else(|| {
                let is_alone = after.trim_matches(is_mark).is_empty();
                is_alone.then_some(place)
            })
    }

    /// The option that is written out.
    fn in_words(&self, text: &str) -> Option<usize> {
        let text = plain(text);
        let mut options = self.options.iter();
        options.position(|option| !text.is_empty() && plain(option) == text)
    }
}

/// As `last_line` leaves it: without emphasis.
fn plain(text: &str) -> Vec<String> {
    words(&text.replace(['*', '`', '_'], ""))
}

/// The letter of an option.
pub(super) fn letter(place: usize) -> char {
    let place = u8::try_from(place).unwrap_or(u8::MAX);
    char::from(b'A'.saturating_add(place))
}

/// The place that a letter alone names.
fn place(word: &str) -> Option<usize> {
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if letter.is_ascii_alphabetic() => {
            Some(usize::from(letter.to_ascii_uppercase() as u8 - b'A'))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_counts_by_its_letter_or_in_its_words_and_alone() {
        let check = ChoiceCheck {
            options: ["a marsh", "a tundra", "the plains", "A desert, or so"]
                .map(String::from)
                .to_vec(),
            right: 0,
        };
        for text in [
            "A",
            "a",
            "A.",
            "(A)",
            "A)",
            "[A]",
            "**A**",
            "Answer: A",
            "answer: a",
            "Answer: (A)",
            "Answer: A.",
            "Answer: A. a marsh",
            "Answer: a marsh",
            "Answer: A marsh.",
            "A: a marsh",
            "Answer: The answer is A",
            "Answer: option A",
            "the correct answer is (A).",
            "It is wet there.\nAnswer: A",
            "Answer: B\nAnswer: A",
            "`A`",
            "Answer = A",
            "Answer: A) a marsh, where it is wet",
        ] {
            assert_eq!(check.judge(text), Ok(()), "{text}");
        }
        for text in [
            "B",
            "Answer: B",
            "Answer: a tundra",
            "Answer: A or B",
            "Answer: A and C",
            "Answer: A, B",
            "Answer:",
            "E",
            "Answer: Z",
            "",
            "Answer: a desert",
            "Answer: A. a tundra",
            "Answer: not A",
            "Answer: marsh",
            "Answer: A\nAnswer: B",
            "It is A.\nBut see above.",
            "Answer: none of these",
            "Answer: A/B",
            "Answer: AB",
            "Answer: 1",
            "Answer: A desert, or so",
            "Answer: all",
        ] {
            assert!(check.judge(text).is_err(), "{text}");
        }
    }
}
