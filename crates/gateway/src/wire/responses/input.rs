//! Items to messages.
//!
//! What an assistant did in one turn is several items here and one message for a model:
//! thinking, text and calls are gathered until something else comes.

use proto::{Image, Message, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::items::{self, References};
use super::tools::joined;
use crate::error::{ApiError, ErrorCode};
use crate::kept::ResponseStore;
use crate::limits::{self, quoted};
use crate::wire::images::{self, Parts};
use crate::wire::openai::shapes::shown;

const ROLES: &str = "one of user, assistant, system, developer";

/// The items of a request's `input`; references are replaced by the kept items.
pub(crate) fn items(
    input: Option<Value>,
    previous: Option<&str>,
    store: &dyn ResponseStore,
) -> Result<Vec<Value>, ApiError> {
    let rule = "a string or an array of at least 1 item";
    let list = match input.filter(|input| !input.is_null()) {
        Some(Value::Array(list)) => list,
        Some(Value::String(text)) => {
            return Ok(vec![
                json!({ "type": "message", "role": "user", "content": text }),
            ]);
        }
        Some(other) => return Err(ApiError::invalid("input", &shown(&other), rule)),
        None if previous.is_some() => Vec::new(),
        None => return Err(ApiError::missing("input", rule)),
    };
    if list.is_empty() && previous.is_none() {
        return Err(ApiError::invalid("input", "empty", rule));
    }
    limits::count("input", list.len(), limits::INPUT_ITEMS_MAX, "items")?;
    let mut references = References::new(store);
    let indexed = list.into_iter().enumerate();
    indexed
        .map(|(index, item)| resolved(&format!("input[{index}]"), item, &mut references))
        .collect()
}

fn resolved(path: &str, item: Value, references: &mut References) -> Result<Value, ApiError> {
    let view = Item::new(path, &item)?;
    if view.kind()? != "item_reference" {
        return Ok(item);
    }
    let id = view.required("id")?;
    references.take(id)?.ok_or_else(|| {
        let rule = "the id of an item of a kept response, given once";
        ApiError::invalid(&view.at("id"), &quoted(id), rule)
    })
}

/// The messages of a response: its instructions, what it continues, and its input.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    messages: Vec<Message>,
    /// The assistant's turn that is being gathered.
    turn: Option<Message>,
    /// Images that tools had to show. Other dialects have no place for them in a result, so
    /// they go before what the user says next.
    shown: Vec<Image>,
    warnings: Vec<String>,
}

impl Conversation {
    pub(crate) fn new(instructions: Option<String>) -> Self {
        let mut conversation = Self::default();
        let instructions = instructions.filter(|text| !text.is_empty());
        conversation
            .messages
            .extend(instructions.map(|text| message(Role::System, text)));
        conversation
    }

    /// Adds the items of the response of that id and of all that it continues.
    pub(crate) fn continues(
        &mut self,
        id: &str,
        store: &dyn ResponseStore,
    ) -> Result<(), ApiError> {
        let chain = store.chain(id).map_err(|missing| {
            ApiError::new(
                ErrorCode::PreviousResponseNotFound,
                &[("value", &missing.0)],
            )
            .with_param("previous_response_id")
        })?;
        for kept in chain {
            for item in items::of(&kept) {
                self.item(&Item::new("previous_response_id", &item)?)?;
            }
        }
        // Its own request was told of them.
        self.warnings.clear();
        Ok(())
    }

    /// Adds the items of a request.
    pub(crate) fn input(&mut self, items: &[Value]) -> Result<(), ApiError> {
        for (index, item) in items.iter().enumerate() {
            self.item(&Item::new(&format!("input[{index}]"), item)?)?;
        }
        Ok(())
    }

    /// The messages, and what was left out of them, in words.
    pub(crate) fn end(mut self) -> Result<(Vec<Message>, Vec<String>), ApiError> {
        self.close_turn();
        self.close_results();
        if self.messages.is_empty() {
            let rule = "at least 1 message, call or output";
            return Err(ApiError::invalid("input", "without a message", rule));
        }
        let (given, limit) = (self.messages.len(), limits::MESSAGES_MAX);
        limits::count("input", given, limit, "messages, continued ones included")?;
        Ok((self.messages, self.warnings))
    }

