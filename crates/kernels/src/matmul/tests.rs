//! The packed formats against the source's, the variants against the reference.

use super::*;
use crate::Isa;

/// Numbers that look random and are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Random bytes of `rows` rows, with scales that are ordinary numbers.
fn source(weight_type: WeightType, k: usize, rows: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows * k / weight_type.block_len() {
        let mut block: Vec<u8> = (0..weight_type.block_bytes())
            .map(|_| random.next() as u8)
            .collect();
        let places: &[usize] = match weight_type {
            WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4_K | WeightType::Q5_K => &[0, 2],
            WeightType::Q6_K => &[208],
            _ => &[0],
        };
        for &place in places {
            // An f16 between 2^-5 and 2^-1, of either sign.
            let bits = ((random.next() as u16) & 0x83ff) | (10 + random.next() as u16 % 4) << 10;
            block[place..place + 2].copy_from_slice(&bits.to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}

fn packed(weight_type: WeightType, k: usize, rows: &[u8]) -> Vec<u8> {
    let mut panel = vec![0xaa; weight_type.panel_bytes(k)];
    pack_panel(weight_type, k, rows, &mut panel);
    panel
}

#[test]
fn a_panel_holds_what_the_source_held() {
    let mut random = Random(1);
    for weight_type in WeightType::ALL {
        for rows in [1, 3, 15, 16] {
            let k = 512;
            let bytes = source(weight_type, k, rows, &mut random);
            let panel = packed(weight_type, k, &bytes);
            for (row, source) in bytes.chunks_exact(weight_type.row_bytes(k)).enumerate() {
                let mut back = vec![0xaa; source.len()];
                unpack_row(weight_type, k, &panel, row, &mut back);
                assert_eq!(back, source, "{weight_type:?} row {row}");
                let mut expected = vec![0f32; k];
                dequantize_row(weight_type, source, &mut expected);
                let panel = pack::Panel {
                    weight_type,
                    bytes: &panel,
                };
                let values = (0..k / BLOCK).flat_map(|index| {
                    let block = panel.block(index, row);
                    (0..BLOCK).map(move |element| {
                        let quant = i32::from(block.codes[element]) - weight_type.offset();
                        block.scales[element / 16] * quant as f32 + block.minimum
                    })
                });
                assert_eq!(
                    values.collect::<Vec<_>>(),
                    expected,
                    "{weight_type:?} row {row}"
                );
            }
        }
    }
}

fn columns(k: usize, count: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let column = |random: &mut Random| (0..k).map(|_| random.float() * 3.0).collect();
    (0..count).map(|_| column(random)).collect()
}

fn tile(isa: Isa, columns: &[Vec<f32>]) -> Vec<u8> {
    let slices: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
    let mut bytes = vec![0xaa; tile_bytes(columns.len(), columns[0].len())];
    quantize_tile(isa, &slices, &mut bytes);
    bytes
}

#[test]
fn every_variant_rounds_activations_alike() {
    let mut random = Random(2);
    for isa in Isa::available() {
        for count in 1..=TILE_COLUMNS {
            let mut columns = columns(96, count, &mut random);
            columns[0][..32].fill(0.0);
            columns[count / 2][40] = 1e30;
            columns[count - 1][64..].fill(1e-44);
            let blocks = |isa: Isa| {
                let tile = tile(isa, &columns);
                let places = (0..3).flat_map(|block| (0..count).map(move |n| (block, n)));
                let read = |(block, column)| {
                    let interleave = Interleave::of(isa);
                    activations::block(&tile, interleave, count, block, column)
                };
                places.map(read).collect::<Vec<_>>()
            };
            assert_eq!(blocks(isa), blocks(Isa::SCALAR), "{isa}");
        }
    }
}

#[test]
fn a_value_that_is_not_finite_is_seen_in_the_products() {
    let mut random = Random(3);
    let weights = packed(
        WeightType::Q8_0,
        64,
        &source(WeightType::Q8_0, 64, 16, &mut random),
    );
    for isa in Isa::available() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut columns = columns(64, 2, &mut random);
            columns[1][33] = value;
            let out = product(
                isa,
                WeightType::Q8_0,
                &weights,
                &tile(isa, &columns),
                2,
                64,
                16,
            );
            assert!(out[..16].iter().all(|value| value.is_finite()), "{isa}");
            assert!(out[16..].iter().all(|value| value.is_nan()), "{isa}");
        }
    }
}

fn product(
    isa: Isa,
    weight_type: WeightType,
    panel: &[u8],
    tile: &[u8],
    columns: usize,
    k: usize,
    rows: usize,
) -> Vec<f32> {
    let mut out = vec![f32::NEG_INFINITY; columns * rows];
    let operands = Operands {
        weight_type,
        panel,
        tile,
        columns,
        k,
    };
    multiply(isa, &operands, Products::new(&mut out, rows, rows, columns));
    out
}

/// Floats to compare bit for bit: zeros by their sign too.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_variant_multiplies_as_the_reference_does() {
    let mut random = Random(4);
    let mut seen = Vec::new();
    for isa in Isa::available() {
        seen.push(isa);
        for weight_type in WeightType::ALL {
            for (count, k, rows) in
                (1..=TILE_COLUMNS).flat_map(|n| [(n, 256, 16), (n, 1024, 16 - n)])
            {
                let panel = packed(weight_type, k, &source(weight_type, k, rows, &mut random));
                let columns = columns(k, count, &mut random);
                let product = |isa| {
                    let tile = tile(isa, &columns);
                    product(isa, weight_type, &panel, &tile, count, k, rows)
                };
                let (given, expected) = (product(isa), product(Isa::SCALAR));
                assert_eq!(
                    bits(&given),
                    bits(&expected),
                    "{isa} {weight_type:?} {count} columns of {k}"
                );
            }
        }
    }
    println!("{seen:?}");
}

