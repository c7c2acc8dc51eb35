//! What good requests become.

use proto::{Constraint, Message, Reasoning, Role, SamplingOverrides, ToolCall, ToolChoice};
use serde_json::{Value, json};

use super::super::scripted::{Scripted, hello, post};
use super::{PATH, request};
use crate::body::parse;
use crate::kept::{Bounds, Responses};
use crate::wire::responses::plan::{ResponsePlan, response_plan};

fn plan(extra: Value) -> ResponsePlan {
    let request = parse(request(extra).as_bytes()).unwrap();
    response_plan(request, &Responses::in_memory(Bounds::default())).unwrap()
}

fn messages(input: Value) -> Vec<Message> {
    plan(json!({ "input": input })).job.messages
}

fn said(role: Role, text: &str) -> Message {
    Message {
        role,
        content: Some(text.into()),
        ..Message::default()
    }
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    }
}

#[test]
fn a_text_is_a_message_and_instructions_come_first() {
    let plan = plan(json!({ "input": "Hi", "instructions": "Be brief." }));
    let expected = [said(Role::System, "Be brief."), said(Role::User, "Hi")];
    assert_eq!(plan.job.messages, expected);
}

#[test]
fn every_role_and_form_of_content() {
    let parts =
        json!([{ "type": "input_text", "text": "c" }, { "type": "input_text", "text": "d" }]);
    let answer = json!([{ "type": "output_text", "text": "e", "annotations": [] }, { "type": "refusal", "refusal": "f" }]);
    let input = json!([
        { "role": "system", "content": "a" },
        { "type": "message", "role": "developer", "content": [{ "type": "text", "text": "b" }] },
        { "type": "message", "role": "user", "content": parts },
        { "type": "message", "role": "assistant", "content": answer, "id": "msg_1", "status": "completed" },
    ]);
    let expected = [
        said(Role::System, "a"),
        said(Role::Developer, "b"),
        said(Role::User, "cd"),
        said(Role::Assistant, "ef"),
    ];
    assert_eq!(messages(input), expected);
}

#[test]
fn what_an_assistant_did_in_a_turn_is_one_message() {
    let thought = |text: &str| json!({ "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": text }] });
    let input = json!([
        { "role": "user", "content": "Weather?" },
        thought("Two"),
        { "role": "assistant", "content": "Looking." },
        thought("cities"),
        { "type": "function_call", "call_id": "a", "name": "weather", "arguments": "{\"c\":1}" },
        { "type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "x\"y" },
        { "type": "function_call", "call_id": "c", "name": "find", "namespace": "geo", "arguments": "" },
        { "type": "function_call_output", "call_id": "a", "output": "Sun" },
        { "type": "custom_tool_call_output", "call_id": "b", "output": [{ "type": "input_text", "text": "ok" }] },
        { "role": "assistant", "content": "Sunny." },
        { "role": "assistant", "content": "Bye." },
        thought("and then nothing"),
        { "role": "user", "content": "Thanks" },
    ]);
    let result = |id: &str, text: &str| Message {
        tool_call_id: Some(id.into()),
        ..said(Role::Tool, text)
    };
    let expected = [
        said(Role::User, "Weather?"),
        Message {
            reasoning_content: Some("Two\ncities".into()),
            tool_calls: vec![
                call("a", "weather", "{\"c\":1}"),
                call("b", "patch", r#"{"input":"x\"y"}"#),
                call("c", "geo__find", ""),
            ],
            ..said(Role::Assistant, "Looking.")
        },
        result("a", "Sun"),
        result("b", "ok"),
        // The thought that followed is part of the same turn.
        Message {
            reasoning_content: Some("and then nothing".into()),
            ..said(Role::Assistant, "Sunny.\nBye.")
        },
        said(Role::User, "Thanks"),
    ];
    assert_eq!(messages(input), expected);
}

#[test]
fn thinking_is_its_text_or_else_its_summary() {
    let summary = json!([{ "type": "summary_text", "text": "short" }]);
    let text = json!([{ "type": "reasoning_text", "text": "long" }]);
    let cases = [
        (json!({ "summary": summary, "content": text }), Some("long")),
        (
            json!({ "summary": summary, "content": null }),
            Some("short"),
        ),
        (json!({ "summary": summary, "content": [] }), Some("short")),
        (json!({ "summary": [], "encrypted_content": "gAAA" }), None),
    ];
    for (mut item, thought) in cases {
        item["type"] = json!("reasoning");
        let input = json!([item, { "role": "assistant", "content": "x" }]);
        let turn = &messages(input)[0];
        assert_eq!(turn.reasoning_content.as_deref(), thought, "{item}");
    }
}

