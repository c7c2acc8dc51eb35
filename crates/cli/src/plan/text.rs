//! A plan as a page of text.

use gateway::Planned;
use gateway::wire::plan::{basis, place};
use kv::Types;
use planner::{Answer, Band, Change, Fit, Place};
use stdx::Bytes;

use crate::outcome::Outcome;
use crate::output::line;

pub(super) fn write(planned: &Planned) -> Outcome {
    let answer = &planned.answer;
    let setup = &answer.setup;
    let Types { keys, values } = setup.types;
    pair(
        "model",
        &format!("{} ({})", planned.model, planned.architecture),
    )?;
    pair(
        "settings",
        &format!(
            "context {}, {} slots ({} sequences), KV {keys}/{values}",
            setup.context, setup.slots, planned.sequences
        ),
    )?;
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

fn pair(name: &str, text: &str) -> Outcome {
    line(&format!("{name:<13} {text}"))?;
    Ok(())
}

fn fit(answer: &Answer) -> String {
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

fn change(change: Change) -> String {
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
fn short(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
