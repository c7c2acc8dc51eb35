//! Coding agents, driven through a whole task against the release binary:
//! `tests/agents/run.py` says how. This installs them, at the versions that are pinned
//! there, into the target folder: about 2 GB.

use crate::models::{self, SMOLLM2};
use crate::shell::{self, program, root, sextant, target_dir};
use crate::tools::{Install, node_packages, python_environment};
use anyhow::{Result, bail};
use std::fs;

/// What has to be copied into place after the download; nothing else of npm's scripts runs.
const WITH_BINARIES: [&str; 2] = ["@anthropic-ai/claude-code", "opencode-ai"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this agent; may be repeated.
    #[arg(long)]
    agent: Vec<String>,
    /// `SmolLM2` answers in place of the script.
    #[arg(long)]
    real: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !sextant().is_file() {
        bail!(
            "there is no {}; run 'make build' first",
            sextant().display()
        );
    }
    let suite = root().join("tests/agents");
    let folder = target_dir().join("agents");
    python_environment(&folder.join("aider"), &suite.join("requirements.txt"))?;
    let packages = folder.join("npm");
    fs::create_dir_all(&packages)?;
    for file in ["package.json", "package-lock.json", ".npmrc"] {
        fs::copy(suite.join(file), packages.join(file))?;
    }
    if node_packages(&packages, Install::WithoutOptional)? {
        let mut rebuild = program("npm", &["rebuild"]);
        shell::run(rebuild.args(WITH_BINARIES).current_dir(&packages))?;
    }
    let mut command = program("python3", &["-B"]);
    command.arg(suite.join("run.py"));
    command.arg("--binary").arg(sextant());
    command.arg("--programs").arg(&folder);
    command.arg("--runs").arg(folder.join("runs"));
    for agent in &arguments.agent {
        command.arg("--agent").arg(agent);
    }
    if arguments.real {
        command.arg("--real").arg("--model");
        command.arg(models::ensure(&SMOLLM2)?);
    }
    shell::run(&mut command)
}
