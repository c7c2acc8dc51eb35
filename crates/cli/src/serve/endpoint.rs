//! The gateway with our settings.

use std::sync::Arc;
use std::time::Duration;

use config::{Config, ResponsesIn};
use gateway::{
    AppState, Control, ControlOptions, GatewayConfig, PageFile, Pages, Routing, Tls, TlsFiles,
};
use store::Retention;
use supervisor::Fleet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use traces::{TraceOptions, Traces};
use webui::Asset;

use super::pulse;
use super::reload::{self, ProcessConfig};
use crate::database;
use crate::doctor::MachineDoctor;
use crate::library::DiskLibrary;
use crate::outcome::{Code, Outcome, WithCode};
use crate::output::say;

/// How much longer connections have than the requests in them, so that a request that
/// is cut off can still be told so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the HTTP edge is told. Refuses an address that must not be opened.
pub(super) fn settings(
    config: &Config,
    library: DiskLibrary,
    doctor: MachineDoctor,
) -> Outcome<GatewayConfig> {
    let api_key = config.read_api_key().code(Code::Usage)?;
    let control = control(config)?;
    let settings = GatewayConfig {
        body_bytes_max: usize::try_from(config.body_bytes_max.0)?,
        keep_alive_secs: config.keep_alive.map_or(0, |wait| wait.as_secs()),
        connections_max: usize::try_from(config.connections_max)?,
        requests_max: usize::try_from(config.requests_max)?,
        shutdown_timeout: config.drain_timeout + LAST_WORDS,
        api_key,
        cors_origins: config.cors_origins.clone(),
        hosts: config.hosts.clone(),
        tls: tls(config)?,
        traces: traces(config)?,
        control,
        history: pulse::history(config),
        library: Some(Arc::new(library)),
        doctor: Some(Arc::new(doctor)),
        pages: pages(),
        ..GatewayConfig::default()
    };
    gateway::bind_policy(config.listen, settings.asks_for_a_key()).code(Code::Usage)?;
    Ok(settings)
}

/// The workbench, as far as it is in this build.
fn pages() -> Pages {
    let file = |asset: &Asset| PageFile {
        path: asset.path,
        media_type: asset.media_type,
        etag: asset.etag,
        plain: asset.plain,
        gzip: asset.gzip,
        brotli: asset.brotli,
    };
    Pages {
        index: file(webui::page()),
        files: webui::assets().iter().map(file).collect(),
    }
}

/// The certificate. An error if it cannot be used: without it the endpoint would speak in plain
/// text.
fn tls(config: &Config) -> Outcome<Option<Tls>> {
    let Some((certificate, key)) = config.tls_files().code(Code::Usage)? else {
        return Ok(None);
    };
    let files = TlsFiles {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    Tls::open(files).map(Some).code(Code::Usage)
}

/// Who takes the spans of requests, if anybody does.
fn traces(config: &Config) -> Outcome<Option<Traces>> {
    let options = TraceOptions {
        endpoint: config.otlp_endpoint.clone(),
        headers: config.read_otlp_headers().code(Code::Usage)?,
    };
    let traces = Traces::open(options).code(Code::Usage)?;
    if let Some(traces) = &traces {
        say(&format!("traces go to {}", traces.endpoint()));
    }
    Ok(traces)
}

/// Keys, usage, audit log and kept responses. An error if there is a database that cannot be
/// used: without its keys the endpoint would be open.
fn control(config: &Config) -> Outcome<Option<Control>> {
    let Some(store) = database::open_if_any(config)? else {
        say("there is no home directory and no `data_dir`: no keys, no audit log");
        return Ok(None);
    };
    say(&format!("database {}", store.path().display()));
    let options = ControlOptions {
        audit: config.audit,
        audit_texts: config.audit_texts,
        audit_retention: Retention {
            days: config.audit_days,
            rows_max: config.audit_rows_max.into(),
        },
        responses_on_disk: config.responses == ResponsesIn::Disk,
    };
    Control::open(store, options).map(Some).code(Code::Failure)
}

/// Serves until `stopped` turns true, then lets open connections finish.
pub(super) async fn run(
    listener: TcpListener,
    fleet: Fleet,
    (mut settings, routing): (GatewayConfig, Routing),
    source: Arc<ProcessConfig>,
    mut stopped: watch::Receiver<bool>,
) {
    settings.routing_source = Some(Arc::clone(&source) as Arc<_>);
    settings.own_ports = listener.local_addr().iter().map(|one| one.port()).collect();
    let state = AppState::routed(Arc::new(fleet), settings.clone(), routing);
    let app = gateway::app(state.clone());
    let watcher = tokio::spawn(reload::watch(state.clone(), source, settings.tls.clone()));
    let keeping = state.clone();
    let keeper = tokio::spawn(async move { keeping.keep_history().await });
    let stop = async {
        // An error means that the sender is gone, which ends the server too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = gateway::serve(vec![listener], app, &settings, stop).await {
        tracing::error!(%error, "the endpoint cannot be served");
    }
    watcher.abort();
    keeper.abort();
    state.end_history().await;
    state.close_providers().await;
    if let Some(traces) = settings.traces {
        // An error means that sending panicked, which has been told.
        let _ = tokio::task::spawn_blocking(move || traces.end()).await;
    }
    if let Some(control) = settings.control {
        // An error means that writing panicked, which has been told.
        let _ = tokio::task::spawn_blocking(move || control.flush()).await;
    }
}
