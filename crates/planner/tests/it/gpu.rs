//! How many layers go to a GPU, and what is refused.

use kv::{Loss, PlanError};
use models::Gguf;
use planner::{
    Answer, Available, Change, DeviceMemory, Fit, Layers, Ledger, Model, Others, Place, Placed,
    Setup, answer, placements,
};
use testkit::fat;

/// Six layers and the output.
const ALL: u32 = 7;

fn model() -> Model {
    let folder = tempfile::tempdir().unwrap();
    let sizes = fat::Sizes {
        layers: 6,
        heads: 8,
        head_width: 64,
        context: 8192,
    };
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, fat::gguf(&sizes)).unwrap();
    Model::read(&[Gguf::open(&path).unwrap()]).unwrap()
}

fn setup(gpu_layers: u32) -> Setup {
    Setup {
        gpu_layers,
        ..Setup::usual(4096)
    }
}

fn available(host: u64, device: u64) -> Available {
    Available {
        host,
        device,
        ..Available::default()
    }
}

fn all(model: &Model) -> Vec<Placed> {
    placements(model, &setup(0), available(u64::MAX, u64::MAX)).unwrap()
}

fn on_device(ledger: &Ledger) -> u64 {
    ledger.bytes_in(Place::Device)
}

fn ask(model: &Model, setup: Setup, available: Available) -> Answer {
    answer(model, &setup, available, &Others::default()).unwrap()
}

#[test]
fn each_layer_on_the_gpu_leaves_the_host_with_less() {
    let model = model();
    let all = all(&model);
    let layers: Vec<u32> = all.iter().map(|one| one.gpu_layers).collect();
    assert_eq!(layers, (0..=ALL).rev().collect::<Vec<_>>());
    for two in all.windows(2) {
        let [more, fewer] = two else { unreachable!() };
        assert!(on_device(&more.ledger) > on_device(&fewer.ledger));
        // The first one brings the driver along.
        let is_first = fewer.gpu_layers == 0;
        assert!(is_first || more.ledger.host_needed() < fewer.ledger.host_needed());
    }
    assert_eq!(on_device(&all[ALL as usize].ledger), 0);
}

#[test]
fn as_many_layers_go_to_the_gpu_as_fit() {
    let model = model();
    for one in all(&model) {
        let room = on_device(&one.ledger);
        if room == 0 {
            continue;
        }
        let exact = ask(&model, setup(0), available(u64::MAX, room));
        assert_eq!(exact.setup.gpu_layers, one.gpu_layers);
        let short = ask(&model, setup(0), available(u64::MAX, room - 1));
        assert_eq!(short.setup.gpu_layers, one.gpu_layers - 1);
        let expected = match one.gpu_layers {
            ALL => Fit::Fast,
            on_device => Fit::Spills {
                on_device,
                layers: ALL,
            },
        };
        assert_eq!(exact.fit, expected);
    }
}

#[test]
fn layers_that_somebody_has_set_stand_or_are_refused() {
    let model = model();
    let all = all(&model);
    let room = on_device(&all[2].ledger);
    let set = |gpu_layers| {
        let available = Available {
            layers: Layers::AsSet,
            ..available(u64::MAX, room)
        };
        ask(&model, setup(gpu_layers), available)
    };
    let fitting = all[2].gpu_layers;
    assert!(matches!(set(fitting).fit, Fit::Spills { on_device, .. } if on_device == fitting));
    let too_many = set(ALL);
    assert_eq!(too_many.setup.gpu_layers, ALL);
    let missing = on_device(&all[0].ledger) - room;
    assert_eq!(too_many.fit, Fit::No { missing });
    assert!(too_many.changes.contains(&Change::GpuLayers(fitting)));
    // More than there are is all of them.
    assert_eq!(set(9999).setup.gpu_layers, ALL);
    assert_eq!(set(0).setup.gpu_layers, 0);
}

/// Which pairs of types a GPU takes depends on how its back end was built.
#[test]
fn layers_of_several_types_stay_on_the_host() {
    let model = model();
    let mixed = |gpu_layers| Setup {
        types: "k=q8_0,v=f16;k[1]=f16".parse().unwrap(),
        ..setup(gpu_layers)
    };
    let room = available(u64::MAX, u64::MAX);
    let found = ask(&model, mixed(0), room);
    assert_eq!(found.setup.gpu_layers, 0);
    assert_eq!(found.losses[0], Loss::MixedStaysOnHost);
    let all = placements(&model, &mixed(0), room).unwrap();
    assert_eq!(all.len(), 1);
    // What somebody has set is refused, and none is no loss then.
    let set = Available {
        layers: Layers::AsSet,
        ..room
    };
    let error = answer(&model, &mixed(2), set, &Others::default()).unwrap_err();
    assert_eq!(error, PlanError::MixedOnDevice { gpu_layers: 2 });
    let none = ask(&model, mixed(0), set);
    assert!(!none.losses.contains(&Loss::MixedStaysOnHost));
    // A plan that comes to one pair goes as that pair does.
    let same = Setup {
        types: "kv=q8_0;kv[0]=q8_0".parse().unwrap(),
        ..setup(0)
    };
    let plain = Setup {
        types: "q8_0".parse().unwrap(),
        ..setup(0)
    };
    let of = |setup: &Setup| placements(&model, setup, room).unwrap();
    assert_eq!(of(&same), of(&plain));
}

#[test]
fn memory_that_both_share_is_needed_once() {
    let model = model();
    let full = &all(&model)[0].ledger;
    let whole = full.host_needed() + on_device(full);
    let unified = |host, device| {
        let available = Available {
            memory: DeviceMemory::Unified,
            ..available(host, device)
        };
        ask(&model, setup(0), available).fit
    };
    assert_eq!(unified(whole, u64::MAX), Fit::Fast);
    assert_eq!(unified(whole - 1, u64::MAX), Fit::No { missing: 1 });
    // On a card of its own the host needs only its part.
    let card = ask(&model, setup(0), available(full.host_needed(), u64::MAX));
    assert_eq!(card.fit, Fit::Fast);
}
