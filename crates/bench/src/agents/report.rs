//! What attempts come to: for each model with each agent, and every two of them side by side.

use super::{Calls, Ended};
use crate::rates::{Interval, holm, mcnemar, wilson};
use crate::speeds::quantile;

/// Below this two of them differ.
const SIGNIFICANT: f64 = 0.05;

/// A model, and the agent that it works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contestant {
    pub model: String,
    pub agent: String,
}

/// One attempt at one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub contestant: Contestant,
    pub task: String,
    pub repeat: u64,
    pub solved: bool,
    pub ended: Ended,
    /// Seconds of each answer of the model.
    pub turn_seconds: Vec<f64>,
    pub calls: Calls,
    /// As the server counts them.
    pub n_prompt: Option<u64>,
    pub n_answer: Option<u64>,
    /// Of the whole attempt.
    pub seconds: f64,
    pub n_retries: u64,
}

/// All attempts of a contestant. What is void counts in `n_void` alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub contestant: Contestant,
    pub solved: usize,
    pub n: usize,
    /// Of the rate of solved ones, 95 %.
    pub interval: Interval,
    pub n_void: usize,
    /// By task, in order of their first attempts: solved, and all.
    pub tasks: Vec<(String, usize, usize)>,
    /// How often each end came.
    pub ended: Vec<(Ended, usize)>,
    /// Medians over attempts, of answers and seconds.
    pub turns: f64,
    pub seconds: f64,
    /// Median over all answers.
    pub turn_seconds: Option<f64>,
    pub calls: Calls,
    /// Sums; `None` where the server has counted none.
    pub n_prompt: Option<u64>,
    pub n_answer: Option<u64>,
    pub n_retries: u64,
}

/// Two contestants, by the tasks and repeats at which both have an attempt that counts: there is
/// at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub first: Contestant,
    pub second: Contestant,
    pub only_first: usize,
    pub only_second: usize,
    /// McNemar's, with Holm's correction for all comparisons of the report.
    pub p_value: f64,
}

impl Comparison {
    #[must_use]
    pub fn differs(&self) -> bool {
        self.p_value < SIGNIFICANT
    }
}

/// What attempts say. Contestants come in the order of their first attempts, since more solved
/// tasks are not a rank until a comparison says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub lines: Vec<Line>,
    pub comparisons: Vec<Comparison>,
}

/// The report over all attempts of a run.
#[must_use]
pub fn report(trials: &[Trial]) -> Report {
    let mut contestants: Vec<&Contestant> = Vec::new();
    for trial in trials {
        if !contestants.contains(&&trial.contestant) {
            contestants.push(&trial.contestant);
        }
    }
    let lines = contestants.iter().map(|one| line(one, trials)).collect();
    let mut comparisons = Vec::new();
    for (place, first) in contestants.iter().enumerate() {
        let others = contestants[place + 1..].iter();
        comparisons.extend(others.filter_map(|second| comparison(first, second, trials)));
    }
    let p_values: Vec<f64> = comparisons.iter().map(|one| one.p_value).collect();
    for (one, corrected) in comparisons.iter_mut().zip(holm(&p_values)) {
        one.p_value = corrected;
    }
    Report { lines, comparisons }
}

fn line(contestant: &Contestant, trials: &[Trial]) -> Line {
    let own = || trials.iter().filter(|one| one.contestant == *contestant);
    let counted: Vec<&Trial> = own().filter(|one| !one.ended.voids()).collect();
    let mut tasks: Vec<(String, usize, usize)> = Vec::new();
    for trial in &counted {
        let solved = usize::from(trial.solved);
        match tasks.iter_mut().find(|task| task.0 == trial.task) {
            Some(task) => (task.1, task.2) = (task.1 + solved, task.2 + 1),
            None => tasks.push((trial.task.clone(), solved, 1)),
        }
    }
    let solved = counted.iter().filter(|one| one.solved).count();
    let mut calls = Calls::default();
    let (mut n_prompt, mut n_answer) = (None, None);
    for trial in &counted {
        calls += trial.calls;
        super::talk::add(&mut n_prompt, trial.n_prompt);
        super::talk::add(&mut n_answer, trial.n_answer);
    }
    let ended = Ended::ALL.map(|ended| (ended, own().filter(|one| one.ended == ended).count()));
    #[expect(clippy::cast_precision_loss, reason = "counts of turns are small")]
    let turns = counted.iter().map(|one| one.turn_seconds.len() as f64);
    let answers = counted.iter().flat_map(|one| one.turn_seconds.clone());
    Line {
        contestant: contestant.clone(),
        solved,
        n: counted.len(),
        interval: wilson(solved, counted.len()),
        n_void: own().count() - counted.len(),
        tasks,
        ended: ended.into_iter().filter(|(_, n)| *n > 0).collect(),
        turns: median(turns).unwrap_or(0.0),
        seconds: median(counted.iter().map(|one| one.seconds)).unwrap_or(0.0),
        turn_seconds: median(answers),
        calls,
        n_prompt,
        n_answer,
        n_retries: counted.iter().map(|one| one.n_retries).sum(),
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| quantile(&values, 0.5))
}

