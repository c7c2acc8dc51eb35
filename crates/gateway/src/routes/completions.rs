//! `POST /v1/completions`.

use axum::extract::State;
use axum::response::Response;
use proto::Job;

use super::{Ask, Call, Reply, answer};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse_with_warnings};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::wire::openai::completion::{Completion, CompletionEncoder};
use crate::wire::openai::{CompletionRequest, completion_plan};

/// Continues one text or several.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "openai",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The texts; with `stream` as events", body = Completion),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    )
)]
pub(crate) async fn completions(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, warnings) = parse_with_warnings::<CompletionRequest>(&body)?;
    let model = request.model.take();
    let plan = completion_plan(request)?;
    let first = plan.jobs.first().map(|job| &job.generation);
    let choices_per_job = first.map_or(1, |generation| generation.n as usize);
    let logprobs = first.is_some_and(|generation| generation.logprobs.is_some());
    let include_usage = plan.include_usage;
    let sent_chars = vec![0; plan.jobs.len() * choices_per_job];
    let jobs = plan.jobs.into_iter();
    let jobs: Vec<_> = jobs.map(|job| Job::Completion(Box::new(job))).collect();
    let question = Question::new(model, &headers);
    let call = Call::for_all(&state, &question, &jobs).await?;
    let ask = Ask {
        jobs,
        choices_per_job,
        id_prefix: "cmpl-",
        warnings,
        reply: Reply::new(plan.stream, &headers, &state),
    };
    answer(&state, &call, ask, |envelope| CompletionEncoder {
        envelope,
        include_usage,
        logprobs,
        sent_chars,
    })
    .await
}
