//! The command line of `sextant bench`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};
use config::{Group, augment};

use super::agents::{BUILTIN, NAMES};
use crate::args::{MEMORY, SERVER, json, model, number, url};

pub(crate) fn command() -> Command {
    Command::new("bench")
        .about("Measure models: how right, how fast, and how many at once")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(speed())
        .subcommand(to_endpoint(quality()))
        .subcommand(to_endpoint(load()))
        .subcommand(to_endpoint(context()))
        .subcommand(to_endpoint(agents()))
        .subcommand(with_results(compare()))
        .subcommand(with_results(report()))
        .subcommand(super::results::command())
        .subcommand(all())
}

/// A command that measures a server, and keeps what it has measured.
fn to_endpoint(command: Command) -> Command {
    augment(command.arg(url()).arg(no_keep()), |setting| {
        SERVER.contains(&setting.name) || setting.name == DATA_DIR
    })
}

/// A command that reads runs that are kept.
pub(super) fn with_results(command: Command) -> Command {
    augment(command, |setting| setting.name == DATA_DIR)
}

/// The setting that says where results are kept.
const DATA_DIR: &str = "data_dir";

fn no_keep() -> Arg {
    Arg::new("no-keep")
        .long("no-keep")
        .action(ArgAction::SetTrue)
        .help("Do not keep the results among those of `sextant bench results`")
}

fn speed() -> Command {
    let command = Command::new("speed")
        .about("Measure how fast models read and answer, over combinations of settings")
        .arg(
            Arg::new("models")
                .value_name("MODEL")
                .required(true)
                .num_args(1..=64)
                .help("Names as `sextant ls` shows them, parts of them, or paths of GGUF files"),
        )
        .args([
            Arg::new("vary")
                .long("vary")
                .value_name("NAME=VALUE,VALUE")
                .action(ArgAction::Append)
                .help(
                    "An engine setting, or prompt, answer or depth, with the values to try; \
                     several go together in all combinations",
                ),
            number(
                "rounds",
                1..=1000,
                "7",
                "How often each combination is measured",
            ),
            number("prompt", 1..=1_048_576, "512", "Tokens that are read"),
            number("answer", 2..=1_048_576, "128", "Tokens that are said"),
            number(
                "depth",
                0..=1_048_576,
                "0",
                "Tokens that are there before them",
            ),
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Keep every run here, and go on where an earlier one ended"),
            no_keep(),
            json(),
        ]);
    augment(command, |setting| {
        setting.group == Group::Engine
            || MEMORY.contains(&setting.name)
            || ["log_level", DATA_DIR].contains(&setting.name)
    })
}

fn quality() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        let arg = Arg::new(name).long(name);
        arg.value_name(value).help(help)
    };
    Command::new("quality")
        .about("Ask models questions that a program can judge, and compare them")
        .arg(models_of_server())
        .args([
            option(
                "set",
                "SET",
                "Fourteen questions, or up to 400 of each dimension",
            )
            .value_parser(["short", "large"])
            .default_value("short"),
            number(
                "items",
                1..=bench::quality::ITEMS_MAX as u64,
                "100",
                "Questions of each dimension of the large set",
            ),
            option(
                "repeats",
                "N",
                "How often each question is asked [default: 3, of the large set 1]",
            )
            .value_parser(value_parser!(u64).range(1..=1000)),
            number(
                "tokens",
                1..=1_048_576,
                "1024",
                "Tokens of an answer at most",
            ),
            number(
                "seconds",
                1..=86_400,
                "300",
                "Seconds that an answer may take",
            ),
            option("temperature", "T", "Temperature [default: the model's]")
                .value_parser(value_parser!(f64)),
            option(
                "thinking",
                "WHETHER",
                "Whether models may think before they answer",
            )
            .value_parser(["on", "off", "model"])
            .default_value("off"),
            option(
                "out",
                "FILE",
                "Keep every attempt here, and go on where an earlier run ended",
            )
            .value_parser(value_parser!(PathBuf)),
            json(),
        ])
}

fn models_of_server() -> Arg {
    Arg::new("models")
        .value_name("MODEL")
        .required(true)
        .num_args(1..=64)
        .help("Models of the server, by their names or a part of them")
}

fn load() -> Command {
    let real = |name: &'static str, value: &'static str, help: &'static str| {
        let arg = Arg::new(name).long(name).value_name(value);
        arg.value_parser(value_parser!(f64)).help(help)
    };
    Command::new("load")
        .about("Send many requests at once, and measure what each of them feels")
        .arg(model().required(true))
        .args([
            number("requests", 1..=10_000_000, "64", "Requests in all"),
            number(
                "clients",
                1..=4096,
                "4",
                "Clients that ask one after another each",
            ),
            real(
                "rate",
                "N",
                "Requests a second, whether or not earlier ones are answered",
            )
            .conflicts_with("clients"),
            Arg::new("even")
                .long("even")
                .action(ArgAction::SetTrue)
                .requires("rate")
                .help("In even steps; else by chance"),
            number("prompt-words", 1..=1_000_000, "256", "Words of a prompt"),
            number(
                "shared-words",
                0..=1_000_000,
                "0",
                "Of those, the same in all",
            ),
            number("tokens", 1..=1_048_576, "64", "Tokens of an answer"),
            number(
                "seconds",
                1..=86_400,
                "600",
                "Seconds that an answer may take",
            ),
            number("seed", 0..=u64::MAX, "0", "Of prompts and arrivals"),
            real("ttft-max-ms", "MS", "Promise: time to the first token"),
            real("tpot-max-ms", "MS", "Promise: time of each token after it"),
            real("total-max-ms", "MS", "Promise: time of the whole answer"),
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Keep every request here; a run that has ended is not made again"),
            json(),
        ])
}

