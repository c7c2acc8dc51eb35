//! The report for people.

use std::fmt::Write as _;

use tuner::{Again, Gain, Judgement, Row, STOLEN_PERCENT_MAX, Space};

use super::Report;

/// Columns of the table, the last one excepted.
const HEAD: [&str; 6] = ["SETTING", "VALUE", "AGAINST", "PAIRS", "SPEED", "VERDICT"];

/// A number and its noun.
pub(crate) fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

pub(super) fn of(report: &Report) -> String {
    let mut text = String::new();
    let verdict = &report.verdict;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} for {}: prompts of {} tokens, answers of {}, weighed {}:{}",
        report.model,
        report.purpose,
        report.shape.prompt_tokens,
        report.shape.answer_tokens,
        report.workload.prompt_tokens,
        report.workload.answer_tokens,
    );
    let _ = writeln!(
        text,
        "{} of {} s; a pair of runs scatters by {:.1} %",
        seconds(report.spent_seconds),
        seconds(report.budget_seconds),
        verdict.noise * 100.0
    );
    for line in &report.remarks {
        let _ = writeln!(text, "note: {line}");
    }
    text.push('\n');
    table(&mut text, &report.space, &verdict.rows);
    text.push('\n');
    text.push_str(&conclusion(report));
    text
}

/// What a host has disturbed; nothing where it left everything alone.
pub(super) fn disturbed(again: &Again) -> Option<String> {
    let (n_again, n_kept) = (again.n_again(), again.n_disturbed());
    if n_again + n_kept == 0 {
        return None;
    }
    Some(format!(
        "the host took more than {STOLEN_PERCENT_MAX} % of what some runs wanted: {n_again} were \
         made again, {n_kept} count all the same"
    ))
}

fn seconds(of: f64) -> String {
    format!("{of:.0}")
}

fn table(text: &mut String, space: &Space, rows: &[Row]) {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| cells(space, row)));
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    for line in &lines {
        let mut written = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(written, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", written.trim_end());
    }
}

fn cells(space: &Space, row: &Row) -> [String; 6] {
    let axis = space.axes.get(row.choice.axis);
    let speed = match (row.ratio, row.low, row.high) {
        (Some(ratio), Some(low), Some(high)) => format!("{ratio:.2}x ({low:.2} to {high:.2})"),
        _ => String::new(),
    };
    let why = match &row.judgement {
        Judgement::Excluded(other) => format!("not with {}", space.label(*other)),
        Judgement::Failed(why) => format!("failed: {why}"),
        judgement => judgement.word().to_owned(),
    };
    let value = match row.also {
        None => space.label(row.choice).to_owned(),
        Some(also) => {
            let axis = space.axes.get(also.axis).map_or("?", |axis| &axis.name);
            let label = space.label(also);
            format!("{}, {axis} {label}", space.label(row.choice))
        }
    };
    [
        axis.map_or_else(String::new, |axis| axis.name.clone()),
        value,
        space.label(row.against).to_owned(),
        row.n_pairs.to_string(),
        speed,
        why,
    ]
}

/// A row as it comes, in a line.
pub(super) fn row(space: &Space, row: &Row) -> String {
    let [axis, value, against, pairs, speed, why] = cells(space, row);
    let pairs = match row.n_pairs {
        0 => String::new(),
        _ => format!(" ({speed} in {pairs} pairs)"),
    };
    format!("{axis}: {value} against {against}: {why}{pairs}")
}

