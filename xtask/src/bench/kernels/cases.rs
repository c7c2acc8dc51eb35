//! What is measured: models, prompts and answers, and how full the cache is.

use crate::models::{GEMMA3, SMOLLM2, TestModel};
use kernels::Isa;
use kernels::isa::Level;
use testkit::sized::{Llama, WeightKind};

/// Models that people use.
pub(super) const REAL: [&TestModel; 2] = [&SMOLLM2, &GEMMA3];
const PROMPT: u32 = 512;
const ANSWER: u32 = 64;
const LOAD: Goal = Goal::Load {
    seconds: 1.3,
    bytes: 1.05,
};

/// The shapes of the random models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Llama1B,
    Llama3B,
}

/// How their weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "the field's names for these mixtures")]
pub(super) enum Mixture {
    Q4_0,
    Q4_K_M,
    Q5_K_M,
    Q6_K,
    Q8_0,
}

const MIXTURES: [Mixture; 5] = [
    Mixture::Q4_K_M,
    Mixture::Q4_0,
    Mixture::Q5_K_M,
    Mixture::Q6_K,
    Mixture::Q8_0,
];

/// A model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// One of [`REAL`].
    Real(usize),
    Random(Shape, Mixture),
}

impl Subject {
    pub(super) fn name(self) -> String {
        match self {
            Self::Real(at) => REAL[at].file.trim_end_matches(".gguf").to_owned(),
            Self::Random(Shape::Llama1B, mixture) => format!("llama-1B-{mixture:?}"),
            Self::Random(Shape::Llama3B, mixture) => format!("llama-3B-{mixture:?}"),
        }
    }
}

pub(super) fn llama(shape: Shape, mixture: Mixture) -> Llama {
    let of = |kind| match shape {
        Shape::Llama1B => Llama::of_1b(kind),
        Shape::Llama3B => Llama::of_3b(kind),
    };
    match mixture {
        Mixture::Q4_0 => of(WeightKind::Q4_0),
        Mixture::Q4_K_M => of(WeightKind::Q4_K).with(WeightKind::Q6_K),
        Mixture::Q5_K_M => of(WeightKind::Q5_K).with(WeightKind::Q6_K),
        Mixture::Q6_K => of(WeightKind::Q6_K),
        Mixture::Q8_0 => of(WeightKind::Q8_0),
    }
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing but loading.
    Load,
    /// So many tokens of a prompt.
    Prefill(u32),
    /// So many tokens of an answer.
    Decode(u32),
}

/// Who else computes at the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowd {
    Alone,
    /// So many threads for each that it is told to have.
    Threads(u32),
    /// So many processes at once.
    Processes(u32),
    /// A thread that always computes something else.
    Busy,
}

const CROWDS: [Crowd; 4] = [
    Crowd::Threads(2),
    Crowd::Threads(4),
    Crowd::Processes(2),
    Crowd::Busy,
];

impl Crowd {
    pub(super) fn threads(self, threads: u32) -> u32 {
        match self {
            Self::Threads(times) => threads * times,
            Self::Alone | Self::Processes(_) | Self::Busy => threads,
        }
    }

    pub(super) fn processes(self) -> u32 {
        match self {
            Self::Processes(count) => count,
            Self::Alone | Self::Threads(_) | Self::Busy => 1,
        }
    }
}

/// What a row must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// Of the peer's speed.
    Ratio(f64),
    /// The peer's time and memory, so many times, at most.
    Load {
        seconds: f64,
        bytes: f64,
    },
    /// Of the machine's products of 8-bit numbers.
    OfProducts(f64),
    /// Of what the machine reads.
    OfBandwidth(f64),
    Nothing,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) subject: Subject,
    pub(super) work: Work,
    /// Tokens in the cache before.
    pub(super) depth: u32,
    /// Types of our cache, keys and values; the peer's is always f16.
    pub(super) cache: [&'static str; 2],
    pub(super) crowd: Crowd,
    pub(super) goal: Goal,
}

impl Case {
    pub(super) fn name(&self) -> String {
        let work = match self.work {
            Work::Load => "load".to_owned(),
            Work::Prefill(tokens) => format!("prefill {tokens}"),
            Work::Decode(tokens) => format!("decode {tokens}"),
        };
        let mut name = format!("{}, {work}", self.subject.name());
        if self.depth > 0 {
            let [keys, values] = self.cache;
            name += &format!(" at depth {}, {keys}/{values} against f16/f16", self.depth);
        }
        match self.crowd {
            Crowd::Alone => {}
            Crowd::Threads(times) => name += &format!(", {times} times the threads"),
            Crowd::Processes(count) => name += &format!(", {count} at once"),
            Crowd::Busy => name += ", beside a busy thread",
        }
        name
    }
}

pub(super) fn all(isa: Isa) -> Vec<Case> {
    let case = |subject, work, goal| Case {
        subject,
        work,
        depth: 0,
        cache: ["f16", "f16"],
        crowd: Crowd::Alone,
        goal,
    };
    let mut cases = vec![
        case(Subject::Real(0), Work::Prefill(PROMPT), Goal::Ratio(5.0)),
        case(Subject::Real(0), Work::Decode(ANSWER), Goal::Ratio(1.5)),
        case(Subject::Real(0), Work::Load, LOAD),
        case(Subject::Real(1), Work::Prefill(PROMPT), Goal::Nothing),
        case(Subject::Real(1), Work::Decode(ANSWER), Goal::Nothing),
        case(Subject::Real(1), Work::Load, LOAD),
    ];
    for shape in [Shape::Llama1B, Shape::Llama3B] {
        for mixture in MIXTURES {
            let subject = Subject::Random(shape, mixture);
            let prefill = Goal::OfProducts(0.55);
            cases.push(case(subject, Work::Prefill(PROMPT), prefill));
            cases.push(case(subject, Work::Decode(ANSWER), Goal::OfBandwidth(0.9)));
            cases.push(case(subject, Work::Load, LOAD));
        }
    }
    let deep = |subject, work, depth, cache, ratio| Case {
        depth,
        cache,
        ..case(subject, work, Goal::Ratio(ratio))
    };
    let (eight, mixed) = (["q8_0", "q8_0"], ["q8_0", "q4_0"]);
    for subject in [
        Subject::Real(0),
        Subject::Random(Shape::Llama1B, Mixture::Q4_K_M),
    ] {
        let prompt = Work::Prefill(PROMPT);
        cases.push(deep(subject, prompt, 2048, eight, 1.0));
        cases.push(deep(subject, prompt, 2048, mixed, 0.9));
    }
    cases.push(deep(
        Subject::Real(0),
        Work::Decode(ANSWER),
        8192,
        eight,
        1.0,
    ));
    for crowd in CROWDS {
        for work in [Work::Prefill(PROMPT), Work::Decode(ANSWER)] {
            let alone = case(Subject::Real(0), work, Goal::Ratio(1.0));
            cases.push(Case { crowd, ..alone });
        }
    }
    if isa.level() == Level::Avx2 {
        // Its goals are of the peer's speed, and of prefill alone.
        cases.retain(|case| {
            case.depth == 0 && case.work != Work::Load && case.crowd == Crowd::Alone
        });
        for case in &mut cases {
            case.goal = match case.work {
                Work::Prefill(_) => Goal::Ratio(1.5),
                Work::Decode(_) | Work::Load => Goal::Nothing,
            };
        }
    }
    cases
}
