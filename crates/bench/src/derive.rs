//! From measurements to routes: which model takes which task, and which one when it cannot.
//!
//! What was seen decides, and the reason says how sure that is. A model is for a task if it gets
//! at least half of the task's questions right and, but for deep work, answers at a pace that
//! one waits for. Of those the one with the highest rate is first, and of equal ones the
//! fastest. Fast chat turns that round: of the models that are right often enough, the
//! fastest. The backup is the next of another engine, which does not fail with the first, if
//! there is one.

use router::Task;

use crate::quality::Dimension;
use crate::rates::{Interval, wilson};

/// Below this rate a model is not for the task.
const RATE_MIN: f64 = 0.5;
/// And below this one not for fast chat.
const CHAT_RATE_MIN: f64 = 0.7;
/// Mean seconds of an answer beyond which nobody waits for it.
const INTERACTIVE_SECONDS_MAX: f64 = 90.0;

/// The questions that tell of a task; `None`: all of them.
const fn dimensions(task: Task) -> Option<&'static [Dimension]> {
    match task {
        Task::FastChat | Task::Deep => None,
        Task::Reasoning => Some(&[Dimension::Reasoning, Dimension::Math]),
        Task::Code => Some(&[Dimension::Code]),
        Task::Tools => Some(&[Dimension::ToolCall]),
        Task::Factual => Some(&[Dimension::Factual]),
    }
}

/// What is known of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// As routes name it.
    pub model: String,
    /// What fails together with it: an engine, a machine, a chip.
    pub engine: String,
    /// Right answers and attempts that count. A dimension that is not there was not measured.
    pub rates: Vec<(Dimension, usize, usize)>,
    /// Over all dimensions, also where the single ones are not known.
    pub all: (usize, usize),
    /// By the weights of the questions.
    pub weighted: f64,
    pub seconds_mean: f64,
}

impl Evidence {
    fn counts(&self, task: Task) -> Option<(usize, usize)> {
        let Some(dimensions) = dimensions(task) else {
            return Some(self.all);
        };
        let of = self
            .rates
            .iter()
            .filter(|rate| dimensions.contains(&rate.0));
        let (right, n) = of.fold((0, 0), |(right, n), rate| (right + rate.1, n + rate.2));
        (n > 0).then_some((right, n))
    }
}

/// A route, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    pub task: Task,
    pub primary: Choice,
    pub backup: Option<Choice>,
    /// Others whose rates noise may have put below the first one's.
    pub inseparable: Vec<String>,
}

/// A model for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub model: String,
    pub right: usize,
    pub n: usize,
    pub interval: Interval,
    pub seconds_mean: f64,
}

/// A route for a task; `None` where no model that was measured is for it, so that whatever is
/// set by hand stays.
#[must_use]
pub fn derive(task: Task, evidence: &[Evidence]) -> Option<Derived> {
    let mut fit: Vec<(&Evidence, usize, usize)> = evidence
        .iter()
        .filter_map(|one| one.counts(task).map(|(right, n)| (one, right, n)))
        .filter(|(one, right, n)| is_for(task, one, rate(*right, *n)))
        .collect();
    fit.sort_by(|a, b| {
        let faster = a.0.seconds_mean.total_cmp(&b.0.seconds_mean);
        let better = rate(b.1, b.2).total_cmp(&rate(a.1, a.2));
        match task {
            Task::FastChat => faster.then(better),
            Task::Deep => b.0.weighted.total_cmp(&a.0.weighted).then(faster),
            _ => better.then(faster),
        }
    });
    let (first, rest) = fit.split_first()?;
    let elsewhere = rest.iter().find(|one| one.0.engine != first.0.engine);
    // For deep work the next best counts for more than where it runs.
    let backup = match task {
        Task::Deep => rest.first(),
        _ => elsewhere.or(rest.first()),
    };
    let primary = choice(first);
    let inseparable = rest.iter().map(choice);
    Some(Derived {
        task,
        backup: backup.map(choice),
        inseparable: inseparable
            .filter(|other| other.interval.overlaps(&primary.interval))
            .map(|other| other.model)
            .collect(),
        primary,
    })
}

fn is_for(task: Task, one: &Evidence, rate: f64) -> bool {
    match task {
        Task::Deep => rate >= RATE_MIN,
        Task::FastChat => rate >= CHAT_RATE_MIN && one.seconds_mean <= INTERACTIVE_SECONDS_MAX,
        _ => rate >= RATE_MIN && one.seconds_mean <= INTERACTIVE_SECONDS_MAX,
    }
}

