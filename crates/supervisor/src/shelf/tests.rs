mod gpu;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proto::ModelFacts;

use super::*;
use crate::{MemoryCost, ModelTraits, Residence};

const GIB: u64 = 1 << 30;
const SWAP_WAIT_MS: u64 = 10_000;

fn limits(memory_max: u64) -> Limits {
    Limits {
        memory_max,
        device_memory_max: u64::MAX,
        swap_wait_max_ms: SWAP_WAIT_MS,
        keep_alive_ms: None,
        waiting_max: 1_000,
        wait_max_ms: 10_000_000,
        cooldown_first_ms: 10_000,
        cooldown_max_ms: 60_000,
    }
}

fn listing(name: &str, bytes: u64) -> Listing {
    Listing {
        spec: LoadSpec {
            name: name.into(),
            ..LoadSpec::default()
        },
        cost: MemoryCost {
            weights_bytes: bytes,
            ..MemoryCost::default()
        },
        traits: ModelTraits::default(),
        pin: false,
        keep_alive: None,
        helps: None,
        fault: None,
    }
}

/// What a test is about: models of so many GiB.
fn shelf(memory_gib: u64, models: &[(&str, u64)]) -> Desk {
    let listings = models
        .iter()
        .map(|(name, gib)| listing(name, gib * GIB))
        .collect();
    Desk::new(limits(memory_gib * GIB), listings)
}

/// A shelf with a clock, and its actions as lines.
struct Desk {
    shelf: Shelf,
    now: u64,
    last_id: u64,
}

impl Desk {
    fn new(limits: Limits, listings: Vec<Listing>) -> Self {
        let mut desk = Self {
            shelf: Shelf::new(limits),
            now: 1_000,
            last_id: 0,
        };
        desk.step(Event::Shelve(listings));
        desk
    }

    fn step(&mut self, event: Event) -> Vec<String> {
        let actions = step(&mut self.shelf, event, self.now);
        actions.iter().map(line).collect()
    }

    fn pass(&mut self, ms: u64) -> Vec<String> {
        self.now += ms;
        self.step(Event::Tick)
    }

    fn arrive(&mut self, model: &str) -> Vec<String> {
        self.last_id += 1;
        self.step(Event::Arrive {
            id: JobId(self.last_id),
            model: model.into(),
            job: job(),
        })
    }

    fn end(&mut self, id: u64) -> Vec<String> {
        self.step(Event::Ended { id: JobId(id) })
    }

    fn ready(&mut self, model: &str) -> Vec<String> {
        self.phase(model, Some(ModelPhase::Ready(facts(0).into())))
    }

    fn gone(&mut self, model: &str) -> Vec<String> {
        self.phase(model, None)
    }

    fn phase(&mut self, model: &str, phase: Option<ModelPhase>) -> Vec<String> {
        let model = model.into();
        self.step(Event::Phase { model, phase })
    }

    fn fail(&mut self, model: &str, kind: LoadFailureKind) -> Vec<String> {
        let message = "no luck".into();
        let failure = LoadFailure { kind, message };
        self.phase(model, Some(ModelPhase::Failed(failure)))
    }

    fn load(&mut self, name: &str, gib: u64, force: bool) -> Vec<String> {
        self.last_id += 1;
        let Listing { spec, cost, .. } = listing(name, gib * GIB);
        self.step(Event::Load {
            request: RequestId(self.last_id),
            order: Box::new(Order {
                spec,
                cost,
                pin: None,
                force,
            }),
        })
    }

    /// Loads by a job that ends.
    fn use_once(&mut self, model: &str) {
        self.arrive(model);
        self.ready(model);
        self.end(self.last_id);
        assert_eq!(self.place(model).residence, Residence::In);
    }

    fn place(&self, model: &str) -> Place {
        self.shelf.place(model, self.now).unwrap().0
    }
}

fn job() -> Job {
    Job::Detokenize { tokens: vec![] }
}

fn facts(weights_bytes: u64) -> ModelFacts {
    ModelFacts {
        weights_bytes,
        ..ModelFacts::default()
    }
}

fn line(action: &Action) -> String {
    match action {
        Action::Load { request, spec } => format!("load {} for r{}", spec.name, request.0),
        Action::Unload { model, .. } => format!("unload {model}"),
        Action::Submit { id, model, .. } => format!("submit j{} to {model}", id.0),
        Action::Cancel { id } => format!("cancel j{}", id.0),
        Action::Refuse { id, failure } => format!("refuse j{}: {}", id.0, failure.message),
        Action::AnswerLoad { request, failure } => {
            format!("no load for r{}: {}", request.0, failure.message)
        }
        Action::AnswerUnload { request } => format!("unloaded for r{}", request.0),
        Action::GiveBack { model } => format!("give back {model}"),
        Action::TellShed { model, bytes } => format!("shed {model}: {}", bytes / GIB),
        Action::Measure { model } => format!("measure {model}"),
        Action::Compare { model, .. } => format!("compare {model}"),
    }
}

