//! Advice for a model of eight billion weights on every machine of the table.

use kv::{KeysValues, Layer, Shape, State};

use super::*;
use crate::answer::{Available, Fit, Open};
use crate::device::{DEVICES, Device, device_named};
use crate::model::{Model, Role, Tensor};
use crate::roofline::{Speed, predict};
use crate::setup::Setup;

const GIB: u64 = 1 << 30;
const LAYERS: u64 = 32;

/// Llama 3.1 8B as to widths, in four bits and a half.
fn eight_billion() -> Model {
    let tensor = |name: String, (row, rows): (u64, u64), role, layer| Tensor {
        name,
        kind: "Q4_K",
        row,
        rows,
        matrices: 1,
        bytes: row * rows / 256 * 144,
        role,
        layer,
        is_matrix: role == Role::Weight,
    };
    let mut tensors = vec![
        tensor(
            "token_embd.weight".into(),
            (4096, 128_256),
            Role::Table,
            None,
        ),
        tensor("output.weight".into(), (4096, 128_256), Role::Weight, None),
    ];
    let matrices = [
        ("attn_q", (4096, 4096)),
        ("attn_k", (4096, 1024)),
        ("attn_v", (4096, 1024)),
        ("attn_output", (4096, 4096)),
        ("ffn_gate", (4096, 14_336)),
        ("ffn_up", (4096, 14_336)),
        ("ffn_down", (14_336, 4096)),
    ];
    for layer in 0..LAYERS {
        tensors.extend(matrices.map(|(name, widths)| {
            let name = format!("blk.{layer}.{name}.weight");
            tensor(name, widths, Role::Weight, Some(layer))
        }));
    }
    let head = KeysValues {
        heads: 8,
        key_width: 128,
        value_width: 128,
    };
    let layer = Layer {
        keys_values: Some(head),
        ..Layer::default()
    };
    Model {
        shape: Shape {
            architecture: "llama".into(),
            context_train: 131_072,
            layers: vec![layer; 32],
            window: None,
            state: State::default(),
            is_latent: false,
            value_row_max: 1024,
            first_head: head,
            has_many_positions: false,
            is_encoder: false,
        },
        tensors,
        n_vocab: 128_256,
        n_embd: 4096,
        n_layers: LAYERS,
        n_ff: 14_336,
        n_head: 32,
        experts: 0,
        experts_used: 0,
        is_tied: false,
    }
}

const CHOOSABLE: Choosable = Choosable {
    types: true,
    sparing: Open {
        sequences: true,
        compute: true,
    },
};

fn load(users: u32, context: u32) -> Load {
    Load {
        users,
        context,
        prompt: context / 2,
        ttft_seconds_max: None,
        tokens_s_min: None,
    }
}

fn on(device: &Device, host_gib: u64) -> Available {
    Available {
        host: host_gib * GIB,
        device: device.gpu_bytes.unwrap_or(0),
        ..Available::default()
    }
}

fn room_on(device: &Device, host_gib: u64, load: &Load) -> Room {
    let model = eight_billion();
    let setup = Setup::usual(load.context);
    room(&model, &setup, on(device, host_gib), (load, CHOOSABLE)).unwrap()
}

fn site(device: &Device) -> Site {
    Site {
        class: device.machine.class,
        vendor: device.vendor,
        embedded_gpu: EmbeddedGpu::Usable,
    }
}

fn best(device: &Device, host_gib: u64, load: &Load) -> Engine {
    let judged = judge(site(device), load, &room_on(device, host_gib, load));
    let first = &judged[0];
    assert_eq!(first.verdict, Verdict::Best);
    assert_eq!(
        judged
            .iter()
            .filter(|one| one.verdict == Verdict::Best)
            .count(),
        1
    );
    first.engine
}

#[test]
fn each_known_machine_has_the_engine_that_suits_it() {
    let (few, many) = (load(2, 8192), load(16, 4096));
    for device in DEVICES {
        let expected = match (device.machine.class, device.vendor, device.name) {
            (Class::Board | Class::Cpu, _, _) => [Engine::Embedded; 2],
            (_, Vendor::Apple, _) => [Engine::LlamaServer; 2],
            // Twelve GiB hold the model and the caches of sixteen.
            _ => [Engine::Embedded, Engine::Vllm],
        };
        let found = [best(device, 128, &few), best(device, 128, &many)];
        assert_eq!(found, expected, "{}", device.name);
    }
}

