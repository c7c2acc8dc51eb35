//! Types of the KV cache by layer: a server that has them, and what plans are said to lose.

use serde_json::{Value, json};
use testkit::tiny::Family;

use super::sandbox::{Sandbox, Served};

fn compare(family: Family, flags: &[&str]) -> Value {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", family);
    let common = ["kv", "compare", "tiny", "--json", "--threads", "1"];
    let small = [
        "--piece-tokens",
        "96",
        "--pieces",
        "4",
        "--answer-tokens",
        "5",
    ];
    let ran = sandbox.run(&[&common[..], &small, flags].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn mean(row: &Value) -> f64 {
    row["divergence"]["kld_mean"].as_f64().unwrap()
}

#[test]
fn what_is_alike_is_at_no_distance_and_fewer_bits_are_farther() {
    let plans = ["f16", "q8_0", "q4_0", "kv=q4_0;kv[0-1]=f16"];
    let flags: Vec<_> = plans.iter().flat_map(|plan| ["--plan", plan]).collect();
    let report = compare(Family::Llama, &flags);
    assert_eq!(report["pieces"], 4);
    // Of the second half all but the last, behind which nothing comes.
    assert_eq!(report["positions"], 4 * 47);
    let rows = report["rows"].as_array().unwrap();
    let kinds: Vec<_> = rows
        .iter()
        .map(|row| row["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["base", "floor", "plan", "plan", "plan", "plan"]);
    let [base, floor, same, eight, four, mixed] = rows.as_slice() else {
        panic!("{rows:?}")
    };
    assert!(base["divergence"].is_null());
    assert!(mean(floor) > 0.0, "{floor}");
    assert_eq!(mean(same), 0.0, "{same}");
    let told = &same["divergence"];
    assert_eq!(
        (&told["top1"], &told["perplexity_ratio"]),
        (&json!(1.0), &json!(1.0))
    );
    assert_eq!(told["first_differences"], json!([null, null, null, null]));
    assert!(
        mean(eight) > 0.0 && mean(eight) < mean(four),
        "{eight} {four}"
    );
    assert!(mean(mixed) < mean(four), "{mixed} {four}");
    // Three layers, two heads of 32 values a side.
    let bytes = |row: &Value| row["token_bytes"].as_u64().unwrap();
    assert_eq!([base, eight, four, mixed].map(bytes), [768, 408, 216, 584]);
    assert_eq!(mixed["plan"], "k=q4_0,v=q4_0;kv[0-1]=f16");
}

#[test]
fn models_with_windows_and_states_are_compared() {
    for family in [Family::Gemma3, Family::FalconH1] {
        let report = compare(family, &["--plan", "q4_0"]);
        let rows = report["rows"].as_array().unwrap();
        assert!(
            rows.iter()
                .any(|row| row["kind"] == "plan" && mean(row) > 0.0),
            "{family:?}: {rows:?}"
        );
    }
}

#[test]
fn a_comparison_is_a_table_with_its_errors_explained() {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", Family::Llama);
    sandbox.write("text", &"a text that goes on ".repeat(40));
    let ran = sandbox.run(&[
        "kv",
        "compare",
        "tiny",
        "--plan",
        "first-third",
        "--text",
        "text",
        "--piece-tokens",
        "64",
        "--answer-tokens",
        "3",
        "--threads",
        "1",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with("plan ") && lines[2].starts_with("floor "),
        "{}",
        ran.stdout
    );
    assert!(
        lines[3].starts_with("k=q4_0,v=q4_0;kv[first-third]=q8_0 "),
        "{}",
        ran.stdout
    );
    assert!(lines[3].contains("+-"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_compared_is_told_with_the_limit_and_the_value() {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", Family::Llama);
    sandbox.add_family("latent", Family::DeepSeek2);
    sandbox.write("short", "a b c");
    let many: Vec<&str> = ["--plan", "f16"].repeat(15);
    let cases: [(&str, &[&str], i32, &str); 6] = [
        ("tiny", &["--plan", "k=q6"], 2, "`q6` does not exist"),
        ("tiny", &["--plan", "k[9]=f16"], 6, "layers 0 to 2"),
        ("latent", &["--plan", "kv=f16;k[1]=q8_0"], 6, "(MLA)"),
        ("tiny", &["--text", "short"], 6, "a piece 512"),
        ("tiny", &["--text", "absent"], 2, "absent"),
        ("tiny", &many, 6, "15 plans were given, at most 14"),
    ];
    for (model, flags, code, told) in cases {
        let ran = sandbox.run(&[&["kv", "compare", model][..], flags].concat());
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{flags:?}: {}", ran.stderr);
    }
}

fn calibrate(sandbox: &Sandbox, model: &str, flags: &[&str]) -> Value {
    let common = ["kv", "calibrate", model, "--json", "--threads", "1"];
    let small = ["--piece-tokens", "96", "--tokens", "768"];
    let ran = sandbox.run(&[&common[..], &small, flags].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// All rows have the bytes that they say, none more than the budget; the plan that comes out is
/// one of them.
fn check_budget(of: &Value, shape: &Value) {
    let budget = of["bytes"].as_u64().unwrap();
    let rows = of["rows"].as_array().unwrap();
    for row in rows.iter().filter(|row| row["kind"] != "floor") {
        let bytes = row["token_bytes"].as_u64().unwrap();
        assert!(bytes <= budget, "{budget}: {row}");
        assert_eq!(
            row["piece_klds"].as_array().unwrap().len() as u64,
            shape["held_out"]["pieces"].as_u64().unwrap()
        );
    }
    let of_kind = |kind: &str| {
        let each = rows.iter().filter(|row| row["kind"] == kind);
        each.collect::<Vec<_>>()
    };
    let [calibrated] = of_kind("calibrated")[..] else {
        panic!("{rows:?}")
    };
    let pairs = of_kind("uniform");
    assert!((1..=3).contains(&pairs.len()), "{rows:?}");
    let least = pairs
        .iter()
        .map(|row| mean(row))
        .fold(f64::INFINITY, f64::min);
    let best = pairs.iter().find(|row| mean(row) == least).unwrap();
    assert_eq!(of["uniform"], best["plan"]);
    let gain = &of["gain"];
    assert!(
        (gain["mean"].as_f64().unwrap() - (least - mean(calibrated))).abs() < 1e-9,
        "{of}"
    );
    // Only what is beyond chance is a win.
    assert_eq!(of["is_calibrated"], gain["low"].as_f64().unwrap() > 0.0);
    let chosen = if of["is_calibrated"] == true {
        calibrated
    } else {
        best
    };
    assert_eq!(of["plan"], chosen["plan"]);
}

#[test]
fn a_plan_for_a_budget_is_measured_judged_and_loaded() {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", Family::Llama);
    let flags = ["--budget", "q5_0/q4_0", "--budget", "0.45", "--controls"];
    let report = calibrate(&sandbox, "tiny", &flags);
    assert_eq!(report["f16_bytes"], 768);
    assert_eq!(
        (&report["measured"]["pieces"], &report["held_out"]["pieces"]),
        (&json!(4), &json!(4))
    );
    // Half of a piece, but for its last token.
    assert_eq!(report["measured"]["positions"], 4 * 47);
    let tensors = report["tensors"].as_array().unwrap();
    let names: Vec<_> = tensors
        .iter()
        .map(|one| format!("{}{}", one["side"].as_str().unwrap(), one["layer"]))
        .collect();
    assert_eq!(names, ["k0", "v0", "k1", "v1", "k2", "v2"]);
    for tensor in tensors {
        let types = tensor["types"].as_array().unwrap();
        let excess = |name: &str| {
            let of = types.iter().find(|one| one["cache_type"] == name).unwrap();
            of["excess"].as_f64().unwrap()
        };
        assert_eq!(excess("f16"), 0.0);
        assert!(
            excess("q8_0") <= excess("q5_0") && excess("q5_0") <= excess("q4_0"),
            "{tensor}"
        );
        let number = |name: &str| tensor[name].as_f64().unwrap();
        assert!(number("probe") > number("floor"), "{tensor}");
    }
    let budgets = report["budgets"].as_array().unwrap();
    assert_eq!(budgets[0]["bytes"], 3 * (44 + 36));
    assert_eq!(budgets[1]["bytes"], 345);
    for of in budgets {
        check_budget(of, &report);
        let kinds: Vec<_> = of["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["kind"])
            .collect();
        for kind in ["floor", "first_layers", "random", "inverted"] {
            assert!(kinds.contains(&&json!(kind)), "{kind}: {kinds:?}");
        }
    }
    // The same text and model, the same plan.
    let again = calibrate(&sandbox, "tiny", &flags);
    assert_eq!(again["budgets"], report["budgets"]);
    let calibrated = |of: &Value| of["rows"][1]["plan"].as_str().unwrap().to_owned();
    let plan = calibrated(&budgets[1]);
    let served = sandbox.serve(&["--context=256", "--kv-plan", &plan]);
    let ask = json!({ "model": "tiny", "prompt": "a b c d", "max_tokens": 4, "temperature": 0 });
    let answer = served.ask("POST", "/v1/completions", &ask.to_string());
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    assert_eq!(facts(&served)["kv_plan"], plan);
}

#[test]
fn models_with_windows_and_states_are_calibrated() {
    for (family, n_tensors) in [(Family::Gemma3, 12), (Family::FalconH1, 4)] {
        let sandbox = Sandbox::new();
        sandbox.add_family("tiny", family);
        let report = calibrate(&sandbox, "tiny", &["--budget", "q5_0"]);
        let n_found = report["tensors"].as_array().unwrap().len();
        assert_eq!(n_found, n_tensors, "{family:?}");
        check_budget(&report["budgets"][0], &report);
    }
}

#[test]
fn a_calibration_is_told_with_the_setting_that_follows() {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", Family::Llama);
    let ran = sandbox.run(&[
        "kv",
        "calibrate",
        "tiny",
        "--budget",
        "q5_0/q4_0",
        "--piece-tokens",
        "64",
        "--tokens",
        "256",
        "--threads",
        "1",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last = ran.stdout.lines().last().unwrap();
    let plan = last
        .strip_prefix("kv_plan = \"")
        .and_then(|rest| rest.strip_suffix('"'));
    let plan = plan.unwrap_or_else(|| panic!("{}", ran.stdout));
    plan.parse::<kv::TypePlan>().unwrap();
    assert!(ran.stdout.contains("nearer to f16"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_calibrated_is_told_before_it_is_measured() {
    let sandbox = Sandbox::new();
    sandbox.add_family("tiny", Family::Llama);
    sandbox.add_family("latent", Family::DeepSeek2);
    sandbox.write("short", &"a text that goes on ".repeat(8));
    let cases: [(&str, &[&str], i32, &str); 6] = [
        ("tiny", &["--budget", "q6"], 2, "`q6` does not exist"),
        ("tiny", &["--budget", "1.5"], 2, "`1.5` is no budget"),
        ("tiny", &["--budget", "215"], 6, "give at least 216"),
        ("latent", &["--budget", "0.5"], 6, "(MLA)"),
        (
            "tiny",
            &["--budget", "0.5", "--text", "short", "--piece-tokens", "64"],
            6,
            "pieces, and 4 are needed",
        ),
        (
            "tiny",
            &["--budget", "0.5", "--flash-attention", "off"],
            6,
            "flash attention is off",
        ),
    ];
    for (model, flags, code, told) in cases {
        let ran = sandbox.run(&[&["kv", "calibrate", model][..], flags].concat());
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{flags:?}: {}", ran.stderr);
    }
}

fn facts(served: &Served) -> Value {
    let models = served.ask("GET", "/admin/models", "");
    models["models"][0]["facts"].clone()
}

#[test]
fn a_server_tells_the_types_of_each_layer_as_the_engine_has_them() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    for kernels in ["own", "ggml"] {
        let plan = "k=q8_0,v=q4_0;k[1]=f16";
        // Loaded by the first request for it.
        let served = sandbox.serve(&["--context=256", "--kv-plan", plan, "--kernels", kernels]);
        let ask =
            json!({ "model": "plain", "prompt": "a b c d", "max_tokens": 4, "temperature": 0 })
                .to_string();
        let answer = served.ask("POST", "/v1/completions", &ask);
        assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
        let facts = facts(&served);
        assert_eq!(
            (&facts["kv_type_k"], &facts["kv_type_v"]),
            (&json!("mixed"), &json!("q4_0"))
        );
        assert_eq!(facts["kv_plan"], plan);
        let layer = |layer: u32, keys: &str, bytes: u64| json!({ "layer": layer, "keys": keys, "values": "q4_0", "bytes": bytes });
        // 256 cells of 68, 128 and 36 bytes.
        let of = |row: u64| 256 * row;
        let expected = [
            layer(0, "q8_0", of(104)),
            layer(1, "f16", of(164)),
            layer(2, "q8_0", of(104)),
        ];
        assert_eq!(facts["kv_layers"], json!(expected), "{kernels}");
    }
    // By a request, too; what comes to one pair is no plan any more.
    let served = sandbox.serve(&["--load-on-demand=false"]);
    let path = sandbox.dir().join("models/plain.gguf");
    let load = |name: &str, plan: &str| {
        let body = json!({ "model": name, "path": path, "context": 256, "kv_plan": plan });
        served.ask("POST", "/admin/models/load", &body.to_string())
    };
    let loaded = load("mixed", "first-third");
    assert_eq!(
        loaded["facts"]["kv_layers"][0]["values"], "q8_0",
        "{loaded}"
    );
    let loaded = load("same", "kv=q8_0;k[2]=q8_0");
    let facts = &loaded["facts"];
    assert_eq!(facts["kv_type_k"], "q8_0", "{loaded}");
    assert!(
        facts["kv_plan"].is_null() && facts["kv_layers"].is_null(),
        "{loaded}"
    );
    let refused = load("wrong", "k[7]=f16");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("layer 7") && message.contains("0 to 2"),
        "{refused}"
    );
}
