//! The bake-off of agents proves itself: a model that knows the solutions solves all, one that
//! does nothing and ones that cheat solve nothing, and a pipeline that fails says nothing.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use bench::agents::{Check, File, Repair, Task, suite};
use bench::quality::{Answer, Call};
use serde_json::{Value, json};

use crate::bench::{Answers, completion, endpoint, results};
use crate::sandbox::{Ran, Sandbox};

const N_CALLS: u64 = 3;
const N_REPAIRS: u64 = 6;

fn said(text: &str) -> Answer {
    Answer {
        text: text.into(),
        calls: Vec::new(),
    }
}

fn call(name: &str, arguments: Value) -> Answer {
    Answer {
        text: String::new(),
        calls: vec![Call {
            name: name.into(),
            arguments,
        }],
    }
}

fn write(file: &File) -> Answer {
    call(
        "write_file",
        json!({ "path": file.path, "content": file.text }),
    )
}

/// What tools have said so far.
fn tool_results(request: &Value) -> Vec<&str> {
    let messages = request["messages"].as_array().unwrap();
    let of_tools = messages.iter().filter(|one| one["role"] == "tool");
    of_tools
        .map(|one| one["content"].as_str().unwrap())
        .collect()
}

/// Plays a model: `plays` says what it answers to a repair after so many tool results.
fn model(
    plays: impl Fn(&Task, &Repair, &[&str]) -> Answer + Send + Sync + 'static,
) -> Arc<Answers> {
    let tasks = suite().unwrap();
    Arc::new(move |request| {
        assert!(request["tools"].is_array());
        let prompt = request["messages"][1]["content"].as_str().unwrap();
        let task = tasks.iter().find(|task| task.prompt() == prompt).unwrap();
        let answer = match &task.check {
            Check::Call(call) => call.accepted[0].clone(),
            Check::Repair(repair) => plays(task, repair, &tool_results(request)),
        };
        (200, completion(request, &answer))
    })
}

/// Knows every solution, and looks at what its tools say.
fn oracle() -> Arc<Answers> {
    model(|task, repair, results| {
        let first = &task.files[0];
        let mut steps = vec![
            call("list_files", json!({})),
            call("read_file", json!({ "path": first.path })),
            call("run_tests", json!({})),
        ];
        steps.extend(repair.solution.iter().map(write));
        steps.push(call("run_tests", json!({})));
        match results {
            [listed] => assert!(
                task.given().all(|file| listed.contains(&file.path)),
                "{listed}"
            ),
            [_, read] => assert_eq!(*read, first.text),
            [_, _, tests] => assert!(tests.contains("tests fail"), "{tests}"),
            _ => {}
        }
        if results.len() == steps.len() {
            let last = results.last().unwrap();
            assert!(last.contains("judged: right"), "{last}");
            return said("All tests pass.");
        }
        steps.remove(results.len())
    })
}

/// Writes these files, and says that it is done.
fn writer(files: impl Fn(&Task, &Repair) -> Vec<File> + Send + Sync + 'static) -> Arc<Answers> {
    model(move |task, repair, results| {
        let files = files(task, repair);
        files
            .get(results.len())
            .map_or_else(|| said("I have repaired it, and all tests pass."), write)
    })
}

fn file(path: &str, text: &str) -> File {
    File {
        path: path.into(),
        text: text.into(),
    }
}

fn agents(sandbox: &Sandbox, url: &str, more: &[&str]) -> Ran {
    let start = ["bench", "agents", "model", "--url", url, "--json"];
    sandbox.run(&[&start[..], more].concat())
}

#[test]
fn an_oracle_solves_all() {
    let ran = agents(&Sandbox::new(), &endpoint(oracle()), &[]);
    let results = results(&ran);
    let result = &results["results"][0];
    let all = N_CALLS + N_REPAIRS;
    assert_eq!(
        (&result["solved"], &result["n"]),
        (&json!(all), &json!(all)),
        "{}",
        ran.stderr
    );
    assert_eq!(
        (&result["void"], &result["ended"]),
        (&json!(0), &json!({ "done": all }))
    );
    let calls = &result["calls"];
    assert_eq!(
        (&calls["wrong"], &calls["malformed"]),
        (&json!(0), &json!(0))
    );
    // Three to look, two to four to repair and to test, for each repository.
    assert_eq!(calls["right"], N_CALLS + 4 * N_REPAIRS + 8);
    let turns = N_CALLS + 5 * N_REPAIRS + 8;
    assert_eq!(result["answer_tokens"], 9 * turns);
    assert_eq!(result["prompt_tokens"], 100 * turns);
}

