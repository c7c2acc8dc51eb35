use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use ratatui::widgets::Paragraph;
use serde_json::json;

use super::state::{Key, Link, Page};
use super::theme::{Colours, Signs};
use super::*;
use crate::bus::BusEvent;

/// 2026-11-23 06:00 UTC.
const NOW_MS: u64 = 1_795_413_600_000;

const PLAIN: Theme = Theme {
    colours: Colours::None,
    signs: Signs::Unicode,
};

fn event(value: Value) -> Event {
    Event::Bus(serde_json::from_value(value).unwrap())
}

fn model(name: &str, state: Value) -> Value {
    let mut all = json!({ "kind": "model", "name": name, "phase": "unloaded" });
    let fields = all.as_object_mut().unwrap();
    fields.extend(state.as_object().unwrap().clone());
    json!({ "key": format!("model/{name}"), "state": all })
}

fn ready() -> Value {
    json!({
        "phase": "ready",
        "memory_bytes": 428 << 20,
        "memory_measured": true,
        "expires_s": NOW_MS / 1000 + 250,
        "requests_running": 2,
        "architecture": "llama",
        "quant": "Q8_0",
        "asked": { "context": 8192, "threads": 4, "kv_type_k": "q8_0", "flash_attention": "auto" },
        "facts": {
            "description": "llama 135M Q8_0",
            "weights_bytes": 138 << 20, "kv_bytes": 180 << 20,
            "n_layer": 30, "context": 8192, "context_train": 8192, "slots": 4, "queue_max": 64,
            "batch": 2048, "ubatch": 512, "threads": 4, "threads_batch": 8,
            "cpus": "4-7", "cpus_batch": "0-7",
            "kv_type_k": "f16", "kv_type_v": "f16", "flash_attention": true,
            "devices": [
                { "weights_bytes": 138 << 20, "kv_bytes": 180 << 20, "compute_bytes": 34 << 20 },
            ],
            "kernels": "own (AVX2)", "llama_version": "b11434", "load_ms": 412.0,
            "tuned": ["threads"],
        },
        "worker": {
            "slots": [
                { "slot": 0, "phase": "decode", "prompt_tokens": 1812, "prompt_done": 1812,
                  "generated_tokens": 43 },
                { "slot": 1, "phase": "prefill", "prompt_tokens": 512, "prompt_done": 256,
                  "generated_tokens": 0 },
                { "slot": 2, "phase": "idle" },
                { "slot": 3, "phase": "idle" },
            ],
            "queued": 1,
            "kv_cells": 8192, "kv_cells_running": 2111, "kv_cells_cached": 1024,
            "cached_prefixes": 3, "resident_bytes": 412 << 20,
            "prefill_tps": 412.3, "decode_tps": 23.44,
            "prompt_tokens_total": 12_449, "prompt_tokens_cached_total": 8_120,
            "completion_tokens_total": 2_048,
            "draft_tokens_total": 400, "draft_accepted_tokens_total": 252,
            "jobs_total": 31, "jobs_failed_total": 1, "preemptions_total": 2, "parkings_total": 0,
        },
    })
}

fn snapshot() -> Value {
    let unloaded = json!({ "memory_bytes": 2_600_000_000_u64 });
    let loading = json!({ "phase": "loading", "load_fraction": 0.43, "why": "43 % loaded",
        "memory_bytes": 3_100_000_000_u64, "requests_waiting": 1 });
    let failed = json!({ "phase": "failed", "why": "The file is cut.\nIts end is missing.",
        "restarts": 2, "last_crash": "GGML_ASSERT(n > 0)\nended by SIGABRT" });
    json!({ "type": "snapshot", "entries": [
        model("SmolLM2-135M-Instruct", ready()),
        model("Qwen3-4B", loading),
        model("gemma-3-1b", unloaded),
        model("broken", failed),
        { "key": "server", "state": { "kind": "server", "version": "0.1.0",
            "started_s": NOW_MS / 1000 - 7_400, "may_manage": true } },
        { "key": "memory", "state": { "kind": "memory", "memory_bytes": 3_550_000_000_u64,
            "memory_bytes_max": 12_884_901_888_u64, "gpu_memory_bytes": 0,
            "gpu_memory_bytes_max": null, "pressure": "short", "shrinks": 1, "unloads": 0 } },
        { "key": "pull/hf:a/b", "state": { "kind": "pull", "spec": "hf:a/b", "files": [
            { "name": "b.gguf", "done_bytes": 300 << 20, "total_bytes": 1 << 30 } ] } },
    ] })
}

