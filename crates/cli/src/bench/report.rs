//! What attempts come to, as tables and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use bench::derive::{Evidence, Trouble};
use bench::quality::{Dimension, Fault, Record, Weighed, suite};
use bench::rates::{Interval, holm, mcnemar, wilson};
use bench::score::composite;
use serde_json::{Value, json};

use super::quality::Attempt;
use crate::outcome::Outcome;
use crate::output;

/// Questions by their ids, and what each counts for.
pub(crate) type Asked = BTreeMap<String, Weighed>;

/// More weights than these are not told one by one.
const WEIGHTS_MAX: usize = 20;

/// The questions that attempts are about: the short set, where one of it was asked or none at
/// all, and those that tell themselves what they count for.
pub(crate) fn asked(attempts: &[Attempt]) -> Outcome<Asked> {
    let short = suite()?.into_iter();
    let mut asked: Asked = short.map(|one| (one.id.clone(), one.weighed())).collect();
    let is_short = attempts.iter().any(|one| asked.contains_key(&one.question));
    if !is_short && !attempts.is_empty() {
        asked.clear();
    }
    for attempt in attempts {
        if let Some(weighed) = &attempt.of {
            asked.insert(attempt.question.clone(), weighed.clone());
        }
    }
    Ok(asked)
}

/// Below this two models differ.
pub(super) const SIGNIFICANT: f64 = 0.05;

/// One model's.
pub(super) struct Summary {
    pub(super) model: String,
    /// Right answers and attempts that count, by dimension.
    pub(super) rates: Vec<(Dimension, usize, usize)>,
    /// Of one pass through all questions, on the average.
    weighted: f64,
    weight_max: f64,
    pub(super) seconds_mean: f64,
    n_void: usize,
    n_leaked: usize,
}

