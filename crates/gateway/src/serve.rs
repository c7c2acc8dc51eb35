//! The server loop: accepts connections and hands them to lanes.
//!
//! A lane is a thread with a runtime of its own. A connection stays in its lane, and so do its
//! requests and what they ask of other engines: nothing that happens to one request wakes
//! another thread. That is what costs most where a request takes microseconds.
//!
//! With a certificate a connection begins with a handshake, in its lane like all that follows.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::Tls;
use crate::settings::GatewayConfig;

/// Lanes at most; more cores than that have no work in an endpoint of this kind.
const LANES_MAX: usize = 16;
/// How often a lane wakes in any case. tokio tells a runtime of each timer that is due before
/// the next one it knows of, with two system calls; with this one due soon, the timers of
/// requests never are.
const TICK: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The first byte of a handshake: a record of that kind.
const TLS_HANDSHAKE: u8 = 22;
/// What a client without TLS is told; most of them do not show how a handshake failed.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    connection: close\r\ncontent-length: 49\r\n\r\nThis address speaks TLS: use https:// to ask it.\n";
/// Bytes of a request without TLS that are read before it is told so.
const NOT_TLS_BYTES_MAX: usize = 4 << 10;

/// Serves `app` on all `listeners` until `shutdown` is ready, then finishes what is
/// running, for at most the configured time.
///
/// More connections than the limit wait in the backlog of the operating system.
///
/// # Errors
/// No thread or no runtime can be had for a lane.
pub async fn serve(
    listeners: Vec<TcpListener>,
    app: Router,
    config: &GatewayConfig,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let (stop, stopped) = watch::channel(false);
    let n_lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let lanes = (0..n_lanes.min(LANES_MAX)).map(|_| Lane::start(&app, config));
    let lanes = Arc::new(lanes.collect::<io::Result<Vec<_>>>()?);
    let mut loops = JoinSet::new();
    for listener in listeners {
        let acceptor = Acceptor {
            listener,
            lanes: Arc::clone(&lanes),
            slots: Arc::clone(&slots),
        };
        loops.spawn(acceptor.run(stopped.clone()));
    }
    shutdown.await;
    // The receivers live in the loops; if all have gone, there is nothing to stop.
    let _ = stop.send(true);
    while loops.join_next().await.is_some() {}
    // The acceptors have dropped theirs, so this is the last.
    let lanes = Arc::into_inner(lanes).unwrap_or_default();
    end(lanes).await;
    Ok(())
}

/// Waits for the lanes, each of which finishes what it has.
async fn end(lanes: Vec<Lane>) {
    // They hear that nothing comes any more before the first one is waited for.
    let ends: Vec<_> = lanes.into_iter().map(|lane| lane.ended).collect();
    for ended in ends {
        // The sender goes with its thread.
        let _ = ended.await;
    }
}

struct Acceptor {
    listener: TcpListener,
    lanes: Arc<Vec<Lane>>,
    slots: Arc<Semaphore>,
}

impl Acceptor {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                connection = self.accept() => {
                    if let Some(connection) = connection {
                        self.hand_over(connection);
                    }
                }
            }
        }
    }

    async fn accept(&self) -> Option<Connection> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        let accepted = self.listener.accept().await;
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => Some(Connection { stream, slot }),
            Err(error) => {
                // Out of file descriptors or the like: give others time to close some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// To the lane with the fewest connections.
    fn hand_over(&self, connection: Connection) {
        let open = |lane: &&Lane| lane.open.load(Ordering::Relaxed);
        if let Some(lane) = self.lanes.iter().min_by_key(open) {
            lane.open.fetch_add(1, Ordering::Relaxed);
            // A lane lives until it is told to end; without it the connection closes.
            let _ = lane.connections.send(connection);
        }
    }
}

/// An accepted connection, with its place among those that may be open.
struct Connection {
    stream: std::net::TcpStream,
    slot: OwnedSemaphorePermit,
}

