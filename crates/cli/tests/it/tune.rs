//! `sextant tune`: with a real worker, and what is said to bad input.

use serde_json::Value;
use testkit::tiny::Family;

use super::sandbox::Sandbox;

#[test]
fn a_model_is_tuned_the_result_is_used_and_forgotten() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    let axes = ["--axes", "decode cores", "--axes", "KV types"];
    let common = [
        "tune",
        "plain",
        "--budget",
        "8",
        "--context",
        "256",
        "--json",
        "--keep",
    ];
    let ran = sandbox.run(&[&common[..], &axes[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["model"], "plain");
    assert!(told["failure"].is_null());
    assert!(told["defaults"]["decode_tokens_s"].as_f64().unwrap() > 0.0);
    let rows = told["rows"].as_array().unwrap();
    let of = |name: &str| rows.iter().filter(|row| row["setting"] == name).count();
    assert!(of("KV types") >= 1 && of("speculation") == 0, "{rows:?}");
    // On a machine that is busy enough there is no time for the last comparison.
    let was_compared = rows.iter().any(|row| row["pairs"] != 0);
    let had_time = was_compared && told["gain"]["verdict"] != "out of time";
    let is_kept = told["kept"].as_str().unwrap().starts_with("kept in");
    assert_eq!(is_kept, had_time, "{told}");
    let forgotten = match had_time {
        true => "1 measurement forgotten\n",
        false => "0 measurements forgotten\n",
    };
    let ran = sandbox.run(&["tune", "plain", "--forget"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, forgotten));
    let ran = sandbox.run(&["tune", "plain", "--forget"]);
    assert_eq!(ran.stderr, "0 measurements forgotten\n");
}

#[test]
fn bad_input_names_the_way_out() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    for (flags, code, told) in [
        (["--for", "speed"], 2, "chat, agent, or tokens"),
        (["--budget", "1"], 2, "5..=86400"),
        (["--cpus", "4-"], 2, "a list of CPUs such as 0-3,7"),
        (["--cpus", "4000"], 6, "may not use 4000"),
    ] {
        let ran = sandbox.run(&[&["tune", "plain"][..], &flags[..]].concat());
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{flags:?}: {}", ran.stderr);
    }
    assert_eq!(sandbox.run(&["tune", "absent"]).code, 3);
}
