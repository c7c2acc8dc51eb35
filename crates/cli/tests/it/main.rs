//! The program as a user meets it, for everything that needs no model in memory.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod advise;
mod agents;
mod all;
mod bench;
mod confine;
mod doctor;
mod hosts;
mod init;
mod kv_plans;
mod logs;
mod plan;
mod pty;
mod results;
mod route;
mod sandbox;
mod sinks;
mod speed;
mod top;
mod tune;

use std::path::Path;

use sandbox::{JSON, Ran, Sandbox, answers};

#[test]
fn help() {
    let ran = Sandbox::new().run(&["--help"]);
    assert_eq!(ran.code, 0);
    insta::assert_snapshot!(ran.stdout);
}

#[test]
fn help_of_serve_lists_every_setting() {
    let ran = Sandbox::new().run(&["serve", "--help"]);
    assert_eq!(ran.code, 0);
    for setting in config::SETTINGS {
        assert!(ran.stdout.contains(&setting.env()), "{}", setting.name);
    }
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let sandbox = Sandbox::new();
    for args in [&["--no-such-flag"][..], &["frobnicate"], &["show"], &[]] {
        let ran = sandbox.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}");
    }
}

#[test]
fn config_shows_values_and_where_they_come_from() {
    let mut sandbox = Sandbox::new();
    sandbox.write("settings.toml", "slots = 2\nthreads = 3\n");
    sandbox.set("SEXTANT_THREADS", "4");
    sandbox.set("SEXTANT_API_KEY", "hunter2");
    // Empty is as good as unset.
    sandbox.set("SEXTANT_MODELS_DIR", "");
    let ran = sandbox.run(&["config", "--config", "settings.toml", "--context=4096"]);
    assert_eq!(ran.code, 0);
    insta::assert_snapshot!(ran.stdout);
    let ran = sandbox.run(&["config", "--config", "settings.toml", "--json"]);
    let values: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let threads = values
        .as_array()
        .unwrap()
        .iter()
        .find(|value| value["name"] == "threads");
    let want = serde_json::json!({"name": "threads", "value": "4", "source": "SEXTANT_THREADS"});
    assert_eq!(threads, Some(&want));
}

