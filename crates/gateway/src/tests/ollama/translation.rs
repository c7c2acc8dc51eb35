//! Requests to jobs.

use std::time::Duration;

use proto::{ChatJob, Constraint, Job, Message, Prompt, Role};
use serde_json::{Value, json};

use super::{chat, generate};
use crate::error::ApiError;
use crate::wire::ollama::chat::chat_plan;
use crate::wire::ollama::embedding::embed_plan;
use crate::wire::ollama::generate::generate_plan;
use crate::wire::ollama::plan::{Plan, Work};
use crate::wire::ollama::request::{OllamaChat, OllamaEmbed, OllamaGenerate, parse};

fn chat_of(extra: Value) -> Result<Plan, ApiError> {
    chat_plan(parse::<OllamaChat>(chat(extra).as_bytes())?.0)
}

fn generate_of(extra: Value) -> Result<Plan, ApiError> {
    generate_plan(parse::<OllamaGenerate>(generate(extra).as_bytes())?.0)
}

fn chat_job(plan: Plan) -> ChatJob {
    match plan.work {
        Work::Answer(Job::Chat(job)) => *job,
        other => panic!("no chat: {other:?}"),
    }
}

#[test]
fn options_reach_the_sampler() {
    let plan = chat_of(json!({ "options": {
        "num_predict": 20.0, "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05,
        "typical_p": 0.8, "repeat_penalty": 1.1, "repeat_last_n": -1, "presence_penalty": 0.1,
        "frequency_penalty": -0.2, "seed": 7, "stop": ["END"], "num_ctx": 2048,
        "num_batch": 512, "num_gpu": 1, "use_mmap": true, "num_keep": 4,
    } }))
    .unwrap();
    assert_eq!(plan.num_ctx, Some(2048));
    insta::assert_json_snapshot!(chat_job(plan).generation);
}

#[test]
fn no_limit_and_a_random_seed_have_numbers_too() {
    for num_predict in [json!(-1), json!(-2), json!(null)] {
        let plan = chat_of(json!({ "options": { "num_predict": num_predict, "seed": -1 } }));
        let generation = chat_job(plan.unwrap()).generation;
        assert_eq!(
            (generation.max_tokens, generation.sampling.seed),
            (None, None)
        );
    }
}

#[test]
fn formats_become_constraints() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let cases = [
        (json!(null), None),
        (json!(""), None),
        (json!("json"), Some(Constraint::JsonObject)),
        (schema.clone(), Some(Constraint::JsonSchema { schema })),
    ];
    for (format, constraint) in cases {
        let job = chat_job(chat_of(json!({ "format": format })).unwrap());
        assert_eq!(job.constraint, constraint);
        let job = chat_job(generate_of(json!({ "format": format })).unwrap());
        assert_eq!(job.constraint, constraint);
    }
}

#[test]
fn think_says_whether_or_how_much() {
    let cases = [
        (json!(null), None, None),
        (json!(""), None, None),
        (json!(true), Some(true), None),
        (json!(false), Some(false), None),
        (json!("low"), Some(true), Some("low")),
        (json!("medium"), Some(true), Some("medium")),
        (json!("high"), Some(true), Some("high")),
    ];
    for (think, enabled, effort) in cases {
        let reasoning = chat_job(chat_of(json!({ "think": think })).unwrap()).reasoning;
        assert_eq!(reasoning.enabled, enabled, "{think}");
        assert_eq!(reasoning.effort.as_deref(), effort, "{think}");
    }
}

#[test]
fn a_prompt_is_a_chat_of_one_message_or_raw() {
    let plan = generate_of(json!({ "system": "Be brief." })).unwrap();
    assert!(plan.stream);
    let messages = chat_job(plan).messages;
    let roles: Vec<_> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User]);
    // Go clients send empty texts for what they leave out.
    let empty = json!({
        "raw": true, "system": "", "template": "", "suffix": "", "format": "",
        "context": null, "images": [], "options": null, "stream": false,
    });
    let plan = generate_of(empty).unwrap();
    assert!(!plan.stream);
    match plan.work {
        Work::Answer(Job::Completion(job)) => assert_eq!(job.prompt, Prompt::Text("Hi".into())),
        other => panic!("not raw: {other:?}"),
    }
    let thinking = generate_of(json!({ "raw": true, "think": true })).unwrap();
    assert_eq!(thinking.warnings.len(), 1);
}

