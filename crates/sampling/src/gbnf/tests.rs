use super::*;

const ARITHMETIC: &str = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;

#[test]
fn a_grammar_without_recursion_becomes_one_regex() {
    let table = [
        ("root ::= \"ab\"", r"start: /ab/"),
        (
            "root ::= [a-f] x+\nx ::= [^\"\\n]",
            r"start: /[a-f](?:[^\x{22}\x{a}]){1,}/",
        ),
        ("root ::= \"a\" | \"/\" .", r"start: /(?:a|\x{2f}(?s:.))/"),
        (
            "root ::= \"\\u65e5\"{2,3} [\\x41-\\x43-]?",
            r"start: /(?:\x{65e5}){2,3}(?:[A-C\x{2d}]){0,1}/",
        ),
        (
            "root ::= \"a\"{2} \"b\"{1,} # note\nunused ::= [a]",
            r"start: /(?:a){2,2}(?:b){1,}/",
        ),
    ];
    for (gbnf, lark) in table {
        assert_eq!(to_lark(gbnf).unwrap(), format!("{lark}\n"), "{gbnf}");
    }
}

#[test]
fn recursion_becomes_rules_with_one_lexeme_a_character() {
    let lark = to_lark("root ::= \"[\" (root (\",\" root)*)? \"]\"").unwrap();
    let expected = "start: r0\nr0: /\\x{5b}/ g0? /\\x{5d}/\ng0: r0 g1*\ng1: /\\x{2c}/ r0\n";
    assert_eq!(lark, expected);
    let names = to_lark("root ::= My-Rule | \"\"\nMy-Rule ::= \"x\" root {0}").unwrap();
    assert_eq!(names, "start: r0\nr0: r1 | \"\"\nr1: /x/ \"\"\n");
    assert!(
        to_lark(ARITHMETIC)
            .unwrap()
            .starts_with("start: r0\nr0: g0+\n")
    );
}

#[test]
fn newlines_end_rules_but_not_groups_or_alternatives() {
    let one = to_lark("root ::= \"a\" ( \"b\"\n | # note\n \"c\" ) \"d\"").unwrap();
    let two = to_lark("root ::=\n  \"a\" (\"b\" | \"c\") \"d\"\r\n").unwrap();
    assert_eq!(one, two);
    let three = to_lark("root ::= \"a\"\n  | \"b\"\nx ::= \"c\"").unwrap();
    assert_eq!(three, "start: /(?:a|b)/\n");
}

#[test]
fn errors_name_line_and_column() {
    let table = [
        ("", "line 1, column 1: the grammar has no rule `root`"),
        (
            "x ::= \"a\"",
            "line 1, column 10: the grammar has no rule `root`",
        ),
        ("root ::= a\n", "line 1, column 10: rule `a` is not defined"),
        (
            "root = \"a\"",
            "line 1, column 6: `::=` is expected after the rule name",
        ),
        (
            "root ::= \"a\nb\"",
            "line 1, column 10: the string is not closed",
        ),
        ("root ::= [a-", "line 1, column 10: the class is not closed"),
        (
            "root ::= [z-a]",
            "line 1, column 11: the range ends before it begins",
        ),
        (
            "root ::= []",
            "line 1, column 10: the class is empty, so nothing matches it",
        ),
        (
            "root ::= (\"a\"",
            "line 1, column 10: the parenthesis is not closed",
        ),
        (
            "root ::= \"a\")",
            "line 1, column 13: `)` is not expected here",
        ),
        (
            "root ::= *",
            "line 1, column 10: there is nothing to repeat here",
        ),
        (
            "root ::= \"é\" \"\\q\"",
            "line 1, column 15: `\\q` is not an escape",
        ),
        (
            "root ::= \"\\x4\"",
            "line 1, column 11: 2 hex digits of a character are expected",
        ),
        (
            "root ::= \"\\uD800\"",
            "line 1, column 11: 4 hex digits of a character are expected",
        ),
        (
            "root ::= \"a\"{3,2}",
            "line 1, column 13: the second count is below the first",
        ),
        (
            "root ::= \"a\"{9999}",
            "line 1, column 14: count 9999 is over the limit of 2000",
        ),
        (
            "root ::= \"a\"{,2}",
            "line 1, column 14: a count is expected",
        ),
        (
            "root ::= \"a\"{2",
            "line 1, column 15: `}` is expected after the count",
        ),
        (
            "root ::= \"a\"\n\n  root ::= \"b\"",
            "line 3, column 3: rule `root` is defined twice",
        ),
        (
            "root ::= !<think>",
            "line 1, column 10: negated tokens are not supported",
        ),
        (
            "root ::= <",
            "line 1, column 10: a token such as <think> is expected",
        ),
        ("::= \"a\"", "line 1, column 1: a rule name is expected"),
        (
            "root ::= \"a\" é",
            "line 1, column 14: `é` is not expected here",
        ),
    ];
    for (gbnf, message) in table {
        let error = to_lark(gbnf).unwrap_err();
        assert_eq!(error.to_string(), format!("GBNF {message}"), "{gbnf}");
    }
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(65), ")".repeat(65));
    assert_eq!(
        to_lark(&deep).unwrap_err().message,
        "parentheses and repetitions nest deeper than 64"
    );
}

#[test]
fn repetitions_of_repetitions_are_one_or_have_a_limit() {
    let table = [
        ("\"a\"**", "(?:a){0,}"),
        ("\"a\"++", "(?:a){1,}"),
        ("\"a\"+?", "(?:a){0,}"),
        ("\"a\"??", "(?:a){0,1}"),
        ("(\"a\"?)+", "(?:a){0,}"),
        ("\"a\"*{2}", "(?:(?:a){0,}){2,2}"),
    ];
    for (gbnf, regex) in table {
        let lark = to_lark(&format!("root ::= {gbnf}")).unwrap();
        assert_eq!(lark, format!("start: /{regex}/\n"), "{gbnf}");
    }
    let long = format!("root ::= \"a\"{}", "*".repeat(250_000));
    assert_eq!(to_lark(&long).unwrap(), "start: /(?:a){0,}/\n");
    let deep = format!("root ::= \"a\"{} root", "{2}".repeat(80_000));
    assert_eq!(
        to_lark(&deep).unwrap_err().to_string(),
        "GBNF line 1, column 205: parentheses and repetitions nest deeper than 64"
    );
}

#[test]
fn growth_is_bounded() {
    // Each rule doubles the one before: 2^40 characters as a regex.
    let mut text = String::from("root ::= a0\n");
    for i in 0..40 {
        text.push_str(&format!("a{i} ::= a{} a{}\n", i + 1, i + 1));
    }
    text.push_str("a40 ::= \"x\"\n");
    let lark = to_lark(&text).unwrap();
    assert!(lark.len() < 2_000, "{}", lark.len());
    // Each option is a regex of 16,000 bytes.
    let long = format!("x ::= \"{}\"\n", "a".repeat(16_000));
    let text = format!("root ::= x{}\n{long}", " | x".repeat(50_000));
    assert!(to_lark(&text).unwrap().len() < 1_000_000);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_translator_panic(text in "(root|::=|[a-c]|[\\[\\](){}|*+?^\\\\\"<>.!#,-]|[0-9]|\n| |é){0,60}") {
        let _ = to_lark(&text);
        let _ = to_lark(&format!("root ::= {text}"));
    }
}
