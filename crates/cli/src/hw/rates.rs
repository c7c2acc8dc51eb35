//! How fast this build's kernels go here, by the type of the weights: what predictions of
//! speed are made from.
//!
//! Two loops a type, over panels of random-looking weights. *Decode*: one column of
//! activations, and so many panels that they come from memory. *Prefill*: a pass's worth of
//! columns, panel after panel. Both count operations, two a weight and column.

use hardware::Machine;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hardware::measure::{Measured, Workload};
use kernels::Isa;
use kernels::matmul::{
    Operands, PANEL_ROWS, Products, TILE_COLUMNS, WeightType, multiply, quantize_tile, tile_bytes,
};
use kernels::memory::RepeatedPanel;
use planner::{KernelRate, Rates};

/// Elements of a row: a width that models have, and whole blocks of every type.
const K: usize = 1024;
/// Panels of a call of the decode loop.
const DECODE_PANELS: usize = 32;
/// Panels and tiles of a call of the prefill loop: 480 columns.
const PREFILL_PANELS: usize = 2;
const PREFILL_TILES: usize = 40;
/// Of all threads together: beyond the last cache, within reason.
const TIMES_CACHE: u64 = 4;
const MEMORY_MIN_BYTES: u64 = 128 << 20;
const MEMORY_MAX_BYTES: u64 = 1 << 30;
/// Of what is available.
const AVAILABLE_SHARE: u64 = 4;
/// More than a call of any loop reads.
const CORE_MIN_BYTES: u64 = 1 << 20;
const MEMORY_PATTERN_BYTES: usize = 64 << 10;

/// Which of a type's two loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loop {
    Decode,
    Prefill,
}

impl Loop {
    const ALL: [Self; 2] = [Self::Decode, Self::Prefill];

    fn name(self, kind: WeightType) -> String {
        match self {
            Self::Decode => format!("decode {kind:?}"),
            Self::Prefill => format!("prefill {kind:?}"),
        }
    }

    fn operations(self) -> f64 {
        let (panels, columns) = match self {
            Self::Decode => (DECODE_PANELS, 1),
            Self::Prefill => (PREFILL_PANELS, PREFILL_TILES * TILE_COLUMNS),
        };
        (2 * panels * PANEL_ROWS * K * columns) as f64
    }
}

type Make = Box<dyn Fn() -> Box<dyn FnMut()> + Sync>;

/// The loops of all types.
pub(super) struct Kernels(Vec<(String, f64, Make)>);

impl Kernels {
    pub(super) fn of(isa: Isa, machine: &Machine) -> Self {
        let caches = machine.processor.last_level_bytes().unwrap_or_default();
        let wanted = caches.0.saturating_mul(TIMES_CACHE);
        let cores = machine.plan.decode.cpus.len();
        let room = machine
            .budget()
            .map_or(MEMORY_MAX_BYTES, |all| all.0 / AVAILABLE_SHARE);
        let wanted = wanted.clamp(MEMORY_MIN_BYTES, MEMORY_MAX_BYTES).min(room);
        let all = wanted.max(CORE_MIN_BYTES * cores as u64);
        let memory = Arc::new(Memory::new(all as usize, cores));
        let both = WeightType::ALL
            .into_iter()
            .flat_map(|kind| Loop::ALL.map(|which| (kind, which)));
        let loops = both.map(|(kind, which)| {
            let memory = Arc::clone(&memory);
            let make: Make = match which {
                Loop::Decode => Box::new(move || decode(isa, kind, &memory)),
                Loop::Prefill => Box::new(move || prefill(isa, kind, &memory)),
            };
            (which.name(kind), which.operations(), make)
        });
        Self(loops.collect())
    }

    pub(super) fn workloads(&self) -> Vec<Workload<'_>> {
        let each = self.0.iter().map(|(name, operations, make)| Workload {
            name,
            operations: *operations,
            make,
        });
        each.collect()
    }
}

/// What all loops read: bytes below 0x30, which are small weights and small scales in every
/// format.
struct Memory {
    bytes: RepeatedPanel,
    n_parts: usize,
    /// Counts the threads that took a part.
    n_taken: AtomicUsize,
}