#[test]
fn a_request_without_text_loads_or_unloads() {
    let cases = [
        (json!({}), Work::Load, 0),
        (json!({ "keep_alive": "5m" }), Work::Load, 0),
        (json!({ "keep_alive": -1 }), Work::Load, 0),
        (json!({ "keep_alive": 0 }), Work::Unload, 0),
        (json!({ "keep_alive": "0s" }), Work::Unload, 0),
    ];
    for (extra, work, n_warnings) in cases {
        let body = |empty: &str| {
            super::with(json!({ "model": "tiny" }), extra.clone()).replacen(
                '{',
                &format!("{{{empty}"),
                1,
            )
        };
        for empty in ["", r#""messages": [],"#, r#""messages": null,"#] {
            let request = parse::<OllamaChat>(body(empty).as_bytes()).unwrap().0;
            let plan = chat_plan(request).unwrap();
            assert_eq!(
                (&plan.work, plan.warnings.len()),
                (&work, n_warnings),
                "{extra}"
            );
        }
        for empty in ["", r#""prompt": "","#] {
            let request = parse::<OllamaGenerate>(body(empty).as_bytes()).unwrap().0;
            assert_eq!(generate_plan(request).unwrap().work, work, "{extra}");
        }
    }
    // With a text there is something to do first.
    let plan = chat_of(json!({ "keep_alive": 0 })).unwrap();
    assert!(matches!(plan.work, Work::Answer(_)));
    assert_eq!(plan.keep, Some(supervisor::Keep::For(Duration::ZERO)));
    assert!(plan.warnings.is_empty());
}

/// Role, call ids and the call a result belongs to, in short.
fn ids(messages: &[Message]) -> Vec<String> {
    let short = |message: &Message| {
        let calls: Vec<_> = message
            .tool_calls
            .iter()
            .map(|call| call.id.as_str())
            .collect();
        format!(
            "{:?} {} {:?}",
            message.role,
            calls.join(","),
            message.tool_call_id
        )
    };
    messages.iter().map(short).collect()
}

#[test]
fn results_find_their_calls() {
    let call = |name: &str| json!({ "function": { "name": name, "arguments": { "x": 1 } } });
    let messages = json!([
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": "", "thinking": "Hm.",
          "tool_calls": [call("a"), call("b"), call("a")] },
        { "role": "tool", "content": "b's", "tool_name": "b" },
        { "role": "tool", "content": "a's", "name": "a" },
        { "role": "tool", "content": "the last one's" },
        { "role": "tool", "content": "nobody's" },
        { "role": "assistant", "tool_calls": [{ "id": "mine",
          "function": { "index": 0, "name": "c" } }] },
        { "role": "tool", "content": "c's", "tool_call_id": "mine" },
    ]);
    let messages = chat_job(chat_of(json!({ "messages": messages })).unwrap()).messages;
    assert_eq!(
        ids(&messages),
        [
            "User  None",
            "Assistant call_0,call_1,call_2 None",
            "Tool  Some(\"call_1\")",
            "Tool  Some(\"call_0\")",
            "Tool  Some(\"call_2\")",
            "Tool  None",
            "Assistant mine None",
            "Tool  Some(\"mine\")",
        ]
    );
    assert_eq!(messages[1].content, None);
    assert_eq!(messages[1].reasoning_content.as_deref(), Some("Hm."));
    assert_eq!(messages[1].tool_calls[0].arguments, r#"{"x":1}"#);
    assert_eq!(messages[6].tool_calls[0].arguments, "{}");
}

#[test]
fn tools_are_offered() {
    let tools = json!([{ "type": "function", "function": {
        "name": "weather", "description": "Says it.", "parameters": { "type": "object" } } }]);
    let tools = chat_job(chat_of(json!({ "tools": tools })).unwrap()).tools;
    assert_eq!(tools[0].name, "weather");
    assert_eq!(tools[0].parameters, Some(json!({ "type": "object" })));
}

#[test]
fn inputs_are_embedded_in_order() {
    let plan = |body: Value| {
        embed_plan(parse::<OllamaEmbed>(body.to_string().as_bytes()).unwrap().0).unwrap()
    };
    let two = plan(json!({ "input": ["a", "b"], "truncate": true }));
    assert_eq!(two.job.unwrap().inputs.len(), 2);
    assert_eq!(two.warnings.len(), 1);
    for empty in [json!({}), json!({ "input": "" }), json!({ "input": [] })] {
        assert_eq!(plan(empty).job, None);
    }
}
