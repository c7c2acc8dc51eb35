//! Handlers, one file a family.

pub(crate) mod admin;
pub(crate) mod audit;
pub(crate) mod chat;
pub(crate) mod chats;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod embeddings;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod hosts;
pub(crate) mod info;
pub(crate) mod logs;
pub(crate) mod machine;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod ollama;
pub(crate) mod plan;
pub(crate) mod rerank;
pub(crate) mod responses;
pub(crate) mod route;
pub(crate) mod telemetry;
pub(crate) mod tokens;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use futures_util::{StreamExt, stream};
use proto::{Event, Job, ModelFacts};
use router::{Reach, Target, same_name};
use supervisor::{ModelPhase, ModelStatus};

use crate::AppState;
use crate::access::Visit;
use crate::backend::EventStream;
use crate::dispatch::{
    Delivery, Dispatch, EMBEDDED, Estimate, Facts, Price, Question, Settled, Trail, default_model,
    not_loaded, refusal,
};
use crate::error::{ApiError, ErrorCode};
use crate::limits::quoted;
use crate::stream::{StreamedAnswer, TaggedEvents};
use crate::wire::encode::{Encoder, Envelope, json};
use crate::wire::fold::{Answer, Fold};
use crate::wire::openai::models::fingerprint;

/// Prompts of one request that are worked on at the same time.
const PROMPTS_AT_ONCE_MAX: usize = 8;

pub(crate) fn router() -> Router<AppState> {
    Router::new()
        .merge(workbench())
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/route", post(route::route))
        .route("/v1/providers", get(route::providers))
        .route("/v1/providers/discovered", get(route::discovered))
        .route("/v1/responses", post(responses::create))
        .route(
            "/v1/responses/{id}",
            get(responses::retrieve).delete(responses::delete),
        )
        .route(
            "/v1/responses/{id}/input_items",
            get(responses::input_items),
        )
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v1/reranking", post(rerank::rerank))
        .route("/rerank", post(rerank::rerank))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/api/version", get(ollama::models::version))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/ps", get(ollama::models::ps))
        .route("/api/show", post(ollama::models::show))
        .route("/api/chat", post(ollama::answers::chat))
        .route("/api/generate", post(ollama::answers::generate))
        .route("/api/embed", post(ollama::embed::embed))
        .route("/api/embeddings", post(ollama::embed::embeddings))
        .route("/api/pull", post(ollama::pull::pull))
        .route("/api/delete", delete(ollama::pull::delete))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/props", get(info::props))
        .route("/slots", get(info::slots))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/audit", get(audit::audit))
        .route("/api/plan", post(plan::plan))
        .route("/api/doctor", get(doctor::doctor))
        .route("/admin/models", get(admin::list))
        .route("/admin/models/load", post(admin::load))
        .route("/admin/models/unload", post(admin::unload))
        .route("/admin/reload", post(route::reload))
        .route("/openapi.json", get(info::openapi))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
}

/// What the web page is made from.
fn workbench() -> Router<AppState> {
    Router::new()
        .route("/", get(crate::ui::page))
        .route("/assets/{*path}", get(crate::ui::asset))
        .route("/api/events", get(events::events))
        .route("/api/machine", get(machine::machine))
        .route("/api/library", get(machine::library))
        .route("/api/logs", get(logs::logs))
        .route("/hosts/{name}/{*path}", any(hosts::relay))
        .route("/api/telemetry", get(telemetry::telemetry))
        .route("/api/telemetry/notes", post(telemetry::note))
        .route("/api/telemetry/notes/{id}", delete(telemetry::forget))
        .route("/api/chats", get(chats::list).post(chats::create))
        .route(
            "/api/chats/{id}",
            get(chats::one).post(chats::change).delete(chats::delete),
        )
        .route("/api/chats/{id}/messages", post(chats::turn))
        .route("/api/chats/{id}/stop", post(chats::stop))
        .route(
            "/api/chats/{id}/messages/{message}/events",
            get(chats::follow),
        )
}

async fn no_route(request: Request) -> ApiError {
    let (method, path) = (request.method().as_str(), quoted(request.uri().path()));
    let facts = [("method", method), ("path", &*path)];
    ApiError::new(ErrorCode::RouteNotFound, &facts)
}

async fn no_method(request: Request) -> ApiError {
    let (method, path) = (request.method().as_str(), quoted(request.uri().path()));
    let facts = [("method", method), ("path", &*path)];
    ApiError::new(ErrorCode::MethodNotAllowed, &facts)
}

/// What stands behind the `?` of a request, if it can be read. A handler looks at it when it has
/// found out whether the request is allowed at all.
type MaybeQuery<T> = Result<Query<T>, QueryRejection>;

fn given<T>(query: MaybeQuery<T>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|error| {
        let rule = format!("as /openapi.json has it ({error})");
        ApiError::invalid("query", "unreadable", &rule)
    })?;
    Ok(query)
}

/// A request that knows where it goes.
#[derive(Clone)]
pub(crate) struct Call {
    /// The rules that it came under.
    dispatch: Arc<Dispatch>,
    settled: Arc<Settled>,
    trail: Arc<Trail>,
    visit: Arc<Visit>,
    began: Instant,
}