#[test]
fn a_job_loads_its_model_and_later_ones_find_it() {
    let mut desk = shelf(8, &[("a", 5)]);
    assert_eq!(desk.arrive("a"), ["load a for r0", "submit j1 to a"]);
    assert_eq!(desk.arrive("a"), ["submit j2 to a"]);
    assert_eq!(desk.ready("a"), ["measure a"]);
    assert_eq!(desk.arrive("a"), ["submit j3 to a"]);
    assert_eq!(desk.place("a").running, 3);
    // Whoever has the books says what is not on the shelf.
    assert_eq!(desk.arrive("b"), ["submit j4 to b"]);
}

#[test]
fn an_idle_model_goes_at_once_and_its_bytes_when_its_process_is_gone() {
    let mut desk = shelf(8, &[("a", 5), ("b", 5)]);
    desk.use_once("a");
    assert_eq!(desk.arrive("b"), ["unload a"]);
    assert_eq!(desk.arrive("b"), [""; 0]);
    assert_eq!(
        desk.gone("a"),
        ["load b for r0", "submit j2 to b", "submit j3 to b"]
    );
}

#[test]
fn a_busy_model_is_closed_after_the_wait_and_its_new_requests_wait_in_turn() {
    let mut desk = shelf(8, &[("a", 5), ("b", 5)]);
    desk.arrive("a");
    desk.ready("a");
    assert!(desk.arrive("b").is_empty());
    assert_eq!(
        desk.shelf.next_deadline(desk.now),
        Some(desk.now + SWAP_WAIT_MS)
    );
    // Until then all for `a` is answered in one go.
    assert_eq!(desk.arrive("a"), ["submit j3 to a"]);
    assert!(desk.end(1).is_empty());
    assert!(desk.pass(SWAP_WAIT_MS).is_empty());
    assert_eq!(desk.place("a").closed_for.as_deref(), Some("b"));
    assert!(desk.arrive("a").is_empty(), "closed");
    assert_eq!(desk.end(3), ["unload a"]);
    assert_eq!(desk.gone("a"), ["load b for r0", "submit j2 to b"]);
    assert_eq!(desk.place("a").waiting, 1);
    desk.ready("b");
    assert_eq!(desk.end(2), ["unload b"]);
    assert_eq!(desk.gone("b"), ["load a for r0", "submit j4 to a"]);
}

#[test]
fn a_closed_model_opens_when_nobody_waits_for_its_memory_any_more() {
    let mut desk = shelf(8, &[("a", 5), ("b", 5)]);
    desk.arrive("a");
    desk.ready("a");
    desk.arrive("b");
    desk.pass(SWAP_WAIT_MS);
    assert!(desk.arrive("a").is_empty());
    let actions = desk.step(Event::Cancel { id: JobId(2) });
    assert_eq!(actions, ["refuse j2: the caller is gone", "submit j3 to a"]);
}

#[test]
fn a_model_whose_clients_come_back_at_once_is_left_alone_for_a_moment() {
    let mut desk = shelf(8, &[("a", 5), ("b", 5)]);
    desk.arrive("a");
    desk.now += 2_000;
    desk.ready("a");
    desk.end(1);
    // Its client took 100 ms to come back, far less than a load takes.
    desk.now += 100;
    desk.arrive("a");
    desk.arrive("b");
    assert!(desk.end(2).is_empty(), "it may be back in a moment");
    assert_eq!(desk.shelf.next_deadline(desk.now), Some(desk.now + 200));
    desk.now += 100;
    assert_eq!(desk.arrive("a"), ["submit j4 to a"]);
    assert!(desk.end(4).is_empty());
    assert_eq!(desk.pass(200), ["unload a"]);
}

#[test]
fn the_set_that_costs_least_goes() {
    let mut desk = shelf(10, &[("often", 4), ("seldom", 4), ("small", 2), ("big", 5)]);
    for model in ["often", "seldom", "small"] {
        desk.use_once(model);
    }
    for _ in 0..5 {
        desk.arrive("often");
        desk.end(desk.last_id);
    }
    // Five bytes: `seldom` and `small` are cheaper than `often` with either.
    let mut gone = desk.arrive("big");
    gone.sort();
    assert_eq!(gone, ["unload seldom", "unload small"]);
}

#[test]
fn many_models_are_chosen_from_too() {
    let names: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
    let mut models: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    models.push(("big", 3));
    let mut desk = shelf(20, &models);
    for name in &names {
        desk.now += 60_000;
        desk.use_once(name);
    }
    let mut gone = desk.arrive("big");
    gone.sort();
    assert_eq!(gone, ["unload m0", "unload m1", "unload m2"]);
}

#[test]
fn what_cannot_fit_is_refused_with_the_figures() {
    let mut desk = shelf(8, &[("a", 5), ("b", 5), ("c", 9)]);
    assert_eq!(
        desk.arrive("c"),
        [
            "refuse j1: model `c` takes about 9.00 GiB, and models may take 8.00 GiB; take a \
          smaller quantisation, raise `model_memory_max`, or load it all the same with \
          `--force`"
        ]
    );
    desk.use_once("a");
    let (model, pin) = ("a".to_owned(), true);
    desk.step(Event::Pin { model, pin });
    assert_eq!(
        desk.arrive("b"),
        [
            "refuse j3: model `b` takes about 5.00 GiB, and models may take 8.00 GiB, of which \
          5.00 GiB are kept by `a` (pinned, 5.00 GiB); unload one of them, raise \
          `model_memory_max`, or load it all the same with `--force`"
        ]
    );
    let refused = desk.load("b", 5, false);
    assert!(
        refused[0].starts_with("no load for r4: model `b` takes"),
        "{refused:?}"
    );
    assert_eq!(desk.load("b", 5, true), ["load b for r5"]);
}

