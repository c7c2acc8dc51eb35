//! Fields that a request has and its type does not.
//!
//! Clients send fields of other servers and of newer APIs, and those are ignored, as
//! everywhere. A name that is almost one of ours is a slip of the pen whose author
//! believes that it works, so it is refused, as OpenAI does; the SDKs cannot make such
//! a slip. A field of another server that asks for what we do under another name, or
//! cannot do, is answered with a warning.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor,
};

use crate::error::{ApiError, ErrorCode};
use crate::limits::quoted;

/// Shorter names are too near to one another: `top_a` is no slip of `top_k`.
const SLIP_CHARS_MIN: usize = 6;
/// From here on two slips in one name are recognised.
const TWO_SLIPS_CHARS_MIN: usize = 12;

/// Fields of other servers near one of ours that mean something else: `OpenRouter`'s
/// list of models to fall back to.
const NO_SLIPS: [&str; 1] = ["models"];

/// Fields of other dialects that change an answer, and what to do in OpenAI's.
pub(crate) const ELSEWHERE: [(&str, &str); 22] = [
    ("bad_words", NO_COUNTERPART),
    ("enable_thinking", "use `reasoning` with `enabled`"),
    (
        "format",
        "use `response_format` with type `json_object` or `json_schema`",
    ),
    ("guided_choice", "use `response_format` with type `regex`"),
    (
        "guided_grammar",
        "use `response_format` with type `lark` or `gbnf`",
    ),
    (
        "guided_json",
        "use `response_format` with type `json_schema`",
    ),
    ("guided_regex", "use `response_format` with type `regex`"),
    ("max_length", "use `max_tokens`"),
    ("max_new_tokens", "use `max_tokens`"),
    ("max_output_tokens", "use `max_tokens`"),
    ("min_tokens", NO_COUNTERPART),
    ("mirostat", NO_COUNTERPART),
    ("n_ctx", CONTEXT),
    ("num_ctx", CONTEXT),
    ("num_predict", "use `max_tokens`"),
    ("options", "give its members as fields of the request"),
    ("stop_sequences", "use `stop`"),
    ("stop_token_ids", "use `stop`"),
    ("system", "use a message with role `system`"),
    ("thinking", "use `reasoning`"),
    ("top_a", NO_COUNTERPART),
    ("xtc_probability", NO_COUNTERPART),
];

const NO_COUNTERPART: &str = "this endpoint has nothing like it";
const CONTEXT: &str = "the context is set when the model is loaded";

/// A `T`, and whether the object that it was read from has names that are no fields of it.
#[derive(Debug)]
pub(crate) struct Read<T> {
    pub(crate) value: T,
    /// Only then [`check`] has something to say.
    pub(crate) has_strays: bool,
}

/// Reads a JSON object.
///
/// # Errors
/// What serde says of the text.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<Read<T>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut has_strays = false;
    let value = T::deserialize(StrayReader {
        inner: &mut reader,
        has_strays: &mut has_strays,
    })?;
    reader.end()?;
    Ok(Read { value, has_strays })
}

/// Refuses names that are almost a field of `T`; gives warnings about those that are
/// fields elsewhere, each with what to do instead. `text` is a JSON object that was read as
/// a `T`.
pub(crate) fn check<T: DeserializeOwned>(
    text: &str,
    elsewhere: &[(&str, &str)],
) -> Result<Vec<String>, ApiError> {
    let known = fields_of::<T>();
    let Ok(Names(given)) = serde_json::from_str(text) else {
        return Ok(Vec::new());
    };
    let mut warnings = Vec::new();
    for name in &given {
        if known.contains(&&**name) {
            continue;
        }
        if let Some((_, instead)) = elsewhere.iter().find(|(other, _)| other == name) {
            warnings.push(format!("`{name}` is not read here: {instead}."));
            continue;
        }
        let meant = known.iter().find(|field| is_slip(name, field));
        // Who gives the right one too, knows it.
        if let Some(meant) = meant.filter(|meant| !given.iter().any(|name| name == *meant)) {
            let facts = [("value", &*quoted(name)), ("meant", *meant)];
            return Err(ApiError::new(ErrorCode::UnknownField, &facts).with_param(name));
        }
    }
    Ok(warnings)
}

fn is_slip(name: &str, field: &str) -> bool {
    if NO_SLIPS.contains(&name) {
        return false;
    }
    let bare = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    if bare(name) == bare(field) {
        return true;
    }
    let n_chars = name.chars().count().min(field.len());
    let slips_max = match n_chars {
        TWO_SLIPS_CHARS_MIN.. => 2,
        SLIP_CHARS_MIN.. => 1,
        _ => return false,
    };
    // Far longer ones are no slips, and not worth a table of distances.
    name.len() <= 2 * field.len() && strsim::osa_distance(name, field) <= slips_max
}

/// Reads a struct, and notes names that are none of its fields. One type after the other
/// stands between serde and the names: this one, the struct's [`StrayVisitor`], its
/// [`StrayMap`], and each name's [`StrayName`].
struct StrayReader<'a, D> {
    inner: D,
    has_strays: &'a mut bool,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for StrayReader<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        // Of what is no struct nothing is known.
        *self.has_strays = true;
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = StrayVisitor {
            inner: visitor,
            fields,
            has_strays: self.has_strays,
        };
        self.inner.deserialize_struct(name, fields, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
        ignored_any
    }
}

