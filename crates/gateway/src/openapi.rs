//! The OpenAPI description, generated from the handlers and their types.

use utoipa::{OpenApi, ToSchema};

use crate::routes::{
    admin, audit, chat, chats, completions, doctor, embeddings, events, health, info, logs,
    machine, messages, models, ollama, plan, rerank, responses, route, telemetry, tokens,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Sextant", description = "A local LLM endpoint."),
    paths(
        chat::chat,
        completions::completions,
        embeddings::embeddings,
        responses::create,
        responses::retrieve,
        responses::delete,
        responses::input_items,
        responses::input_tokens,
        rerank::rerank,
        messages::messages,
        messages::count_tokens,
        models::list,
        models::one,
        route::route,
        route::providers,
        route::discovered,
        route::reload,
        ollama::models::version,
        ollama::models::tags,
        ollama::models::ps,
        ollama::models::show,
        ollama::answers::chat,
        ollama::answers::generate,
        ollama::embed::embed,
        ollama::embed::embeddings,
        ollama::pull::pull,
        ollama::pull::delete,
        tokens::tokenize,
        tokens::detokenize,
        tokens::apply_template,
        info::props,
        info::slots,
        info::openapi,
        health::health,
        health::ready,
        health::metrics,
        audit::audit,
        plan::plan,
        doctor::doctor,
        events::events,
        machine::machine,
        machine::library,
        logs::logs,
        telemetry::telemetry,
        telemetry::note,
        telemetry::forget,
        chats::list,
        chats::create,
        chats::one,
        chats::change,
        chats::delete,
        chats::turn,
        chats::stop,
        chats::follow,
        admin::list,
        admin::load,
        admin::unload,
    ),
    tags(
        (name = "openai", description = "OpenAI's routes"),
        (name = "routing", description = "Where requests go, and why"),
        (name = "rerank", description = "Reranking, in the shape of Jina and Cohere"),
        (name = "anthropic", description = "Anthropic's routes"),
        (name = "ollama", description = "Ollama's routes"),
        (name = "llama.cpp", description = "Routes that llama.cpp's server has too"),
        (name = "workbench", description = "What the web page is made from"),
        (name = "operation", description = "Health, metrics, models"),
    )
)]
struct Description;

/// Every error, whatever the route.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; bodies come from the error table"
)]
pub(crate) struct ErrorBody {
    error: ErrorObject,
}

#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; bodies come from the error table"
)]
pub(crate) struct ErrorObject {
    /// What is wrong, with the value given and the limit.
    message: String,
    r#type: String,
    /// The field at fault.
    param: Option<String>,
    /// Stable; see the error table.
    code: String,
    /// What to do next.
    hint: String,
}

/// Every error of Ollama's routes.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; bodies come from the error table"
)]
pub(crate) struct OllamaError {
    /// What is wrong, with the value given and the limit.
    error: String,
}

/// The OpenAPI document as JSON.
#[must_use]
pub fn openapi_json() -> String {
    // The document is made of plain strings and maps, which always serialise.
    Description::openapi().to_pretty_json().unwrap_or_default()
}
