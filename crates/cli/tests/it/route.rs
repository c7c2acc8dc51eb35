//! `sextant route derive`: whence routes come, whether that still holds, and the file they go to.

use bench::quality::suite;
use serde_json::{Value, json};
use testkit::tiny::{Family, gguf};

use super::sandbox::{Ran, Sandbox};

/// One pass of a model through all questions, as `bench quality --out` keeps it. `ended` says
/// of a question whether the answer was right, and which fault there was.
fn attempts(
    model: &str,
    seconds: f64,
    ended: impl Fn(&str) -> (bool, Option<&'static str>),
) -> String {
    let suite = suite().unwrap();
    let lines = suite.iter().map(|question| {
        let (right, fault) = ended(&question.id);
        let void = fault.is_some_and(|word| word != "late");
        let line = json!({
            "model": model, "question": question.id, "repeat": 0, "seconds": seconds,
            "right": right, "why": null, "fault": fault, "void": void, "tokens": 9, "said": "",
            "origin": format!("q-{model}"), "at_unix_secs": 1_700_000_000,
        });
        format!("{line}\n")
    });
    lines.collect()
}

fn write(sandbox: &Sandbox, name: &str, lines: &[String]) {
    let heading = json!({ "version": 1, "server": "http://127.0.0.1:11460" });
    sandbox.write(name, &format!("{heading}\n{}", lines.concat()));
}

fn json_of(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn task<'a>(told: &'a Value, word: &str) -> &'a Value {
    let routes = told["routes"].as_array().unwrap();
    routes.iter().find(|one| one["task"] == word).unwrap()
}

const MINE: &str = "# mine\nport = 11460 # the usual one\n\n[routing] # who answers\nauto = ['a']\n\n\
                    [routing.tasks]\n# by hand\ncode = [ 'old' ] # until something is measured\n";

