//! States that outlive their sequences, and what is told of prompts that were read again.

use super::*;

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
