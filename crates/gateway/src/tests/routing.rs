//! Requests on their way through several engines.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use futures_util::{StreamExt, stream};
use proto::Event;
use router::{Policy, Reach, Rule, Rules};
use serde_json::{Value, json};

use super::scripted::{Reply, Scripted, config, hello, request, routed, send};
use super::upstream::{Fate, Fates, Upstream, reply_to};
use crate::{RoutedProvider, Routing};

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str, text: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }] }).to_string()
}

fn streamed(model: &str, text: &str) -> String {
    json!({
        "model": model,
        "messages": [{ "role": "user", "content": text }],
        "stream": true,
    })
    .to_string()
}

fn endpoint(backend: &Arc<Scripted>, providers: Vec<RoutedProvider>) -> Router {
    let routing = Routing {
        providers,
        ..Routing::default()
    };
    routed(backend, config(), routing)
}

async fn post(app: &Router, path: &str, body: &str) -> Reply {
    send(app.clone(), request(Method::POST, path, body.to_owned())).await
}

/// No models of its own.
fn empty() -> Arc<Scripted> {
    Scripted::with_models(Vec::new())
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.header(name).unwrap_or_default()
}

#[tokio::test]
async fn another_engine_answers_whole_and_as_a_stream() {
    let upstream = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(&empty(), vec![upstream.provider("box", Reach::Lan, 1)]);
    let whole = post(&app, CHAT, &chat("m", "Hi")).await;
    assert_eq!(
        whole.json()["choices"][0]["message"]["content"],
        reply_to("Hi")
    );
    assert_eq!(whole.json()["model"], "m");
    assert_eq!(whole.json()["usage"]["completion_tokens"], 5);
    assert_eq!(header(&whole, "x-sextant-served-by"), "box:m");
    assert_eq!(header(&whole, "x-sextant-attempts"), "1");
    let ready = send(app.clone(), request(Method::GET, "/ready", "")).await;
    assert_eq!(ready.status, 200);
    let stream = post(&app, CHAT, &streamed("m", "Hi")).await;
    assert_eq!(text_of(&stream.body), reply_to("Hi"));
    assert!(stream.body.ends_with("data: [DONE]\n\n"), "{}", stream.body);
}

/// The text of a stream's chunks.
fn text_of(body: &str) -> String {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let chunks = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let text = |chunk: Value| {
        let content = &chunk["choices"][0]["delta"]["content"];
        content.as_str().unwrap_or_default().to_owned()
    };
    chunks.map(text).collect()
}

#[tokio::test]
async fn every_failure_before_the_answer_leads_on() {
    let fates: [(Fates, &str); 8] = [
        (|_| Fate::Status(500), "upstream_failed"),
        (|_| Fate::Status(401), "upstream_denied"),
        (|_| Fate::RateLimited, "upstream_rate_limited"),
        (|_| Fate::Hang, "upstream_timeout"),
        (|_| Fate::Kill, "upstream_failed"),
        (|_| Fate::Corrupt, "upstream_failed"),
        (|_| Fate::Empty, "upstream_failed"),
        (|_| Fate::Status(404), "upstream_denied"),
    ];
    let well = Upstream::start(|_| Fate::Answer).await;
    for (fate, code) in fates {
        let ill = Upstream::start(fate).await;
        let app = endpoint(
            &empty(),
            vec![
                ill.hasty("ill", Reach::Lan, 1),
                well.provider("well", Reach::Lan, 2),
            ],
        );
        for body in [streamed("m", "Hi"), chat("m", "Hi")] {
            let reply = post(&app, CHAT, &body).await;
            assert_eq!(reply.status, 200, "{code}: {}", reply.body);
            assert_eq!(header(&reply, "x-sextant-served-by"), "well:m");
            // The second time the first may be cooling down already.
            if header(&reply, "x-sextant-attempts") == "2" {
                let trail = format!("ill:m={code}");
                assert_eq!(header(&reply, "x-sextant-trail"), trail);
            }
        }
        assert!(!ill.seen().is_empty());
    }
}

