//! Running other programs, and where things lie.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Where cargo builds, as an absolute path.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The release binary that the suites and benches run.
pub(crate) fn sextant() -> PathBuf {
    target_dir().join("release/sextant")
}

/// A program, to be run in the repository's root.
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root());
    command
}

/// Cargo itself.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    cargo_tool("cargo", arguments)
}

/// A program that runs cargo, without what the cargo that runs this one told it about
/// itself: build scripts see a change of that and build their crates again.
pub(crate) fn cargo_tool(name: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = program(name, arguments);
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs a command with its output shown; a failure names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// What a command prints on standard output; its errors are shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", line(command)))
}

/// Whether a command starts and succeeds; it stays silent.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as a person would type it, paths inside the repository shortened.
fn line(command: &Command) -> String {
    let prefix = format!("{}/", root().display());
    let mut words = vec![command.get_program().to_string_lossy().replace(&prefix, "")];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().replace(&prefix, "")),
    );
    words.join(" ")
}
