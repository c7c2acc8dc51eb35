//! The scheduler over the fake decoder, whose answers change with any slip in
//! positions, sharing or truncation.

mod park;
mod prefixes;
mod shift;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proto::{
    FailureKind, FinishReason, PrefixCause, PrefixDetail, PrefixReport, Speculation, Usage,
};

use stdx::Priority;

use super::*;
use crate::fake::{FakeDecoder, FakeStore, FakeVocabulary, Script};
use crate::{Output, Request};

fn scheduler(shape: Shape, script: Script, slots: usize) -> Scheduler {
    let config = SchedulerConfig {
        slots,
        queue_max: 64,
        pass_target: Duration::from_millis(100),
    };
    let ticks = Cell::new(0);
    Scheduler::new(
        Box::new(FakeDecoder::new(shape, script)),
        Arc::new(FakeVocabulary),
        config,
        move || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        },
    )
}

fn request(key: u64, prompt: &str, max_tokens: u32) -> Request {
    Request {
        max_tokens: Some(max_tokens),
        ..Request::greedy(JobKey(key), prompt.bytes().map(TokenId::from).collect())
    }
}

/// What each request came to.
#[derive(Debug, Default, PartialEq, Clone)]
struct Answer {
    texts: BTreeMap<u32, String>,
    ends: BTreeMap<u32, FinishReason>,
    cached: u32,
    usage: Usage,
    failure: Option<FailureKind>,
    prefix: Option<PrefixReport>,
    timings: Timings,
    n_last: u32,
}

fn note(answers: &mut BTreeMap<u64, Answer>, output: Output) {
    let answer = answers.entry(output.key().0).or_default();
    match output {
        Output::Started { cached_tokens, .. } => answer.cached = cached_tokens,
        Output::Text { choice, text, .. } => {
            answer.texts.entry(choice).or_default().push_str(&text)
        }
        Output::Finished { choice, reason, .. } => {
            assert!(
                answer.ends.insert(choice, reason).is_none(),
                "two ends of one choice"
            );
        }
        Output::Done { usage, timings, .. } => {
            answer.usage = usage;
            answer.timings = timings;
            answer.n_last += 1;
        }
        Output::Failed { failure, .. } => {
            answer.failure = Some(failure.kind);
            answer.n_last += 1;
        }
        Output::Prefix { report, .. } => answer.prefix = Some(*report),
        Output::Prefill { .. } | Output::Prompt { .. } => {}
    }
}

fn run(scheduler: &mut Scheduler) -> BTreeMap<u64, Answer> {
    let mut answers = BTreeMap::new();
    for _ in 0..100_000 {
        if !scheduler.has_work() {
            return answers;
        }
        for output in scheduler.step() {
            note(&mut answers, output);
        }
    }
    panic!(
        "the scheduler does not come to an end: {:?}",
        scheduler.state()
    );
}

fn alone(shape: Shape, script: &Script, request: Request) -> Answer {
    let key = request.key.0;
    let mut scheduler = scheduler(shape, script.clone(), 1);
    scheduler.submit(request).unwrap();
    run(&mut scheduler).remove(&key).unwrap()
}

#[test]
fn many_requests_give_what_each_gives_alone() {
    let shape = FakeDecoder::usual_shape();
    let prompts = [
        "hello",
        "hello world",
        "a",
        "completely different and rather longer than the rest",
    ];
    let mut together = scheduler(shape, Script::Hash, 3);
    for (key, prompt) in prompts.iter().enumerate() {
        together.submit(request(key as u64, prompt, 20)).unwrap();
    }
    let answers = run(&mut together);
    for (key, prompt) in prompts.iter().enumerate() {
        let expected = alone(shape, &Script::Hash, request(key as u64, prompt, 20));
        assert_eq!(answers[&(key as u64)].texts, expected.texts, "{prompt}");
        assert_eq!(answers[&(key as u64)].ends[&0], FinishReason::Length);
    }
}

#[test]
fn the_end_token_and_stop_strings_end_an_answer() {
    let shape = FakeDecoder::usual_shape();
    let script = Script::Say("one two three".into());
    let answer = alone(shape, &script, request(1, "say:", 100));
    assert_eq!(answer.texts[&0], "one two three");
    assert_eq!(answer.ends[&0], FinishReason::Stop);
    assert_eq!(answer.usage.completion_tokens, 14);
    let stopped = Request {
        stop: vec![" thr".into()],
        ..request(1, "say:", 100)
    };
    assert_eq!(alone(shape, &script, stopped).texts[&0], "one two");
    let endless = Request {
        ignore_eos: true,
        ..request(1, "say:", 30)
    };
    assert_eq!(
        alone(shape, &script, endless).ends[&0],
        FinishReason::Length
    );
}