#[test]
fn routes_are_written_once_and_all_else_stays() {
    let sandbox = Sandbox::new();
    sandbox.write("own.toml", MINE);
    write(
        &sandbox,
        "q.jsonl",
        &[attempts("good", 5.0, |_| (true, None))],
    );
    let command = [
        "route", "derive", "q.jsonl", "--config", "own.toml", "--apply",
    ];
    let text = || std::fs::read_to_string(sandbox.dir().join("own.toml")).unwrap();
    for (input, code) in [("", 2), ("n\n", 0), ("what?\n", 0)] {
        let ran = sandbox.run_with_input(&command, input);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(
            ran.stdout
                .contains("- code = [\"old\"]\n+ code = [\"good\"]"),
            "{}",
            ran.stdout
        );
        assert_eq!(text(), MINE, "nobody has agreed");
    }
    let ran = sandbox.run_with_input(&command, "y\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let written = text();
    for part in [
        "# mine\nport = 11460 # the usual one\n\n[routing] # who answers\nauto = ['a']\n",
        "# by hand\n",
        "code = [\"good\"] # until something is measured\n",
        "q-good",
        "deep = [\"good\"]\n",
    ] {
        assert!(written.contains(part), "{part}: {written}");
    }
    let backup = std::fs::read_to_string(sandbox.dir().join("own.toml.bak")).unwrap();
    assert_eq!(backup, MINE);
    assert_eq!(sandbox.run(&["config", "--config", "own.toml"]).code, 0);
    // What is there already is not written again, and the backup stays that of what was.
    let again = sandbox.run(&[&command[..], &["--yes", "--json"]].concat());
    let told = json_of(&again);
    assert_eq!(told["applied"]["written"], false);
    assert_eq!(text(), written);
    let backup = std::fs::read_to_string(sandbox.dir().join("own.toml.bak")).unwrap();
    assert_eq!(backup, MINE);
}

#[test]
fn a_file_that_no_server_would_take_is_left_alone() {
    let sandbox = Sandbox::new();
    write(
        &sandbox,
        "q.jsonl",
        &[attempts("good", 5.0, |_| (true, None))],
    );
    for text in [
        "[routing.tasks]\ncod = ['a']\n",
        "[routing.aliases]\na = []\n",
    ] {
        sandbox.write("own.toml", text);
        let ran = sandbox.run(&[
            "route", "derive", "q.jsonl", "--config", "own.toml", "--apply", "--yes",
        ]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        let after = std::fs::read_to_string(sandbox.dir().join("own.toml")).unwrap();
        assert_eq!(after, text, "{}", ran.stderr);
    }
}

#[test]
fn what_failed_interactively_is_not_promoted_and_the_reason_is_told() {
    let sandbox = Sandbox::new();
    sandbox.write("own.toml", "[routing.tasks]\ntools = ['busy']\n");
    let late = attempts("late", 5.0, |id| match id {
        "capital" => (false, Some("late")),
        _ => (true, None),
    });
    let busy = attempts("busy", 5.0, |id| match id {
        "calculator" => (false, Some("busy")),
        _ => (true, None),
    });
    write(
        &sandbox,
        "q.jsonl",
        &[late, busy, attempts("slow", 91.0, |_| (true, None))],
    );
    let command = [
        "route", "derive", "q.jsonl", "--config", "own.toml", "--json",
    ];
    let told = json_of(&sandbox.run(&command));
    let refused = |word: &str| -> Vec<(String, String)> {
        let refused = task(&told, word)["refused"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        refused
            .iter()
            .map(|one| (text(&one["model"]), text(&one["why"])))
            .collect()
    };
    let pair = |model: &str, why: &str| (model.to_owned(), why.to_owned());
    assert_eq!(
        refused("fast_chat"),
        [
            pair("busy", "pipeline"),
            pair("late", "late"),
            pair("slow", "too_slow")
        ]
    );
    assert!(task(&told, "fast_chat")["primary"].is_null());
    assert_eq!(
        refused("factual"),
        [pair("late", "late"), pair("slow", "too_slow")]
    );
    assert_eq!(task(&told, "factual")["primary"]["model"], "busy");
    // Nobody waits for deep work, but a fault is a fault.
    assert_eq!(refused("deep"), [pair("busy", "pipeline")]);
    assert_eq!(task(&told, "tools")["primary"]["model"], "late");
    // A route that stays although its model has failed is told.
    write(
        &sandbox,
        "q.jsonl",
        &[attempts("busy", 5.0, |_| (false, Some("busy")))],
    );
    let ran = sandbox.run(&[
        "route", "derive", "q.jsonl", "--config", "own.toml", "--apply", "--yes",
    ]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stderr.contains("`tools` in") && ran.stderr.contains("`busy`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn models_of_a_provider_are_named_after_it() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "own.toml",
        "[[providers]]\nname = 'box'\nkind = 'llama-server'\nurl = 'http://127.0.0.1:11460/v1'\n",
    );
    write(
        &sandbox,
        "q.jsonl",
        &[attempts("good", 5.0, |_| (true, None))],
    );
    let told = json_of(&sandbox.run(&[
        "route", "derive", "q.jsonl", "--config", "own.toml", "--json",
    ]));
    assert_eq!(task(&told, "code")["primary"]["model"], "box:good");
}

/// The attempts of a real server with a model of random weights, asked once.
fn measured(sandbox: &Sandbox) {
    sandbox.add_family("tiny", Family::Llama);
    let served = sandbox.serve(&["tiny", "--threads=1"]);
    let ran = sandbox.run(&[
        "bench",
        "quality",
        "tiny",
        "--url",
        &served.address,
        "--repeats",
        "1",
        "--tokens",
        "4",
        "--out",
        "q.jsonl",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn evidence_says_on_what_it_was_measured_and_whether_that_has_changed() {
    let sandbox = Sandbox::new();
    measured(&sandbox);
    let derive = || {
        let ran = sandbox.run(&["route", "derive", "q.jsonl", "--json"]);
        let told = json_of(&ran);
        (told["evidence"][0].clone(), ran.stderr)
    };
    let grounds = |evidence: &Value| -> Vec<String> {
        let stale = evidence["stale"].as_array().unwrap().iter();
        stale
            .map(|one| one["ground"].as_str().unwrap().to_owned())
            .collect()
    };
    let (fresh, _) = derive();
    assert_eq!(
        (&fresh["stale"], &fresh["unknown"]),
        (&json!([]), &json!([])),
        "{fresh}"
    );
    assert_eq!(fresh["model"], "tiny");
    assert!(fresh["attempts"].as_u64().unwrap() > 0 && fresh["attempts"].as_u64().unwrap() <= 14);
    assert!(
        fresh["build"].as_str().unwrap().starts_with("sextant "),
        "{fresh}"
    );
    let path = sandbox.dir().join("q.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    for (what, ground) in [("build", "build"), ("hardware", "hardware")] {
        let changed = changed(&text, what);
        std::fs::write(&path, changed).unwrap();
        let (evidence, told) = derive();
        assert_eq!(grounds(&evidence), [ground]);
        assert!(told.contains("is stale: the"), "{told}");
    }
    std::fs::write(&path, &text).unwrap();
    let model = sandbox.dir().join("models/tiny.gguf");
    let mut other = gguf(Family::Llama);
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&model, other).unwrap();
    assert_eq!(grounds(&derive().0), ["model"]);
    std::fs::remove_file(&model).unwrap();
    assert_eq!(grounds(&derive().0), ["model"]);
}

/// The file with another text for a part of its origin.
fn changed(text: &str, part: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line["origin"].is_object() {
            line["origin"][part] = json!("sextant 0.0.1, of old");
        }
        format!("{line}\n")
    });
    lines.collect()
}

#[test]
fn attempts_of_which_nobody_knows_the_origin_are_told() {
    let sandbox = Sandbox::new();
    let lines = attempts("good", 5.0, |_| (true, None));
    let old: String = lines
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let line = line.as_object_mut().unwrap();
            line.remove("origin");
            line.remove("at_unix_secs");
            format!("{}\n", json!(line))
        })
        .collect();
    write(&sandbox, "q.jsonl", &[old]);
    let ran = sandbox.run(&["route", "derive", "q.jsonl"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("14 of 14 attempts"), "{}", ran.stderr);
    assert!(ran.stdout.contains("code = [\"good\"]"), "{}", ran.stdout);
}
