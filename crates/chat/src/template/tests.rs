use proto::{Role, ToolCall};
use serde_json::json;

use super::*;

const SMOLLM2: &str = include_str!("../../tests/data/smollm2.jinja");
const QWEN3: &str = include_str!("../../tests/data/qwen3.jinja");
const LLAMA3: &str = include_str!("../../tests/data/llama3.jinja");
const MISTRAL: &str = include_str!("../../tests/data/mistral.jinja");
const GEMMA1: &str = include_str!("../../tests/data/gemma1.jinja");
const GEMMA3: &str = include_str!("../../tests/data/gemma3.jinja");
const DEEPSEEK: &str = include_str!("../../tests/data/deepseek_r1.jinja");
const LFM2: &str = include_str!("../../tests/data/lfm2.jinja");
const GLM4: &str = include_str!("../../tests/data/glm4.jinja");

fn compile(source: &str) -> Template {
    let tokens = TemplateTokens {
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
    };
    Template::compile(source, tokens).unwrap()
}

fn message(role: Role, content: &str) -> Message {
    Message {
        role,
        content: Some(content.to_owned()),
        ..Message::default()
    }
}

fn user(content: &str) -> Message {
    message(Role::User, content)
}

fn weather_tool() -> ToolDefinition {
    ToolDefinition {
        name: "get_weather".to_owned(),
        description: Some("Weather now".to_owned()),
        parameters: Some(json!({"type": "object", "properties": {"city": {"type": "string"}}})),
        strict: None,
    }
}

/// A question, a call, its result.
fn tool_turns() -> Vec<Message> {
    vec![
        user("Oslo?"),
        Message {
            role: Role::Assistant,
            tool_calls: vec![ToolCall {
                id: "call_1".to_owned(),
                name: "get_weather".to_owned(),
                arguments: r#"{"city":"Oslo","days":2}"#.to_owned(),
            }],
            ..Message::default()
        },
        Message {
            tool_call_id: Some("call_1".to_owned()),
            ..message(Role::Tool, "rain")
        },
    ]
}

struct Ask {
    tools: Vec<ToolDefinition>,
    reasoning: Reasoning,
    kwargs: Map<String, Json>,
}

fn plain() -> Ask {
    Ask {
        tools: Vec::new(),
        reasoning: Reasoning::default(),
        kwargs: Map::new(),
    }
}

fn with_tool() -> Ask {
    Ask {
        tools: vec![weather_tool()],
        ..plain()
    }
}

fn thinking(enabled: bool) -> Ask {
    Ask {
        reasoning: Reasoning {
            enabled: Some(enabled),
            ..Reasoning::default()
        },
        ..plain()
    }
}

fn render(template: &Template, messages: &[Message], ask: &Ask) -> Result<Rendered, TemplateError> {
    template.render(&RenderInput {
        messages,
        tools: &ask.tools,
        ending: PromptEnding::AnswerOpening,
        reasoning: &ask.reasoning,
        kwargs: &ask.kwargs,
        now_unix_s: 1_721_952_000,
    })
}

