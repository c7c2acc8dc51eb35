//! The worker's side of the protocol.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use proto::frame::{self, FrameError};
use proto::{
    Event, FailureKind, FromWorker, Job, JobFailure, JobId, LoadFailure, LoadSpec, ToWorker,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::engine_thread::{Command, EngineHandle, Parts};
use crate::load::{Loaded, Loader};
use crate::prepare::{Preparer, Work};

/// Smallest step of load progress worth a message.
const PROGRESS_STEP: f32 = 0.01;

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the endpoint speaks version {theirs} of the worker protocol, this worker {ours}")]
    Version { theirs: u32, ours: u32 },
    /// The built-in template does not compile: a fault of this program.
    #[error(transparent)]
    Template(chat::TemplateError),
    #[error("expected {expected}, got another message")]
    OutOfOrder { expected: &'static str },
}

/// Speaks the protocol over `stream` until it closes, the model fails to load, or
/// a drain is done.
pub async fn serve<S, L>(stream: S, loader: L) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    L: Loader,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let (events, outbox) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write_all(writer, outbox));
    let result = converse(&mut reader, events, loader).await;
    // Every sender is gone now but the engine's, which ends with its last event.
    match writing.await {
        Ok(written) => result.and(written),
        Err(_) => result,
    }
}

async fn converse<R, L>(
    reader: &mut R,
    events: UnboundedSender<FromWorker>,
    loader: L,
) -> Result<(), ServeError>
where
    R: AsyncRead + Unpin,
    L: Loader,
{
    match frame::read(reader).await? {
        Some(ToWorker::Hello { version }) if version == proto::VERSION => {}
        Some(ToWorker::Hello { version }) => {
            return Err(ServeError::Version {
                theirs: version,
                ours: proto::VERSION,
            });
        }
        Some(_) => return Err(ServeError::OutOfOrder { expected: "Hello" }),
        None => return Ok(()),
    }
    send(
        &events,
        FromWorker::Hello {
            version: proto::VERSION,
            pid: std::process::id(),
        },
    );
    let spec = match frame::read(reader).await? {
        Some(ToWorker::Load(spec)) => *spec,
        Some(_) => return Err(ServeError::OutOfOrder { expected: "Load" }),
        None => return Ok(()),
    };
    let loaded = match load(spec, loader, events.clone()).await {
        Ok(loaded) => loaded,
        Err(failure) => {
            send(&events, FromWorker::LoadFailed(failure));
            return Ok(());
        }
    };
    let mut desk = Desk::open(loaded, events)?;
    desk.serve(reader).await
}

/// Loads on a thread of its own, reporting progress.
async fn load<L: Loader>(
    spec: LoadSpec,
    loader: L,
    events: UnboundedSender<FromWorker>,
) -> Result<Loaded, LoadFailure> {
    let crashed = |message: String| LoadFailure {
        kind: proto::LoadFailureKind::Crashed,
        message,
    };
    let (done, loaded) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            let mut last = -1.0;
            let result = loader.load(&spec, &mut |fraction| {
                if fraction - last >= PROGRESS_STEP || fraction >= 1.0 {
                    last = fraction;
                    send(&events, FromWorker::LoadProgress { fraction });
                }
            });
            let _ = done.send(result);
        })
        .map_err(|error| crashed(error.to_string()))?;
    match (loaded.await, thread.join()) {
        (Ok(result), Ok(())) => result,
        _ => Err(crashed("the loader panicked".into())),
    }
}

async fn write_all<W>(
    writer: W,
    mut outbox: UnboundedReceiver<FromWorker>,
) -> Result<(), ServeError>
where
    W: AsyncWrite + Unpin,
{
    let mut writer = BufWriter::new(writer);
    while let Some(message) = outbox.recv().await {
        write_message(&mut writer, &message).await?;
        // Events of one pass come together; one write carries them.
        while let Ok(message) = outbox.try_recv() {
            write_message(&mut writer, &message).await?;
        }
        writer.flush().await?;
    }
    Ok(())
}

/// Writes a message; an answer over the frame limit becomes its job's failure.
async fn write_message<W>(writer: &mut W, message: &FromWorker) -> Result<(), ServeError>
where
    W: AsyncWrite + Unpin,
{
    let frame = match (frame::encode(message), message) {
        (Err(error @ FrameError::TooLarge { .. }), FromWorker::Event { id, .. }) => {
            let failure = JobFailure {
                kind: FailureKind::InvalidRequest,
                message: format!("The answer is too large to send: {error}"),
                param: None,
            };
            let event = Event::Failed(failure);
            frame::encode(&FromWorker::Event { id: *id, event })?
        }
        (frame, _) => frame?,
    };
    Ok(writer.write_all(&frame).await?)
}

/// Takes messages in and hands work out.
struct Desk {
    engine: EngineHandle,
    preparer: Arc<Preparer>,
    events: UnboundedSender<FromWorker>,
    /// Jobs whose request is being prepared; a cancelled one is taken out.
    preparing: HashSet<JobId>,
    /// Requests in the blocking pool, cancelled ones included.
    n_preparing: usize,
    prepared: UnboundedReceiver<(JobId, Result<Work, JobFailure>)>,
    prepared_sender: UnboundedSender<(JobId, Result<Work, JobFailure>)>,
    preparing_max: usize,
    draining: bool,
}

