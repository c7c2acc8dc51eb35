//! Requests that must be refused, with the field at fault and the limit in words.

use serde_json::{Value, json};

use super::super::scripted::{Scripted, post};
use super::{PATH, request};

/// The fields of a request, the field at fault, and what the message must say.
type Case = (Value, &'static str, &'static [&'static str]);

fn case(fields: Value, param: &'static str, says: &'static [&'static str]) -> Case {
    (fields, param, says)
}

fn input(item: Value, param: &'static str, says: &'static [&'static str]) -> Case {
    case(json!({ "input": [item] }), param, says)
}

fn items() -> Vec<Case> {
    let said = |content: Value| json!({ "role": "user", "content": content });
    let call = |field: &str, value: Value| {
        let mut item =
            json!({ "type": "function_call", "call_id": "a", "name": "f", "arguments": "{}" });
        item[field] = value;
        item
    };
    let output =
        |value: Value| json!({ "type": "function_call_output", "call_id": "a", "output": value });
    vec![
        case(
            json!({ "input": null }),
            "input",
            &["missing", "string or an array"],
        ),
        case(
            json!({ "input": [] }),
            "input",
            &["empty", "at least 1 item"],
        ),
        case(
            json!({ "input": 5 }),
            "input",
            &["`5`", "string or an array"],
        ),
        case(
            json!({ "input": vec![said(json!("x")); 4097] }),
            "input",
            &["4097", "4096"],
        ),
        input(json!("x"), "input[0]", &["\"x\"", "object"]),
        input(json!({}), "input[0].type", &["missing", "`message`"]),
        input(json!({ "type": 5 }), "input[0].type", &["`5`", "string"]),
        input(
            json!({ "type": "message", "content": "x" }),
            "input[0].role",
            &["missing", "user"],
        ),
        input(
            json!({ "role": "tool", "content": "x" }),
            "input[0].role",
            &["`tool`", "developer"],
        ),
        input(
            json!({ "role": "user" }),
            "input[0].content",
            &["missing", "array of parts"],
        ),
        input(
            said(json!(5)),
            "input[0].content",
            &["`5`", "array of parts"],
        ),
        input(
            said(json!(["x"])),
            "input[0].content[0]",
            &["\"x\"", "object"],
        ),
        input(
            said(json!([{ "text": "x" }])),
            "input[0].content[0].type",
            &["missing"],
        ),
        input(
            said(json!([{ "type": "input_text" }])),
            "input[0].content[0].text",
            &["missing"],
        ),
        input(
            said(
                json!([{ "type": "input_text", "text": "a" }, { "type": "input_image", "image_url": "data:" }]),
            ),
            "input[0].content[1].image_url",
            &["`data:`", "http(s)"],
        ),
        input(
            said(json!([{ "type": "input_image", "file_id": "f" }])),
            "input[0].content[0].image_url",
            &["missing", "not kept here"],
        ),
        input(
            json!({ "role": "assistant", "content": [{ "type": "input_image", "image_url": "https://a" }] }),
            "input[0].content",
            &["messages of the user"],
        ),
        input(
            said(json!([{ "type": "input_file", "file_id": "f" }])),
            "input[0].content[0]",
            &["`input_file`", "text and images"],
        ),
        input(
            said(json!(vec![json!({ "type": "text", "text": "" }); 1025])),
            "input[0].content",
            &["1025", "1024"],
        ),
        input(call("name", json!(null)), "input[0].name", &["missing"]),
        input(
            call("call_id", json!(null)),
            "input[0].call_id",
            &["missing"],
        ),
        input(
            call("arguments", json!({})),
            "input[0].arguments",
            &["`{}`", "string"],
        ),
        input(output(json!(null)), "input[0].output", &["missing"]),
        input(
            output(json!([{ "type": "input_image" }])),
            "input[0].output[0].image_url",
            &["missing"],
        ),
        input(
            json!({ "type": "custom_tool_call", "call_id": "a", "name": "f" }),
            "input[0].input",
            &["missing"],
        ),
        input(
            json!({ "type": "reasoning", "content": [{ "type": "x" }] }),
            "input[0].content[0]",
            &["`x`", "text and images"],
        ),
        input(
            json!({ "type": "reasoning", "summary": [] }),
            "input",
            &["without a message"],
        ),
        input(
            json!({ "type": "item_reference" }),
            "input[0].id",
            &["missing"],
        ),
        input(
            json!({ "type": "item_reference", "id": "msg_abc_0" }),
            "input[0].id",
            &["`msg_abc_0`", "kept response"],
        ),
    ]
}

fn tools() -> Vec<Case> {
    let tool = |name: &str| json!({ "type": "function", "name": name });
    let offer = |tools: Value| json!({ "tools": tools });
    let choose = |choice: Value| json!({ "tools": [{ "type": "function", "name": "f" }], "tool_choice": choice });
    let many: Vec<_> = (0..513).map(|id| tool(&format!("t{id}"))).collect();
    let space = json!({ "type": "namespace", "name": "n", "tools": [tool("a"), tool("a")] });
    vec![
        case(
            offer(json!([{}])),
            "tools[0].type",
            &["missing", "`function`"],
        ),
        case(
            offer(json!([{ "type": "function" }])),
            "tools[0].name",
            &["missing"],
        ),
        case(
            offer(json!([tool("a b")])),
            "tools[0].name",
            &["`a b`", "white space"],
        ),
        case(
            offer(json!([tool(&"x".repeat(129))])),
            "tools[0].name",
            &["129", "128"],
        ),
        case(
            offer(json!([tool("f"), tool("f")])),
            "tools[1].name",
            &["`f`", "unique"],
        ),
        case(
            offer(json!([{ "type": "function", "name": "f", "parameters": [] }])),
            "tools[0].parameters",
            &["`[]`", "object"],
        ),
        case(
            offer(json!([{ "type": "namespace" }])),
            "tools[0].name",
            &["missing"],
        ),
        case(
            offer(json!([space])),
            "tools[0].tools[1].name",
            &["`n__a`", "unique"],
        ),
        case(offer(Value::Array(many)), "tools", &["513", "512"]),
        case(
            json!({ "tool_choice": "required" }),
            "tool_choice",
            &["`required`", "no tools"],
        ),
        case(
            choose(json!("any")),
            "tool_choice",
            &["any", "allowed_tools"],
        ),
        case(choose(json!(5)), "tool_choice", &["`5`", "none, auto"]),
        case(
            choose(json!({ "type": "function" })),
            "tool_choice.name",
            &["missing"],
        ),
        case(
            choose(tool("g")),
            "tool_choice.name",
            &["`g`", "one of the tools: f"],
        ),
        case(
            choose(json!({ "type": "web_search" })),
            "tool_choice.type",
            &["`web_search`", "functions"],
        ),
        case(
            choose(json!({ "type": "allowed_tools" })),
            "tool_choice.tools",
            &["missing"],
        ),
        case(
            choose(json!({ "type": "allowed_tools", "mode": "x", "tools": [] })),
            "tool_choice.mode",
            &["`x`", "required"],
        ),
        case(
            choose(json!({ "type": "allowed_tools", "tools": [tool("g")] })),
            "tool_choice.tools[0].name",
            &["`g`", "f"],
        ),
    ]
}

fn fields() -> Vec<Case> {
    let format = |format: Value| json!({ "text": { "format": format } });
    let entries: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    vec![
        case(json!({ "model": "gpt-5" }), "model", &["`gpt-5`", "tiny"]),
        case(json!({ "messages": [] }), "messages", &["use input"]),
        case(
            json!({ "max_tokens": 5 }),
            "max_tokens",
            &["max_output_tokens"],
        ),
        case(
            json!({ "max_completion_tokens": 5 }),
            "max_completion_tokens",
            &["max_output_tokens"],
        ),
        case(
            json!({ "response_format": {} }),
            "response_format",
            &["text.format"],
        ),
        case(
            json!({ "reasoning_effort": "low" }),
            "reasoning_effort",
            &["reasoning.effort"],
        ),
        case(
            json!({ "logprobs": true }),
            "logprobs",
            &["message.output_text.logprobs"],
        ),
        case(json!({ "n": 2 }), "n", &["2", "one answer"]),
        case(
            json!({ "background": true }),
            "background",
            &["true", "waits"],
        ),
        case(
            json!({ "conversation": "conv_1" }),
            "conversation",
            &["previous_response_id"],
        ),
        case(json!({ "prompt": { "id": "p" } }), "prompt", &["templates"]),
        case(
            json!({ "max_output_tokens": 0 }),
            "max_output_tokens",
            &["0", "from 1"],
        ),
        case(
            json!({ "max_output_token": 5 }),
            "max_output_token",
            &["`max_output_tokens`"],
        ),
        case(
            json!({ "temperature": 2.5 }),
            "temperature",
            &["2.5", "from 0 to 2"],
        ),
        case(json!({ "top_p": -1 }), "top_p", &["-1", "from 0 to 1"]),
        case(
            json!({ "top_logprobs": 21 }),
            "top_logprobs",
            &["21", "0 to 20"],
        ),
        case(json!({ "stop": "" }), "stop[0]", &["empty"]),
        case(
            json!({ "truncation": "middle" }),
            "truncation",
            &["`middle`", "disabled"],
        ),
        case(
            json!({ "reasoning": { "effort": "huge" } }),
            "reasoning.effort",
            &["`huge`", "medium"],
        ),
        case(
            json!({ "reasoning": { "budget_tokens": -1 } }),
            "reasoning.budget_tokens",
            &["-1"],
        ),
        case(
            format(json!({})),
            "text.format.type",
            &["missing", "json_schema"],
        ),
        case(
            format(json!({ "type": "xml" })),
            "text.format.type",
            &["`xml`", "json_object"],
        ),
        case(
            format(json!({ "type": "json_schema" })),
            "text.format.schema",
            &["missing"],
        ),
        case(
            format(json!({ "type": "json_schema", "schema": 5 })),
            "text.format.schema",
            &["`5`"],
        ),
        case(
            json!({ "metadata": { "a": 5 } }),
            "metadata.a",
            &["`5`", "string"],
        ),
        case(json!({ "metadata": entries }), "metadata", &["17", "16"]),
        case(
            json!({ "metadata": { "a": "x".repeat(513) } }),
            "metadata.a",
            &["513", "512"],
        ),
        case(
            json!({ "metadata": { ("x".repeat(65)): "a" } }),
            "metadata",
            &["65", "64"],
        ),
        case(json!({ "store": "yes" }), "store", &["\"yes\"", "boolean"]),
        case(
            json!({ "include": "all" }),
            "include",
            &["\"all\"", "sequence"],
        ),
    ]
}

#[tokio::test]
async fn each_names_field_value_and_limit() {
    let cases: Vec<_> = [items(), tools(), fields()].into_iter().flatten().collect();
    assert!(cases.len() >= 70);
    for (fields, param, says) in cases {
        let body = request(fields);
        let shown = &body[..body.len().min(160)];
        let backend = Scripted::idle();
        let reply = post(&backend, PATH, body.clone()).await;
        assert!(reply.status.is_client_error(), "{shown}: {}", reply.status);
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{shown}: {error}");
        let message = error["message"].as_str().unwrap();
        for words in says {
            assert!(
                message.contains(words),
                "{shown}: no `{words}` in: {message}"
            );
        }
        assert!(
            backend.jobs.lock().unwrap().is_empty(),
            "{shown} reached the backend"
        );
    }
}
