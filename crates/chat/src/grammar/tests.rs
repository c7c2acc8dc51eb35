use std::sync::LazyLock;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::json;
use toktrie::ApproximateTokEnv;

use super::*;
use crate::parser::{OutputParser, OutputSpec};

fn tools() -> Vec<ToolDefinition> {
    let tool = |name: &str, parameters: Option<Json>| ToolDefinition {
        name: name.to_owned(),
        parameters,
        ..ToolDefinition::default()
    };
    vec![
        tool(
            "get_weather",
            Some(json!({
                "type": "object",
                "properties": {
                    "days": {"type": "integer"},
                    "city": {"type": "string"},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "brief": {"type": "boolean"},
                },
                "required": ["city"],
                "additionalProperties": false,
            })),
        ),
        tool("now", None),
    ]
}

fn no_token(_: &str) -> Option<u32> {
    None
}

fn request<'a>(format: ToolFormat, tools: &'a [ToolDefinition]) -> GrammarRequest<'a> {
    GrammarRequest {
        format,
        tools,
        choice: &ToolChoice::Required,
        parallel: true,
        thought: Thought::None,
        control_token: &no_token,
    }
}

fn lark(grammar: &ToolGrammar) -> &str {
    match &grammar.constraint {
        Constraint::Lark { grammar } => grammar,
        other => panic!("{other:?}"),
    }
}

fn matcher(grammar: &str) -> Matcher {
    static FACTORY: LazyLock<ParserFactory> = LazyLock::new(|| {
        let mut factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
        factory.quiet();
        factory
    });
    let matcher =
        Matcher::new(FACTORY.create_parser(TopLevelGrammar::from_lark(grammar.to_owned())));
    assert!(!matcher.is_error(), "{:?}\n{grammar}", matcher.get_error());
    matcher
}

/// Whether the grammar takes the whole text and may end there.
fn accepts(grammar: &str, text: &str) -> bool {
    let mut matcher = matcher(grammar);
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let n = matcher.try_consume_tokens(&tokens).unwrap();
    n == tokens.len() && matcher.is_accepting().unwrap()
}

fn check(format: ToolFormat, good: &[&str], bad: &[&str]) {
    let tools = tools();
    let grammar = tool_grammar(&request(format, &tools)).unwrap().unwrap();
    assert_eq!(grammar.format, format);
    let lark = lark(&grammar);
    for text in good {
        assert!(accepts(lark, text), "{format:?} should take {text}\n{lark}");
        // What the grammar allows, the parser reads, and nothing of it is text.
        let mut parser = OutputParser::new(OutputSpec {
            format,
            tools: tools.clone(),
            ..OutputSpec::default()
        });
        let mut deltas = parser.push(text);
        deltas.extend(parser.finish());
        assert!(parser.had_tool_calls(), "{text}");
        assert!(
            !deltas
                .iter()
                .any(|delta| matches!(delta, proto::Delta::Text { .. })),
            "{deltas:?}"
        );
    }
    for text in bad {
        assert!(
            !accepts(lark, text),
            "{format:?} should refuse {text}\n{lark}"
        );
    }
}

#[test]
fn json_formats() {
    check(
        ToolFormat::Hermes,
        &[
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"days\": 3, \"city\": \"</tool_call>\", \"unit\": \"c\"}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        ],
        &[
            "Sure.",
            "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": 3}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n",
        ],
    );
    check(
        ToolFormat::Llama3,
        &["{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}"],
        &[
            "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}",
            "{}",
        ],
    );
    check(
        ToolFormat::Generic,
        &[
            "{\"tool_call\": {\"name\": \"now\", \"arguments\": {}}}\n{\"tool_call\": {\"name\": \"now\", \"arguments\": {}}}",
        ],
        &["{\"name\": \"now\", \"arguments\": {}}"],
    );
    check(
        ToolFormat::Mistral,
        &[
            "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}}]",
        ],
        &["[TOOL_CALLS] []", "[TOOL_CALLS]now[ARGS]{}"],
    );
    check(
        ToolFormat::MistralArgs,
        &["[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\"}"],
        &["[TOOL_CALLS]now[ARGS]{\"x\": 1}"],
    );
    check(
        ToolFormat::DeepSeekV3,
        &[
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>\n\
           <｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ],
        &["<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"],
    );
    check(
        ToolFormat::DeepSeekV31,
        &[
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ],
        &[
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>[]<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ],
    );
}