#[test]
fn a_context_that_would_fit_is_named() {
    let cost = MemoryCost {
        weights_bytes: 4 * GIB,
        kv_bytes: 4 * GIB,
        other_bytes: GIB,
        context: 32_768,
        ..MemoryCost::default()
    };
    assert_eq!(cost.context_that_fits(7 * GIB), Some(16_384));
    assert_eq!(cost.context_that_fits(9 * GIB), None, "it fits as it is");
    assert_eq!(
        cost.context_that_fits(5 * GIB),
        None,
        "no room for a context"
    );
    assert_eq!(cost.context_that_fits(GIB), None);
    let mut listing = listing("a", 0);
    listing.cost = cost;
    for (context_max, told) in [(None, 16_384), (Some(20_480), 20_480)] {
        let mut listing = listing.clone();
        listing.cost.context_max = context_max;
        let mut desk = Desk::new(limits(7 * GIB), vec![listing]);
        let refused = desk.arrive("a");
        let told = format!("a context of {told} tokens or less");
        assert!(refused[0].contains(&told), "{refused:?}");
    }
}

#[test]
fn a_helper_never_takes_the_place_of_what_it_helps() {
    let mut helper = listing("helper", 4 * GIB);
    helper.helps = Some("main".into());
    let models = vec![helper, listing("main", 6 * GIB), listing("other", 3 * GIB)];
    let mut desk = Desk::new(limits(8 * GIB), models);
    desk.use_once("main");
    assert_eq!(
        desk.arrive("helper"),
        [
            "refuse j2: model `helper` takes about 4.00 GiB, and models may take 8.00 GiB, of \
          which 6.00 GiB are kept by `main` (which it helps, 6.00 GiB); unload one of them, raise \
          `model_memory_max`, or load it all the same with `--force`"
        ]
    );
    // The other way round it gives way, and only where nobody else can.
    desk.arrive("other");
    assert_eq!(
        desk.gone("main"),
        ["load other for r0", "submit j3 to other"]
    );
    desk.ready("other");
    desk.end(3);
    desk.use_once("helper");
    let mut gone = desk.arrive("main");
    gone.sort();
    assert_eq!(gone, ["unload helper", "unload other"]);
}

#[test]
fn an_idle_model_goes_when_its_time_is_over() {
    let mut desk = shelf(8, &[("a", 5)]);
    desk.use_once("a");
    let keep = |keep| Event::Keep {
        model: "a".into(),
        keep,
    };
    assert_eq!(desk.place("a").expires_in_ms, None);
    // The wish of a request that is over waits for those that are not.
    desk.arrive("a");
    assert!(desk.step(keep(Keep::For(Duration::ZERO))).is_empty());
    assert_eq!(desk.end(2), ["unload a"]);
    desk.gone("a");
    // Of a model that is not here there is nothing to keep.
    desk.step(keep(Keep::For(Duration::from_secs(5))));
    desk.use_once("a");
    assert_eq!(desk.place("a").expires_in_ms, None);
    desk.step(keep(Keep::For(Duration::from_secs(5))));
    assert_eq!(desk.place("a").expires_in_ms, Some(5_000));
    assert_eq!(desk.shelf.next_deadline(desk.now), Some(desk.now + 5_000));
    desk.now += 4_000;
    desk.arrive("a");
    assert!(desk.pass(5_000).is_empty(), "it is busy");
    desk.end(4);
    assert!(desk.pass(4_999).is_empty());
    assert_eq!(desk.pass(1), ["unload a"]);
    // What a request wished is forgotten with the model.
    desk.gone("a");
    desk.use_once("a");
    assert!(desk.pass(1_000_000).is_empty());
    assert_eq!(desk.step(keep(Keep::For(Duration::ZERO))), ["unload a"]);
}

#[test]
fn pinned_models_stay_and_kept_ones_go_last() {
    let mut limits = limits(8 * GIB);
    limits.keep_alive_ms = Some(1_000);
    let models = vec![
        listing("kept", 3 * GIB),
        listing("b", 4 * GIB),
        listing("c", 4 * GIB),
    ];
    let mut desk = Desk::new(limits, models);
    desk.use_once("kept");
    desk.step(Event::Keep {
        model: "kept".into(),
        keep: Keep::Forever,
    });
    desk.use_once("b");
    assert_eq!(desk.arrive("c"), ["unload b"]);
    assert_eq!(desk.pass(1_000_000), [""; 0], "kept stays");
    let (model, pin) = ("kept".to_owned(), true);
    desk.step(Event::Pin { model, pin });
    assert_eq!(desk.place("kept").expires_in_ms, None);
}

