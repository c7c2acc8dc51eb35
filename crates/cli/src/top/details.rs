//! All that is known of a model, as names and texts below one another.

use std::fmt::Display;
use std::time::Duration;

use stdx::Bytes;

use super::state::State;
use super::table::{phase, stays};
use super::theme::{Theme, Tone};
use crate::bus::{Device, Facts, ModelState, Slot, Worker};
use crate::figures::{difference, inert, percent, span, speed, tokens};

/// Cells of the bar of the cache.
const BAR: usize = 20;
/// Lines of what a worker said last before it died.
const CRASH_LINES_MAX: usize = 8;

/// A name and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) parts: Vec<(String, Tone)>,
}

impl Entry {
    pub(super) fn new(name: &'static str, text: String) -> Self {
        Self::toned(name, text, Tone::Plain)
    }

    fn toned(name: &'static str, text: String, tone: Tone) -> Self {
        Self {
            name,
            parts: vec![(text, tone)],
        }
    }
}

/// The most pressing first: the list shows as many as have room below it.
pub(super) fn entries(state: &State, model: &ModelState, theme: Theme) -> Vec<Entry> {
    let mut entries = vec![head(model)];
    entries.extend(troubles(model));
    entries.extend(differing(model));
    if let Some(worker) = &model.worker {
        entries.extend(slots(worker, model.facts.as_ref()));
        entries.extend(reuse(worker, theme));
        entries.push(speeds(worker));
    }
    entries.extend(memory(state, model));
    if let Some(facts) = &model.facts {
        entries.extend(in_force(facts));
    }
    entries.push(Entry::new("stays", stays(model, state.now_ms, span)));
    if let Some(worker) = &model.worker {
        entries.extend(counts(worker));
    }
    if let Some(facts) = &model.facts {
        entries.extend(engine(facts));
    }
    entries.extend(crash(model));
    entries
}

fn head(model: &ModelState) -> Entry {
    let (state, tone) = phase(model);
    let mut parts = vec![
        (format!("{} ", inert(&model.name)), Tone::Strong),
        (state, tone),
    ];
    let kind: Vec<_> = [&model.architecture, &model.quant]
        .into_iter()
        .flatten()
        .map(|text| inert(text))
        .collect();
    if !kind.is_empty() {
        parts.push((format!(", {}", kind.join(" ")), Tone::Dim));
    }
    if let Some(helps) = &model.helps {
        parts.push((format!(", drafts for {}", inert(helps)), Tone::Dim));
    }
    Entry {
        name: "model",
        parts,
    }
}

/// Why it cannot answer, where it cannot.
fn troubles(model: &ModelState) -> Option<Entry> {
    let why = model.why.as_ref()?;
    let first = why.lines().next().unwrap_or_default();
    let tone = match model.phase.as_str() {
        "failed" => Tone::Bad,
        "unloaded" | "starting" | "loading" => Tone::Dim,
        _ => Tone::Warn,
    };
    Some(Entry::toned("why", inert(first), tone))
}

/// A line for each slot that does something, and one for the others.
fn slots(worker: &Worker, facts: Option<&Facts>) -> Vec<Entry> {
    let is_idle = |slot: &&Slot| slot.phase == "idle";
    let busy = worker.slots.iter().filter(|slot| !is_idle(slot));
    let mut entries: Vec<_> = busy.map(slot).collect();
    let idle: Vec<_> = worker.slots.iter().filter(is_idle).collect();
    if !idle.is_empty() {
        let text = format!("{} of {} idle", idle.len(), worker.slots.len());
        entries.push(Entry::toned("slots", text, Tone::Dim));
    }
    if worker.queued > 0 {
        let most = facts.map_or_else(String::new, |facts| format!(", {} may", facts.queue_max));
        let text = format!("{} waiting for a slot{most}", worker.queued);
        entries.push(Entry::toned("queue", text, Tone::Busy));
    }
    entries
}

fn slot(slot: &Slot) -> Entry {
    let does = match slot.phase.as_str() {
        "prefill" => "reads".to_owned(),
        "decode" => "writes".to_owned(),
        other => inert(other),
    };
    let figures = format!(
        ", prompt {} of {}, {} written",
        tokens(slot.prompt_done.into()),
        tokens(slot.prompt_tokens.into()),
        tokens(slot.generated_tokens.into())
    );
    Entry {
        name: "slot",
        parts: vec![
            (format!("{} ", slot.slot), Tone::Plain),
            (does, Tone::Busy),
            (figures, Tone::Plain),
        ],
    }
}

