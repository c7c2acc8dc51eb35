//! What a planner gives up so that a model fits, and in which order.

use std::path::Path;

use kv::Plan;
use models::Gguf;
use planner::{
    Available, Change, Compute, Ledger, Model, Open, Others, Place, Setup, answer, context_sparing,
    sparing,
};
use testkit::fat;
use testkit::tiny::{self, Family};

const ALL: Open = Open {
    sequences: true,
    compute: true,
};

fn model(folder: &Path, bytes: &[u8]) -> Model {
    let path = folder.join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Model::read(&[Gguf::open(&path).unwrap()]).unwrap()
}

fn setup() -> Setup {
    Setup {
        slots: 4,
        ..Setup::usual(65_536)
    }
}

fn needed(model: &Model, setup: &Setup) -> u64 {
    let plan = Plan::new(&model.shape, &setup.request(model)).unwrap();
    Ledger::of(model, setup, &plan, &Others::default()).host_needed()
}

fn room(host: u64) -> Available {
    Available {
        host,
        ..Available::default()
    }
}

#[test]
fn prefixes_go_first_and_as_few_as_must() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &tiny::gguf(Family::Gemma3));
    let setup = setup();
    let usual = needed(&model, &setup);
    assert_eq!(sparing(&model, &setup, room(usual), ALL), None, "it fits");
    let found = sparing(&model, &setup, room(usual - 1), ALL).unwrap();
    assert_eq!(found.compute, Compute::Own);
    let kept = found.sequences.unwrap();
    assert!((5..32).contains(&kept), "{kept}");
    let more = Setup {
        sequences: Some(kept + 1),
        ..setup.clone()
    };
    assert!(needed(&model, &found) < usual && needed(&model, &more) >= usual);
    // What somebody has set stays.
    let set = Open {
        sequences: false,
        ..ALL
    };
    let found = sparing(&model, &setup, room(usual - 1), set);
    assert!(found.is_none_or(|found| found.sequences.is_none()));
    assert_eq!(
        sparing(&model, &setup, room(1), ALL),
        None,
        "nothing is enough"
    );
}

#[test]
fn the_longest_context_counts_what_is_chosen_sparingly() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &tiny::gguf(Family::Gemma3));
    let setup = setup();
    let short = Setup {
        context: 8192,
        sequences: Some(8),
        ..setup.clone()
    };
    let bytes = needed(&model, &short);
    let found = context_sparing(&model, &setup, room(bytes), ALL).unwrap();
    assert!((8192..setup.context).contains(&found), "{found}");
    let set = Open {
        sequences: false,
        compute: false,
    };
    let without = context_sparing(&model, &setup, room(bytes), set);
    assert!(without < Some(found), "{without:?} and {found}");
    assert_eq!(context_sparing(&model, &setup, room(1), ALL), None);
}

#[test]
fn mapped_weights_take_the_place_of_packed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = fat::Sizes {
        layers: 2,
        heads: 8,
        head_width: 64,
        context: 65_536,
    };
    let model = model(folder.path(), &fat::gguf(&sizes));
    let least = Setup {
        sequences: Some(5),
        ..setup()
    };
    let ggml = Setup {
        compute: Compute::Ggml,
        ..least.clone()
    };
    let (own, mapped) = (needed(&model, &least), needed(&model, &ggml));
    // 32-bit weights are read where they lie by both.
    assert!(own.abs_diff(mapped) < 8 << 20, "{own} and {mapped}");
    let plan = Plan::new(&model.shape, &least.request(&model)).unwrap();
    let ledger = Ledger::of(&model, &least, &plan, &Others::default());
    let tables = ledger
        .terms
        .iter()
        .find(|term| term.name == "tables, mapped");
    let tables = tables.unwrap();
    assert_eq!(
        (tables.bytes.0, tables.place),
        (259 * 64 * 4, Place::Cached)
    );
}

#[test]
fn pages_that_are_locked_cannot_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &tiny::gguf(Family::Llama));
    let locked = Setup {
        is_locked: true,
        ..setup()
    };
    let ledger = |setup: &Setup| {
        let plan = Plan::new(&model.shape, &setup.request(&model)).unwrap();
        Ledger::of(&model, setup, &plan, &Others::default())
    };
    let (loose, locked) = (ledger(&setup()), ledger(&locked));
    let pages = loose.bytes_in(Place::Cached);
    assert!(pages > 0);
    assert_eq!(locked.bytes_in(Place::Cached), 0);
    assert_eq!(locked.host_needed(), loose.host_needed() + pages);
    assert_eq!(locked.resident(), loose.resident());
}

#[test]
fn where_no_single_change_is_enough_several_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &tiny::gguf(Family::Gemma3));
    let setup = setup();
    // What fits with the shortest context, the fewest sequences and ggml's kernels.
    let least = Setup {
        context: 256,
        sequences: Some(5),
        compute: Compute::Ggml,
        ..setup.clone()
    };
    let ask = |host: u64| answer(&model, &setup, room(host), &Others::default()).unwrap();
    let enough = ask(needed(&model, &least)).changes;
    let [Change::Together { context, sequences }] = enough.as_slice() else {
        panic!("{enough:?}");
    };
    let found = Setup {
        context: *context,
        sequences: Some(*sequences),
        ..least.clone()
    };
    assert!(needed(&model, &found) <= needed(&model, &least));
    let one_slot = Setup {
        slots: 1,
        sequences: Some(2),
        ..least.clone()
    };
    let short = ask(needed(&model, &one_slot) - 1).changes;
    assert!(
        matches!(short.as_slice(), [Change::SmallerModel { missing: 1.. }]),
        "{short:?}"
    );
}

#[test]
fn fewer_sequences_are_among_the_changes() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &tiny::gguf(Family::Gemma3));
    let setup = setup();
    let host = needed(&model, &setup) - 1;
    let answer = answer(&model, &setup, room(host), &Others::default()).unwrap();
    let is_fewer = |change: &Change| matches!(change, Change::Sequences(5..32));
    assert!(answer.changes.iter().any(is_fewer), "{:?}", answer.changes);
}
