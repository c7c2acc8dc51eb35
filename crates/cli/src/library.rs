//! The models on disk, as the endpoint sees them: over the stores and downloads of `models`.

use std::fmt;
use std::sync::Arc;

use config::Config;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway::{
    FileProgress, Library, LibraryFailure, LibraryFailureKind, PlanAsk, Planned, PullProgressFn,
    StoredModel,
};
use models::pull::{Options, Progress, Puller};
use models::stores::{Manifest, RemoveError, remove};
use models::{Environment, Found, PullError, Source, Store};

use crate::outcome::{Code, Fault};
use crate::plan;

/// The stores that an environment names.
#[derive(Clone)]
pub(crate) struct DiskLibrary {
    environment: Arc<Environment>,
    /// What plans start from.
    config: Arc<Config>,
    changed: Arc<Changed>,
}

/// Is called where it may block.
type Changed = dyn Fn() + Send + Sync;

impl fmt::Debug for DiskLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLibrary")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl DiskLibrary {
    pub(crate) fn new(environment: Environment, config: Config) -> Self {
        Self {
            environment: Arc::new(environment),
            config: Arc::new(config),
            changed: Arc::new(|| {}),
        }
    }

    /// Calls this whenever a model has come or gone.
    pub(crate) fn on_change(self, changed: Arc<Changed>) -> Self {
        Self { changed, ..self }
    }
}

impl Library for DiskLibrary {
    fn list(&self) -> BoxFuture<'_, Vec<StoredModel>> {
        let environment = Arc::clone(&self.environment);
        let list = move || models::list(&environment).iter().map(stored).collect();
        // It fails only by a panic, of which the log has more.
        blocking(list).map(Option::unwrap_or_default).boxed()
    }

    fn pull(
        &self,
        spec: String,
        progress: Arc<PullProgressFn>,
    ) -> BoxFuture<'static, Result<(), LibraryFailure>> {
        let environment = Arc::clone(&self.environment);
        let changed = Arc::clone(&self.changed);
        async move {
            let source = match Source::parse(&spec) {
                Ok(Some(source)) => source,
                Ok(None) => return Err(invalid(format!("`{spec}` says not where from."))),
                Err(error) => return Err(invalid(error.to_string())),
            };
            let note = move |at: Progress| {
                progress(FileProgress {
                    file: at.file,
                    done: at.done.0,
                    total: at.total.map(|total| total.0),
                });
            };
            let options = Options::from_environment(&environment).map_err(pull_failure)?;
            let puller = Puller::new(options).map_err(pull_failure)?;
            let pulled = Box::pin(puller.pull(&source, &note)).await;
            pulled.map(drop).map_err(pull_failure)?;
            let told = blocking(move || changed()).await;
            told.ok_or_else(|| failed("The new model could not be listed by a defect.".into()))
        }
        .boxed()
    }

    fn delete(&self, id: String) -> BoxFuture<'_, Result<(), LibraryFailure>> {
        let environment = Arc::clone(&self.environment);
        // With the store in front a name is taken as it is, and not as the start of one.
        let name = format!("{}:{id}", Store::Own.prefix());
        let changed = Arc::clone(&self.changed);
        let remove = move || {
            let removed = remove(&environment, &name);
            changed();
            removed
        };
        blocking(remove)
            .map(|removed| match removed {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(remove_failure(&error)),
                None => Err(failed("The deletion failed by a defect.".into())),
            })
            .boxed()
    }

    fn plan(&self, ask: PlanAsk) -> BoxFuture<'_, Result<Planned, LibraryFailure>> {
        let environment = Arc::clone(&self.environment);
        let config = Arc::clone(&self.config);
        let plan = move || plan::planned(&config, &environment, &ask);
        blocking(plan)
            .map(|planned| match planned {
                Some(planned) => planned.map_err(|fault| plan_failure(&fault)),
                None => Err(failed("The plan failed by a defect.".into())),
            })
            .boxed()
    }
}

/// Runs file work off the async threads; `None` if it panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn stored(found: &Found) -> StoredModel {
    let manifest = Manifest::read(&found.path);
    let is_one_file = found.files.len() == 1;
    StoredModel {
        id: found.id.clone(),
        owner: (found.store != Store::Own).then(|| found.store.to_string()),
        path: crate::models_here::absolute(&found.path),
        bytes: found.bytes.0,
        sha256: manifest
            .as_ref()
            .filter(|_| is_one_file)
            .map(|manifest| manifest.sha256.clone()),
        pulled_unix_s: manifest.map(|manifest| manifest.pulled_unix_s),
        source: found.source.clone(),
        architecture: found.architecture.clone(),
        quant: found.quant.clone(),
        n_parameters: found.n_parameters,
    }
}

fn pull_failure(error: PullError) -> LibraryFailure {
    let kind = match &error {
        PullError::Source(_) => LibraryFailureKind::Invalid,
        PullError::NotFound { .. } | PullError::NothingToPull { .. } => {
            LibraryFailureKind::NotFound
        }
        _ => LibraryFailureKind::Failed,
    };
    LibraryFailure {
        kind,
        message: error.to_string(),
    }
}

fn plan_failure(fault: &Fault) -> LibraryFailure {
    LibraryFailure {
        kind: match fault.code() {
            Code::ModelNotFound => LibraryFailureKind::NotFound,
            Code::Usage => LibraryFailureKind::Invalid,
            _ => LibraryFailureKind::Failed,
        },
        message: fault.to_string(),
    }
}

fn remove_failure(error: &RemoveError) -> LibraryFailure {
    let kind = match error {
        RemoveError::Resolve(_) | RemoveError::NotHere { .. } => LibraryFailureKind::NotFound,
        RemoveError::OtherStore { .. } | RemoveError::Io { .. } => LibraryFailureKind::Failed,
    };
    LibraryFailure {
        kind,
        message: error.to_string(),
    }
}

fn invalid(message: String) -> LibraryFailure {
    LibraryFailure {
        kind: LibraryFailureKind::Invalid,
        message,
    }
}

fn failed(message: String) -> LibraryFailure {
    LibraryFailure {
        kind: LibraryFailureKind::Failed,
        message,
    }
}
