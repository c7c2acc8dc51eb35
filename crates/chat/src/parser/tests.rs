use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

/// An answer with its deltas joined.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Answer {
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    ids: Vec<String>,
    unfinished: u32,
}

impl Answer {
    fn take(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Text { text } => {
                    assert!(!text.is_empty());
                    self.text.push_str(&text);
                }
                Delta::Reasoning { text } => {
                    assert!(!text.is_empty());
                    self.reasoning.push_str(&text);
                }
                Delta::ToolCallStart { index, id, name } => {
                    assert_eq!(index as usize, self.calls.len());
                    self.calls.push((name, String::new()));
                    self.ids.push(id);
                }
                Delta::ToolCallArguments { index, text } => {
                    assert!(!text.is_empty());
                    assert_eq!(index as usize + 1, self.calls.len());
                    self.calls[index as usize].1.push_str(&text);
                }
            }
        }
    }
}

fn tools() -> Vec<ToolDefinition> {
    let tool = |name: &str, properties: Json| ToolDefinition {
        name: name.to_owned(),
        parameters: Some(json!({"type": "object", "properties": properties})),
        ..ToolDefinition::default()
    };
    vec![
        tool(
            "get_weather",
            json!({"city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"}}),
        ),
        tool(
            "write_file",
            json!({"path": {"type": "string"}, "content": {"type": "string"}, "tags": {"type": "array"}}),
        ),
        tool("now", json!({})),
    ]
}

fn spec(format: ToolFormat) -> OutputSpec {
    OutputSpec {
        format,
        tools: tools(),
        reasoning: Some(ReasoningTags::default()),
        starts_in_reasoning: false,
        id_seed: 1,
    }
}

fn read(spec: &OutputSpec, pieces: &[&str]) -> Answer {
    let mut parser = OutputParser::new(spec.clone());
    let mut answer = Answer::default();
    for piece in pieces {
        answer.take(parser.push(piece));
    }
    answer.take(parser.finish());
    answer.take(parser.finish());
    answer.unfinished = parser.unfinished_calls();
    assert_eq!(parser.had_tool_calls(), !answer.calls.is_empty());
    answer
}

/// Reads whole, by characters and cut in two at every place; all must agree.
fn read_all_ways(spec: &OutputSpec, output: &str) -> Answer {
    let whole = read(spec, &[output]);
    let mut buffer = [0; 4];
    let mut parser = OutputParser::new(spec.clone());
    let mut by_char = Answer::default();
    for c in output.chars() {
        by_char.take(parser.push(c.encode_utf8(&mut buffer)));
    }
    by_char.take(parser.finish());
    by_char.unfinished = parser.unfinished_calls();
    assert_eq!(whole, by_char, "{output}");
    for (at, _) in output.char_indices() {
        let (a, b) = output.split_at(at);
        assert_eq!(whole, read(spec, &[a, b]), "cut at {at}: {output}");
    }
    whole
}

/// `text` around the calls, and the calls as name and arguments.
fn check(format: ToolFormat, output: &str, text: &str, calls: &[(&str, Json)]) {
    let answer = read_all_ways(&spec(format), output);
    assert_eq!(answer.text, text, "{output}");
    let got: Vec<_> = answer
        .calls
        .iter()
        .map(|(name, arguments)| {
            let json = serde_json::from_str::<Json>(arguments);
            (
                name.as_str(),
                json.unwrap_or_else(|e| panic!("{e}: {arguments}")),
            )
        })
        .collect();
    assert_eq!(got, calls, "{output}");
    assert_eq!(answer.unfinished, 0);
}

fn weather(city: &str) -> (&'static str, Json) {
    ("get_weather", json!({"city": city}))
}