fn plan() -> Value {
    json!({
        "resident_bytes": 430 << 20,
        "ledger": [
            { "name": "weights, packed", "bytes": 139 << 20 },
            { "name": "compute buffer", "bytes": 32 << 20 },
        ],
        "caches": [{ "bytes": 180 << 20 }],
    })
}

/// A server with models, whose planner has answered.
fn state(width: u16, height: u16) -> State {
    let mut state = State::new("http://127.0.0.1:11460", (width, height), NOW_MS);
    state.step(Event::Open, NOW_MS);
    for action in state.step(event(snapshot()), NOW_MS) {
        let Action::Plan { model, question } = action else {
            panic!("{action:?}");
        };
        let plan = predicted::read(plan());
        let event = Event::Planned {
            model,
            question,
            plan,
        };
        state.step(event, NOW_MS);
    }
    state
}

fn drawn(state: &State, theme: Theme) -> Buffer {
    let backend = TestBackend::new(state.width, state.height);
    let mut terminal = Terminal::new(backend).unwrap();
    let lines = view::screen(state, theme);
    terminal
        .draw(|frame| frame.render_widget(Paragraph::new(lines), frame.area()))
        .unwrap();
    terminal.backend().buffer().clone()
}

/// The screen as text, without the space at the ends of lines.
fn shown(state: &State) -> String {
    let buffer = drawn(state, PLAIN);
    let rows = buffer.content.chunks(usize::from(buffer.area.width).max(1));
    let rows = rows.map(|row| {
        let text: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", text.trim_end())
    });
    rows.collect()
}

fn press(state: &mut State, keys: &[Key]) -> Vec<Action> {
    let actions = keys.iter().map(|key| state.step(Event::Key(*key), NOW_MS));
    actions.collect::<Vec<_>>().concat()
}

#[test]
fn the_screen_of_a_terminal() {
    let mut state = state(80, 24);
    for second in 0..60_u64 {
        let mut again = ready();
        again["worker"]["completion_tokens_total"] = json!(2_048 + second * (second % 9));
        let entry = model("SmolLM2-135M-Instruct", again);
        state.step(event(json!({ "type": "upsert", "entry": entry })), NOW_MS);
        state.step(Event::Tick, NOW_MS + second * 1000);
    }
    state.step(
        Event::Resize {
            width: 80,
            height: 24,
        },
        NOW_MS,
    );
    insta::assert_snapshot!(shown(&state));
}

#[test]
fn the_screen_of_a_narrow_terminal() {
    insta::assert_snapshot!(shown(&state(40, 24)));
}

#[test]
fn details_of_a_model() {
    let mut state = state(80, 36);
    press(&mut state, &[Key::Last, Key::First]);
    let ready = state.board.in_order();
    let place = ready.iter().position(|model| model.phase == "ready");
    let downs = vec![Key::Down; place.unwrap()];
    press(&mut state, &downs);
    press(&mut state, &[Key::Enter]);
    insta::assert_snapshot!(shown(&state));
}

#[test]
fn the_help_is_whole_on_a_usual_terminal() {
    let mut state = state(80, 24);
    press(&mut state, &[Key::Help]);
    insta::assert_snapshot!(shown(&state));
}

#[test]
fn the_text_for_a_pipe() {
    let text = text::of(&state(0, 0));
    insta::assert_snapshot!(text);
}

#[test]
fn no_size_is_too_small_and_no_line_too_wide() {
    for page in [None, Some(Key::Enter), Some(Key::Help)] {
        for width in [0, 1, 7, 12, 23, 39, 40, 60, 79, 80, 133, 240] {
            for height in [0, 1, 2, 5, 9, 12, 24, 60] {
                let mut state = state(width, height);
                state.step(Event::Lost("it has ended the stream".into()), NOW_MS);
                if let Some(key) = page {
                    press(&mut state, &[key]);
                }
                let lines = view::screen(&state, PLAIN);
                assert_eq!(lines.len(), usize::from(height), "{width}x{height}");
                for line in lines {
                    assert!(line.width() <= usize::from(width), "{width}: {line}");
                }
            }
        }
    }
}

