//! Chat templates, which come inside model files, compiled and rendered over
//! conversations with and without tools. Input: the template, a zero byte, what
//! the user says.
//!
//! A panic inside minijinja is no find: rendering turns it into an error. (A slice
//! `[:1:-1]` of a short list overflows in it, and `[::-1]` of an empty one is out of
//! bounds.) A panic in our code is one.

#![no_main]

use std::panic;

use chat::{PromptEnding, RenderInput, Template, TemplateTokens};
use libfuzzer_sys::fuzz_target;
use proto::{Message, Reasoning, Role, ToolCall, ToolDefinition};
use serde_json::{Map, json};

fuzz_target!(init: forgive_minijinja(), |bytes: &[u8]| one(bytes));

/// The fuzzer's own hook ends the process at any panic, caught or not.
fn forgive_minijinja() {
    let abort = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |location| location.file());
        if !file.contains("minijinja") {
            abort(info);
        }
    }));
}

fn one(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (source, said) = text.split_once('\0').unwrap_or((text, "hello"));
    let tokens = TemplateTokens {
        bos: "<s>".into(),
        eos: "</s>".into(),
    };
    let Ok(template) = Template::compile(source, tokens) else {
        return;
    };
    let tools = [ToolDefinition {
        name: "weather".into(),
        parameters: Some(json!({"type": "object", "properties": {"city": {"type": "string"}}})),
        ..Default::default()
    }];
    let endings = [PromptEnding::AnswerOpening, PromptEnding::AnswerBeginning];
    for (tools, ending) in [&tools[..], &[]].into_iter().zip(endings) {
        let _ = template.render(&RenderInput {
            messages: &conversation(said, ending),
            tools,
            ending,
            reasoning: &Reasoning {
                enabled: Some(tools.is_empty()),
                ..Default::default()
            },
            kwargs: &Map::new(),
            now_unix_s: 1_700_000_000,
        });
    }
}

fn conversation(said: &str, ending: PromptEnding) -> Vec<Message> {
    let message = |role, content: &str| Message {
        role,
        content: Some(content.to_owned()),
        ..Default::default()
    };
    let call = ToolCall {
        id: "call_1".into(),
        name: "weather".into(),
        arguments: r#"{"city": "Oslo"}"#.into(),
    };
    vec![
        message(Role::System, "Be brief."),
        message(Role::User, said),
        Message {
            role: Role::Assistant,
            tool_calls: vec![call],
            ..Default::default()
        },
        Message {
            tool_call_id: Some("call_1".into()),
            ..message(Role::Tool, "rain")
        },
        match ending {
            PromptEnding::AnswerBeginning => message(Role::Assistant, said),
            _ => message(Role::User, said),
        },
    ]
}
