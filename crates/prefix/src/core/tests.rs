use super::*;
use crate::{BLOCK_TOKENS, chain};

const HOUR: Duration = Duration::from_secs(3600);

fn fingerprint() -> Fingerprint {
    Fingerprint::of([("model", &b"m"[..])])
}

fn keys(blocks: usize) -> Vec<Key> {
    let tokens: Vec<i32> = (0..).take(blocks * BLOCK_TOKENS).collect();
    chain(&fingerprint(), &tokens)
}

fn cache(needs: Needs, ram_bytes: u64, disk_bytes: u64, day_bytes: u64) -> Cache {
    let budgets = Budgets {
        ram_bytes,
        disk_bytes,
        day_bytes,
    };
    Cache::new(fingerprint(), needs, budgets)
}

fn plain() -> Needs {
    Needs {
        rows: true,
        ..Needs::default()
    }
}

fn stored(key: Key, plane: Plane, depth: usize) -> Event {
    Event::Stored(Stored {
        id: Id { key, plane },
        facts: Facts {
            depth: u32::try_from(depth).unwrap(),
            bytes: 100,
            cost_us: 1000,
        },
    })
}

fn rows(key: Key) -> Id {
    Id {
        key,
        plane: Plane::Rows,
    }
}

/// Stores the rows of all blocks, and writes what is to be written.
fn fill(cache: &mut Cache, keys: &[Key], now: Duration) -> Vec<Action> {
    let mut all = Vec::new();
    for (depth, key) in keys.iter().enumerate() {
        for action in cache.step(stored(*key, Plane::Rows, depth), now) {
            all.push(action);
            if let Action::Write(id) = action {
                all.extend(cache.step(Event::Written(id), now));
            }
        }
    }
    all
}

#[test]
fn the_longest_prefix_has_no_gap() {
    let keys = keys(5);
    let mut cache = cache(plain(), 10_000, 0, 0);
    assert_eq!(cache.longest(&keys), 0);
    for at in [0, 1, 3] {
        let _ = cache.step(stored(keys[at], Plane::Rows, at), HOUR);
    }
    assert_eq!(cache.longest(&keys), 2);
}

#[test]
fn windows_and_states_are_needed_where_one_goes_on() {
    let keys = keys(6);
    let needs = Needs {
        rows: true,
        window_blocks: 2,
        state: true,
    };
    let mut cache = cache(needs, 10_000, 0, 0);
    for (at, key) in keys.iter().enumerate() {
        let _ = cache.step(stored(*key, Plane::Rows, at), HOUR);
    }
    assert_eq!(cache.longest(&keys), 0);
    for (at, plane) in [
        (1, Plane::Window),
        (2, Plane::Window),
        (2, Plane::State),
        // A window without a state, and a state without a window.
        (3, Plane::Window),
        (5, Plane::State),
    ] {
        let _ = cache.step(stored(keys[at], plane, at), HOUR);
    }
    assert_eq!(cache.longest(&keys), 3);
}

#[test]
fn without_memory_contents_stay_until_they_are_on_disk() {
    let keys = keys(1);
    let mut cache = cache(plain(), 0, 1000, 1000);
    let id = rows(keys[0]);
    assert_eq!(
        cache.step(stored(keys[0], Plane::Rows, 0), HOUR),
        [Action::Write(id)]
    );
    assert_eq!((cache.ram_bytes(), cache.longest(&keys)), (100, 1));
    assert_eq!(cache.step(Event::Written(id), HOUR), [Action::Forget(id)]);
    assert_eq!((cache.ram_bytes(), cache.disk_bytes()), (0, 100));
    assert_eq!(cache.longest(&keys), 1);
    assert!(cache.step(Event::Lost(id), HOUR).is_empty());
    assert_eq!((cache.longest(&keys), cache.n_entries()), (0, 0));
}

#[test]
fn a_failed_write_leaves_what_memory_has_room_for() {
    for (ram_bytes, kept) in [(0, 0), (100, 1)] {
        let keys = keys(1);
        let mut cache = cache(plain(), ram_bytes, 1000, 1000);
        let _ = cache.step(stored(keys[0], Plane::Rows, 0), HOUR);
        let _ = cache.step(Event::NotWritten(rows(keys[0])), HOUR);
        assert_eq!(cache.longest(&keys), kept);
    }
}

