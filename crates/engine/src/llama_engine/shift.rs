//! Whether positions in a model's cache can be moved.
//!
//! llama.cpp says what it cannot move. Some of what it says it can, it would move wrongly or
//! crash over (b11434, `llama_kv_cache::build_graph_shift`). It turns the keys of every layer, also
//! where the model turns none of a layer's; each time it multiplies them all by the factor that YaRN
//! gives to attention; and keys that are quantised are kept rotated, in blocks of 64 values, and are
//! only turned back before they are moved where all layers are like that.

use llama::{CacheTypes, Context, ContextParams, Model};

/// Values of a head that are rotated together.
const ROTATED_VALUES: u64 = 64;
/// llama.cpp keeps quantised keys as they are if it is set, and moves them as if they were not.
const ROTATION_OFF: &str = "LLAMA_ATTN_ROT_DISABLE";
/// Architectures whose keys in some layers know no position.
const WITHOUT_POSITIONS: [&str; 10] = [
    "afmoe",
    "cohere2",
    "cohere2moe",
    "exaone-moe",
    "exaone4",
    "llama4",
    "maple",
    "muse-glimmer",
    "smallthinker",
    "smollm3",
];
/// Architectures that add what they learned of a position to the token there.
const LEARNED_POSITIONS: [&str; 2] = ["gpt2", "starcoder"];

/// Why positions in this context of a model cannot be moved; `None`: they can.
pub fn cannot_shift(
    model: &Model,
    context: &Context,
    params: &ContextParams,
) -> Option<&'static str> {
    if model.has_recurrent_state() {
        return Some("its recurrent state would keep what is dropped");
    }
    of_architecture(model)
        .or_else(|| of_windows(model, context, params))
        .or_else(|| of_types(model, params))
}

fn meta(model: &Model, key: &str) -> Option<String> {
    let architecture = model.meta("general.architecture")?;
    model.meta(&format!("{architecture}.{key}"))
}

fn of_architecture(model: &Model) -> Option<&'static str> {
    let architecture = model.meta("general.architecture").unwrap_or_default();
    if WITHOUT_POSITIONS.contains(&architecture.as_str()) {
        return Some("some of its layers know no positions, and llama.cpp would move those, too");
    }
    if LEARNED_POSITIONS.contains(&architecture.as_str()) {
        return Some("its positions are learned, and part of all that its layers keep");
    }
    let is_yarn = meta(model, "rope.scaling.type").is_some_and(|kind| kind == "yarn");
    let factors = ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"];
    let mut factors = factors.into_iter().filter_map(|key| meta(model, key));
    let is_scaled = factors.any(|factor| factor.parse::<f32>().is_ok_and(|one| one != 1.0));
    (is_yarn || is_scaled).then_some(
        "its attention is scaled with its positions (YaRN), and llama.cpp would scale it again \
         each time",
    )
}

fn of_windows(model: &Model, context: &Context, params: &ContextParams) -> Option<&'static str> {
    if context.can_shift() {
        return None;
    }
    Some(match model.sliding_window() {
        0 => "its positions have several parts, which llama.cpp does not move",
        _ if params.swa_full => {
            "its layers with a sliding window keep other positions than the others"
        }
        _ => {
            "its layers with a sliding window keep other positions than the others; with \
                 swa_full = true they keep the same"
        }
    })
}

fn of_types(model: &Model, params: &ContextParams) -> Option<&'static str> {
    let is_quantised = match &params.types {
        CacheTypes::Uniform(types) => types.keys.is_quantised(),
        CacheTypes::Layers(layers) => layers.iter().any(|layer| layer.types.keys.is_quantised()),
    };
    if !is_quantised {
        return None;
    }
    if matches!(params.types, CacheTypes::Layers(_)) {
        return Some("its layers keep keys of several types, and one of them is quantised");
    }
    if meta(model, "attention.kv_lora_rank").is_some() {
        return Some("it compresses keys (MLA), and the compressed ones are quantised");
    }
    if std::env::var_os(ROTATION_OFF).is_some() {
        return Some("its keys are quantised, and LLAMA_ATTN_ROT_DISABLE is set");
    }
    let number = |key: &str| meta(model, key)?.parse::<u64>().ok();
    let width = match meta(model, "attention.key_length") {
        Some(width) => width.parse().ok(),
        None => number("attention.head_count")
            .and_then(|heads| u64::from(model.n_embd()).checked_div(heads)),
    };
    let others = ["attention.key_length_swa", "rope.dimension_count"];
    if others
        .into_iter()
        .filter_map(number)
        .any(|one| Some(one) != width)
    {
        return Some(
            "its keys are quantised, and its heads are of several widths or turned in part",
        );
    }
    let is_rotated = |width: u64| width > 0 && width.is_multiple_of(ROTATED_VALUES);
    (!width.is_some_and(is_rotated))
        .then_some("its keys are quantised, and its heads are no multiple of 64 wide")
}
