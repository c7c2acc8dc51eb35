//! `POST /v1/embeddings`.

use axum::extract::State;
use axum::response::Response;
use proto::{Event, Job};

use super::{Call, ok, own_facts, wrong_event};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::wire::openai::embedding::{EmbeddingList, check_dimensions, embedding_plan};
use crate::wire::openai::request::EmbeddingRequest;

/// Turns texts into unit-length vectors.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "openai",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "One vector an input, in order", body = EmbeddingList),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    )
)]
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut request: EmbeddingRequest = parse(&body)?;
    let model = request.model.take();
    let plan = embedding_plan(request)?;
    let job = Job::Embedding(plan.job);
    let call = Call::new(&state, &Question::new(model, &headers), &job).await?;
    if let Some(facts) = own_facts(&state, &call.target()) {
        check_dimensions(plan.dimensions, facts.n_embd as usize)?;
    }
    let Event::Embeddings {
        vectors,
        prompt_tokens,
    } = call.one(&state, job).await?
    else {
        return Err(wrong_event());
    };
    // A model that was still loading shows its size only now.
    if let Some(vector) = vectors.first() {
        check_dimensions(plan.dimensions, vector.len())?;
    }
    let name = call.target().into_owned().model;
    let list = EmbeddingList::new(name, vectors, plan.encoding, prompt_tokens);
    Ok(call.sign(ok(&list)))
}
