//! What good requests become.

use proto::{Constraint, Job, Prompt, Reasoning, Role, Speculation, ToolChoice};
use serde_json::{Value, json};

use super::scripted::{Scripted, hello, post};
use crate::body::parse;
use crate::wire::openai::{ChatPlan, ChatRequest, chat_plan};

fn plan(extra: Value) -> ChatPlan {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let request: ChatRequest = parse(body.to_string().as_bytes()).unwrap();
    chat_plan(request).unwrap()
}

#[test]
fn every_role_and_form_of_content() {
    let plan = plan(json!({ "messages": [
        { "role": "system", "content": "a" },
        { "role": "developer", "content": [{ "type": "text", "text": "b" }, { "type": "text", "text": "c" }] },
        { "role": "user", "content": "", "name": "ann" },
        { "role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
            { "id": "x", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } },
            { "type": "function", "function": { "name": "g", "arguments": { "b": 2 } } },
        ] },
        { "role": "tool", "content": "42", "tool_call_id": "x" },
    ] }));
    let messages = &plan.job.messages;
    let roles: Vec<_> = messages.iter().map(|message| message.role).collect();
    let all = [
        Role::System,
        Role::Developer,
        Role::User,
        Role::Assistant,
        Role::Tool,
    ];
    assert_eq!(roles, all);
    assert_eq!(messages[1].content.as_deref(), Some("bc"));
    assert_eq!(messages[3].content, None);
    assert_eq!(messages[3].reasoning_content.as_deref(), Some("hm"));
    assert_eq!(messages[3].tool_calls[1].id, "call_1");
    assert_eq!(messages[3].tool_calls[1].arguments, "{\"b\":2}");
    assert_eq!(messages[4].tool_call_id.as_deref(), Some("x"));
}

#[test]
fn unknown_and_null_fields_are_fine() {
    let plan = plan(json!({
        "store": true, "metadata": { "a": [1] }, "service_tier": "auto", "user": "u",
        "temperature": null, "stop": null, "tools": null, "tool_choice": null, "n": null,
        "response_format": null, "stream_options": null, "logit_bias": null, "seed": null,
        "functions": null, "modalities": ["text"],
    }));
    assert_eq!(plan.job.generation.n, 1);
    assert_eq!(
        plan.job.generation.sampling,
        proto::SamplingOverrides::default()
    );
}

#[test]
fn max_tokens_has_three_spellings() {
    let of = |extra| plan(extra).job.generation.max_tokens;
    assert_eq!(of(json!({ "max_tokens": 5 })), Some(5));
    assert_eq!(of(json!({ "max_completion_tokens": 6 })), Some(6));
    assert_eq!(of(json!({ "n_predict": 7, "max_tokens": 7 })), Some(7));
    assert_eq!(of(json!({ "n_predict": -1 })), None);
    let body = br#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_completion_tokens": 2}"#;
    let error = chat_plan(parse(body).unwrap()).unwrap_err();
    assert_eq!(error.row().code, "conflicting_fields");
}

#[test]
fn seeds_of_the_whole_range() {
    let of = |seed: Value| plan(json!({ "seed": seed })).job.generation.sampling.seed;
    assert_eq!(of(json!(0)), Some(0));
    assert_eq!(of(json!(u64::MAX)), Some(u64::MAX));
    assert_eq!(of(json!(-1)), None);
    assert_eq!(of(json!(-2)), Some(u64::MAX - 1));
}

#[test]
fn every_form_of_tool_choice() {
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let of = |choice: Value| {
        let plan = plan(json!({ "tools": [tool("f"), tool("g")], "tool_choice": choice }));
        let names: Vec<_> = plan
            .job
            .tools
            .iter()
            .map(|tool| tool.name.clone())
            .collect();
        (plan.job.tool_choice, names.join(","))
    };
    let allowed = |mode: &str| json!({ "type": "allowed_tools", "allowed_tools": { "mode": mode, "tools": [tool("g")] } });
    let cases = [
        (json!("none"), ToolChoice::None, "f,g"),
        (json!("auto"), ToolChoice::Auto, "f,g"),
        (json!("required"), ToolChoice::Required, "f,g"),
        (json!({ "type": "auto" }), ToolChoice::Auto, "f,g"),
        (tool("f"), ToolChoice::Named("f".into()), "f,g"),
        (
            json!({ "type": "function", "name": "g" }),
            ToolChoice::Named("g".into()),
            "f,g",
        ),
        (allowed("auto"), ToolChoice::Auto, "g"),
        (allowed("required"), ToolChoice::Required, "g"),
    ];
    for (wire, choice, names) in cases {
        assert_eq!(of(wire.clone()), (choice, names.to_owned()), "{wire}");
    }
}

#[tokio::test]
async fn other_tools_are_left_out_with_a_warning() {
    let backend = Scripted::new(vec![hello()]);
    let body = json!({
        "messages": [{ "role": "user", "content": "x" }],
        "tools": [{ "type": "web_search" }],
    });
    let reply = post(&backend, "/v1/chat/completions", body.to_string()).await;
    assert!(
        reply
            .header("x-sextant-warning")
            .unwrap()
            .contains("web_search")
    );
    let warnings = &reply.json()["sextant"]["warnings"];
    assert!(warnings[0].as_str().unwrap().contains("tools[0]"));
}

