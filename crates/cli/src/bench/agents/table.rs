//! What the attempts come to, as tables, as JSON and as a part of a page.

use std::collections::BTreeMap;

use bench::agents::{Comparison, Contestant, Line, Report};
use bench::page::{Bar, Bars, Part, Table};
use serde_json::{Value, json};

use super::{Attempt, report_of};
use crate::bench::attempts_file::Lines;
use crate::bench::interval;
use crate::bench::report::ratio;
use crate::outcome::Outcome;
use crate::output;

const HEAD: [&str; 15] = [
    "MODEL",
    "AGENT",
    "SOLVED",
    "95 %",
    "VOID",
    "TURNS",
    "S A TURN",
    "S",
    "CALLS",
    "WRONG",
    "MALFORMED",
    "READ",
    "SAID",
    "RETRIES",
    "ENDED BY",
];

pub(super) fn write(report: &Report) -> Outcome {
    let rows: Vec<Vec<String>> = report.lines.iter().map(row).collect();
    output::table(&HEAD, &rows)?;
    output::line("")?;
    let (head, rows) = by_task(report);
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    output::table(&head, &rows)?;
    for line in remarks(report) {
        output::line(&line)?;
    }
    Ok(())
}

fn row(line: &Line) -> Vec<String> {
    let tokens = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let ended = line.ended.iter();
    let ended = ended.map(|(ended, n)| format!("{} {n}", ended.word()));
    let interval = &line.interval;
    vec![
        line.contestant.model.clone(),
        line.contestant.agent.clone(),
        format!("{}/{}", line.solved, line.n),
        format!("{:.2}-{:.2}", interval.low, interval.high),
        line.n_void.to_string(),
        format!("{:.1}", line.turns),
        line.turn_seconds
            .map_or("-".to_owned(), |seconds| format!("{seconds:.1}")),
        format!("{:.1}", line.seconds),
        line.calls.all().to_string(),
        line.calls.wrong.to_string(),
        line.calls.malformed.to_string(),
        tokens(line.n_prompt),
        tokens(line.n_answer),
        line.n_retries.to_string(),
        ended.collect::<Vec<_>>().join(", "),
    ]
}

/// A row for each contestant, a column for each task.
fn by_task(report: &Report) -> (Vec<String>, Vec<Vec<String>>) {
    let mut tasks: Vec<&str> = Vec::new();
    for (task, _, _) in report.lines.iter().flat_map(|line| &line.tasks) {
        if !tasks.contains(&task.as_str()) {
            tasks.push(task);
        }
    }
    let mut head = vec!["MODEL".to_owned(), "AGENT".to_owned()];
    head.extend(tasks.iter().map(|&task| task.to_owned()));
    let rows = report.lines.iter().map(|line| {
        let cells = tasks.iter().map(|task| {
            let found = line.tasks.iter().find(|one| one.0 == *task);
            found.map_or("-".to_owned(), |(_, solved, n)| format!("{solved}/{n}"))
        });
        let names = [&line.contestant.model, &line.contestant.agent];
        let cells = names.into_iter().cloned().chain(cells);
        cells.collect::<Vec<String>>()
    });
    (head, rows.collect())
}

fn name(of: &Contestant) -> String {
    format!("{} with {}", of.model, of.agent)
}

/// Every pair in words; none is ranked above another that noise may have put there.
fn remarks(report: &Report) -> Vec<String> {
    let said = report.comparisons.iter().map(|one| {
        let verdict = match one.differs() {
            true => "differ",
            false => "do not differ, as far as these attempts tell",
        };
        format!(
            "{} and {} {verdict} (p {:.3})",
            name(&one.first),
            name(&one.second),
            one.p_value
        )
    });
    said.collect()
}

pub(super) fn as_json(report: &Report) -> Value {
    let lines = report.lines.iter().map(line_json);
    let compared = report.comparisons.iter().map(comparison_json);
    json!({
        "results": lines.collect::<Vec<_>>(),
        "compared": compared.collect::<Vec<_>>(),
    })
}

fn line_json(line: &Line) -> Value {
    let tasks = line.tasks.iter();
    let tasks = tasks.map(|(task, solved, n)| json!({ "task": task, "solved": solved, "n": n }));
    let ended = line.ended.iter().map(|(ended, n)| (ended.word(), *n));
    json!({
        "model": line.contestant.model,
        "agent": line.contestant.agent,
        "solved": line.solved,
        "n": line.n,
        "interval": interval(line.interval),
        "void": line.n_void,
        "tasks": tasks.collect::<Vec<_>>(),
        "ended": ended.collect::<BTreeMap<_, _>>(),
        "turns_median": line.turns,
        "turn_seconds_median": line.turn_seconds,
        "seconds_median": line.seconds,
        "calls": {
            "right": line.calls.right,
            "wrong": line.calls.wrong,
            "malformed": line.calls.malformed,
        },
        "prompt_tokens": line.n_prompt,
        "answer_tokens": line.n_answer,
        "retries": line.n_retries,
    })
}

fn comparison_json(one: &Comparison) -> Value {
    let of = |who: &Contestant| json!({ "model": who.model, "agent": who.agent });
    json!({
        "first": of(&one.first),
        "second": of(&one.second),
        "only_first": one.only_first,
        "only_second": one.only_second,
        "p_value": one.p_value,
        "differs": one.differs(),
    })
}

/// Title, note and parts of a page's section.
pub(in crate::bench) fn section(lines: &Lines) -> (&'static str, String, Vec<Part>) {
    let attempts: Vec<Attempt> = lines.attempts();
    let report = report_of(&attempts);
    let bars = report.lines.iter().filter(|line| line.n > 0);
    let bars = bars.map(|line| Bar {
        label: format!("{}, {}/{}", name(&line.contestant), line.solved, line.n),
        value: 100.0 * ratio(line.solved, line.n),
        interval: Some((100.0 * line.interval.low, 100.0 * line.interval.high)),
    });
    let (head, rows) = by_task(&report);
    let parts = vec![
        Part::Bars(Bars {
            title: "Solved".into(),
            unit: "%".into(),
            most: Some(100.0),
            bars: bars.collect(),
        }),
        Part::Table(Table {
            head: HEAD.map(str::to_owned).to_vec(),
            rows: report.lines.iter().map(row).collect(),
        }),
        Part::Table(Table { head, rows }),
        Part::Remarks(remarks(&report)),
    ];
    let note = "Tasks whose tests pass in the end, with intervals of 95 % (Wilson).";
    ("Agents", note.to_owned(), parts)
}
