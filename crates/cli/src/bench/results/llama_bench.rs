//! Runs of llama.cpp's `llama-bench`, as `-o json` and `-o jsonl` write them.
//!
//! Each entry is a test: so many tokens read (`pp`), said (`tg`) or both, at some depth. Entries stay
//! as they are; reading and saying are never put together, since they were not one invocation.

use std::collections::BTreeSet;

use bench::page::{Bar, Bars, Part, Table};
use bench::sweep::Figure;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stdx::Bytes;
use store::ResultModel;

use crate::bench::attempts_file::Lines;
use crate::bench::compare::Samples;
use crate::bench::page::Content;

/// Of the heading that we give such a run.
const VERSION: u32 = 1;
/// Repetitions of one test.
const SAMPLES_MAX: usize = 100_000;
/// What is the same in all tests of a run.
const BUILD: [&str; 5] = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
];
/// What says which test it is, beside its tokens, where tests differ in it.
const SETTINGS: [&str; 11] = [
    "model_type",
    "model_filename",
    "n_threads",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "flash_attn",
    "cpu_mask",
    "backends",
];

/// What must be in an entry; the rest is kept as it is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    n_prompt: u64,
    #[serde(default)]
    n_gen: u64,
    #[serde(default)]
    n_depth: u64,
    /// Tokens a second, the mean.
    avg_ts: f64,
    #[serde(default)]
    stddev_ts: f64,
    #[serde(default)]
    samples_ts: Vec<f64>,
    #[serde(default)]
    pub(super) test_time: String,
    pub(super) model_filename: String,
    #[serde(default)]
    model_type: String,
    #[serde(default)]
    model_size: u64,
    #[serde(default)]
    model_n_params: u64,
    #[serde(default)]
    n_threads: u64,
    #[serde(default)]
    backends: String,
}

impl Entry {
    /// # Errors
    /// What it lacks or has too much of.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let entry: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let speeds = || entry.samples_ts.iter().chain([&entry.avg_ts]);
        if !speeds().all(|speed| speed.is_finite() && *speed >= 0.0) {
            return Err("a speed is below 0".to_owned());
        }
        if entry.samples_ts.len() > SAMPLES_MAX {
            return Err(format!(
                "it has {} samples, and at most {SAMPLES_MAX} are taken",
                entry.samples_ts.len()
            ));
        }
        match entry.n_prompt + entry.n_gen {
            0 => Err("it has neither `n_prompt` nor `n_gen`, so it is no test".to_owned()),
            _ => Ok(entry),
        }
    }

    /// As llama-bench calls it.
    fn test(&self) -> String {
        let tokens = match (self.n_prompt, self.n_gen) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, answer) => format!("tg{answer}"),
            (prompt, answer) => format!("pp{prompt}+tg{answer}"),
        };
        match self.n_depth {
            0 => tokens,
            depth => format!("{tokens} @ d{depth}"),
        }
    }

    /// Each repetition; the mean where they are not told.
    fn speeds(&self) -> Vec<f64> {
        match self.samples_ts.is_empty() {
            true => vec![self.avg_ts],
            false => self.samples_ts.clone(),
        }
    }

    /// What was measured, as far as the entry says.
    pub(super) fn model(&self, heading: &Value) -> ResultModel {
        let text = |name: &str| heading[name].as_str().filter(|text| !text.is_empty());
        let file = self.model_filename.rsplit(['/', '\\']).next();
        let name = file.map_or("", |file| file.trim_end_matches(".gguf"));
        let hardware: Vec<&str> = ["cpu_info", "gpu_info"]
            .into_iter()
            .filter_map(text)
            .collect();
        ResultModel {
            name: name.to_owned(),
            path: Some(self.model_filename.clone()),
            bytes: None,
            fingerprint: None,
            build: Some(format!(
                "llama.cpp {} ({})",
                heading["build_number"],
                text("build_commit").unwrap_or("unknown")
            )),
            hardware: (!hardware.is_empty()).then(|| hardware.join("; ")),
        }
    }
}

/// Whether an object is one of llama-bench.
pub(super) fn is_entry(object: &Value) -> bool {
    object["avg_ts"].is_number() && object["model_filename"].is_string()
}

