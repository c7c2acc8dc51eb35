//! Checks Lark grammars before the engine sees them: schemas embedded with
//! `%json` are held to the same rules as a JSON Schema constraint.

use serde_json::Value;

use crate::constraint::ConstraintError;
use crate::schema;

/// The grammar with every `%json` schema checked and made strict.
pub(crate) fn prepare(text: &str) -> Result<String, ConstraintError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("%json") {
            let (json, used) = leading_json(after)?;
            let strict = schema::prepare(&json)?;
            out.push_str("%json ");
            out.push_str(&strict.to_string());
            rest = &after[used..];
            continue;
        }
        let len = match first {
            '#' => line_len(rest),
            '/' if rest.starts_with("//") => line_len(rest),
            '/' | '"' => quoted_len(rest, first),
            _ => first.len_utf8(),
        };
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    Ok(out)
}

fn leading_json(text: &str) -> Result<(Value, usize), ConstraintError> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match stream.next() {
        Some(Ok(value)) => Ok((value, stream.byte_offset())),
        Some(Err(error)) => Err(ConstraintError::Invalid {
            message: format!("the JSON after %json cannot be read: {error}"),
        }),
        None => Err(ConstraintError::Invalid {
            message: "no JSON follows %json".to_string(),
        }),
    }
}

fn line_len(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// Bytes of the string or regex that starts the text; all of it when it never ends.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_schemas_are_rewritten() {
        let untouched = [
            "start: \"%json {\" /%json \\/ {/ // %json {\n | \"a\" # %json {",
            "start: \"unclosed",
            "",
        ];
        for text in untouched {
            assert_eq!(prepare(text).unwrap(), text);
        }
        let got = prepare("start: %json {\"type\": \"null\"} \"é\"").unwrap();
        assert!(
            got.starts_with("start: %json {\"type\":\"null\",\"x-guidance\":{"),
            "{got}"
        );
        assert!(got.ends_with("} \"é\""), "{got}");
    }

    #[test]
    fn schemas_that_would_be_relaxed_are_refused() {
        let table = [
            "start: %json {\"uniqueItems\": true}",
            "start: %json {\"x-guidance\": {\"lenient\": true}}",
            "start: %json {",
            "start: %json",
        ];
        for text in table {
            assert!(prepare(text).is_err(), "{text}");
        }
    }
}
