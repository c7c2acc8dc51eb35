//! `sextant kv compare`: what plans for the KV cache lose, on a text.
//!
//! A process of its own reads the text under all plans at once: the engine may end its process on
//! an internal error.

mod text;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};

use anyhow::{Context, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use config::{Group, augment};
use process::ProcessEnd;
use proto::{CompareReport, CompareRequest, LoadSpec};
use serde::{Deserialize, Serialize};

use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::progress::{Unit, bar};
use crate::{args, configuration, load, models_here, output};

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
    let number = |name: &'static str, default: &'static str, least: i64, most: i64| {
        Arg::new(name)
            .long(name.replace('_', "-"))
            .value_name("N")
            .value_parser(value_parser!(u32).range(least..=most))
            .default_value(default)
    };
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
                     k=q8_0,v=q4_0;k[18,20-23]=f16; may be given again [default: six usual ones]",
                ),
        )
        .arg(
            Arg::new("text")
                .long("text")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Read this text [default: a built-in one]"),
        )
        .arg(number("piece_tokens", "512", 64, 1 << 24).help(
            "Tokens of a piece of the text, of which the second half is judged; errors grow with it",
        ))
        .arg(number("pieces", "64", 1, 100_000).help("Most pieces, from the start of the text"))
        .arg(number("answer_tokens", "64", 1, 65_536).help(
            "Tokens that each piece is continued by, to see where a plan first differs",
        ))
        .arg(args::json());
    let compare = augment(compare, |setting| {
        setting.name == "models_dir" || setting.group == Group::Engine
    });
    Command::new("kv")
        .about("What the types of the KV cache cost and lose")
        .subcommand_required(true)
        .subcommand(compare)
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("compare", matches)) => compare(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}

fn compare(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let found = models_here::asked(matches, &config)?;
    let number = |name: &str| matches.get_one::<u32>(name).copied().unwrap_or(0);
    let plans = matches.get_many::<String>("plan").map_or_else(
        || PLANS.map(str::to_owned).to_vec(),
        |given| given.cloned().collect(),
    );
    let request = CompareRequest {
        spec: LoadSpec {
            path: models_here::absolute(&found.path),
            ..load::settings(&config)?
        },
        plans,
        text: text_of(matches.get_one::<PathBuf>("text"))?,
        piece_tokens: number("piece_tokens"),
        pieces_max: number("pieces"),
        answer_tokens: number("answer_tokens"),
    };
    // What cannot be read is told before a model is loaded.
    for plan in &request.plans {
        plan.parse::<kv::TypePlan>().code(Code::Usage)?;
    }
    let report = ask(&request).code(Code::LoadFailed)?;
    if output::wants_json(matches) {
        return Ok(output::json(&serde_json::to_value(report)?)?);
    }
    text::write(&report, request.answer_tokens)
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

/// A line of the process that compares.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Done { pieces: u32, of: u32 },
    Report(CompareReport),
    Failed(String),
}

/// What `sextant worker --compare` does: a request on standard input, lines on standard output.
pub(crate) fn answer() -> Outcome {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let request: CompareRequest = serde_json::from_str(&text)?;
    let tell = |line: &Line| -> Outcome { Ok(output::line(&serde_json::to_string(line)?)?) };
    let report = worker::compare(&request, |pieces, of| {
        // Where nobody listens the end says so.
        let _ = tell(&Line::Done { pieces, of });
    });
    match report {
        Ok(report) => tell(&Line::Report(report)),
        Err(error) => tell(&Line::Failed(format!("{error:#}"))),
    }
}

fn ask(request: &CompareRequest) -> anyhow::Result<CompareReport> {
    let mut child = Process::new(std::env::current_exe()?)
        .args(["worker", "--compare"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("a worker could not be started")?;
    let report = listen(&mut child, request);
    if report.is_err() {
        // It may be gone by now.
        let _ = child.kill();
    }
    let ended = child.wait()?;
    match report? {
        Some(report) => Ok(report),
        None => bail!(
            "the process that compares {} before it was done; fewer plans or shorter pieces take \
             less memory",
            ProcessEnd::from(ended)
        ),
    }
}

/// Its report; `None` where it ends without one.
fn listen(child: &mut Child, request: &CompareRequest) -> anyhow::Result<Option<CompareReport>> {
    let stdin = child.stdin.take().context("the worker has no input")?;
    serde_json::to_writer(stdin, request)?;
    let stdout = child.stdout.take().context("the worker has no output")?;
    let bar = bar("comparing", Unit::Percent);
    let mut report = None;
    for line in BufReader::new(stdout).lines() {
        match serde_json::from_str(&line?)? {
            Line::Done { pieces, of } => {
                bar.set_position(u64::from(pieces) * 100 / u64::from(of.max(1)));
            }
            Line::Report(found) => report = Some(found),
            Line::Failed(message) => return Err(anyhow!(message)),
        }
    }
    bar.finish_and_clear();
    Ok(report)
}