#[test]
fn hermes_calls() {
    use ToolFormat::Hermes;
    let oslo = r#"<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_call>"#;
    check(Hermes, oslo, "", &[weather("Oslo")]);
    check(
        Hermes,
        &format!("Let me look.\n\n{oslo}\n{oslo}\n"),
        "Let me look.\n\n",
        &[weather("Oslo"), weather("Oslo")],
    );
    check(
        Hermes,
        &format!("{oslo}\nDone."),
        "\nDone.",
        &[weather("Oslo")],
    );
    // Arguments first, as JSON text, missing, null, wrapped, or two calls in one tag.
    check(
        Hermes,
        r#"<tool_call>{"arguments": {"city": "Rio"}, "name": "get_weather"}</tool_call>"#,
        "",
        &[weather("Rio")],
    );
    check(
        Hermes,
        r#"<tool_call>{"name": "get_weather", "arguments": "{\"city\": \"Rio\"}"}</tool_call>"#,
        "",
        &[weather("Rio")],
    );
    for output in [
        r#"<tool_call>{"name": "now"}</tool_call>"#,
        r#"<tool_call>{"name": "now", "arguments": null}</tool_call>"#,
        r#"<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}, "id": 3}</tool_call>"#,
        r#"<tool_call>{"name": "now", "arguments": {}}"#,
        r#"<tool_call>{"name": "now", "arguments": {}}</tool_"#,
    ] {
        check(Hermes, output, "", &[("now", json!({}))]);
    }
    check(
        Hermes,
        r#"<tool_call>{"name":"now","arguments":{}}
{"name":"get_weather","arguments":{"city":"a}\"b"}}</tool_call>"#,
        "",
        &[("now", json!({})), weather("a}\"b")],
    );
    // A raw line break in a JSON string is repaired; a hallucinated name is passed on.
    check(
        Hermes,
        "<tool_call>{\"name\":\"search\",\"arguments\":{\"q\":\"a\nb\"}}</tool_call>",
        "",
        &[("search", json!({"q": "a\nb"}))],
    );
    // The closing tag is missing between two calls.
    check(
        Hermes,
        r#"<tool_call>{"name":"now","arguments":{}}<tool_call>{"name":"now","arguments":{}}</tool_call>"#,
        "",
        &[("now", json!({})), ("now", json!({}))],
    );
}

#[test]
fn what_is_no_call_comes_back_verbatim() {
    for output in [
        "Write <tool_call> to call a tool.",
        "<tool_call>",
        "<tool_call>{\"name\": 3}</tool_call>",
        "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>",
        "<tool_call>\n{\"nam",
        "a < b and <tool",
        "{\"name\": \"Bob\", \"arguments\": {\"x\": 1}}",
        "{\"city\": \"Oslo\"}",
        "{\"name\": \"now\"}",
        "[1, 2, 3]",
        "[get_weather]",
        "```json\n{\"a\": 1}\n```",
        "<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>",
        "[",
        "  \n",
    ] {
        check(ToolFormat::Hermes, output, output, &[]);
    }
    check(
        ToolFormat::Hermes,
        "<tool_call> {\"name\" <tool_call>{\"name\":\"now\"}</tool_call>",
        "<tool_call> {\"name\" ",
        &[("now", json!({}))],
    );
}

#[test]
fn without_tools_markers_are_text() {
    let spec = OutputSpec {
        tools: Vec::new(),
        ..spec(ToolFormat::Hermes)
    };
    let output = r#"<tool_call>{"name":"now","arguments":{}}</tool_call>"#;
    let answer = read_all_ways(&spec, output);
    assert_eq!((answer.text.as_str(), answer.calls.len()), (output, 0));
}