/// Every code the smallest or the largest, times 127 of both signs: what integer sums
/// have to hold in each type, whatever bits a variant sums in.
#[test]
fn the_largest_sums_fit() {
    let k = 256;
    for isa in Isa::available() {
        for weight_type in WeightType::ALL {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut random = Random(5);
                let mut rows = source(weight_type, k, 16, &mut random);
                let codes = match weight_type {
                    WeightType::Q4_0 | WeightType::Q5_0 => 2..weight_type.block_bytes(),
                    WeightType::Q8_0 | WeightType::IQ4_NL => 2..weight_type.block_bytes(),
                    WeightType::Q4_1 | WeightType::Q5_1 => 4..weight_type.block_bytes(),
                    WeightType::Q4_K | WeightType::Q5_K => 16..weight_type.block_bytes(),
                    WeightType::Q6_K => 0..192,
                };
                for block in rows.chunks_exact_mut(weight_type.block_bytes()) {
                    block[codes.clone()].fill(byte);
                }
                let panel = packed(weight_type, k, &rows);
                for signs in [&[1.0][..], &[-1.0], &[1.0, -1.0, -1.0, 1.0, -1.0]] {
                    let columns: Vec<_> = signs.iter().map(|sign| vec![*sign; k]).collect();
                    let product = |isa| {
                        let tile = tile(isa, &columns);
                        product(isa, weight_type, &panel, &tile, columns.len(), k, 16)
                    };
                    let (given, expected) = (product(isa), product(Isa::SCALAR));
                    assert_eq!(
                        bits(&given),
                        bits(&expected),
                        "{isa} {weight_type:?} {byte} {signs:?}"
                    );
                }
            }
        }
    }
}

/// The one bound that is not exact: rounding to 8 bits and the sums in floats.
#[test]
fn products_are_near_the_exact_ones() {
    let mut random = Random(6);
    let (k, rows) = (2048, 16);
    for weight_type in WeightType::ALL {
        let bytes = source(weight_type, k, rows, &mut random);
        let columns = columns(k, 1, &mut random);
        let panel = packed(weight_type, k, &bytes);
        let out = product(
            Isa::best(),
            weight_type,
            &panel,
            &tile(Isa::best(), &columns),
            1,
            k,
            rows,
        );
        for (row, given) in bytes.chunks_exact(weight_type.row_bytes(k)).zip(out) {
            let mut weights = vec![0f32; k];
            dequantize_row(weight_type, row, &mut weights);
            let pairs = weights.iter().zip(&columns[0]);
            let terms = pairs.map(|(&w, &a)| f64::from(w) * f64::from(a));
            let (exact, norm) = terms.fold((0.0, 0.0), |(sum, norm), term| {
                (sum + term, norm + term * term)
            });
            let error = (f64::from(given) - exact).abs() / norm.sqrt();
            assert!(
                error < 0.05,
                "{weight_type:?}: {given} for {exact}, error {error}"
            );
        }
    }
}

/// A row of floats in each type of weights, with its exact values.
fn dense_rows(k: usize, random: &mut Random) -> [(Vec<f32>, Vec<f32>, Vec<u16>); 3] {
    use crate::float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
    let row: Vec<f32> = (0..k).map(|_| random.float()).collect();
    let halves: Vec<u16> = row.iter().map(|x| f32_to_f16(*x)).collect();
    let brains: Vec<u16> = row.iter().map(|x| f32_to_bf16(*x)).collect();
    let of_halves = halves.iter().map(|bits| f16_to_f32(*bits)).collect();
    let of_brains = brains.iter().map(|bits| bf16_to_f32(*bits)).collect();
    [
        (row.clone(), row, Vec::new()),
        (of_halves, Vec::new(), halves),
        (of_brains, Vec::new(), brains),
    ]
}

#[test]
fn dense_products_are_near_and_alone_as_among_others() {
    use crate::float::Row;
    let mut random = Random(11);
    for k in [1, 7, 64, 100, 1024] {
        let rows: Vec<_> = (0..PANEL_ROWS)
            .map(|_| dense_rows(k, &mut random))
            .collect();
        let columns = columns(k, TILE_COLUMNS, &mut random);
        for (kind, isa) in (0..3).flat_map(|kind| Isa::available().map(move |isa| (kind, isa))) {
            let row = |row: usize| match kind {
                0 => Row::F32(&rows[row][0].1),
                1 => Row::F16(&rows[row][1].2),
                _ => Row::Bf16(&rows[row][2].2),
            };
            let run = |rows: std::ops::Range<usize>, columns: &[Vec<f32>]| {
                let mut out = vec![f32::NAN; columns.len() * rows.len()];
                let all: Vec<Row<'_>> = rows.clone().map(row).collect();
                let slices: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
                let products = Products::new(&mut out, rows.len(), rows.len(), columns.len());
                multiply_dense(isa, &all, &slices, products);
                out
            };
            for (height, width) in [(PANEL_ROWS, TILE_COLUMNS), (7, 5), (3, 3)] {
                let together = run(0..height, &columns[..width]);
                for (at, product) in together.iter().enumerate() {
                    let (row, column) = (at % height, at / height);
                    let terms = rows[row][kind].0.iter().zip(&columns[column]);
                    let terms = terms.map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                        (sum + term, size + term.abs())
                    });
                    let off = (f64::from(*product) - sum).abs();
                    assert!(off <= 1e-6 * size, "{isa} {kind} {k}: {off} of {size}");
                    let alone = run(row..row + 1, &columns[column..=column]);
                    assert_eq!(alone[0].to_bits(), product.to_bits(), "{isa} {kind} {k}");
                }
            }
        }
    }
}