    fn item(&mut self, item: &Item<'_>) -> Result<(), ApiError> {
        match item.kind()? {
            "message" => self.message(item),
            "reasoning" => self.reasoning(item),
            "function_call" => {
                let arguments = item.required("arguments")?.to_owned();
                self.call(item, arguments)
            }
            "custom_tool_call" => {
                let arguments = json!({ "input": item.required("input")? });
                self.call(item, arguments.to_string())
            }
            "function_call_output" | "custom_tool_call_output" => self.output(item),
            other => {
                self.unknown(item, other);
                Ok(())
            }
        }
    }

    fn message(&mut self, item: &Item<'_>) -> Result<(), ApiError> {
        let given = item.text("role")?;
        let role = given.ok_or_else(|| ApiError::missing(&item.at("role"), ROLES))?;
        if role == "user" {
            let parts = item.parts("content")?;
            self.add(Message {
                images: parts.images,
                ..message(Role::User, parts.text)
            });
            return Ok(());
        }
        let text = item.content("content")?;
        match role {
            "system" => self.add(message(Role::System, text)),
            "developer" => self.add(message(Role::Developer, text)),
            "assistant" => append(&mut self.turn().content, &text),
            other => return Err(ApiError::invalid(&item.at("role"), &quoted(other), ROLES)),
        }
        Ok(())
    }

    /// The thinking itself where it is given, else its summary.
    fn reasoning(&mut self, item: &Item<'_>) -> Result<(), ApiError> {
        let given = |field: &str| item.fields.get(field).is_some_and(is_some_list);
        let field = match given("content") {
            true => "content",
            false if given("summary") => "summary",
            false => return Ok(()),
        };
        let text = item.content(field)?;
        append(&mut self.turn().reasoning_content, &text);
        Ok(())
    }

    fn call(&mut self, item: &Item<'_>, arguments: String) -> Result<(), ApiError> {
        let name = item.required("name")?;
        let call = ToolCall {
            id: item.required("call_id")?.to_owned(),
            name: match item.text("namespace")? {
                None => name.to_owned(),
                Some(namespace) => joined(namespace, name),
            },
            arguments,
        };
        self.turn().tool_calls.push(call);
        Ok(())
    }

    fn output(&mut self, item: &Item<'_>) -> Result<(), ApiError> {
        let parts = item.parts("output")?;
        let id = item.required("call_id")?.to_owned();
        self.add(Message {
            tool_call_id: Some(id),
            ..message(Role::Tool, parts.text)
        });
        let shown = parts.images.into_iter();
        self.shown
            .extend(shown.map(|image| Image { at: 0, ..image }));
        Ok(())
    }

    /// An item that OpenAI's own tools leave behind, or a newer one.
    fn unknown(&mut self, item: &Item<'_>, kind: &str) {
        let texts = ["content", "output", "text"];
        let text = texts
            .iter()
            .find_map(|field| item.content(field).ok())
            .filter(|text| !text.is_empty());
        let fate = match text {
            Some(text) => {
                self.add(message(Role::User, text));
                "its text was given as a message of the user"
            }
            None => "it was left out",
        };
        let (path, kind) = (item.path, quoted(kind));
        self.warnings
            .push(format!("{path} has the type {kind}: {fate}."));
    }

    fn add(&mut self, mut message: Message) {
        self.close_turn();
        match message.role {
            Role::Tool => {}
            Role::User => {
                let said = std::mem::replace(&mut message.images, std::mem::take(&mut self.shown));
                message.images.extend(said);
            }
            _ => self.close_results(),
        }
        self.messages.push(message);
    }

    /// Shows what tools had to show, where the user says nothing behind it.
    fn close_results(&mut self) {
        if !self.shown.is_empty() {
            self.messages.push(Message {
                images: std::mem::take(&mut self.shown),
                ..message(Role::User, String::new())
            });
        }
    }

