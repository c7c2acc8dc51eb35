//! How requests are run: continued, hedged, in order of importance, under rules that change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use futures_util::{StreamExt, stream};
use router::{Policy, Reach};
use serde_json::{Value, json};

use super::scripted::{Reply, Scripted, config, request, routed, send};
use super::upstream::{Fate, Upstream, reply_to};
use crate::ids::Stamps;
use crate::{AppState, RoutedProvider, Routing, RoutingSource, app};

const CHAT: &str = "/v1/chat/completions";

fn body(text: &str) -> Value {
    json!({
        "model": "m",
        "messages": [{ "role": "user", "content": text }],
        "stream": true,
        "stream_options": { "include_usage": true },
    })
}

fn endpoint(providers: Vec<RoutedProvider>, change: impl FnOnce(&mut Routing)) -> Router {
    let mut routing = Routing {
        providers,
        ..Routing::default()
    };
    change(&mut routing);
    routed(&Scripted::with_models(Vec::new()), config(), routing)
}

async fn post(app: &Router, headers: &[(&'static str, &str)], body: &Value) -> Reply {
    let mut request = request(Method::POST, CHAT, body.to_string());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    send(app.clone(), request).await
}

fn chunks(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}

fn text_of(body: &str) -> String {
    let text = |chunk: &Value| {
        let content = &chunk["choices"][0]["delta"]["content"];
        content.as_str().unwrap_or_default().to_owned()
    };
    chunks(body).iter().map(text).collect()
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_continued_where_that_is_wanted() {
    let cut = Upstream::start(|_| Fate::Cut).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(
        vec![
            cut.provider("cut", Reach::Lan, 1),
            well.provider("well", Reach::Lan, 2),
        ],
        |_| (),
    );
    let wanted = [("x-sextant-continue", "on")];
    let reply = post(&app, &wanted, &body("Hi there")).await;
    assert_eq!(text_of(&reply.body), reply_to("Hi there"));
    assert!(reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
    assert!(reply.body.contains(": continued by well:m\n\n"));
    let last = chunks(&reply.body).pop().unwrap();
    let warning = "The answer broke off and was continued by well:m.";
    assert_eq!(last["sextant"]["warnings"], json!([warning]));
    // One piece of the first and the five that the second counts.
    assert_eq!(last["usage"]["completion_tokens"], 6);
    assert_eq!(last["usage"]["prompt_tokens"], 3);
    // The second was given what the client has.
    let seen = well.seen();
    assert_eq!(seen[0]["messages"][1]["role"], "assistant");
    assert_eq!(seen[0]["messages"][1]["content"], "You ");
    assert_eq!(seen[0]["add_generation_prompt"], false);

    let refused = post(&app, &[("x-sextant-continue", "yes")], &body("Hi")).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "x-sextant-continue");
}

#[tokio::test]
async fn what_cannot_be_continued_ends_with_its_error() {
    let cut = Upstream::start(|_| Fate::Cut).await;
    let again = Upstream::start(|_| Fate::Cut).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let wanted = [("x-sextant-continue", "on")];
    let mut shaped = body("Hi");
    shaped["response_format"] = json!({ "type": "json_object" });
    let app = endpoint(
        vec![
            cut.provider("cut", Reach::Lan, 1),
            well.provider("well", Reach::Lan, 2),
        ],
        |routing| routing.continue_streams = true,
    );
    for (headers, body) in [
        (&wanted[..], &shaped),
        (&[("x-sextant-continue", "off")], &body("Hi")),
    ] {
        let reply = post(&app, headers, body).await;
        assert!(
            reply.body.contains("\"code\":\"upstream_failed\""),
            "{}",
            reply.body
        );
        assert!(!reply.body.contains("[DONE]"));
    }
    assert!(well.seen().is_empty());
    // Both cut: the second goes on, and its own end is the end.
    let app = endpoint(
        vec![
            cut.provider("cut", Reach::Lan, 1),
            again.provider("again", Reach::Lan, 2),
        ],
        |_| (),
    );
    let reply = post(&app, &wanted, &body("Hi there")).await;
    assert!(reply.body.contains(": continued by again:m"));
    assert_eq!(text_of(&reply.body), reply_to("Hi there")[..8]);
    assert!(reply.body.contains("\"code\":\"upstream_failed\""));
    assert!(!reply.body.contains("[DONE]"));
}

#[tokio::test]
async fn a_silence_is_hedged() {
    let slow = Upstream::start(|_| Fate::Hang).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(
        vec![
            slow.provider("slow", Reach::Lan, 1),
            well.provider("well", Reach::Lan, 2),
        ],
        |routing| routing.hedge_after = Some(Duration::from_millis(20)),
    );
    for stream in [true, false] {
        let mut body = body("Hi");
        body["stream"] = stream.into();
        if !stream {
            body.as_object_mut().unwrap().remove("stream_options");
        }
        let reply = post(&app, &[], &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(reply.body.contains("said: Hi") || text_of(&reply.body) == reply_to("Hi"));
        assert_eq!(reply.header("x-sextant-served-by"), Some("well:m"));
        assert_eq!(reply.header("x-sextant-attempts"), Some("2"));
        // It has not failed, only lost.
        assert_eq!(reply.header("x-sextant-trail"), None);
    }
    assert_eq!((slow.seen().len(), well.seen().len()), (2, 2));
}

#[tokio::test]
async fn whoever_is_hedged_may_still_win() {
    let slow = Upstream::start(|_| Fate::Slow(Duration::from_millis(60))).await;
    let dead = Upstream::start(|_| Fate::Hang).await;
    let broken = Upstream::start(|_| Fate::Status(500)).await;
    for rival in [&dead, &broken] {
        let app = endpoint(
            vec![
                slow.provider("slow", Reach::Lan, 1),
                rival.provider("rival", Reach::Lan, 2),
            ],
            |routing| routing.hedge_after = Some(Duration::from_millis(5)),
        );
        let reply = post(&app, &[], &body("Hi")).await;
        assert_eq!(text_of(&reply.body), reply_to("Hi"));
        assert_eq!(reply.header("x-sextant-served-by"), Some("slow:m"));
    }
}

#[tokio::test]
async fn priorities_are_words_and_checked() {
    let well = Upstream::start(|_| Fate::Answer).await;
    let app = endpoint(vec![well.provider("well", Reach::Lan, 1)], |_| ());
    let reply = post(&app, &[("x-sextant-priority", "high")], &body("Hi")).await;
    assert_eq!(reply.status, 200);
    let reply = post(&app, &[("x-sextant-priority", "urgent")], &body("Hi")).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["param"], "x-sextant-priority");
}

/// Rules that a test sets.
#[derive(Debug, Default)]
struct Source(Mutex<Option<Result<Routing, String>>>);

impl RoutingSource for Source {
    fn read(&self) -> Result<Routing, String> {
        self.0.lock().unwrap().take().unwrap()
    }
}

fn under(providers: Vec<RoutedProvider>, alias: &str, target: &str) -> Routing {
    Routing {
        providers,
        policy: Policy {
            aliases: [(alias.to_owned(), vec![target.to_owned()])].into(),
            ..Policy::default()
        },
        ..Routing::default()
    }
}

#[tokio::test]
async fn rules_change_and_a_bad_file_changes_nothing() {
    let one = Upstream::start(|_| Fate::Answer).await;
    let two = Upstream::start(|_| Fate::Answer).await;
    let source = Arc::new(Source::default());
    let mut config = config();
    config.routing_source = Some(source.clone());
    let first = under(vec![one.provider("one", Reach::Lan, 1)], "fast", "one:m");
    let app = routed(&Scripted::with_models(Vec::new()), config, first);
    let ask = async |model: &str| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }] });
        let reply = post(&app, &[], &body).await;
        (
            reply.status.as_u16(),
            reply.header("x-sextant-served-by").map(str::to_owned),
        )
    };
    let reload = async |routing| {
        *source.0.lock().unwrap() = Some(routing);
        send(app.clone(), request(Method::POST, "/admin/reload", "")).await
    };
    assert_eq!(ask("fast").await, (200, Some("one:m".into())));

    let bad = reload(Err("config.toml:3: `kind` is `x`".into())).await;
    assert_eq!(bad.status, 422);
    assert_eq!(bad.json()["error"]["code"], "configuration_invalid");
    assert!(bad.body.contains("config.toml:3"), "{}", bad.body);
    assert_eq!(ask("fast").await, (200, Some("one:m".into())));
    let shown = send(app.clone(), request(Method::GET, "/v1/providers", ""))
        .await
        .json();
    assert_eq!(
        shown["configuration"]["error"],
        "config.toml:3: `kind` is `x`"
    );

    let providers = vec![
        one.provider("one", Reach::Lan, 1),
        two.provider("two", Reach::Lan, 2),
    ];
    let good = reload(Ok(under(providers, "fast", "two:m"))).await;
    assert_eq!(good.json(), json!({ "added": ["two"], "removed": [] }));
    assert_eq!(ask("fast").await, (200, Some("two:m".into())));
    let shown = send(app.clone(), request(Method::GET, "/v1/providers", ""))
        .await
        .json();
    assert_eq!(shown["configuration"]["error"], Value::Null);
    assert_eq!(shown["configuration"]["reloads"], 1);

    let good = reload(Ok(under(
        vec![two.provider("one", Reach::Lan, 1)],
        "fast",
        "one:m",
    )))
    .await;
    let changed = json!({ "added": ["one"], "removed": ["one", "two"] });
    assert_eq!(good.json(), changed);
    assert_eq!(two.seen().len(), 1);
    assert_eq!(ask("fast").await, (200, Some("one:m".into())));
    assert_eq!(two.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_drop_no_request() {
    const REQUESTS: usize = 600;
    let slow = Upstream::start(|n| Fate::Slow(Duration::from_millis(n as u64 % 7))).await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let source = Arc::new(Source::default());
    let both = |first: u32| {
        vec![
            slow.provider("slow", Reach::Lan, first),
            well.provider("well", Reach::Lan, 2),
        ]
    };
    let backend = Scripted::with_models(Vec::new());
    let state = AppState::with_stamps(
        backend,
        config(),
        under(both(1), "fast", "slow:m"),
        Stamps::Fixed,
    );
    let app = app(state.clone());
    let over = AtomicBool::new(false);
    let answered = async {
        let replies = stream::iter(0..REQUESTS).map(|n| {
            let (app, text) = (app.clone(), format!("Hi {n}"));
            async move {
                let reply = post(&app, &[], &body(&text)).await;
                assert_eq!(text_of(&reply.body), reply_to(&text), "{}", reply.body);
                assert!(reply.body.ends_with("data: [DONE]\n\n"));
            }
        });
        let n = replies.buffer_unordered(16).count().await;
        over.store(true, Ordering::Relaxed);
        n
    };
    let reloads = async {
        let mut n = 0;
        // On a slow machine the answers may be there before there were many.
        while !over.load(Ordering::Relaxed) || n < 12 {
            n += 1;
            // Providers come and go, change their order and their places.
            let mut providers = both(n % 4);
            providers.truncate(2 - n as usize % 2);
            providers[0].requests_max = 1 + n % 3;
            let rules = under(providers, "fast", "slow:m");
            *source.0.lock().unwrap() = Some(Ok(rules));
            state.reload(&*source).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        n
    };
    let (answered, reloads) = tokio::join!(answered, reloads);
    assert_eq!(answered, REQUESTS);
    assert!(reloads > 10, "{reloads}");
}

#[tokio::test]
async fn a_stop_string_is_not_lost_where_an_answer_is_continued() {
    let cut = Upstream::with(Fate::Says(&[
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"You \"}}]}",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"sai\"}}]}",
    ]))
    .await;
    let well = Upstream::start(|_| Fate::Answer).await;
    let providers = vec![
        cut.provider("cut", Reach::Lan, 1),
        well.provider("well", Reach::Lan, 2),
    ];
    let app = endpoint(providers, |routing| routing.continue_streams = true);
    let mut body = body("Hi");
    body["stop"] = json!(["said!"]);
    let reply = post(&app, &[], &body).await;
    assert!(
        reply.body.contains(": continued by well:m"),
        "{}",
        reply.body
    );
    assert_eq!(text_of(&reply.body), reply_to("Hi"));
    // What may begin a stop string is written anew by who can see all of it.
    assert_eq!(well.seen()[0]["messages"][1]["content"], "You ");
}

#[tokio::test]
async fn the_rules_bind_what_is_kept_also_where_nobody_else_could_answer() {
    for (said, status, n_sent) in [("A heron", 403, 0), ("A duck", 200, 1)] {
        let cloud = Upstream::start(|_| Fate::Answer).await;
        let source = Arc::new(Source::default());
        let mut config = config();
        config.routing_source = Some(source.clone());
        let rule = router::Rule {
            name: "birds".into(),
            patterns: vec!["heron".into()],
            reach: Reach::Device,
        };
        let ruled = Routing {
            rules: router::Rules::new(&[rule]).unwrap(),
            ..Routing::default()
        };
        let backend = Scripted::new(vec![crate::tests::scripted::hello()]);
        let app = routed(&backend, config, ruled);
        let respond = async |model: &str, input: &str, previous: Option<&Value>| {
            let body = json!({ "model": model, "input": input, "previous_response_id": previous });
            let request = request(Method::POST, "/v1/responses", body.to_string());
            send(app.clone(), request).await
        };
        let first = respond("tiny", said, None).await.json();
        // Later there are others, and the rules have changed.
        let providers = vec![cloud.provider("cloud", Reach::Cloud, 1)];
        *source.0.lock().unwrap() = Some(Ok(under(providers, "fast", "cloud:m")));
        let reload = request(Method::POST, "/admin/reload", "");
        assert_eq!(send(app.clone(), reload).await.status, 200);
        let second = respond("m", "Go on", Some(&first["id"])).await;
        assert_eq!(second.status, status, "{}", second.body);
        assert_eq!(cloud.seen().len(), n_sent);
    }
}

#[tokio::test]
async fn an_alias_is_loaded_where_what_it_stands_for_is() {
    use crate::tests::scripted::{ready_model, shelved};
    let backend = Scripted::with_models(vec![ready_model("here"), shelved("there")]);
    let mut routing = under(Vec::new(), "fast", "embedded:here");
    let aliases = &mut routing.policy.aliases;
    aliases.insert("slow".into(), vec!["embedded:there".into()]);
    let app = routed(&backend, config(), routing);
    let list = send(app, request(Method::GET, "/v1/models", ""))
        .await
        .json();
    let entries = list["data"].as_array().unwrap();
    for (alias, loaded) in [("fast", true), ("slow", false)] {
        let entry = entries.iter().find(|entry| entry["id"] == alias).unwrap();
        assert_eq!(entry["loaded"], loaded, "{entry}");
    }
}
