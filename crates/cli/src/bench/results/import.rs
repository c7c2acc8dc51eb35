//! Runs that others have measured, or that were measured before results were kept: files of `--out`,
//! of `bench results export`, and of `llama-bench -o json` and `-o jsonl`.
//!
//! A file is read as a whole before anything is kept, so a wrong line leaves nothing behind.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use stdx::unix_of_rfc3339;
use store::{RECORD_BYTES_MAX, RUN_BYTES_MAX, ResultModel, ResultRun, Stored};

use super::keep::{Whole, is_origin};
use super::llama_bench::{self, Entry};
use crate::bench::attempts_file::Kind;
use crate::bench::load_lines::{Last, Request};
use crate::bench::origin::{self, OriginLine};
use crate::bench::{agents, context, load_lines, quality, speed};
use crate::outcome::{Code, Fault, Outcome, fault};

/// Bytes of a file.
const FILE_BYTES_MAX: usize = RUN_BYTES_MAX;
/// Runs of a file.
const RUNS_MAX: usize = 10_000;

/// A line of an export that begins a run.
#[derive(Deserialize)]
struct Exported {
    run: ResultRun,
}

/// Where in which file something is wrong.
struct Place<'a> {
    file: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        let message = format!("`{}`, line {}: {what}", self.file.display(), self.line);
        fault(Code::Usage, message)
    }
}

/// The runs of a file.
///
/// # Errors
/// Which line is none of a run, and why.
pub(super) fn read(file: &Path) -> Outcome<Vec<Stored>> {
    let text = text_of(file)?;
    let at = |line| Place { file, line };
    let runs = if text.trim_start().starts_with('[') {
        of_entries(file, elements(file, &text)?)?
    } else {
        let first = text.lines().next().unwrap_or_default();
        let first: Value = serde_json::from_str(first).map_err(|error| {
            at(1).fault(format!("it is no JSON of one line ({})", reason(&error)))
        })?;
        if first["run"].is_object() {
            of_export(file, &text)?
        } else if llama_bench::is_entry(&first) {
            let lines = lines(&text).map(|(line, text)| (line, text.to_owned()));
            of_entries(file, lines.collect())?
        } else {
            vec![of_out(file, &text, first)?]
        }
    };
    match runs.len() {
        0 => Err(at(1).fault("there is no run in it")),
        1..=RUNS_MAX => Ok(runs),
        n => Err(at(1).fault(format!(
            "it has {n} runs, and at most {RUNS_MAX} are taken from a file; split it"
        ))),
    }
}

fn text_of(file: &Path) -> Outcome<String> {
    let mut bytes = Vec::new();
    let told = || format!("`{}` cannot be read", file.display());
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .with_context(told)?;
    let at = |line| Place { file, line };
    if bytes.len() > FILE_BYTES_MAX {
        let what = format!("the file has more than {FILE_BYTES_MAX} bytes; split it");
        return Err(at(1).fault(what));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        at(line).fault("it is no text in UTF-8")
    })?;
    let mut lines = text.lines().enumerate();
    match lines.find(|(_, line)| line.len() > RECORD_BYTES_MAX) {
        // Spaced JSON may be one line, and is held to the limit by each of its entries.
        Some((index, line)) if !text.trim_start().starts_with('[') => {
            let bytes = line.len();
            let what = format!("it has {bytes} bytes, and at most {RECORD_BYTES_MAX} are taken");
            Err(at(index + 1).fault(what))
        }
        _ => Ok(text),
    }
}

/// With their numbers, without those that are empty.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// What is wrong, without the line, which is that of the file.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

/// A place in a text, and its line.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn step(&mut self, bytes: usize) {
        let passed = &self.rest()[..bytes];
        self.line += passed.matches('\n').count();
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.step(rest.len() - rest.trim_start().len());
    }
}

/// The elements of a JSON array of any spacing, each in one line, with the lines they begin in.
fn elements(file: &Path, text: &str) -> Outcome<Vec<(usize, String)>> {
    let at = |line| Place { file, line };
    let mut found = Vec::new();
    let mut cursor = Cursor {
        text,
        at: 0,
        line: 1,
    };
    cursor.skip_space();
    cursor.step("[".len());
    loop {
        cursor.skip_space();
        if found.is_empty() && cursor.rest().starts_with(']') {
            break;
        }
        let line = cursor.line;
        let mut values = serde_json::Deserializer::from_str(cursor.rest()).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => found.push((line, value.to_string())),
            Some(Err(error)) => {
                return Err(at(line + error.line().max(1) - 1).fault(reason(&error)));
            }
            None => return Err(at(line).fault("the list has no end")),
        }
        let bytes = values.byte_offset();
        cursor.step(bytes);
        cursor.skip_space();
        match cursor.rest().chars().next() {
            Some(',') => cursor.step(",".len()),
            Some(']') => break,
            _ => return Err(at(cursor.line).fault("`,` or `]` is missing")),
        }
    }
    cursor.step("]".len());
    cursor.skip_space();
    match cursor.rest().is_empty() {
        true => Ok(found),
        false => Err(at(cursor.line).fault("something stands behind the list")),
    }
}

