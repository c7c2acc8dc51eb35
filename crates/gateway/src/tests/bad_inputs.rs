//! Requests that must be refused, with the field at fault and the limit in words.

use serde_json::{Value, json};

use super::scripted::{Scripted, post};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const EMBED: &str = "/v1/embeddings";

struct Case {
    path: &'static str,
    body: String,
    param: &'static str,
    /// Must be in the message.
    says: &'static [&'static str],
}

/// A chat request with one field added or replaced.
fn chat(field: &str, value: Value, param: &'static str, says: &'static [&'static str]) -> Case {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    body[field] = value;
    case(CHAT, body, param, says)
}

fn message(value: Value, param: &'static str, says: &'static [&'static str]) -> Case {
    case(CHAT, json!({ "messages": [value] }), param, says)
}

fn case(
    path: &'static str,
    body: Value,
    param: &'static str,
    says: &'static [&'static str],
) -> Case {
    let body = body.to_string();
    Case {
        path,
        body,
        param,
        says,
    }
}

fn text(field: &str, value: Value, param: &'static str, says: &'static [&'static str]) -> Case {
    let mut body = json!({ "prompt": "Hi" });
    body[field] = value;
    case(TEXT, body, param, says)
}

fn tool(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name } })
}

fn numbers() -> Vec<Case> {
    vec![
        chat(
            "temperature",
            json!(2.5),
            "temperature",
            &["2.5", "from 0 to 2"],
        ),
        chat(
            "temperature",
            json!(-0.1),
            "temperature",
            &["-0.1", "from 0 to 2"],
        ),
        chat(
            "temperature",
            json!("hot"),
            "temperature",
            &["\"hot\"", "f64"],
        ),
        chat("top_p", json!(1.01), "top_p", &["1.01", "from 0 to 1"]),
        chat("top_p", json!(-1), "top_p", &["-1", "from 0 to 1"]),
        chat("min_p", json!(2), "min_p", &["2", "from 0 to 1"]),
        chat("typical_p", json!(7), "typical_p", &["7", "from 0 to 1"]),
        chat("top_k", json!(-2), "top_k", &["-2", "from -1"]),
        chat("top_k", json!(1.5), "top_k", &["1.5", "i64"]),
        chat(
            "repeat_penalty",
            json!(0),
            "repeat_penalty",
            &["0", "0.01 to 10"],
        ),
        chat(
            "repetition_penalty",
            json!(11),
            "repeat_penalty",
            &["11", "0.01 to 10"],
        ),
        chat(
            "repeat_last_n",
            json!(-2),
            "repeat_last_n",
            &["-2", "from -1"],
        ),
        chat(
            "presence_penalty",
            json!(2.1),
            "presence_penalty",
            &["2.1", "-2 to 2"],
        ),
        chat(
            "frequency_penalty",
            json!(-3),
            "frequency_penalty",
            &["-3", "-2 to 2"],
        ),
        chat(
            "dry_multiplier",
            json!(-1),
            "dry_multiplier",
            &["-1", "0 to 10"],
        ),
        chat("dry_base", json!(99), "dry_base", &["99", "1 to 10"]),
        chat(
            "dry_allowed_length",
            json!(-1),
            "dry_allowed_length",
            &["-1", "from 0"],
        ),
        chat(
            "dry_penalty_last_n",
            json!(-5),
            "dry_penalty_last_n",
            &["-5", "from -1"],
        ),
        chat("seed", json!(1.5), "seed", &["1.5", "whole number"]),
        chat("n", json!(0), "n", &["0", "1 to 16"]),
        chat("n", json!(17), "n", &["17", "1 to 16"]),
        chat("max_tokens", json!(0), "max_tokens", &["0", "from 1"]),
        chat("max_tokens", json!(-5), "max_tokens", &["-5", "from 1"]),
        chat(
            "max_completion_tokens",
            json!(0),
            "max_completion_tokens",
            &["0", "from 1"],
        ),
        chat(
            "max_tokens",
            json!(3_000_000_000_i64),
            "max_tokens",
            &["3000000000", "2147483647"],
        ),
        chat(
            "top_logprobs",
            json!(3),
            "top_logprobs",
            &["3", "logprobs is true"],
        ),
        chat(
            "top_logprobs",
            json!(21),
            "top_logprobs",
            &["21", "0 to 20"],
        ),
        chat("logprobs", json!(5), "logprobs", &["5", "boolean"]),
        chat(
            "logit_bias",
            json!({ "cat": 1 }),
            "logit_bias",
            &["`cat`", "token ids"],
        ),
        chat(
            "logit_bias",
            json!({ "-1": 1 }),
            "logit_bias",
            &["`-1`", "token ids"],
        ),
        chat(
            "logit_bias",
            json!({ "5": 101 }),
            "logit_bias.5",
            &["101", "-100 to 100"],
        ),
        chat(
            "logit_bias",
            json!({ "5": "x" }),
            "logit_bias.5",
            &["\"x\"", "f64"],
        ),
        chat("stream", json!("yes"), "stream", &["\"yes\"", "boolean"]),
    ]
}