#[test]
fn every_form_of_constraint() {
    let schema = json!({ "type": "object" });
    let of = |extra| plan(extra).job.constraint;
    let format = |format: Value| json!({ "response_format": format });
    let is_schema = Some(Constraint::JsonSchema {
        schema: schema.clone(),
    });
    let gbnf = Some(Constraint::Gbnf {
        grammar: "root ::= \"a\"".into(),
    });
    let cases = [
        (format(json!({ "type": "text" })), None),
        (
            format(json!({ "type": "json_object" })),
            Some(Constraint::JsonObject),
        ),
        (
            format(json!({ "type": "json_object", "schema": schema })),
            is_schema.clone(),
        ),
        (
            format(json!({ "type": "json_schema", "schema": schema })),
            is_schema.clone(),
        ),
        (
            format(
                json!({ "type": "json_schema", "json_schema": { "name": "a", "strict": true, "schema": schema } }),
            ),
            is_schema.clone(),
        ),
        (json!({ "json_schema": schema }), is_schema),
        (
            format(json!({ "type": "regex", "regex": "a+" })),
            Some(Constraint::Regex {
                pattern: "a+".into(),
            }),
        ),
        (
            format(json!({ "type": "lark", "grammar": "start: \"a\"" })),
            Some(Constraint::Lark {
                grammar: "start: \"a\"".into(),
            }),
        ),
        (
            format(json!({ "type": "gbnf", "grammar": "root ::= \"a\"" })),
            gbnf.clone(),
        ),
        (json!({ "grammar": "root ::= \"a\"" }), gbnf),
        (json!({ "grammar": "" }), None),
    ];
    for (wire, constraint) in cases {
        assert_eq!(of(wire.clone()), constraint, "{wire}");
    }
}

#[test]
fn reasoning_is_asked_for_or_not() {
    let of = |extra| plan(extra).job.reasoning;
    let reasoning = |enabled, budget_tokens, effort: Option<&str>| Reasoning {
        enabled,
        budget_tokens,
        effort: effort.map(str::to_owned),
    };
    let cases = [
        (json!({}), reasoning(None, None, None)),
        (
            json!({ "reasoning_effort": "none" }),
            reasoning(Some(false), None, None),
        ),
        (
            json!({ "reasoning_effort": "high" }),
            reasoning(Some(true), None, Some("high")),
        ),
        (
            json!({ "reasoning": { "enabled": false } }),
            reasoning(Some(false), None, None),
        ),
        (
            json!({ "reasoning": { "budget_tokens": 9 } }),
            reasoning(None, Some(9), None),
        ),
        (
            json!({ "reasoning": { "effort": "low", "max_tokens": 3 } }),
            reasoning(Some(true), Some(3), Some("low")),
        ),
    ];
    for (wire, expected) in cases {
        assert_eq!(of(wire.clone()), expected, "{wire}");
    }
}

#[test]
fn speculation_is_off_or_sized() {
    let of = |value: Value| {
        plan(json!({ "speculation": value }))
            .job
            .generation
            .speculation
    };
    let some = |draft_tokens_max, ngram| {
        Some(Speculation {
            draft_tokens_max,
            ngram,
        })
    };
    assert_eq!(of(json!(false)), some(0, 1));
    assert_eq!(of(json!({ "draft_tokens_max": 8 })), some(8, 3));
    assert_eq!(of(json!({ "draft_tokens_max": 8, "ngram": 2 })), some(8, 2));
}

#[tokio::test]
async fn every_form_of_prompt_is_a_job_of_its_own() {
    let text = |text: &str| Prompt::Text(text.into());
    let cases = [
        (json!("a"), vec![text("a")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]),
        (
            json!([[1], [2, 3]]),
            vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])],
        ),
    ];
    for (wire, prompts) in cases {
        let backend = Scripted::new(vec![hello(); prompts.len()]);
        let body = json!({ "prompt": wire, "max_tokens": 0, "echo": true });
        let reply = post(&backend, "/v1/completions", body.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(
            reply.json()["choices"].as_array().unwrap().len(),
            prompts.len()
        );
        let jobs = std::mem::take(&mut *backend.jobs.lock().unwrap());
        let submitted: Vec<_> = jobs
            .into_iter()
            .map(|(_, job)| match job {
                Job::Completion(job) => {
                    assert!(job.echo);
                    assert_eq!(job.generation.max_tokens, Some(0));
                    job.prompt
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(submitted, prompts);
    }
}

#[test]
fn a_begun_answer_is_gone_on_with_where_that_is_said() {
    let begun = json!([
        { "role": "user", "content": "Count" },
        { "role": "assistant", "content": "One, two" },
    ]);
    let plain = plan(json!({ "messages": begun }));
    assert!(!plain.job.continues);
    let fields = json!({
        "messages": begun, "continue_final_message": true, "add_generation_prompt": false,
    });
    assert!(plan(fields).job.continues);
    let refused = [
        (
            json!({ "continue_final_message": true }),
            "continue_final_message",
        ),
        (
            json!({ "add_generation_prompt": false }),
            "add_generation_prompt",
        ),
        (
            json!({
                "messages": begun,
                "continue_final_message": true,
                "add_generation_prompt": true,
            }),
            "add_generation_prompt",
        ),
    ];
    for (fields, param) in refused {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
        let fields = fields.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        let request: ChatRequest = parse(body.to_string().as_bytes()).unwrap();
        let error = chat_plan(request).unwrap_err();
        assert_eq!(error.body()["error"]["param"], param);
    }
}