/// Those of one build and machine are one run.
fn of_entries(file: &Path, entries: Vec<(usize, String)>) -> Outcome<Vec<Stored>> {
    struct Group {
        heading: Value,
        records: Vec<String>,
        models: Vec<ResultModel>,
        times: Vec<u64>,
    }
    let mut groups: Vec<Group> = Vec::new();
    for (line, text) in entries {
        let at = Place { file, line };
        let value: Value = serde_json::from_str(&text).map_err(|error| at.fault(reason(&error)))?;
        // The same however it was spaced.
        let text = value.to_string();
        let entry = Entry::read(&text)
            .map_err(|what| at.fault(format!("it is no entry of llama-bench: {what}")))?;
        let heading = llama_bench::heading(&value);
        let place = groups.iter().position(|group| group.heading == heading);
        let place = place.unwrap_or_else(|| {
            groups.push(Group {
                heading: heading.clone(),
                records: Vec::new(),
                models: Vec::new(),
                times: Vec::new(),
            });
            groups.len() - 1
        });
        let group = &mut groups[place];
        let model = entry.model(&heading);
        if !group.models.contains(&model) {
            group.models.push(model);
        }
        group.times.extend(unix_of_rfc3339(&entry.test_time));
        group.records.push(text);
    }
    let stored = groups.into_iter().map(|group| {
        let whole = Whole {
            kind: Kind::LlamaBench,
            heading: group.heading,
            records: group.records,
        };
        whole.stored(ResultRun {
            began_s: group.times.iter().min().copied().unwrap_or(0),
            ended_s: group.times.iter().max().copied().unwrap_or(0),
            source: name_of(file),
            models: group.models,
            ..ResultRun::default()
        })
    });
    stored.collect()
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    name.to_string_lossy().into_owned()
}

/// A file of `--out`.
fn of_out(file: &Path, text: &str, heading: Value) -> Outcome<Stored> {
    let at = |line| Place { file, line };
    let Some(kind) = Kind::of(&heading) else {
        return Err(at(1).fault(
            "it is no heading of `bench speed`, `quality`, `context`, `load` or `agents` with `--out`, no \
             export of `bench results`, and no entry of `llama-bench -o json` or `-o jsonl`",
        ));
    };
    let records: Vec<(usize, &str)> = lines(text).skip(1).collect();
    check(file, kind, &heading, (1, &records))?;
    if records.iter().all(|(_, line)| is_origin(line)) {
        return Err(at(1).fault("nothing was measured: there is only a heading"));
    }
    let times = times(records.iter().map(|(_, line)| *line));
    let names = names(kind, &heading, records.iter().map(|(_, line)| *line));
    let models = match kind {
        Kind::Speed => speed_models(&heading),
        _ => origin::of_lines(records.iter().map(|(_, line)| *line), &names),
    };
    let whole = Whole {
        kind,
        records: records.iter().map(|(_, line)| (*line).to_owned()).collect(),
        heading,
    };
    let server = whole.heading["server"].as_str().map(str::to_owned);
    whole.stored(ResultRun {
        began_s: times.iter().min().copied().unwrap_or(0),
        ended_s: times.iter().max().copied().unwrap_or(0),
        source: name_of(file),
        server,
        models,
        ..ResultRun::default()
    })
}

/// Whether heading and lines are what the kind has.
fn check(
    file: &Path,
    kind: Kind,
    heading: &Value,
    (line, records): (usize, &[(usize, &str)]),
) -> Outcome {
    fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<(), serde_json::Error> {
        serde_json::from_str::<T>(text).map(drop)
    }
    let version = heading["version"].as_u64().unwrap_or(0);
    let text = heading.to_string();
    let (known, is_heading) = match kind {
        Kind::Speed => (speed::VERSION, read::<speed::Heading>(&text)),
        Kind::Quality => (quality::VERSION, read::<quality::Heading>(&text)),
        Kind::Context => (context::VERSION, read::<context::Heading>(&text)),
        Kind::Agents => (agents::VERSION, read::<agents::Heading>(&text)),
        Kind::Load => (load_lines::VERSION, read::<load_lines::Heading>(&text)),
        Kind::LlamaBench => (0, Ok(())),
    };
    let word = kind.word();
    let at = |line| Place { file, line };
    if kind != Kind::LlamaBench && version != u64::from(known) {
        return Err(at(line).fault(format!(
            "a file of `bench {word}` of version {version}, and this program knows version {known}"
        )));
    }
    is_heading.map_err(|error| {
        at(line).fault(format!("no heading of `bench {word}`: {}", reason(&error)))
    })?;
    for (line, text) in records {
        let found = match kind {
            _ if kind != Kind::LlamaBench && read::<OriginLine>(text).is_ok() => Ok(()),
            Kind::Load if read::<Last>(text).is_ok() => Ok(()),
            Kind::Speed => read::<speed::Run>(text),
            Kind::Quality => read::<quality::Attempt>(text),
            Kind::Context => read::<context::Attempt>(text),
            Kind::Agents => read::<agents::Attempt>(text),
            Kind::Load => read::<Request>(text),
            Kind::LlamaBench => {
                let entry = Entry::read(text).map(drop);
                entry.map_err(<serde_json::Error as serde::de::Error>::custom)
            }
        };
        found.map_err(|error| {
            at(*line).fault(format!("no record of `{word}`: {}", reason(&error)))
        })?;
    }
    let has_end = |(_, text): &(usize, &str)| read::<Last>(text).is_ok();
    match kind == Kind::Load && !records.iter().any(has_end) {
        true => Err(at(line + records.len()).fault("the load was stopped before its end")),
        false => Ok(()),
    }
}

