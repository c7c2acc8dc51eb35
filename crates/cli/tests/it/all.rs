//! `sextant bench all`: one command, stopped and gone on with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};

use bench::quality::suite;
use serde_json::Value;
use testkit::tiny::Family;

use super::bench::{Answers, attempts_in, endpoint, reader, scripted};
use super::sandbox::Sandbox;

/// An endpoint that counts what it is asked, and stops to answer when it is told to.
#[derive(Default)]
struct Asked {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How often each question came, by its text and seed.
    times: BTreeMap<String, usize>,
    /// Requests after which none is answered until that is lifted.
    stop_after: Option<usize>,
    n: usize,
    n_waiting: usize,
}

impl Asked {
    /// Right answers to all questions of the suite and of the context probe.
    fn answers(self: &Arc<Self>) -> Arc<Answers> {
        let (right, read) = (scripted(true), reader(usize::MAX, usize::MAX));
        let prompts: Vec<String> = suite()
            .unwrap()
            .iter()
            .map(|question| question.prompt.trim().to_owned())
            .collect();
        let asked = Arc::clone(self);
        Arc::new(move |request: &Value| {
            let prompt = request["messages"][0]["content"].as_str().unwrap();
            asked.note(&format!("{} {prompt}", request["seed"]));
            match prompts.iter().any(|one| one == prompt) {
                true => right(request),
                false => read(request),
            }
        })
    }

    fn note(&self, question: &str) {
        let mut state = self.state.lock().unwrap();
        *state.times.entry(question.to_owned()).or_default() += 1;
        state.n += 1;
        if state.stop_after.is_some_and(|after| state.n > after) {
            state.n_waiting += 1;
            self.changed.notify_all();
            let waited = self
                .changed
                .wait_while(state, |state| state.stop_after.is_some());
            drop(waited.unwrap());
        }
    }

    fn stop_after(&self, n: usize) {
        self.state.lock().unwrap().stop_after = Some(n);
    }

    /// Waits until a request waits.
    fn wait(&self) {
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_while(state, |state| state.n_waiting == 0);
        drop(waited.unwrap());
    }

    fn go_on(&self) {
        self.state.lock().unwrap().stop_after = None;
        self.changed.notify_all();
    }
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_run_that_was_killed_goes_on_and_asks_nothing_twice() {
    let sandbox = Sandbox::new();
    let (own, peer) = (Arc::<Asked>::default(), Arc::<Asked>::default());
    let (url, peer_url) = (endpoint(own.answers()), endpoint(peer.answers()));
    let folder = sandbox.dir().join("run");
    let peer_of = format!("other-engine={peer_url}");
    let command = [
        "bench",
        "all",
        "model",
        "--quick",
        "--url",
        &url,
        "--peer",
        &peer_of,
        "--out",
        folder.to_str().unwrap(),
    ];
    // The first is stopped in the middle of the peer's questions.
    peer.stop_after(5);
    let mut child = sandbox.command_of(&command);
    let mut child = child
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    peer.wait();
    child.kill().unwrap();
    // Its pipe ends when what it has started has ended too.
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.contains("part 1 of 8: quality of model"), "{told}");
    peer.go_on();
    assert_eq!(attempts_in(&read(&folder, "quality-other-engine.jsonl")), 5);
    assert!(!folder.join("report.md").exists());

    let ran = sandbox.run(&command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("part 2 of 8"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("part 1 of 8"), "{}", ran.stderr);
    assert!(ran.stdout.contains("report.html"), "{}", ran.stdout);
    let suite = suite().unwrap();
    let times = |asked: &Asked, question: &str| {
        let state = asked.state.lock().unwrap();
        state.times.get(question).copied().unwrap_or(0)
    };
    for (place, question) in suite.iter().enumerate() {
        let question = format!("0 {}", question.prompt.trim());
        assert_eq!(times(&own, &question), 1, "{question}");
        // The one that was asked when it was killed has no answer.
        let wanted = if place == 5 { 2 } else { 1 };
        assert_eq!(times(&peer, &question), wanted, "{question}");
    }
    let report = read(&folder, "report.md");
    for part in [
        "## Quality (quality.jsonl)",
        "## Quality (quality-other-engine.jsonl)",
        "## Context (context-model.jsonl)",
        "## Context (context-other-engine-model.jsonl)",
        "## Load (load-model.jsonl)",
        "## Load (load-other-engine-model.jsonl)",
        "## Agents (agents.jsonl)",
        "## Agents (agents-other-engine.jsonl)",
        "| model | 14/14 |",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    let html = read(&folder, "report.html");
    assert_eq!(html.matches("<section>").count(), 8);

    // Nothing is left: nobody is asked, and the pages are the same.
    let n = |asked: &Asked| asked.state.lock().unwrap().n;
    let before = (n(&own), n(&peer));
    let again = sandbox.run(&command);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!((n(&own), n(&peer)), before);
    assert_eq!(read(&folder, "report.md"), report);
    // Another run has another folder.
    let other = sandbox.run(&[&command[..], &["--context", "512"]].concat());
    assert_eq!(other.code, 2, "{}", other.stderr);
    assert!(other.stderr.contains("another folder"), "{}", other.stderr);
    // Each part is a run of its own among the results.
    let listed = sandbox.run(&["bench", "results", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 8, "{listed}");
}

#[test]
fn models_of_this_machine_are_asked_through_a_server_of_the_run() {
    let mut sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    // Whatever else listens here stays as it is.
    sandbox.set("SEXTANT_PORT", "0");
    let folder = sandbox.dir().join("run");
    let command = [
        "bench",
        "all",
        "plain",
        "--quick",
        "--no-keep",
        "--context",
        "512",
        "--out",
        folder.to_str().unwrap(),
    ];
    let ran = sandbox.run(&command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("guessed"), "{}", ran.stderr);
    assert!(ran.stderr.contains("that were measured"), "{}", ran.stderr);
    let report = read(&folder, "report.md");
    for part in [
        "## Speed",
        "## Quality",
        "## Context",
        "## Load",
        "## Agents",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert_eq!(attempts_in(&read(&folder, "quality.jsonl")), 14);
    let plan: Value = serde_json::from_str(&read(&folder, "all.json")).unwrap();
    let port = plan["port"].as_u64().unwrap();
    let address = format!("127.0.0.1:{port}");
    assert!(std::net::TcpStream::connect(address).is_err(), "it is gone");
    assert!(!sandbox.dir().join(".local/share/sextant").exists());
}

#[test]
fn what_cannot_be_measured_is_told_at_once() {
    let sandbox = Sandbox::new();
    for (flags, code, told) in [
        (&["--peer", "nameless"][..], 2, "NAME=URL"),
        (&["--peer", "p=http://127.0.0.1:1"], 4, "127.0.0.1:1"),
        (&[], 3, "absent"),
    ] {
        let url = ["--url", "http://127.0.0.1:1"];
        let url = if flags.is_empty() { &[][..] } else { &url };
        let command = ["bench", "all", "absent", "--out", "run"];
        let ran = sandbox.run(&[&command[..], url, flags].concat());
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{flags:?}: {}", ran.stderr);
        let _ = std::fs::remove_dir_all(sandbox.dir().join("run"));
    }
}