#[test]
fn a_second_request_computes_only_what_is_new() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 2);
    let system = "you are a helpful assistant. ".repeat(4);
    scheduler
        .submit(request(1, &format!("{system}first"), 5))
        .unwrap();
    let first = run(&mut scheduler).remove(&1).unwrap();
    assert_eq!(first.cached, 0);
    scheduler
        .submit(request(2, &format!("{system}second"), 5))
        .unwrap();
    let second = run(&mut scheduler).remove(&2).unwrap();
    assert_eq!(second.cached as usize, system.len());
    // The conversation goes on: prompt and answer are both known, but for the last token.
    let next = format!("{system}first{} and then", first.texts[&0]);
    scheduler.submit(request(3, &next, 5)).unwrap();
    let third = run(&mut scheduler).remove(&3).unwrap();
    assert_eq!(third.cached as usize, system.len() + "first".len() + 4);
    let fresh = alone(
        FakeDecoder::usual_shape(),
        &Script::Hash,
        request(3, &next, 5),
    );
    assert_eq!(third.texts, fresh.texts);
    // The same prompt again: all but its last token.
    scheduler.submit(request(4, &next, 5)).unwrap();
    let again = run(&mut scheduler).remove(&4).unwrap();
    assert_eq!(
        (again.cached as usize, again.texts),
        (next.len() - 1, fresh.texts)
    );
}

#[test]
fn a_running_request_shares_its_prompt() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 2);
    let prompt = "the same long prompt for everyone";
    scheduler.submit(request(1, prompt, 50)).unwrap();
    scheduler.step();
    scheduler.step();
    scheduler.submit(request(2, prompt, 50)).unwrap();
    let answers = run(&mut scheduler);
    assert_eq!(answers[&2].cached as usize, prompt.len() - 1);
}

#[test]
fn several_choices_share_one_prefill() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 1);
    scheduler
        .submit(Request {
            n: 3,
            ..request(1, "a prompt", 6)
        })
        .unwrap();
    let answers = run(&mut scheduler);
    let expected = alone(
        FakeDecoder::usual_shape(),
        &Script::Hash,
        request(1, "a prompt", 6),
    );
    for choice in 0..3 {
        assert_eq!(answers[&1].texts[&choice], expected.texts[&0]);
    }
    assert_eq!(answers[&1].usage.completion_tokens, 18);
}

#[test]
fn speculation_changes_nothing_but_the_number_of_passes() {
    let shape = FakeDecoder::usual_shape();
    let speculation = Some(Speculation {
        draft_tokens_max: 8,
        ngram: 2,
    });
    for script in [Script::Cycle(5), Script::Hash] {
        let prompt = "abcdeabcde";
        let plain = alone(shape, &script, request(1, prompt, 40));
        let drafted = alone(
            shape,
            &script,
            Request {
                speculation,
                ..request(1, prompt, 40)
            },
        );
        assert_eq!(drafted.texts, plain.texts);
        assert_eq!(
            drafted.usage.completion_tokens,
            plain.usage.completion_tokens
        );
    }
    let drafted = alone(
        shape,
        &Script::Cycle(5),
        Request {
            speculation,
            ..request(1, "abcdeabcde", 40)
        },
    );
    assert!(
        drafted.usage.draft_accepted_tokens > 30,
        "{:?}",
        drafted.usage
    );
}

#[test]
fn a_draft_that_a_bias_makes_a_close_race_does_not_stand() {
    let drafted = |bias| {
        let mut request = Request {
            speculation: Some(Speculation {
                draft_tokens_max: 8,
                ngram: 2,
            }),
            ..request(1, "abcdeabcde", 40)
        };
        request.sampling.logit_bias = vec![(TokenId::from(b'z'), bias)];
        alone(FakeDecoder::usual_shape(), &Script::Cycle(5), request)
    };
    // The fake's logits are 10 for the next token and 0 for the others.
    let (clear, close) = (drafted(5.0), drafted(9.8));
    assert_eq!(clear.texts, close.texts);
    assert!(clear.usage.draft_accepted_tokens > 30, "{:?}", clear.usage);
    assert_eq!(close.usage.draft_accepted_tokens, 0);
}

