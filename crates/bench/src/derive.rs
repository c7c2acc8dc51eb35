//! From measurements to routes: which model takes which task, and which one when it cannot.
//!
//! What was seen decides, and the reason says how sure that is. A model is for a task if it gets
//! at least half of the task's questions right, if hardly any attempt ended in a fault of the
//! pipeline, and if, but for deep work, it answers in time and at a pace that one waits for. Of
//! those the one with the highest rate is first, and of equal ones the fastest. Fast chat turns
//! that round: of the models that are right often enough, the fastest. The backup is the next of
//! another engine, which does not fail with the first, if there is one. Who is not for a task is
//! refused with the reason.

use router::Task;

use crate::quality::{Dimension, Fault};
use crate::rates::{Interval, wilson};

/// Below this rate a model is not for the task.
const RATE_MIN: f64 = 0.5;
/// And below this one not for fast chat.
const CHAT_RATE_MIN: f64 = 0.7;
/// Mean seconds of an answer beyond which nobody waits for it.
const INTERACTIVE_SECONDS_MAX: f64 = 90.0;
/// A larger share of a task's attempts without an answer is a failure: one of fourteen is, one of
/// three times fourteen is not.
const FAILED_SHARE_MAX: f64 = 0.05;

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
    /// The results that say so, by their ids.
    pub ids: Vec<String>,
    /// Right answers and attempts that count. A dimension that is not there was not measured.
    pub rates: Vec<(Dimension, usize, usize)>,
    /// What went wrong besides wrong answers.
    pub troubles: Vec<Trouble>,
    /// Over all dimensions, also where the single ones are not known.
    pub all: (usize, usize),
    /// By the weights of the questions.
    pub weighted: f64,
    pub seconds_mean: f64,
}

/// Attempts of a dimension that a fault of the pipeline has spoilt, or that came too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    pub dimension: Dimension,
    pub fault: Fault,
    pub n: usize,
}

impl Evidence {
    /// Right answers and attempts that count.
    fn counts(&self, task: Task) -> (usize, usize) {
        let Some(dimensions) = dimensions(task) else {
            return self.all;
        };
        let of = self
            .rates
            .iter()
            .filter(|rate| dimensions.contains(&rate.0));
        of.fold((0, 0), |(right, n), rate| (right + rate.1, n + rate.2))
    }

    /// How many of a task's attempts had one of these faults, and which one most of them.
    fn troubles(&self, task: Task, is_one: impl Fn(Fault) -> bool) -> Option<(Fault, usize)> {
        let is_of_task =
            |one: &&Trouble| dimensions(task).is_none_or(|of| of.contains(&one.dimension));
        let found = self.troubles.iter().filter(is_of_task);
        let found: Vec<&Trouble> = found.filter(|one| one.n > 0 && is_one(one.fault)).collect();
        let n_of = |fault: Fault| -> usize {
            let same = found.iter().filter(|one| one.fault == fault);
            same.map(|one| one.n).sum()
        };
        let most = found.iter().max_by_key(|one| n_of(one.fault))?;
        Some((most.fault, found.iter().map(|one| one.n).sum()))
    }
}

/// Which model takes a task, and which ones are refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Derivation {
    pub task: Task,
    /// `None` where no model that was measured is for it, so that whatever is set by hand stays.
    pub route: Option<Derived>,
    pub refused: Vec<Refused>,
}

/// A model that was measured and is not for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub model: String,
    pub why: Refusal,
}

/// Why a model is not for a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// So many of the attempts say nothing of it, most of them for this fault.
    Pipeline {
        fault: Fault,
        n: usize,
        n_all: usize,
    },
    /// So many attempts had no answer in time.
    Late {
        n: usize,
        n_all: usize,
    },
    TooSlow {
        seconds_mean: f64,
    },
    TooOftenWrong {
        right: usize,
        n: usize,
        rate_min: f64,
    },
}

impl Refusal {
    /// The word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pipeline { .. } => "pipeline",
            Self::Late { .. } => "late",
            Self::TooSlow { .. } => "too_slow",
            Self::TooOftenWrong { .. } => "too_often_wrong",
        }
    }

    /// Why, in a line.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Pipeline { fault, n, n_all } => format!(
                "{n} of {n_all} attempts ended in faults of the pipeline, most of them `{}`: {}",
                fault.word(),
                fault.fix()
            ),
            Self::Late { n, n_all } => format!("{n} of {n_all} attempts had no answer in time"),
            Self::TooSlow { seconds_mean } => format!(
                "an answer takes {seconds_mean:.1} s, and nobody waits longer than \
                 {INTERACTIVE_SECONDS_MAX} s"
            ),
            Self::TooOftenWrong { right, n, rate_min } => format!(
                "{right} of {n} right, and the task wants at least {:.0} %",
                100.0 * rate_min
            ),
        }
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
    /// The results that it rests on.
    pub evidence: Vec<String>,
}

