use super::*;

use proptest::prelude::*;

use crate::shape::{KeysValues, Layer, State};

/// Layers with heads of 64 values, of which each loses as much by rounding.
fn table(slopes: &[f64]) -> Vec<Sensitivity> {
    use CacheType::{F16, Q4_0, Q5_0, Q8_0};
    let lost = [
        (F16, 0.0),
        (Q8_0, 0.000_03),
        (Q5_0, 0.001_66),
        (Q4_0, 0.006_7),
    ];
    let each = slopes.iter().zip(0_u32..).map(|(slope, at)| Sensitivity {
        layer: at / 2,
        side: if at % 2 == 0 {
            Side::Keys
        } else {
            Side::Values
        },
        row_values: 192,
        slope: *slope,
        slope_error: 0.01,
        lost: lost.to_vec(),
    });
    each.collect()
}

fn shape(layers: usize) -> Shape {
    let heads = KeysValues {
        heads: 3,
        key_width: 64,
        value_width: 64,
    };
    Shape {
        architecture: "llama".to_owned(),
        context_train: 8192,
        layers: vec![
            Layer {
                keys_values: Some(heads),
                ..Layer::default()
            };
            layers
        ],
        window: None,
        state: State::default(),
        is_latent: false,
        value_row_max: 192,
        first_head: heads,
        has_many_positions: false,
        is_encoder: false,
    }
}

#[test]
fn the_sensitive_layer_keeps_its_bits() {
    let table = table(&[0.1, 0.02, 5.0, 0.02, 0.1, 0.02]);
    // Three layers: q4_0 takes 648, and 8 bits of one tensor 96 more.
    let found = calibrate(&table, 648 + 96).unwrap();
    assert_eq!(found.plan.to_string(), "k=q4_0,v=q4_0;k[1]=q8_0");
    assert_eq!(found.bytes, 744);
    assert_eq!(found.plan.token_bytes(&shape(3)), Ok(found.bytes));
    // A quarter of the error of each is added.
    let expected = 0.006_7 * (0.26 + 5.0 * 0.0025) + 0.000_03 * 5.0025;
    assert!((found.excess - expected).abs() < 1e-12, "{found:?}");
}

/// A slope below 0 is noise: no gain that would pay for a loss elsewhere, and not known to be
/// nothing.
#[test]
fn what_comes_out_below_nothing_gets_what_is_left() {
    let table = table(&[-3.0, 0.5]);
    let choice = table[0].choice();
    let is_little = |one: &Candidate| (0.0..=1.7e-5).contains(&one.excess) && one.error >= 0.0;
    assert!(choice.candidates.iter().all(is_little), "{choice:?}");
    let plan = |budget| calibrate(&table, budget).unwrap().plan.to_string();
    assert_eq!(plan(108 + 204), "k=q4_0,v=q8_0");
    assert_eq!(plan(204 + 204), "k=q8_0,v=q8_0");
    assert_eq!(plan(u64::MAX), "k=f16,v=f16");
}

