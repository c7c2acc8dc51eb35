//! `GET /api/logs`, over lines that a test says.

use axum::http::Method;
use serde_json::{Value, json};

use super::scripted::{Scripted, config, request, router, send};
use crate::{GatewayConfig, LogLine, Logs};

fn say(logs: &Logs, level: &'static str, model: Option<&str>, text: &str) {
    logs.push(LogLine {
        level,
        source: "engine".into(),
        model: model.map(str::to_owned),
        text: text.into(),
    });
}

async fn read(logs: &Logs, query: &str) -> Value {
    let config = GatewayConfig {
        logs: logs.clone(),
        ..config()
    };
    let path = format!("/api/logs{query}");
    let router = router(&Scripted::idle(), config);
    send(router, request(Method::GET, &path, "")).await.json()
}

#[tokio::test]
async fn lines_come_once_and_their_meaning_is_told_once() {
    let logs = Logs::default();
    assert_eq!(
        read(&logs, "").await,
        json!({"lines": [], "next": 0, "diagnoses": []})
    );
    say(&logs, "info", Some("m"), "loading <b>it</b>");
    let unknown = "unknown model architecture: 'x'";
    for model in ["m", "m", "n"] {
        say(&logs, "error", Some(model), unknown);
    }
    let all = read(&logs, "").await;
    let texts: Vec<_> = all["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["text"])
        .collect();
    assert_eq!(texts, ["loading <b>it</b>", unknown, unknown, unknown]);
    let told: Vec<_> = all["diagnoses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                &one["model"],
                &one["times"],
                &one["number"],
                &one["finding"]["code"],
            )
        })
        .collect();
    let code = json!("architecture_unknown");
    assert_eq!(
        told,
        [
            (&json!("n"), &json!(1), &json!(4), &code),
            (&json!("m"), &json!(2), &json!(3), &code),
        ]
    );
    // What was read is not read again, and its meaning stays.
    let none = read(&logs, "?after=4").await;
    assert_eq!((&none["lines"], &none["next"]), (&json!([]), &json!(4)));
    assert_eq!(none["diagnoses"], all["diagnoses"]);
    let last = read(&logs, "?after=1&limit=1").await;
    assert_eq!(last["lines"][0]["number"], 4);
    assert_eq!(last["lines"].as_array().unwrap().len(), 1);
    for query in ["?limit=0", "?limit=5000", "?since=1"] {
        assert!(
            read(&logs, query).await["error"]["code"].is_string(),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_harmless_line_of_the_endpoint_is_no_failure() {
    let logs = Logs::default();
    let own = |level| LogLine {
        level,
        source: "gateway".into(),
        model: Some(level.to_owned()),
        text: "GET /?q=unknown model architecture".into(),
    };
    logs.push(own("info"));
    logs.push(own("debug"));
    assert_eq!(read(&logs, "").await["diagnoses"], json!([]));
    logs.push(own("warn"));
    logs.push(own("error"));
    // An engine's word counts whatever its level.
    say(&logs, "info", Some("m"), "unknown model architecture: 'x'");
    let told = read(&logs, "").await;
    let told = told["diagnoses"].as_array().unwrap();
    let models: Vec<_> = told.iter().map(|one| &one["model"]).collect();
    assert_eq!(models, ["m", "error", "warn"]);
}