#[test]
fn a_full_cache_delays_but_loses_nothing() {
    let shape = Shape {
        cells: 80,
        ..FakeDecoder::usual_shape()
    };
    let mut tight = scheduler(shape, Script::Hash, 4);
    let prompts = [
        "alpha beta",
        "gamma delta epsilon",
        "zeta",
        "eta theta iota",
    ];
    for (key, prompt) in prompts.iter().enumerate() {
        tight.submit(request(key as u64, prompt, 40)).unwrap();
    }
    let answers = run(&mut tight);
    assert!(tight.state().totals.preemptions > 0);
    for (key, prompt) in prompts.iter().enumerate() {
        let expected = alone(
            FakeDecoder::usual_shape(),
            &Script::Hash,
            request(key as u64, prompt, 40),
        );
        assert_eq!(answers[&(key as u64)].texts, expected.texts, "{prompt}");
    }
}

#[test]
fn choices_that_do_not_fit_together_take_turns() {
    // Where state cannot be cut, the choice that ends leaves no prompt to the others.
    for can_cut in [true, false] {
        let shape = Shape {
            cells: 60,
            can_cut,
            ..FakeDecoder::usual_shape()
        };
        let three = Request {
            n: 3,
            ..request(1, "twenty characters...", 30)
        };
        let tight = alone(shape, &Script::Hash, three);
        let one = alone(
            FakeDecoder::usual_shape(),
            &Script::Hash,
            request(1, "twenty characters...", 30),
        );
        for choice in 0..3 {
            assert_eq!(tight.texts[&choice], one.texts[&0]);
        }
        assert_eq!(tight.usage.completion_tokens, 90);
    }
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let shape = Shape {
        context: 30,
        ..FakeDecoder::usual_shape()
    };
    let answer = alone(
        shape,
        &Script::Hash,
        Request {
            max_tokens: None,
            ..request(1, "0123456789", 1)
        },
    );
    assert_eq!(answer.ends[&0], FinishReason::Length);
    assert_eq!(answer.usage.completion_tokens, 20);
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let shape = Shape {
        context: 30,
        ..FakeDecoder::usual_shape()
    };
    let mut scheduler = scheduler(shape, Script::Hash, 1);
    let refused = scheduler
        .submit(request(1, &"x".repeat(30), 1))
        .unwrap_err();
    assert_eq!(
        refused.kind,
        FailureKind::ContextExceeded {
            prompt_tokens: 30,
            context: 30
        }
    );
    assert_eq!(
        refused.message,
        "The prompt has 30 tokens and the context is 30, which must also hold the answer: shorten \
         the prompt by 1 tokens or load the model with a larger context"
    );
    let refused = scheduler.submit(request(1, "", 1)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::InvalidRequest);
    let refused = scheduler
        .submit(Request {
            prompt: vec![9999],
            ..request(1, "", 1)
        })
        .unwrap_err();
    assert!(refused.message.contains("9999"));
    // One runs, the others wait.
    for key in 0..65 {
        scheduler.submit(request(key, "x", 1)).unwrap();
    }
    let refused = scheduler.submit(request(99, "x", 1)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::QueueFull { limit: 64 });
}

#[test]
fn a_long_prompt_does_not_stall_a_running_stream() {
    let shape = Shape {
        ubatch: 64,
        batch: 64,
        ..FakeDecoder::usual_shape()
    };
    let mut scheduler = scheduler(shape, Script::Hash, 2);
    scheduler.submit(request(1, "short", 100)).unwrap();
    scheduler.step();
    scheduler
        .submit(request(2, &"long ".repeat(80), 1))
        .unwrap();
    let mut texts_during_prefill = 0;
    loop {
        let outputs = scheduler.step();
        let of_first = outputs
            .iter()
            .any(|o| matches!(o, Output::Text { key: JobKey(1), .. }));
        assert!(of_first, "the running stream was passed over");
        texts_during_prefill += 1;
        if outputs
            .iter()
            .any(|o| matches!(o, Output::Text { key: JobKey(2), .. }))
        {
            break;
        }
    }
    assert!(
        texts_during_prefill >= 400 / 64,
        "{texts_during_prefill} passes"
    );
}

