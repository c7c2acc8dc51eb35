//! Caches, to every digit that llama.cpp prints.
//!
//! It prints cells, layers and streams of each cache as integers, and bytes in MiB with two
//! decimals, so that a difference of 5,243 bytes shows. With c cells and l layers a row's
//! bytes are then known to 5,243 / (c l): contexts here are long enough that a wrong row
//! shows.

use std::path::Path;
use std::sync::Mutex;

use engine::{LlamaEngine, OpenOptions};
use kv::{LayerTypes, Part, Plan, WindowCells};
use models::Gguf;
use planner::{Compute, Model, Setup};
use testkit::tiny::{self, Family};

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(_: llama::Level, line: &str) {
    LOG.lock().unwrap().push(line.to_owned());
}

/// One cache as llama.cpp reports it.
#[derive(Debug, PartialEq, Eq)]
struct Reported {
    cells: u64,
    layers: u64,
    /// `None` for states, where it says something else there.
    streams: Option<u64>,
    first_mib: String,
    second_mib: String,
}

/// `size = 0.75 MiB ( 256 cells, 3 layers, 1/1 seqs), K (f16): 0.38 MiB, V (f16): 0.38 MiB`
fn reported(lines: &[String]) -> Vec<Reported> {
    let number = |text: &str, before: &str| -> Option<u64> {
        let (head, _) = text.split_once(before)?;
        let digits: String = head
            .chars()
            .rev()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.chars().rev().collect::<String>().parse().ok()
    };
    let mib = |text: &str, name: &str| -> Option<String> {
        let (_, rest) = text.split_once(&format!("{name} ("))?;
        let (_, rest) = rest.split_once("): ")?;
        Some(rest.trim_start().split_once(" MiB")?.0.to_owned())
    };
    let of = |line: &String| {
        let (_, text) = line.split_once("size = ")?;
        let cells = number(text, " cells")?;
        let is_state = text.contains("R (f32)");
        let (first, second) = if is_state { ("R", "S") } else { ("K", "V") };
        Some(Reported {
            cells,
            layers: number(text, " layers")?,
            streams: if is_state {
                None
            } else {
                number(text, " seqs)")
            },
            first_mib: mib(text, first)?,
            second_mib: mib(text, second)?,
        })
    };
    lines.iter().filter_map(of).collect()
}

fn planned(plan: &Plan, n_layers: u64) -> Vec<Reported> {
    let mib = |bytes: u64| format!("{:.2}", bytes as f32 / 1024.0 / 1024.0);
    let caches = plan.caches.iter();
    let of = |cache: &kv::Cache| Reported {
        cells: cache.cells,
        // Of states llama.cpp counts all layers, those without one as well.
        layers: if cache.part == Part::States {
            n_layers
        } else {
            cache.layers
        },
        streams: (cache.part != Part::States).then_some(cache.streams),
        first_mib: mib(cache.keys_bytes),
        second_mib: mib(cache.values_bytes),
    };
    caches.map(of).collect()
}

/// As the worker tells the engine.
fn types(plan: &Plan, setup: &Setup) -> llama::CacheTypes {
    if !plan.is_mixed() {
        let types = plan.uniform_types().or(setup.types.as_uniform());
        return llama::CacheTypes::Uniform(types.unwrap_or_default());
    }
    let layers = plan.layers.iter().map(|one| LayerTypes {
        layer: one.layer,
        types: one.types,
    });
    llama::CacheTypes::Layers(layers.collect())
}

fn open(path: &Path, setup: &Setup, plan: &Plan) -> LlamaEngine {
    let options = OpenOptions {
        path: path.to_owned(),
        context: Some(setup.context),
        context_max: setup.context,
        slots: setup.slots,
        sequences: setup.sequences,
        batch: setup.batch,
        ubatch: setup.ubatch,
        placement: llama::Placement {
            threads: 1,
            threads_batch: 1,
            ..llama::Placement::default()
        },
        types: types(plan, setup),
        flash_attention: match setup.has_flash_attention {
            true => llama::FlashAttention::On,
            false => llama::FlashAttention::Off,
        },
        offload: None,
        mmap: true,
        mlock: false,
        huge_pages: false,
        swa_full: setup.window == WindowCells::Full,
    };
    LlamaEngine::open(&options, |_| true).expect("the engine opens the model")
}

fn setup(context: u32, slots: u32, types: &str) -> Setup {
    Setup {
        slots,
        batch: 512,
        ubatch: 128,
        types: types.parse().unwrap(),
        compute: Compute::Ggml,
        ..Setup::usual(context)
    }
}

