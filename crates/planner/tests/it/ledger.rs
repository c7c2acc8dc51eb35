//! What goes where: layers on a GPU, and models that only embed.

use kv::Plan;
use models::Gguf;
use models::gguf::write::Writer;
use planner::{Compute, Kind, Ledger, Model, Others, Place, Purpose, Setup};
use testkit::tiny::{self, Family};

fn setup(purpose: Purpose, gpu_layers: u32) -> Setup {
    Setup {
        batch: 512,
        ubatch: 128,
        types: "f16/q8_0".parse().unwrap(),
        compute: Compute::Ggml,
        gpu_layers,
        purpose,
        ..Setup::usual(4096)
    }
}

fn read(bytes: &[u8]) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Model::read(&[Gguf::open(&path).unwrap()]).unwrap()
}

fn ledger(model: &Model, setup: &Setup) -> (Plan, Ledger) {
    let plan = Plan::new(&model.shape, &setup.request(model)).unwrap();
    let ledger = Ledger::of(model, setup, &plan, &Others::default());
    (plan, ledger)
}

fn caches_in(ledger: &Ledger, place: Place) -> u64 {
    let terms = ledger.terms.iter();
    let there = terms.filter(|term| term.kind == Kind::Caches && term.place == place);
    there.map(|term| term.bytes.0).sum()
}

/// The output counts as a layer and goes first, and a layer takes its own caches with it.
#[test]
fn caches_lie_where_their_layers_are() {
    for family in [Family::Llama, Family::Qwen35, Family::Gemma4] {
        let model = read(&tiny::gguf(family));
        let layers = u32::try_from(model.n_layers).unwrap();
        let (plan, alone) = ledger(&model, &setup(Purpose::Generate, 0));
        assert_eq!(caches_in(&alone, Place::Host), plan.bytes());
        for gpu_layers in 1..=layers + 1 {
            let (_, ledger) = ledger(&model, &setup(Purpose::Generate, gpu_layers));
            let first = (layers + 1 - gpu_layers) as usize;
            let mut there = model.shape.clone();
            for layer in &mut there.layers[..first] {
                *layer = kv::Layer::default();
            }
            let request = setup(Purpose::Generate, 0).request(&model);
            let expected = Plan::new(&there, &request).unwrap().bytes();
            assert_eq!(caches_in(&ledger, Place::Device), expected, "{gpu_layers}");
            let on_host = plan.bytes() - expected;
            assert_eq!(caches_in(&ledger, Place::Host), on_host, "{gpu_layers}");
        }
        let (_, output) = ledger(&model, &setup(Purpose::Generate, 1));
        assert_eq!(caches_in(&output, Place::Device), 0, "{family:?}");
    }
}

/// A model that only embeds has no context before the first text; then one sequence.
#[test]
fn an_embedder_makes_its_context_later() {
    let model = read(
        &Writer::tiny_model()
            .u32("llama.embedding_length", 256)
            .u32("llama.attention.head_count", 4)
            .u32("llama.attention.head_count_kv", 2)
            .bytes(),
    );
    let embeds = setup(Purpose::Embed, 0);
    let (plan, ledger) = ledger(&model, &embeds);
    assert_eq!(embeds.sequences(&model), 1);
    assert_eq!(plan.ubatch, u64::from(embeds.context));
    // Keys and values in 16 bits, whatever the settings say.
    let row = 2 * 64 * 2;
    let layers = model.n_layers;
    assert_eq!(plan.bytes(), layers * 2 * row * u64::from(embeds.context));
    assert_eq!(caches_in(&ledger, Place::Later), plan.bytes());
    assert_eq!(caches_in(&ledger, Place::Host), 0);
    let at_once = ledger.terms.iter().filter(|term| term.place == Place::Host);
    assert!(
        at_once
            .clone()
            .all(|term| matches!(term.kind, Kind::Weights | Kind::Process)),
        "{ledger:?}"
    );
    // Logits and a vector for each token of the longest text.
    let rows: u64 = ledger
        .terms
        .iter()
        .filter(|term| term.name.starts_with("output rows"))
        .map(|term| term.bytes.0)
        .sum();
    let width = model.n_vocab + model.n_embd;
    assert_eq!(rows, width * u64::from(embeds.context) * 4);
}
