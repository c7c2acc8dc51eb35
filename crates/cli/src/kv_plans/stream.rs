//! `sextant kv stream`: what a model makes of a text that is longer than its context.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use proto::{StreamReport, StreamRequest};

use super::{child, given, number, spec, text_argument, text_of};
use crate::args;
use crate::outcome::{Code, Outcome, WithCode};
use crate::output;

const TASK: child::Task = child::Task {
    flag: "--stream",
    doing: "reading",
    smaller: "shorter contexts",
};
/// A window alone, and as many first tokens as the paper recommends.
const SINKS: [u32; 2] = [0, 4];
const HEAD: [&str; 5] = [
    "first tokens kept",
    "perplexity",
    "ratio",
    "times dropped",
    "ratio by part of the text",
];

pub(super) fn command() -> Command {
    Command::new("stream")
        .about("Tell what a model makes of a text that is longer than its context")
        .arg(args::model().required(true))
        .arg(text_argument())
        .arg(
            number("window", "1024", 128, 1 << 24)
                .help("Tokens that are held at once; the older half is dropped when it is full"),
        )
        .arg(number("tokens", "20000", 256, 1 << 30).help("Most tokens of the text"))
        .arg(
            Arg::new("sinks")
                .long("sinks")
                .value_name("N")
                .value_parser(value_parser!(u32))
                .action(ArgAction::Append)
                .help("First tokens that stay; may be given again [default: 0 and 4]"),
        )
        .arg(args::json())
}

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let sinks = matches.get_many::<u32>("sinks");
    let request = StreamRequest {
        spec: spec(matches)?,
        text: text_of(matches.get_one::<PathBuf>("text"))?,
        context: given(matches, "window"),
        tokens_max: given(matches, "tokens"),
        sinks: sinks.map_or_else(|| SINKS.to_vec(), |given| given.copied().collect()),
    };
    let report: StreamReport = child::ask(TASK, &request).code(Code::LoadFailed)?;
    if output::wants_json(matches) {
        return Ok(output::json(&serde_json::to_value(report)?)?);
    }
    write(&report)
}

fn write(report: &StreamReport) -> Outcome {
    let of = |perplexity: f64| format!("{perplexity:.2}");
    let mut rows = vec![vec![
        "all, in context".to_owned(),
        of(report.in_context),
        of(1.0),
        "0".to_owned(),
        String::new(),
    ]];
    for row in &report.rows {
        let parts = row.parts.iter().map(|part| format!("{part:.2}"));
        rows.push(vec![
            row.sinks.to_string(),
            of(row.perplexity),
            of(row.perplexity / report.in_context),
            row.shifts.to_string(),
            parts.collect::<Vec<_>>().join(" "),
        ]);
    }
    output::table(&HEAD, &rows)?;
    output::line("")?;
    output::line(&format!(
        "{} of {} tokens are judged, those past the first context; ratios are by the perplexity \
         where nothing was dropped.",
        report.positions, report.tokens
    ))?;
    Ok(())
}
