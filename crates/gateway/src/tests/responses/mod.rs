//! The Responses dialect.

mod bad_inputs;
mod keeping;
mod properties;
mod transcripts;
mod translation;

use serde_json::{Value, json};

use super::scripted::Reply;

const PATH: &str = "/v1/responses";

/// A request with the fields of `extra`.
fn request(extra: Value) -> String {
    let mut body = json!({ "input": "Hi" });
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    body.to_string()
}

/// The events of a stream, which must be one as clients need it: names and types agree,
/// numbers count up, items open and close one after the other, deltas add up to what is
/// done, and the last event alone tells the end, with all items in it. Only a call that
/// a failure cut off is never done.
fn checked_events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let frames = reply.body.split_terminator("\n\n");
    let frames = frames.filter(|frame| !frame.starts_with(':'));
    let mut events: Vec<Value> = Vec::new();
    for (number, frame) in frames.enumerate() {
        let (name, data) = frame.split_once('\n').unwrap();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), event["type"].as_str());
        assert_eq!(event["sequence_number"], number);
        events.push(event);
    }
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events[1]["type"], "response.in_progress");
    assert_eq!(events[0]["response"], events[1]["response"]);
    let (last, middle) = events[2..].split_last().unwrap();
    let ends = ["completed", "incomplete", "failed"];
    let status = last["response"]["status"].as_str().unwrap();
    assert!(ends.contains(&status));
    assert_eq!(last["type"], format!("response.{status}"));
    assert_eq!(last["response"]["id"], events[0]["response"]["id"]);
    let mut items: Vec<Open> = Vec::new();
    for event in middle {
        match event["type"].as_str().unwrap() {
            "error" => assert_eq!(status, "failed"),
            "response.output_item.added" => {
                assert!(items.last().is_none_or(|item| item.done.is_some()));
                assert_eq!(event["output_index"], items.len());
                items.push(Open::new(event));
            }
            _ => {
                let index = usize::try_from(event["output_index"].as_u64().unwrap()).unwrap();
                items[index].take(event);
            }
        }
    }
    let output = last["response"]["output"].as_array().unwrap();
    assert_eq!(output.len(), items.len());
    for (item, shown) in items.iter().zip(output) {
        match &item.done {
            Some(done) => assert_eq!(done, shown),
            None => assert_eq!(
                (status, &shown["type"]),
                ("failed", &json!("function_call"))
            ),
        }
    }
    events
}

/// An item of a stream as its client sees it.
struct Open {
    id: Value,
    deltas: String,
    text: Option<Value>,
    part: Option<Value>,
    done: Option<Value>,
}

impl Open {
    fn new(added: &Value) -> Self {
        assert_eq!(added["item"]["status"], "in_progress");
        Self {
            id: added["item"]["id"].clone(),
            deltas: String::new(),
            text: None,
            part: None,
            done: None,
        }
    }

    fn take(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap();
        assert!(self.done.is_none(), "{kind} after the item was done");
        if kind == "response.output_item.done" {
            let item = &event["item"];
            assert_eq!(item["id"], self.id);
            match item["type"].as_str().unwrap() {
                "function_call" => assert_eq!(item["arguments"], self.deltas),
                _ => assert_eq!(item["content"], json!([self.part])),
            }
            self.done = Some(item.clone());
            return;
        }
        assert_eq!(event["item_id"], self.id);
        if let Some(delta) = event["delta"].as_str() {
            assert!(self.text.is_none(), "a delta after the text was done");
            self.deltas.push_str(delta);
        } else if kind == "response.content_part.done" {
            assert_eq!(Some(&event["part"]["text"]), self.text.as_ref());
            self.part = Some(event["part"].clone());
        } else if kind == "response.content_part.added" {
            assert_eq!(event["part"]["text"], "");
        } else {
            let field = match kind {
                "response.function_call_arguments.done" => "arguments",
                _ => "text",
            };
            assert_eq!(event[field], self.deltas, "{kind}");
            self.text = Some(event[field].clone());
        }
    }
}