impl Memory {
    fn new(len: usize, n_parts: usize) -> Self {
        let pattern: Vec<u8> = (0..MEMORY_PATTERN_BYTES)
            .map(|index| (index * 7 % 0x30) as u8)
            .collect();
        Self {
            bytes: RepeatedPanel::new(&pattern, len / MEMORY_PATTERN_BYTES),
            n_parts: n_parts.max(1),
            n_taken: AtomicUsize::new(0),
        }
    }

    /// Another part of it for each thread of a loop.
    fn part(&self) -> Range<usize> {
        let part = self.n_taken.fetch_add(1, Ordering::Relaxed) % self.n_parts;
        let len = self.bytes.len() / self.n_parts;
        part * len..(part + 1) * len
    }
}

/// What was measured, as the planner wants it: medians, which are what a model sees. `None`
/// where something of it is missing.
pub(crate) fn of_measured(measured: &Measured) -> Option<Rates> {
    const GIGA: f64 = 1e9;
    let rate = |which: Loop, kind| {
        let name = which.name(kind);
        let point = measured.kernels.iter().find(|point| point.name == name)?;
        Some(point.median_giga_per_second * GIGA)
    };
    let kernels = WeightType::ALL.into_iter().filter_map(|kind| {
        Some(KernelRate {
            kind: format!("{kind:?}"),
            decode_ops_s: rate(Loop::Decode, kind)?,
            prefill_ops_s: rate(Loop::Prefill, kind)?,
        })
    });
    let kernels: Vec<_> = kernels.collect();
    let f32_on = |n_cores| {
        let points = measured.compute.iter();
        let mut f32 = points.filter(|point| point.name == "f32" && point.n_cores == n_cores);
        Some(f32.next()?.median_giga_per_second * GIGA)
    };
    let bandwidth = measured.bandwidth.last()?;
    Some(Rates {
        kernels: (!kernels.is_empty()).then_some(kernels)?,
        bandwidth_bytes_s: bandwidth.median_gb_per_second * GIGA,
        f32_core_ops_s: f32_on(1)?,
        f32_ops_s: f32_on(measured.cores.len())?,
    })
}

fn tile(isa: Isa, columns: usize) -> Vec<u8> {
    let values: Vec<f32> = (0..K).map(|index| (index % 17) as f32 - 8.0).collect();
    let slices = vec![values.as_slice(); columns];
    let mut tile = vec![0; tile_bytes(columns, K)];
    quantize_tile(isa, &slices, &mut tile);
    tile
}

fn decode(isa: Isa, kind: WeightType, memory: &Arc<Memory>) -> Box<dyn FnMut()> {
    let (memory, part) = (Arc::clone(memory), memory.part());
    let call_bytes = kind.panel_bytes(K) * DECODE_PANELS;
    let n_calls = (part.len() / call_bytes).max(1);
    let tile = tile(isa, 1);
    let mut call = 0;
    let mut out = vec![0f32; PANEL_ROWS];
    Box::new(move || {
        let start = part.start + call * call_bytes;
        let weights = &memory.bytes[start..start + call_bytes];
        for panel in weights.chunks_exact(kind.panel_bytes(K)) {
            product(isa, kind, panel, &tile, &mut out);
        }
        call = (call + 1) % n_calls;
        std::hint::black_box(&out);
    })
}

fn prefill(isa: Isa, kind: WeightType, memory: &Arc<Memory>) -> Box<dyn FnMut()> {
    let (memory, part) = (Arc::clone(memory), memory.part());
    let weights = part.start..part.start + kind.panel_bytes(K) * PREFILL_PANELS;
    let tiles = tile(isa, TILE_COLUMNS).repeat(PREFILL_TILES);
    let tile_bytes = tile_bytes(TILE_COLUMNS, K);
    let mut out = vec![0f32; TILE_COLUMNS * PANEL_ROWS];
    Box::new(move || {
        for panel in memory.bytes[weights.clone()].chunks_exact(kind.panel_bytes(K)) {
            for tile in tiles.chunks_exact(tile_bytes) {
                product(isa, kind, panel, tile, &mut out);
            }
        }
        std::hint::black_box(&out);
    })
}

fn product(isa: Isa, kind: WeightType, panel: &[u8], tile: &[u8], out: &mut [f32]) {
    let columns = out.len() / PANEL_ROWS;
    let operands = Operands {
        weight_type: kind,
        panel,
        tile,
        columns,
        k: K,
    };
    multiply(
        isa,
        &operands,
        Products::new(out, PANEL_ROWS, PANEL_ROWS, columns),
    );
}
