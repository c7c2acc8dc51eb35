//! `POST /api/embed` and the older `POST /api/embeddings`.

use axum::extract::State;
use axum::response::Response;
use proto::{Event, Job};
use tokio::time::Instant;

use super::{Readying, context_warning, keep, own_target};
use crate::AppState;
use crate::access::Head;
use crate::body::RawBody;
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::routes::{Call, ok, own_facts, own_model, warn, wrong_event};
use crate::wire::ollama::embedding::{
    EmbedPlan, OllamaVector, OllamaVectors, embed_plan, embeddings_plan,
};
use crate::wire::ollama::request::{OllamaEmbed, OllamaEmbeddings, parse};
use crate::wire::ollama::time::nanoseconds;
use crate::wire::openai::embedding::check_dimensions;

/// Turns texts into unit-length vectors. Without a text the model is loaded.
#[utoipa::path(
    post,
    path = "/api/embed",
    operation_id = "ollama_embed",
    tag = "ollama",
    request_body = OllamaEmbed,
    responses(
        (status = 200, description = "One vector an input, in order", body = OllamaVectors),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
        (status = "5XX", description = "See the error table", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn embed(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, warnings) = parse::<OllamaEmbed>(&body)?;
    let model = request.model.take();
    let began = Instant::now();
    let done = run(&state, &headers, model, embed_plan(request)?, warnings).await?;
    let mut response = ok(&OllamaVectors {
        model: done.model,
        embeddings: done.vectors,
        total_duration: nanoseconds(began.elapsed().as_secs_f64() * 1e3),
        load_duration: 0,
        prompt_eval_count: done.prompt_tokens,
    });
    warn(&mut response, &done.warnings);
    Ok(response)
}

/// Turns one text into a unit-length vector. Without a text the model is loaded.
#[utoipa::path(
    post,
    path = "/api/embeddings",
    operation_id = "ollama_embeddings",
    tag = "ollama",
    request_body = OllamaEmbeddings,
    responses(
        (status = 200, description = "The vector", body = OllamaVector),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
        (status = "5XX", description = "See the error table", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, warnings) = parse::<OllamaEmbeddings>(&body)?;
    let model = request.model.take();
    let done = run(&state, &headers, model, embeddings_plan(request)?, warnings).await?;
    let mut response = ok(&OllamaVector {
        embedding: done.vectors.into_iter().next().unwrap_or_default(),
    });
    warn(&mut response, &done.warnings);
    Ok(response)
}

/// What came of an embedding request.
struct Done {
    /// The name as the client spells it.
    model: String,
    vectors: Vec<Vec<f32>>,
    prompt_tokens: u32,
    warnings: Vec<String>,
}

async fn run(
    state: &AppState,
    headers: &Head,
    model: Option<String>,
    plan: EmbedPlan,
    mut warnings: Vec<String>,
) -> Result<Done, ApiError> {
    let model = model.filter(|name| !name.is_empty());
    warnings.extend(plan.warnings);
    let Some(job) = plan.job.map(Job::Embedding) else {
        let own = own_model(state, model.as_deref())?;
        let readying = Readying::new(state, headers, model.as_deref(), &own).await?;
        let (_wish, warning) = keep(state, headers, &own_target(&own), plan.keep);
        warnings.extend(warning);
        readying.wait(state).await?;
        return Ok(Done {
            model: model.unwrap_or(own.name),
            vectors: Vec::new(),
            prompt_tokens: 0,
            warnings,
        });
    };
    let question = Question::new(model.clone(), headers);
    let call = Call::new(state, &question, &job).await?;
    let target = call.target();
    let (_wish, warning) = keep(state, headers, &target, plan.keep);
    warnings.extend(warning);
    if let Some(facts) = own_facts(state, &target) {
        warnings.extend(context_warning(Some(&facts), plan.num_ctx));
        check_dimensions(plan.dimensions, facts.n_embd as usize)?;
    }
    let Event::Embeddings {
        vectors,
        prompt_tokens,
    } = call.one(state, job).await?
    else {
        return Err(wrong_event());
    };
    // A model that was still loading shows its size only now.
    if let Some(vector) = vectors.first() {
        check_dimensions(plan.dimensions, vector.len())?;
    }
    Ok(Done {
        model: model.unwrap_or(target.into_owned().model),
        vectors,
        prompt_tokens,
        warnings,
    })
}