/// A thread that serves connections; it ends once `connections` is dropped.
struct Lane {
    /// As many wait in it as have a slot.
    connections: mpsc::UnboundedSender<Connection>,
    open: Arc<AtomicUsize>,
    /// An error once the thread has ended.
    ended: oneshot::Receiver<Infallible>,
}

impl Lane {
    fn start(app: &Router, config: &GatewayConfig) -> io::Result<Self> {
        let (connections, receiver) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let server = LaneServer {
            app: app.clone(),
            open: Arc::clone(&open),
            tls: config.tls.clone(),
            header_timeout: config.header_timeout,
            shutdown_timeout: config.shutdown_timeout,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ends, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("sextant-lane".to_owned())
            .spawn(move || {
                runtime.block_on(server.run(receiver));
                drop(runtime);
                drop(ends);
            })?;
        Ok(Self {
            connections,
            open,
            ended,
        })
    }
}

struct LaneServer {
    app: Router,
    open: Arc<AtomicUsize>,
    tls: Option<Tls>,
    header_timeout: Duration,
    shutdown_timeout: Duration,
}

impl LaneServer {
    async fn run(self, mut receiver: mpsc::UnboundedReceiver<Connection>) {
        let graceful = GracefulShutdown::new();
        let (ending, ended) = watch::channel(());
        let mut running = JoinSet::new();
        loop {
            let received = timeout(TICK, receiver.recv()).await;
            while running.try_join_next().is_some() {}
            let connection = match received {
                Ok(Some(connection)) => connection,
                Ok(None) => break,
                Err(_) => continue,
            };
            self.spawn(connection, (graceful.watcher(), &ended), &mut running);
        }
        drop(ending);
        let drained = timeout(self.shutdown_timeout, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::warn!(open = running.len(), "connections are cut");
        }
        // What is left is aborted as the set is dropped.
    }

    fn spawn(
        &self,
        connection: Connection,
        (watcher, ended): (Watcher, &watch::Receiver<()>),
        running: &mut JoinSet<()>,
    ) {
        let Connection { stream, slot } = connection;
        let open = OpenConnection(Arc::clone(&self.open));
        // Otherwise small events wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection could not be served"),
        };
        let service = Service {
            app: self.app.clone(),
            watcher,
            header_timeout: self.header_timeout,
        };
        let Some(tls) = self.tls.clone() else {
            running.spawn(async move {
                service.serve(stream).await;
                drop((slot, open));
            });
            return;
        };
        let mut ended = ended.clone();
        running.spawn(async move {
            let encrypted = tokio::select! {
                encrypted = handshake(stream, &tls, service.header_timeout) => encrypted,
                // Nothing has been asked for yet. An error means the end too.
                _ = ended.changed() => None,
            };
            if let Some(stream) = encrypted {
                service.serve(stream).await;
            }
            drop((slot, open));
        });
    }
}

/// What a connection is served with.
struct Service {
    app: Router,
    watcher: Watcher,
    header_timeout: Duration,
}

impl Service {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.app));
        if let Err(error) = self.watcher.watch(served).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Begins TLS; `None` where the client does not, or not in time.
async fn handshake(
    mut stream: TcpStream,
    tls: &Tls,
    limit: Duration,
) -> Option<TlsStream<TcpStream>> {
    let handshake = async {
        let mut first = [TLS_HANDSHAKE];
        stream.peek(&mut first).await?;
        if first != [TLS_HANDSHAKE] {
            // What is left unread at the end would take the answer away from the client.
            let _n_read = stream.read(&mut vec![0; NOT_TLS_BYTES_MAX]).await?;
            stream.write_all(NOT_TLS).await?;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        tls.acceptor().accept(stream).await
    };
    match timeout(limit, handshake).await {
        Ok(Ok(encrypted)) => return Some(encrypted),
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
    None
}

/// Counts a connection of a lane until it is dropped.
struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
