//! A table that others measured: Qwen3.5 on an RK3588 with llama.cpp and a q4_0/q4_0 cache.
//!
//! Shapes are those of the models' published configurations. Two things are inferred from the
//! table itself, since its programs are not at hand. Its cache figures are, for all five
//! models and to the MiB, the q4_0 cache of the layers that attend and 16 bits more for each
//! value of one layer's keys; what those are is not said. And its figures for the weights of
//! the two models whose output is a matrix of its own leave out one table of Q6_K.

use kv::{Header, Part, Plan, Pool, Request, Shape, WindowCells};
use planner::{Compute, Model, Role, Setup, Tensor, device_named, predict};

const MIB: f64 = 1024.0 * 1024.0;
const N_VOCAB: f64 = 248_320.0;
/// Of a model in Q6_K.
const Q6_K_BITS: f64 = 6.5625;

/// Facts of one model, and what was measured.
struct Row {
    name: &'static str,
    layers: u64,
    embd: u64,
    ff: u64,
    heads: u64,
    heads_kv: u64,
    /// Heads of the gated delta net's values; its keys have 16, all of 128 values.
    value_heads: u64,
    is_tied: bool,
    bits_per_weight: f64,
    context: u64,
    weights_mib: f64,
    kv_mib: f64,
    /// Tokens a second.
    prefill: f64,
    decode: f64,
}

const fn row(
    name: &'static str,
    [layers, embd, ff]: [u64; 3],
    [heads, heads_kv, value_heads]: [u64; 3],
    is_tied: bool,
    [bits_per_weight, weights_mib, kv_mib]: [f64; 3],
    (context, [prefill, decode]): (u64, [f64; 2]),
) -> Row {
    Row {
        name,
        layers,
        embd,
        ff,
        heads,
        heads_kv,
        value_heads,
        is_tied,
        bits_per_weight,
        context,
        weights_mib,
        kv_mib,
        prefill,
        decode,
    }
}

const ROWS: [Row; 5] = [
    row(
        "0.8B",
        [24, 1024, 3584],
        [8, 2, 16],
        true,
        [5.55, 497.39, 70.0],
        (16_384, [54.58, 12.07]),
    ),
    row(
        "2B",
        [24, 2048, 6144],
        [8, 2, 16],
        true,
        [5.40, 1211.05, 140.0],
        (32_768, [32.44, 8.68]),
    ),
    row(
        "4B",
        [32, 2560, 9216],
        [16, 4, 32],
        true,
        [5.19, 2603.5, 176.0],
        (16_384, [13.01, 3.62]),
    ),
    row(
        "9B",
        [32, 4096, 12_288],
        [16, 4, 32],
        false,
        [5.07, 4611.21, 88.0],
        (8_192, [7.61, 2.48]),
    ),
    row(
        "27B",
        [64, 5120, 17_408],
        [24, 4, 48],
        false,
        [4.92, 14_768.92, 80.0],
        (4_096, [1.37, 0.62]),
    ),
];

impl Header for Row {
    fn number(&self, key: &str) -> Option<u64> {
        Some(match key.strip_prefix("qwen35.")? {
            "block_count" => self.layers,
            "context_length" => 262_144,
            "embedding_length" => self.embd,
            "feed_forward_length" => self.ff,
            "attention.head_count" => self.heads,
            "attention.head_count_kv" => self.heads_kv,
            "attention.key_length" | "attention.value_length" => 256,
            "ssm.conv_kernel" => 4,
            "ssm.state_size" => 128,
            "ssm.group_count" => 16,
            "ssm.inner_size" => 128 * self.value_heads,
            _ => return None,
        })
    }

    fn numbers(&self, _: &str) -> Option<Vec<u64>> {
        None
    }

    fn text(&self, _: &str) -> Option<String> {
        Some("qwen35".to_owned())
    }
}

