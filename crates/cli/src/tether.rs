//! `sextant tether`: runs a program in its own place that ends when its parent does. Started
//! before the engines that we run, so that none outlives us however we end.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, anyhow, bail};
use clap::ArgMatches;

use crate::outcome::Outcome;

/// What goes before a command so that it ends with this process. Where the system has nothing
/// like it, nothing: then an engine outlives us if we are killed.
pub(crate) fn prefix() -> anyhow::Result<Vec<OsString>> {
    if !cfg!(target_os = "linux") {
        return Ok(Vec::new());
    }
    let program = std::env::current_exe().context("this program cannot be found")?;
    let parent = std::process::id().to_string();
    let rest = ["tether", "--parent", &parent, "--"];
    let rest = rest.into_iter().map(OsString::from);
    Ok(std::iter::once(program.into()).chain(rest).collect())
}

/// Becomes the program, so it returns only with an error.
pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let parent = matches.get_one::<i32>("parent");
    let parent = parent.ok_or_else(|| anyhow!("--parent is missing"))?;
    let mut words = matches.get_many::<OsString>("command").unwrap_or_default();
    let program = words.next().ok_or_else(|| anyhow!("there is no command"))?;
    tie(*parent)?;
    let error = Command::new(program).args(words).exec();
    let program = program.display();
    Err(anyhow!(error).context(format!("`{program}` could not be started")))?
}

#[cfg(target_os = "linux")]
fn tie(parent: i32) -> anyhow::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))
        .context("the kernel does not watch over our parent")?;
    // It may have ended before.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        bail!("the process {parent} that wanted this has ended");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn tie(_: i32) -> anyhow::Result<()> {
    bail!("there is no tether on this system")
}
