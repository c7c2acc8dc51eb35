use proptest::prelude::*;

use super::cache::decode;
use super::*;
use crate::float::{f16_to_f32, f32_to_f16};

/// A problem that owns its data.
#[derive(Clone)]
struct Case {
    positions: usize,
    heads: usize,
    cells: usize,
    key_size: usize,
    value_size: usize,
    keys: CacheType,
    values: CacheType,
    queries: Vec<f32>,
    key_rows: Vec<u8>,
    value_rows: Vec<u8>,
    mask: Option<Vec<u16>>,
    softcap: f32,
    slopes: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
}

#[derive(Clone, Copy)]
struct Shape {
    positions: usize,
    heads: usize,
    cells: usize,
    key_size: usize,
    value_size: usize,
}

const SMALL: Shape = Shape {
    positions: 3,
    heads: 3,
    cells: 150,
    key_size: 64,
    value_size: 64,
};

/// Bytes between the end of a row and the next.
const GAP: usize = 6;

/// Numbers of a linear congruence, in -1..1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.bits() as f32 / (1u32 << 31) as f32 - 1.0
    }

    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (self.0 >> 32) as u32
    }
}

impl Case {
    fn new(shape: Shape, keys: CacheType, values: CacheType) -> Self {
        let mut numbers = Numbers(7);
        let rows = shape.positions * shape.heads;
        let queries = (0..rows * shape.key_size).map(|_| numbers.next() * 2.0);
        Self {
            positions: shape.positions,
            heads: shape.heads,
            cells: shape.cells,
            key_size: shape.key_size,
            value_size: shape.value_size,
            keys,
            values,
            queries: queries.collect(),
            key_rows: cache_rows(keys, shape.cells, shape.key_size, 11),
            value_rows: cache_rows(values, shape.cells, shape.value_size, 12),
            mask: None,
            softcap: 0.0,
            slopes: None,
            sinks: None,
        }
    }

    /// Position `p` sees what `sees(p, cell)` gives as the mask's value, if any.
    fn masked(mut self, sees: impl Fn(usize, usize) -> Option<f32>) -> Self {
        let cells = (0..self.positions).flat_map(|p| (0..self.cells).map(move |c| (p, c)));
        let mask = cells.map(|(p, c)| sees(p, c).map_or(MASKED, f32_to_f16));
        self.mask = Some(mask.collect());
        self
    }

    fn problem(&self) -> Attention<'_> {
        let rows = |kind: CacheType, data, head_size| CacheRows {
            kind,
            data,
            stride_bytes: kind.row_bytes(head_size).unwrap() + GAP,
            head_size,
        };
        Attention {
            // Heads are apart by all positions, as after ggml's permutation.
            queries: Queries {
                data: &self.queries,
                positions: self.positions,
                heads: self.heads,
                position_stride: self.key_size,
                head_stride: self.key_size * self.positions,
            },
            keys: rows(self.keys, &self.key_rows, self.key_size),
            values: rows(self.values, &self.value_rows, self.value_size),
            cells: self.cells,
            mask: self.mask.as_deref().map(|data| Mask {
                data,
                stride: self.cells,
            }),
            scale: 1.0 / (self.key_size as f32).sqrt(),
            softcap: self.softcap,
            slopes: self.slopes.as_deref(),
            sinks: self.sinks.as_deref(),
        }
    }

    fn run(&self, isa: Isa) -> Vec<f32> {
        run(isa, &self.problem())
    }

    /// In f64, in two passes.
    fn exact(&self) -> Vec<f32> {
        let problem = self.problem();
        let decoded = |rows: &CacheRows<'_>| {
            let mut all = vec![0.0; self.cells * rows.head_size];
            for (cell, out) in all.chunks_exact_mut(rows.head_size).enumerate() {
                decode(rows.kind, rows.row(cell), out);
            }
            all
        };
        let (keys, values) = (decoded(&problem.keys), decoded(&problem.values));
        let mut output = Vec::new();
        for row in 0..problem.rows() {
            let id = problem.row_id(row);
            let score = |cell: usize| {
                let key = &keys[cell * self.key_size..][..self.key_size];
                let product = problem.query(row).iter().zip(key);
                let product: f64 = product.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let mut score = product * f64::from(problem.factor());
                if self.softcap != 0.0 {
                    score = f64::from(self.softcap) * score.tanh();
                }
                let mask = problem.mask_of(id.position, cell, 1);
                let mask = mask.map_or(0.0, |mask| f16_to_f32(mask[0]));
                score + f64::from(problem.slope(id.head) * mask)
            };
            let scores: Vec<f64> = (0..self.cells).map(score).collect();
            let sink = self.sinks.as_ref().map(|sinks| f64::from(sinks[id.head]));
            let max = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - max).exp());
            for d in 0..self.value_size {
                let value = |cell: usize| f64::from(values[cell * self.value_size + d]);
                let total: f64 = (0..self.cells).map(|c| weights[c] * value(c)).sum();
                output.push(if sum > 0.0 { (total / sum) as f32 } else { 0.0 });
            }
        }
        output
    }
}