#[test]
fn a_broken_model_is_listed_with_its_fault_and_the_others_are_served() {
    let fault = LoadFailure {
        kind: LoadFailureKind::Artifact,
        message: "it ends early".into(),
    };
    let broken = Listing {
        fault: Some(fault.clone()),
        ..listing("broken", GIB)
    };
    let mut desk = Desk::new(limits(8 * GIB), vec![broken, listing("a", GIB)]);
    let refused = "refuse j1: model `broken` cannot be loaded: it ends early";
    assert_eq!(desk.arrive("broken"), [refused]);
    desk.pass(1_000_000);
    let (place, told) = desk.shelf.place("broken", desk.now).unwrap();
    assert_eq!((place.retry_in_ms, told), (None, Some(fault)));
    desk.use_once("a");
    // Mended, it is one like the others.
    desk.step(Event::Shelve(vec![
        listing("broken", GIB),
        listing("a", GIB),
    ]));
    desk.use_once("broken");
}

#[test]
fn a_model_that_is_about_to_be_loaded_is_waited_for() {
    let mut desk = shelf(8, &[]);
    let Listing { spec, cost, .. } = listing("a", GIB);
    let spec = Box::new(spec);
    desk.step(Event::Expect { spec, cost });
    assert_eq!(desk.arrive("a"), ["load a for r0", "submit j1 to a"]);
    // Whoever wanted it finds it on its way.
    assert_eq!(desk.load("a", 1, false), ["load a for r2"]);
}

#[test]
fn a_model_that_cannot_be_loaded_is_left_alone_for_a_while() {
    let mut desk = shelf(8, &[("a", 5)]);
    desk.arrive("a");
    assert!(desk.fail("a", LoadFailureKind::Artifact).is_empty());
    desk.end(1);
    desk.now += 4_000;
    assert_eq!(
        desk.arrive("a"),
        [
            "refuse j2: model `a` could not be loaded: no luck; it is tried again in 6 s at the \
          earliest"
        ]
    );
    desk.now += 6_000;
    assert_eq!(desk.arrive("a"), ["load a for r0", "submit j3 to a"]);
    desk.fail("a", LoadFailureKind::Artifact);
    assert_eq!(desk.place("a").retry_in_ms, Some(20_000));
    // Whoever asks by name wants it tried now.
    assert_eq!(desk.load("a", 5, false), ["load a for r4"]);
}

#[test]
fn the_ledger_learns_from_loads_that_ran_out_of_memory() {
    let mut desk = shelf(8, &[("a", 3), ("b", 4)]);
    desk.use_once("a");
    assert_eq!(desk.arrive("b"), ["load b for r0", "submit j2 to b"]);
    desk.fail("b", LoadFailureKind::Resources);
    assert_eq!(desk.place("b").bytes, 5 * GIB + 1);
    desk.now += 10_000;
    assert_eq!(desk.arrive("b"), ["unload a"]);
}

#[test]
fn measured_bytes_take_the_place_of_estimates() {
    let mut desk = shelf(8, &[("a", 5), ("b", 3)]);
    desk.use_once("b");
    desk.arrive("a");
    let ready = ModelPhase::Ready(facts(4 * GIB).into());
    desk.phase("a", Some(ready));
    assert_eq!(desk.place("a").bytes, 4 * GIB);
    // More than there may be: the idle one goes.
    let (model, bytes) = ("a".to_owned(), 6 * GIB);
    assert_eq!(desk.step(Event::Measured { model, bytes }), ["unload b"]);
    let place = desk.place("a");
    assert_eq!((place.bytes, place.is_measured), (6 * GIB, true));
    // It stands over reloads.
    desk.end(2);
    desk.gone("b");
    desk.step(Event::Unload {
        request: RequestId(9),
        model: "a".into(),
    });
    desk.gone("a");
    assert_eq!(desk.place("a").bytes, 6 * GIB);
}

#[test]
fn a_measurement_counts_by_how_far_it_is_off_its_plan() {
    let planned = |name: &str| Listing {
        cost: MemoryCost {
            // Of 3 GiB that show after loading, 1 may be taken back, and 2 come later.
            resident_bytes: 3 * GIB,
            weights_bytes: 4 * GIB,
            ..MemoryCost::default()
        },
        ..listing(name, 0)
    };
    let mut desk = Desk::new(limits(8 * GIB), vec![planned("a")]);
    desk.use_once("a");
    // Less may be pages that were taken back already.
    for (shown, counted) in [(3 * GIB, 4 * GIB), (4 * GIB, 5 * GIB), (2 * GIB, 4 * GIB)] {
        let (model, bytes) = ("a".to_owned(), shown);
        desk.step(Event::Measured { model, bytes });
        assert_eq!(desk.place("a").bytes, counted);
    }
}

#[test]
fn a_guest_is_loaded_again_until_it_is_unloaded_by_name() {
    let mut desk = shelf(8, &[("a", 5)]);
    assert_eq!(desk.load("guest", 5, false), ["load guest for r1"]);
    desk.ready("guest");
    assert_eq!(desk.arrive("a"), ["unload guest"]);
    desk.gone("guest");
    desk.ready("a");
    desk.end(2);
    assert_eq!(desk.arrive("guest"), ["unload a"]);
    assert_eq!(desk.gone("a"), ["load guest for r0", "submit j3 to guest"]);
    desk.ready("guest");
    let unload = |model: &str| Event::Unload {
        request: RequestId(9),
        model: model.into(),
    };
    assert_eq!(desk.step(unload("guest")), ["unload guest"]);
    assert_eq!(
        desk.arrive("guest"),
        ["submit j4 to guest"],
        "which refuses it"
    );
    desk.gone("guest");
    assert!(desk.shelf.place("guest", desk.now).is_none());
    // What is listed stays on the shelf, in memory or not.
    assert_eq!(desk.step(unload("a")), ["unload a", "unloaded for r9"]);
    assert_eq!(desk.arrive("a"), ["load a for r0", "submit j5 to a"]);
}

