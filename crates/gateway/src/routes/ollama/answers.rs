//! `POST /api/chat` and `POST /api/generate`.

use axum::extract::State;
use axum::response::Response;

use store::Scope;

use super::{Readying, context_warning, keep, own_target};
use crate::AppState;
use crate::access::Head;
use crate::body::RawBody;
use crate::dispatch::{Question, not_loaded};
use crate::error::ApiError;
use crate::routes::{Ask, Call, Reply, answer, json_response, own_facts, own_model, warn};
use crate::stream::streamed;
use crate::wire::encode::Envelope;
use crate::wire::ollama::chat::chat_plan;
use crate::wire::ollama::generate::generate_plan;
use crate::wire::ollama::plan::{Plan, Work};
use crate::wire::ollama::request::{OllamaChat, OllamaGenerate, parse};
use crate::wire::ollama::response::{
    Form, LINES, LineEncoder, OllamaChatAnswer, OllamaGenerateAnswer, line,
};
use crate::wire::openai::models::facts;

/// Answers a conversation. Without messages the model is loaded, or with `keep_alive` 0
/// unloaded.
#[utoipa::path(
    post,
    path = "/api/chat",
    operation_id = "ollama_chat",
    tag = "ollama",
    request_body = OllamaChat,
    responses(
        (status = 200, description = "The answer; unless `stream` is false, line by line",
         content((OllamaChatAnswer = "application/x-ndjson"),
                 (OllamaChatAnswer = "application/json"))),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
        (status = "5XX", description = "See the error table", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn chat(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, warnings) = parse::<OllamaChat>(&body)?;
    let asked = Asked {
        model: request.model.take(),
        form: Form::Chat,
        plan: chat_plan(request)?,
        warnings,
    };
    asked.respond(&state, &headers).await
}

/// Answers a prompt. Without one the model is loaded, or with `keep_alive` 0 unloaded.
#[utoipa::path(
    post,
    path = "/api/generate",
    operation_id = "ollama_generate",
    tag = "ollama",
    request_body = OllamaGenerate,
    responses(
        (status = 200, description = "The answer; unless `stream` is false, line by line",
         content((OllamaGenerateAnswer = "application/x-ndjson"),
                 (OllamaGenerateAnswer = "application/json"))),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
        (status = "5XX", description = "See the error table", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn generate(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let (mut request, warnings) = parse::<OllamaGenerate>(&body)?;
    let asked = Asked {
        model: request.model.take(),
        form: Form::Generate,
        plan: generate_plan(request)?,
        warnings,
    };
    asked.respond(&state, &headers).await
}

/// A request of either kind, translated.
struct Asked {
    /// The name as the client spells it, which the answer repeats.
    model: Option<String>,
    form: Form,
    plan: Plan,
    warnings: Vec<String>,
}

impl Asked {
    async fn respond(self, state: &AppState, headers: &Head) -> Result<Response, ApiError> {
        let Self {
            model,
            form,
            plan,
            mut warnings,
        } = self;
        let model = model.filter(|name| !name.is_empty());
        if plan.work == Work::Unload && model.is_none() {
            let rule = "the name of the model to unload";
            return Err(ApiError::missing("model", rule));
        }
        warnings.extend(plan.warnings);
        let encoder = |envelope: Envelope| {
            let model = model.clone().unwrap_or(envelope.model);
            LineEncoder::new(form, Envelope { model, ..envelope }, plan.logprobs)
        };
        let (model, done_reason) = match plan.work {
            Work::Answer(job) => {
                let question = Question::new(model.clone(), headers);
                let call = Call::new(state, &question, &job).await?;
                let facts = own_facts(state, &call.target());
                let (wish, warning) = keep(state, headers, &call.target(), plan.keep);
                warnings.extend(warning);
                warnings.extend(context_warning(facts.as_deref(), plan.num_ctx));
                let ask = Ask {
                    jobs: vec![job],
                    choices_per_job: 1,
                    id_prefix: "ollama-",
                    warnings,
                    reply: Reply::new(plan.stream, headers, state),
                };
                let response = answer(state, &call, ask, encoder).await?;
                return Ok(wish.until_sent(response));
            }
            Work::Load => {
                let own = own_model(state, model.as_deref())?;
                let readying = Readying::new(state, headers, model.as_deref(), &own).await?;
                let (_wish, warning) = keep(state, headers, &own_target(&own), plan.keep);
                warnings.extend(warning);
                readying.wait(state).await?;
                warnings.extend(context_warning(facts(&own), plan.num_ctx));
                (own.name, "load")
            }
            Work::Unload => {
                headers.require(Scope::Admin)?;
                let own = own_model(state, model.as_deref())?;
                headers.manages(&own.name)?;
                unload(state, &own.name).await?;
                (own.name, "unload")
            }
        };
        let envelope = Envelope {
            id: String::new(),
            created: state.stamps().now(),
            model,
            fingerprint: None,
        };
        let object = encoder(envelope).about_model(done_reason);
        let mut response = match plan.stream {
            true => lines_response(&object),
            false => json_response(object),
        };
        warn(&mut response, &warnings);
        Ok(response)
    }
}

async fn unload(state: &AppState, model: &str) -> Result<(), ApiError> {
    let backend = state.backend();
    match backend.unload(model).await {
        true => Ok(()),
        // It has gone since it was found.
        false => Err(not_loaded(model, &backend.models())),
    }
}

/// A stream of one line.
fn lines_response(object: &[u8]) -> Response {
    let mut body = Vec::with_capacity(object.len() + 1);
    line(&mut body, object);
    streamed(body.into(), LINES)
}
