//! Items of kept responses: their ids, the form in which they are listed, finding them.

use std::collections::HashMap;

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

/// The id of the response that the item of that id is of.
fn response_of(id: &str) -> Option<String> {
    let (_, rest) = id.split_once('_')?;
    let (stem, _) = rest.rsplit_once('_')?;
    Some(format!("{RESPONSE_PREFIX}{stem}"))
}

/// The items that the references of one request name. Each response is looked up and read
/// once, and each item given once, so a request costs no more than what is kept.
pub(crate) struct References<'a> {
    store: &'a dyn ResponseStore,
    /// The items that were not given yet, by response and by their own id.
    items: HashMap<String, HashMap<String, Value>>,
}

impl<'a> References<'a> {
    pub(crate) fn new(store: &'a dyn ResponseStore) -> Self {
        Self {
            store,
            items: HashMap::new(),
        }
    }

    /// The item of that id; `None`: there is none, or it was given before.
    pub(crate) fn take(&mut self, id: &str) -> Result<Option<Value>, ApiError> {
        let Some(response) = response_of(id) else {
            return Ok(None);
        };
        if !self.items.contains_key(&response) {
            let (given, limit) = (self.items.len() + 1, limits::REFERENCED_RESPONSES_MAX);
            limits::count("input", given, limit, "responses that references name")?;
            // To name an item is not to use all that its response continues.
            let Some(kept) = self.store.peek(&response) else {
                return Ok(None);
            };
            // The first of those with the same id, so the last to be put in.
            let by_id = of(&kept).into_iter().rev().filter_map(|item| {
                let id = item["id"].as_str()?.to_owned();
                Some((id, item))
            });
            self.items.insert(response.clone(), by_id.collect());
        }
        let items = self.items.get_mut(&response);
        Ok(items.and_then(|items| items.remove(id)))
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use router::Reach;

    use super::*;
    use crate::kept::MissingResponse;

    /// Holds responses of two items each under every id, and counts how it is asked.
    #[derive(Default)]
    struct Counting {
        peeks: AtomicUsize,
        uses: AtomicUsize,
    }

    impl ResponseStore for Counting {
        fn put(&self, _: Kept) {}

        fn peek(&self, id: &str) -> Option<Arc<Kept>> {
            self.peeks.fetch_add(1, Ordering::Relaxed);
            let items = ["0", "1"].map(|place| json!({ "id": super::id("msg_", id, place) }));
            Some(Arc::new(Kept {
                id: id.to_owned(),
                previous: None,
                input: b"[]".to_vec(),
                response: json!({ "output": items }).to_string().into_bytes(),
                reach: Reach::Cloud,
                owner: None,
            }))
        }

        fn get(&self, id: &str) -> Option<Arc<Kept>> {
            self.uses.fetch_add(1, Ordering::Relaxed);
            self.peek(id)
        }

        fn chain(&self, id: &str) -> Result<Vec<Arc<Kept>>, MissingResponse> {
            Ok(self.get(id).into_iter().collect())
        }

        fn delete(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn references_read_each_response_once_and_use_none() {
        let store = Counting::default();
        let mut references = References::new(&store);
        for id in ["msg_a_1", "msg_a_0", "msg_b_0"] {
            let item = references.take(id).unwrap().unwrap();
            assert_eq!(item["id"], id);
        }
        for id in ["msg_a_0", "msg_a_2", "msg", "x_y"] {
            assert_eq!(references.take(id).unwrap(), None, "{id}");
        }
        assert_eq!(store.peeks.load(Ordering::Relaxed), 2);
        assert_eq!(store.uses.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn references_name_a_limited_number_of_responses() {
        let store = Counting::default();
        let mut references = References::new(&store);
        let limit = limits::REFERENCED_RESPONSES_MAX;
        for number in 0..limit {
            let item = references.take(&format!("msg_{number}_0")).unwrap();
            assert!(item.is_some());
        }
        let refused = format!("{:?}", references.take("msg_x_0").unwrap_err());
        assert!(refused.contains(&limit.to_string()), "{refused}");
        assert!(references.take("msg_0_1").unwrap().is_some());
    }
}
