//! How a worker comes to life: as a child process, or as a task in tests.

use std::ffi::OsString;
use std::fmt;
use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;

use process::{LineSplitter, LogTail, ProcessEnd};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream};
use tokio::net::UnixListener;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::exit::Exit;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The target of the lines of workers in the log of this process, so that they are told from its
/// own.
pub const ENGINE_LOG: &str = "engine";

/// Bytes in flight between an in-process worker and the supervisor.
const DUPLEX_BYTES: usize = 64 << 10;

/// Starts workers.
pub trait Launcher: Send + Sync + fmt::Debug {
    /// Starts one worker and waits until it has connected. The supervisor puts the
    /// time limit; dropping the future must end what was started.
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>>;
}

/// What a launcher is told.
#[derive(Debug, Clone)]
pub struct LaunchRequest {
    /// The model's name, for the log.
    pub model: String,
    /// Where the worker's log lines go.
    pub log: LogTail,
}

/// A worker that runs and is connected.
#[derive(Debug)]
pub struct Launched {
    pub connection: Box<dyn Connection>,
    pub process: Box<dyn Process>,
}

/// The byte stream to a worker.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Connection for T {}

/// The life of a worker. Dropping it kills the worker.
pub trait Process: Send + fmt::Debug {
    /// Waits for the end; may be called again after its future was dropped.
    fn wait(&mut self) -> BoxFuture<'_, ProcessEnd>;

    /// Ends it at once; `wait` then returns soon.
    fn kill(&mut self);
}

/// Why a worker could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("could not be started as `{}`: {source}", program.display())]
    Spawn {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("could not be given a socket in `{}`: {source}; set TMPDIR to a folder that can be written and has a short path", dir.display())]
    Socket {
        dir: PathBuf,
        source: std::io::Error,
    },
    /// The process ended before it connected.
    #[error("did not connect")]
    Ended(ProcessEnd),
}

impl LaunchError {
    pub(crate) fn into_exit(self, log: Vec<String>) -> Exit {
        let end = match self {
            Self::Ended(end) => end,
            error => ProcessEnd::Other(error.to_string()),
        };
        Exit {
            end,
            fault: None,
            log,
        }
    }
}

/// Starts each worker as `PROGRAM ARGS... --socket PATH`.
///
/// The socket lies in a fresh directory only this user can enter, and is gone once
/// the worker has connected. The worker's standard error goes to the log at debug
/// level, its standard output nowhere. The child is killed when its handle is
/// dropped; a worker also exits by itself when its connection closes.
#[derive(Debug, Clone)]
pub struct ProcessLauncher {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl ProcessLauncher {
    /// `program worker --socket PATH`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: vec!["worker".into()],
        }
    }

    async fn start(&self, request: LaunchRequest) -> Result<Launched, LaunchError> {
        let dir = socket_dir()?;
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).map_err(|source| LaunchError::Socket {
            dir: dir.path().into(),
            source,
        })?;
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .arg("--socket")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| LaunchError::Spawn {
                program: self.program.clone(),
                source,
            })?;
        let log = child
            .stderr
            .take()
            .map(|stderr| tokio::spawn(follow_log(stderr, request)));
        let mut process = ChildProcess { child, log };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            end = process.wait() => return Err(LaunchError::Ended(end)),
        };
        let (stream, _) = accepted.map_err(|source| LaunchError::Socket {
            dir: dir.path().into(),
            source,
        })?;
        Ok(Launched {
            connection: Box::new(stream),
            process: Box::new(process),
        })
    }
}

impl Launcher for ProcessLauncher {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(self.start(request))
    }
}

/// A new directory of mode 0700. Its path is short: a socket's path may have
/// only 107 bytes on Linux and 103 on macOS.
fn socket_dir() -> Result<tempfile::TempDir, LaunchError> {
    let parent = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(std::env::temp_dir);
    let private = Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .prefix("sextant-")
        .permissions(private)
        .tempdir_in(&parent)
        .map_err(|source| LaunchError::Socket {
            dir: parent,
            source,
        })
}

async fn follow_log(mut stderr: ChildStderr, request: LaunchRequest) {
    let LaunchRequest { model, log } = request;
    let mut splitter = LineSplitter::default();
    let mut buffer = vec![0; 4096];
    let each = |line: &str| {
        tracing::debug!(target: ENGINE_LOG, model = %model, "{line}");
        log.push(line);
    };
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        splitter.feed(&buffer[..n], each);
    }
    splitter.finish(each);
}