#[test]
fn a_server_that_is_gone_is_told_with_its_reason_until_it_is_back() {
    let mut state = state(80, 24);
    assert!(shown(&state).lines().next().unwrap().ends_with("live"));
    state.step(Event::Lost("no server there".into()), NOW_MS);
    state.step(Event::Lost("no server there".into()), NOW_MS + 9_000);
    state.step(Event::Tick, NOW_MS + 12_000);
    let text = shown(&state);
    assert!(text.contains("gone for 12 s, trying again"), "{text}");
    assert!(text.contains("no server there") && text.contains("SmolLM2"));
    state.step(Event::Open, NOW_MS + 13_000);
    assert_eq!(state.link, Link::Open);
    let text = shown(&state);
    assert!(!text.contains("no server there"), "{text}");
}

#[test]
fn the_choice_stays_on_its_model() {
    let mut state = state(80, 24);
    let name = |state: &State| state.chosen().map(|model| model.name.clone());
    assert_eq!(name(&state).as_deref(), Some("Qwen3-4B"));
    press(&mut state, &[Key::Up, Key::Down]);
    let chosen = name(&state);
    assert_eq!(chosen.as_deref(), Some("SmolLM2-135M-Instruct"));
    let other = model("AAA", json!({ "phase": "ready" }));
    state.step(event(json!({ "type": "upsert", "entry": other })), NOW_MS);
    assert_eq!(name(&state), chosen);
    press(&mut state, &[Key::Last, Key::Down]);
    assert_eq!(name(&state).as_deref(), Some("gemma-3-1b"));
    // It goes, and the first is looked at; it comes back, and so does the choice.
    let gone = json!({ "type": "remove", "key": "model/gemma-3-1b" });
    state.step(event(gone), NOW_MS);
    assert_eq!(name(&state).as_deref(), Some("AAA"));
    let back = model("gemma-3-1b", json!({}));
    state.step(event(json!({ "type": "upsert", "entry": back })), NOW_MS);
    assert_eq!(name(&state).as_deref(), Some("gemma-3-1b"));
    state.step(event(json!({ "type": "snapshot", "entries": [] })), NOW_MS);
    assert_eq!(press(&mut state, &[Key::Down, Key::Enter]), []);
    assert_eq!(state.page, Page::List);
}

#[test]
fn details_move_within_their_lines_and_every_page_leads_back() {
    let mut state = state(80, 12);
    press(&mut state, &[Key::Down, Key::Enter]);
    assert_eq!(state.page, Page::Details);
    press(&mut state, &[Key::Last]);
    let end = state.scroll;
    assert!(end > 0);
    assert!(shown(&state).contains("loaded in 412"), "the last line");
    press(&mut state, &[Key::PageDown]);
    assert_eq!(state.scroll, end);
    press(&mut state, &[Key::Up]);
    assert_eq!(state.scroll, end - 1);
    let large = Event::Resize {
        width: 80,
        height: 60,
    };
    state.step(large, NOW_MS);
    assert_eq!(state.scroll, 0, "all of it has room");
    press(&mut state, &[Key::Help, Key::Other]);
    assert_eq!(state.page, Page::List);
    press(&mut state, &[Key::Enter, Key::Back]);
    assert_eq!(state.page, Page::List);
    assert_eq!(press(&mut state, &[Key::Quit]), [Action::Quit]);
}