#[test]
fn xml_calls() {
    use ToolFormat::QwenXml;
    let output = "I'll write it.\n<tool_call>\n<function=write_file>\n<parameter=path>\na.txt\n</parameter>\n\
        <parameter=content>\nline \"1\"\n\n<b>2</b>\n</parameter>\n<parameter=tags>\n[\"x\", 1]\n</parameter>\n</function>\n</tool_call>";
    let call = (
        "write_file",
        json!({"path": "a.txt", "content": "line \"1\"\n\n<b>2</b>", "tags": ["x", 1]}),
    );
    check(
        QwenXml,
        output,
        "I'll write it.\n",
        std::slice::from_ref(&call),
    );
    // Without the outer tag, as Qwen3-Coder often writes.
    check(
        QwenXml,
        "<function=get_weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
         <parameter=metric>\nTrue\n</parameter>\n</function>",
        "",
        &[(
            "get_weather",
            json!({"city": "12", "days": 3, "metric": true}),
        )],
    );
    check(
        QwenXml,
        "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=now></function></tool_call>",
        "",
        &[("now", json!({})), ("now", json!({}))],
    );
    // Closing tags are missing, but every argument is complete.
    check(
        QwenXml,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</func",
        "",
        &[weather("Oslo")],
    );
}

#[test]
fn an_argument_that_broke_off_is_not_made_to_look_whole() {
    for (format, output) in [
        (
            ToolFormat::QwenXml,
            "<function=write_file>\n<parameter=content>\nhalf of the fi",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"write_file\", \"arguments\": {\"content\": \"half",
        ),
        (
            ToolFormat::Lfm2,
            "<|tool_call_start|>[write_file(content=\"half",
        ),
    ] {
        let answer = read_all_ways(&spec(format), output);
        assert_eq!((answer.calls.len(), answer.unfinished), (1, 1), "{output}");
        let (_, arguments) = &answer.calls[0];
        assert!(arguments.contains("half"));
        assert!(serde_json::from_str::<Json>(arguments).is_err());
    }
}

#[test]
fn llama_calls() {
    use ToolFormat::Llama3;
    check(
        Llama3,
        r#"{"name": "get_weather", "parameters": {"city": "Oslo"}}"#,
        "",
        &[weather("Oslo")],
    );
    check(
        Llama3,
        r#"<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}; {"name": "now", "parameters": {}}"#,
        "",
        &[weather("Oslo"), ("now", json!({}))],
    );
    check(
        Llama3,
        r#"{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}"#,
        "",
        &[weather("Oslo")],
    );
    check(
        Llama3,
        r#"<function=get_weather>{"city": "Oslo"}</function>"#,
        "",
        &[weather("Oslo")],
    );
    check(
        Llama3,
        r#"[get_weather(city='Oslo'), now()]"#,
        "",
        &[weather("Oslo"), ("now", json!({}))],
    );
    let code = "<|python_tag|>print(1)";
    check(Llama3, code, code, &[]);
}

#[test]
fn mistral_calls() {
    for format in [ToolFormat::Mistral, ToolFormat::MistralArgs] {
        check(
            format,
            r#"[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abc"}, {"name": "now", "arguments": {}}]"#,
            "",
            &[weather("Oslo"), ("now", json!({}))],
        );
        check(
            format,
            r#"Sure.[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}"#,
            "Sure.",
            &[weather("Oslo"), ("now", json!({}))],
        );
        check(
            format,
            r#"[TOOL_CALLS]get_weather{"city": "Oslo"}"#,
            "",
            &[weather("Oslo")],
        );
    }
    let answer = read(
        &spec(ToolFormat::Mistral),
        &["[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}"],
    );
    assert!(answer.ids.iter().all(|id| id.len() == 9));
    assert_ne!(answer.ids[0], answer.ids[1]);
    check(
        ToolFormat::Mistral,
        "[TOOL_CALLS]oops",
        "[TOOL_CALLS]oops",
        &[],
    );
}

#[test]
fn deepseek_calls() {
    let v3 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Oslo\"}\n```<｜tool▁call▁end｜>\n\
        <｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check(
        ToolFormat::DeepSeekV3,
        v3,
        "",
        &[weather("Oslo"), ("now", json!({}))],
    );
    let v31 = "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Oslo\"}<｜tool▁call▁end｜>\
        <｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check(
        ToolFormat::DeepSeekV31,
        v31,
        "Hm.",
        &[weather("Oslo"), ("now", json!({}))],
    );
    let open = "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>";
    check(ToolFormat::DeepSeekV31, open, "", &[("now", json!({}))]);
}

