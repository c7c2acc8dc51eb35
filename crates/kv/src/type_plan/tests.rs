use super::*;
use crate::shape::{KeysValues, Layer, State};
use proptest::prelude::*;

/// A model of so many layers, of which those of `without` keep a state instead of keys.
fn shape(n_layers: usize, without: &[usize]) -> Shape {
    let head = KeysValues {
        heads: 2,
        key_width: 64,
        value_width: 64,
    };
    let layer = |at: usize| Layer {
        keys_values: (!without.contains(&at)).then_some(head),
        has_state: without.contains(&at),
        ..Layer::default()
    };
    Shape {
        architecture: "llama".into(),
        context_train: 4096,
        layers: (0..n_layers).map(layer).collect(),
        window: None,
        state: State::default(),
        is_latent: false,
        value_row_max: 128,
        first_head: head,
        has_many_positions: false,
        is_encoder: false,
    }
}

/// Keys and values of each layer, a letter a type.
fn letters(plan: &str, shape: &Shape) -> [String; 2] {
    let plan: TypePlan = plan.parse().unwrap();
    let all = plan.of(shape).unwrap();
    let letter = |of: CacheType| match of {
        CacheType::F16 => 'f',
        CacheType::Q8_0 => '8',
        CacheType::Q5_0 => '5',
        CacheType::Q4_0 => '4',
        _ => '?',
    };
    [
        all.iter().map(|types| letter(types.keys)).collect(),
        all.iter().map(|types| letter(types.values)).collect(),
    ]
}

#[test]
fn a_later_rule_stands_before_an_earlier_one() {
    let shape = shape(6, &[]);
    let cases = [
        ("k=q8_0,v=q4_0;k[1,3-4]=f16", ["8f8ff8", "444444"]),
        ("kv[0]=q8_0", ["8fffff", "8fffff"]),
        ("k[0]=q8_0;k=q4_0", ["444444", "ffffff"]),
        ("k[0-5]=q8_0;k[2]=q4_0;v[5]=q5_0", ["884888", "fffff5"]),
        ("q8_0/q4_0", ["888888", "444444"]),
        ("q5_0", ["555555", "555555"]),
        ("first-third", ["884444", "884444"]),
        (
            " kv = q4_0 ; kv[ last-third ] = q8_0 ",
            ["444488", "444488"],
        ),
    ];
    for (plan, expected) in cases {
        assert_eq!(letters(plan, &shape), expected, "{plan}");
    }
}

/// The published rule: 8 bits in layers 0 to 10 of 32.
#[test]
fn thirds_are_rounded_up_and_count_layers_with_keys() {
    let [keys, _] = letters("first-third", &shape(32, &[]));
    assert_eq!(keys.find('4'), Some(11));
    // Keys are in 3, 7, 11 and 15: two of them are the first third.
    let hybrid: Vec<usize> = (0..16).filter(|at| at % 4 != 3).collect();
    let hybrid = shape(16, &hybrid);
    let plan: TypePlan = "first-third".parse().unwrap();
    let all = plan.of(&hybrid).unwrap();
    let keys: Vec<_> = [3, 7, 11, 15].map(|at: usize| all[at].keys.name()).into();
    assert_eq!(keys, ["q8_0", "q8_0", "q4_0", "q4_0"]);
}

#[test]
fn what_is_open_is_as_the_other_settings_say() {
    let open = Types {
        keys: CacheType::Q8_0,
        values: CacheType::Q5_0,
    };
    let plan = TypePlan::read("k[1]=f16", open).unwrap();
    assert_eq!(plan.to_string(), "k=q8_0,v=q5_0;k[1]=f16");
    assert_eq!(plan.as_uniform(), None);
    let plan = TypePlan::read("v=q4_0", open).unwrap();
    assert_eq!(plan.to_string(), "k=q8_0,v=q4_0");
    assert!(plan.as_uniform().is_some());
}

#[test]
fn what_cannot_be_read_is_named_with_the_way_to_write_it() {
    let cases = [
        ("", "k[18,20-23]=f16"),
        ("k", "`k` does not exist"),
        ("k=q6_k", "`q6_k` does not exist"),
        ("x=f16", "`x=f16` is no rule"),
        ("k=f16;;v=f16", "`` is no rule"),
        ("k[1=f16", "`k[1=f16` is no rule"),
        ("k[]=f16", "`` names no layers"),
        ("k[5-3]=f16", "`5-3` names no layers"),
        ("k[1,two]=f16", "`two` names no layers"),
        ("second-third", "`second-third` does not exist"),
    ];
    for (text, told) in cases {
        let error = text.parse::<TypePlan>().unwrap_err().to_string();
        assert!(error.contains(told), "{text}: {error}");
    }
    let long = format!("k=f16{}", ";k[1]=f16".repeat(2000));
    let error = long.parse::<TypePlan>().unwrap_err().to_string();
    assert!(
        error.contains("18005") && error.contains("16384"),
        "{error}"
    );
}

#[test]
fn layers_that_are_not_there_are_named() {
    let hybrid = shape(8, &[0, 1, 2, 4, 5, 6]);
    let of = |text: &str| text.parse::<TypePlan>().unwrap().of(&hybrid);
    let error = of("k[8]=f16").unwrap_err().to_string();
    assert!(
        error.contains("layer 8") && error.contains("0 to 7"),
        "{error}"
    );
    let error = of("k[2]=f16").unwrap_err().to_string();
    assert!(
        error.contains("layer 2") && error.contains("3,7"),
        "{error}"
    );
    // A range may pass over them.
    assert_eq!(of("k[0-3]=q8_0").unwrap()[3].keys, CacheType::Q8_0);
}

fn any_type() -> impl Strategy<Value = CacheType> {
    (0..CacheType::ALL.len()).prop_map(|at| CacheType::ALL[at])
}

fn any_rule() -> impl Strategy<Value = String> {
    let layers = prop_oneof![
        Just(String::new()),
        Just("[first-third]".to_owned()),
        Just("[last-third,0]".to_owned()),
        (0u32..6, 0u32..6).prop_map(|(a, b)| format!("[{}-{}]", a.min(b), a.max(b))),
        (0u32..12, 0u32..12).prop_map(|(a, b)| format!("[{a},{b}]")),
    ];
    let side = prop_oneof![Just("k"), Just("v"), Just("kv")];
    (side, layers, any_type()).prop_map(|(side, layers, of)| format!("{side}{layers}={of}"))
}

proptest! {
    /// What is shown is read back as the same plan, and means the same.
    #[test]
    fn plans_are_shown_as_they_are_read(rules in proptest::collection::vec(any_rule(), 1..8)) {
        let plan: TypePlan = rules.join(";").parse().unwrap();
        let again: TypePlan = plan.to_string().parse().unwrap();
        let shape = shape(12, &[]);
        prop_assert_eq!(plan.of(&shape).unwrap(), again.of(&shape).unwrap());
        prop_assert_eq!(plan.to_string(), again.to_string());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[kv\\[\\]=,;0-9a-z_/ -]{0,40}") {
        if let Ok(plan) = text.parse::<TypePlan>() {
            let _ = plan.of(&shape(4, &[1]));
        }
    }
}