impl Row {
    /// Weights of all tensors, from the widths.
    fn parameters(&self) -> f64 {
        let (embd, ff) = (self.embd as f64, self.ff as f64);
        let (keys, values) = (16.0 * 128.0, 128.0 * self.value_heads as f64);
        let feed_forward = 3.0 * embd * ff;
        let conv = 4.0 * (2.0 * keys + values);
        let gates = 2.0 * embd * self.value_heads as f64;
        let delta = embd * (2.0 * keys + values) + 2.0 * embd * values + conv + gates;
        let queries = 256.0 * self.heads as f64;
        // Queries come with a gate of the same width.
        let attention = embd * (3.0 * queries + 2.0 * 256.0 * self.heads_kv as f64);
        let attending = (self.layers / 4) as f64;
        let tables = if self.is_tied { 1.0 } else { 2.0 } * N_VOCAB * embd;
        let layers = self.layers as f64;
        tables + layers * feed_forward + attending * attention + (layers - attending) * delta
    }

    fn weights_mib(&self) -> f64 {
        let left_out = if self.is_tied {
            0.0
        } else {
            N_VOCAB * self.embd as f64
        };
        (self.parameters() * self.bits_per_weight - left_out * Q6_K_BITS) / 8.0 / MIB
    }

    fn kv_mib(&self) -> f64 {
        let shape = Shape::read(self).unwrap();
        let request = Request {
            context: self.context,
            sequences: 1,
            batch: 2048,
            ubatch: 512,
            types: "q4_0".parse().unwrap(),
            pool: Pool::Shared,
            window: WindowCells::Window,
            has_flash_attention: true,
            alignment: 32,
        };
        let tokens = Plan::new(&shape, &request).unwrap().bytes_of(Part::Tokens);
        let inferred = 2 * 256 * self.heads_kv * self.context;
        (tokens + inferred) as f64 / MIB
    }
}

impl Row {
    /// The model as one matrix, which is all that its speed depends on.
    fn model(&self) -> Model {
        let table = if self.is_tied {
            0.0
        } else {
            N_VOCAB * self.embd as f64
        };
        let weight = Tensor {
            name: "all.weight".to_owned(),
            kind: "Q4_K",
            row: 1,
            rows: (self.parameters() - table) as u64,
            bytes: (self.weights_mib * MIB) as u64,
            role: Role::Weight,
            layer: None,
            is_matrix: true,
            matrices: 1,
        };
        Model {
            shape: Shape::read(self).unwrap(),
            tensors: vec![weight],
            n_vocab: N_VOCAB as u64,
            n_embd: self.embd,
            n_layers: self.layers,
            n_ff: self.ff,
            n_head: self.heads,
            experts: 0,
            experts_used: 0,
            is_tied: false,
        }
    }
}

/// The same table's speeds, of which the largest model's were taken with half of the cores.
#[test]
fn published_speeds_lie_in_the_bands() {
    let board = device_named("rk3588-lpddr5").unwrap().machine;
    for row in ROWS {
        let model = row.model();
        let setup = Setup {
            types: "q4_0".parse().unwrap(),
            compute: Compute::Ggml,
            ..Setup::usual(row.context as u32)
        };
        let plan = Plan::new(&model.shape, &setup.request(&model)).unwrap();
        let speed = predict(&model, &setup, &plan, &board);
        let prefill = speed.prefill.unwrap();
        let bands = [(speed.decode, row.decode), (prefill, row.prefill)];
        for (band, measured) in bands {
            let name = row.name;
            assert!(
                (band.low..band.high).contains(&measured),
                "{name}: {measured} is not in {band:?}"
            );
        }
    }
}

#[test]
fn the_table_of_an_rk3588_is_met_within_three_percent() {
    for row in ROWS {
        let weights = row.weights_mib() / row.weights_mib - 1.0;
        let kv = row.kv_mib() / row.kv_mib - 1.0;
        eprintln!(
            "{}: weights {:.1} MiB ({:+.2} %), KV {:.1} MiB ({:+.2} %)",
            row.name,
            row.weights_mib(),
            100.0 * weights,
            row.kv_mib(),
            100.0 * kv
        );
        assert!(weights.abs() < 0.03, "{}: {weights}", row.name);
        assert!(kv.abs() < 0.03, "{}: {kv}", row.name);
    }
}