/// The route for a task, from the models that are for it.
#[must_use]
pub fn derive(task: Task, evidence: &[Evidence]) -> Derivation {
    let mut fit: Vec<(&Evidence, usize, usize)> = Vec::new();
    let mut refused = Vec::new();
    for one in evidence {
        let (right, n) = one.counts(task);
        match refusal(task, one, (right, n)) {
            Some(why) => refused.push(Refused {
                model: one.model.clone(),
                why,
            }),
            None if n > 0 => fit.push((one, right, n)),
            // Nothing was asked of it.
            None => {}
        }
    }
    Derivation {
        task,
        route: route(task, fit),
        refused,
    }
}

fn route(task: Task, mut fit: Vec<(&Evidence, usize, usize)>) -> Option<Derived> {
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

/// Why a model is not for a task; `None` where it is, or where nothing was asked of it.
fn refusal(task: Task, one: &Evidence, (right, n): (usize, usize)) -> Option<Refusal> {
    let is_interactive = task != Task::Deep;
    if let Some((fault, n_void)) = one.troubles(task, Fault::voids)
        && rate(n_void, n + n_void) > FAILED_SHARE_MAX
    {
        return Some(Refusal::Pipeline {
            fault,
            n: n_void,
            n_all: n + n_void,
        });
    }
    if n == 0 {
        return None;
    }
    if is_interactive
        && let Some((_, n_late)) = one.troubles(task, |fault| fault == Fault::Late)
        && rate(n_late, n) > FAILED_SHARE_MAX
    {
        return Some(Refusal::Late {
            n: n_late,
            n_all: n,
        });
    }
    if is_interactive && one.seconds_mean > INTERACTIVE_SECONDS_MAX {
        return Some(Refusal::TooSlow {
            seconds_mean: one.seconds_mean,
        });
    }
    let rate_min = match task {
        Task::FastChat => CHAT_RATE_MIN,
        _ => RATE_MIN,
    };
    (rate(right, n) < rate_min).then_some(Refusal::TooOftenWrong { right, n, rate_min })
}

fn choice((one, right, n): &(&Evidence, usize, usize)) -> Choice {
    Choice {
        model: one.model.clone(),
        right: *right,
        n: *n,
        interval: wilson(*right, *n),
        seconds_mean: one.seconds_mean,
        evidence: one.ids.clone(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of attempts are small")]
fn rate(right: usize, n: usize) -> f64 {
    if n == 0 { 0.0 } else { right as f64 / n as f64 }
}

impl Derived {
    /// By which rule the first model is the first.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self.task {
            Task::FastChat => "the fastest that is right often enough",
            Task::Deep => "the highest weighted quality, however long it takes",
            _ => "the highest rate, and of equal ones the fastest",
        }
    }

    /// The results that the route rests on, each once.
    #[must_use]
    pub fn evidence(&self) -> Vec<&str> {
        let choices = std::iter::once(&self.primary).chain(&self.backup);
        let mut ids: Vec<&str> = Vec::new();
        for id in choices.flat_map(|choice| &choice.evidence) {
            if !ids.contains(&id.as_str()) {
                ids.push(id);
            }
        }
        ids
    }

    /// Why, in a line.
    #[must_use]
    pub fn reason(&self) -> String {
        let Choice {
            right,
            n,
            seconds_mean,
            ..
        } = self.primary;
        let rule = self.rule();
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
            ids: vec![format!("q-{model}")],
            rates: Vec::new(),
            troubles: Vec::new(),
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
        let chat = derive(Task::FastChat, &rows).route.unwrap();
        assert_eq!(names(&chat), ("qwen3-1.7b-npu", Some("lfm2.5-1.2b")));
        let deep = derive(Task::Deep, &rows).route.unwrap();
        assert_eq!(names(&deep), ("gemma-4-26b-a4b", Some("qwen3.5-2b")));
        // Eleven models of twelve are not set apart from the best by fourteen questions.
        assert!(deep.inseparable.len() >= 10, "{:?}", deep.inseparable);
        // The others rest on single dimensions, which these rows do not have.
        for task in [Task::Reasoning, Task::Code, Task::Tools, Task::Factual] {
            let derivation = derive(task, &rows);
            assert_eq!(derivation.route, None, "{task:?}");
            assert!(derivation.refused.is_empty(), "nothing was asked of them");
        }
        let evidence = ["q-qwen3-1.7b-npu", "q-lfm2.5-1.2b"];
        assert_eq!(chat.evidence(), evidence);
        assert_eq!(chat.primary.evidence, evidence[..1]);
    }

    #[test]
    fn of_models_that_all_can_the_fastest_codes() {
        let mut rows = published();
        for row in &mut rows {
            row.rates = vec![(Dimension::Code, 2, 2)];
        }
        let code = derive(Task::Code, &rows).route.unwrap();
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
        let tools = derive(Task::Tools, &rows);
        assert_eq!(tools.route, None);
        let words: Vec<&str> = tools.refused.iter().map(|one| one.why.word()).collect();
        assert_eq!(
            words,
            ["too_often_wrong", "too_slow", "too_slow", "too_slow"]
        );
        assert!(derive(Task::Deep, &rows).route.is_some());
    }

    #[test]
    fn what_failed_interactively_is_refused_with_the_reason() {
        let trouble = |fault, n| Trouble {
            dimension: Dimension::Math,
            fault,
            n,
        };
        let one = |troubles: Vec<Trouble>, seconds_mean| Evidence {
            model: "one".into(),
            engine: "cpu".into(),
            ids: Vec::new(),
            rates: vec![(Dimension::Math, 40, 42), (Dimension::Code, 2, 2)],
            troubles,
            all: (42, 44),
            weighted: 20.0,
            seconds_mean,
        };
        let (chat, deep, code) = (Task::FastChat, Task::Deep, Task::Code);
        for (troubles, seconds_mean, task, expected) in [
            (vec![], 10.0, chat, None),
            (vec![], 90.1, chat, Some("too_slow")),
            (vec![], 90.1, deep, None),
            // Two of 44 are bad luck, three are not.
            (vec![trouble(Fault::Late, 2)], 10.0, chat, None),
            (vec![trouble(Fault::Late, 3)], 10.0, chat, Some("late")),
            (vec![trouble(Fault::Late, 3)], 10.0, deep, None),
            (vec![trouble(Fault::Busy, 2)], 10.0, chat, None),
            (vec![trouble(Fault::Busy, 3)], 10.0, chat, Some("pipeline")),
            (vec![trouble(Fault::Busy, 3)], 10.0, deep, Some("pipeline")),
            // Questions of another task.
            (vec![trouble(Fault::Busy, 9)], 10.0, code, None),
            // The answer was there, and was judged.
            (vec![trouble(Fault::LeakedThought, 40)], 10.0, chat, None),
        ] {
            let shown = format!("{troubles:?}, {seconds_mean}, {task:?}");
            let derivation = derive(task, &[one(troubles, seconds_mean)]);
            let word = derivation.refused.first().map(|one| one.why.word());
            assert_eq!(word, expected, "{shown}");
            assert_eq!(derivation.route.is_none(), expected.is_some(), "{shown}");
        }
    }

    #[test]
    fn of_several_faults_the_commonest_is_named_even_where_nothing_was_judged() {
        let trouble = |dimension, fault, n| Trouble {
            dimension,
            fault,
            n,
        };
        let one = Evidence {
            model: "one".into(),
            engine: String::new(),
            ids: Vec::new(),
            rates: Vec::new(),
            troubles: vec![
                trouble(Dimension::Math, Fault::Busy, 3),
                trouble(Dimension::Code, Fault::Refused, 2),
                trouble(Dimension::ToolCall, Fault::Refused, 2),
            ],
            all: (0, 0),
            weighted: 0.0,
            seconds_mean: 0.0,
        };
        let why = |task| derive(task, std::slice::from_ref(&one)).refused;
        let of = |fault, n| Refusal::Pipeline { fault, n, n_all: n };
        assert_eq!(why(Task::Deep)[0].why, of(Fault::Refused, 7));
        assert_eq!(why(Task::Tools)[0].why, of(Fault::Refused, 2));
        assert!(why(Task::Factual).is_empty());
    }
}
