//! Models that share a GPU.

use proto::{BufferFacts, DeviceFacts, DeviceKind, GpuPlacement, Holds};

use super::*;
use crate::{DeviceMemory, Placement};

/// A model with so many layers of a GiB each that may be on the GPU, and a GiB on the host
/// besides.
pub(super) fn layered(name: &str, layers: u32) -> Listing {
    let mut listing = listing(name, 0);
    listing.spec.gpu = Some(Box::new(GpuPlacement {
        device: "Vulkan0".into(),
        layers,
    }));
    listing.cost = cost(layers);
    listing
}

fn cost(layers: u32) -> MemoryCost {
    let placements = (0..=layers).rev().map(|gpu_layers| Placement {
        gpu_layers,
        host_bytes: u64::from(1 + layers - gpu_layers) * GIB,
        device_bytes: u64::from(gpu_layers) * GIB,
        resident_bytes: 0,
    });
    let placements: Arc<[Placement]> = placements.collect();
    let bare = MemoryCost {
        weights_bytes: u64::from(layers) * GIB,
        placements: Arc::clone(&placements),
        ..MemoryCost::default()
    };
    bare.placed(&placements[0])
}

/// The same, where somebody has set `gpu_layers`.
fn set_by_hand(name: &str, layers: u32) -> Listing {
    let mut listing = layered(name, layers);
    listing.spec.gpu_layers = Some(layers);
    listing
}

fn desk((host_gib, device_gib): (u64, u64), listings: Vec<Listing>) -> Desk {
    let limits = Limits {
        device_memory_max: device_gib * GIB,
        ..limits(host_gib * GIB)
    };
    Desk::new(limits, listings)
}

/// Layers on the GPU of each model that is loaded by this event.
fn placed(desk: &mut Desk, event: Event) -> Vec<(String, u32)> {
    let actions = step(&mut desk.shelf, event, desk.now);
    let loads = actions.into_iter().filter_map(|action| match action {
        Action::Load { spec, .. } => Some((spec.name, spec.gpu.map_or(0, |gpu| gpu.layers))),
        _ => None,
    });
    loads.collect()
}

fn arrive(desk: &mut Desk, model: &str) -> Vec<(String, u32)> {
    desk.last_id += 1;
    let event = Event::Arrive {
        id: JobId(desk.last_id),
        model: model.into(),
        job: job(),
    };
    placed(desk, event)
}

fn on_gpu(gib: u64) -> ModelFacts {
    ModelFacts {
        weights_bytes: GIB,
        can_complete: true,
        devices: vec![DeviceFacts {
            kind: DeviceKind::Gpu,
            buffers: vec![BufferFacts {
                name: "Vulkan0".into(),
                holds: Holds::Weights,
                bytes: gib * GIB,
            }],
            ..DeviceFacts::default()
        }],
        ..ModelFacts::default()
    }
}

#[test]
fn models_share_the_gpu_and_an_idle_one_goes_for_another() {
    let models = vec![layered("a", 6), layered("b", 2), layered("c", 4)];
    let mut desk = desk((64, 8), models);
    assert_eq!(arrive(&mut desk, "a"), [("a".to_owned(), 6)]);
    assert_eq!(arrive(&mut desk, "b"), [("b".to_owned(), 2)]);
    assert_eq!(desk.shelf.device_memory(), (8 * GIB, 8 * GIB));
    assert_eq!(desk.shelf.memory().0, 2 * GIB, "the rest is on the GPU");
    for (id, model) in [(1, "a"), (2, "b")] {
        desk.ready(model);
        desk.end(id);
    }
    // The host has room, the GPU has none: what frees enough of it goes.
    assert_eq!(desk.arrive("c"), ["unload a"]);
    desk.gone("a");
    assert_eq!(desk.place("c").residence, Residence::Coming);
    assert_eq!(desk.place("c").device_bytes, 4 * GIB);
}

#[test]
fn bytes_of_the_host_do_not_make_room_on_the_gpu() {
    let models = vec![listing("large", 30 * GIB), layered("a", 6), layered("b", 6)];
    let mut desk = desk((64, 8), models);
    desk.use_once("large");
    desk.use_once("a");
    assert_eq!(desk.arrive("b"), ["unload a"]);
}