fn choice((one, right, n): &(&Evidence, usize, usize)) -> Choice {
    Choice {
        model: one.model.clone(),
        right: *right,
        n: *n,
        interval: wilson(*right, *n),
        seconds_mean: one.seconds_mean,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of attempts are small")]
fn rate(right: usize, n: usize) -> f64 {
    if n == 0 { 0.0 } else { right as f64 / n as f64 }
}

impl Derived {
    /// Why, in a line.
    #[must_use]
    pub fn reason(&self) -> String {
        let Choice {
            right,
            n,
            seconds_mean,
            ..
        } = self.primary;
        let rule = match self.task {
            Task::FastChat => "the fastest that is right often enough",
            Task::Deep => "the highest weighted quality, however long it takes",
            _ => "the highest rate, and of equal ones the fastest",
        };
        let doubt = match self.inseparable.as_slice() {
            [] => String::new(),
            names => format!(
                "; these attempts do not set it apart from {}",
                names.join(", ")
            ),
        };
        format!("{rule}: {right} of {n} right, {seconds_mean:.1} s an answer{doubt}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The twelve published models on one board: right of 14, weighted quality, seconds. The
    /// single dimensions were not published.
    fn published() -> Vec<Evidence> {
        let one = |model: &str, engine: &str, right, weighted, seconds_mean| Evidence {
            model: model.into(),
            engine: engine.into(),
            rates: Vec::new(),
            all: (right, 14),
            weighted,
            seconds_mean,
        };
        vec![
            one("qwen2.5-3b-npu", "npu", 11, 22.0, 44.8),
            one("qwen3-1.7b-npu", "npu", 11, 20.5, 42.3),
            one("lfm2.5-350m", "cpu", 8, 13.5, 33.5),
            one("lfm2.5-1.2b", "cpu", 10, 18.0, 46.2),
            one("qwen3.5-0.8b-distilled", "cpu", 10, 18.5, 49.9),
            one("qwen2.5-coder-3b-npu", "npu", 9, 17.0, 52.4),
            one("qwen3.5-2b", "cpu", 12, 23.5, 74.0),
            one("glm-4.7-reap-23b", "cpu", 10, 19.5, 62.1),
            one("qwen2.5-3b", "cpu", 11, 22.0, 87.0),
            one("qwen3-4b", "cpu", 10, 19.0, 101.4),
            one("qwen3.5-4b", "cpu", 11, 20.5, 126.5),
            one("gemma-4-26b-a4b", "cpu", 13, 25.0, 179.2),
        ]
    }

    fn names(derived: &Derived) -> (&str, Option<&str>) {
        let backup = derived.backup.as_ref();
        (&derived.primary.model, backup.map(|one| one.model.as_str()))
    }

    #[test]
    fn published_rows_give_the_published_routes_as_far_as_they_tell() {
        let rows = published();
        let chat = derive(Task::FastChat, &rows).unwrap();
        assert_eq!(names(&chat), ("qwen3-1.7b-npu", Some("lfm2.5-1.2b")));
        let deep = derive(Task::Deep, &rows).unwrap();
        assert_eq!(names(&deep), ("gemma-4-26b-a4b", Some("qwen3.5-2b")));
        // Eleven models of twelve are not set apart from the best by fourteen questions.
        assert!(deep.inseparable.len() >= 10, "{:?}", deep.inseparable);
        // The others rest on single dimensions, which these rows do not have.
        for task in [Task::Reasoning, Task::Code, Task::Tools, Task::Factual] {
            assert_eq!(derive(task, &rows), None, "{task:?}");
        }
    }

    #[test]
    fn of_models_that_all_can_the_fastest_codes() {
        let mut rows = published();
        for row in &mut rows {
            row.rates = vec![(Dimension::Code, 2, 2)];
        }
        let code = derive(Task::Code, &rows).unwrap();
        assert_eq!(names(&code), ("lfm2.5-350m", Some("qwen3-1.7b-npu")));
        assert!(code.reason().contains("2 of 2 right"), "{}", code.reason());
    }

    #[test]
    fn what_lost_its_tools_or_keeps_one_waiting_is_not_promoted() {
        let mut rows = published();
        for row in &mut rows {
            let right = usize::from(!row.model.contains("distilled")) * 2;
            row.rates = vec![(Dimension::ToolCall, right, 2)];
        }
        rows.retain(|row| row.model.contains("distilled") || row.seconds_mean > 90.0);
        assert_eq!(derive(Task::Tools, &rows), None);
        assert!(derive(Task::Deep, &rows).is_some());
    }
}
