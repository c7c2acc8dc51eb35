use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::rng::Rng;
use crate::vocabulary::tests::{END, TOOL, TURN_END, small};

fn factory() -> &'static ConstraintFactory {
    static FACTORY: OnceLock<ConstraintFactory> = OnceLock::new();
    FACTORY.get_or_init(|| ConstraintFactory::new(small()).unwrap())
}

fn compile(grammar: &Grammar) -> Constraint {
    factory()
        .compile(grammar)
        .unwrap_or_else(|error| panic!("{grammar:?}: {error}"))
}

fn schema(json: Value) -> Grammar {
    Grammar::JsonSchema(json)
}

fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(TokenId::from).collect()
}

/// Whether the text, byte by byte, is a whole answer.
fn accepts(grammar: &Grammar, text: &str) -> bool {
    let mut constraint = compile(grammar);
    bytes(text)
        .into_iter()
        .all(|t| constraint.accept(t).is_ok())
        && constraint.is_complete()
}

/// Generates at random under the mask, checking the contract at every step.
/// `None` when the answer does not end in time.
fn walk(mut constraint: Constraint, rng: &mut Rng) -> Option<String> {
    let vocabulary = small();
    let mut text = Vec::new();
    for step in 0..400 {
        let mask = constraint.mask().unwrap().clone();
        assert_eq!(mask.is_allowed(END), constraint.is_complete());
        assert_eq!(mask.is_allowed(TURN_END), constraint.is_complete());
        let allowed: Vec<TokenId> = mask.iter().collect();
        assert!(!allowed.is_empty());
        let forbidden = (rng.next_u64() % vocabulary.n_tokens() as u64) as TokenId;
        if !mask.is_allowed(forbidden) {
            let rejected = StepError::Rejected { token: forbidden };
            assert_eq!(constraint.accept(forbidden), Err(rejected));
        }
        let closes = |t: &&TokenId| {
            vocabulary.is_end(**t) || vocabulary.bytes(**t).iter().any(|b| b"\"}]\n".contains(b))
        };
        let closing: Vec<TokenId> = allowed.iter().filter(closes).copied().collect();
        let pool = if step > 40 && !closing.is_empty() && rng.next_f64() < 0.7 {
            closing
        } else {
            allowed
        };
        let token = pool[(rng.next_u64() % pool.len() as u64) as usize];
        constraint.accept(token).unwrap();
        if vocabulary.is_end(token) {
            assert!(constraint.is_stopped() && constraint.is_complete());
            return Some(String::from_utf8(text).unwrap());
        }
        text.extend_from_slice(vocabulary.bytes(token));
    }
    None
}

fn walks(grammar: &Grammar, n: usize, mut check: impl FnMut(&str)) {
    let start = compile(grammar);
    let mut rng = Rng::new(11);
    let finished: Vec<String> = (0..n)
        .filter_map(|_| walk(start.fork(), &mut rng))
        .collect();
    assert!(
        finished.len() * 2 > n,
        "{} of {n} walks ended: {grammar:?}",
        finished.len()
    );
    finished.iter().for_each(|text| check(text));
}

