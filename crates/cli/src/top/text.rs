//! How everything is, once: as a text for pipes and dumb terminals, and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use stdx::Bytes;

use super::state::State;
use super::table::{memory, phase, slots, stays};
use super::view::{pressure, requests};
use crate::bus::{Board, ModelState};
use crate::figures::{inert, percent, span, speed, tokens};
use crate::output;

const HEAD: [&str; 11] = [
    "MODEL",
    "STATE",
    "RUNNING",
    "WAITING",
    "SLOTS",
    "CACHE",
    "WRITE T/S",
    "READ T/S",
    "MEMORY",
    "PREDICTED",
    "STAYS",
];

/// The whole of it as lines; columns line up.
pub(super) fn of(state: &State) -> String {
    let board = &state.board;
    let mut text = String::new();
    let server = board.server.clone().unwrap_or_default();
    let up = Duration::from_secs((state.now_ms / 1000).saturating_sub(server.started_s));
    let (running, waiting) = requests(board);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "server    {}, version {}, up {}",
        inert(&state.address),
        inert(&server.version),
        span(up)
    );
    let _ = writeln!(text, "requests  {running} running, {waiting} waiting");
    if let Some(memory) = &board.memory {
        let of = |bytes: u64, max: Option<u64>| match max {
            Some(max) => format!("{} of {}", Bytes(bytes), Bytes(max)),
            None => format!("{}, no limit", Bytes(bytes)),
        };
        let host = of(memory.memory_bytes, memory.memory_bytes_max);
        let _ = writeln!(text, "memory    {host}, {}", pressure(memory).1);
        if memory.gpu_memory_bytes_max.is_some() {
            let gpu = of(memory.gpu_memory_bytes, memory.gpu_memory_bytes_max);
            let _ = writeln!(text, "on GPUs   {gpu}");
        }
    }
    for (key, why) in &board.unread {
        let _ = writeln!(text, "unread    {}: {}", inert(key), inert(why));
    }
    text.push('\n');
    let models = board.in_order();
    if models.is_empty() {
        text.push_str("no model here yet; `sextant pull SPEC` fetches one\n");
        return text;
    }
    let rows: Vec<_> = models.iter().map(|model| row(state, model)).collect();
    text.push_str(&output::columns(&HEAD, &rows));
    let busy: Vec<_> = models.iter().flat_map(|model| busy(model)).collect();
    if !busy.is_empty() {
        text.push('\n');
        let head = ["MODEL", "SLOT", "DOES", "PROMPT", "WRITTEN"];
        text.push_str(&output::columns(&head, &busy));
    }
    text
}

fn row(state: &State, model: &ModelState) -> Vec<String> {
    let worker = model.worker.as_ref();
    let none = || "-".to_owned();
    let queued = worker.map_or(0, |worker| worker.queued);
    let cache = worker.map_or_else(none, |worker| {
        let used = worker.kv_cells_running + worker.kv_cells_cached;
        percent(used.into(), worker.kv_cells.into())
    });
    let predicted = state.predicted.get(&model.name);
    let plan = predicted.and_then(|known| known.plan.as_ref());
    let plan = plan.and_then(|plan| plan.as_ref().ok());
    vec![
        inert(&model.name),
        phase(model).0,
        model.requests_running.to_string(),
        (model.requests_waiting + queued).to_string(),
        worker.map_or_else(none, slots),
        cache,
        speed(worker.and_then(|worker| worker.decode_tps)),
        speed(worker.and_then(|worker| worker.prefill_tps)),
        memory(model),
        plan.map_or_else(none, |plan| Bytes(plan.resident_bytes).to_string()),
        stays(model, state.now_ms, span),
    ]
}

fn busy(model: &ModelState) -> Vec<Vec<String>> {
    let slots = model.worker.iter().flat_map(|worker| &worker.slots);
    let busy = slots.filter(|slot| slot.phase != "idle");
    let rows = busy.map(|slot| {
        let does = match slot.phase.as_str() {
            "prefill" => "reads".to_owned(),
            "decode" => "writes".to_owned(),
            other => inert(other),
        };
        let (done, all) = (slot.prompt_done, slot.prompt_tokens);
        vec![
            inert(&model.name),
            slot.slot.to_string(),
            does,
            format!("{} of {}", tokens(done.into()), tokens(all.into())),
            tokens(slot.generated_tokens.into()),
        ]
    });
    rows.collect()
}

/// The entries as the server sent them, by their kinds, and what its planner says of each model.
pub(super) fn as_json(address: &str, board: &Board, plans: &[(String, Value)]) -> Value {
    let of = |kind: &str| -> Vec<&Value> {
        let entries = board.entries.values();
        entries.filter(|state| state["kind"] == kind).collect()
    };
    let models = of("model").into_iter().map(|model| {
        let plan = plans.iter().find(|(name, _)| model["name"] == **name);
        let mut model = model.clone();
        model["plan"] = plan.map_or(Value::Null, |(_, plan)| plan.clone());
        model
    });
    json!({
        "url": address,
        "server": of("server").first(),
        "memory": of("memory").first(),
        "models": models.collect::<Vec<_>>(),
        "pulls": of("pull"),
    })
}
