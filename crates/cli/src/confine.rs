//! `sextant confine`: becomes a program that can do no harm. Started by ourselves, for code
//! that a model wrote.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use confine::{Confinement, Limits, Outcome as Ended, Run};

use crate::outcome::Outcome;

/// What is left after the program's own processor time for it to be started and ended.
const SLACK: Duration = Duration::from_secs(5);

pub(crate) fn command() -> Command {
    let option = |name: &'static str| Arg::new(name).long(name);
    let number = |name: &'static str| option(name).value_parser(value_parser!(u64)).required(true);
    let path = |name: &'static str| option(name).value_parser(value_parser!(PathBuf));
    Command::new("confine")
        .hide(true)
        .arg(number("cpu-seconds"))
        .arg(number("memory-bytes"))
        .arg(number("file-bytes"))
        .arg(number("open-files"))
        .arg(path("folder"))
        .arg(path("readable").action(ArgAction::Append))
        .arg(
            Arg::new("command")
                .required(true)
                .num_args(1..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(value_parser!(OsString)),
        )
}

/// Becomes the program, so it returns only with an error.
pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(0);
    let words = matches.get_many::<OsString>("command").unwrap_or_default();
    let readable = matches.get_many::<PathBuf>("readable").unwrap_or_default();
    let confinement = Confinement {
        limits: Limits {
            cpu_seconds: number("cpu-seconds"),
            memory_bytes: number("memory-bytes"),
            file_bytes: number("file-bytes"),
            open_files: number("open-files"),
        },
        folder: matches.get_one("folder").cloned(),
        readable: readable.cloned().collect(),
        command: words.cloned().collect(),
    };
    Err(confine::enter(&confinement))?
}

/// Runs a program confined, with this on its standard input.
pub(crate) fn confined(confinement: &Confinement, input: String) -> anyhow::Result<Ended> {
    let Limits {
        cpu_seconds,
        memory_bytes,
        file_bytes,
        open_files,
    } = confinement.limits;
    let mut arguments: Vec<OsString> = vec!["confine".into()];
    for (flag, value) in [
        ("--cpu-seconds", cpu_seconds),
        ("--memory-bytes", memory_bytes),
        ("--file-bytes", file_bytes),
        ("--open-files", open_files),
    ] {
        arguments.extend([flag.into(), value.to_string().into()]);
    }
    let folder = confinement.folder.iter().map(|path| ("--folder", path));
    let readable = confinement.readable.iter();
    for (flag, path) in folder.chain(readable.map(|path| ("--readable", path))) {
        arguments.extend([flag.into(), path.clone().into()]);
    }
    arguments.push("--".into());
    arguments.extend(confinement.command.iter().cloned());
    let run = Run {
        program: std::env::current_exe().context("this program cannot be found")?,
        arguments,
        input,
        time_max: Duration::from_secs(cpu_seconds) + SLACK,
    };
    Ok(run.start()?)
}
