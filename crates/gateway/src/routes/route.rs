//! `POST /v1/route`, `GET /v1/providers` and what is below it: decisions and what they are
//! made from.

use axum::extract::State;
use axum::response::Response;
use proto::Job;
use providers::discover;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Scope;
use utoipa::ToSchema;

use super::ok;
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::dispatch::Question;
use crate::error::{ApiError, ErrorCode};
use crate::reload::{Reloaded, RoutingStatus};
use crate::wire::openai::embedding::embedding_plan;
use crate::wire::openai::request::EmbeddingRequest;
use crate::wire::openai::{ChatRequest, CompletionRequest, chat_plan, completion_plan};
use crate::wire::routing::{Sight, WireDecision, WireFound, WireProvider};

/// Which kind of request a body is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Shape {
    model: Option<String>,
    messages: Option<Value>,
    prompt: Option<Value>,
    input: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProviderList {
    /// `list`
    object: &'static str,
    data: Vec<WireProvider>,
    configuration: RoutingStatus,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FoundList {
    /// `list`
    object: &'static str,
    data: Vec<WireFound>,
}

/// Explains where a request would go, without running it. The body is that of
/// `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings`, or holds a `model` alone;
/// the headers count as they would there.
#[utoipa::path(post, path = "/v1/route", tag = "routing", request_body = Object,
    responses(
        (status = 200, description = "The decision and its reasons", body = WireDecision),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn route(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let shape: Shape = parse(&body)?;
    let jobs = jobs(&shape, &body)?;
    let question = Question::new(shape.model, &headers);
    let settled = state.dispatch().settle(&question, &jobs).await?;
    Ok(ok(&WireDecision::from(&**settled.decision)))
}

fn jobs(shape: &Shape, body: &[u8]) -> Result<Vec<Job>, ApiError> {
    if shape.messages.is_some() {
        let plan = chat_plan(parse::<ChatRequest>(body)?)?;
        return Ok(vec![Job::Chat(Box::new(plan.job))]);
    }
    if shape.prompt.is_some() {
        let plan = completion_plan(parse::<CompletionRequest>(body)?)?;
        let jobs = plan.jobs.into_iter();
        return Ok(jobs.map(|job| Job::Completion(Box::new(job))).collect());
    }
    if shape.input.is_some() {
        let plan = embedding_plan(parse::<EmbeddingRequest>(body)?)?;
        return Ok(vec![Job::Embedding(plan.job)]);
    }
    Ok(Vec::new())
}

/// Lists who can answer, with what is known of each.
#[utoipa::path(get, path = "/v1/providers", tag = "routing",
    responses((status = 200, description = "All providers, in order", body = ProviderList)))]
pub(crate) async fn providers(State(state): State<AppState>, head: Head) -> Response {
    let sight = match head.require(Scope::Admin) {
        Ok(()) => Sight::All,
        Err(_) => Sight::Health,
    };
    let dispatch = state.dispatch();
    let fleet = dispatch.picture();
    let data = fleet.providers.iter().map(|provider| {
        let post = dispatch.post(&provider.name);
        WireProvider::new(provider, post.map(|post| post.provider()), sight)
    });
    ok(&ProviderList {
        object: "list",
        data: data.collect(),
        configuration: state.reloads().status(),
    })
}

/// Looks for engines that run on this machine at their usual ports and are no providers yet.
/// They are not used before they are in the configuration.
#[utoipa::path(get, path = "/v1/providers/discovered", tag = "routing",
    responses((status = 200, description = "What was found", body = FoundList)))]
pub(crate) async fn discovered(State(state): State<AppState>) -> Response {
    let mut known = state.dispatch().local_ports();
    known.extend(&state.config().own_ports);
    let found = discover::discover(&discover::ports_without(&known)).await;
    ok(&FoundList {
        object: "list",
        data: found.iter().map(WireFound::from).collect(),
    })
}

/// Reads providers and routing rules again, as a change of the file and SIGHUP do. Requests
/// that run are not touched.
#[utoipa::path(post, path = "/admin/reload", tag = "routing",
    responses(
        (status = 200, description = "What has changed", body = Reloaded),
        (status = 422, description = "The file cannot be used", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn reload(State(state): State<AppState>) -> Result<Response, ApiError> {
    let Some(source) = state.config().routing_source.clone() else {
        let why = "no configuration file is read";
        return Err(ApiError::new(
            ErrorCode::ConfigurationInvalid,
            &[("reason", why)],
        ));
    };
    // The source is a file; the runtime is needed for the new providers.
    let reloaded = tokio::task::spawn_blocking(move || state.reload(&*source)).await;
    let reloaded = reloaded.map_err(|_| ApiError::message(ErrorCode::Internal, "Cut off."))?;
    reloaded
        .map(|reloaded| ok(&reloaded))
        .map_err(|reason| ApiError::new(ErrorCode::ConfigurationInvalid, &[("reason", &reason)]))
}
