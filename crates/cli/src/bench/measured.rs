//! What earlier runs of `bench speed` and `bench load` say of how fast a model is.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::stale::{Grounds, standing};
use serde_json::Value;

use super::attempts_file;
use super::speed::Run;
use crate::outcome::{Code, Outcome, fault};

/// One file's figures, and on what they were measured.
pub(crate) struct Measured {
    pub(crate) file: PathBuf,
    pub(crate) rates: Rates,
    grounds: Grounds,
}

/// Tokens and seconds, the middle of all that was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rates {
    /// Of one stream, by `bench speed`.
    One {
        prefill_tokens_s: f64,
        decode_tokens_s: f64,
    },
    /// What each of so many clients has felt, by `bench load`.
    Shared {
        clients: u32,
        tokens_s: f64,
        ttft_seconds: f64,
    },
}

impl Measured {
    /// Why it says nothing of what is there now; `None` where it does, as far as is known.
    pub(crate) fn objection(&self, now: &Grounds) -> Option<String> {
        let standing = standing(&self.grounds, now);
        let changes = standing.changed.iter().map(|change| change.sentence());
        let changes: Vec<String> = changes.collect();
        (!changes.is_empty()).then(|| changes.join("; "))
    }
}

/// Reads a file of `bench speed --out`, or the JSON of `bench load`.
pub(crate) fn measured(file: &Path) -> Outcome<Measured> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let heading = text.lines().next().unwrap_or_default();
    let heading: Value = serde_json::from_str(heading).unwrap_or_default();
    let found = match heading["axes"].is_array() {
        true => of_speed(&heading, &attempts_file::read(&text)),
        false => of_load(&serde_json::from_str(&text).unwrap_or_default()),
    };
    let (rates, grounds) = found.ok_or_else(|| {
        let message = format!(
            "`{}` has no figures of `bench speed --out`, nor of `bench load --clients N --json`",
            file.display()
        );
        fault(Code::Usage, message)
    })?;
    Ok(Measured {
        file: file.to_owned(),
        rates,
        grounds,
    })
}

/// The combination that was fastest in all; a run of several models says nothing of one.
fn of_speed(heading: &Value, runs: &[Run]) -> Option<(Rates, Grounds)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let [model] = heading["models"].as_array()?.as_slice() else {
        return None;
    };
    let mut points: Vec<&Vec<String>> = runs.iter().map(|run| &run.point).collect();
    points.sort_unstable();
    points.dedup();
    let of_point = |point: &Vec<String>| {
        let sound = runs
            .iter()
            .filter(|run| run.point == *point && run.failed.is_none());
        let figures: Vec<_> = sound.map(|run| &run.figures).collect();
        let middle_of = |of: fn(&super::speed::Figures) -> f64| {
            middle(figures.iter().map(|figures| of(figures)).collect())
        };
        let both = middle_of(|figures| figures.both_tokens_s)?;
        let rates = Rates::One {
            prefill_tokens_s: middle_of(|figures| figures.prefill_tokens_s)?,
            decode_tokens_s: middle_of(|figures| figures.decode_tokens_s)?,
        };
        Some((both, rates))
    };
    let points = points.into_iter().filter_map(of_point);
    let (_, rates) = points.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let grounds = Grounds {
        model: text(model),
        build: text(&heading["build"]),
        hardware: text(&heading["hardware"]),
    };
    Some((rates, grounds))
}

fn of_load(told: &Value) -> Option<(Rates, Grounds)> {
    let text = |name: &str| told["origin"][name].as_str().map(str::to_owned);
    let tpot = told["tpot"]["p50"].as_f64().filter(|tpot| *tpot > 0.0)?;
    let rates = Rates::Shared {
        clients: u32::try_from(told["clients"].as_u64()?).ok()?,
        tokens_s: 1.0 / tpot,
        ttft_seconds: told["ttft"]["p50"].as_f64()?,
    };
    let grounds = Grounds {
        model: text("fingerprint"),
        build: text("build"),
        hardware: text("hardware"),
    };
    Some((rates, grounds))
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Outcome<Measured> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs");
        std::fs::write(&file, text).unwrap();
        measured(&file)
    }

    #[test]
    fn the_fastest_combination_counts_by_its_middle() {
        let heading = json!({
            "axes": [["threads", ["1", "2"]]], "models": ["7-ab"], "build": "b", "hardware": "h",
        });
        let run = |threads: &str, decode: f64| {
            json!({
                "point": [threads], "round": 0, "failed": null, "stolen": null, "celsius": null,
                "watts": null, "prefill_tokens_s": 100.0, "decode_tokens_s": decode,
                "both_tokens_s": decode,
            })
        };
        let lines = [
            heading,
            run("1", 9.0),
            run("2", 20.0),
            run("2", 22.0),
            run("2", 90.0),
        ];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let found = read(&text).unwrap();
        let one = Rates::One {
            prefill_tokens_s: 100.0,
            decode_tokens_s: 22.0,
        };
        assert_eq!(found.rates, one);
        let now = |hardware: &str| Grounds {
            model: Some("7-ab".into()),
            build: Some("b".into()),
            hardware: Some(hardware.into()),
        };
        assert_eq!(found.objection(&now("h")), None);
        assert!(found.objection(&now("other")).unwrap().contains("hardware"));
    }

    #[test]
    fn clients_count_where_they_ask_one_after_another() {
        let told = |clients: Value| {
            json!({
                "clients": clients, "tpot": { "p50": 0.05 }, "ttft": { "p50": 1.5 },
                "origin": { "fingerprint": null },
            })
        };
        let found = read(&told(json!(4)).to_string()).unwrap();
        let shared = Rates::Shared {
            clients: 4,
            tokens_s: 20.0,
            ttft_seconds: 1.5,
        };
        assert_eq!(found.rates, shared);
        assert!(
            read(&told(Value::Null).to_string()).is_err(),
            "in an open loop"
        );
        assert!(read("{}").is_err() && read("").is_err());
    }
}
