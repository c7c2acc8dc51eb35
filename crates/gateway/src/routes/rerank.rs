//! `POST /v1/rerank`, also as `/v1/reranking` and `/rerank`.

use axum::extract::State;
use axum::response::Response;
use proto::{Event, Job};

use super::{Call, ok, wrong_event};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::wire::rerank::{Ranking, RerankRequest, rerank_plan};

/// Orders documents by the cosine of their embeddings with the query's. Works with any
/// embedding model; cross-encoders are not run.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    tag = "rerank",
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents, the best first", body = Ranking),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    )
)]
pub(crate) async fn rerank(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut request: RerankRequest = parse(&body)?;
    let model = request.model.take();
    let plan = rerank_plan(request)?;
    let job = Job::Embedding(plan.job);
    let call = Call::new(&state, &Question::new(model, &headers), &job).await?;
    let Event::Embeddings {
        vectors,
        prompt_tokens,
    } = call.one(&state, job).await?
    else {
        return Err(wrong_event());
    };
    let ranking = Ranking::new(
        call.target().into_owned().model,
        plan.wanted,
        &vectors,
        prompt_tokens,
    );
    Ok(call.sign(ok(&ranking.ok_or_else(wrong_event)?)))
}
