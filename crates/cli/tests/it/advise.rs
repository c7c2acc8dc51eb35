//! `sextant advise`: what it says of known machines, of bad input and of measurements.

use serde_json::{Value, json};
use testkit::tiny::Family;

use super::sandbox::{Ran, Sandbox};

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", Family::Llama);
    sandbox
}

fn advice(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

const LOAD: [&str; 5] = ["advise", "--users", "4", "--ctx", "256"];

fn ask(sandbox: &Sandbox, more: &[&str]) -> Ran {
    sandbox.run(&[&LOAD[..], more].concat())
}

#[test]
fn settings_of_the_advice_are_ones_that_the_configuration_takes() {
    let sandbox = sandbox();
    for (device, users, engine) in [
        ("rk3588-lpddr5", "4", "embedded"),
        ("rtx4090", "4", "embedded"),
        ("rtx4090", "16", "vLLM"),
        ("m4", "4", "llama-server"),
    ] {
        let told = advice(&sandbox.run(&[
            "advise", "--users", users, "--ctx", "256", "--device", device, "--memory", "8GiB",
            "--json",
        ]));
        let engines = told["engines"].as_array().unwrap();
        assert_eq!(engines.len(), 5);
        assert_eq!(engines[0]["engine"], engine, "{device}: {told}");
        assert_eq!(engines[0]["verdict"], "best");
        for one in engines.iter().filter(|one| one["verdict"] != "no") {
            sandbox.write("own.toml", one["toml"].as_str().unwrap());
            let ran = sandbox.run(&["config", "--config", "own.toml"]);
            assert_eq!(ran.code, 0, "{}: {}", one["toml"], ran.stderr);
            let routed = sandbox.run(&["doctor", "--config", "own.toml", "--json"]);
            assert!(
                !routed.stdout.contains("unknown field"),
                "{}",
                routed.stdout
            );
        }
        assert_eq!(told["fit"]["fits"], true);
        let each = &told["each"];
        assert!(each["decode"]["low"].as_f64().unwrap() > 0.0, "{told}");
        assert_eq!(each["from"]["known"], "predicted");
    }
}

#[test]
fn what_does_not_fit_says_what_would() {
    let sandbox = sandbox();
    let ran = ask(&sandbox, &["--memory", "1MiB", "--device", "pi5", "--json"]);
    let told = advice(&ran);
    assert_eq!(told["fit"]["fits"], false);
    assert!(told["fit"]["missing_bytes"].as_u64().unwrap() > 0);
    assert!(
        !told["fit"]["to_fit"].as_array().unwrap().is_empty(),
        "{told}"
    );
    assert!(told["engines"][0]["command"].is_null());
    let ran = ask(&sandbox, &["--memory", "1MiB", "--device", "pi5"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("to fit") && !ran.stdout.contains("start  "),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_was_wanted_is_answered() {
    let sandbox = sandbox();
    let wanted = [
        "--device",
        "rk3588-lpddr5",
        "--tps",
        "1",
        "--ttft",
        "0.000001",
        "--json",
    ];
    let told = advice(&ask(&sandbox, &wanted));
    let met: Vec<&str> = told["wanted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["met"].as_str().unwrap())
        .collect();
    assert_eq!(met, ["yes", "no", "no"]);
    assert_eq!(told["users_at_pace"], 4);
}

#[test]
fn a_measurement_with_as_many_clients_takes_the_place_of_a_prediction() {
    let sandbox = sandbox();
    let file = |clients: u32| {
        json!({
            "clients": clients, "tpot": { "p50": 0.05 }, "ttft": { "p50": 1.5 },
            "origin": { "fingerprint": null },
        })
        .to_string()
    };
    sandbox.write("load.json", &file(4));
    let told = advice(&ask(&sandbox, &["--measured", "load.json", "--json"]));
    assert_eq!(told["each"]["from"]["known"], "measured");
    assert_eq!(told["each"]["decode"], json!({ "low": 20.0, "high": 20.0 }));
    sandbox.write("load.json", &file(3));
    let ran = ask(&sandbox, &["--measured", "load.json", "--json"]);
    assert_eq!(advice(&ran)["each"]["from"]["known"], "predicted");
    assert!(ran.stderr.contains("3 clients"), "{}", ran.stderr);
    sandbox.write("load.json", "{}");
    assert_eq!(ask(&sandbox, &["--measured", "load.json"]).code, 2);
}

#[test]
fn bad_input_is_named() {
    let sandbox = sandbox();
    for (more, code, part) in [
        (&["--device", "toaster"][..], 2, "toaster"),
        (&["--prompt", "257"], 2, "--prompt is 257"),
        (&["--tps", "0"], 2, "--tps is 0"),
        (&["--model", "absent"], 3, "absent"),
        (&["--memory", "lots"], 2, "--memory"),
    ] {
        let ran = ask(&sandbox, more);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{more:?}");
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    sandbox.add_family("second", Family::Llama);
    let ran = ask(&sandbox, &[]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("second") && ran.stderr.contains("tiny"),
        "{}",
        ran.stderr
    );
}
