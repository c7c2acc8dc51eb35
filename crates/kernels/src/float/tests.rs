use proptest::prelude::*;

use super::*;

/// Lengths around every vector's, and none.
const LENGTHS: [usize; 12] = [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100];

fn all_f16() -> Vec<u16> {
    (0..=u16::MAX).collect()
}

/// Floats at and around every f16 and every tie between two, besides the odd ones.
fn telling_floats() -> Vec<f32> {
    let mut floats = vec![f32::NAN, -f32::NAN, f32::MAX, f32::MIN, 1e-45, -1e-45];
    floats.push(f32::from_bits(0x7f80_0001));
    for half in 0..0x7c00u16 {
        let (low, high) = (f16_to_f32(half), f16_to_f32(half + 1).min(65536.0));
        let tie = f32::midpoint(low, high);
        for x in [low, tie.next_down(), tie, tie.next_up()] {
            floats.extend([x, -x]);
        }
    }
    floats
}

fn f32_row(isa: Isa, src: Row<'_>, n: usize) -> Vec<u32> {
    let mut dst = vec![0.0; n];
    convert(isa, RowMut::F32(&mut dst), src);
    dst.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_half_has_its_value_in_every_variant() {
    assert_eq!(f16_to_f32(0x3c00), 1.0);
    assert_eq!(f16_to_f32(0xc000), -2.0);
    assert_eq!(f16_to_f32(0x7bff), 65504.0);
    assert_eq!(f16_to_f32(1), 2f32.powi(-24));
    assert_eq!(f16_to_f32(0x03ff), 1023.0 * 2f32.powi(-24));
    assert_eq!(f16_to_f32(0xfc00), f32::NEG_INFINITY);
    let halves = all_f16();
    let want = f32_row(Isa::SCALAR, Row::F16(&halves), halves.len());
    let wide = f32_row(Isa::SCALAR, Row::Bf16(&halves), halves.len());
    for isa in Isa::available() {
        assert_eq!(f32_row(isa, Row::F16(&halves), halves.len()), want, "{isa}");
        assert_eq!(
            f32_row(isa, Row::Bf16(&halves), halves.len()),
            wide,
            "{isa}"
        );
    }
}

#[test]
fn floats_round_to_the_nearest_half_in_every_variant() {
    for half in all_f16() {
        let x = f16_to_f32(half);
        if !x.is_nan() {
            assert_eq!(f32_to_f16(x), half);
            assert_eq!(f32_to_bf16(bf16_to_f32(half & 0x7f7f)), half & 0x7f7f);
        }
    }
    assert_eq!(f32_to_f16(65519.0), 0x7bff);
    assert_eq!(f32_to_f16(65520.0), 0x7c00);
    assert_eq!(f32_to_f16(2f32.powi(-25)), 0);
    assert_eq!(f32_to_f16(2f32.powi(-25).next_up()), 1);
    let floats = telling_floats();
    for isa in Isa::available() {
        let (mut halves, mut wide) = (vec![0; floats.len()], vec![0; floats.len()]);
        convert(isa, RowMut::F16(&mut halves), Row::F32(&floats));
        convert(isa, RowMut::Bf16(&mut wide), Row::F32(&floats));
        for (i, x) in floats.iter().enumerate() {
            assert_eq!(halves[i], f32_to_f16(*x), "{isa}: f16 of {x:e}");
            assert_eq!(wide[i], f32_to_bf16(*x), "{isa}: bf16 of {x:e}");
        }
    }
}

#[test]
fn rows_of_any_length_and_start_convert_and_nothing_beyond_is_written() {
    for isa in Isa::available() {
        for n in LENGTHS {
            for start in 0..3 {
                let src: Vec<f32> = (0..start + n).map(|i| i as f32 * 0.37).collect();
                let mut halves = vec![0xaaaa; start + n + 1];
                convert(
                    isa,
                    RowMut::F16(&mut halves[start..start + n]),
                    Row::F32(&src[start..]),
                );
                let mut wide = vec![0xaaaa; start + n + 1];
                let from = Row::F16(&halves[start..start + n]);
                convert(isa, RowMut::Bf16(&mut wide[start..start + n]), from);
                let mut back = vec![7.0; start + n + 1];
                let from = Row::Bf16(&wide[start..start + n]);
                convert(isa, RowMut::F32(&mut back[start..start + n]), from);
                for i in start..start + n {
                    let half = f16_to_f32(f32_to_f16(src[i]));
                    assert_eq!(back[i], bf16_to_f32(f32_to_bf16(half)), "{isa}");
                }
                assert_eq!((halves[start + n], wide[start + n]), (0xaaaa, 0xaaaa));
                assert_eq!(back[start + n], 7.0);
            }
        }
    }
}

#[test]
#[should_panic(expected = "rows of one length")]
fn rows_of_two_lengths_are_refused() {
    binary(
        Isa::best(),
        Binary::Add,
        &mut [0.0; 4],
        &[0.0; 4],
        &[0.0; 5],
    );
}

proptest! {
    #[test]
    fn arithmetic_is_that_of_the_elements(
        pairs in prop::collection::vec((-1e3f32..1e3, -1e3f32..1e3), 0..70),
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        type Function = fn(f32, f32) -> f32;
        let ops: [(Binary, Function); 4] = [
            (Binary::Add, |a, b| a + b),
            (Binary::Sub, |a, b| a - b),
            (Binary::Mul, |a, b| a * b),
            (Binary::Div, |a, b| a / b),
        ];
        for isa in Isa::available() {
            for (op, function) in ops {
                let want: Vec<u32> =
                    a.iter().zip(&b).map(|(a, b)| function(*a, *b).to_bits()).collect();
                let mut dst = vec![0.0; a.len()];
                binary(isa, op, &mut dst, &a, &b);
                let mut row = a.clone();
                binary_in_place(isa, op, &mut row, &b);
                let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&dst), want.clone());
                prop_assert_eq!(bits(&row), want);
            }
            let mut dst = vec![0.0; a.len()];
            let by = Affine { factor: 0.7, bias: -2.0 };
            scale(isa, &mut dst, &a, by);
            let mut row = a.clone();
            scale_in_place(isa, &mut row, by);
            prop_assert_eq!(&row, &dst);
            for (y, x) in dst.iter().zip(&a) {
                prop_assert!((y - (x * 0.7 - 2.0)).abs() <= 1e-4);
            }
        }
    }
}

#[test]
fn clamping_keeps_what_is_within() {
    let row = [
        -3.0,
        -1.0,
        -0.5,
        0.25,
        1.0,
        7.0,
        f32::NAN,
        f32::NEG_INFINITY,
    ];
    let row: Vec<f32> = row.repeat(5);
    let range = Clamp {
        low: -1.0,
        high: 1.0,
    };
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; row.len()];
        clamp(isa, &mut out, &row, range);
        let expected = [-1.0, -1.0, -0.5, 0.25, 1.0, 1.0, 1.0, -1.0].repeat(5);
        assert_eq!(out, expected, "{isa}");
        let mut row = row.clone();
        clamp_in_place(isa, &mut row, range);
        assert_eq!(row, expected, "{isa}");
    }
}
