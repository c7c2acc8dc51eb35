//! Runs that are kept: what is known of them, and what can be done with them.

use std::path::Path;
use std::process::Stdio;

use bench::quality::Answer;
use serde_json::{Value, json};

use super::bench::{attempts_in, completion, endpoint, results, scripted};
use super::sandbox::{Ran, Sandbox};

fn quality(sandbox: &Sandbox, url: &str, more: &[&str]) -> Ran {
    let command = ["bench", "quality", "model", "--repeats", "1", "--url", url];
    sandbox.run(&[&command[..], more].concat())
}

/// The runs that are kept, the last first.
fn kept(sandbox: &Sandbox, more: &[&str]) -> Vec<Value> {
    let ran = sandbox.run(&[&["bench", "results", "--json"][..], more].concat());
    let listed = results(&ran);
    assert_eq!(listed["schema"], 1);
    listed["runs"].as_array().unwrap().clone()
}

fn id(run: &Value) -> &str {
    run["id"].as_str().unwrap()
}

/// Writes a file into the sandbox; its path.
fn file(sandbox: &Sandbox, name: &str, text: &str) -> String {
    sandbox.write(name, text);
    sandbox.dir().join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_run_is_kept_with_how_and_where_it_was_made() {
    let mut sandbox = Sandbox::new();
    assert!(kept(&sandbox, &[]).is_empty());
    let data = sandbox.dir().join("elsewhere");
    sandbox.set("SEXTANT_DATA_DIR", data.to_str().unwrap());
    let url = endpoint(scripted(true));
    let ran = quality(&sandbox, &url, &["--api-key", "hunter2"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(data.join("results.db").exists());
    let runs = kept(&sandbox, &[]);
    let [run] = runs.as_slice() else {
        panic!("{runs:?}");
    };
    assert!(ran.stderr.contains(id(run)), "{}", ran.stderr);
    assert_eq!(run["kind"], "quality");
    assert_eq!(run["server"], url);
    assert_eq!(run["n_records"], 14);
    assert_eq!(run["models"][0]["name"], "model");
    assert!(run["ended_s"].as_u64() >= run["began_s"].as_u64());
    assert!(run["machine"]["cores"].as_u64().unwrap() > 0, "{run}");
    assert!(run["machine"]["kernel"].is_string(), "{run}");
    assert!(run["load_before"].is_number(), "{run}");
    let command: Vec<&str> = run["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_eq!(&command[..4], ["sextant", "bench", "quality", "model"]);
    assert!(!command.contains(&"hunter2"), "{command:?}");
    let shown = sandbox.run(&["bench", "results", "show", "@last"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    for part in [id(run), "model", &url, "## Quality"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let shown = results(&sandbox.run(&["bench", "results", "show", id(run), "--json"]));
    let records = shown["records"].as_array().unwrap();
    let attempts = records.iter().filter(|one| one["question"].is_string());
    assert_eq!(attempts.count(), 14);

    let ran = quality(&sandbox, &url, &["--no-keep"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(kept(&sandbox, &[]).len(), 1);
    let other = ["--kind", "speed"];
    assert!(kept(&sandbox, &other).is_empty());
    assert_eq!(kept(&sandbox, &["--model", "MOD"]).len(), 1);
}

#[test]
fn a_run_that_goes_on_is_kept_when_it_has_ended_and_once() {
    let sandbox = Sandbox::new();
    let url = endpoint(scripted(true));
    let out = sandbox.dir().join("q.jsonl");
    let flags = ["--out", out.to_str().unwrap()];
    assert_eq!(quality(&sandbox, &url, &flags).code, 0);
    let first = kept(&sandbox, &[]);
    let whole = std::fs::read_to_string(&out).unwrap();
    // Nothing is left to do.
    let again = quality(&sandbox, &url, &flags);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(kept(&sandbox, &[]), first);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), whole);
    // The file itself is the same run, wherever it is kept.
    let elsewhere = Sandbox::new();
    let imported = elsewhere.run(&["bench", "results", "import", out.to_str().unwrap()]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!(imported.stdout.trim(), id(&first[0]));
    let there = kept(&elsewhere, &[]);
    assert_eq!(there[0]["source"], "q.jsonl");
    assert_eq!(there[0]["server"], url);
    assert_eq!(there[0]["models"][0]["name"], "model");
}

#[test]
fn a_line_that_was_cut_is_measured_again_and_a_foreign_file_is_left_alone() {
    let sandbox = Sandbox::new();
    let url = endpoint(scripted(true));
    let out = sandbox.dir().join("q.jsonl");
    let flags = ["--out", out.to_str().unwrap()];
    assert_eq!(quality(&sandbox, &url, &flags).code, 0);
    let whole = std::fs::read_to_string(&out).unwrap();
    std::fs::write(&out, &whole[..whole.len() - 9]).unwrap();
    assert_eq!(quality(&sandbox, &url, &flags).code, 0);
    let again = std::fs::read_to_string(&out).unwrap();
    assert_eq!(attempts_in(&again), 14);
    let mut lines = again.lines();
    assert!(lines.all(|line| serde_json::from_str::<Value>(line).is_ok()));
    let letter = file(&sandbox, "letter.txt", "Dear reader,\nno end");
    let ran = quality(&sandbox, &url, &["--out", &letter]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let text = std::fs::read_to_string(&letter).unwrap();
    assert_eq!(text, "Dear reader,\nno end");
}

#[test]
fn two_at_once_are_both_kept() {
    let sandbox = Sandbox::new();
    let url = endpoint(scripted(true));
    let command = ["bench", "quality", "--repeats", "1", "--url", &url];
    let children = ["model", "other", "model", "other"].map(|model| {
        let mut command = sandbox.command_of(&[&command[..], &[model]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(kept(&sandbox, &[]).len(), 4);
}

#[test]
fn kept_runs_stand_where_files_stand() {
    let sandbox = Sandbox::new();
    for is_right in [false, true] {
        let url = endpoint(scripted(is_right));
        assert_eq!(quality(&sandbox, &url, &[]).code, 0);
    }
    let runs = kept(&sandbox, &[]);
    let told = |words: [&str; 2]| {
        let ran = sandbox.run(&["bench", "compare", words[0], words[1], "--json"]);
        results(&ran)["compared"][0].clone()
    };
    let by_place = told(["@quality~1", "@quality"]);
    assert_eq!(by_place["first"]["all"]["right"], 0);
    assert_eq!(by_place["second"]["all"]["right"], 14);
    assert_eq!(by_place["differs"], true);
    assert_eq!(told([id(&runs[1]), id(&runs[0])]), by_place);
    let begins = format!("@{}", &id(&runs[0])[..id(&runs[0]).len() - 1]);
    assert_eq!(told(["@quality~1", &begins]), by_place);

    let report = sandbox.run(&["bench", "report", "@last"]);
    let title = format!("## Quality ({})", id(&runs[0]));
    assert!(report.stdout.contains(&title), "{}", report.stdout);
    let derived = results(&sandbox.run(&["route", "derive", "@quality", "--json"]));
    let routes = derived["routes"].as_array().unwrap();
    assert!(!routes.is_empty(), "{derived}");

    for word in [
        "@load",
        "@quality~7",
        "@quality~x",
        "quality-",
        "@",
        "@quality-",
    ] {
        let ran = sandbox.run(&["bench", "report", word]);
        assert_ne!(ran.code, 0, "{word}");
    }
    let ran = sandbox.run(&["bench", "report", "@nothing"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("`nothing`"), "{}", ran.stderr);

    let gone = sandbox.run(&["bench", "results", "rm", "@quality"]);
    assert_eq!(gone.code, 0, "{}", gone.stderr);
    let left = kept(&sandbox, &[]);
    assert_eq!(left, runs[1..]);
}

#[test]
fn what_is_exported_is_the_same_run_elsewhere() {
    let sandbox = Sandbox::new();
    let url = endpoint(scripted(true));
    assert_eq!(quality(&sandbox, &url, &[]).code, 0);
    assert_eq!(quality(&sandbox, &url, &["--tokens", "77"]).code, 0);
    let out = sandbox.dir().join("all.jsonl");
    let out = out.to_str().unwrap();
    let exported = sandbox.run(&["bench", "results", "export", "--out", out]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    let elsewhere = Sandbox::new();
    let imported = elsewhere.run(&["bench", "results", "import", out]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!(kept(&elsewhere, &[]), kept(&sandbox, &[]));
    let again = elsewhere.run(&["bench", "results", "import", out, "--json"]);
    let again = results(&again);
    assert_eq!(again["imported"][1]["new"], false);
    let show = ["bench", "results", "show", "@last", "--json"];
    assert_eq!(results(&elsewhere.run(&show)), results(&sandbox.run(&show)));

    let csv = sandbox.run(&["bench", "results", "export", "@last", "--format", "csv"]);
    assert_eq!(csv.code, 0, "{}", csv.stderr);
    let mut rows = csv::Reader::from_reader(csv.stdout.as_bytes());
    let head: Vec<String> = rows.headers().unwrap().iter().map(str::to_owned).collect();
    assert!(head.contains(&"question".to_owned()), "{head:?}");
    assert_eq!(rows.records().filter(Result::is_ok).count(), 14);
}

const LLAMA_BENCH: &str = include_str!("fixtures/llama-bench.json");

#[test]
fn runs_of_llama_bench_are_read_in_both_forms() {
    let sandbox = Sandbox::new();
    let entries: Vec<Value> = serde_json::from_str(LLAMA_BENCH).unwrap();
    let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    let pretty = file(&sandbox, "lb.json", LLAMA_BENCH);
    let lines = file(&sandbox, "lb.jsonl", &lines);
    for (path, is_new) in [(&pretty, true), (&lines, false)] {
        let ran = sandbox.run(&["bench", "results", "import", path, "--json"]);
        assert_eq!(results(&ran)["imported"][0]["new"], is_new, "{path}");
    }
    let run = &kept(&sandbox, &["--kind", "llama-bench"])[0];
    assert_eq!(run["n_records"], 2);
    assert_eq!(run["began_s"], 1_795_421_806);
    assert_eq!(run["models"][0]["name"], "SmolLM2-135M-Instruct.Q4_1");
    assert_eq!(run["models"][0]["build"], "llama.cpp 11434 (1a2b3c4)");
    let report = sandbox.run(&["bench", "report", "@llama-bench"]);
    for part in ["pp16", "tg4", "llama 256M Q4_1", "119.34 ± 2.51"] {
        assert!(report.stdout.contains(part), "{part}: {}", report.stdout);
    }

    // Five repetitions of a test, twice as fast by another build.
    let with = |build: &str, factor: f64| {
        let mut entry = entries[0].clone();
        entry["build_commit"] = build.into();
        let samples = [100.0, 101.0, 102.0, 103.0, 104.0].map(|speed| speed * factor);
        entry["samples_ts"] = json!(samples);
        file(&sandbox, build, &format!("{entry}\n"))
    };
    let (slow, fast) = (with("slow", 1.0), with("fast", 2.0));
    let ran = sandbox.run(&["bench", "results", "import", &slow, &fast]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ids: Vec<&str> = ran.stdout.lines().collect();
    let ran = sandbox.run(&["bench", "compare", ids[0], ids[1], "--json"]);
    let row = &results(&ran)["compared"][0];
    assert_eq!(
        (&row["what"], &row["differs"]),
        (&json!("pp16"), &json!(true))
    );
}

/// What is wrong with a file is told with its line, and nothing of the command is kept.
#[test]
fn files_that_are_none_leave_nothing_behind() {
    let sandbox = Sandbox::new();
    let sound = file(&sandbox, "sound.json", LLAMA_BENCH);
    let heading = json!({ "version": 1, "server": "http://a", "tokens_max": 1, "seconds_max": 1,
        "temperature": null, "thinking": null });
    let run = json!({ "run": { "id": "x", "kind": "quality", "began_s": 0, "ended_s": 0,
        "command": [], "source": "", "server": null, "program": null, "machine": { "cpu": null,
        "cores": null, "kernel": null, "memory_bytes": null, "board": null }, "load_before": null,
        "load_after": null, "models": [], "heading": heading, "n_records": 1, "bytes": 1 } });
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let load = json!({ "version": 1, "server": "http://a", "model": "m", "requests": 1,
        "clients": 1, "requests_per_second": null, "is_even": false, "prompt_words": 1,
        "shared_words": 0, "tokens_max": 1, "seconds_max": 1, "seed": 0 });
    for (name, text, line) in [
        ("empty", String::new(), 1),
        ("letter", "Dear reader,\n".to_owned(), 1),
        ("object", "{}\n".to_owned(), 1),
        ("number", "7\n".to_owned(), 1),
        ("list", "[]".to_owned(), 1),
        ("open", "[\n{\"avg_ts\": 1},\n".to_owned(), 3),
        ("cut", LLAMA_BENCH[..LLAMA_BENCH.len() / 2].to_owned(), 47),
        ("behind", format!("{LLAMA_BENCH}\n\n7"), 97),
        ("deep", deep, 1),
        (
            "negative",
            LLAMA_BENCH.replace("\"avg_ts\": 70.005760", "\"avg_ts\": -1"),
            48,
        ),
        ("heading", format!("{heading}\n"), 1),
        ("record", format!("{heading}\n\n{{\"question\":1}}\n"), 3),
        (
            "newer",
            json!({ "version": 9, "server": "a" }).to_string(),
            1,
        ),
        ("run", format!("{run}\n"), 1),
        (
            "of",
            format!("{run}\n{{\"of\":\"x\",\"record\":{{}}}}\n"),
            2,
        ),
        (
            "other",
            format!("{run}\n{{\"of\":\"y\",\"record\":{{}}}}\n"),
            2,
        ),
        ("load", format!("{load}\n"), 1),
    ] {
        let path = file(&sandbox, name, &text);
        let ran = sandbox.run(&["bench", "results", "import", &sound, &path]);
        assert_eq!(ran.code, 2, "{name}: {}", ran.stderr);
        let place = format!("{name}`, line {line}: ");
        assert!(ran.stderr.contains(&place), "{name}: {}", ran.stderr);
        assert!(ran.stderr.len() < 4096, "{name}");
    }
    std::fs::write(sandbox.dir().join("bytes"), b"{}\n\xff\xfe").unwrap();
    let ran = sandbox.run(&["bench", "results", "import", &sound, "bytes"]);
    assert!(ran.stderr.contains("`bytes`, line 2: "), "{}", ran.stderr);
    let ran = sandbox.run(&["bench", "results", "import", "/nowhere"]);
    assert_ne!(ran.code, 0);
    assert!(kept(&sandbox, &[]).is_empty());
}

#[test]
fn a_load_that_has_ended_is_not_made_again() {
    let sandbox = Sandbox::new();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&asked);
    let url = endpoint(std::sync::Arc::new(move |request: &Value| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answer = Answer {
            text: "words".to_owned(),
            calls: Vec::new(),
        };
        (200, completion(request, &answer))
    }));
    let out = sandbox.dir().join("load.jsonl");
    let command = [
        "bench",
        "load",
        "model",
        "--url",
        &url,
        "--requests",
        "6",
        "--clients",
        "2",
        "--out",
        out.to_str().unwrap(),
        "--json",
    ];
    let first = results(&sandbox.run(&command));
    assert_eq!((&first["n"], &first["n_failed"]), (&json!(6), &json!(0)));
    let n = || asked.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(n(), 6);
    let second = results(&sandbox.run(&command));
    assert_eq!((second, n()), (first, 6));
    assert_eq!(kept(&sandbox, &["--kind", "load"]).len(), 1);
    let report = sandbox.run(&["bench", "report", "@load"]);
    assert!(report.stdout.contains("| TTFT |"), "{}", report.stdout);
    // One that was stopped begins anew: its requests were not under the same load.
    let text = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&out, lines[..lines.len() - 2].join("\n") + "\n").unwrap();
    results(&sandbox.run(&command));
    assert_eq!(n(), 12);
    let text = std::fs::read_to_string(&out).unwrap();
    assert_eq!(text.lines().count(), lines.len());
}

#[test]
fn a_file_that_cannot_be_written_is_told_of_before_anything_is_measured() {
    let mut sandbox = Sandbox::new();
    sandbox.write("file", "");
    let folder = Path::new(sandbox.dir()).join("file");
    sandbox.set("SEXTANT_DATA_DIR", folder.to_str().unwrap());
    let url = endpoint(scripted(true));
    let ran = quality(&sandbox, &url, &[]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("--no-keep"), "{}", ran.stderr);
    assert_eq!(quality(&sandbox, &url, &["--no-keep"]).code, 0);
}
