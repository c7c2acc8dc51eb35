//! `/v1/responses` and the responses that are kept.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use proto::{Event, Job};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Ask, Call, MaybeQuery, Reply, answer, given, json_response, ok, wrong_event};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse, parse_with_warnings};
use crate::dispatch::Question;
use crate::error::{ApiError, ErrorCode};
use crate::kept::{Kept, Watched};
use crate::wire::responses::events::{Asked, Keep, ResponseEncoder, StreamEvent};
use crate::wire::responses::items::{ItemList, Page, RESPONSE_PREFIX};
use crate::wire::responses::plan::response_plan;
use crate::wire::responses::request::ResponsesRequest;
use crate::wire::responses::response::ResponseObject;

/// Answers a list of items.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "openai",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream` as typed events",
         content((ResponseObject = "application/json"), (StreamEvent = "text/event-stream"))),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    )
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, mut warnings) = parse_with_warnings::<ResponsesRequest>(&body)?;
    let model = request.model.take();
    let store = state.responses(&headers);
    let watched = Watched::new(&*store);
    let plan = response_plan(request, &watched)?;
    warnings.extend(plan.warnings);
    let logprobs = plan.job.generation.logprobs.is_some();
    let job = Job::Chat(Box::new(plan.job));
    let question = Question::new(model, &headers).within(watched.strictest());
    let call = Call::new(&state, &question, &job).await?;
    let asked = Asked {
        logprobs,
        keep: plan.echo.store.then(|| Keep {
            store: Arc::clone(&store),
            input: plan.input,
            reach: call.reach_max(),
        }),
        echo: plan.echo,
        namespaces: plan.namespaces,
    };
    let ask = Ask {
        jobs: vec![job],
        choices_per_job: 1,
        id_prefix: RESPONSE_PREFIX,
        warnings,
        reply: Reply::new(plan.stream, &headers, &state),
    };
    answer(&state, &call, ask, |envelope| {
        ResponseEncoder::new(envelope, asked)
    })
    .await
}

type MaybePath = Result<Path<String>, PathRejection>;

fn kept(state: &AppState, head: &Head, id: MaybePath) -> Result<Arc<Kept>, ApiError> {
    let id = readable(id);
    state.responses(head).get(&id).ok_or_else(|| not_found(&id))
}

fn readable(id: MaybePath) -> String {
    id.map_or_else(|_| "(not UTF-8)".to_owned(), |Path(id)| id)
}

fn not_found(id: &str) -> ApiError {
    ApiError::new(ErrorCode::ResponseNotFound, &[("value", id)]).with_param("id")
}

#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct RetrieveQuery {
    /// Only `false`: a kept response is given whole.
    stream: Option<bool>,
}

/// Gives a kept response.
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "openai",
    params(("id" = String, Path, description = "Its id"), RetrieveQuery),
    responses(
        (status = 200, description = "The response as it ended", body = ResponseObject),
        (status = 404, description = "No such response", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    headers: Head,
    id: MaybePath,
    query: MaybeQuery<RetrieveQuery>,
) -> Result<Response, ApiError> {
    let query = given(query)?;
    if query.stream == Some(true) {
        let detail = "a kept response is given whole";
        return Err(ApiError::not_supported("stream", "true", detail));
    }
    Ok(json_response(kept(&state, &headers, id)?.response.clone()))
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deleted {
    id: String,
    /// `response`
    object: &'static str,
    deleted: bool,
}

/// Forgets a kept response. Those that continue it can be read, and no longer continued.
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "openai",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 404, description = "No such response", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    headers: Head,
    id: MaybePath,
) -> Result<Response, ApiError> {
    let id = readable(id);
    if !state.responses(&headers).delete(&id) {
        return Err(not_found(&id));
    }
    Ok(ok(&Deleted {
        id,
        object: "response",
        deleted: true,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct ItemsQuery {
    /// Items on the page, 1 to 100; 20 by default.
    limit: Option<i64>,
    /// `desc`, the default, or `asc`.
    order: Option<String>,
    /// The id of the item before the page.
    after: Option<String>,
}

/// Lists the input items of a kept response, without those of responses before it.
#[utoipa::path(get, path = "/v1/responses/{id}/input_items", tag = "openai",
    params(("id" = String, Path, description = "The response's id"), ItemsQuery),
    responses(
        (status = 200, description = "A page of them", body = ItemList),
        (status = 404, description = "No such response", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn input_items(
    State(state): State<AppState>,
    headers: Head,
    id: MaybePath,
    query: MaybeQuery<ItemsQuery>,
) -> Result<Response, ApiError> {
    let query = given(query)?;
    let kept = kept(&state, &headers, id)?;
    let page = Page {
        limit: query.limit,
        order: query.order,
        after: query.after,
    };
    Ok(ok(&ItemList::new(&kept, page)?))
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InputTokens {
    /// `response.input_tokens`
    object: &'static str,
    input_tokens: u32,
}

/// Counts the tokens of the prompt that a request would make.
#[utoipa::path(post, path = "/v1/responses/input_tokens", tag = "openai",
    request_body = ResponsesRequest,
    responses((status = 200, description = "Their number", body = InputTokens)))]
pub(crate) async fn input_tokens(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut request: ResponsesRequest = parse(&body)?;
    let model = request.model.take();
    let store = state.responses(&headers);
    let watched = Watched::new(&*store);
    let plan = response_plan(request, &watched)?;
    let job = Job::Render(Box::new(plan.job));
    let question = Question::new(model, &headers).within(watched.strictest());
    let call = Call::new(&state, &question, &job).await?;
    match call.one(&state, job).await? {
        Event::Rendered { n_tokens, .. } => Ok(ok(&InputTokens {
            object: "response.input_tokens",
            input_tokens: n_tokens,
        })),
        _ => Err(wrong_event()),
    }
}
