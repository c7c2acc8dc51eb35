//! Answers that go on past their context. The fake decoder panics where cells of others would
//! move, and its answers change with any slip in what is held.

use super::*;

const CONTEXT: usize = 64;

fn shape() -> Shape {
    Shape {
        context: CONTEXT,
        cells: 256,
        batch: 32,
        ubatch: 32,
        ..FakeDecoder::usual_shape()
    }
}

fn endless(key: u64, prompt: &str, sinks: u32, max_tokens: u32) -> Request {
    Request {
        attention_sinks: Some(sinks),
        ..request(key, prompt, max_tokens)
    }
}

/// What comes of answers that each fill the context, with half of it gone in between; and how
/// many tokens went.
fn expected(prompt: &str, sinks: usize, max_tokens: usize) -> (String, usize) {
    let (mut held, mut said, mut gone) = (prompt.to_owned(), String::new(), 0);
    while said.len() < max_tokens {
        if held.len() >= CONTEXT {
            let n = (held.len() - sinks) / 2;
            held.replace_range(sinks..sinks + n, "");
            gone += n;
        }
        let room = (CONTEXT - held.len()).min(max_tokens - said.len());
        let ask = request(0, &held, u32::try_from(room).unwrap());
        let more = alone(shape(), &Script::Hash, ask).texts[&0].clone();
        held += &more;
        said += &more;
    }
    (said, gone)
}

fn check(answer: &Answer, prompt: &str, sinks: usize, max_tokens: usize) {
    let (text, gone) = expected(prompt, sinks, max_tokens);
    assert_eq!(answer.texts[&0], text, "{prompt:?} with {sinks}");
    assert_eq!(answer.usage.dropped_tokens as usize, gone);
    assert_eq!(answer.usage.completion_tokens as usize, max_tokens);
    assert_eq!(answer.usage.prompt_tokens as usize, prompt.len());
    assert_eq!(answer.ends[&0], FinishReason::Length);
}

#[test]
fn an_answer_goes_on_with_the_first_tokens_and_the_younger_half() {
    for prompt in ["a", "a prompt", &"a prompt that nearly fills it ".repeat(2)] {
        for sinks in [1, 4, 32] {
            let answer = alone(shape(), &Script::Hash, endless(1, prompt, sinks, 300));
            check(&answer, prompt, sinks as usize, 300);
        }
    }
    let without = alone(shape(), &Script::Hash, request(1, "a prompt", 300));
    assert_eq!(without.texts[&0].len(), CONTEXT - "a prompt".len());
    assert_eq!(without.usage.dropped_tokens, 0);
}

#[test]
fn those_that_share_a_prompt_do_not_move_each_others_cells() {
    let system = "you are a helpful assistant, ";
    let mut together = scheduler(shape(), Script::Hash, 3);
    let prompts = ["first", "second", "third"].map(|own| format!("{system}{own}"));
    for _ in 0..2 {
        for (key, prompt) in (0..).zip(&prompts) {
            // One of them ends where its context does.
            let request = match key {
                1 => request(key, prompt, 300),
                _ => endless(key, prompt, 4, 200),
            };
            together.submit(request).unwrap();
        }
        let answers = run(&mut together);
        for (key, prompt) in (0..).zip(&prompts) {
            if key == 1 {
                let fresh = alone(shape(), &Script::Hash, request(1, prompt, 300));
                assert_eq!(answers[&key].texts, fresh.texts);
            } else {
                check(&answers[&key], prompt, 4, 200);
            }
        }
    }
}

#[test]
fn it_goes_on_after_it_was_put_back_and_with_drafts() {
    let small = Shape {
        cells: 96,
        ..shape()
    };
    let mut crowded = scheduler(small, Script::Hash, 3);
    for key in 0..3 {
        let speculation = Some(Speculation {
            draft_tokens_max: 4,
            ngram: 1,
        });
        let request = Request {
            speculation,
            ..endless(key, "in a small cache", 4, 150)
        };
        crowded.submit(request).unwrap();
    }
    let answers = run(&mut crowded);
    assert!(crowded.state().totals.preemptions > 0);
    for answer in answers.values() {
        check(answer, "in a small cache", 4, 150);
    }
}

#[test]
fn what_was_dropped_is_nobodys_prefix() {
    let store = FakeStore::new(&FakeDecoder::new(shape(), Script::Hash), 0);
    let prompt = "a prompt of forty bytes, put away in part";
    let mut scheduler = scheduler(shape(), Script::Hash, 2);
    assert!(scheduler.keep_prefixes(Box::new(store)));
    scheduler.submit(endless(1, prompt, 4, 200)).unwrap();
    check(&run(&mut scheduler)[&1], prompt, 4, 200);
    assert_eq!(scheduler.state().cached_prefixes, 0);
    // The tokens that it ended with, as a prompt.
    let (text, _) = expected(prompt, 4, 200);
    let like = format!("{}{}", &prompt[..4], &text[160..]);
    scheduler.submit(request(2, &like, 10)).unwrap();
    let told = run(&mut scheduler).remove(&2).unwrap();
    let fresh = alone(shape(), &Script::Hash, request(2, &like, 10));
    assert_eq!((told.texts, told.cached), (fresh.texts, 0));
}

#[test]
fn what_cannot_go_on_is_refused_with_the_reason() {
    let uncut = Shape {
        can_cut: false,
        ..shape()
    };
    let two = Request {
        n: 2,
        ..endless(1, "a", 4, 10)
    };
    for (shape, request, reason) in [
        (uncut, endless(1, "a", 4, 10), "its state cannot be cut"),
        (shape(), two, "n is 2"),
        (shape(), endless(1, "a", 0, 10), "1 to 32"),
        (shape(), endless(1, "a", 33, 10), "1 to 32"),
    ] {
        let mut scheduler = scheduler(shape, Script::Hash, 1);
        let refusal = scheduler.submit(request).unwrap_err();
        assert_eq!(refusal.kind, FailureKind::InvalidRequest);
        assert_eq!(refusal.param.as_deref(), Some("attention_sinks"));
        assert!(refusal.message.contains(reason), "{}", refusal.message);
    }
}