#[test]
fn beside_a_pinned_model_fewer_layers_go_to_the_gpu() {
    let mut pinned = layered("pinned", 5);
    pinned.pin = true;
    let models = vec![pinned, layered("b", 6)];
    let mut desk = desk((64, 8), models.clone());
    desk.use_once("pinned");
    assert_eq!(arrive(&mut desk, "b"), [("b".to_owned(), 3)]);
    let place = desk.place("b");
    assert_eq!((place.device_bytes, place.bytes), (3 * GIB, 7 * GIB));
    desk.ready("b");
    desk.end(desk.last_id);
    // Whoever loads it with the settings that it was planned for finds it as it is.
    let order = Order {
        spec: models[1].spec.clone(),
        cost: models[1].cost.clone(),
        pin: None,
        force: false,
    };
    let load = Event::Load {
        request: RequestId(9),
        order: Box::new(order),
    };
    assert_eq!(placed(&mut desk, load), [("b".to_owned(), 3)]);
    // With the GPU to itself it gets all that it can.
    for model in ["b", "pinned"] {
        let model = model.to_owned();
        desk.step(Event::Unload {
            request: RequestId(9),
            model,
        });
    }
    desk.gone("b");
    desk.gone("pinned");
    assert_eq!(arrive(&mut desk, "b"), [("b".to_owned(), 6)]);
}

#[test]
fn layers_that_somebody_has_set_are_refused_with_what_would_fit() {
    let mut desk = desk((64, 8), vec![set_by_hand("a", 10), set_by_hand("b", 6)]);
    assert_eq!(
        desk.arrive("a"),
        [
            "refuse j1: model `a` takes about 10.00 GiB of the GPU's memory with 10 layers there, \
             and models may take 8.00 GiB; set `gpu_layers` to 8 or less, or leave it out, raise \
             `gpu_memory_max`, or load it all the same with `--force`"
        ]
    );
    desk.use_once("b");
    let (model, pin) = ("b".to_owned(), true);
    desk.step(Event::Pin { model, pin });
    let refused = desk.arrive("a");
    assert!(
        refused[0].contains("8.00 GiB, of which 6.00 GiB are kept by `b` (pinned, 6.00 GiB)")
            && refused[0].contains("set `gpu_layers` to 2 or less"),
        "{refused:?}"
    );
}

#[test]
fn where_the_host_is_too_small_too_the_host_is_named() {
    let mut desk = desk((4, 2), vec![layered("a", 6)]);
    // Four layers stay on the host, and a GiB besides.
    let refused = desk.arrive("a");
    assert!(
        refused[0].contains("takes about 5.00 GiB, and models may take 4.00 GiB"),
        "{refused:?}"
    );
}

#[test]
fn memory_of_a_gpu_that_is_the_hosts_counts_there_once() {
    let unified = |name: &str, layers| {
        let mut listing = layered(name, layers);
        listing.cost.device_memory = DeviceMemory::Unified;
        listing
    };
    let mut desk = desk((10, 8), vec![unified("a", 5), unified("b", 5)]);
    desk.use_once("a");
    let place = desk.place("a");
    assert_eq!((place.bytes, place.device_bytes), (6 * GIB, 5 * GIB));
    assert_eq!(desk.shelf.memory().0, 6 * GIB);
    // Together they are two GiB too many, on the host and on the GPU.
    assert_eq!(desk.arrive("b"), ["unload a"]);
}

#[test]
fn what_the_engine_put_on_the_gpu_takes_the_place_of_the_plan() {
    let mut desk = desk((64, 8), vec![layered("a", 4), layered("b", 4)]);
    desk.arrive("a");
    desk.phase("a", Some(ModelPhase::Ready(on_gpu(5).into())));
    assert_eq!(desk.place("a").device_bytes, 5 * GIB);
    desk.end(1);
    let (model, pin) = ("a".to_owned(), true);
    desk.step(Event::Pin { model, pin });
    assert_eq!(arrive(&mut desk, "b"), [("b".to_owned(), 3)]);
}

#[test]
fn a_load_that_ran_out_of_the_gpus_memory_gets_more_room_the_next_time() {
    let mut desk = desk((64, 8), vec![set_by_hand("a", 3), set_by_hand("b", 4)]);
    desk.use_once("a");
    assert_eq!(desk.arrive("b"), ["load b for r0", "submit j2 to b"]);
    desk.fail("b", LoadFailureKind::Resources);
    assert_eq!(desk.place("b").device_bytes, 5 * GIB + 1);
    desk.now += 10_000;
    assert_eq!(desk.arrive("b"), ["unload a"]);
}
