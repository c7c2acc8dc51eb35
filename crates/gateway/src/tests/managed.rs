//! Engines that we run, behind the endpoint: real processes of the script that plays
//! llama-server in the tests of `providers`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode};
use providers::{Kind, Managed, ManagedConfig, RemoteConfig, Start, Streams, Timeouts};
use router::{Policy, Reach};
use serde_json::{Value, json};
use stdx::Secret;
use tokio::time::{sleep, timeout};

use super::scripted::{Reply, Scripted, config, request, send};
use super::upstream::{Fate, Upstream, reply_to};
use crate::ids::Stamps;
use crate::{AppState, Prices, RoutedProvider, Routing, RoutingSource, app};

const LONG: Duration = Duration::from_secs(60);
const CHAT: &str = "/v1/chat/completions";

fn managed(name: &str, flags: &[&str]) -> RoutedProvider {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../providers/src/managed/fake.py"
    );
    let words = ["python3", script, "--model", "tiny.gguf"];
    let engine = Managed::new(ManagedConfig {
        remote: RemoteConfig {
            name: name.into(),
            kind: Kind::LlamaServer,
            url: String::new(),
            key: None,
            headers: Vec::new(),
            reach: None,
            timeouts: Timeouts {
                connect: LONG,
                first_token: LONG,
                silence: LONG,
            },
            models: Vec::new(),
            vision: Vec::new(),
            streams: Streams::Always,
        },
        command: words
            .iter()
            .chain(flags)
            .map(|word| Secret::new(*word))
            .collect(),
        env: BTreeMap::new(),
        tether: Vec::new(),
        start: Start::OnDemand,
        idle_timeout: None,
        start_timeout: LONG,
        grace: LONG,
    });
    RoutedProvider {
        name: name.into(),
        provider: Arc::new(engine.unwrap()),
        reach: Reach::Device,
        priority: 1,
        weight: 100,
        requests_max: 4,
        default_model: None,
        prices: Prices::default(),
    }
}

/// What the next reload finds.
#[derive(Debug, Default)]
struct Source(Mutex<Option<Routing>>);

impl RoutingSource for Source {
    fn read(&self) -> Result<Routing, String> {
        self.0
            .lock()
            .unwrap()
            .take()
            .ok_or_else(|| "nothing".into())
    }
}

fn routing(providers: Vec<RoutedProvider>) -> Routing {
    let aliases = [(
        "either".to_owned(),
        vec!["big:".to_owned(), "box:".to_owned()],
    )];
    Routing {
        providers,
        policy: Policy {
            aliases: aliases.into(),
            ..Policy::default()
        },
        ..Routing::default()
    }
}

fn endpoint(providers: Vec<RoutedProvider>) -> (AppState, Router) {
    let backend = Scripted::with_models(Vec::new());
    let state = AppState::with_stamps(backend, config(), routing(providers), Stamps::Fixed);
    (state.clone(), app(state))
}

async fn chat(app: &Router, model: &str) -> Reply {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }] });
    send(app.clone(), request(Method::POST, CHAT, body.to_string())).await
}

async fn shown(app: &Router, name: &str) -> Value {
    let reply = send(app.clone(), request(Method::GET, "/v1/providers", "")).await;
    let listed = reply.json()["data"].as_array().unwrap().clone();
    let mut listed = listed.into_iter();
    listed.find(|one| one["name"] == name).unwrap_or_default()
}

async fn until(app: &Router, name: &str, what: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let one = shown(app, name).await;
            if what(&one) {
                return one;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting)
        .await
        .expect("it does not come about")
}

fn lives(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
}

#[tokio::test]
async fn a_request_starts_it_and_it_is_shown_without_its_secrets() {
    let (state, app) = endpoint(vec![managed("big", &["--api-key", "sk-secret-1"])]);
    let before = until(&app, "big", |one| one["state"] == "up").await;
    assert_eq!(before["models"][0]["name"], "tiny");
    assert_eq!(before["models"][0]["loaded"], false);
    assert_eq!(before["process"]["phase"], "stopped");
    let reply = chat(&app, "tiny").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let after = until(&app, "big", |one| one["models"][0]["loaded"] == true).await;
    let process = &after["process"];
    assert_eq!(
        (&process["phase"], &process["restarts"]),
        (&json!("up"), &json!(0))
    );
    let text = reply.json()["choices"][0]["message"]["content"].clone();
    assert_eq!(text, format!("pid {}", process["pid"]));
    assert!(!after.to_string().contains("ret-1"), "{after}");
    assert!(
        process["command"]
            .as_str()
            .unwrap()
            .contains("--api-key ****"),
        "{after}"
    );
    timeout(LONG, state.close_providers()).await.unwrap();
    assert!(!lives(&process["pid"]));
}

#[tokio::test]
async fn its_death_leads_to_the_next_candidate() {
    let other = Upstream::start(|_| Fate::Answer).await;
    let providers = vec![
        managed("big", &["--die-on-request"]),
        other.provider("box", Reach::Lan, 2),
    ];
    let (state, app) = endpoint(providers);
    let reply = chat(&app, "either").await;
    assert_eq!(
        reply.json()["choices"][0]["message"]["content"],
        reply_to("Hi")
    );
    assert_eq!(reply.header("x-sextant-served-by"), Some("box:m"));
    let down = until(&app, "big", |one| one["state"] == "down").await;
    let cause = down["cause"].as_str().unwrap();
    assert!(cause.contains("SIGABRT"), "{cause}");
    timeout(LONG, state.close_providers()).await.unwrap();
}

#[tokio::test]
async fn reloads_leave_it_alone_until_it_is_gone_from_them() {
    let (state, app) = endpoint(vec![managed("big", &[])]);
    chat(&app, "big:tiny").await;
    let pid = shown(&app, "big").await["process"]["pid"].clone();
    let source = Source::default();
    let put = |providers| *source.0.lock().unwrap() = Some(routing(providers));
    put(vec![managed("big", &[])]);
    let reloaded = state.reload(&source).unwrap();
    assert_eq!((reloaded.added.len(), reloaded.removed.len()), (0, 0));
    assert_eq!(shown(&app, "big").await["process"]["pid"], pid);

    put(vec![managed("big", &["--changed"])]);
    assert_eq!(state.reload(&source).unwrap().removed, ["big"]);
    let gone = async {
        while lives(&pid) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, gone).await.expect("the old one lives on");
    chat(&app, "big:tiny").await;
    let new = shown(&app, "big").await["process"]["pid"].clone();
    assert!(lives(&new) && new != pid);
    timeout(LONG, state.close_providers()).await.unwrap();
}

#[tokio::test]
async fn what_is_found_beside_it_is_listed_without_those_that_are_known() {
    let (_, app) = endpoint(Vec::new());
    let reply = send(app, request(Method::GET, "/v1/providers/discovered", "")).await;
    assert_eq!(reply.status, StatusCode::OK);
    // Who listens on this machine is not ours to say.
    let found = reply.json()["data"].as_array().unwrap().clone();
    for one in found {
        assert!(
            one["url"]
                .as_str()
                .unwrap()
                .starts_with("http://127.0.0.1:"),
            "{one}"
        );
    }
}
