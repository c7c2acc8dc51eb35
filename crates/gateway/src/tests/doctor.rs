//! `GET /api/doctor`, over a scripted doctor and a real socket, and findings below failed loads.

use std::sync::{Arc, Mutex};

use axum::http::Method;
use doctor::{Code, Finding};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::LoadSpec;
use serde_json::Value;
use stdx::Secret;
use store::{NewKey, Scope, Store};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::scripted::{Scripted, config, request, router, send};
use super::server::{read_until, run};
use crate::{Asking, Checkup, Complaint, Control, ControlOptions, Doctor, GatewayConfig, Reading};

#[derive(Debug, Default)]
struct Scribe {
    complaints: Mutex<Vec<Complaint>>,
    failures: Mutex<Vec<(LoadSpec, String)>>,
}

fn finding() -> Finding {
    Finding::new(Code::FileTruncated, "`m` is cut", "pull it again")
}

impl Doctor for Scribe {
    fn examine(&self, complaint: Complaint) -> BoxFuture<'_, Result<Checkup, String>> {
        let is_lost = complaint.model.as_deref() == Some("lost");
        self.complaints.lock().unwrap().push(complaint);
        let checkup = Checkup {
            findings: vec![
                finding(),
                Finding::new(Code::MemoryBusy, "little is free", "end something"),
            ],
            looked_at: vec!["the machine".into()],
            not_looked_at: vec![("its checksum".into(), "nobody asked".into())],
        };
        let told = match is_lost {
            true => Err("The checkup failed by a defect.".into()),
            false => Ok(checkup),
        };
        std::future::ready(told).boxed()
    }

    fn of_failed_load(&self, spec: LoadSpec, message: String) -> BoxFuture<'_, Vec<Finding>> {
        self.failures.lock().unwrap().push((spec, message));
        std::future::ready(vec![finding()]).boxed()
    }
}

fn with(scribe: &Arc<Scribe>) -> GatewayConfig {
    let doctor: Arc<dyn Doctor> = scribe.clone();
    GatewayConfig {
        doctor: Some(doctor),
        ..config()
    }
}

#[tokio::test]
async fn a_checkup_is_told_over_a_socket_and_nothing_is_read_unasked() {
    let scribe = Arc::new(Scribe::default());
    let running = run(&Scripted::idle(), with(&scribe)).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    let head = "GET /api/doctor?model=m%3A1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut socket, "]}").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let report: Value = serde_json::from_str(body).unwrap();
    insta::assert_json_snapshot!(report);
    let asked = scribe.complaints.lock().unwrap().clone();
    let modest = Complaint {
        model: Some("m:1".into()),
        reading: Reading::Headers,
        asking: Asking::Nobody,
    };
    assert_eq!(asked, [modest]);
    running.task.abort();
}

#[tokio::test]
async fn what_takes_long_is_done_where_it_is_asked_for() {
    let scribe = Arc::new(Scribe::default());
    let get = |query: &str| {
        let path = format!("/api/doctor{query}");
        send(
            router(&Scripted::idle(), with(&scribe)),
            request(Method::GET, &path, ""),
        )
    };
    assert_eq!(get("").await.status, 200);
    assert_eq!(get("?model=&checksum=true&network=true").await.status, 200);
    let asked = scribe.complaints.lock().unwrap().clone();
    assert_eq!(asked[0], Complaint::default());
    assert_eq!(asked[1].model, None, "an empty name is none");
    assert_eq!(
        (asked[1].reading, asked[1].asking),
        (Reading::Whole, Asking::Providers)
    );
    for (query, status) in [
        ("?checksum=perhaps", 400),
        ("?modle=x", 400),
        ("?model=lost", 500),
    ] {
        assert_eq!(get(query).await.status, status, "{query}");
    }
    let long = format!("?model={}", "x".repeat(5000));
    assert_eq!(get(&long).await.status, 400);
    let nobody = send(
        router(&Scripted::idle(), config()),
        request(Method::GET, "/api/doctor", ""),
    );
    assert_eq!(nobody.await.status, 501);
}

#[tokio::test]
async fn only_the_operator_asks_and_only_for_models_of_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let add = |name: &str, scope: Scope, models: &[&str]| -> Secret {
        let key = NewKey {
            name: name.into(),
            scopes: [scope].into_iter().collect(),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..NewKey::default()
        };
        store.connect().unwrap().add_key(&key).unwrap().0
    };
    let user = add("user", Scope::Models, &[]);
    let operator = add("operator", Scope::Admin, &[]);
    let limited = add("limited", Scope::Admin, &["mine"]);
    let scribe = Arc::new(Scribe::default());
    let config = GatewayConfig {
        control: Some(Control::open(store, ControlOptions::default()).unwrap()),
        ..with(&scribe)
    };
    let app = router(&Scripted::idle(), config);
    for (key, query, status) in [
        (None, "", 401),
        (Some(&user), "", 403),
        (Some(&operator), "?model=any", 200),
        (Some(&limited), "?model=mine", 200),
        (Some(&limited), "?model=other", 403),
    ] {
        let mut asked = request(Method::GET, &format!("/api/doctor{query}"), "");
        if let Some(key) = key {
            let bearer = format!("Bearer {}", key.expose()).parse().unwrap();
            asked.headers_mut().insert("authorization", bearer);
        }
        let reply = send(app.clone(), asked).await;
        assert_eq!(reply.status, status, "{query}: {}", reply.body);
    }
    assert_eq!(scribe.complaints.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_load_that_fails_is_explained() {
    let scribe = Arc::new(Scribe::default());
    let load = |config: GatewayConfig| {
        let body = r#"{"model": "n", "path": "missing.gguf", "context": 77}"#;
        send(
            router(&Scripted::idle(), config),
            request(Method::POST, "/admin/models/load", body),
        )
    };
    let reply = load(with(&scribe)).await;
    assert_eq!(reply.status, 404);
    let error = &reply.json()["error"];
    assert_eq!(error["message"], "There is no file missing.gguf.");
    let found = &error["findings"][0];
    assert_eq!(found["class"], "artifact");
    assert_eq!(found["code"], "file_truncated");
    assert_eq!(found["fix"], "pull it again");
    let asked = scribe.failures.lock().unwrap().clone();
    assert_eq!(asked[0].0.context, Some(77));
    assert_eq!(asked[0].1, "There is no file missing.gguf.");
    let unexplained = load(config()).await;
    assert!(unexplained.json()["error"]["findings"].is_null());
}
