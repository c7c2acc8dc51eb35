//! Integer operations a second of `kernels::matmul` on one core, prefill and decode.
//!
//! `cargo run --release -p kernels --example matmul_speed [isa]`: the fastest if not given.
//!
//! The workspace is built for the machine at hand; for what AVX2 does on a machine without
//! AVX-512, build with `RUSTFLAGS="-C target-cpu=x86-64-v3"`.

use kernels::Isa;
use kernels::isa::Level;
use kernels::matmul::{self, Operands, Products, WeightType, multiply, quantize_tile, tile_bytes};
use std::time::Instant;

const K: usize = 2048;
/// Rows enough that the weights do not fit the caches: 8,192 x 2,048.
const PANELS: usize = 512;

fn main() -> Result<(), &'static str> {
    let isa = match std::env::args().nth(1) {
        Some(name) => Level::from_name(&name)
            .and_then(Isa::detect)
            .ok_or("not a set of instructions of this machine; scalar, avx2, avx512-vnni?")?,
        None => Isa::best(),
    };
    println!("{isa}, k {K}, one core");
    for weight_type in WeightType::ALL {
        let panel_bytes = weight_type.panel_bytes(K);
        let weights = vec![0x11u8; panel_bytes * PANELS];
        for columns in [1, 8, 12] {
            let values = vec![vec![0.5f32; K]; columns];
            let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let mut tile = vec![0; tile_bytes(columns, K)];
            quantize_tile(isa, &slices, &mut tile);
            let mut out = vec![0f32; columns * 16];
            let mut best = f64::MAX;
            for _ in 0..5 {
                let start = Instant::now();
                for panel in weights.chunks_exact(panel_bytes) {
                    let operands = Operands {
                        weight_type,
                        panel,
                        tile: &tile,
                        columns,
                        k: K,
                    };
                    multiply(isa, &operands, Products::new(&mut out, 16, 16, columns));
                }
                best = best.min(start.elapsed().as_secs_f64());
            }
            let operations = 2.0 * (PANELS * matmul::PANEL_ROWS * K * columns) as f64;
            println!(
                "{weight_type:?} {columns:>2} columns: {:>5.0} GOPS, {:>5.1} GB/s",
                operations / best / 1e9,
                weights.len() as f64 / best / 1e9
            );
        }
    }
    Ok(())
}
