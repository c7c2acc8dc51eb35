//! `sextant doctor` as a user meets it: real files, folders, ports and databases.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use testkit::tiny::Family;

use crate::recording;
use crate::sandbox::{Ran, Sandbox};

/// Arguments that keep it off the port of another server on the machine of the test.
fn doctor(sandbox: &Sandbox, args: &[&str]) -> (Ran, Value) {
    let all = [&["doctor", "--json"], args].concat();
    let ran = sandbox.run(&all);
    let value = serde_json::from_str(&ran.stdout).unwrap_or(Value::Null);
    (ran, value)
}

fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.set("SEXTANT_PORT", "0");
    sandbox
}

/// The finding with this code, which must be there, be of the class and have the word in its
/// fix.
fn check(sandbox: &Sandbox, args: &[&str], (code, class, word): (&str, &str, &str)) {
    let (ran, report) = doctor(sandbox, args);
    let findings = report["findings"]
        .as_array()
        .unwrap_or_else(|| panic!("{code}: {}", ran.stderr));
    let finding = findings.iter().find(|finding| finding["code"] == code);
    let finding = finding.unwrap_or_else(|| panic!("{code} is not in {}", ran.stdout));
    assert_eq!(finding["class"], class, "{code}");
    let fix = finding["fix"].as_str().unwrap();
    assert!(fix.contains(word), "{code}: {fix}");
    let is_fault = report["faults"].as_u64().unwrap() > 0;
    assert_eq!(ran.code, if is_fault { 7 } else { 0 }, "{code}");
}

#[test]
fn broken_surroundings_are_told_apart() {
    let plain = sandbox();
    plain.write("bad.toml", "contxt = 1\n");
    plain.write("cut.toml", "[routing\n");
    plain.write("models.toml", "[[models]]\nname = \"absent\"\n");
    plain.write(
        "missing.toml",
        "[[providers]]\nname = \"own\"\nkind = \"llama-server\"\ncommand = [\"./absent-server\"]\n",
    );
    plain.write(
        "denied.toml",
        "[[providers]]\nname = \"own\"\nkind = \"llama-server\"\ncommand = [\"./plain-file\"]\n",
    );
    plain.write("plain-file", "#!/bin/sh\n");
    plain.write(
        "gone.toml",
        "[[providers]]\nname = \"gone\"\nkind = \"openai\"\nurl = \"http://127.0.0.1:1\"\n",
    );
    plain.write(
        "kind.toml",
        "[[providers]]\nname = \"x\"\nkind = \"odd\"\nurl = \"http://h\"\n",
    );
    plain.write("a-file", "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--port={}", listener.local_addr().unwrap().port());
    let configuration = "configuration";
    for (args, expected) in [
        (
            &["--config=bad.toml"][..],
            ("config_invalid", configuration, "context"),
        ),
        (
            &["--config=cut.toml"],
            ("config_invalid", configuration, ""),
        ),
        (
            &["--config=none.toml"],
            ("config_unreadable", configuration, "path"),
        ),
        (
            &["--chat-template-file=none"],
            ("config_unreadable", configuration, "path"),
        ),
        (
            &["--config=models.toml"],
            ("preset_model", configuration, ""),
        ),
        (
            &["--config=missing.toml"],
            ("program_missing", configuration, "install"),
        ),
        (
            &["--config=denied.toml"],
            ("program_not_executable", configuration, "chmod +x"),
        ),
        (
            &["--config=kind.toml"],
            ("provider_invalid", configuration, ""),
        ),
        (
            &["--config=gone.toml", "--network"],
            ("provider_unreachable", "runtime", "start it"),
        ),
        (
            &["--data-dir=a-file/below"],
            ("folder_is_file", configuration, "data_dir"),
        ),
        (&[&port], ("port_taken", "runtime", "kill")),
        (&["absent"], ("model_unknown", configuration, "")),
        (
            &["hf:owner/repo"],
            ("model_unknown", configuration, "sextant pull"),
        ),
    ] {
        check(&plain, args, expected);
    }
    let mut variable = sandbox();
    variable.set("SEXTANT_CONTXT", "9");
    check(&variable, &[], ("variable_unknown", configuration, "unset"));
}