impl Call {
    /// Decides where a job goes.
    pub(crate) async fn new(
        state: &AppState,
        question: &Question,
        job: &Job,
    ) -> Result<Self, ApiError> {
        Self::for_all(state, question, std::slice::from_ref(job)).await
    }

    /// Decides where the jobs of one request go.
    pub(crate) async fn for_all(
        state: &AppState,
        question: &Question,
        jobs: &[Job],
    ) -> Result<Self, ApiError> {
        let began = Instant::now();
        let visit = question.visit();
        visit.asks(question.model());
        if visit.keeps_texts() {
            visit.prompts(&Facts::of_all(jobs).texts);
        }
        let dispatch = state.dispatch();
        let call = Self {
            settled: Arc::new(dispatch.settle(question, jobs).await?),
            dispatch,
            trail: Arc::new(Trail::new(visit.tracing())),
            visit: Arc::clone(visit),
            began,
        };
        call.account(state)?;
        Ok(call)
    }

    /// Writes down the decision, and sets aside what the job may take of a key's limits: at
    /// the price of the dearest candidate, since any of them may come to answer.
    fn account(&self, state: &AppState) -> Result<(), ApiError> {
        let decision = &self.settled.decision;
        let prices = self.dispatch.prices(decision);
        let estimate = self.settled.estimate.unwrap_or_default();
        let amounts = prices.iter().map(|price| estimate.at(*price));
        let free = estimate.at(Price::default());
        let dearest = amounts.max_by_key(|amount| amount.cost).unwrap_or(free);
        self.visit.decided(&self.settled, &self.trail, prices);
        if decision.candidates.is_empty() {
            let (fleet, models) = (self.dispatch.picture(), state.backend().models());
            return Err(refusal(decision, &fleet, &models));
        }
        match self.settled.estimate {
            Some(_) => self.visit.reserve(dearest),
            None => Ok(()),
        }
    }

    /// Who answers, or is asked first while that is not known.
    pub(crate) fn target(&self) -> Cow<'_, Target> {
        if let Some(served) = self.trail.target() {
            return Cow::Owned(served);
        }
        match self.settled.decision.candidates.first() {
            Some(candidate) => Cow::Borrowed(&candidate.target),
            // A call without candidates does not come to be.
            None => Cow::Owned(Target {
                provider: EMBEDDED.into(),
                model: String::new(),
            }),
        }
    }

    /// How far the request may travel, and so what comes of it.
    pub(crate) fn reach_max(&self) -> Reach {
        self.settled.decision.limit.reach
    }

    /// Runs a job. Dropping the stream cancels it.
    pub(crate) fn run(&self, state: &AppState, job: Job, delivery: Delivery) -> EventStream {
        let counts = self.visit.counts_tokens();
        let estimate = counts.then(|| Estimate::of(std::slice::from_ref(&job)));
        let index = self
            .visit
            .adds_job(estimate.unwrap_or_default().prompt_tokens);
        let job = (index, job);
        let events = self.dispatch.run(&self.settled, job, delivery, &self.trail);
        let target = self.target();
        let name = match target.provider.as_str() {
            EMBEDDED => target.into_owned().model,
            _ => target.name(),
        };
        let visit = Arc::clone(&self.visit);
        state
            .metrics()
            .watch(name, self.began, (visit, index), events)
    }

    /// Runs a job that is answered by one event.
    pub(crate) async fn one(&self, state: &AppState, job: Job) -> Result<Event, ApiError> {
        let mut events = self.run(state, job, Delivery::Whole);
        while let Some(event) = events.next().await {
            match event {
                Event::Failed(failure) => return Err(failure.into()),
                event if event.is_last() => return Ok(event),
                _ => {}
            }
        }
        Err(wrong_event())
    }

    /// Says in the answer's headers who gave it, and why.
    pub(crate) fn sign(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        self.trail.write(&self.settled.decision, headers);
        response
    }
}

/// The model of this process with that name; without a name the first that can answer.
pub(crate) fn own_model(state: &AppState, name: Option<&str>) -> Result<ModelStatus, ApiError> {
    let models = state.backend().models();
    let found = match name.filter(|name| !name.is_empty()) {
        Some(name) => find(&models, name).ok_or_else(|| not_loaded(name, &models))?,
        None => default_model(&models).ok_or_else(|| ApiError::new(ErrorCode::NoModel, &[]))?,
    };
    Ok(found.clone())
}

pub(crate) fn wrong_event() -> ApiError {
    let message = "The worker gave an answer of another kind than was asked for.";
    ApiError::message(ErrorCode::Internal, message)
}

/// The model of that name. Clients that know Ollama add `:latest` to a name, so both
/// spellings mean the model unless each is one's own.
pub(crate) fn find<'a>(models: &'a [ModelStatus], name: &str) -> Option<&'a ModelStatus> {
    let exact = models.iter().find(|model| model.name == name);
    exact.or_else(|| models.iter().find(|model| same_name(&model.name, name)))
}

