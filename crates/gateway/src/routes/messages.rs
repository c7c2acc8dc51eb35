//! `POST /v1/messages` and `POST /v1/messages/count_tokens`. The headers
//! `anthropic-version` and `anthropic-beta` need not be read: there is one version.

use axum::extract::State;
use axum::response::Response;
use proto::{Event, Job};

use super::{Ask, Call, Reply, answer, ok, wrong_event};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse, parse_with_warnings};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::wire::anthropic::response::{AnswerMessage, MessageEncoder, MessageEvent, TokenCount};
use crate::wire::anthropic::{ErrorBody, MessagesRequest, count_plan, messages_plan};

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream` events up to `message_stop`",
         content((AnswerMessage = "application/json"), (MessageEvent = "text/event-stream"))),
        (status = "4XX", description = "See the error table", body = ErrorBody),
        (status = "5XX", description = "See the error table", body = ErrorBody),
    )
)]
pub(crate) async fn messages(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, mut warnings) = parse_with_warnings::<MessagesRequest>(&body)?;
    let model = request.model.take();
    let plan = messages_plan(request)?;
    warnings.extend(plan.warnings);
    let job = Job::Chat(Box::new(plan.job));
    let call = Call::new(&state, &Question::new(model, &headers), &job).await?;
    let ask = Ask {
        choices_per_job: 1,
        jobs: vec![job],
        id_prefix: "msg_",
        warnings,
        reply: Reply::new(plan.stream, &headers, &state),
    };
    answer(&state, &call, ask, MessageEncoder::new).await
}

/// Counts the tokens of a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The count", body = TokenCount),
        (status = "4XX", description = "See the error table", body = ErrorBody),
        (status = "5XX", description = "See the error table", body = ErrorBody),
    )
)]
pub(crate) async fn count_tokens(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut request: MessagesRequest = parse(&body)?;
    let model = request.model.take();
    let job = Job::Render(Box::new(count_plan(request)?));
    let call = Call::new(&state, &Question::new(model, &headers), &job).await?;
    match call.one(&state, job).await? {
        Event::Rendered { n_tokens, .. } => Ok(ok(&TokenCount {
            input_tokens: n_tokens,
        })),
        _ => Err(wrong_event()),
    }
}
