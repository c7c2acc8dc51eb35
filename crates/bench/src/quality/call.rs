//! The call of a function.

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, words};
use super::fields::{is_same, obeys};

/// The answer is one call of this function with these arguments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallCheck {
    name: String,
    /// What the arguments must obey.
    schema: Value,
    /// Arguments by their names that must have this value.
    #[serde(default)]
    equal: serde_json::Map<String, Value>,
    /// Arguments by their names that must hold one word of each of these lists.
    #[serde(default)]
    holding: serde_json::Map<String, Value>,
    /// Sets of arguments that do as well as `equal`.
    #[serde(default)]
    or_equal: Vec<serde_json::Map<String, Value>>,
    /// Arguments by their names, each with the values that are right for it; one that may be an
    /// empty text may be left out. No other argument may be there.
    #[serde(default)]
    among: Option<serde_json::Map<String, Value>>,
}

impl CallCheck {
    /// A call whose arguments are each one of several that are right.
    pub(super) fn among(name: String, among: serde_json::Map<String, Value>) -> Self {
        let none = serde_json::Map::new;
        Self {
            name,
            schema: Value::Bool(true),
            equal: none(),
            holding: none(),
            or_equal: Vec::new(),
            among: Some(among),
        }
    }

    pub(crate) fn judge(&self, answer: &Answer) -> Result<(), String> {
        let call = match answer.calls.as_slice() {
            [call] => call,
            [] if answer.text.contains(&self.name) => {
                return Err("the call stands in the text".into());
            }
            [] => return Err("it calls nothing".into()),
            calls => return Err(format!("{} calls in place of one", calls.len())),
        };
        if call.name != self.name {
            return Err(format!("it calls `{}`", call.name));
        }
        obeys(&call.arguments, &self.schema)?;
        let equals = |wanted: &serde_json::Map<String, Value>| {
            let mut wanted = wanted.iter();
            wanted.all(|(name, wanted)| {
                let got = call.arguments.get(name);
                got.is_some_and(|got| is_same(got, wanted))
            })
        };
        if !equals(&self.equal) && !self.or_equal.iter().any(equals) {
            return Err("its arguments are others".into());
        }
        if let Some(among) = &self.among {
            are_among(&call.arguments, among)?;
        }
        for (name, lists) in &self.holding {
            let got = call.arguments.get(name).and_then(Value::as_str);
            holds(&words(got.unwrap_or_default()), lists)
                .map_err(|missing| format!("`{name}` lacks {missing}"))?;
        }
        Ok(())
    }
}

/// Whether each argument is one of those that are right for it.
fn are_among(got: &Value, among: &serde_json::Map<String, Value>) -> Result<(), String> {
    let got = got.as_object().ok_or("its arguments are no object")?;
    if let Some(name) = got.keys().find(|name| !among.contains_key(*name)) {
        return Err(format!("`{name}` is no argument that was asked for"));
    }
    for (name, right) in among {
        let right = right.as_array().map(Vec::as_slice).unwrap_or_default();
        let may_be_absent = right.iter().any(|one| one.as_str() == Some(""));
        let is_right = match got.get(name) {
            None => may_be_absent,
            Some(got) => right.iter().any(|right| is_alike(got, right)),
        };
        if !is_right {
            return Err(format!("`{name}` is another"));
        }
    }
    Ok(())
}

/// The same, but for case, spaces and marks in texts.
fn is_alike(got: &Value, wanted: &Value) -> bool {
    let plain = |text: &str| {
        text.to_lowercase()
            .replace([' ', ',', '.', '/', '-', '_', '*', '^'], "")
    };
    match (got, wanted) {
        (Value::String(got), Value::String(wanted)) => plain(got) == plain(wanted),
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len()
                && got
                    .iter()
                    .zip(wanted)
                    .all(|(got, wanted)| is_alike(got, wanted))
        }
        _ => is_same(got, wanted),
    }
}

/// Whether one word of each list is there; else the list that has none.
fn holds(words: &[String], lists: &Value) -> Result<(), String> {
    for list in lists.as_array().into_iter().flatten() {
        let mut any = list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        if !any.any(|word| words.iter().any(|got| got == word)) {
            return Err(list.to_string());
        }
    }
    Ok(())
}