#[test]
fn a_model_that_spills_is_not_for_engines_that_want_all_of_it_in_the_gpu() {
    let card = device_named("rtx3060").unwrap();
    // Caches of 32 GiB, and in eight and four bits still too many.
    let many = load(16, 8192 * 2);
    let room = room_on(card, 128, &many);
    assert!(
        matches!(room.answer.fit, Fit::Spills { .. }),
        "{:?}",
        room.answer.fit
    );
    let judged = judge(site(card), &many, &room);
    let of = |engine: Engine| judged.iter().find(|one| one.engine == engine).unwrap();
    assert_eq!(of(Engine::Vllm).verdict, Verdict::No);
    assert_eq!(of(Engine::Sglang).verdict, Verdict::No);
    assert_eq!(
        of(Engine::LlamaServer).verdict,
        Verdict::Best,
        "the pool is too short"
    );
}

#[test]
fn a_build_without_the_gpu_leaves_it_to_another_engine() {
    let card = device_named("rtx4090").unwrap();
    let few = load(2, 8192);
    let site = Site {
        embedded_gpu: EmbeddedGpu::OtherBuild,
        ..site(card)
    };
    let judged = judge(site, &few, &room_on(card, 64, &few));
    assert_eq!(judged[0].engine, Engine::LlamaServer);
}

#[test]
fn bits_of_the_cache_are_given_up_before_users_are() {
    let card = device_named("rtx3060").unwrap();
    let roomy = room_on(card, 64, &load(8, 2048));
    assert_eq!((roomy.is_fast(), roomy.chosen.as_slice()), (true, &[][..]));
    // 128 KiB a token in 16 bits: 8 GiB beside 4.5 of weights.
    let tight = room_on(card, 64, &load(8, 8192));
    assert!(tight.is_fast(), "{:?}", tight.answer.fit);
    assert!(
        matches!(tight.chosen.as_slice(), [Chosen::Types(_)]),
        "{:?}",
        tight.chosen
    );
    let users_max = tight.users_max.unwrap();
    assert!(users_max >= 8, "{users_max}");
    assert!(tight.context_max.unwrap() >= 8192);
}

#[test]
fn what_does_not_fit_says_how_many_would() {
    let board = device_named("rk3588-lpddr5").unwrap();
    let much = load(32, 16_384);
    let room = room_on(board, 16, &much);
    assert!(!room.fits());
    let users = room.users_max.unwrap();
    let context = room.context_max.unwrap();
    assert!((1..32).contains(&users), "{users}");
    assert!((256..16_384).contains(&context), "{context}");
    assert!(room_on(board, 16, &load(users, 16_384)).fits());
    assert!(room_on(board, 16, &load(32, context)).fits());
    let nothing = room_on(board, 2, &much);
    assert_eq!((nothing.users_max, nothing.context_max), (None, None));
}

#[test]
fn contexts_of_all_beyond_the_training_make_the_pool_short() {
    let desktop = device_named("ddr5-5600").unwrap();
    let many = load(8, 32_768);
    let room = room_on(desktop, 512, &many);
    assert!(room.is_pool_short());
    assert_eq!(room.pool_max, 131_072);
    assert_eq!(best(desktop, 512, &many), Engine::LlamaServer);
}

fn speed_on(device: &Device, load: &Load) -> Speed {
    let room = room_on(device, 512, load);
    let answer = &room.answer;
    predict(
        &eight_billion(),
        &answer.setup,
        &answer.plan,
        &device.machine,
    )
}

fn shared_on(device: &Device, users: u32) -> Shared {
    let load = load(users, 2048);
    let one = speed_on(device, &load);
    share(
        &one,
        &eight_billion(),
        device.machine.class,
        users,
        load.prompt,
    )
}

#[test]
fn several_users_get_less_each_and_more_together() {
    for device in DEVICES {
        let one = shared_on(device, 1);
        let alone = speed_on(device, &load(1, 2048));
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(close(one.each.high, alone.decode.high), "{}", device.name);
        assert!(close(one.each.low, alone.decode.low), "{}", device.name);
        assert!(
            close(one.each_full.high, alone.decode_full.high),
            "{}",
            device.name
        );
        let mut before = one;
        for users in [2, 4, 8, 16] {
            let now = shared_on(device, users);
            let name = device.name;
            assert!(
                now.each.low <= before.each.low && now.each.high <= before.each.high,
                "{name}"
            );
            assert!(
                now.each_full.high <= now.each.high && now.each.low <= now.each.high,
                "{name}"
            );
            let all = |shared: &Shared| shared.each.low * f64::from(shared.users);
            assert!(all(&now) >= all(&before) * 0.999, "{name}: {users}");
            before = now;
        }
    }
}

