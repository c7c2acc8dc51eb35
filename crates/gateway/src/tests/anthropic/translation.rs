//! What good requests become.

use proto::{Constraint, Event, Job, Message, Reasoning, Role, ToolCall, ToolChoice};
use serde_json::{Value, json};

use super::{COUNT, MESSAGES, body};
use crate::body::parse;
use crate::tests::scripted::{Scripted, hello, post};
use crate::wire::anthropic::{MessagesPlan, messages_plan};

fn plan(changes: Value) -> MessagesPlan {
    messages_plan(parse(body(changes).as_bytes()).unwrap()).unwrap()
}

fn messages(turns: Value) -> Vec<Message> {
    plan(json!({ "messages": turns })).job.messages
}

fn said(role: Role, text: &str) -> Message {
    Message {
        role,
        content: Some(text.into()),
        ..Message::default()
    }
}

fn result(id: &str, text: &str) -> Message {
    Message {
        tool_call_id: Some(id.into()),
        ..said(Role::Tool, text)
    }
}

#[test]
fn the_system_prompt_comes_first_and_without_the_attribution() {
    let hi = || said(Role::User, "Hi");
    let text = |text: &str| json!({ "type": "text", "text": text });
    let attribution = "x-anthropic-billing-header: cc_version=2.1.37; cch=fa690;";
    let cases = [
        (
            json!("Be brief."),
            vec![said(Role::System, "Be brief."), hi()],
        ),
        (
            json!([text(attribution), text("You are x."), text("Be brief.")]),
            vec![said(Role::System, "You are x.\nBe brief."), hi()],
        ),
        (
            json!(format!("{attribution}\nYou are x.")),
            vec![said(Role::System, "You are x."), hi()],
        ),
        (json!([text(attribution)]), vec![hi()]),
        (json!(""), vec![hi()]),
        (json!([]), vec![hi()]),
    ];
    for (system, expected) in cases {
        let plan = plan(json!({ "system": system }));
        assert_eq!(plan.job.messages, expected, "{system}");
    }
}

#[test]
fn requests_that_differ_in_the_attribution_alone_have_one_prompt() {
    let job = |cch: &str| {
        let text = format!("x-anthropic-billing-header: cc_version=2.1; cch={cch};");
        plan(json!({ "system": [{ "type": "text", "text": text }] })).job
    };
    assert_eq!(job("fa690"), job("00b1c"));
}

#[test]
fn every_role_and_form_of_content() {
    let turns = json!([
        { "role": "user", "content": [
            { "type": "text", "text": "a", "cache_control": { "type": "ephemeral" } },
            { "type": "document", "title": "T", "context": "C",
              "source": { "type": "text", "media_type": "text/plain", "data": "D" } },
        ] },
        { "role": "system", "content": "s" },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": "hm", "signature": "x" },
            { "type": "redacted_thinking", "data": "y" },
            { "type": "text", "text": "b" },
            { "type": "text", "text": "c" },
        ] },
        { "role": "user", "content": [] },
        { "role": "assistant", "content": "d" },
        { "role": "user", "content": "" },
    ]);
    let thought = Message {
        reasoning_content: Some("hm".into()),
        ..said(Role::Assistant, "bc")
    };
    let expected = [
        said(Role::User, "a\nT\nC\nD"),
        said(Role::System, "s"),
        thought,
        said(Role::User, ""),
        said(Role::Assistant, "d"),
        said(Role::User, ""),
    ];
    assert_eq!(messages(turns), expected);
}

#[test]
fn results_of_tools_become_messages_before_the_words_beside_them() {
    let turns = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": [
            { "type": "tool_use", "id": "t1", "name": "weather", "input": { "city": "Bern" } },
            { "type": "tool_use", "id": "t2", "name": "now", "input": {} },
            { "type": "tool_use", "id": "t3", "name": "now" },
        ] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "t1", "content": "12 C" },
            { "type": "text", "text": "Quick." },
            { "type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": [
                { "type": "text", "text": "no" }, { "type": "text", "text": "clock" },
            ] },
            { "type": "tool_result", "tool_use_id": "t3", "is_error": false },
            { "type": "text", "text": "Please." },
        ] },
    ]);
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    let calls = Message {
        role: Role::Assistant,
        tool_calls: vec![
            call("t1", "weather", "{\"city\":\"Bern\"}"),
            call("t2", "now", "{}"),
            call("t3", "now", "{}"),
        ],
        ..Message::default()
    };
    let expected = [
        said(Role::User, "Weather?"),
        calls,
        result("t1", "12 C"),
        result("t2", "Error: no\nclock"),
        result("t3", ""),
        said(Role::User, "Quick.\nPlease."),
    ];
    assert_eq!(messages(turns), expected);
}

#[test]
fn results_alone_bring_no_message_of_the_user() {
    let turns = json!([
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "1" }] },
    ]);
    assert_eq!(messages(turns), [result("t", "1")]);
}

#[test]
fn sampling_and_limits_come_through() {
    let generation = plan(json!({
        "max_tokens": 7, "stop_sequences": ["a", "b"], "temperature": 0.5, "top_p": 0.25,
        "top_k": 3,
    }))
    .job
    .generation;
    assert_eq!((generation.n, generation.max_tokens), (1, Some(7)));
    assert_eq!(generation.stop, ["a", "b"]);
    let sampling = &generation.sampling;
    assert_eq!(sampling.temperature, Some(0.5));
    assert_eq!(sampling.top_p, Some(0.25));
    assert_eq!(sampling.top_k, Some(3));
}

#[test]
fn what_other_clients_send_is_taken_in_silence() {
    let plan = plan(json!({
        "metadata": { "user_id": "u" }, "service_tier": "auto", "inference_geo": "eu",
        "betas": ["x"], "speed": "fast", "temperature": null, "tool_choice": null,
    }));
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    assert!(!plan.stream);
}

