//! `sextant bench`: measures models through the endpoint that people use.

mod ask;
mod load;
mod quality;
mod report;

use clap::ArgMatches;

pub(crate) use self::quality::{Attempt, attempts};
pub(crate) use self::report::{evidence, interval};

use crate::outcome::Outcome;

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("quality", matches)) => quality::run(matches),
        Some(("load", matches)) => load::run(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}