fn context() -> Command {
    Command::new("context")
        .about("Plant a fact in longer and longer texts, and see up to which length it is found")
        .arg(model().required(true))
        .args([
            Arg::new("lengths")
                .long("lengths")
                .value_name("TOKENS,TOKENS")
                .value_delimiter(',')
                .value_parser(value_parser!(u64).range(64..=1 << 24))
                .default_values(["1024", "2048", "4096", "8192", "16384", "32768"])
                .help(
                    "Contexts to try, prompt and answer together; none beyond one that is refused",
                ),
            number(
                "depths",
                1..=101,
                "5",
                "Places of the fact, from the beginning of the text to its end",
            ),
            number("repeats", 1..=1000, "1", "How often each place is tried"),
            number("tokens", 1..=65_536, "32", "Tokens of an answer at most"),
            number(
                "seconds",
                1..=86_400,
                "600",
                "Seconds that an answer may take",
            ),
            number("seed", 0..=u64::MAX, "0", "Of the texts"),
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Keep every answer here, and go on where an earlier run ended"),
            json(),
        ])
}

fn agents() -> Command {
    let names = std::iter::once(BUILTIN).chain(NAMES);
    Command::new("agents")
        .about("Let models repair small repositories with tools, and judge them by the tests")
        .arg(models_of_server())
        .args([
            number("repeats", 1..=1000, "1", "How often each task is tried"),
            number(
                "seconds",
                1..=86_400,
                "900",
                "Seconds that an attempt may take",
            ),
            Arg::new("agents")
                .long("agents")
                .value_name("AGENT,AGENT")
                .value_delimiter(',')
                .value_parser(names.collect::<Vec<_>>())
                .default_value(BUILTIN)
                .help(
                    "Agents that the models work in; all but `builtin` run with your rights, not \
                     confined",
                ),
            Arg::new("program")
                .long("program")
                .value_name("AGENT=PATH")
                .action(ArgAction::Append)
                .help("Where an agent is [default: on the PATH]"),
            Arg::new("tasks")
                .long("tasks")
                .value_name("TASK,TASK")
                .value_delimiter(',')
                .help("Only these tasks"),
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Keep every attempt here, and go on where an earlier run ended"),
            json(),
        ])
}

fn all() -> Command {
    let command = Command::new("all")
        .about("Measure speed, quality, context and load of models and peers, let them work as agents, and \
             report on it")
        .arg(
            Arg::new("models")
                .value_name("MODEL")
                .required(true)
                .num_args(1..=64)
                .help("Names as `sextant ls` shows them, parts of them, or paths of GGUF files"),
        )
        .arg(url().help("A server that has them [default: one is started for the time of the run]"))
        .args([
            Arg::new("peer")
                .long("peer")
                .value_name("NAME=URL")
                .action(ArgAction::Append)
                .help("Another engine, asked the same: its only model, or those of the same names"),
            Arg::new("quick")
                .long("quick")
                .action(ArgAction::SetTrue)
                .help("Fewer rounds, repeats and lengths"),
            Arg::new("out")
                .long("out")
                .value_name("FOLDER")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Everything is kept here; the same command goes on where it was stopped"),
            no_keep(),
        ]);
    augment(command, |setting| {
        setting.group == Group::Engine
            || MEMORY.contains(&setting.name)
            || SERVER.contains(&setting.name)
            || ["log_level", DATA_DIR].contains(&setting.name)
    })
}

fn compare() -> Command {
    Command::new("compare")
        .about("Say whether two runs of `bench speed`, of `bench quality` or of llama-bench differ")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .required(true)
                .num_args(2)
                .value_parser(value_parser!(PathBuf))
                .help(
                    "Two files, as `--out` writes them, or runs: an id, @quality, @quality~1, ...",
                ),
        )
        .arg(json())
}

fn report() -> Command {
    Command::new("report")
        .about("Show results of `bench speed`, `quality`, `context`, `load` and `agents` as a page")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .required(true)
                .num_args(1..=64)
                .value_parser(value_parser!(PathBuf))
                .help("Files, as `--out` writes them, or runs: an id, @quality, @last, ..."),
        )
        .args([
            Arg::new("html")
                .long("html")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write a page with plots that needs nothing else [default: Markdown is printed]"),
            Arg::new("title")
                .long("title")
                .value_name("TEXT")
                .default_value("Measured with Sextant")
                .help("Of the page"),
        ])
}
