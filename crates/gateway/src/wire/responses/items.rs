//! Items of kept responses: their ids, the form in which they are listed, finding them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::kept::{Kept, ResponseStore};
use crate::limits::{self, quoted};

/// The prefix of a response's id.
pub(crate) const RESPONSE_PREFIX: &str = "resp_";

/// The id of an item: that of its response, with another prefix and its place.
pub(crate) fn id(prefix: &str, response: &str, place: &str) -> String {
    let stem = response.strip_prefix(RESPONSE_PREFIX).unwrap_or(response);
    format!("{prefix}{stem}_{place}")
}

/// The item of that id, from the response that its id names.
pub(crate) fn find(store: &dyn ResponseStore, id: &str) -> Option<Value> {
    let (_, rest) = id.split_once('_')?;
    let (stem, _) = rest.rsplit_once('_')?;
    let kept = store.get(&format!("{RESPONSE_PREFIX}{stem}"))?;
    of(&kept).into_iter().find(|item| item["id"] == id)
}

/// What a response was given and what it answered.
pub(crate) fn of(kept: &Kept) -> Vec<Value> {
    #[derive(Default, Deserialize)]
    struct Response {
        output: Vec<Value>,
    }
    // Both were written here, so they can be read.
    let response: Response = serde_json::from_slice(&kept.response).unwrap_or_default();
    let mut items = input_of(kept);
    items.extend(response.output);
    items
}

fn input_of(kept: &Kept) -> Vec<Value> {
    serde_json::from_slice(&kept.input).unwrap_or_default()
}

/// Gives the input items of a response what OpenAI lists them with: a type, an id, a
/// status, and content in parts.
pub(crate) fn listed(items: Vec<Value>, response: &str) -> Vec<Value> {
    let indexed = items.into_iter().enumerate();
    indexed
        .map(|(index, mut item)| {
            complete(&mut item, response, index);
            item
        })
        .collect()
}

fn complete(item: &mut Value, response: &str, index: usize) {
    let Some(fields) = item.as_object_mut() else {
        return;
    };
    let kind = fields.entry("type").or_insert(Value::Null);
    if kind.is_null() {
        *kind = "message".into();
    }
    let (prefix, has_status) = match kind.as_str().unwrap_or_default() {
        "message" => ("msg_", true),
        "function_call" => ("fc_", true),
        "function_call_output" => ("fco_", true),
        "custom_tool_call" => ("ctc_", true),
        "custom_tool_call_output" => ("ctco_", true),
        "reasoning" => ("rs_", false),
        _ => ("item_", false),
    };
    let new_id = || id(prefix, response, &format!("in{index}")).into();
    fields.entry("id").or_insert_with(new_id);
    if has_status {
        fields.entry("status").or_insert_with(|| "completed".into());
    }
    let is_answer = fields.get("role").is_some_and(|role| role == "assistant");
    if prefix == "msg_"
        && let Some(content) = fields.get_mut("content")
        && let Some(text) = content.as_str()
    {
        *content = match is_answer {
            true => json!([{ "type": "output_text", "text": text, "annotations": [] }]),
            false => json!([{ "type": "input_text", "text": text }]),
        };
    }
}

/// Which of a response's input items to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) limit: Option<i64>,
    pub(crate) order: Option<String>,
    /// The id of the item before the first one listed.
    pub(crate) after: Option<String>,
}

/// Answer of `GET /v1/responses/{id}/input_items`.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct ItemList {
    /// `list`
    object: &'static str,
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
    #[schema(value_type = Option<String>)]
    first_id: Value,
    #[schema(value_type = Option<String>)]
    last_id: Value,
    has_more: bool,
}

/// Items on a page where the request does not say.
const PAGE_DEFAULT: i64 = 20;

impl ItemList {
    pub(crate) fn new(kept: &Kept, page: Page) -> Result<Self, ApiError> {
        let limit = limits::integer("limit", page.limit, 1, limits::ITEMS_PAGE_MAX)?;
        let limit = usize::try_from(limit.unwrap_or(PAGE_DEFAULT)).unwrap_or(1);
        let order = page.order.as_deref().unwrap_or("desc");
        let mut data = input_of(kept);
        if limits::word("order", order, &["asc", "desc"])? == "desc" {
            data.reverse();
        }
        if let Some(after) = page.after {
            let place = data.iter().position(|item| item["id"] == *after);
            let place = place.ok_or_else(|| {
                let rule = "the id of one of this response's input items";
                ApiError::invalid("after", &quoted(&after), rule)
            })?;
            data.drain(..=place);
        }
        let has_more = data.len() > limit;
        data.truncate(limit);
        let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
        Ok(Self {
            object: "list",
            first_id: id(data.first()),
            last_id: id(data.last()),
            data,
            has_more,
        })
    }
}
