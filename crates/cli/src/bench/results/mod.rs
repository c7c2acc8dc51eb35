//! `sextant bench results`: runs that were kept, with where and how they were made.

mod export;
mod import;
mod keep;
pub(super) mod llama_bench;
mod reference;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use stdx::{Bytes, rfc3339};
use store::{
    Added, LIST_MAX, RESULTS_VERSION, ResultFilter, ResultRun, Results, ResultsSession, Stored,
};

pub(super) use self::keep::{Finished, Keeping};
pub(crate) use self::reference::lines;

use super::args::with_results;
use super::attempts_file::Kind;
use super::page;
use crate::args::{json, number};
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, database};

pub(super) fn command() -> Command {
    let runs = |n: std::ops::RangeInclusive<usize>, help: &'static str| {
        let arg = Arg::new("runs").value_name("RUN").num_args(n);
        arg.help(help)
    };
    let show = Command::new("show")
        .about("Show a run: how it was made, and what it says")
        .arg(
            runs(
                1..=1,
                "An id, the beginning of one, @last, @quality, @quality~1, ...",
            )
            .required(true),
        )
        .arg(json());
    let export = Command::new("export")
        .about("Write runs with all their records, for other programs or another machine")
        .arg(runs(0..=4096, "Those to write [default: all]"))
        .args([
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["jsonl", "csv"])
                .default_value("jsonl")
                .help("jsonl, which `import` reads again, or csv, a row for each record"),
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write it here [default: standard output]"),
        ]);
    let rm = Command::new("rm")
        .about("Forget runs")
        .arg(runs(1..=4096, "Their ids").required(true));
    let import = Command::new("import")
        .about(
            "Keep what files hold: of `--out`, of `export`, of `llama-bench -o json` or `-o jsonl`",
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .required(true)
                .num_args(1..=4096)
                .value_parser(value_parser!(PathBuf))
                .help("All of them are kept, or none"),
        )
        .arg(json());
    with_results(list_command()).subcommands([show, export, rm, import].map(with_results))
}

fn list_command() -> Command {
    Command::new("results")
        .about("List the runs that were kept; `show`, `export`, `import` and `rm` work with them")
        .args_conflicts_with_subcommands(true)
        .args([
            Arg::new("kind")
                .long("kind")
                .value_name("KIND")
                .value_parser(Kind::ALL.map(Kind::word))
                .help("Only those of this kind"),
            Arg::new("model")
                .long("model")
                .value_name("NAME")
                .action(ArgAction::Set)
                .help("Only those of a model with this in its name"),
            number(
                "limit",
                1..=u64::from(LIST_MAX),
                "100",
                "Runs at most, the last first",
            ),
            json(),
        ])
}

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("show", matches)) => show(matches),
        Some(("export", matches)) => export(matches),
        Some(("rm", matches)) => remove(matches),
        Some(("import", matches)) => import(matches),
        _ => list(matches),
    }
}