#[test]
fn broken_databases_are_told_and_left_as_they_are() {
    let sandbox = sandbox();
    let data = format!("--data-dir={}", sandbox.dir().display());
    let path = sandbox.dir().join("sextant.db");
    // None is begun.
    let (ran, _) = doctor(&sandbox, &[&data]);
    assert!(!path.exists(), "{}", ran.stdout);

    assert_eq!(sandbox.run(&["key", "add", "--name=a", &data]).code, 0);
    let whole = fs::read(&path).unwrap();
    let (ran, report) = doctor(&sandbox, &[&data]);
    assert!(!ran.stdout.contains("database_"), "{report}");
    assert_eq!(fs::read(&path).unwrap(), whole);
    let names = || {
        let entries = fs::read_dir(sandbox.dir()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
            .len()
    };
    let before = names();

    // The number of the schema is the 15th word of the file.
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&path, &newer).unwrap();
    check(
        &sandbox,
        &[&data],
        ("database_newer", "runtime", "newer program"),
    );
    sandbox.write(
        "sextant.db",
        "this is no database, and long enough to be looked at as one",
    );
    check(
        &sandbox,
        &[&data],
        ("database_damaged", "runtime", "move it away"),
    );
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check(
        &sandbox,
        &[&data],
        ("database_damaged", "runtime", "move it away"),
    );
    assert_eq!(names(), before);
}

