//! Images on their way to an engine that sees.

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use router::{Reach, Rule, Rules};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::scripted::{Reply, Scripted, config, hello, request, routed, send};
use super::server::{read_until, run_app};
use super::upstream::{Fate, Upstream};
use crate::{RoutedProvider, Routing};

const CHAT: &str = "/v1/chat/completions";
const DATA: &str = "iVBORw0KGgoAAAANSUhEUg==";
const ADDRESS: &str = "https://images.example/one.png";

fn endpoint(backend: &Arc<Scripted>, providers: Vec<RoutedProvider>) -> Router {
    let routing = Routing {
        providers,
        ..Routing::default()
    };
    routed(backend, config(), routing)
}

async fn post(app: &Router, path: &str, body: &Value) -> Reply {
    send(app.clone(), request(Method::POST, path, body.to_string())).await
}

/// What an engine that sees was sent, and what the client got, whole and as a stream.
async fn transcript(path: &str, mut body: Value) -> String {
    let upstream = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(
        &Scripted::with_models(Vec::new()),
        vec![upstream.seeing("eye", Reach::Lan, 1)],
    );
    body["model"] = "m".into();
    let mut lines = Vec::new();
    for stream in [false, true] {
        body["stream"] = stream.into();
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let seen = upstream.seen().pop().unwrap();
        let sent = serde_json::to_string_pretty(&seen["messages"]).unwrap();
        match stream {
            false => lines.extend([sent, reply.body]),
            true => lines.push(reply.body),
        }
    }
    untimed(&lines.join("\n\n"))
}

/// Without the figures that differ from run to run.
fn untimed(text: &str) -> String {
    let names = ["_ms", "_per_second", "_duration"].map(|name| format!("{name}\":"));
    let mut parts = text.split_inclusive("\":");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_figure = names.iter().any(|name| out.ends_with(name));
        let end = part.find([',', '}']).unwrap_or(0);
        match is_figure {
            true => out.extend(["0", &part[end..]]),
            false => out.push_str(part),
        }
    }
    out
}

fn data_url() -> String {
    format!("data:image/png;base64,{DATA}")
}

/// A chat that shows something.
fn shows(model: &str, url: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": [
        { "type": "text", "text": "What is it?" },
        { "type": "image_url", "image_url": { "url": url } },
    ] }] })
}

#[tokio::test]
async fn openai() {
    let content = json!([
        { "type": "text", "text": "First " },
        { "type": "image_url", "image_url": { "url": data_url(), "detail": "low" } },
        { "type": "text", "text": "then " },
        { "type": "image_url", "image_url": ADDRESS },
    ]);
    let body = json!({ "messages": [{ "role": "user", "content": content }] });
    insta::assert_snapshot!(transcript(CHAT, body).await);
}

#[tokio::test]
async fn anthropic() {
    let image = json!({ "type": "image", "source": {
        "type": "base64", "media_type": "image/jpeg", "data": "AAAA",
    } });
    let linked = json!({ "type": "image", "source": { "type": "url", "url": ADDRESS } });
    let used = json!({ "type": "tool_use", "id": "a", "name": "look", "input": {} });
    let result = json!({ "type": "tool_result", "tool_use_id": "a", "content": [
        { "type": "text", "text": "Here:" }, linked,
    ] });
    let body = json!({ "max_tokens": 16, "messages": [
        { "role": "user", "content": [image, { "type": "text", "text": "What is it?" }] },
        { "role": "assistant", "content": [used] },
        { "role": "user", "content": [result, { "type": "text", "text": "Well?" }] },
    ] });
    insta::assert_snapshot!(transcript("/v1/messages", body).await);
}

#[tokio::test]
async fn ollama_chat() {
    let body = json!({ "messages": [
        { "role": "user", "content": "What is it?", "images": [DATA, "/9j/4AAQ"] },
    ] });
    insta::assert_snapshot!(transcript("/api/chat", body).await);
}

#[tokio::test]
async fn ollama_generate() {
    let body = json!({ "prompt": "What is it?", "images": [DATA] });
    insta::assert_snapshot!(transcript("/api/generate", body).await);
}

#[tokio::test]
async fn responses() {
    let shown = json!({ "type": "input_image", "image_url": data_url(), "detail": "high" });
    let linked = json!({ "type": "input_image", "image_url": ADDRESS });
    let call = |id: &str| json!({ "type": "function_call", "call_id": id, "name": "f", "arguments": "{}" });
    let body = json!({ "input": [
        { "role": "user", "content": [{ "type": "input_text", "text": "What is it?" }, shown] },
        call("a"),
        call("b"),
        { "type": "function_call_output", "call_id": "a", "output": [linked] },
        { "type": "function_call_output", "call_id": "b", "output": "done" },
    ] });
    insta::assert_snapshot!(transcript("/v1/responses", body).await);
}

