//! The workbench: its build, its own tests, and the suite that drives it in a browser.

use crate::models::{self, SMOLLM2};
use crate::server::{Server, free_port};
use crate::shell::{self, cargo, program, root, sextant, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs in the browser, in this order.
const SUITES: [&str; 3] = [
    "e2e/suite.test.mjs",
    "e2e/live.test.mjs",
    "e2e/pace.test.mjs",
];

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Where the pictures of all pages go; `target/ui-shots` by default.
    #[arg(long)]
    shots: Option<PathBuf>,
    /// Only tests whose names have this.
    #[arg(long)]
    filter: Option<String>,
    /// Does without what cannot be installed here, and says so.
    #[arg(long)]
    if_possible: bool,
}

impl Arguments {
    /// As CI runs it.
    pub(crate) fn if_possible() -> Self {
        Self {
            if_possible: true,
            ..Self::default()
        }
    }
}

/// Builds the pages, if node is here; the next build of the binary embeds them.
pub(crate) fn build() -> Result<()> {
    shell::run(&mut program("sh", &["scripts/ui.sh"]))
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !has("node") || !has("npm") {
        return cannot(
            arguments,
            "node and npm are not installed; 'make setup' does that",
        );
    }
    build()?;
    let folder = root().join("ui");
    for script in ["types", "check", "test", "size"] {
        let mut npm = program("npm", &["run", "--silent", script]);
        shell::run(npm.current_dir(&folder))?;
    }
    let Some(chromium) = chromium()? else {
        return cannot(
            arguments,
            "there is no chromium, and apt-get cannot install it here",
        );
    };
    // The pages are in the binary.
    shell::run(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "--workspace",
    ]))?;
    let data = target_dir().join("ui-test");
    if data.exists() {
        fs::remove_dir_all(&data).with_context(|| format!("{}", data.display()))?;
    }
    let model = models::ensure(&SMOLLM2)?;
    let server = serve(&data.join("one"), Some(&model))?;
    let empty = serve(&data.join("empty"), None)?;
    let port = free_port()?;
    let own = command(&data.join("own"), Some(&model), port)?;
    let with_host = with_host(&data.join("own"), &server.base)?;
    let shots = arguments.shots.clone();
    let shots = shots.unwrap_or_else(|| target_dir().join("ui-shots"));
    fs::create_dir_all(&shots)?;
    let flags = ["--test", "--test-concurrency=1", "--test-reporter=spec"];
    let mut suite = program("node", &flags);
    if let Some(filter) = &arguments.filter {
        suite.arg(format!("--test-name-pattern={filter}"));
    }
    suite.args(SUITES).current_dir(&folder);
    for (name, value) in [
        ("BASE", server.base.clone()),
        ("EMPTY_BASE", empty.base.clone()),
        ("SERVER_PID", server.pid().to_string()),
        ("MODEL_PATH", model.to_string_lossy().into_owned()),
        ("OWN_BASE", format!("http://127.0.0.1:{port}")),
        ("OWN_SERVER", described(&own)),
        ("WITH_HOST", with_host.to_string_lossy().into_owned()),
    ] {
        suite.env(name, value);
    }
    suite.env("CHROMIUM", &chromium).env("SHOTS", &shots);
    if let Err(error) = shell::run(&mut suite) {
        bail!("{error:#}; {}", server.told());
    }
    eprintln!("pictures of all pages are in {}", shots.display());
    Ok(())
}

fn cannot(arguments: &Arguments, why: &str) -> Result<()> {
    if arguments.if_possible {
        eprintln!("SKIPPED: {why}");
        return Ok(());
    }
    bail!("{why}")
}

fn has(name: &str) -> bool {
    shell::works(Command::new(name).arg("--version"))
}

/// A server with a home of its own, so that no model and no chat of the user's is in it.
pub(crate) fn serve(home: &Path, model: Option<&Path>) -> Result<Server> {
    let port = free_port()?;
    let command = command(home, model, port)?;
    Server::start("sextant-ui", command, port, "/health").and_then(|mut server| {
        if model.is_some() {
            server.wait_ready()?;
        }
        Ok(server)
    })
}

fn command(home: &Path, model: Option<&Path>, port: u16) -> Result<Command> {
    fs::create_dir_all(home)?;
    let mut command = Command::new(sextant());
    command.arg("serve");
    if let Some(model) = model {
        command
            .arg(model)
            .args(["--context", "2048", "--slots", "2"]);
    }
    command.args([
        "--discovery=false",
        "--listen",
        &format!("127.0.0.1:{port}"),
    ]);
    for (name, folder) in [
        ("HOME", ""),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_DATA_HOME", "data"),
        ("SEXTANT_DATA_DIR", "data"),
        ("HF_HOME", "hf"),
        ("OLLAMA_MODELS", "ollama"),
    ] {
        command.env(name, home.join(folder));
    }
    Ok(command)
}

/// A configuration that has another endpoint as a host, and routes nothing to it.
fn with_host(home: &Path, base: &str) -> Result<PathBuf> {
    let path = home.join("sextant.toml");
    let text =
        format!("[[providers]]\nname = 'board'\nkind = 'sextant'\nurl = '{base}'\nweight = 0\n");
    fs::write(&path, text)?;
    Ok(path)
}

/// A command for a test that starts and kills it by itself, as JSON.
fn described(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_string_lossy(), value?.to_string_lossy())));
    json!({
        "program": command.get_program().to_string_lossy(),
        "args": words.collect::<Vec<_>>(),
        "env": variables.collect::<BTreeMap<_, _>>(),
    })
    .to_string()
}

/// Debian's Chromium; installed where that is possible and it is missing.
fn chromium() -> Result<Option<PathBuf>> {
    let find = || {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let folders = ["/usr/bin", "/usr/local/bin", "/snap/bin"];
        let paths = folders
            .iter()
            .flat_map(|folder| names.iter().map(move |name| Path::new(folder).join(name)));
        let mut found = paths.filter(|path| path.is_file());
        found.next()
    };
    if let Some(found) = find() {
        return Ok(Some(found));
    }
    let is_root = shell::output(&mut program("id", &["-u"]))?.trim() == "0";
    if is_root && has("apt-get") {
        let install = [
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            "chromium",
            "fonts-dejavu-core",
        ];
        let mut apt = program("apt-get", &install);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        // Where it fails there is none, which is told.
        let _ = shell::run(&mut program("apt-get", &["update", "-q"]));
        let _ = shell::run(&mut apt);
    }
    Ok(find())
}