#[derive(Debug)]
struct ChildProcess {
    child: Child,
    log: Option<JoinHandle<()>>,
}

impl Process for ChildProcess {
    fn wait(&mut self) -> BoxFuture<'_, ProcessEnd> {
        Box::pin(async {
            let end = match self.child.wait().await {
                Ok(status) => status.into(),
                Err(error) => ProcessEnd::Other(format!("could not be waited for: {error}")),
            };
            // The last words are still in the pipe. A grandchild may hold it open.
            if let Some(log) = &mut self.log {
                let grace = std::time::Duration::from_millis(500);
                let _ = tokio::time::timeout(grace, log).await;
                self.log = None;
            }
            end
        })
    }

    fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::debug!(%error, "the worker was already gone");
        }
    }
}

/// Runs each worker as a task of this process; for tests and demonstrations.
///
/// The closure gets the worker's end of the connection. When its future returns,
/// the worker has exited with code 0; when it panics, it has crashed.
#[derive(Clone)]
pub struct InProcessLauncher {
    worker: Arc<dyn Fn(DuplexStream, LogTail) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl InProcessLauncher {
    pub fn new<F, W>(worker: F) -> Self
    where
        F: Fn(DuplexStream, LogTail) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self {
            worker: Arc::new(move |stream, log| Box::pin(worker(stream, log))),
        }
    }
}

impl fmt::Debug for InProcessLauncher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessLauncher").finish_non_exhaustive()
    }
}

impl Launcher for InProcessLauncher {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
            let task = tokio::spawn((self.worker)(theirs, request.log));
            Ok(Launched {
                connection: Box::new(ours),
                process: Box::new(TaskProcess { task, end: None }),
            })
        })
    }
}

#[derive(Debug)]
struct TaskProcess {
    task: JoinHandle<()>,
    end: Option<ProcessEnd>,
}

impl Process for TaskProcess {
    fn wait(&mut self) -> BoxFuture<'_, ProcessEnd> {
        Box::pin(async {
            if let Some(end) = &self.end {
                return end.clone();
            }
            let end = match (&mut self.task).await {
                Ok(()) => ProcessEnd::Code(0),
                Err(error) if error.is_cancelled() => ProcessEnd::Signal(9),
                Err(_) => ProcessEnd::Other("panicked".into()),
            };
            self.end = Some(end.clone());
            end
        })
    }

    fn kill(&mut self) {
        self.task.abort();
    }
}

impl Drop for TaskProcess {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn end_of_script(script: &str) -> (String, Vec<String>) {
        let launcher = ProcessLauncher {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
        };
        let log = LogTail::default();
        let request = LaunchRequest {
            model: "m".into(),
            log: log.clone(),
        };
        let error = launcher.launch(request).await.unwrap_err();
        let exit = error.into_exit(log.lines());
        (exit.cause(), exit.log)
    }

    #[tokio::test]
    async fn a_process_that_never_connects_is_told_by_its_end_and_last_words() {
        let (cause, log) = end_of_script("echo one >&2; echo two >&2; exit 7").await;
        assert_eq!(log, ["one", "two"]);
        assert!(
            cause.starts_with("the worker exited with code 7;"),
            "{cause}"
        );
        let (cause, _) = end_of_script("kill -SEGV $$").await;
        assert_eq!(
            cause,
            "the worker was ended by SIGSEGV (invalid memory access)"
        );
    }

    #[tokio::test]
    async fn the_socket_lies_where_only_this_user_can_reach_it() {
        let (_, log) = end_of_script(r#"ls -ld "$(dirname "$1")" >&2; ls "$1" >&2"#).await;
        assert!(log[0].starts_with("drwx------"), "{log:?}");
        assert!(log[1].ends_with("/s"), "{log:?}");
        let dir = PathBuf::from(&log[1]);
        assert!(!dir.exists(), "the directory is gone afterwards");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let launcher = ProcessLauncher::new("/no/such/program");
        let request = LaunchRequest {
            model: "m".into(),
            log: LogTail::default(),
        };
        let error = launcher.launch(request).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("could not be started as `/no/such/program`: "),
            "{text}"
        );
    }
}
