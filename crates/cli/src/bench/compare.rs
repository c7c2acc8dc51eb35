//! `sextant bench compare`: whether two runs differ, and by how much.

use bench::rates::holm;
use bench::speeds::{Confidence, Factor, unpaired};
use bench::sweep::Figure;
use clap::ArgMatches;
use serde_json::{Value, json};

use super::attempts_file::{Kind, Lines};
use super::quality::Attempt;
use super::report::{self, SIGNIFICANT, interval};
use super::results::{self, llama_bench};
use super::speed::Run;
use super::speed_report::Of;
use crate::outcome::{Code, Outcome, fault};
use crate::output;

/// What of a run is compared.
const FIGURES: [(&str, Of); 5] = [
    ("prefill tokens/s", |figures| figures.prefill_tokens_s),
    ("decode tokens/s", |figures| figures.decode_tokens_s),
    ("both tokens/s", |figures| figures.both_tokens_s),
    ("TTFT s", |figures| figures.ttft_seconds),
    ("start s", |figures| figures.start_seconds),
];

/// One figure of both files.
struct Row {
    what: String,
    name: &'static str,
    first: Figure,
    second: Figure,
    factor: Factor,
    /// That noise alone makes so much, all comparisons of the run accounted for.
    p_value: f64,
}

impl Row {
    fn differs(&self) -> bool {
        self.p_value < SIGNIFICANT
    }
}

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let lines = results::lines(matches, "files")?;
    let [first, second] = lines.as_slice() else {
        return Err(fault(Code::Usage, "name two files or runs"));
    };
    let wants_json = output::wants_json(matches);
    match (first.kind()?, second.kind()?) {
        (Kind::Speed, Kind::Speed) => speeds((samples(first)?, samples(second)?), wants_json),
        (Kind::LlamaBench, Kind::LlamaBench) => {
            speeds(llama_bench::samples(first, second), wants_json)
        }
        (Kind::Quality, Kind::Quality) => qualities(first, second, wants_json),
        _ => Err(fault(
            Code::Usage,
            "compare two runs of `bench speed`, two of `bench quality`, or two of `llama-bench`",
        )),
    }
}

/// The values of a point by the names of its axes.
fn labels(heading: &Value) -> impl Fn(&Run) -> String {
    let axes = heading["axes"].as_array().cloned().unwrap_or_default();
    let names: Vec<String> = axes
        .iter()
        .filter_map(|axis| axis[0].as_str().map(str::to_owned))
        .collect();
    move |run: &Run| {
        let values = names.iter().zip(&run.point);
        let mut parts: Vec<String> = values
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        // The same point may have been asked for in another order.
        parts.sort();
        match parts.is_empty() {
            true => "as it is".to_owned(),
            false => parts.join(" "),
        }
    }
}

/// What a figure was in each round.
pub(super) struct Samples {
    /// What was measured; of the same in both runs the figures are compared.
    pub(super) what: String,
    pub(super) name: &'static str,
    pub(super) values: Vec<f64>,
}

