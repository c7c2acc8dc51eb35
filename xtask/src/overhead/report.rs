//! Medians over the rounds, what is required, and the files they are written to.

use super::gateways::Kind;
use super::{CELLS, Cell, Found, Mode, PACE, Sample};
use crate::bench::machine;
use crate::shell::{self, program, root};
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::time::Duration;

pub(super) struct Report {
    pub(super) found: Vec<Found>,
    pub(super) rounds: usize,
    pub(super) load: String,
    pub(super) date: Option<String>,
    /// Measured time of each cell.
    pub(super) cell: Duration,
}

/// Something that is required of Sextant.
struct Goal {
    what: &'static str,
    wanted: String,
    /// NaN where something was not measured.
    seen: f64,
    met: bool,
}

type Figure = fn(&Sample) -> f64;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// With as many digits as such a figure is good for; a dash for what was not measured.
fn show(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

const fn cell(mode: Mode, concurrency: usize) -> Cell {
    Cell { mode, concurrency }
}

impl Found {
    fn figure(&self, cell: Cell, figure: Figure) -> f64 {
        let samples = self.samples.iter().filter(|(of, _)| *of == cell);
        median(samples.map(|(_, sample)| figure(sample)).collect())
    }
}

impl Report {
    fn figure(&self, kind: Kind, cell: Cell, figure: Figure) -> f64 {
        let found = self.found.iter().find(|found| found.kind == kind);
        found.map_or(f64::NAN, |found| found.figure(cell, figure))
    }

    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        self.goals_table(&mut text);
        self.rates(&mut text, Mode::Whole, "Whole answers");
        self.rates(&mut text, Mode::Burst, "Streams, all chunks at once");
        self.paced(&mut text);
        self.processes(&mut text);
        text
    }

    fn goals(&self) -> Vec<Goal> {
        let ours = |cell, figure| self.figure(Kind::Sextant, cell, figure);
        let direct = |cell, figure| self.figure(Kind::Direct, cell, figure);
        let rate = |kind| self.figure(kind, cell(Mode::Whole, 16), |s| s.per_s);
        let added = ours(cell(Mode::Whole, 1), |s| s.p50) - direct(cell(Mode::Whole, 1), |s| s.p50);
        let ours_found = self.found.iter().find(|found| found.kind == Kind::Sextant);
        let loaded = ours_found.map_or(f64::NAN, |found| median(found.loaded_mb.clone()));
        let below = |what, limit: f64, unit, seen: f64| Goal {
            what,
            wanted: format!("below {limit} {unit}"),
            seen,
            met: seen < limit,
        };
        let times = |what, least: f64, seen: f64| Goal {
            what,
            wanted: format!("at least {least} times"),
            seen,
            met: seen >= least,
        };
        let near = |what, concurrency, figure: Figure| {
            let of = cell(Mode::Paced, concurrency);
            let seen = ours(of, figure) / direct(of, figure);
            Goal {
                what,
                wanted: "at most 1.1 times".to_owned(),
                seen,
                met: seen <= 1.1,
            }
        };
        vec![
            below("added to a whole answer at 1, p50", 0.1, "ms", added),
            times(
                "whole answers/s at 16, over vllm-router's",
                1.3,
                rate(Kind::Sextant) / rate(Kind::VllmRouter),
            ),
            times(
                "whole answers/s at 16, over LiteLLM's",
                100.0,
                rate(Kind::Sextant) / rate(Kind::Litellm),
            ),
            near("paced streams at 1: TTFT over direct's", 1, |s| s.ttft_p50),
            near("paced streams at 1: total over direct's", 1, |s| s.p50),
            near("paced streams at 16: TTFT over direct's", 16, |s| {
                s.ttft_p50
            }),
            near("paced streams at 16: total over direct's", 16, |s| s.p50),
            below("resident after the load", 40.0, "MB", loaded),
        ]
    }

    fn goals_table(&self, text: &mut String) {
        text.push_str("| Sextant | wanted | seen | |\n|---|---|---:|---|\n");
        for goal in self.goals() {
            let verdict = match goal.met {
                _ if goal.seen.is_nan() => "not measured",
                true => "yes",
                false => "NO",
            };
            let (what, wanted, seen) = (goal.what, goal.wanted, show(goal.seen));
            let _ = writeln!(text, "| {what} | {wanted} | {seen} | {verdict} |");
        }
    }

    fn rates(&self, text: &mut String, mode: Mode, title: &str) {
        let _ = writeln!(
            text,
            "\n## {title}\n\n\
             | | per second at 1 | 16 | 64 | 256 | p50 / p99 ms at 1 | 16 | 64 | 256 \
             | added at 1, p50 ms | at 16: times vllm-router | times LiteLLM | of direct |\n\
             |---|{}",
            "---:|".repeat(12)
        );
        let rate_at_16 = |kind| self.figure(kind, cell(mode, 16), |s| s.per_s);
        for found in &self.found {
            let _ = write!(text, "| {} |", found.kind.name());
            for concurrency in [1, 16, 64, 256] {
                let rate = found.figure(cell(mode, concurrency), |s| s.per_s);
                let _ = write!(text, " {} |", show(rate));
            }
            for concurrency in [1, 16, 64, 256] {
                let of = cell(mode, concurrency);
                let (p50, p99) = (found.figure(of, |s| s.p50), found.figure(of, |s| s.p99));
                let _ = write!(text, " {} / {} |", show(p50), show(p99));
            }
            let alone = cell(mode, 1);
            let direct = self.figure(Kind::Direct, alone, |s| s.p50);
            let added = found.figure(alone, |s| s.p50) - direct;
            let rate = rate_at_16(found.kind);
            let _ = writeln!(
                text,
                " {} | {} | {} | {} |",
                show(added),
                show(rate / rate_at_16(Kind::VllmRouter)),
                show(rate / rate_at_16(Kind::Litellm)),
                show(rate / rate_at_16(Kind::Direct)),
            );
        }
    }

    fn paced(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n## Streams, a chunk every {} ms\n\n\
             | | TTFT p50 / p99 ms at 1 | added p50 | gap p99 | total p50 | of direct \
             | TTFT p50 / p99 ms at 16 | added p50 | gap p99 | total p50 | of direct |\n\
             |---|{}",
            PACE.as_millis(),
            "---:|".repeat(10)
        );
        for found in &self.found {
            let _ = write!(text, "| {} |", found.kind.name());
            for concurrency in [1, 16] {
                let of = cell(Mode::Paced, concurrency);
                let direct = |figure| self.figure(Kind::Direct, of, figure);
                let ttft = found.figure(of, |s| s.ttft_p50);
                let total = found.figure(of, |s| s.p50);
                let _ = write!(
                    text,
                    " {} / {} | {} | {} | {} | {} |",
                    show(ttft),
                    show(found.figure(of, |s| s.ttft_p99)),
                    show(ttft - direct(|s| s.ttft_p50)),
                    show(found.figure(of, |s| s.gap_p99)),
                    show(total),
                    show(total / direct(|s| s.p50)),
                );
            }
            text.push('\n');
        }
    }

    fn processes(&self, text: &mut String) {
        text.push_str(
            "\n## Processes\n\n\
             | | ready after s | resident idle MB | after the load MB \
             | CPU us for a whole answer at 16 | for a stream at 16 | version |\n\
             |---|---:|---:|---:|---:|---:|---|\n",
        );
        for found in &self.found {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                found.kind.name(),
                show(median(found.ready_s.clone())),
                show(median(found.idle_mb.clone())),
                show(median(found.loaded_mb.clone())),
                show(found.figure(cell(Mode::Whole, 16), |s| s.cpu_us)),
                show(found.figure(cell(Mode::Burst, 16), |s| s.cpu_us)),
                found.version,
            );
        }
        for found in &self.found {
            for fault in &found.faults {
                let line = fault.lines().next().unwrap_or_default();
                let _ = writeln!(text, "\n{} failed: {line}", found.kind.name());
            }
        }
    }

    pub(super) fn write(&self) -> Result<()> {
        let folder = root().join("docs/benchmarks");
        fs::create_dir_all(&folder)?;
        let file = |ending: &str| folder.join(format!("gateway-overhead.{ending}"));
        let facts = self.facts()?;
        fs::write(file("md"), self.markdown(&facts))?;
        let json = serde_json::to_string_pretty(&self.json(&facts))?;
        fs::write(file("json"), json + "\n")?;
        println!("written: {}", file("md").display());
        Ok(())
    }

    fn markdown(&self, facts: &[(String, String)]) -> String {
        let mut text = String::from("# What a gateway adds\n\n");
        let _ = writeln!(
            text,
            "Written by `cargo xtask bench overhead`. A dummy engine gives every request the same\n\
             twenty tokens, whole or as a stream with a write for each; one client asks it\n\
             directly and through each gateway, one gateway at a time. Client, gateway and engine\n\
             share the machine. Each of {} rounds starts every gateway afresh, in another order;\n\
             the figures are medians of the rounds. A cell is {} ms after a fifth of that to warm\n\
             up; every answer is checked for all its tokens, its end and its usage, and one that\n\
             is not whole fails the cell. Columns at 1, 16, 64 and 256 have so many connections,\n\
             kept open, each with one request at a time. Paced streams have their first token\n\
             after the time of one, in place of a prefill. Resident memory is that of the whole\n\
             process tree; being ready is the first whole answer. Sextant\n\
             and LiteLLM check a key.\n",
            self.rounds,
            self.cell.as_millis(),
        );
        text.push_str(&self.tables());
        text.push_str("\n| fact | value |\n|---|---|\n");
        for (name, value) in facts {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }

    /// Everything a reader needs to repeat the run, as name and value.
    fn facts(&self) -> Result<Vec<(String, String)>> {
        let date = match &self.date {
            Some(date) => date.clone(),
            None => shell::output(&mut program("date", &["-u", "+%F"]))?,
        };
        let kernel = shell::output(&mut program("uname", &["-sr"]))?;
        let mut facts = vec![
            ("date".to_owned(), date.trim().to_owned()),
            ("CPU".to_owned(), machine::cpu()),
            ("kernel".to_owned(), kernel.trim().to_owned()),
            ("load average".to_owned(), self.load.clone()),
        ];
        for found in self.found.iter().filter(|found| !found.command.is_empty()) {
            let name = format!("{} command", found.kind.name());
            facts.push((name, found.command.clone()));
        }
        Ok(facts)
    }

    fn json(&self, facts: &[(String, String)]) -> Value {
        let gateways: Vec<Value> = self.found.iter().map(Found::json).collect();
        let goals: Vec<Value> = self
            .goals()
            .into_iter()
            .map(|goal| {
                json!({
                    "what": goal.what,
                    "wanted": goal.wanted,
                    "seen": number(goal.seen),
                    "met": goal.met,
                })
            })
            .collect();
        let facts: serde_json::Map<_, _> = facts
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
            .collect();
        json!({
            "rounds": self.rounds,
            "facts": facts,
            "goals": goals,
            "gateways": gateways,
        })
    }
}