#[test]
fn a_board_is_judged_from_its_recording() {
    let sandbox = sandbox();
    let board = fs::read_to_string(recording("rock-5b-plus")).unwrap();
    let more = "/proc/net/tcp:\n|  sl local rem st\n\
                |  0: 0100007F:2CC4 00000000:0000 0A 0:0 0:0 0 0 0 4242 1\n\
                /proc/77/fd/9 -> socket:[4242]\n/proc/77/comm = sextant\n\
                /proc/self/limits:\n| Max open files  256  4096  files\n\
                /sys/class/thermal/thermal_zone0/temp = 83500\n";
    sandbox.write("board.txt", &format!("{board}{more}"));
    let args = ["doctor", "--root=board.txt", "--port=11460", "--threads=8"];
    let ran = sandbox.run(&args);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(ran.stdout);
    let ran = sandbox.run(&[&args[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    insta::assert_json_snapshot!(report);
}

#[test]
fn a_broken_model_has_its_own_exit_code_and_report() {
    let sandbox = sandbox();
    sandbox.write("page.gguf", "<!DOCTYPE html><html></html>");
    let args = ["doctor", "page.gguf", "--root", &recording("kvm-guest")];
    let ran = sandbox.run(&args);
    assert_eq!(ran.code, 7);
    assert_eq!(ran.stderr, "error: there is a fault; its fix is with it\n");
    insta::assert_snapshot!(ran.stdout);
    // A sound one, by its name; the memory that is judged is the recording's.
    sandbox.add_model("tiny");
    let (ran, report) = doctor(&sandbox, &["tiny", "--root", &recording("kvm-guest")]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| finding["class"] != "artifact"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_load_that_fails_is_explained_below_the_error() {
    let sandbox = sandbox();
    // Sound by its header; llama.cpp has no architecture of this name.
    let writer = models::gguf::write::Writer::new()
        .str("general.architecture", "llama9")
        .str("tokenizer.ggml.model", "none")
        .tensor("t", 0, &[32]);
    fs::write(sandbox.dir().join("m.gguf"), writer.bytes()).unwrap();
    let ran = sandbox.run(&["run", "./m.gguf", "-p", "Hi"]);
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("`m` could not be loaded"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("[architecture_unknown]\n    fix: update"),
        "{}",
        ran.stderr
    );
}

/// Root may read and write everything, so the program is run as a user without rights where
/// this is root.
#[test]
fn what_this_user_may_not_read_or_write_is_told() {
    let sandbox = sandbox();
    let program = sandbox.dir().join("sextant");
    if fs::hard_link(Sandbox::program(), &program).is_err() {
        fs::copy(Sandbox::program(), &program).unwrap();
    }
    let mode =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    sandbox.write("locked.gguf", "GGUF");
    mode(&sandbox.dir().join("locked.gguf"), 0o000);
    let data = sandbox.dir().join("data");
    fs::create_dir(&data).unwrap();
    mode(&data, 0o555);
    mode(sandbox.dir(), 0o755);
    let ran = sandbox.run_without_rights(
        &program,
        &[
            "doctor",
            "--json",
            "./locked.gguf",
            "--data-dir",
            data.to_str().unwrap(),
        ],
    );
    mode(&data, 0o755);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    for words in ["\"permission_denied\"", "\"folder_not_writable\""] {
        assert!(ran.stdout.contains(words), "{}", ran.stdout);
    }
}

/// What a load would refuse is a fault; what it would ignore is told; a setting is a limit.
#[test]
fn settings_of_a_model_are_judged_as_a_load_takes_them() {
    let sandbox = sandbox();
    sandbox.add_family("plain", Family::Llama);
    let plain = ["plain", "--context"];
    let with =
        |context: &'static str, flags: &[&'static str]| [&plain[..], &[context], flags].concat();
    let above = with("2000000", &[]);
    check(
        &sandbox,
        &above,
        ("context_above_trained", "configuration", "1048576"),
    );
    let (ran, _) = doctor(&sandbox, &above);
    assert_eq!(ran.code, 7);
    let layers = with("4096", &["--gpu-layers", "9"]);
    check(
        &sandbox,
        &layers,
        (
            "gpu_layers_ignored",
            "configuration",
            "leave `gpu_layers` out",
        ),
    );
    sandbox.write("little.toml", "model_memory_max = \"16MiB\"\n");
    let little = with("4096", &["--config", "little.toml"]);
    check(
        &sandbox,
        &little,
        ("memory_short", "runtime", "model_memory_max"),
    );
}

/// The codes of findings that do not hang on when they were looked for.
fn codes(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    let codes = findings.map(|finding| finding["code"].as_str().unwrap());
    let moment = ["memory_busy", "swap_in_use", "disk_nearly_full"];
    codes.filter(|code| !moment.contains(code)).collect()
}

#[test]
fn a_server_tells_over_http_what_the_command_tells() {
    let sandbox = sandbox();
    sandbox.add_family("plain", Family::Llama);
    // Sound by its header; llama.cpp has no architecture of this name.
    let writer = models::gguf::write::Writer::new()
        .str("general.architecture", "llama9")
        .str("tokenizer.ggml.model", "none")
        .tensor("t", 0, &[32]);
    let path = sandbox.dir().join("models/odd.gguf");
    fs::write(&path, writer.bytes()).unwrap();
    let data = format!("--data-dir={}", sandbox.dir().join("data").display());
    let served = sandbox.serve(&["plain", &data, "--context=256"]);
    let over_http = served.ask("GET", "/api/doctor?model=odd", "");
    let (_, here) = doctor(&sandbox, &["odd", &data, "--context=256"]);
    assert_eq!(codes(&over_http), codes(&here), "{over_http}");
    assert_eq!(over_http["findings"][0]["code"], "architecture_unknown");
    assert_eq!(over_http["findings"][0]["class"], "artifact");
    assert!(over_http["faults"].as_u64().unwrap() > 0);
    // The server that answers is in nobody's way, and neither is its database.
    let text = over_http.to_string();
    assert!(!text.contains("already_serving") && !text.contains("port_taken"));
    assert!(!text.contains("database_"), "{text}");

    let body = serde_json::json!({ "model": "odd", "path": path }).to_string();
    let refused = served.ask("POST", "/admin/models/load", &body);
    let found = &refused["error"]["findings"][0];
    assert_eq!(found["class"], "artifact", "{refused}");
    assert!(!found["fix"].as_str().unwrap().is_empty());
    // And so does the command that asks the server.
    let url = format!("http://{}", served.address);
    let ran = sandbox.run(&["load", "odd", "--url", &url]);
    assert_ne!(ran.code, 0);
    assert!(
        ran.stderr.contains("[architecture_unknown]\n    fix: "),
        "{}",
        ran.stderr
    );
}
