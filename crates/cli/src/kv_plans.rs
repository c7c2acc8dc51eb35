//! `sextant kv`: what plans for the KV cache lose, on a text, which are best for a budget, and what
//! is left of a model past its context.
//!
//! A process of its own ([`child`]) reads the text under all plans at once.

mod calibrate;
mod child;
mod stream;
mod text;

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use config::{Group, augment};
use proto::{CalibrateRequest, CompareReport, CompareRequest, LoadSpec, StreamRequest};

use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::{args, configuration, load, models_here, output};

const COMPARE: child::Task = child::Task {
    flag: "--compare",
    doing: "comparing",
    smaller: "fewer plans or shorter pieces",
};

/// Prose, code, a log, tool calls and a table, in texts that do not change: figures of two versions
/// can be compared.
const CORPUS: &str = concat!(
    include_str!("tune/prose.txt"),
    include_str!("tune/gate.txt"),
    include_str!("kv_plans/corpus.txt")
);
/// Most bytes of somebody's own text.
const TEXT_BYTES_MAX: u64 = 64 << 20;
/// What is compared where nobody names a plan.
const PLANS: [&str; 6] = ["q8_0", "q8_0/q4_0", "q5_1", "q5_0", "q4_0", "first-third"];

pub(crate) fn command() -> Command {
    let compare = Command::new("compare")
        .about("Tell what plans for the KV cache lose against f16, on a text, with error bars")
        .arg(args::model().required(true))
        .arg(
            Arg::new("plan")
                .long("plan")
                .value_name("PLAN")
                .action(ArgAction::Append)
                .help(
                    "Types of keys and values, such as q8_0/q4_0, first-third or \
                     k=q8_0,v=q4_0;k[18,20-23]=f16; or parked:4bit, what the prompt cache restores at \
                     that level; may be given again [default: six usual ones]",
                ),
        )
        .arg(text_argument())
        .arg(piece_tokens())
        .arg(number("pieces", "64", 1, 100_000).help("Most pieces, from the start of the text"))
        .arg(
            number("answer_tokens", "64", 1, 65_536)
                .help("Tokens that each piece is continued by, to see where a plan first differs"),
        )
        .arg(args::json());
    Command::new("kv")
        .about("What the types of the KV cache cost and lose")
        .subcommand_required(true)
        .subcommand(with_settings(compare))
        .subcommand(with_settings(calibrate::command()))
        .subcommand(with_settings(stream::command()))
}

fn with_settings(command: Command) -> Command {
    augment(command, |setting| {
        setting.name == "models_dir" || setting.group == Group::Engine
    })
}

fn number(name: &'static str, default: &'static str, least: i64, most: i64) -> Arg {
    Arg::new(name)
        .long(name.replace('_', "-"))
        .value_name("N")
        .value_parser(value_parser!(u32).range(least..=most))
        .default_value(default)
}

fn text_argument() -> Arg {
    Arg::new("text")
        .long("text")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Read this text [default: a built-in one]")
}

fn piece_tokens() -> Arg {
    number("piece_tokens", "512", 64, 1 << 24).help(
        "Tokens of a piece of the text, of which the second half is judged; errors grow with it",
    )
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("compare", matches)) => compare(matches),
        Some(("calibrate", matches)) => calibrate::run(matches),
        Some(("stream", matches)) => stream::run(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}

/// The model that was named, as it is to be loaded.
fn spec(matches: &ArgMatches) -> Outcome<LoadSpec> {
    let config = configuration::read(matches)?;
    let found = models_here::asked(matches, &config)?;
    Ok(LoadSpec {
        path: models_here::absolute(&found.path),
        ..load::settings(&config)?
    })
}

fn given(matches: &ArgMatches, name: &str) -> u32 {
    matches.get_one::<u32>(name).copied().unwrap_or(0)
}

fn compare(matches: &ArgMatches) -> Outcome {
    let plans = matches.get_many::<String>("plan").map_or_else(
        || PLANS.map(str::to_owned).to_vec(),
        |given| given.cloned().collect(),
    );
    let request = CompareRequest {
        spec: spec(matches)?,
        plans,
        text: text_of(matches.get_one::<PathBuf>("text"))?,
        piece_tokens: given(matches, "piece_tokens"),
        pieces_max: given(matches, "pieces"),
        answer_tokens: given(matches, "answer_tokens"),
    };
    // What cannot be read is told before a model is loaded.
    let types = |plan: &&String| plan.parse::<worker::Trial>().is_err();
    for plan in request.plans.iter().filter(types) {
        plan.parse::<kv::TypePlan>().code(Code::Usage)?;
    }
    let report: CompareReport = child::ask(COMPARE, &request).code(Code::LoadFailed)?;
    if output::wants_json(matches) {
        return Ok(output::json(&serde_json::to_value(report)?)?);
    }
    text::write(&report, request.answer_tokens)
}

/// What `sextant worker --compare` does.
pub(crate) fn answer_compare() -> Outcome {
    child::answer(|request: &CompareRequest, tell| worker::compare(request, tell))
}

/// What `sextant worker --calibrate` does.
pub(crate) fn answer_calibrate() -> Outcome {
    child::answer(|request: &CalibrateRequest, tell| worker::calibrate(request, tell))
}

/// What `sextant worker --stream` does.
pub(crate) fn answer_stream() -> Outcome {
    child::answer(|request: &StreamRequest, tell| worker::stream(request, tell))
}

fn text_of(path: Option<&PathBuf>) -> Outcome<String> {
    let Some(path) = path else {
        return Ok(CORPUS.to_owned());
    };
    let name = path.display();
    let bytes = fs::metadata(path)
        .with_context(|| name.to_string())
        .code(Code::Usage)?;
    if bytes.len() > TEXT_BYTES_MAX {
        let message = format!(
            "{name} has {} bytes, at most {TEXT_BYTES_MAX} are read; give a part of it",
            bytes.len()
        );
        return Err(fault(Code::Usage, message));
    }
    fs::read_to_string(path)
        .with_context(|| name.to_string())
        .code(Code::Usage)
}