#[test]
fn another_list_leaves_alone_what_is_in_memory() {
    let mut desk = shelf(8, &[("a", 3), ("b", 3)]);
    desk.use_once("a");
    desk.step(Event::Shelve(vec![listing("c", GIB)]));
    assert_eq!(desk.shelf.names().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(desk.arrive("a"), ["submit j2 to a"]);
}

#[test]
fn idle_models_give_back_first_and_go_next_but_neither_busy_nor_pinned_ones() {
    let models = [("pinned", 1), ("busy", 1), ("small", 1), ("large", 4)];
    let mut desk = shelf(8, &models);
    for (model, _) in models {
        desk.use_once(model);
    }
    let (model, pin) = ("pinned".to_owned(), true);
    desk.step(Event::Pin { model, pin });
    desk.arrive("busy");
    assert_eq!(
        desk.step(Event::Shrink),
        ["give back pinned", "give back small", "give back large"]
    );
    assert!(desk.shelf.is_capped());
    // One gibibyte is enough: the small one is the cheaper of the two.
    assert_eq!(
        desk.step(Event::Shed { bytes: 1 }),
        ["shed small: 1", "unload small"]
    );
    assert!(desk.place("small").was_shed);
    desk.gone("small");
    assert_eq!(
        desk.step(Event::Shed { bytes: 100 * GIB }),
        ["shed large: 4", "unload large"]
    );
    desk.gone("large");
    assert_eq!(desk.step(Event::Shed { bytes: GIB }), [""; 0]);
    assert_eq!(desk.place("busy").residence, Residence::In);
    assert_eq!(desk.place("pinned").residence, Residence::In);
}

#[test]
fn what_was_unloaded_for_want_of_memory_comes_back_when_there_is_some() {
    let mut desk = shelf(8, &[("a", 2), ("b", 2)]);
    desk.use_once("a");
    desk.use_once("b");
    desk.step(Event::Shrink);
    assert_eq!(desk.shelf.memory(), (4 * GIB, 4 * GIB));
    desk.step(Event::Shed { bytes: 4 * GIB });
    desk.gone("a");
    desk.gone("b");
    let refused = desk.arrive("a");
    assert!(refused[0].contains("memory is short"), "{refused:?}");
    desk.step(Event::Room { bytes: 3 * GIB });
    assert_eq!(desk.arrive("a"), ["load a for r0", "submit j4 to a"]);
    assert!(!desk.place("a").was_shed);
    desk.ready("a");
    desk.step(Event::Room { bytes: 50 * GIB });
    assert!(!desk.shelf.is_capped());
    assert_eq!(desk.shelf.memory().1, 8 * GIB);
}

#[test]
fn the_end_of_the_endpoint_ends_all_waits() {
    let mut desk = shelf(8, &[("a", 5), ("b", 5)]);
    desk.arrive("a");
    desk.arrive("b");
    assert_eq!(
        desk.step(Event::Close),
        ["refuse j2: the endpoint is shutting down"]
    );
    assert_eq!(desk.shelf.next_deadline(desk.now), None);
    assert_eq!(desk.arrive("b"), ["submit j3 to b"]);
}

#[test]
fn waiting_has_limits() {
    let mut limits = limits(8 * GIB);
    (limits.waiting_max, limits.wait_max_ms) = (1, 5_000);
    let mut desk = Desk::new(limits, vec![listing("a", 5 * GIB), listing("b", 5 * GIB)]);
    desk.arrive("a");
    desk.arrive("b");
    assert_eq!(
        desk.arrive("b"),
        ["refuse j3: 1 requests, the limit, already wait for model `b`"]
    );
    assert_eq!(
        desk.pass(5_000),
        ["refuse j2: waited 5000 ms for model `b` to be loaded, the limit"]
    );
}

/// A machine on which time passes: processes that load and go, jobs that run.
struct World {
    shelf: Shelf,
    now: u64,
    /// What is due, in order of time.
    due: BTreeMap<(u64, u64), Due>,
    n_due: u64,
    load_ms: u64,
    job_ms: u64,
    costs: BTreeMap<String, MemoryCost>,
    /// What each process was loaded with.
    sizes: BTreeMap<String, Space>,
    helps: BTreeMap<String, String>,
    pinned: BTreeSet<String>,
    processes: BTreeMap<String, Process>,
    /// When each job came, and for which model.
    arrived: BTreeMap<JobId, (u64, String)>,
    waits_ms: Vec<u64>,
    last_events: BTreeMap<JobId, u32>,
    waiting: BTreeMap<JobId, String>,
    n_loads: u32,
    limits: Limits,
}

#[derive(Debug, Clone, PartialEq)]
enum Process {
    Loading(Vec<JobId>),
    Ready(BTreeSet<JobId>),
    Leaving,
}

#[derive(Debug, Clone)]
enum Due {
    Arrive(JobId, String),
    /// `false`: it fails.
    Loaded(String, bool),
    JobOver(JobId, String),
    Gone(String),
    Cancel(JobId),
    Pin(String, bool),
}

const UNLOAD_MS: u64 = 300;

impl World {
    fn new(memory_max: u64, listings: Vec<Listing>, times: (u64, u64)) -> Self {
        Self::with(limits(memory_max), listings, times)
    }

    fn with(limits: Limits, listings: Vec<Listing>, (load_ms, job_ms): (u64, u64)) -> Self {
        let named = |listing: &Listing| listing.spec.name.clone();
        let mut world = Self {
            shelf: Shelf::new(limits.clone()),
            now: 0,
            due: BTreeMap::new(),
            n_due: 0,
            load_ms,
            job_ms,
            costs: listings
                .iter()
                .map(|one| (named(one), one.cost.clone()))
                .collect(),
            sizes: BTreeMap::new(),
            helps: listings
                .iter()
                .filter_map(|one| Some((named(one), one.helps.clone()?)))
                .collect(),
            pinned: listings.iter().filter(|one| one.pin).map(named).collect(),
            processes: BTreeMap::new(),
            arrived: BTreeMap::new(),
            waits_ms: Vec::new(),
            last_events: BTreeMap::new(),
            waiting: BTreeMap::new(),
            n_loads: 0,
            limits,
        };
        world.tell(Event::Shelve(listings));
        world
    }

    fn at(&mut self, time: u64, due: Due) {
        self.n_due += 1;
        self.due.insert((time, self.n_due), due);
    }

    /// Lets everything happen that is due, to the end.
    fn run(&mut self) {
        let mut n_steps = 0;
        loop {
            n_steps += 1;
            assert!(n_steps < 100_000, "it goes round in circles");
            let next = self.due.keys().next().copied();
            let tick = self.shelf.next_deadline(self.now);
            match (next, tick) {
                (None, None) => return,
                (next, Some(tick)) if next.is_none_or(|(time, _)| tick < time) => {
                    assert!(tick >= self.now);
                    self.now = tick;
                    self.tell(Event::Tick);
                }
                (Some(key), _) => {
                    let due = self.due.remove(&key).unwrap();
                    self.now = key.0;
                    self.happen(due);
                }
                (None, Some(_)) => unreachable!("handled above"),
            }
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrive(id, model) => {
                self.arrived.insert(id, (self.now, model.clone()));
                self.waiting.insert(id, model.clone());
                let job = job();
                self.tell(Event::Arrive { id, model, job });
            }
            Due::Cancel(id) => {
                if !self.last_events.contains_key(&id) && self.arrived.contains_key(&id) {
                    self.tell(Event::Cancel { id });
                }
            }
            Due::Pin(model, pin) => {
                match pin {
                    true => self.pinned.insert(model.clone()),
                    false => self.pinned.remove(&model),
                };
                self.tell(Event::Pin { model, pin });
            }
            Due::Loaded(model, succeeds) => self.loaded(model, succeeds),
            Due::JobOver(id, model) => {
                if let Some(Process::Ready(jobs)) = self.processes.get_mut(&model)
                    && jobs.remove(&id)
                {
                    self.last(id);
                    self.tell(Event::Ended { id });
                }
            }
            Due::Gone(model) => {
                self.processes.remove(&model);
                self.tell(Event::Phase { model, phase: None });
            }
        }
    }

    fn loaded(&mut self, model: String, succeeds: bool) {
        let Some(Process::Loading(jobs)) = self.processes.remove(&model) else {
            return;
        };
        if !succeeds {
            for id in &jobs {
                self.last(*id);
            }
            let failure = LoadFailure {
                kind: LoadFailureKind::Resources,
                message: "no memory".into(),
            };
            let phase = Some(ModelPhase::Failed(failure));
            self.tell(Event::Phase { model, phase });
            for id in jobs {
                self.tell(Event::Ended { id });
            }
            return;
        }
        for id in &jobs {
            self.at(self.now + self.job_ms, Due::JobOver(*id, model.clone()));
        }
        let jobs = jobs.into_iter().collect();
        self.processes.insert(model.clone(), Process::Ready(jobs));
        let phase = Some(ModelPhase::Ready(facts(0).into()));
        self.tell(Event::Phase { model, phase });
    }

    fn last(&mut self, id: JobId) {
        *self.last_events.entry(id).or_default() += 1;
    }

    fn held(&self) -> Space {
        self.processes.keys().map(|name| self.sizes[name]).sum()
    }

    fn tell(&mut self, event: Event) {
        for action in step(&mut self.shelf, event, self.now) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load { spec, .. } => {
                let model = spec.name;
                let cost = &self.costs[&model];
                let layers = spec.gpu.map_or(0, |gpu| gpu.layers);
                let mut placements = cost.placements.iter();
                let cost = placements
                    .find(|one| one.gpu_layers == layers)
                    .map_or(cost.clone(), |one| cost.placed(one));
                let size = Space {
                    host: cost.host_bytes(),
                    device: cost.device_bytes,
                };
                self.sizes.insert(model.clone(), size);
                assert!(
                    !self.processes.contains_key(&model),
                    "{model} is there already"
                );
                self.processes
                    .insert(model.clone(), Process::Loading(Vec::new()));
                let held = self.held();
                assert!(
                    held.fits_in(self.limits.space()),
                    "over the budget by {model}: {held:?}"
                );
                self.n_loads += 1;
                // Every seventh load fails where loads may.
                let succeeds = self.load_ms.is_multiple_of(2) || !self.n_loads.is_multiple_of(7);
                self.at(self.now + self.load_ms, Due::Loaded(model, succeeds));
            }
            Action::Submit { id, model, .. } => {
                let (since, _) = self.arrived[&id];
                self.waits_ms.push(self.now - since);
                self.waiting.remove(&id);
                let over = Due::JobOver(id, model.clone());
                match self.processes.get_mut(&model) {
                    Some(Process::Loading(jobs)) => jobs.push(id),
                    Some(Process::Ready(jobs)) => {
                        jobs.insert(id);
                        self.at(self.now + self.job_ms, over);
                    }
                    other => panic!("a job for {model}, which is {other:?}"),
                }
            }
            Action::Unload { model, .. } => {
                assert!(!self.pinned.contains(&model), "{model} is pinned");
                let only_helpers = self
                    .waiting
                    .values()
                    .all(|waits| self.helps.get(waits) == Some(&model));
                assert!(!only_helpers, "{model} went for its helper");
                let was = self.processes.insert(model.clone(), Process::Leaving);
                assert_eq!(
                    was,
                    Some(Process::Ready(BTreeSet::new())),
                    "{model} was busy"
                );
                self.at(self.now + UNLOAD_MS, Due::Gone(model));
            }
            Action::Refuse { id, .. } => {
                let (since, _) = self.arrived[&id];
                self.waits_ms.push(self.now - since);
                self.waiting.remove(&id);
                self.last(id);
            }
            Action::Cancel { id } => {
                let mut models = self.processes.iter_mut();
                let has_ended = models.any(|(_, process)| match process {
                    Process::Ready(jobs) => jobs.remove(&id),
                    Process::Loading(jobs) => {
                        let before = jobs.len();
                        jobs.retain(|job| *job != id);
                        jobs.len() < before
                    }
                    Process::Leaving => false,
                });
                if has_ended {
                    self.last(id);
                    self.tell(Event::Ended { id });
                }
            }
            Action::Measure { .. }
            | Action::Compare { .. }
            | Action::GiveBack { .. }
            | Action::TellShed { .. } => {}
            Action::AnswerLoad { .. } | Action::AnswerUnload { .. } => {
                panic!("nobody has asked")
            }
        }
    }
}