#[test]
fn config_errors_name_source_value_and_range() {
    let mut sandbox = Sandbox::new();
    sandbox.write("settings.toml", "contxt = 1\n");
    sandbox.set("SEXTANT_SLOTS", "many");
    let ran = sandbox.run(&["config", "--config", "settings.toml"]);
    assert_eq!(ran.code, 2);
    insta::assert_snapshot!(ran.stderr, @r"
    error: settings.toml:1: unknown setting `contxt`; did you mean `context`?
    SEXTANT_SLOTS: `slots` is `many`; it must be a whole number from 1 to 64
    ");
    let ran = sandbox.run(&["config", "--config", "absent.toml"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("`absent.toml` cannot be read"),
        "{}",
        ran.stderr
    );
}

#[test]
fn completions_are_scripts() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = sandbox.run(&["completions", shell]);
        assert_eq!(ran.code, 0, "{shell}");
        assert!(ran.stdout.contains("sextant"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command_of_the_help() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["man", "share/man1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    let help = sandbox.run(&["--help"]).stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let names = list.lines().take_while(|line| !line.is_empty());
    let names: Vec<_> = names
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"top") && names.contains(&"man"), "{help}");
    for name in names {
        let page = sandbox.dir().join(format!("share/man1/sextant-{name}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        // Hyphens that are not to be broken have a backslash there.
        let page = page.replace("\\-", "-");
        assert!(
            page.contains(&format!("sextant-{name} - ")),
            "{name}: {page}"
        );
    }
    let ran = sandbox.run(&["man", "/proc/nowhere"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot be written"), "{}", ran.stderr);
}

#[test]
fn a_model_is_listed_shown_and_removed() {
    let sandbox = Sandbox::new();
    let path = sandbox.add_model("tiny");
    let ran = sandbox.run(&["ls"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("tiny"), "{}", ran.stdout);
    let ran = sandbox.run(&["ls", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(list[0]["id"], "tiny");
    assert_eq!(list[0]["fault"], serde_json::Value::Null);

    let ran = sandbox.run(&["show", "tiny"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let folder = sandbox.dir().display().to_string();
    insta::assert_snapshot!(ran.stdout.replace(&folder, "DIR"));
    let by_path = sandbox.run(&["show", "--json", path.to_str().unwrap()]);
    let facts: serde_json::Value = serde_json::from_str(&by_path.stdout).unwrap();
    assert_eq!(facts["chat_template"], "{{ messages }}");

    let ran = sandbox.run(&["rm", "tiny"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(!path.exists());
    let ran = sandbox.run(&["rm", "tiny"]);
    assert_eq!(ran.code, 3);
}

#[test]
fn missing_and_broken_models_have_their_own_exit_code() {
    let sandbox = Sandbox::new();
    sandbox.write("page.gguf", "<!DOCTYPE html><html></html>");
    let code = |args: &[&str]| sandbox.run(args).code;
    assert_eq!(code(&["show", "absent"]), 3);
    assert_eq!(code(&["show", "./absent.gguf"]), 3);
    assert_eq!(code(&["show", "./page.gguf"]), 3);
    assert_eq!(code(&["run", "absent", "-p", "Hi"]), 3);
    assert_eq!(code(&["serve", "absent"]), 3);
    let ran = sandbox.run(&["show", "hf:owner/repo"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("`sextant pull hf:owner/repo`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_machine_without_models_is_served_so_that_its_page_can_fetch_one() {
    let served = Sandbox::new().serve(&[]);
    assert_eq!(served.ask("GET", "/health", "")["status"], "ok");
    let models = served.ask("GET", "/v1/models", "");
    assert_eq!(models["data"].as_array().map(Vec::len), Some(0));
}

#[test]
fn no_server_has_its_own_exit_code() {
    let sandbox = Sandbox::new();
    // Port 1 needs a privilege and a program from the seventies to be open.
    for args in [
        &["ps", "--url", "http://127.0.0.1:1"][..],
        &["unload", "m", "--listen=127.0.0.1:1"],
        &["run", "m", "-p", "Hi", "--url", "127.0.0.1:1"],
    ] {
        let ran = sandbox.run(args);
        assert_eq!(ran.code, 4, "{args:?} {}", ran.stderr);
        assert!(ran.stderr.contains("no server at http://127.0.0.1:1"));
    }
}

#[test]
fn pull_wants_to_know_where_from() {
    let ran = Sandbox::new().run(&["pull", "smollm2"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("hf:OWNER/REPO"), "{}", ran.stderr);
}

#[test]
fn a_download_that_fails_has_its_own_exit_code() {
    let ran = Sandbox::new().run(&["pull", "http://127.0.0.1:1/m.bin"]);
    assert_eq!(ran.code, 2, "not a GGUF address: {}", ran.stderr);
    let mut sandbox = Sandbox::new();
    // An endpoint that is refused before any connection is tried.
    sandbox.set("HF_ENDPOINT", "ftp://nowhere");
    let ran = sandbox.run(&["pull", "hf:owner/repo"]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
}

#[test]
fn ps_asks_the_server_and_load_names_the_file() {
    let mut sandbox = Sandbox::new();
    let path = sandbox.add_model("tiny");
    let list = r#"{"models":[{"name":"tiny","state":"failed","why":"No memory.","restarts":0}]}"#;
    let (url, asked) = answers(&[("200 OK", JSON, list)]);
    sandbox.set("SEXTANT_API_KEY", "hunter2");
    let ran = sandbox.run(&["ps", "--url", &url]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @r"
    MODEL  STATE   MEMORY  STAYS  CONTEXT  SLOTS  KV  RESTARTS  PID
    tiny   failed  -       -      -        -      -   0         -
    ");
    assert_eq!(ran.stderr, "tiny: No memory.\n");
    let asked = asked.join().unwrap().remove(0);
    assert!(asked.starts_with("GET /admin/models HTTP/1.1\r\n"));
    assert!(
        asked
            .to_lowercase()
            .contains("authorization: bearer hunter2")
    );

    // The server is asked first whether it knows the name itself.
    let known = ("200 OK", JSON, r#"{"models":[]}"#);
    let (url, asked) = answers(&[known, ("200 OK", JSON, "{}")]);
    let ran = sandbox.run(&["load", "tiny", "--url", &url, "--context=512"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let asked = asked.join().unwrap().remove(1);
    assert!(asked.starts_with("POST /admin/models/load HTTP/1.1\r\n"));
    let (_, body) = asked.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let want = serde_json::json!({"model": "tiny", "path": path, "context": 512});
    assert_eq!(body, want);
}

#[test]
fn run_streams_a_servers_answer_to_standard_output() {
    let stream = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
                  data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n\
                  data: {\"choices\":[{\"delta\":{\"content\":\"lo\"},\"finish_reason\":\"stop\"}]}\n\n\
                  data: [DONE]\n\n";
    let list = r#"{"data":[{"id":"tiny-M"},{"id":"other"}]}"#;
    let kind = "text/event-stream";
    let (url, asked) = answers(&[("200 OK", JSON, list), ("200 OK", kind, stream)]);
    let sandbox = Sandbox::new();
    let args = [
        "run",
        "m",
        "--url",
        &url,
        "-p",
        "Say:",
        "--set",
        "temperature=0.5",
    ];
    let ran = sandbox.run_with_input(&args, "hello\n");
    let Ran {
        code,
        stdout,
        stderr,
    } = &ran;
    assert_eq!(
        (*code, stdout.as_str(), stderr.as_str()),
        (0, "Hello\n", "")
    );
    let asked = asked.join().unwrap();
    let (_, body) = asked[1].split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    // A part of the name was enough.
    assert_eq!(body["model"], "tiny-M");
    assert_eq!(body["messages"][0]["content"], "Say:\n\nhello");
    assert_eq!(body["temperature"], 0.5);
}

#[test]
fn other_machines_are_let_in_only_with_a_key() {
    let sandbox = Sandbox::new();
    sandbox.add_model("tiny");
    let ran = sandbox.run(&["serve", "--listen=0.0.0.0:0"]);
    assert_eq!(ran.code, 2);
    let message = "no API key is asked for; make one with `sextant key add`";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}

#[test]
fn keys_are_shown_once_listed_and_revoked() {
    let sandbox = Sandbox::new();
    let nothing = sandbox.run(&["audit"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, ""));
    let added = sandbox.run(&["key", "add", "--name=phone", "--privacy=lan_only"]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    let key = added.stdout.trim_end();
    assert_eq!(key.len(), 46);
    let listed = sandbox.run(&["key", "list", "--json"]);
    let keys: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(keys[0]["name"], "phone");
    assert_eq!(keys[0]["state"], "in use");
    assert_eq!(keys[0]["privacy"], "lan_only");
    assert!(!listed.stdout.contains(key) && !added.stderr.contains(key));
    let taken = sandbox.run(&["key", "add", "--name=phone"]);
    assert_eq!(taken.code, 2);
    assert!(
        taken.stderr.contains("there is a key `phone` already"),
        "{}",
        taken.stderr
    );
    assert_eq!(sandbox.run(&["key", "revoke", "phone"]).code, 0);
    let gone = sandbox.run(&["key", "revoke", "phone"]);
    assert_eq!(gone.code, 2);
    assert!(
        gone.stderr.contains("no key `phone` in use"),
        "{}",
        gone.stderr
    );
    assert!(sandbox.run(&["key", "list"]).stdout.contains("revoked"));
}

#[test]
fn a_database_that_cannot_be_used_keeps_the_server_from_opening() {
    let sandbox = Sandbox::new();
    sandbox.add_model("tiny");
    sandbox.write(
        "sextant.db",
        "this is no database, and long enough to be looked at as one",
    );
    let data_dir = format!("--data-dir={}", sandbox.dir().display());
    let ran = sandbox.run(&["serve", &data_dir]);
    assert_eq!(ran.code, 1);
    let told = &ran.stderr;
    assert!(
        told.contains("sextant.db") && told.contains("move it away"),
        "{told}"
    );
}

#[test]
fn a_refused_key_is_told_in_flags_and_a_missing_key_file_once() {
    let sandbox = Sandbox::new();
    let (url, _) = answers(&[("401 Unauthorized", JSON, "{}")]);
    let ran = sandbox.run(&["ps", "--url", &url]);
    let message = "asks for an API key; give it with `--api-key-file FILE`";
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
    let ran = sandbox.run(&["ps", "--api-key-file=absent"]);
    assert_eq!(ran.code, 2);
    assert_eq!(
        ran.stderr.matches("No such file").count(),
        1,
        "{}",
        ran.stderr
    );
}

#[test]
fn host_and_port_replace_parts_of_the_address() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["ps", "--port=1"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr.contains("no server at http://127.0.0.1:1:"),
        "{}",
        ran.stderr
    );
    let ran = sandbox.run(&["serve", "--host=example.org"]);
    assert_eq!(ran.code, 2);
    let message = "`host` is `example.org`; it must be an IP address, or localhost";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}

#[test]
fn two_files_are_not_served_under_one_name() {
    let sandbox = Sandbox::new();
    let path = sandbox.add_model("tiny");
    std::fs::create_dir(sandbox.dir().join("b")).unwrap();
    std::fs::copy(&path, sandbox.dir().join("b/tiny.gguf")).unwrap();
    let ran = sandbox.run(&["serve", "tiny", "b/tiny.gguf", "--port=0"]);
    assert_eq!(ran.code, 2);
    let message = "would both be served as `tiny`";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}

#[test]
fn an_empty_prompt_is_a_usage_error() {
    let ran = Sandbox::new().run(&["run", "m"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("there is no prompt"), "{}", ran.stderr);
    let script = format!("printf '\\xff' | {} run m", Sandbox::program());
    assert_eq!(Sandbox::new().shell(&script), 2);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let sandbox = Sandbox::new();
    let script = format!(
        "{} completions bash | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}",
        Sandbox::program()
    );
    assert_eq!(sandbox.shell(&script), 0);
    assert!(Path::new(Sandbox::program()).exists());
}

/// A recorded machine of the crate that reads them.
fn recording(name: &str) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hardware/fixtures");
    let path = fixtures.join(format!("{name}.txt"));
    path.to_str().unwrap().to_owned()
}

#[test]
fn hw_reports_a_board() {
    let sandbox = Sandbox::new();
    let root = recording("rock-5b-plus");
    let ran = sandbox.run(&["hw", "--root", &root, "--threads=8"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(ran.stdout);
}

#[test]
fn hw_reports_a_container_and_a_server() {
    let sandbox = Sandbox::new();
    for name in ["container-cgroup-v1", "epyc-7r13-numa", "strix-halo"] {
        let ran = sandbox.run(&["hw", "--root", &recording(name)]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        insta::assert_snapshot!(format!("hw_{name}"), ran.stdout);
    }
}

#[test]
fn hw_speaks_json() {
    let sandbox = Sandbox::new();
    let root = recording("container-cgroup-v2");
    let ran = sandbox.run(&["hw", "--json", "--root", &root, "--models-dir=/models"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    insta::assert_json_snapshot!(value);
}

#[test]
fn hw_measures_this_machine_once() {
    let mut sandbox = Sandbox::new();
    let cache = sandbox.dir().join("cache");
    sandbox.set("XDG_CACHE_HOME", cache.to_str().unwrap());
    let report = |args: &[&str]| -> serde_json::Value {
        let ran = sandbox.run(args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let first = report(&["hw", "--json"]);
    let kept = cache.join("sextant/hardware.json").exists();
    let Some(busy) = first["measured"]["was_busy"].as_bool() else {
        // Too little memory was left, which the report has said.
        assert!(!kept);
        return;
    };
    assert_eq!(kept, !busy);
    if kept {
        let second = report(&["hw", "--json"]);
        let bandwidth = |value: &serde_json::Value| value["measured"]["bandwidth"].clone();
        assert_eq!(bandwidth(&second), bandwidth(&first));
    }
    let table = sandbox.run(&["hw"]);
    assert!(table.stdout.contains("GB/s by 1 core"), "{}", table.stdout);
}

#[test]
fn hw_records_what_it_reads() {
    let sandbox = Sandbox::new();
    let recorded = sandbox.run(&["hw", "--record"]);
    assert_eq!(recorded.code, 0, "{}", recorded.stderr);
    sandbox.write("board.txt", &recorded.stdout);
    let again = sandbox.run(&["hw", "--json", "--root", "board.txt"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let value: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(value["processor"]["cores"].as_u64().unwrap() >= 1);
    assert!(value["measured"].is_null());
}

#[test]
fn hw_names_what_is_no_tree() {
    let sandbox = Sandbox::new();
    sandbox.write("letter.txt", "Dear reader,\n");
    for (path, words) in [
        ("letter.txt", "line 1: it is no path"),
        ("absent", "`absent` cannot be read"),
    ] {
        let ran = sandbox.run(&["hw", "--root", path]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
}
