//! `sextant bench report`: files of results as a page, in HTML or Markdown.

use std::path::PathBuf;

use anyhow::Context;
use bench::page::{Bar, Bars, Cell, Dot, Heat, Page, Part, Scatter, Section, Table};
use bench::quality::Dimension;
use bench::rates::wilson;
use bench::sweep::{self, Axis, Figure};
use clap::ArgMatches;

use super::attempts_file::{Kind, Lines};
use super::quality::Attempt;
use super::report::{self, Summary};
use super::results::{self, llama_bench};
use super::speed::{Heading, Run};
use super::speed_report::{Results, Row};
use super::{agents, context, load, load_lines, quality};
use crate::outcome::Outcome;
use crate::output::{self, say};

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let title = matches.get_one::<String>("title");
    let page = page(
        title.cloned().unwrap_or_default(),
        &results::lines(matches, "files")?,
    )?;
    let Some(html) = matches.get_one::<PathBuf>("html") else {
        output::piece(&page.markdown())?;
        return Ok(());
    };
    std::fs::write(html, page.html()).with_context(|| html.display().to_string())?;
    say(&format!("written: {}", html.display()));
    Ok(())
}

/// A section of each.
pub(super) fn page(title: String, lines: &[Lines]) -> Outcome<Page> {
    let sections = lines.iter().map(section);
    Ok(Page {
        title,
        sections: sections.collect::<Outcome<_>>()?,
    })
}

pub(super) fn section(lines: &Lines) -> Outcome<Section> {
    let name = lines.name.file_name().unwrap_or(lines.name.as_os_str());
    let name = name.to_string_lossy().into_owned();
    let (title, note, parts) = match lines.kind()? {
        Kind::Quality => qualities(lines)?,
        Kind::Speed => speeds(lines)?,
        Kind::Context => contexts(lines),
        Kind::Agents => agents::section(lines),
        Kind::Load => loads(lines)?,
        Kind::LlamaBench => llama_bench::content(lines),
    };
    Ok(Section {
        title: format!("{title} ({name})"),
        note,
        parts,
    })
}

/// Title, note and parts of a section.
pub(super) type Content = (&'static str, String, Vec<Part>);

fn qualities(lines: &Lines) -> Outcome<Content> {
    let attempts: Vec<Attempt> = lines.attempts();
    let asked = report::asked(&attempts)?;
    let results: Vec<Summary> = quality::models(&attempts)
        .iter()
        .map(|model| report::result(model, &asked, &attempts))
        .collect();
    let mut parts = vec![Part::Table(Table {
        head: report::head().iter().map(|&word| word.into()).collect(),
        rows: report::ranked(&results)
            .iter()
            .map(|one| report::row(one))
            .collect(),
    })];
    let dots = results.iter().filter(|one| one.seconds_mean > 0.0);
    let dots: Vec<Dot> = dots.map(dot).collect();
    if !dots.is_empty() {
        parts.push(Part::Scatter(Scatter {
            title: "Quality against speed".into(),
            x: "answers a minute".into(),
            y: "right, %".into(),
            dots,
        }));
    }
    for dimension in Dimension::ALL {
        let bars: Vec<Bar> = results
            .iter()
            .filter_map(|one| bar(one, dimension))
            .collect();
        if !bars.is_empty() {
            parts.push(Part::Bars(Bars {
                title: dimension.word().replace('_', " "),
                unit: "right, %".into(),
                most: Some(100.0),
                bars,
            }));
        }
    }
    let ranked: Vec<&Summary> = report::ranked(&results);
    parts.push(Part::Remarks(report::comparisons(&ranked, &attempts)));
    let note = "Right answers to questions that a program judges, with intervals of 95 % (Wilson).";
    Ok(("Quality", note.to_owned(), parts))
}

fn dot(one: &Summary) -> Dot {
    let (right, n) = one.all();
    let interval = wilson(right, n);
    Dot {
        label: one.model.clone(),
        x: 60.0 / one.seconds_mean,
        y: 100.0 * report::ratio(right, n.max(1)),
        y_interval: (100.0 * interval.low, 100.0 * interval.high),
    }
}

fn bar(one: &Summary, dimension: Dimension) -> Option<Bar> {
    let rate = one.rates.iter().find(|rate| rate.0 == dimension);
    let (_, right, n) = rate.filter(|rate| rate.2 > 0)?;
    let interval = wilson(*right, *n);
    Some(Bar {
        label: format!("{}, {right}/{n}", one.model),
        value: 100.0 * report::ratio(*right, *n),
        interval: Some((100.0 * interval.low, 100.0 * interval.high)),
    })
}

fn speeds(lines: &Lines) -> Outcome<Content> {
    let heading: Heading = lines.heading()?;
    let runs: Vec<Run> = lines.attempts();
    let axes = heading.axes.iter().map(|(name, values)| Axis {
        name: name.clone(),
        values: values.clone(),
    });
    let axes: Vec<Axis> = axes.collect();
    let points = sweep::points(&axes).map_err(anyhow::Error::msg)?;
    let results = Results::new(&heading, &points, &runs);
    let bars = |title: &str, of: fn(&Row) -> &Option<Figure>| {
        let bars = results.rows.iter().filter_map(|row| {
            let figure = of(row).as_ref()?;
            Some(Bar {
                label: row.label.clone(),
                value: figure.middle,
                interval: figure
                    .interval
                    .map(|interval| (interval.low, interval.high)),
            })
        });
        Part::Bars(Bars {
            title: title.to_owned(),
            unit: "tokens/s".into(),
            most: None,
            bars: bars.collect(),
        })
    };
    let parts = vec![
        bars("Reading", |row| &row.prefill),
        bars("Saying", |row| &row.decode),
        Part::Table(Table {
            head: results.head(),
            rows: results.cells(),
        }),
        Part::Remarks(results.remarks.clone()),
    ];
    Ok(("Speed", results.told(), parts))
}

fn loads(lines: &Lines) -> Outcome<Content> {
    let (heading, run) = load_lines::Run::read(lines)?;
    let report = run.report();
    let parts = vec![
        Part::Table(Table {
            head: load::HEAD.map(str::to_owned).to_vec(),
            rows: load::rows(&report),
        }),
        Part::Remarks(load::told(&report, &run.ended.objective())),
    ];
    let note = format!(
        "{} requests to {} at {}, {}.",
        heading.requests,
        heading.model,
        heading.server,
        load::words(heading.arrivals())
    );
    Ok(("Load", note, parts))
}

fn contexts(lines: &Lines) -> Content {
    let report = context::of_lines(lines);
    let lengths = &report.lengths;
    let depths = lengths.first().map_or(&[][..], |one| &one.depths[..]);
    let depths: Vec<f64> = depths.iter().map(|depth| depth.0).collect();
    let rows = lengths.iter().map(|one| {
        let cell = |wanted: &f64| {
            let found = one.depths.iter().find(|depth| depth.0 == *wanted);
            found.map(|(_, right, n)| Cell {
                share: report::ratio(*right, (*n).max(1)),
                text: format!("{right}/{n}"),
            })
        };
        (
            format!("{} tokens", one.context),
            depths.iter().map(cell).collect(),
        )
    });
    let heat = Heat {
        title: "Found, by length and by the place of the fact".into(),
        columns: depths
            .iter()
            .map(|depth| format!("{:.0} %", 100.0 * depth))
            .collect(),
        rows: rows.collect(),
    };
    let parts = vec![
        Part::Heat(heat),
        Part::Remarks(vec![context::told(&report)]),
    ];
    let note = "A fact is planted at some depth of a text, and asked for behind it.";
    ("Context", note.to_owned(), parts)
}
