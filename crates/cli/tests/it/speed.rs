//! `sextant bench speed`: with real workers, and what is said to bad input.

use serde_json::{Value, json};
use testkit::tiny::Family;

use super::sandbox::Sandbox;

const COMMON: [&str; 11] = [
    "bench",
    "speed",
    "plain",
    "--context",
    "256",
    "--prompt",
    "48",
    "--answer",
    "8",
    "--rounds",
    "3",
];

#[test]
fn combinations_are_measured_kept_and_not_measured_again() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    let file = sandbox.dir().join("runs.jsonl");
    let file = file.to_str().unwrap();
    let vary = ["--vary", "kv-type-k=f16,q8_0", "--vary", "depth=0,64"];
    let command = [&COMMON[..], &vary, &["--out", file, "--json"]].concat();
    let ran = sandbox.run(&command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let results = told["results"].as_array().unwrap();
    assert_eq!(results.len(), 4, "{told}");
    let kv = |place: usize| results[place]["kv_bytes"].as_u64().unwrap();
    assert!(kv(0) > kv(2), "8 bits take less than 16");
    for one in results {
        assert_eq!(one["prefill_tokens_s"]["n"], 3, "{told}");
        for name in [
            "prefill_tokens_s",
            "decode_tokens_s",
            "ttft_seconds",
            "start_seconds",
            "proportional_bytes",
        ] {
            assert!(
                one[name]["middle"].as_f64().unwrap() > 0.0,
                "{name}: {told}"
            );
        }
    }
    assert_eq!(results[1]["point"]["depth"], "64");
    assert!(results[1]["decode_by_first"]["n"] == 3, "{told}");
    // Each line is whole before the next run: what was stopped goes on where it was.
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.lines().count(), 1 + 12);
    let runs: Vec<Value> = text
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        runs.iter()
            .all(|run| run["n_read"] == 48 && run["n_said"] == 8),
        "{text}"
    );
    let cut = text.lines().take(9).collect::<Vec<_>>().join("\n");
    std::fs::write(file, &cut[..cut.len() - 30]).unwrap();
    let ran = sandbox.run(&command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("12 runs, 7 of them are there already"),
        "{}",
        ran.stderr
    );
    let again = std::fs::read_to_string(file).unwrap();
    let whole = again
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_ok());
    assert_eq!(whole.count(), 1 + 12);
}

/// A file of `bench speed` with figures of which a comparison is known.
fn runs(sandbox: &Sandbox, name: &str, decode: impl Fn(usize) -> f64) -> String {
    let heading = r#"{"axes":[["threads",["1"]]]}"#;
    let run = |round: usize| {
        json!({
            "point": ["1"], "round": round, "failed": null, "stolen": null, "celsius": null,
            "watts": null, "prefill_tokens_s": 500.0 + round as f64, "decode_tokens_s": decode(round),
            "both_tokens_s": 100.0 + round as f64, "ttft_seconds": 0.5, "start_seconds": 1.0,
        })
    };
    let lines: Vec<String> = (0..9).map(|round| run(round).to_string()).collect();
    sandbox.write(name, &format!("{heading}\n{}\n", lines.join("\n")));
    sandbox.dir().join(name).to_str().unwrap().to_owned()
}

#[test]
fn two_runs_differ_or_do_not() {
    let sandbox = Sandbox::new();
    let base = runs(&sandbox, "base", |round| 100.0 + round as f64);
    let same = runs(&sandbox, "same", |round| 108.0 - round as f64);
    let faster = runs(&sandbox, "faster", |round| 120.0 + round as f64);
    let differing = |other: &str| -> Vec<String> {
        let ran = sandbox.run(&["bench", "compare", &base, other, "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        let rows = told["compared"].as_array().unwrap();
        assert_eq!(rows.len(), 5, "{told}");
        let differing = rows.iter().filter(|row| row["differs"] == true);
        differing
            .map(|row| row["figure"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(differing(&same).is_empty());
    assert_eq!(differing(&faster), ["decode tokens/s"]);
    sandbox.write("other", "{}\n");
    let other = sandbox.dir().join("other");
    let ran = sandbox.run(&["bench", "compare", &base, other.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("is no file of"), "{}", ran.stderr);
}

#[test]
fn bad_input_names_the_way_out() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    for (flags, code, told) in [
        (["--vary", "threads"], 2, "NAME=VALUE,VALUE"),
        (["--vary", "threads=1,1"], 2, "twice"),
        (["--vary", "listen=1,2"], 2, "no setting of the engine"),
        (["--vary", "threads=1,many"], 2, "many"),
        (["--vary", "depth=0,deep"], 2, "no number of tokens"),
        (["--answer", "1"], 2, "2..="),
    ] {
        let ran = sandbox.run(&[&["bench", "speed", "plain"][..], &flags].concat());
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{flags:?}: {}", ran.stderr);
    }
    assert_eq!(sandbox.run(&["bench", "speed", "absent"]).code, 3);
    // A point that cannot be loaded is told of, and the others are measured.
    let file = sandbox.dir().join("runs.jsonl");
    let out = [
        "--out",
        file.to_str().unwrap(),
        "--json",
        "--vary",
        "depth=0,4096",
    ];
    let ran = sandbox.run(&[&COMMON[..], &out].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["results"][0]["n_failed"], 0, "{told}");
    assert_eq!(told["results"][1]["n_failed"], 3, "{told}");
    // Runs of other settings do not go with these.
    let ran = sandbox.run(&[&COMMON[..], &out[..2]].concat());
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("name another file"), "{}", ran.stderr);
}
