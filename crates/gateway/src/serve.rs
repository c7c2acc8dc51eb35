//! The server loop: accepts connections and hands them to the router.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::settings::GatewayConfig;

/// Serves `app` on all `listeners` until `shutdown` is ready, then finishes what is
/// running, for at most the configured time.
///
/// More connections than the limit wait in the backlog of the operating system.
pub async fn serve(
    listeners: Vec<TcpListener>,
    app: Router,
    config: &GatewayConfig,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let (stop, stopped) = watch::channel(false);
    let mut loops = JoinSet::new();
    for listener in listeners {
        let acceptor = Acceptor {
            listener,
            app: app.clone(),
            slots: Arc::clone(&slots),
            header_timeout: config.header_timeout,
            shutdown_timeout: config.shutdown_timeout,
        };
        loops.spawn(acceptor.run(stopped.clone()));
    }
    shutdown.await;
    // The receivers live in the loops; if all have gone, there is nothing to stop.
    let _ = stop.send(true);
    while loops.join_next().await.is_some() {}
}

struct Acceptor {
    listener: TcpListener,
    app: Router,
    slots: Arc<Semaphore>,
    header_timeout: std::time::Duration,
    shutdown_timeout: std::time::Duration,
}

impl Acceptor {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                accepted = self.accept() => {
                    if let Some((stream, slot)) = accepted {
                        self.spawn(stream, slot, &graceful, &mut connections);
                    }
                }
            }
        }
        drop(self.listener);
        let drained = tokio::time::timeout(self.shutdown_timeout, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::warn!(open = connections.len(), "connections are cut");
        }
        // What is left is aborted as the set is dropped.
    }

    async fn accept(&self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, slot)),
            Err(error) => {
                // Out of file descriptors or the like: give others time to close some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    fn spawn(
        &self,
        stream: TcpStream,
        slot: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        // Otherwise small events wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let service = TowerToHyperService::new(self.app.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
}

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