#[derive(Debug, Clone)]
struct History {
    memory_gib: u64,
    device_gib: u64,
    sizes_gib: Vec<u64>,
    /// Layers of a GiB each that may be on the GPU; 0 of a model that is not for it.
    layers: Vec<u32>,
    pinned: Vec<bool>,
    /// The index of the model that each helps, if there is such a model.
    helps: Vec<usize>,
    load_ms: u64,
    job_ms: u64,
    /// Gap to the one before, model, and when its caller goes, if ever.
    jobs: Vec<(u64, usize, Option<u64>)>,
    pins: Vec<(u64, usize, bool)>,
    /// A model that is asked for all the time, and how often.
    stream: (usize, u64),
}

/// Requests of the stream: enough to outlast every bound.
const STREAM_JOBS: u64 = 500;

fn history() -> impl Strategy<Value = History> {
    let models = 2..7_usize;
    models.prop_flat_map(|n| {
        (
            (
                (4..20_u64, 1..12_u64),
                prop::collection::vec(1..9_u64, n),
                prop::collection::vec(prop_oneof![Just(0), 1..7_u32], n),
            ),
            prop::collection::vec(prop::bool::weighted(0.1), n),
            prop::collection::vec(0..3 * n, n),
            (100..8_000_u64, 50..15_000_u64),
            prop::collection::vec(
                (
                    prop_oneof![Just(0), 0..200_u64, 0..30_000_u64],
                    0..n,
                    prop::option::weighted(0.1, 0..20_000_u64),
                ),
                1..150,
            ),
            prop::collection::vec((0..300_000_u64, 0..n, any::<bool>()), 0..4),
            (0..n, 100..1_500_u64),
        )
            .prop_map(
                |(
                    ((memory_gib, device_gib), sizes_gib, layers),
                    pinned,
                    helps,
                    (load_ms, job_ms),
                    jobs,
                    pins,
                    stream,
                )| History {
                    memory_gib,
                    device_gib,
                    sizes_gib,
                    layers,
                    pinned,
                    helps,
                    load_ms,
                    job_ms,
                    jobs,
                    pins,
                    stream,
                },
            )
    })
}

