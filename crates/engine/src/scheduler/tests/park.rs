//! Slots that go to who is more urgent.

use super::*;

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