#[test]
fn the_low_end_is_from_what_is_known() {
    for (name, expected) in [
        ("rk3588-lpddr5", LowEnd::Prefill),
        ("ddr5-5600", LowEnd::Turns),
        ("rtx4090", LowEnd::Published),
        ("m4", LowEnd::Published),
    ] {
        let device = device_named(name).unwrap();
        assert_eq!(shared_on(device, 4).low_end, expected, "{name}");
    }
    // The published table, at its points and between them.
    let card = device_named("rtx4090").unwrap();
    let all = |users: u32| shared_on(card, users).each.low * f64::from(users);
    assert!((all(8) / all(1) - 139.43 / 41.57).abs() < 1e-6);
    assert!(all(6) > all(4) && all(6) < all(8));
    assert!(
        (all(32) / all(16) - 1.0).abs() < 1e-6,
        "nobody published more"
    );
}

#[test]
fn experts_of_several_users_are_read_by_each() {
    let mut model = eight_billion();
    model.experts = 8;
    model.experts_used = 2;
    for tensor in &mut model.tensors {
        if tensor.name.contains("ffn") {
            tensor.role = Role::Expert;
            tensor.matrices = 8;
        }
    }
    let one = Speed {
        decode: Band {
            low: 10.0,
            high: 20.0,
        },
        decode_full: Band {
            low: 9.0,
            high: 18.0,
        },
        prefill: None,
    };
    let of = |model: &Model, users| share(&one, model, Class::Gpu, users, 512).each.high;
    let dense = eight_billion();
    assert!((of(&dense, 4) - 20.0).abs() < 1e-9);
    assert!((of(&model, 1) - 20.0).abs() < 1e-9);
    assert!(of(&model, 4) < 20.0);
    // All experts are read in the end, and no more than all.
    assert!(of(&model, 64) > 5.0 && of(&model, 64) <= of(&model, 16));
}

#[test]
fn waiting_is_told_for_one_and_for_all_at_once() {
    let board = device_named("rk3588-lpddr5").unwrap();
    let shared = shared_on(board, 4);
    let (alone, together) = (shared.ttft_alone.unwrap(), shared.ttft_together.unwrap());
    assert!((together.high / alone.high - 4.0).abs() < 1e-9);
    assert!(alone.low < alone.high);
    assert_eq!(
        shared_on(device_named("ddr5-5600").unwrap(), 4).ttft_alone,
        None
    );
}

#[test]
fn targets_are_met_missed_or_uncertain() {
    let band = Band {
        low: 4.0,
        high: 8.0,
    };
    for (least, expected) in [(3.0, Met::Yes), (5.0, Met::Perhaps), (9.0, Met::No)] {
        assert_eq!(Met::at_least(band, least), expected);
    }
    for (most, expected) in [(9.0, Met::Yes), (5.0, Met::Perhaps), (3.0, Met::No)] {
        assert_eq!(Met::at_most(Some(band), most), expected);
    }
    assert_eq!(Met::at_most(None, 9.0), Met::Unknown);
}

#[test]
fn facts_have_sources_and_every_reason_that_is_published_names_one() {
    let mut ids: Vec<&str> = FACTS.iter().map(|fact| fact.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), FACTS.len());
    assert!(
        FACTS
            .iter()
            .all(|fact| fact.source.len() > 10 && fact.says.len() > 10)
    );
    for device in DEVICES {
        let load = load(16, 4096);
        for judged in judge(site(device), &load, &room_on(device, 64, &load)) {
            for reason in &judged.reasons {
                let is_published = reason.known == Known::Published;
                assert_eq!(is_published, reason.source.is_some(), "{reason:?}");
            }
            let has_no_reason = judged.reasons.is_empty() && judged.engine != Engine::Embedded;
            assert!(!has_no_reason, "{}: {:?}", device.name, judged.engine);
        }
    }
}
