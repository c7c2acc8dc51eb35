//! The Jinja dialect that Hugging Face chat templates are written in: Python's
//! methods, Python's way to print values, `tojson` as `json.dumps` does it.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

/// Instructions one rendering may execute. A conversation of ten thousand messages
/// stays below it.
pub const FUEL_MAX: u64 = 5_000_000;
/// Depth of nested macros and recursive loops.
pub const RECURSION_MAX: usize = 200;

pub(super) const TEMPLATE_NAME: &str = "chat_template";

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// An environment that holds `source` as its one template.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    env.set_syntax(syntax);
    env.set_fuel(Some(FUEL_MAX));
    env.set_recursion_limit(RECURSION_MAX);
    env.set_debug(false);
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_formatter(|out, _state, value| {
        let mut text = String::new();
        python_str(&mut text, value);
        out.write_str(&text).map_err(Error::from)
    });
    env.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(
                Error::new(ErrorKind::InvalidOperation, "the template refused")
                    .with_source(Raised(message)),
            )
        },
    );
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| {
        let mut text = String::new();
        python_str(&mut text, value);
        text
    });
    env.add_filter("from_json", |text: String| -> Result<Value, Error> {
        let json: Json = serde_json::from_str(&text)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        Ok(to_template_value(&json))
    });
    // Python's answers: a string and a mapping are sequences, `None` cannot be iterated,
    // and nothing has the length 0.
    env.add_test("iterable", |value: &Value| {
        !value.is_none()
            && (value.is_undefined() || value.as_str().is_some() || value.try_iter().is_ok())
    });
    env.add_test("sequence", |value: &Value| {
        value.is_undefined()
            || matches!(
                value.kind(),
                ValueKind::Seq | ValueKind::Map | ValueKind::String
            )
    });
    env.add_filter("indent", indent);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_template_owned(TEMPLATE_NAME, without_generation_tags(source))?;
    Ok(env)
}

/// Jinja's `indent`, which keeps a final line break.
fn indent(
    text: String,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.map_or_else(|| kwargs.get("width"), |width| Ok(Some(width)))?;
    let first = first.map_or_else(|| kwargs.get("first"), |first| Ok(Some(first)))?;
    let blank = blank.map_or_else(|| kwargs.get("blank"), |blank| Ok(Some(blank)))?;
    kwargs.assert_all_used()?;
    let margin = match &width {
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(width.as_usize().unwrap_or(0).min(INDENT_MAX)),
        },
        None => " ".repeat(4),
    };
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let indented = if i == 0 {
            first == Some(true)
        } else {
            !line.is_empty() || blank == Some(true)
        };
        if indented {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| {
        let message = format!("{} has no length", value.kind());
        Error::new(ErrorKind::InvalidOperation, message)
    })
}

pub(super) fn to_template_value(json: &Json) -> Value {
    Value::from(minijinja::value::Serde(json))
}