/// A request for generated text, translated.
pub(crate) struct Ask {
    pub(crate) jobs: Vec<Job>,
    pub(crate) choices_per_job: usize,
    pub(crate) id_prefix: &'static str,
    pub(crate) warnings: Vec<String>,
    pub(crate) reply: Reply,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Whole,
    Stream { keep_alive: Option<Duration> },
}

impl Reply {
    /// As the request and the configuration say. A client that cannot read comments
    /// sends `x-sextant-keep-alive: off`.
    pub(crate) fn new(stream: bool, headers: &HeaderMap, state: &AppState) -> Self {
        if !stream {
            return Self::Whole;
        }
        let off = headers
            .get("x-sextant-keep-alive")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"off"));
        let seconds = state.config().keep_alive_secs;
        Self::Stream {
            keep_alive: (!off && seconds > 0).then(|| Duration::from_secs(seconds)),
        }
    }
}

/// Runs the jobs and answers whole or as a stream; both read the same fold.
pub(crate) async fn answer<E: Encoder>(
    state: &AppState,
    call: &Call,
    ask: Ask,
    encoder: impl FnOnce(Envelope) -> E,
) -> Result<Response, ApiError> {
    let n_jobs = ask.jobs.len();
    let warnings = ask.warnings.clone();
    let fold = Fold::new(n_jobs, ask.choices_per_job, ask.warnings);
    let delivery = match ask.reply {
        Reply::Whole => Delivery::Whole,
        Reply::Stream { .. } => Delivery::Stream,
    };
    let events = tagged(state, call, ask.jobs, delivery);
    let id = state.stamps().id(ask.id_prefix);
    let mut response = match ask.reply {
        Reply::Whole => {
            let answer = whole(events, fold, Answer::new(n_jobs * ask.choices_per_job)).await?;
            let body = encoder(envelope(state, call, id)).whole(answer);
            json_response(body)
        }
        Reply::Stream { keep_alive } => {
            let (first, events) = first_event(events, state.config().commit_after).await?;
            let stream = StreamedAnswer {
                events,
                fold,
                encoder: encoder(envelope(state, call, id)),
                keep_alive,
                first,
            };
            stream.into_response()
        }
    };
    warn(&mut response, &warnings);
    Ok(call.sign(response))
}

/// Says in a header what was asked for and not done.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    if warnings.is_empty() {
        return;
    }
    if let Ok(text) = HeaderValue::from_str(&warnings.join(" ")) {
        response.headers_mut().insert("x-sextant-warning", text);
    }
}

fn tagged(state: &AppState, call: &Call, jobs: Vec<Job>, delivery: Delivery) -> TaggedEvents {
    let target = call.target();
    let slots = own_facts(state, &target).map_or(PROMPTS_AT_ONCE_MAX, |facts| facts.slots as usize);
    let mut streams: Vec<TaggedEvents> = jobs
        .into_iter()
        .enumerate()
        .map(|(index, job)| {
            call.run(state, job, delivery)
                .map(move |event| (index, event))
                .boxed()
        })
        .collect();
    if streams.len() == 1 {
        return streams.remove(0);
    }
    // Nothing runs before it is polled, so this is also the limit of jobs submitted.
    stream::iter(streams)
        .flatten_unordered(slots.clamp(1, PROMPTS_AT_ONCE_MAX))
        .boxed()
}

async fn whole(
    mut events: TaggedEvents,
    mut fold: Fold,
    mut answer: Answer,
) -> Result<Answer, ApiError> {
    let mut parts = Vec::new();
    while let Some((job, event)) = events.next().await {
        fold.step(job, event, &mut parts);
        for part in parts.drain(..) {
            answer.add(part)?;
        }
        if fold.is_over() {
            return Ok(answer);
        }
    }
    Err(wrong_event())
}

/// Waits a while for the first event, so that a refusal still is a status of its own.
async fn first_event(
    mut events: TaggedEvents,
    limit: Duration,
) -> Result<(Option<(usize, Event)>, TaggedEvents), ApiError> {
    match tokio::time::timeout(limit, events.next()).await {
        Ok(Some((_, Event::Failed(failure)))) => Err(failure.into()),
        Ok(first) => Ok((first, events)),
        Err(_) => Ok((None, events)),
    }
}

fn envelope(state: &AppState, call: &Call, id: String) -> Envelope {
    let target = call.target();
    Envelope {
        id,
        created: state.stamps().now(),
        fingerprint: own_facts(state, &target).as_deref().map(fingerprint),
        model: target.into_owned().model,
    }
}

/// The facts of a target that is a model of this process, once it is ready.
pub(crate) fn own_facts(state: &AppState, target: &Target) -> Option<Arc<ModelFacts>> {
    if target.provider != EMBEDDED {
        return None;
    }
    let mut models = state.backend().models().into_iter();
    match models.find(|model| model.name == target.model)?.phase {
        ModelPhase::Ready(facts) => Some(facts),
        _ => None,
    }
}

/// A JSON response of bytes that are JSON already.
pub(crate) fn json_response(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A JSON response.
pub(crate) fn ok<T: serde::Serialize>(value: &T) -> Response {
    json_response(json(value)).into_response()
}