#[test]
fn the_planner_is_asked_once_for_each_way_that_a_model_is_loaded() {
    let mut state = State::new("a", (80, 24), NOW_MS);
    state.step(Event::Open, NOW_MS);
    let asked = state.step(event(snapshot()), NOW_MS);
    let [Action::Plan { question, .. }] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(
        (&question["kv_type_k"], &question["context"]),
        (&json!("f16"), &json!(8192))
    );
    assert_eq!(state.step(event(snapshot()), NOW_MS), []);
    // Another load: the answer to the first question is no longer wanted.
    let mut other = ready();
    other["facts"]["kv_type_k"] = json!("q8_0");
    let upsert = json!({ "type": "upsert", "entry": model("SmolLM2-135M-Instruct", other) });
    let again = state.step(event(upsert), NOW_MS);
    assert_eq!(again.len(), 1);
    let told = |question: &Value, plan| Event::Planned {
        model: "SmolLM2-135M-Instruct".into(),
        question: question.clone(),
        plan,
    };
    state.step(told(question, predicted::read(plan())), NOW_MS);
    let known = |state: &State| state.predicted["SmolLM2-135M-Instruct"].plan.clone();
    assert_eq!(known(&state), None);
    let [Action::Plan { question, .. }] = &again[..] else {
        panic!("{again:?}");
    };
    state.step(told(question, Err("it was away".into())), NOW_MS);
    assert!(known(&state).unwrap().is_err());
    assert_eq!(state.step(Event::Open, NOW_MS).len(), 1, "asked again");
}

#[test]
fn rates_are_of_the_time_between_and_gaps_are_none() {
    let mut state = state(80, 24);
    let mut count = |tokens: u64, at_ms: u64| {
        let mut again = ready();
        again["worker"]["completion_tokens_total"] = json!(tokens);
        again["worker"]["prompt_tokens_total"] = json!(8_120 + tokens);
        let entry = model("SmolLM2-135M-Instruct", again);
        state.step(event(json!({ "type": "upsert", "entry": entry })), at_ms);
        state.step(Event::Tick, at_ms);
        state.rates.back().map(|rates| (rates.written, rates.read))
    };
    assert_eq!(count(100, NOW_MS), None, "one look is no rate");
    assert_eq!(count(100, NOW_MS + 10), None, "nor are two at once");
    let doubled = (Some(50.0), Some(50.0));
    assert_eq!(count(200, NOW_MS + 2_000), Some(doubled));
    assert_eq!(
        count(5, NOW_MS + 3_000),
        Some((None, None)),
        "another worker"
    );
    assert_eq!(count(15, NOW_MS + 4_000), Some((Some(10.0), Some(10.0))));
    state.step(Event::Lost("gone".into()), NOW_MS);
    state.step(Event::Tick, NOW_MS + 60_000);
    state.step(Event::Open, NOW_MS + 61_000);
    state.step(Event::Tick, NOW_MS + 61_000);
    assert_eq!(state.rates.len(), 3, "the time away is not counted");
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let n_coloured = |colours| {
        let theme = Theme {
            colours,
            signs: Signs::Unicode,
        };
        let buffer = drawn(&state(80, 24), theme);
        let cells = buffer.content.iter();
        let coloured = cells.filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        coloured.count()
    };
    assert_eq!(n_coloured(Colours::None), 0);
    assert!(n_coloured(Colours::Sixteen) > 0);
}

#[test]
fn what_a_server_says_can_do_nothing_to_the_terminal() {
    let evil = "x\u{1b}[2J\u{202e}\u{9b}1m\r\n";
    let mut all = ready();
    all["why"] = json!(evil);
    all["last_crash"] = json!(evil);
    all["facts"]["kernels"] = json!(evil);
    all["asked"]["kv_type_v"] = json!(evil);
    let server = json!({ "key": "server", "state": { "kind": "server", "version": evil } });
    let odd = json!({ "key": evil, "state": { "kind": "model", "name": 5 } });
    let mut state = State::new(evil, (80, 40), NOW_MS);
    let entries = json!([model(evil, all), server, odd]);
    let snapshot: BusEvent =
        serde_json::from_value(json!({ "type": "snapshot", "entries": entries })).unwrap();
    state.step(Event::Bus(snapshot), NOW_MS);
    state.step(Event::Lost(evil.into()), NOW_MS);
    let is_evil = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    for page in [Key::Back, Key::Enter, Key::Help] {
        press(&mut state, &[page]);
        let lines = view::screen(&state, PLAIN);
        let text: Vec<_> = lines.iter().map(ToString::to_string).collect();
        assert!(!text.join("\n").contains(is_evil), "{text:?}");
    }
    assert!(!text::of(&state).contains(is_evil));
}