#[test]
fn random_answers_satisfy_their_schema() {
    let schemas = [
        json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
            "required": ["name", "age"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
        json!({"type": "object", "properties": {"b": {"type": "boolean"}}, "additionalProperties": {"type": "null"}, "required": ["b"]}),
        json!({"type": "array", "items": {"enum": ["a", "日本", 1, null, true]}, "minItems": 1, "maxItems": 4}),
        json!({"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "string", "maxLength": 3}], "items": false, "minItems": 2}),
        json!({"anyOf": [{"type": "string", "minLength": 2, "maxLength": 5}, {"const": {"kind": [1, "x"]}}, {"type": "null"}]}),
        json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "value": {"type": "integer"}}, "required": ["kind", "value"], "additionalProperties": false},
            {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"], "additionalProperties": false}]}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 3}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 99}}, "additionalProperties": false}]}),
        json!({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["value", "next"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"type": "string", "pattern": "^[a-c]{2,3}(-[0-9]+)?$"}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "object", "patternProperties": {"^a": {"type": "boolean"}}, "additionalProperties": false, "maxProperties": 3}),
        json!({"type": "object", "additionalProperties": {"type": "integer", "maximum": 9, "minimum": 0}, "minProperties": 1, "maxProperties": 2}),
        json!({"type": "integer", "exclusiveMinimum": -5, "maximum": 1000}),
        json!({"type": "integer", "format": "uint8"}),
        json!({"type": ["string", "null"], "title": "t", "description": "d", "x-order": 1}),
        json!({"type": "number", "minimum": -1.5, "maximum": 2.25}),
    ];
    for json in schemas {
        let validator = jsonschema::validator_for(&json).unwrap();
        walks(&schema(json.clone()), 12, |text| {
            let value: Value = match serde_json::from_str(text) {
                Ok(value) => value,
                // JSON does not bound numbers; this parser does.
                Err(error) if error.to_string().starts_with("number out of range") => return,
                Err(error) => panic!("{text:?}: {error}"),
            };
            assert!(validator.is_valid(&value), "{text} against {json}");
            assert_eq!(text.trim(), text);
        });
    }
}

#[test]
fn a_json_object_is_an_object_without_padding() {
    walks(&Grammar::JsonObject, 12, |text| {
        // Numbers such as 1e999 are JSON but no f64, so only the shape is checked here.
        assert!(text.starts_with('{') && text.ends_with('}'), "{text:?}");
        assert!(!text.contains('\n') && !text.contains('\t'));
    });
    for (text, expected) in [
        ("{}", true),
        ("{\"a\": [1, 2, {\"b\": null}], \"c\": \"x\\n\"}", true),
        ("{\"a\":[1,2]}", true),
        (" {}", false),
        ("{} ", false),
        ("{\n}", false),
        ("{\"a\":  1}", false),
        ("[1]", false),
        ("{\"\\u0061\": 1}", false),
    ] {
        assert_eq!(accepts(&Grammar::JsonObject, text), expected, "{text:?}");
    }
}

#[test]
fn a_listed_key_cannot_be_spelled_another_way() {
    let grammar = schema(json!({"properties": {"a": {"type": "integer"}}, "type": "object"}));
    assert!(accepts(&grammar, "{\"a\": 1, \"b\": \"x\"}"));
    assert!(!accepts(&grammar, "{\"\\u0061\": \"x\"}"));
    assert!(!accepts(&grammar, "{\"a\": 1, \"a\": \"x\"}"));
}

#[test]
fn properties_come_in_the_order_of_the_schema() {
    let grammar = schema(
        json!({"type": "object", "properties": {"z": {"const": 1}, "a": {"const": 2}}, "required": ["a", "z"]}),
    );
    assert!(accepts(&grammar, "{\"z\": 1, \"a\": 2}"));
    assert!(!accepts(&grammar, "{\"a\": 2, \"z\": 1}"));
}

#[test]
fn random_answers_match_their_regex() {
    let patterns = [
        "[a-z]{3}-[0-9]+",
        "^(yes|no|maybe)$",
        "日本?é+",
        r"\d{4}-\d{2}",
        r"(?i)ab*c\.",
        r"a/b\\c",
        "x*",
        "🙂{1,2}",
    ];
    for pattern in patterns {
        let whole = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        walks(&Grammar::Regex(pattern.to_string()), 12, |text| {
            assert!(whole.is_match(text), "{text:?} against {pattern}");
        });
    }
}

#[test]
fn random_answers_follow_gbnf() {
    let json = "root ::= object\nvalue ::= object | array | string | num | (\"true\" | \"false\" | \"null\")\n\
        object ::= \"{\" (string \":\" value (\",\" string \":\" value)*)? \"}\"\n\
        array ::= \"[\" (value (\",\" value)*)? \"]\"\n\
        string ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" [\"\\\\bfnrt])* \"\\\"\"\n\
        num ::= \"-\"? ([0-9] | [1-9] [0-9]{0,15}) (\".\" [0-9]+)?";
    walks(&Grammar::Gbnf(json.to_string()), 12, |text| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!(value.is_object());
    });
    let list = "root ::= item+\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\"";
    let whole = regex::Regex::new("^(- [^\\r\\n]+\\n)+$").unwrap();
    walks(&Grammar::Gbnf(list.to_string()), 12, |text| {
        assert!(whole.is_match(text), "{text:?}");
    });
}

#[test]
fn gbnf_keeps_its_meaning_where_a_longest_match_lexer_would_not() {
    // After `en` the lexer must still be able to read letters; recursion keeps it off the regex path.
    let letters = Grammar::Gbnf("root ::= \"(\" root \")\" | [a-z]+ \"end\"".to_string());
    for (text, expected) in [
        ("enxend", true),
        ("endend", true),
        ("((aendend))", true),
        ("end", false),
        ("(aend", false),
    ] {
        assert_eq!(accepts(&letters, text), expected, "{text}");
    }
    let arithmetic = Grammar::Gbnf(
        "root  ::= (expr \"=\" ws term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\n\
         term  ::= ident | num | \"(\" ws expr \")\" ws\nident ::= [a-z] [a-z0-9_]* ws\n\
         num   ::= [0-9]+ ws\nws    ::= [ \\t\\n]*"
            .to_string(),
    );
    assert!(accepts(&arithmetic, "(a1 +2)*b = 7\nx=y\n"));
    assert!(!accepts(&arithmetic, "1+=2\n"));
    let chess = Grammar::Gbnf(
        "root ::= \"1. \" move \" \" move \"\\n\" ([1-9] [0-9]? \". \" move \" \" move \"\\n\")+\n\
         move ::= (pawn | nonpawn | castle) [+#]?\n\
         nonpawn ::= [NBKQR] [a-h]? [1-8]? \"x\"? [a-h] [1-8]\n\
         pawn ::= ([a-h] \"x\")? [a-h] [1-8] (\"=\" [NBKQR])?\ncastle ::= \"O-O\" \"-O\"?"
            .to_string(),
    );
    assert!(accepts(&chess, "1. e4 e5\n2. Nf3 Nc6\n3. O-O-O exd8=Q+\n"));
    assert!(!accepts(&chess, "1. e9 e5\n"));
}

#[test]
fn control_tokens_come_only_where_a_grammar_names_them() {
    for grammar in [
        Grammar::Lark("start: \"x\" <tool> %json {\"type\": \"boolean\"}".to_string()),
        Grammar::Gbnf("root ::= \"x\" <tool> (\"true\" | \"false\")".to_string()),
    ] {
        let mut constraint = compile(&grammar);
        assert!(!constraint.mask().unwrap().is_allowed(TOOL));
        assert_eq!(
            constraint.accept(TOOL),
            Err(StepError::Rejected { token: TOOL })
        );
        constraint.accept(b'x'.into()).unwrap();
        assert_eq!(
            constraint.mask().unwrap().iter().collect::<Vec<_>>(),
            [TOOL]
        );
        constraint.accept(TOOL).unwrap();
        for token in bytes("true") {
            constraint.accept(token).unwrap();
        }
        assert!(constraint.is_complete() && constraint.is_stopped());
    }
}

#[test]
fn the_end_of_an_answer() {
    let mut constraint = compile(&Grammar::Regex("ab?".to_string()));
    assert!(!constraint.is_complete());
    assert_eq!(
        constraint.accept(END),
        Err(StepError::Rejected { token: END })
    );
    constraint.accept(b'a'.into()).unwrap();
    assert!(constraint.is_complete() && !constraint.is_stopped());
    let mut ended_early = constraint.fork();
    ended_early.accept(TURN_END).unwrap();
    assert!(ended_early.is_stopped() && ended_early.is_complete());
    assert!(ended_early.accept(b'b'.into()).is_err());
    constraint.accept(b'b'.into()).unwrap();
    assert!(constraint.is_stopped());
    assert_eq!(
        constraint.mask().unwrap().iter().collect::<Vec<_>>(),
        [END, TURN_END]
    );
    constraint.accept(END).unwrap();
    constraint.accept(END).unwrap();
    assert!(constraint.accept(b'b'.into()).is_err());
}

#[test]
fn forks_go_their_own_ways() {
    let mut left = compile(&Grammar::Regex("a(b|c)".to_string()));
    left.accept(b'a'.into()).unwrap();
    let mut right = left.fork();
    left.accept(b'b'.into()).unwrap();
    assert!(left.is_stopped() && !right.is_stopped());
    right.accept(b'c'.into()).unwrap();
    assert!(right.is_stopped());
}

#[test]
fn characters_may_be_split_over_tokens() {
    let grammar = schema(json!({"const": "🙂日"}));
    let vocabulary = small();
    let mut constraint = compile(&grammar);
    constraint.accept(b'"'.into()).unwrap();
    let half = |bytes: &[u8]| {
        let found = vocabulary.pieces().find(|(_, piece)| *piece == bytes);
        found.unwrap().0
    };
    for part in [&[0xf0, 0x9f][..], &[0x99, 0x82], &[0xe6], &[0x97], &[0xa5]] {
        constraint.accept(half(part)).unwrap();
    }
    assert!(constraint.accept(0xff).is_err());
    constraint.accept(b'"'.into()).unwrap();
    assert!(constraint.is_complete());
}

#[test]
fn schemas_nothing_satisfies_are_contradictory() {
    let table = [
        json!(false),
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"type": "array", "minItems": 2, "maxItems": 1}),
        json!({"enum": []}),
        json!({"const": 1, "type": "string"}),
        json!({"allOf": [{"type": "string"}, {"type": "integer"}]}),
        json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
        json!({"type": "object", "required": ["a", "b"], "maxProperties": 1}),
        json!({"type": "string", "pattern": "^a$", "minLength": 2}),
    ];
    for json in table {
        let error = factory().compile(&schema(json.clone())).unwrap_err();
        assert!(
            matches!(error, ConstraintError::Contradictory { .. }),
            "{json}: {error:?}"
        );
    }
}

