//! Pulling and deleting, over a scripted library.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use supervisor::ModelPhase;

use super::lines;
use crate::tests::scripted::{Reply, Scripted, config, facts, request, router, send, status};
use crate::{
    Backend, FileProgress, GatewayConfig, Library, LibraryFailure, LibraryFailureKind, PlanAsk,
    Planned, PullProgressFn, StoredModel,
};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Wait(Duration),
    File(&'static str, u64),
    Fail(LibraryFailureKind),
    Panic,
}

#[derive(Debug, Default)]
pub(crate) struct ScriptedLibrary {
    stored: Vec<StoredModel>,
    pulls: Mutex<VecDeque<Vec<Step>>>,
    asked: Mutex<Vec<String>>,
    finished: Arc<Mutex<u32>>,
}

impl Library for ScriptedLibrary {
    fn list(&self) -> BoxFuture<'_, Vec<StoredModel>> {
        std::future::ready(self.stored.clone()).boxed()
    }

    fn pull(
        &self,
        spec: String,
        progress: Arc<PullProgressFn>,
    ) -> BoxFuture<'static, Result<(), LibraryFailure>> {
        self.asked.lock().unwrap().push(spec);
        let steps = self.pulls.lock().unwrap().pop_front().unwrap_or_default();
        let finished = Arc::clone(&self.finished);
        async move {
            for step in steps {
                match step {
                    Step::Wait(time) => tokio::time::sleep(time).await,
                    Step::File(file, done) => progress(FileProgress {
                        file: file.into(),
                        done,
                        total: Some(100),
                    }),
                    Step::Fail(kind) => {
                        let message = "Because.".into();
                        return Err(LibraryFailure { kind, message });
                    }
                    Step::Panic => panic!("scripted"),
                }
            }
            *finished.lock().unwrap() += 1;
            Ok(())
        }
        .boxed()
    }

    fn delete(&self, id: String) -> BoxFuture<'_, Result<(), LibraryFailure>> {
        self.asked.lock().unwrap().push(id);
        std::future::ready(Ok(())).boxed()
    }

    fn plan(&self, ask: PlanAsk) -> BoxFuture<'_, Result<Planned, LibraryFailure>> {
        let failure = LibraryFailure {
            kind: LibraryFailureKind::NotFound,
            message: format!("`{}` is not here.", ask.model),
        };
        std::future::ready(Err(failure)).boxed()
    }
}

pub(crate) fn pulling(steps: Vec<Vec<Step>>) -> Arc<ScriptedLibrary> {
    Arc::new(ScriptedLibrary {
        pulls: Mutex::new(steps.into()),
        ..ScriptedLibrary::default()
    })
}

fn over(library: &Arc<ScriptedLibrary>, backend: &Arc<Scripted>) -> Router {
    let library: Arc<dyn Library> = library.clone();
    let config = GatewayConfig {
        library: Some(library),
        ..config()
    };
    router(backend, config)
}

async fn pull(router: Router, body: &'static str) -> Reply {
    send(router, request(Method::POST, "/api/pull", body)).await
}

