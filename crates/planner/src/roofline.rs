//! How fast it will be: a band from the machine's bandwidth and integer throughput.
//!
//! A token of decode reads every active weight and the cache once, so it cannot be faster
//! than the memory; a token of prefill multiplies every active weight twice over, so it cannot
//! be faster than the multipliers. What share of those bounds a machine reaches differs by
//! kind and is known only as a range; a measurement replaces it.

use kv::{Part, Plan};

use crate::device::unmeasured;
use crate::model::Model;
use crate::setup::{Compute, Setup};

/// What kind of memory and multipliers a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A small board: few cores on narrow memory.
    Board,
    /// A desktop's, a laptop's or a server's CPU.
    Cpu,
    /// A GPU that shares the system's memory.
    UnifiedGpu,
    /// A GPU with memory of its own.
    Gpu,
}

/// Where a machine's figures are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Of data sheets and arithmetic: nothing reaches them.
    Peak,
    /// Of loops that ran there.
    Measured,
}

/// The machine that computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    pub class: Class,
    pub source: Source,
    /// Bytes a second that the memory can deliver at most.
    pub bandwidth_bytes_s: f64,
    /// 8-bit integer operations a second, all cores; `None` where nobody measured them.
    pub int8_ops_s: Option<f64>,
}

/// A range that the true value is expected in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    pub low: f64,
    pub high: f64,
}

/// Predicted speeds, tokens a second, for one stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// At the start of a context.
    pub decode: Band,
    /// When the context is full.
    pub decode_full: Band,
    /// `None` where the machine's integer throughput is not known.
    pub prefill: Option<Band>,
}

/// Shares of the peak that are reached.
struct Shares {
    bandwidth: Band,
    multipliers: Band,
    /// Seconds a layer costs a pass besides memory and multipliers.
    layer_seconds: Band,
}

/// Predicts the speed of a setup.
#[must_use]
pub fn predict(model: &Model, setup: &Setup, plan: &Plan, machine: &Machine) -> Speed {
    let shares = shares(machine, setup.compute);
    let weights = model.active_bytes() as f64;
    let layers = model.n_layers as f64;
    let on_host = host_share(model, setup, machine);
    let host = unmeasured().bandwidth_bytes_s;
    let seconds = |bytes: f64, share: f64, overhead: f64| {
        let fast = bytes * (1.0 - on_host) / (machine.bandwidth_bytes_s * share);
        let slow = bytes * on_host / (host * share);
        fast + slow + layers * overhead
    };
    let decode = |cache: f64| Band {
        low: 1.0
            / seconds(
                weights + cache,
                shares.bandwidth.low,
                shares.layer_seconds.high,
            ),
        high: 1.0
            / seconds(
                weights + cache,
                shares.bandwidth.high,
                shares.layer_seconds.low,
            ),
    };
    let operations = 2.0 * model.active_weights() as f64;
    Speed {
        decode: decode(state_bytes(setup, model, plan)),
        decode_full: decode(read_bytes(setup, model, plan)),
        prefill: machine.int8_ops_s.map(|peak| Band {
            low: peak * shares.multipliers.low / operations,
            high: peak * shares.multipliers.high / operations,
        }),
    }
}

/// The share of the weights that a GPU leaves to its host, which is taken for a slow desktop.
fn host_share(model: &Model, setup: &Setup, machine: &Machine) -> f64 {
    if machine.class != Class::Gpu {
        return 0.0;
    }
    let layers = (model.n_layers + 1) as f64;
    1.0 - (f64::from(setup.gpu_layers) / layers).min(1.0)
}

/// Bytes of the states that one sequence reads for a token.
fn state_bytes(setup: &Setup, model: &Model, plan: &Plan) -> f64 {
    plan.bytes_of(Part::States) as f64 / f64::from(setup.sequences(model))
}

/// Bytes of the caches that one sequence reads for a token when the context is full. Of the
/// window's cells it reads those of one sequence.
fn read_bytes(setup: &Setup, model: &Model, plan: &Plan) -> f64 {
    let window = model.shape.window.map_or(0, |window| window.tokens) as f64;
    let of = |part: Part| plan.caches.iter().find(|cache| cache.part == part);
    let windows = of(Part::Window).map_or(0.0, |cache| {
        cache.bytes() as f64 * (window / cache.cells.max(1) as f64).min(1.0)
    });
    let whole = plan.bytes_of(Part::Tokens) + plan.bytes_of(Part::Index);
    whole as f64 + windows + state_bytes(setup, model, plan)
}

/// From `docs/planner.md`: ranges that published and own measurements fall into.
fn shares(machine: &Machine, compute: Compute) -> Shares {
    let band = |low, high| Band { low, high };
    let cpu = match compute {
        Compute::Own => band(0.35, 0.80),
        Compute::Ggml => band(0.05, 0.25),
    };
    // A loop that only reads gets 0.6 to 0.9 of the peak.
    let reading = match (machine.class, machine.source) {
        (Class::Board, Source::Peak) => band(0.16, 0.68),
        (Class::Board, Source::Measured) => band(0.20, 0.95),
        (_, Source::Peak) => band(0.25, 0.85),
        (_, Source::Measured) => band(0.40, 0.95),
    };
    match machine.class {
        Class::Board => Shares {
            bandwidth: reading,
            // ggml's kernels for these cores reach more of their lower peak.
            multipliers: band(0.10, 0.60),
            layer_seconds: band(0.0, 100e-6),
        },
        Class::Cpu => Shares {
            bandwidth: reading,
            multipliers: cpu,
            layer_seconds: band(10e-6, 100e-6),
        },
        Class::UnifiedGpu => Shares {
            bandwidth: band(0.50, 0.82),
            multipliers: band(0.20, 0.70),
            layer_seconds: band(5e-6, 60e-6),
        },
        Class::Gpu => Shares {
            bandwidth: band(0.55, 0.85),
            multipliers: band(0.20, 0.70),
            layer_seconds: band(2e-6, 30e-6),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::device_named;
    use models::Gguf;
    use testkit::tiny::{Family, gguf};

    #[test]
    fn what_a_gpu_leaves_to_its_host_is_read_at_the_hosts_pace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), gguf(Family::Llama)).unwrap();
        let model = Model::read(&[Gguf::open(file.path()).unwrap()]).unwrap();
        let card = device_named("rtx4090").unwrap().machine;
        let with = |gpu_layers| {
            let setup = Setup {
                batch: 512,
                compute: Compute::Ggml,
                gpu_layers,
                ..Setup::usual(512)
            };
            let plan = Plan::new(&model.shape, &setup.request(&model)).unwrap();
            predict(&model, &setup, &plan, &card).decode.high
        };
        // Three layers and the output.
        assert!(with(0) < with(2) && with(2) < with(4));
        assert!((with(4) - with(9)).abs() < 1e-9);
    }
}