#[test]
fn what_the_engine_cannot_enforce_is_named() {
    let table = [
        (
            json!({"properties": {"k": {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 3}]}}}),
            "oneOf",
            "/properties/k",
        ),
        (
            json!({"items": {"patternProperties": {"^a": true, "b$": {"type": "null"}}}}),
            "patternProperties",
            "/items",
        ),
        (
            json!({"type": "object", "properties": {"a": true, "b": true}, "minProperties": 1}),
            "minProperties",
            "",
        ),
    ];
    for (json, keyword, pointer) in table {
        match factory().compile(&schema(json.clone())).unwrap_err() {
            ConstraintError::Unsupported {
                keyword: k,
                pointer: p,
                ..
            } => assert_eq!((k.as_str(), p.as_str()), (keyword, pointer), "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    }
}

#[test]
fn broken_grammars_are_invalid() {
    let text = str::to_string;
    let table = [
        Grammar::Regex(text("")),
        Grammar::Regex(text("^$")),
        Grammar::Regex(text("a\\")),
        Grammar::Regex(text("(")),
        Grammar::Regex(text("(?=a)b")),
        Grammar::Regex(text(r"(a)\1")),
        Grammar::Regex(text("a^b")),
        Grammar::Regex(text(r"\bword\b")),
        Grammar::Lark(text("")),
        Grammar::Lark(text("start: unknown")),
        Grammar::Lark(text("start: \"a")),
        Grammar::Lark(text("start: <nosuchtoken>")),
        Grammar::Lark(text("start: @other")),
        Grammar::Gbnf(text("root ::= x")),
        schema(json!(3)),
        schema(json!({"type": "strin"})),
        schema(json!({"minLength": -1})),
    ];
    for pattern in ["(?!a)", "[", "(a"] {
        match factory().compile(&schema(json!({"type": "string", "pattern": pattern}))) {
            Err(ConstraintError::Unsupported {
                keyword, message, ..
            }) => {
                assert_eq!(keyword, "pattern");
                assert!(
                    !message.ends_with(':') && !message.ends_with(":)"),
                    "{message}"
                );
            }
            other => panic!("{pattern}: {other:?}"),
        }
    }
    for grammar in table {
        match factory().compile(&grammar) {
            Err(ConstraintError::Invalid { message }) => {
                assert!(
                    !message.is_empty() && !message.contains("backtrace"),
                    "{message}"
                );
            }
            other => panic!("{grammar:?}: {other:?}"),
        }
    }
}

#[test]
fn hostile_grammars_cost_bounded_time() {
    let big = |n: usize| "a".repeat(n);
    let mut doubling = serde_json::Map::new();
    for i in 0..60 {
        let next = format!("#/$defs/d{}", (i + 1) % 60);
        doubling.insert(format!("d{i}"), json!({"allOf": [{"$ref": next}, {"$ref": next, "type": "object"}], "properties": {"x": {"$ref": next}}}));
    }
    let product: Vec<Value> = (0..20)
        .map(|i| json!({"anyOf": (0..10).map(|j| json!({"required": [format!("p{i}{j}")]})).collect::<Vec<_>>()}))
        .collect();
    let deep = (0..200).fold(json!({}), |inner, _| json!({"items": inner}));
    let table = [
        Grammar::Regex("(((a{1,500}){1,500}){1,500}b){1,500}".to_string()),
        Grammar::Regex("(a|b)*a(a|b){400}c(a|b){400}".to_string()),
        Grammar::Regex("(.*a.*b.*c.*d.*e.*f.*g.*h.*){30}".to_string()),
        Grammar::Regex("(".repeat(8000)),
        Grammar::Regex(format!("{}a{}", "(".repeat(4000), ")".repeat(4000))),
        Grammar::Regex(big(REGEX_BYTES_MAX + 1)),
        Grammar::Lark(big(GRAMMAR_BYTES_MAX + 1)),
        Grammar::Lark(format!(
            "start: {}\"a\"{}",
            "(".repeat(50_000),
            ")".repeat(50_000)
        )),
        Grammar::Gbnf(big(GRAMMAR_BYTES_MAX + 1)),
        schema(json!({"$defs": doubling, "$ref": "#/$defs/d0"})),
        schema(chain(3000)),
        schema(json!({"allOf": product})),
        schema(json!({"$ref": "#"})),
        schema(json!({"allOf": [{"$ref": "#"}]})),
        schema(deep),
        schema(json!({"description": big(schema::SCHEMA_BYTES_MAX)})),
        schema(json!({"type": "string", "pattern": "^(a|b)*a(a|b){30}$", "minLength": 20})),
    ];
    for grammar in table {
        let label: String = format!("{grammar:?}").chars().take(80).collect();
        let start = Instant::now();
        if let Ok(mut constraint) = factory().compile(&grammar) {
            // What compiles stays bounded while it runs.
            let mut rng = Rng::new(5);
            for _ in 0..30 {
                let Ok(mask) = constraint.mask() else { break };
                let allowed: Vec<TokenId> = mask.iter().collect();
                let token = allowed[(rng.next_u64() % allowed.len() as u64) as usize];
                if constraint.accept(token).is_err() {
                    break;
                }
            }
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}: {label}");
    }
}

#[test]
fn named_limits_are_named_errors() {
    let deep = (0..70).fold(json!({}), |inner, _| json!({"items": inner}));
    let table = [
        (
            Grammar::Regex("a".repeat(REGEX_BYTES_MAX + 1)),
            "bytes of the regex: 16385 is over the limit of 16384",
        ),
        (
            Grammar::Lark("a".repeat(GRAMMAR_BYTES_MAX + 1)),
            "bytes of the Lark grammar: 262145 is over the limit of 262144",
        ),
        (
            Grammar::Gbnf("a".repeat(GRAMMAR_BYTES_MAX + 1)),
            "bytes of the GBNF grammar: 262145 is over the limit of 262144",
        ),
        (
            schema(json!({"title": "a".repeat(schema::SCHEMA_BYTES_MAX)})),
            "bytes of the JSON Schema: 262156 is over the limit of 262144",
        ),
        (
            schema(deep),
            "nesting of the JSON Schema: 65 is over the limit of 64",
        ),
    ];
    for (grammar, message) in table {
        assert_eq!(
            factory().compile(&grammar).unwrap_err().to_string(),
            message
        );
    }
}

#[test]
fn constraints_can_move_between_threads() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync>() {}
    sendable::<Constraint>();
    shareable::<ConstraintFactory>();
    shareable::<Vocabulary>();
}

/// `n` definitions, each inside the next by reference and by an `allOf`.
fn chain(n: usize) -> Value {
    let definitions: serde_json::Map<String, Value> = (0..n)
        .map(|i| {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            let body = json!({"type": ["string", "null"], "allOf": [next]});
            (format!("d{i}"), body)
        })
        .chain([(format!("d{n}"), json!({"type": "null"}))])
        .collect();
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

#[test]
fn the_longest_chain_of_references_fits_the_stack() {
    assert!(accepts(&schema(chain(748)), "null"));
    let error = factory().compile(&schema(chain(749))).unwrap_err();
    let message = "levels of referenced schemas in the JSON Schema: 1501 is over the limit of 1500";
    assert_eq!(error.to_string(), message);
}