fn slow() -> Vec<Step> {
    vec![
        Step::Wait(Duration::from_secs(1)),
        Step::File("model.gguf", 0),
        Step::Wait(Duration::from_millis(150)),
        Step::File("model.gguf", 40),
        Step::File("template", 100),
        Step::Wait(Duration::from_secs(15)),
        Step::File("model.gguf", 100),
        Step::Wait(Duration::from_secs(1)),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_told_line_by_line() {
    let library = pulling(vec![slow()]);
    let reply = pull(over(&library, &Scripted::idle()), r#"{"model": "smollm2"}"#).await;
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(*library.asked.lock().unwrap(), ["ollama:smollm2"]);
    assert_eq!(lines(&reply.body).len(), 6);
    insta::assert_snapshot!(reply.body);
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_told_once_at_its_end() {
    let library = pulling(vec![slow()]);
    let body = r#"{"name": "hf.co/o/r:Q4_0", "stream": false}"#;
    let reply = pull(over(&library, &Scripted::idle()), body).await;
    assert_eq!(reply.json(), json!({ "status": "success" }));
    assert_eq!(*library.asked.lock().unwrap(), ["hf:o/r:Q4_0"]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_fails_early_has_a_status_and_a_late_one_a_line() {
    for (kind, status) in [
        (LibraryFailureKind::Invalid, 400),
        (LibraryFailureKind::NotFound, 404),
        (LibraryFailureKind::Failed, 502),
    ] {
        for body in [r#"{"model": "a"}"#, r#"{"model": "a", "stream": false}"#] {
            let library = pulling(vec![vec![Step::Fail(kind)]]);
            let reply = pull(over(&library, &Scripted::idle()), body).await;
            assert_eq!(reply.status, status);
            assert_eq!(reply.json(), json!({ "error": "Because." }));
        }
    }
    let late = vec![
        Step::File("a", 1),
        Step::Wait(Duration::from_secs(20)),
        Step::Fail(LibraryFailureKind::Failed),
    ];
    let library = pulling(vec![late, vec![Step::File("a", 1), Step::Panic]]);
    for _ in 0..2 {
        let reply = pull(over(&library, &Scripted::idle()), r#"{"model": "a"}"#).await;
        let lines = lines(&reply.body);
        assert!(lines.last().unwrap()["error"].is_string(), "{}", reply.body);
        assert!(!reply.body.contains("success"), "{}", reply.body);
    }
}

#[tokio::test(start_paused = true)]
async fn two_clients_follow_one_download() {
    let library = pulling(vec![slow()]);
    let router = over(&library, &Scripted::idle());
    let stream = pull(router.clone(), r#"{"model": "a"}"#);
    let whole = pull(router, r#"{"model": "ollama:a", "stream": false}"#);
    let (stream, whole) = tokio::join!(stream, whole);
    assert!(stream.body.ends_with("{\"status\":\"success\"}\n"));
    assert_eq!(whole.json()["status"], "success");
    assert_eq!(library.asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_download_goes_on_without_its_client() {
    let library = pulling(vec![slow()]);
    let router = over(&library, &Scripted::idle());
    let gone = pull(router, r#"{"model": "a"}"#);
    let gone = tokio::time::timeout(Duration::from_secs(2), gone).await;
    assert!(gone.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*library.finished.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn downloads_are_limited() {
    let library = pulling(vec![slow(); 4]);
    let router = over(&library, &Scripted::idle());
    let bodies = [
        r#"{"model":"a"}"#,
        r#"{"model":"b"}"#,
        r#"{"model":"c"}"#,
        r#"{"model":"d"}"#,
    ];
    let running = bodies.map(|body| tokio::spawn(pull(router.clone(), body)));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let fifth = pull(router.clone(), r#"{"model": "e"}"#).await;
    assert_eq!(fifth.status, 429);
    assert!(fifth.body.contains("4 models"), "{}", fifth.body);
    for one in running {
        assert!(one.await.unwrap().body.contains("success"));
    }
}

fn stored(id: &str, owner: Option<&str>, source: Option<&str>) -> StoredModel {
    StoredModel {
        id: id.into(),
        owner: owner.map(str::to_owned),
        path: PathBuf::from(format!("/store/{id}.gguf")),
        bytes: 98,
        sha256: Some("ab".repeat(32)),
        pulled_unix_s: Some(1_600_000_000),
        source: source.map(str::to_owned),
        architecture: Some("llama".into()),
        quant: Some("Q4_K_M".into()),
        n_parameters: Some(134_515_008),
    }
}

fn shelf() -> Arc<ScriptedLibrary> {
    Arc::new(ScriptedLibrary {
        stored: vec![
            stored("tiny", None, None),
            stored("r-Q4_0", None, Some("hf:o/r:Q4_0")),
            stored("theirs:1b", Some("Ollama"), None),
        ],
        ..ScriptedLibrary::default()
    })
}

async fn delete(router: Router, name: &str) -> Reply {
    let body = json!({ "model": name }).to_string();
    send(router, request(Method::DELETE, "/api/delete", body)).await
}

#[tokio::test]
async fn a_model_is_deleted_by_its_id_or_by_what_it_was_pulled_as() {
    let library = shelf();
    let router = over(&library, &Scripted::idle());
    for name in ["tiny", "tiny:latest", "hf.co/o/r:Q4_0", "r-Q4_0"] {
        assert_eq!(delete(router.clone(), name).await.status, 200, "{name}");
    }
    let asked = library.asked.lock().unwrap().clone();
    assert_eq!(asked, ["tiny", "tiny", "r-Q4_0", "r-Q4_0"]);
}

#[tokio::test]
async fn nothing_is_deleted_by_a_guess_or_of_others() {
    let library = shelf();
    let router = over(&library, &Scripted::idle());
    for (name, status, says) in [
        ("tin", 404, "`tin`"),
        ("r", 404, "`r`"),
        ("", 400, "model"),
        ("theirs:1b", 403, "belongs to Ollama"),
    ] {
        let reply = delete(router.clone(), name).await;
        assert_eq!(reply.status, status, "{name}");
        assert!(reply.body.contains(says), "{}", reply.body);
    }
    assert!(library.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_loaded_model_is_unloaded_before_it_is_deleted() {
    let mut loaded = status("served", ModelPhase::Ready(facts("served").into()));
    loaded.spec.path = "/store/tiny.gguf".into();
    let mut other = status("other", ModelPhase::Ready(facts("other").into()));
    other.spec.path = "/store/theirs:1b.gguf".into();
    let backend = Scripted::with_models(vec![loaded, other]);
    let library = shelf();
    let router = over(&library, &backend);
    // What cannot be deleted stays loaded.
    assert_eq!(delete(router.clone(), "other").await.status, 403);
    assert_eq!(Backend::models(&*backend).len(), 2);
    assert_eq!(delete(router, "served").await.status, 200);
    let names: Vec<_> = Backend::models(&*backend)
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(names, ["other"]);
    assert_eq!(*library.asked.lock().unwrap(), ["tiny"]);
}

#[tokio::test]
async fn without_a_library_nothing_is_pulled_or_deleted() {
    let router = router(&Scripted::idle(), config());
    assert_eq!(pull(router.clone(), r#"{"model": "a"}"#).await.status, 501);
    assert_eq!(delete(router, "a").await.status, 501);
}

#[tokio::test]
async fn lists_tell_what_the_library_knows_of_a_file() {
    let mut loading = status("tiny", ModelPhase::Loading { fraction: 0.5 });
    loading.spec.path = "/store/tiny.gguf".into();
    let backend = Scripted::with_models(vec![loading]);
    let router = over(&shelf(), &backend);
    let reply = send(router, request(Method::GET, "/api/tags", "")).await;
    insta::assert_json_snapshot!(reply.json());
}

#[tokio::test]
async fn a_plan_says_what_is_missing() {
    let library = pulling(Vec::new());
    let plan = |body: &'static str| {
        let router = over(&library, &Scripted::idle());
        send(router, request(Method::POST, "/api/plan", body))
    };
    let reply = plan(r#"{"model": "stranger"}"#).await;
    assert_eq!(reply.status, 404);
    assert!(
        reply.body.contains("`stranger` is not here"),
        "{}",
        reply.body
    );
    let reply = plan("{}").await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("model"), "{}", reply.body);
    let reply = plan(r#"{"model": "a", "contxt": 1}"#).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("contxt"), "{}", reply.body);
    // An endpoint without models on disk has nothing to plan.
    let none = router(&Scripted::idle(), config());
    let reply = send(
        none,
        request(Method::POST, "/api/plan", r#"{"model": "a"}"#),
    )
    .await;
    assert!(!reply.status.is_success(), "{}", reply.status);
}
