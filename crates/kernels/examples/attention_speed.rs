//! Prints how fast attention runs on one thread: prefill in GFLOPS, decode in GB/s of cache
//! read. `cargo run --release -p kernels --example attention_speed`

use std::time::Instant;

use kernels::Isa;
use kernels::attention::{Attention, CacheRows, CacheType, Queries, Scratch, attend};

fn main() {
    for isa in Isa::available().skip(1) {
        for (heads, size) in [(3, 64), (4, 128), (4, 256)] {
            for kind in [CacheType::F16, CacheType::Q8_0, CacheType::Q4_0] {
                prefill(isa, kind, heads, size);
                decode(isa, kind, heads, size);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    positions: usize,
    heads: usize,
    cells: usize,
    size: usize,
}

/// 64 positions, which are a call's share of a long prompt, over 2048 cells.
fn prefill(isa: Isa, kind: CacheType, heads: usize, size: usize) {
    let shape = Shape {
        positions: 64,
        heads,
        cells: 2048,
        size,
    };
    let operations = (shape.positions * heads * shape.cells * size * 4) as f64;
    let gflops = operations / seconds(isa, kind, shape) / 1e9;
    println!("{isa} prefill {kind:?} {heads} x {size}: {gflops:.0} GFLOPS");
}

/// One position over a cache that is near memory, and over one that is not.
fn decode(isa: Isa, kind: CacheType, heads: usize, size: usize) {
    for cells in [4096, 1 << 25 >> size.ilog2()] {
        let shape = Shape {
            positions: 1,
            heads,
            cells,
            size,
        };
        let bytes = 2 * cells * kind.row_bytes(size).unwrap_or(0);
        let speed = bytes as f64 / seconds(isa, kind, shape) / 1e9;
        println!("{isa} decode {kind:?} {heads} x {size}, {cells} cells: {speed:.1} GB/s");
    }
}

/// What the fastest of some calls takes.
fn seconds(isa: Isa, kind: CacheType, shape: Shape) -> f64 {
    let Shape {
        positions,
        heads,
        cells,
        size,
    } = shape;
    let queries: Vec<f32> = (0..positions * heads * size)
        .map(|i| (i % 13) as f32 * 0.1)
        .collect();
    let row = kind.row_bytes(size).unwrap_or(0);
    // Small numbers in every type.
    let data = [vec![0x11; cells * row], vec![0x11; cells * row]];
    let [keys, values] = [0, 1].map(|i: usize| CacheRows {
        kind,
        data: &data[i],
        stride_bytes: row,
        head_size: size,
    });
    let problem = Attention {
        queries: Queries {
            data: &queries,
            positions,
            heads,
            position_stride: heads * size,
            head_stride: size,
        },
        keys,
        values,
        cells,
        mask: None,
        scale: 0.125,
        softcap: 0.0,
        slopes: None,
        sinks: None,
    };
    let mut scratch = Scratch::new();
    let mut output = vec![0.0; positions * heads * size];
    (0..10)
        .map(|_| {
            let start = Instant::now();
            let mut rows = output.chunks_exact_mut(size);
            attend(isa, &problem, &mut scratch, |_| {
                rows.next().unwrap_or_default()
            });
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}
