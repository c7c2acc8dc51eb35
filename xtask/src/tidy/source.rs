//! Rules over the Rust files: lengths, escapes from lints, banned words.

use crate::shell::{self, program, root};
use anyhow::{Context, Result};
use proc_macro2::Span;
use std::fs;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A function fits a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// A file, its tests not counted.
const FILE_LINES_MAX: usize = 800;

/// Functions that may be longer, as `path::name`, each with its reason. A
/// ratchet: entries leave, none come.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// What may not stand in a source file, and why. Split, so that this file passes.
const BANNED: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "fix it or open an issue"),
    (concat!("TO", "DO"), "finish it or open an issue"),
    (concat!("XX", "X"), "fix it or open an issue"),
    (concat!("to", "do!("), "finish it"),
    (concat!("unimpl", "emented!("), "finish it"),
    (concat!("dbg", "!("), "a leftover of debugging"),
    (
        concat!("unwrap_", "unchecked"),
        "undefined behaviour when wrong",
    ),
    (
        concat!("#[ig", "nore"),
        "a test that does not run is no test",
    ),
];

/// How the C bindings are named in source; only the `llama` crate may.
const LLAMA_BINDINGS: &str = concat!("llama_cpp_", "sys");

/// Adds what is wrong to `findings`; returns how many files it saw.
pub(super) fn check(findings: &mut Vec<String>) -> Result<usize> {
    let arguments = ["ls-files", "-co", "--exclude-standard", "--", "*.rs"];
    let list = shell::output(&mut program("git", &arguments))?;
    let mut files = 0;
    for path in list.lines() {
        // Deleted but not committed yet.
        let Ok(text) = fs::read_to_string(root().join(path)) else {
            continue;
        };
        files += 1;
        one_file(path, &text, findings).with_context(|| format!("{path} does not parse"))?;
    }
    Ok(files)
}

fn one_file(path: &str, text: &str, findings: &mut Vec<String>) -> Result<()> {
    for (index, line) in text.lines().enumerate() {
        for (word, reason) in BANNED {
            if has_word(line, word) {
                findings.push(format!("{path}:{}: {word}: {reason}", index + 1));
            }
        }
        if line.contains(LLAMA_BINDINGS) && !path.starts_with("crates/llama/") {
            findings.push(format!(
                "{path}:{}: only crates/llama may name the C bindings",
                index + 1
            ));
        }
    }
    let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if is_root && !text.starts_with("//!") && !text.contains("\n//!") {
        findings.push(format!("{path}: no module doc (//!) says what this is"));
    }
    let file = syn::parse_file(text)?;
    let mut reader = Reader {
        path,
        findings,
        test_lines: 0,
    };
    reader.visit_file(&file);
    let lines = text.lines().count() - reader.test_lines;
    if lines > FILE_LINES_MAX && !is_test_file(path) {
        findings.push(format!(
            "{path}: {lines} lines without tests; the limit is {FILE_LINES_MAX}: split it"
        ));
    }
    Ok(())
}

/// Whether `word` stands in the line by itself: not inside a longer word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let joins = |inner: bool, c: Option<char>| {
            inner && c.is_some_and(|c| c.is_alphanumeric() || c == '_')
        };
        let starts = joins(word.starts_with(char::is_alphanumeric), before);
        let ends = joins(word.ends_with(char::is_alphanumeric), after);
        !starts && !ends
    })
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

struct Reader<'a> {
    path: &'a str,
    findings: &'a mut Vec<String>,
    /// Lines inside `#[cfg(test)]` modules.
    test_lines: usize,
}

impl Reader<'_> {
    fn function(&mut self, name: &str, signature: Span, body: Span) {
        let lines = body.end().line - signature.start().line + 1;
        let key = format!("{}::{name}", self.path);
        let allowed = LONG_FUNCTIONS.iter().any(|(long, _)| *long == key);
        if lines > FUNCTION_LINES_MAX && !allowed && !is_test_file(self.path) {
            self.findings.push(format!(
                "{}:{}: {name} has {lines} lines; the limit is {FUNCTION_LINES_MAX}",
                self.path,
                signature.start().line
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|word| word == "test")
        });
        if is_test {
            let span = item.span();
            self.test_lines += span.end().line - span.start().line + 1;
            return;
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let name = item.sig.ident.to_string();
        self.function(&name, item.sig.span(), item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let name = item.sig.ident.to_string();
        self.function(&name, item.sig.span(), item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let line = attribute.span().start().line;
        let text = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        if attribute.path().is_ident("allow") {
            self.findings.push(format!(
                "{}:{line}: use #[expect(lint, reason = \"...\")], not allow",
                self.path
            ));
        }
        if attribute.path().is_ident("expect") && !text.contains("reason =") {
            self.findings
                .push(format!("{}:{line}: this expect gives no reason", self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_of(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        one_file(path, text, &mut findings).unwrap();
        findings
    }

    #[test]
    fn escapes_are_found_and_reasons_accepted() {
        let cases = [
            ("#[allow(dead_code)]\nfn f() {}\n", 1),
            ("#[expect(dead_code)]\nfn f() {}\n", 1),
            ("#[expect(dead_code, reason = \"why\")]\nfn f() {}\n", 0),
            (concat!("// FIX", "ME later\n"), 1),
            (concat!("// \\uXX", "XX is an escape\n"), 0),
            (concat!("use llama_cpp_", "sys_2::llama_model;\n"), 1),
        ];
        for (text, faults) in cases {
            let found = findings_of("crates/x/src/a.rs", text);
            assert_eq!(found.len(), faults, "{text}: {found:?}");
        }
    }

    #[test]
    fn a_function_may_fill_a_screen_and_no_more() {
        let long = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
        assert_eq!(findings_of("crates/x/src/a.rs", &long(70)).len(), 0);
        assert_eq!(findings_of("crates/x/src/a.rs", &long(71)).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", long(900));
        assert_eq!(findings_of("crates/x/src/a.rs", &tests).len(), 0);
    }

    #[test]
    fn a_crate_says_what_it_is() {
        assert_eq!(findings_of("crates/x/src/lib.rs", "fn f() {}\n").len(), 1);
        assert_eq!(findings_of("crates/x/src/lib.rs", "//! Yes.\n").len(), 0);
    }
}
