//! Whole graphs run on the plugin: every change to ggml's own back end and back costs two
//! changes of thread pool.

#![expect(clippy::unwrap_used, reason = "a test")]

use llama::{
    CacheTypes, Context, ContextParams, FlashAttention, Kernels, Level, LoadMode, Model,
    ModelParams, Placement, Types,
};
use std::sync::Mutex;
use testkit::sized::WeightKind;
use testkit::tiny::{self, Family, Purpose};

static LOG: Mutex<String> = Mutex::new(String::new());

fn note(_: Level, line: &str) {
    let mut log = LOG.lock().unwrap();
    log.push_str(line);
    log.push('\n');
}

/// What llama.cpp says of the parts that it has cut the graphs into, for prompts and answers.
fn splits(family: Family, flash_attention: FlashAttention) -> String {
    let purpose = Purpose {
        experts: WeightKind::Q8_0,
        ..Purpose::default()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tiny::gguf_for(family, purpose)).unwrap();
    let params = ModelParams {
        load_mode: LoadMode::Mmap,
        offload: None,
    };
    let model = Model::load(file.path(), params, |_| true).unwrap();
    LOG.lock().unwrap().clear();
    let params = ContextParams {
        cells: 256,
        batch: 64,
        ubatch: 64,
        sequences: 1,
        outputs: 1,
        placement: Placement::default(),
        types: CacheTypes::Uniform(Types::default()),
        flash_attention,
        swa_full: false,
        embeddings: None,
    };
    Context::new(&model, &params).unwrap();
    let log = LOG.lock().unwrap();
    let (_, rest) = log.split_once("splits = ").unwrap();
    rest.split_once(',').unwrap().0.to_owned()
}

#[test]
fn graphs_of_common_families_are_one_piece() {
    llama::init(note, Kernels::Own);
    let families = [
        Family::Llama,
        Family::Qwen3,
        Family::Qwen3Moe,
        Family::Gemma3,
        Family::Gemma4,
        Family::Lfm2,
    ];
    for family in families {
        for flash_attention in [FlashAttention::On, FlashAttention::Off] {
            let splits = splits(family, flash_attention);
            assert_eq!(splits, "1", "{family:?} with {flash_attention:?}");
        }
    }
    for family in Family::ALL {
        eprintln!(
            "{family:?}: {} {}",
            splits(family, FlashAttention::On),
            splits(family, FlashAttention::Off)
        );
    }
}
