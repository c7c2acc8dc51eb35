//! The scheduler over the fake decoder, whose answers change with any slip in
//! positions, sharing or truncation.

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

fn of(priority: Priority, request: Request) -> Request {
    Request {
        priority,
        ..request
    }
}

/// Steps until a request's answer is complete; which ones were by then.
fn run_until(scheduler: &mut Scheduler, key: u64, answers: &mut BTreeMap<u64, Answer>) -> Vec<u64> {
    for _ in 0..10_000 {
        let is_done = |answer: &Answer| answer.n_last > 0;
        if answers.get(&key).is_some_and(is_done) {
            let done = answers.iter().filter(|(_, answer)| is_done(answer));
            return done.map(|(key, _)| *key).collect();
        }
        for output in scheduler.step() {
            note(answers, output);
        }
    }
    panic!("request {key} does not end: {:?}", scheduler.state());
}

#[test]
fn an_urgent_request_takes_a_slot_and_gives_it_back() {
    for can_cut in [true, false] {
        // Where the cells are few, what was parked has to make room and is computed again.
        for cells in [1024, 150] {
            let shape = Shape {
                can_cut,
                cells,
                ..FakeDecoder::usual_shape()
            };
            let mut scheduler = scheduler(shape, Script::Hash, 1);
            let mut answers = BTreeMap::new();
            let slow = || of(Priority::Low, request(1, "a long story", 80));
            scheduler.submit(slow()).unwrap();
            for _ in 0..20 {
                for output in scheduler.step() {
                    note(&mut answers, output);
                }
            }
            let urgent = || request(2, "quick, please", 60);
            scheduler.submit(urgent()).unwrap();
            scheduler
                .submit(of(Priority::Low, request(3, "another story", 40)))
                .unwrap();
            assert_eq!(run_until(&mut scheduler, 2, &mut answers), [2]);
            assert_eq!(run_until(&mut scheduler, 1, &mut answers), [1, 2]);
            run_until(&mut scheduler, 3, &mut answers);
            assert_eq!(scheduler.state().totals.parkings, 1);
            let usual = FakeDecoder::usual_shape();
            for request in [slow(), urgent()] {
                let key = request.key.0;
                let expected = alone(usual, &Script::Hash, request);
                assert_eq!(
                    answers[&key].texts, expected.texts,
                    "{can_cut} {cells} {key}"
                );
            }
            // What waited for its slot did not decode meanwhile.
            let timings = answers[&1].timings;
            assert!(timings.queue_ms > timings.decode_ms / 2.0, "{timings:?}");
        }
    }
}

#[test]
fn equals_do_not_take_each_others_slots() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 1);
    let mut answers = BTreeMap::new();
    for key in [1, 2] {
        scheduler
            .submit(request(key, "the same to all", 20))
            .unwrap();
    }
    assert_eq!(run_until(&mut scheduler, 1, &mut answers), [1]);
    assert_eq!(scheduler.state().totals.parkings, 0);
}

#[test]
fn who_was_parked_often_or_long_goes_on() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 1);
    let mut answers = BTreeMap::new();
    scheduler
        .submit(of(Priority::Low, request(0, "a long story", 400)))
        .unwrap();
    let mut key = 0;
    while answers
        .get(&0)
        .is_none_or(|answer: &Answer| answer.n_last == 0)
    {
        // Somebody more urgent is always there.
        if scheduler.state().queued == 0 {
            key += 1;
            scheduler.submit(request(key, "quick, please", 50)).unwrap();
        }
        for output in scheduler.step() {
            note(&mut answers, output);
        }
        assert!(key < 1000, "it never comes to an end");
    }
    assert_eq!(scheduler.state().totals.parkings, 4);
}

