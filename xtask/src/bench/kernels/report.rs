//! Medians, shares of what the machine can do, and the two files they are written to.

use super::Sizes;
use super::cases::{Case, Crowd, Goal, Subject, Work};
use super::sample::Sample;
use crate::shell::root;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

pub(super) struct Row {
    pub(super) case: Case,
    /// Ours and the peer's, a pair a round.
    samples: Vec<[Sample; 2]>,
}

pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) rounds: usize,
    pub(super) threads: u32,
    pub(super) isa: String,
    /// What the machine can do: products of 8-bit numbers, and reading.
    pub(super) int8_ops_s: f64,
    pub(super) bytes_s: f64,
    pub(super) sizes: BTreeMap<Subject, Sizes>,
    pub(super) facts: Vec<(&'static str, String)>,
}

impl Row {
    pub(super) fn new(case: Case) -> Self {
        Self {
            case,
            samples: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, pair: [Sample; 2]) {
        self.samples.push(pair);
    }

    fn medians(&self, of: impl Fn(&Sample) -> f64) -> [f64; 2] {
        [0, 1].map(|side| median(self.samples.iter().map(|pair| of(&pair[side]))))
    }

    /// Ours to the peer's, within each round, sorted.
    fn ratios(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let pairs = self.samples.iter();
        let mut ratios: Vec<f64> = pairs.map(|pair| of(&pair[0]) / of(&pair[1])).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// Of what the machine can do; `None` where nothing is known to bind.
    fn shares(&self, report: &Report) -> Option<[f64; 2]> {
        let sizes = report.sizes.get(&self.case.subject)?;
        let speeds = self.medians(|sample| sample.tokens_s);
        let most = match self.case.work {
            _ if self.case.depth > 0 || self.case.crowd != Crowd::Alone => return None,
            Work::Load => return None,
            Work::Prefill(_) => report.int8_ops_s / (2.0 * sizes.layers_weights as f64),
            Work::Decode(_) => report.bytes_s / sizes.decode_bytes as f64,
        };
        Some(speeds.map(|speed| speed / most))
    }

    /// The memory of both while the model answers: a load alone ends too soon to tell.
    fn resident(&self, report: &Report) -> [f64; 2] {
        let is_prefill = |row: &&Self| {
            row.case.subject == self.case.subject
                && row.case.crowd == Crowd::Alone
                && matches!(row.case.work, Work::Prefill(_))
        };
        let row = report.rows.iter().find(is_prefill).unwrap_or(self);
        row.medians(|sample| sample.resident_bytes as f64)
    }

    /// What is asked for, and whether it is reached.
    fn verdict(&self, report: &Report) -> (String, Option<bool>) {
        let middle = |ratios: Vec<f64>| median(ratios.into_iter());
        let ratio = middle(self.ratios(|sample| sample.tokens_s));
        let share = self.shares(report).map_or(0.0, |[ours, _]| ours);
        match self.case.goal {
            Goal::Nothing => (String::new(), None),
            Goal::Ratio(least) => (format!("x{least}"), Some(ratio >= least)),
            Goal::OfProducts(least) => {
                let asked = format!("{:.0} % of products", 100.0 * least);
                (asked, Some(share >= least))
            }
            Goal::OfBandwidth(least) => {
                let asked = format!("{:.0} % of reading", 100.0 * least);
                (asked, Some(share >= least))
            }
            Goal::Load { seconds, bytes } => {
                let [ours, peer] = self.resident(report);
                let reached =
                    middle(self.ratios(|sample| sample.seconds)) <= seconds && ours / peer <= bytes;
                (format!("time x{seconds}, memory x{bytes}"), Some(reached))
            }
        }
    }

    fn line(&self, report: &Report) -> String {
        let (asked, reached) = self.verdict(report);
        let reached = reached.map_or("", |reached| if reached { "yes" } else { "NO" });
        if self.case.work == Work::Load {
            let mib = |bytes: f64| bytes / f64::from(1 << 20);
            let [ours, peer] = self.medians(|sample| sample.seconds);
            let [our_bytes, peer_bytes] = self.resident(report);
            return format!(
                "| {} | {ours:.2} s, {:.0} MiB | {peer:.2} s, {:.0} MiB | **{:.2}**, {:.2} | | | \
                 | {asked} | {reached} |",
                self.case.name(),
                mib(our_bytes),
                mib(peer_bytes),
                ours / peer,
                our_bytes / peer_bytes,
            );
        }
        let [ours, peer] = self.medians(|sample| sample.tokens_s);
        let ratios = self.ratios(|sample| sample.tokens_s);
        let range = ratios.first().zip(ratios.last());
        let range = range.map_or_else(String::new, |(low, high)| format!("{low:.2}-{high:.2}"));
        let [our_share, peer_share] = match self.shares(report) {
            None => [String::new(), String::new()],
            Some(shares) => shares.map(|share| format!("{:.0} %", 100.0 * share)),
        };
        format!(
            "| {} | {ours:.1} | {peer:.1} | **{:.2}** | {range} | {our_share} | {peer_share} | \
             {asked} | {reached} |",
            self.case.name(),
            median(ratios.into_iter()),
        )
    }
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    crate::speed_check::median(samples.collect())
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| what | Sextant | llama.cpp | ratio | range | share | its share | asked | |\n\
             |---|---:|---:|---:|---|---:|---:|---|---|\n",
        );
        for row in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", row.line(self));
        }
        text
    }

    pub(super) fn write(&self, isa: Option<&str>) -> Result<()> {
        let suffix = isa.map_or_else(String::new, |isa| format!("-{isa}"));
        let folder = root().join("docs/benchmarks");
        let file = |ending: &str| folder.join(format!("kernels{suffix}.{ending}"));
        fs::write(file("md"), self.markdown())?;
        let json = serde_json::to_string_pretty(&self.json())? + "\n";
        fs::write(file("json"), json)?;
        println!("written: {}", file("md").display());
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# Our kernels against llama.cpp's\n\n\
             Written by `cargo xtask bench kernels`. Both columns are `llama-bench`: the peer of \
             a native build,\nours of a stock build with back ends in libraries, which loads our \
             plugin. {} threads, {} rounds in\nwhich the two take turns, medians of tokens a \
             second, and the median and range of the rounds' own\nratios. A prompt's share is of \
             the {:.0} giga operations a second that the machine does with\n8-bit products in \
             registers ({}), an answer's of the {:.1} GB a second that it reads; both are\nover \
             matrices alone, attention is left out. Loading is a process that reads the model \
             and one token.\n\n",
            self.threads,
            self.rounds,
            self.int8_ops_s / 1e9,
            self.isa,
            self.bytes_s / 1e9,
        );
        text += &self.table();
        text += "\n| fact | value |\n|---|---|\n";
        for (name, value) in &self.facts {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }

    fn json(&self) -> Value {
        let side = |row: &Row, side: usize| -> Value {
            let samples = row.samples.iter().map(|pair| {
                let one = &pair[side];
                json!({
                    "tokens_per_second": one.tokens_s,
                    "seconds": one.seconds,
                    "resident_bytes": one.resident_bytes,
                })
            });
            samples.collect()
        };
        let rows = self.rows.iter().map(|row| {
            json!({ "case": row.case.name(), "sextant": side(row, 0), "llama.cpp": side(row, 1) })
        });
        let facts = self
            .facts
            .iter()
            .map(|(name, value)| (*name, value.clone()));
        json!({
            "rows": rows.collect::<Vec<_>>(),
            "threads": self.threads,
            "isa": self.isa,
            "int8_operations_per_second": self.int8_ops_s,
            "bytes_per_second": self.bytes_s,
            "facts": facts.collect::<BTreeMap<_, _>>(),
        })
    }
}
