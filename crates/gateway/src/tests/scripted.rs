//! A backend that plays scripts, and ways to talk to a router over it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use proto::{
    Delta, Event, FailureKind, FinishReason, Job, JobFailure, LoadFailure, LoadFailureKind,
    LoadSpec, ModelFacts, SamplingValues, SlotPhase, SlotState, Timings, Usage, WorkerState,
};
use serde_json::Value;
use supervisor::{Keep, LoadOrder, ModelPhase, ModelStatus, ModelTraits, Place};
use tower::ServiceExt;

use crate::ids::Stamps;
use crate::{AppState, Backend, EventStream, GatewayConfig, Routing, app};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Event),
    Wait(Duration),
    Panic,
}

impl From<Event> for Step {
    fn from(event: Event) -> Self {
        Self::Send(event)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Scripted {
    models: Mutex<Vec<ModelStatus>>,
    scripts: Mutex<VecDeque<Vec<Step>>>,
    refusals: Mutex<VecDeque<JobFailure>>,
    pub(crate) jobs: Mutex<Vec<(String, Job)>>,
    pub(crate) specs: Mutex<Vec<LoadSpec>>,
    pub(crate) orders: Mutex<Vec<LoadOrder>>,
    pub(crate) keeps: Mutex<Vec<(String, Keep)>>,
    /// Streams dropped before their last event.
    pub(crate) cancelled: Arc<AtomicUsize>,
}

impl Scripted {
    /// One ready model called `tiny`, and a script for each of the coming jobs.
    pub(crate) fn new<S: Into<Step>>(scripts: Vec<Vec<S>>) -> Arc<Self> {
        let scripted = Self::default();
        *scripted.models.lock().unwrap() = vec![ready_model("tiny")];
        let scripts = scripts.into_iter();
        *scripted.scripts.lock().unwrap() = scripts
            .map(|script| script.into_iter().map(Into::into).collect())
            .collect();
        Arc::new(scripted)
    }

    pub(crate) fn idle() -> Arc<Self> {
        Self::new(Vec::<Vec<Step>>::new())
    }

    pub(crate) fn refusing(failure: JobFailure) -> Arc<Self> {
        let scripted = Self::idle();
        scripted.refusals.lock().unwrap().push_back(failure);
        scripted
    }

    pub(crate) fn with_models(models: Vec<ModelStatus>) -> Arc<Self> {
        let scripted = Self::idle();
        *scripted.models.lock().unwrap() = models;
        scripted
    }

    pub(crate) fn playing(models: Vec<ModelStatus>, scripts: Vec<Vec<Event>>) -> Arc<Self> {
        let scripted = Self::new(scripts);
        *scripted.models.lock().unwrap() = models;
        scripted
    }

    pub(crate) fn n_cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// Counts a stream that is dropped too early.
struct Guard {
    over: bool,
    cancelled: Arc<AtomicUsize>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.over {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Backend for Scripted {
    fn models(&self) -> Vec<ModelStatus> {
        self.models.lock().unwrap().clone()
    }

    fn submit<'a>(
        &'a self,
        model: &'a str,
        job: Job,
    ) -> BoxFuture<'a, Result<EventStream, JobFailure>> {
        async move {
            self.jobs.lock().unwrap().push((model.to_owned(), job));
            if let Some(failure) = self.refusals.lock().unwrap().pop_front() {
                return Err(failure);
            }
            let script = self.scripts.lock().unwrap().pop_front().unwrap_or_default();
            let guard = Guard {
                over: false,
                cancelled: Arc::clone(&self.cancelled),
            };
            let events = stream::unfold((VecDeque::from(script), guard), |state| async move {
                let (mut script, mut guard) = state;
                loop {
                    match script.pop_front() {
                        None => return None,
                        Some(Step::Wait(time)) => tokio::time::sleep(time).await,
                        Some(Step::Panic) => panic!("scripted"),
                        Some(Step::Send(event)) => {
                            guard.over = event.is_last();
                            return Some((event, (script, guard)));
                        }
                    }
                }
            });
            Ok(events.boxed())
        }
        .boxed()
    }

    fn inspect<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Option<WorkerState>> {
        let known = self
            .models()
            .iter()
            .any(|known| known.name == model && matches!(known.phase, ModelPhase::Ready(_)));
        std::future::ready(known.then(worker_state)).boxed()
    }

    fn load(&self, order: LoadOrder) -> BoxFuture<'_, Result<Arc<ModelFacts>, LoadFailure>> {
        let spec = order.spec.clone();
        self.orders.lock().unwrap().push(order);
        self.specs.lock().unwrap().push(spec.clone());
        let result = match spec.path.to_str() {
            Some("missing.gguf") => Err(LoadFailure {
                kind: LoadFailureKind::NotFound,
                message: "There is no file missing.gguf.".into(),
            }),
            _ => Ok(Arc::new(facts(&spec.name))),
        };
        std::future::ready(result).boxed()
    }

    fn unload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, bool> {
        let mut models = self.models.lock().unwrap();
        let before = models.len();
        models.retain(|known| known.name != model);
        std::future::ready(models.len() < before).boxed()
    }

    fn keep(&self, model: &str, keep: Keep) {
        self.keeps.lock().unwrap().push((model.to_owned(), keep));
    }

    fn memory(&self) -> (u64, Option<u64>) {
        (100, Some(1_000))
    }
}

pub(crate) fn facts(name: &str) -> ModelFacts {
    ModelFacts {
        name: name.into(),
        path: "/models/tiny.gguf".into(),
        description: "llama 135M Q4_1".into(),
        n_embd: 3,
        context: 4096,
        context_train: 8192,
        slots: 2,
        llama_version: "b1".into(),
        kv_type_k: "f16".into(),
        kv_type_v: "f16".into(),
        can_chat: true,
        own_template: true,
        can_embed: true,
        can_complete: true,
        tool_format: "hermes".into(),
        sampling: sampling(),
        ..ModelFacts::default()
    }
}

pub(crate) fn status(name: &str, phase: ModelPhase) -> ModelStatus {
    ModelStatus {
        name: name.into(),
        spec: LoadSpec {
            name: name.into(),
            path: "/models/tiny.gguf".into(),
            ..LoadSpec::default()
        },
        phase,
        pid: Some(7),
        restarts: 1,
        last_crash: None,
        place: Place::default(),
    }
}

/// A model that is on the shelf and not in memory.
pub(crate) fn shelved(name: &str) -> ModelStatus {
    ModelStatus {
        pid: None,
        place: Place {
            is_listed: true,
            bytes: 5_000,
            traits: ModelTraits {
                architecture: Some("llama".into()),
                n_params: 134_515_008,
                context_train: Some(8192),
                context: Some(4096),
                can_chat: true,
                can_call_tools: true,
                can_complete: true,
                ..ModelTraits::default()
            },
            ..Place::default()
        },
        ..status(name, ModelPhase::Unloaded)
    }
}

pub(crate) fn ready_model(name: &str) -> ModelStatus {
    status(name, ModelPhase::Ready(Arc::new(facts(name))))
}

fn sampling() -> SamplingValues {
    SamplingValues {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        seed: 42,
        ..SamplingValues::default()
    }
}

fn worker_state() -> WorkerState {
    WorkerState {
        slots: vec![SlotState {
            slot: 0,
            job: Some(proto::JobId(3)),
            phase: SlotPhase::Decode,
            prompt_tokens: 10,
            prompt_done: 10,
            generated_tokens: 4,
        }],
        queued: 2,
        prompt_tokens_total: 100,
        prefill_seconds_total: 1.5,
        ..WorkerState::default()
    }
}

pub(crate) fn started() -> Event {
    Event::Started {
        prompt_tokens: 12,
        cached_tokens: 4,
        sampling: Some(Box::new(sampling())),
        warnings: Vec::new(),
    }
}

pub(crate) fn text(choice: u32, text: &str) -> Event {
    Event::Delta {
        choice,
        delta: Delta::Text { text: text.into() },
        logprobs: Vec::new(),
    }
}

pub(crate) fn delta(delta: Delta) -> Event {
    Event::Delta {
        choice: 0,
        delta,
        logprobs: Vec::new(),
    }
}

pub(crate) fn finished(choice: u32, reason: FinishReason) -> Event {
    Event::Finished {
        choice,
        reason,
        stop: None,
    }
}

pub(crate) fn done() -> Event {
    Event::Done {
        usage: Usage {
            prompt_tokens: 12,
            cached_tokens: 4,
            completion_tokens: 5,
            reasoning_tokens: 1,
            ..Usage::default()
        },
        timings: Timings {
            queue_ms: 0.5,
            prefill_ms: 40.0,
            decode_ms: 80.0,
        },
    }
}

pub(crate) fn failed(kind: FailureKind, message: &str) -> Event {
    Event::Failed(JobFailure {
        kind,
        message: message.into(),
        param: None,
    })
}

/// `Hello world`, then the end.
pub(crate) fn hello() -> Vec<Event> {
    vec![
        started(),
        text(0, "Hello"),
        text(0, " world"),
        finished(0, FinishReason::Stop),
        done(),
    ]
}

pub(crate) fn config() -> GatewayConfig {
    GatewayConfig {
        commit_after: Duration::from_secs(5),
        ..GatewayConfig::default()
    }
}

/// A router with fixed ids and times.
pub(crate) fn router(backend: &Arc<Scripted>, config: GatewayConfig) -> Router {
    routed(backend, config, Routing::default())
}

/// As [`router`], with other engines.
pub(crate) fn routed(backend: &Arc<Scripted>, config: GatewayConfig, routing: Routing) -> Router {
    let backend: Arc<dyn Backend> = backend.clone();
    let state = AppState::with_stamps(backend, config, routing, Stamps::Fixed);
    app(state)
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The objects of a stream, without comments and `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}

pub(crate) async fn send(router: Router, request: Request<Body>) -> Reply {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .unwrap()
}

pub(crate) async fn post(backend: &Arc<Scripted>, path: &str, body: impl Into<Body>) -> Reply {
    send(router(backend, config()), request(Method::POST, path, body)).await
}

pub(crate) async fn get(backend: &Arc<Scripted>, path: &str) -> Reply {
    send(router(backend, config()), request(Method::GET, path, "")).await
}