fn comparison(first: &Contestant, second: &Contestant, trials: &[Trial]) -> Option<Comparison> {
    let counted = || trials.iter().filter(|one| !one.ended.voids());
    let shared = counted()
        .filter(|one| one.contestant == *first)
        .filter_map(|trial| {
            let mut others = counted().filter(|one| one.contestant == *second);
            let is_same = |one: &&Trial| one.task == trial.task && one.repeat == trial.repeat;
            Some((trial.solved, others.find(is_same)?.solved))
        });
    let shared: Vec<(bool, bool)> = shared.collect();
    let count = |wanted: (bool, bool)| shared.iter().filter(|pair| **pair == wanted).count();
    let (only_first, only_second) = (count((true, false)), count((false, true)));
    (!shared.is_empty()).then(|| Comparison {
        first: first.clone(),
        second: second.clone(),
        only_first,
        only_second,
        p_value: mcnemar(only_first, only_second),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(model: &str, task: &str, repeat: u64, solved: bool) -> Trial {
        Trial {
            contestant: Contestant {
                model: model.into(),
                agent: "builtin".into(),
            },
            task: task.into(),
            repeat,
            solved,
            ended: Ended::Done,
            turn_seconds: vec![1.0, 3.0, 2.0],
            calls: Calls {
                right: 2,
                ..Calls::default()
            },
            n_prompt: Some(100),
            n_answer: None,
            seconds: 7.0,
            n_retries: 1,
        }
    }

    #[test]
    fn void_attempts_count_for_nothing() {
        let void = |ended| Trial {
            ended,
            turn_seconds: vec![90.0],
            seconds: 900.0,
            ..trial("a", "pages", 1, false)
        };
        let trials = [
            trial("a", "pages", 0, true),
            void(Ended::Fault),
            void(Ended::Unasked),
            trial("a", "price", 0, false),
        ];
        let report = report(&trials);
        let line = &report.lines[0];
        assert_eq!((line.solved, line.n, line.n_void), (1, 2, 2));
        assert_eq!(line.tasks, [("pages".into(), 1, 1), ("price".into(), 0, 1)]);
        let ended = [(Ended::Done, 2), (Ended::Fault, 1), (Ended::Unasked, 1)];
        assert_eq!(line.ended, ended);
        assert_eq!((line.turns, line.seconds), (3.0, 7.0));
        assert_eq!(line.turn_seconds, Some(2.0));
        assert_eq!((line.n_prompt, line.n_answer), (Some(200), None));
        assert_eq!((line.calls.right, line.n_retries), (4, 2));
        assert!(line.interval.holds(0.5) && line.interval.high < 1.0);
        assert!(report.comparisons.is_empty());
    }

    #[test]
    fn of_nothing_but_faults_nothing_is_said() {
        let fault = Trial {
            ended: Ended::Fault,
            ..trial("a", "pages", 0, false)
        };
        let report = report(&[fault, trial("b", "pages", 0, true)]);
        let line = &report.lines[0];
        assert_eq!((line.solved, line.n, line.turn_seconds), (0, 0, None));
        assert_eq!((line.interval.low, line.interval.high), (0.0, 1.0));
        // There is no pair of attempts that both count.
        assert!(report.comparisons.is_empty());
    }

    #[test]
    fn only_what_many_tasks_set_apart_differs() {
        let many = |n: u64| -> Vec<Trial> {
            let repeats = 0..n;
            let both = repeats.flat_map(|repeat| {
                [
                    trial("a", "pages", repeat, true),
                    trial("b", "pages", repeat, false),
                    trial("c", "pages", repeat, true),
                ]
            });
            both.collect()
        };
        let few = report(&many(4));
        assert!(few.comparisons.iter().all(|one| !one.differs()));
        let report = report(&many(12));
        let differ: Vec<bool> = report.comparisons.iter().map(Comparison::differs).collect();
        assert_eq!(differ, [true, false, true]); // a and b, a and c, b and c
        assert_eq!(report.comparisons[0].only_first, 12);
        assert_eq!(report.comparisons[2].only_second, 12);
    }
}
