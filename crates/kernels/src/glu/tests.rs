use super::*;

const UNARY: [Unary; 11] = [
    Unary::Silu,
    Unary::Gelu,
    Unary::GeluErf,
    Unary::GeluQuick,
    Unary::Relu,
    Unary::Sigmoid,
    Unary::Tanh,
    Unary::Exp,
    Unary::Neg,
    Unary::Square,
    Unary::Softplus,
];

const GLU: [Glu; 6] = [
    Glu::Swiglu,
    Glu::Geglu,
    Glu::GegluErf,
    Glu::GegluQuick,
    Glu::Reglu,
    Glu::SwigluOai {
        alpha: 1.702,
        limit: 7.0,
    },
];

/// Many numbers of every size that matters.
fn numbers() -> Vec<f32> {
    let near = (-40_000..=40_000).map(|i| i as f32 * 0.003_1);
    let tiny = (-60..=60).map(|i| i as f32 * 1e-6);
    near.chain(tiny)
        .chain([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])
        .collect()
}

/// What an operation may err by.
fn tolerance(op: Unary, x: f32, want: f32) -> f32 {
    let absolute = match op {
        Unary::GeluErf => 3e-7 * x.abs(),
        Unary::Gelu => 2e-7 * x.abs(),
        _ => 1e-37,
    };
    absolute.max(6e-7 * want.abs())
}

#[test]
fn every_unary_variant_is_close_to_the_reference() {
    let src = numbers();
    for op in UNARY {
        let mut want = vec![0.0; src.len()];
        unary(Isa::SCALAR, op, &mut want, &src);
        for isa in Isa::available() {
            let mut dst = vec![f32::NAN; src.len()];
            unary(isa, op, &mut dst, &src);
            for ((x, got), want) in src.iter().zip(&dst).zip(&want) {
                let close = got == want || (got - want).abs() <= tolerance(op, *x, *want);
                assert!(close, "{isa}: {op:?} of {x} is {got}, not {want}");
            }
            let mut row = src.clone();
            unary_in_place(isa, op, &mut row);
            assert_eq!(row, dst, "{isa}: {op:?} in place");
        }
    }
}

#[test]
fn the_reference_has_known_values() {
    let mut row = [0.0; 1];
    for (op, x, want) in [
        (Unary::Silu, 1.0, 0.731_058_6),
        (Unary::Gelu, 1.0, 0.841_192),
        (Unary::GeluErf, 1.0, 0.841_344_8),
        (Unary::GeluErf, -2.0, -0.045_500_26),
        (Unary::GeluQuick, 1.0, 0.845_795_8),
        (Unary::Relu, -3.0, 0.0),
        (Unary::Sigmoid, 0.0, 0.5),
        (Unary::Softplus, 0.0, std::f32::consts::LN_2),
        (Unary::Softplus, 30.0, 30.0),
    ] {
        unary(Isa::SCALAR, op, &mut row, &[x]);
        assert!((row[0] - want).abs() < 2e-7, "{op:?} of {x} is {}", row[0]);
    }
    glu(Isa::SCALAR, GLU[5], &mut row, &[9.0], &[-8.0]);
    assert!((row[0] - 7.0 / (1.0 + (-1.702f32 * 7.0).exp()) * -6.0).abs() < 1e-5);
}

#[test]
fn exp_and_tanh_err_by_few_units_of_the_last_place() {
    let src = numbers();
    for isa in Isa::available() {
        for (op, function, limit) in [
            (Unary::Exp, f64::exp as fn(f64) -> f64, 2.0),
            (Unary::Tanh, f64::tanh, 3.0),
        ] {
            let mut dst = vec![0.0; src.len()];
            unary(isa, op, &mut dst, &src);
            let mut worst = 0f64;
            for (x, y) in src.iter().zip(&dst) {
                let want = function(f64::from(*x));
                let size = want.abs() as f32;
                if size.is_normal() {
                    let ulp = f64::from(size.next_up() - size);
                    worst = worst.max((f64::from(*y) - want).abs() / ulp);
                }
            }
            assert!(worst <= limit, "{isa}: {op:?} errs by {worst} ulp");
        }
    }
}

#[test]
fn limits_of_exp_are_exact() {
    let src = [
        0.0,
        -0.0,
        -88.0,
        -1e30,
        f32::NEG_INFINITY,
        89.0,
        f32::INFINITY,
        f32::NAN,
    ];
    for isa in Isa::available().skip(1) {
        let mut dst = [0.5; 8];
        unary(isa, Unary::Exp, &mut dst, &src);
        assert_eq!(
            dst[..7],
            [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]
        );
        assert!(dst[7].is_nan(), "{isa}");
    }
}

#[test]
fn every_gated_variant_is_close_at_every_length() {
    let numbers = numbers();
    for n in (0..70).chain([1000]) {
        let gate: Vec<f32> = numbers.iter().step_by(67).take(n).copied().collect();
        let up: Vec<f32> = numbers.iter().rev().step_by(53).take(n).copied().collect();
        for op in GLU {
            let mut want = vec![0.0; n];
            glu(Isa::SCALAR, op, &mut want, &gate, &up);
            for isa in Isa::available() {
                let mut dst = vec![f32::NAN; n];
                glu(isa, op, &mut dst, &gate, &up);
                for i in 0..n {
                    let unit = (gate[i] * (up[i].abs() + 1.0)).abs();
                    let tolerance = 1e-6 * want[i].abs() + 3e-7 * unit;
                    assert!((dst[i] - want[i]).abs() <= tolerance, "{isa}: {op:?}");
                }
                let mut row = gate.clone();
                glu_in_place(isa, op, &mut row, &up);
                assert_eq!(row, dst, "{isa}: {op:?} in place");
            }
        }
    }
}
