//! `sextant`: the one binary. Arguments to configuration to wiring.
//!
//! Standard output is data, standard error is talk; both and the exit code are
//! touched only in this crate. Each command is a module with a `run` that returns
//! [`outcome::Outcome`].

mod advise;
mod args;
mod audit;
mod bench;
mod bus;
mod configuration;
mod confine;
mod database;
mod discover;
mod doctor;
mod figures;
mod gpu;
mod http;
mod hw;
mod init;
mod key;
mod kv_plans;
mod library;
mod list;
mod load;
mod logging;
mod logs;
mod man;
mod models_here;
mod outcome;
mod output;
mod plan;
mod presets;
mod progress;
mod pull;
mod remote;
mod route;
mod run;
mod serve;
mod shelf;
mod show;
mod tether;
mod top;
mod trial;
mod tune;
mod worker_process;

use std::process::ExitCode;

use crate::outcome::Outcome;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                outcome::Code::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    outcome::finish(dispatch(&matches))
}

fn dispatch(matches: &clap::ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches),
        Some(("run", matches)) => run::run(matches),
        Some(("pull", matches)) => pull::run(matches),
        Some(("ls", matches)) => list::ls(matches),
        Some(("rm", matches)) => list::rm(matches),
        Some(("show", matches)) => show::run(matches),
        Some(("plan", matches)) => plan::run(matches),
        Some(("kv", matches)) => kv_plans::run(matches),
        Some(("advise", matches)) => advise::run(matches),
        Some(("presets", matches)) => presets::run(matches),
        Some(("ps", matches)) => remote::ps(matches),
        Some(("top", matches)) => top::run(matches),
        Some(("logs", matches)) => logs::run(matches),
        Some(("load", matches)) => remote::load(matches),
        Some(("unload", matches)) => remote::unload(matches),
        Some(("tune", matches)) => tune::run(matches),
        Some(("key", matches)) => key::run(matches),
        Some(("audit", matches)) => audit::run(matches),
        Some(("hw", matches)) => hw::run(matches),
        Some(("doctor", matches)) => doctor::run(matches),
        Some(("config", matches)) => configuration::run(matches),
        Some(("completions", matches)) => args::completions(matches),
        Some(("init", matches)) => init::run(matches),
        Some(("man", matches)) => man::run(matches),
        Some(("providers", matches)) => discover::run(matches),
        Some(("bench", matches)) => bench::run(matches),
        Some(("route", matches)) => route::run(matches),
        Some(("confine", matches)) => confine::run(matches),
        Some(("tether", matches)) => tether::run(matches),
        Some(("worker", matches)) => worker_process::run(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}
