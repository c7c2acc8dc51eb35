//! Documents and tables that come from code, so that they cannot drift from it.

use crate::shell::{self, cargo, root};
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::fs;
use std::path::Path;

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
    for document in documents()? {
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

fn documents() -> Result<Vec<Document>> {
    Ok(vec![
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
        Document {
            path: "crates/models/src/architectures.txt",
            text: architectures()?,
        },
    ])
}

/// The package that llama.cpp comes in.
const LLAMA_PACKAGE: &str = "llama-cpp-sys-2";
/// The names in llama.cpp's table that are no models'.
const NO_MODELS: [&str; 2] = ["clip", "(unknown)"];

/// The architectures that the llama.cpp in our workers has, from its own table, a name a line.
fn architectures() -> Result<String> {
    let arguments = ["metadata", "--format-version", "1", "--locked"];
    let metadata: serde_json::Value =
        serde_json::from_str(&shell::output(&mut cargo(&arguments))?)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = packages.iter().find(|one| one["name"] == LLAMA_PACKAGE);
    let manifest = package.and_then(|one| one["manifest_path"].as_str());
    let folder = manifest.and_then(|path| Path::new(path).parent());
    let folder = folder.with_context(|| format!("{LLAMA_PACKAGE} is not in the workspace"))?;
    let path = folder.join("llama.cpp/src/llama-arch.cpp");
    let source = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let table = source
        .split_once("LLM_ARCH_NAMES = {")
        .and_then(|(_, rest)| Some(rest.split_once("};")?.0))
        .with_context(|| format!("{} has no table of names", path.display()))?;
    let names = table.lines().filter_map(|line| line.split('"').nth(1));
    let mut names: Vec<&str> = names.filter(|name| !NO_MODELS.contains(name)).collect();
    names.sort_unstable();
    if names.is_empty() {
        bail!("the table of names in {} is empty", path.display());
    }
    Ok(names.join("\n") + "\n")
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