#[tokio::test]
async fn a_dead_engine_is_found_out_and_named() {
    let ill = Upstream::start(|_| Fate::Answer).await;
    let provider = ill.provider("ill", Reach::Lan, 1);
    drop(ill);
    let app = endpoint(&empty(), vec![provider]);
    let reply = post(&app, CHAT, &chat("ill:m", "Hi")).await;
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert_eq!(reply.json()["error"]["code"], "no_provider");
    let reply = post(&app, "/v1/route", &chat("ill:m", "Hi")).await;
    assert_eq!(reply.json()["excluded"][0]["reason"], "down");
}

#[tokio::test]
async fn a_cut_after_text_is_an_error_and_before_it_is_not() {
    let cut = Upstream::start(|_| Fate::Cut).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(
        &empty(),
        vec![
            cut.provider("cut", Reach::Lan, 1),
            well.provider("well", Reach::Lan, 2),
        ],
    );
    let stream = post(&app, CHAT, &streamed("m", "Hi")).await;
    assert!(
        stream.body.contains("\"code\":\"upstream_failed\""),
        "{}",
        stream.body
    );
    assert!(!stream.body.contains("[DONE]"));
    // Nothing of a whole answer was sent yet.
    let whole = post(&app, CHAT, &chat("m", "Hi")).await;
    assert_eq!(
        whole.json()["choices"][0]["message"]["content"],
        reply_to("Hi")
    );
}

#[tokio::test]
async fn our_own_model_goes_first_and_others_step_in() {
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let failed = Event::Failed(proto::JobFailure {
        kind: proto::FailureKind::WorkerLost {
            cause: "killed".into(),
        },
        message: "gone".into(),
        param: None,
    });
    let backend = Scripted::new(vec![hello(), vec![failed]]);
    let routing = Routing {
        providers: vec![cloud.provider("cloud", Reach::Cloud, 1)],
        policy: Policy {
            fallback: vec!["cloud:m".into()],
            ..Policy::default()
        },
        ..Routing::default()
    };
    let app = routed(&backend, config(), routing);
    let reply = post(&app, CHAT, &chat("tiny", "Hi")).await;
    assert_eq!(header(&reply, "x-sextant-served-by"), "embedded:tiny");
    let reply = post(&app, CHAT, &chat("tiny", "Hi")).await;
    assert_eq!(header(&reply, "x-sextant-served-by"), "cloud:m");
    assert_eq!(
        header(&reply, "x-sextant-trail"),
        "embedded:tiny=worker_lost"
    );
}

#[tokio::test]
async fn privacy_is_kept_and_fails_closed() {
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let routing = Routing {
        providers: vec![cloud.provider("cloud", Reach::Cloud, 1)],
        rules: Rules::new(&[Rule {
            name: "secrets".into(),
            patterns: vec!["secrets".into()],
            reach: Reach::Device,
        }])
        .unwrap(),
        ..Routing::default()
    };
    let app = routed(&empty(), config(), routing);
    let ask = async |label: Option<&str>, text: &str| {
        let mut request = request(Method::POST, CHAT, chat("cloud:m", text));
        if let Some(label) = label {
            let label = label.parse().unwrap();
            request.headers_mut().insert("x-routing-privacy", label);
        }
        send(app.clone(), request).await
    };
    assert_eq!(ask(None, "Hi").await.status, 200);
    assert_eq!(ask(Some("any"), "Hi").await.status, 200);
    for (label, text) in [
        (Some("local_only"), "Hi"),
        (Some("lan_only"), "Hi"),
        (Some("any"), "AKIAIOSFODNN7EXAMPLE"),
        (None, "AKIAIOSFODNN7EXAMPLE"),
    ] {
        let reply = ask(label, text).await;
        assert_eq!(reply.status, 403, "{label:?} {text}");
        assert_eq!(reply.json()["error"]["code"], "privacy_refused");
    }
    // Every prompt of a request counts, not only the first.
    let prompts = json!({ "model": "cloud:m", "prompt": ["Hi", "AKIAIOSFODNN7EXAMPLE"] });
    let reply = post(&app, "/v1/completions", &prompts.to_string()).await;
    assert_eq!(reply.status, 403, "{}", reply.body);
    // So does what JSON inside of a text writes in escapes.
    let escaped = "{\"a\":\"AKI\\u0041IOSFODNN7EXAMPLE\"}";
    let call = json!({ "id": "c", "type": "function", "function": {
        "name": "f", "arguments": escaped,
    } });
    let called = json!({ "model": "cloud:m", "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "c", "content": "done" },
    ] });
    let reply = post(&app, CHAT, &called.to_string()).await;
    assert_eq!(reply.status, 403, "{}", reply.body);
    // A name that nobody has is no matter of privacy.
    let mut typo = request(Method::POST, CHAT, chat("cluod-m", "Hi"));
    let label = "local_only".parse().unwrap();
    typo.headers_mut().insert("x-routing-privacy", label);
    assert_eq!(send(app.clone(), typo).await.status, 404);
    let unknown = ask(Some("local-only"), "Hi").await;
    assert_eq!(unknown.status, 400);
    assert_eq!(unknown.json()["error"]["param"], "x-routing-privacy");
    assert_eq!(cloud.seen().len(), 2);
}