struct StrayVisitor<'a, V> {
    inner: V,
    fields: &'static [&'static str],
    has_strays: &'a mut bool,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for StrayVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(StrayMap {
            inner: map,
            fields: self.fields,
            has_strays: self.has_strays,
        })
    }
}

struct StrayMap<'a, A> {
    inner: A,
    fields: &'static [&'static str],
    has_strays: &'a mut bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for StrayMap<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.inner.next_key_seed(StrayName {
            inner: seed,
            fields: self.fields,
            has_strays: &mut *self.has_strays,
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

/// A name: as a seed, as the reader that the seed is given, and as the visitor that it reads
/// with.
struct StrayName<'a, T> {
    inner: T,
    fields: &'static [&'static str],
    has_strays: &'a mut bool,
}

impl<'a, T> StrayName<'a, T> {
    fn with<U>(self, inner: U) -> (T, StrayName<'a, U>) {
        let name = StrayName {
            inner,
            fields: self.fields,
            has_strays: self.has_strays,
        };
        (self.inner, name)
    }

    fn note(&mut self, name: &str) {
        *self.has_strays |= !self.fields.contains(&name);
    }
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for StrayName<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<K::Value, D::Error> {
        let (seed, name) = self.with(reader);
        seed.deserialize(name)
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for StrayName<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (reader, name) = self.with(visitor);
        reader.deserialize_identifier(name)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for StrayName<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_str<E: de::Error>(mut self, name: &str) -> Result<V::Value, E> {
        self.note(name);
        self.inner.visit_str(name)
    }

    fn visit_borrowed_str<E: de::Error>(mut self, name: &'de str) -> Result<V::Value, E> {
        self.note(name);
        self.inner.visit_borrowed_str(name)
    }
}

/// The names of an object's members that are not null.
struct Names<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor).map(Self)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Vec<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((Name(name), value)) = map.next_entry::<_, Option<IgnoredAny>>()? {
            if value.is_some() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields that serde reads into a struct, aliases included.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It fails, having told what it was asked for.
    let _ = T::deserialize(FieldReader(&mut fields));
    fields
}

struct FieldReader<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldReader<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("the fields are known now"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai::ChatRequest;

    #[test]
    fn slips_are_told_from_fields_of_others() {
        let slips = [
            ("max_token", "max_tokens"),
            ("maxTokens", "max_tokens"),
            ("topP", "top_p"),
            ("top-k", "top_k"),
            ("temprature", "temperature"),
            ("Temperature", "temperature"),
            ("respone_format", "response_format"),
            ("presense_penality", "presence_penalty"),
            ("repetition_penaltyy", "repetition_penalty"),
            ("mesages", "messages"),
            ("tool_chioce", "tool_choice"),
        ];
        for (name, meant) in slips {
            let error =
                check::<ChatRequest>(&format!(r#"{{"{name}": 1}}"#), &ELSEWHERE).unwrap_err();
            let body = format!("{error:?}");
            assert!(body.contains(&format!("`{meant}`")), "{name}: {body}");
            // A null says nothing, and who gives both knows the right one.
            for harmless in [
                format!(r#"{{"{name}": null}}"#),
                format!(r#"{{"{name}": 1, "{meant}": 1}}"#),
            ] {
                assert!(
                    check::<ChatRequest>(&harmless, &ELSEWHERE)
                        .unwrap()
                        .is_empty()
                );
            }
        }
    }

    #[test]
    fn fields_of_sdks_and_agents_pass() {
        // OpenAI's own, and those of OpenRouter, LiteLLM, Ollama, vLLM, SGLang and
        // llama.cpp, as far as they are not ours.
        let others = [
            "audio",
            "background",
            "best_of",
            "cache_control",
            "chat_template",
            "echo",
            "echo_reasoning",
            "drop_params",
            "frequency",
            "include",
            "include_reasoning",
            "instructions",
            "keep_alive",
            "length_penalty",
            "logit_processors",
            "max_price",
            "max_tool_calls",
            "metadata",
            "min_keep",
            "mirostat_eta",
            "mirostat_tau",
            "models",
            "n_keep",
            "n_probs",
            "parallel",
            "penalize_nl",
            "plugins",
            "prediction",
            "priority",
            "prompt",
            "prompt_cache_key",
            "prompt_logprobs",
            "provider",
            "route",
            "safety_identifier",
            "samplers",
            "service_tier",
            "skip_special_tokens",
            "store",
            "t_max_predict_ms",
            "tfs_z",
            "timeout",
            "timings_per_token",
            "top_n_sigma",
            "transforms",
            "truncate_prompt_tokens",
            "truncation",
            "typical",
            "usage",
            "use_beam_search",
            "user",
            "verbosity",
            "web_search_options",
            "xtc_threshold",
        ];
        for name in others {
            let warnings =
                check::<ChatRequest>(&format!(r#"{{"{name}": 1}}"#), &ELSEWHERE).unwrap();
            assert!(warnings.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_others_call_otherwise_is_told() {
        let warnings =
            check::<ChatRequest>(r#"{"num_predict": 5, "top_a": 0.1}"#, &ELSEWHERE).unwrap();
        assert_eq!(
            warnings,
            [
                "`num_predict` is not read here: use `max_tokens`.",
                "`top_a` is not read here: this endpoint has nothing like it."
            ]
        );
        for (name, _) in ELSEWHERE {
            assert!(!fields_of::<ChatRequest>().contains(&name), "{name}");
        }
    }
}