/// Every moment that lines tell.
pub(super) fn times<'a>(records: impl Iterator<Item = &'a str>) -> Vec<u64> {
    let values = records.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = values.flat_map(|value| {
        let moment = |value: &Value| value["at_unix_secs"].as_u64();
        [moment(&value), moment(&value["origin"])]
    });
    told.flatten().filter(|at| *at > 0).collect()
}

/// The models of a run, as far as its lines name them.
fn names<'a>(kind: Kind, heading: &Value, records: impl Iterator<Item = &'a str>) -> Vec<String> {
    if !matches!(kind, Kind::Quality | Kind::Agents) {
        return heading["model"]
            .as_str()
            .map(str::to_owned)
            .into_iter()
            .collect();
    }
    let mut names: Vec<String> = Vec::new();
    for Named { model } in records.filter_map(|line| serde_json::from_str(line).ok()) {
        if !names.contains(&model) {
            names.push(model);
        }
    }
    names
}

/// What attempts of several models have in common.
#[derive(Deserialize)]
struct Named {
    model: String,
}

/// A heading of `bench speed` knows files, and names where there are several.
fn speed_models(heading: &Value) -> Vec<ResultModel> {
    let list = |value: &Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten();
        words
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let axes = heading["axes"].as_array().into_iter().flatten();
    let names = axes.filter(|axis| axis[0] == speed::MODEL);
    let names: Vec<String> = names.flat_map(|axis| list(&axis[1])).collect();
    let text = |name: &str| heading[name].as_str().map(str::to_owned);
    let models = list(&heading["models"]).into_iter().enumerate();
    let models = models.map(|(place, fingerprint)| ResultModel {
        name: names.get(place).unwrap_or(&fingerprint).clone(),
        path: None,
        bytes: crate::tune::bytes_of(&fingerprint),
        fingerprint: Some(fingerprint),
        build: text("build"),
        hardware: text("hardware"),
    });
    models.collect()
}

/// Runs with their records behind them, as [`super::export`] writes them.
fn of_export(file: &Path, text: &str) -> Outcome<Vec<Stored>> {
    struct Begun<'a> {
        line: usize,
        run: ResultRun,
        records: Vec<(usize, &'a str)>,
    }
    let mut begun: Vec<Begun<'_>> = Vec::new();
    for (line, text) in lines(text) {
        let at = Place { file, line };
        if let Some(last) = begun.last_mut()
            && let Some(record) = super::export::record_of(text, &last.run.id)
        {
            last.records.push((line, record));
            continue;
        }
        let exported: Exported = serde_json::from_str(text).map_err(|error| {
            at.fault(format!(
                "neither a run of an export nor a record of the run before it: {}",
                reason(&error)
            ))
        })?;
        begun.push(Begun {
            line,
            run: exported.run,
            records: Vec::new(),
        });
    }
    let stored = begun.into_iter().map(|Begun { line, run, records }| {
        let at = Place { file, line };
        let kind = Kind::of_word(&run.kind).ok_or_else(|| {
            at.fault(format!(
                "`{}` is no kind of run that is known here",
                run.kind
            ))
        })?;
        if Kind::of(&run.heading) != Some(kind) {
            return Err(at.fault(format!("the heading is not that of `{}`", run.kind)));
        }
        check(file, kind, &run.heading, (line, &records))?;
        if records.iter().all(|(_, line)| is_origin(line)) {
            return Err(at.fault("the run has no records"));
        }
        let whole = Whole {
            kind,
            heading: run.heading.clone(),
            records: records.iter().map(|(_, text)| (*text).to_owned()).collect(),
        };
        whole.stored(run)
    });
    stored.collect()
}
