//! The seam between HTTP and what answers.
//!
//! Handlers see only [`Backend`]. The real one is [`supervisor::Fleet`]; tests use
//! a scripted one.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use proto::{Event, Job, JobFailure, LoadFailure, ModelFacts, WorkerState};
use supervisor::{Fleet, Keep, LoadOrder, ModelStatus, PressureState};

/// The events of one job, up to and including the last. Dropping it cancels the job.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Something that holds models and runs jobs.
pub trait Backend: Send + Sync + 'static {
    /// All models, the default first.
    fn models(&self) -> Vec<ModelStatus>;

    /// Hands a job to a model; waits while the model is loading.
    fn submit<'a>(
        &'a self,
        model: &'a str,
        job: Job,
    ) -> BoxFuture<'a, Result<EventStream, JobFailure>>;

    /// A look at one model's worker; `None` if it is not ready.
    fn inspect<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Option<WorkerState>>;

    /// Loads a model; waits until it is ready or has failed.
    fn load(&self, order: LoadOrder) -> BoxFuture<'_, Result<Arc<ModelFacts>, LoadFailure>>;

    /// Drains and ends a model; `false` if there is none of that name.
    fn unload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, bool>;

    /// Says how long a model in memory stays there from now on when it has nothing to do.
    fn keep(&self, model: &str, keep: Keep);

    /// Bytes that all models take, and how many they may, where there is a limit.
    fn memory(&self) -> (u64, Option<u64>);

    /// The same of a GPU.
    fn device_memory(&self) -> (u64, Option<u64>) {
        (0, None)
    }

    /// How short memory is, and what was given up for it.
    fn pressure(&self) -> PressureState {
        PressureState::default()
    }
}

impl Backend for Fleet {
    fn models(&self) -> Vec<ModelStatus> {
        Self::models(self)
    }

    fn submit<'a>(
        &'a self,
        model: &'a str,
        job: Job,
    ) -> BoxFuture<'a, Result<EventStream, JobFailure>> {
        async move {
            let job = Self::submit(self, model, job).await?;
            let events = stream::unfold(job, |mut job| async move {
                let event = job.next().await?;
                Some((event, job))
            });
            Ok(events.boxed())
        }
        .boxed()
    }

    fn inspect<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Option<WorkerState>> {
        Self::inspect(self, model).boxed()
    }

    fn load(&self, order: LoadOrder) -> BoxFuture<'_, Result<Arc<ModelFacts>, LoadFailure>> {
        Self::load_by(self, order).boxed()
    }

    fn unload<'a>(&'a self, model: &'a str) -> BoxFuture<'a, bool> {
        Self::unload(self, model).boxed()
    }

    fn keep(&self, model: &str, keep: Keep) {
        Self::keep(self, model, keep);
    }

    fn memory(&self) -> (u64, Option<u64>) {
        Self::memory(self)
    }

    fn device_memory(&self) -> (u64, Option<u64>) {
        Self::device_memory(self)
    }

    fn pressure(&self) -> PressureState {
        Self::pressure(self)
    }
}

/// The failure of a stream that ends without a last event.
pub(crate) fn cut_off() -> JobFailure {
    JobFailure {
        kind: proto::FailureKind::Internal,
        message: "The answer ended without its last event.".into(),
        param: None,
    }
}