#[test]
fn a_prompt_is_read_beside_any_number_of_streams() {
    let shape = Shape {
        ubatch: 8,
        sequences: 16,
        ..FakeDecoder::usual_shape()
    };
    // Drafts that always stand take all the rows and logits they can get.
    for speculation in [
        None,
        Some(Speculation {
            draft_tokens_max: 8,
            ngram: 1,
        }),
    ] {
        let mut scheduler = scheduler(shape, Script::Cycle(5), 9);
        for key in 0..8 {
            let stream = Request {
                speculation,
                ..request(key, "abcdeabcde", 400)
            };
            scheduler.submit(stream).unwrap();
        }
        while scheduler
            .state()
            .slots
            .iter()
            .any(|slot| slot.generated_tokens == 0)
        {
            scheduler.step();
        }
        scheduler.submit(request(8, "a newcomer", 1)).unwrap();
        let mut passes = 0;
        while scheduler.state().slots.len() == 9 {
            scheduler.step();
            passes += 1;
            assert!(passes < 20, "{:?}", scheduler.state());
        }
        assert!(
            scheduler
                .state()
                .slots
                .iter()
                .all(|slot| slot.key != JobKey(8))
        );
    }
}

#[test]
fn cancelling_frees_the_slot_and_keeps_the_prefix() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 1);
    scheduler
        .submit(request(1, "a prompt to remember", 400))
        .unwrap();
    scheduler.submit(request(2, "waiting", 5)).unwrap();
    scheduler.step();
    scheduler.cancel(JobKey(1));
    assert!(scheduler.state().slots.is_empty());
    scheduler.cancel(JobKey(2));
    scheduler.cancel(JobKey(77));
    let answers = run(&mut scheduler);
    assert_eq!(answers[&1].failure, Some(FailureKind::Cancelled));
    assert_eq!(answers[&2].failure, Some(FailureKind::Cancelled));
    scheduler
        .submit(request(3, "a prompt to remember", 5))
        .unwrap();
    let jobs = scheduler.state().totals.jobs;
    assert_eq!(jobs, 2, "a job that has not ended is not counted");
    assert_eq!(run(&mut scheduler)[&3].cached, 19);
    assert_eq!(scheduler.state().totals.jobs, 3);
}

#[test]
fn a_cache_is_given_back_only_when_nothing_runs() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 1);
    scheduler.submit(request(1, "to be forgotten", 5)).unwrap();
    assert!(!scheduler.give_back(), "a job waits");
    let first = run(&mut scheduler);
    assert_eq!(scheduler.state().cached_prefixes, 1);
    assert!(scheduler.give_back());
    assert_eq!(scheduler.state().cached_prefixes, 0);
    scheduler.submit(request(2, "to be forgotten", 5)).unwrap();
    let again = run(&mut scheduler);
    assert_eq!(again[&2].cached, 0);
    assert_eq!(again[&2].texts, first[&1].texts);
}

#[test]
fn a_job_keeps_its_slot_and_counts_once_it_has_ended() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 2);
    for (key, max_tokens) in [(1, 2), (2, 20), (3, 5)] {
        scheduler.submit(request(key, "p", max_tokens)).unwrap();
    }
    let mut seen = BTreeMap::new();
    while scheduler.has_work() {
        for slot in scheduler.state().slots {
            assert_eq!(*seen.entry(slot.key).or_insert(slot.slot), slot.slot);
        }
        scheduler.step();
        let state = scheduler.state();
        assert_eq!(
            state.totals.jobs as usize,
            3 - state.slots.len() - state.queued
        );
    }
    // The third took the place of the first, beside the second.
    assert_eq!(Vec::from_iter(seen.into_values()), [0, 1, 0]);
}

#[test]
fn a_pass_that_serves_nobody_is_aborted() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 2);
    scheduler.submit(request(1, &"x".repeat(60), 4)).unwrap();
    scheduler.canceller().hint(JobKey(1));
    scheduler.step();
    // One row was decoded before the abort was seen; it must not be taken for known.
    assert_eq!(scheduler.state().slots[0].prompt_done, 0);
    scheduler.cancel(JobKey(1));
    let answers = run(&mut scheduler);
    assert_eq!(answers[&1].failure, Some(FailureKind::Cancelled));
    scheduler.submit(request(2, &"x".repeat(60), 4)).unwrap();
    assert_eq!(run(&mut scheduler)[&2].n_last, 1);
}