fn run(isa: Isa, problem: &Attention<'_>) -> Vec<f32> {
    let mut output = vec![f32::NAN; problem.rows() * problem.values.head_size];
    let mut rows = output.chunks_exact_mut(problem.values.head_size);
    attend(isa, problem, &mut Scratch::new(), |_| rows.next().unwrap());
    output
}

/// Rows of values near -1..1, apart by [`GAP`], the last row ending the data.
fn cache_rows(kind: CacheType, cells: usize, head_size: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let (values, bytes) = kind.block();
    let mut data = Vec::new();
    for cell in 0..cells {
        for _ in 0..head_size / values {
            let x = numbers.next();
            match kind {
                CacheType::F32 => data.extend(x.to_le_bytes()),
                CacheType::F16 => data.extend(f32_to_f16(x).to_le_bytes()),
                CacheType::Bf16 => data.extend(crate::float::f32_to_bf16(x).to_le_bytes()),
                _ => {
                    let largest = match kind {
                        CacheType::Q8_0 | CacheType::Iq4Nl => 127.0,
                        CacheType::Q5_0 | CacheType::Q5_1 => 16.0,
                        _ => 8.0,
                    };
                    let start = data.len();
                    let scale = (0.5 + x.abs()) / largest;
                    data.extend(f32_to_f16(scale).to_le_bytes());
                    if kind.has_minimum() {
                        data.extend(f32_to_f16(-scale * largest).to_le_bytes());
                    }
                    data.resize_with(start + bytes, || numbers.bits() as u8);
                }
            }
        }
        if cell + 1 < cells {
            data.extend([0xff; GAP]);
        }
    }
    data
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= 4e-6, "{what}: element {i} is {got}, not {want}");
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

/// Every variant is close to the exact result.
fn check(case: &Case, what: &str) {
    let want = case.exact();
    for isa in Isa::available() {
        assert_close(&case.run(isa), &want, &format!("{what}, {isa}"));
    }
}

/// A block of each type, written out by ggml's definitions: nibbles of 0x3a are 10 low and
/// 3 high, the fifth bits of 0x0001_0002 are set in values 1 and 16.
#[test]
fn blocks_hold_what_ggml_says() {
    let half = f32_to_f16(0.5).to_le_bytes();
    let minimum = f32_to_f16(-2.0).to_le_bytes();
    let fifth = 0x0001_0002u32.to_le_bytes();
    let nibbles = [0x3a; 16];
    let bytes: Vec<u8> = (0..32).map(|i: i8| (i - 5) as u8).collect();
    let of = |kind, parts: &[&[u8]]| {
        let mut out = [0.0; 32];
        decode(kind, &parts.concat(), &mut out);
        [out[0], out[1], out[15], out[16], out[31]]
    };
    let q4_0 = of(CacheType::Q4_0, &[&half, &nibbles]);
    assert_eq!(q4_0, [1.0, 1.0, 1.0, -2.5, -2.5]);
    let q4_1 = of(CacheType::Q4_1, &[&half, &minimum, &nibbles]);
    assert_eq!(q4_1, [3.0, 3.0, 3.0, -0.5, -0.5]);
    let q5_0 = of(CacheType::Q5_0, &[&half, &fifth, &nibbles]);
    assert_eq!(q5_0, [-3.0, 5.0, -3.0, 1.5, -6.5]);
    let q5_1 = of(CacheType::Q5_1, &[&half, &minimum, &fifth, &nibbles]);
    assert_eq!(q5_1, [3.0, 11.0, 3.0, 7.5, -0.5]);
    let q8_0 = of(CacheType::Q8_0, &[&half, &bytes]);
    assert_eq!(q8_0, [-2.5, -2.0, 5.0, 5.5, 13.0]);
    let iq4_nl = of(CacheType::Iq4Nl, &[&half, &nibbles]);
    assert_eq!(iq4_nl, [12.5, 12.5, 12.5, -32.5, -32.5]);
}

