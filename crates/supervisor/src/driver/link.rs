//! One worker's task: starts it, carries frames both ways, reports its end.

use std::sync::{Arc, Weak};
use std::time::Duration;

use proto::frame::{self, FrameError};
use proto::{FromWorker, ToWorker};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::Inner;
use crate::core::{Input, WorkerId};
use crate::exit::Exit;
use crate::{LaunchRequest, Launched, LogTail, Process, ProcessEnd};

/// How long a process may outlive its connection before it is killed.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// The driver's end of a worker. Dropping it kills the worker.
#[derive(Debug)]
pub(super) struct WorkerLink {
    /// `None` once the connection is to be closed.
    outgoing: Option<mpsc::UnboundedSender<ToWorker>>,
    kill: Arc<Notify>,
    task: AbortHandle,
}

impl WorkerLink {
    pub(super) fn start(inner: &Inner, worker: WorkerId, model: String) -> Self {
        let (outgoing, messages) = mpsc::unbounded_channel();
        let kill = Arc::new(Notify::new());
        let task = WorkerTask {
            fleet: Weak::clone(&inner.me),
            worker,
            kill: Arc::clone(&kill),
            log: LogTail::default(),
        };
        let launcher = Arc::clone(&inner.launcher);
        let request = LaunchRequest {
            model,
            log: task.log.clone(),
        };
        let run = async move {
            let launch = launcher.launch(request);
            let exit = tokio::select! {
                launched = launch => match launched {
                    Ok(launched) => task.carry(launched, messages).await,
                    Err(error) => error.into_exit(task.log.lines()),
                },
                () = task.kill.notified() => task.exit(killed(), None),
            };
            task.tell(Input::Exited { worker, exit });
        };
        Self {
            outgoing: Some(outgoing),
            kill,
            task: inner.runtime.spawn(run).abort_handle(),
        }
    }

    pub(super) fn send(&self, message: ToWorker) {
        // A closed channel means the worker is gone; its `Exited` is under way.
        if let Some(outgoing) = &self.outgoing {
            let _ = outgoing.send(message);
        }
    }

    /// Closes the connection, which asks the worker to exit.
    pub(super) fn close(&mut self) {
        self.outgoing = None;
    }

    pub(super) fn kill(&self) {
        self.kill.notify_one();
    }
}

impl Drop for WorkerLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct WorkerTask {
    fleet: Weak<Inner>,
    worker: WorkerId,
    kill: Arc<Notify>,
    log: LogTail,
}

impl WorkerTask {
    fn tell(&self, input: Input) {
        if let Some(inner) = self.fleet.upgrade() {
            inner.apply(input);
        }
    }

    fn exit(&self, end: ProcessEnd, fault: Option<String>) -> Exit {
        Exit {
            end,
            fault,
            log: self.log.lines(),
        }
    }

    async fn carry(&self, launched: Launched, messages: mpsc::UnboundedReceiver<ToWorker>) -> Exit {
        let Launched {
            connection,
            mut process,
        } = launched;
        self.tell(Input::Connected {
            worker: self.worker,
        });
        let (reader, writer) = tokio::io::split(connection);
        let fault = tokio::select! {
            fault = self.read_all(reader) => fault,
            () = self.write_all(writer, messages) => None,
            () = self.kill.notified() => {
                process.kill();
                return self.exit(end_of_killed(&mut *process).await, None);
            }
        };
        // The connection is closed now, so a worker that still lives exits.
        tokio::select! {
            end = process.wait() => return self.exit(end, fault),
            () = tokio::time::sleep(EXIT_GRACE) => {}
            () = self.kill.notified() => {}
        }
        process.kill();
        let end = end_of_killed(&mut *process).await;
        let fault = fault.unwrap_or_else(|| "closed its connection and lived on".into());
        self.exit(end, Some(fault))
    }

    /// Reads until the connection ends; what was wrong with it, if anything was.
    async fn read_all(&self, reader: impl AsyncRead + Unpin) -> Option<String> {
        let mut reader = BufReader::new(reader);
        loop {
            match frame::read::<FromWorker, _>(&mut reader).await {
                Ok(Some(message)) => self.tell(Input::Message {
                    worker: self.worker,
                    message,
                }),
                // A reset is how the end of a killed process looks from here.
                Ok(None) | Err(FrameError::Truncated | FrameError::Io(_)) => return None,
                Err(error) => return Some(format!("sent what cannot be read ({error})")),
            }
        }
    }

    /// Writes until the driver lets go of the worker. When writing fails it waits
    /// for the reader to see the end of the connection.
    async fn write_all(
        &self,
        writer: impl AsyncWrite + Unpin,
        mut messages: mpsc::UnboundedReceiver<ToWorker>,
    ) {
        let mut writer = BufWriter::new(writer);
        while let Some(message) = messages.recv().await {
            let written = match frame::encode(&message) {
                Ok(bytes) => writer.write_all(&bytes).await,
                Err(error) => {
                    self.refuse(&message, &error);
                    Ok(())
                }
            };
            if written.is_err() || (messages.is_empty() && writer.flush().await.is_err()) {
                std::future::pending::<()>().await;
            }
        }
    }

    fn refuse(&self, message: &ToWorker, error: &FrameError) {
        if let ToWorker::Submit { id, .. } = message {
            self.tell(Input::Unsendable {
                id: *id,
                detail: format!("the request cannot be sent to the worker: {error}"),
            });
        } else {
            tracing::error!(%error, "a control message could not be written");
        }
    }
}

fn killed() -> ProcessEnd {
    ProcessEnd::Other("was killed by the endpoint".into())
}

/// The end of a process this side has killed: a SIGKILL then is ours.
async fn end_of_killed(process: &mut dyn Process) -> ProcessEnd {
    match process.wait().await {
        ProcessEnd::Signal(9) => killed(),
        end => end,
    }
}
