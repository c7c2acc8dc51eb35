//! `sextant hw`: what this machine is, which cores to compute on, and what stands in the way.

mod measured;
pub(crate) mod rates;
mod table;
mod view;

use std::path::{Path, PathBuf};

pub(crate) use self::measured::{int8_operations, int8_products, key};

use anyhow::Context as _;
use clap::ArgMatches;
use hardware::measure::Measured;
use hardware::storage::{self, Storage};
use hardware::warning::{self, Context, Warning};
use hardware::{Machine, Root};
use models::Environment;

use crate::outcome::{Code, Outcome, WithCode};
use crate::{configuration, models_here, output};

/// All that is shown.
struct Report {
    machine: Machine,
    storage: Option<Storage>,
    warnings: Vec<Warning>,
    measured: Result<Known, String>,
}

/// A measurement, and whether it is of this call.
struct Known {
    measured: Measured,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Now,
    /// Of an earlier call, this many seconds ago.
    Kept {
        age_secs: u64,
    },
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let environment = models_here::environment(&config);
    let root = match matches.get_one::<PathBuf>("root") {
        None => Root::live(),
        Some(path) => Root::open(path).code(Code::Usage)?,
    };
    let keeps = matches.get_flag("record");
    let root = if keeps { root.keeping() } else { root };
    let machine = Machine::read(&root);
    let folder = models_folder(&root, &environment, config.models_dir.as_deref());
    let storage = storage::of_folder(&root, &folder);
    if keeps {
        output::piece("# Source: `sextant hw --record` on the machine itself.\n")?;
        output::piece(&root.kept().to_string())?;
        return Ok(());
    }
    let context = Context {
        threads: config.threads,
        storage: storage.clone(),
    };
    let measured = if root.is_live() {
        let kept = file(&environment);
        let anew = matches.get_flag("measure");
        measured::get(&root, &machine, kept.as_deref(), anew)
    } else {
        Err("it is another machine's tree".to_owned())
    };
    let report = Report {
        warnings: warning::warnings(&machine, &context),
        machine,
        storage,
        measured,
    };
    if output::wants_json(matches) {
        output::json(&view::of(&report))?;
    } else {
        output::piece(&table::of(&report)).context("the report cannot be written")?;
    }
    Ok(())
}

/// Where measurements are kept.
fn file(environment: &Environment) -> Option<PathBuf> {
    let folder = environment.cache_dir()?;
    Some(folder.join("sextant/hardware.json"))
}

/// This machine with what an earlier `sextant hw` has measured of it, if it is as it was then.
pub(crate) fn kept(environment: &Environment) -> Option<(Machine, Measured)> {
    let machine = Machine::read(&Root::live());
    let measured = measured::kept(&machine, &file(environment)?)?;
    Some((machine, measured))
}

/// Where models lie, with links followed as far as it exists: on another machine's tree the
/// folder that is configured, else all of it.
pub(crate) fn models_folder(
    root: &Root,
    environment: &Environment,
    configured: Option<&Path>,
) -> PathBuf {
    if !root.is_live() {
        return configured.unwrap_or(Path::new("/")).to_owned();
    }
    let folder = environment
        .own_store()
        .unwrap_or_else(|| PathBuf::from("/"));
    let found = folder
        .ancestors()
        .find_map(|folder| folder.canonicalize().ok());
    found.unwrap_or(folder)
}
