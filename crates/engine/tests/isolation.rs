//! Sequences share one pool of KV cells; no answer may depend on what else passed
//! through it.
//!
//! The models are tiny, random and in 32 bits throughout, so that nothing but the
//! order of additions can differ: a token of another sequence seen by mistake moves
//! the log-probabilities by far more than [`TOLERANCE`]. (With quantised weights the
//! order alone moves them by tenths, which would hide such a fault.)

#![expect(clippy::expect_used, clippy::panic, reason = "test code")]

mod tiny_model;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use engine::{JobKey, LlamaEngine, Output, Request, Scheduler, SchedulerConfig, TokenId};
use proptest::prelude::*;
use proto::{FailureKind, Speculation, TokenLogprob};
use stdx::Priority;
use testkit::tiny::{Family, Purpose};

const TOLERANCE: f32 = 2e-3;

/// Prompts are cut from this one, so that most of them share a beginning.
const STORY: &[u8] = b"The fox went down to the river, and the river was wide and cold. \
                       The fox went up the hill.";

#[derive(Debug, Clone)]
struct Ask {
    /// Where the prompt leaves the common story.
    common: usize,
    own: u8,
    own_len: usize,
    max_tokens: u32,
    n: u32,
    cache_prompt: bool,
    speculate: bool,
    /// Who is more urgent may take the slot of who runs.
    priority: Priority,
    /// Passes of the scheduler before the next request comes.
    steps: usize,
    /// Cancelled after those passes.
    cancelled: bool,
}

impl Ask {
    fn request(&self, key: u64) -> Request {
        let own = (0..self.own_len).map(|at| b'a' + (self.own + at as u8 * 7) % 26);
        let prompt = STORY[..self.common].iter().copied().chain(own);
        // The vocabulary has a token for each byte, behind three special ones.
        let prompt = prompt.map(|byte| TokenId::from(byte) + 3).collect();
        Request {
            n: self.n,
            max_tokens: Some(self.max_tokens),
            logprobs: Some(2),
            speculation: self.speculate.then_some(Speculation {
                draft_tokens_max: 4,
                ngram: 2,
            }),
            cache_prompt: self.cache_prompt,
            priority: self.priority,
            ignore_eos: true,
            special_text: true,
            ..Request::greedy(JobKey(key), prompt)
        }
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    let prompt = (
        0..STORY.len(),
        any::<u8>().prop_map(|own| own % 26),
        1..40usize,
    );
    let kind = (1..24u32, 1..3u32, any::<bool>(), any::<bool>());
    let priority = prop::sample::select(Priority::ALL.to_vec());
    let course = (priority, 0..12usize, prop::bool::weighted(0.15));
    (prompt, kind, course).prop_map(
        |(
            (common, own, own_len),
            (max_tokens, n, cache_prompt, speculate),
            (priority, steps, cancelled),
        )| {
            Ask {
                common,
                own,
                own_len,
                max_tokens,
                n,
                cache_prompt,
                speculate,
                priority,
                steps,
                cancelled,
            }
        },
    )
}

/// The tokens of each choice.
type Answers = BTreeMap<(u64, u32), Vec<TokenLogprob>>;

fn scheduler(model: &tiny_model::TinyModel) -> Scheduler {
    // Few enough cells that prefixes are dropped and jobs put back.
    let options = tiny_model::options(model, 192, 3);
    let mut engine = LlamaEngine::open(&options, |_| true).expect("the tiny model loads");
    let config = SchedulerConfig {
        slots: 3,
        queue_max: 64,
        pass_target: Duration::from_millis(100),
    };
    let ticks = Cell::new(0);
    let clock = move || {
        ticks.set(ticks.get() + 1);
        Duration::from_millis(ticks.get())
    };
    let decoder = engine.decoder.take().expect("it is a decoder");
    Scheduler::new(Box::new(decoder), engine.vocabulary, config, clock)
}

fn collect(outputs: Vec<Output>, answers: &mut Answers) {
    for output in outputs {
        match output {
            Output::Text {
                key,
                choice,
                logprobs,
                ..
            } => {
                answers.entry((key.0, choice)).or_default().extend(logprobs);
            }
            Output::Failed { failure, .. } => {
                assert_eq!(failure.kind, FailureKind::Cancelled, "{}", failure.message);
            }
            _ => {}
        }
    }
}

fn finish(scheduler: &mut Scheduler, answers: &mut Answers) {
    for _ in 0..10_000 {
        if !scheduler.has_work() {
            return;
        }
        collect(scheduler.step(), answers);
    }
    panic!("the scheduler does not come to an end");
}

/// Compares up to the first choice that was a tie.
fn check(got: &[TokenLogprob], expected: &[TokenLogprob], what: &str) {
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (ours, theirs) = (got.logprob.zip(expected.logprob)).expect("they were generated");
        let difference = (ours - theirs).abs();
        assert!(
            difference < TOLERANCE,
            "{what}: token {at} has log-probability {ours} and alone {theirs}",
        );
        if got.bytes != expected.bytes {
            return;
        }
    }
    assert_eq!(got.len(), expected.len(), "{what}: another length");
}

fn histories_leave_no_trace(family: Family) {
    // Its log is long and says nothing of this.
    llama::init(|_, _| {}, llama::Kernels::Own);
    let model = tiny_model::TinyModel::write(family, Purpose::default());
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(asks in prop::collection::vec(ask(), 1..24))| {
        let mut used = scheduler(&model);
        let mut alone = scheduler(&model);
        let mut answers = Answers::new();
        for (key, ask) in (0..).zip(&asks) {
            used.submit(ask.request(key)).expect("the queue is long enough");
            for _ in 0..ask.steps {
                collect(used.step(), &mut answers);
            }
            if ask.cancelled {
                used.cancel(JobKey(key));
            }
        }
        finish(&mut used, &mut answers);
        for (key, ask) in (0..).zip(&asks) {
            let mut expected = Answers::new();
            let single = Ask { n: 1, cache_prompt: false, speculate: false, ..ask.clone() };
            alone.submit(single.request(0)).expect("it is empty");
            finish(&mut alone, &mut expected);
            for choice in 0..ask.n {
                let got = answers.remove(&(key, choice)).unwrap_or_default();
                let expected = &expected[&(0, 0)];
                let expected = if ask.cancelled { &expected[..got.len()] } else { expected };
                check(&got, expected, &format!("{ask:?}, choice {choice}"));
            }
        }
    });
}

#[test]
fn histories_leave_no_trace_in_full_attention() {
    histories_leave_no_trace(Family::Llama);
}

#[test]
fn histories_leave_no_trace_in_a_sliding_window() {
    histories_leave_no_trace(Family::Gemma3);
}