/// Every type of cache once, and what changes the cells.
fn setups(family: Family) -> Vec<Setup> {
    let mut all = vec![
        setup(16_384, 1, "f16"),
        setup(10_000, 4, "q8_0"),
        setup(100, 2, "f32"),
        setup(4_096, 1, "iq4_nl"),
    ];
    // Latent keys and values have one type.
    if family != Family::DeepSeek2 {
        all.push(setup(5_000, 3, "q8_0/q4_0"));
        all.push(setup(4_096, 1, "q5_1/q5_0"));
        all.push(setup(4_096, 1, "bf16/q4_1"));
        all.push(setup(4_096, 1, "k=q8_0,v=q4_0;k[first-third]=f16"));
        all.push(setup(
            5_000,
            2,
            "kv=q4_0;v[last-third]=q5_1;k[first-third]=iq4_nl",
        ));
        all.push(Setup {
            has_flash_attention: false,
            ..setup(
                4_096,
                1,
                "k=f32,v=f16;k[last-third]=f16;v[first-third]=bf16",
            )
        });
    }
    all.push(Setup {
        window: WindowCells::Full,
        ..setup(4_096, 2, "f16")
    });
    all.push(Setup {
        sequences: Some(3),
        ..setup(4_096, 2, "f16")
    });
    all.push(Setup {
        has_flash_attention: false,
        ..setup(4_096, 1, "f16")
    });
    all
}

/// `n_rot_k = 64, n_embd_head_k_all = 128`, once for each cache; one without layers says 0 for
/// its heads. Whether all of them are rotated, keys and then values; values say so under the
/// name of the keys.
fn reported_rotations(lines: &[String]) -> [bool; 2] {
    ["n_rot_k = ", "n_rot_v = "].map(|name| {
        let of = |line: &String| {
            let (_, rest) = line.split_once(name)?;
            let (rotated, heads) = rest.split_once(", n_embd_head_k_all = ")?;
            (heads.trim() != "0").then(|| rotated != "0")
        };
        lines.iter().filter_map(of).all(|rotated| rotated)
    })
}

fn planned_rotations(model: &Model, setup: &Setup, plan: &Plan) -> [bool; 2] {
    let request = setup.request(model);
    let lost = kv::losses(&model.shape, &request, plan, kv::Attention::Ggml);
    let has_no = |wanted: kv::Side| {
        lost.iter()
            .any(|loss| matches!(loss, kv::Loss::NoRotation { side, .. } if *side == wanted))
    };
    [!has_no(kv::Side::Keys), !has_no(kv::Side::Values)]
}

#[test]
fn caches_are_as_the_engine_reports_them() {
    llama::init(note, llama::Kernels::Ggml);
    let folder = tempfile::tempdir().unwrap();
    let (mut rotated, mut mixed) = (0, 0);
    for family in Family::ALL {
        let path = folder
            .path()
            .join(format!("{}.gguf", family.architecture()));
        std::fs::write(&path, tiny::gguf(family)).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let model = Model::read(&[gguf]).unwrap();
        let n_layers = model.n_layers;
        for setup in setups(family) {
            LOG.lock().unwrap().clear();
            let plan = Plan::new(&model.shape, &setup.request(&model)).unwrap();
            let engine = open(&path, &setup, &plan);
            let lines = LOG.lock().unwrap().clone();
            let trunk = u64::from(engine.facts.model.n_layer());
            assert!(trunk <= n_layers);
            assert_eq!(
                reported(&lines),
                planned(&plan, trunk),
                "{family:?} with {setup:?}\n{}",
                lines.join("\n")
            );
            // Every tensor has the type and the bytes that were planned for its layer.
            if plan.is_mixed() {
                let found = engine.facts.layers.iter();
                let found = found.map(|one| (one.layer, one.keys_bytes, one.values_bytes));
                let wanted = plan.layers.iter();
                let wanted = wanted.map(|one| (one.layer, one.keys_bytes, one.values_bytes));
                assert!(found.eq(wanted), "{family:?} with {setup:?}");
                mixed += 1;
            }
            // Of what is not quantised the engine rotates nothing, and nothing is lost.
            let mut types = plan.layers.iter().map(|layer| layer.types);
            let keys = types.clone().any(|types| types.keys.is_quantised());
            let values = types.any(|types| types.values.is_quantised());
            let of = |of: [bool; 2]| [keys && of[0], values && !model.shape.is_latent && of[1]];
            let reported = reported_rotations(&lines);
            let planned = planned_rotations(&model, &setup, &plan);
            assert_eq!(of(reported), of(planned), "{family:?} with {setup:?}");
            rotated += usize::from(of(planned)[0] && model.shape.window.is_some());
        }
    }
    assert!(rotated > 0, "no cache with a window was rotated");
    // Models with one layer of keys have nothing to mix, latent ones may not.
    assert!(mixed >= 3 * 6, "{mixed} plans were mixed");
}
