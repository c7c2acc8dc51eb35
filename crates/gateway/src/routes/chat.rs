//! `POST /v1/chat/completions`.

use axum::extract::State;
use axum::response::Response;
use proto::Job;

use super::{Ask, Call, Reply, answer};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse_with_warnings};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::wire::openai::response::{ChatChunk, ChatCompletion, ChatEncoder};
use crate::wire::openai::{ChatRequest, chat_plan};

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream` chunks, then `[DONE]`",
         content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    )
)]
pub(crate) async fn chat(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, mut warnings) = parse_with_warnings::<ChatRequest>(&body)?;
    let model = request.model.take();
    let plan = chat_plan(request)?;
    warnings.extend(plan.warnings);
    let logprobs = plan.job.generation.logprobs.is_some();
    let include_usage = plan.include_usage;
    let choices_per_job = plan.job.generation.n as usize;
    let job = Job::Chat(Box::new(plan.job));
    let call = Call::new(&state, &Question::new(model, &headers), &job).await?;
    let ask = Ask {
        choices_per_job,
        jobs: vec![job],
        id_prefix: "chatcmpl-",
        warnings,
        reply: Reply::new(plan.stream, &headers, &state),
    };
    answer(&state, &call, ask, |envelope| ChatEncoder {
        envelope,
        include_usage,
        logprobs,
    })
    .await
}
