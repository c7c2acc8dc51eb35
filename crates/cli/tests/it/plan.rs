//! `sextant plan`: whole answers, and what is said to bad input.

use super::sandbox::Sandbox;
use models::gguf::write::Writer;
use testkit::tiny::Family;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    sandbox.add_family("windows", Family::Gemma3);
    sandbox.add_family("hybrid", Family::Qwen35);
    sandbox
}

#[test]
fn a_plan_is_a_page_of_text() {
    let ran = sandbox().run(&[
        "plan",
        "windows",
        "--memory",
        "1GiB",
        "--context",
        "100000",
        "--slots",
        "2",
        "--kv",
        "q8_0/q4_0",
        "--device",
        "rk3588-lpddr5",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout);
}

#[test]
fn what_does_not_fit_says_what_must_change() {
    let ran = sandbox().run(&["plan", "plain", "--memory", "80MiB", "--context", "500000"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout);
    let ran = sandbox().run(&["plan", "plain", "--memory", "1MiB"]);
    assert!(
        ran.stdout.contains("no setting is enough"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_plan_by_layer_is_told_by_runs_of_layers_and_one_by_one() {
    let sandbox = sandbox();
    let plan = [
        "plan",
        "plain",
        "--memory",
        "1GiB",
        "--context",
        "4096",
        "--slots",
        "1",
    ];
    let kv = ["--kv", "k=q8_0,v=q4_0;k[0]=f16"];
    let ran = sandbox.run(&[&plan[..], &kv].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Vec<_> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with("layers"))
        .collect();
    // Two heads of 32 values: 128, 68 and 36 bytes a row.
    assert_eq!(
        told,
        [
            "layers        0          f16/q4_0      512.0 KiB and 144.0 KiB",
            "layers        1-2        q8_0/q4_0     544.0 KiB and 288.0 KiB",
        ]
    );
    let shown = "KV k=q8_0,v=q4_0;k[0]=f16";
    assert!(ran.stdout.contains(shown), "{}", ran.stdout);
    let ran = sandbox.run(&[&plan[..], &kv, &["--json"]].concat());
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let layer = &value["kv_layers"][0];
    assert_eq!(
        (layer["kv_type_k"].as_str(), &layer["layer"]),
        (Some("f16"), &0.into())
    );
    assert_eq!(
        (layer["keys_bytes"].as_u64(), layer["values_bytes"].as_u64()),
        (Some(512 << 10), Some(144 << 10))
    );
    let settings = &value["settings"];
    assert_eq!(
        (&settings["kv_type_k"], &settings["kv_type_v"]),
        (&"mixed".into(), &"q4_0".into())
    );
    let bytes: u64 = (0..3)
        .flat_map(|at| ["keys_bytes", "values_bytes"].map(|side| &value["kv_layers"][at][side]))
        .map(|bytes| bytes.as_u64().unwrap())
        .sum();
    assert_eq!(value["caches"][0]["bytes"], bytes);
    // The setting means the same; the flag for all layers stands before it.
    let set = sandbox.run(&[&plan[..], &["--kv-plan", kv[1]]].concat());
    assert!(set.stdout.contains(shown), "{}", set.stdout);
}

#[test]
fn json_has_every_figure() {
    let ran = sandbox().run(&[
        "plan",
        "hybrid",
        "--memory",
        "1GiB",
        "--gpu-bytes",
        "1MiB",
        "--context",
        "4096",
        "--json",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["architecture"], "qwen35");
    assert_eq!(value["fits"], "spills");
    // One layer attends, two heads of 32 values, keys and values of 16 bits.
    let caches = value["caches"].as_array().unwrap();
    assert_eq!(caches[0]["bytes"], 4096 * 2 * 64 * 2);
    assert_eq!(caches[1]["part"], "states");
    let terms = value["ledger"].as_array().unwrap();
    let host: u64 = terms
        .iter()
        .filter(|term| term["place"] == "host" || term["place"] == "later")
        .map(|term| term["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(value["needed_bytes"], host);
}

#[test]
fn bad_input_names_the_limit_the_value_and_the_fix() {
    let sandbox = sandbox();
    let cases: [(&[&str], i32, &str); 8] = [
        (
            &["--kv", "q6_k"],
            2,
            "`q6_k` does not exist; it must be one of f32",
        ),
        (&["--context", "4000000"], 2, "4000000"),
        (
            &["--device", "abacus"],
            2,
            "it must be one of rk3588-lpddr4x",
        ),
        (
            &["--memory", "much"],
            2,
            "--memory is `much`; it must be a number of bytes",
        ),
        (&["--beside", "stranger"], 3, "stranger"),
        (
            &["--kv", "k[3]=q8_0"],
            2,
            "names layer 3, this model has layers 0 to 2",
        ),
        (
            &[
                "--kv",
                "kv=f16;k[1]=q8_0",
                "--gpu-layers",
                "2",
                "--gpu-bytes",
                "1GiB",
            ],
            2,
            "set gpu_layers to 0",
        ),
        (
            &["--kv", "f16/q8_0", "--flash-attention", "off"],
            2,
            "a quantised value cache needs it",
        ),
    ];
    for (flags, code, told) in cases {
        let ran = sandbox.run(&[&["plan", "plain"], flags].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{flags:?}");
        assert!(ran.stderr.contains(told), "{flags:?}: {}", ran.stderr);
    }
}

#[test]
fn models_beside_it_are_counted() {
    let sandbox = sandbox();
    let needed = |flags: &[&str]| {
        let ran = sandbox.run(&[&["plan", "plain", "--memory", "1GiB", "--json"], flags].concat());
        let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        value["needed_bytes"].as_u64().unwrap()
    };
    let alone = needed(&[]);
    assert_eq!(needed(&["--beside", "plain"]), 2 * alone);
    assert_eq!(
        needed(&["--beside", "plain", "--draft", "plain"]),
        3 * alone
    );
}

#[test]
fn presets_name_a_model_and_their_tables_are_a_configuration() {
    let sandbox = sandbox();
    let ran = sandbox.run(&["presets", "--json", "--model-memory-max", "1GiB"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let presets = report["presets"].as_array().unwrap();
    let names: Vec<_> = presets.iter().map(|preset| &preset["name"]).collect();
    assert_eq!(names, ["daily", "strong"]);
    // They are all fast; the mixture of windows and the hybrid have more weights than the plain.
    assert_ne!(presets[1]["model"]["id"], "plain");
    assert!(presets[1]["model"]["decode"]["low"].as_f64().unwrap() > 0.0);

    let tables = sandbox.run(&["presets", "--toml", "--model-memory-max", "1GiB"]);
    sandbox.write("sextant.toml", &tables.stdout);
    let file = sandbox.dir().join("sextant.toml");
    let file = file.to_string_lossy();
    let doctor = sandbox.run(&["doctor", "daily", "--config", &file]);
    assert_eq!(doctor.code, 0, "{}\n{}", tables.stdout, doctor.stdout);

    let ran = sandbox.run(&["presets", "--model-memory-max", "1MiB"]);
    assert!(ran.stdout.contains("no model here fits"), "{}", ran.stdout);
}

/// This program computes on the processor alone, so nothing leaves the host's memory.
#[test]
fn layers_for_a_gpu_that_is_not_there_are_ignored_and_told() {
    let sandbox = sandbox();
    let plan = |flags: &[&str]| {
        let ran = sandbox.run(&[&["plan", "plain", "--memory", "1GiB"], flags].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
    };
    let json = |flags: &[&str]| -> serde_json::Value {
        serde_json::from_str(&plan(&[flags, &["--json"]].concat())).unwrap()
    };
    let (without, with) = (json(&[]), json(&["--gpu-layers", "99"]));
    assert_eq!(with["device_bytes"], 0);
    assert_eq!(with["ledger"], without["ledger"]);
    assert_eq!(with["settings"]["gpu_layers"], 0);
    let told = plan(&["--gpu-layers", "99"]);
    assert!(told.contains("gpu_layers is 99 and is ignored"), "{told}");
    assert!(!plan(&[]).contains("gpu_layers"));
    // Another machine may have one.
    let elsewhere = json(&["--gpu-layers", "99", "--device", "rk3588-lpddr5"]);
    assert!(elsewhere["device_bytes"].as_u64().unwrap() > 0);
}

/// Names of `[[models]]` mean their settings; a flag of this command asks for something else.
#[test]
fn presets_are_planned_with_their_settings() {
    let sandbox = sandbox();
    sandbox.write(
        "sextant.toml",
        "[[models]]\nname = \"quick\"\nmodel = \"plain\"\ncontext = 1024\nslots = 3\n",
    );
    let settings = |flags: &[&str]| {
        let all = [
            &[
                "plan",
                "quick",
                "--config",
                "sextant.toml",
                "--memory",
                "1GiB",
                "--json",
            ],
            flags,
        ];
        let ran = sandbox.run(&all.concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(value["model"], "quick");
        let settings = &value["settings"];
        (settings["context"].as_u64(), settings["slots"].as_u64())
    };
    assert_eq!(settings(&[]), (Some(1024), Some(3)));
    assert_eq!(settings(&["--context", "2048"]), (Some(2048), Some(3)));
}

/// The context is that of the planned model; a companion has at most what it was trained for.
#[test]
fn a_model_beside_it_is_named_in_errors_and_has_a_context_of_its_own() {
    let sandbox = sandbox();
    sandbox.add_model("short");
    // Trained for 2048 tokens.
    let little = Writer::tiny_model()
        .u32("llama.embedding_length", 256)
        .u32("llama.attention.head_count", 4)
        .u32("llama.attention.head_count_kv", 2);
    std::fs::write(sandbox.dir().join("models/little.gguf"), little.bytes()).unwrap();
    let ran = sandbox.run(&[
        "plan",
        "plain",
        "--memory",
        "1GiB",
        "--context",
        "500000",
        "--beside",
        "little",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = sandbox.run(&["plan", "plain", "--beside", "short"]);
    assert_ne!(ran.code, 0);
    assert!(
        ran.stderr.contains("the model `short` beside it"),
        "{}",
        ran.stderr
    );
}
