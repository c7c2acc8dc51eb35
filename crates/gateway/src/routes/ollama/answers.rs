//! `POST /api/chat` and `POST /api/generate`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::{context_warning, wait_until_ready};
use crate::AppState;
use crate::body::RawBody;
use crate::error::ApiError;
use crate::routes::{Ask, Call, Reply, answer, envelope, json_response, not_loaded, warn};
use crate::stream::streamed;
use crate::wire::encode::Envelope;
use crate::wire::ollama::chat::chat_plan;
use crate::wire::ollama::generate::generate_plan;
use crate::wire::ollama::plan::{Plan, Work};
use crate::wire::ollama::request::{OllamaChat, OllamaGenerate, parse};
use crate::wire::ollama::response::{
    Form, LINES, LineEncoder, OllamaChatAnswer, OllamaGenerateAnswer, line,
};

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
    headers: HeaderMap,
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
    headers: HeaderMap,
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
    async fn respond(self, state: &AppState, headers: &HeaderMap) -> Result<Response, ApiError> {
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
        let call = Call::new(state, model.as_deref())?;
        warnings.extend(plan.warnings);
        warnings.extend(context_warning(&call, plan.num_ctx));
        let encoder = |envelope: Envelope| {
            let model = model.unwrap_or(envelope.model);
            LineEncoder::new(form, Envelope { model, ..envelope }, plan.logprobs)
        };
        let done_reason = match plan.work {
            Work::Answer(job) => {
                let ask = Ask {
                    jobs: vec![job],
                    choices_per_job: 1,
                    id_prefix: "ollama-",
                    warnings,
                    reply: Reply::new(plan.stream, headers, state),
                };
                return answer(state, &call, ask, encoder).await;
            }
            Work::Load => {
                wait_until_ready(state, &call).await?;
                "load"
            }
            Work::Unload => {
                unload(state, &call).await?;
                "unload"
            }
        };
        let object = encoder(envelope(state, &call, String::new())).about_model(done_reason);
        let mut response = match plan.stream {
            true => lines_response(&object),
            false => json_response(object),
        };
        warn(&mut response, &warnings);
        Ok(response)
    }
}

async fn unload(state: &AppState, call: &Call) -> Result<(), ApiError> {
    let backend = state.backend();
    match backend.unload(&call.model.name).await {
        true => Ok(()),
        // It has gone since it was found.
        false => Err(not_loaded(&call.model.name, &backend.models())),
    }
}

/// A stream of one line.
fn lines_response(object: &[u8]) -> Response {
    let mut body = Vec::with_capacity(object.len() + 1);
    line(&mut body, object);
    streamed(body.into(), LINES)
}
