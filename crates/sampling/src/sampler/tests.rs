use proptest::prelude::*;

use super::*;

const INF: f32 = f32::INFINITY;

fn plain(temperature: f32) -> Params {
    Params {
        temperature,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        ..Params::default()
    }
}

/// Probabilities of every token that can be drawn, by id.
fn distribution(params: &Params, logits: &[f32], mask: Option<&TokenMask>) -> Vec<(TokenId, f64)> {
    let mut sampler = Sampler::new(params);
    sampler.narrow(logits, mask);
    sampler.weigh();
    let total: f64 = sampler.weights.iter().map(|w| f64::from(*w)).sum();
    let mut shares: Vec<(TokenId, f64)> = sampler
        .candidates
        .iter()
        .zip(&sampler.weights)
        .map(|(c, w)| (c.token, f64::from(*w) / total))
        .collect();
    shares.sort_by_key(|s| s.0);
    shares
}

fn tokens(params: &Params, logits: &[f32]) -> Vec<TokenId> {
    distribution(params, logits, None)
        .iter()
        .map(|s| s.0)
        .collect()
}

/// The same chain with a full sort at every step.
fn reference(params: &Params, logits: &[f32], mask: Option<&TokenMask>) -> Vec<(TokenId, f64)> {
    let mut all: Vec<(TokenId, f32)> = logits
        .iter()
        .enumerate()
        .map(|(i, x)| (i as TokenId, x.min(f32::MAX)))
        .zip(logits)
        .filter(|((token, _), raw)| {
            !raw.is_nan() && **raw > -INF && mask.is_none_or(|m| m.is_allowed(*token))
        })
        .map(|(candidate, _)| candidate)
        .collect();
    let sort = |all: &mut Vec<(TokenId, f32)>| {
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    };
    let max = |all: &[(TokenId, f32)]| all.iter().fold(-INF, |m, c| m.max(c.1));
    let weight = |x: f32, max: f32| f64::from(math::exp(x - max));
    let k = params.top_k as usize;
    if k > 0 && k < logits.len() {
        sort(&mut all);
        all.truncate(k);
    }
    if params.typical_p < 1.0 {
        let m = max(&all);
        let total: f64 = all.iter().map(|c| weight(c.1, m)).sum();
        let surprise = |x: f32| total.ln() - (f64::from(x) - f64::from(m));
        let entropy: f64 = all
            .iter()
            .map(|c| weight(c.1, m) / total * surprise(c.1))
            .sum();
        let score = |x: f32| (surprise(x) - entropy).abs() as f32;
        sort(&mut all);
        all.sort_by(|a, b| score(a.1).total_cmp(&score(b.1)));
        let mut held = 0.0;
        let stop = all.iter().position(|c| {
            held += weight(c.1, m);
            held > f64::from(params.typical_p) * total
        });
        all.truncate(stop.map_or(all.len(), |s| s + 1));
    }
    if params.top_p < 1.0 {
        let m = max(&all);
        let total: f64 = all.iter().map(|c| weight(c.1, m)).sum();
        sort(&mut all);
        let mut held = 0.0;
        let stop = all.iter().position(|c| {
            held += weight(c.1, m);
            held >= f64::from(params.top_p) * total
        });
        all.truncate(stop.map_or(all.len(), |s| s + 1));
    }
    if params.min_p > 0.0 {
        let floor = max(&all) + params.min_p.ln();
        all.retain(|c| c.1 >= floor);
    }
    let m = max(&all);
    let shares = |c: &(TokenId, f32)| f64::from(math::exp((c.1 - m) / params.temperature));
    all.sort_by_key(|c| c.0);
    let total: f64 = all.iter().map(shares).sum();
    all.iter().map(|c| (c.0, shares(c) / total)).collect()
}

fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => (-8_i8..8).prop_map(|x| f32::from(x) / 2.0),
        4 => -20.0_f32..20.0,
        1 => prop_oneof![Just(-INF), Just(INF), Just(f32::NAN), Just(-0.0)],
    ]
}

fn any_params() -> impl Strategy<Value = Params> {
    (
        prop_oneof![Just(0_u32), 1_u32..50, Just(100_000)],
        prop_oneof![Just(1.0_f32), 0.0_f32..1.0, Just(0.5)],
        prop_oneof![Just(0.0_f32), 0.0_f32..1.0],
        prop_oneof![2 => Just(1.0_f32), 1 => 0.0_f32..1.0],
        prop_oneof![Just(1.0_f32), 0.05_f32..3.0],
        any::<u64>(),
    )
        .prop_map(
            |(top_k, top_p, min_p, typical_p, temperature, seed)| Params {
                top_k,
                top_p,
                min_p,
                typical_p,
                temperature,
                seed,
                ..Params::default()
            },
        )
}