#[test]
fn glm_calls() {
    let output = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n\
        <arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>";
    check(
        ToolFormat::Glm,
        output,
        "",
        &[
            ("get_weather", json!({"city": "Oslo", "days": 3})),
            ("now", json!({})),
        ],
    );
    check(
        ToolFormat::Glm,
        "<tool_call>write_file<arg_key>content</arg_key><arg_value>\na</b>\n</arg_value></tool_call>",
        "",
        &[("write_file", json!({"content": "\na</b>\n"}))],
    );
}

#[test]
fn gemma_calls() {
    check(
        ToolFormat::FunctionGemma,
        "<start_function_call>call:write_file{path:<escape>a \"b\"<escape>,tags:[<escape>x<escape>,1,{k:true}]}<end_function_call>",
        "",
        &[(
            "write_file",
            json!({"path": "a \"b\"", "tags": ["x", 1, {"k": true}]}),
        )],
    );
    check(
        ToolFormat::FunctionGemma,
        "<start_function_call>call:now{}<end_function_call><start_function_call>call:now{}<end_function_call>",
        "",
        &[("now", json!({})), ("now", json!({}))],
    );
    check(
        ToolFormat::Gemma4,
        "<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>,days:3}<tool_call|>",
        "",
        &[("get_weather", json!({"city": "Oslo", "days": 3}))],
    );
    check(
        ToolFormat::GemmaCode,
        "Sure.\n```tool_code\nprint(get_weather(city=\"Oslo\"))\n```",
        "Sure.\n",
        &[weather("Oslo")],
    );
    check(
        ToolFormat::GemmaCode,
        "```tool_code\nget_weather(\"Oslo\", 3, True)\n```",
        "",
        &[(
            "get_weather",
            json!({"city": "Oslo", "days": 3, "metric": true}),
        )],
    );
}

#[test]
fn lfm_calls() {
    check(
        ToolFormat::Lfm2,
        "<|tool_call_start|>[write_file(path='it\\'s', content=\"a\\n\\\"b\\\"\", tags=[1, -2.5, None, {'k': True}, ('a',)]), now()]<|tool_call_end|>Calling.",
        "Calling.",
        &[
            (
                "write_file",
                json!({"path": "it's", "content": "a\n\"b\"", "tags": [1, -2.5, null, {"k": true}, ["a"]]}),
            ),
            ("now", json!({})),
        ],
    );
    check(
        ToolFormat::Lfm2,
        "<|tool_call_start|>[{\"name\": \"now\", \"arguments\": {}}]<|tool_call_end|>",
        "",
        &[("now", json!({}))],
    );
}

#[test]
fn every_format_reads_generic_calls() {
    for format in ToolFormat::all() {
        let one = r#"{"tool_call": {"name": "get_weather", "arguments": {"city": "Oslo"}}}"#;
        check(format, one, "", &[weather("Oslo")]);
        check(
            format,
            &format!("{one}\n{one}"),
            "",
            &[weather("Oslo"), weather("Oslo")],
        );
        check(
            format,
            &format!("```json\n{one}\n```"),
            "",
            &[weather("Oslo")],
        );
        check(format, &format!("[{one}]"), "", &[weather("Oslo")]);
    }
}

#[test]
fn generic_reads_the_markup_of_other_families() {
    for output in [
        r#"<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "now", "arguments": {}}]"#,
        r#"<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "now"}]</TOOLCALL>"#,
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n</function>\n</seed:tool_call><function=now></function>",
        r#"[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "now"}]"#,
        r#"<|tool_call_start|>[get_weather(city="Oslo"), now()]<|tool_call_end|>"#,
    ] {
        check(
            ToolFormat::Generic,
            output,
            "",
            &[weather("Oslo"), ("now", json!({}))],
        );
    }
}