/// `{% generation %}` marks trained text for a training library. Here it becomes
/// `{% if true %}`, which has neither a scope nor an effect and keeps line numbers.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // In `{%}` the per cent sign opens; it does not close as well.
        let Some(end) = tag[2..].find("%}").map(|len| len + 2) else {
            rest = tag;
            break;
        };
        let body = &tag[2..end];
        let word = body.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(with) => {
                let _ = write!(out, "{{%{}%}}", body.replacen(word, with, 1));
                rest = &tag[end + 2..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// `json` as a Python literal.
pub(super) fn python_literal(json: &Json) -> String {
    let mut out = String::new();
    python_repr(&mut out, &to_template_value(json));
    out
}

/// Writes what Python's `str` writes.
fn python_str(out: &mut String, value: &Value) {
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => python_repr(out, value),
    }
}

fn python_repr(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Undefined => {}
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => python_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() {
                ('(', ')')
            } else {
                ('[', ']')
            };
            out.push(open);
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                python_repr(out, &item);
            }
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                python_repr(out, &key);
                out.push_str(": ");
                python_repr(out, &value.get_item(&key).unwrap_or_default());
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn python_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `json.dumps` with the arguments `transformers` passes on.
fn tojson(state: &State, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let _ = state;
    let ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let indent: Option<Value> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sort: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let indent = indent.as_ref().and_then(|indent| match indent.as_str() {
        Some(text) => Some(text.to_owned()),
        None => indent.as_usize().map(|n| " ".repeat(n.min(INDENT_MAX))),
    });
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let style = JsonStyle {
        ascii: ascii.unwrap_or(false),
        sort: sort.unwrap_or(false),
        indent,
        item,
        key,
    };
    let mut out = String::new();
    style.write(&mut out, &json, 0);
    Ok(out)
}

const INDENT_MAX: usize = 64;

struct JsonStyle {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl JsonStyle {
    fn write(&self, out: &mut String, json: &Json, depth: usize) {
        match json {
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.before_item(out, i, depth + 1);
                    self.write(out, item, depth + 1);
                }
                self.before_close(out, items.is_empty(), depth);
                out.push(']');
            }
            Json::Object(map) => {
                let mut members: Vec<_> = map.iter().collect();
                if self.sort {
                    members.sort_by_key(|(key, _)| key.as_str());
                }
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    self.before_item(out, i, depth + 1);
                    self.write_str(out, key);
                    out.push_str(&self.key);
                    self.write(out, value, depth + 1);
                }
                self.before_close(out, members.is_empty(), depth);
                out.push('}');
            }
            Json::String(text) => self.write_str(out, text),
            other => {
                let _ = write!(out, "{other}");
            }
        }
    }

    fn before_item(&self, out: &mut String, index: usize, depth: usize) {
        if index > 0 {
            out.push_str(&self.item);
        }
        self.new_line(out, depth);
    }

    fn before_close(&self, out: &mut String, empty: bool, depth: usize) {
        if !empty {
            self.new_line(out, depth);
        }
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn write_str(&self, out: &mut String, text: &str) {
        let quoted = Json::from(text).to_string();
        if !self.ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// `strftime` in UTC for the directives templates use; an unknown one is kept as it is.
pub(super) fn strftime(format: &str, unix_seconds: i64) -> String {
    let days = unix_seconds.div_euclid(86_400);
    let seconds = unix_seconds.rem_euclid(86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil_from_days(days);
    let month_name = MONTHS[usize::try_from(month - 1).unwrap_or(0) % 12];
    // 1970-01-01 was a Thursday.
    let weekday = WEEKDAYS[usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0)];
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        let _ = match directive {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year.rem_euclid(100)),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('B') => write!(out, "{month_name}"),
            Some('b' | 'h') => write!(out, "{}", &month_name[..3]),
            Some('A') => write!(out, "{weekday}"),
            Some('a') => write!(out, "{}", &weekday[..3]),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{hour12:02}"),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{second:02}"),
            Some('F') => write!(out, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => write!(out, "UTC"),
            Some('z') => write!(out, "+0000"),
            Some('-') => match chars.next() {
                Some('d') => write!(out, "{day}"),
                Some('m') => write!(out, "{month}"),
                Some('H') => write!(out, "{hour}"),
                Some('I') => write!(out, "{hour12}"),
                Some(other) => write!(out, "%-{other}"),
                None => write!(out, "%-"),
            },
            Some('%') | None => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
        };
    }
    out
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Year, month and day of a day count since 1970-01-01, in the proleptic Gregorian
/// calendar: whole 400-year eras, then years that begin in March so that the leap
/// day comes last.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let env = environment(source).unwrap();
        let template = env.get_template(TEMPLATE_NAME).unwrap();
        let context = to_template_value(&serde_json::json!({
            "d": {"b": 1, "a": [true, null, "<é>"]},
            "s": " Hello ",
        }));
        template.render(context).unwrap()
    }

    #[test]
    fn tojson_writes_what_json_dumps_writes() {
        assert_eq!(
            render("{{ d|tojson }}"),
            r#"{"b": 1, "a": [true, null, "<é>"]}"#
        );
        assert_eq!(
            render("{{ d|tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}"),
            r#"{"a":[true,null,"<\u00e9>"],"b":1}"#
        );
        assert_eq!(
            render("{{ {'k': [1, {}]}|tojson(indent=2) }}"),
            "{\n  \"k\": [\n    1,\n    {}\n  ]\n}"
        );
    }

    #[test]
    fn values_print_as_python_prints_them() {
        assert_eq!(
            render("{{ true }} {{ none }} {{ d }} {{ [1, \"it's\"] }} {{ d.a|string }}"),
            "True None {'b': 1, 'a': [True, None, '<é>']} [1, \"it's\"] [True, None, '<é>']"
        );
    }

    #[test]
    fn python_methods_and_slices_work() {
        assert_eq!(
            render(
                "{{ s.strip().split('l')[-1] }} {{ d.get('z', 'none') }} \
                 {% for k, v in d.items() %}{{ k }}{% endfor %} {{ s[1:-1][::-1] }} \
                 {{ d is mapping }} {{ d.a is sequence }} {{ s is string }} {{ s.startswith(' H') }}"
            ),
            "o none ba olleH True True True True"
        );
    }

    #[test]
    fn indent_keeps_line_breaks() {
        assert_eq!(
            render("{{ '{\\n'|indent(2, first=true) }}{{ 'a\\n\\nb'|indent }}"),
            "  {\na\n\n    b"
        );
    }

    #[test]
    fn tests_and_lengths_answer_as_in_python() {
        assert_eq!(
            render(
                "{{ none is iterable }} {{ s is iterable }} {{ s is sequence }} {{ d is sequence }} \
                 {{ d.a is sequence }} {{ 1 is iterable }} {{ absent|length }} {{ d|length }}"
            ),
            "False True True True True False 0 2"
        );
    }

    #[test]
    fn loop_controls_namespaces_and_generation_blocks_are_understood() {
        assert_eq!(
            render(
                "{% set ns = namespace(n=0) %}\n{% for i in range(9) %}\n\
                 {% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}\n\
                 {% set ns.n = ns.n + i %}\n{% endfor %}\n{%- generation -%} {{ ns.n }} {%- endgeneration %}"
            ),
            "5"
        );
    }

    #[test]
    fn a_tag_cut_short_is_a_fault_and_no_panic() {
        assert!(super::environment("{%}").is_err());
        assert!(super::environment("{%").is_err());
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(
            strftime("%d %b %Y %A %H:%M:%S %-d %y %q", 951_782_400 + 3_661),
            "29 Feb 2000 Tuesday 01:01:01 29 00 %q"
        );
        assert_eq!(strftime("%F %T %a", -1), "1969-12-31 23:59:59 Wed");
    }
}
