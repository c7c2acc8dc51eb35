use super::*;
use crate::{Attention, Header, Loss, NoShift, losses};
use proptest::prelude::*;
use std::collections::HashMap;

/// Metadata as a table; arrays are written `1,0,1`.
struct Table(HashMap<&'static str, String>);

impl Table {
    fn new(architecture: &'static str, pairs: &[(&'static str, &str)]) -> Self {
        let mut table: HashMap<_, _> = pairs
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        table.insert("general.architecture", architecture.to_owned());
        Self(table)
    }

    fn value(&self, key: &str) -> Option<&String> {
        let architecture = self.0.get("general.architecture")?;
        let last = key.strip_prefix(&format!("{architecture}.")).unwrap_or(key);
        self.0.get(last)
    }
}

impl Header for Table {
    fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }

    fn numbers(&self, key: &str) -> Option<Vec<u64>> {
        let text = self.value(key).filter(|text| text.contains(','))?;
        Some(text.split(',').map(|one| one.parse().unwrap()).collect())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.value(key).cloned()
    }
}

const SMOLLM2: &[(&str, &str)] = &[
    ("block_count", "30"),
    ("context_length", "8192"),
    ("embedding_length", "576"),
    ("attention.head_count", "9"),
    ("attention.head_count_kv", "3"),
];

const GEMMA3_270M: &[(&str, &str)] = &[
    ("block_count", "18"),
    ("context_length", "32768"),
    ("embedding_length", "640"),
    ("attention.head_count", "4"),
    ("attention.head_count_kv", "1"),
    ("attention.key_length", "256"),
    ("attention.value_length", "256"),
    ("attention.sliding_window", "512"),
];

fn shape(architecture: &'static str, pairs: &[(&'static str, &str)]) -> Shape {
    Shape::read(&Table::new(architecture, pairs)).unwrap()
}

