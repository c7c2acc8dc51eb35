//! The project's chores, all of CI among them: `cargo xtask --help`.
//!
//! A step of CI is a subcommand of its own, so whatever fails there is repeated
//! here with one command.

mod agents;
mod arm;
mod backend_ops;
mod bench;
mod cache;
mod ci;
mod codec_check;
mod codegen;
mod fuzz;
mod gpu_check;
mod group;
mod http;
mod kv_calibrate;
mod kv_check;
mod memory_check;
mod models;
mod overhead;
mod parity;
mod peer;
mod plan_check;
mod prefix_check;
mod quality;
mod sdk;
mod server;
mod shell;
mod sinks_check;
mod speed_check;
mod stock;
mod store_check;
mod tidy;
mod tools;
mod tune_check;
mod ui;
mod wiki;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "Sextant's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Every check, in order; stops at the first that fails.
    Ci(ci::Arguments),
    /// Checks the formatting.
    Fmt,
    /// Lints every target; a warning fails.
    Clippy,
    /// The house rules that no linter knows: crate levels, lengths, banned words.
    Tidy,
    /// Writes the reference documents that come from code.
    Codegen(codegen::Arguments),
    /// Checks licences, sources and duplicates of the dependencies.
    Deny,
    /// Runs every Rust test.
    Test,
    /// Runs the OpenAI SDKs (Python and Node) against the real server and model.
    Sdk(sdk::Arguments),
    /// Drives coding agents through a task, with a script or a small model behind them.
    Agents(agents::Arguments),
    /// Builds the workbench, and drives it in a browser against the real server and model.
    Ui(ui::Arguments),
    /// Runs the fuzz targets for a bounded time.
    Fuzz(fuzz::Arguments),
    /// Fetches the models that tests and benches use.
    Models,
    /// Builds the reference llama-server and llama-bench, once.
    Peer,
    /// Runs the kernels' tests for aarch64 under qemu, as processors of three generations.
    Arm(arm::Arguments),
    /// Runs llama.cpp's test of back ends against ours.
    BackendOps(backend_ops::Arguments),
    /// Measures Sextant against llama-server, interleaved in one run.
    Bench(bench::Arguments),
    /// The back end of the overhead bench: answers at once, or at a pace, the same every time.
    #[command(hide = true)]
    DummyEngine(overhead::dummy::Arguments),
    /// Compares greedy output with llama-server's, token for token.
    Parity(parity::Arguments),
    /// Servers whose layers have types of their own, and what plans for the KV cache lose.
    KvCheck(kv_check::Arguments),
    /// What it saves and loses to keep states of prompts in fewer bytes.
    CodecCheck(codec_check::Arguments),
    /// Whether calibrated plans for the KV cache are better than pairs and rules of thumb.
    KvCalibrate(kv_calibrate::Arguments),
    /// Compares the planner with what running servers hold.
    PlanCheck(plan_check::Arguments),
    /// Times prompts that were known before a crash, a restart or an unloading.
    PrefixCheck(prefix_check::Arguments),
    /// Compares what is planned for a GPU with what the engine puts there.
    GpuCheck(gpu_check::Arguments),
    /// Fills models in control groups: what is admitted survives, what is refused would not.
    MemoryCheck(memory_check::Arguments),
    /// Compares the speed that the planner predicts with that of running servers.
    SpeedCheck(speed_check::Arguments),
    /// What is left of models that read on past their context, with first tokens kept and without.
    SinksCheck,
    /// Fills a database with chats, and times lists, searches and openings of it.
    StoreCheck(store_check::Arguments),
    /// What our kernels change of what models say, beside llama.cpp's own builds.
    Quality(quality::Arguments),
    /// Compares `sextant tune` with an exhaustive sweep, a part a call.
    TuneCheck(tune_check::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Ci(arguments) => ci::run(&arguments),
        Chore::Fmt => ci::fmt(),
        Chore::Clippy => ci::clippy(),
        Chore::Tidy => tidy::run(),
        Chore::Codegen(arguments) => codegen::run(&arguments),
        Chore::Deny => tools::deny(),
        Chore::Test => ci::test(),
        Chore::Sdk(arguments) => sdk::run(&arguments),
        Chore::Agents(arguments) => agents::run(&arguments),
        Chore::Ui(arguments) => ui::run(&arguments),
        Chore::Fuzz(arguments) => fuzz::run(&arguments),
        Chore::Models => models::run(),
        Chore::Peer => peer::run(),
        Chore::Arm(arguments) => arm::run(&arguments),
        Chore::BackendOps(arguments) => backend_ops::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::DummyEngine(arguments) => overhead::dummy::run(&arguments),
        Chore::Parity(arguments) => parity::run(&arguments),
        Chore::KvCheck(arguments) => kv_check::run(&arguments),
        Chore::CodecCheck(arguments) => codec_check::run(&arguments),
        Chore::KvCalibrate(arguments) => kv_calibrate::run(&arguments),
        Chore::PlanCheck(arguments) => plan_check::run(&arguments),
        Chore::PrefixCheck(arguments) => prefix_check::run(&arguments),
        Chore::GpuCheck(arguments) => gpu_check::run(&arguments),
        Chore::MemoryCheck(arguments) => memory_check::run(&arguments),
        Chore::SpeedCheck(arguments) => speed_check::run(&arguments),
        Chore::SinksCheck => sinks_check::run(),
        Chore::StoreCheck(arguments) => store_check::run(&arguments),
        Chore::Quality(arguments) => quality::run(&arguments),
        Chore::TuneCheck(arguments) => tune_check::run(&arguments),
    }
}
