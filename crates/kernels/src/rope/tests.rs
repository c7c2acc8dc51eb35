use super::*;

const PLAIN: RopeParams = RopeParams {
    mode: RopeMode::Norm,
    n_dims: 64,
    offset: 0,
    n_ctx_orig: 4096,
    freq_base: 10_000.0,
    freq_scale: 1.0,
    ext_factor: 0.0,
    attn_factor: 1.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
};

const YARN: RopeParams = RopeParams {
    freq_scale: 0.25,
    ext_factor: 1.0,
    ..PLAIN
};

fn row(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 29 % 41) as f32 - 20.0) * 0.1)
        .collect()
}

/// The rotation in f64, from the definition.
fn exact(params: &RopeParams, position: i32, factors: Option<&[f32]>, src: &[f32]) -> Vec<f64> {
    let mut dst: Vec<f64> = src.iter().copied().map(f64::from).collect();
    let dims = params.n_dims as f64;
    let base = f64::from(params.freq_base);
    let scale = f64::from(params.freq_scale);
    let turns = |beta: f32| {
        let wave = params.n_ctx_orig as f64 / (f64::from(beta) * std::f64::consts::TAU);
        dims * wave.ln() / (2.0 * base.ln())
    };
    let start = turns(params.beta_fast).floor().max(0.0);
    let end = turns(params.beta_slow).ceil().min(dims - 1.0);
    for i in 0..params.n_dims / 2 {
        let plain = f64::from(position) * base.powf(-2.0 * i as f64 / dims)
            / factors.map_or(1.0, |factors| f64::from(factors[i]));
        let ramp = 1.0 - ((i as f64 - start) / (end - start).max(0.001)).clamp(0.0, 1.0);
        let mix = ramp * f64::from(params.ext_factor);
        let angle = plain * scale * (1.0 - mix) + plain * mix;
        let mut size = f64::from(params.attn_factor);
        if params.ext_factor != 0.0 {
            size *= 1.0 + 0.1 * (1.0 / scale).ln();
        }
        let (a, b) = match params.mode {
            RopeMode::Norm => (2 * i, 2 * i + 1),
            RopeMode::Neox => (i, i + params.n_dims / 2),
        };
        let (a, b) = (params.offset + a, params.offset + b);
        let (x, y) = (f64::from(src[a]), f64::from(src[b]));
        dst[a] = size * (x * angle.cos() - y * angle.sin());
        dst[b] = size * (x * angle.sin() + y * angle.cos());
    }
    dst
}

#[test]
fn rotations_are_close_to_the_definition_and_the_same_in_every_variant() {
    let factors: Vec<f32> = (0..64).map(|i| 1.0 + i as f32 * 0.25).collect();
    for mode in [RopeMode::Norm, RopeMode::Neox] {
        for base in [PLAIN, YARN] {
            for (n_dims, offset, size) in [
                (64, 0, 64),
                (32, 0, 64),
                (2, 0, 2),
                (20, 6, 30),
                (80, 0, 80),
                (128, 64, 192),
            ] {
                let params = RopeParams {
                    mode,
                    n_dims,
                    offset,
                    ..base
                };
                for factors in [None, Some(&factors[..])] {
                    for position in [0, 1, 77, 1000] {
                        check(&params, position, factors, &row(size));
                    }
                }
            }
        }
    }
}

fn check(params: &RopeParams, position: i32, factors: Option<&[f32]>, src: &[f32]) {
    let mut table = RopeTable::new(params);
    table.fill(position, factors);
    let want = exact(params, position, factors, src);
    let mut reference = vec![f32::NAN; src.len()];
    table.apply(Isa::SCALAR, &mut reference, src);
    for (got, want) in reference.iter().zip(&want) {
        // The recurrence in f32 errs by about the position times 1e-6 in the angle.
        let tolerance = 1e-5 + 4e-6 * f64::from(position);
        let error = (f64::from(*got) - want).abs();
        assert!(
            error <= tolerance,
            "{params:?} at {position}: {got}, not {want}"
        );
    }
    for isa in Isa::available() {
        let mut dst = vec![f32::NAN; src.len()];
        table.apply(isa, &mut dst, src);
        assert_eq!(dst, reference, "{isa}: {params:?}");
        let mut row = src.to_vec();
        table.apply_in_place(isa, &mut row);
        assert_eq!(row, reference, "{isa}: {params:?} in place");
    }
}

#[test]
fn the_angles_are_those_of_the_recurrence() {
    let mut table = RopeTable::new(&RopeParams {
        mode: RopeMode::Neox,
        ..PLAIN
    });
    table.fill(1234, None);
    let scale = 10_000f32.powf(-2.0 / 64.0);
    let mut theta = 1234f32;
    let mut row = vec![1.0; 32];
    row.resize(64, 0.0);
    table.apply_in_place(Isa::SCALAR, &mut row);
    for i in 0..32 {
        assert_eq!(
            (row[i], row[32 + i]),
            (theta.cos(), theta.sin()),
            "pair {i}"
        );
        theta *= scale;
    }
}
