//! Advice as a page of text and as JSON.

use planner::advise::{Chosen, Engine, Judged, Known, LowEnd, Room, Verdict};
use planner::{Band, Class, Fit};
use serde_json::{Value, json};

use super::Advice;
use super::settings::{self, Settings};
use crate::outcome::Outcome;
use crate::output::line;
use crate::plan::text::{change, fit, pair, short, types};

pub(super) fn write(advice: &Advice) -> Outcome {
    let load = &advice.load;
    let on = &advice.premises.on;
    pair("model", &advice.premises.name)?;
    pair(
        "load",
        &format!(
            "{}, {} tokens for each, prompts of {}",
            users(load.users),
            load.context,
            load.prompt
        ),
    )?;
    pair("machine", &format!("{} ({})", on.name, on.source))?;
    pair("fits", &format!("{} [predicted]", fit(&advice.room.answer)))?;
    for chosen in &advice.room.chosen {
        pair("with", &chosen_words(*chosen))?;
    }
    for line in room_lines(advice) {
        pair("room", &line)?;
    }
    write_speed(advice)?;
    for judged in &advice.judged {
        pair(judged.verdict.word(), judged.engine.name())?;
        for reason in &judged.reasons {
            let source = reason
                .source
                .map_or_else(String::new, |source| format!(" ({source})"));
            pair(
                "",
                &format!("{} [{}]{source}", reason.text, reason.known.word()),
            )?;
        }
    }
    let Some(best) = advice
        .judged
        .iter()
        .find(|one| one.verdict == Verdict::Best)
    else {
        return Ok(());
    };
    if !advice.room.fits() {
        return write_changes(advice);
    }
    let Settings { command, toml } = settings::of(best.engine, advice);
    pair("start", &settings::shell(&command))?;
    if let Some(note) = note(best.engine, advice) {
        pair("", &note)?;
    }
    pair("settings", "the same in the configuration file:")?;
    for text in toml.lines() {
        line(&format!("  {text}"))?;
    }
    Ok(())
}

fn users(n: u32) -> String {
    match n {
        1 => "1 user".to_owned(),
        n => format!("{n} users at once"),
    }
}

fn chosen_words(chosen: Chosen) -> String {
    match chosen {
        Chosen::Types(types) => format!("KV {types}, so that it fits"),
        Chosen::Sequences(n) => format!("{n} sequences, so that fewer prefixes are kept"),
        Chosen::GgmlKernels => "ggml's kernels, which are slower on prompts".to_owned(),
    }
}

/// How many would have room.
fn room_lines(advice: &Advice) -> Vec<String> {
    let (room, load) = (&advice.room, &advice.load);
    let place = match room.answer.fit {
        Fit::Fast if room.answer.available.device > 0 => " in the GPU's memory",
        _ => "",
    };
    let mut lines = vec![match room.users_max {
        Some(n) => format!("{n} users with {} tokens{place} [predicted]", load.context),
        None => format!("nobody with {} tokens [predicted]", load.context),
    }];
    if let Some(context) = room.context_max {
        lines.push(format!(
            "{} with {context} tokens{place} [predicted]",
            users(load.users)
        ));
    }
    lines
}

fn write_speed(advice: &Advice) -> Outcome {
    let band = |band: Band| match short(band.low) == short(band.high) {
        true => short(band.low),
        false => format!("{} to {}", short(band.low), short(band.high)),
    };
    let is = |(known, source): &(Known, String)| format!("[{}: {source}]", known.word());
    let prefill = advice.one.prefill.map_or_else(
        || "reads at nobody knows what pace".to_owned(),
        |prefill| format!("reads {} tokens/s", band(prefill)),
    );
    pair(
        "one stream",
        &format!(
            "{prefill}, answers {} tokens/s {}",
            band(advice.one.decode),
            is(&advice.one_is)
        ),
    )?;
    let shared = &advice.shared;
    if advice.load.users > 1 {
        pair(
            "each",
            &format!("{} tokens/s {}", band(shared.each), is(&advice.shared_is)),
        )?;
    }
    pair(
        "",
        &format!(
            "{} tokens/s when all contexts are full [predicted]",
            band(shared.each_full)
        ),
    )?;
    if let (Some(alone), Some(together)) = (shared.ttft_alone, shared.ttft_together) {
        let of_all = match advice.load.users {
            1 => String::new(),
            _ => format!(", {} s for the last of all at once", band(together)),
        };
        pair(
            "first token",
            &format!("{} s alone{of_all} [predicted]", band(alone)),
        )?;
    }
    for (what, met) in &advice.wanted {
        pair("wanted", &format!("{what}: {}", met.word()))?;
    }
    if let (Some(pace), Some(n)) = (advice.load.tokens_s_min, advice.users_at_pace)
        && n < advice.load.users
    {
        pair(
            "",
            &format!("{n} users would surely have {pace} tokens/s each [predicted]"),
        )?;
    }
    if advice.site.class == Class::Gpu && advice.premises.here.is_some() {
        pair(
            "",
            "the GPU itself is not measured, so these are of the processor alone",
        )?;
    }
    Ok(())
}

