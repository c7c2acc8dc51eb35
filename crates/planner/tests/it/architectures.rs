//! The architectures that a plan knows, against those that the engine loads.

use std::collections::BTreeSet;

/// What makes no context of its own: drafts that read another model's, and a voice.
const WITHOUT_A_PLAN: &[&str] = &["dflash", "eagle3", "gemma4-assistant", "pockettts"];
/// Known to the engine by name alone: it has no code that loads one.
const WITHOUT_CODE: &[&str] = &["gptj"];

/// A new llama.cpp brings architectures; each is derived, or left out here by name.
#[test]
fn every_architecture_of_the_engine_is_planned_or_left_out_by_name() {
    let planned: BTreeSet<&str> = kv::ARCHITECTURES.iter().copied().collect();
    let left_out = [WITHOUT_A_PLAN, WITHOUT_CODE].concat();
    let known: BTreeSet<&str> = models::architecture::all()
        .filter(|name| !left_out.contains(name))
        .collect();
    assert_eq!(planned, known);
    assert_eq!(
        planned.len(),
        kv::ARCHITECTURES.len(),
        "one is listed twice"
    );
}
