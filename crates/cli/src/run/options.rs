//! What `/set` changes.

use std::fmt;
use std::str::FromStr;

use proto::{Generation, Reasoning, SamplingOverrides};
use serde_json::{Value, json};

/// Options of an answer; `None` leaves the model's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Options {
    pub(super) system: Option<String>,
    max_tokens: Option<u32>,
    reasoning: Option<bool>,
    sampling: SamplingOverrides,
}

impl Options {
    /// Sets an option from text; an empty text clears it.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let sampling = &mut self.sampling;
        match name {
            "system" => self.system = (!value.is_empty()).then(|| value.to_owned()),
            "reasoning" => {
                self.reasoning = match value {
                    "on" => Some(true),
                    "off" => Some(false),
                    "" => None,
                    _ => return Err(format!("reasoning is on or off, not `{value}`")),
                }
            }
            "max_tokens" => self.max_tokens = number(name, value)?,
            "temperature" => sampling.temperature = number(name, value)?,
            "top_k" => sampling.top_k = number(name, value)?,
            "top_p" => sampling.top_p = number(name, value)?,
            "min_p" => sampling.min_p = number(name, value)?,
            "seed" => sampling.seed = number(name, value)?,
            "repeat_penalty" => sampling.repeat_penalty = number(name, value)?,
            "presence_penalty" => sampling.presence_penalty = number(name, value)?,
            "frequency_penalty" => sampling.frequency_penalty = number(name, value)?,
            _ => return Err(format!("there is no option `{name}`; /help lists them")),
        }
        Ok(())
    }

    pub(super) fn generation(&self) -> Generation {
        Generation {
            max_tokens: self.max_tokens,
            sampling: self.sampling.clone(),
            ..Generation::default()
        }
    }

    pub(super) fn reasoning(&self) -> Reasoning {
        Reasoning {
            enabled: self.reasoning,
            ..Reasoning::default()
        }
    }

    /// The fields of a chat request that say the same.
    pub(super) fn request_fields(&self) -> Vec<(&'static str, Value)> {
        let mut fields: Vec<_> = self
            .named()
            .into_iter()
            .filter(|(name, value)| !value.is_null() && *name != "system" && *name != "reasoning")
            .collect();
        if let Some(enabled) = self.reasoning {
            fields.push((
                "chat_template_kwargs",
                json!({ "enable_thinking": enabled }),
            ));
        }
        fields
    }

    fn named(&self) -> Vec<(&'static str, Value)> {
        let sampling = &self.sampling;
        vec![
            ("system", json!(self.system)),
            ("reasoning", json!(self.reasoning)),
            ("max_tokens", json!(self.max_tokens)),
            ("temperature", short(sampling.temperature)),
            ("top_k", json!(sampling.top_k)),
            ("top_p", short(sampling.top_p)),
            ("min_p", short(sampling.min_p)),
            ("seed", json!(sampling.seed)),
            ("repeat_penalty", short(sampling.repeat_penalty)),
            ("presence_penalty", short(sampling.presence_penalty)),
            ("frequency_penalty", short(sampling.frequency_penalty)),
        ]
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.named().into_iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            match value {
                Value::Null => write!(f, "{end}{name:<18}(the model's default)")?,
                value => write!(f, "{end}{name:<18}{value}")?,
            }
        }
        Ok(())
    }
}

/// The number as it was written: 0.7, not the 0.699999988 of the wider type.
fn short(value: Option<f32>) -> Value {
    let text = value.map(|value| value.to_string());
    let number = text.and_then(|text| text.parse::<f64>().ok());
    json!(number)
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<Option<T>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    match value.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(format!("{name} must be a number, not `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_a_request_as_they_were_written() {
        let mut options = Options::default();
        for (name, value) in [
            ("temperature", "0.7"),
            ("seed", "7"),
            ("reasoning", "off"),
            ("system", "Be brief."),
        ] {
            options.set(name, value).unwrap();
        }
        let fields: serde_json::Map<_, _> = options
            .request_fields()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let want = json!({
            "temperature": 0.7,
            "seed": 7,
            "chat_template_kwargs": { "enable_thinking": false },
        });
        assert_eq!(Value::from(fields), want);
        assert_eq!(options.generation().sampling.temperature, Some(0.7));
        options.set("seed", "").unwrap();
        assert_eq!(options.generation().sampling.seed, None);
    }

    #[test]
    fn wrong_options_are_told() {
        let mut options = Options::default();
        let wrong = [
            (
                "temprature",
                "1",
                "there is no option `temprature`; /help lists them",
            ),
            ("top_k", "many", "top_k must be a number, not `many`"),
            ("reasoning", "maybe", "reasoning is on or off, not `maybe`"),
        ];
        for (name, value, message) in wrong {
            assert_eq!(options.set(name, value), Err(message.to_owned()));
        }
        assert_eq!(options, Options::default());
    }
}