/// What is chosen and why.
fn conclusion(report: &Report) -> String {
    let verdict = &report.verdict;
    let mut text = String::new();
    if let Some(why) = &verdict.failure {
        return format!("nothing was chosen: {why}\n");
    }
    match &verdict.gain {
        None if verdict.rows.iter().all(|row| row.n_pairs == 0) => {
            text.push_str("the defaults stay: there was no time to compare them with anything\n");
        }
        None => text.push_str(
            "the defaults stay: no setting was faster than they are by more than the noise\n",
        ),
        Some(gain) => text.push_str(&gained(gain)),
    }
    if verdict.is_cut {
        text.push_str("not all was tried or decided in the time; `--thorough` takes more\n");
    }
    let speed = |name: &str, sample: Option<tuner::Sample>| {
        sample.map_or_else(String::new, |sample| {
            format!(
                "{name:<10}prefill {:.1} tokens a second, decode {:.1}\n",
                sample.prefill_seconds_a_token.recip(),
                sample.decode_seconds_a_token.recip()
            )
        })
    };
    text.push_str(&speed("defaults", report.defaults));
    if !verdict.keeps_defaults() {
        text.push_str(&speed("chosen", report.chosen));
        let settings = report.settings.as_object();
        let settings = settings.into_iter().flatten();
        let settings = settings.map(|(name, value)| match value.as_str() {
            Some(value) => format!("{name} = {value}"),
            None => format!("{name} = {value}"),
        });
        let settings: Vec<_> = settings.collect();
        let _ = writeln!(text, "settings  {}", settings.join(", "));
    }
    let _ = writeln!(text, "{}", report.kept);
    text
}

fn gained(gain: &Gain) -> String {
    let (percent, low, high) = (
        (gain.ratio - 1.0) * 100.0,
        (gain.low - 1.0) * 100.0,
        (gain.high - 1.0) * 100.0,
    );
    let interval = format!(
        "{percent:+.1} % in {}, between {low:+.1} and {high:+.1} %",
        count(gain.n_pairs, "fresh pair")
    );
    match gain.judgement {
        Judgement::Faster => {
            format!("chosen: what won its comparisons is faster than the defaults: {interval}\n")
        }
        Judgement::OutOfTime => format!(
            "the defaults stay: there was no time to confirm what won its comparisons: \
             {interval}\n"
        ),
        Judgement::Slower => format!(
            "the defaults stay: what won its comparisons is slower than they are: {interval}\n"
        ),
        Judgement::NotWorth => {
            format!("the defaults stay: what won its comparisons gains less than 1 %: {interval}\n")
        }
        _ => format!(
            "the defaults stay: what won its comparisons is within noise of them: {interval}\n"
        ),
    }
}

/// The verdict for programs.
pub(super) fn json(report: &Report) -> serde_json::Value {
    use serde_json::json;
    let verdict = &report.verdict;
    let space = &report.space;
    let rows = verdict.rows.iter().map(|row| {
        json!({
            "setting": space.axes.get(row.choice.axis).map(|axis| &axis.name),
            "value": space.label(row.choice),
            "against": space.label(row.against),
            "pairs": row.n_pairs,
            "ratio": row.ratio,
            "low": row.low,
            "high": row.high,
            "verdict": cells(space, row)[5],
        })
    });
    let speeds = |sample: Option<tuner::Sample>| {
        sample.map(|sample| {
            json!({
                "prefill_tokens_s": sample.prefill_seconds_a_token.recip(),
                "decode_tokens_s": sample.decode_seconds_a_token.recip(),
            })
        })
    };
    json!({
        "model": report.model,
        "purpose": report.purpose,
        "prompt_tokens": report.shape.prompt_tokens,
        "answer_tokens": report.shape.answer_tokens,
        "budget_seconds": report.budget_seconds,
        "spent_seconds": report.spent_seconds,
        "noise": verdict.noise,
        "keeps_defaults": verdict.keeps_defaults(),
        "is_cut": verdict.is_cut,
        "failure": verdict.failure,
        "gain": verdict.gain.as_ref().map(|gain| json!({
            "ratio": gain.ratio,
            "low": gain.low,
            "high": gain.high,
            "pairs": gain.n_pairs,
            "verdict": gain.judgement.word(),
        })),
        "rows": rows.collect::<Vec<_>>(),
        "defaults": speeds(report.defaults),
        "chosen": speeds(report.chosen),
        "settings": report.settings,
        "remarks": report.remarks,
        "kept": report.kept,
        "point": space.points().iter().position(|point| *point == verdict.winner),
    })
}