fn name(index: usize) -> String {
    format!("m{index}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_histories_keep_the_promises(history in history()) {
        let n = history.sizes_gib.len();
        let listings = history.sizes_gib.iter().enumerate().map(|(index, gib)| {
            let mut one = match history.layers[index] {
                0 => listing(&name(index), gib * GIB),
                layers => gpu::layered(&name(index), layers),
            };
            one.pin = history.pinned[index];
            let helped = history.helps[index];
            one.helps = (helped < n && helped != index).then(|| name(helped));
            one
        });
        let times = (history.load_ms, history.job_ms);
        let limits = Limits {
            device_memory_max: history.device_gib * GIB,
            ..limits(history.memory_gib * GIB)
        };
        let mut world = World::with(limits, listings.collect(), times);
        let mut time = 0;
        for (index, (gap, model, leaves)) in history.jobs.iter().enumerate() {
            time += gap;
            let id = JobId(index as u64 + 1);
            world.at(time, Due::Arrive(id, name(*model)));
            if let Some(after) = leaves {
                world.at(time + after, Due::Cancel(id));
            }
        }
        let n_jobs = history.jobs.len() as u64;
        let (streamed, gap) = history.stream;
        for index in 1..=STREAM_JOBS {
            world.at(index * gap, Due::Arrive(JobId(n_jobs + index), name(streamed)));
        }
        for (at, model, pin) in &history.pins {
            world.at(*at, Due::Pin(name(*model), *pin));
        }
        world.run();
        for id in 1..=n_jobs + STREAM_JOBS {
            prop_assert_eq!(world.last_events.get(&JobId(id)), Some(&1), "job {}", id);
        }
        // Before a job's turn come the models whose jobs came earlier, each with the
        // longest wait, a load, its batch and its end.
        let turn_ms = SWAP_WAIT_MS + history.load_ms + history.job_ms + UNLOAD_MS;
        let bound_ms = (n as u64 + 1) * turn_ms;
        let longest_ms = world.waits_ms.iter().copied().max().unwrap_or(0);
        prop_assert!(longest_ms <= bound_ms, "a job waited {longest_ms} ms, over {bound_ms}");
    }
}

