//! `POST /tokenize`, `/detokenize` and `/apply-template`, as llama.cpp has them.

use axum::extract::State;
use axum::response::Response;
use proto::{Event, Job};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Call, ok, wrong_event};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::wire::openai::{ChatRequest, chat_plan};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct TokenizeRequest {
    /// A loaded model's name; absent or empty: the first model.
    model: Option<String>,
    /// The text.
    content: Option<String>,
    /// Add the model's BOS and EOS as its vocabulary asks.
    add_special: Option<bool>,
    /// Read control tokens as such, not as text; true by default.
    parse_special: Option<bool>,
    /// Also give the text of each token.
    with_pieces: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeAnswer {
    /// Token ids, or objects of `id` and `piece`.
    tokens: WireTokens,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum WireTokens {
    Ids(Vec<i32>),
    Pieces(Vec<WirePiece>),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WirePiece {
    id: i32,
    piece: String,
}

/// Text to tokens.
#[utoipa::path(post, path = "/tokenize", tag = "llama.cpp", request_body = TokenizeRequest,
    responses((status = 200, description = "The tokens", body = TokenizeAnswer)))]
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: TokenizeRequest = parse(&body)?;
    let text = request
        .content
        .ok_or_else(|| ApiError::missing("content", "a string"))?;
    let job = Job::Tokenize {
        text,
        add_special: request.add_special.unwrap_or(false),
        parse_special: request.parse_special.unwrap_or(true),
        with_pieces: request.with_pieces.unwrap_or(false),
    };
    let call = Call::new(&state, &Question::new(request.model, &headers), &job).await?;
    let Event::Tokens { tokens, pieces } = call.one(&state, job).await? else {
        return Err(wrong_event());
    };
    let tokens = match pieces {
        None => WireTokens::Ids(tokens),
        Some(pieces) => {
            let pairs = tokens.into_iter().zip(pieces);
            WireTokens::Pieces(pairs.map(|(id, piece)| WirePiece { id, piece }).collect())
        }
    };
    Ok(ok(&TokenizeAnswer { tokens }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct DetokenizeRequest {
    /// A loaded model's name; absent or empty: the first model.
    model: Option<String>,
    /// Token ids.
    tokens: Option<Vec<i32>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetokenizeAnswer {
    content: String,
}

/// Tokens to text.
#[utoipa::path(post, path = "/detokenize", tag = "llama.cpp", request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = DetokenizeAnswer)))]
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: DetokenizeRequest = parse(&body)?;
    let rule = "an array of token ids";
    let tokens = request
        .tokens
        .ok_or_else(|| ApiError::missing("tokens", rule))?;
    for (index, token) in tokens.iter().enumerate() {
        if *token < 0 {
            let param = format!("tokens[{index}]");
            return Err(ApiError::invalid(&param, &token.to_string(), "a token id"));
        }
    }
    let job = Job::Detokenize { tokens };
    let call = Call::new(&state, &Question::new(request.model, &headers), &job).await?;
    match call.one(&state, job).await? {
        Event::Text { text } => Ok(ok(&DetokenizeAnswer { content: text })),
        _ => Err(wrong_event()),
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RenderAnswer {
    /// The prompt as the model would read it.
    prompt: String,
    /// Its length.
    n_tokens: u32,
}

/// Shows the prompt that the chat template makes of a chat request.
#[utoipa::path(post, path = "/apply-template", tag = "llama.cpp", request_body = ChatRequest,
    responses((status = 200, description = "The prompt", body = RenderAnswer)))]
pub(crate) async fn apply_template(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut request: ChatRequest = parse(&body)?;
    let model = request.model.take();
    let plan = chat_plan(request)?;
    let job = Job::Render(Box::new(plan.job));
    let call = Call::new(&state, &Question::new(model, &headers), &job).await?;
    match call.one(&state, job).await? {
        Event::Rendered { prompt, n_tokens } => Ok(ok(&RenderAnswer { prompt, n_tokens })),
        _ => Err(wrong_event()),
    }
}