#[tokio::test]
async fn a_circle_is_broken() {
    let app = endpoint(&empty(), Vec::new());
    let mut request = request(Method::POST, CHAT, chat("m", "Hi"));
    request
        .headers_mut()
        .insert("x-sextant-hops", "4".parse().unwrap());
    let reply = send(app, request).await;
    assert_eq!(reply.status, 508);
    assert_eq!(reply.json()["error"]["code"], "routing_circle");
}

#[tokio::test]
async fn decisions_are_explained_and_providers_listed() {
    let upstream = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(
        &Scripted::idle(),
        vec![upstream.provider("box", Reach::Lan, 1)],
    );
    let reply = post(&app, "/v1/route", &json!({ "model": "auto" }).to_string()).await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&reply.json()).unwrap());
    assert_eq!(upstream.seen().len(), 0);
    let reply = send(app, request(Method::GET, "/v1/models", "")).await;
    let ids: Vec<_> = reply.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["tiny", "box:m"]);
}

/// Faults of an engine that is ill in every way.
fn ill(n: usize) -> Fate {
    match n * 7919 % 20 {
        0 | 1 => Fate::Status(500),
        2 => Fate::RateLimited,
        3 => Fate::Hang,
        4 | 5 => Fate::Kill,
        6 => Fate::Cut,
        7 => Fate::Corrupt,
        8 => Fate::Empty,
        9 => Fate::Status(503),
        10 => Fate::Slow(Duration::from_millis(20)),
        _ => Fate::Answer,
    }
}

