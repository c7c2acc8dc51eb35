//! The gateway with our settings.

use std::sync::Arc;
use std::time::Duration;

use config::Config;
use gateway::{AppState, GatewayConfig, Routing};
use supervisor::Fleet;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::library::DiskLibrary;
use crate::outcome::{Code, Outcome, WithCode};

/// How much longer connections have than the requests in them, so that a request that
/// is cut off can still be told so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the HTTP edge is told. Refuses an address that must not be opened.
pub(super) fn settings(config: &Config, library: DiskLibrary) -> Outcome<GatewayConfig> {
    let api_key = config.read_api_key().code(Code::Usage)?;
    gateway::bind_policy(config.listen, api_key.is_some()).code(Code::Usage)?;
    Ok(GatewayConfig {
        body_bytes_max: usize::try_from(config.body_bytes_max.0)?,
        keep_alive_secs: config.keep_alive.map_or(0, |wait| wait.as_secs()),
        connections_max: usize::try_from(config.connections_max)?,
        requests_max: usize::try_from(config.requests_max)?,
        shutdown_timeout: config.drain_timeout + LAST_WORDS,
        api_key,
        cors_origins: config.cors_origins.clone(),
        hosts: config.hosts.clone(),
        library: Some(Arc::new(library)),
        ..GatewayConfig::default()
    })
}

/// Serves until `stopped` turns true, then lets open connections finish.
pub(super) async fn run(
    listener: TcpListener,
    fleet: Fleet,
    (settings, routing): (GatewayConfig, Routing),
    mut stopped: watch::Receiver<bool>,
) {
    let app = gateway::app(AppState::routed(Arc::new(fleet), settings.clone(), routing));
    let stop = async {
        // An error means that the sender is gone, which ends the server too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    gateway::serve(vec![listener], app, &settings, stop).await;
}