/// What of the cache is in use, what is kept, and what that was good for.
fn reuse(worker: &Worker, theme: Theme) -> Vec<Entry> {
    let (all, running, kept) = (
        u64::from(worker.kv_cells),
        u64::from(worker.kv_cells_running),
        u64::from(worker.kv_cells_cached),
    );
    let cache = format!(
        "[{}] {} running, {} kept of {} cells",
        theme.bar(BAR, all, [running, kept]),
        tokens(running),
        tokens(kept),
        tokens(all)
    );
    let (prompts, cached) = (
        worker.prompt_tokens_total,
        worker.prompt_tokens_cached_total,
    );
    let reuse = format!(
        "{} prefixes kept; {} of {} prompt tokens were cached ({})",
        worker.cached_prefixes,
        tokens(cached),
        tokens(prompts),
        percent(cached, prompts)
    );
    let mut entries = vec![Entry::new("cache", cache), Entry::new("reuse", reuse)];
    if worker.draft_tokens_total > 0 {
        let (drafted, kept) = (
            worker.draft_tokens_total,
            worker.draft_accepted_tokens_total,
        );
        let text = format!(
            "{} tokens, {} kept",
            tokens(drafted),
            percent(kept, drafted)
        );
        entries.push(Entry::new("drafts", text));
    }
    entries
}

fn speeds(worker: &Worker) -> Entry {
    let (write, read) = (speed(worker.decode_tps), speed(worker.prefill_tps));
    Entry::new("speed", format!("writes {write} t/s, reads {read} t/s"))
}

/// What the engine has beside what was predicted for these settings.
fn memory(state: &State, model: &ModelState) -> Vec<Entry> {
    let predicted = state.predicted.get(&model.name);
    let answer = predicted.and_then(|known| known.plan.as_ref());
    let plan = answer.and_then(|answer| answer.as_ref().ok());
    let Some(facts) = &model.facts else {
        let bytes = super::table::memory(model);
        return vec![Entry::new("memory", bytes)];
    };
    let sum = |part: fn(&Device) -> u64, whole: u64| {
        let parts: u64 = facts.devices.iter().map(part).sum();
        if parts > 0 { parts } else { whole }
    };
    let resident = model.worker.as_ref().map(|worker| worker.resident_bytes);
    let rows = [
        (
            "weights",
            Some(sum(|device| device.weights_bytes, facts.weights_bytes)),
            plan.map(super::predicted::Plan::weights),
        ),
        (
            "KV cache",
            Some(sum(|device| device.kv_bytes, facts.kv_bytes)),
            plan.map(super::predicted::Plan::caches),
        ),
        (
            "buffers",
            Some(sum(|device| device.compute_bytes, 0)),
            plan.map(super::predicted::Plan::computation),
        ),
        ("resident", resident, plan.map(|plan| plan.resident_bytes)),
    ];
    let rows = rows.into_iter();
    let rows = rows.filter_map(|(name, got, expected)| Some((name, got?, expected)));
    let mut entries: Vec<_> = rows
        .map(|(name, got, expected)| part(name, got, expected))
        .collect();
    if let Some(Err(why)) = answer {
        let text = format!("not predicted: {}", inert(why));
        entries.push(Entry::toned("plan", text, Tone::Dim));
    }
    entries
}

fn part(name: &'static str, got: u64, expected: Option<u64>) -> Entry {
    let beside = expected.filter(|bytes| *bytes > 0).map(|expected| {
        let difference = difference(got, expected);
        format!(", predicted {} ({difference})", Bytes(expected))
    });
    let mut parts = vec![(Bytes(got).to_string(), Tone::Plain)];
    parts.extend(beside.map(|text| (text, Tone::Dim)));
    Entry { name, parts }
}