#[tokio::test]
async fn what_is_not_done_is_warned_of() {
    let backend = Scripted::new(vec![hello()]);
    let request = body(json!({
        "container": "c", "context_management": { "edits": [] },
        "mcp_servers": [{ "type": "url", "url": "https://x", "name": "x" }],
        "tools": [{ "type": "web_search_20250305", "name": "web_search" }],
    }));
    let reply = post(&backend, MESSAGES, request).await;
    let header = reply.header("x-sextant-warning").unwrap().to_owned();
    let warnings = reply.json()["sextant"]["warnings"].clone();
    let warnings = warnings.as_array().unwrap();
    let named = [
        "container",
        "context_management",
        "mcp_servers",
        "web_search_20250305",
    ];
    for (name, warning) in named.into_iter().zip(warnings) {
        assert!(
            warning.as_str().unwrap().contains(name),
            "{name}: {warning}"
        );
        assert!(header.contains(name), "{name}: {header}");
    }
    assert_eq!(warnings.len(), named.len());
}

#[test]
fn tools_of_ones_own_are_offered() {
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let plan = plan(json!({ "tools": [
        { "name": "a", "description": "A.", "input_schema": schema, "strict": true },
        { "type": "bash_20250124", "name": "bash" },
        { "type": "custom", "name": "b", "input_schema": {}, "cache_control": null },
    ] }));
    let [a, b] = &plan.job.tools[..] else {
        panic!("{:?}", plan.job.tools)
    };
    assert_eq!((&*a.name, a.description.as_deref()), ("a", Some("A.")));
    assert_eq!(
        (a.parameters.as_ref(), a.strict),
        (Some(&schema), Some(true))
    );
    assert_eq!((&*b.name, b.strict), ("b", None));
    assert!(plan.warnings[0].contains("tools[1]"), "{:?}", plan.warnings);
}

#[test]
fn every_form_of_tool_choice() {
    let of = |choice: Value| {
        let tool = |name: &str| json!({ "name": name, "input_schema": { "type": "object" } });
        let job = plan(json!({ "tools": [tool("f"), tool("g")], "tool_choice": choice })).job;
        (job.tool_choice, job.parallel_tool_calls)
    };
    let cases = [
        (json!(null), ToolChoice::Auto, None),
        (json!({ "type": "auto" }), ToolChoice::Auto, None),
        (json!({ "type": "none" }), ToolChoice::None, None),
        (
            json!({ "type": "any", "disable_parallel_tool_use": true }),
            ToolChoice::Required,
            Some(false),
        ),
        (
            json!({ "type": "auto", "disable_parallel_tool_use": false }),
            ToolChoice::Auto,
            Some(true),
        ),
        (
            json!({ "type": "tool", "name": "g" }),
            ToolChoice::Named("g".into()),
            None,
        ),
    ];
    for (wire, choice, parallel) in cases {
        assert_eq!(of(wire.clone()), (choice, parallel), "{wire}");
    }
}

#[test]
fn thinking_is_off_unless_asked_for() {
    let reasoning = |enabled, budget_tokens, effort: Option<&str>| Reasoning {
        enabled: Some(enabled),
        budget_tokens,
        effort: effort.map(str::to_owned),
    };
    let cases = [
        (json!({}), reasoning(false, None, None)),
        (
            json!({ "thinking": { "type": "disabled" } }),
            reasoning(false, None, None),
        ),
        (
            json!({ "thinking": { "type": "enabled", "budget_tokens": 9 } }),
            reasoning(true, Some(9), None),
        ),
        (
            json!({ "thinking": { "type": "enabled" } }),
            reasoning(true, None, None),
        ),
        (
            json!({ "thinking": { "type": "adaptive" }, "output_config": { "effort": "high" } }),
            reasoning(true, None, Some("high")),
        ),
        (
            json!({ "output_config": { "effort": "low" } }),
            reasoning(false, None, Some("low")),
        ),
    ];
    for (wire, expected) in cases {
        assert_eq!(plan(wire.clone()).job.reasoning, expected, "{wire}");
    }
}

#[test]
fn a_schema_has_two_places() {
    let schema = json!({ "type": "object" });
    let format = json!({ "type": "json_schema", "schema": schema });
    let expected = Some(Constraint::JsonSchema { schema });
    let newer = plan(json!({ "output_config": { "format": format } }));
    assert_eq!(newer.job.constraint, expected);
    let older = plan(json!({ "output_format": format }));
    assert_eq!(older.job.constraint, expected);
}

#[tokio::test]
async fn tokens_are_counted_without_a_limit_of_tokens() {
    let rendered = Event::Rendered {
        prompt: "<s>Hi".into(),
        n_tokens: 3,
    };
    let backend = Scripted::new(vec![vec![rendered]]);
    let request = body(json!({ "max_tokens": null, "system": "s" }));
    let reply = post(&backend, &format!("{COUNT}?beta=true"), request).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.body, r#"{"input_tokens":3}"#);
    let jobs = backend.jobs.lock().unwrap();
    let Job::Render(job) = &jobs[0].1 else {
        panic!("{jobs:?}")
    };
    assert_eq!(job.messages[0], said(Role::System, "s"));
}

#[test]
fn a_last_message_of_the_assistant_begins_the_answer() {
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    let begun = plan(json!({ "messages": [turn("user", "Count"), turn("assistant", "One")] }));
    assert!(begun.job.continues);
    let answered = json!([
        turn("user", "Count"),
        turn("assistant", "One"),
        turn("user", "On")
    ]);
    assert!(!plan(json!({ "messages": answered })).job.continues);
}