#[test]
fn the_end_of_what_is_used_least_goes_first() {
    let shared = keys(4);
    let other = chain(&fingerprint(), &[7; 4 * BLOCK_TOKENS]);
    let mut cache = cache(plain(), 800, 0, 0);
    fill(&mut cache, &shared, HOUR);
    fill(&mut cache, &other, HOUR);
    for key in &shared {
        let _ = cache.step(Event::Used(rows(*key)), 2 * HOUR);
    }
    let more = chain(&fingerprint(), &[9; BLOCK_TOKENS]);
    let gone = cache.step(stored(more[0], Plane::Rows, 0), 2 * HOUR);
    // 900 bytes, and room is made down to 775.
    assert_eq!(
        gone,
        [
            Action::Forget(rows(other[3])),
            Action::Forget(rows(other[2]))
        ]
    );
    assert_eq!((cache.longest(&shared), cache.longest(&other)), (4, 2));
}

#[test]
fn what_saves_more_seconds_a_byte_stays_longer() {
    let dear = keys(1)[0];
    let cheap = chain(&fingerprint(), &[7; BLOCK_TOKENS])[0];
    let mut cache = cache(plain(), 250, 0, 0);
    for (key, cost_us) in [(dear, 9000), (cheap, 1000)] {
        let id = rows(key);
        let facts = Facts {
            depth: 0,
            bytes: 100,
            cost_us,
        };
        let _ = cache.step(Event::Stored(Stored { id, facts }), HOUR);
    }
    let new = chain(&fingerprint(), &[9; BLOCK_TOKENS])[0];
    let gone = cache.step(stored(new, Plane::Rows, 0), 2 * HOUR);
    assert_eq!(gone, [Action::Forget(rows(cheap))]);
}

#[test]
fn a_day_has_only_so_many_bytes_to_write() {
    let keys = keys(4);
    let mut cache = cache(plain(), 1000, 1000, 250);
    let writes = |actions: &[Action]| {
        let is_write = |action: &&Action| matches!(action, Action::Write(_));
        actions.iter().filter(is_write).count()
    };
    let actions = fill(&mut cache, &keys[..3], HOUR);
    assert_eq!((writes(&actions), cache.refused_bytes()), (2, 100));
    // What was not written is still in memory.
    assert_eq!(cache.longest(&keys), 3);
    // Half a day later half of a day's bytes may be written again.
    let actions = cache.step(stored(keys[3], Plane::Rows, 3), 13 * HOUR);
    assert_eq!(writes(&actions), 1);
    // What other processes have written counts, too.
    let listed = Event::Listed {
        entries: Vec::new(),
        written_bytes: 250,
    };
    let _ = cache.step(listed, 13 * HOUR);
    let more = chain(&fingerprint(), &[9; BLOCK_TOKENS])[0];
    assert_eq!(
        writes(&cache.step(stored(more, Plane::Rows, 0), 13 * HOUR)),
        0
    );
}

#[test]
fn a_listing_replaces_what_was_known_of_the_disk_and_others_go_by_worth() {
    let keys = keys(2);
    let mut cache = cache(plain(), 0, 250, 1000);
    fill(&mut cache, &keys, 100 * HOUR);
    let stranger = Fingerprint::of([("model", &b"n"[..])]);
    let listed = |fingerprint, id, age| Listed {
        fingerprint,
        id,
        facts: Facts {
            depth: 0,
            bytes: 100,
            cost_us: 1000,
        },
        age,
    };
    let entries = vec![
        listed(fingerprint(), rows(keys[0]), HOUR),
        listed(stranger, rows(keys[1]), 2 * HOUR),
        listed(stranger, rows(keys[0]), 50 * HOUR),
    ];
    let event = Event::Listed {
        entries,
        written_bytes: 0,
    };
    let actions = cache.step(event, 100 * HOUR);
    let [Action::Delete(of, id, _)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((of, id), (stranger, rows(keys[0])));
    assert_eq!((cache.longest(&keys), cache.disk_bytes()), (1, 200));
}

#[test]
fn pressure_takes_what_is_in_memory() {
    let keys = keys(3);
    let mut cache = cache(plain(), 1000, 100, 1000);
    fill(&mut cache, &keys, HOUR);
    let gone = cache.step(Event::Pressure, HOUR);
    let forgotten = gone
        .iter()
        .filter(|action| matches!(action, Action::Forget(_)))
        .count();
    assert_eq!((forgotten, cache.ram_bytes()), (3, 0));
    assert_eq!(cache.longest(&keys), 0);
}