fn request(context: u64, cache_type: CacheType) -> Request {
    Request {
        context,
        sequences: 1,
        batch: 2048,
        ubatch: 512,
        types: TypePlan::uniform(Types {
            keys: cache_type,
            values: cache_type,
        }),
        pool: Pool::Shared,
        window: WindowCells::Window,
        has_flash_attention: true,
        alignment: 32,
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn a_plain_model_takes_its_rows_times_its_cells() {
    let shape = shape("llama", SMOLLM2);
    let plan = Plan::new(&shape, &request(8192, CacheType::F16)).unwrap();
    assert_eq!(plan.bytes(), 23_040 * 8192);
    let short = Plan::new(&shape, &request(100, CacheType::Q8_0)).unwrap();
    assert_eq!((short.cells, short.ubatch), (256, 100));
    assert_eq!(short.bytes(), 12_240 * 256);
}

#[test]
fn parts_of_a_split_pool_are_rounded_each() {
    let shape = shape("llama", SMOLLM2);
    let split = Request {
        pool: Pool::Split,
        sequences: 3,
        ..request(1024, CacheType::F16)
    };
    let plan = Plan::new(&shape, &split).unwrap();
    assert_eq!((plan.context_per_sequence, plan.cells), (512, 1536));
    assert_eq!(plan.caches[0].streams, 3);
    assert_eq!(plan.bytes(), 23_040 * 1536);
}

/// The figures that llama.cpp printed for this model.
#[test]
fn windows_hold_their_tokens_and_a_batch() {
    let shape = shape("gemma3", GEMMA3_270M);
    let plan = Plan::new(&shape, &request(4096, CacheType::Q8_0)).unwrap();
    assert_eq!(plan.caches[0].layers, 3);
    assert_eq!(plan.caches[0].bytes(), 4096 * 3 * 2 * 272);
    assert_eq!((plan.caches[1].cells, plan.caches[1].layers), (1024, 15));
    assert_eq!(plan.caches[1].bytes(), 1024 * 15 * 2 * 272);
    let long = request(32_768, CacheType::F16);
    assert_eq!(Plan::new(&shape, &long).unwrap().bytes(), 111 * MIB);
    let full = Request {
        window: WindowCells::Full,
        ..long.clone()
    };
    assert_eq!(Plan::new(&shape, &full).unwrap().bytes(), 576 * MIB);
    // In a shared pool every sequence has a window: 32 of them save nothing at 8192.
    let many = Request {
        sequences: 32,
        ..request(8192, CacheType::F16)
    };
    let plan = Plan::new(&shape, &many).unwrap();
    assert_eq!(plan.caches[1].cells, 8192);
    let lost = losses(&shape, &many, &plan, Attention::Own);
    assert!(lost.contains(&Loss::NoWindowSaving), "{lost:?}");
    assert!(!lost.contains(&Loss::CannotShift(NoShift::WindowCells)));
}

#[test]
fn latent_models_have_no_values_and_one_type() {
    let shape = shape(
        "deepseek2",
        &[
            ("block_count", "27"),
            ("context_length", "163840"),
            ("embedding_length", "2048"),
            ("attention.head_count", "16"),
            ("attention.head_count_kv", "1"),
            ("attention.key_length", "576"),
            ("attention.value_length", "512"),
            ("attention.key_length_mla", "192"),
            ("attention.value_length_mla", "128"),
        ],
    );
    let plan = Plan::new(&shape, &request(4096, CacheType::F16)).unwrap();
    assert_eq!(plan.bytes(), 27 * 576 * 2 * 4096);
    let with = |types: &str| Request {
        types: types.parse().unwrap(),
        ..request(4096, CacheType::F16)
    };
    let mixed = with("f16/q8_0");
    let error = Plan::new(&shape, &mixed).unwrap_err();
    assert!(error.to_string().contains("must be the same"), "{error}");
    let error = Plan::new(&shape, &with("kv=f16;kv[3]=q8_0")).unwrap_err();
    assert_eq!(error, PlanError::LatentMixed);
    let quantised = request(4096, CacheType::Q8_0);
    let plan = Plan::new(&shape, &quantised).unwrap();
    let lost = losses(&shape, &quantised, &plan, Attention::Ggml);
    assert!(
        lost.contains(&Loss::CannotShift(NoShift::LatentKeys)),
        "{lost:?}"
    );
}

#[test]
fn states_do_not_grow_with_the_context() {
    let shape = shape(
        "mamba",
        &[
            ("block_count", "24"),
            ("context_length", "1048576"),
            ("embedding_length", "768"),
            ("attention.head_count", "0"),
            ("ssm.conv_kernel", "4"),
            ("ssm.inner_size", "1536"),
            ("ssm.state_size", "16"),
            ("ssm.time_step_rank", "48"),
        ],
    );
    let bytes = |context, sequences| {
        let request = Request {
            sequences,
            ..request(context, CacheType::Q4_0)
        };
        Plan::new(&shape, &request).unwrap().bytes()
    };
    assert_eq!(bytes(512, 1), 24 * (3 * 1536 + 16 * 1536) * 4);
    assert_eq!(bytes(512, 1), bytes(100_000, 1));
    assert_eq!(bytes(512, 5), 5 * bytes(512, 1));
}

#[test]
fn hybrids_split_their_layers() {
    let qwen = shape(
        "qwen35",
        &[
            ("block_count", "25"),
            ("nextn_predict_layers", "1"),
            ("context_length", "262144"),
            ("embedding_length", "1024"),
            ("attention.head_count", "8"),
            ("attention.head_count_kv", "2"),
            ("attention.key_length", "256"),
            ("attention.value_length", "256"),
            ("ssm.conv_kernel", "4"),
            ("ssm.inner_size", "2048"),
            ("ssm.state_size", "128"),
            ("ssm.group_count", "16"),
        ],
    );
    let plan = Plan::new(&qwen, &request(4096, CacheType::F16)).unwrap();
    assert_eq!((plan.caches[0].layers, plan.caches[1].layers), (6, 18));
    assert_eq!(plan.bytes_of(Part::Tokens), 6 * 2 * 512 * 2 * 4096);
    let lost = losses(
        &qwen,
        &request(4096, CacheType::F16),
        &plan,
        Attention::Ggml,
    );
    assert_eq!(
        lost,
        [Loss::NoRewind, Loss::CannotShift(NoShift::ManyPositions)]
    );
    let lfm2 = shape(
        "lfm2",
        &[
            ("block_count", "4"),
            ("context_length", "4096"),
            ("embedding_length", "1024"),
            ("attention.head_count", "16"),
            ("attention.head_count_kv", "0,0,8,0"),
            ("shortconv.l_cache", "3"),
        ],
    );
    let plan = Plan::new(&lfm2, &request(4096, CacheType::F16)).unwrap();
    assert_eq!((plan.caches[0].layers, plan.caches[1].layers), (1, 3));
    assert_eq!(plan.bytes_of(Part::States), 3 * 1024 * 2 * 4);
}

#[test]
fn what_the_engine_refuses_is_refused_with_the_figures() {
    let model = shape("llama", SMOLLM2);
    let mut plain = request(4096, CacheType::Q8_0);
    plain.has_flash_attention = false;
    assert!(matches!(
        Plan::new(&model, &plain),
        Err(PlanError::NeedsFlash { .. })
    ));
    let none = Plan::new(&model, &request(0, CacheType::F16)).unwrap_err();
    assert_eq!(
        none.to_string(),
        "the context is 0, it must be between 1 and 2147483648"
    );
    let narrow: Vec<_> = SMOLLM2
        .iter()
        .copied()
        .chain([
            ("attention.key_length", "80"),
            ("attention.value_length", "80"),
        ])
        .collect();
    let narrow = shape("llama", &narrow);
    assert!(Plan::new(&narrow, &request(4096, CacheType::F16)).is_ok());
    let error = Plan::new(&narrow, &request(4096, CacheType::Q8_0)).unwrap_err();
    assert!(error.to_string().contains("a head of 80"), "{error}");
}

/// SmolLM2 takes 8,592 bytes a token with 8 bits in eleven layers and 4 in the others.
#[test]
fn layers_of_different_types_take_their_own_bytes() {
    let shape = shape("llama", SMOLLM2);
    let with = |types: &str| Request {
        types: types.parse().unwrap(),
        ..request(4096, CacheType::F16)
    };
    let of = |types: &str| Plan::new(&shape, &with(types)).unwrap();
    let eleven = of("kv=q4_0;kv[0-10]=q8_0");
    assert_eq!(eleven.bytes(), 8592 * 4096);
    assert_eq!(of("kv=q4_0;kv[19-29]=q8_0").bytes(), eleven.bytes());
    assert_eq!(of("k=q8_0,v=q4_0").bytes(), 9360 * 4096);
    assert_eq!(of("first-third").bytes(), 8400 * 4096);
    let plan = of("k=q8_0,v=q4_0;k[18,20,23]=f16");
    assert!(plan.is_mixed() && plan.uniform_types().is_none());
    assert_eq!(plan.layers.len(), 30);
    assert_eq!(plan.layers[20].keys_bytes, 192 * 2 * 4096);
    assert_eq!(plan.layers[21].keys_bytes, 204 * 4096);
    assert_eq!(plan.layers[20].values_bytes, 108 * 4096);
    let sum: u64 = plan.layers.iter().map(LayerCache::bytes).sum();
    assert_eq!(sum, plan.bytes());
    // What it comes to counts, not how it is written.
    assert!(!of("kv=q8_0;k[1-29]=f16;k=q8_0").is_mixed());
    assert!(!of("kv=q8_0;kv[3]=q8_0").is_mixed());
}

/// Layers without a window come first, as llama.cpp makes them.
#[test]
fn layers_are_in_the_order_of_their_tensors() {
    let shape = shape("gemma3", GEMMA3_270M);
    let plan = Plan::new(&shape, &request(4096, CacheType::F16)).unwrap();
    let order: Vec<_> = plan.layers.iter().map(|layer| layer.layer).collect();
    assert_eq!(order[..5], [5, 11, 17, 0, 1]);
    assert_eq!(plan.layers[2].part, Part::Tokens);
    assert_eq!(plan.layers[3].part, Part::Window);
}

#[test]
fn what_a_mixed_plan_loses_is_told() {
    let shape = shape("llama", SMOLLM2);
    let told = |types: &str| {
        let request = Request {
            types: types.parse().unwrap(),
            ..request(4096, CacheType::F16)
        };
        let plan = Plan::new(&shape, &request).unwrap();
        losses(&shape, &request, &plan, Attention::Ggml)
    };
    let mixed = told("k=q8_0,v=f16;k[3]=f16");
    assert_eq!(
        mixed,
        [
            Loss::SlowAttention {
                keys: CacheType::Q8_0,
                values: CacheType::F16
            },
            Loss::CannotShift(NoShift::MixedKeys)
        ]
    );
    assert_eq!(told("k=f16,v=q8_0;v[3]=f16").len(), 1);
    assert!(!told("k=q8_0,v=f16;k[3]=q4_0").contains(&Loss::CannotShift(NoShift::MixedKeys)));
}

/// llama.cpp is told one type for a side, and checks all layers by it.
#[test]
fn one_quantised_layer_is_enough_for_the_checks() {
    let model = shape("llama", SMOLLM2);
    let plain = Request {
        types: "kv=f16;v[7]=q8_0".parse().unwrap(),
        has_flash_attention: false,
        ..request(4096, CacheType::F16)
    };
    assert!(matches!(
        Plan::new(&model, &plain),
        Err(PlanError::NeedsFlash { .. })
    ));
    let narrow: Vec<_> = SMOLLM2
        .iter()
        .copied()
        .chain([("attention.key_length", "80")])
        .collect();
    let narrow = shape("llama", &narrow);
    let mixed = Request {
        types: "kv=f16;k[7]=q8_0".parse().unwrap(),
        ..request(4096, CacheType::F16)
    };
    let error = Plan::new(&narrow, &mixed).unwrap_err().to_string();
    assert!(error.contains("a head of 80"), "{error}");
}

#[test]
fn strangers_are_refused_by_name() {
    let unknown = Shape::read(&Table::new("nova", SMOLLM2)).unwrap_err();
    assert!(unknown.to_string().contains("`nova`"), "{unknown}");
    let underived = Shape::read(&Table::new("deepseek4", SMOLLM2)).unwrap_err();
    assert!(underived.to_string().contains("kv_bytes"), "{underived}");
    let odd = [("block_count", "100000")];
    let error = Shape::read(&Table::new("llama", &odd)).unwrap_err();
    assert!(error.to_string().contains("at most 512"), "{error}");
}

/// Figures at their bounds come out as too many bytes, never as few.
#[test]
fn figures_at_their_bounds_are_refused_and_take_no_part_of_a_number() {
    let wide = shape(
        "llama",
        &[
            ("block_count", "2"),
            ("context_length", "16777216"),
            ("embedding_length", "16777216"),
            ("attention.head_count", "16777216"),
            ("attention.head_count_kv", "16777216"),
            ("attention.key_length", "16777216"),
            ("attention.value_length", "16777216"),
        ],
    );
    let error = Plan::new(&wide, &request(1 << 24, CacheType::F16)).unwrap_err();
    assert_eq!(error, PlanError::Bytes { max: 1 << 56 });
    assert!(error.to_string().contains("less context"), "{error}");
    let state = shape(
        "kimi-linear",
        &[
            ("block_count", "1"),
            ("context_length", "4096"),
            ("embedding_length", "64"),
            ("attention.head_count", "16777216"),
            ("attention.head_count_kv", "0"),
            ("kda.head_dim", "16777216"),
            ("ssm.conv_kernel", "16777216"),
        ],
    );
    let error = Plan::new(&state, &request(4096, CacheType::F16)).unwrap_err();
    assert_eq!(error, PlanError::Bytes { max: 1 << 56 });
}

/// Gemma 4's widths: 256 values with a window, 512 without, each in a cache of its own.
#[test]
fn each_cache_is_rotated_by_itself() {
    let shape = shape(
        "gemma4",
        &[
            ("block_count", "4"),
            ("context_length", "32768"),
            ("embedding_length", "1024"),
            ("attention.head_count", "4"),
            ("attention.head_count_kv", "1"),
            ("attention.key_length", "512"),
            ("attention.value_length", "512"),
            ("attention.key_length_swa", "256"),
            ("attention.value_length_swa", "256"),
            ("attention.sliding_window", "512"),
            ("attention.sliding_window_pattern", "1,1,1,0"),
        ],
    );
    let request = Request {
        window: WindowCells::Full,
        ..request(4096, CacheType::Q8_0)
    };
    let plan = Plan::new(&shape, &request).unwrap();
    let lost = losses(&shape, &request, &plan, Attention::Own);
    assert_eq!(lost, [Loss::NoWindowSaving]);
}

#[test]
fn a_model_without_layers_is_refused() {
    let header = Table::new("llama", &[("block_count", "0"), ("embedding_length", "64")]);
    let refused = Shape::read(&header).unwrap_err().to_string();
    assert!(refused.contains("`llama.block_count` is 0"), "{refused}");
}

/// Metadata that answer every key with one of a few numbers.
#[derive(Debug)]
struct Any {
    architecture: &'static str,
    numbers: Vec<Option<u64>>,
}

impl Header for Any {
    fn number(&self, key: &str) -> Option<u64> {
        let sum: usize = key.bytes().map(usize::from).sum();
        self.numbers[sum % self.numbers.len()]
    }

    fn numbers(&self, _: &str) -> Option<Vec<u64>> {
        None
    }

    fn text(&self, _: &str) -> Option<String> {
        Some(self.architecture.to_owned())
    }
}

fn any_number() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        3 => Just(None),
        5 => (0u64..64).prop_map(Some),
        4 => (0u32..25).prop_map(|shift| Some(1 << shift)),
        1 => any::<u64>().prop_map(Some),
    ]
}