#[test]
fn every_pair_of_types_is_close_to_the_exact_result() {
    for keys in CacheType::ALL {
        for values in CacheType::ALL {
            let case = Case::new(SMALL, keys, values);
            check(&case, &format!("{keys:?} and {values:?}"));
        }
    }
}

#[test]
fn every_size_of_head_and_number_of_cells_is_close() {
    let sizes = [
        (64, 64),
        (128, 128),
        (96, 64),
        (192, 128),
        (256, 256),
        (80, 80),
        (32, 96),
        (576, 512),
    ];
    for (key_size, value_size) in sizes {
        for kind in [CacheType::F16, CacheType::F32, CacheType::Bf16] {
            let case = Case::new(
                Shape {
                    key_size,
                    value_size,
                    ..SMALL
                },
                kind,
                kind,
            );
            check(&case, &format!("{key_size} and {value_size} of {kind:?}"));
        }
    }
    for size in (1..48).chain([100]) {
        for kind in [CacheType::F16, CacheType::F32, CacheType::Bf16] {
            let shape = Shape {
                key_size: size,
                value_size: size,
                cells: 40,
                ..SMALL
            };
            check(
                &Case::new(shape, kind, kind),
                &format!("{size} of {kind:?}"),
            );
        }
    }
    for cells in (1..140).step_by(3).chain([511, 512, 513, 1100]) {
        let case = Case::new(Shape { cells, ..SMALL }, CacheType::Q8_0, CacheType::F16);
        let case = case.masked(|p, c| (c % 7 != p).then_some(0.0));
        check(&case, &format!("{cells} cells"));
    }
}

#[test]
fn masks_slopes_sinks_and_the_softcap_are_close() {
    let shape = Shape {
        positions: 5,
        cells: 700,
        ..SMALL
    };
    let plain = Case::new(shape, CacheType::F16, CacheType::F16);
    // A causal mask whose first positions see one tile in part.
    let causal = plain
        .clone()
        .masked(|p, c| (c <= 20 + p * 150).then_some(0.0));
    check(&causal, "causal");
    let mut alibi = plain
        .clone()
        .masked(|p, c| (c <= 600 + p).then_some(c as f32 - 600.0));
    alibi.slopes = Some(vec![0.5, 0.25, 0.01]);
    check(&alibi, "slopes");
    let mut sinks = causal.clone();
    sinks.sinks = Some(vec![-3.0, 0.5, 9.0]);
    check(&sinks, "sinks");
    let mut softcap = causal.clone();
    softcap.softcap = 2.5;
    check(&softcap, "softcap");
    softcap.queries.iter_mut().for_each(|q| *q *= 30.0);
    check(&softcap, "softcap of large scores");
}

