//! Fields that may have one of several JSON types.
//!
//! They are read by hand: serde's untagged enums buffer the value, forget the path
//! to the fault and say only that no variant matched.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use utoipa::ToSchema;

/// A string or a list of strings.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// A single one.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr {
            expected: "a string or an array of strings",
            text: Self::One,
            list: Self::Many,
            item: PhantomData,
        })
    }
}

/// The content of a message: text, or typed parts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts of type `text` and, in messages of the user, `image_url`.
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr {
            expected: "a string or an array of content parts",
            text: Self::Text,
            list: Self::Parts,
            item: PhantomData,
        })
    }
}

/// One part of a message's content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, serde::Deserialize, ToSchema)]
#[serde(default)]
pub struct ContentPart {
    /// `text` or `image_url`; other types are refused.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The text of a part of type `text`.
    pub text: Option<String>,
    /// The text of a part of type `refusal`.
    pub refusal: Option<String>,
    /// The image of a part of type `image_url`.
    pub image_url: Option<ImageUrl>,
}

/// Where an image is: an http(s) address, which is passed on as it is, or a `data:` URL. The
/// address may also stand alone, as a string.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct ImageUrl {
    /// The address.
    pub url: Option<String>,
    /// How closely to look: `auto`, `low`, `high` or `original`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl<'de> Deserialize<'de> for ImageUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ImageUrlVisitor)
    }
}

struct ImageUrlVisitor;

impl<'de> Visitor<'de> for ImageUrlVisitor {
    type Value = ImageUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `url`, or a string")
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<ImageUrl, E> {
        self.visit_string(url.to_owned())
    }

    fn visit_string<E: Error>(self, url: String) -> Result<ImageUrl, E> {
        Ok(ImageUrl {
            url: Some(url),
            detail: None,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ImageUrl, A::Error> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Fields {
            url: Option<String>,
            detail: Option<String>,
        }
        let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ImageUrl {
            url: fields.url,
            detail: fields.detail,
        })
    }
}

/// What to complete or embed: text or token ids, one or several.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// One text.
    Text(String),
    /// Texts, token ids of one input, or arrays of token ids.
    List(Vec<InputItem>),
}

/// An element of an [`Input`] list.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum InputItem {
    /// A text of its own.
    Text(String),
    /// One token of the only input.
    Token(i32),
    /// The tokens of an input of its own.
    Tokens(Vec<i32>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr {
            expected: "a string or an array of strings, token ids or arrays of token ids",
            text: Self::Text,
            list: Self::List,
            item: PhantomData,
        })
    }
}

/// Reads a string or a list of `T`.
pub(crate) struct TextOr<T, F, G> {
    pub(crate) expected: &'static str,
    pub(crate) text: F,
    pub(crate) list: G,
    pub(crate) item: PhantomData<T>,
}

impl<'de, T, O, F, G> Visitor<'de> for TextOr<T, F, G>
where
    T: Deserialize<'de>,
    F: FnOnce(String) -> O,
    G: FnOnce(Vec<T>) -> O,
{
    type Value = O;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<O, E> {
        Ok((self.text)(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<O, E> {
        Ok((self.text)(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<O, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok((self.list)(list))
    }
}

impl<'de> Deserialize<'de> for InputItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputItemVisitor)
    }
}

struct InputItemVisitor;

impl<'de> Visitor<'de> for InputItemVisitor {
    type Value = InputItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or an array of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<InputItem, E> {
        Ok(InputItem::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<InputItem, E> {
        Ok(InputItem::Text(text))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<InputItem, E> {
        i32::try_from(token)
            .map(InputItem::Token)
            .map_err(|_| E::custom(format!("{token} is no token id")))
    }

    fn visit_i64<E: Error>(self, token: i64) -> Result<InputItem, E> {
        Err(E::custom(format!("{token} is no token id")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<InputItem, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = seq.next_element::<u32>()? {
            let token = i32::try_from(token)
                .map_err(|_| A::Error::custom(format!("{token} is no token id")))?;
            tokens.push(token);
        }
        Ok(InputItem::Tokens(tokens))
    }
}

/// A JSON value as an error message shows it.
pub(crate) fn shown(value: &Value) -> String {
    crate::limits::quoted(&value.to_string())
}