#[test]
fn smollm2_gets_its_default_system_message_and_no_more() {
    let template = compile(SMOLLM2);
    let rendered = render(&template, &[user("Hi")], &plain()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert!(rendered.warnings.is_empty() && !rendered.opens_thinking && !rendered.starts_with_bos);
    let features = &template.features;
    assert!(features.supports_system && features.supports_late_system);
    assert!(!features.supports_tools && !features.supports_tool_calls);
    assert!(!features.supports_tool_results && !features.requires_alternation);
    assert_eq!(template.tool_format(), ToolFormat::Generic);
}

#[test]
fn a_begun_answer_is_left_open() {
    let continued = |source: &str, text: &str| {
        let begun = Message {
            role: Role::Assistant,
            content: Some(text.into()),
            ..Message::default()
        };
        let input = RenderInput {
            messages: &[user("Count"), begun],
            tools: &[],
            ending: PromptEnding::AnswerBeginning,
            reasoning: &Reasoning::default(),
            kwargs: &Map::new(),
            now_unix_s: 0,
        };
        compile(source).render(&input).unwrap()
    };
    let rendered = continued(SMOLLM2, "One, two");
    let open = "user\nCount<|im_end|>\n<|im_start|>assistant\nOne, two";
    assert!(rendered.prompt.ends_with(open), "{}", rendered.prompt);
    // A thought that the template opens comes before the text.
    let rendered = continued(DEEPSEEK, "One, two");
    let closed = "<think>\n\n</think>\n\nOne, two";
    assert!(rendered.prompt.ends_with(closed), "{}", rendered.prompt);
    assert!(!rendered.opens_thinking);
}

#[test]
fn tools_are_described_in_words_to_a_template_without_them() {
    let template = compile(SMOLLM2);
    let rendered = render(&template, &tool_turns(), &with_tool()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<|im_start|>system\nYou can use these tools, given as one JSON object a line:\n\
         {\"name\":\"get_weather\",\"description\":\"Weather now\",\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}}\n\n\
         To use a tool, answer with only this JSON object, one line for each use:\n\
         {\"tool_call\": {\"name\": \"<the tool's name>\", \"arguments\": {<its arguments>}}}\n\
         You are then given the result. When no tool helps, answer in plain text.<|im_end|>\n\
         <|im_start|>user\nOslo?<|im_end|>\n\
         <|im_start|>assistant\n{\"tool_call\":{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Oslo\",\"days\":2}}}<|im_end|>\n\
         <|im_start|>user\nResult of get_weather:\nrain<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(rendered.warnings.len(), 3);
}

#[test]
fn qwen3_renders_tools_and_thinks_on_request() {
    let template = compile(QWEN3);
    let features = &template.features;
    assert!(features.supports_tools && features.supports_tool_calls);
    assert!(features.supports_tool_results && features.wants_object_arguments);
    assert_eq!(features.thinking_switch, Some("enable_thinking"));
    assert_eq!(template.tool_format(), ToolFormat::Hermes);
    assert_eq!(template.reasoning_tags().unwrap().name, "think");
    let rendered = render(&template, &tool_turns(), &with_tool()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<|im_start|>system\n# Tools\nSignatures:\n<tools>\n\
         {\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"Weather now\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}}\n\
         </tools>\nAnswer a call as:\n<tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call><|im_end|>\n\
         <|im_start|>user\nOslo?<|im_end|>\n\
         <|im_start|>assistant\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}}\n</tool_call><|im_end|>\n\
         <|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(rendered.warnings, Vec::<String>::new());
    let off = render(&template, &[user("Hi")], &thinking(false)).unwrap();
    assert!(
        off.prompt
            .ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    );
    assert!(off.warnings.is_empty() && !off.opens_thinking);
    let on = render(&template, &[user("Hi")], &thinking(true)).unwrap();
    assert!(on.prompt.ends_with("<|im_start|>assistant\n"));
}

#[test]
fn llama3_wants_objects_and_reads_the_clock() {
    let template = compile(LLAMA3);
    assert_eq!(template.tool_format(), ToolFormat::Llama3);
    assert!(template.features.wants_object_arguments);
    let rendered = render(&template, &tool_turns(), &plain()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nOslo?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 2}}<|eot_id|>\
         <|start_header_id|>ipython<|end_header_id|>\n\nrain<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert!(rendered.starts_with_bos);
    let mut turns = tool_turns();
    let again = turns[1].tool_calls[0].clone();
    turns[1].tool_calls.push(again);
    let error = render(&template, &turns, &plain()).unwrap_err();
    assert!(
        matches!(&error, TemplateError::Refused { message } if message == "This model only supports single tool-calls at once!"),
        "{error}"
    );
}

#[test]
fn mistral_gets_short_ids_and_alternating_turns() {
    let template = compile(MISTRAL);
    let features = &template.features;
    assert!(features.wants_short_call_ids && features.requires_alternation);
    assert!(features.supports_system && !features.supports_late_system);
    assert_eq!(template.tool_format(), ToolFormat::Mistral);
    let id = crate::ids::short_id_of("call_1");
    let rendered = render(&template, &tool_turns(), &plain()).unwrap();
    assert_eq!(
        rendered.prompt,
        format!(
            "<s>[INST] Oslo?[/INST][TOOL_CALLS] [{{\"name\": \"get_weather\", \"arguments\": {{\"city\": \"Oslo\", \"days\": 2}}, \"id\": \"{id}\"}}]</s>\
             [TOOL_RESULTS] {{\"content\": rain, \"call_id\": \"{id}\"}}[/TOOL_RESULTS]"
        )
    );
    let turns = [
        message(Role::System, "Be brief."),
        message(Role::Developer, "Be kind."),
        user("A"),
        user("B"),
        message(Role::Assistant, "C"),
        message(Role::System, "Now rhyme."),
        user("D"),
    ];
    let rendered = render(&template, &turns, &plain()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<s>[INST] A\n\nB[/INST] C</s>[INST] Be brief.\n\nBe kind.\n\nNow rhyme.\n\nD[/INST]"
    );
    assert_eq!(rendered.warnings.len(), 4, "{:?}", rendered.warnings);
}

#[test]
fn a_system_message_is_folded_where_there_is_no_system_role() {
    let turns = [message(Role::System, "Be brief."), user("Hi")];
    let folded = "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n";
    // Gemma 3's template folds by itself; Gemma 1's refuses, so we fold and say so.
    let by_template = render(&compile(GEMMA3), &turns, &plain()).unwrap();
    assert_eq!(
        (by_template.prompt.as_str(), by_template.warnings.len()),
        (folded, 0)
    );
    let template = compile(GEMMA1);
    assert!(!template.features.supports_system);
    let by_us = render(&template, &turns, &plain()).unwrap();
    assert_eq!((by_us.prompt.as_str(), by_us.warnings.len()), (folded, 1));
    let error = render(&template, &[message(Role::Assistant, "x")], &plain()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template refused these messages: Conversation roles must alternate"
    );
    let only_system = render(&template, &[message(Role::System, "S")], &plain()).unwrap();
    assert!(
        only_system
            .prompt
            .contains("<start_of_turn>user\nS<end_of_turn>")
    );
}

#[test]
fn deepseek_takes_arguments_as_text_and_opens_a_thought() {
    let template = compile(DEEPSEEK);
    let features = &template.features;
    assert!(!features.wants_object_arguments && features.opens_thinking);
    assert!(features.supports_tool_calls && !features.supports_tools);
    let rendered = render(&template, &tool_turns(), &plain()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<s><｜User｜>Oslo?<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\
         ```json\n{\"city\":\"Oslo\",\"days\":2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>\
         <｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>rain<｜tool▁output▁end｜><｜tool▁outputs▁end｜><｜Assistant｜><think>\n"
    );
    assert!(rendered.opens_thinking);
    // It has no switch, so the thought is closed for it.
    let off = render(&template, &[user("Hi")], &thinking(false)).unwrap();
    assert_eq!(
        off.prompt,
        "<s><｜User｜>Hi<｜Assistant｜><think>\n\n</think>\n\n"
    );
    assert!(!off.opens_thinking);
    assert_eq!(off.warnings.len(), 1);
}

#[test]
fn lfm2_lists_its_tools() {
    let template = compile(LFM2);
    assert_eq!(template.tool_format(), ToolFormat::Lfm2);
    let rendered = render(&template, &[user("Oslo?")], &with_tool()).unwrap();
    assert_eq!(
        rendered.prompt,
        "<s><|im_start|>system\nList of tools: <|tool_list_start|>[\
         {\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"Weather now\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}}\
         ]<|tool_list_end|><|im_end|>\n<|im_start|>user\nOslo?<|im_end|>\n<|im_start|>assistant\n"
    );
    // It shows no calls, so they are written as the model writes them.
    assert!(!template.features.supports_tool_calls);
    let rendered = render(&template, &tool_turns(), &with_tool()).unwrap();
    assert!(rendered.prompt.ends_with(
        "<|im_start|>assistant\n<|tool_call_start|>[get_weather(city='Oslo', days=2)]<|tool_call_end|><|im_end|>\n\
         <|im_start|>tool\n<|tool_response_start|>rain<|tool_response_end|><|im_end|>\n<|im_start|>assistant\n"
    ));
    assert_eq!(rendered.warnings.len(), 1);
}

#[test]
fn glm_renders_arguments_one_by_one() {
    let template = compile(GLM4);
    assert_eq!(template.tool_format(), ToolFormat::Glm);
    assert_eq!(template.features.thinking_switch, Some("enable_thinking"));
    let rendered = render(&template, &tool_turns(), &plain()).unwrap();
    assert_eq!(
        rendered.prompt,
        "[gMASK]<sop><|user|>\nOslo?<|assistant|>\n<think></think>\n<tool_call>get_weather\n\
         <arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\
         <|observation|>\n<tool_response>\nrain\n</tool_response><|assistant|>"
    );
    let mut turns = tool_turns();
    turns[1].tool_calls[0].arguments = "{\"city\": ".to_owned();
    let rendered = render(&template, &turns, &plain()).unwrap();
    assert!(
        rendered
            .prompt
            .contains("<arg_key>arguments</arg_key>\n<arg_value>{\"city\":</arg_value>")
    );
    assert_eq!(rendered.warnings.len(), 1);
}

#[test]
fn reasoning_effort_and_kwargs_reach_the_template() {
    let template = compile(
        "{% for m in messages %}{{ m.content }}{% endfor %}|{{ reasoning_effort }}|{{ custom }}",
    );
    let mut ask = plain();
    ask.reasoning.effort = Some("high".to_owned());
    ask.kwargs.insert("custom".to_owned(), json!("x"));
    let rendered = render(&template, &[user("Hi")], &ask).unwrap();
    assert_eq!(rendered.prompt, "Hi|high|x");
    assert!(rendered.warnings.is_empty());
    let rendered = render(&compile(SMOLLM2), &[user("Hi")], &ask).unwrap();
    assert_eq!(rendered.warnings.len(), 1);
    let rendered = render(&compile(SMOLLM2), &[user("Hi")], &thinking(true)).unwrap();
    assert_eq!(rendered.warnings.len(), 1);
}

fn error(source: &str) -> TemplateError {
    Template::compile(source, TemplateTokens::default()).unwrap_err()
}

#[test]
fn a_broken_template_names_its_line() {
    let broken = error("{% for m in messages %}\n{{ m.content }}\n{% endfo %}");
    assert!(
        matches!(broken, TemplateError::Syntax { line: 3, .. }),
        "{broken}"
    );
    let broken = error("{{ 'x' }}\n{{ nothing.at.all }}");
    assert!(
        matches!(broken, TemplateError::Failed { line: 2, .. }),
        "{broken}"
    );
    let broken = error("{% generation %}\n{% endgeneration %}\n{{ messages[0].content.no() }}");
    assert!(
        matches!(broken, TemplateError::Failed { line: 3, .. }),
        "{broken}"
    );
}

#[test]
fn limits_hold() {
    let source = " ".repeat(SOURCE_BYTES_MAX + 1);
    assert!(matches!(error(&source), TemplateError::TooLarge { bytes } if bytes == source.len()));
    let endless = "{% for i in range(10000) %}{% for j in range(10000) %}{% set x = i + j %}{% endfor %}{% endfor %}";
    assert!(matches!(error(endless), TemplateError::OutOfFuel));
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(matches!(error(deep), TemplateError::Failed { .. }));
    let huge = "{% for i in range(100) %}{{ 'x' * 1000000 }}{% endfor %}";
    assert!(matches!(error(huge), TemplateError::PromptTooLarge));
}

#[test]
fn long_conversations_stay_within_the_limits() {
    let turns: Vec<Message> = (0..5_000)
        .flat_map(|_| [user("Hi"), message(Role::Assistant, "Ho")])
        .collect();
    for source in [QWEN3, LLAMA3, MISTRAL, GLM4] {
        let rendered = render(&compile(source), &turns, &plain()).unwrap();
        assert_eq!(rendered.prompt.matches("Ho").count(), 5_000);
    }
}

#[test]
fn the_fallback_is_chatml() {
    let template = Template::fallback(TemplateTokens::default()).unwrap();
    let turns = [message(Role::System, "S"), user("U")];
    assert_eq!(
        render(&template, &turns, &plain()).unwrap().prompt,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn a_panic_of_the_engine_is_an_error() {
    let source = "{{ [][::-1] | list }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let result = Template::compile(source, TemplateTokens::default());
    assert!(matches!(result, Err(TemplateError::EnginePanicked)));
}