#[test]
fn reasoning_is_split_off() {
    let spec = spec(ToolFormat::Hermes);
    for (output, reasoning, text) in [
        (
            "<think>\nOne.\n\nTwo.\n</think>\n\nAnswer.",
            "One.\n\nTwo.",
            "Answer.",
        ),
        ("<think>\n\n</think>\n\nAnswer.", "", "Answer."),
        ("</think>\n\nAnswer.", "", "Answer."),
        ("<think>never closed", "never closed", ""),
        ("<think>a</think>b<think>c", "a", "b<think>c"),
        ("Use the <think> tag.", "", "Use the <think> tag."),
        ("<think>a</think>\n<think>b</think>\nc", "ab", "c"),
        ("<thin", "", "<thin"),
        ("<think>x</thi", "x</thi", ""),
    ] {
        let answer = read_all_ways(&spec, output);
        assert_eq!(
            (answer.reasoning.as_str(), answer.text.as_str()),
            (reasoning, text)
        );
    }
    let inside = OutputSpec {
        starts_in_reasoning: true,
        ..spec.clone()
    };
    let answer = read_all_ways(&inside, "<think>\nHm.\n</think>\nYes.");
    assert_eq!(
        (answer.reasoning.as_str(), answer.text.as_str()),
        ("Hm.", "Yes.")
    );
    let kept = OutputSpec {
        reasoning: None,
        ..inside
    };
    let output = "Hm.\n</think>\nYes.";
    assert_eq!(read_all_ways(&kept, output).text, output);
}

#[test]
fn a_call_inside_an_unclosed_thought_is_found() {
    let spec = spec(ToolFormat::Hermes);
    let answer = read_all_ways(
        &spec,
        "<think>I need <tool_call> now.\n<tool_call>{\"name\": \"now\"}</tool_call>",
    );
    assert_eq!(answer.reasoning, "I need <tool_call> now.");
    assert_eq!(answer.calls.len(), 1);
    // Only offered names count there.
    let answer = read_all_ways(
        &spec,
        "<think><tool_call>{\"name\": \"x\"}</tool_call></think>y",
    );
    assert_eq!(answer.reasoning, "<tool_call>{\"name\": \"x\"}</tool_call>");
    assert_eq!((answer.text.as_str(), answer.calls.len()), ("y", 0));
}

#[test]
fn text_is_not_held_longer_than_needed() {
    let mut parser = OutputParser::new(spec(ToolFormat::Hermes));
    let text = |text: &str| vec![Delta::Text { text: text.into() }];
    assert_eq!(parser.push("Hello"), text("Hello"));
    assert_eq!(parser.push(" <"), text(" "));
    assert_eq!(parser.push("b>"), text("<b>"));
    assert_eq!(
        parser.push("<tool_call>{\"name\": \"now\", \"arguments\": {\"a\""),
        vec![
            Delta::ToolCallStart {
                index: 0,
                id: IdGenerator::new(1).long_id(),
                name: "now".into()
            },
            Delta::ToolCallArguments {
                index: 0,
                text: "{\"a\"".into()
            },
        ]
    );
    let mut parser = OutputParser::new(spec(ToolFormat::QwenXml));
    parser.push("<function=write_file><parameter=content>\n");
    assert_eq!(
        parser.push("some text"),
        vec![Delta::ToolCallArguments {
            index: 0,
            text: "some text".into()
        }]
    );
}

#[test]
fn what_is_held_back_is_limited() {
    let mut output = String::from("<tool_call>{\"arguments\": {\"a\": \"");
    output.push_str(&"x".repeat(CALL_HELD_BYTES_MAX));
    let mut parser = OutputParser::new(spec(ToolFormat::Hermes));
    let mut answer = Answer::default();
    answer.take(parser.push(&output));
    assert_eq!(answer.text, output);
    // Nested failures stop being read again at some point, and still lose nothing.
    let mut output = String::new();
    for _ in 0..40 {
        output.push_str("<tool_call>{\"arguments\": {\"a\": \"");
        output.push_str(&"x".repeat(CALL_HELD_BYTES_MAX / 2));
    }
    let answer = read(&spec(ToolFormat::Hermes), &[&output]);
    assert_eq!(answer.text, output);
}