#[test]
fn unknown_items_keep_their_text_and_are_warned_of() {
    let plan = plan(json!({ "input": [
        { "type": "local_shell_call", "call_id": "a", "action": { "type": "exec", "command": ["ls"] } },
        { "type": "local_shell_call_output", "call_id": "a", "output": "README.md" },
        { "type": "compaction", "encrypted_content": "gAAA" },
        { "role": "user", "content": "Go on" },
    ] }));
    let expected = [said(Role::User, "README.md"), said(Role::User, "Go on")];
    assert_eq!(plan.job.messages, expected);
    assert_eq!(
        plan.warnings,
        [
            "input[0] has the type `local_shell_call`: it was left out.",
            "input[1] has the type `local_shell_call_output`: its text was given as a message of the user.",
            "input[2] has the type `compaction`: it was left out.",
        ]
    );
}

#[test]
fn functions_are_offered_also_out_of_namespaces() {
    let plan = plan(json!({ "tools": [
        { "type": "function", "name": "f", "description": "d", "parameters": { "type": "object" }, "strict": true },
        { "type": "custom", "name": "apply_patch", "format": { "type": "grammar" } },
        { "type": "namespace", "name": "mcp__fs__", "tools": [{ "type": "function", "name": "read", "parameters": null }] },
        { "type": "namespace", "name": "empty", "tools": [{ "type": "custom", "name": "c" }] },
        { "type": "local_shell" },
    ] }));
    let tools = &plan.job.tools;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["f", "mcp__fs__read"]);
    assert_eq!(tools[0].strict, Some(true));
    assert_eq!(
        plan.namespaces.apart("mcp__fs__read"),
        (Some("mcp__fs__"), "read")
    );
    assert_eq!(plan.namespaces.apart("f"), (None, "f"));
    let kept: Vec<_> = plan
        .echo
        .tools
        .iter()
        .map(|tool| tool.name.as_deref())
        .collect();
    assert_eq!(kept, [Some("f"), Some("mcp__fs__")]);
    let left_out: Vec<_> = plan
        .warnings
        .iter()
        .filter_map(|text| text.split(' ').next())
        .collect();
    assert_eq!(left_out, ["tools[1]", "tools[3].tools[0]", "tools[4]"]);
}

#[test]
fn every_form_of_tool_choice() {
    let tool = |name: &str| json!({ "type": "function", "name": name });
    let space = json!({ "type": "namespace", "name": "n", "tools": [tool("h")] });
    let of = |choice: Value| {
        let plan = plan(json!({ "tools": [tool("f"), tool("g"), space], "tool_choice": choice }));
        let tools = plan.job.tools.iter();
        let names: Vec<_> = tools.map(|tool| tool.name.clone()).collect();
        (plan.job.tool_choice, names.join(","))
    };
    let allowed =
        |mode: &str| json!({ "type": "allowed_tools", "mode": mode, "tools": [tool("g")] });
    let named = |name: &str| ToolChoice::Named(name.into());
    let all = "f,g,n__h";
    let cases = [
        (json!(null), ToolChoice::Auto, all),
        (json!("none"), ToolChoice::None, all),
        (json!("auto"), ToolChoice::Auto, all),
        (json!("required"), ToolChoice::Required, all),
        (tool("f"), named("f"), all),
        (tool("n__h"), named("n__h"), all),
        (
            json!({ "type": "function", "name": "h", "namespace": "n" }),
            named("n__h"),
            all,
        ),
        (allowed("auto"), ToolChoice::Auto, "g"),
        (allowed("required"), ToolChoice::Required, "g"),
    ];
    for (wire, choice, names) in cases {
        assert_eq!(of(wire.clone()), (choice, names.to_owned()), "{wire}");
    }
}