impl Desk {
    fn open(loaded: Loaded, events: UnboundedSender<FromWorker>) -> Result<Self, ServeError> {
        let preparer = Preparer::new(&loaded).map_err(ServeError::Template)?;
        let facts = preparer.facts().clone();
        let engine = EngineHandle::start(Parts {
            cells: facts.context,
            slots: facts.slots as usize,
            queue_max: facts.queue_max as usize,
            decoder: loaded.decoder,
            vocabulary: loaded.vocabulary,
            embedder: loaded.embedder,
            events: events.clone(),
        })?;
        let preparing_max = facts.queue_max as usize + facts.slots as usize;
        send(&events, FromWorker::Loaded(Box::new(facts)));
        let (prepared_sender, prepared) = mpsc::unbounded_channel();
        Ok(Self {
            engine,
            preparer: Arc::new(preparer),
            events,
            preparing: HashSet::new(),
            n_preparing: 0,
            prepared,
            prepared_sender,
            preparing_max,
            draining: false,
        })
    }

    async fn serve<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> Result<(), ServeError> {
        loop {
            // Frame reading is not cancel-safe, so it is finished before anything else
            // is looked at; prepared work is drained in between by `next`.
            match self.next(reader).await? {
                Some(message) => self.obey(message),
                None => return Ok(()),
            }
        }
    }

    /// The next message, handing prepared work to the engine while waiting.
    async fn next<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
    ) -> Result<Option<ToWorker>, ServeError> {
        let reading = frame::read(reader);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                message = &mut reading => return Ok(message?),
                Some((id, work)) = self.prepared.recv() => {
                    self.n_preparing -= 1;
                    if self.preparing.remove(&id) {
                        self.start(id, work);
                    }
                }
                () = self.events.closed() => return Ok(None),
            }
        }
    }

    fn obey(&mut self, message: ToWorker) {
        match message {
            ToWorker::Submit { id, job } => self.submit(id, job),
            ToWorker::Cancel { id } if self.preparing.remove(&id) => {
                self.fail(id, FailureKind::Cancelled, "The caller went away".into());
            }
            ToWorker::Cancel { id } => self.engine.send(Command::Cancel(id)),
            ToWorker::Inspect { ticket } => {
                let mut state = self.engine.state();
                state.resident_bytes = resident_bytes();
                state.queued += u32::try_from(self.preparing.len()).unwrap_or(u32::MAX);
                send(&self.events, FromWorker::State { ticket, state });
            }
            ToWorker::Drain => {
                self.draining = true;
                for id in std::mem::take(&mut self.preparing) {
                    self.fail(
                        id,
                        FailureKind::Draining,
                        "The model is being unloaded".into(),
                    );
                }
                self.engine.send(Command::Drain);
            }
            ToWorker::Hello { .. } | ToWorker::Load(_) => {
                tracing::warn!("a second hello or load was ignored");
            }
        }
    }

    fn submit(&mut self, id: JobId, job: Job) {
        if self.draining {
            return self.fail(
                id,
                FailureKind::Draining,
                "The model is being unloaded".into(),
            );
        }
        let limit = self.preparing_max;
        if self.n_preparing >= limit {
            let kind = FailureKind::QueueFull {
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
            };
            let message =
                format!("{limit} requests are being prepared, the limit (slots + queue_max)");
            return self.fail(id, kind, message);
        }
        self.preparing.insert(id);
        self.n_preparing += 1;
        let preparer = Arc::clone(&self.preparer);
        let done = self.prepared_sender.clone();
        tokio::task::spawn_blocking(move || {
            // `prepare` changes nothing, so a panic leaves nothing half done.
            let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| preparer.prepare(id, job)));
            let work = prepared.unwrap_or_else(|_| {
                Err(JobFailure {
                    kind: FailureKind::Internal,
                    message: "Preparing the request failed; the worker's log says where".into(),
                    param: None,
                })
            });
            let _ = done.send((id, work));
        });
    }

    fn start(&mut self, id: JobId, work: Result<Work, JobFailure>) {
        match work {
            Ok(Work::Run(prepared)) => self.engine.send(Command::Run(prepared)),
            Ok(Work::Embed(inputs)) => self.engine.send(Command::Embed { id, inputs }),
            Ok(Work::Done(event)) => send(&self.events, FromWorker::Event { id, event }),
            Err(failure) => {
                send(
                    &self.events,
                    FromWorker::Event {
                        id,
                        event: Event::Failed(failure),
                    },
                );
            }
        }
    }

    fn fail(&self, id: JobId, kind: FailureKind, message: String) {
        let failure = JobFailure {
            kind,
            message,
            param: None,
        };
        send(
            &self.events,
            FromWorker::Event {
                id,
                event: Event::Failed(failure),
            },
        );
    }
}

fn send(events: &UnboundedSender<FromWorker>, message: FromWorker) {
    // A closed channel means the socket is gone; the reader sees that, too.
    let _ = events.send(message);
}

/// Resident set of this process, 0 where it cannot be read.
fn resident_bytes() -> u64 {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else {
        return 0;
    };
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