/// What must change, where no settings are enough.
fn write_changes(advice: &Advice) -> Outcome {
    for line in changes(&advice.room, advice.load.users) {
        pair("to fit", &line)?;
    }
    Ok(())
}

fn changes(room: &Room, n_users: u32) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(n) = room.users_max.filter(|n| *n < n_users) {
        lines.push(format!("{}, the others wait for their turn", users(n)));
    }
    if let Some(context) = room.context_max {
        lines.push(format!("{context} tokens for each"));
    }
    // Contexts and slots of one user are told above.
    let others = room.answer.changes.iter().filter(|change| {
        !matches!(
            change,
            planner::Change::Context(_) | planner::Change::Slots(_)
        )
    });
    lines.extend(others.map(|one| change(*one)));
    lines
}

/// What to know before the command is run.
fn note(engine: Engine, advice: &Advice) -> Option<String> {
    match engine {
        Engine::Embedded if settings::is_tuned(advice) => Some(
            "threads, cores and batches come from `sextant tune` by themselves".to_owned(),
        ),
        Engine::Embedded if advice.premises.here.is_none() && advice.site.class == Class::Gpu => Some(
            "as many layers as fit go to the GPU by themselves, in a build with a back end for it"
                .to_owned(),
        ),
        Engine::Embedded => Some(
            "`sextant tune` measures threads, cores and batches, which are used by themselves then"
                .to_owned(),
        ),
        Engine::Vllm => Some(
            "better with the model's own repository in the place of a GGUF file, which it reads by a \
             plugin"
                .to_owned(),
        ),
        Engine::LlamaServer | Engine::Sglang | Engine::Ollama => None,
    }
}

pub(super) fn low_end(low_end: LowEnd) -> &'static str {
    match low_end {
        LowEnd::Prefill => "between reading the weights once and computing for everybody besides",
        LowEnd::Published => "the low end by what llama.cpp published of batches on a GPU",
        LowEnd::Turns => {
            "the low end as if users took turns, since nobody knows how fast it computes"
        }
    }
}

fn band_json(band: Band) -> Value {
    json!({ "low": band.low, "high": band.high })
}

pub(super) fn as_json(advice: &Advice) -> Value {
    let (load, room, shared) = (&advice.load, &advice.room, &advice.shared);
    let known =
        |(known, source): &(Known, String)| json!({ "known": known.word(), "source": source });
    let wanted = advice.wanted.iter();
    let wanted = wanted.map(|(what, met)| json!({ "what": what, "met": met.word() }));
    let chosen = room.chosen.iter().map(|chosen| chosen_words(*chosen));
    let missing = match room.answer.fit {
        Fit::No { missing } => Some(missing),
        Fit::Fast | Fit::Spills { .. } => None,
    };
    json!({
        "model": advice.premises.name,
        "load": { "users": load.users, "context": load.context, "prompt": load.prompt },
        "machine": { "name": advice.premises.on.name, "source": advice.premises.on.source },
        "fit": {
            "fits": room.fits(),
            "in_fastest_memory": room.is_fast(),
            "missing_bytes": missing,
            "host_bytes": room.answer.ledger.host_needed(),
            "kv_types": types(&room.answer),
            "gpu_layers": room.answer.setup.gpu_layers,
            "chosen": chosen.collect::<Vec<_>>(),
            "users_max": room.users_max,
            "context_max": room.context_max,
            "to_fit": match room.fits() {
                true => Vec::new(),
                false => changes(room, load.users),
            },
            "known": Known::Predicted.word(),
        },
        "one_stream": {
            "decode": band_json(advice.one.decode),
            "decode_full": band_json(advice.one.decode_full),
            "prefill": advice.one.prefill.map(band_json),
            "from": known(&advice.one_is),
        },
        "each": {
            "decode": band_json(shared.each),
            "decode_full": band_json(shared.each_full),
            "ttft_alone_seconds": shared.ttft_alone.map(band_json),
            "ttft_together_seconds": shared.ttft_together.map(band_json),
            "from": known(&advice.shared_is),
        },
        "wanted": wanted.collect::<Vec<_>>(),
        "users_at_pace": advice.users_at_pace,
        "engines": advice.judged.iter().map(|one| engine_json(one, advice)).collect::<Vec<_>>(),
    })
}

fn engine_json(judged: &Judged, advice: &Advice) -> Value {
    let reasons = judged.reasons.iter().map(|reason| {
        json!({ "known": reason.known.word(), "text": reason.text, "source": reason.source })
    });
    let is_for_it = judged.verdict != Verdict::No && advice.room.fits();
    let settings = is_for_it.then(|| settings::of(judged.engine, advice));
    json!({
        "engine": judged.engine.name(),
        "verdict": judged.verdict.word(),
        "reasons": reasons.collect::<Vec<_>>(),
        "command": settings.as_ref().map(|settings| &settings.command),
        "toml": settings.as_ref().map(|settings| &settings.toml),
    })
}