#[test]
fn formats_with_bare_values() {
    check(
        ToolFormat::QwenXml,
        &[
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo <b>\n</parameter>\n</function>\n</tool_call>",
            "<tool_call>\n<function=get_weather>\n<parameter=days>\n3\n</parameter>\n<parameter=city>\na\nb\n</parameter>\n<parameter=unit>\nf\n</parameter>\n</function>\n</tool_call>\n\
             <tool_call>\n<function=now>\n</function>\n</tool_call>",
        ],
        &[
            "<tool_call>\n<function=get_weather>\n</function>\n</tool_call>",
            "<tool_call>\n<function=get_weather>\n<parameter=days>\nx\n</parameter>\n<parameter=city>\na\n</parameter>\n</function>\n</tool_call>",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=unit>\nk\n</parameter>\n</function>\n</tool_call>",
        ],
    );
    check(
        ToolFormat::Glm,
        &[
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>brief</arg_key>\n<arg_value>true</arg_value>\n</tool_call>",
            "<tool_call>now\n</tool_call>\n<tool_call>now\n</tool_call>",
        ],
        &[
            "<tool_call>get_weather\n</tool_call>",
            "<tool_call>later\n</tool_call>",
        ],
    );
    check(
        ToolFormat::Lfm2,
        &[
            "<|tool_call_start|>[get_weather(city=\"Oslo\")]<|tool_call_end|>",
            "<|tool_call_start|>[get_weather(days=3, city=\"O\\\"\", brief=True), now()]<|tool_call_end|>",
        ],
        &[
            "<|tool_call_start|>[get_weather(days=3)]<|tool_call_end|>",
            "<|tool_call_start|>[get_weather(, city=\"Oslo\")]<|tool_call_end|>",
            "<|tool_call_start|>[]<|tool_call_end|>",
        ],
    );
    check(
        ToolFormat::GemmaCode,
        &["```tool_code\nget_weather(city=\"Oslo\")\nnow()\n```"],
        &["```tool_code\n```"],
    );
    check(
        ToolFormat::FunctionGemma,
        &[
            "<start_function_call>call:get_weather{days:2,city:<escape>Oslo<escape>,unit:<escape>c<escape>}<end_function_call>\
           <start_function_call>call:now{}<end_function_call>",
        ],
        &["<start_function_call>call:get_weather{days:2}<end_function_call>"],
    );
    check(
        ToolFormat::Gemma4,
        &["<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>}<tool_call|>"],
        &["<|tool_call>call:get_weather{city:Oslo}<tool_call|>"],
    );
}

#[test]
fn a_named_choice_allows_that_tool_only_and_parallel_can_be_off() {
    let tools = tools();
    let named = ToolChoice::Named("now".to_owned());
    let mut ask = GrammarRequest {
        choice: &named,
        ..request(ToolFormat::Hermes, &tools)
    };
    let now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let grammar = tool_grammar(&ask).unwrap().unwrap();
    assert!(accepts(lark(&grammar), now) && accepts(lark(&grammar), &format!("{now}\n{now}")));
    assert!(!accepts(
        lark(&grammar),
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"}}\n</tool_call>"
    ));
    ask.parallel = false;
    for format in ToolFormat::all() {
        ask.format = format;
        let grammar = tool_grammar(&ask).unwrap().unwrap();
        matcher(lark(&grammar));
    }
    ask.format = ToolFormat::Hermes;
    let grammar = tool_grammar(&ask).unwrap().unwrap();
    assert!(accepts(lark(&grammar), now) && !accepts(lark(&grammar), &format!("{now}\n{now}")));
}