/// Pieces that look like what parsers must tell apart.
fn fragment() -> impl Strategy<Value = String> {
    let known: Vec<&'static str> = vec![
        "<tool_call>",
        "</tool_call>",
        "<function=now>",
        "<function=write_file>",
        "<parameter=content>",
        "</parameter>",
        "</function>",
        "{\"name\": \"now\", ",
        "\"arguments\": {",
        "\"a\": \"b\"",
        "}}",
        "}",
        "{\"tool_call\": ",
        "[TOOL_CALLS]",
        "[",
        "]",
        "now",
        "get_weather",
        "[ARGS]",
        "{}",
        "<|python_tag|>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "```json\n",
        "```",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<start_function_call>",
        "call:",
        "<escape>",
        "<end_function_call>",
        "<|tool_call>",
        "<|\"|>",
        "<tool_call|>",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "(",
        ")",
        "city=\"x\"",
        "```tool_code\n",
        "<think>",
        "</think>",
        "\n",
        " ",
        "\\",
        "\"",
        "<",
        "text",
        "é",
    ];
    prop_oneof![
        6 => proptest::sample::select(known).prop_map(str::to_owned),
        1 => ".{0,4}",
    ]
}

fn format() -> impl Strategy<Value = ToolFormat> {
    proptest::sample::select(ToolFormat::all().collect::<Vec<_>>())
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn cuts_do_not_matter(
        format in format(),
        fragments in proptest::collection::vec(fragment(), 0..14),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        starts_in_reasoning: bool,
    ) {
        let output = fragments.concat();
        let spec = OutputSpec { starts_in_reasoning, ..spec(format) };
        let places: Vec<usize> = output.char_indices().map(|(i, _)| i).chain([output.len()]).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| *cut.get(&places)).collect();
        at.sort_unstable();
        let mut pieces = Vec::new();
        let mut last = 0;
        for place in at {
            pieces.push(&output[last..place]);
            last = place;
        }
        pieces.push(&output[last..]);
        prop_assert_eq!(read(&spec, &[&output]), read(&spec, &pieces));
    }

    #[test]
    fn nothing_is_lost(format in format(), fragments in proptest::collection::vec(fragment(), 0..14)) {
        let output = fragments.concat();
        let answer = read(&OutputSpec { reasoning: None, ..spec(format) }, &[&output]);
        if answer.calls.is_empty() {
            prop_assert_eq!(&answer.text, &output);
        }
        // With calls, the text is what stands around them.
        let mut rest = output.chars();
        prop_assert!(answer.text.chars().all(|c| rest.any(|other| other == c)));

        let answer = read(&spec(format), &[&output]);
        if answer.calls.is_empty() {
            let tags = ReasoningTags::default();
            let plain = |text: &str| without_space(&text.replace(tags.open, "").replace(tags.close, ""));
            let mut expected: Vec<char> = plain(&output).chars().collect();
            let mut got: Vec<char> = plain(&format!("{}{}", answer.reasoning, answer.text)).chars().collect();
            expected.sort_unstable();
            got.sort_unstable();
            prop_assert_eq!(got, expected);
        }
        let n_finished = answer.calls.len() - answer.unfinished as usize;
        let has_arguments = answer.calls.iter().filter(|(_, arguments)| !arguments.is_empty()).count();
        prop_assert!(has_arguments >= n_finished);
    }

    #[test]
    fn arbitrary_text_never_panics(format in format(), output in "\\PC{0,200}") {
        let answer = read(&spec(format), &[&output]);
        if answer.calls.is_empty() && answer.reasoning.is_empty() {
            prop_assert_eq!(without_space(&answer.text), without_space(&output));
        }
    }
}
