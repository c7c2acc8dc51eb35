//! Whether positions in a model's cache can be moved.
//!
//! llama.cpp says what it cannot move. Some of what it says it can, it would move wrongly or
//! crash over: keys that are quantised are kept rotated, in blocks of 64 values, and are only
//! turned back before they are moved where all layers are like that.

use kv::CacheType;
use llama::{CacheTypes, Context, ContextParams, Model};

/// Values of a head that are rotated together.
const ROTATED_VALUES: u64 = 64;
/// llama.cpp keeps quantised keys as they are if it is set, and moves them as if they were not.
const ROTATION_OFF: &str = "LLAMA_ATTN_ROT_DISABLE";

pub(super) fn refusal(
    model: &Model,
    context: &Context,
    params: &ContextParams,
) -> Option<&'static str> {
    if model.has_recurrent_state() {
        return Some("its recurrent state would keep what is dropped");
    }
    if !context.can_shift() {
        return Some(match model.sliding_window() {
            0 => "its positions have several parts, which llama.cpp does not move",
            _ if params.swa_full => {
                "its layers with a sliding window keep other positions than the others"
            }
            _ => {
                "its layers with a sliding window keep other positions than the others; with \
                 swa_full = true they keep the same"
            }
        });
    }
    let has = |quantised: fn(CacheType) -> bool| match &params.types {
        CacheTypes::Uniform(types) => quantised(types.keys),
        CacheTypes::Layers(layers) => layers.iter().any(|layer| quantised(layer.types.keys)),
    };
    if !has(CacheType::is_quantised) {
        return None;
    }
    if matches!(params.types, CacheTypes::Layers(_)) {
        return Some("its layers keep keys of several types, and one of them is quantised");
    }
    let architecture = model.meta("general.architecture").unwrap_or_default();
    let meta = |key: &str| model.meta(&format!("{architecture}.{key}"));
    if meta("attention.kv_lora_rank").is_some() {
        return Some("it compresses keys (MLA), and the compressed ones are quantised");
    }
    let number = |key: &str| meta(key)?.parse::<u64>().ok();
    let heads = number("attention.head_count").filter(|heads| *heads > 0);
    let width = number("attention.key_length")
        .or_else(|| Some(u64::from(model.n_embd()) / heads?))
        .unwrap_or(0);
    if width == 0 || width % ROTATED_VALUES != 0 {
        return Some("its keys are quantised, and its heads are no multiple of 64 wide");
    }
    if std::env::var_os(ROTATION_OFF).is_some() {
        return Some("its keys are quantised, and LLAMA_ATTN_ROT_DISABLE is set");
    }
    None
}