#[test]
fn recurrent_state_is_reused_whole_or_not_at_all() {
    let shape = Shape {
        can_cut: false,
        ..FakeDecoder::usual_shape()
    };
    let mut scheduler = scheduler(shape, Script::Hash, 2);
    scheduler.submit(request(1, "a conversation", 4)).unwrap();
    let first = run(&mut scheduler).remove(&1).unwrap();
    let next = format!("a conversation{} goes on", first.texts[&0]);
    scheduler.submit(request(2, &next, 4)).unwrap();
    let second = run(&mut scheduler).remove(&2).unwrap();
    assert_eq!(second.cached as usize, "a conversation".len() + 3);
    scheduler
        .submit(request(3, "a conversation of another kind", 4))
        .unwrap();
    let third = run(&mut scheduler).remove(&3).unwrap();
    assert_eq!(third.cached, 0);
    let fresh = alone(
        shape,
        &Script::Hash,
        request(3, "a conversation of another kind", 4),
    );
    assert_eq!(third.texts, fresh.texts);
}

#[test]
fn every_token_of_a_prompt_is_told_and_the_first_has_no_probability() {
    // Read in one pass, and in several.
    for ubatch in [64, 4] {
        let shape = Shape {
            ubatch,
            ..FakeDecoder::usual_shape()
        };
        let mut scheduler = scheduler(shape, Script::Hash, 1);
        let echoed = Request {
            logprobs: Some(1),
            prompt_logprobs: true,
            ..request(1, "a prompt", 1)
        };
        scheduler.submit(echoed).unwrap();
        let mut told = Vec::new();
        while scheduler.has_work() {
            for output in scheduler.step() {
                if let Output::Prompt { logprobs, .. } = output {
                    told.extend(logprobs);
                }
            }
        }
        let text: String = told.iter().map(|token| token.token.as_str()).collect();
        assert_eq!(text, "a prompt");
        let known: Vec<bool> = told.iter().map(|token| token.logprob.is_some()).collect();
        assert_eq!(known, [false, true, true, true, true, true, true, true]);
    }
}

#[test]
fn a_thought_over_its_budget_is_closed() {
    let shape = FakeDecoder::usual_shape();
    let thought = crate::ThoughtSpec {
        open: "<t>".into(),
        close: "</t>".into(),
        starts_inside: true,
        budget_tokens: Some(5),
        close_tokens: "</t>".bytes().map(TokenId::from).collect(),
    };
    let answer = alone(
        shape,
        &Script::Hash,
        Request {
            thought: Some(thought),
            ..request(1, "q", 20)
        },
    );
    assert_eq!(&answer.texts[&0][5..9], "</t>");
    assert_eq!(answer.usage.reasoning_tokens, 9);
    assert_eq!(answer.usage.completion_tokens, 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Any mix of requests, slots, cache sizes and cancellations: every request gets
    /// exactly one last output, and those that were not cancelled get the text they
    /// get alone on an empty engine.
    #[test]
    fn any_mix_ends_well(
        jobs in prop::collection::vec((0_usize..6, 1_u32..30, 1_u32..3, any::<bool>(), 0_u64..40), 1..12),
        slots in 1_usize..5,
        cells in 90_usize..300,
        speculate in any::<bool>(),
        can_cut in any::<bool>(),
    ) {
        let prompts = ["", "the common beginning", "the common beginning and more", "another", "another one entirely", "x"];
        let shape = Shape { cells, sequences: 6, context: 80, can_cut, ..FakeDecoder::usual_shape() };
        let speculation = speculate.then_some(Speculation { draft_tokens_max: 4, ngram: 1 });
        let make = |key: usize, job: &(usize, u32, u32, bool, u64)| Request {
            n: job.2, speculation, priority: Priority::ALL[key * 7 % 3],
            ..request(key as u64, &format!("p{}", prompts[job.0]), job.1)
        };
        let mut mixed = scheduler(shape, Script::Hash, slots);
        let mut answers = BTreeMap::new();
        let mut steps = 0;
        let mut next = 0;
        while next < jobs.len() || mixed.has_work() {
            if next < jobs.len() && steps % 2 == 0 {
                mixed.submit(make(next, &jobs[next])).unwrap();
                next += 1;
            }
            for (key, job) in jobs.iter().enumerate().take(next) {
                if job.3 && job.4 == steps {
                    mixed.cancel(JobKey(key as u64));
                }
            }
            for output in mixed.step() {
                note(&mut answers, output);
            }
            steps += 1;
            prop_assert!(steps < 20_000, "no end: {:?}", mixed.state());
        }
        for (key, job) in jobs.iter().enumerate() {
            let answer = &answers[&(key as u64)];
            prop_assert_eq!(answer.n_last, 1);
            if answer.failure.is_none() {
                let roomy = Shape { cells: 4096, ..shape };
                let expected = alone(roomy, &Script::Hash, Request { speculation: None, ..make(key, job) });
                prop_assert_eq!(&answer.texts, &expected.texts);
            }
        }
    }
}