/// How one request of the storm ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Answered,
    /// An error with a code of the table, in a stream after text.
    CutWithError,
    Other(String),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_faults_loses_nothing_and_leaks_nothing() {
    const REQUESTS: usize = 2_000;
    const AT_ONCE: usize = 16;
    let cloud = Upstream::start(ill).await;
    let near = Upstream::start(ill).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(
        &empty(),
        vec![
            // The farthest is preferred, so that only the labels keep requests here.
            cloud.hasty("cloud", Reach::Cloud, 1),
            near.hasty("near", Reach::Lan, 2),
            well.provider("well", Reach::Device, 3),
        ],
    );
    let ends: Vec<End> = stream::iter(0..REQUESTS)
        .map(|n| {
            let app = app.clone();
            async move { tokio::spawn(one(app, n)).await.unwrap() }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let n = |wanted: &End| ends.iter().filter(|end| *end == wanted).count();
    let others: Vec<_> = ends
        .iter()
        .filter(|end| matches!(end, End::Other(_)))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(n(&End::Answered) + n(&End::CutWithError), REQUESTS);
    // Each cut came after text of an engine that was told to cut.
    assert!(
        n(&End::CutWithError) < REQUESTS / 10,
        "{}",
        n(&End::CutWithError)
    );
    let leaks = |upstream: &Upstream, forbidden: &[&str]| {
        let seen = upstream.seen();
        let texts = seen
            .iter()
            .map(|body| body["messages"][0]["content"].to_string());
        let leaked = texts.filter(|text| forbidden.iter().any(|label| text.contains(label)));
        (seen.len(), leaked.count())
    };
    let (n_cloud, leaked) = leaks(&cloud, &["local_only", "lan_only"]);
    assert_eq!(leaked, 0, "of {n_cloud} to the cloud");
    let (n_near, leaked) = leaks(&near, &["local_only"]);
    assert_eq!(leaked, 0, "of {n_near} to the local network");
    assert!(n_cloud > 0 && n_near > 0);
}

async fn one(app: Router, n: usize) -> End {
    let label = ["local_only", "lan_only", "any"][n % 3];
    let prompt = format!("{label} {n}");
    let body = match n % 2 {
        0 => chat("m", &prompt),
        _ => streamed("m", &prompt),
    };
    let mut request = request(Method::POST, CHAT, body);
    let value = label.parse().unwrap();
    request.headers_mut().insert("x-routing-privacy", value);
    let reply = send(app, request).await;
    let text = match n % 2 {
        0 => match serde_json::from_str::<Value>(&reply.body) {
            Ok(body) => body["choices"][0]["message"]["content"].clone(),
            Err(error) => return End::Other(error.to_string()),
        },
        _ => text_of(&reply.body).into(),
    };
    if text == reply_to(&prompt) {
        return End::Answered;
    }
    let is_typed = reply.body.contains("\"code\":\"upstream_");
    match n % 2 == 1 && is_typed && !reply.body.contains("[DONE]") {
        true => End::CutWithError,
        false => End::Other(format!("{} {}", reply.status, reply.body)),
    }
}

/// The order of decisions is told in the words of the code.
#[test]
fn the_page_on_routing_tells_the_order_of_the_code() {
    let page = include_str!("../../../../docs/routing.md");
    let words = |heading: &str| -> Vec<String> {
        let (_, table) = page.split_once(heading).unwrap();
        let rows = table.lines().skip_while(|line| !line.starts_with("|---"));
        let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('`').nth(1).unwrap().to_owned())
            .collect()
    };
    assert_eq!(words("| reason |"), router::Exclusion::WORDS);
    let advantages = router::Advantage::ALL.map(router::Advantage::word);
    assert_eq!(words("| advantage |"), advantages);
    for advantage in router::Advantage::ALL {
        assert!(page.contains(advantage.sentence()), "{}", advantage.word());
    }
    for task in router::Task::ALL {
        assert!(page.contains(task.word()));
    }
}

#[tokio::test]
async fn a_label_holds_for_what_continues() {
    let near = Upstream::start(|_| Fate::Answer).await;
    let cloud = Upstream::start(|_| Fate::Answer).await;
    let routing = Routing {
        providers: vec![
            cloud.provider("cloud", Reach::Cloud, 1),
            near.provider("near", Reach::Device, 2),
        ],
        ..Routing::default()
    };
    let app = routed(&empty(), config(), routing);
    let respond = async |label: Option<&str>, previous: Option<&Value>| {
        let body = json!({ "model": "m", "input": "Hi", "previous_response_id": previous });
        let mut request = request(Method::POST, "/v1/responses", body.to_string());
        if let Some(label) = label {
            let label = label.parse().unwrap();
            request.headers_mut().insert("x-routing-privacy", label);
        }
        send(app.clone(), request).await
    };
    let first = respond(Some("local_only"), None).await;
    assert_eq!(header(&first, "x-sextant-served-by"), "near:m");
    // The client does not repeat the label, but what it continues had one.
    let second = respond(None, Some(&first.json()["id"])).await;
    assert_eq!(header(&second, "x-sextant-served-by"), "near:m");
    let free = respond(None, None).await;
    assert_eq!(header(&free, "x-sextant-served-by"), "cloud:m");
    assert_eq!(cloud.seen().len(), 1);
}