#[test]
fn a_thought_may_come_first() {
    let tools = tools();
    let tags = ReasoningTags::default();
    let now = "{\"tool_call\": {\"name\": \"now\", \"arguments\": {}}}";
    let open = tool_grammar(&GrammarRequest {
        thought: Thought::Open(tags),
        ..request(ToolFormat::Generic, &tools)
    });
    let open = open.unwrap().unwrap();
    assert!(accepts(
        lark(&open),
        &format!("Well, {{}}.\n</think>\n\n{now}")
    ));
    assert!(!accepts(lark(&open), now));
    let possible = tool_grammar(&GrammarRequest {
        thought: Thought::Possible(tags),
        ..request(ToolFormat::Generic, &tools)
    });
    let possible = possible.unwrap().unwrap();
    assert!(accepts(lark(&possible), now));
    assert!(accepts(lark(&possible), &format!("<think>a</think>{now}")));
    assert!(!accepts(lark(&possible), "<think>a</think>Done."));
}

#[test]
fn control_tokens_are_used_where_markers_are_some() {
    // The single-byte test vocabulary has `<|tool|>` as token 256 and `<|/tool|>` as 257.
    let token = |text: &str| match text {
        "[TOOL_CALLS]" => Some(256),
        "[ARGS]" => Some(257),
        _ => None,
    };
    let tools = tools();
    let grammar = tool_grammar(&GrammarRequest {
        control_token: &token,
        ..request(ToolFormat::MistralArgs, &tools)
    });
    let grammar = grammar.unwrap().unwrap();
    let tokens: Vec<u32> = [256]
        .into_iter()
        .chain(b"now".iter().map(|b| u32::from(*b)))
        .chain([257, u32::from(b'{'), u32::from(b'}')])
        .collect();
    let mut matcher = matcher(lark(&grammar));
    assert_eq!(matcher.try_consume_tokens(&tokens).unwrap(), tokens.len());
    assert!(matcher.is_accepting().unwrap());
    assert!(!accepts(lark(&grammar), "[TOOL_CALLS]now[ARGS]{}"));
}

#[test]
fn strict_tools_bind_calls_in_free_text() {
    let auto = ToolChoice::Auto;
    let grammar = |tools: &[ToolDefinition]| {
        let ask = GrammarRequest {
            choice: &auto,
            ..request(ToolFormat::Hermes, tools)
        };
        tool_grammar(&ask).unwrap()
    };
    let mut tools = tools();
    assert_eq!(grammar(&tools), None);
    tools[0].strict = Some(true);
    let grammar = grammar(&tools).unwrap();
    let call = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    let bad = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"town\": \"Oslo\"}}\n</tool_call>";
    for good in ["Just text < 3.", call, &format!("Hm.\n{call}\n{call}\nSo.")] {
        assert!(accepts(lark(&grammar), good), "{good}\n{}", lark(&grammar));
    }
    for bad in [bad, &format!("Hm. {bad}"), &format!("{call}{bad}")] {
        assert!(!accepts(lark(&grammar), bad), "{bad}");
    }
}

#[test]
fn what_a_format_cannot_express_becomes_generic() {
    let tools = [ToolDefinition {
        name: "set".to_owned(),
        parameters: Some(json!({
            "type": "object",
            "properties": {"a-b": {"$ref": "#/$defs/list"}},
            "required": ["a-b"],
            "$defs": {"list": {"type": "array", "items": {"type": "integer"}}},
        })),
        ..ToolDefinition::default()
    }];
    for format in [ToolFormat::Lfm2, ToolFormat::Gemma4] {
        let grammar = tool_grammar(&request(format, &tools)).unwrap().unwrap();
        assert_eq!(grammar.format, ToolFormat::Generic);
        assert!(accepts(
            lark(&grammar),
            "{\"tool_call\": {\"name\": \"set\", \"arguments\": {\"a-b\": [1, 2]}}}"
        ));
    }
}

#[test]
fn choices_that_cannot_be_met_are_errors() {
    let ask = request(ToolFormat::Hermes, &[]);
    assert_eq!(tool_grammar(&ask), Err(GrammarError::NoTools));
    let named = ToolChoice::Named("x".to_owned());
    let ask = GrammarRequest {
        choice: &named,
        ..ask
    };
    assert_eq!(
        tool_grammar(&ask).unwrap_err().to_string(),
        "tool_choice names the tool \"x\", which the request does not offer"
    );
    let none = ToolChoice::None;
    let ask = GrammarRequest {
        choice: &none,
        ..ask
    };
    assert_eq!(tool_grammar(&ask), Ok(None));
}