fn list(matches: &ArgMatches) -> Outcome {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let limit = matches.get_one::<u64>("limit").copied();
    let filter = ResultFilter {
        kind: text("kind"),
        model: text("model"),
        limit: limit.and_then(|limit| u32::try_from(limit).ok()),
    };
    let runs = match existing(matches)? {
        Some(session) => session.runs(&filter)?,
        None => Vec::new(),
    };
    if output::wants_json(matches) {
        return Ok(output::json(
            &json!({ "schema": RESULTS_VERSION, "runs": runs }),
        )?);
    }
    if runs.is_empty() {
        say("no such run is kept; `sextant bench` keeps each run that ends");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    let head = ["RUN", "ENDED", "MODELS", "AT", "RECORDS", "SIZE"];
    Ok(output::table(&head, &rows)?)
}

fn row(run: &ResultRun) -> Vec<String> {
    vec![
        run.id.clone(),
        moment(run.ended_s),
        plain(&names(run)),
        plain(run.server.as_deref().unwrap_or("-")),
        run.n_records.to_string(),
        Bytes(run.bytes).to_string(),
    ]
}

fn names(run: &ResultRun) -> String {
    let mut names: Vec<&str> = run.models.iter().map(|model| model.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// `-` where nobody wrote it down.
fn moment(unix_s: u64) -> String {
    match unix_s {
        0 => "-".to_owned(),
        unix_s => rfc3339(unix_s),
    }
}

/// Words of others, which must not steer a terminal.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

/// The results of this configuration, if there are any.
fn existing(matches: &ArgMatches) -> Outcome<Option<ResultsSession>> {
    let config = configuration::read_quiet(matches)?;
    let folder = database::folder(&config).ok_or_else(database::no_place)?;
    let results = Results::open_existing(&folder)?;
    Ok(results.map(|results| results.connect()).transpose()?)
}

/// The runs that the command names.
fn named(matches: &ArgMatches, session: &ResultsSession) -> Outcome<Vec<ResultRun>> {
    let words = matches.get_many::<String>("runs").unwrap_or_default();
    words.map(|word| reference::find(session, word)).collect()
}

fn show(matches: &ArgMatches) -> Outcome {
    let session = reference::open(matches)?;
    for run in named(matches, &session)? {
        let records = session.records(&run.id)?;
        let stored = Stored { run, records };
        if output::wants_json(matches) {
            let records = stored.records.iter();
            let records: Vec<Value> = records
                .filter_map(|record| serde_json::from_str(record).ok())
                .collect();
            output::json(&json!({
                "schema": RESULTS_VERSION, "run": stored.run, "records": records,
            }))?;
            continue;
        }
        for (name, value) in told(&stored.run) {
            output::line(&format!("{name:<9}{}", plain(&value)))?;
        }
        let shown = page::page(stored.run.kind.clone(), &[reference::of_stored(&stored)])?;
        output::line("")?;
        output::piece(&shown.markdown())?;
    }
    Ok(())
}

/// How a run was made, name by name.
fn told(run: &ResultRun) -> Vec<(&'static str, String)> {
    let mut told = vec![
        ("run", run.id.clone()),
        (
            "when",
            format!("{} to {}", moment(run.began_s), moment(run.ended_s)),
        ),
        ("from", run.source.clone()),
    ];
    let mut add = |name: &'static str, value: Option<String>| {
        told.extend(
            value
                .filter(|value| !value.is_empty())
                .map(|value| (name, value)),
        );
    };
    add("command", Some(run.command.join(" ")));
    add("at", run.server.clone());
    for model in &run.models {
        let facts = [
            Some(model.name.clone()),
            model.bytes.map(|bytes| Bytes(bytes).to_string()),
            model.fingerprint.clone(),
            model.build.clone(),
            model.path.clone(),
        ];
        let facts: Vec<String> = facts.into_iter().flatten().collect();
        add("model", Some(facts.join("; ")));
    }
    add("by", run.program.clone());
    let machine = &run.machine;
    let facts = [
        machine.board.clone(),
        machine.cpu.clone(),
        machine.cores.map(|cores| format!("{cores} cores")),
        machine.memory_bytes.map(|bytes| Bytes(bytes).to_string()),
        machine
            .kernel
            .as_ref()
            .map(|kernel| format!("kernel {kernel}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    add("on", Some(facts.join("; ")));
    let load = run.load_before.zip(run.load_after);
    add(
        "load",
        load.map(|(before, after)| format!("{before} before, {after} after")),
    );
    told
}

fn export(matches: &ArgMatches) -> Outcome {
    let session = reference::open(matches)?;
    let mut runs = named(matches, &session)?;
    if runs.is_empty() {
        // The oldest first, as they came.
        runs = session.runs(&ResultFilter::default())?;
        runs.reverse();
    }
    let write = |out: &mut dyn Write| {
        let mut out = BufWriter::new(out);
        match matches.get_one::<String>("format").map(String::as_str) {
            Some("csv") => export::csv(&session, &runs, &mut out)?,
            _ => export::jsonl(&session, &runs, &mut out)?,
        }
        Ok(out.flush()?)
    };
    let Some(path) = matches.get_one::<PathBuf>("out") else {
        return write(&mut io::stdout().lock());
    };
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    write(&mut file)?;
    say(&format!(
        "{} runs written to {}",
        runs.len(),
        path.display()
    ));
    Ok(())
}

fn remove(matches: &ArgMatches) -> Outcome {
    let mut session = reference::open(matches)?;
    let mut ids: Vec<String> = Vec::new();
    for run in named(matches, &session)? {
        if !ids.contains(&run.id) {
            ids.push(run.id);
        }
    }
    session.remove(&ids)?;
    for id in &ids {
        say(&format!("forgotten: {id}"));
    }
    Ok(())
}

fn import(matches: &ArgMatches) -> Outcome {
    let mut runs: Vec<Stored> = Vec::new();
    for file in matches.get_many::<PathBuf>("files").unwrap_or_default() {
        runs.extend(import::read(file)?);
    }
    let config = configuration::read_quiet(matches)?;
    let folder = database::folder(&config).ok_or_else(database::no_place)?;
    let results = Results::open(&folder)?;
    let added = results.connect()?.add(&runs)?;
    let each: Vec<(&Stored, Added)> = runs.iter().zip(added).collect();
    if output::wants_json(matches) {
        let each = each
            .iter()
            .map(|(stored, added)| json!({ "run": stored.run, "new": *added == Added::New }));
        return Ok(output::json(
            &json!({ "imported": each.collect::<Vec<_>>() }),
        )?);
    }
    if each.is_empty() {
        return Err(fault(Code::Usage, "there is no run in these files"));
    }
    for (stored, added) in each {
        let id = &stored.run.id;
        match added {
            Added::New => output::line(id)?,
            Added::There => say(&format!("kept already: {id}")),
        }
    }
    Ok(())
}
