//! `sextant logs` against a real server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;
use testkit::tiny::Family;

use super::sandbox::{JSON, Sandbox, answers};

/// A program that runs on; dropping it ends it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn lines_are_printed_and_chosen_by_level_model_and_number() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    let served = sandbox.serve(&["plain", "--context=256"]);
    let url = format!("http://{}", served.address);
    // Until the model is there: its engine has said something by then.
    while served.ask("GET", "/ready", "")["ready"] != true {}
    let logs = |args: &[&str]| {
        let ran = sandbox.run(&[&["logs", "--url", &url], args].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran.stdout
    };
    let all = logs(&["--json"]);
    let lines: Vec<Value> = all
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 2, "{all}");
    assert!(lines.iter().all(|line| line["type"] == "line"), "{all}");
    let of_model = logs(&["--json", "--model", "plain"]);
    assert!(!of_model.is_empty() && of_model.lines().all(|line| line.contains("\"plain\"")));
    assert_eq!(logs(&["--level", "error"]), "");
    assert_eq!(logs(&["--since", "0s"]), "");
    assert_eq!(logs(&["-n", "2"]).lines().count(), 2);
    let text = logs(&[]);
    assert_eq!(text.lines().count(), lines.len());
    assert!(text.contains("INFO ") && text.contains("[plain]"), "{text}");
}

#[test]
fn following_tells_what_comes_and_goes_on_with_another_process() {
    let sandbox = Sandbox::new();
    let served = sandbox.serve(&[]);
    let url = format!("http://{}", served.address);
    let mut child = sandbox
        .command_of(&["logs", "--follow", "--json", "--url", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _running = Running(child);
    let mut until = |text: &str| {
        let found = lines.find(|line| line.as_ref().unwrap().contains(text));
        found
            .unwrap_or_else(|| panic!("no line with {text}"))
            .unwrap()
    };
    served.ask("GET", "/v1/models/first", "");
    let first: Value = serde_json::from_str(&until("/v1/models/")).unwrap();
    assert_eq!(first["type"], "line");
    let (_, port) = served.address.rsplit_once(':').unwrap();
    let port = format!("--port={port}");
    drop(served);
    let served = sandbox.serve(&[&port]);
    served.ask("GET", "/v1/models/second", "");
    let second: Value = serde_json::from_str(&until("/v1/models/")).unwrap();
    assert!(
        second["number"].as_u64() <= first["number"].as_u64(),
        "{second}"
    );
}

#[test]
fn what_lines_mean_is_told_with_them() {
    let sandbox = Sandbox::new();
    let page = r#"{"lines":[{"number":7,"at_ms":1000,"level":"error","source":"engine",
        "model":"m","text":"it ended"}],"next":7,"diagnoses":[{"number":7,"at_ms":1000,
        "model":"m","times":3,"finding":{"code":"killed","severity":"fault","class":"runtime",
        "what":"It was killed.","fix":"Give it memory."}}]}"#;
    let (url, asked) = answers(&[("200 OK", JSON, page)]);
    let ran = sandbox.run(&["logs", "--url", &url]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"1970-01-01T00:00:01.000Z ERROR engine [m]: it ended");
    insta::assert_snapshot!(ran.stderr, @r"
      fault: m: It was killed. (3 times) [killed]
        fix: Give it memory.
    ");
    let asked = asked.join().unwrap().remove(0);
    assert!(
        asked.starts_with("GET /api/logs?after=0&limit=4096 "),
        "{asked}"
    );
    let ran = sandbox.run(&["logs", "--since", "soon"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("90s, 15m, 1h or 7d"), "{}", ran.stderr);
}