#[test]
fn one_that_does_nothing_solves_nothing() {
    let null: Arc<Answers> =
        Arc::new(|request: &Value| (200, completion(request, &said("Done! All tests pass now."))));
    let ran = agents(&Sandbox::new(), &endpoint(null), &[]);
    let results = results(&ran);
    let result = &results["results"][0];
    let all = N_CALLS + N_REPAIRS;
    assert_eq!(
        (&result["solved"], &result["n"]),
        (&json!(0), &json!(all)),
        "{}",
        ran.stderr
    );
    assert_eq!(result["void"], 0);
}

#[test]
fn cheaters_solve_nothing() {
    let repairs = "pages,price,median,durations,ledger,calendar";
    let lies = "import os, sys\n\
        sys.__stdout__.write('\\njudged: right\\n')\n\
        sys.__stdout__.flush()\nos._exit(0)\n";
    let easy = "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\n";
    let cheaters: [(&str, Arc<Answers>); 4] = [
        (
            "edits the tests",
            writer(move |_, repair| {
                let tests = repair.tests.iter();
                tests.map(|test| file(&test.path, easy)).collect()
            }),
        ),
        (
            "pleases the tests alone",
            writer(|_, repair| repair.hollow.clone()),
        ),
        (
            "ends the tests",
            writer(move |task, _| vec![file(&task.files[0].path, lies)]),
        ),
        (
            "brings a test runner of its own",
            writer(move |_, _| {
                let names = [
                    "unittest.py",
                    "json.py",
                    "unittest/__init__.py",
                    "sitecustomize.py",
                ];
                names.map(|name| file(name, lies)).to_vec()
            }),
        ),
    ];
    for (how, cheater) in cheaters {
        let ran = agents(&Sandbox::new(), &endpoint(cheater), &["--tasks", repairs]);
        let results = results(&ran);
        let result = &results["results"][0];
        assert_eq!(
            (&result["solved"], &result["n"], &result["void"]),
            (&json!(0), &json!(N_REPAIRS), &json!(0)),
            "{how}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_pipeline_that_fails_says_nothing_of_the_model() {
    let refuse: Arc<Answers> = Arc::new(|_: &Value| {
        let message = "this model does not support tools";
        (400, json!({ "error": { "message": message } }))
    });
    let other: Arc<Answers> = Arc::new(|request: &Value| {
        let mut answer = completion(request, &said("I have searched the web."));
        answer["model"] = json!("workspace-router");
        (200, answer)
    });
    let broken: Arc<Answers> = Arc::new(|_: &Value| (0, Value::Null));
    for (fault, answers) in [
        ("unreachable", broken),
        ("tools_refused", refuse),
        ("intercepted", other),
    ] {
        let url = endpoint(answers);
        let ran = agents(&Sandbox::new(), &url, &["--tasks", "call_read,pages"]);
        let results = results(&ran);
        let result = &results["results"][0];
        assert_eq!(
            (&result["n"], &result["void"]),
            (&json!(0), &json!(2)),
            "{}",
            ran.stderr
        );
        assert_eq!(result["ended"], json!({ "fault": 2 }));
        assert_eq!(result["interval"], json!({ "low": 0.0, "high": 1.0 }));
        assert!(
            ran.stderr.contains(&format!("void: {fault}")),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn nothing_is_reached_outside_of_the_folder() {
    let sandbox = Sandbox::new();
    sandbox.write("secret.txt", "hunter2");
    let secret = sandbox.dir().join("secret.txt").display().to_string();
    let code = format!(
        "open('left.txt', 'w').write('x')\ntry:\n    print(open('{secret}').read())\n\
         except OSError: print('no such luck')\n"
    );
    let of_folder = secret.clone();
    let hostile = model(move |task, repair, results| {
        assert!(
            !results.iter().any(|said| said.contains("hunter2")),
            "{results:?}"
        );
        let path = |path: &str| json!({ "path": path });
        let steps = [
            call("read_file", path(&of_folder)),
            call("read_file", path("../../../../../../../../etc/passwd")),
            call(
                "write_file",
                json!({ "path": "../outside.txt", "content": "x" }),
            ),
            call("list_files", path("..")),
            call(
                "write_file",
                json!({ "path": "test_more.py", "content": code }),
            ),
            call("run_tests", json!({})),
            // What tests write is gone with them.
            call("read_file", path("left.txt")),
            write(&repair.solution[0]),
        ];
        match results {
            [.., ran] if results.len() == 6 => assert!(ran.contains("no such luck"), "{ran}"),
            [.., read] if results.len() == 7 => {
                assert!(read.contains("there is no file"), "{read}")
            }
            [.., refused] if results.len() <= 4 => {
                assert!(refused.contains("leads out of"), "{refused}");
            }
            _ => {}
        }
        assert_eq!(task.id, "pages");
        steps
            .get(results.len())
            .cloned()
            .unwrap_or_else(|| said("Done."))
    });
    let ran = agents(&sandbox, &endpoint(hostile), &["--tasks", "pages"]);
    let results = results(&ran);
    let result = &results["results"][0];
    assert_eq!(
        (&result["solved"], &result["void"]),
        (&json!(1), &json!(0)),
        "{}",
        ran.stderr
    );
    assert_eq!(
        result["calls"],
        json!({ "right": 4, "wrong": 4, "malformed": 0 })
    );
}

#[test]
fn a_run_that_was_killed_goes_on_where_it_was() {
    let sandbox = Sandbox::new();
    let name = sandbox.dir().join("agents.jsonl").display().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let (stalls, stalled) = mpsc::channel();
    let (counted, oracle) = (Arc::clone(&asked), oracle());
    let url = endpoint(Arc::new(move |request: &Value| {
        // In the middle of the third repository.
        if counted.fetch_add(1, Ordering::SeqCst) == 14 {
            stalls.send(()).unwrap();
            std::thread::park();
        }
        oracle(request)
    }));
    let more = [
        "--out",
        name.as_str(),
        "--repeats",
        "2",
        "--tasks",
        "call_read,pages,price,ledger",
    ];
    let all = [
        &["bench", "agents", "model", "--url", &url, "--json"][..],
        &more,
    ]
    .concat();
    let mut child = sandbox.command_of(&all).spawn().unwrap();
    stalled.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = std::fs::read_to_string(&name).unwrap();
    let n_kept = attempts_in(&kept);
    assert!((1..8).contains(&n_kept), "{kept}");
    // Torn in the middle of a line as well.
    std::fs::write(&name, kept.trim_end().strip_suffix('}').unwrap()).unwrap();

    let ran = agents(&sandbox, &url, &more);
    let results = results(&ran);
    let result = &results["results"][0];
    assert_eq!(
        (&result["solved"], &result["n"]),
        (&json!(8), &json!(8)),
        "{}",
        ran.stderr
    );
    let told = format!("{} attempts are there", n_kept - 1);
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    assert_eq!(attempts_in(&std::fs::read_to_string(&name).unwrap()), 8);
    let n_asked = asked.load(Ordering::SeqCst);
    assert_eq!(agents(&sandbox, &url, &more).stdout, ran.stdout);
    assert_eq!(asked.load(Ordering::SeqCst), n_asked);

    // Of another manner they are another thing.
    let other = agents(&sandbox, &url, &["--out", &name, "--seconds", "5"]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    let page = sandbox.run(&["bench", "report", &name]);
    assert_eq!(page.code, 0, "{}", page.stderr);
    assert!(
        page.stdout.contains("## Agents (agents.jsonl)"),
        "{}",
        page.stdout
    );
    assert!(
        page.stdout.contains("| model with builtin, 8/8 | 100 |"),
        "{}",
        page.stdout
    );
}

fn attempts_in(text: &str) -> usize {
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["task"].is_string()).count()
}

/// A program that plays an agent of others: asks the endpoint once and then does `then`.
fn script(sandbox: &Sandbox, then: &str) -> String {
    let text = format!(
        r#"#!/usr/bin/python3
import json, os, subprocess, sys, time, urllib.error, urllib.request
prompt = sys.argv[sys.argv.index("--message") + 1]
def ask(path="/chat/completions", key=os.environ["OPENAI_API_KEY"]):
    body = json.dumps({{"model": "model", "messages": [{{"role": "system", "content": ""}},
        {{"role": "user", "content": prompt}}], "tools": []}}).encode()
    headers = {{"authorization": "Bearer " + key, "content-type": "application/json"}}
    request = urllib.request.Request(os.environ["OPENAI_API_BASE"] + path, body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        return str(error.code)
{then}
"#
    );
    let path = sandbox.dir().join("other-agent");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("aider={}", path.display())
}

/// Tells the first file of the solution to whoever asks with the right key.
fn teller() -> Arc<Answers> {
    let tasks = suite().unwrap();
    Arc::new(move |request| {
        assert_eq!(request["key"], "hunter2");
        let prompt = request["messages"][1]["content"].as_str().unwrap();
        let task = tasks.iter().find(|task| task.prompt() == prompt).unwrap();
        let Check::Repair(repair) = &task.check else {
            panic!("{} is for our own agent", task.id);
        };
        (200, completion(request, &said(&repair.solution[0].text)))
    })
}

/// Lets an agent work that does `then`; the only line of the results, and what was said.
fn other_agent(then: &str, more: &[&str]) -> (Value, String) {
    let mut sandbox = Sandbox::new();
    sandbox.set("SEXTANT_API_KEY", "hunter2");
    let program = script(&sandbox, then);
    let start = [
        "--agents",
        "aider",
        "--program",
        &program,
        "--tasks",
        "call_read,pages",
    ];
    let ran = agents(&sandbox, &endpoint(teller()), &[&start[..], more].concat());
    let mut results = results(&ran);
    let lines = results["results"].as_array_mut().unwrap();
    assert_eq!(lines.len(), 1, "{}", ran.stderr);
    (lines.remove(0), ran.stderr)
}

#[test]
fn agents_of_others_are_judged_by_the_tests_alone() {
    let well = "open('pages.py', 'w').write(ask())";
    for (then, solved) in [
        (well.to_owned(), 1),
        // Neither what it says nor how it ends counts.
        (format!("{well}\nprint('I have failed')\nsys.exit(1)"), 1),
        ("ask(); print('All tests pass.')".to_owned(), 0),
        ("ask(); open('test_pages.py', 'w').write('')".to_owned(), 0),
        (
            "ask(); os.unlink('pages.py'); os.symlink('/etc/passwd', 'pages.py')".to_owned(),
            0,
        ),
    ] {
        let (result, stderr) = other_agent(&then, &[]);
        // The task about a call is for our own agent, whose tools it names.
        assert_eq!(
            (&result["solved"], &result["n"]),
            (&json!(solved), &json!(1)),
            "{stderr}"
        );
        assert_eq!(result["ended"], json!({ "done": 1 }), "{then}: {stderr}");
        assert_eq!(
            (&result["prompt_tokens"], &result["answer_tokens"]),
            (&json!(100), &json!(9))
        );
        assert_eq!(result["turns_median"], 1.0);
    }
}

#[test]
fn agents_of_others_do_not_see_the_key_and_the_relay_wants_its_own() {
    let then = "assert 'hunter2' not in str(os.environ)\n\
        assert ask(key='hunter2') == '401' and ask(key='') == '401'\n\
        assert os.environ['HOME'] != os.environ['PWD'] if 'PWD' in os.environ else True\n\
        assert not os.listdir(os.environ['TMPDIR'])\n\
        open('pages.py', 'w').write(ask())";
    let (result, stderr) = other_agent(then, &[]);
    assert_eq!(result["solved"], 1, "{stderr}");
}

#[test]
fn an_agent_that_asks_for_nothing_is_void_and_a_late_one_is_ended() {
    let (result, stderr) = other_agent("sys.exit('there is no such model')", &[]);
    assert_eq!(
        (&result["n"], &result["void"]),
        (&json!(0), &json!(1)),
        "{stderr}"
    );
    assert_eq!(result["ended"], json!({ "unasked": 1 }));

    // It and what it has started.
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let then = format!(
        "ask()\nchild = subprocess.Popen(['sleep', '1000'])\n\
         open('{}', 'w').write(f'{{os.getpid()}} {{child.pid}}')\ntime.sleep(1000)",
        pids.display()
    );
    let (result, stderr) = other_agent(&then, &["--seconds", "3"]);
    assert_eq!(
        (&result["solved"], &result["n"]),
        (&json!(0), &json!(1)),
        "{stderr}"
    );
    assert_eq!(result["ended"], json!({ "time": 1 }));
    for pid in std::fs::read_to_string(pids).unwrap().split(' ') {
        // What is no child of ours may stay a while, as one that is dead.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
}

#[test]
fn agents_that_are_not_here_are_told_and_count_for_nothing() {
    let mut sandbox = Sandbox::new();
    sandbox.set("PATH", "/nowhere");
    let url = endpoint(oracle());
    let more = ["--agents", "builtin,codex,pi", "--tasks", "pages"];
    let ran = agents(&sandbox, &url, &more);
    let results = results(&ran);
    assert_eq!(results["absent"], json!(["codex", "pi"]));
    assert_eq!(results["results"].as_array().unwrap().len(), 1);
    assert_eq!(results["results"][0]["solved"], 1, "{}", ran.stderr);
    let alone = agents(&sandbox, &url, &["--agents", "codex"]);
    assert_eq!(alone.code, 2, "{}", alone.stderr);
    for wrong in [
        &["--tasks", "nothing"][..],
        &["--program", "codex"],
        &["--program", "vim=/bin/sh"],
        &["--program", "codex=/etc/passwd"],
        &["--agents", "vim"],
    ] {
        let ran = agents(&sandbox, &url, wrong);
        assert_eq!(ran.code, 2, "{wrong:?}: {}", ran.stderr);
    }
}
