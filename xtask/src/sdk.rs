//! The official SDKs of OpenAI, Anthropic and Ollama, and what others build on them, against
//! the real server with the real model.

use crate::models::{self, SMOLLM2};
use crate::server::{Server, Setting, data_dir};
use crate::shell::{self, program, root, sextant, target_dir};
use crate::tools::{Install, node_packages, python_environment};
use anyhow::{Result, bail};
use std::process::Command;

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Only this suite: python, frameworks or node.
    #[arg(long)]
    only: Option<Suite>,
    /// Passed on to pytest (-k) or node (--test-name-pattern).
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Suite {
    Python,
    /// `LangChain` and `LiteLLM`, which want other versions of the SDKs.
    Frameworks,
    Node,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !sextant().is_file() {
        bail!(
            "there is no {}; run 'make build' first",
            sextant().display()
        );
    }
    let setting = Setting {
        model: models::ensure(&SMOLLM2)?,
        threads: 2,
        slots: 4,
        context_per_slot: 2048,
        our_flags: Vec::new(),
        peer_flags: Vec::new(),
    };
    let wanted = |suite| arguments.only.is_none_or(|only| only == suite);
    let mut suites = Vec::new();
    if wanted(Suite::Python) {
        suites.push(("Python", python("python", arguments)?));
    }
    if wanted(Suite::Frameworks) {
        suites.push(("frameworks", python("frameworks", arguments)?));
    }
    if wanted(Suite::Node) {
        suites.push(("Node", node(arguments)?));
    }
    let server = Server::ours(&setting)?;
    let mut failed = Vec::new();
    for (name, mut command) in suites {
        command.env("SEXTANT_DATA_DIR", data_dir());
        command.env("SEXTANT_BASE_URL", format!("{}/v1", server.base));
        if let Err(error) = shell::run(&mut command) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "SDK suites failed: {}; {}",
            failed.join(", "),
            server.told()
        );
    }
    Ok(())
}

/// The suite in a folder of `tests/sdk`, in an environment of its own.
fn python(name: &str, arguments: &Arguments) -> Result<Command> {
    let folder = target_dir().join(format!("sdk-{name}"));
    let suite = root().join("tests/sdk").join(name);
    python_environment(&folder, &suite.join("requirements.txt"))?;
    let mut command = program(folder.join("bin/python"), &["-m", "pytest"]);
    command.current_dir(&suite).args(["-p", "no:cacheprovider"]);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(filter) = &arguments.filter {
        command.args(["-k", filter]);
    }
    Ok(command)
}

fn node(arguments: &Arguments) -> Result<Command> {
    let suite = root().join("tests/sdk/node");
    node_packages(&suite, Install::Exact)?;
    // One file after the other: what runs beside a request changes how it rounds.
    let flags = ["--test", "--test-concurrency=1", "--test-reporter=spec"];
    let mut command = program("node", &flags);
    command.current_dir(&suite);
    if let Some(filter) = &arguments.filter {
        command.arg(format!("--test-name-pattern={filter}"));
    }
    command.args(["suite.test.mjs", "responses.test.mjs", "ai.test.mjs"]);
    Ok(command)
}