fn in_force(facts: &Facts) -> Vec<Entry> {
    let on = |cpus: &str| match cpus {
        "" => String::new(),
        cpus => format!(" on CPUs {}", inert(cpus)),
    };
    let cores = format!(
        "{} threads{} for answers, {}{} for prompts",
        facts.threads,
        on(&facts.cpus),
        facts.threads_batch,
        on(&facts.cpus_batch)
    );
    let types = match &facts.kv_plan {
        Some(plan) => inert(plan),
        None => format!(
            "K {}, V {}",
            inert(&facts.kv_type_k),
            inert(&facts.kv_type_v)
        ),
    };
    let attention = if facts.flash_attention { "on" } else { "off" };
    let settings = format!(
        "{} of {} trained, {} slots, batch {}/{}, flash attention {attention}",
        tokens(facts.context.into()),
        tokens(facts.context_train.into()),
        facts.slots,
        facts.batch,
        facts.ubatch
    );
    let mut entries = vec![
        Entry::new("cores", cores),
        Entry::new("KV types", types),
        Entry::new("context", settings),
    ];
    if facts.gpu_layers > 0 {
        let text = format!("{} of {} layers", facts.gpu_layers, facts.n_layer + 1);
        entries.push(Entry::new("on GPUs", text));
    }
    if !facts.tuned.is_empty() {
        let text = format!("{}, measured here", inert(&facts.tuned.join(", ")));
        entries.push(Entry::new("tuned", text));
    }
    entries
}

/// What was asked for and is not so.
fn differing(model: &ModelState) -> Vec<Entry> {
    let (asked, Some(facts)) = (&model.asked, &model.facts) else {
        return Vec::new();
    };
    let mut entries = Vec::new();
    let mut compare = |what: &str, asked: Option<&dyn Display>, got: &dyn Display| {
        let Some(asked) = asked.map(ToString::to_string) else {
            return;
        };
        let got = got.to_string();
        if asked != got && asked != "auto" {
            let text = format!("{what}: {asked} was asked for, the engine has {got}");
            entries.push(Entry::toned("differs", inert(&text), Tone::Warn));
        }
    };
    let number = |asked: &'_ Option<u32>| asked.map(|n| n.to_string());
    for (what, asked, got) in [
        ("context", number(&asked.context), facts.context),
        ("slots", number(&asked.slots), facts.slots),
        ("batch", number(&asked.batch), facts.batch),
        ("ubatch", number(&asked.ubatch), facts.ubatch),
        ("threads", number(&asked.threads), facts.threads),
        (
            "threads for prompts",
            number(&asked.threads_batch),
            facts.threads_batch,
        ),
    ] {
        compare(what, asked.as_ref().map(|it| it as &dyn Display), &got);
    }
    // A plan by layer stands before the two.
    if asked.kv_plan.is_none() {
        for (what, asked, got) in [
            ("K type", &asked.kv_type_k, &facts.kv_type_k),
            ("V type", &asked.kv_type_v, &facts.kv_type_v),
        ] {
            compare(what, asked.as_ref().map(|it| it as &dyn Display), got);
        }
    }
    let attention = if facts.flash_attention { "on" } else { "off" };
    let wanted = asked.flash_attention.as_ref();
    compare(
        "flash attention",
        wanted.map(|it| it as &dyn Display),
        &attention,
    );
    entries
}

fn counts(worker: &Worker) -> Vec<Entry> {
    let failed = match worker.jobs_failed_total {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    let mut text = format!("{}{failed}", worker.jobs_total);
    for (n, what) in [
        (worker.preemptions_total, "put back for want of cells"),
        (worker.parkings_total, "parked for more urgent ones"),
    ] {
        if n > 0 {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    let written = format!("{} tokens written", tokens(worker.completion_tokens_total));
    vec![Entry::new("requests", format!("{text}, {written}"))]
}

fn engine(facts: &Facts) -> Vec<Entry> {
    let loaded = Duration::from_millis(facts.load_ms.max(0.0) as u64);
    let loaded = match loaded.as_secs() {
        0 => format!("{} ms", loaded.as_millis()),
        _ => span(loaded),
    };
    let engine = format!(
        "{}, kernels {}, llama.cpp {}, loaded in {loaded}",
        inert(&facts.description),
        inert(&facts.kernels),
        inert(&facts.llama_version)
    );
    vec![Entry::new("engine", engine)]
}

/// How often its worker was started again, and what the last one said.
fn crash(model: &ModelState) -> Vec<Entry> {
    let Some(crash) = &model.last_crash else {
        return Vec::new();
    };
    let times = format!("{} times; the last worker said:", model.restarts);
    let mut entries = vec![Entry::toned("restarted", times, Tone::Warn)];
    let lines = crash.lines().take(CRASH_LINES_MAX);
    entries.extend(lines.map(|line| Entry::toned("", inert(line), Tone::Dim)));
    entries
}
