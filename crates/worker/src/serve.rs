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
use crate::place;
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

/// Speaks the protocol over `stream` until it closes or the model fails to load. After
/// a drain the worker stays until the endpoint closes the stream.
pub async fn serve<S, L>(stream: S, loader: L) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    L: Loader,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let (events, outbox) = mpsc::unbounded_channel();
    let (given_up, unsendable) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write_all(writer, outbox, given_up));
    let result = converse(&mut reader, events, unsendable, loader).await;
    // Every sender is gone now but the engine's, which ends with its last event.
    match writing.await {
        Ok(written) => result.and(written),
        Err(_) => result,
    }
}

async fn converse<R, L>(
    reader: &mut R,
    events: UnboundedSender<FromWorker>,
    unsendable: UnboundedReceiver<JobId>,
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
    let mut desk = Desk::open(loaded, events, unsendable)?;
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

/// Writes what comes out of the outbox. Jobs with an event that cannot be sent go to
/// `given_up`, for somebody to cancel them.
async fn write_all<W>(
    writer: W,
    mut outbox: UnboundedReceiver<FromWorker>,
    given_up: UnboundedSender<JobId>,
) -> Result<(), ServeError>
where
    W: AsyncWrite + Unpin,
{
    let mut writer = BufWriter::new(writer);
    let mut frames = Frames {
        failed: HashSet::new(),
        given_up,
    };
    while let Some(message) = outbox.recv().await {
        if let Some(frame) = frames.encode(&message)? {
            writer.write_all(&frame).await?;
        }
        // Events of one pass come together; one write carries them.
        while let Ok(message) = outbox.try_recv() {
            if let Some(frame) = frames.encode(&message)? {
                writer.write_all(&frame).await?;
            }
        }
        writer.flush().await?;
    }
    Ok(())
}

/// Makes frames of messages. An event over the frame limit becomes its job's failure,
/// and nothing more is said of that job.
struct Frames {
    /// Jobs that were told to have failed and whose own last event is yet to come.
    failed: HashSet<JobId>,
    given_up: UnboundedSender<JobId>,
}

impl Frames {
    fn encode(&mut self, message: &FromWorker) -> Result<Option<Vec<u8>>, FrameError> {
        let FromWorker::Event { id, event } = message else {
            return frame::encode(message).map(Some);
        };
        let is_last = event.is_last();
        if self.failed.contains(id) {
            if is_last {
                self.failed.remove(id);
            }
            return Ok(None);
        }
        let error = match frame::encode(message) {
            Err(error @ FrameError::TooLarge { .. }) => error,
            frame => return frame.map(Some),
        };
        if !is_last {
            self.failed.insert(*id);
            // The receiver is gone only once the conversation is over.
            let _ = self.given_up.send(*id);
        }
        let event = Event::Failed(JobFailure {
            kind: FailureKind::InvalidRequest,
            message: format!("The answer is too large to send: {error}"),
            param: None,
        });
        frame::encode(&FromWorker::Event { id: *id, event }).map(Some)
    }
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
    /// Running jobs of which an event could not be sent.
    unsendable: UnboundedReceiver<JobId>,
    draining: bool,
}

impl Desk {
    fn open(
        loaded: Loaded,
        events: UnboundedSender<FromWorker>,
        unsendable: UnboundedReceiver<JobId>,
    ) -> Result<Self, ServeError> {
        let preparer = Preparer::new(&loaded).map_err(ServeError::Template)?;
        let facts = preparer.facts().clone();
        let engine = EngineHandle::start(Parts {
            slots: facts.slots as usize,
            queue_max: facts.queue_max as usize,
            decoder: loaded.decoder,
            vocabulary: loaded.vocabulary,
            embedder: loaded.embedder,
            prefixes: loaded.prefixes,
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
            unsendable,
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
                Some(id) = self.unsendable.recv() => self.engine.send(Command::Cancel(id)),
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
            ToWorker::GiveBack => self.engine.send(Command::GiveBack),
            ToWorker::Place(placement) => {
                self.engine
                    .send(Command::Place(place::of_message(&placement)));
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

#[cfg(test)]
mod tests {
    use proto::Delta;

    use super::*;

    fn text(id: u64, len: usize) -> FromWorker {
        let delta = Delta::Text {
            text: "x".repeat(len),
        };
        let event = Event::Delta {
            choice: 0,
            delta,
            logprobs: Vec::new(),
        };
        FromWorker::Event {
            id: JobId(id),
            event,
        }
    }

    fn cancelled(id: u64) -> FromWorker {
        FromWorker::Event {
            id: JobId(id),
            event: Event::Failed(JobFailure {
                kind: FailureKind::Cancelled,
                message: "gone".into(),
                param: None,
            }),
        }
    }

    #[tokio::test]
    async fn a_job_whose_event_cannot_be_sent_fails_once_and_is_given_up() {
        let (events, outbox) = mpsc::unbounded_channel();
        let (given_up, mut unsendable) = mpsc::unbounded_channel();
        let too_long = frame::FRAME_BYTES_MAX as usize;
        let sent = [
            text(1, 5),
            text(1, too_long),
            text(1, 5),
            text(2, 5),
            cancelled(1),
            cancelled(2),
            // The id may come again, for another job.
            text(1, 5),
        ];
        for message in sent {
            send(&events, message);
        }
        drop(events);
        let mut written = Vec::new();
        write_all(&mut written, outbox, given_up).await.unwrap();
        assert_eq!(unsendable.recv().await, Some(JobId(1)));
        assert_eq!(unsendable.recv().await, None);
        let mut got = Vec::new();
        let mut rest = &written[..];
        while let Some(message) = frame::read::<FromWorker, _>(&mut rest).await.unwrap() {
            got.push(message);
        }
        let FromWorker::Event {
            id: JobId(1),
            event: Event::Failed(failure),
        } = got.remove(1)
        else {
            panic!("{got:?}")
        };
        assert!(failure.message.contains("67108864"), "{}", failure.message);
        assert_eq!(got, [text(1, 5), text(2, 5), cancelled(2), text(1, 5)]);
    }
}