/// The first line of the run that an entry belongs to.
pub(super) fn heading(entry: &Value) -> Value {
    let mut heading = Map::new();
    heading.insert("llama_bench".to_owned(), json!(VERSION));
    for name in BUILD {
        heading.insert(name.to_owned(), entry[name].clone());
    }
    Value::Object(heading)
}

/// What one line of a run says.
struct Test {
    entry: Entry,
    all: Value,
}

fn tests(lines: &Lines) -> Vec<Test> {
    let texts = lines.text.lines().skip(1);
    let tests = texts.filter_map(|text| {
        Some(Test {
            entry: Entry::read(text).ok()?,
            all: serde_json::from_str(text).ok()?,
        })
    });
    tests.collect()
}

/// The settings in which tests differ.
fn differing(tests: &[Test]) -> Vec<&'static str> {
    let names = SETTINGS.into_iter();
    names
        .filter(|name| {
            let values: BTreeSet<String> = tests
                .iter()
                .map(|test| test.all[*name].to_string())
                .collect();
            values.len() > 1
        })
        .collect()
}

fn label(test: &Test, names: &[&str]) -> String {
    let values = names.iter().map(|name| match &test.all[*name] {
        Value::String(text) => format!(" {name}={text}"),
        value => format!(" {name}={value}"),
    });
    format!("{}{}", test.entry.test(), values.collect::<String>())
}

/// What two runs have measured, under names that mean the same in both: a setting is named where
/// the tests of one of the runs differ in it.
pub(in crate::bench) fn samples(first: &Lines, second: &Lines) -> (Vec<Samples>, Vec<Samples>) {
    let (first, second) = (tests(first), tests(second));
    let mut names = differing(&first);
    for name in differing(&second) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of = |tests: &[Test]| {
        let mut samples: Vec<Samples> = Vec::new();
        for test in tests {
            let what = label(test, &names);
            let speeds = test.entry.speeds();
            match samples.iter_mut().find(|one| one.what == what) {
                Some(same) => same.values.extend(speeds),
                None => samples.push(Samples {
                    what,
                    name: "tokens/s",
                    values: speeds,
                }),
            }
        }
        samples
    };
    (of(&first), of(&second))
}

/// What a page shows of a run.
pub(in crate::bench) fn content(lines: &Lines) -> Content {
    let tests = tests(lines);
    let names = differing(&tests);
    let bars = tests.iter().filter_map(|test| {
        let figure = Figure::of(&test.entry.speeds())?;
        let interval = figure
            .interval
            .map(|interval| (interval.low, interval.high));
        Some(Bar {
            label: label(test, &names),
            value: figure.middle,
            interval,
        })
    });
    let rows = tests.iter().map(|Test { entry, .. }| {
        vec![
            entry.model_type.clone(),
            Bytes(entry.model_size).to_string(),
            format!("{:.2} B", entry.model_n_params as f64 / 1e9),
            entry.backends.clone(),
            entry.n_threads.to_string(),
            entry.test(),
            format!("{:.2} ± {:.2}", entry.avg_ts, entry.stddev_ts),
            entry.samples_ts.len().max(1).to_string(),
        ]
    });
    let head = [
        "MODEL", "SIZE", "PARAMS", "BACKEND", "THREADS", "TEST", "T/S", "N",
    ];
    let parts = vec![
        Part::Bars(Bars {
            title: "Tokens a second".into(),
            unit: "tokens/s".into(),
            most: None,
            bars: bars.collect(),
        }),
        Part::Table(Table {
            head: head.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }),
    ];
    let models = tests.first().map(|test| {
        let heading = lines.heading().unwrap_or_default();
        test.entry.model(&heading)
    });
    let told = models.map_or_else(String::new, |model| {
        let hardware = model.hardware.unwrap_or_else(|| "hardware unknown".into());
        format!("{}; {hardware}", model.build.unwrap_or_default())
    });
    let note = format!(
        "By llama-bench: reading (pp) and saying (tg) were measured apart, ± is one standard \
         deviation. {told}"
    );
    ("llama-bench", note, parts)
}
