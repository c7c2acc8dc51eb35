//! `POST /api/pull` and `DELETE /api/delete`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use router::same_name;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::error::{ApiError, ErrorCode};
use crate::library::{Library, LibraryFailure, LibraryFailureKind, PullState, StoredModel};
use crate::limits::quoted;
use crate::routes::{Reply, find, ok};
use crate::stream::streamed;
use crate::wire::ollama::pull::{OllamaProgress, PullWriter, spec_of};
use crate::wire::ollama::request::{OllamaModelName, OllamaPull, model_name};
use crate::wire::ollama::response::{KEEP_ALIVE, LINES};

/// Least time between two looks at a download: every piece of its body would be a line.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Downloads a model into our own store. The download goes on when the client leaves, and
/// whoever asks for the same model meanwhile follows the same download.
#[utoipa::path(
    post,
    path = "/api/pull",
    operation_id = "ollama_pull",
    tag = "ollama",
    request_body = OllamaPull,
    responses(
        (status = 200, description = "It is here; unless `stream` is false, line by line",
         content((OllamaProgress = "application/x-ndjson"),
                 (OllamaProgress = "application/json"))),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
        (status = "5XX", description = "See the error table", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn pull(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let request: OllamaPull = parse(&body)?;
    if request.insecure == Some(true) {
        let detail = "downloads are always checked";
        return Err(ApiError::not_supported("insecure", "true", detail));
    }
    let name = model_name(request.model, request.name)?;
    headers.changes(&name);
    let spec = spec_of(&name)?;
    let library = library(&state)?;
    let mut pull = {
        // A download outlives the client that began it, and takes its time.
        let _entered = state.runtime().map(tokio::runtime::Handle::enter);
        state.pulls().follow(&**library, spec)?
    };
    match Reply::new(request.stream.unwrap_or(true), &headers, &state) {
        Reply::Whole => {
            end(&mut pull).await?;
            Ok(ok(&OllamaProgress::success()))
        }
        Reply::Stream { keep_alive } => {
            // A pull that fails at once still has a status of its own.
            if let Ok(ended) = timeout(state.config().commit_after, first_sign(&mut pull)).await {
                ended?;
            }
            Ok(Followed::new(pull, keep_alive, headers).into_response())
        }
    }
}

/// Waits for the end of a download.
async fn end(pull: &mut watch::Receiver<PullState>) -> Result<(), ApiError> {
    let state = pull.wait_for(|state| state.outcome.is_some()).await;
    let outcome = state.map_err(|_| cut_off())?.outcome.clone();
    outcome.unwrap_or(Ok(())).map_err(ApiError::from)
}

/// Waits for the first bytes of a download, or its end.
async fn first_sign(pull: &mut watch::Receiver<PullState>) -> Result<(), ApiError> {
    let begun = |state: &PullState| state.outcome.is_some() || !state.files.is_empty();
    let state = pull.wait_for(begun).await.map_err(|_| cut_off())?;
    state
        .outcome
        .clone()
        .unwrap_or(Ok(()))
        .map_err(ApiError::from)
}

/// The server is ending, and its tasks are gone.
fn cut_off() -> LibraryFailure {
    LibraryFailure {
        kind: LibraryFailureKind::Failed,
        message: "The download was cut off; the next one continues it.".into(),
    }
}

/// A download as one client follows it.
struct Followed {
    pull: watch::Receiver<PullState>,
    writer: PullWriter,
    /// Silence after which a sign of life is sent; `None`: never.
    keep_alive: Option<Duration>,
    /// Whose request is told how it ends.
    head: Head,
}

impl Followed {
    fn new(pull: watch::Receiver<PullState>, keep_alive: Option<Duration>, head: Head) -> Self {
        Self {
            head,
            pull,
            writer: PullWriter::default(),
            keep_alive,
        }
    }

    fn into_response(self) -> Response {
        let lines = stream::unfold(self, |mut followed| async move {
            let bytes = followed.next().await?;
            Some((Ok::<_, Infallible>(bytes), followed))
        });
        streamed(Body::from_stream(lines), LINES)
    }

    /// The next bytes to send.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        loop {
            if self.writer.is_over() {
                return None;
            }
            {
                let state = self.pull.borrow_and_update();
                if let Some(Err(failure)) = &state.outcome {
                    self.head.visit().failed(&failure.clone().into());
                }
                self.writer.write(&state, &mut out);
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            let changed = self.pull.changed();
            let changed = match self.keep_alive {
                None => changed.await,
                Some(limit) => match timeout(limit, changed).await {
                    Ok(changed) => changed,
                    Err(_) => return Some(Bytes::from_static(KEEP_ALIVE)),
                },
            };
            match changed {
                Ok(()) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => {
                    self.head.visit().failed(&cut_off().into());
                    self.writer.fail(cut_off(), &mut out);
                    return Some(out.into());
                }
            }
        }
    }
}

/// Deletes a model of our own store. One that is loaded finishes its jobs and is unloaded
/// first.
#[utoipa::path(
    delete,
    path = "/api/delete",
    operation_id = "ollama_delete",
    tag = "ollama",
    request_body = OllamaModelName,
    responses(
        (status = 200, description = "It is gone", body = OllamaProgress),
        (status = 403, description = "It belongs to another program",
         body = crate::openapi::OllamaError),
        (status = 404, description = "No such model", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    headers: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let name = parse::<OllamaModelName>(&body)?.given()?;
    headers.changes(&name);
    let library = library(&state)?;
    let stored = library.list().await;
    let loaded = state.backend().models();
    let path = find(&loaded, &name).map(|model| &model.spec.path);
    let by_path = stored.iter().find(|stored| Some(&stored.path) == path);
    let found = by_path.or_else(|| named(&stored, &name));
    let model = found.ok_or_else(|| unknown(&name))?;
    if let Some(owner) = &model.owner {
        let facts = [("value", &*name), ("owner", owner)];
        return Err(ApiError::new(ErrorCode::ModelNotOurs, &facts));
    }
    for running in loaded.iter().filter(|one| one.spec.path == model.path) {
        state.backend().unload(&running.name).await;
    }
    library.delete(model.id.clone()).await?;
    Ok(ok(&OllamaProgress::success()))
}

/// The model on disk that has this name or was pulled by it. Nothing is guessed: what is
/// deleted does not come back.
fn named<'a>(stored: &'a [StoredModel], name: &str) -> Option<&'a StoredModel> {
    let by_id = stored.iter().find(|stored| same_name(&stored.id, name));
    by_id.or_else(|| {
        let spec = spec_of(name).ok()?;
        let source = |stored: &&StoredModel| {
            let source = stored.source.as_deref();
            source.is_some_and(|source| same_name(source, &spec))
        };
        stored.iter().find(source)
    })
}

fn unknown(name: &str) -> ApiError {
    let message = format!("No store of models on this machine has {}.", quoted(name));
    ApiError::message(ErrorCode::ModelUnknown, &message)
}

fn library(state: &AppState) -> Result<&Arc<dyn Library>, ApiError> {
    state.config().library.as_ref().ok_or_else(|| {
        let message = "This endpoint has no store of models.";
        ApiError::message(ErrorCode::NoLibrary, message)
    })
}
