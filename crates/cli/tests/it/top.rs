//! `sextant top` against a real server with a real model: once as text and JSON, and on a
//! terminal.

use rustix::process::Signal;
use serde_json::Value;
use testkit::tiny::Family;

use super::pty::Pty;
use super::sandbox::{JSON, Sandbox, Served, answers};

fn with_a_model() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    sandbox
}

fn ask(served: &Served) {
    let body = r#"{"model":"plain","max_tokens":4,"temperature":0,"messages":
        [{"role":"user","content":"A long enough prompt to be read by the model."}]}"#;
    let answer = served.ask("POST", "/v1/chat/completions", body);
    assert!(answer["choices"].is_array(), "{answer}");
}

fn top(sandbox: &Sandbox, url: &str, size: (u16, u16)) -> Pty {
    Pty::start(&sandbox.command_of(&["top", "--url", url]), size)
}

fn url(served: &Served) -> String {
    format!("http://{}", served.address)
}

#[test]
fn without_a_terminal_it_is_told_once() {
    let sandbox = with_a_model();
    let served = sandbox.serve(&["plain", "--context=256", "--slots=2"]);
    ask(&served);
    let ran = sandbox.run(&["top", "--url", &url(&served)]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let row = ran.stdout.lines().find(|line| line.starts_with("plain"));
    let row = row.unwrap_or_else(|| panic!("{}", ran.stdout));
    let cells: Vec<_> = row.split("  ").filter(|cell| !cell.is_empty()).collect();
    let cells: Vec<_> = cells.iter().map(|cell| cell.trim()).collect();
    assert_eq!(cells[..5], ["plain", "ready", "0", "0", "0/2"], "{row}");
    assert!(cells[9].ends_with("iB"), "predicted: {row}");
    assert!(ran.stdout.starts_with("server    http://127.0.0.1:"));

    let ran = sandbox.run(&["top", "--json", "--url", &url(&served)]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let model = &told["models"][0];
    assert_eq!(model["name"], "plain");
    assert_eq!(model["facts"]["slots"], 2);
    assert!(model["worker"]["jobs_total"].as_u64() >= Some(1), "{told}");
    assert!(model["plan"]["resident_bytes"].as_u64() > Some(0), "{told}");
    assert!(told["memory"]["memory_bytes"].as_u64() > Some(0), "{told}");
    assert_eq!(told["server"]["may_manage"], true);
}

#[test]
fn a_server_that_refuses_is_told_as_by_every_command() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["top", "--url", "http://127.0.0.1:1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
    assert!(ran.stderr.contains("no server at"), "{}", ran.stderr);
    let (url, _) = answers(&[("401 Unauthorized", JSON, "{}")]);
    let ran = sandbox.run(&["top", "--json", "--url", &url]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("asks for an API key"), "{}", ran.stderr);
}

#[test]
fn the_terminal_shows_the_model_and_is_given_back() {
    let sandbox = with_a_model();
    let served = sandbox.serve(&["plain", "--context=256", "--slots=2"]);
    let mut top = top(&sandbox, &url(&served), (80, 24));
    top.wait_for("live");
    top.wait_for("2 of 2 idle");
    assert!(top.is_raw() && top.screen().alternate_screen());
    ask(&served);
    // By the stream: nothing was pressed.
    top.wait_for("requests  1");
    top.press("\r");
    top.wait_for("esc back");
    top.wait_for("KV types");
    top.press("?");
    top.wait_for("any other key");
    top.press("x");
    top.resize((40, 16));
    top.wait_until("the narrow table", |screen| {
        let text = screen.contents();
        text.contains("MODEL") && !text.contains("READ") && !text.contains("esc back")
    });
    top.press("q");
    assert_eq!(top.end(), 0);
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let sandbox = with_a_model();
    let served = sandbox.serve(&["plain", "--context=256"]);
    for signal in [Signal::TERM, Signal::INT] {
        let mut top = top(&sandbox, &url(&served), (80, 24));
        top.wait_for("live");
        top.signal(signal);
        assert_eq!(top.end(), 130, "{signal:?}");
    }
}

#[test]
fn a_server_that_goes_away_and_comes_back_is_found_again() {
    let sandbox = with_a_model();
    let served = sandbox.serve(&["plain", "--context=256"]);
    let address = served.address.clone();
    let mut top = top(&sandbox, &url(&served), (80, 24));
    top.wait_for("live");
    drop(served);
    top.wait_for("trying again");
    assert!(top.screen().contents().contains("plain"), "the last stays");
    let (_, port) = address.rsplit_once(':').unwrap();
    let _served = sandbox.serve(&["plain", "--context=256", &format!("--port={port}")]);
    top.wait_for("live");
    top.press("q");
    assert_eq!(top.end(), 0);
}

#[test]
fn no_colour_is_shown_where_none_is_wanted() {
    let mut sandbox = with_a_model();
    let served = sandbox.serve(&["plain", "--context=256"]);
    let has_colour = |top: &Pty| {
        let screen = top.screen();
        let cells = (0..24).flat_map(|row| (0..80).map(move |column| (row, column)));
        let mut cells = cells.filter_map(|(row, column)| screen.cell(row, column));
        cells.any(|cell| cell.fgcolor() != vt100::Color::Default)
    };
    for (no_colour, want) in [("", true), ("1", false)] {
        sandbox.set("NO_COLOR", no_colour);
        let mut top = top(&sandbox, &url(&served), (80, 24));
        top.wait_for("live");
        top.wait_for("ready");
        assert_eq!(has_colour(&top), want, "NO_COLOR={no_colour}");
        top.press("q");
        assert_eq!(top.end(), 0);
    }
}
