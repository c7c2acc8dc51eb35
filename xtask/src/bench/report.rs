//! Medians, spreads, verdicts, and the two files they are written to.

use super::cases::{Better, Metric};
use crate::server::Setting;
use crate::shell::root;
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;

pub(super) struct Row {
    pub(super) metric: &'static Metric,
    pub(super) ours: Vec<f64>,
    pub(super) peer: Vec<f64>,
}

pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) rounds: usize,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) load: String,
    pub(super) idle_cpu: String,
}

impl Row {
    pub(super) fn new(metric: &'static Metric) -> Self {
        Self {
            metric,
            ours: Vec::new(),
            peer: Vec::new(),
        }
    }

    /// One ratio a round, above 1 where Sextant is faster; sorted.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.peer);
        let mut ratios: Vec<f64> = match self.metric.better {
            Better::Higher => pairs.map(|(ours, peer)| ours / peer).collect(),
            Better::Lower => pairs.map(|(ours, peer)| peer / ours).collect(),
        };
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// Half the spread between the quartiles: the noise of this run.
    fn noise(&self) -> f64 {
        let ratios = self.ratios();
        (quantile(&ratios, 0.75) - quantile(&ratios, 0.25)) / 2.0
    }

    fn passes(&self) -> bool {
        quantile(&self.ratios(), 0.5) + self.noise() >= self.metric.ratio_min
    }
}

/// The value below which the share `q` of the sorted samples lies, interpolated.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let position = q * last as f64;
    let low = position.floor() as usize;
    let high = position.ceil() as usize;
    sorted[low] + (sorted[high] - sorted[low]) * position.fract()
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| what | unit | Sextant | llama-server | ratio | range | noise | at least | |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---|\n",
        );
        for row in &self.rows {
            let ratios = row.ratios();
            let verdict = if row.passes() { "yes" } else { "NO" };
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | **{:.3}** | {:.3}-{:.3} | ±{:.3} | {:.2} | {verdict} |",
                row.metric.name,
                row.metric.unit,
                median(&row.ours),
                median(&row.peer),
                quantile(&ratios, 0.5),
                quantile(&ratios, 0.0),
                quantile(&ratios, 1.0),
                row.noise(),
                row.metric.ratio_min,
            );
        }
        text
    }

    pub(super) fn write(&self, setting: &Setting) -> Result<()> {
        let folder = root().join("docs/benchmarks");
        fs::create_dir_all(&folder)?;
        let name = super::machine::file_name(&setting.model);
        let mut suffix = String::new();
        if name != crate::models::SMOLLM2.file {
            let _ = write!(suffix, "-{}", name.trim_end_matches(".gguf"));
        }
        for flag in &setting.peer_flags {
            let _ = write!(suffix, "-{}", flag.trim_start_matches('-'));
        }
        let file = |ending: &str| folder.join(format!("serve-vs-llama-server{suffix}.{ending}"));
        fs::write(file("md"), self.markdown())?;
        fs::write(
            file("json"),
            serde_json::to_string_pretty(&self.json())? + "\n",
        )?;
        println!("written: {}", file("md").display());
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# Sextant against llama-server\n\n");
        let _ = writeln!(
            text,
            "Written by `cargo xtask bench`. Both servers are resident and one is asked at a\n\
             time; the order alternates. Each of {} rounds starts both afresh and lets each\n\
             answer one request that does not count. Sextant's and llama-server's columns are\n\
             medians; the ratio is the median of the rounds' own ratios (above 1: Sextant is\n\
             faster), its range is over the rounds, and the noise is half their interquartile\n\
             range. The last column tells whether ratio plus noise reaches what is required.\n\
             All times are the client's, from the wire; every request is greedy, ignores the\n\
             end of text, and, but for the repeated prefix, turns prompt caching off.\n",
            self.rounds
        );
        text += &self.table();
        text += "\n| fact | value |\n|---|---|\n";
        for (name, value) in &self.facts {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        let _ = writeln!(text, "| load average | {} |", self.load);
        let _ = writeln!(text, "| CPU use while idle | {} |", self.idle_cpu);
        text
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "metric": row.metric.name,
                    "unit": row.metric.unit,
                    "ours": row.ours,
                    "peer": row.peer,
                    "ratio_median": quantile(&row.ratios(), 0.5),
                    "noise": row.noise(),
                    "ratio_required": row.metric.ratio_min,
                    "passes": row.passes(),
                })
            })
            .collect();
        let facts: Value = self
            .facts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({
            "rounds": self.rounds,
            "facts": facts,
            "load_average": self.load,
            "idle_cpu": self.idle_cpu,
            "rows": rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Metric = Metric {
        name: "delay",
        unit: "ms",
        better: Better::Lower,
        ratio_min: 1.0,
    };

    #[test]
    fn a_shorter_delay_is_a_ratio_above_one() {
        let row = Row {
            metric: &DELAY,
            ours: vec![10.0, 10.0, 20.0],
            peer: vec![20.0, 10.0, 10.0],
        };
        assert_eq!(row.ratios(), [0.5, 1.0, 2.0]);
        assert!(row.passes());
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.25), 1.5);
    }
}