proptest! {
    #[test]
    fn the_chain_equals_a_naive_one(
        params in any_params(),
        logits in prop::collection::vec(logit(), 0..1500),
        allowed in prop::option::of(prop::collection::vec(0_i32..1500, 0..200)),
    ) {
        let mask = allowed.map(|allowed| {
            let mut mask = TokenMask::none(logits.len());
            allowed.iter().for_each(|t| mask.allow(*t));
            mask
        });
        let fast = distribution(&params, &logits, mask.as_ref());
        let slow = reference(&params, &logits, mask.as_ref());
        prop_assert_eq!(fast.len(), slow.len());
        for (f, s) in fast.iter().zip(&slow) {
            prop_assert_eq!(f.0, s.0);
            prop_assert!((f.1 - s.1).abs() < 1e-9);
        }
    }

    #[test]
    fn a_sample_is_always_allowed_finite_and_repeatable(
        params in any_params(),
        greedy in any::<bool>(),
        logits in prop::collection::vec(logit(), 0..300),
        allowed in prop::collection::vec(0_i32..300, 0..40),
    ) {
        let params = Params { temperature: if greedy { 0.0 } else { params.temperature }, ..params };
        let mut mask = TokenMask::none(logits.len());
        allowed.iter().for_each(|t| mask.allow(*t));
        let possible = |t: TokenId| mask.is_allowed(t) && logits[t as usize] > -INF;
        let mut a = Sampler::new(&params);
        let mut b = Sampler::new(&params);
        for _ in 0..5 {
            let got = a.sample(&logits, Some(&mask));
            prop_assert_eq!(&got, &b.sample(&logits, Some(&mask)));
            match got {
                Ok(token) => prop_assert!(possible(token)),
                Err(_) => prop_assert!(!mask.iter().any(possible)),
            }
        }
    }
}

#[test]
fn greedy_takes_the_best_and_the_lowest_of_equals() {
    let table: [(&[f32], TokenId); 5] = [
        (&[1.0, 3.0, 2.0], 1),
        (&[3.0, 3.0, 2.0], 0),
        (&[f32::NAN, -5.0, -INF], 1),
        (&[1.0, INF, INF], 1),
        (&[-7.0], 0),
    ];
    for (logits, expected) in table {
        assert_eq!(
            Sampler::new(&plain(0.0)).sample(logits, None),
            Ok(expected),
            "{logits:?}"
        );
    }
}

#[test]
fn an_impossible_row_is_an_error() {
    let table: [(&[f32], Option<TokenMask>); 4] = [
        (&[], None),
        (&[-INF, f32::NAN], None),
        (&[1.0, 2.0], Some(TokenMask::none(2))),
        (&[1.0, 2.0], Some(TokenMask::none(0))),
    ];
    for temperature in [0.0, 1.0] {
        for (logits, mask) in &table {
            let got = Sampler::new(&plain(temperature)).sample(logits, mask.as_ref());
            let n_vocab = logits.len();
            assert_eq!(got, Err(SampleError::NoCandidate { n_vocab }));
        }
    }
}

#[test]
fn each_filter_keeps_what_its_definition_says() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let logits = [0.5_f32, 0.25, 0.125, 0.125].map(f32::ln);
    let with = |set: fn(&mut Params)| {
        let mut params = plain(1.0);
        set(&mut params);
        tokens(&params, &logits)
    };
    assert_eq!(with(|_| ()), [0, 1, 2, 3]);
    assert_eq!(with(|p| p.top_k = 3), [0, 1, 2]);
    assert_eq!(with(|p| p.top_k = 9), [0, 1, 2, 3]);
    assert_eq!(with(|p| p.top_p = 0.74), [0, 1]);
    assert_eq!(with(|p| p.top_p = 0.76), [0, 1, 2]);
    assert_eq!(with(|p| p.top_p = 0.0), [0]);
    assert_eq!(with(|p| p.min_p = 0.45), [0, 1]);
    assert_eq!(with(|p| p.min_p = 1.0), [0]);
    // Entropy is 1.75 bits: token 1 (2 bits) is the most typical, then 0 (1 bit).
    assert_eq!(with(|p| p.typical_p = 0.2), [1]);
    assert_eq!(with(|p| p.typical_p = 0.7), [0, 1]);
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0_f32, 1.0, 2.0, -1.0, 0.5];
    for temperature in [0.5, 1.0, 2.0] {
        let params = Params {
            seed: 7,
            ..plain(temperature)
        };
        let expected = distribution(&params, &logits, None);
        let mut sampler = Sampler::new(&params);
        let mut counts = [0_u32; 5];
        let n = 100_000;
        for _ in 0..n {
            counts[sampler.sample(&logits, None).unwrap() as usize] += 1;
        }
        let chi_square: f64 = expected
            .iter()
            .map(|&(token, p)| {
                let want = p * f64::from(n);
                (f64::from(counts[token as usize]) - want).powi(2) / want
            })
            .sum();
        // 99.9 % of honest samples of 4 degrees of freedom lie below 18.5.
        assert!(
            chi_square < 18.5,
            "{chi_square} at temperature {temperature}"
        );
    }
}