pub(super) fn result(model: &str, asked: &Asked, attempts: &[Attempt]) -> Summary {
    let own: Vec<&Attempt> = attempts.iter().filter(|one| one.model == model).collect();
    let counted = || own.iter().filter(|one| !one.void);
    // Right answers and attempts, by question.
    let mut of: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for one in counted() {
        let (right, n) = of.entry(&one.question).or_default();
        *right += usize::from(one.right);
        *n += 1;
    }
    let of = |id: &String| of.get(id.as_str()).copied().unwrap_or_default();
    let rates = Dimension::ALL.map(|dimension| {
        let questions = asked.iter().filter(|(_, one)| one.dimension == dimension);
        let (right, n) = questions
            .map(|(id, _)| of(id))
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (dimension, right, n)
    });
    let weighted = asked.iter().map(|(id, one)| match of(id) {
        (_, 0) => 0.0,
        (right, n) => one.weight * ratio(right, n),
    });
    let n = counted().count();
    Summary {
        model: model.to_owned(),
        rates: rates.to_vec(),
        weighted: weighted.sum(),
        weight_max: asked.values().map(|one| one.weight).sum(),
        seconds_mean: match n {
            0 => 0.0,
            n => counted().map(|one| one.seconds).sum::<f64>() / ratio(n, 1),
        },
        n_void: own.len() - n,
        n_leaked: own
            .iter()
            .filter(|one| !one.void && one.fault.is_some())
            .count(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of attempts are small")]
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// What routes are derived from. What stands before a colon in a model's name is its provider.
pub(crate) fn evidence(model: &str, asked: &Asked, attempts: &[Attempt]) -> Evidence {
    let summary = result(model, asked, attempts);
    let engine = model.split_once(':').map_or("", |(provider, _)| provider);
    let rates = summary.rates.iter().copied();
    let own = || attempts.iter().filter(|one| one.model == model);
    let ids: BTreeSet<&String> = own().filter_map(|one| one.origin.as_ref()).collect();
    Evidence {
        model: model.to_owned(),
        engine: engine.to_owned(),
        ids: ids.into_iter().cloned().collect(),
        rates: rates.filter(|(_, _, n)| *n > 0).collect(),
        troubles: troubles(asked, own()),
        all: summary.all(),
        weighted: summary.weighted,
        seconds_mean: summary.seconds_mean,
    }
}

/// What went wrong besides wrong answers, by dimension.
fn troubles<'a>(asked: &Asked, attempts: impl Iterator<Item = &'a Attempt>) -> Vec<Trouble> {
    let mut found: Vec<Trouble> = Vec::new();
    for attempt in attempts {
        let question = asked.get(&attempt.question);
        let fault = attempt.fault.as_deref().and_then(Fault::from_word);
        let (Some(question), Some(fault)) = (question, fault) else {
            continue;
        };
        let dimension = question.dimension;
        let is_same = |one: &&mut Trouble| one.dimension == dimension && one.fault == fault;
        match found.iter_mut().find(is_same) {
            Some(trouble) => trouble.n += 1,
            None => found.push(Trouble {
                dimension,
                fault,
                n: 1,
            }),
        }
    }
    found
}

impl Summary {
    pub(super) fn all(&self) -> (usize, usize) {
        let rates = self.rates.iter();
        rates.fold((0, 0), |(right, n), rate| (right + rate.1, n + rate.2))
    }

    fn score(&self) -> f64 {
        composite(self.weighted, self.seconds_mean)
    }
}

pub(super) fn as_json(summary: &Summary) -> Value {
    let rate = |(right, n): (usize, usize)| json!({ "right": right, "n": n, "interval": interval(wilson(right, n)) });
    let rates = summary.rates.iter();
    let dimensions: BTreeMap<&str, Value> = rates
        .map(|(dimension, right, n)| (dimension.word(), rate((*right, *n))))
        .collect();
    json!({
        "model": summary.model,
        "all": rate(summary.all()),
        "dimensions": dimensions,
        "weighted": summary.weighted,
        "weight_max": summary.weight_max,
        "seconds_mean": summary.seconds_mean,
        "score": summary.score(),
        "void": summary.n_void,
        "leaked": summary.n_leaked,
    })
}

pub(crate) fn interval(of: Interval) -> Value {
    json!({ "low": of.low, "high": of.high })
}

/// Questions on which the pipeline is to be suspected.
pub(super) fn suspects(attempts: &[Attempt]) -> Vec<String> {
    let mut records: BTreeMap<(&str, &str), Record> = BTreeMap::new();
    // Of the larger set hardly anything is asked often enough.
    let short = attempts.iter().filter(|attempt| attempt.of.is_none());
    for attempt in short.filter(|attempt| !attempt.void) {
        let key = (attempt.model.as_str(), attempt.question.as_str());
        let record = records.entry(key).or_insert_with(|| Record {
            model: attempt.model.clone(),
            question: attempt.question.clone(),
            path: "gateway".to_owned(),
            n_right: 0,
            n_late: 0,
            n: 0,
        });
        record.n += 1;
        record.n_right += usize::from(attempt.right);
        record.n_late += usize::from(attempt.fault.as_deref() == Some("late"));
    }
    let records: Vec<Record> = records.into_values().collect();
    let found = bench::quality::suspects(&records).into_iter();
    found.map(|(_, question)| question).collect()
}

/// How likely the difference of two models is noise: items are questions by repeats.
pub(super) fn p_value(attempts: &[Attempt], first: &str, second: &str) -> f64 {
    let right = |model: &str, of: &Attempt| {
        let same = |one: &&Attempt| {
            one.model == model
                && one.question == of.question
                && one.repeat == of.repeat
                && !one.void
        };
        attempts.iter().find(same).map(|one| one.right)
    };
    let shared = attempts
        .iter()
        .filter(|one| one.model == first && !one.void);
    let (mut only_first, mut only_second) = (0, 0);
    for attempt in shared {
        match (attempt.right, right(second, attempt)) {
            (true, Some(false)) => only_first += 1,
            (false, Some(true)) => only_second += 1,
            _ => {}
        }
    }
    mcnemar(only_first, only_second)
}

pub(super) fn write(results: &[Summary], asked: &Asked, attempts: &[Attempt]) -> Outcome {
    let ranked = ranked(results);
    let rows: Vec<Vec<String>> = ranked.iter().map(|one| row(one)).collect();
    output::table(&head(), &rows)?;
    output::line("")?;
    output::line(&format!("weights: {}", weights(asked)))?;
    for line in comparisons(&ranked, attempts) {
        output::line(&line)?;
    }
    for question in suspects(attempts) {
        output::line(&format!(
            "suspect: no model answers `{question}` in time; look for the fault in the pipeline"
        ))?;
    }
    Ok(())
}

/// Of each question, or of each dimension where there are many.
fn weights(asked: &Asked) -> String {
    let told: Vec<String> = match asked.len() <= WEIGHTS_MAX {
        true => {
            let each = asked.iter();
            each.map(|(id, one)| format!("{id} {}", one.weight))
                .collect()
        }
        false => {
            let sum = |dimension| -> f64 {
                let own = asked.values().filter(|one| one.dimension == dimension);
                own.map(|one| one.weight).sum()
            };
            let each = Dimension::ALL.into_iter();
            each.map(|one| format!("{} {:.1}", one.word(), sum(one)))
                .collect()
        }
    };
    told.join(", ")
}

/// The highest score first.
pub(super) fn ranked(results: &[Summary]) -> Vec<&Summary> {
    let mut ranked: Vec<&Summary> = results.iter().collect();
    ranked.sort_by(|a, b| b.score().total_cmp(&a.score()));
    ranked
}

/// Of [`row`].
pub(super) fn head() -> Vec<&'static str> {
    let mut head = rates_head();
    head.extend(["WEIGHTED", "S", "SCORE", "VOID", "LEAKED"]);
    head
}

/// What a table of models begins with.
pub(super) fn rates_head() -> Vec<&'static str> {
    let mut head = vec!["MODEL", "RIGHT", "95 %"];
    head.extend(Dimension::ALL.map(Dimension::word));
    head
}

