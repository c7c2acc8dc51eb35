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
