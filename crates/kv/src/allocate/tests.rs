use super::*;

use proptest::prelude::*;

const TYPES: [CacheType; 4] = [
    CacheType::Q8_0,
    CacheType::Q5_0,
    CacheType::Q4_0,
    CacheType::Iq4Nl,
];

fn choice(layer: u32, candidates: &[(u64, f64)]) -> Choice {
    let each = candidates.iter().zip(TYPES);
    let candidates = each.map(|((bytes, excess), cache_type)| Candidate {
        cache_type,
        bytes: *bytes,
        excess: *excess,
        error: 0.0,
    });
    Choice {
        layer,
        side: Side::Keys,
        candidates: candidates.collect(),
    }
}

/// All ways, one after another.
fn by_trial(choices: &[Choice], budget: u64) -> Option<(f64, u64)> {
    let mut all = vec![(0.0, 0)];
    for choice in choices {
        let with = |(excess, bytes): (f64, u64)| {
            let each = choice.candidates.iter();
            each.map(move |one| (excess + one.excess, bytes + one.bytes))
        };
        all = all.into_iter().flat_map(with).collect();
    }
    let fitting = all.into_iter().filter(|(_, bytes)| *bytes <= budget);
    fitting.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
}

#[test]
fn bytes_go_where_they_save_most() {
    // The third is worth its bytes, the others are not.
    let choices = [
        choice(0, &[(20, 0.0), (10, 0.01)]),
        choice(1, &[(20, 0.0), (10, 0.02)]),
        choice(2, &[(20, 0.1), (10, 0.9)]),
    ];
    let names = |budget| {
        let found = allocate(&choices, budget).unwrap();
        let names: Vec<_> = found
            .chosen
            .iter()
            .map(|one| one.cache_type.name())
            .collect();
        (names.join(" "), found.bytes)
    };
    assert_eq!(names(30), ("q5_0 q5_0 q5_0".to_owned(), 30));
    assert_eq!(names(39), ("q5_0 q5_0 q5_0".to_owned(), 30));
    assert_eq!(names(40), ("q5_0 q5_0 q8_0".to_owned(), 40));
    assert_eq!(names(50), ("q5_0 q8_0 q8_0".to_owned(), 50));
    assert_eq!(names(u64::MAX), ("q8_0 q8_0 q8_0".to_owned(), 60));
}

/// One large saving first would leave no room for two that are more together.
#[test]
fn it_is_better_than_the_greatest_saving_first() {
    let choices = [
        choice(0, &[(16, 0.0), (10, 0.60)]),
        choice(1, &[(14, 0.0), (10, 0.39)]),
        choice(2, &[(14, 0.0), (10, 0.39)]),
    ];
    let found = allocate(&choices, 38).unwrap();
    assert_eq!((found.bytes, found.excess), (38, 0.60));
}

#[test]
fn of_equal_ones_the_smaller_and_then_the_first_is_taken() {
    // What is not known to lose anything does not cost more bytes.
    let found = allocate(&[choice(0, &[(20, 0.0), (15, 0.0), (10, 0.0)])], 100).unwrap();
    assert_eq!(found.bytes, 10);
    // Types of the same bytes.
    let same = [choice(0, &[(20, 0.1), (10, 0.5), (10, 0.5)])];
    let found = allocate(&same, 10).unwrap();
    assert_eq!(found.chosen[0].cache_type, CacheType::Q5_0);
    let alike = [
        choice(0, &[(20, 0.0), (10, 0.5)]),
        choice(1, &[(20, 0.0), (10, 0.5)]),
    ];
    let first = allocate(&alike, 30).unwrap();
    assert_eq!(first, allocate(&alike, 30).unwrap());
    assert_eq!((first.bytes, first.excess), (30, 0.5));
}

#[test]
fn a_budget_that_nothing_fits_is_refused_with_the_least_that_does() {
    let choices = [
        choice(0, &[(68, 0.0), (44, 0.1), (36, 0.2)]),
        choice(1, &[(68, 0.0), (44, 0.1), (36, 0.2)]),
    ];
    let error = allocate(&choices, 71).unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains("71 bytes") && told.contains("at least 72") && told.contains("q4_0"),
        "{told}"
    );
    assert_eq!(allocate(&choices, 72).unwrap().bytes, 72);
}

#[test]
fn what_is_no_table_is_refused() {
    assert_eq!(allocate(&[], 100), Err(AllocateError::Nothing));
    let error = allocate(&[choice(3, &[])], 100).unwrap_err();
    assert_eq!(error, AllocateError::NoCandidate { layer: 3 });
    for wrong in [f64::NAN, f64::INFINITY, -0.1] {
        let error = allocate(&[choice(0, &[(10, wrong)])], 100).unwrap_err();
        assert!(matches!(error, AllocateError::NoNumber { .. }), "{error}");
    }
}

/// Widths without a common divisor, in more layers than the table has room for: it is near the
/// best, and within the budget.
#[test]
fn what_is_too_much_for_the_table_is_counted_in_larger_units() {
    let odd = |layer: u32| {
        let bytes = 100_000 + 7 * u64::from(layer);
        choice(layer, &[(2 * bytes + 1, 0.0), (bytes, 1.0)])
    };
    let choices: Vec<_> = (0..400).map(odd).collect();
    let least: u64 = choices.iter().map(|one| one.candidates[1].bytes).sum();
    let budget = least + least / 2;
    let found = allocate(&choices, budget).unwrap();
    assert!(found.bytes <= budget, "{} of {budget}", found.bytes);
    // Half of them, but for what rounding leaves.
    assert!((198.0..=201.0).contains(&found.excess), "{}", found.excess);
}

fn any_choice() -> impl Strategy<Value = Vec<(u64, f64)>> {
    // Few figures, so that there are ties.
    let excess = (0_u32..6).prop_map(|at| f64::from(at) / 4.0);
    proptest::collection::vec((1_u64..12, excess), 1..=4)
}

proptest! {
    #[test]
    fn it_is_as_good_as_trying_all(
        table in proptest::collection::vec(any_choice(), 1..6),
        step in 1_u64..40,
        budget in 0_u64..60,
    ) {
        let scaled = |(bytes, excess): &(u64, f64)| (bytes * step, *excess);
        let choices: Vec<_> = (0..)
            .zip(&table)
            .map(|(layer, each)| choice(layer, &each.iter().map(scaled).collect::<Vec<_>>()))
            .collect();
        let budget = budget * step + step / 2;
        match (allocate(&choices, budget), by_trial(&choices, budget)) {
            (Ok(found), Some((excess, bytes))) => {
                // Quarters are added without rounding.
                prop_assert_eq!((found.excess, found.bytes), (excess, bytes));
                prop_assert!(found.bytes <= budget);
                let again = allocate(&choices, budget).unwrap();
                prop_assert_eq!(found, again);
            }
            (Err(AllocateError::Budget { least, .. }), None) => {
                prop_assert!(least > budget);
                prop_assert_eq!(allocate(&choices, least).unwrap().bytes, least);
            }
            (found, expected) => prop_assert!(false, "{found:?}, not {expected:?}"),
        }
    }
}
