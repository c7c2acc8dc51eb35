//! `sextant bench report`: files of results as a page, in HTML or Markdown.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::page::{Bar, Bars, Cell, Dot, Heat, Page, Part, Scatter, Section, Table};
use bench::quality::{Dimension, suite};
use bench::rates::wilson;
use bench::sweep::{self, Axis, Figure};
use clap::ArgMatches;

use super::attempts_file::{self, Kind};
use super::quality::Attempt;
use super::report::{self, Summary};
use super::speed::{Heading, Run};
use super::speed_report::{Results, Row};
use super::{agents, context, quality};
use crate::outcome::Outcome;
use crate::output::{self, say};

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let files = matches.get_many::<PathBuf>("files").unwrap_or_default();
    let mut page = Page {
        title: matches
            .get_one::<String>("title")
            .cloned()
            .unwrap_or_default(),
        sections: Vec::new(),
    };
    for file in files {
        page.sections.push(section(file)?);
    }
    let Some(html) = matches.get_one::<PathBuf>("html") else {
        output::piece(&page.markdown())?;
        return Ok(());
    };
    std::fs::write(html, page.html()).with_context(|| html.display().to_string())?;
    say(&format!("written: {}", html.display()));
    Ok(())
}

fn section(file: &Path) -> Outcome<Section> {
    let name = file.file_name().unwrap_or(file.as_os_str());
    let name = name.to_string_lossy().into_owned();
    let (title, note, parts) = match attempts_file::kind(file)? {
        Kind::Quality => qualities(file)?,
        Kind::Speed => speeds(file)?,
        Kind::Context => contexts(file)?,
        Kind::Agents => agents::section(file)?,
    };
    Ok(Section {
        title: format!("{title} ({name})"),
        note,
        parts,
    })
}

type Content = (&'static str, String, Vec<Part>);

fn qualities(file: &Path) -> Outcome<Content> {
    let suite = suite()?;
    let attempts: Vec<Attempt> = attempts_file::attempts(file)?;
    let results: Vec<Summary> = quality::models(&attempts)
        .iter()
        .map(|model| report::result(model, &suite, &attempts))
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

fn speeds(file: &Path) -> Outcome<Content> {
    let heading: Heading = attempts_file::heading(file)?;
    let runs: Vec<Run> = attempts_file::attempts(file)?;
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
            rows: results.rows.iter().map(Row::cells).collect(),
        }),
        Part::Remarks(results.remarks.clone()),
    ];
    Ok(("Speed", results.told(), parts))
}

fn contexts(file: &Path) -> Outcome<Content> {
    let report = context::of_file(file)?;
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
    Ok(("Context", note.to_owned(), parts))
}