/// The request over a socket, and the answer's status line, headers and body.
async fn over_a_socket(app: &Router, path: &str, body: &Value) -> String {
    let running = run_app(app.clone(), config()).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    let answer = read_until(&mut socket, "}").await;
    running.stop.send(()).unwrap();
    answer
}

#[tokio::test]
async fn only_who_is_known_to_see_is_shown_an_image() {
    let (blind, eye) = (
        Upstream::start(|_| Fate::Answer).await,
        Upstream::start(|_| Fate::Answer).await,
    );
    let tiny = Scripted::new(vec![hello()]);
    let providers = vec![
        blind.provider("blind", Reach::Device, 1),
        eye.seeing("eye", Reach::Cloud, 2),
    ];
    let app = endpoint(&tiny, providers);
    for url in [ADDRESS, &data_url()] {
        let answer = over_a_socket(&app, CHAT, &shows("m", url)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("x-sextant-served-by: eye:m"), "{answer}");
        let sent = &eye.seen().pop().unwrap()["messages"][0]["content"];
        assert_eq!(sent[1]["image_url"]["url"], url);
    }
    assert!(blind.seen().is_empty());
    let route = post(&app, "/v1/route", &shows("m", ADDRESS)).await.json();
    assert_eq!(route["candidates"][0]["provider"], "eye");
    let excluded = route["excluded"].as_array().unwrap();
    let blind = excluded.iter().find(|one| one["provider"] == "blind");
    assert_eq!(blind.unwrap()["reason"], "unknown_capability");
    assert!(route.to_string().contains("`vision`"), "{route}");
    // The models of this process are known not to.
    let answer = over_a_socket(&app, CHAT, &shows("tiny", ADDRESS)).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("capability_missing"), "{answer}");
    assert!(answer.contains("the model cannot do `vision`"), "{answer}");
    assert!(tiny.jobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nobody_sees_where_there_are_no_providers() {
    let tiny = Scripted::new(vec![hello()]);
    let app = endpoint(&tiny, Vec::new());
    let bodies = [
        (CHAT, shows("tiny", ADDRESS)),
        ("/apply-template", shows("tiny", ADDRESS)),
        (
            "/api/generate",
            json!({ "model": "tiny", "prompt": "x", "images": [DATA] }),
        ),
    ];
    for (path, body) in bodies {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        assert!(reply.body.contains("`vision`"), "{path}: {}", reply.body);
    }
    assert!(tiny.jobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_rule_can_look_into_an_image() {
    let eye = Upstream::start(|_| Fate::Answer).await;
    let with = |patterns: &[&str], image_reach| {
        let rules = patterns.iter().map(|pattern| Rule {
            name: "notes".into(),
            patterns: vec![(*pattern).to_owned()],
            reach: Reach::Lan,
        });
        let routing = Routing {
            providers: vec![eye.seeing("eye", Reach::Cloud, 1)],
            rules: Rules::new(&rules.collect::<Vec<_>>()).unwrap(),
            image_reach,
            ..Routing::default()
        };
        routed(&Scripted::with_models(Vec::new()), config(), routing)
    };
    // Without rules nothing is looked for.
    let free = post(&with(&[], None), CHAT, &shows("m", ADDRESS)).await;
    assert_eq!(free.status, 200, "{}", free.body);
    let held = post(&with(&["heron"], None), CHAT, &shows("m", ADDRESS)).await;
    assert_eq!(held.status, 403, "{}", held.body);
    assert!(held.body.contains("the label of images says `lan_only`"));
    let text = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] });
    let read = post(&with(&["heron"], None), CHAT, &text).await;
    assert_eq!(read.status, 200, "{}", read.body);
    // The operator may know better, and the address of an image is still a text.
    let allowed = with(&["heron"], Some(Reach::Cloud));
    let reply = post(&allowed, CHAT, &shows("m", &data_url())).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = post(&allowed, CHAT, &shows("m", "https://a.example/heron.png")).await;
    assert_eq!(reply.status, 403, "{}", reply.body);
    assert!(reply.body.contains("the rule `notes`"), "{}", reply.body);
    let strict = with(&[], Some(Reach::Device));
    let reply = post(&strict, CHAT, &shows("m", ADDRESS)).await;
    assert_eq!(reply.status, 403, "{}", reply.body);
}