fn lists() -> Vec<Case> {
    let many_biases: serde_json::Map<_, _> =
        (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    let many_tools: Vec<_> = (0..513).map(|id| tool(&format!("t{id}"))).collect();
    let many_messages = vec![json!({ "role": "user", "content": "x" }); 4097];
    vec![
        chat("stop", json!(""), "stop[0]", &["empty", "1 character"]),
        chat("stop", json!(["a", ""]), "stop[1]", &["empty"]),
        chat("stop", json!(vec!["a"; 17]), "stop", &["17", "16"]),
        chat("stop", json!("x".repeat(513)), "stop[0]", &["513", "512"]),
        chat("stop", json!(5), "stop", &["5", "string or an array"]),
        chat("stop", json!([1]), "stop[0]", &["1", "string"]),
        chat(
            "logit_bias",
            Value::Object(many_biases),
            "logit_bias",
            &["1025", "1024"],
        ),
        chat(
            "dry_sequence_breakers",
            json!(vec!["a"; 17]),
            "dry_sequence_breakers",
            &["17", "16"],
        ),
        chat(
            "dry_sequence_breakers",
            json!(["x".repeat(65)]),
            "dry_sequence_breakers[0]",
            &["65", "64"],
        ),
        chat("messages", json!([]), "messages", &["empty", "at least 1"]),
        chat(
            "messages",
            Value::Array(many_messages),
            "messages",
            &["4097", "4096"],
        ),
        chat("messages", json!("Hi"), "messages", &["\"Hi\"", "sequence"]),
        case(CHAT, json!({}), "messages", &["missing", "at least 1"]),
        chat("tools", Value::Array(many_tools), "tools", &["513", "512"]),
    ]
}

fn messages() -> Vec<Case> {
    let shown = |url: Value| json!([{ "type": "text", "text": "a" }, { "type": "image_url", "image_url": url }]);
    let of_user = |url: Value| json!({ "role": "user", "content": shown(url) });
    let audio = json!([{ "type": "input_audio", "input_audio": {} }]);
    let call = |call: Value| json!({ "role": "assistant", "tool_calls": [call] });
    vec![
        message(
            json!({ "content": "x" }),
            "messages[0].role",
            &["missing", "assistant"],
        ),
        message(
            json!({ "role": "bot", "content": "x" }),
            "messages[0].role",
            &["`bot`", "user"],
        ),
        message(
            json!({ "role": "function", "content": "x" }),
            "messages[0].role",
            &["function", "tool"],
        ),
        message(
            json!({ "role": "user" }),
            "messages[0].content",
            &["missing"],
        ),
        message(
            json!({ "role": "user", "content": null }),
            "messages[0].content",
            &["missing"],
        ),
        message(
            json!({ "role": "user", "content": 5 }),
            "messages[0].content",
            &["5", "content parts"],
        ),
        message(
            of_user(json!({})),
            "messages[0].content[1].image_url.url",
            &["missing"],
        ),
        message(
            of_user(json!(null)),
            "messages[0].content[1].image_url",
            &["missing"],
        ),
        message(
            of_user(json!("file:///etc/passwd")),
            "messages[0].content[1].image_url.url",
            &["`file:///etc/passwd`", "http(s)", "data:"],
        ),
        message(
            of_user(json!({ "url": format!("https://a/{}", "x".repeat(8192)) })),
            "messages[0].content[1].image_url.url",
            &["8202 bytes", "8192"],
        ),
        message(
            of_user(json!({ "url": "https://a/b", "detail": "most" })),
            "detail",
            &["`most`", "auto"],
        ),
        message(
            json!({ "role": "system", "content": shown(json!("https://a/b")) }),
            "messages[0].content[1]",
            &["image", "messages of the user"],
        ),
        message(
            json!({ "role": "user", "content": audio }),
            "messages[0].content[0]",
            &["`input_audio`", "text and images"],
        ),
        message(
            json!({ "role": "user", "content": [{ "type": "text" }] }),
            "messages[0].content[0].text",
            &["missing"],
        ),
        message(
            json!({ "role": "user", "content": [{ "text": "x" }] }),
            "messages[0].content[0].type",
            &["missing"],
        ),
        message(
            json!({ "role": "user", "content": "x", "tool_calls": [{ "function": { "name": "f" } }] }),
            "messages[0].tool_calls",
            &["assistant"],
        ),
        message(
            json!({ "role": "assistant", "function_call": {} }),
            "messages[0].function_call",
            &["tool_calls"],
        ),
        message(
            call(json!({})),
            "messages[0].tool_calls[0].function",
            &["missing"],
        ),
        message(
            call(json!({ "function": {} })),
            "messages[0].tool_calls[0].function.name",
            &["missing"],
        ),
        message(
            call(json!({ "type": "custom" })),
            "messages[0].tool_calls[0].type",
            &["`custom`", "`function`"],
        ),
        message(
            call(json!({ "function": { "name": "f", "arguments": 5 } })),
            "messages[0].tool_calls[0].function.arguments",
            &["`5`", "JSON text"],
        ),
    ]
}

fn tools_and_formats() -> Vec<Case> {
    let named = json!({ "type": "function", "function": { "name": "g" } });
    let schema = |value: Value| json!({ "type": "json_schema", "json_schema": value });
    vec![
        chat(
            "tools",
            json!([{ "type": "function" }]),
            "tools[0].function",
            &["missing"],
        ),
        chat(
            "tools",
            json!([{}]),
            "tools[0].type",
            &["missing", "`function`"],
        ),
        chat(
            "tools",
            json!([{ "type": "function", "function": {} }]),
            "tools[0].function.name",
            &["missing"],
        ),
        chat(
            "tools",
            json!([tool("")]),
            "tools[0].function.name",
            &["``", "white space"],
        ),
        chat(
            "tools",
            json!([tool("a b")]),
            "tools[0].function.name",
            &["`a b`", "white space"],
        ),
        chat(
            "tools",
            json!([tool(&"x".repeat(129))]),
            "tools[0].function.name",
            &["129", "128"],
        ),
        chat(
            "tools",
            json!([tool("f"), tool("f")]),
            "tools[1].function.name",
            &["`f`", "unique"],
        ),
        chat(
            "tools",
            json!([{ "type": "function", "function": { "name": "f", "parameters": [] } }]),
            "tools[0].function.parameters",
            &["`[]`", "object"],
        ),
        chat(
            "tool_choice",
            json!("required"),
            "tool_choice",
            &["`required`", "no tools"],
        ),
        chat(
            "tool_choice",
            json!("any"),
            "tool_choice",
            &["any", "required"],
        ),
        chat(
            "tool_choice",
            json!(5),
            "tool_choice",
            &["`5`", "none, auto"],
        ),
        chat(
            "tool_choice",
            named,
            "tool_choice.function.name",
            &["`g`", "no tools"],
        ),
        chat(
            "tool_choice",
            json!({ "type": "function" }),
            "tool_choice.function.name",
            &["missing"],
        ),
        chat(
            "tool_choice",
            json!({ "type": "allowed_tools" }),
            "tool_choice.allowed_tools.tools",
            &["missing"],
        ),
        chat(
            "response_format",
            json!({}),
            "response_format.type",
            &["missing", "json_schema"],
        ),
        chat(
            "response_format",
            json!({ "type": "xml" }),
            "response_format.type",
            &["`xml`", "regex"],
        ),
        chat(
            "response_format",
            json!({ "type": "json_schema" }),
            "response_format.json_schema",
            &["missing"],
        ),
        chat(
            "response_format",
            schema(json!({ "name": "x" })),
            "response_format.json_schema.schema",
            &["missing"],
        ),
        chat(
            "response_format",
            schema(json!({ "schema": 5 })),
            "response_format.json_schema.schema",
            &["`5`", "object"],
        ),
        chat(
            "response_format",
            schema(json!(true)),
            "response_format.json_schema",
            &["`true`", "schema"],
        ),
        chat(
            "response_format",
            json!({ "type": "regex" }),
            "response_format.pattern",
            &["missing"],
        ),
        chat(
            "response_format",
            json!({ "type": "lark" }),
            "response_format.grammar",
            &["missing"],
        ),
        chat(
            "json_schema",
            json!("x"),
            "json_schema",
            &["\"x\"", "object"],
        ),
        chat(
            "grammar",
            json!("x".repeat(600_000)),
            "grammar",
            &["600000", "262144"],
        ),
        chat(
            "reasoning_effort",
            json!("huge"),
            "reasoning_effort",
            &["`huge`", "medium"],
        ),
        chat(
            "reasoning",
            json!({ "budget_tokens": -1 }),
            "reasoning.budget_tokens",
            &["-1", "from 0"],
        ),
        chat(
            "reasoning",
            json!({ "enabled": true, "effort": "none" }),
            "reasoning.effort",
            &["true", "`none`"],
        ),
        chat(
            "chat_template_kwargs",
            json!([]),
            "chat_template_kwargs",
            &["sequence", "map"],
        ),
        chat(
            "speculation",
            json!(true),
            "speculation",
            &["`true`", "false"],
        ),
        chat(
            "speculation",
            json!({}),
            "speculation.draft_tokens_max",
            &["missing", "0 to 64"],
        ),
        chat(
            "speculation",
            json!({ "draft_tokens_max": 65 }),
            "speculation.draft_tokens_max",
            &["65", "0 to 64"],
        ),
        chat(
            "speculation",
            json!({ "draft_tokens_max": 8, "ngram": 0 }),
            "speculation.ngram",
            &["0", "1 to 16"],
        ),
        chat(
            "modalities",
            json!(["text", "audio"]),
            "modalities[1]",
            &["`audio`", "text only"],
        ),
        chat("functions", json!([]), "functions", &["tools"]),
        chat(
            "function_call",
            json!("auto"),
            "function_call",
            &["tool_choice"],
        ),
        chat("model", json!("gpt-4o"), "model", &["`gpt-4o`", "tiny"]),
        chat("model", json!(5), "model", &["5", "string"]),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case(TEXT, json!({}), "prompt", &["missing"]),
        text("prompt", json!([]), "prompt", &["empty", "at least 1"]),
        text(
            "prompt",
            json!([1, "a"]),
            "prompt[1]",
            &["another type", "token id"],
        ),
        text(
            "prompt",
            json!(["a", 1]),
            "prompt[1]",
            &["another type", "string"],
        ),
        text("prompt", json!([[]]), "prompt[0]", &["empty"]),
        text("prompt", json!([-1]), "prompt[0]", &["-1", "token id"]),
        text(
            "prompt",
            json!([5_000_000_000_i64]),
            "prompt[0]",
            &["5000000000"],
        ),
        text("prompt", json!(vec!["x"; 257]), "prompt", &["257", "256"]),
        text("suffix", json!("end"), "suffix", &["not supported"]),
        text("best_of", json!(3), "best_of", &["3", "n"]),
        text("logprobs", json!(21), "logprobs", &["21", "0 to 20"]),
        text("max_tokens", json!(0), "max_tokens", &["0", "from 1"]),
        case(EMBED, json!({}), "input", &["missing"]),
        case(EMBED, json!({ "input": "" }), "input", &["empty"]),
        case(
            EMBED,
            json!({ "input": [] }),
            "input",
            &["empty", "at least 1"],
        ),
        case(EMBED, json!({ "input": ["a", ""] }), "input[1]", &["empty"]),
        case(
            EMBED,
            json!({ "input": vec!["x"; 2049] }),
            "input",
            &["2049", "2048"],
        ),
        case(
            EMBED,
            json!({ "input": "a", "dimensions": 256 }),
            "dimensions",
            &["256", "3"],
        ),
        case(
            EMBED,
            json!({ "input": "a", "encoding_format": "int8" }),
            "encoding_format",
            &["`int8`", "base64"],
        ),
        case("/tokenize", json!({}), "content", &["missing"]),
        case("/detokenize", json!({}), "tokens", &["missing"]),
        case(
            "/detokenize",
            json!({ "tokens": [-4] }),
            "tokens[0]",
            &["-4"],
        ),
        case("/admin/models/load", json!({}), "path", &["missing"]),
        case(
            "/admin/models/load",
            json!({ "path": "a", "contxt": 5 }),
            "contxt",
            &["contxt", "context"],
        ),
        case(
            "/admin/models/load",
            json!({ "path": "a", "kv_type_k": "q9" }),
            "kv_type_k",
            &["q9", "q8_0"],
        ),
        case(
            "/admin/models/load",
            json!({ "path": "a", "kv_plan": "k[3]=q9" }),
            "kv_plan",
            &["k[3]=q9", "`q9` does not exist", "q8_0"],
        ),
        case(
            "/admin/models/load",
            json!({ "path": "a", "model": "two\nlines" }),
            "model",
            &["control characters"],
        ),
        case(
            "/admin/models/load",
            json!({ "path": "a", "model": "x".repeat(257) }),
            "model",
            &["257 bytes", "256"],
        ),
        case("/admin/models/unload", json!({}), "model", &["missing"]),
        case(
            "/admin/models/unload",
            json!({ "model": "x" }),
            "model",
            &["`x`", "tiny"],
        ),
    ]
}

#[tokio::test]
async fn each_names_field_value_and_limit() {
    let groups = [
        numbers(),
        lists(),
        messages(),
        tools_and_formats(),
        others(),
    ];
    let cases: Vec<_> = groups.into_iter().flatten().collect();
    assert!(cases.len() >= 60);
    for Case {
        path,
        body,
        param,
        says,
    } in cases
    {
        let shown = &body[..body.len().min(120)];
        let backend = Scripted::idle();
        let reply = post(&backend, path, body.clone()).await;
        assert!(
            reply.status.is_client_error(),
            "{path} {shown}: {}",
            reply.status
        );
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{path} {shown}: {error}");
        let message = error["message"].as_str().unwrap();
        for words in says {
            assert!(
                message.contains(words),
                "{path} {shown}: no `{words}` in: {message}"
            );
        }
        assert!(error["code"].is_string() && error["type"].is_string());
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert!(
            backend.jobs.lock().unwrap().is_empty(),
            "{shown} reached the backend"
        );
    }
}

#[tokio::test]
async fn broken_json_names_the_place() {
    let deep = format!(r#"{{"messages": {}1{}}}"#, "[".repeat(120), "]".repeat(120));
    let cases: [(&[u8], &str, &str); 9] = [
        (b"", "invalid_json", "line 1 column 0"),
        (b"hello", "invalid_json", "line 1 column 1"),
        (b"[1]", "invalid_json", "no object"),
        (b"{\"n\": 1,\n \"messages\": [}", "invalid_json", "line 2"),
        (
            b"{\"temperature\": NaN}",
            "invalid_json",
            "line 1 column 17",
        ),
        (b"{\"temperature\": 1e999}", "invalid_json", "out of range"),
        (b"{\"n\": 1} x", "invalid_json", "trailing"),
        (b"{\"a\": \"\xff\"}", "invalid_utf8", "byte 7"),
        (
            deep.as_bytes(),
            "limit_exceeded",
            "121 levels of nesting; the limit is 100",
        ),
    ];
    for (body, code, says) in cases {
        let reply = post(&Scripted::idle(), CHAT, body.to_vec()).await;
        assert_eq!(reply.status, 400);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
}
