//! Ollama's routes, one file a family.

pub(crate) mod answers;
pub(crate) mod embed;
pub(crate) mod models;
pub(crate) mod pull;

use std::path::Path;
use std::sync::Arc;

use proto::{Job, ModelFacts};

use super::{Call, find};
use crate::AppState;
use crate::error::{ApiError, ErrorCode};
use crate::library::StoredModel;
use crate::wire::openai::models::facts;

/// Waits until the model can answer; where it cannot be loaded, the error says why.
async fn wait_until_ready(state: &AppState, call: &Call) -> Result<(), ApiError> {
    if facts(&call.model).is_some() {
        return Ok(());
    }
    // Every job waits while its model is loading, and this one is no work.
    let nothing = Job::Tokenize {
        text: String::new(),
        add_special: false,
        parse_special: false,
        with_pieces: false,
    };
    call.one(state, nothing).await.map(drop)
}

/// What is in force in the model, as soon as it can answer.
async fn ready_facts(state: &AppState, call: &Call) -> Result<Arc<ModelFacts>, ApiError> {
    wait_until_ready(state, call).await?;
    let models = state.backend().models();
    let model = find(&models, &call.model.name).unwrap_or(&call.model);
    facts(model).cloned().map(Arc::new).ok_or_else(|| {
        let message = format!("The model `{}` is not ready.", call.model.name);
        ApiError::message(ErrorCode::ModelUnavailable, &message)
    })
}

/// A request cannot change the context of a model that runs.
fn context_warning(call: &Call, num_ctx: Option<i64>) -> Option<String> {
    let context = facts(&call.model)?.context;
    let wanted = num_ctx.filter(|wanted| *wanted != i64::from(context))?;
    Some(format!(
        "options.num_ctx is {wanted}, and the model runs with a context of {context} tokens, \
         which is set when it is loaded."
    ))
}

/// The models on disk; none where there is no library.
async fn stored(state: &AppState) -> Vec<StoredModel> {
    match &state.config().library {
        Some(library) => library.list().await,
        None => Vec::new(),
    }
}

fn stored_at<'a>(stored: &'a [StoredModel], path: &Path) -> Option<&'a StoredModel> {
    stored.iter().find(|stored| stored.path == path)
}