#[test]
fn a_row_in_which_all_is_masked_gives_zeros() {
    let shape = Shape {
        cells: 600,
        ..SMALL
    };
    let mut case = Case::new(shape, CacheType::Q4_0, CacheType::Q4_0);
    case = case.masked(|p, _| (p != 1).then_some(0.0));
    for sinks in [None, Some(vec![1.0; 3])] {
        case.sinks = sinks;
        for isa in Isa::available() {
            let output = case.run(isa);
            let row = SMALL.value_size;
            assert!(output[3 * row..6 * row].iter().all(|x| x.to_bits() == 0));
            assert!(output[..3 * row].iter().all(|x| *x != 0.0));
        }
        check(&case, "a row without cells");
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_with_any_others() {
    let shape = Shape {
        positions: 9,
        cells: 1200,
        ..SMALL
    };
    for (keys, values) in [
        (CacheType::F16, CacheType::F16),
        (CacheType::Q5_1, CacheType::Iq4Nl),
    ] {
        // Sequences in turns of 300 cells and, beyond 900, of one: position p is of p % 4.
        let sequence = |c: usize| if c < 900 { c / 300 } else { c % 4 };
        let case = Case::new(shape, keys, values)
            .masked(|p, c| (sequence(c) == p % 4 && c <= 800 + 50 * p).then_some(0.0));
        for isa in Isa::available() {
            let all = case.run(isa);
            for first in 0..shape.positions {
                for positions in 1..=shape.positions - first {
                    for heads in 1..=shape.heads {
                        assert_part(isa, &case, &all, first, positions, heads);
                    }
                }
            }
        }
    }
}

/// The rows of some positions and heads have the bits that they have among all.
fn assert_part(isa: Isa, case: &Case, all: &[f32], first: usize, positions: usize, heads: usize) {
    let mut problem = case.problem();
    problem.queries.data = &case.queries[first * case.key_size..];
    problem.queries.positions = positions;
    problem.queries.heads = heads;
    if let Some(mask) = &mut problem.mask {
        mask.data = &mask.data[first * mask.stride..];
    }
    let part = run(isa, &problem);
    for (row, got) in part.chunks_exact(case.value_size).enumerate() {
        let at = (first + row / heads) * case.heads + row % heads;
        let want = &all[at * case.value_size..][..case.value_size];
        assert_eq!(
            bits(got),
            bits(want),
            "{isa}: {positions} from {first}, {heads} heads"
        );
    }
}

#[test]
fn more_cells_that_are_masked_change_no_bit() {
    let shape = Shape {
        cells: 1500,
        ..SMALL
    };
    let case = Case::new(shape, CacheType::Q8_0, CacheType::Q8_0);
    let case = case.masked(|p, c| (c < 400 + p && c != 70).then_some(0.0));
    for isa in Isa::available() {
        let all = bits(&case.run(isa));
        for cells in [403, 448, 512, 520, 1024, 1400] {
            let mut problem = case.problem();
            problem.cells = cells;
            assert_eq!(bits(&run(isa, &problem)), all, "{isa}: {cells} cells");
        }
    }
}

#[test]
fn spans_computed_apart_and_merged_in_order_have_the_same_bits() {
    let shape = Shape {
        cells: 5 * SPAN + 77,
        ..SMALL
    };
    let mut case = Case::new(shape, CacheType::F16, CacheType::Q4_1);
    // The first span and the third are masked for some positions.
    case = case.masked(|p, c| (c / SPAN != 2 * p).then_some(0.0));
    case.sinks = Some(vec![0.1, 0.2, 0.3]);
    let problem = case.problem();
    for isa in Isa::available() {
        let mut scratch = Scratch::new();
        let mut partials = vec![vec![f32::NAN; partial_len(&problem)]; spans(case.cells)];
        for (span, partial) in partials.iter_mut().enumerate().rev() {
            attend_span(isa, &problem, span, &mut scratch, partial);
        }
        let (merged, rest) = partials.split_first_mut().unwrap();
        for partial in rest {
            merge(&problem, merged, partial);
        }
        let mut output = vec![f32::NAN; problem.rows() * case.value_size];
        let mut rows = output.chunks_exact_mut(case.value_size);
        finish(&problem, merged, |_| rows.next().unwrap());
        assert_eq!(bits(&output), bits(&case.run(isa)), "{isa}");
    }
}

#[test]
fn what_masked_cells_hold_does_not_matter() {
    let case =
        Case::new(SMALL, CacheType::F16, CacheType::F16).masked(|_, c| (c % 5 != 2).then_some(0.0));
    let mut spoilt = case.clone();
    for rows in [&mut spoilt.key_rows, &mut spoilt.value_rows] {
        let stride = CacheType::F16.row_bytes(64).unwrap() + GAP;
        for cell in (2..SMALL.cells).step_by(5) {
            rows[cell * stride..][..128].fill(0xff);
        }
    }
    for isa in Isa::available() {
        assert_eq!(bits(&spoilt.run(isa)), bits(&case.run(isa)), "{isa}");
    }
}

#[test]
fn what_is_not_a_number_is_seen_in_its_rows_and_no_others() {
    let shape = Shape {
        cells: 1100,
        ..SMALL
    };
    let clean = Case::new(shape, CacheType::F16, CacheType::F16);
    let mut spoilt = clean.clone();
    // The second row of queries: the second position of the first head.
    spoilt.queries[clean.key_size..][..3].fill(f32::NAN);
    for isa in Isa::available() {
        let (clean, spoilt) = (clean.run(isa), spoilt.run(isa));
        let rows = clean.chunks_exact(64).zip(spoilt.chunks_exact(64));
        for (row, (clean, spoilt)) in rows.enumerate() {
            if row == shape.heads {
                assert!(spoilt.iter().all(|x| x.is_nan()), "{isa}");
            } else {
                assert_eq!(bits(clean), bits(spoilt), "{isa}: row {row}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "a row for every cell")]
fn a_cache_too_short_is_refused() {
    let case = Case::new(SMALL, CacheType::F16, CacheType::F16);
    let mut problem = case.problem();
    problem.cells += 1;
    run(Isa::best(), &problem);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_and_mask_is_close(
        positions in 1usize..8,
        heads in 1usize..5,
        cells in 1usize..200,
        blocks in 1usize..5,
        kinds in (0usize..9, 0usize..9),
        seen in any::<u64>(),
    ) {
        let size = 32 * blocks;
        let shape = Shape { positions, heads, cells, key_size: size, value_size: size };
        let case = Case::new(shape, CacheType::ALL[kinds.0], CacheType::ALL[kinds.1]);
        let case = case.masked(|p, c| (seen >> ((c * 5 + p) % 64) & 1 == 1).then_some(0.0));
        check(&case, "any");
    }
}

#[test]
fn rows_are_rounded_alike_and_to_the_nearest() {
    let rows = [
        (0..128)
            .map(|i| ((i * 37 + 11) % 101) as f32 / 17.0 - 3.1)
            .collect::<Vec<f32>>(),
        vec![0.0; 64],
        (0..32).map(|i| if i == 9 { -4.0 } else { 0.01 }).collect(),
        vec![-2.5; 32],
    ];
    let quantised = CacheType::ALL
        .into_iter()
        .filter(|kind| kind.is_quantised());
    for kind in quantised {
        for row in &rows {
            let mut reference = vec![0; kind.row_bytes(row.len()).unwrap()];
            quantize_row(Isa::SCALAR, kind, row, &mut reference);
            for isa in Isa::available() {
                let mut out = vec![0; reference.len()];
                quantize_row(isa, kind, row, &mut out);
                assert_eq!(out, reference, "{isa}, {kind:?}");
            }
            let mut back = vec![0.0; row.len()];
            cache::decode(kind, &reference, &mut back);
            for (block, back) in row.chunks(32).zip(back.chunks(32)) {
                let most = block.iter().fold(0f32, |most, value| most.max(value.abs()));
                // Half a step, and what the ends of the range lose.
                let steps = match kind {
                    CacheType::Q8_0 => 240.0,
                    CacheType::Q5_0 | CacheType::Q5_1 => 15.0,
                    _ => 7.0,
                };
                for (value, back) in block.iter().zip(back) {
                    let error = (value - back).abs();
                    assert!(error <= most / steps, "{kind:?}: {value} became {back}");
                }
            }
        }
    }
}
