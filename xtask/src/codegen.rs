//! Reference documents that come from code, so that they cannot drift from it.

use crate::shell::root;
use anyhow::{Result, bail};
use std::fmt::Write;
use std::fs;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Changes nothing; fails when a file is not up to date.
    #[arg(long)]
    pub(crate) check: bool,
}

struct Document {
    path: &'static str,
    text: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut stale = Vec::new();
    for document in documents() {
        let path = root().join(document.path);
        if fs::read_to_string(&path).is_ok_and(|found| found == document.text) {
            continue;
        }
        stale.push(document.path);
        if !arguments.check {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, &document.text)?;
            println!("written: {}", document.path);
        }
    }
    if arguments.check && !stale.is_empty() {
        bail!(
            "not up to date: {}; run 'cargo xtask codegen' and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

fn documents() -> Vec<Document> {
    vec![
        Document {
            path: "docs/reference/settings.md",
            text: config::reference_markdown(),
        },
        Document {
            path: "docs/reference/errors.md",
            text: errors(),
        },
        Document {
            path: "docs/reference/openapi.json",
            text: gateway::openapi_json().trim_end().to_owned() + "\n",
        },
    ]
}

const ERRORS_HEAD: &str = "\
# Errors

<!-- Generated from the error table; do not edit. -->

Every error is a JSON object with `message`, `type`, `param` (the field at fault, or null),
`code` and `hint`, inside `error`. Branch on `code`: it does not change. Inside a stream,
where the status is already sent, the same object comes as an event; a last chunk with
`finish_reason` `length` follows, without which some agents ask again for ever, and the
stream ends without `[DONE]`.

| code | status | type | fault | retry | message | what to do |
|---|---|---|---|---|---|---|
";

fn errors() -> String {
    let mut page = ERRORS_HEAD.to_owned();
    for row in gateway::error_table() {
        let retry = match (row.retryable, row.retry_after_s) {
            (false, None) => "no".to_owned(),
            (false, Some(seconds)) => format!("not before {seconds} s"),
            (true, None) => "yes".to_owned(),
            (true, Some(seconds)) => format!("after {seconds} s"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | `{}` | {} | {retry} | {} | {} |",
            row.code,
            row.status,
            row.kind,
            row.fault.name(),
            row.template.replace('|', "\\|"),
            row.hint.replace('|', "\\|"),
        );
    }
    page
}