#[cfg(test)]
mod tests {
    use tuner::{Axis, Choice, Phase, Sample, Switch, Verdict, Workload};

    use super::*;
    use crate::tune::bench::Shape;

    fn space() -> Space {
        let axis = |name: &str, levels: &[&str]| Axis {
            name: name.to_owned(),
            phase: Phase::Both,
            switch: Switch::Load,
            levels: levels.iter().map(|level| (*level).to_owned()).collect(),
            default: 0,
            takes: Vec::new(),
        };
        Space {
            axes: vec![
                axis("decode cores", &["8 threads anywhere", "4 threads on 4-7"]),
                axis("flash attention", &["on", "off"]),
                axis("KV types", &["f16/f16", "q8_0/q8_0"]),
            ],
            forbidden: Vec::new(),
        }
    }

    fn choice(axis: usize, level: usize) -> Choice {
        Choice { axis, level }
    }

    fn report() -> Report {
        let space = space();
        let row = |choice: Choice, ratio: f64, judgement| Row {
            choice,
            against: Choice { level: 0, ..choice },
            also: None,
            n_pairs: 3,
            ratio: Some(ratio),
            low: Some(ratio - 0.02),
            high: Some(ratio + 0.02),
            judgement,
        };
        let winner = space.default_point().with(choice(0, 1));
        let both = Row {
            also: Some(choice(1, 0)),
            ..row(choice(2, 1), 1.005, Judgement::WithinNoise)
        };
        let gain = Gain {
            candidate: winner.clone(),
            judgement: Judgement::Faster,
            ratio: 1.8,
            low: 1.75,
            high: 1.86,
            n_pairs: 4,
        };
        let sample = |times: f64| Sample {
            prefill_seconds_a_token: 0.02 * times,
            decode_seconds_a_token: 0.1 * times,
            took_seconds: 1.0,
        };
        Report {
            model: "tiny".into(),
            purpose: "chat".into(),
            workload: Workload {
                prompt_tokens: 256.0,
                answer_tokens: 256.0,
            },
            shape: Shape {
                prompt_tokens: 64,
                answer_tokens: 8,
            },
            verdict: Verdict {
                winner,
                defaults: space.default_point(),
                gain: Some(gain),
                rows: vec![
                    row(choice(0, 1), 1.81, Judgement::Faster),
                    row(choice(1, 1), 0.7, Judgement::Slower),
                    both,
                ],
                noise: 0.012,
                spent_seconds: 40.0,
                is_cut: false,
                failure: None,
            },
            space,
            budget_seconds: 60.0,
            spent_seconds: 41.2,
            defaults: Some(sample(1.0)),
            chosen: Some(sample(0.55)),
            settings: serde_json::json!({ "cpus": "4-7", "threads": 4 }),
            remarks: Vec::new(),
            kept: "kept".into(),
        }
    }

    #[test]
    fn the_report_says_what_was_tried_and_why_the_winner_won() {
        insta::assert_snapshot!(of(&report()));
    }

    #[test]
    fn what_was_not_shown_is_not_claimed() {
        let mut report = report();
        let told = |report: &Report| {
            let text = of(report);
            let at = text.find("the defaults stay").unwrap();
            text[at..].lines().next().unwrap().to_owned()
        };
        report.verdict.winner = report.verdict.defaults.clone();
        for (judgement, words) in [
            (Judgement::WithinNoise, "is within noise of them"),
            (Judgement::OutOfTime, "no time to confirm"),
        ] {
            report.verdict.gain.as_mut().unwrap().judgement = judgement;
            assert!(told(&report).contains(words), "{}", told(&report));
        }
        report.verdict.gain = None;
        assert!(told(&report).contains("no setting was faster"));
        report.verdict.rows.clear();
        assert!(told(&report).contains("no time to compare"));
    }
}
