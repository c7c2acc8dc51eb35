//! `sextant show`: what a model file says about itself.

use std::collections::BTreeMap;

use clap::ArgMatches;
use models::{Gguf, diagnose};
use serde_json::json;

use crate::outcome::{Code, Outcome, WithCode};
use crate::{configuration, list, models_here, output};

/// Not trained to chat, as far as its file says.
const NO_TEMPLATE: &str = "none: a base model; chats go through ChatML";

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let found = models_here::asked(matches, &config)?;
    let facts = diagnose(&found.path).code(Code::ModelNotFound)?;
    let gguf = Gguf::open(&facts.path).code(Code::ModelNotFound)?;
    let types = tensor_types(&gguf);
    if output::wants_json(matches) {
        let mut value = list::as_json(&found);
        value["weights_bytes"] = json!(facts.weights_bytes.0);
        value["chat_template"] = json!(facts.chat_template);
        value["tensors"] = types
            .iter()
            .map(|(name, of)| json!({"type": name, "tensors": of.n_tensors, "bytes": of.bytes}))
            .collect();
        output::json(&value)?;
        return Ok(());
    }
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let lines = [
        ("model", found.id.clone()),
        ("name", or_dash(facts.name)),
        ("store", found.store.to_string()),
        ("path", facts.path.display().to_string()),
        ("files", facts.files.len().to_string()),
        ("size", facts.bytes.to_string()),
        ("weights", facts.weights_bytes.to_string()),
        ("architecture", facts.architecture),
        ("parameters", in_short(facts.n_parameters)),
        ("quantisation", or_dash(facts.quant)),
        (
            "context",
            or_dash(
                facts
                    .context_length
                    .map(|n| format!("{n} tokens in training")),
            ),
        ),
        (
            "chat template",
            facts.chat_template.map_or(NO_TEMPLATE.into(), |text| {
                format!("{} characters", text.chars().count())
            }),
        ),
        ("source", or_dash(found.source)),
    ];
    for (name, value) in lines {
        output::line(&format!("{name:<14}{value}"))?;
    }
    for (name, of) in types {
        let size = stdx::Bytes(of.bytes);
        output::line(&format!(
            "{:<14}{name}: {}, {size}",
            "tensors", of.n_tensors
        ))?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct OfType {
    n_tensors: u32,
    bytes: u64,
}

/// How many tensors of which type the first file has.
fn tensor_types(gguf: &Gguf) -> BTreeMap<&'static str, OfType> {
    let mut types: BTreeMap<_, OfType> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let of = types.entry(tensor.tensor_type().name()).or_default();
        of.n_tensors += 1;
        of.bytes += tensor.bytes();
    }
    types
}

/// 134515008 as `134.5 M`.
fn in_short(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}