/// A model under [`rates_head`].
pub(super) fn rates_row(one: &Summary) -> Vec<String> {
    let (right, n) = one.all();
    let interval = wilson(right, n);
    let mut cells = vec![
        one.model.clone(),
        format!("{right}/{n}"),
        format!("{:.2}-{:.2}", interval.low, interval.high),
    ];
    cells.extend(one.rates.iter().map(|(_, right, n)| format!("{right}/{n}")));
    cells
}

pub(super) fn row(one: &Summary) -> Vec<String> {
    let mut cells = rates_row(one);
    cells.extend([
        format!("{:.1}/{:.1}", one.weighted, one.weight_max),
        format!("{:.1}", one.seconds_mean),
        format!("{:.1}", one.score()),
        one.n_void.to_string(),
        one.n_leaked.to_string(),
    ]);
    cells
}

/// Every pair in words; none is ranked above another that noise may have put there.
pub(super) fn comparisons(ranked: &[&Summary], attempts: &[Attempt]) -> Vec<String> {
    let mut pairs = Vec::new();
    for (place, first) in ranked.iter().enumerate() {
        for second in &ranked[place + 1..] {
            let p = p_value(attempts, &first.model, &second.model);
            pairs.push((first, second, p));
        }
    }
    let p_values: Vec<f64> = pairs.iter().map(|(_, _, p)| *p).collect();
    let corrected = holm(&p_values);
    let lines = pairs.iter().zip(corrected);
    lines
        .map(|((first, second, _), p)| {
            let verdict = match p < SIGNIFICANT {
                true => "differ in quality",
                false => "do not differ in quality, as far as these attempts tell",
            };
            format!("{} and {} {verdict} (p {p:.3})", first.model, second.model)
        })
        .collect()
}