#[test]
fn every_form_of_text() {
    let schema = json!({ "type": "object" });
    let of = |format: Value| {
        plan(json!({ "text": { "format": format, "verbosity": "low" } }))
            .job
            .constraint
    };
    let is_schema = Some(Constraint::JsonSchema {
        schema: schema.clone(),
    });
    assert_eq!(of(json!({ "type": "text" })), None);
    assert_eq!(of(json!(null)), None);
    assert_eq!(
        of(json!({ "type": "json_object" })),
        Some(Constraint::JsonObject)
    );
    let wire = json!({ "type": "json_schema", "name": "a", "strict": true, "schema": schema });
    assert_eq!(of(wire), is_schema);
}

#[test]
fn reasoning_is_asked_for_or_not() {
    let of = |value: Value| plan(json!({ "reasoning": value })).job.reasoning;
    let reasoning = |enabled, budget_tokens, effort: Option<&str>| Reasoning {
        enabled,
        budget_tokens,
        effort: effort.map(str::to_owned),
    };
    let cases = [
        (json!(null), reasoning(None, None, None)),
        (
            json!({ "effort": null, "summary": "auto" }),
            reasoning(None, None, None),
        ),
        (
            json!({ "effort": "none" }),
            reasoning(Some(false), None, None),
        ),
        (
            json!({ "effort": "high" }),
            reasoning(Some(true), None, Some("high")),
        ),
        (
            json!({ "budget_tokens": 9 }),
            reasoning(None, Some(9), None),
        ),
    ];
    for (wire, expected) in cases {
        assert_eq!(of(wire.clone()), expected, "{wire}");
    }
}

#[test]
fn numbers_come_through() {
    let plan = plan(json!({
        "max_output_tokens": 7, "temperature": 0.5, "top_p": 0.25, "top_logprobs": 3,
        "parallel_tool_calls": false, "top_k": 5, "min_p": 0.1, "seed": 9, "stop": "END",
        "cache_prompt": false, "chat_template_kwargs": { "a": 1 },
    }));
    let generation = &plan.job.generation;
    assert_eq!(generation.max_tokens, Some(7));
    assert_eq!(generation.logprobs, Some(3));
    assert_eq!(generation.stop, ["END"]);
    assert_eq!(generation.cache_prompt, Some(false));
    let sampling = SamplingOverrides {
        temperature: Some(0.5),
        top_p: Some(0.25),
        top_k: Some(5),
        min_p: Some(0.1),
        seed: Some(9),
        ..SamplingOverrides::default()
    };
    assert_eq!(generation.sampling, sampling);
    assert_eq!(plan.job.parallel_tool_calls, Some(false));
    assert_eq!(plan.job.template_kwargs["a"], 1);
}

#[test]
fn what_sdks_and_agents_send_besides_passes() {
    let plan = plan(json!({
        "store": false, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
        "client_metadata": { "a": "b" }, "service_tier": "auto", "safety_identifier": "s",
        "user": "u", "stream_options": { "include_obfuscation": false }, "background": false,
        "truncation": "disabled", "max_tool_calls": 5, "metadata": null, "tools": null,
        "prompt_cache_retention": "24h", "prompt_cache_options": { "mode": "implicit" },
        "access_programs": {}, "image": {}, "personality": "friendly", "generate": true,
        "conversation": null, "prompt": null, "reasoning": null, "text": null, "n": 1,
        "previous_response_id": null, "temperature": null, "instructions": null,
    }));
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    assert!(!plan.echo.store);
    assert_eq!(plan.echo.max_tool_calls, Some(5));
    assert_eq!(plan.echo.prompt_cache_key.as_deref(), Some("k"));
    assert_eq!(plan.job.generation.sampling, SamplingOverrides::default());
}

#[tokio::test]
async fn what_is_not_done_is_warned_of() {
    let body = request(json!({
        "truncation": "auto", "include": ["x.y"], "moderation": { "model": "m" },
        "context_management": [{ "type": "compaction" }],
    }));
    let reply = post(&Scripted::new(vec![hello()]), PATH, body).await;
    let header = reply.header("x-sextant-warning").unwrap().to_owned();
    let warnings = reply.json()["sextant"]["warnings"].clone();
    let warnings: Vec<String> = serde_json::from_value(warnings).unwrap();
    assert_eq!(warnings.join(" "), header);
    for (warning, name) in warnings.iter().zip([
        "truncation",
        "context_management",
        "moderation",
        "include[0]",
    ]) {
        assert!(warning.starts_with(name), "{warning}");
    }
    assert_eq!(warnings.len(), 4);
}
