//! How fast it will be: a band from the machine's bandwidth and integer throughput.
//!
//! A token of decode reads every active weight and the cache once, so it cannot be faster
//! than the memory; a token of prefill multiplies every active weight twice over, so it cannot
//! be faster than the multipliers. What share of those bounds a machine reaches differs by
//! kind and is known only as a range; a measurement replaces it.

use kv::{Part, Plan};

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

/// The machine that computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    pub class: Class,
    /// Bytes a second that the memory can deliver at most.
    pub bandwidth_bytes_s: f64,
    /// 8-bit integer operations a second, all cores; `None` where nobody measured them.
    pub int8_ops_s: Option<f64>,
    /// The bandwidth of the host, where a part of the model stays there; `None` without one.
    pub host_bandwidth_bytes_s: Option<f64>,
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
    let shares = shares(machine.class, setup.compute);
    let weights = model.active_bytes() as f64;
    let layers = model.n_layers as f64;
    let on_host = host_share(model, setup);
    let host = machine
        .host_bandwidth_bytes_s
        .unwrap_or(machine.bandwidth_bytes_s);
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

/// The share of the weights that is read from the slower memory.
fn host_share(model: &Model, setup: &Setup) -> f64 {
    if setup.gpu_layers == 0 {
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
fn shares(class: Class, compute: Compute) -> Shares {
    let band = |low, high| Band { low, high };
    let cpu = match compute {
        Compute::Own => band(0.35, 0.80),
        Compute::Ggml => band(0.05, 0.25),
    };
    match class {
        Class::Board => Shares {
            bandwidth: band(0.16, 0.68),
            // ggml's kernels for these cores reach more of their lower peak.
            multipliers: band(0.10, 0.60),
            layer_seconds: band(0.0, 100e-6),
        },
        Class::Cpu => Shares {
            bandwidth: band(0.40, 0.95),
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