#[test]
fn uniform_pairs_are_within_the_budget_and_the_likeliest_is_first() {
    // Keys are four times as sensitive.
    let table = table(&[0.4, 0.1, 0.4, 0.1]);
    let names = |budget| {
        let pairs = uniform_pairs(&table, budget);
        assert!(pairs.iter().all(|pair| pair.bytes <= budget));
        let names = pairs.iter().map(|pair| pair.plan.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(432), ["k=q4_0,v=q4_0"]);
    assert_eq!(
        names(480),
        ["k=q5_0,v=q4_0", "k=q4_0,v=q5_0", "k=q4_0,v=q4_0"]
    );
    assert!(names(431).is_empty());
    assert!(uniform_pairs(&[], 1000).is_empty());
}

#[test]
fn the_rule_of_thumb_takes_as_many_layers_as_fit() {
    let table = table(&[0.4, 0.1, 0.4, 0.1, 0.4, 0.1]);
    let plan =
        |budget| first_layers(&table, budget).map(|made| (made.plan.to_string(), made.bytes));
    assert_eq!(plan(647), None);
    assert_eq!(plan(648 + 191), Some(("k=q4_0,v=q4_0".to_owned(), 648)));
    assert_eq!(
        plan(648 + 192),
        Some(("k=q4_0,v=q4_0;kv[0]=q8_0".to_owned(), 840))
    );
    // As the plan of that name has it.
    let thirds: TypePlan = "first-third".parse().unwrap();
    assert_eq!(thirds.token_bytes(&shape(3)), Ok(840));
}

#[test]
fn controls_are_within_the_budget_and_predicted_to_be_worse() {
    let table = table(&[9.0, 0.1, 7.0, 0.2, 0.5, 0.1, 0.3, 0.05]);
    let budget = 864 + 2 * 96;
    let best = calibrate(&table, budget).unwrap();
    assert_eq!(best.plan.to_string(), "k=q8_0,v=q4_0;k[2-3]=q4_0");
    let inverted = control(&table, Control::Inverted, budget).unwrap();
    assert_eq!(inverted.bytes, budget);
    assert!(inverted.excess > 1.5 * best.excess, "{inverted:?} {best:?}");
    assert_eq!(inverted.plan.to_string(), "k=q4_0,v=q8_0;v[1-2]=q4_0");
    let random = |seed| control(&table, Control::Random(seed), budget).unwrap();
    assert_eq!(random(1), random(1));
    let different: Vec<_> = (0..8).map(|seed| random(seed).plan.to_string()).collect();
    assert!(
        different.iter().any(|one| *one != different[0]),
        "{different:?}"
    );
    assert!((0..8).all(|seed| random(seed).bytes <= budget));
}

#[test]
fn budgets_are_bytes_or_shares_or_pairs() {
    let shape = shape(30);
    let bytes = |text: &str| text.parse::<Budget>().unwrap().bytes(&shape).unwrap();
    let cases = [
        ("7200", 7200),
        ("0.4", 9216),
        ("1", 23_040),
        ("1.0", 23_040),
        ("q8_0/q4_0", 9360),
        (" q5_0 ", 7920),
    ];
    for (text, expected) in cases {
        assert_eq!(bytes(text), expected, "{text}");
    }
    for (text, told) in [
        ("0", "`0` is no budget"),
        ("", "is no budget"),
        ("1.5", "`1.5` is no budget"),
        ("-3", "`-3` is no budget"),
        ("nan", "`nan` does not exist"),
        ("q8_0/q6", "`q6` does not exist"),
    ] {
        let error = text.parse::<Budget>().unwrap_err().to_string();
        assert!(error.contains(told), "{text}: {error}");
    }
}

fn any_table() -> impl Strategy<Value = Vec<Sensitivity>> {
    proptest::collection::vec(-1.0_f64..10.0, 2..=24).prop_map(|slopes| table(&slopes))
}

proptest! {
    #[test]
    fn plans_are_within_the_budget_and_what_they_say(table in any_table(), budget in 0_u64..12_000) {
        let n_layers = table.len().div_ceil(2);
        let Ok(found) = calibrate(&table, budget) else {
            prop_assert!(budget < 108 * table.len() as u64);
            return Ok(());
        };
        prop_assert!(found.bytes <= budget);
        // What is written down is what was chosen.
        let read: TypePlan = found.plan.to_string().parse().unwrap();
        prop_assert_eq!(read.of(&shape(n_layers)), found.plan.of(&shape(n_layers)));
        if table.len() % 2 == 0 {
            prop_assert_eq!(read.token_bytes(&shape(n_layers)), Ok(found.bytes));
        }
        // Nothing that it could have been is predicted to be better.
        for pair in uniform_pairs(&table, budget) {
            prop_assert!(found.excess <= pair.excess + 1e-12, "{found:?} {pair:?}");
        }
        for seed in 0..3 {
            let random = control(&table, Control::Random(seed), budget).unwrap();
            prop_assert!(random.bytes <= budget);
        }
    }
}
