//! `sextant bench`: measures models, through the endpoint that people use or in a process of
//! their own.

mod agents;
mod all;
mod args;
mod ask;
mod attempts_file;
mod compare;
mod context;
mod load;
mod load_lines;
mod measured;
mod origin;
mod page;
mod quality;
mod report;
mod results;
mod sets;
mod speed;
mod speed_report;

use clap::ArgMatches;

pub(crate) use self::args::command;
pub(crate) use self::measured::{Measured, Rates, measured};
pub(crate) use self::origin::{Origin, Stored};
pub(crate) use self::quality::Attempt;
pub(crate) use self::report::{asked, evidence, interval};
pub(crate) use self::results::lines;

use crate::outcome::Outcome;

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("quality", matches)) => quality::run(matches),
        Some(("load", matches)) => load::run(matches),
        Some(("speed", matches)) => speed::run(matches),
        Some(("context", matches)) => context::run(matches),
        Some(("agents", matches)) => agents::run(matches),
        Some(("report", matches)) => page::run(matches),
        Some(("results", matches)) => results::run(matches),
        Some(("all", matches)) => all::run(matches),
        Some(("compare", matches)) => compare::run(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}