/// To a thousandth; null for what was not measured.
fn number(value: f64) -> Value {
    if value.is_finite() {
        json!((value * 1e3).round() / 1e3)
    } else {
        Value::Null
    }
}

impl Found {
    fn json(&self) -> Value {
        let all = |cell: Cell, figure: Figure| -> Vec<Value> {
            let samples = self.samples.iter().filter(|(of, _)| *of == cell);
            samples.map(|(_, sample)| number(figure(sample))).collect()
        };
        let cells: Vec<Value> = CELLS
            .iter()
            .map(|cell| {
                json!({
                    "mode": format!("{:?}", cell.mode).to_lowercase(),
                    "concurrency": cell.concurrency,
                    "per_s": all(*cell, |s| s.per_s),
                    "p50_ms": all(*cell, |s| s.p50),
                    "p99_ms": all(*cell, |s| s.p99),
                    "ttft_p50_ms": all(*cell, |s| s.ttft_p50),
                    "ttft_p99_ms": all(*cell, |s| s.ttft_p99),
                    "gap_p99_ms": all(*cell, |s| s.gap_p99),
                    "cpu_us": all(*cell, |s| s.cpu_us),
                })
            })
            .collect();
        let numbers =
            |values: &[f64]| -> Vec<Value> { values.iter().map(|value| number(*value)).collect() };
        json!({
            "name": self.kind.name(),
            "version": self.version,
            "faults": self.faults,
            "ready_s": numbers(&self.ready_s),
            "idle_mb": numbers(&self.idle_mb),
            "loaded_mb": numbers(&self.loaded_mb),
            "cells": cells,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_meets_no_goal() {
        let report = Report {
            found: Vec::new(),
            rounds: 0,
            load: String::new(),
            date: None,
            cell: Duration::ZERO,
        };
        assert!(
            report
                .goals()
                .iter()
                .all(|goal| !goal.met && goal.seen.is_nan())
        );
    }

    #[test]
    fn medians_of_even_counts_lie_between() {
        assert_eq!(median(vec![3.0, 1.0]), 2.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
