//! `keep_alive`: how long a model is to stay loaded after a request.
//!
//! A number is seconds; a string is a duration as Go writes it (`5m`, `1h30m`, `1.5s`).
//! Anything below zero means for ever.

use std::time::Duration;

use serde_json::Value;
use supervisor::Keep;

use crate::error::ApiError;
use crate::wire::openai::shapes::shown;

const RULE: &str = "a number of seconds or a duration such as 5m or 1h30m; below 0 is for ever";

/// What a client wants to become of the model when it has nothing to do. Zero: it goes at
/// once.
pub(crate) fn keep_alive(given: Option<&Value>) -> Result<Option<Keep>, ApiError> {
    let given = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(given) => given,
    };
    let seconds = match given {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => go_seconds(text),
        _ => None,
    };
    match seconds {
        Some(seconds) if seconds < 0.0 => Ok(Some(Keep::Forever)),
        Some(seconds) => match Duration::try_from_secs_f64(seconds.abs()) {
            Ok(time) => Ok(Some(Keep::For(time))),
            // Longer than can be counted.
            Err(_) => Ok(Some(Keep::Forever)),
        },
        None => Err(ApiError::invalid("keep_alive", &shown(given), RULE)),
    }
}

/// Seconds of a duration as Go's `time.ParseDuration` reads it.
fn go_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut sum = None;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        sum = Some(sum.unwrap_or(0.0) + number.parse::<f64>().ok()? * unit_seconds(unit)?);
        rest = tail;
    }
    sum.map(|sum: f64| sign * sum)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e-9),
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_durations_are_read() {
        let seconds = |s| Keep::For(Duration::from_secs_f64(s));
        let cases = [
            (json!(0), Keep::For(Duration::ZERO)),
            (json!(0.0), Keep::For(Duration::ZERO)),
            (json!("0"), Keep::For(Duration::ZERO)),
            (json!("0s"), Keep::For(Duration::ZERO)),
            (json!("-0m"), Keep::For(Duration::ZERO)),
            (json!(-1), Keep::Forever),
            (json!("-1m"), Keep::Forever),
            (json!(1e300), Keep::Forever),
            (json!(300), seconds(300.0)),
            (json!(0.5), seconds(0.5)),
            (json!("5m"), seconds(300.0)),
            (json!("+1h30m"), seconds(5400.0)),
            (json!("1.5s"), seconds(1.5)),
            (json!(".5h"), seconds(1800.0)),
            (json!("250ms"), seconds(0.25)),
        ];
        for (given, wanted) in cases {
            assert_eq!(keep_alive(Some(&given)).unwrap(), Some(wanted), "{given}");
        }
        assert_eq!(keep_alive(None).unwrap(), None);
        assert_eq!(keep_alive(Some(&Value::Null)).unwrap(), None);
    }

    #[test]
    fn everything_else_is_refused() {
        let cases = [
            json!(""),
            json!("300"),
            json!("-1"),
            json!("5 m"),
            json!("5d"),
            json!("m"),
            json!("1.2.3s"),
            json!("--1s"),
            json!("1h30"),
            json!(" 5m"),
            json!(true),
            json!([5]),
            json!({}),
        ];
        for given in cases {
            assert!(keep_alive(Some(&given)).is_err(), "{given}");
        }
    }
}
