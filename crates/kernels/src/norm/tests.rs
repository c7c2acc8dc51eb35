use super::*;
use crate::float::f32_to_f16;

/// Lengths around every vector's and every four vectors'.
fn lengths() -> impl Iterator<Item = usize> {
    (1..140).chain([576, 1024, 2048, 5000])
}

fn row(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 % 101) as f32 - 47.0) * 0.13)
        .collect()
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    let size = want.iter().fold(0f32, |max, x| max.max(x.abs()));
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= 2e-6 * size,
            "{what}: {got}, not {want}"
        );
    }
}

/// What every variant of a kernel gives for rows of every length.
fn check(what: &str, kernel: impl Fn(Isa, &mut [f32], &[f32]), place: impl Fn(Isa, &mut [f32])) {
    for n in lengths() {
        let src = row(n);
        let mut want = vec![0.0; n];
        kernel(Isa::SCALAR, &mut want, &src);
        for isa in Isa::available() {
            let mut dst = vec![f32::NAN; n];
            kernel(isa, &mut dst, &src);
            assert_close(&dst, &want, &format!("{what} of {n}, {isa}"));
            let mut row = src.clone();
            place(isa, &mut row);
            assert_eq!(row, dst, "{what} of {n} in place, {isa}");
        }
    }
}

#[test]
fn norms_are_close_to_the_reference() {
    let weight: Vec<f32> = (0..5000).map(|i| 1.0 + (i % 9) as f32 * 0.1).collect();
    check(
        "rms",
        |isa, dst, src| rms_norm(isa, dst, src, 1e-5, None),
        |isa, row| rms_norm_in_place(isa, row, 1e-5, None),
    );
    check(
        "rms with weights",
        |isa, dst, src| rms_norm(isa, dst, src, 1e-5, Some(&weight[..src.len()])),
        |isa, row| {
            let weight = &weight[..row.len()];
            rms_norm_in_place(isa, row, 1e-5, Some(weight));
        },
    );
    check(
        "layer",
        |isa, dst, src| layer_norm(isa, dst, src, 1e-2),
        |isa, row| layer_norm_in_place(isa, row, 1e-2),
    );
    check(
        "l2",
        |isa, dst, src| l2_norm(isa, dst, src, 1e-6),
        |isa, row| l2_norm_in_place(isa, row, 1e-6),
    );
}

#[test]
fn the_references_have_known_values() {
    let mut dst = [0.0; 4];
    let src = [1.0, 2.0, 3.0, 4.0];
    rms_norm(Isa::SCALAR, &mut dst, &src, 0.0, Some(&[2.0; 4]));
    assert_close(
        &dst,
        &[0.730_296_7, 1.460_593_5, 2.190_890_2, 2.921_187],
        "rms",
    );
    layer_norm(Isa::SCALAR, &mut dst, &src, 0.0);
    assert_close(
        &dst,
        &[-1.341_640_8, -0.447_213_6, 0.447_213_6, 1.341_640_8],
        "layer",
    );
    l2_norm(Isa::SCALAR, &mut dst, &[3.0, 0.0, 4.0, 0.0], 0.0);
    assert_close(&dst, &[0.6, 0.0, 0.8, 0.0], "l2");
    l2_norm(Isa::SCALAR, &mut dst, &[0.0; 4], 1e-6);
    assert_eq!(dst, [0.0; 4]);
}

#[test]
fn softmax_is_close_to_the_reference_with_any_mask_and_sink() {
    let mask: Vec<f32> = (0..5000)
        .map(|i| {
            if i % 3 == 1 {
                f32::NEG_INFINITY
            } else {
                -0.25 * (i % 5) as f32
            }
        })
        .collect();
    let halves: Vec<u16> = mask.iter().map(|x| f32_to_f16(*x)).collect();
    for sink in [None, Some(-1.0), Some(9.0)] {
        for kind in 0..3 {
            let args = |n: usize| Softmax {
                scale: 0.5,
                mask: match kind {
                    0 => SoftmaxMask::None,
                    1 => SoftmaxMask::F32(&mask[..n]),
                    _ => SoftmaxMask::F16(&halves[..n]),
                },
                slope: 0.75,
                sink,
            };
            check(
                "softmax",
                |isa, dst, src| softmax(isa, dst, src, &args(src.len())),
                |isa, row| {
                    let args = args(row.len());
                    softmax_in_place(isa, row, &args);
                },
            );
        }
    }
}

#[test]
fn softmax_sums_to_one_and_a_masked_row_gives_zeros() {
    let plain = Softmax {
        scale: 1.0,
        mask: SoftmaxMask::None,
        slope: 1.0,
        sink: None,
    };
    for isa in Isa::available() {
        for n in lengths() {
            let mut row = row(n);
            softmax_in_place(isa, &mut row, &plain);
            let sum: f64 = row.iter().copied().map(f64::from).sum();
            assert!((sum - 1.0).abs() < 2e-6, "{isa}: {n} sum to {sum}");
            let masked = vec![f32::NEG_INFINITY; n];
            for sink in [None, Some(0.0)] {
                let args = Softmax {
                    mask: SoftmaxMask::F32(&masked),
                    sink,
                    ..plain
                };
                softmax_in_place(isa, &mut row, &args);
                assert!(row.iter().all(|x| *x == 0.0), "{isa}: {n} masked");
            }
        }
    }
}