    fn turn(&mut self) -> &mut Message {
        self.close_results();
        self.turn.get_or_insert_with(|| Message {
            role: Role::Assistant,
            ..Message::default()
        })
    }

    /// Thinking that led to nothing is no turn.
    fn close_turn(&mut self) {
        let said = |turn: &Message| turn.content.is_some() || !turn.tool_calls.is_empty();
        self.messages.extend(self.turn.take().filter(said));
    }
}

fn message(role: Role, text: String) -> Message {
    Message {
        role,
        content: Some(text),
        ..Message::default()
    }
}

fn append(to: &mut Option<String>, text: &str) {
    match to {
        Some(before) => {
            before.push('\n');
            before.push_str(text);
        }
        None => *to = Some(text.to_owned()),
    }
}

fn is_some_list(value: &Value) -> bool {
    value.as_array().is_none_or(|list| !list.is_empty()) && !value.is_null()
}

/// An item and its place in the request, which errors name.
struct Item<'a> {
    path: &'a str,
    fields: &'a Map<String, Value>,
}

impl<'a> Item<'a> {
    fn new(path: &'a str, value: &'a Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(fields) => Ok(Self { path, fields }),
            other => Err(ApiError::invalid(path, &shown(other), "an object")),
        }
    }

    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    /// A message may leave its type out, and so may a reference.
    fn kind(&self) -> Result<&'a str, ApiError> {
        match self.text("type")? {
            Some(kind) => Ok(kind),
            None if self.fields.contains_key("role") => Ok("message"),
            None if self.fields.contains_key("id") => Ok("item_reference"),
            None => Err(ApiError::missing(
                &self.at("type"),
                "the type of an item, as `message`",
            )),
        }
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, ApiError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::invalid(
                &self.at(field),
                &shown(other),
                "a string",
            )),
        }
    }

    fn required(&self, field: &str) -> Result<&'a str, ApiError> {
        self.text(field)?
            .ok_or_else(|| ApiError::missing(&self.at(field), "a string"))
    }

    /// The text of a field that is a string or an array of parts, which are joined
    /// without a separator.
    fn content(&self, field: &str) -> Result<String, ApiError> {
        let parts = self.parts(field)?;
        match parts.images.is_empty() {
            true => Ok(parts.text),
            false => Err(images::only_of_the_user(&self.at(field))),
        }
    }

    /// The same with images.
    fn parts(&self, field: &str) -> Result<Parts, ApiError> {
        let param = self.at(field);
        let rule = "a string or an array of parts";
        let mut joined = Parts::default();
        match self.fields.get(field) {
            None | Some(Value::Null) => return Err(ApiError::missing(&param, rule)),
            Some(Value::String(text)) => joined.text(text),
            Some(Value::Array(parts)) => {
                limits::count(&param, parts.len(), limits::CONTENT_PARTS_MAX, "parts")?;
                for (index, part) in parts.iter().enumerate() {
                    add_part(&format!("{param}[{index}]"), part, &mut joined)?;
                }
            }
            Some(other) => return Err(ApiError::invalid(&param, &shown(other), rule)),
        }
        Ok(joined)
    }
}

fn add_part(path: &str, part: &Value, joined: &mut Parts) -> Result<(), ApiError> {
    let part = Item::new(path, part)?;
    let kind = part.text("type")?;
    match kind.ok_or_else(|| ApiError::missing(&part.at("type"), "`input_text`"))? {
        "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => {
            joined.text(part.required("text")?);
        }
        "refusal" => joined.text(part.required("refusal")?),
        "input_image" => {
            let given = part.text("image_url")?;
            let url = given.ok_or_else(|| {
                let rule = "an address or a data: URL (files are not kept here)";
                ApiError::missing(&part.at("image_url"), rule)
            })?;
            let detail = part.text("detail")?.map(str::to_owned);
            joined.image(images::image(
                &part.at("image_url"),
                url.to_owned(),
                detail,
            )?);
        }
        other => {
            let detail = "this endpoint reads text and images only";
            let value = format!("a part of type {}", quoted(other));
            return Err(ApiError::not_supported(path, &value, detail));
        }
    }
    Ok(())
}
