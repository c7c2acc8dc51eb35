//! Ollama's routes, one file a family.

pub(crate) mod answers;
pub(crate) mod embed;
pub(crate) mod models;
pub(crate) mod pull;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use proto::{Job, ModelFacts};
use router::Target;
use store::Scope;
use supervisor::{Keep, ModelStatus};

use super::{Call, find};
use crate::AppState;
use crate::access::Head;
use crate::backend::Backend;
use crate::dispatch::{EMBEDDED, Question};
use crate::error::{ApiError, ErrorCode};
use crate::holding::Holding;
use crate::library::StoredModel;
use crate::wire::openai::models::facts;

/// A model of this process that a request wants ready, without asking it for an answer.
/// Loading takes memory, and may take it from others: whoever may not use a model may not
/// load it either, and the audit log notes who did.
struct Readying<'a> {
    model: &'a ModelStatus,
    call: Call,
}

impl<'a> Readying<'a> {
    async fn new(
        state: &AppState,
        headers: &Head,
        asked: Option<&str>,
        model: &'a ModelStatus,
    ) -> Result<Self, ApiError> {
        let question = Question::own(&model.name, asked.map(str::to_owned), headers);
        let call = Call::new(state, &question, &nothing()).await?;
        Ok(Self { model, call })
    }

    /// Waits until the model can answer; where it cannot be loaded, the error says why.
    async fn wait(self, state: &AppState) -> Result<(), ApiError> {
        match facts(self.model) {
            Some(_) => Ok(()),
            None => self.call.one(state, nothing()).await.map(drop),
        }
    }
}

/// Every job waits while its model is loading, and this one is no work.
fn nothing() -> Job {
    Job::Tokenize {
        text: String::new(),
        add_special: false,
        parse_special: false,
        with_pieces: false,
    }
}

/// What is in force in the model, as soon as it can answer.
async fn ready_facts(
    state: &AppState,
    headers: &Head,
    asked: &str,
    model: &ModelStatus,
) -> Result<Arc<ModelFacts>, ApiError> {
    if let Some(facts) = facts(model) {
        return Ok(Arc::new(facts.clone()));
    }
    let readying = Readying::new(state, headers, Some(asked), model).await?;
    readying.wait(state).await?;
    let models = state.backend().models();
    let model = find(&models, &model.name).unwrap_or(model);
    facts(model).cloned().map(Arc::new).ok_or_else(|| {
        let message = format!("The model `{}` is not ready.", model.name);
        ApiError::message(ErrorCode::ModelUnavailable, &message)
    })
}

/// A request's wish for how long the model is to stay. It comes true when this is dropped,
/// which is when that request is over: whatever else the model does, and whoever asks for
/// another stay meanwhile, it is nobody else's.
#[must_use]
struct Wish {
    backend: Arc<dyn Backend>,
    model: String,
    keep: Option<Keep>,
}

impl Drop for Wish {
    fn drop(&mut self) {
        if let Some(keep) = self.keep {
            self.backend.keep(&self.model, keep);
        }
    }
}

impl Wish {
    /// Holds it until the answer is sent or the client has left.
    fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(Holding::new(body, self)))
    }
}

/// What a request may wish for, and a warning where it wishes for something else.
///
/// To take a model out of memory needs the scope `admin`, so a key without it gets the stay
/// that is configured and no other: neither a shorter one, which unloads, nor a longer one,
/// which keeps the memory from others.
fn keep(
    state: &AppState,
    headers: &Head,
    target: &Target,
    keep: Option<Keep>,
) -> (Wish, Option<String>) {
    let (keep, warning) = granted(state, headers, target, keep);
    let wish = Wish {
        backend: Arc::clone(state.backend()),
        model: target.model.clone(),
        keep,
    };
    (wish, warning)
}

fn granted(
    state: &AppState,
    headers: &Head,
    target: &Target,
    keep: Option<Keep>,
) -> (Option<Keep>, Option<String>) {
    let Some(keep) = keep else {
        return (None, None);
    };
    if target.provider != EMBEDDED {
        let provider = &target.provider;
        let warning = format!("keep_alive is not passed on to `{provider}`.");
        return (None, Some(warning));
    }
    let models = state.backend().models();
    let place = find(&models, &target.model).map(|model| &model.place);
    if place.is_some_and(|place| place.pinned) && keep != Keep::Forever {
        let model = &target.model;
        let warning = format!("keep_alive has no effect: `{model}` is pinned and stays in memory.");
        return (None, Some(warning));
    }
    let stay = match place.and_then(|place| place.stay_ms) {
        Some(ms) => Keep::For(Duration::from_millis(ms)),
        None => Keep::Forever,
    };
    if keep == stay || headers.has(Scope::Admin) {
        return (Some(keep), None);
    }
    let stays = match stay {
        Keep::For(time) => format!("for {} s after its last request", time.as_secs_f64()),
        Keep::Forever => "until memory is needed".to_owned(),
    };
    let warning = format!(
        "keep_alive is not followed: `{}` stays {stays}, and only a key with the scope `{}` \
         changes that.",
        target.model,
        Scope::Admin.word()
    );
    (is_longer(keep, stay).then_some(stay), Some(warning))
}

fn is_longer(one: Keep, other: Keep) -> bool {
    match (one, other) {
        (Keep::For(one), Keep::For(other)) => one > other,
        (Keep::Forever, Keep::For(_)) => true,
        (_, Keep::Forever) => false,
    }
}

fn own_target(model: &ModelStatus) -> Target {
    Target {
        provider: EMBEDDED.into(),
        model: model.name.clone(),
    }
}

/// A request cannot change the context of a model that runs.
fn context_warning(facts: Option<&ModelFacts>, num_ctx: Option<i64>) -> Option<String> {
    let context = facts?.context;
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
