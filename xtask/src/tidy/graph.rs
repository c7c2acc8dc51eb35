//! The table of levels, and `ARCHITECTURE.md` as its mirror.

use crate::shell::{self, cargo, root};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;

/// A crate may depend only on crates of lower levels. `xtask` stands outside.
const LEVELS: &[&[&str]] = &[
    &[
        "confine", "stdx", "kernels", "kv", "prefix", "process", "router", "testkit", "tuner",
        "webui",
    ],
    &["bench", "ggml-plugin", "hardware"],
    &[
        "llama", "proto", "models", "sampling", "config", "store", "traces",
    ],
    &["engine", "chat", "planner", "providers"],
    &["doctor", "worker", "supervisor"],
    &["gateway"],
    &["cli"],
];

/// Crates with unsafe code, which state their own lints.
const UNSAFE_ISLANDS: &[&str] = &["llama", "ggml-plugin", "kernels"];

/// The one crate that may touch llama.cpp's C interface.
const LLAMA_OWNER: &str = "llama";
const LLAMA_BINDINGS: &str = "llama-cpp-sys-2";

const ARCHITECTURE_LINES_MAX: usize = 200;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
    path: Option<String>,
}

/// Adds what is wrong to `findings`; returns how many crates it saw.
pub(super) fn check(findings: &mut Vec<String>) -> Result<usize> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    let metadata: Metadata = serde_json::from_str(&shell::output(&mut cargo(&arguments))?)
        .context("cargo metadata is not as expected")?;
    let crates: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|package| package.name != "xtask")
        .collect();
    for package in &crates {
        edges(package, findings);
        manifest(package, findings)?;
    }
    for name in LEVELS.concat() {
        if !crates.iter().any(|package| package.name == name) {
            findings.push(format!(
                "{name} is in the table of levels (xtask/src/tidy/graph.rs) but not in the workspace"
            ));
        }
    }
    architecture(&crates, findings)?;
    Ok(crates.len())
}

fn level(name: &str) -> Option<usize> {
    LEVELS.iter().position(|crates| crates.contains(&name))
}

fn edges(package: &Package, findings: &mut Vec<String>) {
    let name = &package.name;
    let Some(own) = level(name) else {
        findings.push(format!(
            "{name} has no level; add it to the table in xtask/src/tidy/graph.rs"
        ));
        return;
    };
    for dependency in &package.dependencies {
        if dependency.name == LLAMA_BINDINGS && name != LLAMA_OWNER {
            findings.push(format!(
                "{name} depends on {LLAMA_BINDINGS}; only {LLAMA_OWNER} may"
            ));
        }
        let exempt = dependency.kind.as_deref() == Some("dev") || dependency.path.is_none();
        if exempt {
            continue;
        }
        match level(&dependency.name) {
            Some(other) if other < own => {}
            Some(other) => findings.push(format!(
                "{name} (level {own}) depends on {} (level {other}); edges go down only",
                dependency.name
            )),
            None => findings.push(format!(
                "{name} depends on {}, which has no level",
                dependency.name
            )),
        }
    }
}

/// Every crate takes the workspace's lints, but for the unsafe islands.
fn manifest(package: &Package, findings: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(&package.manifest_path)?;
    if !UNSAFE_ISLANDS.contains(&package.name.as_str())
        && !text.contains("[lints]\nworkspace = true")
    {
        findings.push(format!(
            "{} does not take the workspace's lints ([lints] workspace = true)",
            package.name
        ));
    }
    Ok(())
}

fn architecture(crates: &[&Package], findings: &mut Vec<String>) -> Result<()> {
    let path = root().join("ARCHITECTURE.md");
    if !path.exists() {
        eprintln!("tidy: there is no ARCHITECTURE.md yet");
        return Ok(());
    }
    let text = fs::read_to_string(path)?;
    let lines = text.lines().count();
    if lines >= ARCHITECTURE_LINES_MAX {
        findings.push(format!(
            "ARCHITECTURE.md has {lines} lines; it must stay under {ARCHITECTURE_LINES_MAX}"
        ));
    }
    for package in crates {
        if !text.contains(&format!("`{}`", package.name)) {
            findings.push(format!("ARCHITECTURE.md does not name `{}`", package.name));
        }
    }
    for name in named_folders(&text) {
        if !root().join("crates").join(&name).is_dir() {
            findings.push(format!(
                "ARCHITECTURE.md names crates/{name}, which does not exist"
            ));
        }
    }
    Ok(())
}

/// Every NAME of a `crates/NAME` in the text.
fn named_folders(text: &str) -> BTreeSet<String> {
    text.split("crates/")
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                .collect::<String>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Package {
        Package {
            name: name.into(),
            manifest_path: String::new(),
            dependencies: vec![Dependency {
                name: dependency.into(),
                kind: kind.map(Into::into),
                path: Some(String::new()),
            }],
        }
    }

    #[test]
    fn an_edge_may_only_go_down() {
        for (from, to, kind, faults) in [
            ("gateway", "supervisor", None, 0),
            ("supervisor", "gateway", None, 1),
            ("worker", "supervisor", None, 1),
            ("supervisor", "gateway", Some("dev"), 0),
            ("gateway", "llama-cpp-sys-2", Some("dev"), 1),
            ("stranger", "stdx", None, 1),
        ] {
            let mut findings = Vec::new();
            edges(&package(from, to, kind), &mut findings);
            assert_eq!(findings.len(), faults, "{from} -> {to}: {findings:?}");
        }
    }

    #[test]
    fn folders_are_read_out_of_prose() {
        let found = named_folders("see `crates/stdx`, crates/llama-x. `crates/*` too");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["llama-x", "stdx"]);
    }
}
