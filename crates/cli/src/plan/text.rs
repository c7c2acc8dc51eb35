//! A plan as a page of text.

use gateway::Planned;
use gateway::wire::plan::{basis, place};
use kv::{LayerCache, Types};
use planner::{Answer, Band, Change, Fit, Place};
use stdx::Bytes;

use crate::outcome::Outcome;
use crate::output::line;

pub(super) fn write(planned: &Planned) -> Outcome {
    let answer = &planned.answer;
    let setup = &answer.setup;
    pair(
        "model",
        &format!("{} ({})", planned.model, planned.architecture),
    )?;
    pair(
        "settings",
        &format!(
            "context {}, {} slots ({} sequences), KV {}",
            setup.context,
            setup.slots,
            planned.sequences,
            types(answer)
        ),
    )?;
    layers(answer)?;
    pair("fits", &fit(answer))?;
    for term in &answer.ledger.terms {
        let size = term.bytes.to_string();
        line(&format!(
            "  {:<28}{size:>11}  {:<7} {}",
            term.name,
            place(term.place),
            basis(term.basis)
        ))?;
    }
    pair(
        "resident",
        &format!("{} after a prompt", Bytes(answer.ledger.resident())),
    )?;
    let most = |of: Option<u32>, what: &str| match of {
        Some(most) => format!("{most} {what}"),
        None => "none fits".to_owned(),
    };
    pair(
        "context max",
        &most(answer.context_max, "tokens fit, all else equal"),
    )?;
    pair("slots max", &most(answer.slots_max, "fit, all else equal"))?;
    for choice in &answer.types {
        let Types { keys, values } = choice.types;
        let size = Bytes(choice.kv_bytes);
        pair(
            "KV types",
            &format!("{:<10} {size}", format!("{keys}/{values}")),
        )?;
    }
    for loss in &answer.losses {
        pair("note", &loss.to_string())?;
    }
    for one in &answer.changes {
        pair("to fit", &change(*one))?;
    }
    speed(planned)
}

pub(crate) fn types(answer: &Answer) -> String {
    let uniform = answer.plan.uniform_types();
    let uniform = uniform.or(answer.setup.types.as_uniform());
    match uniform {
        Some(types) => types.to_string(),
        None => answer.setup.types.to_string(),
    }
}

/// Of a plan whose layers differ, what those of one pair of types take.
fn layers(answer: &Answer) -> Outcome {
    if !answer.plan.is_mixed() {
        return Ok(());
    }
    let mut layers = answer.plan.layers.clone();
    layers.sort_by_key(|layer| layer.layer);
    for run in layers.chunk_by(|a, b| a.types == b.types && a.part == b.part) {
        let [first, ..] = run else { continue };
        let which = match run {
            [.., last] if last.layer != first.layer => format!("{}-{}", first.layer, last.layer),
            _ => first.layer.to_string(),
        };
        let sum = |bytes: fn(&LayerCache) -> u64| Bytes(run.iter().map(bytes).sum());
        let (keys, values) = (sum(|one| one.keys_bytes), sum(|one| one.values_bytes));
        pair(
            "layers",
            &format!(
                "{which:<10} {:<13} {keys} and {values}",
                first.types.to_string()
            ),
        )?;
    }
    Ok(())
}

pub(crate) fn pair(name: &str, text: &str) -> Outcome {
    line(&format!("{name:<13} {text}"))?;
    Ok(())
}

pub(crate) fn fit(answer: &Answer) -> String {
    let needed = Bytes(answer.ledger.host_needed());
    let there = Bytes(answer.available.host);
    let of_host = format!("{needed} of {there}");
    let device = Bytes(answer.ledger.bytes_in(Place::Device));
    let of_device = match answer.available.device {
        0 => String::new(),
        there => format!(", {device} of {} on the GPU", Bytes(there)),
    };
    match answer.fit {
        Fit::Fast => format!("yes: {of_host}{of_device}"),
        Fit::Spills { on_device, layers } => format!(
            "in part: {on_device} of {layers} layers on the GPU, the others in slower memory: \
             {of_host}{of_device}"
        ),
        Fit::No { missing } => format!("no: {} are missing: {of_host}{of_device}", Bytes(missing)),
    }
}

pub(crate) fn change(change: Change) -> String {
    match change {
        Change::Context(context) => format!("context {context}"),
        Change::Types(Types { keys, values }) => format!("KV {keys}/{values}"),
        Change::Slots(slots) => format!("{slots} slots"),
        Change::Sequences(sequences) => {
            format!("{sequences} sequences, so that fewer prefixes are kept")
        }
        Change::GgmlKernels => "ggml's kernels (`--kernels ggml`), slower on prompts".to_owned(),
        Change::Ubatch(ubatch) => format!("ubatch {ubatch}"),
        Change::GpuLayers(0) => "no layers on the GPU (`--gpu-layers 0`)".to_owned(),
        Change::GpuLayers(layers) => {
            format!("{layers} layers on the GPU, the others in slower memory")
        }
        Change::Together { context, sequences } => format!(
            "together: ggml's kernels (`--kernels ggml`), {sequences} sequences and a context of \
             {context}"
        ),
        Change::SmallerModel { missing } => format!(
            "no setting is enough, {} are missing at the least context: a smaller model or \
             quantisation",
            Bytes(missing)
        ),
    }
}

fn speed(planned: &Planned) -> Outcome {
    let speed = &planned.speed;
    pair(
        "speed on",
        &format!("{} ({})", planned.machine, planned.machine_source),
    )?;
    let band = |band: Band| format!("{} to {} tokens/s", short(band.low), short(band.high));
    pair(
        "decode",
        &format!(
            "{}, with a full context {}",
            band(speed.decode),
            band(speed.decode_full)
        ),
    )?;
    let prefill = speed.prefill.map_or_else(
        || "not known: nobody measured its integer throughput".to_owned(),
        band,
    );
    pair("prefill", &prefill)
}

/// Two or three digits: more would be pretence.
pub(crate) fn short(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