#[test]
fn a_seed_gives_the_same_tokens_for_ever() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 10.0).collect();
    let params = Params {
        seed: 42,
        ..Params::default()
    };
    let stream = |mut sampler: Sampler| -> Vec<TokenId> {
        (0..8)
            .map(|_| sampler.sample(&logits, None).unwrap())
            .collect()
    };
    let sampler = Sampler::new(&params);
    let first = stream(sampler.fork(0));
    assert_eq!(first, stream(sampler.clone()));
    assert_eq!(first, SEED_42_TOKENS);
    assert_ne!(first, stream(sampler.fork(1)));
    assert_eq!(stream(sampler.fork(1)), stream(sampler.fork(1)));
}

/// Changing these changes the answer of every request with a seed.
const SEED_42_TOKENS: [TokenId; 8] = [696, 535, 838, 161, 131, 120, 737, 898];

#[test]
fn bias_bans_and_penalties_move_the_choice() {
    let logits = [5.0, 4.0, 3.0];
    let base = plain(0.0);
    let table: [(Params, &[TokenId], TokenId); 5] = [
        (base.clone(), &[0, 0], 0),
        (
            Params {
                logit_bias: vec![(2, 3.0)],
                ..base.clone()
            },
            &[],
            2,
        ),
        (
            Params {
                banned: vec![0],
                ..base.clone()
            },
            &[],
            1,
        ),
        (
            Params {
                frequency_penalty: 1.5,
                ..base.clone()
            },
            &[0, 1],
            0,
        ),
        (
            Params {
                frequency_penalty: 1.5,
                ..base
            },
            &[0, 0, 1],
            2,
        ),
    ];
    for (params, history, expected) in table {
        let mut sampler = Sampler::new(&params);
        history.iter().for_each(|t| sampler.accept(*t));
        assert_eq!(sampler.sample(&logits, None), Ok(expected), "{params:?}");
    }
}

#[test]
fn dry_stops_a_loop() {
    let params = Params {
        dry_multiplier: 0.8,
        ..plain(0.0)
    };
    let mut sampler = Sampler::new(&params);
    let mut tokens = Vec::new();
    for step in 0..40 {
        // A model that wants 0 1 2 0 1 2 ... and, less, token 3.
        let mut logits = [0.0, 0.0, 0.0, 4.0];
        logits[step % 3] = 6.0;
        let token = sampler.sample(&logits, None).unwrap();
        sampler.accept(token);
        tokens.push(token);
    }
    assert_eq!(tokens[..6], [0, 1, 2, 0, 1, 2]);
    assert!(tokens.contains(&3));
}

#[test]
fn buffers_stop_growing_after_the_first_tokens() {
    let params = Params {
        typical_p: 0.9,
        repeat_penalty: 1.1,
        ..Params::default()
    };
    let logits: Vec<f32> = (0..5000)
        .map(|i| ((i * 7919) % 1009) as f32 / 100.0)
        .collect();
    let mask = TokenMask::all(logits.len());
    let mut sampler = Sampler::new(&params);
    let capacities = |s: &Sampler| {
        [
            s.row.capacity(),
            s.candidates.capacity(),
            s.weights.capacity(),
            s.surprises.capacity(),
        ]
    };
    sampler.sample(&logits, Some(&mask)).unwrap();
    let warm = capacities(&sampler);
    for _ in 0..100 {
        let token = sampler.sample(&logits, Some(&mask)).unwrap();
        sampler.accept(token);
    }
    assert_eq!(capacities(&sampler), warm);
}

#[test]
fn the_margin_is_that_of_the_row_greedy_sampling_sees() {
    let logits = [1.0, 4.0, 3.0, -INF];
    let mut sampler = Sampler::new(&plain(0.0));
    assert_eq!(sampler.greedy_margin(&logits, None), 1.0);
    let mut mask = TokenMask::none(4);
    mask.allow(0);
    mask.allow(2);
    assert_eq!(sampler.greedy_margin(&logits, Some(&mask)), 2.0);
    let params = Params {
        logit_bias: vec![(0, 2.75)],
        banned: vec![2],
        ..plain(0.0)
    };
    assert_eq!(Sampler::new(&params).greedy_margin(&logits, None), 0.25);
    assert_eq!(sampler.greedy_margin(&[1.0, -INF], None), INF);
}
