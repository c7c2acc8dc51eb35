//! A quantity: a number in a unit.

use serde::Deserialize;

use super::answer::{doubt, last_line, words};

/// The answer is one quantity.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberCheck {
    /// In the first unit.
    value: f64,
    /// How far an answer may be off.
    #[serde(default)]
    tolerance: f64,
    /// A number without a unit is in the first.
    units: Vec<Unit>,
}

/// Ways to write a unit, and what one of it is in the first.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unit {
    names: Vec<String>,
    factor: f64,
}

/// A number of a text, and what stands around it up to the next number or word.
struct Found {
    value: f64,
    before: Option<char>,
    /// The word or mark after it.
    after: String,
}

impl NumberCheck {
    /// A whole number of things of these names.
    pub(super) fn whole(value: u32, names: &[&str]) -> Self {
        Self {
            value: f64::from(value),
            tolerance: 0.0,
            units: vec![Unit {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                factor: 1.0,
            }],
        }
    }

    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        let line = last_line(text)?;
        if let Some(doubt) = doubt(&words(&line)) {
            return Err(format!("`{doubt}` leaves open what the answer is"));
        }
        let found = numbers(&line);
        let [found] = found.as_slice() else {
            return Err(format!("{} numbers, and one was asked for", found.len()));
        };
        let value = found.value * self.factor(found)?;
        if (value - self.value).abs() > self.tolerance + 1e-9 {
            return Err(format!("{value} in place of {}", self.value));
        }
        Ok(())
    }

    fn factor(&self, found: &Found) -> Result<f64, String> {
        let unit_of = |text: &str| {
            let mut units = self.units.iter();
            units.find(|unit| unit.names.iter().any(|name| name == text))
        };
        if let Some(before) = found.before
            && let Some(unit) = unit_of(&before.to_string())
        {
            return Ok(unit.factor);
        }
        // From the longest that the rest may begin with, so that `km/h` is not `km`.
        let names = self.units.iter().flat_map(|unit| {
            let names = unit.names.iter();
            names.map(|name| (name.as_str(), unit.factor))
        });
        let fitting = names.filter(|(name, _)| begins_with_unit(&found.after, name));
        match fitting.max_by_key(|(name, _)| name.len()) {
            Some((_, factor)) => Ok(factor),
            None if found.after.is_empty() => Ok(self.units.first().map_or(1.0, |it| it.factor)),
            None => Err(format!("`{}` is no unit of the answer", found.after)),
        }
    }
}

fn begins_with_unit(rest: &str, name: &str) -> bool {
    rest.strip_prefix(name).is_some_and(|rest| {
        let next = rest.chars().next();
        next.is_none_or(|c| !c.is_alphanumeric() && !"/%²³".contains(c))
    })
}

/// Numbers up to twenty and the tens, as words.
const NAMED: [(&str, f64); 29] = [
    ("zero", 0.0),
    ("one", 1.0),
    ("two", 2.0),
    ("three", 3.0),
    ("four", 4.0),
    ("five", 5.0),
    ("six", 6.0),
    ("seven", 7.0),
    ("eight", 8.0),
    ("nine", 9.0),
    ("ten", 10.0),
    ("eleven", 11.0),
    ("twelve", 12.0),
    ("thirteen", 13.0),
    ("fourteen", 14.0),
    ("fifteen", 15.0),
    ("sixteen", 16.0),
    ("seventeen", 17.0),
    ("eighteen", 18.0),
    ("nineteen", 19.0),
    ("twenty", 20.0),
    ("thirty", 30.0),
    ("forty", 40.0),
    ("fifty", 50.0),
    ("sixty", 60.0),
    ("seventy", 70.0),
    ("eighty", 80.0),
    ("ninety", 90.0),
    ("hundred", 100.0),
];

/// Every number of a line, in digits or as a word.
fn numbers(line: &str) -> Vec<Found> {
    let line = line.to_lowercase();
    let mut found = Vec::new();
    let mut rest = line.as_str();
    let mut before = None;
    while let Some(first) = rest.chars().next() {
        let number = match first.is_alphanumeric() {
            true => digits(rest).or_else(|| named(rest)),
            false => None,
        };
        let length = match number {
            Some((value, length)) => {
                let sign = if before == Some('-') { -1.0 } else { 1.0 };
                let after = rest[length..].trim_start_matches([' ', '-', '\u{a0}']);
                found.push(Found {
                    value: sign * value,
                    before,
                    after: after
                        .trim_start_matches(['.', ',', ')', '!'])
                        .trim()
                        .to_owned(),
                });
                length
            }
            // A word goes as a whole, so that no number is found in it.
            None if first.is_alphanumeric() => {
                let word = rest.find(|c: char| !c.is_alphanumeric());
                word.unwrap_or(rest.len())
            }
            None => first.len_utf8(),
        };
        before = rest[..length].chars().next_back();
        rest = &rest[length..];
    }
    found
}

/// A number in digits at the start, with thousands in threes and a decimal point, and its length.
fn digits(text: &str) -> Option<(f64, usize)> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    let length = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let number = text[..length].trim_end_matches(['.', ',']);
    let whole = number.split('.').next()?;
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let is_grouped = groups.clone().next().is_some();
    if first.is_empty() || (is_grouped && first.len() > 3) || groups.any(|group| group.len() != 3) {
        return None;
    }
    let value = number.replace(',', "").parse().ok()?;
    Some((value, number.len()))
}

fn named(text: &str) -> Option<(f64, usize)> {
    let length = text
        .find(|c: char| !c.is_alphabetic())
        .unwrap_or(text.len());
    let (_, value) = NAMED.iter().find(|(name, _)| *name == &text[..length])?;
    Some((*value, length))
}