fn speeds((firsts, seconds): (Vec<Samples>, Vec<Samples>), wants_json: bool) -> Outcome {
    let rows = rows(&firsts, &seconds)?;
    if wants_json {
        let rows: Vec<Value> = rows.iter().map(as_json).collect();
        return Ok(output::json(&json!({ "compared": rows }))?);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let head = [
        "WHAT",
        "FIGURE",
        "FIRST",
        "SECOND",
        "SECOND BY FIRST",
        "P",
        "",
    ];
    output::table(&head, &cells)?;
    output::line(&format!(
        "p values account for all {} comparisons (Holm); below {SIGNIFICANT} is a difference",
        rows.len()
    ))?;
    Ok(())
}

/// Of a run of `bench speed`.
fn samples(lines: &Lines) -> Outcome<Vec<Samples>> {
    let heading: Value = lines.heading()?;
    let label = labels(&heading);
    let runs: Vec<Run> = lines.attempts();
    let good = runs.iter().filter(|run| run.failed.is_none());
    let good: Vec<(String, &Run)> = good.map(|run| (label(run), run)).collect();
    let mut labels: Vec<&String> = Vec::new();
    for (label, _) in &good {
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    let of_label = |label: &String| {
        let own = good.iter().filter(|(other, _)| other == label);
        let own: Vec<&Run> = own.map(|(_, run)| *run).collect();
        FIGURES.map(|(name, of)| Samples {
            what: label.clone(),
            name,
            values: own.iter().map(|run| of(&run.figures)).collect(),
        })
    };
    Ok(labels.into_iter().flat_map(of_label).collect())
}

fn rows(firsts: &[Samples], seconds: &[Samples]) -> Outcome<Vec<Row>> {
    let pairs = firsts.iter().filter_map(|first| {
        let mut seconds = seconds.iter();
        let second = seconds.find(|one| (&one.what, one.name) == (&first.what, first.name))?;
        Some((first, second))
    });
    let pairs: Vec<(&Samples, &Samples)> = pairs.collect();
    if pairs.is_empty() {
        let message = "the runs have no combination in common";
        return Err(fault(Code::Usage, message));
    }
    let rows = pairs
        .into_iter()
        .filter_map(|(first, second)| row(&first.what, first.name, &first.values, &second.values));
    let mut rows: Vec<Row> = rows.collect();
    if rows.is_empty() {
        let message = "three rounds of a combination are the least that can be compared";
        return Err(fault(Code::Usage, message));
    }
    let p_values: Vec<f64> = rows.iter().map(|row| row.p_value).collect();
    for (row, corrected) in rows.iter_mut().zip(holm(&p_values)) {
        row.p_value = corrected;
    }
    Ok(rows)
}

/// `None` where there are too few figures.
fn row(what: &str, name: &'static str, first: &[f64], second: &[f64]) -> Option<Row> {
    let logs = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<f64>>();
    let factor = unpaired(&logs(first), &logs(second), Confidence::Percent95)?;
    Some(Row {
        what: what.to_owned(),
        name,
        first: Figure::of(first)?,
        second: Figure::of(second)?,
        p_value: factor.p_value,
        factor,
    })
}

fn cells(row: &Row) -> Vec<String> {
    let of = row.factor.interval;
    let reach = match of.high.is_finite() {
        true => format!(" ({:.3}-{:.3})", of.low, of.high),
        false => String::new(),
    };
    vec![
        row.what.clone(),
        row.name.to_owned(),
        format!("{:.3}", row.first.middle),
        format!("{:.3}", row.second.middle),
        format!("{:.3}{reach}", row.factor.middle),
        format!("{:.3}", row.p_value),
        match row.differs() {
            true => "differs".to_owned(),
            false => "within noise".to_owned(),
        },
    ]
}

fn as_json(row: &Row) -> Value {
    json!({
        "what": row.what,
        "figure": row.name,
        "first": { "n": row.first.n, "middle": row.first.middle },
        "second": { "n": row.second.n, "middle": row.second.middle },
        "factor": row.factor.middle,
        "interval": row.factor.interval.high.is_finite().then(|| interval(row.factor.interval)),
        "p_value": row.p_value,
        "differs": row.differs(),
    })
}

/// A model of either file, under which its attempts are put side by side.
struct Pair {
    first: String,
    second: String,
    p_value: f64,
}

fn qualities(first: &Lines, second: &Lines, wants_json: bool) -> Outcome {
    let (first, second) = (
        marked(first.attempts(), "first"),
        marked(second.attempts(), "second"),
    );
    let mut pairs = pairs(&first, &second)?;
    let attempts: Vec<Attempt> = first.into_iter().chain(second).collect();
    let asked = report::asked(&attempts)?;
    let p_values: Vec<f64> = pairs
        .iter()
        .map(|pair| report::p_value(&attempts, &pair.first, &pair.second))
        .collect();
    for (pair, corrected) in pairs.iter_mut().zip(holm(&p_values)) {
        pair.p_value = corrected;
    }
    if wants_json {
        let each = pairs.iter().map(|pair| {
            let of = |model| report::as_json(&report::result(model, &asked, &attempts));
            json!({
                "first": of(&pair.first),
                "second": of(&pair.second),
                "p_value": pair.p_value,
                "differs": pair.p_value < SIGNIFICANT,
            })
        });
        return Ok(output::json(
            &json!({ "compared": each.collect::<Vec<_>>() }),
        )?);
    }
    for pair in &pairs {
        side_by_side(pair, &asked, &attempts)?;
    }
    Ok(())
}

/// With the file before the model's name, so that both may be of one model.
fn marked(attempts: Vec<Attempt>, file: &str) -> Vec<Attempt> {
    let mark = |attempt: Attempt| Attempt {
        model: format!("{file} {}", attempt.model),
        ..attempt
    };
    attempts.into_iter().map(mark).collect()
}

/// Models of the same name, or the only ones.
fn pairs(first: &[Attempt], second: &[Attempt]) -> Outcome<Vec<Pair>> {
    let models = |attempts: &[Attempt]| {
        let mut models: Vec<String> = attempts.iter().map(|one| one.model.clone()).collect();
        models.sort();
        models.dedup();
        models
    };
    let (firsts, seconds) = (models(first), models(second));
    let pair = |first: &String, second: &String| Pair {
        first: first.clone(),
        second: second.clone(),
        p_value: 1.0,
    };
    if let ([one], [other]) = (firsts.as_slice(), seconds.as_slice()) {
        return Ok(vec![pair(one, other)]);
    }
    let name = |marked: &str| marked.split_once(' ').map(|(_, name)| name.to_owned());
    let shared = firsts.iter().filter_map(|one| {
        let other = seconds.iter().find(|other| name(other) == name(one))?;
        Some(pair(one, other))
    });
    let shared: Vec<Pair> = shared.collect();
    match shared.is_empty() {
        true => Err(fault(Code::Usage, "the runs have no model in common")),
        false => Ok(shared),
    }
}

fn side_by_side(pair: &Pair, asked: &report::Asked, attempts: &[Attempt]) -> Outcome {
    let both = [&pair.first, &pair.second].map(|model| report::result(model, asked, attempts));
    let rows = both.map(|one| report::rates_row(&one));
    output::table(&report::rates_head(), &rows)?;
    let verdict = match pair.p_value < SIGNIFICANT {
        true => "they differ in quality",
        false => "they do not differ in quality, as far as the attempts tell",
    };
    output::line(&format!("{verdict} (p {:.3})", pair.p_value))?;
    Ok(())
}
