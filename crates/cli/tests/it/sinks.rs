//! Answers that go on past their context, and models that cannot.

use serde_json::{Value, json};
use testkit::tiny::{Family, Purpose, gguf, gguf_for};

use super::sandbox::Sandbox;

/// What a server with that model and these flags answers to a request for 200 tokens.
fn ask(model: &[u8], flags: &[&str]) -> Value {
    let sandbox = Sandbox::new();
    sandbox.add_bytes("tiny", model);
    let served = sandbox.serve(&[&["--threads", "1"][..], flags].concat());
    let ask = json!({
        "model": "tiny", "prompt": "a b c d", "max_tokens": 200, "ignore_eos": true,
        "temperature": 0, "attention_sinks": 4,
    });
    served.ask("POST", "/v1/completions", &ask.to_string())
}

#[test]
fn an_answer_goes_on_past_its_context_and_tells_what_it_dropped() {
    let wide = ["--context=64", "--swa-full=true", "--kv-type-k=q8_0"];
    for (family, flags) in [(Family::Llama, &wide[..1]), (Family::Gemma3, &wide)] {
        let answer = ask(&gguf(family), flags);
        assert_eq!(answer["usage"]["completion_tokens"], 200, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();
        let dropped = answer["sextant"]["dropped_tokens"].as_u64().unwrap();
        // What is left fits; a half of the context went each time.
        assert_eq!(dropped % 30, 0, "{answer}");
        assert!(prompt + 200 - dropped <= 64, "{answer}");
    }
}

#[test]
fn a_model_whose_positions_cannot_move_is_refused_with_the_reason() {
    let quantised = ["--context=64", "--kv-type-k=q8_0", "--kv-type-v=q8_0"];
    let scaled = Purpose {
        attention_factor: Some(1.2),
        ..Purpose::default()
    };
    for (model, flags, reason) in [
        // Of a shorter context the windows' part is not the smaller one.
        (
            gguf(Family::Gemma3),
            &["--context=4096"][..],
            "swa_full = true",
        ),
        (gguf(Family::Qwen35), &quantised[..1], "recurrent state"),
        (gguf(Family::Llama), &quantised, "multiple of 64"),
        (gguf(Family::DeepSeek2), &quantised, "MLA"),
        (gguf_for(Family::Llama, scaled), &quantised[..1], "YaRN"),
    ] {
        let answer = ask(&model, flags);
        let error = &answer["error"];
        assert_eq!(error["param"], "attention_sinks", "{reason}: {answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(reason), "{reason}: {message}");
    }
}

#[test]
fn a_model_may_be_loaded_to_go_on_and_is_not_where_it_cannot() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    sandbox.add_family("windowed", Family::Gemma3);
    let ask = |model: &str, context: &str, fields: Value| {
        let flags = [
            "--threads",
            "1",
            "--attention-sinks",
            "4",
            "--context",
            context,
        ];
        let served = sandbox.serve(&flags);
        let mut ask = json!({
            "model": model, "prompt": "a b c d", "max_tokens": 100, "ignore_eos": true,
            "temperature": 0,
        });
        let fields = fields.as_object().unwrap().clone();
        ask.as_object_mut().unwrap().extend(fields);
        served.ask("POST", "/v1/completions", &ask.to_string())
    };
    let n = |fields: Value| {
        let answer = ask("plain", "64", fields);
        answer["usage"]["completion_tokens"].as_u64().unwrap()
    };
    assert_eq!(n(json!({})), 100);
    assert!(n(json!({ "attention_sinks": 0 })) < 64);
    assert!(n(json!({ "n": 2 })) < 2 * 64);
    let refused = ask("windowed", "4096", json!({}));
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("attention_sinks is 4"), "{refused}");
    assert!(message.contains("swa_full"), "{refused}");
}

#[test]
fn what_is_left_past_the_context_is_measured() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    sandbox.add_family("windowed", Family::Gemma3);
    let stream = |model: &str, flags: &[&str]| {
        let common = ["kv", "stream", model, "--json", "--threads", "1"];
        sandbox.run(&[&common[..], flags].concat())
    };
    for (model, flags) in [
        ("plain", &["--window", "128", "--tokens", "1000"][..]),
        (
            "windowed",
            &["--window", "128", "--tokens", "1000", "--swa-full=true"],
        ),
    ] {
        let ran = stream(model, flags);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["tokens"], 1000);
        assert_eq!(report["positions"], 1000 - 128);
        let rows = report["rows"].as_array().unwrap();
        let sinks: Vec<_> = rows.iter().map(|row| row["sinks"].clone()).collect();
        assert_eq!(sinks, [0, 4]);
        // A model whose weights mean nothing expects as little as ever.
        let in_context = report["in_context"].as_f64().unwrap();
        for row in rows {
            let ratio = row["perplexity"].as_f64().unwrap() / in_context;
            assert!((0.8..1.25).contains(&ratio), "{row} {in_context}");
            assert!(row["shifts"].as_u64().unwrap() >= 13, "{row}");
            assert_eq!(row["parts"].as_array().unwrap().len(), 8);
        }
    }
    for (model, flags, told) in [
        (
            "windowed",
            &["--window", "1024", "--tokens", "3000"][..],
            "swa_full",
        ),
        (
            "plain",
            &["--window", "128", "--sinks", "65"],
            "half of the context",
        ),
        (
            "plain",
            &["--window", "600", "--tokens", "1000"],
            "more than twice",
        ),
    ] {
        let ran = stream(model, flags);
        assert_eq!(ran.code, 6, "{}", ran.stderr);
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}