proptest! {
    // A header's keys are many and most are refused: the usual number of cases finds little.
    #![proptest_config(ProptestConfig::with_cases(16_384))]

    /// Whatever a header says, nothing ends the process, and no cache is smaller than its
    /// rows, counted in wider numbers.
    #[test]
    fn any_header_is_refused_or_planned_in_full(
        at in 0usize..crate::ARCHITECTURES.len(),
        numbers in proptest::collection::vec(any_number(), 31),
        context in prop_oneof![1u64..100_000, Just(1 << 24), Just(1 << 31)],
        sequences in 1u64..=256,
    ) {
        let header = Any { architecture: crate::ARCHITECTURES[at], numbers };
        let Ok(shape) = Shape::read(&header) else { return Ok(()) };
        let request = Request { sequences, ..request(context, CacheType::F16) };
        let Ok(plan) = Plan::new(&shape, &request) else { return Ok(()) };
        let _ = losses(&shape, &request, &plan, Attention::Own);
        for cache in plan.caches.iter().filter(|cache| cache.part == Part::Tokens) {
            let layers = shape.layers.iter();
            let here = layers.filter(|layer| shape.window.is_none() || !layer.is_windowed);
            let keys = here.filter_map(|layer| layer.keys_values);
            let values = keys.map(|one| u128::from(one.heads) * u128::from(one.key_width));
            let bytes = values.sum::<u128>() * 2 * u128::from(cache.cells);
            prop_assert!(u128::from(cache.keys_bytes) >= bytes, "{cache:?}");
        }
        if shape.has_state() {
            let states = shape.layers.iter().filter(|layer| layer.has_state).count() as u128;
            let one = u128::from(shape.state.shift_values) + u128::from(shape.state.sum_values);
            let bytes = states * one * u128::from(sequences) * 4;
            prop_assert!(u128::from(plan.bytes_of(Part::States)) >= bytes);
        }
    }

    /// More context, more sequences or wider types never take fewer bytes.
    #[test]
    fn bytes_grow_with_what_is_asked_for(
        context in 1u64..100_000,
        more in 0u64..100_000,
        sequences in 1u64..64,
        at in 0usize..8,
    ) {
        let shape = shape("gemma3", GEMMA3_270M);
        let bytes = |context, sequences, cache_type| {
            let request = Request { sequences, ..request(context, cache_type) };
            Plan::new(&shape, &request).unwrap().bytes()
        };
        let (wide, narrow) = (CacheType::ALL[at], CacheType::ALL[at + 1]);
        let base = bytes(context, sequences, narrow);
        prop_assert!(bytes(context + more, sequences, narrow) >= base);
        prop_assert!(bytes(context, sequences + 1, narrow) >= base);
        prop_assert!(bytes(context, sequences, wide) >= base);
    }
}