/// Loads that first come, first served would take: one at each change of the model.
fn fifo_loads(models: &[usize]) -> u32 {
    let changes = models.windows(2).filter(|two| two[0] != two[1]).count();
    u32::try_from(changes).unwrap() + 1
}

#[test]
fn interleaved_requests_cost_far_fewer_loads_than_first_come_first_served() {
    // A request for either of two models every 300 ms, of which only one fits.
    let models: Vec<usize> = (0..400).map(|index| index % 2).collect();
    let listings = vec![listing(&name(0), 5 * GIB), listing(&name(1), 5 * GIB)];
    let mut world = World::new(8 * GIB, listings, (2_000, 500));
    for (index, model) in models.iter().enumerate() {
        let id = JobId(index as u64 + 1);
        world.at(index as u64 * 300, Due::Arrive(id, name(*model)));
    }
    world.run();
    assert_eq!(fifo_loads(&models), 400);
    // 120 s of requests with a swap at most every 10 s and a load.
    assert!(world.n_loads <= 15, "{} loads", world.n_loads);
    assert_eq!(world.last_events.len(), models.len());
}

#[test]
fn a_model_that_is_always_busy_makes_room_in_time() {
    let listings = vec![listing(&name(0), 5 * GIB), listing(&name(1), 5 * GIB)];
    let mut world = World::new(8 * GIB, listings, (2_000, 1_000));
    for index in 0..400 {
        world.at(index * 300, Due::Arrive(JobId(index + 1), name(0)));
    }
    let late = JobId(1_000);
    world.at(5_000, Due::Arrive(late, name(1)));
    world.run();
    assert_eq!(world.last_events[&late], 1);
    let longest_ms = world.waits_ms.iter().max();
    let bound_ms = SWAP_WAIT_MS + 1_000 + UNLOAD_MS;
    assert!(longest_ms <= Some(&bound_ms), "{longest_ms:?} ms");
}

#[test]
fn two_clients_that_wait_for_their_answers_do_not_make_it_thrash() {
    // Each sends its next request 5 ms after the last answer.
    let listings = vec![listing(&name(0), 5 * GIB), listing(&name(1), 5 * GIB)];
    let mut world = World::new(8 * GIB, listings, (2_000, 200));
    let n_jobs = 300_u64;
    for client in 0..2 {
        world.at(
            client,
            Due::Arrive(JobId(client + 1), name(client as usize)),
        );
    }
    let mut sent = 2;
    let mut answered = BTreeSet::new();
    // Runs up to each answer, and has its client send the next.
    while sent < n_jobs {
        let key = match (
            world.due.keys().next().copied(),
            world.shelf.next_deadline(world.now),
        ) {
            (Some(key), tick) if tick.is_none_or(|tick| tick >= key.0) => key,
            (_, Some(tick)) => {
                world.now = tick;
                world.tell(Event::Tick);
                continue;
            }
            _ => break,
        };
        let due = world.due.remove(&key).unwrap();
        world.now = key.0;
        world.happen(due);
        let over: Vec<JobId> = world.last_events.keys().copied().collect();
        for id in over {
            if answered.insert(id) {
                sent += 1;
                let model = world.arrived[&id].1.clone();
                world.at(world.now + 5, Due::Arrive(JobId(sent), model));
            }
        }
    }
    world.run();
    assert_eq!(world.last_events.len() as u64, sent);
    assert!(
        world.n_loads <= 12,
        "{} loads for {sent} requests",
        world.n_loads
    );
}