#[test]
fn what_is_not_to_be_kept_is_not_parked() {
    let mut scheduler = scheduler(FakeDecoder::usual_shape(), Script::Hash, 1);
    let mut answers = BTreeMap::new();
    let private = Request {
        cache_prompt: false,
        ..of(Priority::Low, request(1, "between the two of us", 40))
    };
    scheduler.submit(private).unwrap();
    scheduler.step();
    scheduler.submit(request(2, "quick, please", 10)).unwrap();
    assert_eq!(run_until(&mut scheduler, 1, &mut answers), [1]);
    assert_eq!(scheduler.state().totals.parkings, 0);
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

/// A scheduler that keeps prefixes in `store`.
fn keeping(shape: Shape, store: &FakeStore) -> Scheduler {
    let mut scheduler = scheduler(shape, Script::Hash, 2);
    assert!(scheduler.keep_prefixes(Box::new(store.clone())));
    scheduler
}

fn store(shape: Shape, delay: usize) -> FakeStore {
    FakeStore::new(&FakeDecoder::new(shape, Script::Hash), delay)
}

const LONG: &str = "A prompt of more than a hundred tokens, each of which is one byte, so that \
                    three whole blocks of it can be put away and some bytes are left over. ";

#[test]
fn a_prompt_outlives_its_scheduler() {
    for can_cut in [true, false] {
        let shape = Shape {
            can_cut,
            ..FakeDecoder::usual_shape()
        };
        let store = store(shape, 3);
        let expected = alone(shape, &Script::Hash, request(1, LONG, 20));
        for restored in [0, 128] {
            let mut scheduler = keeping(shape, &store);
            scheduler.submit(request(1, LONG, 20)).unwrap();
            let answer = run(&mut scheduler).remove(&1).unwrap();
            assert_eq!(answer.texts, expected.texts);
            assert_eq!(
                (answer.cached, answer.usage.restored_tokens),
                (restored, restored)
            );
            let told = answer.prefix.unwrap();
            assert_eq!(told.restored_tokens, restored);
            assert_eq!(
                told.computed_tokens as usize,
                LONG.len() - restored as usize
            );
        }
    }
}

#[test]
fn what_is_live_is_not_restored_again() {
    let shape = FakeDecoder::usual_shape();
    let store = store(shape, 0);
    let mut scheduler = keeping(shape, &store);
    for key in [1, 2] {
        scheduler.submit(request(key, LONG, 5)).unwrap();
        let answer = run(&mut scheduler).remove(&key).unwrap();
        let told = answer.prefix.unwrap();
        assert_eq!((answer.usage.restored_tokens, told.restored_tokens), (0, 0));
        if key == 2 {
            assert_eq!(told.live_tokens as usize, LONG.len() - 1);
            assert_eq!(told.cause, PrefixCause::Repeated);
        }
    }
}

#[test]
fn what_another_prompt_shares_is_gone_on_from_at_the_place_it_was_left() {
    // A state is there only at chosen places: the second prompt finds none where it leaves
    // the first, takes one there, and the third goes on from it.
    let shape = Shape {
        can_cut: false,
        ..FakeDecoder::usual_shape()
    };
    let store = store(shape, 0);
    let common = &LONG[..70];
    for (at, (own, restored, cause)) in [
        ("first ", 0, PrefixCause::New),
        ("second ", 0, PrefixCause::Window),
        ("third ", 64, PrefixCause::Branched),
    ]
    .into_iter()
    .enumerate()
    {
        let mut scheduler = keeping(shape, &store);
        // Of an earlier one this scheduler knows.
        if at > 0 {
            scheduler.history.remember(
                format!("{common}{}", "first ".repeat(12))
                    .bytes()
                    .map(TokenId::from)
                    .collect(),
                142,
            );
        }
        let prompt = format!("{common}{}", own.repeat(12));
        scheduler.submit(request(1, &prompt, 5)).unwrap();
        let answer = run(&mut scheduler).remove(&1).unwrap();
        assert_eq!(answer.usage.restored_tokens, restored, "{own}");
        assert_eq!(answer.prefix.unwrap().cause, cause, "{own}");
    }
}

/// One scheduler, asked as clients ask: what it says of each prompt is what was done to it.
#[test]
fn a_scheduler_says_why_it_reads_again() {
    use PrefixCause::{Branched, Edited, Evicted, Extended, New, OptedOut, Repeated, Rewritten};
    let shape = FakeDecoder::usual_shape();
    let mut scheduler = scheduler(shape, Script::Say(", of course. ".into()), 2);
    let rules = "Answer in one word, and never say what you were told before. ";
    let first = format!("{rules}It is 14:38 now. {LONG}");
    let answer = ", of course. ";
    let other = format!("{rules}Sing a song of six pence, a pocket full of rye");
    let filler = "y".repeat(480);
    let script = [
        (first.clone(), (New, None)),
        (first.clone(), (Repeated, None)),
        (
            format!("{first}, or so they say. And the next one? "),
            (Rewritten, Some(PrefixDetail::Replaced)),
        ),
        (
            format!("{first}{answer}And the next one? "),
            (Extended, None),
        ),
        (other, (Branched, None)),
        (
            first.replace("14:38", "15:02"),
            (Edited, Some(PrefixDetail::Counter)),
        ),
        (
            first.replace("It is 14:38 now. ", ""),
            (Edited, Some(PrefixDetail::Removed)),
        ),
        (filler.replace('y', "x"), (New, None)),
        (filler.replace('y', "z"), (New, None)),
        (first.clone(), (Evicted, None)),
    ];
    for (at, (prompt, expected)) in script.into_iter().enumerate() {
        scheduler.submit(request(at as u64, &prompt, 20)).unwrap();
        let answer = run(&mut scheduler).remove(&(at as u64)).unwrap();
        let told = answer.prefix.unwrap();
        assert_eq!((told.cause, told.detail), expected, "prompt {at}");
        let computed = told.live_tokens + told.restored_tokens + told.computed_tokens;
        assert_eq!(computed as usize, prompt.len(), "prompt {at}");
        assert!(told.lost_tokens <= told.computed_tokens, "prompt {at}");
    }
    scheduler.submit(request(90, &first, 20)).unwrap();
    let scored = Request {
        prompt_logprobs: true,
        ..request(91, &first, 20)
    };
    scheduler.submit(scored).unwrap();
    let answers = run(&mut scheduler);
    assert_eq!(answers[&90].prefix.as_ref().unwrap().cause, Repeated);
    let told = answers[&91].prefix.as_ref().unwrap();
    let why = Some(PrefixDetail::PromptLogprobs);
    assert_eq!((told.cause, told.detail), (OptedOut, why));
}

#[test]
fn two_that_come_together_are_read_twice_and_told_so() {
    let shape = FakeDecoder::usual_shape();
    let mut scheduler = scheduler(shape, Script::Hash, 2);
    for key in [1, 2] {
        scheduler.submit(request(key, LONG, 5)).unwrap();
    }
    let answers = run(&mut scheduler);
    let causes = [1, 2].map(|key| answers[&key].prefix.as_ref().unwrap().cause);
    assert_eq!(causes, [PrefixCause::New, PrefixCause::Running]);
}

#[test]
fn what_cannot_be_fetched_is_computed() {
    let shape = FakeDecoder::usual_shape();
    let store = store(shape, 0);
    let mut first = keeping(shape, &store);
    first.submit(request(1, LONG, 5)).unwrap();
    let expected = run(&mut first).remove(&1).unwrap();
    store.lose_contents();
    let mut second = keeping(shape, &store);
    second.submit(request(1, LONG, 5)).unwrap();
    let answer = run(&mut second).remove(&1).unwrap();
    assert_eq!(answer.texts, expected.texts);
    assert_eq!(answer.usage.restored_tokens, 0);
}

#[test]
fn who_waits_for_a_state_can_be_cancelled() {
    let shape = FakeDecoder::usual_shape();
    let store = store(shape, 10);
    let mut first = keeping(shape, &store);
    first.submit(request(1, LONG, 5)).unwrap();
    run(&mut first);
    let mut second = keeping(shape, &store);
    second.submit(request(1, LONG, 5)).unwrap();
    second.step();
    second.cancel(JobKey(1));
    second.submit(request(1, LONG, 5)).unwrap();
    let answers = run(&mut second);
    assert_eq!(answers[&1].usage.restored_tokens, 128);
}

#[test]
fn nobody_else_waits_for_a_state() {
    let shape = FakeDecoder::usual_shape();
    let store = store(shape, 1000);
    let mut first = keeping(shape, &store);
    first.submit(request(1, LONG, 5)).unwrap();
    run(&mut first);
    let mut second = keeping(shape, &store);
    second.submit(request(1, LONG, 5)).unwrap();
    second.submit(request(2, "short", 5)).unwrap();
    let mut answers = BTreeMap::new();
    for _ in 0..50 {
        for output in second.step() {
            note(&mut answers, output);
        }
    }
    assert_eq!(answers[&2].n_last, 1);
    assert!(!answers.contains_key(&1));
}

#[test]
fn a_request_that_is_not_to_be_kept_is_not() {
    let shape = FakeDecoder::usual_shape();
    let store = store(shape, 0);
    let mut scheduler = keeping(shape, &store);
    let request = Request {
        cache_prompt: false,
        ..request(1, LONG, 5)
    };
    scheduler.submit(request).unwrap();
    let answer = run(&mut scheduler).remove(&1).unwrap();
    assert_eq!(store.n_entries(), 0);
    assert_eq!(answer.prefix.unwrap().cause, PrefixCause::OptedOut);
}

proptest! {
    /// Whatever comes together, is preempted or cancelled: with a store that outlives the
    /// scheduler every answer is what it is alone.
    #[test]
    fn a_store_changes_no_answer(
        asks in prop::collection::vec((0..160_usize, 0..4_u8, 1..20_u32, 0..6_usize, any::<bool>()), 1..12),
        can_cut in any::<bool>(),
        cells in 300..600_usize,
        delay in 0..4_usize,
    ) {
        let shape = Shape { can_cut, cells, ..FakeDecoder::usual_shape() };
        let store = store(shape, delay);
        let prompt = |common: usize, own: u8| {
            format!("{}{}", &LONG[..common.min(LONG.len())], char::from(b'a' + own).to_string().repeat(9 + common % 40))
        };
        for half in asks.chunks(asks.len().div_ceil(2)) {
            let mut scheduler = keeping(shape, &store);
            let mut answers = BTreeMap::new();
            for (key, (common, own, max_tokens, steps, keep)) in half.iter().enumerate() {
                let priority = Priority::ALL[key * 7 % 3];
                let ask = Request { cache_prompt: *keep, priority, ..request(key as u64, &prompt(*common, *own), *max_tokens) };
                scheduler.submit(ask).unwrap();
                for _ in 0..*steps {
                    for output in scheduler.step() { note(&mut answers, output); }
                }
            }
            for (key, answer) in run(&mut scheduler) {
                let so_far = answers.entry(key).or_default();
                for (choice, text) in answer.texts { so_far.texts.entry(choice).or_default().push_str(&text); }
                so_far.n_last += answer.n_last;
            }
            for (key, (common, own, max_tokens, ..)) in half.iter().enumerate() {
                let expected = alone(shape, &Script::Hash, request(key as u64, &prompt(*common, *own), *max_tokens));
                prop_assert_eq!(&answers[&(key as u64)].texts, &expected.texts);
                prop_assert_eq!(answers[&(key as u64)].n_last, 1);
            }
        }
    }
}
